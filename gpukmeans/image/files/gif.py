"""GIF, a picture or an animation, of colors that are there already and one for what is transparent."""

from __future__ import annotations

import io
import struct
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from gpukmeans.image.files.animation import Frames, ticks_of
from gpukmeans.image.files.pillow import ORIENTATION, to_pil
from gpukmeans.image.levels import MOST_FILE_COLORS, to_rgba
from gpukmeans.image.picture import ImageError

if TYPE_CHECKING:
    from PIL.Image import Image


def still(indices: NDArray[Any], palette: NDArray[np.uint8], orientation: int | None) -> Image:
    """Turned as it is to be seen, since GIF cannot say so."""
    from PIL import ImageOps

    _check_number(palette)
    image = to_pil(indices, palette[:, :3])
    clear = _transparent(palette)
    if clear is not None:
        image.info["transparency"] = clear
    if orientation is not None:
        image.getexif()[ORIENTATION] = orientation
        image = ImageOps.exif_transpose(image)
    return image


def animated(frames: Frames, times: tuple[float, ...], plays: int) -> bytes:
    t, height, width = frames.indices.shape
    if max(height, width) > 65535:
        raise ImageError(f"GIF holds at most 65,535 x 65,535 pixels, not {width} x {height}.")
    out = io.BytesIO()
    table = _table(frames.palettes[0]) if frames.shared else b""
    packed = 0x80 | (len(table) // 3).bit_length() - 2 if table else 0
    out.write(b"GIF89a" + struct.pack("<HHBBB", width, height, 0x70 | packed, 0, 0) + table)
    if plays != 1:
        out.write(b"!\xff\x0bNETSCAPE2.0\x03\x01" + struct.pack("<H", min(max(plays - 1, 0), 65535)) + b"\0")
    ticks = ticks_of(times, 100)
    clear = [_transparent(palette) for palette in frames.palettes]
    shows = [to_rgba(frames.palettes[i])[frames.indices[i]][..., 3] > 0 for i in range(t)]
    # What is to become transparent has to be cleared away with the whole frame before it.
    cleared = [i + 1 < t and bool((shows[i] & ~shows[i + 1]).any()) for i in range(t)]
    whole = (slice(0, height), slice(0, width))
    for i, changed in frames.rectangles():
        rows, columns = whole if cleared[i] or (i > 0 and cleared[i - 1]) else changed
        part = to_pil(frames.indices[i, rows, columns], frames.palettes[i][:, :3])
        flags = (2 if cleared[i] else 1) << 2 | (clear[i] is not None)
        out.write(b"!\xf9\x04" + struct.pack("<BHBB", flags, min(ticks[i], 65535), clear[i] or 0, 0))
        own = b"" if frames.shared else _table(frames.palettes[i])
        packed = 0x80 | (len(own) // 3).bit_length() - 2 if own else 0
        box = (columns.start, rows.start, columns.stop - columns.start, rows.stop - rows.start)
        out.write(b"," + struct.pack("<4HB", *box, packed) + own + _data(part))
    return out.getvalue() + b";"


def _transparent(palette: NDArray[np.uint8]) -> int | None:
    return int(palette[:, 3].argmin()) if palette.shape[1] == 4 and not palette[:, 3].all() else None


def _check_number(palette: NDArray[np.uint8]) -> None:
    if len(palette) > MOST_FILE_COLORS:
        raise ImageError(
            f"GIF holds at most {MOST_FILE_COLORS} colors, one of them for what is transparent, not {len(palette)}: "
            "ask for fewer, or write PNG."
        )


def _table(palette: NDArray[np.uint8]) -> bytes:
    """Colors, as many as a power of two."""
    _check_number(palette)
    size = max(2, 1 << (len(palette) - 1).bit_length())
    return palette[:, :3].tobytes().ljust(3 * size, b"\0")


def _data(image: Any) -> bytes:
    """What follows the descriptor and its table, of the one picture of a GIF that Pillow writes."""
    buffer = io.BytesIO()
    image.save(buffer, "GIF", optimize=False, interlace=False)
    data = buffer.getvalue()
    at = 13 + (3 << (data[10] & 7) + 1 if data[10] & 0x80 else 0)
    while data[at] == 0x21:  # extensions, of blocks that begin with their size
        at += 2
        while data[at]:
            at += data[at] + 1
        at += 1
    table = data[at + 9]
    return data[at + 10 + (3 << (table & 7) + 1 if table & 0x80 else 0) : -1]
