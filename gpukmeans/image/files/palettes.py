"""Palettes in files: GIMP's .gpl, .hex with a color a line, .act, .ase, .pal, and the colors of a picture."""

from __future__ import annotations

import io
import re
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from gpukmeans.image.files import palette_formats
from gpukmeans.image.files.pillow import from_pil, to_pil
from gpukmeans.image.files.read import decode
from gpukmeans.image.levels import MOST_COLORS, index_dtype, to_rgb, unpack
from gpukmeans.image.numpy.pixels import NumPyPixels
from gpukmeans.image.picture import ImageError, Picture

if TYPE_CHECKING:
    from PIL.Image import Image

# Of a text: 256 for each color.
_MOST_BYTES = 2**24

# What palettes end in, and what is written; of pictures that are read, too, there are more.
SUFFIXES = (".gpl", ".hex", ".act", ".ase", ".pal", ".png")
_PICTURES = (".png", ".gif", ".webp", ".tif", ".tiff", ".bmp", ".jpg", ".jpeg")


def load(path: str | Path) -> NDArray[np.uint8]:
    """The colors (k, 3), or (k, 4) with alpha, in the file's order.

    Raises ImageError for what is no such file, OSError for one that cannot be read.

    Examples
    --------
    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     _ = Path(folder, "two.hex").write_text("ff0000\\n#00ff00\\n")
    ...     load(Path(folder, "two.hex")).tolist()
    [[255, 0, 0], [0, 255, 0]]
    """
    binary = {".act": palette_formats.read_act, ".ase": palette_formats.read_ase, ".pal": palette_formats.read_pal}
    readers = {".gpl": _gpl, ".hex": _hex, **dict.fromkeys(_PICTURES, _picture)}
    suffix = Path(path).suffix.lower()
    if suffix in binary:
        colors = binary[suffix](_bytes(Path(path)), str(path))
    elif suffix in readers:
        colors = readers[suffix](Path(path))
    else:
        names = ", ".join(dict.fromkeys([*SUFFIXES, *_PICTURES]))
        raise ImageError(f"{path} is no palette that can be read: the name has to end in {names}.")
    _check_size(path, len(colors))
    return colors


def encode(path: str | Path, colors: NDArray[np.uint8], shares: NDArray[np.float64]) -> bytes:
    """The bytes of a palette's file, by its name; colors (k, 3) or (k, 4). A .png shows a strip of them, each as wide
    as its share. ImageError for a name that asks for none, or for more colors than it holds.

    Examples
    --------
    >>> encode("a.hex", np.array([[255, 0, 0], [0, 255, 0]], np.uint8), np.array([0.5, 0.5]))
    b'ff0000\\n00ff00\\n'
    """
    suffix = Path(path).suffix.lower()
    if suffix == ".gpl":
        return palette_formats.write_gpl(colors, Path(path).stem)
    if suffix == ".png":
        return _strip(colors, shares)
    writers = {
        ".hex": palette_formats.write_hex,
        ".act": palette_formats.write_act,
        ".ase": palette_formats.write_ase,
        ".pal": palette_formats.write_pal,
    }
    if suffix not in writers:
        raise ImageError(f"cannot write {str(path)!r}: the name of a palette has to end in {', '.join(SUFFIXES)}.")
    return writers[suffix](colors)


def _strip(colors: NDArray[np.uint8], shares: NDArray[np.float64]) -> bytes:
    """A PNG of at least a pixel's width for each color; with a palette, up to 256 colors."""
    height, width = 96, max(640, 2 * len(colors))
    wide = 1 + np.floor(shares / shares.sum() * (width - len(colors))).astype(int)
    wide[0] += width - wide.sum()
    row = np.repeat(np.arange(len(colors)), wide)
    buffer = io.BytesIO()
    indices = np.broadcast_to(row, (height, width)).astype(index_dtype(len(colors)))
    to_pil(indices, colors).save(buffer, "PNG")
    return buffer.getvalue()


def _check_size(path: str | Path, colors: int) -> None:
    if not 0 < colors <= MOST_COLORS:
        raise ImageError(f"{path} holds {colors:,} colors; a palette has 1 to {MOST_COLORS:,}.")


def _bytes(path: Path) -> bytes:
    with open(path, "rb") as file:
        data = file.read(_MOST_BYTES + 1)
    if len(data) > _MOST_BYTES:
        raise ImageError(f"{path} is no palette: it has more than {_MOST_BYTES:,} bytes.")
    return data


def _lines(path: Path) -> list[tuple[int, str]]:
    """Numbered lines that are not empty. Names of colors may be in any encoding."""
    data = _bytes(path)
    lines = re.split(r"\r\n|\r|\n", data.decode("utf-8-sig", errors="replace"))
    return [(i, line.strip()) for i, line in enumerate(lines, 1) if line.strip()]


def _gpl(path: Path) -> NDArray[np.uint8]:
    lines = _lines(path)
    if not lines or lines[0][1] != "GIMP Palette":
        raise ImageError(f"{path}, line 1: a GIMP palette begins with the line 'GIMP Palette'.")
    colors = []
    for number, line in lines[1:]:
        if line.startswith("#") or re.match(r"(Name|Columns|Channels):", line):
            continue
        found = re.match(r"0*([0-9]{1,3})\s+0*([0-9]{1,3})\s+0*([0-9]{1,3})(\s|$)", line)
        levels = [int(level) for level in found.groups()[:3]] if found else [256]
        if max(levels) > 255:
            raise ImageError(f"{path}, line {number}: expected three numbers from 0 to 255, got {line[:40]!r}.")
        colors.append(levels)
    return np.array(colors, np.uint8).reshape(-1, 3)


def _hex(path: Path) -> NDArray[np.uint8]:
    colors: list[bytes] = []
    for number, line in _lines(path):
        if not re.fullmatch(r"#?([0-9a-fA-F]{6}|[0-9a-fA-F]{8})", line):
            raise ImageError(f"{path}, line {number}: expected a color like ff8000 or ff8000ff, got {line[:40]!r}.")
        colors.append(bytes.fromhex(line.lstrip("#")))
    if any(len(color) == 4 for color in colors):
        colors = [color.ljust(4, b"\xff") for color in colors]
    return np.array([list(color) for color in colors], np.uint8).reshape(len(colors), len(colors[0]) if colors else 3)


def _picture(path: Path) -> NDArray[np.uint8]:
    """The table of a palette picture; of any other its colors, in the order in which they first occur."""
    with open(path, "rb") as file:
        found = decode(file, str(path), lambda image: _table(image) if image.mode == "P" else from_pil(image))
    if not isinstance(found, Picture):
        return found
    if found.dtype != np.uint8:
        raise ImageError(f"{path} has more than 8 bits a channel, which no palette has.")
    return to_rgb(_in_order(path, found))


def _table(image: Image) -> NDArray[np.uint8]:
    """Of mode P."""
    mode = "RGBA" if image.has_transparency_data else "RGB"
    image.apply_transparency()
    return np.array(image.getpalette(mode), np.uint8).reshape(-1, len(mode))


def _in_order(path: Path, picture: Picture) -> NDArray[np.uint8]:
    """The picture's colors, in the order in which they first occur."""
    pixels = NumPyPixels(picture.levels.reshape(-1, picture.shape[2]))
    codes, _ = pixels.count()
    _check_size(path, len(codes))
    color_of_pixel = pixels.map(codes, np.arange(len(codes), dtype=np.int32), index_dtype(MOST_COLORS))
    seen, order = np.zeros(len(codes), bool), []
    for a in range(0, len(color_of_pixel), 2**20):
        found, first = np.unique(color_of_pixel[a : a + 2**20], return_index=True)
        order.append(found[np.argsort(first)])
        order[-1] = order[-1][~seen[order[-1]]]
        seen[found] = True
    return unpack(codes, picture.shape[2])[np.concatenate(order)]
