"""Palettes in files, in and out, and the command that shows a picture's."""

from __future__ import annotations

import io
import json
import struct

import numpy as np
import pytest
from PIL import Image

from gpukmeans import ImageError, quantize
from gpukmeans.cli.main import main
from gpukmeans.image.files import palettes

COLORS = np.array([[255, 0, 0], [1, 2, 3], [250, 128, 64], [0, 0, 0], [9, 200, 77]], np.uint8)


def run(*argv):
    return main([*map(str, argv)])


@pytest.mark.parametrize("suffix", palettes.SUFFIXES)
def test_what_is_written_is_read(suffix, tmp_path):
    path = tmp_path / f"a{suffix}"
    path.write_bytes(palettes.encode(path, COLORS, np.array([0.5, 0.2, 0.1, 0.1, 0.1])))
    assert palettes.load(path).tolist() == COLORS.tolist()


@pytest.mark.parametrize("suffix", [".hex", ".act", ".png"])
def test_a_transparent_color_stays_so(suffix, tmp_path):
    colors = np.array([[0, 0, 0, 0], [9, 8, 7, 255], [255, 255, 255, 255]], np.uint8)
    path = tmp_path / f"a{suffix}"
    path.write_bytes(palettes.encode(path, colors, np.ones(3)))
    assert palettes.load(path).tolist() == colors.tolist()


def test_files_of_other_programs(tmp_path):
    """Written by hand, as their formats say."""
    riff = b"PAL data" + struct.pack("<IHH", 4 + 4 * 5, 0x300, 5) + b"".join(bytes([*c, 0]) for c in COLORS.tolist())
    files = {
        "riff.pal": b"RIFF" + struct.pack("<I", len(riff)) + riff,
        "jasc.pal": b"JASC-PAL\n0100\n5\n" + b"".join(b"%d %d %d\n" % tuple(c) for c in COLORS.tolist()),
        "plain.act": COLORS.tobytes() + bytes(768 - 15) + struct.pack(">HH", 5, 0xFFFF),
    }
    group = struct.pack(">HI", 0xC001, 6) + struct.pack(">H", 2) + "g\0".encode("utf-16-be")
    blocks = [group]
    for color in COLORS.tolist():
        body = (
            struct.pack(">H", 2)
            + "x\0".encode("utf-16-be")
            + b"RGB "
            + struct.pack(">3fH", *[v / 255 for v in color], 0)
        )
        blocks.append(struct.pack(">HI", 1, len(body)) + body)
    blocks.append(struct.pack(">HI", 0xC002, 0))
    files["a.ase"] = b"ASEF" + struct.pack(">HHI", 1, 0, len(blocks)) + b"".join(blocks)
    for name, data in files.items():
        (tmp_path / name).write_bytes(data)
        assert palettes.load(tmp_path / name).tolist() == COLORS.tolist(), name
    (tmp_path / "short.act").write_bytes(COLORS.tobytes().ljust(768, b"\0"))
    assert len(palettes.load(tmp_path / "short.act")) == 256


def test_other_models_of_color_in_an_ase(tmp_path):
    blocks = []
    for model, values in ((b"CMYK", (0, 1, 1, 0.5)), (b"Gray", (0.2,))):
        body = struct.pack(">H", 1) + b"\0\0" + model + struct.pack(f">{len(values)}fH", *values, 0)
        blocks.append(struct.pack(">HI", 1, len(body)) + body)
    (tmp_path / "a.ase").write_bytes(b"ASEF" + struct.pack(">HHI", 1, 0, 2) + b"".join(blocks))
    assert palettes.load(tmp_path / "a.ase").tolist() == [[128, 0, 0], [51, 51, 51]]


def test_a_picture_gives_its_colors(tmp_path):
    for suffix in ("png", "gif", "bmp", "tif", "webp"):
        Image.fromarray(COLORS[None]).save(tmp_path / f"a.{suffix}", **({"lossless": True} if suffix == "webp" else {}))
        found = {tuple(color[:3]) for color in palettes.load(tmp_path / f"a.{suffix}").tolist()}
        assert {tuple(color) for color in COLORS.tolist()} <= found


@pytest.mark.parametrize(
    ("name", "data", "said"),
    [
        ("a.act", bytes(700), "768 or 772 bytes, it has 700"),
        ("a.ase", b"text", "does not begin with ASEF"),
        ("a.ase", b"ASEF" + struct.pack(">HHI", 1, 0, 3) + b"\0\1\0", "ends in the middle of a color"),
        ("a.ase", b"ASEF\0\1\0\0\0\0\0\1\0\1\0\0\0\x14\0\1\0\0LAB " + bytes(14), "colors in LAB, which are not read"),
        ("a.ase", b"ASEF" + struct.pack(">HHI", 1, 0, 0), "holds 0 colors"),
        ("a.pal", b"text", "neither RIFF nor JASC-PAL"),
        ("a.pal", b"RIFF\0\0\0\0PAL data\0\0\0\0\0\3\xff\0", "0 of its 255 colors"),
        ("a.pal", b"RIFF\0\0\0\0PAL data", "it has no colors"),
        ("a.pal", b"JASC-PAL\n0100\n1\n1 2 300\n", "line 4: expected three numbers from 0 to 255, got '1 2 300'"),
    ],
)
def test_what_is_wrong_with_a_palette_is_said(name, data, said, tmp_path):
    (tmp_path / name).write_bytes(data)
    with pytest.raises(ImageError, match=said):
        palettes.load(tmp_path / name)


# ---------------------------------------------------------------- the command


@pytest.fixture
def source(china, tmp_path):
    Image.fromarray(np.ascontiguousarray(china[::5, ::5])).save(tmp_path / "a.png")
    return tmp_path / "a.png"


def test_colors_and_their_shares(source, capsys):
    assert run("palette", source, "-k", "5", "--json") == 0
    said = json.loads(capsys.readouterr().out)
    expected = quantize(source, 5)
    counts = np.bincount(expected.indices.reshape(-1))
    shares = {
        "#" + bytes(color).hex(): count / counts.sum() for color, count in zip(expected.palette, counts, strict=True)
    }
    assert {color["hex"]: color["share"] for color in said["colors"]} == {k: round(v, 6) for k, v in shares.items()}
    assert [color["share"] for color in said["colors"]] == sorted(
        (color["share"] for color in said["colors"]), reverse=True
    )
    assert run("palette", source, "-k", "5") == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines] == [color["hex"] for color in said["colors"]]
    assert lines[0].endswith("%")


def test_swatches_on_a_terminal(source, capsys, monkeypatch):
    import sys

    class Terminal(io.StringIO):
        encoding = "utf-8"

        def isatty(self):
            return True

    monkeypatch.setattr(sys, "stdout", Terminal())
    assert run("palette", source, "-k", "3") == 0
    color = sys.stdout.getvalue().split("m      ")[0].removeprefix("\x1b[48;2;").split(";")
    assert f"#{bytes(map(int, color)).hex()}" in sys.stdout.getvalue().splitlines()[0]


def test_each_kind_of_file_leads_back(source, tmp_path, capsys):
    outs = [word for suffix in palettes.SUFFIXES for word in ("--out", tmp_path / f"p{suffix}")]
    assert run("palette", source, "-k", "7", "--json", *outs) == 0
    colors = [color["hex"] for color in json.loads(capsys.readouterr().out)["colors"]]
    for suffix in palettes.SUFFIXES:
        assert ["#" + bytes(color).hex() for color in palettes.load(tmp_path / f"p{suffix}")] == colors
        assert run("quantize", source, tmp_path / "b.png", "--palette", tmp_path / f"p{suffix}") == 0
    with Image.open(tmp_path / "p.png") as strip:
        assert strip.size == (640, 96)
    capsys.readouterr()
    assert run("palette", source, "--out", tmp_path / "p.txt") == 1
    assert "has to end in .gpl, .hex, .act, .ase, .pal, .png" in capsys.readouterr().err
    assert run("palette", tmp_path / "none.png") == 1
    assert run("palette", source, "-k", "300", "--out", tmp_path / "many.act") == 1
    assert "at most 256 colors" in capsys.readouterr().err
    assert not (tmp_path / "many.act").exists()
