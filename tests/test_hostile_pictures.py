"""Pictures made to do harm: the right answer or the right error, in bounded time and memory, and nothing written."""

from __future__ import annotations

import io
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import tifffile
from PIL import Image

from gpukmeans import ImageError, quantize
from gpukmeans.image.large import quantize_file

COLORS = np.array([[200, 30, 40], [20, 90, 250], [240, 240, 230], [0, 60, 0], [90, 90, 90]], np.uint8)


@pytest.fixture(scope="module")
def small():
    """(48, 60, 3) in five colors."""
    y, x = np.mgrid[:48, :60]
    return COLORS[(x // 7 + y // 5) % 5]


def encoded(array, format, **options):
    buffer = io.BytesIO()
    Image.fromarray(array).save(buffer, format=format, **options)
    return buffer.getvalue()


def names(folder):
    return sorted(path.name for path in folder.iterdir())


# ---------------------------------------------------------------- what is no raster picture

TAKING_IN = """<svg xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink" width="9" height="9">
<image xlink:href="other.png" width="9" height="9"/></svg>"""
STARTING = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n%%EndComments\n(started) (w) file closefile\nshowpage\n"
CARDS = [
    *(b"SIMPLE  =                    T", b"BITPIX  =                    8", b"NAXIS   =                    2"),
    *(b"NAXIS1  =                    9", b"NAXIS2  =                    9", b"END"),
]
FITS = b"".join(card.ljust(80) for card in CARDS).ljust(2880) + bytes(2880)

# By what they are; libvips or Pillow would open each of them, or start somebody who does.
NO_PICTURES = {
    "svg": TAKING_IN.encode(),
    "svg with a declaration": b"<?xml version='1.0'?>\n" + TAKING_IN.encode(),
    "eps": STARTING,
    "pdf": b"%PDF-1.4\n1 0 obj\n<<>>\nendobj\ntrailer\n<<>>\n",
    "csv": b"1,2,3\n4,5,6\n",
    "matrix": b"3 2\n1 2 3\n4 5 6\n",
    "vips": b"\x08\xf2\xa6\xb6" + bytes(60),
    "fits": FITS,
    "mat": b"MATLAB 5.0 MAT-file".ljust(124) + b"\0\1IM",
    "wmf": b"\xd7\xcd\xc6\x9a\0\0" + bytes(80),
    "hdf5": b"\x89HDF\r\n\x1a\n" + bytes(80),
    "grib": b"GRIB" + bytes(3) + b"\1" + bytes(80),
    "mvg": b"push graphic-context\nviewbox 0 0 9 9\nimage over 0,0 0,0 'other.png'\npop graphic-context\n",
}


@pytest.mark.parametrize("kind", NO_PICTURES)
@pytest.mark.parametrize("name", ["a.png", "a.tif", "a.svg", "a.eps", "a.csv", "a.v", "a.mat"])
def test_what_is_no_raster_picture_is_refused_by_any_name(kind, name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Image.new("RGB", (9, 9), (200, 10, 10)).save("other.png")
    Path(name).write_bytes(NO_PICTURES[kind])
    before = names(tmp_path)
    with pytest.raises(ImageError, match=f"{name} is not an image"):
        quantize(name, 4)
    with pytest.raises(ImageError, match=f"{name} is not an image"):
        quantize_file(name, "out.tif", 4)
    assert names(tmp_path) == before


def test_no_program_is_started_and_no_other_file_opened(small, tmp_path):
    """As the interpreter itself sees it, of all kinds of files; Ghostscript would be found."""
    for i, data in enumerate([*NO_PICTURES.values(), encoded(small, "PNG"), encoded(small, "TIFF")]):
        (tmp_path / f"{i}.png").write_bytes(data)
    Image.new("RGB", (9, 9)).save(tmp_path / "other.png")
    for program in ("gs", "djpeg", "convert"):
        (tmp_path / program).write_text(f"#!/bin/sh\ntouch {tmp_path}/started-{program}\n")
        (tmp_path / program).chmod(0o755)
    code = """
import sys, pathlib
import gpukmeans, PIL.Image, pyvips, tifffile, PIL.EpsImagePlugin
from gpukmeans.image.large import quantize_file
PIL.Image.init()
seen = []
folder = pathlib.Path(sys.argv[1])
def watch(event, args):
    if event in ("os.exec", "os.posix_spawn", "subprocess.Popen", "os.system"):
        seen.append((event, args))
    if event == "open" and str(args[0]).startswith(str(folder)) and str(args[0]) != str(current):
        if not pathlib.Path(str(args[0])).name.startswith(".gpukmeans-"):
            seen.append((event, args))
sys.addaudithook(watch)
done = 0
for i in range(int(sys.argv[2])):
    current = folder / f"{i}.png"
    for call in (lambda: gpukmeans.quantize(current, 4), lambda: quantize_file(current, folder / "out.tif", 4)):
        try:
            call()
            done += 1
        except gpukmeans.ImageError:
            pass
print(done, seen)
"""
    environment = {**os.environ, "PATH": f"{tmp_path}:{os.environ['PATH']}"}
    argv = [sys.executable, "-c", code, str(tmp_path), str(len(NO_PICTURES) + 2)]
    done = subprocess.run(argv, capture_output=True, text=True, env=environment)
    assert (done.returncode, done.stdout.strip()) == (0, "4 []"), done.stderr
    assert not [name for name in names(tmp_path) if name.startswith("started")]


def test_a_file_that_libvips_would_take_options_from_is_read_by_its_name(small, tmp_path):
    """new_from_file takes what stands in brackets for options of the loader."""
    (tmp_path / "a.png[page=7]").write_bytes(encoded(small, "PNG"))
    quantize_file(tmp_path / "a.png[page=7]", tmp_path / "out.tif", 5)
    with Image.open(tmp_path / "out.tif") as image:
        assert (np.asarray(image.convert("RGB")) == small).all()


def test_any_format_that_is_not_read_in_bands_is_read_whole_and_gives_the_same(small, tmp_path):
    for format in ("GIF", "BMP", "PPM", "TGA", "ICO"):
        array = small[:48, :48]
        (tmp_path / "in").write_bytes(encoded(array, format))
        quantize_file(tmp_path / "in", tmp_path / "out.tif", 5)
        with Image.open(tmp_path / "out.tif") as image:
            assert (np.asarray(image.convert("RGB")) == array).all(), format


# ---------------------------------------------------------------- damage in bands


def tiffs():
    y, x = np.mgrid[:120, :160]
    noise = np.random.default_rng(0).normal(0, 6, (120, 160))
    photo = np.stack([128 + 100 * np.sin(x / (17 + 5 * i) + y / 31) + noise for i in range(3)], -1)
    photo = photo.clip(0, 255).astype(np.uint8)
    for name, options in {
        "strips": {"rowsperstrip": 16},
        "one strip": {"rowsperstrip": 120},
        "tiles": {"tile": (32, 32)},
        "bigtiff": {"tile": (32, 32), "bigtiff": True},
        "big-endian": {"rowsperstrip": 16, "byteorder": ">"},
    }.items():
        buffer = io.BytesIO()
        tifffile.imwrite(buffer, photo, compression="zlib", photometric="rgb", **options)
        yield pytest.param(buffer.getvalue(), id=name)


@pytest.mark.parametrize("whole", [*tiffs()])
def test_a_damaged_tiff_is_an_error_in_bands_too(whole, tmp_path):
    """A part of the middle overwritten, and the file cut short."""
    half = len(whole) // 2
    for damaged in (whole[:half] + b"\xff" * 2000 + whole[half + 2000 :], whole[: len(whole) * 3 // 4]):
        (tmp_path / "a.tif").write_bytes(damaged)
        with pytest.raises(ImageError, match=r"a\.tif"):
            quantize(tmp_path / "a.tif", 4)
        with pytest.raises(ImageError, match=r"a\.tif"):
            quantize_file(tmp_path / "a.tif", tmp_path / "b.tif", 4)
        assert names(tmp_path) == ["a.tif"]
    (tmp_path / "a.tif").write_bytes(whole)
    quantize_file(tmp_path / "a.tif", tmp_path / "b.tif", 4)


def test_tags_that_nobody_knows_are_no_damage(small, tmp_path):
    extra = [(42112, 2, 0, "<GDALMetadata/>", True), (65000, 3, 1, 7, True), (33550, 12, 3, (1.0, 1.0, 0.0), True)]
    tifffile.imwrite(tmp_path / "a.tif", small, photometric="rgb", tile=(16, 16), extratags=extra)
    assert quantize_file(tmp_path / "a.tif", tmp_path / "b.tif", 5).psnr == float("inf")
