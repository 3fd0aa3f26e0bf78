"""Palettes as programs exchange them: Adobe's ACT and ASE, Microsoft's and JASC's PAL, in bytes."""

from __future__ import annotations

import struct

import numpy as np
from numpy.typing import NDArray

from gpukmeans.image.picture import ImageError

Colors = NDArray[np.uint8]  # (k, 3) or (k, 4)

# ASE's kinds of blocks: one color. Others begin and end groups of them.
_COLOR = 1


def read_act(data: bytes, name: str) -> Colors:
    """256 colors, and perhaps how many count and which is transparent."""
    if len(data) not in (768, 772):
        raise ImageError(f"{name} is no ACT palette: these have 768 or 772 bytes, it has {len(data):,}.")
    colors = np.frombuffer(data[:768], np.uint8).reshape(-1, 3)
    if len(data) == 768:
        return colors.copy()
    count, clear = struct.unpack(">HH", data[768:])
    colors = colors[: count if 0 < count <= 256 else 256]
    if clear >= len(colors):
        return colors.copy()
    alpha = np.where(np.arange(len(colors)) == clear, 0, 255).astype(np.uint8)
    return np.concatenate([np.where(alpha[:, None] > 0, colors, 0), alpha[:, None]], axis=1).astype(np.uint8)


def write_act(colors: Colors) -> bytes:
    """The first transparent color is the one; ImageError for more than 256."""
    if len(colors) > 256:
        raise ImageError(
            f"an ACT palette holds at most 256 colors, not {len(colors):,}: write .gpl, .hex, .ase or .pal."
        )
    clear = colors.shape[1] == 4 and not colors[:, 3].all()
    transparent = int(colors[:, 3].argmin()) if clear else 0xFFFF
    return colors[:, :3].tobytes().ljust(768, b"\0") + struct.pack(">HH", len(colors), transparent)


def read_ase(data: bytes, name: str) -> Colors:
    """Its colors of red, green and blue, grey, or CMYK (by the plain formula), in their order."""
    if data[:4] != b"ASEF" or len(data) < 12:
        raise ImageError(f"{name} is no ASE palette: it does not begin with ASEF.")
    (blocks,) = struct.unpack_from(">I", data, 8)
    at, colors = 12, []
    try:
        for _ in range(min(blocks, len(data))):
            kind, size = struct.unpack_from(">HI", data, at)
            if kind == _COLOR:
                colors.append(_ase_color(data[at + 6 : at + 6 + size], name))
            at += 6 + size
    except struct.error:
        raise ImageError(f"{name} is a damaged ASE palette: it ends in the middle of a color.") from None
    return np.array(colors, np.uint8).reshape(-1, 3)


def _ase_color(block: bytes, name: str) -> list[int]:
    (letters,) = struct.unpack_from(">H", block)
    at = 2 + 2 * letters
    model = block[at : at + 4]
    channels = {b"RGB ": 3, b"CMYK": 4, b"Gray": 1, b"GRAY": 1}.get(model)
    if channels is None:
        shown = model.decode("ascii", "replace").strip()
        raise ImageError(f"{name} has colors in {shown}, which are not read: save them as RGB.")
    values = np.clip(np.nan_to_num(struct.unpack_from(f">{channels}f", block, at + 4)), 0, 1)
    if channels == 4:
        values = (1 - values[:3]) * (1 - values[3])
    return np.rint(np.broadcast_to(values, 3) * 255).astype(int).tolist()


def write_ase(colors: Colors) -> bytes:
    """Alpha is left out, which it cannot say."""
    blocks = []
    for color in colors[:, :3]:
        name = f"#{bytes(color).hex()}\0"
        body = struct.pack(">H", len(name)) + name.encode("utf-16-be") + b"RGB "
        body += struct.pack(">3fH", *(color / np.float64(255)).tolist(), 2)
        blocks.append(struct.pack(">HI", _COLOR, len(body)) + body)
    return b"ASEF" + struct.pack(">HHI", 1, 0, len(blocks)) + b"".join(blocks)


def read_pal(data: bytes, name: str) -> Colors:
    """Either of the two that end so."""
    if data[:4] == b"RIFF" and data[8:12] == b"PAL ":
        at = data.find(b"data", 12)
        if at < 0 or len(data) < at + 12:
            raise ImageError(f"{name} is a damaged PAL palette: it has no colors.")
        (count,) = struct.unpack_from("<H", data, at + 10)
        colors = np.frombuffer(data[at + 12 : at + 12 + 4 * count], np.uint8)
        if len(colors) < 4 * count:
            raise ImageError(f"{name} is a damaged PAL palette: it has {len(colors) // 4} of its {count} colors.")
        return colors.reshape(-1, 4)[:, :3].copy()
    lines = data.decode("utf-8-sig", errors="replace").split("\n")
    if lines[0].strip() != "JASC-PAL":
        raise ImageError(f"{name} is no PAL palette: it begins with neither RIFF nor JASC-PAL.")
    colors_found = []
    for number, line in enumerate(lines[3:], 4):
        words = line.split()
        if not words:
            continue
        if len(words) not in (3, 4) or not all(
            word.isdecimal() and len(word) < 4 and int(word) < 256 for word in words
        ):
            raise ImageError(f"{name}, line {number}: expected three numbers from 0 to 255, got {line.strip()[:40]!r}.")
        colors_found.append([int(word) for word in words[:3]])
    return np.array(colors_found, np.uint8).reshape(-1, 3)


def write_pal(colors: Colors) -> bytes:
    """JASC's, which others read, too; alpha is left out."""
    lines = ["JASC-PAL", "0100", str(len(colors)), *(" ".join(map(str, color)) for color in colors[:, :3].tolist())]
    return ("\r\n".join(lines) + "\r\n").encode()


def write_gpl(colors: Colors, name: str) -> bytes:
    """GIMP's; alpha is left out."""
    rows = [f"{r:3d} {g:3d} {b:3d}\t#{r:02x}{g:02x}{b:02x}" for r, g, b in colors[:, :3].tolist()]
    return "\n".join(["GIMP Palette", f"Name: {name}", "#", *rows, ""]).encode()


def write_hex(colors: Colors) -> bytes:
    """A color a line, with alpha if any is not opaque."""
    return "".join(f"{bytes(color).hex()}\n" for color in colors).encode()
