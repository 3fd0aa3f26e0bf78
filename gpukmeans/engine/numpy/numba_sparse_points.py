"""Points of sparse rows whose passes over entries are compiled (the extra `fast`); all else is SparsePoints'."""

from __future__ import annotations

from collections.abc import Callable
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gpukmeans.engine.numpy.assign import ScoredCenters
from gpukmeans.engine.numpy.numba_batches import moved_by_entries, step_of
from gpukmeans.engine.numpy.numba_means import any_close
from gpukmeans.engine.numpy.numba_passes import TILE
from gpukmeans.engine.numpy.numba_sparse_passes import SparsePasses, center_passes, sparse_passes
from gpukmeans.engine.numpy.rows import read_only
from gpukmeans.engine.numpy.sparse_points import EXACT_SQUARES, SparsePoints
from gpukmeans.engine.protocol import Doubt, Known, NextCenters
from gpukmeans.exact.certificate import TOO_FAR, Frame
from gpukmeans.exact.distance import Floats
from gpukmeans.exact.fixed_point import Ints
from gpukmeans.exact.sparse_rows import Entries
from gpukmeans.threads import scratch

_DTYPES = [np.dtype(dtype) for dtype in (np.float32, np.float64)]

_NO_FLOATS = np.empty(0)
_NO_INTS = np.empty(0, np.int64)


def compiles_entries(entries: Entries) -> bool:
    """Whether there are compiled passes for these."""
    arrays = entries.values, entries.columns, entries.starts
    lie = all(array.flags.c_contiguous and array.flags.aligned for array in arrays)
    return lie and arrays[0].dtype in _DTYPES and arrays[1].dtype == arrays[2].dtype


class CompiledSparsePoints(SparsePoints):
    """SparsePoints with the same answers: each method here has its twin of the same name there."""

    _unsummed = False  # whether the labels are the first by as many centers, and their terms are in no sum

    @cached_property
    def _passes(self) -> SparsePasses:
        return sparse_passes(self._rows.values.dtype, self._rows.columns.dtype)

    def _entries(self, rows: slice) -> tuple[NDArray[Any], NDArray[Any], NDArray[Any]]:
        """The entries of a span of rows: all that there are, and where these begin and end."""
        return self._rows.values, self._rows.columns, self._rows.starts[rows.start : rows.stop + 1]

    def _range_of_rows(self) -> tuple[Floats, Floats]:
        low, high, stored = np.full(self.d, np.inf), np.full(self.d, -np.inf), np.zeros(self.d, np.int64)
        self._passes.feature_range(self._rows.values, self._rows.columns, self.n, low, high, stored)
        return low, high

    # ------------------------------------------------------------ assignment and update

    def _scored(self, centers: Floats) -> ScoredCenters:
        frame = self._frame
        if frame is None:
            return super()._scored(centers)
        k, d = centers.shape
        columns, norms, slack = np.empty((d + 1, k), np.float32), np.empty(k), np.empty(k, np.float32)
        given = np.ascontiguousarray(centers)
        center_passes().place(read_only(given), frame.scale, frame.center_error, columns, norms, slack)
        scored = float(norms.max()) < TOO_FAR
        if not scored:
            return ScoredCenters.of(centers, None)
        return ScoredCenters(given, frame, columns, norms, slack).without_repeats()

    def _keep(self, frame: Frame) -> None:
        """Nothing: values become float32 as they are read."""

    def _propose(
        self, rows: slice, target: ScoredCenters
    ) -> tuple[NDArray[np.integer], NDArray[np.int64], NDArray[np.bool_]]:
        assert target.frame is not None
        m = rows.stop - rows.start
        labels, uncertain = np.empty(m, np.int32), np.empty(m, np.int64)
        possible = scratch("possible", m * target.k, np.bool_).reshape(m, target.k)
        squares = np.full(target.k + -target.k % TILE, np.inf, np.float32)
        squares[: target.k] = target.columns[-1]
        centers = target.frame.scale, target.columns, squares, target.slack, *target.frame.row_margin_factors
        found = self._passes.propose(*self._entries(rows), *centers, labels, uncertain, possible)
        return labels, uncertain[:found], possible[:found]

    def _settle(
        self,
        rows: slice,
        target: ScoredCenters,
        exact: bool,
        labels: NDArray[np.integer],
        uncertain: NDArray[np.int64],
        possible: NDArray[np.bool_],
    ) -> NDArray[np.int64]:
        """Among the possible centers alone, by a row's products with each."""
        assert target.frame is not None
        scale, several = target.frame.scale, np.empty(len(uncertain), np.int64)
        largest = EXACT_SQUARES * scale**2 if exact and target.norms.max() <= EXACT_SQUARES * scale**2 else -1.0
        centers = self._given(target), target.norms, scale**2, *target.frame.product_errors
        found = self._passes.settle(*self._entries(rows), *centers, largest, uncertain, possible, labels, several)
        return several[:found]

    def _given(self, target: ScoredCenters) -> Floats:
        return np.ascontiguousarray(target.given)

    @cached_property
    def _weighing(self) -> tuple[int, Floats, NDArray[np.int64]]:
        """0 and nothing; 1 and counts; or 2, the weights (n,), and as sums count them."""
        weights = self._row_weights
        if weights is None:
            return 0, read_only(_NO_FLOATS), read_only(_NO_INTS)
        counts = np.ascontiguousarray(self.weights.integer_weights(weights))
        if weights.dtype == np.int64:
            return 1, read_only(_NO_FLOATS), read_only(counts)
        return 2, read_only(np.ascontiguousarray(weights)), read_only(counts)

    def _move(self, rows: NDArray[np.int64], before: NDArray[np.int32], after: NDArray[np.integer]) -> None:
        """The first labels wait until somebody asks for sums, which nobody does of most batches."""
        with self._lock:
            if before[0] < 0:
                self._unsummed = True
                return
            self._sum_first_labels()
            self._add_moves(rows, before, after.astype(np.int32, copy=False))  # by D alone they are int64

    def _sum_first_labels(self) -> None:
        """No label has changed since: whoever changes some comes here first
        (test_numba_sparse_passes.test_each_pass_is_its_twin fails if sums are asked for without)."""
        if self._unsummed:
            self._unsummed = False
            self._add_moves(np.arange(self.n), np.full(self.n, -1, np.int32), self._labels)

    def _add_moves(self, rows: NDArray[np.int64], before: NDArray[np.int32], after: NDArray[np.int32]) -> None:
        entries, scales = self._entries(slice(0, self.n)), self._scales
        self._passes.move(*entries, rows, before, after, scales.offset, scales.scale, *self._weighing, self._sums)

    def sums(self) -> Ints:
        self._sum_first_labels()
        return super().sums()

    def next_centers(self, doubt: Doubt) -> NextCenters | None:
        """In one pass over the sums, unless the driver has to look again."""
        target, scales = self._target, self._scales
        assert target is not None, "no centers were assigned to"
        self._sum_first_labels()
        weight = np.ldexp(self._sums[:, -1].astype(np.float64), -self.weights.exponent)
        if self.metric.normalizes or not weight.all():
            return None
        centers, shifts = np.empty((target.k, self.d)), np.empty(target.k)
        offset = scales.offset if scales.offset.any() else _NO_FLOATS
        center_passes().means(self._sums, weight, 1 / scales.scale, offset, self._given(target), centers, shifts)
        # test_numba_sparse_passes.test_means_in_doubt_are_left_to_the_driver
        most = doubt.limit * (1 + doubt.fractions / float(weight.min())) ** 2
        if most > 0 and any_close()(centers, doubt.widest, most):
            return None
        return NextCenters(centers, shifts)

    def moved(self, centers: Floats, counts: Floats, part: float) -> tuple[Floats, Floats] | None:
        """By the entries, without sums."""
        step = step_of(self._scales, self.metric, centers, counts, part)
        if step is None:
            return None
        entries, (kind, _, weights) = self._entries(slice(0, self.n)), self._weighing
        move = moved_by_entries(entries[0].dtype, entries[1].dtype)
        return (step.centers, step.seen) if move(step, *entries, self._labels, kind, weights) else None

    # ------------------------------------------------------------ some clusters by themselves

    def cluster_ranges(
        self, clusters: NDArray[np.int64], without: Floats, known: Known | None = None
    ) -> tuple[Floats, Floats]:
        if len(without):
            return super().cluster_ranges(clusters, without, known)
        assert self._target is not None, "no centers were assigned to"
        place = np.full(self._target.k, -1)
        place[clusters] = np.arange(len(clusters))
        low, high = np.empty((len(clusters), self.d)), np.empty((len(clusters), self.d))
        self._passes.ranges(*self._entries(slice(0, self.n)), self._labels, place, low, high)
        return low, high

    # ------------------------------------------------------------ distances

    def _squares(self, centers: Floats) -> Floats:
        out = np.empty(len(centers))
        center_passes().squares(np.ascontiguousarray(centers), out)
        return out

    def _measure(self, centers: Floats) -> Callable[[slice], Floats]:
        squares, centers = self._squares(centers), np.ascontiguousarray(centers)

        def measure(rows: slice) -> Floats:
            out = np.empty(rows.stop - rows.start)
            self._passes.own_expanded(*self._entries(rows), centers, squares, self._labels[rows], out)
            return out

        return measure

    def _pair_spans(self, k: int) -> list[slice]:
        return self._spans(k)

    def _expanded(self, rows: slice, columns: Floats, squares: Floats) -> Floats:
        out = np.empty((rows.stop - rows.start, len(squares)))
        self._passes.expanded(*self._entries(rows), columns, squares, out)
        return out
