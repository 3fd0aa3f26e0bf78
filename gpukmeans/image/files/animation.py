"""Animations of few colors: GIF, APNG and WebP, as many frames as there are, each for its own time.

Pillow encodes each frame's rectangle, and the containers are written here: Pillow itself leaves out frames that equal
the one before, and chooses palettes anew. A frame is the rectangle in which it differs from the one before.
"""

from __future__ import annotations

import io
import struct
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gpukmeans.image.files.pillow import to_pil
from gpukmeans.image.levels import MOST_FILE_COLORS, Levels, to_rgba
from gpukmeans.image.picture import ImageError, Metadata

FORMATS = ("GIF", "PNG", "WEBP")

# What a frame is shown for that says nothing, in milliseconds: as browsers do.
_USUAL = 100.0


@dataclass(frozen=True)
class Frames:
    """indices: (t, h, w). palettes: of each frame, (k, 3) or (k, 4) uint8; one for all is the same object."""

    indices: NDArray[Any]
    palettes: list[NDArray[np.uint8]]

    @property
    def shared(self) -> bool:
        return all(palette is self.palettes[0] for palette in self.palettes)

    def colors(self, i: int) -> Levels:
        """(h, w, 4)."""
        return to_rgba(self.palettes[i])[self.indices[i]]

    def rectangles(self) -> Iterator[tuple[int, tuple[slice, slice]]]:
        """Each frame, and where it differs from the one before; a single pixel if nowhere."""
        before: Levels | None = None
        for i in range(len(self.indices)):
            colors = self.colors(i)
            yield i, _rectangle(np.ones(colors.shape[:2], bool) if before is None else (colors != before).any(axis=-1))
            before = colors


def encode(format: str, frames: Frames, metadata: Metadata) -> bytes:
    """The whole file. ImageError for a format that holds no animations, or not so many colors."""
    if format not in FORMATS:
        raise ImageError(f"{format} holds no animation: write GIF, PNG or WebP, or choose a frame with --page.")
    times = metadata.durations or (_USUAL,) * len(frames.indices)
    if format == "GIF":
        return _gif(frames, times, metadata.plays)
    if format == "PNG":
        return _png(frames, times, metadata)
    return _webp(frames, times, metadata)


def _rectangle(changed: NDArray[np.bool_]) -> tuple[slice, slice]:
    rows, columns = np.flatnonzero(changed.any(axis=1)), np.flatnonzero(changed.any(axis=0))
    if len(rows) == 0:
        return slice(0, 1), slice(0, 1)
    return slice(int(rows[0]), int(rows[-1]) + 1), slice(int(columns[0]), int(columns[-1]) + 1)


def _ticks(times: tuple[float, ...], per_second: int) -> list[int]:
    """Durations in milliseconds as whole parts of a second, of which each frame begins at the nearest."""
    ends = np.rint(np.cumsum([0.0, *times]) * per_second / 1000).astype(int)
    return np.diff(ends).tolist()


# ---------------------------------------------------------------- GIF


def _gif(frames: Frames, times: tuple[float, ...], plays: int) -> bytes:
    t, height, width = frames.indices.shape
    if max(height, width) > 65535:
        raise ImageError(f"GIF holds at most 65,535 x 65,535 pixels, not {width} x {height}.")
    out = io.BytesIO()
    table = _gif_table(frames.palettes[0]) if frames.shared else b""
    packed = 0x80 | (len(table) // 3).bit_length() - 2 if table else 0
    out.write(b"GIF89a" + struct.pack("<HHBBB", width, height, 0x70 | packed, 0, 0) + table)
    if plays != 1:
        out.write(b"!\xff\x0bNETSCAPE2.0\x03\x01" + struct.pack("<H", min(max(plays - 1, 0), 65535)) + b"\0")
    ticks = _ticks(times, 100)
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
        own = b"" if frames.shared else _gif_table(frames.palettes[i])
        packed = 0x80 | (len(own) // 3).bit_length() - 2 if own else 0
        box = (columns.start, rows.start, columns.stop - columns.start, rows.stop - rows.start)
        out.write(b"," + struct.pack("<4HB", *box, packed) + own + _gif_data(part))
    return out.getvalue() + b";"


def _transparent(palette: NDArray[np.uint8]) -> int | None:
    return int(palette[:, 3].argmin()) if palette.shape[1] == 4 and not palette[:, 3].all() else None


def _gif_table(palette: NDArray[np.uint8]) -> bytes:
    """Colors, as many as a power of two."""
    if len(palette) > MOST_FILE_COLORS:
        raise ImageError(
            f"GIF holds at most {MOST_FILE_COLORS} colors, one of them for what is transparent, not {len(palette)}: "
            "ask for fewer, or write PNG."
        )
    size = max(2, 1 << (len(palette) - 1).bit_length())
    return palette[:, :3].tobytes().ljust(3 * size, b"\0")


def _gif_data(image: Any) -> bytes:
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


# ---------------------------------------------------------------- APNG


def _png(frames: Frames, times: tuple[float, ...], metadata: Metadata) -> bytes:
    t, height, width = frames.indices.shape
    out, number = io.BytesIO(), 0
    ticks = _ticks(times, 1000)
    for i, (rows, columns) in frames.rectangles():
        options: dict[str, Any] = {} if metadata.rgb_profile is None else {"icc_profile": metadata.rgb_profile}
        if i == 0:
            rows, columns = slice(0, height), slice(0, width)
        if frames.shared and len(frames.palettes[0]) <= MOST_FILE_COLORS:
            part = to_pil(frames.indices[i, rows, columns], frames.palettes[i])
        else:  # there is one table for all
            from PIL import Image

            part = Image.fromarray(np.ascontiguousarray(frames.colors(i)[rows, columns]))
        chunks = _png_chunks(part, options)
        if i == 0:
            out.write(b"\x89PNG\r\n\x1a\n" + _chunk(b"IHDR", dict(chunks)[b"IHDR"]))
            out.write(_chunk(b"acTL", struct.pack(">II", t, metadata.plays)))
            for name, data in chunks:
                if name in (b"iCCP", b"PLTE", b"tRNS"):
                    out.write(_chunk(name, data))
        box = (columns.stop - columns.start, rows.stop - rows.start, columns.start, rows.start)
        out.write(_chunk(b"fcTL", struct.pack(">5IHHBB", number, *box, *_png_delay(ticks[i]), 0, 0)))
        number += 1
        for name, data in chunks:
            if name == b"IDAT":
                if i == 0:
                    out.write(_chunk(name, data))
                else:
                    out.write(_chunk(b"fdAT", struct.pack(">I", number) + data))
                    number += 1
    return out.getvalue() + _chunk(b"IEND", b"")


def _png_delay(milliseconds: int) -> tuple[int, int]:
    """As a fraction of a second of two 16-bit numbers."""
    exact = Fraction(milliseconds, 1000)
    return (exact.numerator, exact.denominator) if exact.numerator < 65536 else (min(milliseconds // 1000, 65535), 1)


def _png_chunks(image: Any, options: dict[str, Any]) -> list[tuple[bytes, bytes]]:
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


# ---------------------------------------------------------------- WebP


def _webp(frames: Frames, times: tuple[float, ...], metadata: Metadata) -> bytes:
    from PIL import Image

    height, width = frames.indices.shape[1:]
    if max(height, width) > 16383:
        raise ImageError(f"WebP holds at most 16,383 x 16,383 pixels, not {width} x {height}.")
    ticks, parts = _ticks(times, 1000), []
    for i, (rows, columns) in frames.rectangles():
        # Corners are even there.
        rows, columns = slice(rows.start & ~1, rows.stop), slice(columns.start & ~1, columns.stop)
        buffer = io.BytesIO()
        colors = np.ascontiguousarray(frames.colors(i)[rows, columns])
        Image.fromarray(colors).save(buffer, "WEBP", lossless=True, exact=True)
        box = (columns.start // 2, rows.start // 2, columns.stop - columns.start - 1, rows.stop - rows.start - 1)
        head = b"".join(number.to_bytes(3, "little") for number in (*box, min(ticks[i], 2**24 - 1)))
        # 2: the rectangle takes the place of what was there, and is not blended with it.
        parts.append(_riff(b"ANMF", head + b"\2" + _webp_data(buffer.getvalue())))
    profile = metadata.rgb_profile
    alpha = any(palette.shape[1] == 4 for palette in frames.palettes)
    flags = 0x02 | 0x10 * alpha | 0x20 * (profile is not None)
    size = b"".join((number - 1).to_bytes(3, "little") for number in (width, height))
    body = _riff(b"VP8X", bytes([flags, 0, 0, 0]) + size)
    body += b"" if profile is None else _riff(b"ICCP", profile)
    body += _riff(b"ANIM", bytes(4) + struct.pack("<H", min(metadata.plays, 65535))) + b"".join(parts)
    return b"RIFF" + struct.pack("<I", len(body) + 4) + b"WEBP" + body


def _webp_data(data: bytes) -> bytes:
    """The chunk with the pixels, of a WebP without loss that Pillow writes."""
    at = 12
    while data[at : at + 4] != b"VP8L":
        at += 8 + (struct.unpack_from("<I", data, at + 4)[0] + 1 & ~1)
    return data[at : at + 8 + (struct.unpack_from("<I", data, at + 4)[0] + 1 & ~1)]


def _riff(name: bytes, data: bytes) -> bytes:
    return name + struct.pack("<I", len(data)) + data + b"\0" * (len(data) & 1)
