"""Points on NumPy whose passes over rows are compiled (the extra `fast`); everything else is NumPyPoints'."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gpukmeans.engine.numpy import normalized_rows
from gpukmeans.engine.numpy.assign import ScoredCenters
from gpukmeans.engine.numpy.hamerly import CenterShift, Trial
from gpukmeans.engine.numpy.numba_means import label, next_centers
from gpukmeans.engine.numpy.numba_passes import BLOCK, TILE, Bounds, Passes, Sums, Target, Weighing, passes
from gpukmeans.engine.numpy.points import NumPyPoints
from gpukmeans.engine.numpy.rows import read_only
from gpukmeans.engine.protocol import Doubt, NextCenters, Samples
from gpukmeans.exact.certificate import Frame, distance_error_factors
from gpukmeans.exact.distance import Floats
from gpukmeans.exact.inertia import Inertia
from gpukmeans.exact.row_sample import far_offsets
from gpukmeans.threads import run

# float16 is read as float32.
_DTYPES = [np.dtype(dtype) for dtype in (np.float16, np.float32, np.float64, np.uint8)]

# Rows of a task at most.
_ROWS = 2**16

# What a row's bounds cost, and what is done with a score beside its product, in products of 0.03 ns (measured).
_KEEPING, _SCORE = 2**7, 5

# From so many centers on, a row's distance to its own costs little beside a search among all.
_MANY = 2**6

# Beyond so many centers, to look at all pairs of means takes longer than to sort them.
_MANY_MEANS = 2**8

# Up to so many steps from a coordinate to a center's, D takes no longer than it takes to make centers ready for scores.
_FEW_STEPS = 2**16

# Distances of a task at once: 1 MB of float64.
_EXACT = 2**17

# Values from which on groups far apart are looked for.
_WORTH_GROUPS = 2**15

_NONE = np.empty(0, np.float32)
_NO_GROUPS = np.empty(0, np.uint8)
_NO_FLOATS = np.empty(0)
_NO_INTS = np.empty(0, np.int64)
_NO_SCALES = _NO_FLOATS, _NO_FLOATS
_NO_SUMS = np.empty((0, 0), np.int64)
_NO_COLUMNS = np.empty((0, 0), np.float32)
_ZERO = np.float32(0)
_NO_BOUNDS = Bounds(_NONE, _NONE, 0, _NONE, _NONE, _NONE, False, _NONE, _ZERO, _ZERO, _ZERO)


def compiles(samples: Samples) -> bool:
    """Whether there are compiled passes for these rows: not where some have to be made first, and others need not."""
    x = samples.x
    made = not samples.metric.normalizes or 8 * x.size <= normalized_rows.MADE_BYTES
    return made and x.dtype in _DTYPES and x.flags.aligned


def _compilable(x: NDArray[Any]) -> NDArray[Any]:
    return x.astype(np.float32) if x.dtype == np.float16 else x


def _passes_for(x: NDArray[Any]) -> Passes:
    return passes(x.dtype, x.flags.c_contiguous)


class CompiledPoints(NumPyPoints):
    """NumPyPoints with the same answers: each method here has its twin of the same name there."""

    _turned = False

    def _values(self, rows: slice) -> NDArray[Any]:
        """Rows worked on, (m, d)."""
        return _compilable(self._rows.take(rows))

    # ------------------------------------------------------------ preparation

    @cached_property
    def _weighing(self) -> Weighing:
        """The weights of the rows worked on; asked for once these are arranged."""
        copies, weights = self._copies, self._rows.weights
        rows = _NO_INTS if copies is None else copies.astype(np.int64)
        if weights is None:
            return Weighing(0, read_only(_NO_FLOATS), read_only(_NO_INTS), read_only(rows))
        kind, given = (1, _NO_FLOATS) if weights.dtype == np.int64 else (2, np.ascontiguousarray(weights))
        counts = np.ascontiguousarray(self.weights.integer_weights(weights))
        return Weighing(kind, read_only(given), read_only(counts), read_only(rows))

    def _arrange(self, sort: bool) -> None:
        super()._arrange(sort)
        for kept in ("_weighing", "_groups"):
            self.__dict__.pop(kept, None)

    # ------------------------------------------------------------ assignment and update

    def _label_all(self, centers: Floats) -> int:
        """By D alone in a single call, where scores cost more to make ready than they save."""
        given = np.ascontiguousarray(centers)
        own, x, weighing = self._tuning, self._rows.x, self._weighing
        few = len(given) * x.size <= _FEW_STEPS and own.scores is None and own.bounds is None and own.chunk_rows is None
        if not few or weighing.kind or len(weighing.rows) or x.dtype == np.float16:
            return super()._label_all(given)
        self._begin(len(given), None)
        self._target = ScoredCenters.of(given, None)
        sums = self._sums.value if self._summed else _NO_SUMS
        scales = (self._scales.offset, self._scales.scale) if self._summed else _NO_SCALES
        return int(label(x.dtype, x.flags.c_contiguous)(x, given, *scales, self._labels, sums))

    def _weights_in(self, rows: slice) -> Weighing:
        kind, *arrays = weighing = self._weighing
        return Weighing(kind, *(array[rows] for array in arrays)) if kind or len(weighing.rows) else weighing

    def _assignment_spans(self, m: int) -> list[slice]:
        tasks = 2 * self._threads if self._threads > 1 else 1
        return self._spans(m, min(_ROWS, max(BLOCK, -(-m // tasks))))

    def _new_trial(self, k: int) -> Trial:
        return Trial(self.d, k, _KEEPING, _SCORE)

    def _prepared(self, centers: Floats, frame: Frame | None) -> ScoredCenters:
        """Scores only where offset and scale are numbers of the dtype that features are made in, and those of centers
        are float32 numbers."""
        fits = frame is not None and (frame.single or self._rows.x.dtype == np.float64) and len(centers) <= 2**24
        return ScoredCenters.of(centers, frame if fits else None)

    @cached_property
    def _groups(self) -> tuple[list[Frame], NDArray[np.uint8]]:
        """Frames of one scale for groups of rows that lie far apart, and each row's group (m,); of a single frame none.

        Scores of rows far from an offset, in units of their distances to each other, leave all in doubt
        (test_numba_passes.test_groups_far_apart_leave_few_rows_to_distances).
        """
        frame = self._frame
        assert frame is not None
        offsets = far_offsets(self._sample(), frame.offset) if self._rows.x.size >= _WORTH_GROUPS else []
        if not offsets:
            return [frame], _NO_GROUPS
        groups = np.empty(self._rows.m, np.uint8)
        places = np.array([frame.offset, *offsets])

        def find(rows: slice) -> None:
            x = self._values(rows)
            distances = np.empty((len(x), len(places)))
            _passes_for(x).distances(x, places, distances)
            groups[rows] = distances.argmin(axis=1)

        run(find, self._spans(self._rows.m, _ROWS), self._threads)
        return [replace(frame, offset=offset, largest=2 * frame.largest) for offset in places], groups

    def _assignment(self, target: ScoredCenters, center_shift: CenterShift | None) -> Callable[[slice], int]:
        targets, groups = [target], _NO_GROUPS
        if target.frame is not None:
            frames, found = self._groups
            scored = [ScoredCenters.of(target.given, frame) for frame in frames[1:]]
            if scored and all(each.frame is not None for each in scored):  # bounds are kept of all rows, or of none
                targets, groups = [ScoredCenters.of(target.given, frames[0]), *scored], found
        ways = [(self._compared(each), self._bounds_before(each, center_shift)) for each in targets]
        clusters = target.k if self._summed else 0

        def assign(span: slice) -> int:
            value = np.zeros((clusters, self.d + 1), np.int64)
            sums = Sums(value, self._scales.offset, self._scales.scale) if clusters else Sums(value, *_NO_SCALES)
            x, labels, weights, own = self._values(span), self._labels[span], self._weights_in(span), groups[span]
            found = np.zeros(3, np.int64)
            for g, (compared, bounds) in enumerate(ways):
                here = bounds._replace(upper=bounds.upper[span], lower=bounds.lower[span]) if bounds.state else bounds
                found += _passes_for(x).assign(x, own, g, weights, compared, here, sums, labels)
            changed, skipped, uncertain = found.tolist()
            if changed and clusters:
                self._sums.add(value)
            with self._lock:
                self._skipped += skipped
                self.uncertain += uncertain
            return int(changed)

        return assign

    def _compared(self, target: ScoredCenters) -> Target:
        centers = np.ascontiguousarray(target.given)
        kind = np.float64 if self._rows.x.dtype == np.float64 else np.float32
        if target.frame is None:
            return Target(centers, _NO_COLUMNS, _NONE, _NONE, np.empty(0, kind), kind(1), _ZERO, _ZERO, False)
        k, d = centers.shape
        columns = np.zeros((k + -k % TILE, d + -d % TILE), np.float32)
        columns[:k, :d] = target.columns[:-1].T
        squares = np.full(len(columns), np.inf, np.float32)
        squares[:k] = target.columns[-1]
        offset, scale = target.frame.offset.astype(kind), kind(target.frame.scale)
        return Target(centers, columns, squares, target.slack, offset, scale, *target.frame.row_margin_factors, True)

    def _bounds_before(self, target: ScoredCenters, center_shift: CenterShift | None) -> Bounds:
        kept = self._bounds
        if kept is None or target.frame is None:
            return _NO_BOUNDS
        factors = np.array(distance_error_factors(self.d, target.frame.largest), np.float32)
        if center_shift is None:
            return Bounds(kept.upper, kept.lower, 1, _NONE, _NONE, _NONE, False, target.lengths, *factors)
        shift = center_shift.own, center_shift.others, center_shift.half_gap
        measure = target.k >= _MANY
        return Bounds(kept.upper, kept.lower, 2, *shift, measure, target.lengths, *factors)

    def next_centers(self, doubt: Doubt) -> NextCenters | None:
        """Not of many, of which no time is lost between NumPy's calls, and pairs are too many."""
        assert self._target is not None, "no centers were assigned to"
        before, scales = np.ascontiguousarray(self._target.given), self._scales
        k, d = before.shape
        if k > _MANY_MEANS or self.metric.normalizes:
            return None
        means, shifts = np.empty((k, d)), np.empty(k)
        offset = scales.offset if scales.offset.any() else _NO_FLOATS
        unit = 2.0**-self.weights.exponent
        made = next_centers()(self._sums.value, unit, scales.scale, offset, before, *doubt, means, shifts)
        return NextCenters(means, shifts) if made else None

    # ------------------------------------------------------------ distances

    def _inertia_part(self, centers: Floats, split: Inertia) -> Callable[[slice], tuple[int, int]]:
        centers = np.ascontiguousarray(centers)
        scales = 2.0**split.coarse_bits, 2.0**split.fine_bits

        def part(rows: slice) -> tuple[int, int]:
            x, weights, labels = self._values(rows), self._weights_in(rows), self._labels[rows]
            coarse, fine = _passes_for(x).inertia(x, weights, labels, centers, *scales).tolist()
            return coarse, fine

        return part

    def _all_own_distances(self, centers: Floats) -> Floats:
        centers, out = np.ascontiguousarray(centers), np.empty(self._rows.m)

        def measure(rows: slice) -> None:
            x = self._values(rows)
            _passes_for(x).own_distances(x, self._labels[rows], centers, out[rows])

        run(measure, self._exact_spans(), self._threads)
        return out

    def _ranges_of(self, clusters: NDArray[np.int64], without: Floats, step: int) -> tuple[Floats, Floats]:
        if len(without):
            return super()._ranges_of(clusters, without, step)
        assert self._k, "no centers were assigned to"
        place = np.full(self._k, -1)
        place[clusters] = np.arange(len(clusters))
        shape = len(clusters), self.d
        # Of bytes, which have no infinities for what no row widens, extremes are float64.
        dtype = self._values(slice(0, 1)).dtype
        kind = dtype if dtype.kind == "f" else np.dtype(np.float64)
        parts = []

        def widen(rows: slice) -> None:
            low, high = np.full(shape, np.inf, kind), np.full(shape, -np.inf, kind)
            all_rows = slice(rows.start * step, min(rows.stop * step, self._rows.m))
            x, labels = self._values(all_rows), self._labels[all_rows]
            _passes_for(x).cluster_ranges(x, labels, place, low, high, step)
            parts.append((low, high))

        run(widen, self._spans(-(-self._rows.m // step), _ROWS), self._threads)
        low, high = parts[0]
        for lows, highs in parts[1:]:
            np.minimum(low, lows, out=low)
            np.maximum(high, highs, out=high)
        return low.astype(np.float64, copy=False), high.astype(np.float64, copy=False)

    def _measured(self, centers: Floats) -> Floats:
        centers, result = np.ascontiguousarray(centers), np.empty((self.n, len(centers)))

        def measure(rows: slice) -> None:
            x = _compilable(np.asarray(self._row_x[rows]))
            _passes_for(x).distances(x, centers, result[rows])
            result[rows] = self.metric.transformed(result[rows])

        run(measure, self._spans(self.n, max(32, _EXACT // len(centers))), self._threads)
        return result
