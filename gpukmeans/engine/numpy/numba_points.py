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
from gpukmeans.engine.numpy.numba_distances import CompiledFilteredDistances, by_compiled_distance
from gpukmeans.engine.numpy.numba_passes import (
    BLOCK,
    MANY,
    PANEL,
    TILE,
    Bounds,
    Features,
    Target,
    Weighing,
    compilable,
    passes_for,
    place_centers,
)
from gpukmeans.engine.numpy.numba_steps import _NO_SUMS, _WORTH_GROUPS, CompiledSteps
from gpukmeans.engine.numpy.rows import read_only
from gpukmeans.engine.numpy.seeding_distances import MakeDistances, PlainDistances
from gpukmeans.engine.protocol import Samples
from gpukmeans.exact.certificate import TOO_FAR, Frame, distance_error_factors
from gpukmeans.exact.distance import Floats
from gpukmeans.exact.fixed_point import Ints
from gpukmeans.exact.inertia import Inertia
from gpukmeans.exact.row_sample import far_offsets
from gpukmeans.exact.scales import OwnScales
from gpukmeans.threads import run, scratch

# float16 is read as float32.
_DTYPES = [np.dtype(dtype) for dtype in (np.float16, np.float32, np.float64, np.uint8)]

# Rows of a task at most.
_ROWS = 2**16

# What a row's bounds cost, and what is done with a score beside its product, in products of 0.03 ns (measured).
_KEEPING, _SCORE = 2**7, 5

# Distances of a task at once: 1 MB of float64.
_EXACT = 2**17

# Products from which on those of float64, and bounds on them, take no longer than D; and the share of distances that
# they may leave to D, which takes ten times as long one by one.
_WORTH_PRODUCTS, _VAGUE = 2**20, 2.0**-6

# Features are kept that take no more, or than half of the input.
_KEEP_BYTES = 2**26

# Up to so many rows, or where each has so many bytes, D to all candidates of a draw fit beside them: of four to eight
# candidates, D and what they weigh are 64 to 128 bytes a row.
_FEW_ROWS, _WIDE = 2**16, 2**8

_NONE = np.empty(0, np.float32)
_NO_GROUPS = np.empty(0, np.uint8)
_NO_COLUMNS = np.empty((0, 0), np.float32)
_ZERO = np.float32(0)
_NO_BOUNDS = Bounds(_NONE, _NONE, 0, _NONE, _NONE, _NONE, False, _ZERO, _ZERO)
_NO_FEATURES = Features(read_only(_NO_COLUMNS), _NONE)
_NO_PANELS = np.empty((0, 0, 0), np.float32)


def compiles(samples: Samples) -> bool:
    """Whether there are compiled passes for these rows: not where some have to be made first, and others need not."""
    x = samples.x
    made = not samples.metric.normalizes or 8 * x.size <= normalized_rows.MADE_BYTES
    return made and x.dtype in _DTYPES and x.flags.aligned


def _by_distance(centers: Floats, dtype: np.dtype) -> Target:
    """Without scores."""
    kind = np.float64 if dtype == np.float64 else np.float32
    return Target(centers, _NO_PANELS, _NONE, _NONE, np.empty(0, kind), kind(1), _ZERO, _ZERO, False)


def _given(values: Floats) -> Floats:
    return read_only(np.ascontiguousarray(values))


class CompiledPoints(CompiledSteps):
    """NumPyPoints with the same answers: each method here and above has its twin of the same name there."""

    _turned = False

    def __init__(self, samples: Samples) -> None:
        """float16, for which processors have little, becomes float32 once, where that is small."""
        x = samples.x
        if x.dtype == np.float16 and samples.reused and 4 * x.size <= _KEEP_BYTES:
            samples = replace(samples, x=x.astype(np.float32))
        super().__init__(samples)

    def _values(self, rows: slice) -> NDArray[Any]:
        """Rows worked on, (m, d)."""
        return compilable(self._rows.take(rows))

    # ------------------------------------------------------------ preparation

    def _arrange(self, sort: bool) -> None:
        super()._arrange(sort)
        for kept in ("_weighing", "_groups", "_kept"):
            self.__dict__.pop(kept, None)

    # ------------------------------------------------------------ assignment and update

    def _weights_in(self, rows: slice) -> Weighing:
        kind, *arrays = weighing = self._weighing
        return Weighing(kind, *(array[rows] for array in arrays)) if kind or len(weighing.rows) else weighing

    def _assignment_spans(self, m: int) -> list[slice]:
        tasks = 2 * self._threads if self._threads > 1 else 1
        return self._spans(m, min(_ROWS, max(BLOCK, -(-m // tasks))))

    def _new_trial(self, k: int) -> Trial:
        return Trial(self.d, k, self._rows.m, _KEEPING, _SCORE)

    def _prepared(self, centers: Floats, frame: Frame | None) -> ScoredCenters:
        """Scores only where offset and scale are numbers of the dtype that features are made in, and those of centers
        are float32 numbers."""
        centers = np.ascontiguousarray(centers)
        fits = frame is not None and (self._rows.x.dtype == np.float64 or frame.single) and len(centers) <= 2**24
        placed = [self._placed(centers, each) for each in self._groups[0]] if fits else [None]
        self._targets = [target for target in placed if target is not None]
        return replace(ScoredCenters.of(centers, None), frame=frame if len(self._targets) == len(placed) else None)

    def _placed(self, centers: Floats, frame: Frame) -> Target | None:
        """The centers (k, d) in a frame; None if they are too far for scores."""
        k, d = centers.shape
        kind = np.float64 if self._rows.x.dtype == np.float64 else np.float32
        panels = np.empty((-(-k // PANEL), d, PANEL), np.float32)
        squares, slack, norms = np.full(k + -k % TILE, np.inf, np.float32), np.empty(k, np.float32), np.empty(k)
        # A median of rows that lie by columns has strides.
        offset = np.ascontiguousarray(frame.offset)
        place_centers()(read_only(centers), offset, frame.scale, frame.center_error, panels, squares, slack, norms)
        if not float(norms.max()) < TOO_FAR:
            return None
        factors = frame.row_margin_factors
        return Target(centers, panels, squares, slack, offset.astype(kind), kind(frame.scale), *factors, True)

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
            passes_for(x).distances(x, places, 1.0, distances)
            groups[rows] = distances.argmin(axis=1)

        run(find, self._spans(self._rows.m, _ROWS), self._threads)
        return [replace(frame, offset=offset, largest=2 * frame.largest) for offset in places], groups

    @cached_property
    def _kept(self) -> Features:
        """The features of all rows worked on; of none where they take too much memory, or are read once and are not x
        itself."""
        (frame, *others), groups = self._groups
        x, m = self._rows.x, self._rows.m
        y = x if frame.keeps and not others and x.dtype == np.float32 and x.flags.c_contiguous else None
        if y is None and not (self._reused and 4 * x.size <= max(_KEEP_BYTES, x.nbytes // 2)):
            return _NO_FEATURES
        if y is not None and not self._reused:
            return Features(read_only(y), _NONE)
        norms, made = np.empty(m, np.float32), np.empty(x.shape if y is None else (0, 0), np.float32)
        kind = np.float64 if x.dtype == np.float64 else np.float32
        offsets = np.array([each.offset for each in (frame, *others)], kind)

        def keep(rows: slice) -> None:
            if y is not None:
                np.einsum("ij,ij->i", y[rows], y[rows], out=norms[rows])
            else:
                x = self._values(rows)
                passes_for(x).keep(x, groups[rows], offsets, kind(frame.scale), made[rows], norms[rows])

        run(keep, self._assignment_spans(m), self._threads)
        return Features(read_only(made if y is None else y), norms)

    def _assignment(self, target: ScoredCenters, center_shift: CenterShift | None) -> Callable[[slice], int]:
        if target.frame is None:
            targets, groups, kept = [_by_distance(target.given, self._rows.x.dtype)], _NO_GROUPS, _NO_FEATURES
        else:
            targets, groups, kept = self._targets, self._groups[1], self._kept
        bounds_before = [
            self._bounds_before(each, center_shift) for each in (self._groups[0] if target.frame else [None])
        ]
        ways = list(zip(targets, bounds_before, strict=True))
        clusters = target.k if self._summed else 0

        def assign(span: slice) -> int:
            value = np.zeros((clusters, self.d + 1), np.int64)
            sums = self._sums_in(value) if clusters else _NO_SUMS
            x, labels, weights, own = self._values(span), self._labels[span], self._weights_in(span), groups[span]
            features = Features(kept.y[span], kept.norms[span]) if len(kept.y) else kept
            found = np.zeros(3, np.int64)
            for g, (compared, bounds) in enumerate(ways):
                here = bounds._replace(upper=bounds.upper[span], lower=bounds.lower[span]) if bounds.state else bounds
                found += passes_for(x).assign(x, features, own, g, weights, compared, here, sums, labels)
            changed, skipped, uncertain = found.tolist()
            if changed and clusters:
                self._sums.add(value)
            with self._lock:
                self._skipped += skipped
                self.uncertain += uncertain
            return int(changed)

        return assign

    def _bounds_before(self, frame: Frame | None, center_shift: CenterShift | None) -> Bounds:
        kept = self._bounds
        if kept is None or frame is None:
            return _NO_BOUNDS
        relative, _, error = np.array(distance_error_factors(self.d, frame.largest), np.float32)
        if center_shift is None:
            return Bounds(kept.upper, kept.lower, 1, _NONE, _NONE, _NONE, False, relative, error)
        shift = center_shift.own, center_shift.others, center_shift.half_gap
        return Bounds(kept.upper, kept.lower, 2, *shift, len(shift[0]) >= MANY, relative, error)

    # ------------------------------------------------------------ distances

    def _inertia_part(self, centers: Floats, split: Inertia) -> Callable[[slice], tuple[int, int]]:
        centers = np.ascontiguousarray(centers)
        scales = 2.0**split.coarse_bits, 2.0**split.fine_bits

        def part(rows: slice) -> tuple[int, int]:
            x, weights, labels = self._values(rows), self._weights_in(rows), self._labels[rows]
            coarse, fine = passes_for(x).inertia(x, weights, labels, centers, *scales).tolist()
            return coarse, fine

        return part

    def _all_own_distances(self, centers: Floats) -> Floats:
        centers, out = np.ascontiguousarray(centers), np.empty(self._rows.m)

        def measure(rows: slice) -> None:
            x = self._values(rows)
            passes_for(x).own_distances(x, self._labels[rows], centers, out[rows])

        run(measure, self._exact_spans(), self._threads)
        return out

    def _place_of(self, clusters: NDArray[np.int64]) -> NDArray[np.int64]:
        """Of each label, where it is in `clusters`, or -1."""
        assert self._k, "no centers were assigned to"
        place = np.full(self._k, -1)
        place[clusters] = np.arange(len(clusters))
        return place

    def cluster_sums(self, clusters: NDArray[np.int64], scales: OwnScales, without: Floats) -> Ints:
        if self._weighing.kind == 2:
            return super().cluster_sums(clusters, scales, without)
        place, shape = self._place_of(clusters), (len(clusters), self.d + 1)
        given = [_given(values) for values in (without, scales.offset, scales.scale)]

        def add(rows: slice) -> Ints:
            x, sums = self._values(rows), np.zeros(shape, np.int64)
            passes_for(x).cluster_sums(x, self._labels[rows], place, *given, self._weights_in(rows), sums)
            return sums

        return np.add.reduce(run(add, self._spans(self._rows.m, _ROWS), self._threads))

    def _ranges_of(self, clusters: NDArray[np.int64], without: Floats, step: int) -> tuple[Floats, Floats]:
        place, without = self._place_of(clusters), _given(without)
        shape = len(clusters), self.d
        # Of bytes, which have no infinities for what no row widens, extremes are float64.
        dtype = self._values(slice(0, 1)).dtype
        kind = dtype if dtype.kind == "f" else np.dtype(np.float64)
        parts = []

        def widen(rows: slice) -> None:
            low, high = np.full(shape, np.inf, kind), np.full(shape, -np.inf, kind)
            all_rows = slice(rows.start * step, min(rows.stop * step, self._rows.m))
            x, labels = self._values(all_rows), self._labels[all_rows]
            passes_for(x).cluster_ranges(x, labels, place, without, low, high, step)
            parts.append((low, high))

        run(widen, self._spans(-(-self._rows.m // step), _ROWS), self._threads)
        low, high = parts[0]
        for lows, highs in parts[1:]:
            np.minimum(low, lows, out=low)
            np.maximum(high, highs, out=high)
        return low.astype(np.float64, copy=False), high.astype(np.float64, copy=False)

    def _rounded(self, centers: Floats, frame: Frame) -> NDArray[np.float32]:
        """Of rows far from the frame's offset, as groups are, products leave most to D: then D says the rest too."""
        if self.metric.normalizes or self.n * centers.size < _WORTH_PRODUCTS:
            return self._measured(centers, np.float32)
        centers, result = np.ascontiguousarray(centers), np.empty((self.n, len(centers)), np.float32)
        z = (centers - frame.offset) * frame.scale
        norms, errors, units = np.einsum("ij,ij->i", z, z), np.array(frame.product_errors), 2.0 ** (-2 * frame.exponent)
        vague = False

        def measure(rows: slice) -> None:
            nonlocal vague
            x, out = compilable(np.asarray(self._row_x[rows])), result[rows]
            found = scratch("distances", out.size, np.float64).reshape(out.shape)
            if vague:
                passes_for(x).distances(x, centers, 1.0, found)
                out[:] = self.metric.transformed(found)
                return
            y = np.subtract(x, frame.offset, dtype=np.float64)
            y *= frame.scale
            np.matmul(y, z.T, out=found)
            doubts = passes_for(x).rounded(x, centers, found, np.einsum("ij,ij->i", y, y), norms, errors, units, out)
            vague = doubts > _VAGUE * out.size

        run(measure, self._spans(self.n, max(32, _EXACT // max(centers.shape))), self._threads)
        return result

    def _measured(self, centers: Floats, dtype: Any = np.float64) -> NDArray[Any]:
        centers, result = np.ascontiguousarray(centers), np.empty((self.n, len(centers)), dtype)

        def measure(rows: slice) -> None:
            x = compilable(np.asarray(self._row_x[rows]))
            out = scratch("distances", len(x) * len(centers), np.float64).reshape(len(x), len(centers))
            passes_for(x).distances(x, centers, 1.0, out)
            result[rows] = self.metric.transformed(out)

        run(measure, self._spans(self.n, max(32, _EXACT // len(centers))), self._threads)
        return result

    # ------------------------------------------------------------ seeding

    _filtered = CompiledFilteredDistances

    def _closest_distances(self) -> tuple[MakeDistances, MakeDistances | None]:
        """By all D at first, unless these would take more memory than the rows."""
        first, later = super()._closest_distances()
        wide = self.n <= _FEW_ROWS or self.d * self._rows.x.itemsize >= _WIDE
        if self._in_blocks or self._rows.may_be_integral or not wide:
            return first, later
        scores = self._tuning.scores is not False
        return self._plain_distances, first if scores else None

    def _plain_distances(self) -> PlainDistances:
        def spans(m: int) -> list[slice]:
            return self._spans(self._rows.m, max(32, _EXACT // m))

        measure = by_compiled_distance(self._rows, spans, self._threads)
        return PlainDistances(measure, self._rows.m, self._rows.weights)
