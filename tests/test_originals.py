"""gpukmeans quantize loses nothing in silence: originals, files of a folder, formats, colors, sizes and qualities."""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from gpukmeans import quantize
from gpukmeans.cli.fitting import psnr_of
from gpukmeans.cli.main import main

COMMAND = [sys.executable, "-m", "gpukmeans", "quantize"]


def run(*argv):
    return main(["quantize", *map(str, argv)])


def shown(path):
    with Image.open(path) as image:
        return np.asarray(image.convert("RGBA"))


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def contents(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.is_file()}


@pytest.fixture
def photo():
    y, x = np.mgrid[:60, :80]
    noise = np.random.default_rng(0).normal(0, 6, (60, 80))
    planes = [128 + 100 * np.sin(x / (17 + 5 * i) + y / (31 - 4 * i)) + noise for i in range(3)]
    return np.stack(planes, -1).clip(0, 255).astype(np.uint8)


@pytest.fixture
def soft(photo):
    """A disc with a soft edge, and nothing around it."""
    y, x = np.mgrid[:60, :80]
    alpha = np.clip((25 - np.hypot(y - 30, x - 40)) * 30, 0, 255).astype(np.uint8)
    return np.dstack([photo, alpha])


@pytest.fixture
def source(photo, tmp_path):
    Image.fromarray(photo).save(tmp_path / "a.png")
    return tmp_path / "a.png"


# ---------------------------------------------------------------- originals


@pytest.mark.parametrize("kind", ["itself", "link", "hard link", "folder", "bands"])
def test_an_original_is_written_over_only_if_that_is_forced(kind, photo, tmp_path, capsys):
    name = "a.tif" if kind == "bands" else "a.png"
    Image.fromarray(photo).save(tmp_path / name)
    target = tmp_path / name
    if kind == "link":
        target = tmp_path / "b.png"
        target.symlink_to("a.png")
    elif kind == "hard link":
        target = tmp_path / "b.png"
        os.link(tmp_path / "a.png", target)
    argv = [tmp_path / name, target, "-k", "4", *(["--bands"] if kind == "bands" else [])]
    if kind == "folder":
        argv = [tmp_path, "--out-dir", tmp_path, "-k", "4"]
    before = contents(tmp_path)
    assert run(*argv) == 1
    assert "would be written over itself: name the result otherwise, or say --force." in capsys.readouterr().err
    assert contents(tmp_path) == before
    assert run(*argv, "--force") == 0
    assert (shown(target)[..., :3] == quantize(photo, 4).to_array()).all()


def test_no_result_is_written_over_what_another_is_made_of(photo, tmp_path, capsys):
    """Not even if that is forced: it would be read in its place."""
    for name in ("a.png", "a.bmp"):
        Image.fromarray(photo).save(tmp_path / name)
    before = contents(tmp_path)
    for option in ([], ["--force"]):
        assert run(tmp_path / "a.bmp", tmp_path / "a.png", "--out-dir", tmp_path, *option) == 1
        assert "which is read: name the result otherwise." in capsys.readouterr().err
    (tmp_path / "p.png").write_bytes(before["a.png"])
    assert run(tmp_path / "a.bmp", tmp_path / "p.png", "--palette", tmp_path / "p.png", "--force") == 1
    (tmp_path / "p.png").unlink()
    assert contents(tmp_path) == before


def test_two_results_in_one_file_only_if_that_is_forced(photo, tmp_path, capsys):
    for name, picture in (("a.bmp", photo), ("a.png", 255 - photo)):
        Image.fromarray(picture).save(tmp_path / name)
    argv = [tmp_path, "--out-dir", tmp_path / "out", "-k", "4"]
    assert run(*argv) == 1
    assert "would both be written" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
    assert run(*argv, "--force") == 0
    assert (shown(tmp_path / "out" / "a.png")[..., :3] == quantize(255 - photo, 4).to_array()).all(), "the last"


def test_what_would_be_no_smaller_is_not_written(photo, tmp_path, capsys):
    (tmp_path / "in").mkdir()
    first = tmp_path / "first.png"
    quantize(photo, 2).save(first)
    assert run(first, tmp_path / "in" / "small.png", "-k", "2") == 0
    capsys.readouterr()
    Image.fromarray(photo).save(tmp_path / "in" / "large.png")
    small, out = tmp_path / "in" / "small.png", tmp_path / "out.png"
    size = small.stat().st_size
    assert run(small, out, "-k", "2", "--skip-if-larger") == 98
    assert capsys.readouterr().err == f"gpukmeans: skipped: {small}: it would have {size:,} bytes, and has {size:,}\n"
    assert not out.exists()
    assert run(tmp_path / "in", "--out-dir", tmp_path / "out", "-k", "2", "--skip-if-larger", "--json") == 0
    said = capsys.readouterr()
    assert names(tmp_path / "out") == ["large.png"]
    lines = [json.loads(line) for line in said.out.splitlines()]
    assert [line["output"] is None for line in lines] == [False, True]
    assert said.err == "gpukmeans: 1 done, 1 skipped, 0 failed\n"


# ---------------------------------------------------------------- formats


def test_a_format_is_obeyed(source, tmp_path, capsys):
    assert run(source, tmp_path / "b.png", "-k", "4", "--format", "gif") == 0
    assert f"note: {tmp_path / 'b.png'} holds GIF, as --format says" in capsys.readouterr().err
    with Image.open(tmp_path / "b.png") as image:
        assert image.format == "GIF"
    for name, format in (("b.gif", "gif"), ("b", "webp"), ("b.tif", "tiff"), ("b.out", "png")):
        assert run(source, tmp_path / name, "-k", "4", "--format", format) == 0
        with Image.open(tmp_path / name) as image:
            assert image.format == format.upper()
    done = subprocess.run([*COMMAND, "-", "-", "--format", "gif"], input=source.read_bytes(), capture_output=True)
    with Image.open(io.BytesIO(done.stdout)) as image:
        assert image.format == "GIF"


@pytest.mark.parametrize("format", ["gif", "webp", "tif", "tiff", "WebP"])
def test_one_picture_without_a_name_for_the_result_goes_beside_it(format, source, tmp_path, capsys):
    assert run(source, "-k", "4", "--format", format) == 0
    assert names(tmp_path) == sorted(["a.png", f"a.{format.lower()}"])
    assert run(source, tmp_path / f"b.{format.lower()}", "-k", "4") == 0
    written = tmp_path / f"a.{format.lower()}"
    assert written.read_bytes() == (tmp_path / f"b.{format.lower()}").read_bytes()
    assert capsys.readouterr().err == ""
    written.write_bytes(b"somebody else's")
    assert run(source, "-k", "4", "--format", format) == 1
    assert f"{written} is there already: name the result, or say --force." in capsys.readouterr().err
    assert written.read_bytes() == b"somebody else's"
    assert run(source, "-k", "4", "--format", format, "--force") == 0
    assert written.read_bytes() == (tmp_path / f"b.{format.lower()}").read_bytes()


def test_without_a_name_nothing_is_written_over_and_no_folder_is_searched(source, tmp_path, capsys):
    before = source.read_bytes()
    assert run(source, "-k", "4", "--format", "png") == 1
    assert "would be written over itself" in capsys.readouterr().err
    assert source.read_bytes() == before
    assert run(tmp_path, "-k", "4", "--format", "png") == 1
    assert f"{tmp_path} is a folder: say --out-dir." in capsys.readouterr().err
    assert names(tmp_path) == ["a.png"]
    assert run(source, "-k", "4", "--format", "png", "--force") == 0
    assert source.read_bytes() != before


def test_a_dash_alone_is_standard_input_and_output(source):
    for more, format in ([], "PNG"), (["--format", "webp"], "WEBP"):
        done = subprocess.run([*COMMAND, "-", *more, "-k", "4"], input=source.read_bytes(), capture_output=True)
        assert (done.returncode, done.stderr) == (0, b"")
        with Image.open(io.BytesIO(done.stdout)) as image:
            assert image.format == format


# ---------------------------------------------------------------- folders

ENDINGS = ("png", "jpg", "jfif", "jp2", "tga", "ico", "bmp", "ppm", "webp", "avif", "tif", "gif", "pcx", "qoi", "icns")


def test_each_file_of_a_folder_is_done_or_named(photo, tmp_path, capsys):
    folder = tmp_path / "in"
    folder.mkdir()
    Image.init()
    written = [ending for ending in ENDINGS if f".{ending}" in Image.registered_extensions()]
    assert {"tga", "ico", "jp2", "jfif"} <= {*written}
    for ending in written:
        Image.fromarray(photo[:32, :32]).save(folder / f"{ending}.{ending.upper()}")
    (folder / "noend").write_bytes((folder / "jpg.JPG").read_bytes())
    (folder / "other.dat").write_bytes((folder / "png.PNG").read_bytes())
    (folder / "text.txt").write_text("no picture")
    (folder / "sub").mkdir()
    (folder / "damaged.png").write_bytes((folder / "png.PNG").read_bytes()[:60])
    assert run(folder, "--out-dir", tmp_path / "out", "-k", "4") == 3
    out, err = capsys.readouterr()
    done = [*written, "noend", "other"]
    assert names(tmp_path / "out") == sorted(f"{name}.png" for name in done)
    assert len(out.splitlines()) == len(done)
    assert f"skipped: {folder / 'text.txt'}: no picture" in err
    assert f"skipped: {folder / 'sub'}: a folder, which is not searched" in err
    assert err.count("damaged.png") == 1
    assert err.splitlines()[-1] == f"gpukmeans: {len(done)} done, 2 skipped, 1 failed"


# ---------------------------------------------------------------- soft edges in GIF


@pytest.mark.parametrize("options", [[], ["--matte", "#204060"], ["--alpha-threshold", "100"]])
def test_a_gif_has_soft_edges_over_a_matte_or_cut(options, soft, tmp_path, capsys):
    Image.fromarray(soft).save(tmp_path / "a.png")
    assert run(tmp_path / "a.png", tmp_path / "a.gif", "-k", "32", *options) == 0
    said = capsys.readouterr().err
    assert said.count("soft edges") == len(said.splitlines()) == 1
    alpha = soft[..., 3:].astype(float) / 255
    ground = np.array([0x20, 0x40, 0x60]) if "#204060" in options else 255
    flat = soft[..., :3] * alpha + ground * (1 - alpha)
    opaque = soft[..., 3] >= 100 if "100" in options else soft[..., 3] > 0
    if "100" in options:
        flat = soft[..., :3]
    hard = np.where(opaque[..., None], np.dstack([np.floor(flat + 0.5), np.full(opaque.shape, 255)]), 0)
    found = shown(tmp_path / "a.gif")
    assert ((found[..., 3] > 0) == opaque).all()
    expected = quantize(hard.astype(np.uint8), 32).to_array()
    assert (found[opaque] == expected[opaque]).all()


def test_no_edge_is_touched_where_nobody_asks(soft, photo, tmp_path, capsys):
    Image.fromarray(soft).save(tmp_path / "a.png")
    Image.fromarray(photo).save(tmp_path / "b.png")
    assert run(tmp_path / "a.png", tmp_path / "c.png", "-k", "32") == 0
    assert run(tmp_path / "b.png", tmp_path / "c.gif", "-k", "32") == 0
    assert capsys.readouterr().err == ""
    assert (shown(tmp_path / "c.png") == quantize(soft, 32).to_array()).all()


# ---------------------------------------------------------------- bands


def bands_sources(photo, soft):
    import tifffile

    def saved(array, format, **options):
        buffer = io.BytesIO()
        Image.fromarray(array).save(buffer, format, **options)
        return buffer.getvalue()

    def tiff(array, **options):
        buffer = io.BytesIO()
        tifffile.imwrite(buffer, array, **options)
        return buffer.getvalue()

    gamma = bytearray(saved(photo, "PNG"))
    import zlib

    chunk = b"gAMA" + (100000).to_bytes(4, "big")
    gamma[33:33] = (4).to_bytes(4, "big") + chunk + zlib.crc32(chunk).to_bytes(4, "big")
    cmyk = io.BytesIO()
    Image.fromarray(photo).convert("CMYK").save(cmyk, "JPEG")
    clear = Image.fromarray(photo).quantize(9)
    indexed = io.BytesIO()
    clear.save(indexed, "PNG", transparency=3)
    exif = Image.Exif()
    exif[274] = 6
    return {
        "alpha.png": saved(soft, "PNG"),
        "alpha.webp": saved(soft, "WEBP", lossless=True),
        "alpha.tif": saved(soft, "TIFF"),
        "gamma.png": bytes(gamma),
        "cmyk.jpg": cmyk.getvalue(),
        "cmyk.tif": tiff(np.dstack([photo, photo[..., :1]]), photometric="separated"),
        "indexed.png": indexed.getvalue(),
        "deep.tif": tiff(photo.astype(np.uint16) * 199, photometric="rgb"),
        "grey16.tif": tiff(photo[..., 0].astype(np.uint16) * 199, byteorder=">"),
        "white is zero.tif": tiff(photo[..., 0].copy(), photometric="miniswhite"),
        "float.tif": tiff(photo.astype(np.float32) / 255, photometric="rgb"),
        "turned.tif": tiff(photo, photometric="rgb", extratags=[(274, 3, 1, 6, True)]),
        "turned.jpg": saved(photo, "JPEG", exif=exif),
        "plain.jpg": saved(photo, "JPEG", quality=95),
        "bilevel.png": saved(photo[..., 0] > 99, "PNG"),
    }


@pytest.mark.parametrize("name", [*bands_sources(np.zeros((9, 9, 3), np.uint8), np.zeros((9, 9, 4), np.uint8))])
def test_bands_give_what_the_whole_picture_gives(name, photo, soft, tmp_path, capsys):
    (tmp_path / name).write_bytes(bands_sources(photo, soft)[name])
    said = []
    for target, options in (("whole.tif", []), ("bands.tif", ["--bands"])):
        assert run(tmp_path / name, tmp_path / target, "-k", "40", "--json", *options) == 0
        said.append(json.loads(capsys.readouterr().out))
    with Image.open(tmp_path / "whole.tif") as one, Image.open(tmp_path / "bands.tif") as other:
        assert one.mode == other.mode
        assert one.info.get("icc_profile") == other.info.get("icc_profile")
    assert (shown(tmp_path / "whole.tif") == shown(tmp_path / "bands.tif")).all()
    assert said[0]["palette"] == said[1]["palette"]


# ---------------------------------------------------------------- colors that stay, quality, size


def test_kept_colors_come_first_and_the_others_around_them(source, photo, tmp_path, capsys):
    (tmp_path / "brand.hex").write_text("ff8000\n00ff00\n")
    keep = ["--keep", "#fff", "--keep", tmp_path / "brand.hex", "--keep", "000"]
    assert run(source, tmp_path / "b.png", "-k", "12", "--json", *keep) == 0
    palette = json.loads(capsys.readouterr().out)["palette"]
    assert palette[:4] == ["#ffffff", "#ff8000", "#00ff00", "#000000"]
    assert len(palette) == 12
    kept = np.array([[255] * 3, [255, 128, 0], [0, 255, 0], [0] * 3], np.uint8)
    expected = quantize(photo, 12, keep=kept)
    assert (shown(tmp_path / "b.png")[..., :3] == expected.to_array()).all()
    assert expected.converged
    assert expected.psnr > quantize(photo, 8).psnr - 0.3, "what is kept costs no more than its colors"
    assert run(source, tmp_path / "c.png", "-k", "3", *keep) == 1
    assert "more than the 3 of -k" in capsys.readouterr().err
    assert run(source, tmp_path / "c.png", "--keep", "red") == 1
    assert "a color is written like #ff8000, got 'red'" in capsys.readouterr().err


@pytest.mark.parametrize("space", ["rgb", "oklab"])
@pytest.mark.parametrize("kind", ["color", "grey", "soft", "deep", "few"])
def test_kept_colors_stay_in_pictures_of_any_kind(kind, space, photo, soft):
    picture = {"color": photo, "grey": photo[..., 0], "soft": soft, "few": photo // 128 * 128}.get(kind)
    if picture is None:
        picture = photo.astype(np.uint16) * 250
    keep = np.array([[1, 2, 3], [128, 128, 128]], np.uint8)
    result = quantize(picture, 9, keep=keep, space=space)
    top = 257 if result.palette.dtype == np.uint16 else 1
    assert (result.palette[:2, :3] == keep.astype(int) * top).all()
    assert len(result.palette) <= 9
    seen = np.unique(result.indices)
    assert {*range(2, len(result.palette))} <= {*seen.tolist()}, "the others are in use"
    if kind == "soft":
        assert (result.to_array()[soft[..., 3] == 0, 3] == 0).all()
        assert (result.to_array()[soft[..., 3] == 255, 3] > 0).all()


@pytest.mark.parametrize(
    "keep", [[[1, 2]], [[1.0, 2, 3]], [[1, 2, 3]] * 2, np.zeros((0, 3), np.uint8), [[i] * 3 for i in range(9)]]
)
def test_what_cannot_be_kept_is_refused(keep, photo):
    array = (
        np.asarray(keep)
        if isinstance(np.ravel(keep)[:1].tolist()[:1], list) and np.asarray(keep).dtype.kind == "f"
        else np.asarray(keep, np.uint8)
    )
    with pytest.raises(ValueError, match="keep"):
        quantize(photo, 8, keep=array)


def test_the_fewest_colors_that_reach_a_quality(source, photo, tmp_path, capsys):
    assert run(source, tmp_path / "b.png", "--quality", "0-70", "--json") == 0
    said = json.loads(capsys.readouterr().out)
    assert said["psnr"] >= psnr_of(70)
    assert quantize(photo, said["colors"] - 1).psnr < psnr_of(70)
    assert run(source, tmp_path / "c.png", "--quality", "90-100", "-k", "4") == 99
    assert "a quality of 90 asks for 35.00" in capsys.readouterr().err
    assert not (tmp_path / "c.png").exists()
    assert run(source, tmp_path / "c.png", "--quality", "10-100", "-k", "4", "--json") == 0
    assert json.loads(capsys.readouterr().out)["colors"] == 4


def test_the_most_colors_of_a_size(source, photo, tmp_path, capsys):
    quantize(photo, 20).save(tmp_path / "twenty.png")
    most = (tmp_path / "twenty.png").stat().st_size
    assert run(source, tmp_path / "b.png", "--max-bytes", most, "--json") == 0
    said = json.loads(capsys.readouterr().out)
    assert said["bytes"] <= most
    quantize(photo, said["colors"] + 1).save(tmp_path / "more.png")
    assert (tmp_path / "more.png").stat().st_size > most
    assert run(source, tmp_path / "c.png", "--max-bytes", "20") == 1
    assert "--max-bytes asks for 20" in capsys.readouterr().err
    assert not (tmp_path / "c.png").exists()


@pytest.mark.parametrize(
    "argv",
    [
        ["--quality", "90-80"],
        ["--quality", "x"],
        ["--quality", "0-101"],
        ["--max-bytes", "0"],
        ["--matte", "white"],
        ["--alpha-threshold", "0"],
        ["--alpha-threshold", "256"],
        ["--page", "0"],
        ["--range", "1", "1"],
        ["--keep", "#fff", "--palette", "p.hex"],
        ["--palette-per-frame", "--compare"],
    ],
)
def test_usage_errors(argv, capsys):
    with pytest.raises(SystemExit) as exit:
        run("a.png", "b.png", *argv)
    assert exit.value.code == 2
    assert capsys.readouterr().err.startswith("usage: gpukmeans quantize")


def test_each_option_is_in_the_help_and_in_the_documents(capsys):
    from gpukmeans.cli import main as command

    parser = command._parser("quantize")[1].choices["quantize"]
    text = parser.format_help()
    documents = "".join((Path(__file__).parent.parent / name).read_text() for name in ("README.md", "docs/pictures.md"))
    for action in parser._actions:
        for name in action.option_strings:
            assert name in text
            assert name.startswith("-h") or name == "--help" or name in documents, name
