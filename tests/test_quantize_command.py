"""The command gpukmeans quantize: what it writes, and that nothing given to it ends in a traceback or half a file."""

from __future__ import annotations

import io
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from gpukmeans import quantize, remap
from gpukmeans.cli.main import main
from gpukmeans.image.files import read

COMMAND = [sys.executable, "-m", "gpukmeans", "quantize"]


@pytest.fixture(scope="module")
def picture(china):
    return np.ascontiguousarray(china[::5, ::5])


@pytest.fixture
def source(picture, tmp_path):
    Image.fromarray(picture).save(tmp_path / "in.png")
    return tmp_path / "in.png"


def run(*argv):
    return main(["quantize", *map(str, argv)])


def colors(path):
    with Image.open(path) as image:
        return np.asarray(image.convert("RGB"))


def names(folder):
    return sorted(path.name for path in folder.iterdir())


# ---------------------------------------------------------------- what it writes


def test_a_file(source, tmp_path, capsys):
    assert run(source, tmp_path / "out.png", "-k", "16", "--seed", "3") == 0
    expected = quantize(source, 16, random_state=3)
    assert (colors(tmp_path / "out.png") == expected.to_array()).all()
    out, err = capsys.readouterr()
    size = (tmp_path / "out.png").stat().st_size
    assert out == f"{source} -> {tmp_path / 'out.png'}: 16 colors, PSNR {expected.psnr:.2f} dB, {size:,} bytes\n"
    assert err == ""


def test_options(source, tmp_path):
    options = ["-k", "9", "--space", "rgb", "--dither", "floyd-steinberg", "--device", "cpu"]
    assert run(source, tmp_path / "out.gif", *options) == 0
    expected = quantize(source, 9, space="rgb", dither="floyd-steinberg")
    assert (colors(tmp_path / "out.gif") == expected.to_array()).all()


def test_json(source, tmp_path, capsys):
    assert run(source, tmp_path / "out.png", "-k", "5", "--json") == 0
    said = json.loads(capsys.readouterr().out)
    expected = quantize(source, 5)
    assert said["psnr"] == expected.psnr
    assert (said["input"], said["output"]) == (str(source), str(tmp_path / "out.png"))
    assert (said["width"], said["height"], said["colors"]) == (128, 86, 5)
    assert said["palette"] == ["#" + bytes(color).hex() for color in expected.palette]
    assert said["bytes"] == (tmp_path / "out.png").stat().st_size
    assert said["converged"] is True
    assert said["lossless"] is False
    assert run(source, tmp_path / "out.png", "-k", "65536", "--json") == 0
    said = json.loads(capsys.readouterr().out)
    assert said["lossless"] is True
    assert said["psnr"] is None


def test_pipes(source, picture):
    done = subprocess.run([*COMMAND, "-", "-", "-k", "7"], input=source.read_bytes(), capture_output=True)
    assert (done.returncode, done.stderr) == (0, b"")
    assert (colors(io.BytesIO(done.stdout)) == quantize(picture, 7).to_array()).all()
    done = subprocess.run([*COMMAND, "-", "-"], input=b"nothing", capture_output=True, text=False)
    assert (done.returncode, done.stdout) == (1, b"")
    assert done.stderr.decode().startswith("gpukmeans: error: ")


def test_many_files_and_folders(picture, tmp_path, capsys):
    folder = tmp_path / "folder"
    folder.mkdir()
    for name in ("b.png", "a.bmp"):
        Image.fromarray(picture).save(folder / name)
    np.save(folder / "c.npy", picture[..., 0])
    (folder / "notes.txt").write_text("not looked at")
    Image.fromarray(255 - picture).save(tmp_path / "d.png")
    assert run(folder, tmp_path / "d.png", "--out-dir", tmp_path / "new" / "out", "-k", "4", "--format", "gif") == 0
    assert names(tmp_path / "new" / "out") == ["a.gif", "b.gif", "c.gif", "d.gif"]
    assert len(capsys.readouterr().out.splitlines()) == 4
    assert (colors(tmp_path / "new" / "out" / "d.gif") == quantize(255 - picture, 4).to_array()).all()


def test_shared_palette(picture, tmp_path):
    """That of the frames side by side."""
    frames = [picture, np.roll(picture, 30, axis=1) // 2, np.repeat(picture[..., :1], 3, axis=2)]
    for i, frame in enumerate(frames):
        Image.fromarray(frame).save(tmp_path / f"{i}.png")
    files = [tmp_path / f"{i}.png" for i in range(3)]
    assert run(*files, "--out-dir", tmp_path / "out", "--shared-palette", "-k", "12") == 0
    together = quantize(np.concatenate(frames), 12)
    for i, part in enumerate(np.split(together.to_array(), 3)):
        assert (colors(tmp_path / "out" / f"{i}.png") == part).all()


def test_a_given_palette(source, tmp_path):
    (tmp_path / "p.hex").write_text("000000\nffffff\nff0000\n808080\n")
    assert run(source, tmp_path / "out.png", "--palette", tmp_path / "p.hex", "--dither", "bayer") == 0
    given = np.array([[0] * 3, [255] * 3, [255, 0, 0], [128] * 3], np.uint8)
    assert (colors(tmp_path / "out.png") == remap(source, given, dither="bayer").to_array()).all()


def test_compare(source, picture, tmp_path):
    assert run(source, tmp_path / "out.png", "-k", "6", "--compare") == 0
    assert names(tmp_path) == ["in.png", "out-compare.png", "out.png"]
    found = colors(tmp_path / "out-compare.png")
    height, width = picture.shape[:2]
    assert (found[:height, :width] == picture).all()
    assert (found[:height, -width:] == colors(tmp_path / "out.png")).all()
    strip = np.unique(found[-1], axis=0)
    assert (strip == np.unique(quantize(source, 6).palette, axis=0)).all()


def test_in_bands(source, tmp_path, capsys):
    assert run(source, tmp_path / "out.tif", "-k", "8", "--bands", "--json") == 0
    assert (colors(tmp_path / "out.tif") == quantize(source, 8).to_array()).all()
    assert json.loads(capsys.readouterr().out)["psnr"] == quantize(source, 8).psnr


def test_what_does_not_fit_into_memory_is_read_in_bands_if_it_can_be(source, picture, tmp_path, monkeypatch, capsys):
    """From a file into a .tif; or it is said why not."""
    monkeypatch.setattr(read, "MOST_PIXELS", picture.shape[0] * picture.shape[1] - 1)
    assert run(source, tmp_path / "out.tif", "-k", "9") == 0
    assert (colors(tmp_path / "out.tif") == quantize(picture, 9).to_array()).all()
    capsys.readouterr()
    assert "more than" in failure(capsys, source, tmp_path / "out.png")
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(source.read_bytes())))
    assert "more than" in failure(capsys, "-", tmp_path / "other.tif")
    assert names(tmp_path) == ["in.png", "out.tif"]


# ---------------------------------------------------------------- how it fails


def failure(capsys, *argv):
    assert run(*argv) == 1
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 1, lines
    return lines[0].removeprefix("gpukmeans: error: ")


def test_what_cannot_be_read(source, tmp_path, capsys):
    out = tmp_path / "out.png"
    assert failure(capsys, tmp_path / "none.png", out) == f"{tmp_path / 'none.png'}: No such file or directory"
    (tmp_path / "text.png").write_text("text")
    assert "is not an image" in failure(capsys, tmp_path / "text.png", out)
    (tmp_path / "half.png").write_bytes(source.read_bytes()[:4000])
    assert "damaged" in failure(capsys, tmp_path / "half.png", out)
    (tmp_path / "bad.npy").write_bytes(b"\x93NUMPY\x01\x00")
    assert "bad.npy" in failure(capsys, tmp_path / "bad.npy", out)
    np.save(tmp_path / "shape.npy", np.zeros((2, 3, 4, 5)))
    assert "shape" in failure(capsys, tmp_path / "shape.npy", out)
    (tmp_path / "empty").mkdir()
    assert "holds no pictures" in failure(capsys, tmp_path / "empty", "--out-dir", tmp_path / "new")
    assert "Is a directory" in failure(capsys, tmp_path / "empty", out)
    assert not out.exists()
    assert not (tmp_path / "new").exists()


def test_what_cannot_be_written(source, tmp_path, capsys):
    assert "has to end in" in failure(capsys, source, tmp_path / "out.jpg")
    assert "No such file" in failure(capsys, source, tmp_path / "none" / "out.png")
    assert "Not a directory" in failure(capsys, source, source / "out.png")
    assert str(source) in failure(capsys, source, "--out-dir", source)
    assert "256 colors" in failure(capsys, source, tmp_path / "out.gif", "-k", "300")
    (tmp_path / "folder.png").mkdir()
    assert "folder.png" in failure(capsys, source, tmp_path / "folder.png")
    assert names(tmp_path) == ["folder.png", "in.png"]


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="no /dev/full")
def test_a_full_disk(source, capsys):
    before = os.stat("/dev/full")
    assert failure(capsys, source, "/dev/full") == "cannot write /dev/full: No space left on device"
    link = source.with_name("full.png")
    link.symlink_to("/dev/full")
    assert failure(capsys, source, link) == f"cannot write {link}: No space left on device"
    assert os.stat("/dev/full").st_rdev == before.st_rdev, "it is still there"
    with open("/dev/full", "wb") as full:
        done = subprocess.run([*COMMAND, source, "-"], stdout=full, stderr=subprocess.PIPE, text=True)
    assert done.returncode == 1
    assert "No space left on device" in done.stderr
    assert "Traceback" not in done.stderr


def test_the_others_are_done_all_the_same(source, picture, tmp_path, capsys):
    (tmp_path / "bad.png").write_text("bad")
    for option in ([], ["--shared-palette"]):
        out = tmp_path / f"out{len(option)}"
        assert run(tmp_path / "bad.png", source, "--out-dir", out, *option) == 3
        assert names(out) == ["in.png"]
        out_text, err = capsys.readouterr()
        assert err.count("bad.png") == 1
        assert len(out_text.splitlines()) == 1
    assert "no picture to take" in failure_of_all(tmp_path, capsys)


def failure_of_all(tmp_path, capsys):
    assert run(tmp_path / "bad.png", "--out-dir", tmp_path / "none", "--shared-palette") == 1
    return capsys.readouterr().err


def test_two_into_one(source, picture, tmp_path, capsys):
    Image.fromarray(picture).save(tmp_path / "in.bmp")
    assert "would both be written" in failure(capsys, source, tmp_path / "in.bmp", "--out-dir", tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("argv", "over"),
    [
        (["x-compare.png", "x.png"], "x-compare.png"),
        (["x-compare.png", "x.gif"], "x-compare.png"),
        (["x.png", "x-compare.png", "--out-dir", ".", "--format", "gif"], "x-compare.png"),
        (["y.png", "x.png", "--palette", "x-compare.png"], "x-compare.png"),
        (["y.png", "link.png"], "y.png"),
    ],
)
def test_a_comparison_is_not_written_over_what_is_read(argv, over, picture, tmp_path, monkeypatch, capsys):
    """Its own picture, another one, the palette, or one of them under another name; nothing is written then."""
    monkeypatch.chdir(tmp_path)
    for name in ("x.png", "x-compare.png", "y.png"):
        Image.fromarray(picture[:9, :9]).save(name)
    Path("link-compare.png").symlink_to("y.png")
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    assert f"would be written over {over}, which is read" in failure(capsys, *argv, "--compare")
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before


def test_a_comparison_is_not_written_over_another_result(picture, tmp_path, capsys):
    for name in ("x.png", "x-compare.png"):
        Image.fromarray(picture[:9, :9]).save(tmp_path / name)
    files = [tmp_path / "x.png", tmp_path / "x-compare.png"]
    for argv in (files, files[::-1]):
        said = failure(capsys, *argv, "--out-dir", tmp_path / "out", "--compare")
        assert "would both be written to" in said
        assert "the comparison of" in said
    assert names(tmp_path) == ["x-compare.png", "x.png"]
    assert run(*files, "--out-dir", tmp_path / "out", "-k", "2") == 0
    assert run(files[0], tmp_path / "out" / "x.png", "--compare", "-k", "2") == 0, "an earlier run's may be replaced"


def test_two_names_of_one_target(picture, tmp_path, capsys):
    """The one is a link to the other."""
    for name in ("x.png", "y.png"):
        Image.fromarray(picture[:9, :9]).save(tmp_path / name)
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "y.png").symlink_to("x.png")
    said = failure(capsys, tmp_path / "x.png", tmp_path / "y.png", "--out-dir", tmp_path / "out")
    assert "would both be written" in said
    assert names(tmp_path / "out") == ["y.png"]


@pytest.mark.skipif(os.name != "posix", reason="modes are POSIX'")
def test_a_picture_that_others_may_not_read_stays_so(source):
    source.chmod(0o600)
    for target, options in ((source, []), (source.with_name("a.tif"), ["--bands"])):
        target.touch()
        target.chmod(0o600)
        assert run(source, target, "-k", "3", "--force", *options) == 0
        assert target.stat().st_mode & 0o777 == 0o600


@pytest.mark.parametrize(
    ("name", "text", "said"),
    [
        (
            "p.gpl",
            f"GIMP Palette\n1 2 3\n{'9' * 5000} 0 0\n",
            "line 3: expected three numbers from 0 to 255, got '9999",
        ),
        ("p.gpl", f"GIMP Palette\n1 2 3\n1 2 {'0' * 5000}300\n", "line 3: expected three numbers from 0 to 255"),
        ("p.gpl", "GIMP Palette\n1 2\n", "line 2: expected three numbers from 0 to 255, got '1 2'"),
        ("p.gpl", "GIMP Palette\n\n1 2 -3\n", "line 3: expected three numbers from 0 to 255, got '1 2 -3'"),
        ("p.gpl", "GIMP Palette\n\u0661 2 3\n", "line 2: expected three numbers from 0 to 255"),
        ("p.gpl", "GIMP Palette\n1 2 3 a\fb\n4 5\n", "line 3: expected three numbers from 0 to 255, got '4 5'"),
        ("p.gpl", "1 2 3\n", "line 1: a GIMP palette begins with the line 'GIMP Palette'"),
        ("p.gpl", "", "line 1: a GIMP palette begins with the line 'GIMP Palette'"),
        ("p.gpl", "GIMP Palette\n", "holds 0 colors"),
        ("p.hex", "", "holds 0 colors"),
        ("p.hex", "ff0000\n" + "1" * 5000, "line 2: expected a color like ff8000 or ff8000ff, got '1111"),
        ("p.hex", "ff0000\n\nff00\n", "line 3: expected a color like ff8000 or ff8000ff, got 'ff00'"),
        ("p.hex", "00" * 2**23 + "\n", "more than 16,777,216 bytes"),
        ("p.hex", "ff0000\n" * 65537, "holds 65,537 colors"),
        ("p.png", "text", "is not an image"),
    ],
)
def test_what_is_wrong_with_a_palette_is_said_with_file_and_line(name, text, said, source, tmp_path, capsys):
    (tmp_path / name).write_text(text, encoding="utf-8")
    told = failure(capsys, source, tmp_path / "out.png", "--palette", tmp_path / name)
    assert told.startswith(str(tmp_path / name))
    assert said in told
    assert len(told) < 300
    assert names(tmp_path) == ["in.png", name]


def test_leading_zeros_are_no_fault(source, tmp_path):
    (tmp_path / "p.gpl").write_text(f"GIMP Palette\n000 {'0' * 5000}7 255 name\r200 0 0")
    assert run(source, tmp_path / "out.png", "--palette", tmp_path / "p.gpl") == 0
    with Image.open(tmp_path / "out.png") as image:
        assert image.getpalette() == [0, 7, 255, 200, 0, 0]


@pytest.mark.parametrize(
    "argv",
    [
        ["in.png"],
        ["a.png", "b.png", "c.png"],
        ["a.png", "b.png", "-k", "0"],
        ["a.png", "b.png", "-k", "65537"],
        ["a.png", "b.png", "-k", "x"],
        ["a.png", "b.png", "--space", "lab"],
        ["a.png", "b.png", "--dither", "much"],
        ["a.png", "-", "--json"],
        ["-", "--out-dir", "out"],
        ["a.png", "b.png", "--palette", "p.hex", "--shared-palette"],
    ],
)
def test_usage_errors(argv, capsys):
    with pytest.raises(SystemExit) as exit:
        run(*argv)
    assert exit.value.code == 2
    assert capsys.readouterr().err.startswith("usage: gpukmeans quantize")


@pytest.mark.parametrize(("files", "got"), [(["a.png"], "one file"), (["a.png", "b.png", "c.png"], "3 files")])
def test_how_many_files_there_are_is_said_in_words(files, got, capsys):
    with pytest.raises(SystemExit):
        run(*files)
    assert capsys.readouterr().err.endswith(f"expected IN and OUT, IN with --format, or --out-dir, got {got}\n")


def test_device_and_palette_that_are_not_there(source, tmp_path, capsys):
    assert "'tpu'" in failure(capsys, source, tmp_path / "o.png", "--device", "tpu")
    assert "p.hex" in failure(capsys, source, tmp_path / "o.png", "--palette", tmp_path / "p.hex")
    assert names(tmp_path) == ["in.png"]


def test_without_pillow(source, tmp_path):
    program = (
        "import sys; sys.modules['PIL'] = None\n"
        "from gpukmeans.cli.main import main\n"
        f"sys.exit(main(['quantize', {str(source)!r}, {str(tmp_path / 'out.png')!r}]))"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (1, "")
    assert "pip install 'gpukmeans[image]'" in done.stderr
    assert len(done.stderr.splitlines()) == 1


# ---------------------------------------------------------------- mutated files

FORMATS = ["png", "jpg", "gif", "webp", "tif", "bmp", "ppm", "tga", "ico"]


@pytest.mark.parametrize("suffix", FORMATS)
def test_mutated_files_end_in_the_documented_error_or_in_a_result(suffix, picture, tmp_path, capsys):
    """Bytes changed, cut off and doubled: every file is quantized, or refused in one line."""
    rng = np.random.default_rng(FORMATS.index(suffix))
    Image.fromarray(picture[:24, :24]).save(tmp_path / f"whole.{suffix}")
    whole = np.frombuffer((tmp_path / f"whole.{suffix}").read_bytes(), np.uint8)
    source, target = tmp_path / f"in.{suffix}", tmp_path / "out.png"
    ends = set()
    for turn in range(60):
        data = whole.copy()
        # Heads are where the numbers are that sizes and offsets are computed from.
        reach = min(len(data), 100) if turn % 2 else len(data)
        for _ in range(rng.integers(1, 6)):
            data[rng.integers(reach)] = rng.choice([0, 255, 127, 128, rng.integers(256)])
        if turn % 5 == 0:
            data = data[: rng.integers(len(data))]
        if turn % 7 == 0:
            data = np.concatenate([data[: reach // 2], data])
        source.write_bytes(data.tobytes())
        target.unlink(missing_ok=True)
        status = run(source, target, "-k", "4")
        err = capsys.readouterr().err
        ends.add(status)
        if status == 0:
            assert colors(target).size
        else:
            assert status == 1
            assert re.fullmatch(r"gpukmeans: error: .+\n", err), err
            assert not target.exists()
        assert names(tmp_path) == sorted({source.name, f"whole.{suffix}", *(["out.png"] if status == 0 else [])})
    assert ends <= {0, 1}
    assert 1 in ends


def test_paths_are_told_as_they_were_given(source, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert run("in.png", "out.png", "-k", "2") == 0
    assert capsys.readouterr().out.startswith("in.png -> out.png: 2 colors")
    assert Path("out.png").exists()
