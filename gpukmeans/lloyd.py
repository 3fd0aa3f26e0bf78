"""Lloyd's algorithm, written once over Points; knows no device.

Lloyd, "Least squares quantization in PCM" (IEEE Transactions on Information Theory, 1982).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from fractions import Fraction
from functools import cached_property
from typing import NamedTuple

import numpy as np

from gpukmeans import cluster_means, empty_clusters
from gpukmeans.engine.protocol import Centers, Doubt, NextCenters, Points
from gpukmeans.exact.distance import Floats, distances_of_rows
from gpukmeans.exact.inertia import Inertia
from gpukmeans.exact.scales import Scales


def prepare(points: Points, low: Floats, high: Floats) -> Scales:
    """Fix the scales of all sums from the feature range of the points, which is known to be finite and small enough."""
    scales = Scales.of(low, high, points.weights, sparse=points.sparse)
    points.prepare(scales)
    return scales


class Tolerance:
    """``tol`` in units of the mean variance of the features, which costs a pass and is seldom needed.

    The variance of a feature is at most a quarter of its squared range: a shift above ``tol`` times
    that ends nothing (test_fixed_point.test_tolerance_is_in_units_of_the_mean_variance fails of a hundredth).
    """

    def __init__(self, tol: float, points: Points, scales: Scales) -> None:
        self.tol, self.points, self.scales = tol, points, scales

    @cached_property
    def most(self) -> float:
        """The variance at most. Without tolerance nobody asks, who would pay for all features."""
        ranges = self.scales.high - self.scales.low
        return math.fsum((ranges**2).tolist()) / (4 * self.points.d) * (1 + 2.0**-40)

    @cached_property
    def shift(self) -> float:
        """The largest squared shift that ends a fit: tol times the (weighted) variance, averaged over features."""
        mean = self.scales.centers(self.points.sums().sum(axis=0, keepdims=True))
        split = Inertia.of(self.scales, mean)
        total = split.value(split.units(*self.points.inertia(mean, split)))
        return self.tol * float(total / Fraction(self.points.weights.total) / self.points.d)

    def reached(self, shift: float) -> bool:
        return shift == 0 or (self.tol > 0 and shift <= self.tol * self.most and shift <= self.shift)


def inertia(points: Points, scales: Scales, centers: Floats) -> Fraction:
    """The sum of weight * D to each point's own center, or to the only one, to 2**-40 of itself.

    What is far below the largest that it might be is summed again, in finer units; and it is zero where no row is off
    its center, not where no unit is (test_fixed_point.test_an_inertia_far_below_what_it_might_be_is_summed_again fails
    without either).
    """
    split = Inertia.of(scales, centers)
    while True:
        units = split.units(*points.inertia(centers, split))
        if units == 0 and len(points.farthest(centers, 1).x) == 0:
            return Fraction(0)
        finer = split.finer(units, scales, centers)
        if finer is None:
            return split.value(units)
        split = finer


@dataclass(frozen=True)
class Iteration:
    """One iteration: index from zero, points that changed label (of the first, all), squared shift of the
    centers, and those it began with."""

    index: int
    changed: int
    shift: float
    began_with: Centers

    @property
    def centers(self) -> Floats:
        """(k, d), which may have to come from a device."""
        return np.asarray(self.began_with)


class Fit(NamedTuple):
    """The outcome of one start. centers: (k, d) float64, rounded to the published dtype."""

    centers: Floats
    inertia: Fraction
    n_iter: int


def fit(
    points: Points,
    scales: Scales,
    centers: Floats,
    *,
    max_iter: int,
    tolerance: Tolerance,
    dtype: np.dtype,
    watch: Callable[[Iteration], bool] = lambda iteration: False,
) -> Fit:
    """Iterate from ``centers`` (k, d) float64 until no label changes or the tolerance is reached.

    watch: told of each iteration once its centers are known, where it may say True to end with these.

    The points are left labelled by the centers returned, which are rounded to ``dtype`` first.
    """
    doubt = cluster_means.doubt(points, scales)
    current: Centers = centers
    for i in range(max_iter):
        changed, assigned = points.assign(current), current
        if i > 0 and changed == 0:
            watch(Iteration(i, changed, 0.0, current))
            break
        following, found = next_centers(points, scales, current, doubt)
        shift = math.fsum(following.shifts.tolist())
        # Labels left by an earlier start say nothing of this one.
        stop = watch(Iteration(i, changed if i > 0 else points.n, shift, current))
        current = following.centers
        if stop or tolerance.reached(shift):
            break
    published = published_centers(points, scales, np.asarray(current), found).astype(dtype).astype(np.float64)
    # test_one_answer.test_labels_and_inertia_are_those_of_the_centers fails if labels of others will do.
    if not np.array_equal(published, np.asarray(assigned)):
        points.assign(published)
    return Fit(published, inertia(points, scales, published), i + 1)


def next_centers(
    points: Points, scales: Scales, centers: Centers, doubt: Doubt
) -> tuple[NextCenters, cluster_means.Means | None]:
    """As `update` makes them, by the points themselves if they can, or here; then with what was found."""
    made = points.next_centers(doubt)
    if made is not None:
        return made, None
    before = np.asarray(centers)
    updated, found = update(points, scales, before)
    return NextCenters(updated, distances_of_rows(updated, before)), found


def update(points: Points, scales: Scales, centers: Floats) -> tuple[Floats, cluster_means.Means]:
    """The centers (k, d) float64 by the means of the clusters, as the metric has them; an empty one takes over a far
    point. And the means as they were found, which the same labels may be asked for later.
    """
    found = cluster_means.of_iteration(points, scales)
    if found.weight.all():
        return points.metric.centers_of(found.centers, centers), found
    return empty_clusters.filled(points, scales, centers, found)


def published_centers(points: Points, scales: Scales, centers: Floats, found: cluster_means.Means | None) -> Floats:
    """The centers that follow from the labels as they are to be published: each held to its own rows. found: what
    `update` found with them; None if the points made them, so that none was in doubt."""
    if cluster_means.exact(points, scales):
        return centers
    found = found or cluster_means.of_sums(points, scales)
    last = cluster_means.certify_all(points, scales, found)
    now = last.certified & ~found.certified
    return np.where(now[:, None], points.metric.centers_of(last.centers, centers), centers)
