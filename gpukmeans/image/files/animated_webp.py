"""WebP of several frames, each without loss."""

from __future__ import annotations

import io
import struct

import numpy as np

from gpukmeans.image.files.animation import Frames, ticks_of
from gpukmeans.image.picture import ImageError, Metadata


def animated(frames: Frames, times: tuple[float, ...], metadata: Metadata) -> bytes:
    from PIL import Image

    height, width = frames.indices.shape[1:]
    if max(height, width) > 16383:
        raise ImageError(f"WebP holds at most 16,383 x 16,383 pixels, not {width} x {height}.")
    ticks, parts = ticks_of(times, 1000), []
    for i, (rows, columns) in frames.rectangles():
        # Corners are even there.
        rows, columns = slice(rows.start & ~1, rows.stop), slice(columns.start & ~1, columns.stop)
        buffer = io.BytesIO()
        colors = np.ascontiguousarray(frames.colors(i)[rows, columns])
        Image.fromarray(colors).save(buffer, "WEBP", lossless=True, exact=True)
        box = (columns.start // 2, rows.start // 2, columns.stop - columns.start - 1, rows.stop - rows.start - 1)
        head = b"".join(number.to_bytes(3, "little") for number in (*box, min(ticks[i], 2**24 - 1)))
        # 2: the rectangle takes the place of what was there, and is not blended with it.
        parts.append(_riff(b"ANMF", head + b"\2" + _pixels(buffer.getvalue())))
    profile = metadata.rgb_profile
    alpha = any(palette.shape[1] == 4 for palette in frames.palettes)
    flags = 0x02 | 0x10 * alpha | 0x20 * (profile is not None)
    size = b"".join((number - 1).to_bytes(3, "little") for number in (width, height))
    body = _riff(b"VP8X", bytes([flags, 0, 0, 0]) + size)
    body += b"" if profile is None else _riff(b"ICCP", profile)
    body += _riff(b"ANIM", bytes(4) + struct.pack("<H", min(metadata.plays, 65535))) + b"".join(parts)
    return b"RIFF" + struct.pack("<I", len(body) + 4) + b"WEBP" + body


def _pixels(data: bytes) -> bytes:
    """The chunk with the pixels, of a WebP without loss that Pillow writes."""
    at = 12
    while data[at : at + 4] != b"VP8L":
        at += 8 + (struct.unpack_from("<I", data, at + 4)[0] + 1 & ~1)
    return data[at : at + 8 + (struct.unpack_from("<I", data, at + 4)[0] + 1 & ~1)]


def _riff(name: bytes, data: bytes) -> bytes:
    return name + struct.pack("<I", len(data)) + data + b"\0" * (len(data) & 1)
