"""Steps that are a compiled call each (the extra `fast`): labels of few rows, next centers, those of a batch."""

from __future__ import annotations

import math
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from gpukmeans.engine.numpy.assign import ScoredCenters
from gpukmeans.engine.numpy.numba_batches import moved, moved_by_rows, step_of
from gpukmeans.engine.numpy.numba_labels import Earlier, label_batch, sum_labels
from gpukmeans.engine.numpy.numba_means import label, next_centers
from gpukmeans.engine.numpy.numba_passes import SMALL, Sums, Weighing
from gpukmeans.engine.numpy.points import _FEW_PAIRS, NumPyPoints
from gpukmeans.engine.numpy.rows import read_only
from gpukmeans.engine.protocol import Doubt, NextCenters
from gpukmeans.exact.certificate import Frame
from gpukmeans.exact.distance import Floats
from gpukmeans.exact.fixed_point import SUM_BITS, Ints, ceil_log2

# Up to so many steps from a coordinate to a center's, D takes no longer than it takes to make centers ready for scores.
_FEW_STEPS = 2**16

# Beyond so many centers, to look at all pairs of means takes longer than to sort them.
_MANY_MEANS = 2**10

# Rows of a batch at least, of which a sample is little, and features at most.
_FEWEST, _WIDEST = 2**7, 2**12

# Values from which on groups far apart are looked for.
_WORTH_GROUPS = 2**15

_NO_FLOATS = np.empty(0)
_NO_INTS = np.empty(0, np.int64)
_NO_SUMS = Sums(np.empty((0, 0), np.int64), _NO_FLOATS, _NO_FLOATS, False)


class CompiledSteps(NumPyPoints):
    """What CompiledPoints do in one call each, where NumPyPoints make many."""

    _unsummed = False  # whether the terms of the labels are in no sum
    _earlier: Earlier  # of the labelling of a batch by these centers
    _earlier_target: ScoredCenters | None = None

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

    def _sums_in(self, value: NDArray[np.int64]) -> Sums:
        """The sums (k, d + 1) as passes want them."""
        small = SUM_BITS - ceil_log2(self.weights.total) <= math.log2(SMALL)
        return Sums(value, self._scales.offset, self._scales.scale, small)

    # ------------------------------------------------------------ assignment and update

    def _label_all(self, centers: Floats) -> int:
        """By D alone in a single call, where scores cost more to make ready than they save; of a batch of rows by
        scores in one."""
        given = np.ascontiguousarray(centers)
        own, x, weighing = self._tuning, self._rows.x, self._weighing
        few = len(given) * x.size <= _FEW_STEPS and own.scores is None and own.bounds is None and own.chunk_rows is None
        if few and not (weighing.kind or len(weighing.rows) or x.dtype == np.float16):
            self._sum_first_labels()
            self._begin(len(given), None)
            self._target = ScoredCenters.of(given, None)
            sums = self._sums_in(self._sums.value) if self._summed else _NO_SUMS
            return int(label(x.dtype, x.flags.c_contiguous)(x, given, self._labels, sums))
        if self._is_batch(len(given)):
            changed = self._label_batch(given)
            if changed is not None:
                return changed
        self._sum_first_labels()
        return super()._label_all(given)

    def _begin(self, k: int, frame: Frame | None) -> None:
        if self._target is None or self._target.k != k:
            self._unsummed = False
        super()._begin(k, frame)

    def _label_batch(self, centers: Floats) -> int | None:
        """Terms of first labels wait until somebody asks for sums, which nobody does of most batches. Rows that are
        labelled again, as by the centers that they have moved, are skipped where bounds say that it changes nothing.
        None where scores will not do, or where groups may be far apart."""
        self._begin(len(centers), None)
        again = self._target is not None and self._target is self._earlier_target
        if not again:
            self._earlier = Earlier.room_for(self._rows.x, len(centers))
        self._target = ScoredCenters.of(centers, None)
        self._unsummed |= self._summed and bool(self._labels[0] < 0)
        sums = self._sums_in(self._sums.value) if self._summed and not self._unsummed else _NO_SUMS
        x, look = self._rows.x, self._rows.x.size >= _WORTH_GROUPS
        given = x, self._low, self._high, look, centers, self._weighing, sums, self._labels
        changed, self._skipped, uncertain = label_batch(*given, self._earlier, again)
        if uncertain < 0:
            return None
        self._earlier_target = self._target
        self.uncertain += uncertain
        return changed

    def _sum_first_labels(self) -> None:
        """Add the terms of labels that are in no sum yet, if there are labels
        (test_numba_labels.test_sums_are_those_of_the_labels fails without)."""
        if self._unsummed and self._labels[0] >= 0:
            sum_labels(self._rows.x, self._weighing, self._sums_in(self._sums.value), self._labels)
        self._unsummed = False

    def sums(self) -> Ints:
        self._sum_first_labels()
        return super().sums()

    def _is_batch(self, k: int) -> bool:
        """Whether rows are so few that one thread labels them by k centers without bounds, and of a kind and form that
        there is a single call for."""
        x = self._rows.x
        lie = isinstance(x, np.ndarray) and x.dtype in (np.float32, np.float64) and x.flags.c_contiguous
        few = self._threads == 1 and self._rows.m * k <= _FEW_PAIRS
        return lie and few and self._rows.m >= _FEWEST and self.d <= _WIDEST and not self._tuning.of_passes

    def next_centers(self, doubt: Doubt) -> NextCenters | None:
        """Not of many, of which no time is lost between NumPy's calls, and pairs are too many."""
        assert self._target is not None, "no centers were assigned to"
        self._sum_first_labels()
        before, scales = np.ascontiguousarray(self._target.given), self._scales
        k, d = before.shape
        if k > _MANY_MEANS or self.metric.normalizes:
            return None
        means, shifts = np.empty((k, d)), np.empty(k)
        offset = scales.offset if scales.offset.any() else _NO_FLOATS
        unit = 2.0**-self.weights.exponent
        made = next_centers()(self._sums.value, unit, scales.scale, offset, before, *doubt, means, shifts)
        return NextCenters(means, shifts) if made else None

    def moved(self, centers: Floats, counts: Floats, part: float) -> tuple[Floats, Floats] | None:
        """A batch's by its rows, without sums. Of others where the ranges of some rows are too small, by those of
        all."""
        step = step_of(self._scales, self.metric, centers, counts, part)
        if step is None:
            return None
        if self._unsummed:
            x, (kind, _, counts, _) = self._rows.x, self._weighing
            done = moved_by_rows(x.dtype)(step, read_only(x), self._labels, kind, counts)
            return (step.centers, step.seen) if done else None
        clusters, nowhere = np.arange(len(centers)), np.empty((0, self.d))
        every = max(1, self._range_step(len(centers)))
        for rows in dict.fromkeys((every, 1)):
            if moved()(step, self._sums.value, *self._ranges_of(clusters, nowhere, rows), rows > 1):
                return step.centers, step.seen
        return None
