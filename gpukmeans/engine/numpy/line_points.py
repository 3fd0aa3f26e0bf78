"""Points of one feature: rows in ascending order, of which each cluster has a run.

A row between two centers that are neighbours on the line has one of them for its nearest, and rows change from one to
the other once on the way. So an assignment looks for k - 1 places, and sums are differences of running ones: what is
left to do for all rows is to write their labels. To sort them once takes as long as a pass or two over all pairs.

D decides, as everywhere. Rounding keeps the order of what is rounded. So from a center a to its neighbour b, D to a
never falls from row to row, and D to b never rises: "b is nearer, or as near and comes first" is false up to some row,
and true from there on.
"""

from __future__ import annotations

from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from gpukmeans.engine.numpy import tuning
from gpukmeans.engine.numpy.assign import ScoredCenters
from gpukmeans.engine.numpy.deduplicate import Arrangement, arrange, inverse, take
from gpukmeans.engine.numpy.points import NumPyPoints
from gpukmeans.engine.protocol import Known, Samples
from gpukmeans.exact.distance import Floats, distances_of_rows
from gpukmeans.exact.fixed_point import Ints
from gpukmeans.exact.metric import EUCLIDEAN
from gpukmeans.exact.scales import Scales

# Rows, at least, as below calls take as long whatever they do; and at most, as each takes some 40 bytes: 160 MB.
_FEWEST, _MOST = 2**11, 2**22

# Of the span of rows and centers, how far apart neighbouring centers are at least. Differences from a row are off by
# 2**-53 of it, so that those from a center and from one beyond it, and their squares, are in order once rounded. The
# span itself is such that no square is below the least normal number.
_APART, _LEAST_SPAN = 2.0**-40, 2.0**-400

# How far from a middle D has to be asked, of the gap and of the larger magnitude. Off by 2**-52 of the gap, a row's
# rounded distances to the two differ, and so do their squares; the middle itself is off by 2**-52 of magnitudes.
_NEXT = 2.0**-50

# Rows at a time: 2 MB of terms.
_PIECE = 2**17


def serves(samples: Samples) -> bool:
    """Whether these rows are a line that is looked at more than once. Whoever chooses how rows are looked at chooses
    another way."""
    own, (n, d) = tuning.current(), samples.shape
    if d != 1 or samples.sparse or not samples.reused or samples.metric is not EUCLIDEAN or own.line is False:
        return False
    fits = _FEWEST <= n <= _MOST and not own.of_passes
    return isinstance(samples.x, np.ndarray) and (fits or own.line is True)


class LinePoints(NumPyPoints):
    """NumPyPoints with the same answers. Of equal centers, or of some too close together, it does as that does.
    test_line_points.test_a_line_is_brute_force fails without any of its guards."""

    # Where the rows of each center begin, by `_order` of the centers; None if the last assignment was not by runs.
    _runs: NDArray[np.int64] | None = None
    _order: NDArray[np.int64]

    def prepare(self, scales: Scales) -> None:
        super().prepare(scales)
        self.__dict__.pop("_running", None)

    def _arrange(self, sort: bool) -> None:
        super()._arrange(sort)
        self._ascending = self._rows.x[:, 0].astype(np.float64)

    def _arrangement(self, sort: bool) -> Arrangement:
        """By value, and equal rows merged where that pays."""
        x, weights, position = self._row_x, self._row_weights, None
        assert isinstance(x, np.ndarray)
        if self.n >= self._fewest:
            merged = arrange(x, weights, self._low, self._high, sort=False)
            if merged is not None:
                x, weights, position = merged
        order = np.argsort(x[:, 0]).astype(np.int32)
        went = inverse(order)
        sorted_weights = None if weights is None else weights[order]
        return Arrangement(x[order], sorted_weights, went if position is None else take(went, position))

    @cached_property
    def _running(self) -> Ints:
        """The sums of all rows before each, (2, m + 1): below 2**62 whatever the signs, as all together are."""
        m, weights = self._rows.m, self._rows.weights
        running = np.zeros((2, m + 1), np.int64)
        for rows in self._spans(m, _PIECE):
            terms = self._scales.terms(self._ascending[None, rows], self._rows.weights_of(rows))
            for sums, column in zip(running[: 1 if weights is None else 2], terms.T, strict=False):
                np.cumsum(column, out=sums[rows.start + 1 : rows.stop + 1])
                sums[rows.start + 1 : rows.stop + 1] += sums[rows.start]
        if weights is None:
            running[1] = np.arange(m + 1)
        return running

    def _label_all(self, centers: Floats) -> int:
        self._order = order = np.argsort(centers[:, 0], kind="stable")
        self._runs = runs = self._runs_of(centers[order, 0], order)
        if runs is None:
            return super()._label_all(centers)
        self._begin(len(centers), None)
        self._target = ScoredCenters.of(centers, None)
        labels = np.repeat(order.astype(np.int32), np.diff(runs))
        changed = labels != self._labels
        self._labels = labels
        if self._summed:
            self._sums.value[order] = np.diff(self._running[:, runs]).T
        return int(np.count_nonzero(changed) if self._copies is None else self._copies[changed].sum())

    def _runs_of(self, centers: Floats, order: NDArray[np.int64]) -> NDArray[np.int64] | None:
        """Where the rows of each of these centers, which ascend, begin, and where the last ones end, (k + 1,); None if
        some are too close together. order: which centers they are."""
        x, gaps = self._ascending, np.diff(centers)
        span = max(float(self._high[0]), float(centers[-1])) - min(float(self._low[0]), float(centers[0]))
        if len(gaps) and not (span >= _LEAST_SPAN and float(gaps.min()) > _APART * span):
            return None
        middle = centers[:-1] + gaps / 2
        off = _NEXT * (gaps + np.maximum(abs(centers[:-1]), abs(centers[1:])))
        first, last = x.searchsorted(middle - off, "left"), x.searchsorted(middle + off, "right")
        for i in np.flatnonzero(first < last).tolist():
            near = x[first[i] : last[i]]
            left, right = (distances_of_rows(near[:, None], centers[j : j + 1]) for j in (i, i + 1))
            stays = left <= right if order[i] < order[i + 1] else left < right
            first[i] += np.count_nonzero(stays)
            self.uncertain += len(near)
        return np.concatenate([[0], first, [len(x)]])

    def cluster_ranges(
        self, clusters: NDArray[np.int64], without: Floats, known: Known | None = None
    ) -> tuple[Floats, Floats]:
        if self._runs is None or len(without):
            return super().cluster_ranges(clusters, without, known)
        begin, end = self._runs[:-1], self._runs[1:]
        (some,) = (begin < end).nonzero()
        low, high = np.full((len(begin), 1), np.inf), np.full((len(begin), 1), -np.inf)
        low[self._order[some], 0] = self._ascending[begin[some]]
        high[self._order[some], 0] = self._ascending[end[some] - 1]
        return low[clusters], high[clusters]
