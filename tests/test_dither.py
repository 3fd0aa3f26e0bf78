"""Dithering: the definitions, written as loops, and what it is for."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.ndimage import gaussian_filter

from gpukmeans import quantize, remap
from gpukmeans.image.color_space import to_points
from gpukmeans.image.diffusion import diffuse
from gpukmeans.image.diffusion_plan import caps, distances, local_strength, textured_strength
from gpukmeans.image.numpy import diffusion_loop, diffusion_waves
from gpukmeans.image.numpy.diffusion_loop import candidates_of_cells
from gpukmeans.image.numpy.pixels import NumPyPixels
from gpukmeans.image.ordered import MOST_MIXED, NEIGHBOURS, ordered
from gpukmeans.image.patterns import bayer, blue_noise, pattern_of

ORDERED = ["bayer", "blue-noise"]
BLACK_AND_WHITE = np.array([[0, 0, 0], [255, 255, 255]], np.uint8)


@pytest.fixture(params=["waves", "interpreted", "compiled"])
def way(request, monkeypatch):
    """The ways to diffuse, whatever the picture's size would choose."""
    if request.param == "compiled":
        pytest.importorskip("numba")
    monkeypatch.setattr(diffusion_loop, "serves", lambda *size: request.param != "waves")
    monkeypatch.setattr(diffusion_loop, "_compiles", lambda *size: request.param == "compiled")


@pytest.fixture
def in_segments(monkeypatch):
    """The segments of each diffusion, and whether they served."""
    found = []
    serve = diffusion_waves.diffuse_in_segments

    def watched(plan, out):
        found.append((diffusion_waves.segments(*out.shape), serve(plan, out)))
        return found[-1][1]

    monkeypatch.setattr(diffusion_waves, "diffuse_in_segments", watched)
    monkeypatch.setattr(diffusion_loop, "_compiles", lambda *size: False)
    return found


def one_by_one(pixels, palette, fixed=None, fixed_index=0, strength=1.0):
    """The diffusion, a pixel at a time."""
    height, width, c = pixels.shape
    top = np.iinfo(pixels.dtype).max
    share, colors = np.zeros((height + 1, width + 2, c), np.int64), palette.astype(np.int64)
    strengths, most = local_strength(pixels, palette) * round(256 * strength) >> 8, caps(palette)
    indices = np.zeros((height, width), np.int64)
    for y in range(height):
        for x in range(width):
            if fixed is not None and fixed[y, x]:
                indices[y, x] = fixed_index
                continue
            level = np.clip(pixels[y, x] + (share[y, x + 1] * strengths[y, x] + 2048 >> 12), 0, top)
            indices[y, x] = label = ((level - colors) ** 2).sum(axis=1).argmin()
            error = np.clip(level, colors.min(axis=0), colors.max(axis=0)) - colors[label]
            if strengths[y, x] < 256:
                error = np.clip(error, -most[label], most[label])
            share[y, x + 2] += 7 * error
            share[y + 1, x] += 3 * error
            share[y + 1, x + 1] += 5 * error
            share[y + 1, x + 2] += error
    return indices


def nearest_distance(palette):
    """distances, a color at a time."""
    colors, found = palette.astype(np.int64), []
    for color in colors:
        others = colors[(colors != color).any(axis=1)]
        squares = ((others - color) ** 2).sum(axis=1)
        found.append(np.abs(others[squares.argmin()] - color).max() if len(others) else 0)
    return np.array(found)


@pytest.mark.parametrize("shape", [(1, 1), (1, 9), (9, 1), (7, 2), (2, 7), (6, 3), (17, 23), (5, 60)])
@pytest.mark.parametrize(("dtype", "channels", "k"), [(np.uint8, 1, 2), (np.uint8, 3, 7), (np.uint16, 4, 300)])
def test_diffusion_is_the_loop(way, shape, dtype, channels, k):
    rng = np.random.default_rng(0)
    top = np.iinfo(dtype).max
    pixels = rng.integers(0, top + 1, (*shape, channels)).astype(dtype)
    pixels[: shape[0] // 2] = pixels[0, 0]  # a flat part, whose pixels take their whole share
    palette = rng.integers(0, top + 1, (k, channels)).astype(dtype)
    found = diffuse(pixels, palette)
    assert found.dtype == (np.uint8 if k <= 256 else np.uint16)
    assert (found == one_by_one(pixels, palette)).all()
    fixed = rng.random(shape) < 0.3
    expected = one_by_one(pixels, palette, fixed, 1, 0.7)
    assert (diffuse(pixels, palette, strength=0.7, fixed=fixed, fixed_index=1) == expected).all()


@pytest.mark.parametrize("shape", [(1, 900), (900, 1), (2, 500), (400, 3), (5, 800), (300, 8)])
@pytest.mark.parametrize(("dtype", "channels", "k"), [(np.uint8, 1, 4), (np.uint8, 3, 16), (np.uint16, 4, 300)])
def test_segments_are_the_loop(in_segments, shape, dtype, channels, k):
    rng = np.random.default_rng(0)
    top = np.iinfo(dtype).max
    pixels = rng.integers(0, top + 1, (*shape, channels)).astype(dtype)
    palette = rng.integers(0, top + 1, (k, channels)).astype(dtype)
    assert (diffuse(pixels, palette) == one_by_one(pixels, palette)).all()
    fixed = rng.random(shape) < 0.3
    expected = one_by_one(pixels, palette, fixed, 1, 0.7)
    assert (diffuse(pixels, palette, strength=0.7, fixed=fixed, fixed_index=1) == expected).all()
    assert [several > 1 and served for several, served in in_segments] == [True, True]


@pytest.mark.parametrize("shape", [(1, 2000), (3, 2000), (1600, 2)])
def test_segments_that_begin_otherwise_are_done_again(in_segments, shape, monkeypatch):
    """Nothing is passed on but in one flat place, which is longer than the steps that segments begin early."""
    pixels = np.zeros((*shape, 1), np.uint8)
    smooth = pixels[:, 700:900] if shape[1] > 2 else pixels[700:900]
    smooth[:] = 100  # of what is flat, what was passed on is felt for longest
    palette = np.array([[0], [255]], np.uint8)
    expected = one_by_one(pixels, palette)
    assert (diffuse(pixels, palette) == expected).all()
    monkeypatch.setattr(diffusion_waves, "_AGAIN", 0)
    assert (diffuse(pixels, palette) == expected).all()
    assert [served for _, served in in_segments] == [True, False]
    along = 90 + np.arange(max(shape)) * 20 // max(shape)  # each of them waits for the one before
    pixels[..., 0] = along if shape[1] > 2 else along[:, None]
    assert (diffuse(pixels, palette) == one_by_one(pixels, palette)).all()
    assert not in_segments[-1][1]


@pytest.mark.parametrize(("dtype", "channels", "bits"), [(np.uint8, 1, 8), (np.uint8, 3, 4), (np.uint16, 4, 3)])
def test_the_nearest_color_is_a_candidate_of_its_cell(dtype, channels, bits):
    rng = np.random.default_rng(0)
    top, depth = np.iinfo(dtype).max, np.iinfo(dtype).bits
    palette = rng.integers(0, top + 1, (40, channels)).astype(np.int32)
    starts, candidates = candidates_of_cells(palette, top, bits)
    # Corners of cells, and what lies between.
    levels = rng.integers(0, top + 1, (2000, channels))
    levels[:1000] = levels[:1000] >> (depth - bits) << (depth - bits)
    for level in levels:
        squares = ((level.astype(np.int64) - palette) ** 2).sum(axis=1)
        cell = int("".join(f"{value >> (depth - bits):0{bits}b}" for value in level), 2)
        assert set(np.flatnonzero(squares == squares.min())) <= set(candidates[starts[cell] : starts[cell + 1]])


@pytest.mark.parametrize(
    "palette", [[[5, 5]], [[5, 5], [5, 5]], [[0, 0], [0, 9], [100, 0]], [[0, 0], [9, 0], [0, 7], [0, 0]]]
)
def test_the_distance_to_the_nearest_color_that_is_another(palette):
    palette = np.array(palette, np.uint8)
    assert distances(palette).tolist() == nearest_distance(palette).tolist()
    deep = np.random.default_rng(0).integers(0, 65536, (300, 4)).astype(np.uint16)
    assert distances(deep).tolist() == nearest_distance(deep).tolist()


def test_error_is_capped_by_how_far_apart_colors_are():
    """Three quarters, and of close colors two levels less; of 16 bits the same in levels of 8."""
    apart = np.arange(1, 13)
    expected = [0, 0, 1, 2, 4, 4, 6, 6, 7, 7, 9, 9]
    pairs = [np.array([[100], [100 + distance]], np.uint8) for distance in apart]
    assert [caps(pair).tolist() for pair in pairs] == [[cap, cap] for cap in expected]
    deep = [caps(pair.astype(np.uint16) * 257).tolist()[0] for pair in pairs]
    assert deep[:4] == [257 * cap for cap in expected[:4]]
    assert deep[4:] == [(257 * distance + 1) // 2 * 3 // 2 for distance in apart[4:]]


@pytest.mark.parametrize(("k", "most"), [(8, 104), (23, 104), (24, 116), (47, 116), (48, 120), (300, 120)])
def test_the_more_of_a_picture_is_texture_the_less_its_pixels_take(k, most):
    palette = np.random.default_rng(1).integers(0, 256, (k, 3)).astype(np.uint8)
    found = [textured_strength(count, 1000, palette) for count in range(1001)]
    assert found[0] == found[500] == most
    assert (np.diff(found) <= 0).all()
    assert found[969] > 0 == found[970]
    noise = np.random.default_rng(0).integers(0, 256, (40, 50, 3)).astype(np.uint8)
    squares = ((noise.reshape(-1, 1, 3).astype(int) - palette) ** 2).sum(axis=2)
    assert (diffuse(noise, palette).reshape(-1) == squares.argmin(axis=1)).all()
    half = noise.copy()
    half[:20] = 90
    assert (local_strength(half, palette)[21:] == found[525]).all()
    for greys in (palette[:, :1], palette[:, :1].repeat(3, axis=1)):
        assert textured_strength(1000, 1000, greys) == (200 if 5 <= k <= 8 else 104)


def test_neighbours_among_16_bits_are_told_apart(way):
    """Where float32 would hold no score."""
    rng = np.random.default_rng(0)
    pixels = rng.integers(60000, 60010, (20, 20, 3)).astype(np.uint16)
    palette = rng.integers(60000, 60010, (9, 3)).astype(np.uint16)
    assert (diffuse(pixels, palette) == one_by_one(pixels, palette)).all()


def test_ties_go_to_the_least_index(way):
    pixels = np.full((3, 5, 3), 100, np.uint8)
    palette = np.array([[110, 100, 100], [90, 100, 100], [100, 110, 100], [110, 100, 100]], np.uint8)
    assert diffuse(pixels, palette)[0, 0] == 0
    found = ordered(NumPyPixels(pixels.reshape(-1, 3)), pattern_of("bayer"), 5, palette, device="cpu")
    assert set(found.tolist()) == {0, 1}


def mixed_one_by_one(pixels, palette, ranks, strength, space):
    """Ordered dithering, a pixel at a time."""

    def points(colors):
        return (to_points(colors, space) if colors.shape[1] == 3 else colors).astype(float)

    def dot(x, y):
        return sum((x[1:] * y[1:]).tolist(), float(x[0] * y[0]))

    shown, wide, t, indices = points(palette), palette.astype(int), len(ranks), np.zeros(pixels.shape[:2], np.int64)
    weights = [2, 5, 1][: min(3, palette.shape[1])]
    brightness = [(int(color[: len(weights)] @ weights), j) for j, color in enumerate(wide)]
    for y, x in np.ndindex(*indices.shape):
        pixel = points(pixels[y, x][None])[0]
        a = int(np.argmin([dot(pixel - color, pixel - color) for color in shown]))
        distances = ((wide - wide[a]) ** 2).sum(axis=1)
        near = [j for j in np.argsort(distances, kind="stable") if distances[j]][:NEIGHBOURS]
        best, b, share = -np.inf, a, 0
        for j in near:
            step = shown[j] - shown[a]
            along = dot(pixel - shown[a], step)
            part = along / dot(step, step)
            gain = along * part * 17.0 - along
            if along > 0 and gain > best:
                share = int(np.floor(min(part, 1.0) * (ranks.size * strength) + 0.5))
                best, b = gain, j
        first, count = (b, share) if brightness[b] < brightness[a] else (a, ranks.size - share)
        indices[y, x] = first if ranks[y % t, x % t] < count else (a + b - first)
    return indices


@pytest.mark.parametrize("name", ORDERED)
@pytest.mark.parametrize(
    ("channels", "dtype", "k", "space"),
    [(1, np.uint8, 9, "oklab"), (3, np.uint8, 50, "rgb"), (3, np.uint8, 9, "oklab"), (3, np.uint16, 9, "ycbcr")],
)
def test_ordered_dithering_is_the_loop(name, channels, dtype, k, space):
    rng = np.random.default_rng(0)
    top = np.iinfo(dtype).max
    pixels = rng.integers(0, top + 1, (20, 70, channels)).astype(dtype)
    palette = rng.integers(0, top + 1, (k, channels)).astype(dtype)
    palette[k // 2] = palette[0]
    ranks = pattern_of(name)
    for strength in (1.0, 0.6):
        how = {"space": space, "device": "cpu", "strength": strength}
        found = ordered(NumPyPixels(pixels.reshape(-1, channels)), ranks, 70, palette, **how)
        assert (found.reshape(20, 70) == mixed_one_by_one(pixels, palette, ranks, strength, space)).all()


def test_alpha_is_mixed_by_levels():
    rng = np.random.default_rng(0)
    pixels, palette = (rng.integers(0, 256, (*size, 4)).astype(np.uint8) for size in ((20, 30), (9,)))
    ranks = pattern_of("bayer")
    found = ordered(NumPyPixels(pixels.reshape(-1, 4)), ranks, 30, palette, space="oklab", device="cpu")
    assert (found.reshape(20, 30) == mixed_one_by_one(pixels, palette, ranks, 1.0, "oklab")).all()


def test_among_very_many_colors_nothing_is_mixed():
    pixels = np.random.default_rng(0).integers(0, 256, (40, 40, 3)).astype(np.uint8)
    palette = np.stack(np.unravel_index(np.arange(MOST_MIXED + 1), (17, 17, 17)), axis=1).astype(np.uint8) * 15
    expected = ((pixels.reshape(-1, 1, 3).astype(int) - palette) ** 2).sum(axis=-1).argmin(axis=1)
    found = ordered(NumPyPixels(pixels.reshape(-1, 3)), pattern_of("bayer"), 40, palette, device="cpu")
    assert (found == expected).all()


def test_bayer_is_bayers():
    assert bayer(1).tolist() == [[0, 2], [3, 1]]
    assert bayer(2).tolist() == [[0, 8, 2, 10], [12, 4, 14, 6], [3, 11, 1, 9], [15, 7, 13, 5]]


def test_blue_noise_has_every_rank_once_and_no_low_frequencies():
    ranks = blue_noise(64)
    assert (np.sort(ranks.reshape(-1)) == np.arange(64 * 64)).all()
    # What any threshold leaves is even: next to none of its power is in the lower eighth of the frequencies.
    side = np.minimum(np.arange(64), 64 - np.arange(64))
    low = side[:, None] ** 2 + side**2 < 8**2
    for share in (0.1, 0.5, 0.9):
        power = np.abs(np.fft.fft2((ranks < share * 64 * 64) - share)) ** 2
        white = low.sum() / low.size
        assert power[low].sum() / power.sum() < 0.1 * white, share


@pytest.mark.parametrize("name", ["floyd-steinberg", *ORDERED])
@pytest.mark.parametrize("k", [16, 64])
def test_from_a_distance_dithered_is_nearer(china, name, k):
    """Blurred, as the eye does, it is more like the original than without dithering; pixel by pixel it is less."""

    def far(image):
        return gaussian_filter(image.astype(float), (2, 2, 0))

    image = china[::2, ::2]
    plain = quantize(image, k, space="rgb", device="cpu")
    dithered = remap(image, plain.palette, dither=name, device="cpu")
    errors = [np.mean((far(each.to_array()) - far(image)) ** 2) for each in (plain, dithered)]
    assert errors[1] < 0.97 * errors[0]
    assert dithered.psnr < plain.psnr
    error = np.mean((dithered.to_array().astype(float) - image) ** 2)
    assert dithered.psnr == pytest.approx(-10 * np.log10(error / 255**2), abs=1e-9)


@pytest.mark.parametrize("name", ["floyd-steinberg", *ORDERED])
@pytest.mark.parametrize("level", [3, 32, 64, 96, 111, 160, 192, 224, 250])
def test_flat_levels_are_mixed_in_proportion(name, level):
    """A quarter of the way from black to white, a quarter of the pixels are white; and so everywhere, within 2."""
    grey = np.full((128, 128), level, np.uint8)
    for image in (grey, np.dstack([grey] * 3)):
        found = remap(image, BLACK_AND_WHITE, dither=name, space="rgb").to_array()
        assert found.mean() == pytest.approx(level, abs=2)
    near = np.array([[0, 0, 0], [10, 10, 10], [255, 255, 255], [255, 0, 0]], np.uint8)
    found = remap(np.dstack([grey] * 3), near, dither=name, space="rgb").to_array()
    assert found.mean() == pytest.approx(level, abs=4)
    assert remap(grey, BLACK_AND_WHITE, dither=name).to_array().mean() == pytest.approx(level, abs=2)


@pytest.mark.parametrize("name", ["floyd-steinberg", *ORDERED])
def test_what_the_palette_has_stays_as_it_is(name):
    rng = np.random.default_rng(0)
    colors = rng.integers(0, 256, (6, 3)).astype(np.uint8)
    picture = np.repeat(np.repeat(colors[rng.integers(0, 6, (9, 13))], 5, axis=0), 7, axis=1)
    assert (quantize(picture, 8, dither=name).to_array() == picture).all()
    assert (remap(picture, colors, dither=name).to_array() == picture).all()


@pytest.mark.parametrize("name", ["floyd-steinberg", *ORDERED])
def test_without_strength_each_pixel_has_its_nearest_color(china, name):
    image, palette = china[::4, ::4], np.random.default_rng(0).integers(0, 256, (30, 3)).astype(np.uint8)
    found = remap(image, palette, space="rgb", dither=name, dither_strength=0).indices
    assert (found == remap(image, palette, space="rgb").indices).all()
    assert (found != remap(image, palette, space="rgb", dither=name, dither_strength=0.5).indices).any()


@pytest.mark.parametrize("strength", [-0.1, 1.1, float("nan")])
def test_strengths_are_from_0_to_1(strength):
    with pytest.raises(ValueError, match="dither_strength"):
        quantize(np.zeros((2, 2), np.uint8), 2, dither="bayer", dither_strength=strength)
    with pytest.raises(TypeError, match="dither_strength"):
        remap(np.zeros((2, 2), np.uint8), BLACK_AND_WHITE, dither_strength="much")
