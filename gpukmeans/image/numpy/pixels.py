"""Pixels on the CPU: counting, mapping, ordered dithering's choice and errors, a piece of the picture at a time."""

# Counting comes first, although the engine merges equal rows too: that has to keep each row's place, and sorts 8 bytes
# a row where a code and no place need 4; and a table of labels maps pixels back faster than places do. What is shared
# is the meaning: colors with counts are rows with integer weights.

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from gpukmeans import array_interop
from gpukmeans.image.levels import Codes, Levels, pack
from gpukmeans.image.numpy.histogram import TABLE_BYTES, Histogram, Ints, count_runs, merge_equal
from gpukmeans.image.protocol import Mixtures
from gpukmeans.thread_limits import thread_count
from gpukmeans.threads import run

# Pixels at a time: 1 MB of codes, which one core sorts in its second-level cache.
_PIECE = 2**18

# Pixels at a time whose errors are added up, and what holds a squared difference, by the bytes of a level.
_ERRORS = 2**15
_SQUARE: dict[int, Any] = {1: np.uint16, 2: np.uint32}


class NumPyPixels:
    """pixels: (n, c), uint8 or uint16."""

    def __init__(self, pixels: Levels) -> None:
        self.n, self._channels = pixels.shape
        self._pixels = pixels
        self._bytes = self._channels * pixels.dtype.itemsize

    def _pieces(self, rows: int = _PIECE) -> list[slice]:
        return [slice(a, min(a + rows, self.n)) for a in range(0, self.n, rows)]

    def count(self) -> tuple[Codes, Ints]:
        def count_piece(rows: slice) -> tuple[Codes, Ints]:
            codes = pack(self._pixels[rows])
            codes.sort()
            return count_runs(codes)

        # A single sort of a small picture is faster than merging two.
        pieces = self._pieces(2 * _PIECE)
        histogram = Histogram(self._bytes)
        step = 16 * thread_count()
        for a in range(0, len(pieces), step):  # parts are added up before there are too many of them
            for codes, counts in run(count_piece, pieces[a : a + step], thread_count()):
                histogram.add(codes, counts)
        return histogram.result()

    def map(self, codes: Any, labels: Any, dtype: Any) -> NDArray[Any]:
        codes, labels, result = array_interop.to_numpy(codes), array_interop.to_numpy(labels), np.empty(self.n, dtype)
        if self._bytes <= TABLE_BYTES:
            table = np.empty(2 ** (8 * self._bytes), dtype)
            table[codes] = labels
        else:
            labels = labels.astype(dtype)

        def map_piece(rows: slice) -> None:
            own = pack(self._pixels[rows])
            result[rows] = table[own] if self._bytes <= TABLE_BYTES else labels[np.searchsorted(codes, own)]

        run(map_piece, self._pieces(), thread_count())
        return result

    def mixed(self, codes: Any, mixtures: Mixtures, ranks: NDArray[np.int32], width: int, dtype: Any) -> NDArray[Any]:
        return _mixed(self, codes, mixtures, ranks, width, dtype)

    def error(self, palette: Levels, labels: NDArray[Any]) -> int:
        def error_of_piece(rows: slice) -> int:
            own, shown = self._pixels[rows], palette[labels[rows]]
            # Without signs, and so of as few bytes as levels have; squares of 8 bits have 16.
            steps = np.maximum(own, shown)
            steps -= np.minimum(own, shown)
            return int(np.square(steps, dtype=_SQUARE[steps.dtype.itemsize]).sum(dtype=np.uint64))

        return sum(run(error_of_piece, self._pieces(_ERRORS), thread_count()))


class IndexedPixels:
    """indices: (n,) uint8. table: the levels (k, c) uint8 that they stand for; what no pixel has is of no account. What
    is asked of pixels is answered by the table, and takes a byte a pixel."""

    def __init__(self, indices: NDArray[np.uint8], table: Levels) -> None:
        self.n, self._indices, self._table = len(indices), indices, table

    def _pieces(self) -> list[NDArray[np.uint8]]:
        return [self._indices[a : a + _PIECE] for a in range(0, self.n, _PIECE)]

    def count(self) -> tuple[Codes, Ints]:
        # test_quantize.test_a_palette_may_have_colors_that_no_pixel_has fails of as many as a piece has.
        size = len(self._table)
        counts = sum(run(lambda piece: np.bincount(piece, minlength=size), self._pieces(), thread_count()))
        used = np.flatnonzero(counts)
        # test_quantize.test_equal_colors_of_a_palette_are_one fails if they remain several.
        return merge_equal(pack(self._table[used]), np.asarray(counts)[used])

    def map(self, codes: Any, labels: Any, dtype: Any) -> NDArray[Any]:
        codes, labels = array_interop.to_numpy(codes), array_interop.to_numpy(labels).astype(dtype)
        row = np.searchsorted(codes, pack(self._table))
        # Beyond the last where no pixel has that color
        # (test_quantize.test_a_palette_may_have_colors_that_no_pixel_has fails of these).
        label_of_index = labels[np.minimum(row, len(codes) - 1)]
        return np.concatenate(run(lambda piece: label_of_index[piece], self._pieces(), thread_count()))

    def _spread_out(self) -> NumPyPixels:
        return NumPyPixels(np.concatenate([self._table[piece] for piece in self._pieces()]))

    def mixed(self, codes: Any, mixtures: Mixtures, ranks: NDArray[np.int32], width: int, dtype: Any) -> NDArray[Any]:
        return _mixed(self, codes, mixtures, ranks, width, dtype)

    def error(self, palette: Levels, labels: NDArray[Any]) -> int:
        return self._spread_out().error(palette, labels)


def _mixed(
    pixels: NumPyPixels | IndexedPixels,
    codes: Any,
    mixtures: Mixtures,
    ranks: NDArray[np.int32],
    width: int,
    dtype: Any,
) -> NDArray[Any]:
    color = pixels.map(codes, np.arange(len(codes), dtype=np.int32), np.int32)
    t, result = len(ranks), np.empty(pixels.n, dtype)

    def mix_piece(rows: slice) -> None:
        row, column = np.divmod(np.arange(rows.start, rows.stop), width)
        own = color[rows]
        takes_first = ranks[row % t, column % t] < mixtures.counts[own]
        result[rows] = np.where(takes_first, mixtures.first[own], mixtures.second[own])

    run(mix_piece, [slice(a, min(a + _PIECE, pixels.n)) for a in range(0, pixels.n, _PIECE)], thread_count())
    return result
