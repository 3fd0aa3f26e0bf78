"""Points on NumPy: one array in host memory, a pool of threads."""

from __future__ import annotations

import math
import threading
from collections.abc import Callable
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gpukmeans.engine.numpy import tuning
from gpukmeans.engine.numpy.assign import ScoredCenters, distances_of_pairs, exact_nearest, nearest
from gpukmeans.engine.numpy.cluster_sums import ClusterSums, added
from gpukmeans.engine.numpy.deduplicate import CURVE_FEATURES, FEWEST_ROWS, Arrangement, arrange, take
from gpukmeans.engine.numpy.hamerly import CenterShift, HamerlyBounds, Trial
from gpukmeans.engine.numpy.normalized_rows import NormalizedRows, normalized_rows
from gpukmeans.engine.numpy.rows import Rows
from gpukmeans.engine.numpy.seeding import NumPySeeding
from gpukmeans.engine.numpy.seeding_distances import (
    BlockDistances,
    ClosestDistances,
    FilteredDistances,
    IntegralDistances,
    MakeDistances,
    PlainDistances,
    by_distance,
)
from gpukmeans.engine.numpy.weighted_sampling import InverseCdf
from gpukmeans.engine.protocol import Centers, Doubt, Farthest, Known, NextCenters, Samples, State
from gpukmeans.exact.certificate import Frame
from gpukmeans.exact.distance import Floats, distances_of_rows, squared_distance
from gpukmeans.exact.fixed_point import Ints
from gpukmeans.exact.inertia import Inertia
from gpukmeans.exact.row_sample import sampled_rows
from gpukmeans.exact.scales import OwnScales, Scales
from gpukmeans.thread_limits import thread_count
from gpukmeans.threads import run

# Up to this many multiplications, computing every D takes fewer microseconds than scoring does.
_TINY = 2**15

# Up to so many rows, every D takes no longer than it takes to make centers ready for scores.
_SINGLE = 3

# Below this many point-center pairs, bounds cost more than the scores they save.
_FEW_PAIRS = 2**17

# Scores at once: 2 MB of float32. Smaller pieces stay in a core's cache, but more calls wait for the
# interpreter lock, which costs more.
_SCORES = 2**19

# Beyond this share of active rows, finding them costs more than they save.
_MOST = 0.85

# From so many centers on, a row's distance to its own costs little beside a search among all.
_MANY = 2**8

# Coordinates at once in passes that compute D: 1 MB of float64.
_EXACT = 2**17

# Where some rows of each cluster may do, so many are looked at, and so many more for each cluster.
_SAMPLE, _SAMPLE_ROWS = 2**10, 32

# From so many features on, a reduction of a few rows is faster than reduceat, which goes column by column.
_LONG_ROWS = 2**6

# Distances at once where float64 products bound them: 0.5 MB of float64.
_PRODUCTS = 2**16

# Distances below this are finite in float32.
_LARGEST_SINGLE = 2.0**127

# Up to so many values fewer calls are worth more than shorter loops.
_FEW_VALUES = 2**11

# Rows of one assignment task at most: 1 MB of indices and labels.
_ROWS = 2**16


class NumPyPoints:
    """Samples in host memory; their rows are copied only where small or rearranged."""

    sparse = False
    _turned = True  # whether passes read columns, see Rows

    def __init__(self, samples: Samples) -> None:
        x, weights = samples.x, samples.weights
        self.n, self.d = samples.shape
        self.metric, self._reused = samples.metric, samples.reused
        self.weights = samples.all_weights
        self.uncertain = 0  # points that scores left to D, over all assignments
        # The caller's rows, and the rows worked on: the same, or rearranged by `prepare`.
        self._row_x: NDArray[Any] | NormalizedRows = normalized_rows(x, self._reused) if self.metric.normalizes else x
        self._row_weights = weights
        self._rows = Rows(self._row_x, weights, once=not self._reused, turned=self._turned)
        self._position: NDArray[np.int32] | None = None
        self._copies: NDArray[Any] | None = None  # how many of the caller's rows each is, if not one
        self._fewest = math.inf if samples.distinct else FEWEST_ROWS
        self._tuning = tuning.current()
        self._threads = self._tuning.threads or (1 if x.size <= _EXACT else thread_count())
        self._lock = threading.Lock()
        self._labels = np.empty(0, np.int32)
        self._k = 0  # of the centers that these are of
        self._summed = self._reused
        self._sums: ClusterSums  # made by the first `assign`, if anybody will ask
        self._target: ScoredCenters | None = None
        self._bounds: HamerlyBounds | None = None

    # ------------------------------------------------------------ preparation

    def feature_range(self) -> tuple[Floats, Floats]:
        first, *others = self._spans(self.n, _EXACT // self.d)
        self._low, self._high = _feature_range(self._rows.take(first))

        def widen(rows: slice) -> None:
            low, high = _feature_range(self._rows.take(rows))
            with self._lock:
                np.minimum(self._low, low, out=self._low)
                np.maximum(self._high, high, out=self._high)

        if others:
            run(widen, others, self._threads)
        self._low, self._high = self.metric.scaled_range(self._low, self._high)
        return self._low, self._high

    def set_feature_range(self, low: Floats, high: Floats) -> None:
        self._low, self._high = low, high

    @cached_property
    def _frame(self) -> Frame | None:
        if self._rows.may_be_integral:
            middle = Frame.of(self._low, self._high)
            if middle is None or self._rows.integral(middle):  # whose scores and sums are exact about the middle
                return middle
        sample = self._sample()
        frame = Frame.of(self._low, self._high, sample, True if self._row_x.dtype.itemsize < 8 else None)
        if frame is None or self._row_x.dtype != np.float32 or (self._rows.small and self._turned):
            return frame
        return frame.as_it_is(self._low, self._high, sample)

    def _sample(self) -> Floats:
        """Some of the rows, always the same, (s, d)."""
        return np.asarray(self._row_x[sampled_rows(self.n, self.d)]).astype(np.float64)

    @cached_property
    def integral(self) -> bool:
        if self._row_x.dtype == np.uint8:
            return True
        return self._rows.may_be_integral and self._frame is not None and self._rows.integral(self._frame)

    def prepare(self, scales: Scales) -> None:
        self._scales = scales
        self._arrange(sort=self._tuning.arrange is True)

    def _arrange(self, sort: bool) -> None:
        """Work on the rows as `_arrangement` has them, if it has."""
        arranged = self._arrangement(sort)
        if arranged is not None:
            self._rows = Rows(arranged.x, arranged.weights, once=False)
            self._position = arranged.position
            if self._rows.m < self.n:
                self._copies = arranged.weights if self._row_weights is None else np.bincount(self._position)

    def _arrangement(self, sort: bool) -> Arrangement | None:
        """Equal rows merged, or rows sorted, where that pays; sort: whether it may for their order alone."""
        pays = self.n >= self._fewest if self._tuning.arrange is None else self._tuning.arrange
        if not (self._reused and pays and isinstance(self._row_x, np.ndarray)):
            return None
        merge = self._tuning.merge is not False
        return arrange(self._row_x, self._row_weights, self._low, self._high, merge=merge, sort=sort)

    def go_on_from(self, state: State | None, *, summed: bool) -> None:
        """Take over what is known of these rows, some of many; sums begin at zero, whatever the labels. summed: whether
        anybody will ask for them."""
        self._summed = summed
        if state is None:
            return
        self._low, self._high = state.low, state.high
        if state.scales is not None:
            self._scales = state.scales
        if state.labels is not None:
            self._labels, self._k = np.array(state.labels), state.k

    def _spans(self, n: int, rows: int) -> list[slice]:
        rows = self._tuning.chunk_rows or max(1, rows)
        return [slice(a, min(a + rows, n)) for a in range(0, n, rows)]

    def _exact_spans(self) -> list[slice]:
        """All rows, in pieces for passes that read them as float64."""
        return self._spans(self._rows.m, _EXACT // self.d)

    # ------------------------------------------------------------ assignment and update

    def next_centers(self, doubt: Doubt) -> NextCenters | None:
        return None  # the driver's arithmetic is what it would do

    def moved(self, centers: Floats, counts: Floats, part: float) -> tuple[Floats, Floats] | None:
        return None  # likewise

    def assign(self, centers: Centers) -> int:
        return self._label_all(np.asarray(centers))

    def _label_all(self, centers: Floats) -> int:
        k, m = len(centers), self._rows.m
        scores = m > _SINGLE and m * k * self.d > _TINY if self._tuning.scores is None else self._tuning.scores
        frame = self._frame if scores else None
        self._begin(k, frame)
        target = self._prepared(centers, frame)
        center_shift = self._follow(target)
        self._target = target
        self._skipped = 0
        changed = sum(run(self._assignment(target, center_shift), self._assignment_spans(m), self._threads))
        if center_shift is not None and self._tuning.bounds is None and not self._trial.goes_on(self._skipped / m):
            self._bounds = None
        return changed

    def _begin(self, k: int, frame: Frame | None) -> None:
        """Forget what is known of another number of centers."""
        if self._target is not None and self._target.k == k:
            return
        # test_one_answer.test_one_points_serves_many_assignments fails if labels of other centers stay.
        if self._k != k:
            self._labels, self._k = np.full(self._rows.m, -1, np.int32), k
        self._target = self._bounds = None
        self._trial = self._new_trial(k)
        if self._summed:
            self._sums = ClusterSums(k, self._rows, self._scales, frame)

    def _assignment_spans(self, m: int) -> list[slice]:
        """Two tasks a thread, so that threads finish together: with more, each too small to let the others run, they
        wait for the interpreter lock."""
        return self._spans(m, m if self._threads == 1 else min(_ROWS, -(-m // (2 * self._threads))))

    def _new_trial(self, k: int) -> Trial:
        return Trial(self.d, k, self._rows.m)

    def _prepared(self, centers: Floats, frame: Frame | None) -> ScoredCenters:
        """The centers, and the rows, as an assignment needs them."""
        if frame is not None:
            self._rows.keep_features(frame, self._exact_spans, self._threads)
        return ScoredCenters.of(centers, frame)

    def _follow(self, target: ScoredCenters) -> CenterShift | None:
        """What the bounds need to know of the centers' movement; None if there are none to loosen."""
        pays = self._reused and self._rows.m * target.k > _FEW_PAIRS
        if target.frame is None or not (pays if self._tuning.bounds is None else self._tuning.bounds):
            self._bounds = None
            return None
        old = self._target
        if self._bounds is not None and old is not None and old.frame is not None:
            return CenterShift.between(old, target)
        if self._tuning.bounds or self._trial.begins():
            self._bounds = HamerlyBounds(self._rows.m)
        return None

    def _assignment(self, target: ScoredCenters, center_shift: CenterShift | None) -> Callable[[slice], int]:
        """`_assign` of these centers, for any span."""
        return lambda span: self._assign(span, target, center_shift)

    def _assign(self, span: slice, target: ScoredCenters, center_shift: CenterShift | None) -> int:
        """Label the rows of a span; returns how many of the caller's changed."""
        step = min(max(64, _SCORES // target.k), self._rows.most)
        pieces: list[Any] = [slice(a, min(a + step, span.stop)) for a in range(span.start, span.stop, step)]
        if center_shift is not None and self._bounds is not None:
            active, known = self._bounds.loosen(span, self._labels[span], center_shift)
            if target.k > _MANY:
                active = self._near(active, known, target, center_shift)
            if len(active) < _MOST * (span.stop - span.start):
                with self._lock:
                    self._skipped += span.stop - span.start - len(active)
                pieces = [active[a : a + step] for a in range(0, len(active), step)]
        moves = [move for piece in pieces if len((move := self._search(piece, target))[0])]
        if not moves:
            return 0
        moved, after = moves[0] if len(moves) == 1 else (np.concatenate(parts) for parts in zip(*moves, strict=True))
        before = self._labels[moved]
        self._labels[moved] = after
        if self._summed:
            self._sums.move(moved, before, after)
        return len(moved) if self._copies is None else int(self._copies[moved].sum())

    def _near(
        self,
        rows: NDArray[np.int64],
        before: NDArray[np.float32] | None,
        target: ScoredCenters,
        center_shift: CenterShift,
    ) -> NDArray[np.int64]:
        """Those of rows whose label may change when some distances are measured (`HamerlyBounds.tighten`).

        Where a first part shows that it excludes too few, the rest is left as it is
        (test_certificate.test_bounds_never_keep_a_wrong_label_of_many_pieces fails if it is left out).
        """
        assert self._bounds is not None
        assert target.frame is not None
        widest = self.d if center_shift.few is None else max(self.d, len(center_shift.few))
        step = min(max(64, _SCORES // widest), self._rows.most)
        kept = []
        for a in range(0, len(rows), step):
            part, known = rows[a : a + step], None if before is None else before[a : a + step]
            features = self._rows.features(part, target.frame)
            kept.append(part[self._bounds.tighten(part, known, features, self._labels[part], target, center_shift)])
            if len(kept[-1]) > _MOST * len(part):
                kept.append(rows[a + step :])
                break
        return _joined(kept)

    def _search(
        self, rows: slice | NDArray[np.int64], target: ScoredCenters
    ) -> tuple[NDArray[np.int64], NDArray[np.integer]]:
        """Compare rows, ascending, with every center; returns those whose label changed, and to what."""
        labels: NDArray[np.integer]
        if target.frame is None:
            labels = exact_nearest(self._rows.exact(rows), target)
        else:
            features = self._rows.features(rows, target.frame)
            found = nearest(features, target, lambda i: self._rows.exact(_among(rows, i)), self._bounds is not None)
            labels = found.labels
            if self._bounds is not None:
                self._bounds.set(rows, found)
            if found.uncertain:
                with self._lock:
                    self.uncertain += found.uncertain
        (changed,) = (labels != self._labels[rows]).nonzero()
        return _among(rows, changed), labels[changed]

    def sums(self) -> Ints:
        return self._sums.value.copy()

    def labels(self) -> NDArray[np.int32]:
        return self._labels.copy() if self._position is None else take(self._labels, self._position)

    # ------------------------------------------------------------ distances

    def _measure(self, centers: Floats) -> Callable[[slice], Floats]:
        """D of a span of rows to their own centers, or to the only one."""
        columns = np.ascontiguousarray(centers.T) if self._rows.feature_major else None

        def measure(rows: slice) -> Floats:
            labels = self._labels[rows] if len(centers) > 1 else None
            if columns is not None:
                return squared_distance(self._rows.exact(rows), columns, labels)
            return distances_of_rows(self._rows.take(rows), centers if len(centers) > 1 else centers[0], labels)

        return measure

    def _all_own_distances(self, centers: Floats) -> Floats:
        return np.concatenate(run(self._measure(centers), self._exact_spans(), self._threads))

    def inertia(self, centers: Floats, split: Inertia) -> tuple[int, int]:
        parts = run(self._inertia_part(centers, split), self._exact_spans(), self._threads)
        return sum(coarse for coarse, _ in parts), sum(fine for _, fine in parts)

    def _inertia_part(self, centers: Floats, split: Inertia) -> Callable[[slice], tuple[int, int]]:
        measure = self._measure(centers)
        return lambda rows: split.sums(measure(rows), self._rows.weights_of(rows))

    def farthest(self, centers: Floats, m: int) -> Farthest:
        distance = self._all_own_distances(centers)
        locations = []
        for _ in range(m):
            largest = distance.max()
            if largest == 0:
                break
            ties = np.flatnonzero(distance == largest)
            first = ties[0]
            if self._position is not None:
                # The caller's first (test_fixed_point.test_of_equally_far_points_the_first_row_is_taken fails without).
                first = self._position[np.isin(self._position, ties).argmax()]
            x = self._rows.exact([first])
            for a in range(0, len(ties), self._rows.most):
                some = ties[a : a + self._rows.most]
                distance[some[(self._rows.exact(some) == x).all(axis=0)]] = 0.0
            locations.append((float(largest), x[:, 0], int(self._labels[first])))
        return Farthest.of(locations, self.d)

    def cluster_ranges(
        self, clusters: NDArray[np.int64], without: Floats, known: Known | None = None
    ) -> tuple[Floats, Floats]:
        step = self._range_step(len(clusters))
        if known is None or step <= 1:
            return self._ranges_of(clusters, without, 1)
        low, high = self._ranges_of(clusters, without, step)
        left = ~known(low, high)
        if left.any():
            low[left], high[left] = self._ranges_of(clusters[left], without, 1)
        return low, high

    def _range_step(self, clusters: int) -> int:
        """Which of the rows are looked at where some of each cluster may do: one of so many."""
        return self._rows.m // (_SAMPLE + _SAMPLE_ROWS * clusters)

    def _ranges_of(self, clusters: NDArray[np.int64], without: Floats, step: int) -> tuple[Floats, Floats]:
        """`cluster_ranges` of each so many rows."""
        low, high = np.full((len(clusters), self.d), np.inf), np.full((len(clusters), self.d), -np.inf)

        def widen(rows: NDArray[np.int64], places: NDArray[np.integer]) -> None:
            order = np.argsort(places, kind="stable")
            counts = np.bincount(places)
            (here,) = counts.nonzero()
            x = self._rows.take(rows[order])
            starts = np.cumsum(counts)[here] - counts[here]
            if self.d < _LONG_ROWS or self._rows.feature_major:
                lows, highs = np.minimum.reduceat(x, starts), np.maximum.reduceat(x, starts)
            else:
                parts = [x[a : a + count] for a, count in zip(starts.tolist(), counts[here].tolist(), strict=True)]
                lows, highs = (np.stack([bound.reduce(part) for part in parts]) for bound in (np.minimum, np.maximum))
            with self._lock:
                low[here], high[here] = np.minimum(low[here], lows), np.maximum(high[here], highs)

        self._on_clusters(widen, clusters, without, step)
        return low, high

    def cluster_sums(self, clusters: NDArray[np.int64], scales: OwnScales, without: Floats) -> Ints:
        sums = np.zeros((len(clusters), self.d + 1), np.int64)

        def add(rows: NDArray[np.int64], places: NDArray[np.integer]) -> None:
            terms = scales.terms(self._rows.exact(rows), places, self._rows.weights_of(rows))
            change = added(len(clusters), places) @ terms
            with self._lock:
                sums[:] += change

        self._on_clusters(add, clusters, without)
        return sums

    def _on_clusters(
        self,
        work: Callable[[NDArray[np.int64], NDArray[np.integer]], None],
        clusters: NDArray[np.int64],
        without: Floats,
        step: int = 1,
    ) -> None:
        """Call work(rows, places) for pieces of the rows of these clusters, places being the indices of those in
        `clusters`; without the rows at these locations (p, d). Of each so many rows, one is looked at."""
        assert self._k, "no centers were assigned to"
        k = self._k
        # Of 16 bits they are sorted the fastest.
        place: NDArray[np.integer] = np.full(k, -1, np.int16 if k < 2**15 else np.int32)
        place[clusters] = np.arange(len(clusters))

        def part(span: slice) -> None:
            places = place[self._labels[span.start * step : span.stop * step : step]]
            rows = np.arange(span.start, span.stop) * step
            if len(clusters) < k:
                (kept,) = (places >= 0).nonzero()
                rows, places = rows[kept], places[kept]
            if len(without):
                elsewhere = ~self._rows.at(without, rows, self._scales.widest)
                rows, places = rows[elsewhere], places[elsewhere]
            if len(rows):
                work(rows, places)

        run(part, self._spans(-(-self._rows.m // step), _EXACT // self.d), self._threads)

    def distances(self, centers: Floats, dtype: Any = np.float64) -> NDArray[np.floating]:
        frame = self._distance_frame(centers) if dtype == np.float32 else None
        return self._measured(centers) if frame is None else self._rounded(centers, frame)

    def _measured(self, centers: Floats) -> Floats:
        columns, result = np.ascontiguousarray(centers.T), np.empty((self.n, len(centers)))

        def measure(rows: slice) -> None:
            distances = squared_distance(self._given(rows)[:, None, :], columns[:, :, None]).T
            result[rows] = self.metric.transformed(distances)

        run(measure, self._spans(self.n, min(_EXACT // len(centers), self._rows.most)), self._threads)
        return result

    def _rounded(self, centers: Floats, frame: Frame) -> NDArray[np.float32]:
        """`_measured` in float32. Rounding does not reorder: where both bounds become the same float32 number, D does
        (test_distance.test_distances_in_float32_are_rounded_ones fails if it is not asked where they differ)."""
        columns, result = np.ascontiguousarray(centers.T), np.empty((self.n, len(centers)), np.float32)

        def measure(rows: slice) -> None:
            x = self._given(rows)
            low, high = (
                self.metric.transformed(bound / frame.scale**2).astype(np.float32)
                for bound in frame.distance_bounds(x, columns)
            )
            row, center = np.nonzero(low != high)
            low[row, center] = self.metric.transformed(distances_of_pairs(x, columns, row, center))
            result[rows] = low

        run(measure, self._spans(self.n, min(_PRODUCTS // len(centers), self._rows.most)), self._threads)
        return result

    def _given(self, rows: slice) -> Floats:
        """The caller's rows as (d, m) float64."""
        return np.ascontiguousarray(np.asarray(self._row_x[rows]).T, dtype=np.float64)

    def _distance_frame(self, centers: Floats) -> Frame | None:
        """The frame that float64 products are made in, None where D is as fast or a distance may be beyond float32."""
        frame = self._frame if self.n * centers.size > _TINY else None
        reach = None if frame is None else frame.reach(centers)
        if frame is None or reach is None:
            return None
        farthest = (math.sqrt(reach) + math.sqrt(self.d) * frame.largest) / frame.scale
        return frame if farthest < _LARGEST_SINGLE else None

    # ------------------------------------------------------------ seeding

    _filtered = FilteredDistances

    def seeding(self) -> NumPySeeding:
        if self._position is None and self._target is None:  # whose labels are in the order of before
            self._arrange(sort=True)
        inverse_cdf = InverseCdf(self.n, self._row_weights, self.weights, self._position)
        first, later = self._closest_distances()
        return NumPySeeding(self._row_x, inverse_cdf, first, self._all_own_distances, later)

    def _closest_distances(self) -> tuple[MakeDistances, MakeDistances | None]:
        """For few centers, and for more if those are others."""
        return (self._blocks if self._in_blocks else self._scored_distances), None

    @property
    def _in_blocks(self) -> bool:
        return self._position is not None and self.d <= CURVE_FEATURES

    def _blocks(self) -> BlockDistances:
        return BlockDistances(self._rows, self._threads)

    def _scored_distances(self) -> ClosestDistances:
        scores = self._rows.x.size > _TINY // 4 if self._tuning.scores is None else self._tuning.scores
        frame = self._frame if scores else None
        if frame is None:
            measure = by_distance(self._rows, self._exact_spans(), self._threads)
            return PlainDistances(measure, self._rows.m, self._rows.weights)
        self._rows.keep_features(frame, self._exact_spans, self._threads)
        if self._rows.integral(frame):
            return IntegralDistances(self._rows, frame)
        pieces = self._spans(self._rows.m, _SCORES // self.d)
        return self._filtered(self._rows, self.weights, frame, pieces, self._threads)


def _feature_range(x: NDArray[Any]) -> tuple[Floats, Floats]:
    """Least and largest value of each column, float64."""
    if x.dtype == np.float16:
        x = x.astype(np.float32)  # five times as fast, all in all, as NumPy compares float16 one by one
    if x.flags.f_contiguous or x.size <= _FEW_VALUES:
        return np.minimum.reduce(x).astype(np.float64), np.maximum.reduce(x).astype(np.float64)
    # Folding several short rows into a long one lets the minimum run along memory.
    fold = min(len(x), max(1, 1024 // x.shape[1])) if x.flags.c_contiguous else 1
    return _extremes(np.minimum, x, fold), _extremes(np.maximum, x, fold)


def _extremes(bound: np.ufunc, x: NDArray[Any], fold: int) -> Floats:
    whole = len(x) // fold * fold
    found = bound.reduce(bound.reduce(x[:whole].reshape(-1, fold * x.shape[1])).reshape(fold, -1))
    return (found if whole == len(x) else bound(found, bound.reduce(x[whole:]))).astype(np.float64)


def _among(rows: slice | NDArray[np.int64], i: NDArray[np.int64]) -> NDArray[np.int64]:
    """The numbers of the rows that are i-th among rows."""
    return i + rows.start if isinstance(rows, slice) else rows[i]


def _joined(parts: list[NDArray[Any]]) -> NDArray[Any]:
    if len(parts) == 1:
        return parts[0]
    return np.concatenate(parts) if parts else np.empty(0, np.int64)
