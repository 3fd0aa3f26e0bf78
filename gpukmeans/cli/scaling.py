"""Columns made comparable: their means and deviations, by exactly rounded sums, and rows as these have them."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import issparse

from gpukmeans.cli.columns import Features, blocks
from gpukmeans.cli.errors import CommandError
from gpukmeans.exact.distance import LARGEST_MAGNITUDE, Floats
from gpukmeans.row_sources.base import RowSource

# What feature_names_in_ begins with where a model knows standardized columns, so that scikit-learn refuses a frame of
# the columns as they were.
STANDARDIZED = "standardized "

# The values that are added up at once, whose copies stay in a processor's cache; but so many rows at least.
_VALUES, _ROWS = 2**16, 64

# Of the whole numbers that a value is taken apart into: as many of them as _VALUES add up exactly in float64.
_BITS = 26

# The least positive float64 is 2**-_FINEST, of which all others are multiples.
_FINEST = 1074


@dataclass(frozen=True)
class Scaler:
    """What makes columns comparable: mean and scale (d,) float64; a column of equal values has the scale 1."""

    mean: NDArray[np.float64]
    scale: NDArray[np.float64]

    @staticmethod
    def of(found: Features) -> Scaler:
        """That which gives each column the (weighted) mean 0 and the variance 1. By exactly rounded sums, so that the
        order of the rows makes no difference (test_fit_command.test_scaling_knows_no_order), nor the pieces that they
        are read in, twice (test_fit_large.test_a_file_larger_than_the_limit_has_the_answer_of_one_that_is_not)."""
        if issparse(found.X):
            raise CommandError("--scale standard would make all zeros of a sparse file something else")
        d = found.X.shape[1]
        low, high, sums = np.full(d, np.inf), np.full(d, -np.inf), ColumnSums(d)
        weights, total = None, float(found.X.shape[0])
        if found.weights is not None:
            # Brought to at most one, by a power of two, so that no product overflows; the mean is the same.
            weights = np.ldexp(found.weights, -int(np.frexp(found.weights.max())[1]))
            total = math.fsum(weights)
        for values, w in _columns(found.X, weights):
            low, high = np.minimum(low, values.min(axis=1)), np.maximum(high, values.max(axis=1))
            _check_magnitude(found.names, low, high)
            sums.add(values * w)
        center = sums.rounded() / total
        squares = ColumnSums(d)
        for values, w in _columns(found.X, weights):
            squares.add(np.square(values - center[:, None]) * w)
        deviation = np.sqrt(squares.rounded() / total)
        constant = (low == high) | (deviation == 0)
        return Scaler(np.where(constant, low + 0.0, center), np.where(constant, 1.0, deviation))

    def scaled(self, X: Any) -> Any:
        """X - mean, divided by scale; float32 stays float32, rounded at the end, and float16 too. A RowSource is scaled
        as it is read."""
        if isinstance(X, RowSource):
            return ScaledRows(self, X)
        result = np.empty(X.shape, _scaled_dtype(X.dtype))
        with np.errstate(over="ignore"):  # whoever reads it refuses what is not finite
            for start, block in blocks(X):
                result[start : start + len(block)] = (block.astype(np.float64) - self.mean) / self.scale
        return result

    def unscaled(self, centers: NDArray[Any]) -> NDArray[np.float64]:
        """Centers in the units of the file."""
        return centers * self.scale + self.mean


class ScaledRows(RowSource):
    """The rows of a source as a scaler has them."""

    def __init__(self, scaler: Scaler, rows: RowSource) -> None:
        super().__init__(rows.shape, _scaled_dtype(rows.dtype), rows.limit)
        self._scaler, self._rows = scaler, rows
        self.at_random = rows.at_random

    def _read(self, start: int, stop: int) -> NDArray[Any]:
        return self._scaler.scaled(self._rows.read(slice(start, stop)))

    def take(self, indices: NDArray[np.integer]) -> NDArray[Any]:
        return self._scaler.scaled(self._rows.take(indices))


class ColumnSums:
    """The sums of d columns of float64 values that come bit by bit: what math.fsum would give of all values of each,
    in whatever order."""

    def __init__(self, d: int) -> None:
        self._sums = [0] * d  # in units of 2**-_FINEST, exact

    def add(self, values: Floats) -> None:
        """values: (d, m) finite, m at most _VALUES; they are written to."""
        while True:
            largest = np.maximum(values.max(axis=1), -values.min(axis=1))
            if not largest.any():
                return
            # The leading bits of all values of a column, as whole numbers of at most 2**_BITS at one scale; what is
            # left of a value is exact, and less than it by _BITS - 1 bits.
            exponent = np.maximum(np.frexp(largest)[1] - _BITS, -_FINEST)
            unit = np.ldexp(1.0, exponent)[:, None]
            whole = np.rint(values / unit)
            for i, part in enumerate(whole.sum(axis=1).tolist()):
                self._sums[i] += int(part) << (int(exponent[i]) + _FINEST)
            whole *= unit
            values -= whole

    def rounded(self) -> Floats:
        """(d,), each sum rounded once: so does Python divide whole numbers."""
        return np.array([total / 2**_FINEST for total in self._sums])


def _columns(X: Any, weights: Floats | None) -> Iterator[tuple[Floats, Any]]:
    """All rows, some at a time: a copy of them as columns (d, m) float64, and their weights (m,), or one."""
    rows = max(_ROWS, _VALUES // X.shape[1])
    for first, block in blocks(X):
        for a in range(0, len(block), rows):
            values = np.array(block[a : a + rows].T, np.float64, order="C")
            start = first + a
            yield values, 1.0 if weights is None else weights[start : start + values.shape[1]]


def _check_magnitude(names: list[str], low: Floats, high: Floats) -> None:
    too_large = np.flatnonzero(np.maximum(-low, high) > LARGEST_MAGNITUDE)
    if len(too_large):
        raise CommandError(f"column {names[too_large[0]]} has values beyond 2^500, whose squares overflow")


def _scaled_dtype(dtype: np.dtype) -> np.dtype:
    return dtype if dtype.kind == "f" else np.dtype(np.float64)
