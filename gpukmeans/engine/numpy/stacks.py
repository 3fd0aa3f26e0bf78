"""Problems of as many rows each, fitted in a single call of what numba compiles (the extra `fast`)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gpukmeans.engine.numpy import tuning
from gpukmeans.engine.numpy.numba_fits import Measures, Rules, fit_stack
from gpukmeans.engine.numpy.numba_passes import Weighing
from gpukmeans.engine.numpy.rows import read_only
from gpukmeans.engine.numpy.tuning import SMALL
from gpukmeans.engine.protocol import StackDoubt, StackLabels, StackLog, StackScales
from gpukmeans.exact.distance import Floats
from gpukmeans.exact.fixed_point import Ints, Weights, ceil_log2
from gpukmeans.thread_limits import thread_count
from gpukmeans.threads import run

# Up to these a `Frame` serves: of ranges so many bits from one, and so many features.
_SCALE_BITS, _FEATURES = 380, 2**17

_NO_FLOATS = np.empty(0)
_NO_INTS = np.empty(0, np.int64)
_NO_DRAWS = np.empty((0, 0, 0))
_NOTHING = np.empty((0, 0), np.int64)


# Values times centers of a start from which on threads are worth waking, one to each start.
_SHARED = 2**15

_DTYPES = [np.dtype(dtype) for dtype in (np.float16, np.float32, np.float64, np.uint8)]


def stacks(x: NDArray[Any]) -> bool:
    """Whether problems (b, n, d) are small, and of a dtype that there is code for."""
    return x[0].size <= SMALL and x.dtype in _DTYPES


class CompiledStack:
    """x: (b, n, d) of float16, float32, float64 or uint8. weights: (n,), of all problems alike, or None for ones."""

    log = StackLog(_NOTHING, _NO_DRAWS)

    def __init__(self, x: NDArray[Any], weights: Floats | Ints | None, summary: Weights) -> None:
        x = np.require(np.asarray(x), np.float64, ["C", "A"])
        self._x, self._summary = read_only(x), summary
        self.weights: Sequence[Weights] = [summary] * len(x)
        if weights is None:
            kind, given, counts = 0, _NO_FLOATS, _NO_INTS
        else:
            kind, given = (1, _NO_FLOATS) if weights.dtype == np.int64 else (2, np.ascontiguousarray(weights))
            counts = np.ascontiguousarray(summary.integer_weights(weights))
        self._total = x.shape[1] if weights is None else int(counts.sum())
        self.totals: Sequence[int] = [self._total] * len(x)
        self._weighing = Weighing(kind, read_only(given), read_only(counts), read_only(_NO_INTS))

    def find(self, problem: int, indices: list[int]) -> Floats:
        kind, _, counts, _ = self._weighing
        rows = np.searchsorted(np.cumsum(counts), indices, side="right") if kind else indices
        return self._x[problem][rows].astype(np.float64)

    def feature_range(self) -> tuple[Floats, Floats]:
        return np.minimum.reduce(self._x, axis=1), np.maximum.reduce(self._x, axis=1)

    def prepare(self, scales: StackScales, doubt: StackDoubt) -> None:
        self._measures = Measures(
            *scales,
            doubt.limit,
            doubt.widest,
            doubt.most_variance,
            *self._frames(scales.low, scales.high),
        )
        self._doubt = doubt

    def _frames(self, low: Floats, high: Floats) -> tuple[Floats, Floats]:
        """Offset (b, d) and scale (b,) of scores, as `Frame.of` has them without a sample."""
        offset = low + (high - low) / 2
        largest = np.maximum(high - offset, offset - low).max(axis=1)
        mantissa, exponent = np.frexp(largest)
        bits = np.where(largest > 0, (mantissa == 0.5) - exponent, 0)
        serves = (np.abs(bits) <= _SCALE_BITS) & (low.shape[1] < _FEATURES)
        return offset, np.where(serves, np.ldexp(1.0, np.where(serves, bits, 0)), 0.0)

    def fit(
        self, centers: Floats, first: Floats, draws: Floats, tol: float, max_iter: int
    ) -> tuple[Floats, NDArray[np.int64]]:
        weights, b, n = self._summary, len(centers), self._x.shape[1]
        self._rules = Rules(
            ceil_log2(weights.total),
            ceil_log2(weights.copies),
            2.0**-weights.exponent,
            float(weights.fractions),
            self._total,
            float(tol),
            int(max_iter),
        )
        self._labels, n_iter = np.empty((b, n), np.int32), np.empty(b, np.int64)
        self._run(first, draws, centers, n_iter, _NOTHING)
        return centers, n_iter

    def publish(self, centers: Floats) -> StackLabels:
        found = np.empty((len(centers), 4), np.int64)
        self._run(_NO_FLOATS, _NO_DRAWS, centers, _NO_INTS, found)
        return StackLabels(list(self._labels), *found.T)

    def _run(self, *each: NDArray[Any]) -> None:
        """What is compiled; each: of problems, first, draws, centers, n_iter and found."""
        self._call(*each[:3], self._labels, *each[3:], *self.log)

    def _call(self, *each: NDArray[Any]) -> None:
        fit_stack()(self._x, self._weighing, self._rules, self._measures, *each)


class CompiledStarts(CompiledStack):
    """Starts of one problem x (n, d), shared among threads."""

    def __init__(
        self, x: NDArray[Any], weights: Floats | Ints | None, summary: Weights, k: int, starts: int, room: int
    ) -> None:
        super().__init__(x[None], weights, summary)
        self.weights, self.totals = [summary] * starts, [self._total] * starts
        self.log = StackLog(np.empty((starts, room), np.int64), np.empty((starts, room, k)))
        # Starts that take long are made one at a time, by one thread too, so that they can be interrupted.
        self._threads = 0
        if starts > 1 and x.size * k >= _SHARED:
            self._threads = tuning.current().threads or thread_count()

    def find(self, problem: int, indices: list[int]) -> Floats:
        return super().find(0, indices)

    def _call(self, *each: NDArray[Any]) -> None:
        starts = len(self.weights)
        if self._threads == 0:
            super()._call(*each)
            return
        kept = super()._call
        run(lambda i: kept(*(array[i : i + 1] for array in each)), range(starts), self._threads)
