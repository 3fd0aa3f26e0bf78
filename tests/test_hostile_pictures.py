"""Pictures made to do harm: the right answer or the right error, in bounded time and memory, and nothing written."""

from __future__ import annotations

import io
import json
import os
import struct
import subprocess
import sys
import zlib
from pathlib import Path

import numpy as np
import pytest
import tifffile
from PIL import Image

from gpukmeans import ImageError, quantize
from gpukmeans.image.files import read
from gpukmeans.image.streaming import quantize_file

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
from gpukmeans.image.streaming import quantize_file
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
    for damaged in (
        whole[:half] + b"\xff" * 2000 + whole[half + 2000 :],
        whole[:half] + bytes(2000) + whole[half + 2000 :],  # which inflates to something
        whole[: len(whole) * 3 // 4],
    ):
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


# ---------------------------------------------------------------- whatever a file says

# Does with each file of a folder what can be done with a picture, and prints what went otherwise than promised: a
# result of its size, or one line that names the file, and nothing written then. It also says how much memory it took.
CHILD = """
import contextlib, io, json, pathlib, sys, time, warnings
import PIL.Image, pyvips, tifffile
from gpukmeans import ImageError
from gpukmeans.cli import console
from gpukmeans.cli.main import main
from gpukmeans.image.files import palettes

def most():
    lines = pathlib.Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) // 1024 for line in lines if line.startswith("VmHWM"))

warnings.simplefilter("error")
PIL.Image.init()
folder, out = pathlib.Path(sys.argv[1]), pathlib.Path(sys.argv[2])
wrong, ends, before = [], {}, most()
for path in sorted(folder.iterdir()):
    print(path.name, file=sys.stderr, flush=True)
    for target in ("a.png", "a.tif"):
        said, told = io.StringIO(), io.StringIO()
        start = time.monotonic()
        with contextlib.redirect_stdout(said), contextlib.redirect_stderr(told):
            try:
                bands = ["--bands"] if target == "a.tif" else []
                status = main(["quantize", str(path), str(out / target), "-k", "4", "--device", "cpu", *bands])
            except BaseException as error:
                status = repr(error)
        took = time.monotonic() - start
        lines = told.getvalue().splitlines()
        written = [each.name for each in out.iterdir()]
        good = status == 0 and not lines and written == [target]
        bad = status == 1 and len(lines) == 1 and not written
        bad = bad and lines[0].startswith("gpukmeans: error: ") and str(path) in lines[0]
        if not (good or bad) or took > 10:
            wrong.append([path.name, target, status, lines, written, took])
        ends.setdefault(path.name, []).append(status)
        for each in out.iterdir():
            if each.suffix in (".png", ".tif"):
                with warnings.catch_warnings(action="ignore"):
                    PIL.Image.open(each).load()
            each.unlink()
    try:
        with console.quiet():
            palettes.load(path)
    except ImageError as error:
        if str(path) not in str(error):
            wrong.append([path.name, "palette", str(error)])
    except BaseException as error:
        wrong.append([path.name, "palette", repr(error)])
print(json.dumps({"wrong": wrong, "ends": ends, "memory": most() - before}))
"""


def tried(cases, tmp_path):
    """cases: bytes by name. How each ends, in memory and in bands, and the megabytes that it took."""
    (tmp_path / "in").mkdir()
    (tmp_path / "out").mkdir()
    for name, data in cases.items():
        (tmp_path / "in" / f"{name}.png").write_bytes(data)
    argv = [sys.executable, "-c", CHILD, str(tmp_path / "in"), str(tmp_path / "out")]
    done = subprocess.run(argv, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, f"at {done.stderr[-2000:]}"
    assert {*done.stderr.splitlines()} <= {f"{name}.png" for name in cases}, "nobody else says anything"
    said = json.loads(done.stdout)
    assert not said["wrong"], "\n".join(map(str, said["wrong"]))
    return {name.removesuffix(".png"): ends for name, ends in said["ends"].items()}, said["memory"]


def kinds(small):
    """A small file of each kind that is read."""
    tiny = small[:12, :16]
    alpha = np.dstack([tiny, np.where(tiny[..., 0] > 100, 255, 0).astype(np.uint8)])
    with Image.fromarray(tiny) as image:
        indexed = image.quantize(5)
    kinds = {
        "png": encoded(tiny, "PNG"),
        "png-alpha": encoded(alpha, "PNG"),
        "png-sixteen": encoded(tiny[..., 0].astype(np.uint16) * 257, "PNG"),
        "jpeg": encoded(tiny, "JPEG"),
        "jpeg-progressive": encoded(tiny, "JPEG", progressive=True),
        "webp": encoded(alpha, "WEBP", lossless=True),
        "tiff": encoded(tiny, "TIFF"),
        "tiff-lzw": encoded(tiny, "TIFF", compression="tiff_lzw"),
        "tiff-deflate": encoded(tiny, "TIFF", compression="tiff_adobe_deflate"),
    }
    kinds |= {name.lower(): encoded(tiny, name) for name in ("BMP", "PPM", "TGA", "PCX", "SGI", "ICO", "QOI", "DDS")}
    for name in ("PNG", "GIF", "TIFF", "BMP"):
        buffer = io.BytesIO()
        indexed.save(buffer, format=name)
        kinds[f"{name.lower()}-indexed"] = buffer.getvalue()
    buffer = io.BytesIO()
    tifffile.imwrite(buffer, tiny, tile=(16, 16), compression="zlib", photometric="rgb", bigtiff=True)
    return kinds | {"tiff-tiled": buffer.getvalue()}


@pytest.mark.parametrize("part", range(2))
@pytest.mark.slow
def test_files_cut_off_and_with_flipped_bits_end_in_an_answer_or_an_error(part, small, tmp_path):
    cases = {}
    for name, whole in [*kinds(small).items()][part::2]:
        rng = np.random.default_rng(zlib.crc32(name.encode()))
        cases |= {f"{name}-whole": whole, f"{name}-empty": b""}
        cases |= {f"{name}-cut-{end}": whole[:end] for end in range(64, len(whole), 64)}
        for turn in range(16):
            data = bytearray(whole)
            # Every other time where the numbers are that sizes and offsets are computed from.
            for at in rng.integers(len(data) if turn % 2 else min(len(data), 64), size=1 + turn % 3):
                data[at] ^= 1 << rng.integers(8)
            cases[f"{name}-flip-{turn}"] = bytes(data)
    ends, memory = tried(cases, tmp_path)
    assert {name for name, end in ends.items() if end != [0, 0]} >= {name for name in cases if name.endswith("empty")}
    assert all(end == [0, 0] for name, end in ends.items() if name.endswith("whole"))
    assert memory < 300, "of which pictures of a few kilobytes take hardly any"


def chunk(name, data):
    return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))


def png(width, height, *chunks, depth=8, color=0, data=b""):
    start = b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, depth, color, 0, 0, 0))
    return start + b"".join(chunks) + chunk(b"IDAT", zlib.compress(data)) + chunk(b"IEND", b"")


def gif(width, height, frames=1):
    """Of which one pixel a frame is drawn."""
    frame = b"," + struct.pack("<HHHH", 0, 0, 1, 1) + b"\0\x02\x02\x4c\x01\0"
    start = b"GIF89a" + struct.pack("<HH", width, height) + b"\x80\0\0" + b"\0\0\0\xff\xff\xff"
    return start + frame * frames + b";"


def tiff(width, height, *tags, following=0):
    """Tags beside those of a grey picture of one strip, (number, type, value), or without those of type None, and
    where the next directory is."""
    fields = {256: (4, width), 257: (4, height), 258: (3, 8), 259: (3, 1), 262: (3, 1), 273: (4, 8), 277: (3, 1)}
    fields |= {
        278: (4, height),
        279: (4, min(width * height, 2**32 - 1)),
        **{tag: (kind, value) for tag, kind, value in tags},
    }
    fields = {tag: (kind, value) for tag, (kind, value) in fields.items() if kind is not None}
    data = b"II*\0" + struct.pack("<I", 16) + bytes(8) + struct.pack("<H", len(fields))
    data += b"".join(struct.pack("<HHII", tag, kind, 1, value) for tag, (kind, value) in sorted(fields.items()))
    return data + struct.pack("<I", following)


def bmp(width, height, bits=24, size=0, compression=0, colors=0):
    header = struct.pack("<IiiHHIIiiII", 40, width, height, 1, bits, compression, size, 2835, 2835, colors, 0)
    return b"BM" + struct.pack("<IHHI", 54 + size, 0, 0, 54) + header + bytes(16)


def jpeg(width, height, whole):
    at = whole.index(b"\xff\xc0")
    return whole[: at + 5] + struct.pack(">HH", height, width) + whole[at + 9 :]


def test_sizes_that_no_file_of_this_length_has_are_refused(small, tmp_path):
    """Zero, a limit, and what is larger than memory; in little of it."""
    photo = encoded(small[:12, :16], "JPEG")
    vp8x = b"VP8X" + struct.pack("<I", 10) + b"\x10\0\0\0" + b"\xff\xff\xff" * 2
    sizes = [(0, 0), (0, 9), (9, 0), (65535, 65535), (2**31 - 1, 2**31 - 1), (2**31 - 1, 1), (1, 2**31 - 1)]
    cases = {}
    for i, (w, h) in enumerate(sizes):
        cases[f"png-{i}"] = png(w, h)
        cases[f"png-deep-{i}"] = png(w, h, depth=16, color=6)
        cases[f"tiff-{i}"] = tiff(w, h)
        cases[f"bmp-{i}"] = bmp(w, h)
        cases[f"bmp-runs-{i}"] = bmp(w, h, bits=8, compression=1)
        cases[f"ppm-{i}"] = b"P6 %d %d 255\n" % (w, h)
        cases[f"pgm-{i}"] = b"P2 %d %d 255\n1 2" % (w, h)
        cases[f"qoi-{i}"] = b"qoif" + struct.pack(">IIBB", w, h, 4, 0) + bytes(16)
        if max(w, h) < 65536:
            cases[f"gif-{i}"] = gif(w, h, 0)
            cases[f"jpeg-{i}"] = jpeg(w, h, photo)
            cases[f"tga-{i}"] = struct.pack("<BBBHHBHHHHBB", 0, 0, 2, 0, 0, 0, 0, 0, w, h, 24, 0)
    cases["webp"] = b"RIFF" + struct.pack("<I", 4 + len(vp8x)) + b"WEBP" + vp8x
    cases["bmp-upside-down"] = bmp(9, -(2**31))
    cases["bmp-colors"] = bmp(9, 9, bits=8, colors=2**31)
    cases["pgm-digits"] = b"P5 " + b"9" * 5000 + b" 9 255\n"
    cases["ppm-float"] = b"Pf 99999 99999 -1.0\n"
    cases["tiff-samples"] = tiff(9, 9, (277, 3, 65535))
    cases["tiff-bits"] = tiff(9, 9, (258, 3, 65535))
    cases["tiff-strip-far"] = tiff(9, 9, (273, 4, 2**32 - 1))
    tile = [(322, 4, 2**31), (323, 4, 2**31), (324, 4, 8), (325, 4, 4)]
    cases["tiff-tile"] = tiff(9, 9, (273, None, 0), (279, None, 0), *tile)
    cases["tiff-strips-missing"] = tiff(9, 2000, (278, 4, 2))
    ends, memory = tried(cases, tmp_path)
    assert {name for name, end in ends.items() if 0 in end} == set()
    assert memory < 500


# ---------------------------------------------------------------- little that claims to be much


@pytest.mark.slow
def test_files_that_unpack_to_much_are_answered_in_bounded_time_and_memory(small, tmp_path):
    """Texts and profiles that inflate to 64 MB, directories that come back to themselves, frames without end."""
    many = zlib.compress(bytes(2**26), 9)
    row = png(9, 9, data=bytes(10) * 9)
    after = row.index(b"IDAT") - 4
    cases = {
        "png-text": row[:after] + chunk(b"zTXt", b"a\0\0" + many) + row[after:],
        "png-international-text": row[:after] + chunk(b"iTXt", b"a\0\1\0\0\0" + many) + row[after:],
        "png-profile": row[:after] + chunk(b"iCCP", b"a\0\0" + many) + row[after:],
        "png-texts": row[:after] + chunk(b"tEXt", b"a\0" + bytes(999)) * 3000 + row[after:],
        "png-chunks": row[:after] + chunk(b"abCd", b"") * 50_000 + row[after:],
        "png-more-than-it-has": png(9, 9, data=bytes(2**26)),
        "tiff-itself": tiff(9, 9, (273, 4, 0), following=16),
        "tiff-two": tiff(9, 9, following=8),
        "gif-frames": gif(9, 9, 20_000),
        "tiff-exif": tiff(9, 9, (273, 4, 0), (34665, 4, 16)),
    }
    ends, memory = tried(cases, tmp_path)
    assert ends["gif-frames"] == [1, 1]
    assert ends["tiff-itself"][1] == ends["tiff-two"][1] == 1, "more than one picture, or damaged"
    assert all(ends[name][0] == 0 for name in ("png-texts", "png-chunks", "tiff-exif")), "what is much, but no harm"
    assert memory < 150, "text and profiles are not inflated as far as they go"


# What each picture of a folder takes, from file to file: bytes beyond those before, and what is said against it.
MEMORY = """
import json, pathlib, sys
import gpukmeans, PIL.Image, pyvips, tifffile
from gpukmeans.image.streaming import quantize_file

def told(what):
    lines = pathlib.Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(what))

PIL.Image.init()
folder, out = pathlib.Path(sys.argv[1]), sys.argv[2]
result = {}
for path in sorted(folder.iterdir()):
    pathlib.Path("/proc/self/clear_refs").write_text("5")  # the most is what there is
    before, said = told("VmRSS"), None
    try:
        if path.name.startswith("bands"):
            written = quantize_file(path, out)
            size = [written.width, written.height]
        else:
            quantized = gpukmeans.quantize(path)
            quantized.save(out, "PNG")
            size = [*quantized.indices.shape]
            del quantized
    except gpukmeans.ImageError as error:
        size, said = None, str(error)
    if not path.name.startswith("0"):
        result[path.name] = [told("VmHWM") - before, size, said]
print(json.dumps(result))
"""
SIDE = 4000  # whose square is 16 million


@pytest.mark.skipif(sys.platform != "linux", reason="the most memory is told there")
@pytest.mark.slow
def test_pictures_of_one_color_are_read_however_few_bytes_they_have_in_some_for_each_pixel(small, tmp_path):
    """But one that is costly to decode, at 16 bytes a pixel 3 GB, has to have more than a few."""
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "0").write_bytes(encoded(small, "PNG"))  # what there is from the first on
    (tmp_path / "in" / "whole gif").write_bytes(gif(SIDE, SIDE))
    (tmp_path / "in" / "bands gif").write_bytes(gif(SIDE, SIDE))
    assert len(gif(SIDE, SIDE)) == 35
    for mode, color in (("RGB", (3, 200, 7)), ("L", 9), ("1", 1), ("P", 3)):
        with Image.new(mode, (SIDE, SIDE), color) as image:
            image.save(tmp_path / "in" / f"whole {mode}", format="PNG")
    (tmp_path / "in" / "webp").write_bytes(webp(13000, 13000))
    argv = [sys.executable, "-c", MEMORY, str(tmp_path / "in"), str(tmp_path / "out.tif")]
    done = subprocess.run(argv, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert "has 13000 x 13000 pixels in 66 bytes, hardly a picture" in found["webp"].pop()
    assert found.pop("webp")[0] < 2e7
    most = {"whole gif": 4, "bands gif": 4, "whole RGB": 8, "whole L": 5, "whole 1": 5, "whole P": 4}
    assert found.keys() == most.keys()
    for name, (taken, size, said) in found.items():
        assert (size, said) == ([SIDE, SIDE], None), name
        assert taken < most[name] * SIDE**2 + 2e7, name


def webp(width, height):
    """That says so, and has nothing."""
    data = b"\x2f" + (width - 1 | height - 1 << 14).to_bytes(4, "little") + bytes(40)
    data = b"VP8L" + struct.pack("<I", len(data)) + data + bytes(len(data) % 2)
    return b"RIFF" + struct.pack("<I", len(data) + 4) + b"WEBP" + data


def test_a_costly_format_needs_bytes_only_for_many_pixels(monkeypatch):
    monkeypatch.setattr(read, "MOST_PIXELS", 4 * 400 * 400)
    blank = encoded(np.zeros((400, 400, 3), np.uint8), "WEBP", lossless=True)
    assert len(blank) < 160
    assert len(quantize(blank, 4).palette) == 1
    blank = encoded(np.zeros((401, 400, 3), np.uint8), "WEBP", lossless=True)
    with pytest.raises(ImageError, match=f"has 400 x 401 pixels in {len(blank)} bytes, hardly a picture"):
        quantize(blank, 4)
    drawing = COLORS[np.random.default_rng(0).integers(0, 5, (401, 400))]
    assert (quantize(encoded(drawing, "WEBP", lossless=True), 5).to_array() == drawing).all()
