"""APNG: a PNG whose further pictures are frames."""

from __future__ import annotations

import io
import struct
import zlib
from fractions import Fraction
from typing import Any

import numpy as np

from gpukmeans.image.files.animation import Frames, ticks_of
from gpukmeans.image.files.pillow import to_pil
from gpukmeans.image.levels import MOST_FILE_COLORS
from gpukmeans.image.picture import Metadata


def animated(frames: Frames, times: tuple[float, ...], metadata: Metadata) -> bytes:
    t, height, width = frames.indices.shape
    out, number = io.BytesIO(), 0
    ticks = ticks_of(times, 1000)
    for i, (rows, columns) in frames.rectangles():
        options: dict[str, Any] = {} if metadata.rgb_profile is None else {"icc_profile": metadata.rgb_profile}
        if i == 0:
            rows, columns = slice(0, height), slice(0, width)
        if frames.shared and len(frames.palettes[0]) <= MOST_FILE_COLORS:
            part = to_pil(frames.indices[i, rows, columns], frames.palettes[i])
        else:  # there is one table for all
            from PIL import Image

            part = Image.fromarray(np.ascontiguousarray(frames.colors(i)[rows, columns]))
        chunks = _chunks(part, options)
        if i == 0:
            out.write(b"\x89PNG\r\n\x1a\n" + _chunk(b"IHDR", dict(chunks)[b"IHDR"]))
            out.write(_chunk(b"acTL", struct.pack(">II", t, metadata.plays)))
            for name, data in chunks:
                if name in (b"iCCP", b"PLTE", b"tRNS"):
                    out.write(_chunk(name, data))
        box = (columns.stop - columns.start, rows.stop - rows.start, columns.start, rows.start)
        out.write(_chunk(b"fcTL", struct.pack(">5IHHBB", number, *box, *_delay(ticks[i]), 0, 0)))
        number += 1
        for name, data in chunks:
            if name == b"IDAT":
                if i == 0:
                    out.write(_chunk(name, data))
                else:
                    out.write(_chunk(b"fdAT", struct.pack(">I", number) + data))
                    number += 1
    return out.getvalue() + _chunk(b"IEND", b"")


def _delay(milliseconds: int) -> tuple[int, int]:
    """As a fraction of a second of two 16-bit numbers."""
    exact = Fraction(milliseconds, 1000)
    return (exact.numerator, exact.denominator) if exact.numerator < 65536 else (min(milliseconds // 1000, 65535), 1)


def _chunks(image: Any, options: dict[str, Any]) -> list[tuple[bytes, bytes]]:
    """Of the PNG that Pillow writes: names and contents."""
    buffer = io.BytesIO()
    image.save(buffer, "PNG", **options)
    data, at, chunks = buffer.getvalue(), 8, []
    while at < len(data):
        (size,) = struct.unpack_from(">I", data, at)
        chunks.append((data[at + 4 : at + 8], data[at + 8 : at + 8 + size]))
        at += size + 12
    return chunks


def _chunk(name: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))
