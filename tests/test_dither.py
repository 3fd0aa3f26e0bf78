"""Dithering: the definitions, written as loops, and what it is for."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.ndimage import gaussian_filter

from gpukmeans import quantize, remap
from gpukmeans.image.dither import _bayer, _blue_noise, floyd_steinberg, offsets_of, ordered
from gpukmeans.image.numpy.pixels import NumPyPixels

ORDERED = ["bayer", "blue-noise"]


def one_by_one(pixels, palette, fixed=None, fixed_index=0):
    """Floyd and Steinberg's diffusion, a pixel at a time."""
    height, width, c = pixels.shape
    top = np.iinfo(pixels.dtype).max
    share, colors = np.zeros((height + 1, width + 2, c), np.int64), palette.astype(np.int64)
    indices = np.zeros((height, width), np.int64)
    for y in range(height):
        for x in range(width):
            if fixed is not None and fixed[y, x]:
                indices[y, x] = fixed_index
                continue
            level = np.clip(pixels[y, x] + (share[y, x + 1] + 8 >> 4), 0, top)
            indices[y, x] = ((level - colors) ** 2).sum(axis=1).argmin()
            error = level - colors[indices[y, x]]
            share[y, x + 2] += 7 * error
            share[y + 1, x] += 3 * error
            share[y + 1, x + 1] += 5 * error
            share[y + 1, x + 2] += error
    return indices


@pytest.mark.parametrize("shape", [(1, 1), (1, 9), (9, 1), (7, 2), (2, 7), (6, 3), (17, 23), (5, 60)])
@pytest.mark.parametrize(("dtype", "channels", "k"), [(np.uint8, 1, 2), (np.uint8, 3, 7), (np.uint16, 4, 300)])
def test_floyd_steinberg_is_the_loop(shape, dtype, channels, k):
    rng = np.random.default_rng(0)
    top = np.iinfo(dtype).max
    pixels = rng.integers(0, top + 1, (*shape, channels)).astype(dtype)
    palette = rng.integers(0, top + 1, (k, channels)).astype(dtype)
    found = floyd_steinberg(pixels, palette)
    assert found.dtype == (np.uint8 if k <= 256 else np.uint16)
    assert (found == one_by_one(pixels, palette)).all()
    fixed = rng.random(shape) < 0.3
    assert (floyd_steinberg(pixels, palette, fixed, 1) == one_by_one(pixels, palette, fixed, 1)).all()


def test_neighbours_among_16_bits_are_told_apart():
    """Where float32 would hold no score."""
    rng = np.random.default_rng(0)
    pixels = rng.integers(60000, 60010, (20, 20, 3)).astype(np.uint16)
    palette = rng.integers(60000, 60010, (9, 3)).astype(np.uint16)
    assert (floyd_steinberg(pixels, palette) == one_by_one(pixels, palette)).all()


def test_ties_go_to_the_least_index():
    pixels = np.full((3, 5, 3), 100, np.uint8)
    palette = np.array([[110, 100, 100], [90, 100, 100], [100, 110, 100], [110, 100, 100]], np.uint8)
    assert floyd_steinberg(pixels, palette)[0, 0] == 0
    nowhere = np.zeros((1, 1, 3), np.int32)
    assert ordered(NumPyPixels(pixels.reshape(-1, 3)), nowhere, 5, palette, device="cpu").max() == 0


@pytest.mark.parametrize("name", ORDERED)
@pytest.mark.parametrize(("channels", "dtype"), [(1, np.uint8), (3, np.uint8), (4, np.uint8), (3, np.uint16)])
def test_ordered_dithering_is_the_loop(name, channels, dtype):
    rng = np.random.default_rng(0)
    top = np.iinfo(dtype).max
    pixels = rng.integers(0, top + 1, (20, 70, channels)).astype(dtype)
    palette = rng.integers(0, top + 1, (9, channels)).astype(dtype)
    pattern = offsets_of(name, palette)
    t = len(pattern)
    tiled = np.tile(pattern, (20 // t + 1, 70 // t + 1, 1))[:20, :70]
    levels = np.clip(pixels.astype(np.int64) + tiled, 0, top)
    expected = ((levels[:, :, None] - palette.astype(np.int64)) ** 2).sum(axis=-1).argmin(axis=-1)
    found = ordered(NumPyPixels(pixels.reshape(-1, channels)), pattern, 70, palette, device="cpu")
    assert (found.reshape(20, 70) == expected).all()


@pytest.mark.parametrize("name", ORDERED)
def test_offsets_cover_the_distance_between_colors_evenly(name):
    palette = np.array([[0, 0, 0], [60, 0, 0], [120, 0, 0]], np.uint8)
    pattern = offsets_of(name, palette)
    spacing = 60 / 3**0.5
    assert pattern.max() == pytest.approx(spacing / 2, abs=1)
    assert pattern.min() == pytest.approx(-spacing / 2, abs=1)
    assert abs(pattern.mean()) < 0.6
    assert not offsets_of(name, palette[:1]).any(), "one color leaves nothing to mix"


def test_bayer_is_bayers():
    assert _bayer(1).tolist() == [[0, 2], [3, 1]]
    assert _bayer(2).tolist() == [[0, 8, 2, 10], [12, 4, 14, 6], [3, 11, 1, 9], [15, 7, 13, 5]]


def test_blue_noise_has_every_rank_once_and_no_low_frequencies():
    ranks = _blue_noise(64)
    assert (np.sort(ranks.reshape(-1)) == np.arange(64 * 64)).all()
    # What any threshold leaves is even: next to none of its power is in the lower eighth of the frequencies.
    side = np.minimum(np.arange(64), 64 - np.arange(64))
    low = side[:, None] ** 2 + side**2 < 8**2
    for share in (0.1, 0.5, 0.9):
        power = np.abs(np.fft.fft2((ranks < share * 64 * 64) - share)) ** 2
        white = low.sum() / low.size
        assert power[low].sum() / power.sum() < 0.1 * white, share


@pytest.mark.parametrize("name", ["floyd-steinberg", *ORDERED])
@pytest.mark.parametrize(("k", "share"), [(16, 0.97), (64, 0.92)])
def test_from_a_distance_dithered_is_nearer(china, name, k, share):
    """Blurred, as the eye does, it is more like the original than without dithering; pixel by pixel it is less."""

    def far(image):
        return gaussian_filter(image.astype(float), (2, 2, 0))

    image = china[::2, ::2]
    plain, dithered = (quantize(image, k, space="rgb", dither=each, device="cpu") for each in ("none", name))
    assert plain.palette.tobytes() == dithered.palette.tobytes()
    errors = [np.mean((far(each.to_array()) - far(image)) ** 2) for each in (plain, dithered)]
    assert errors[1] < share * errors[0]
    assert dithered.psnr < plain.psnr
    error = np.mean((dithered.to_array().astype(float) - image) ** 2)
    assert dithered.psnr == pytest.approx(-10 * np.log10(error / 255**2), abs=1e-9)


@pytest.mark.parametrize("name", ["floyd-steinberg", *ORDERED])
def test_flat_levels_are_mixed_in_proportion(name):
    """A quarter of the way from black to white, a quarter of the pixels are white."""
    grey = np.full((64, 64), 64, np.uint8)
    result = remap(grey, np.array([[0, 0, 0], [255, 255, 255]], np.uint8), dither=name)
    assert result.indices.mean() == pytest.approx(0.25, abs=0.02)
