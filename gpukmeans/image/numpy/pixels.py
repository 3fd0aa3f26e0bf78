"""Pixels: where a picture's pixels live, and the work that grows with their number.

Everything else is done with the distinct colors and their counts (colors.py), of which a photograph has far fewer. A
color is known by its code: its bytes, in channel order, as one little-endian number. Codes order colors, the same
everywhere. A new device is one more class with these methods, and one more line in dispatch.py.
"""

# Counting comes first, although the engine merges equal rows too: that has to keep each row's place, and sorts 8 bytes
# a row where a code and no place need 4; and a table of labels maps pixels back faster than places do. What is shared
# is the meaning: colors with counts are rows with integer weights.

from __future__ import annotations

from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from gpukmeans import array_interop
from gpukmeans.engine.protocol import Samples
from gpukmeans.image.color_space import Levels
from gpukmeans.threads import run, thread_count

Codes = NDArray[Any]  # uint32 or uint64
Ints = NDArray[np.int64]

# Colors of up to three bytes are looked up in a table of all 2**24, larger codes by bisection.
TABLE_BYTES = 3

# Pixels at a time: 1 MB of codes, which one core sorts in its second-level cache.
_PIECE = 2**18


class Pixels(Protocol):
    """n pixels of c channels, uint8 or uint16, on one device. Answers of size n are on the host, or on the GPU that the
    pixels were on already; labels are taken in either place."""

    n: int

    def count(self) -> tuple[Any, Any]:
        """The distinct colors' codes (m,), ascending, and how many pixels have each, int64; on the device."""

    def map(self, codes: Any, labels: Any, dtype: Any) -> Any:
        """For each pixel the label of its color, labels (m,) being int32: (n,), in that dtype. codes are what `count`
        says, or more, ascending, in either place."""

    def dither(self, offsets: NDArray[np.int32], width: int, palette: Levels) -> NDArray[Any]:
        """For each pixel the color of the palette (k, c) nearest to its levels plus an offset: (n,).

        offsets (t, t, c) repeat over a picture of that width. Sums are cut to the range of levels; distances
        are exact, and the least index of the nearest is taken.
        """

    def error(self, palette: Levels, labels: NDArray[Any]) -> int:
        """The sum over pixels of |pixel - its color|^2, exactly; labels (n,) in palette (k, c)."""


def pack(pixels: Levels) -> Codes:
    """The codes (n,) of pixels (n, c).

    Examples
    --------
    >>> pack(np.array([[1, 0, 0], [0, 1, 0]], np.uint8)).tolist()
    [1, 256]
    """
    n, c = pixels.shape
    little = pixels.dtype.newbyteorder("<")
    padded = np.zeros((n, 4), little)
    padded[:, :c] = pixels
    return padded.view("<u4" if little.itemsize == 1 else "<u8")[:, 0].astype(f"u{4 * little.itemsize}", copy=False)


def unpack(codes: Codes, channels: int) -> Levels:
    """The colors (m, channels) of codes; 32-bit codes hold uint8, 64-bit ones uint16."""
    size = codes.dtype.itemsize
    colors = codes.astype(f"<u{size}", copy=False).view(f"<u{size // 4}").reshape(-1, 4)[:, :channels]
    return np.ascontiguousarray(colors, dtype=f"u{size // 4}")


def index_dtype(k: int) -> Any:
    """What holds the indices of k colors."""
    return np.uint8 if k <= 256 else np.uint16


class Tally:
    """Adds up counts of colors that come in parts. Colors of up to `TABLE_BYTES` take 128 MB at most."""

    def __init__(self, code_bytes: int) -> None:
        self._bytes = code_bytes
        self._parts: list[tuple[Codes, Ints]] = []
        self._table: Ints | None = None
        self._pending = 0

    def add(self, codes: Codes, counts: Ints) -> None:
        if self._table is not None:
            self._table[codes] += counts
            return
        self._parts.append((codes, counts))
        self._pending += len(codes)
        if len(self._parts) > 1 and self._pending > 2**21:
            if self._bytes <= TABLE_BYTES:
                self._table = np.zeros(2 ** (8 * self._bytes), np.int64)
                for part in self._parts:
                    self._table[part[0]] += part[1]
                self._parts = []
            elif self._pending > 2 * len(self._parts[0][0]):  # merge once the new ones are as many as the merged
                self._parts = [_merged(self._parts)]
                self._pending = len(self._parts[0][0])

    @property
    def empty(self) -> bool:
        return self._table is None and not self._parts

    def result(self) -> tuple[Codes, Ints]:
        """The distinct codes, ascending, and their counts."""
        if self._table is not None:
            codes = np.flatnonzero(self._table).astype(np.uint32)
            return codes, self._table[codes]
        return self._parts[0] if len(self._parts) == 1 else _merged(self._parts)


def _merged(parts: list[tuple[Codes, Ints]]) -> tuple[Codes, Ints]:
    codes, counts = (np.concatenate(pieces) for pieces in zip(*parts, strict=True))
    order = np.argsort(codes, kind="stable")
    codes = codes[order]
    starts = _starts(codes)
    return codes[starts], np.add.reduceat(counts[order], starts)


def _starts(codes: Codes) -> Ints:
    """Where each run of equal codes begins."""
    new = np.empty(len(codes), bool)
    new[0] = True
    np.not_equal(codes[1:], codes[:-1], out=new[1:])
    return np.flatnonzero(new)


class NumPyPixels:
    """pixels: (n, c), uint8 or uint16."""

    def __init__(self, pixels: Levels) -> None:
        self.n, self._channels = pixels.shape
        self._pixels = pixels
        self._bytes = self._channels * pixels.dtype.itemsize

    def _pieces(self, rows: int = _PIECE) -> list[slice]:
        return [slice(a, min(a + rows, self.n)) for a in range(0, self.n, rows)]

    def count(self) -> tuple[Codes, Ints]:
        def part(rows: slice) -> tuple[Codes, Ints]:
            codes = pack(self._pixels[rows])
            codes.sort()
            starts = _starts(codes)
            return codes[starts], np.diff(starts, append=len(codes))

        # A single sort of a small picture is faster than merging two.
        pieces = self._pieces(2 * _PIECE)
        tally = Tally(self._bytes)
        step = 16 * thread_count()
        for a in range(0, len(pieces), step):  # parts are added up before there are too many of them
            for codes, counts in run(part, pieces[a : a + step], thread_count()):
                tally.add(codes, counts)
        return tally.result()

    def map(self, codes: Any, labels: Any, dtype: Any) -> NDArray[Any]:
        codes, labels, result = array_interop.to_numpy(codes), array_interop.to_numpy(labels), np.empty(self.n, dtype)
        if self._bytes <= TABLE_BYTES:
            table = np.empty(2 ** (8 * self._bytes), dtype)
            table[codes] = labels
        else:
            labels = labels.astype(dtype)

        def part(rows: slice) -> None:
            own = pack(self._pixels[rows])
            result[rows] = table[own] if self._bytes <= TABLE_BYTES else labels[np.searchsorted(codes, own)]

        run(part, self._pieces(), thread_count())
        return result

    def dither(self, offsets: NDArray[np.int32], width: int, palette: Levels) -> NDArray[Any]:
        t, top = len(offsets), np.iinfo(self._pixels.dtype).max
        moved = np.empty_like(self._pixels)

        def part(rows: slice) -> None:
            row, column = np.divmod(np.arange(rows.start, rows.stop), width)
            levels = self._pixels[rows] + offsets[row % t, column % t]
            moved[rows] = np.clip(levels, 0, top)

        run(part, self._pieces(), thread_count())
        pixels = NumPyPixels(moved)
        codes, _ = pixels.count()
        return pixels.map(codes, nearest(unpack(codes, self._channels), palette), index_dtype(len(palette)))

    def error(self, palette: Levels, labels: NDArray[Any]) -> int:
        def part(rows: slice) -> int:
            steps = self._pixels[rows].astype(np.int64)
            steps -= palette[labels[rows]]
            steps *= steps
            return int(steps.sum())

        return sum(run(part, self._pieces(), thread_count()))


class IndexedPixels:
    """indices: (n,) uint8. table: the levels (k, c) uint8 that they stand for; what no pixel has is of no account. What
    is said of pixels is said of the table, and takes a byte a pixel."""

    def __init__(self, indices: NDArray[np.uint8], table: Levels) -> None:
        self.n, self._indices, self._table = len(indices), indices, table

    def _pieces(self) -> list[NDArray[np.uint8]]:
        return [self._indices[a : a + _PIECE] for a in range(0, self.n, _PIECE)]

    def count(self) -> tuple[Codes, Ints]:
        size = len(self._table)
        counts = sum(run(lambda piece: np.bincount(piece, minlength=size), self._pieces(), thread_count()))
        used = np.flatnonzero(counts)
        return _merged([(pack(self._table[used]), np.asarray(counts)[used])])

    def map(self, codes: Any, labels: Any, dtype: Any) -> NDArray[Any]:
        codes, labels = array_interop.to_numpy(codes), array_interop.to_numpy(labels).astype(dtype)
        place = np.searchsorted(codes, pack(self._table))
        own = labels[np.minimum(place, len(codes) - 1)]
        return np.concatenate(run(lambda piece: own[piece], self._pieces(), thread_count()))

    def _levels(self) -> NumPyPixels:
        return NumPyPixels(np.concatenate([self._table[piece] for piece in self._pieces()]))

    def dither(self, offsets: NDArray[np.int32], width: int, palette: Levels) -> NDArray[Any]:
        return self._levels().dither(offsets, width, palette)

    def error(self, palette: Levels, labels: NDArray[Any]) -> int:
        return self._levels().error(palette, labels)


def nearest(points: NDArray[Any], palette: NDArray[Any]) -> NDArray[np.int32]:
    """The index of the palette's color (k, d) nearest to each point (m, d), by D (Rule 1): (m,) int32."""
    from gpukmeans.engine import dispatch  # which imports this module

    exact = points.astype(np.float32) if points.dtype == np.uint16 else points
    held = dispatch.make_points(Samples(exact, reused=False), device="cpu")
    held.feature_range()
    held.assign(palette.astype(np.float64))
    return held.labels()
