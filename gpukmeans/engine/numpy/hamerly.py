"""Bounds that let the assignment step skip points whose label cannot have changed.

Hamerly, "Making k-means even faster" (SDM 2010): one upper bound on the distance to a point's own
center, one lower bound on the distance to every other; each iteration they loosen by how far centers
moved, and only points whose bounds cross are looked at. The runner-up's score, which the certificate
needs anyway, is the lower bound. Distances are in the frame's units, float32, every rounding directed
so that a bound stays a bound; a point is skipped only if its label is certain under Rule 1
(test_certificate.test_bounds_never_keep_a_wrong_label fails if bounds follow the centers half the way).
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from gpukmeans.engine.numpy.assign import Nearest, ScoredCenters, least_distance
from gpukmeans.engine.numpy.rows import Features
from gpukmeans.exact.certificate import U32, distance_error_factors
from gpukmeans.exact.distance import Floats

F32 = NDArray[np.float32]

_UP = np.float32(1 + 4 * U32)
_DOWN = np.float32(1 - 4 * U32)
# The relative gap between bounds that is certain to order the two D: their own error is
# (d + 3) * 2**-53, and features are at most 2**17.
_CLEAR = np.float32(1 + 2.0**-20)

# Up to this share of the centers, scores of those that moved cost little beside a search among all.
_FEW_MOVED = 0.25


# In products, of 0.03 ns each: what a row's bounds cost, and what is done with a score besides (measured, 2 cores).
_KEEPING = 2**9
_SCORE = 20

# What is done with a product of two centers besides, in the same; the product itself is one of float64, or two.
_GAP = 80

# Beyond this share to be skipped, bounds are not tried. Passes without bounds, at first and at most.
_LARGEST_SHARE = 0.6
_FIRST = 2
_LONGEST = 16


def _round_up(values: NDArray[np.float64]) -> F32:
    """Without it test_certificate.test_movements_and_gaps_are_bounded_in_rationals fails."""
    return np.nextafter(values.astype(np.float32), np.float32(np.inf))


def moved(old: Floats, new: Floats, scale: float) -> tuple[Floats, Floats]:
    """How far each of k centers (d, k) moved, and the most that any other did: (k,), from above, times scale.

    2**-30 is more than the roundings of up to 2**17 squares
    (test_certificate.test_movements_and_gaps_are_bounded_in_rationals fails without it).
    """
    step = new - old
    step *= step
    own = np.sqrt(step.sum(axis=0)) * (scale * (1 + 2.0**-30))
    first = int(own.argmax())
    others = np.full(len(own), own[first])
    if len(own) > 1:
        others[first] = max(own[:first].max(initial=0.0), own[first + 1 :].max(initial=0.0))
    return own, others


class CenterShift(NamedTuple):
    """Per label: how far its center moved, the most any other center moved, and half the distance
    to the nearest other center; (k,) float32. few: the centers that moved, where these are so few that
    distances to all of them are soon measured (test_certificate.test_the_few_that_moved_are_all_that_did fails if one
    is missing)."""

    own: F32
    others: F32
    half_gap: F32
    few: NDArray[np.int64] | None

    @staticmethod
    def between(old: ScoredCenters, new: ScoredCenters) -> CenterShift:
        assert new.frame is not None
        own, others = moved(old.centers, new.centers, new.frame.scale)
        steps = np.flatnonzero((new.centers != old.centers).any(axis=0))
        few = steps if 0 < len(steps) <= _FEW_MOVED * len(own) else None
        return CenterShift(_round_up(own), _round_up(others), CenterShift._half_gap(new), few)

    @staticmethod
    def _half_gap(target: ScoredCenters) -> F32:
        assert target.frame is not None
        d, k = target.centers.shape
        if k == 1:
            return np.full(1, np.inf, np.float32)
        z = (target.centers - target.frame.offset[:, None]) * target.frame.scale
        norms = np.einsum("ij,ij->j", z, z)
        gaps = z.T @ z
        gaps *= -2.0
        gaps += norms
        gaps += norms[:, None]
        np.fill_diagonal(gaps, np.inf)
        # d + 8 roundings of terms whose magnitudes add up to 4 Z^2, and those of z itself
        # (test_certificate.test_movements_and_gaps_are_bounded_in_rationals fails without these, or without 2**-20)
        least = gaps.min(axis=1) - (d + 12) * 2.0**-50 * float(norms.max())
        half = np.sqrt(np.maximum(least, 0.0)) * (0.5 - 2.0**-20)
        return half.astype(np.float32)


class Trial:
    """Whether bounds pay for m rows of d features and k centers, as far as passes show. Keeping them costs a row about
    as much as so many products, and gaps between centers cost a pass what `_GAP` says; where bounds let too few rows be
    skipped, the next passes do without, each time more of them. A fit's first passes do, too: centers move far then."""

    def __init__(self, d: int, k: int, m: int, keeping: int = _KEEPING, score: int = _SCORE) -> None:
        self._least = (keeping / k + k / m * (2 * d + _GAP)) / (d + score)
        self._rest = self._pause = _FIRST

    def begins(self) -> bool:
        """Whether the next pass, which has no bounds, shall make some."""
        if self._least > _LARGEST_SHARE:
            return False
        self._rest -= 1
        return self._rest < 0

    def goes_on(self, skipped: float) -> bool:
        """Whether to keep bounds that let this share of the rows be skipped."""
        if skipped >= self._least:
            self._pause = _FIRST
            return True
        self._rest = self._pause = min(2 * self._pause, _LONGEST)
        return False


class HamerlyBounds:
    """Bounds for n points. New ones exclude nothing."""

    def __init__(self, n: int) -> None:
        self.upper = np.full(n, np.inf, np.float32)
        self.lower = np.zeros(n, np.float32)

    def loosen(
        self, rows: slice, labels: NDArray[np.int32], center_shift: CenterShift
    ) -> tuple[NDArray[np.int64], NDArray[np.float32] | None]:
        """Account for the centers' movement; returns the rows that must be looked at, ascending, and, if
        few centers moved, the lower bounds that these had before.

        test_certificate.test_loosened_bounds_are_rounded_outwards fails if sums are rounded to the nearest.
        """
        upper, lower = self.upper[rows], self.lower[rows]
        before = None if center_shift.few is None else lower.copy()
        upper += center_shift.own.take(labels)
        upper *= _UP
        lower -= center_shift.others.take(labels)
        np.maximum(lower, 0, out=lower)
        lower *= _DOWN
        clear = np.maximum(lower, center_shift.half_gap.take(labels))
        active = np.flatnonzero(upper * _CLEAR >= clear)
        before = None if before is None else before[active]
        active += rows.start
        return active, before

    def tighten(
        self,
        rows: NDArray[np.int64],
        before: F32 | None,
        features: Features,
        labels: NDArray[np.int32],
        target: ScoredCenters,
        center_shift: CenterShift,
    ) -> NDArray[np.bool_]:
        """Measure the distance of rows to their own centers, and to the few that moved; returns which stay active.

        What was no closer than a bound, and did not move, still is no closer.
        """
        assert target.frame is not None
        step = features.y - target.z.take(labels, axis=0)
        relative, per_center, rest = distance_error_factors(target.z.shape[1], target.frame.largest)
        upper = np.sqrt(np.einsum("ij,ij->i", step, step)) * np.float32(relative)
        upper += np.float32(per_center) * target.lengths.take(labels) + np.float32(rest)
        self.upper[rows] = upper
        if center_shift.few is None or before is None:
            lower = self.lower[rows]
        else:
            lower = np.minimum(before, least_distance(features, target, center_shift.few))
            self.lower[rows] = lower
        return upper * _CLEAR >= np.maximum(lower, center_shift.half_gap.take(labels))

    def set(self, rows: slice | NDArray[np.int64], found: Nearest) -> None:
        assert found.upper is not None
        assert found.lower is not None
        self.upper[rows] = found.upper
        self.lower[rows] = found.lower
