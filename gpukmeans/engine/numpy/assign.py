"""The assignment step on NumPy: float32 scores propose, D decides (Rule 2).

Two layouts of the scores, for few centers and for many, propose the same labels
(test_certificate.test_near_ties_are_decided_by_distance fails without the margin in either).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from gpukmeans.engine.numpy.blas import score
from gpukmeans.engine.numpy.rows import Features
from gpukmeans.exact.certificate import U32, Frame
from gpukmeans.exact.distance import Floats, distances_of_rows, squared_distance
from gpukmeans.row_lookup import hashes
from gpukmeans.threads import scratch

# D of at most this many values at a time: 1 MB of float64.
_PIECE = 2**17

# Up to this many centers scores are held a column to a point, and their numbers are bytes, four times as many in a
# register. Beyond, argmin's cost a row (20 ns) no longer counts.
FEW = 2**7

# As long as a D costs, float64 products with so many centers take.
_PRODUCTS_OF_A_DISTANCE = 64

_NONE = np.empty(0, np.int64)


@dataclass(frozen=True)
class ScoredCenters:
    """The centers of one assignment step, given: (k, d) float64. columns: (d + 1, k) float32, slack: (k,) float32,
    norms: |z|^2 (k,), see Frame.least_scores; without a frame D alone decides."""

    given: Floats
    frame: Frame | None
    columns: NDArray[np.float32]
    norms: Floats
    slack: NDArray[np.float32]

    @staticmethod
    def of(centers: Floats, frame: Frame | None) -> ScoredCenters:
        scores = frame.least_scores(centers) if frame is not None else None
        if scores is None:
            nothing = np.empty(0, np.float32)
            return ScoredCenters(centers, None, nothing.reshape(0, 0), np.empty(0), nothing)
        return ScoredCenters(centers, frame, *scores)

    def without_repeats(self) -> ScoredCenters:
        """The same with scores of infinity for centers that equal one before them, which is the nearest first. Else
        they are in doubt together, of every row near them
        (test_sparse.test_centers_that_repeat_leave_no_row_in_doubt fails without)."""
        ordered = np.sort(self.norms)
        equal = ordered[1:][ordered[1:] == ordered[:-1]]
        if len(equal):
            (alike,) = np.isin(self.norms, equal).nonzero()
            _, first, numbers = np.unique(hashes(self.given[alike]), return_index=True, return_inverse=True)
            before = alike[first[numbers]]
            repeats = (before < alike) & (self.given[before] == self.given[alike]).all(axis=1)
            self.columns[-1, alike[repeats]] = np.inf
        return self

    @property
    def k(self) -> int:
        return len(self.given)

    @cached_property
    def centers(self) -> Floats:
        """(d, k)."""
        return np.ascontiguousarray(self.given.T)

    @cached_property
    def common_slack(self) -> np.float32 | None:
        """The largest slack, where it will do for all; None if a center is so far that others would be in doubt."""
        ordered = np.sort(self.slack)
        return ordered[-1] if ordered[-1] <= 4 * ordered[len(ordered) // 2] else None

    @cached_property
    def lengths(self) -> NDArray[np.float32]:
        """|z| (k,), from above."""
        return (np.sqrt(self.norms) * (1 + 2.0**-20)).astype(np.float32)

    @cached_property
    def z(self) -> NDArray[np.float32]:
        """The centers in the frame, (k, d)."""
        return np.ascontiguousarray(self.columns[:-1].T) * np.float32(-0.5)


class Nearest(NamedTuple):
    """labels (m,). If asked for, upper bounds on the distance to that center and lower bounds on all
    others, (m,) float32 in the frame's units. How many points the scores left uncertain."""

    labels: NDArray[np.integer]
    uncertain: int
    upper: NDArray[np.float32] | None = None
    lower: NDArray[np.float32] | None = None


def exact_nearest(x: Floats, target: ScoredCenters) -> NDArray[np.int64]:
    """Labels of x (d, m) by D alone, for problems too small to gain from scores, or out of their range."""
    if x.shape[1] == 1:  # for which it does not pay to turn the centers around
        return distances_of_rows(target.given, x[:, 0]).argmin(axis=0, keepdims=True)
    centers = target.centers
    step = max(1, _PIECE // centers.shape[1])
    labels = [
        squared_distance(x[:, None, a : a + step], centers[:, :, None]).argmin(axis=0)
        for a in range(0, x.shape[1], step)
    ]
    return labels[0] if len(labels) == 1 else np.concatenate(labels)


def nearest(
    features: Features, target: ScoredCenters, exact: Callable[[NDArray[np.int64]], Floats], bounds: bool
) -> Nearest:
    """The nearest centers of m points, with bounds if asked for, which the margin loosens
    (test_certificate.test_bounds_bound_distances_in_rationals fails without it).

    exact(i): points i as (d, len(i)) float64.
    """
    assert target.frame is not None
    y, norms = features
    margin = target.frame.row_margin(norms)
    propose = _propose_few if target.columns.shape[1] <= FEW else _propose_many
    labels, least, most, second, uncertain, possible = propose(y, target, margin, bounds)
    if uncertain.size:
        x = exact(uncertain)
        if possible.size < _PRODUCTS_OF_A_DISTANCE * np.count_nonzero(possible):
            possible &= target.frame.possible(x, target.centers)
        labels[uncertain] = decide(x, possible, target.centers)
    if second is None:
        return Nearest(labels, len(uncertain))
    if uncertain.size:
        # All that is known of these: every center is at least as far as the least score allows, and by D the chosen
        # one is no farther than the one whose score is at most so much.
        second[uncertain] = least[uncertain]
        most[uncertain] += margin[uncertain]
    most += norms
    most += margin
    second += norms
    second -= margin
    upper = np.sqrt(np.maximum(most, 0, out=most), out=most)
    upper *= np.float32(1 + 4 * U32)
    return Nearest(labels, len(uncertain), upper, _below(second))


def _below(square: NDArray[np.float32]) -> NDArray[np.float32]:
    """The roots of lower bounds on squared distances, themselves lower bounds; in place."""
    lower = np.sqrt(np.maximum(square, 0, out=square), out=square)
    lower *= np.float32(1 - 4 * U32)
    return lower


def least_distance(features: Features, target: ScoredCenters, among: NDArray[np.int64]) -> NDArray[np.float32]:
    """Lower bounds on the distance of m points to the nearest of some centers, (m,) in the frame's units
    (test_certificate.test_bounds_bound_distances_in_rationals fails without the margin)."""
    assert target.frame is not None
    y, norms = features
    scores = np.empty((len(among), len(y)), np.float32)
    least = np.minimum.reduce(score(target.columns[:, among], y, scores), axis=0)
    least += norms
    least -= target.frame.row_margin(norms)
    return _below(least)


# Labels; the least lower bound on a score, and the least upper bound, (m,); the runner-up's lower bound if asked for;
# the uncertain points, and which centers (u, k) are possible for each of those.
Proposal = tuple[
    NDArray[np.integer],
    NDArray[np.float32],
    NDArray[np.float32],
    NDArray[np.float32] | None,
    NDArray[np.int64],
    NDArray[np.bool_],
]


def _propose_many(y: NDArray[np.float32], target: ScoredCenters, margin: NDArray[np.float32], bounds: bool) -> Proposal:
    """A row of scores to a point."""
    m, k = len(y), target.columns.shape[1]
    scores = scratch("scores", m * k, np.float32).reshape(m, k)
    np.matmul(y, target.columns[:-1], out=scores)
    scores += target.columns[-1]
    return propose_by_rows(scores, target, margin)


def propose_by_rows(scores: NDArray[np.float32], target: ScoredCenters, margin: NDArray[np.float32]) -> Proposal:
    """Of scores (m, k), which are overwritten: argmin runs along a point's. The runner-up is a second argmin with the
    winner masked, which NumPy does faster than a minimum or a partition."""
    m, k = scores.shape
    flat = scores.reshape(-1)
    first = np.arange(0, m * k, k)
    labels = scores.argmin(axis=1)
    at = first + labels
    least = flat[at]
    flat[at] = np.inf
    second = flat[first + scores.argmin(axis=1)]
    most = least + target.slack.take(labels)
    uncertain = np.flatnonzero(~(second - most > margin))
    flat[at[uncertain]] = least[uncertain]
    possible = scores[uncertain] <= (most[uncertain] + margin[uncertain])[:, None]
    return labels, least, most, second, uncertain, possible


def _propose_few(y: NDArray[np.float32], target: ScoredCenters, margin: NDArray[np.float32], bounds: bool) -> Proposal:
    """A column of scores to a point."""
    m, k = len(y), target.columns.shape[1]
    scores = score(target.columns, y, scratch("scores", m * k, np.float32).reshape(k, m))
    return propose_by_columns(scores, target, margin, bounds)


def propose_by_columns(
    scores: NDArray[np.float32], target: ScoredCenters, margin: NDArray[np.float32], bounds: bool
) -> Proposal:
    """Of scores (k, m), which are overwritten: every operation runs across points, which short rows are too short for.
    A point is certain if no other center is within the margin."""
    k, m = scores.shape
    least = np.minimum.reduce(scores, axis=0)
    if target.common_slack is not None:
        most = least + target.common_slack
    else:
        most = np.full(m, np.inf, np.float32)
        for own, slack in zip(scores, target.slack, strict=True):
            np.minimum(most, own + slack, out=most)
    possible = np.less_equal(scores, most + margin, out=scratch("possible", m * k, np.bool_).reshape(k, m))
    # Of a single possible center the bits of all numbers are those of its own.
    ones, number = possible.view(np.uint8), np.arange(k, dtype=np.uint8)[:, None]
    numbers = np.multiply(ones, number, out=scratch("numbers", m * k, np.uint8).reshape(k, m))
    labels = np.bitwise_or.reduce(numbers, axis=0).astype(np.int32)
    second = None
    if bounds:
        np.putmask(scores, possible, np.inf)
        second = np.minimum.reduce(scores, axis=0)
    if np.count_nonzero(possible) == m:
        return labels, least, most, second, _NONE, possible[:, :0].T
    uncertain = np.flatnonzero(np.add.reduce(ones, axis=0, dtype=np.uint8) > 1)
    return labels, least, most, second, uncertain, possible[:, uncertain].T


def distances_of_pairs(x: Floats, centers: Floats, row: NDArray[np.int64], center: NDArray[np.int64]) -> Floats:
    """D (p,) of these columns of x (d, m) to those of centers (d, k), a bounded number at a time."""
    distance = np.empty(len(row))
    step = max(1, _PIECE // len(x))
    for a in range(0, len(row), step):
        piece = slice(a, a + step)
        distance[piece] = squared_distance(x[:, row[piece]], centers[:, center[piece]])
    return distance


def decide(x: Floats, possible: NDArray[np.bool_], centers: Floats) -> NDArray[np.int64]:
    """Labels of x (d, m) by D among the possible centers (m, k), at least one for each point."""
    row, center = np.nonzero(possible)
    if len(row) == x.shape[1]:  # one for each
        return center
    distance = distances_of_pairs(x, centers, row, center)
    first = np.searchsorted(row, np.arange(x.shape[1]))
    least = np.minimum.reduceat(distance, first)
    return np.minimum.reduceat(np.where(distance == least[row], center, possible.shape[1]), first)
