"""Seeding on NumPy: every point's D to its closest center so far.

Four ways to the same numbers. `PlainDistances` computes D for every point and candidate; `IntegralDistances`, for small
whole numbers, does it by a matrix product. `FilteredDistances` proposes with float32 scores and computes D only
where a candidate may come closer, which serves many features. `BlockDistances` skips runs of 64 neighbouring
points that are all nearer to a center than the run's bounding box is to the candidate, which serves
few features.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gpukmeans.engine.numpy.rows import Features, Rows
from gpukmeans.exact.certificate import Frame
from gpukmeans.exact.distance import Floats, squared_distance
from gpukmeans.exact.fixed_point import Ints, Weights, sampling_weights
from gpukmeans.threads import run

# What a new center changed, in pieces: places, and `closest_dist_sq` there before and after, each (m,).
# `accept` returns None where more than `most` places changed.
Changes = list[tuple[NDArray[np.int64], Floats, Floats]]

# Bounds on each candidate's potential, in units of 2**-exponent: equal where they are exact.
Potentials = tuple[Floats, Floats] | tuple[list[int], list[int]]


def _in_frame(candidates: Floats, frame: Frame) -> tuple[NDArray[np.float32], float]:
    """`Frame.centers` of candidates: being points, they are never too far for it."""
    found = frame.centers(candidates)
    assert found is not None
    return found


def _scores(columns: NDArray[np.float32], features: Features) -> NDArray[np.float32]:
    """Approximate squared distances of candidates (m) to points (n), in the frame's units: (m, n)."""
    scores = columns[:-1].T @ features.y.T
    scores += columns[-1][:, None]
    scores += features.norms
    return scores


class PlainDistances:
    """The distance from every point to every candidate. measure: of all points to candidates (m, d), (m, n). weights:
    (n,) or None for ones."""

    def __init__(self, measure: Callable[[Floats], Floats], n: int, weights: Floats | Ints | None) -> None:
        self.measure, self.weights = measure, weights
        self.closest_dist_sq = np.full(n, np.inf)

    def propose(self, candidates: Floats) -> None:
        distances = self.measure(candidates)
        self.proposed = np.minimum(distances, self.closest_dist_sq, out=distances)

    def potentials(self, exponent: int, exact: bool, total: int) -> Potentials:
        totals = sampling_weights(self.proposed, exponent, self.weights).sum(axis=1).tolist()
        return totals, totals

    def accept(self, candidate: int, most: int) -> Changes | None:
        before, self.closest_dist_sq = self.closest_dist_sq, self.proposed[candidate]
        if most < 0:
            return None
        places = np.flatnonzero(self.closest_dist_sq < before)
        return [(places, before[places], self.closest_dist_sq[places])] if len(places) <= most else None

    def lower(self, distance: Floats) -> None:
        """Account for centers that are at these D, (n,), from the points."""
        self.closest_dist_sq = np.minimum(self.closest_dist_sq, distance)

    def largest(self) -> float:
        return float(self.closest_dist_sq.max())


def by_distance(rows: Rows, pieces: list[slice], threads: int) -> Callable[[Floats], Floats]:
    """D, (m, n), of all points to candidates (m, d). pieces: all rows, in spans small enough to convert at once."""

    def measure(candidates: Floats) -> Floats:
        columns = candidates.T[:, :, None]
        parts = run(lambda span: squared_distance(rows.exact(span)[:, None, :], columns), pieces, threads)
        return parts[0] if len(parts) == 1 else np.concatenate(parts, axis=1)

    return measure


class IntegralDistances(PlainDistances):
    """As `PlainDistances`, for small whole numbers (see `Rows.integral`): scores are D itself. Where these rows are
    some of all, candidates may be other numbers."""

    def __init__(self, rows: Rows, frame: Frame) -> None:
        super().__init__(self._by_scores, rows.m, rows.weights)
        self._by_distance = by_distance(rows, [slice(None)], 1)
        self.frame, self.features = frame, rows.features(slice(None), frame)
        self.quarters = True  # whether all D so far are multiples of a quarter

    def _by_scores(self, candidates: Floats) -> Floats:
        if not np.array_equal(candidates, np.rint(candidates)):
            self.quarters = False
            return self._by_distance(candidates)
        columns, _ = _in_frame(candidates, self.frame)
        scores = _scores(columns, self.features)
        return np.multiply(scores, self.frame.scale**-2, dtype=np.float64)

    def lower(self, distance: Floats) -> None:
        self.quarters = False  # as far as is known
        super().lower(distance)

    def potentials(self, exponent: int, exact: bool, total: int) -> Potentials:
        # Quarters add up exactly in float64, for at most 2**18 rows, and need no rounding at this scale
        # (test_certificate.test_potentials_of_small_whole_numbers_are_sums_of_rounded_masses fails without it, and
        # test_sharded.test_what_is_true_of_a_part_may_not_be_of_all if others than quarters are added up).
        if self.weights is not None or exponent < 2 or not self.quarters:
            return super().potentials(exponent, exact, total)
        totals = [int(left) for left in np.ldexp(np.add.reduce(self.proposed, axis=1), exponent).tolist()]
        return totals, totals


class FilteredDistances:
    """Scores first. pieces: all rows, in spans small enough to score at once."""

    def __init__(self, rows: Rows, summary: Weights, frame: Frame, pieces: list[slice], threads: int) -> None:
        self.rows, self.summary, self.frame = rows, summary, frame
        self.pieces, self.threads = pieces, threads
        self.closest_dist_sq = np.full(rows.m, np.inf)

    def propose(self, candidates: Floats) -> None:
        self.candidates = np.ascontiguousarray(candidates.T)
        self.may_improve = np.empty((len(candidates), len(self.closest_dist_sq)), bool)
        if np.isinf(self.closest_dist_sq[0]):
            self.may_improve[:] = True
            return
        columns, largest_z = _in_frame(candidates, self.frame)
        square = self.frame.scale**2

        def score(rows: slice) -> tuple[Floats, float]:
            features = self.rows.features(rows, self.frame)
            scores = _scores(columns, features)
            margin = self.frame.margin(features.norms, largest_z)
            closest_dist_sq = (self.closest_dist_sq[rows] * square).astype(np.float32)
            # test_randomness.test_a_candidate_that_is_closer_by_less_than_scores_can_tell_counts fails without the
            # margin.
            np.less(scores - margin, closest_dist_sq * np.float32(1 + 2.0**-22), out=self.may_improve[:, rows])
            np.minimum(scores, closest_dist_sq, out=scores)
            weights = self.rows.weights_of(rows)
            if weights is None:
                return np.add.reduce(scores, axis=1, dtype=np.float64), float(margin.sum(dtype=np.float64))
            return np.dot(scores, weights.astype(np.float64)), float(margin @ weights.astype(np.float64))

        parts = run(score, self.pieces, self.threads)
        potential = sum(part[0] for part in parts)
        # The closest D rounded to float32, and n + 8 roundings at most in the float64 sums; beside the margins, without
        # which test_randomness.test_every_potential_is_the_integer_sum fails.
        rounding = 2.0**-23 + (len(self.closest_dist_sq) + 8) * 2.0**-52
        error = sum(part[1] for part in parts) + np.abs(potential) * rounding
        self.bounds = (potential - error) / square, (potential + error) / square

    def potentials(self, exponent: int, exact: bool, total: int) -> Potentials:
        if not exact:
            # Rounding to fixed point moves each term by half a unit before its weight and half after
            # (test_randomness.test_bounds_on_potentials_hold_where_masses_are_of_few_bits fails without it).
            slack = self.summary.total + self.summary.copies
            low, high = (np.ldexp(bound, exponent) for bound in self.bounds)
            return low - slack, high + slack
        totals = []
        for j in range(len(self.may_improve)):
            rows, distance = self._improved(j)
            weights = self.rows.weights_of(rows)
            change = sampling_weights(self.closest_dist_sq[rows], exponent, weights) - sampling_weights(
                distance, exponent, weights
            )
            totals.append(total - int(change.sum()))
        return totals, totals

    def accept(self, candidate: int, most: int) -> Changes | None:
        rows, distance = self._improved(candidate)
        before = self.closest_dist_sq[rows]
        self.closest_dist_sq[rows] = distance
        return [(rows, before, distance)] if len(rows) <= most else None

    def lower(self, distance: Floats) -> None:
        np.minimum(self.closest_dist_sq, distance, out=self.closest_dist_sq)

    def largest(self) -> float:
        return float(self.closest_dist_sq.max())

    def _distance(self, rows: Any, candidate: int) -> Floats:
        """D of these rows, a slice or indices, to a candidate."""
        return squared_distance(self.rows.exact(rows), self.candidates[:, candidate, None])

    def _improved(self, candidate: int) -> tuple[NDArray[np.int64], Floats]:
        def measure(piece: slice) -> tuple[NDArray[np.int64], Floats]:
            rows = np.flatnonzero(self.may_improve[candidate, piece])
            rows += piece.start
            distance = self._distance(self.rows.span(rows), candidate)
            return rows, np.minimum(distance, self.closest_dist_sq[rows], out=distance)

        parts = run(measure, self.pieces, self.threads)
        if len(parts) == 1:
            return parts[0]
        return np.concatenate([rows for rows, _ in parts]), np.concatenate([distance for _, distance in parts])


# Points to a block. A power of two that keeps the boxes few (n / 64) and a block's features in
# the first-level cache (64 * 3 * 8 bytes = 1.5 KB).
BLOCK = 64

# Boxes to compare with candidates at once: 1 MB for each of a few candidates and features.
_BOXES = 2**13

# Blocks to evaluate at once: 65536 points, arrays of 512 KB.
_GROUP = 1024


class BlockDistances:
    """Blocks of neighbours with bounding boxes. rows: feature-major, in the order of a curve.

    The last block is filled up with copies of the last point that count as chosen: at distance zero
    they never come closer and weigh nothing (test_randomness.test_every_potential_is_the_integer_sum fails without it).
    """

    def __init__(self, rows: Rows, threads: int) -> None:
        x, weights = rows.x.T, rows.weights
        d, n = x.shape
        self.n, self.threads = n, threads
        blocks = -(-n // BLOCK)
        self.full = n // BLOCK
        self.head = x[:, : self.full * BLOCK].reshape(d, self.full, BLOCK)
        self.tail = np.repeat(x[:, -1:], (blocks - self.full) * BLOCK, axis=1).reshape(d, -1, BLOCK)
        rest = n - self.full * BLOCK
        if rest:
            self.tail[:, 0, :rest] = x[:, -rest:]
        self.low, self.high = (
            np.concatenate([bound(self.head, axis=2), bound(self.tail, axis=2)], axis=1).astype(np.float64)
            for bound in (np.min, np.max)
        )
        self.weights: Floats | Ints | None = None
        if weights is not None:
            self.weights = np.zeros((blocks, BLOCK), weights.dtype)
            self.weights.reshape(-1)[:n] = weights
        self.distance = np.full((blocks, BLOCK), np.inf)
        self.distance.reshape(-1)[n:] = 0.0
        self.farthest = np.full(blocks, np.inf)

    @property
    def closest_dist_sq(self) -> Floats:
        return self.distance.reshape(-1)[: self.n]

    def propose(self, candidates: Floats) -> None:
        """Find the pairs (candidate, block) that may come closer."""
        self.candidates = candidates
        at = candidates.T[:, :, None]
        # A block is skipped only if its D are certainly no smaller: the box is off by a few
        # roundings, D may underflow (test_randomness.test_boxes_bear_rounding fails without either).
        reach = self.farthest * (1 + 2.0**-40) + 2.0**-1000 * (self.farthest > 0)
        near = np.empty((len(candidates), len(reach)), bool)
        for a in range(0, len(reach), _BOXES):
            blocks = slice(a, a + _BOXES)
            gap = np.maximum(self.low[:, None, blocks] - at, at - self.high[:, None, blocks])
            np.maximum(gap, 0, out=gap)
            np.less(np.einsum("jcb,jcb->cb", gap, gap), reach[blocks], out=near[:, blocks])
        self.candidate, self.block = (index.astype(np.int32) for index in np.nonzero(near))

    def potentials(self, exponent: int, exact: bool, total: int) -> Potentials:
        def gain(group: slice) -> Ints:
            candidate, block = self.candidate[group], self.block[group]
            distance = self._measure(block, candidate)
            before = self.distance.take(block, axis=0)
            at = np.flatnonzero(distance < before)
            before, after = before.reshape(-1)[at], distance.reshape(-1)[at]
            weights = None if self.weights is None else self.weights.take(block, axis=0).reshape(-1)[at]
            gains = np.zeros(len(self.candidates), np.int64)
            change = sampling_weights(before, exponent, weights) - sampling_weights(after, exponent, weights)
            np.add.at(gains, candidate[at // BLOCK], change)
            return gains

        gains = np.zeros(len(self.candidates), np.int64)
        for gained in run(gain, self._groups(len(self.block)), self.threads):
            gains += gained
        totals = [total - gained for gained in gains.tolist()]
        return totals, totals

    def accept(self, candidate: int, most: int) -> Changes | None:
        pairs = np.flatnonzero(self.candidate == candidate)
        known: Changes = []
        count = 0

        def approach(group: slice) -> int:
            nonlocal count
            block = self.block[pairs[group]]
            distance = self._measure(block, self.candidate[pairs[group]])
            before = self.distance.take(block, axis=0)
            closer = distance < before
            changed = int(np.count_nonzero(closer))
            count += changed  # threads may lose some of it, which only makes this one collect more
            if count <= most:
                at = np.flatnonzero(closer)
                known.append(
                    (block[at // BLOCK] * BLOCK + at % BLOCK, before.reshape(-1)[at], distance.reshape(-1)[at])
                )
            np.minimum(distance, before, out=distance)
            self.distance[block] = distance
            self.farthest[block] = distance.max(axis=1)
            return changed

        return known if sum(run(approach, self._groups(len(pairs)), self.threads)) <= most else None

    def lower(self, distance: Floats) -> None:
        np.minimum(self.closest_dist_sq, distance, out=self.closest_dist_sq)
        self.farthest = self.distance.max(axis=1)

    def largest(self) -> float:
        return float(self.farthest.max())

    @staticmethod
    def _groups(n: int) -> list[slice]:
        return [slice(a, a + _GROUP) for a in range(0, n, _GROUP)]

    def _measure(self, block: NDArray[np.int32], candidate: NDArray[np.int32]) -> Floats:
        """D from the points of blocks (m,) to candidates (m,), pair by pair: (m, BLOCK)."""
        x = np.empty((len(self.head), len(block), BLOCK), self.head.dtype)
        inside = block < self.full
        if self.full:
            for j, column in enumerate(self.head):
                # mode: "raise" would copy; the block at hand is replaced below
                column.take(block, axis=0, out=x[j], mode="clip")
        if not inside.all():
            x[:, ~inside] = self.tail
        return squared_distance(x.astype(np.float64, copy=False), self.candidates[candidate].T[:, :, None])


ClosestDistances = PlainDistances | FilteredDistances | BlockDistances

MakeDistances = Callable[[], ClosestDistances]
