"""Pictures in bands: the same result as in memory, in memory that does not grow with them."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest
import tifffile
from PIL import Image

from gpukmeans import ImageError, quantize, remap
from gpukmeans.image import patterns
from gpukmeans.image.files.bands import BAND
from gpukmeans.image.streaming import quantize_file


@pytest.fixture(scope="module")
def picture(china):
    return china[:300, :270]


def indices(path):
    with Image.open(path) as image:
        assert image.mode == "P"
        return np.asarray(image)


SAVED = {
    "strips.tif": {"compression": "tiff_lzw"},
    "plain.tif": {},
    "x.png": {},
    "x.jpg": {"quality": 90},
    "x.webp": {"lossless": True},
}


@pytest.mark.parametrize("name", SAVED)
@pytest.mark.parametrize("kind", ["rgb", "grey"])
def test_bands_of_any_format_give_what_the_whole_gives(picture, name, kind, tmp_path):
    image = picture if kind == "rgb" else picture[..., 1]
    Image.fromarray(image).save(tmp_path / name, **SAVED[name])
    written = quantize_file(tmp_path / name, tmp_path / "out.tif", 20)
    if name != "x.jpg":  # decoders of JPEG differ
        whole = quantize(tmp_path / name, 20)
        assert (indices(tmp_path / "out.tif") == whole.indices).all()
        assert written.palette.tobytes() == whole.palette.tobytes()
        assert written.psnr == pytest.approx(whole.psnr, abs=1e-9)
    assert written.converged
    assert (written.height, written.width) == picture.shape[:2]


def test_tiles_and_bigtiff_and_arrays(picture, tmp_path):
    expected = quantize(picture, 12).indices
    tifffile.imwrite(tmp_path / "in.tif", picture, tile=(64, 64), bigtiff=True, compression="zlib", photometric="rgb")
    np.save(tmp_path / "in.npy", picture)
    seen = []
    for source in (tmp_path / "in.tif", tmp_path / "in.npy", np.load(tmp_path / "in.npy", mmap_mode="r")):
        quantize_file(source, tmp_path / "out.tif", 12, progress=lambda *at: seen.append(at))
        assert (indices(tmp_path / "out.tif") == expected).all()
    assert seen[:4] == [(256, 600), (300, 600), (556, 600), (600, 600)]


@pytest.mark.parametrize("dither", ["bayer", "blue-noise"])
def test_patterns_go_on_from_band_to_band(picture, dither, tmp_path):
    quantize_file(np.ascontiguousarray(picture), tmp_path / "out.tif", 12, dither=dither)
    assert (indices(tmp_path / "out.tif") == quantize(picture, 12, dither=dither).indices).all()


def test_alpha_and_given_palettes(picture, tmp_path):
    clear = (picture[..., 0] > 99).astype(np.uint8) * 255
    image = np.dstack([picture, clear])
    opaque = np.dstack([picture, np.full_like(clear, 255)])
    for name, each in (("a", image), ("b", opaque)):
        Image.fromarray(each).save(tmp_path / f"{name}.png")
    colors = np.array([[0, 0, 0], [255, 255, 255], [200, 30, 0]], np.uint8)
    quantize_file(tmp_path / "b.png", tmp_path / "out.tif", palette=colors, dither="bayer")
    assert (indices(tmp_path / "out.tif") == remap(picture, colors, dither="bayer").indices).all()
    quantize_file(tmp_path / "b.png", tmp_path / "out.tif", 9)
    assert (indices(tmp_path / "out.tif") == quantize(picture, 9).indices).all()


@pytest.mark.parametrize("kind", ["array", "file"])
def test_bands_may_be_opaque_where_others_are_not(picture, kind, tmp_path):
    """And what is fully transparent may have any color in the file."""
    image = np.dstack([picture[:, :20], np.full((300, 20), 255, np.uint8)])
    image[3:9, :5, 3] = 0
    for rows in (image, image[::-1]):
        Image.fromarray(rows).save(tmp_path / "in.png")
        quantize_file(rows if kind == "array" else tmp_path / "in.png", tmp_path / "out.tif", 9)
        expected, seen = quantize(rows, 9).to_array(), rows[..., 3] > 0
        with Image.open(tmp_path / "out.tif") as found:
            assert (np.asarray(found.convert("RGB"))[seen] == expected[seen][:, :3]).all()


def test_more_than_eight_bits(picture, tmp_path):
    deep = picture.astype(np.uint16) * 257
    tifffile.imwrite(tmp_path / "deep.tif", deep, photometric="rgb")
    for source in (tmp_path / "deep.tif", deep):
        quantize_file(source, tmp_path / "out.tif", 9)
        assert (indices(tmp_path / "out.tif") == quantize(picture, 9).indices).all()


def test_what_the_file_says_is_kept(picture, tmp_path):
    from PIL import ImageCms

    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    Image.fromarray(picture).save(tmp_path / "in.tif", dpi=(300, 300), icc_profile=profile)
    quantize_file(tmp_path / "in.tif", tmp_path / "out.tif", 9)
    with Image.open(tmp_path / "out.tif") as image:
        assert [float(x) for x in image.info["dpi"]] == pytest.approx([300, 300])
        assert image.info["icc_profile"] == profile


@pytest.mark.parametrize("kind", ["many colors", "alpha", "soft", "palette with alpha"])
def test_what_no_palette_of_a_tiff_holds_is_written_with_its_channels(picture, kind, tmp_path):
    """As many colors as were asked for, alpha too; whole pictures give the same."""
    alpha = np.clip(picture[..., 0].astype(int) * 3 - 300, 0, 255) // (1 if kind == "soft" else 255) * 255
    source = picture if kind == "many colors" else np.dstack([picture, np.minimum(alpha, 255).astype(np.uint8)])
    Image.fromarray(source).save(tmp_path / "in.png")
    given = np.array([[0, 0, 0], [250, 250, 250], [90, 20, 10]], np.uint8) if "palette" in kind else None
    k = 300 if kind == "many colors" else 20
    for how in ("none", "bayer"):
        found = quantize_file(tmp_path / "in.png", tmp_path / "bands.tif", k, palette=given, dither=how)
        whole = quantize(source, k, dither=how) if given is None else remap(source, given, dither=how)
        whole.save(tmp_path / "whole.tif")
        with Image.open(tmp_path / "bands.tif") as one, Image.open(tmp_path / "whole.tif") as other:
            assert one.mode == other.mode == ("RGB" if kind == "many colors" else "RGBA")
            assert (np.asarray(one) == np.asarray(other)).all()
        assert found.palette.tobytes() == whole.palette.tobytes()


def test_refused_and_nothing_written(picture, tmp_path):
    Image.fromarray(picture).save(tmp_path / "in.png")
    data = (tmp_path / "in.png").read_bytes()
    (tmp_path / "half.png").write_bytes(data[: len(data) // 2])
    (tmp_path / "no.tif").write_text("no")
    frames = [Image.fromarray(picture)] * 2
    frames[0].save(tmp_path / "two.tif", save_all=True, append_images=frames[1:])
    before = sorted(tmp_path.iterdir())
    for source, target, k, options, message in [
        ("in.png", "out.png", 9, {}, ".tif"),
        ("in.png", "out.tif", 9, {"dither": "floyd-steinberg"}, "bands"),
        ("half.png", "out.tif", 9, {}, "half.png"),
        ("no.tif", "out.tif", 9, {}, "no.tif"),
        ("two.tif", "out.tif", 9, {}, "2 pictures"),
    ]:
        with pytest.raises(ImageError, match=message):
            quantize_file(tmp_path / source, tmp_path / target, k, **options)
    with pytest.raises(FileNotFoundError):
        quantize_file(tmp_path / "none.tif", tmp_path / "out.tif")
    with pytest.raises(ImageError, match="shape"):
        quantize_file(np.zeros((3, 3, 2), np.uint8), tmp_path / "out.tif")
    assert sorted(tmp_path.iterdir()) == before


@pytest.mark.skipif(sys.platform != "linux", reason="ru_maxrss is in kilobytes there")
@pytest.mark.slow
def test_memory_does_not_grow_with_the_picture(picture, tmp_path):
    """20 megapixels, 60 MB of levels: not held at once, in a process of their own."""
    tile = np.concatenate([picture[:256, :250]] * 24, axis=1)
    with tifffile.TiffWriter(tmp_path / "in.tif", bigtiff=True) as file:
        rows = (np.ascontiguousarray(tile[i : i + 128]) for _ in range(13) for i in (0, 128))
        tiles = (np.ascontiguousarray(band[:, a : a + 128]) for band in rows for a in range(0, 5888, 128))
        shape = (13 * 256, 5888, 3)
        file.write(tiles, shape=shape, dtype=np.uint8, tile=(128, 128), photometric="rgb", compression="zlib")
    program = (
        "import resource, sys\n"
        "from gpukmeans.image.streaming import quantize_file\n"
        "from PIL import Image; import pyvips, tifffile\n"
        "before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss\n"
        "quantize_file(sys.argv[1], sys.argv[2], 16)\n"
        "print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)\n"
    )
    argv = [sys.executable, "-c", program, str(tmp_path / "in.tif"), str(tmp_path / "out.tif")]
    done = subprocess.run(argv, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    # Clustering, a table of labels (16 MB), bands and libvips' cache.
    assert int(done.stdout) < 250_000
    with Image.open(tmp_path / "out.tif") as image:
        assert image.size == (5888, 13 * 256)


def test_a_band_is_a_whole_number_of_patterns():
    assert BAND % patterns.TILE == BAND % 2**patterns.BAYER_BITS == 0
