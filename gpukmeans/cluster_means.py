"""The means of clusters: of the sums that an iteration keeps up, or of sums of their own where those are too coarse.

All clusters share one scale, which the range and the weight of all rows set. A cluster that has little of the weight,
or lies within a small part of a range that an outlier sets, gets few of its 62 bits. How far off its mean may be
follows from integers and scales (`Scales.errors`). Where that is too far, the cluster's rows are summed again, at a
scale that their own range and weight set (`OwnScales`). These have no order either, so Rule 3 holds as ever.
"""

# Two limits, COARSE and FINE, because the first is asked for in each iteration and can be answered without looking at
# rows: how far a mean may be off follows from the scale, the cluster's integer weight, and how many weights are no
# integers. On ordinary data no mean is off by as much. Only at the end are all clusters looked at, which costs a pass.
# Of normalized rows the direction counts, so an error is compared with the length of the mean. Whether a cluster is
# empty is no question of weight: a cluster of rows too light for the sums has rows.

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from gpukmeans.engine.protocol import Doubt, Points
from gpukmeans.exact.certificate import Frame
from gpukmeans.exact.distance import Floats, distances_of_rows
from gpukmeans.exact.scales import OwnScales, Scales

# While a fit goes on, a mean may err by this part of the way to the nearest other mean, as float32 would.
COARSE = 2.0**-24

# In the end, and as a batch's, by this part of its cluster's own range, in each feature.
FINE = 2.0**-30

# So many pairs of means have their D without products before; rows and columns of a block of pairs, and the coordinates
# of which D is taken at once: 2 MB.
_FEW_PAIRS, _BLOCK, _COORDINATES = 2**10, 2**8, 2**18

Mask = NDArray[np.bool_]
Clusters = NDArray[np.int64]


class Means(NamedTuple):
    """Of clusters: centers (k, d) and weight (k,) float64, both zero where there are no rows; and which of them have
    been held to their own rows, (k,)."""

    centers: Floats
    weight: Floats
    certified: Mask


def of_iteration(points: Points, scales: Scales) -> Means:
    """The means to go on with."""
    means = of_sums(points, scales)
    if exact(points, scales) or _none_is_crowded(points, scales, means):
        return means
    doubtful = _light(points, means.weight)
    filled = means.weight > 0
    doubtful[filled] = _crowded(points, scales, means.centers[filled], means.weight[filled])
    return certify(points, scales, means, np.flatnonzero(doubtful))


def doubt(points: Points, scales: Scales) -> Doubt:
    """Where `of_iteration` looks at means once more, for who makes them by itself: of fewer it must not. Twice as far
    is more than any rounding of `_reach`."""
    limit = 0.0 if exact(points, scales) else 2 * scales.step_squared / COARSE**2
    return Doubt(limit, 2.0 * points.weights.fractions, scales.widest)


def of_result(points: Points, scales: Scales) -> Means:
    """The means to publish."""
    return certify_all(points, scales, of_sums(points, scales))


def certify_all(points: Points, scales: Scales, means: Means) -> Means:
    """The means of the same rows with all of them certified, but for those that are
    (test_fixed_point.test_a_center_is_the_mean_of_its_rows_however_far_apart_weights_are fails of others)."""
    if exact(points, scales):
        return means
    rows = (means.weight > 0) | _light(points, means.weight)
    return certify(points, scales, means, np.flatnonzero(rows & ~means.certified))


def certify(points: Points, scales: Scales, means: Means, clusters: Clusters) -> Means:
    """The means with those of `clusters` certified: each then lies within the range of its own rows, and errs by no
    more than FINE of that, or the rounding of float64. Of normalized rows it is the direction that errs by no more."""
    if points.metric.normalizes:
        # A direction is compared with nothing but itself.
        bounds = np.zeros((2, len(clusters), points.d))
        return sum_again(points, means, clusters[_coarse(points, scales, means, clusters, *bounds)])
    if len(clusters) == 0:
        return means

    def known(low: Floats, high: Floats) -> Mask:
        """Whether these ranges, of some rows, will do: a mean that lies within them and errs by little enough of them
        does so of all rows. Where some rows have no range all may have a small one, unless that is all there is.
        test_fixed_point.test_a_center_is_right_whichever_of_its_rows_are_looked_at fails without either.
        """
        x = _of(means.centers, clusters)
        within = (low <= x) & (x <= high) & ((low < high) | (scales.step == 0))
        return ~_coarse(points, scales, means, clusters, low, high) & within.all(axis=1)

    low, high = points.cluster_ranges(clusters, _nowhere(points), known)
    certified = means.certified.copy()
    certified[clusters] = True
    centers = points.metric.mean_within(_of(means.centers, clusters), low, high)
    if len(clusters) < len(means.centers):
        held, centers = centers, means.centers.copy()
        centers[clusters] = held
    again = _coarse(points, scales, means, clusters, low, high)
    return sum_again(points, Means(centers, means.weight, certified), clusters[again])


def sum_again(points: Points, means: Means, clusters: Clusters, without: Floats | None = None) -> Means:
    """The means with those of `clusters` made of sums of their own, without the rows at these locations (p, d)."""
    if len(clusters) == 0:
        return means
    centers, weight, certified = means.centers.copy(), means.weight.copy(), means.certified.copy()
    without = _nowhere(points) if without is None else without
    low, high = points.cluster_ranges(clusters, without)
    certified[clusters] = True
    some = low[:, 0] <= high[:, 0]
    none = clusters[~some]
    centers[none], weight[none] = 0.0, 0.0
    clusters, low, high = clusters[some], low[some], high[some]
    low, high = points.metric.scaled_range(low, high)
    most = weight[clusters] + _weights_off(points)
    fractions = points.weights.fractions
    while len(clusters):
        own = OwnScales.of(low, high, most, points.weights)
        sums = points.cluster_sums(clusters, own, without)
        # Weights that are no counts may be less than they were known to be, and deserve a finer scale then.
        units = sums[:, -1]
        finer = own.weight_of(units + fractions)
        lighter = (units * FINE < fractions) & (finer <= most / 2)
        if not lighter.any():
            found = own.centers(sums)
            centers[clusters] = points.metric.mean_within(found, low, high)
            weight[clusters] = own.weight_of(units)
            break
        most = np.where(lighter, finer, most)
    return Means(centers, weight, certified)


def occupied(points: Points) -> Mask:
    """Which clusters have rows, (k,)."""
    weight = points.sums()[:, -1]
    has_rows = weight > 0
    light = np.flatnonzero(_light(points, weight))
    if len(light):
        low, high = points.cluster_ranges(light, _nowhere(points))
        has_rows[light] = low[:, 0] <= high[:, 0]
    return has_rows


def of_sums(points: Points, scales: Scales) -> Means:
    sums = points.sums()
    weight = sums[:, -1].astype(np.float64)
    if points.weights.exponent:
        weight = np.ldexp(weight, -points.weights.exponent)
    if weight.all():
        centers = scales.centers(sums)
    else:
        filled = weight > 0
        centers = np.zeros((len(sums), points.d))
        centers[filled] = scales.centers(sums[filled])
    return Means(centers, weight, np.zeros(len(sums), bool))


def exact(points: Points, scales: Scales) -> bool:
    """Whether nothing is rounded but quotients: sums of small whole numbers are exact, so that means lie among their
    rows, whose range is nothing, or one at least (test_fixed_point.test_a_center_lies_among_its_rows_and_is_right fails
    if the same is taken for granted of other numbers, or weights).
    """
    return points.integral and points.weights.fractions == 0 and scales.coarsest <= FINE


def _nowhere(points: Points) -> Floats:
    return np.empty((0, points.d))


def _light(points: Points, weight: NDArray[np.number]) -> Mask:
    """Which clusters may have rows although their summed weight is zero: counts are never rounded
    (test_fixed_point.test_a_center_is_the_mean_of_its_rows_however_far_apart_weights_are fails of others)."""
    return (weight == 0) & (points.weights.fractions > 0)


def _weights_off(points: Points) -> float:
    """By how much the weights of clusters, as they are summed, may be off."""
    return float(np.ldexp(float(points.weights.fractions), -points.weights.exponent))


def _coarse(points: Points, scales: Scales, means: Means, clusters: Clusters, low: Floats, high: Floats) -> Mask:
    """Of which clusters within [low, high] (m, d) the mean, or the weight, may be off by more than FINE."""
    weight = means.weight[clusters]
    errors = scales.errors(weight)
    far = points.metric.too_coarse(_of(means.centers, clusters), errors, scales, low, high, FINE)
    return far if points.weights.fractions == 0 else far | (_weights_off(points) > FINE * weight)


def _of(centers: Floats, clusters: Clusters) -> Floats:
    """Those of these clusters, ascending; not copied where they are all."""
    return centers if len(clusters) == len(centers) else centers[clusters]


def _none_is_crowded(points: Points, scales: Scales, means: Means) -> bool:
    """Whether that shows at once, as nearly always: in one feature all means are further apart than the lightest
    cluster's mean may be off, and no D is less than a feature's share of it
    (test_fixed_point.test_a_center_is_the_mean_of_its_rows_however_far_apart_weights_are fails without the distance or
    the weights, and test_cosine.test_rows_that_nearly_cancel_have_a_direction_while_a_fit_goes_on of normalized rows).
    """
    if points.metric.normalizes or not means.weight.all():
        return False
    along = np.sort(means.centers[:, scales.widest])
    gaps = along[1:] - along[:-1]
    return bool((gaps * gaps).min(initial=np.inf) >= _reach(scales, float(means.weight.min())) / COARSE**2)


def _crowded(points: Points, scales: Scales, means: Floats, weight: Floats) -> Mask:
    """Which means (m, d) may be off by more than COARSE of the way to another; of normalized rows, or to zero, as their
    direction is what counts."""
    with np.errstate(over="ignore"):
        reach = np.broadcast_to(_reach(scales, weight) / COARSE**2, len(means))
    crowded = points.metric.without_direction(means, reach)
    for one, other in _neighbors(means, scales.widest, float(reach.max())):
        distance = distances_of_rows(means[one], means[other])
        crowded[one[reach[one] > distance]] = True
        crowded[other[reach[other] > distance]] = True
    return crowded


def _neighbors(means: Floats, feature: int, most: float) -> Iterator[tuple[Clusters, Clusters]]:
    """Pairs of means (m, d), among them all whose D is less than `most`. Where a feature tells few apart, as those of
    rows that are mostly zero, float64 products do."""
    if not most > 0:
        return
    m, d = means.shape
    order = np.argsort(means[:, feature])
    along = means[order, feature]
    # Further than any gap whose square, as it is rounded, is less than `most`.
    ends = np.searchsorted(along, along + (1.01 * np.sqrt(most) + 2.0**-50 * np.abs(along)), "right")
    following = ends - np.arange(m) - 1
    frame = Frame.of(means.min(axis=0), means.max(axis=0)) if following.sum() > _FEW_PAIRS else None
    columns = np.ascontiguousarray(means[order].T) if frame else means[:0]
    at_once = max(1, _COORDINATES // d)
    for a in range(0, m, step := max(1, min(_BLOCK, _BLOCK**2 // int(following.max(initial=1))))):
        b = min(a + step, m)
        rows, others = np.arange(a, b), np.arange(a, ends[b - 1])
        close = (others > rows[:, None]) & (others < ends[a:b, None])
        if frame and close.any():
            least, _ = frame.distance_bounds(columns[:, a:b], columns[:, a : ends[b - 1]])
            close &= ~(least > 1.01 * most * frame.scale**2)
        one, other = close.nonzero()
        for i in range(0, len(one), at_once):
            yield order[rows[one[i : i + at_once]]], order[others[other[i : i + at_once]]]


def _reach(scales: Scales, weight: Any) -> Any:
    """The squares of the distances by which means of clusters of these weights may be off."""
    errors = scales.errors(weight)
    if isinstance(errors, float):
        return errors * errors * scales.step_squared
    with np.errstate(over="ignore", invalid="ignore"):
        return errors * errors * scales.step_squared
