"""The means of clusters: of the sums that an iteration keeps up, or of sums of their own where those are too coarse.

All clusters share one scale, which the extent and the weight of all rows set. A cluster that has little of the weight,
or lies within a small part of a range that an outlier sets, gets few of its 62 bits. How far off its mean may be
follows from integers and scales (`Scales.errors`). Where that is too far, the cluster's rows are summed again, at a
scale that their own extent and weight set (`OwnScales`). These have no order either, so Rule 3 holds as ever.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from gpukmeans.exact import Floats, OwnScales, Scales, about_zero, squared_distance
from gpukmeans.points.base import Points

# While a fit goes on, a mean may err by this part of the way to the nearest other mean, as float32 would.
COARSE = 2.0**-24

# In the end, and as a batch's, by this part of its cluster's own range, in each feature.
FINE = 2.0**-30

Mask = NDArray[np.bool_]


@dataclass(frozen=True)
class Means:
    """Of clusters: centers (k, d) and weight (k,) float64, both zero where there are no rows; and which of them have
    been held to their own rows, (k,)."""

    centers: Floats
    weight: Floats
    settled: Mask


def of_iteration(points: Points, scales: Scales) -> Means:
    """The means to go on with."""
    means = _summed(points, scales)
    doubtful = _light(points, means.weight)
    (filled,) = np.nonzero(means.weight)
    doubtful[filled] = _crowded(points, scales, means.centers[filled], means.weight[filled])
    return settle(points, scales, means, np.flatnonzero(doubtful))


def of_result(points: Points, scales: Scales, settled: Mask) -> Means:
    """The means to publish, of clusters that are not settled yet."""
    means = _summed(points, scales)
    rows = (means.weight > 0) | _light(points, means.weight)
    return settle(points, scales, means, np.flatnonzero(rows & ~settled))


def settle(
    points: Points, scales: Scales, means: Means, clusters: NDArray[np.int64], without: Floats | None = None
) -> Means:
    """The means with those of `clusters` held to their own rows, but for the rows at locations `without` (p, d).

    Each then lies within the extent of its rows, and errs by no more than FINE of that, or the rounding of float64. Of
    unit rows it is the direction that errs by no more.
    """
    if len(clusters) == 0:
        return means
    centers, weight, settled = means.centers.copy(), means.weight.copy(), means.settled.copy()
    left = np.empty((0, points.d)) if without is None else without
    low, high = points.extents(clusters, left)
    settled[clusters] = True
    has_rows = low[:, 0] <= high[:, 0]
    gone = clusters[~has_rows]
    centers[gone], weight[gone] = 0.0, 0.0
    clusters, low, high = clusters[has_rows], low[has_rows], high[has_rows]
    if points.unit:
        low, high = about_zero(low, high)  # as all of them are measured
    again = np.ones(len(clusters), bool)
    if without is None:
        again = _coarse(points, scales, centers[clusters], weight[clusters], low, high)
    if again.any():
        at = clusters[again]
        centers[at], weight[at] = _summed_again(points, at, low[again], high[again], weight[at], left)
    if not points.unit:
        centers[clusters] = np.clip(centers[clusters], low, high)
    return Means(centers, weight, settled)


def occupied(points: Points) -> Mask:
    """Which clusters have rows, (k,)."""
    weight = points.sums()[:, -1]
    has_rows = weight > 0
    light = np.flatnonzero(_light(points, weight))
    if len(light):
        low, high = points.extents(light, np.empty((0, points.d)))
        has_rows[light] = low[:, 0] <= high[:, 0]
    return has_rows


def _summed(points: Points, scales: Scales) -> Means:
    sums = points.sums()
    weight = np.ldexp(sums[:, -1].astype(np.float64), -points.weights.exponent)
    filled = weight > 0
    centers = np.zeros((len(sums), points.d))
    centers[filled] = scales.centers(sums if filled.all() else sums[filled])
    return Means(centers, weight, np.zeros(len(sums), bool))


def _light(points: Points, weight: NDArray[np.number]) -> Mask:
    """Which clusters may have rows although their summed weight is zero: counts are never rounded."""
    return (weight == 0) & (points.weights.fractions > 0)


def _unit(points: Points) -> float:
    """What the weights of clusters, as they are summed, may be off by."""
    return float(np.ldexp(float(points.weights.fractions), -points.weights.exponent))


def _coarse(points: Points, scales: Scales, means: Floats, weight: Floats, low: Floats, high: Floats) -> Mask:
    """Of which clusters within [low, high] (m, d) the mean, or the weight, may be off by more than FINE."""
    if points.unit:
        far = _reach(scales, weight) > FINE**2 * _norms(means)
    else:
        errors = scales.errors(weight)[:, None] * scales.step
        far = np.logical_or.reduce((errors > FINE * (high - low)) & (high > low), axis=1)
    coarse: Mask = far | (_unit(points) > FINE * weight)
    return coarse


def _crowded(points: Points, scales: Scales, means: Floats, weight: Floats) -> Mask:
    """Which means (m, d) may be off by more than COARSE of the way to another; of unit rows, or to zero, since their
    direction is what counts."""
    with np.errstate(over="ignore"):
        reach = _reach(scales, weight) / COARSE**2
    crowded: Mask = reach > _norms(means) if points.unit else np.zeros(len(means), bool)
    if len(means) < 2:
        return crowded
    # Along the widest feature, neighbors in its order are the nearest, and no D is less than a feature's share of it.
    feature = int(np.argmax(scales.high - scales.low))
    order = np.argsort(means[:, feature])
    along, most = means[order, feature], reach.max()
    for step in range(1, len(means)):
        gaps = along[step:] - along[:-step]
        (close,) = np.nonzero(gaps * gaps < most)
        if len(close) == 0:
            break
        one, other = order[close], order[close + step]
        distance = squared_distance(means[one].T, means[other].T)
        crowded[one[reach[one] > distance]] = True
        crowded[other[reach[other] > distance]] = True
    return crowded


def _reach(scales: Scales, weight: Floats) -> Floats:
    """The squares of the distances (m,) by which means of clusters of these weights may be off."""
    with np.errstate(over="ignore"):
        return scales.errors(weight) ** 2 * _norms(scales.step[None])


def _norms(x: Floats) -> Floats:
    return squared_distance(x.T, np.zeros((x.shape[1], 1)))


def _summed_again(
    points: Points, clusters: NDArray[np.int64], low: Floats, high: Floats, weight: Floats, without: Floats
) -> tuple[Floats, Floats]:
    """The means (m, d) and weights (m,) of clusters within [low, high] (m, d), whose summed weight is about that."""
    weights = points.weights
    most = weight + _unit(points)
    while True:
        own = OwnScales.of(low, high, most, weights)
        sums = points.sums_of(clusters, own, without)
        # Weights that are no counts may be less than they were known to be, and deserve a finer scale then.
        units = sums[:, -1]
        finer = own.weight_of(units + weights.fractions)
        lighter = (units * FINE < weights.fractions) & (finer <= most / 2)
        if not lighter.any():
            return own.centers(sums), own.weight_of(units)
        most = np.where(lighter, finer, most)
