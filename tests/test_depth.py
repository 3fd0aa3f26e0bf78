"""More bits than Pillow gives, said in one line; and HEIC, which pillow-heif reads."""

from __future__ import annotations

import io
import subprocess
import sys

import numpy as np
import pillow_heif
import pytest
import tifffile
from PIL import Image
from test_reading import chunk, png

from gpukmeans import ImageError
from gpukmeans.cli.main import main
from gpukmeans.image.files import heif
from gpukmeans.image.files.read import FORMATS, looks_like_a_picture, read

RNG = np.random.default_rng(0)
COLORS = np.repeat(np.repeat(RNG.integers(0, 256, (6, 8, 3), np.uint8), 8, axis=0), 8, axis=1)
DEEP = RNG.integers(0, 65536, (30, 40, 3)).astype(np.uint16)


def deep_tiff(**options):
    buffer = io.BytesIO()
    tifffile.imwrite(buffer, DEEP, photometric="rgb", **options)
    return buffer.getvalue()


def avif(bits):
    boxes = b"\0\0\0\x1cftypavif\0\0\0\0avifmif1miaf" + b"\0\0\0\x10pixi\0\0\0\0\x03" + bytes([bits] * 3)
    return boxes


def heic(array, **options):
    buffer = io.BytesIO()
    pillow_heif.register_heif_opener()
    Image.fromarray(array).save(buffer, "HEIF", quality=-1, chroma=444, **options)
    return buffer.getvalue()


ROW = DEEP[0, :4].astype(">u2").tobytes()
DEEP_FILES = {
    "deep.png": (16, png(4, 16, 2, ROW)),
    "clear.png": (16, png(2, 16, 6, ROW[:16])),
    "grey-alpha.png": (16, png(2, 16, 4, ROW[:8])),
    "deep.tif": (16, deep_tiff()),
    "big-endian.tif": (16, deep_tiff(byteorder=">", compression="zlib")),
    "deep.ppm": (16, b"P6 4 2 65535\n" + ROW * 2),
    "ten.ppm": (10, b"P3 1 2 1023\n3 4 5 6 7 1000\n"),
}


@pytest.mark.parametrize("name", DEEP_FILES)
def test_of_more_bits_a_line_says_what_is_read(tmp_path, capsys, name):
    bits, data = DEEP_FILES[name]
    source, target = tmp_path / name, tmp_path / "b.png"
    source.write_bytes(data)
    assert read(source).bits_lost == bits
    assert read(source).levels.dtype == np.uint8
    assert main(["quantize", str(source), str(target), "-k", "4"]) == 0
    text = f"note: {source}: of its {bits} bits a channel the upper 8 are read"
    assert [line.split("gpukmeans: ")[1] for line in capsys.readouterr().err.splitlines()] == [text]


def test_of_eight_bits_and_of_what_is_kept_nothing_is_said(tmp_path, capsys):
    grey = io.BytesIO()
    Image.fromarray(DEEP[..., 0]).save(grey, "PNG")
    plain = io.BytesIO()
    Image.fromarray(COLORS).save(plain, "PNG")
    for data in (grey.getvalue(), plain.getvalue(), b"P6 1 1 255\nabc", png(2, 8, 6, ROW[:8]), heic(COLORS)):
        path = tmp_path / "a"
        path.write_bytes(data)
        assert read(data).bits_lost == 0
        assert main(["quantize", str(path), str(tmp_path / "b.png"), "-k", "4"]) == 0
    assert "bits" not in capsys.readouterr().err
    assert read(DEEP).bits_lost == 0


def test_levels_of_avif_and_jpeg_2000_say_how_many_bits_they_have():
    from gpukmeans.image.files.depth import _of_avif, _of_jpeg_2000

    assert [_of_avif(avif(bits)) for bits in (8, 10, 12)] == [8, 10, 12]
    assert _of_avif(b"nothing") == 8
    buffer = io.BytesIO()
    Image.fromarray(COLORS).save(buffer, "JPEG2000")
    own = bytearray(buffer.getvalue())
    assert _of_jpeg_2000(bytes(own)) == 8
    at = own.find(b"\xff\x4f\xff\x51") + 42
    own[at : at + 9 : 3] = bytes([11, 11, 11])
    assert _of_jpeg_2000(bytes(own)) == 12


# ---------------------------------------------------------------- HEIC


def test_heic_is_read_as_other_pictures_are(tmp_path, capsys):
    (tmp_path / "in").mkdir()
    path = tmp_path / "in" / "a.heic"
    path.write_bytes(heic(COLORS))
    assert looks_like_a_picture(path)
    assert np.abs(read(path).levels.astype(int) - COLORS).max() <= 3
    assert main(["quantize", str(tmp_path / "in"), "--out-dir", str(tmp_path / "out"), "-k", "8"]) == 0
    with Image.open(tmp_path / "out" / "a.png") as image:
        assert image.size == (64, 48)


def test_heic_is_turned_as_its_orientation_says():
    exif = Image.Exif()
    exif[274] = 6
    picture = read(heic(COLORS, exif=exif.tobytes()))
    seen = np.rot90(COLORS, -1)
    assert picture.metadata.orientation is None
    assert picture.levels.shape == seen.shape
    assert np.abs(picture.levels.astype(int) - seen).max() <= 3


def test_transparency_of_heic_is_read():
    clear = np.dstack([COLORS, np.where(np.arange(64) < 32, 0, 255)[None].repeat(48, 0).astype(np.uint8)])
    found = read(heic(clear)).levels
    assert (found[:, :32] == 0).all()
    assert (found[:, 32:, 3] == 255).all()


def test_several_pictures_of_one_heic_are_chosen_from():
    pillow_heif.register_heif_opener()
    buffer = io.BytesIO()
    first, second = Image.fromarray(COLORS), Image.fromarray(255 - COLORS)
    first.save(buffer, "HEIF", quality=-1, chroma=444, save_all=True, append_images=[second])
    with pytest.raises(ImageError, match="holds 2 pictures: choose one with --page"):
        read(buffer.getvalue())
    assert np.abs(read(buffer.getvalue(), page=2).levels.astype(int) - (255 - COLORS)).max() <= 3


@pytest.mark.parametrize("cut", [12, 40, 300, -40])
def test_of_a_damaged_heic_one_line_is_said(tmp_path, capsys, cut):
    path = tmp_path / "a.heic"
    path.write_bytes(heic(COLORS)[:cut])
    assert main(["quantize", str(path), str(tmp_path / "b.png"), "-k", "4"]) == 1
    assert len(capsys.readouterr().err.splitlines()) == 1
    assert not (tmp_path / "b.png").exists()


def test_heic_without_its_reader_says_how_to_get_it(monkeypatch):
    data = heic(COLORS)
    pil = sys.modules["PIL.Image"]
    monkeypatch.setattr(pil, "OPEN", {name: each for name, each in pil.OPEN.items() if name != "HEIF"})
    monkeypatch.setitem(sys.modules, "pillow_heif", None)
    with pytest.raises(ImageError, match=r"pip install 'gpukmeans\[heic\]'"):
        read(data)


def test_the_reader_of_heic_is_not_imported_for_other_pictures(tmp_path):
    Image.fromarray(COLORS).save(tmp_path / "a.png")
    (tmp_path / "a.heic").write_bytes(heic(COLORS))
    code = (
        "import sys; from gpukmeans.image.files.read import read; read(sys.argv[1]); "
        "assert 'pillow_heif' not in sys.modules; read(sys.argv[2]); assert 'pillow_heif' in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code, tmp_path / "a.png", tmp_path / "a.heic"], check=True)


def test_heic_is_known_by_its_beginning():
    assert "HEIF" in FORMATS
    assert heif.begins_as_one(io.BytesIO(heic(COLORS)))
    for other in (avif(8), b"", png(2, 8, 2, bytes(6)), chunk(b"ftyp", b"heic")[:11]):
        assert not heif.begins_as_one(io.BytesIO(other))
