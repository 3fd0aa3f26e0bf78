"""Points on NumPy whose rows are sparse: a pass costs what the rows store, and nothing for zeros.

Scores are products of CSR rows and centers; the few rows that these leave in doubt are made dense, for D. Terms of sums
measure from zero wherever a row may lack a feature (`scales.Scales`), so that only entries are added. Distances
that are summed or published are E (exact/sparse_rows.py). Labels and centers are those of the dense rows.
"""

# No bounds are kept from one assignment to the next: to move them takes the distances between all centers, k^2 d
# operations, where products with all centers take k for each entry.

from __future__ import annotations

import threading
from collections.abc import Callable
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gpukmeans.engine.numpy import tuning
from gpukmeans.engine.numpy.assign import FEW, ScoredCenters, decide, propose_by_columns, propose_by_rows
from gpukmeans.engine.numpy.csr_rows import CsrRows
from gpukmeans.engine.numpy.seeding import NumPySeeding
from gpukmeans.engine.numpy.seeding_distances import PlainDistances
from gpukmeans.engine.numpy.weighted_sampling import InverseCdf
from gpukmeans.engine.protocol import Centers, Doubt, Farthest, Known, NextCenters, Samples
from gpukmeans.exact.certificate import Frame
from gpukmeans.exact.distance import Floats, norms, squared_distance
from gpukmeans.exact.fixed_point import Ints
from gpukmeans.exact.inertia import Inertia
from gpukmeans.exact.scales import OwnScales, Scales
from gpukmeans.exact.sparse_rows import (
    Entries,
    expanded_distances,
    expansion_error,
    own_expanded_distances,
    with_zero,
)
from gpukmeans.thread_limits import thread_count
from gpukmeans.threads import run, scratch

# Entries of a task, and scores: 0.5 MB of float32, or 1 MB of float64.
_ENTRIES = 2**17

# Coordinates at once of rows made dense, and of pairs of a row and a center: 1 MB of float64.
_DENSE = 2**17

# Whole numbers up to this have exact sums of squares in float64 below `EXACT_SQUARES`.
_LARGEST_INTEGRAL = 2.0**20
EXACT_SQUARES = 2.0**50

_NONE = np.empty(0, np.int64)


class SparsePoints:
    """Samples whose x is a CSR matrix, which is copied only where entries are out of order or double."""

    sparse = True

    def __init__(self, samples: Samples) -> None:
        self.n, self.d = samples.shape
        self.metric, self._reused, self._summed = samples.metric, samples.reused, samples.summed
        self.weights, self._row_weights = samples.all_weights, samples.weights
        self.uncertain = 0
        self._rows = CsrRows(samples.x, normalized=self.metric.normalizes, once=not self._reused)
        self._tuning = tuning.current()
        self._threads = self._tuning.threads or (1 if self._rows.stored <= _ENTRIES else thread_count())
        self._lock = threading.Lock()
        self._labels = np.empty(0, np.int32)
        self._target: ScoredCenters | None = None
        self._sums = np.empty((0, 0), np.int64)

    # ------------------------------------------------------------ preparation

    def feature_range(self) -> tuple[Floats, Floats]:
        low, high = self._range_of_rows() if self._summed else self._rows.common_range()
        self._low, self._high = self.metric.scaled_range(low, high)
        return self._low, self._high

    def _range_of_rows(self) -> tuple[Floats, Floats]:
        return self._rows.feature_range()

    def set_feature_range(self, low: Floats, high: Floats) -> None:
        self._low, self._high = low, high

    def prepare(self, scales: Scales) -> None:
        self._scales = scales

    @cached_property
    def _frame(self) -> Frame | None:
        if self._tuning.scores is False:
            return None
        return Frame.of_sparse(self._low, self._high, self._rows.most_entries, as_it_is=True)

    @cached_property
    def integral(self) -> bool:
        largest = max(-float(self._low.min()), float(self._high.max()))
        return largest <= _LARGEST_INTEGRAL and self._rows.integral()

    def _spans(self, width: int) -> list[slice]:
        """All rows, in pieces of about as many entries, or of rows times width, as a task takes."""
        if step := self._tuning.chunk_rows:
            return [slice(a, min(a + step, self.n)) for a in range(0, self.n, step)]
        return self._rows.spans(_ENTRIES, width)

    def _weights_of(self, rows: Any) -> Floats | Ints | None:
        return None if self._row_weights is None else self._row_weights[rows]

    # ------------------------------------------------------------ assignment and update

    def next_centers(self, doubt: Doubt) -> NextCenters | None:
        return None  # the driver's arithmetic is what it would do

    def moved(self, centers: Floats, counts: Floats, part: float) -> tuple[Floats, Floats] | None:
        return None  # likewise

    def assign(self, centers: Centers) -> int:
        centers = np.asarray(centers)
        k = len(centers)
        if self._target is None or self._target.k != k:
            self._labels = np.full(self.n, -1, np.int32)
            self._sums = np.zeros((k if self._reused else 0, self.d + 1), np.int64)
        target = self._target = self._scored(centers)
        exact = target.frame is not None and self.integral and _whole(centers[0]) and _whole(centers)
        if target.frame is not None:
            self._keep(target.frame)
        return sum(run(lambda rows: self._assign(rows, target, exact), self._spans(-(-k // 8)), self._threads))

    def _scored(self, centers: Floats) -> ScoredCenters:
        return ScoredCenters.of(centers, self._frame).without_repeats()

    def _keep(self, frame: Frame) -> None:
        """Make what all threads read, once."""
        self._rows.keep_singles(frame.scale)
        _ = self._rows.squares

    def _assign(self, rows: slice, target: ScoredCenters, exact: bool) -> int:
        """Label the rows of a span; returns how many changed."""
        labels = self._nearest(rows, target, exact)
        before = self._labels[rows]
        (changed,) = (labels != before).nonzero()
        if len(changed) and self._reused:
            self._move(changed + rows.start, before[changed], labels[changed])
        self._labels[rows] = labels
        return len(changed)

    def _move(self, rows: NDArray[np.int64], before: NDArray[np.int32], after: NDArray[np.integer]) -> None:
        """The terms of rows go from their clusters before, all negative if there were none, to others."""
        moved, weights = self._rows.take(rows), self._weights_of(rows)
        terms = self._scales.terms_of_entries(moved, weights)
        units = np.ones(moved.m, np.int64) if weights is None else self.weights.integer_weights(weights)
        with self._lock:
            _add(self._sums, moved, after, terms, units)
            if before[0] >= 0:
                _add(self._sums, moved, before, terms, units, to=np.subtract)

    def _nearest(self, rows: slice, target: ScoredCenters, exact: bool) -> NDArray[np.integer]:
        """Labels of a span of rows: float32 products propose, float64 products choose what is possible, D decides.

        exact: whether rows and centers are whole numbers, whose squares float64 adds up exactly if they are small
        (test_sparse.test_ties_of_whole_numbers_need_no_dense_rows fails if other numbers count as such).
        """
        if target.frame is None:
            entries = self._rows.take(rows)
            return self._decide(entries, np.ones((entries.m, target.k), bool), target)
        labels, uncertain, possible = self._propose(rows, target)
        if len(uncertain) == 0:
            return labels
        with self._lock:
            self.uncertain += len(uncertain)
        several = self._settle(rows, target, exact, labels, uncertain, possible)
        if len(several):
            doubtful = uncertain[several]
            entries = self._rows.take(doubtful + rows.start)
            labels[doubtful] = self._decide(entries, possible[several], target)
        return labels

    def _settle(
        self,
        rows: slice,
        target: ScoredCenters,
        exact: bool,
        labels: NDArray[np.integer],
        uncertain: NDArray[np.int64],
        possible: NDArray[np.bool_],
    ) -> NDArray[np.int64]:
        """Label those rows of a span that scores leave uncertain by float64 products; returns the indices of those
        among them that these leave to D, and leaves in `possible` among which centers."""
        assert target.frame is not None
        scale = target.frame.scale
        entries = self._rows.take(uncertain + rows.start)
        products = entries.matrix(entries.exact) @ target.centers
        products *= scale**2
        y_norms = entries.add_up(entries.exact * entries.exact) * scale**2
        if exact and max(y_norms.max(), target.norms.max()) <= EXACT_SQUARES * scale**2:
            labels[uncertain] = (target.norms - 2 * products).argmin(axis=1)
            return _NONE
        low, high = target.frame.bounds_of_products(products, y_norms, target.norms)
        possible &= low <= np.minimum.reduce(high, axis=1)[:, None]
        labels[uncertain] = possible.argmax(axis=1)
        return (np.count_nonzero(possible, axis=1) > 1).nonzero()[0]

    def _propose(
        self, rows: slice, target: ScoredCenters
    ) -> tuple[NDArray[np.integer], NDArray[np.int64], NDArray[np.bool_]]:
        """Labels (m,) of a span of rows by scores, which of these are uncertain, (u,), and the centers (u, k) that may
        be the nearest to those."""
        assert target.frame is not None
        y_norms = self._rows.squares[rows] * target.frame.scale**2
        margin = target.frame.row_margin(y_norms.astype(np.float32))
        products = self._rows.singles(rows, target.frame.scale) @ target.columns[:-1]
        if target.k <= FEW:
            scores = scratch("scores", products.size, np.float32).reshape(products.shape[::-1])
            np.add(products.T, target.columns[-1][:, None], out=scores)
            labels, _, _, _, uncertain, possible = propose_by_columns(scores, target, margin, bounds=False)
        else:
            products += target.columns[-1]
            labels, _, _, _, uncertain, possible = propose_by_rows(products, target, margin)
        return labels, uncertain, possible

    def _decide(self, entries: Entries, possible: NDArray[np.bool_], target: ScoredCenters) -> NDArray[np.int64]:
        """Labels by D among the possible centers, by rows made dense."""
        step = max(1, _DENSE // self.d)
        parts = [
            decide(entries.take(slice(a, a + step)).dense(), possible[a : a + step], target.centers)
            for a in range(0, entries.m, step)
        ]
        return np.concatenate(parts)

    def sums(self) -> Ints:
        return self._sums.copy()

    def labels(self) -> NDArray[np.int32]:
        return self._labels.copy()

    # ------------------------------------------------------------ some clusters by themselves

    def cluster_ranges(
        self, clusters: NDArray[np.int64], without: Floats, known: Known | None = None
    ) -> tuple[Floats, Floats]:
        m = len(clusters)
        low, high = np.full((m, self.d), np.inf), np.full((m, self.d), -np.inf)
        stored, count = np.zeros((m, self.d), np.int32), np.zeros(m, np.int64)

        def widen(entries: Entries, places: NDArray[np.integer], _: Any) -> None:
            at = np.repeat(places.astype(np.int64) * self.d, entries.counts)
            at += entries.columns
            np.minimum.at(low.reshape(-1), at, entries.exact)
            np.maximum.at(high.reshape(-1), at, entries.exact)
            np.add.at(stored.reshape(-1), at, np.int32(1))
            count[:] += np.bincount(places, minlength=m)

        self._on_clusters(widen, clusters, without)
        # Not where no row lacks a feature (test_sparse.test_points_on_sparse_rows_answer_as_on_an_array).
        return with_zero(low, high, stored < count[:, None])

    def cluster_sums(self, clusters: NDArray[np.int64], scales: OwnScales, without: Floats) -> Ints:
        sums = np.zeros((len(clusters), self.d + 1), np.int64)

        def add(entries: Entries, places: NDArray[np.integer], weights: Floats | Ints | None) -> None:
            terms = scales.terms_of_entries(entries, places, weights)
            _add(sums, entries, places, terms, scales.units(places, weights))

        self._on_clusters(add, clusters, without)
        return sums

    def _on_clusters(
        self,
        work: Callable[[Entries, NDArray[np.integer], Floats | Ints | None], None],
        clusters: NDArray[np.int64],
        without: Floats,
    ) -> None:
        """Call work(rows, places, weights) for pieces of the rows of these clusters, places being the indices of those
        in `clusters`; without the rows at these locations (p, d)."""
        assert self._target is not None, "no centers were assigned to"
        place = np.full(self._target.k, -1)
        place[clusters] = np.arange(len(clusters))
        wanted = place[self._labels] >= 0
        if len(without):
            wanted &= ~self._rows.at(without)
        for span in self._spans(1):
            (kept,) = wanted[span].nonzero()
            kept += span.start
            if len(kept):
                work(self._rows.take(kept), place[self._labels[kept]], self._weights_of(kept))

    # ------------------------------------------------------------ distances

    def _measure(self, centers: Floats) -> Callable[[slice], Floats]:
        """E of a span of rows to their own centers, or to the only one."""
        squares = self._squares(centers)

        def measure(rows: slice) -> Floats:
            labels = self._labels[rows] if len(centers) > 1 else None
            return own_expanded_distances(self._rows.take(rows), centers.T, squares, labels)

        return measure

    def _squares(self, centers: Floats) -> Floats:
        """N of the centers."""
        return norms(centers)

    def _all_own_distances(self, centers: Floats) -> Floats:
        return np.concatenate(run(self._measure(centers), self._spans(1), self._threads))

    def inertia(self, centers: Floats, split: Inertia) -> tuple[int, int]:
        measure = self._measure(centers)
        sums = run(lambda rows: split.sums(measure(rows), self._weights_of(rows)), self._spans(1), self._threads)
        return sum(coarse for coarse, _ in sums), sum(fine for _, fine in sums)

    def farthest(self, centers: Floats, m: int) -> Farthest:
        """By D: of rows that E leaves in doubt, which may be as far as any other
        (test_sparse.test_the_farthest_rows_are_those_of_the_dense_form fails if E alone decides)."""
        columns = np.ascontiguousarray(centers.T)
        low = self._all_own_distances(centers)
        own = norms(centers).take(self._labels if len(centers) > 1 else np.zeros(self.n, np.int64))
        error = expansion_error(self.d) * (self._rows.squares + own) + self.d * 2.0**-1060
        high = low + error
        low -= error
        locations = []
        for _ in range(m):
            (doubtful,) = ((high >= low.max()) & (low < high)).nonzero()
            for a in range(0, len(doubtful), step := max(1, _DENSE // self.d)):
                rows = doubtful[a : a + step]
                x = self._rows.take(rows).dense()
                low[rows] = high[rows] = squared_distance(x, columns, self._labels[rows] if len(centers) > 1 else None)
            largest = low.max()
            if largest <= 0:
                break
            ties = np.flatnonzero((low == largest) & (high == largest))
            first = self._rows[ties[:1]][0]
            equal = self._rows.take(ties).equal(first)
            low[ties[equal]] = high[ties[equal]] = 0.0
            locations.append((float(largest), first, int(self._labels[ties[0]])))
        return Farthest.of(locations, self.d)

    def distances(self, centers: Floats, dtype: Any = np.float64) -> Floats:
        return self._to_all(centers, self.metric.transformed)

    def _to_all(self, centers: Floats, of: Callable[[Floats], Floats] = lambda distance: distance) -> Floats:
        """E of all rows to all centers (k, d), or what becomes `of` it, (n, k)."""
        columns, squares = np.ascontiguousarray(centers.T), self._squares(centers)
        result = np.empty((self.n, len(centers)))

        def measure(rows: slice) -> None:
            result[rows] = of(self._expanded(rows, columns, squares))

        run(measure, self._pair_spans(len(centers)), self._threads)
        return result

    def _pair_spans(self, k: int) -> list[slice]:
        """All rows, in pieces for passes over pairs of an entry and one of k centers."""
        return self._rows.spans(max(1, _ENTRIES // k), 1)

    def _expanded(self, rows: slice, columns: Floats, squares: Floats) -> Floats:
        """E of a span of rows to all centers, as `expanded_distances` takes these."""
        return expanded_distances(self._rows.take(rows), columns, squares)

    # ------------------------------------------------------------ seeding

    def seeding(self) -> NumPySeeding:
        inverse_cdf = InverseCdf(self.n, self._row_weights, self.weights, None)
        return NumPySeeding(self._rows, inverse_cdf, self._closest_distances, self._all_own_distances)

    def _closest_distances(self) -> PlainDistances:
        def measure(candidates: Floats) -> Floats:
            return np.ascontiguousarray(self._to_all(candidates).T)

        return PlainDistances(measure, self.n, self._row_weights)


def _whole(values: Floats) -> bool:
    """Whether all are whole numbers."""
    return bool((values == np.rint(values)).all())


def _add(
    sums: Ints,
    entries: Entries,
    places: NDArray[np.integer],
    terms: Ints,
    units: Ints,
    to: np.ufunc = np.add,
) -> None:
    """Add rows' terms (e,) and units (m,) to the sums (k, d + 1) at the rows' places (m,), or subtract them."""
    at = np.repeat(places.astype(np.int64) * sums.shape[1], entries.counts)
    at += entries.columns
    to.at(sums.reshape(-1), at, terms)
    to.at(sums[:, -1], places, units)
