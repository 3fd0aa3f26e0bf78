"""quantize: the palette, the indices, what is kept of a picture, and what is refused."""

from __future__ import annotations

import hashlib
import io
import struct
import zlib

import ml_dtypes
import numpy as np
import pytest
from PIL import Image, ImageCms, ImageOps
from sklearn.cluster import KMeans as Reference

import gpukmeans
from gpukmeans import ImageError, KMeans, quantize, remap
from gpukmeans.image import color_space, picture
from gpukmeans.image.files import palettes
from gpukmeans.image.files.pillow import ORIENTATION, from_pil
from gpukmeans.image.levels import unpack
from gpukmeans.image.numpy import pixels
from gpukmeans.image.numpy.colors import NumPyColors
from gpukmeans.image.numpy.histogram import Histogram
from gpukmeans.image.palette import multilevel
from gpukmeans.image.palette.fit import fit_palette
from gpukmeans.image.picture import from_array
from gpukmeans.image.quantize import common_palette

SPACES = ["rgb", "oklab"]

# Of the linear light of levels 1, 11, 128 and 254, and of the float32 points of 4,096 colors.
LINEAR = ["0x1.3e45677c176f7p-12", "0x1.b6a31b5259ca1p-9", "0x1.ba1511e3e632ep-3", "0x1.fb71bbec33ab3p-1"]
OKLAB = "5023e197ac59820aaa6948396f808408d1a65b056e901215686cc0a520d7d472"


@pytest.fixture(scope="module")
def small(china):
    """A ninth of the photograph, 30,602 pixels."""
    return np.ascontiguousarray(china[::3, ::3])


@pytest.fixture(scope="module")
def seen_through(small):
    """The same, from invisible at the left to opaque at the right."""
    alpha = np.broadcast_to(np.linspace(0, 255, small.shape[1]).astype(np.uint8), small.shape[:2])
    return np.dstack([small, alpha])


def psnr(one, other):
    return -10 * np.log10(np.mean((one.astype(float) - other) ** 2) / 255**2)


def counted(image):
    held = pixels.NumPyPixels(image.reshape(-1, image.shape[-1]))
    codes, counts = held.count()
    return held, codes, counts, unpack(codes, image.shape[-1])


# ---------------------------------------------------------------- counting first


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
@pytest.mark.parametrize("channels", [1, 3, 4])
def test_counting_is_numpys_unique(dtype, channels, monkeypatch):
    monkeypatch.setattr(pixels, "_PIECE", 1000)  # several parts, merged
    image = np.random.default_rng(0).integers(0, 4, (100, 90, channels)).astype(dtype) * np.iinfo(dtype).max // 4
    held, codes, counts, colors = counted(image)
    found, times = np.unique(image.reshape(-1, channels), axis=0, return_counts=True)
    order = np.lexsort(colors[:, ::-1].T)
    assert (colors[order] == found).all()
    assert (counts[order] == times).all()
    assert (np.diff(codes.astype(np.int64)) > 0).all()
    place = held.map(codes, np.arange(len(codes), dtype=np.int32), np.int32)
    assert (colors[place] == image.reshape(-1, channels)).all()


def test_parts_are_added_up_in_a_table(monkeypatch):
    """Three-byte colors: as many as there may be, in 128 MB."""
    rng = np.random.default_rng(0)
    histogram, other = Histogram(3), Histogram(4)
    parts = [np.unique(rng.integers(0, 2**22, 500_000).astype(np.uint32)) for _ in range(5)]
    for part in parts:
        for each in (histogram, other):
            each.add(part, np.ones(len(part), np.int64))
    assert histogram._table is not None
    expected = np.unique(np.concatenate(parts), return_counts=True)
    for each in (histogram, other):
        for one, want in zip(each.result(), expected, strict=True):
            assert (one == want).all()


def test_counted_colors_are_clustered_as_all_pixels_are(small, monkeypatch):
    """From the same initial centers: the same palette, the same labels, the same iterations."""
    held, codes, counts, colors = counted(small)
    init = colors[:: len(colors) // 12][:12].astype(np.float64)
    flat = small.reshape(-1, 3)
    one = KMeans(12, init=init, tol=0, max_iter=1000, device="cpu").fit(colors, sample_weight=counts)
    other = KMeans(12, init=init, tol=0, max_iter=1000, device="cpu").fit(flat)
    assert one.cluster_centers_.tobytes() == other.cluster_centers_.tobytes()
    assert (held.map(codes, one.labels_, np.int32) == other.labels_).all()
    options = {"space": "rgb", "random_state": 0, "device": "cpu", "init": init}
    counted_first = fit_palette(NumPyColors(colors, counts), 12, **options)
    every_pixel = fit_palette(NumPyColors(flat, np.ones(len(flat), np.int64)), 12, **options)
    assert counted_first.palette.tobytes() == every_pixel.palette.tobytes()
    assert (held.map(codes, counted_first.labels, np.int32) == every_pixel.labels).all()
    assert len(counted_first.history) == len(every_pixel.history)


# ---------------------------------------------------------------- the palette


@pytest.mark.parametrize("k", [2, 16, 100])
@pytest.mark.parametrize("space", SPACES)
def test_the_palette_is_a_fixed_point_on_all_pixels(small, space, k):
    result = quantize(small, k, space=space, device="cpu")
    assert result.converged
    flat = small.reshape(-1, 3)
    x, c = (color_space.to_points(levels, space).astype(np.float64) for levels in (flat, result.palette))
    distance = np.zeros((len(flat), k))
    for j in range(3):
        distance = distance + (x[:, j, None] - c[:, j]) ** 2
    labels = distance.argmin(axis=1)
    assert (result.indices.reshape(-1) == labels).all(), "the nearest color, ties to the least index"
    means = np.stack([x[labels == i].mean(axis=0) for i in range(k)])
    if space == "rgb":
        np.testing.assert_allclose(means, result.palette, atol=0.5 + 1e-9)
    else:
        rounded = color_space.to_points(color_space.to_colors(means, space, np.uint8), space)
        assert (((c - means) ** 2).sum(axis=1) <= ((rounded - means) ** 2).sum(axis=1) + 1e-12).all()
    assert result.psnr == pytest.approx(psnr(result.to_array(), small), abs=1e-9)


def test_rgb_is_as_good_as_scikit_learn(small):
    """On every sample image at 16, 64 and 256 colors: benchmarks/quantize.py."""
    flat = small.reshape(-1, 3)
    theirs = []
    for seed in range(5):
        model = Reference(16, random_state=seed).fit(flat.astype(float))
        theirs.append(psnr(np.rint(model.cluster_centers_)[model.labels_], flat))
    assert quantize(small, 16, space="rgb", device="cpu").psnr >= np.mean(theirs) - 0.05


def test_oklab_errs_less_in_oklab_and_rgb_in_rgb(small):
    def error(result, space):
        one, other = (color_space.to_points(a.reshape(-1, 3), space).astype(float) for a in (small, result.to_array()))
        return np.mean((one - other) ** 2)

    rgb, oklab = (quantize(small, 32, space=space, device="cpu") for space in SPACES)
    assert error(rgb, "rgb") < error(oklab, "rgb")
    assert error(oklab, "oklab") < error(rgb, "oklab")


def test_the_seed_decides_alone(small):
    one, same, other = (quantize(small, 20, random_state=seed, device="cpu") for seed in (3, 3, 4))
    assert one.palette.tobytes() == same.palette.tobytes()
    assert one.indices.tobytes() == same.indices.tobytes()
    assert one.palette.tobytes() != other.palette.tobytes()


def test_pieces_and_threads_do_not_matter(small, monkeypatch):
    expected = quantize(small, 20, device="cpu")
    monkeypatch.setattr(pixels, "_PIECE", 777)
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    found = quantize(small, 20, device="cpu")
    assert found.palette.tobytes() == expected.palette.tobytes()
    assert found.indices.tobytes() == expected.indices.tobytes()


def test_relocation_never_costs(small, monkeypatch):
    """What centers far away gain is looked for among fits that end with less inertia."""
    _, _, counts, colors = counted(small)
    found = fit_palette(NumPyColors(colors, counts), 16, space="rgb", random_state=0, device="cpu")
    monkeypatch.setattr(multilevel, "relocated", lambda *_: None)
    without = fit_palette(NumPyColors(colors, counts), 16, space="rgb", random_state=0, device="cpu")
    inertia = [
        ((colors - each.palette[each.labels].astype(float)) ** 2).sum(axis=1) @ counts for each in (found, without)
    ]
    assert inertia[0] < inertia[1]


def test_more_colors_than_there_are():
    image = np.array([[[1, 2, 3], [200, 100, 0]], [[1, 2, 3], [9, 9, 9]]], np.uint8)
    result = quantize(image, 256)
    assert len(result.palette) == 3
    assert (result.to_array() == image).all()
    assert result.psnr == np.inf
    assert result.converged
    assert quantize(image, 3).palette.tobytes() == result.palette.tobytes()


def test_one_color(small):
    result = quantize(small, 1, space="rgb")
    assert (result.palette == np.rint(small.reshape(-1, 3).mean(axis=0))).all()
    assert not result.indices.any()


def test_more_than_256_colors(small):
    result = quantize(small, 300)
    assert result.indices.dtype == np.uint16
    assert result.palette.shape == (300, 3)
    assert result.to_pil().mode == "RGB"
    assert (np.asarray(result.to_pil()) == result.to_array()).all()


def test_weights_count_as_copies():
    rng = np.random.default_rng(0)
    image = rng.integers(0, 256, (20, 30, 3)).astype(np.uint8)
    weights = rng.integers(0, 4, (20, 30))
    one = quantize(image, 7, weights=weights)
    copies = np.repeat(image.reshape(-1, 3), weights.reshape(-1), axis=0)[None]
    assert one.palette.tobytes() == quantize(copies, 7).palette.tobytes()
    assert one.indices.shape == (20, 30)
    fractions = quantize(image, 7, weights=weights / 3)
    assert fractions.palette.shape == (7, 3)


# ---------------------------------------------------------------- kinds of pictures


@pytest.mark.parametrize("dither", ["none", "floyd-steinberg", "bayer", "blue-noise"])
@pytest.mark.parametrize("space", SPACES)
def test_grey_stays_grey(small, space, dither):
    grey = small[..., 1]
    flat = quantize(grey, 8, space=space, dither=dither)
    assert flat.to_array().shape == grey.shape
    assert (flat.palette[:, :1] == flat.palette).all()
    deep = quantize(np.dstack([grey] * 3), 8, space=space, dither=dither)
    assert deep.palette.tobytes() == flat.palette.tobytes()
    assert deep.to_array().shape == (*grey.shape, 3)
    if dither == "none":
        assert (deep.to_array()[..., 0] == flat.to_array()).all()
        assert flat.psnr == pytest.approx(psnr(flat.to_array(), grey), abs=1e-9)


@pytest.mark.parametrize("kind", ["greys", "colors"])
def test_dithered_grey_is_that_of_three_equal_channels(small, kind):
    """For whose errors that of one stands, if the palette is grey."""
    palette = np.random.default_rng(0).integers(0, 256, (7, 3)).astype(np.uint8)
    palette = np.repeat(palette[:, :1], 3, axis=1) if kind == "greys" else palette
    grey = small[::4, ::4, 1]
    one, three = (remap(each, palette, dither="floyd-steinberg") for each in (grey, np.dstack([grey] * 3)))
    assert (one.indices == three.indices).all()
    assert one.psnr == pytest.approx(three.psnr, abs=1e-9)


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.float16, np.float32, np.float64])
@pytest.mark.parametrize("shape", [(30, 40), (30, 40, 1), (30, 40, 3), (30, 40, 4)])
def test_arrays_come_back_as_they_were(dtype, shape):
    top = np.iinfo(dtype).max if np.dtype(dtype).kind == "u" else 1
    image = (np.random.default_rng(0).random(shape) * top).astype(dtype)
    before = image.copy()
    for dither in ("none", "floyd-steinberg", "blue-noise"):
        result = quantize(image, 9, dither=dither)
        assert result.to_array().shape == shape
        assert result.to_array().dtype == dtype
        assert len(result.palette) == 9
        assert 5 < result.psnr < 40
        assert result.to_pil().size == (40, 30)
    assert (image == before).all()


def test_bfloat16_is_read_as_float32():
    image = np.random.default_rng(0).random((30, 40, 3)).astype(ml_dtypes.bfloat16)
    expected = quantize(image.astype(np.float32), 9)
    for held in (image, image.astype(image.dtype.newbyteorder()), [[*map(list, row)] for row in image]):
        found = quantize(held, 9)
        assert found.to_array().dtype == np.float32
        assert found.to_array().tobytes() == expected.to_array().tobytes()


def test_what_is_fully_transparent_has_one_color(seen_through):
    image = seen_through.copy()
    clear = image[..., 3] == 0
    assert len(np.unique(image[clear], axis=0)) > 1
    for dither in ("none", "floyd-steinberg", "bayer"):
        result = quantize(image, 30, dither=dither)
        assert result.palette.shape == (30, 4)
        assert result.palette[0].tolist() == [0, 0, 0, 0]
        assert (result.palette[1:].any(axis=1)).all()
        assert ((result.indices == 0) >= clear).all()
        if dither == "none":
            assert ((result.indices == 0) == clear).all()
    image[clear, :3] = 0
    assert quantize(image, 30).palette.tobytes() == quantize(seen_through, 30).palette.tobytes()


def test_colors_hardly_seen_hardly_count():
    """A hundred colors at alpha 1 against three that are opaque."""
    image = np.zeros((1, 103, 4), np.uint8)
    image[0, :100, :3] = np.random.default_rng(0).integers(0, 256, (100, 3))
    image[0, :100, 3] = 1
    image[0, 100:] = [[255, 0, 0, 255], [0, 255, 0, 255], [0, 0, 255, 255]]
    for space in SPACES:
        result = quantize(image, 4, space=space)
        assert (result.to_array()[0, 100:] == image[0, 100:]).all()


def test_opaque_alpha_changes_nothing(small):
    opaque = np.dstack([small, np.full(small.shape[:2], 255, np.uint8)])
    one, other = quantize(small, 12), quantize(opaque, 12)
    assert one.palette.tobytes() == other.palette.tobytes()
    assert (other.to_array()[..., :3] == one.to_array()).all()
    assert (other.to_array()[..., 3] == 255).all()
    assert other.psnr == pytest.approx(one.psnr)


# ---------------------------------------------------------------- color


@pytest.mark.parametrize("space", SPACES)
@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
@pytest.mark.parametrize("channels", [1, 3, 4])
def test_points_lead_back_to_colors(space, dtype, channels):
    colors = np.random.default_rng(0).integers(0, np.iinfo(dtype).max + 1, (5000, channels)).astype(dtype)
    colors[0], colors[1] = 0, np.iinfo(dtype).max
    if channels == 4:
        colors[:, 3] = np.maximum(colors[:, 3], 1)
    points = color_space.to_points(colors, space).astype(np.float64)
    assert (color_space.to_colors(points, space, dtype) == colors).all()


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_points_with_alpha_are_products_of_levels(dtype):
    """None rounded, although those of 16 bits have 32."""
    top = np.iinfo(dtype).max
    colors = np.random.default_rng(0).integers(0, top + 1, (100, 4)).astype(dtype)
    levels, alpha = colors[:, :3].astype(np.int64), colors[:, 3:].astype(np.int64)
    expected = np.concatenate([levels * alpha, top * alpha], axis=1)
    assert (color_space.to_points(colors, "rgb").astype(np.int64) == expected).all()


def test_oklab_is_oklab():
    """Values of the article, and sRGB's and the cube root's definitions with a C library's powers."""
    colors = np.random.default_rng(0).integers(0, 256, (1000, 3)).astype(np.uint8)
    encoded = colors / 255
    linear = np.where(encoded <= 0.04045, encoded / 12.92, ((encoded + 0.055) / 1.055) ** 2.4)
    expected = np.cbrt(linear @ np.array(color_space._TO_CONES).T) @ np.array(color_space._TO_LAB).T * [1, 2, 2]
    np.testing.assert_allclose(color_space.to_points(colors, "oklab"), expected, atol=2e-7)
    white = color_space.to_points(np.full((1, 3), 255, np.uint8), "oklab")
    np.testing.assert_allclose(white, [[1, 0, 0]], atol=1e-7)


def test_points_have_the_same_bits_everywhere():
    """A checksum over all greys and 4,096 colors: no operation in it is a library's to round."""
    steps = np.arange(0, 256, 17, dtype=np.uint8)
    colors = np.stack(np.meshgrid(steps, steps, steps), axis=-1).reshape(-1, 3)
    table = color_space._linear_table(255)
    assert [table[i].hex() for i in (1, 11, 128, 254)] == LINEAR
    points = color_space.to_points(colors, "oklab").astype("<f4").tobytes()
    assert hashlib.sha256(points).hexdigest() == OKLAB


@pytest.mark.parametrize("n", [3, 5])
def test_roots(n):
    x = np.concatenate([np.random.default_rng(0).random(1000), 10.0 ** -np.arange(300), [0, 1, 2**-1074]])
    np.testing.assert_allclose(color_space._root(x, n) ** n, x, rtol=1e-14, atol=0)


# ---------------------------------------------------------------- files


def profile(space="sRGB"):
    return ImageCms.ImageCmsProfile(ImageCms.createProfile(space)).tobytes()


@pytest.mark.parametrize("suffix", ["png", "webp", "tif", "gif"])
def test_files_hold_the_picture_and_what_was_said_of_it(small, suffix, tmp_path):
    exif = Image.Exif()
    exif[ORIENTATION] = 6
    source = tmp_path / "source.png"
    Image.fromarray(small).save(source, icc_profile=profile(), dpi=(300, 150), exif=exif)
    result = quantize(source, 20)
    target = tmp_path / f"target.{suffix}"
    result.save(target)
    with Image.open(source) as before, Image.open(target) as after:
        assert after.mode == ("RGB" if suffix == "webp" else "P")
        if suffix != "gif":
            assert after.info["icc_profile"] == before.info["icc_profile"]
            assert after.getexif()[ORIENTATION] == 6  # until it is loaded, in the case of TIFF
        upright = np.asarray(ImageOps.exif_transpose(after).convert("RGB"))
        expected = Image.fromarray(result.to_array())
        expected.getexif()[ORIENTATION] = 6
        assert (upright == np.asarray(ImageOps.exif_transpose(expected))).all()
        assert upright.shape[:2] == small.shape[1::-1]
        if suffix in ("png", "tif"):
            assert [float(x) for x in after.info["dpi"]] == pytest.approx([300, 150], abs=0.1)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["source.png", target.name]


@pytest.mark.parametrize("suffix", ["png", "webp", "tif"])
def test_files_hold_alpha(seen_through, suffix, tmp_path):
    result = quantize(seen_through, 20)
    result.save(tmp_path / f"x.{suffix}")
    with Image.open(tmp_path / f"x.{suffix}") as image:
        assert (np.asarray(image.convert("RGBA")) == result.to_array()).all()


def test_gif_has_one_transparent_color(small, seen_through, tmp_path):
    image = np.dstack([small, np.where(small[..., 0] > 99, 255, 0).astype(np.uint8)])
    result = quantize(image, 20)
    result.save(tmp_path / "x.gif")
    with Image.open(tmp_path / "x.gif") as found:
        assert (np.asarray(found.convert("RGBA"))[..., 3] == image[..., 3]).all()
        visible = image[..., 3] > 0
        assert (np.asarray(found.convert("RGBA"))[visible] == result.to_array()[visible]).all()
    with pytest.raises(ImageError, match="half-transparent"):
        quantize(seen_through, 20).save(tmp_path / "y.gif")
    with pytest.raises(ImageError, match="256 colors"):
        quantize(small, 300).save(tmp_path / "y.gif")
    assert [path.name for path in tmp_path.iterdir()] == ["x.gif"]


def test_files_of_all_modes(small, tmp_path):
    rgb = Image.fromarray(small)
    for mode in ("1", "L", "LA", "P", "RGB", "RGBA", "CMYK", "YCbCr", "I;16", "I", "F"):
        if mode in ("I;16", "I"):
            image = Image.fromarray(small[..., 0].astype(np.uint16) * 257)
            image = image.convert("I") if mode == "I" else image
        elif mode == "F":
            image = Image.fromarray((small[..., 0] / 255).astype(np.float32))
        else:
            image = rgb.convert("L").convert("LA") if mode == "LA" else rgb.convert(mode)
        path = tmp_path / f"{mode.replace(';', '')}.tif"
        image.save(path)
        result = quantize(path, 16)
        assert len(result.palette) == (2 if mode == "1" else 16)
        assert result.psnr == np.inf if mode == "1" else result.psnr > 18, mode
        if mode in ("I;16", "I"):
            assert result.palette.dtype == np.uint16
        elif mode not in ("F", "1", "L", "LA", "I", "I;16"):
            expected = np.asarray(image.convert("RGB"))
            assert psnr(result.to_array()[..., :3], expected) > (20 if mode == "P" else 24), mode


def test_a_palette_picture_with_transparency(tmp_path):
    image = Image.fromarray(np.arange(12, dtype=np.uint8).reshape(3, 4), "L").convert("P")
    image.putpalette(list(range(36)))
    image.save(tmp_path / "p.png", transparency=5)
    result = quantize(tmp_path / "p.png", 256)
    assert result.psnr == np.inf
    assert (result.to_array()[..., 3] == 0).sum() == 1


def test_cmyk_follows_its_profile_or_pillow(small):
    image = Image.fromarray(small).convert("CMYK")
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=95, icc_profile=b"no profile" * 20)
    result = quantize(buffer.getvalue(), 64)
    assert psnr(result.to_array(), small) > 25
    assert result.metadata.icc_profile is None, "the profile of another space would be wrong"


def test_several_pictures_in_one_file_are_refused(small, tmp_path):
    frames = [Image.fromarray(small), Image.fromarray(255 - small)]
    for suffix in ("gif", "png", "webp", "tif"):
        frames[0].save(tmp_path / f"x.{suffix}", save_all=True, append_images=frames[1:])
        with pytest.raises(ImageError, match="holds 2 pictures"):
            quantize(tmp_path / f"x.{suffix}")
    assert quantize(frames[0], 4).indices.shape == small.shape[:2]


def test_pil_images_bytes_and_open_files(small, tmp_path):
    image = Image.fromarray(small)
    image.save(tmp_path / "x.png")
    expected = quantize(small, 9).indices.tobytes()
    assert quantize(image, 9).indices.tobytes() == expected
    assert quantize(str(tmp_path / "x.png"), 9).indices.tobytes() == expected
    assert quantize((tmp_path / "x.png").read_bytes(), 9).indices.tobytes() == expected
    with open(tmp_path / "x.png", "rb") as file:
        assert quantize(file, 9).indices.tobytes() == expected
    buffer = io.BytesIO()
    quantize(image, 9).save(buffer, "png")
    with Image.open(buffer) as found:
        assert found.mode == "P"


# ---------------------------------------------------------------- refused


@pytest.mark.parametrize(
    ("image", "message"),
    [
        (np.zeros(5, np.uint8), r"got an array of shape \(5,\)"),
        (np.zeros((5, 5, 2), np.uint8), r"\(5, 5, 2\)"),
        (np.zeros((0, 5, 3), np.uint8), "at least one pixel"),
        (np.zeros((5, 5), np.int64), "int64"),
        (np.full((5, 5), np.nan), r"\[0, 1\]"),
        (np.full((5, 5), 1.5), r"\[0, 1\]"),
        (b"no image", "not an image"),
        (b"", "not an image"),
    ],
)
def test_no_picture(image, message):
    with pytest.raises(ImageError, match=message):
        quantize(image)


def test_parameters_out_of_range(small):
    for k, error in ((0, ValueError), (65537, ValueError), (2.5, TypeError), (True, TypeError), ("4", TypeError)):
        with pytest.raises(error, match="n_colors"):
            quantize(small, k)
    with pytest.raises(ValueError, match="space"):
        quantize(small, 4, space="lab")
    with pytest.raises(ValueError, match="dither"):
        quantize(small, 4, dither="yes")
    with pytest.raises(ValueError, match="device"):
        quantize(small, 4, device="tpu")
    for weights in (
        np.ones(3),
        np.full(small.shape[:2], -1),
        np.zeros(small.shape[:2]),
        np.full(small.shape[:2], np.nan),
    ):
        with pytest.raises(ValueError, match="weights"):
            quantize(small, 4, weights=weights)
    for colors in (np.zeros((0, 3), np.uint8), np.zeros((4, 3)), np.zeros((4, 2), np.uint8)):
        with pytest.raises(ValueError, match="palette"):
            remap(small, colors)


def test_files_that_cannot_be_read(small, tmp_path):
    with pytest.raises(FileNotFoundError):
        quantize(tmp_path / "none.png")
    Image.fromarray(small).save(tmp_path / "x.png")
    data = (tmp_path / "x.png").read_bytes()
    with pytest.raises(ImageError, match="damaged"):
        quantize(data[: len(data) // 2])


def test_a_bomb(tmp_path):
    """30,000 x 30,000 pixels, says the head of a file of 100 bytes; and so many that Pillow refuses to open it."""
    for side in (15_000, 30_000):
        head = struct.pack(">IIBBBBB", side, side, 8, 0, 0, 0, 0)
        chunks = [(b"IHDR", head), (b"IDAT", zlib.compress(b"")), (b"IEND", b"")]
        data = [struct.pack(">I", len(d)) + t + d + struct.pack(">I", zlib.crc32(t + d)) for t, d in chunks]
        (tmp_path / "bomb.png").write_bytes(b"\x89PNG\r\n\x1a\n" + b"".join(data))
        with pytest.raises(ImageError, match=r"more than|too large|exceeds"):
            quantize(tmp_path / "bomb.png")


@pytest.mark.parametrize("name", ["x.jpg", "x", "x.bmp"])
def test_formats_that_cannot_hold_it(small, name, tmp_path):
    with pytest.raises(ImageError, match=r"\.png, \.gif, \.webp, \.tif"):
        quantize(small, 4).save(tmp_path / name)
    assert list(tmp_path.iterdir()) == []


def test_a_file_is_whole_or_as_it_was(small, tmp_path, monkeypatch):
    def half(self, file, *args, **kwargs):
        file.write(b"half")
        raise OSError(28, "No space left on device")

    result = quantize(small, 4)
    (tmp_path / "x.png").write_text("before")
    monkeypatch.setattr(Image.Image, "save", half)
    with pytest.raises(OSError, match="No space"):
        result.save(tmp_path / "x.png")
    assert [path.read_text() for path in tmp_path.iterdir()] == ["before"]


def test_a_file_that_cannot_be_made_is_named(small, tmp_path):
    with pytest.raises(FileNotFoundError) as caught:
        quantize(small, 3).save(tmp_path / "none" / "x.png")
    assert caught.value.filename == str(tmp_path / "none" / "x.png")


def test_a_link_is_followed(small, tmp_path):
    (tmp_path / "real.png").write_text("before")
    (tmp_path / "link.png").symlink_to("real.png")
    quantize(small, 4).save(tmp_path / "link.png")
    assert (tmp_path / "link.png").is_symlink()
    with Image.open(tmp_path / "real.png") as image:
        assert image.mode == "P"


# ---------------------------------------------------------------- given palettes


def test_remap_takes_the_nearest(small):
    rng = np.random.default_rng(0)
    colors = rng.integers(0, 256, (40, 3)).astype(np.uint8)
    colors[7] = colors[3]  # ties go to the least index
    result = remap(small, colors, space="rgb")
    distance = ((small[:, :, None].astype(int) - colors) ** 2).sum(axis=-1)
    assert (result.indices == distance.argmin(axis=-1)).all()
    assert result.palette.tobytes() == colors.tobytes()
    assert result.psnr == pytest.approx(psnr(colors[result.indices], small))


def test_remap_of_other_kinds(small, seen_through):
    colors = np.array([[255, 0, 0], [0, 0, 255], [128, 128, 128]], np.uint8)
    grey = remap(small[..., 0], colors)
    assert grey.to_array().shape == small.shape
    clear = remap(seen_through, np.array([[0, 0, 0, 0], [255, 255, 255, 255]], np.uint8), dither="floyd-steinberg")
    assert (clear.indices[:, 0] == 0).all()
    assert remap(small, np.array([[0, 0, 0, 0], [9, 9, 9, 255]], np.uint8)).to_array().shape[2] == 4
    deep = remap(small.astype(np.uint16) * 257, colors)
    assert (deep.to_array() == remap(small, colors).to_array().astype(np.uint16) * 257).all()


def test_palettes_from_files(tmp_path, small):
    expected = [[0, 0, 0], [255, 128, 0], [1, 2, 3]]
    (tmp_path / "a.gpl").write_text(
        "GIMP Palette\nName: x\nColumns: 3\n# comment\n  0   0   0\tblack\n255 128 0\n1 2 3 last one\n"
    )
    (tmp_path / "a.hex").write_text("000000\n#FF8000\n\n010203\n")
    image = Image.fromarray(np.array([[0, 1, 2]], np.uint8), "L").convert("P")
    image.putpalette([level for entry in expected for level in entry])
    image.save(tmp_path / "a.png")
    for suffix in ("gpl", "hex", "png"):
        assert palettes.load(tmp_path / f"a.{suffix}").tolist() == expected
    (tmp_path / "alpha.hex").write_text("00000000\nffffff\n")
    assert palettes.load(tmp_path / "alpha.hex").tolist() == [[0, 0, 0, 0], [255, 255, 255, 255]]
    Image.fromarray(np.array([[[9, 8, 7], [1, 1, 1], [9, 8, 7]]], np.uint8)).save(tmp_path / "b.png")
    assert palettes.load(tmp_path / "b.png").tolist() == [[9, 8, 7], [1, 1, 1]]


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("a.gpl", "not a palette"),
        ("a.gpl", "GIMP Palette\n1 2"),
        ("a.gpl", "GIMP Palette\n1 2 256"),
        ("a.gpl", "GIMP Palette\n"),
        ("a.gpl", ""),
        ("a.hex", "12345"),
        ("a.hex", ""),
        ("a.png", "no image"),
        ("a.txt", "000000"),
    ],
)
def test_files_that_are_no_palettes(name, text, tmp_path):
    (tmp_path / name).write_text(text)
    with pytest.raises(ImageError, match=r"a\.(gpl|hex|png|txt)"):
        palettes.load(tmp_path / name)


def test_public_names():
    """Listed in test_dispatch.py."""
    assert issubclass(ImageError, ValueError)
    assert isinstance(quantize(np.zeros((1, 1), np.uint8)), gpukmeans.Quantized)


@pytest.mark.parametrize("scale", [1e7, 1e12, 1e40, 1e300, 1e-30, 1e-40, 1e-300])
def test_only_ratios_of_weights_matter(china, scale):
    """Fractions of any size; whole numbers and their multiples may round otherwise."""
    image = china[::8, ::8]
    weights = np.random.default_rng(0).uniform(0.5, 1.5, image.shape[:2])
    want = quantize(image, 16, weights=weights, device="cpu")
    found = quantize(image, 16, weights=weights * scale, device="cpu")
    assert len(found.palette) == 16
    assert found.converged
    assert found.psnr == pytest.approx(want.psnr, abs=0.05)


# ---------------------------------------------------------------- palettes in files


def paletted(picture, **options):
    """As it is once a file of it is read."""
    with Image.fromarray(picture) as image:
        indexed = image.quantize(11)
    buffer = io.BytesIO()
    indexed.save(buffer, format="PNG", **options)
    return Image.open(buffer)


@pytest.mark.parametrize(
    "options", [{}, {"transparency": 3}, {"transparency": bytes([255, 0, 128, 7])}, {"transparency": b"\xff" * 11}]
)
@pytest.mark.parametrize("dither", ["none", "bayer", "floyd-steinberg"])
def test_a_paletted_picture_is_what_its_colors_are(options, dither, small, device):
    """Counted and mapped by its indices, to the bits of the same picture without a palette."""
    image = paletted(small, **options)
    spread = np.asarray(image.convert("RGBA" if options else "RGB"))
    ours, theirs = (quantize(each, 5, dither=dither, device=device) for each in (image, spread))
    assert from_pil(image).table is not None
    assert (from_pil(image).levels == from_array(spread).levels).all()
    for name in ("palette", "indices", "psnr", "converged"):
        assert np.array_equal(getattr(ours, name), getattr(theirs, name)), name
    assert np.array_equal(ours.to_array(), theirs.to_array())
    weights = np.random.default_rng(0).random(small.shape[:2])
    ours, theirs = (quantize(each, 5, weights=weights, device=device) for each in (image, spread))
    assert np.array_equal(ours.palette[ours.indices], theirs.palette[theirs.indices])
    ours, theirs = (
        common_palette([from_array(small), each], 7, space="oklab", random_state=0, device="cpu")[0]
        for each in (from_pil(image), from_array(spread))
    )
    assert np.array_equal(ours, theirs)


def test_a_palette_may_have_colors_that_no_pixel_has(monkeypatch):
    """Of any code, and not each piece of a picture need have an index as high as others."""
    monkeypatch.setattr(pixels, "_PIECE", 2)
    held = pixels.IndexedPixels(np.array([1, 1, 3], np.uint8), np.array([[9], [5], [0], [7], [8]], np.uint8))
    codes, counts = held.count()
    assert (codes.tolist(), counts.tolist()) == ([5, 7], [2, 1])
    assert held.map(codes, np.array([30, 40], np.int32), np.int32).tolist() == [30, 30, 40]


def test_errors_of_16_bits_are_exact_however_many_pixels():
    levels, counts = np.array([[0, 0, 0], [65535, 65535, 65534]], np.uint16), np.array([2**36, 2**36 + 1])
    palette = np.array([[65535, 65535, 65535], [0, 0, 0]], np.uint16)
    expected = 2**36 * 3 * 65535**2 + (2**36 + 1) * (2 * 65535**2 + 65534**2)
    assert NumPyColors(levels, counts).error(palette, np.array([0, 1])) == expected > 2**64


def test_equal_colors_of_a_palette_are_one(device):
    indices = np.arange(12, dtype=np.uint8).reshape(3, 4)
    image = Image.fromarray(indices)
    image.putpalette(bytes([9, 9, 9, 1, 2, 3, 9, 9, 9]) + bytes(range(100, 127)) + bytes(60))
    levels = np.asarray(image.convert("RGB"))
    ours = pixels.IndexedPixels(from_pil(image).pixels.reshape(-1), from_pil(image).table)
    for one, other in zip(ours.count(), pixels.NumPyPixels(levels.reshape(-1, 3)).count(), strict=True):
        assert np.array_equal(one, other)
    assert (quantize(image, 20, device=device).to_array() == levels).all()


@pytest.mark.parametrize("mode", ["RGB", "RGBA", "L", "LA", "1", "CMYK", "LAB", "YCbCr", "HSV", "I;16", "F"])
def test_a_tall_picture_is_converted_some_rows_at_a_time(mode, small, monkeypatch):
    """To what it is converted to at once."""
    tall = np.concatenate([small] * 3)
    if mode in ("I;16", "F"):
        image = Image.fromarray(
            tall[..., 0].astype(np.uint16) * 257 if mode == "I;16" else tall[..., 0] / np.float32(255)
        )
    elif mode == "LAB":
        image = Image.merge("LAB", [Image.fromarray(np.ascontiguousarray(tall[..., i])) for i in range(3)])
    else:
        image = Image.fromarray(np.dstack([tall, tall[..., 0]])).convert(mode)
    monkeypatch.setattr(picture, "ROWS", 7)
    pieces = from_pil(image)
    monkeypatch.setattr(picture, "ROWS", 10**6)
    assert np.array_equal(pieces.levels, from_pil(image).levels)
    assert pieces.levels.shape[:2] == tall.shape[:2]


def test_a_palette_that_is_dithered_has_more_of_smooth_parts():
    """Whose errors are seen, as those within texture are not."""
    rng = np.random.default_rng(0)
    smooth = np.linspace(100, 140, 64 * 64).reshape(64, 64)
    picture = np.hstack([smooth, rng.integers(150, 256, (64, 64))]).astype(np.uint8)
    alike, dithered = (
        (quantize(picture, 32, dither=dither, space="rgb").palette[:, 0] < 145).sum()
        for dither in ("none", "floyd-steinberg")
    )
    assert dithered > alike


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_points_of_ycbcr_are_whole_numbers(dtype):
    top = np.iinfo(dtype).max
    colors = np.array([[top, top, top], [top, 0, 1], [3, top - 1, 7]], dtype)
    r, g, b = colors.astype(object).T
    expected = np.stack([299 * r + 587 * g + 114 * b, 625 * b - 211 * r - 414 * g, 625 * r - 523 * g - 102 * b], axis=1)
    found = color_space.to_points(colors, "ycbcr")
    assert found.astype(object).tolist() == expected.tolist()
    assert (color_space.to_colors(found.astype(np.float64), "ycbcr", dtype) == colors).all()
