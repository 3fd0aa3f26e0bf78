"""The seam for a metric: where euclidean and cosine differ. Others ask at most whether rows are normalized.

D is the same for both (Rule 1). A metric says which rows and centers it is taken of, by what a mean is near enough, and
what `transform` makes of it. Whoever holds rows knows their metric; the algorithm asks that one.
"""

from __future__ import annotations

from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from gpukmeans.exact.distance import Floats, check_magnitude, normalize, norms
from gpukmeans.exact.scales import Scales, about_zero
from gpukmeans.threads import scratch

Mask = NDArray[np.bool_]

# Coordinates at a time: 0.5 MB of float64, in a core's second-level cache.
_PIECE = 2**16


class Metric:
    """Euclidean: rows and centers as they are."""

    name: ClassVar = "euclidean"
    normalizes: ClassVar = False  # whether rows are brought to length one before anything else reads them

    # What `transform` answers, of engines too that do not call `transformed`: so many D, or the root of that.
    factor: ClassVar = 1.0
    rooted: ClassVar = True

    def scaled_range(self, low: Floats, high: Floats) -> tuple[Floats, Floats]:
        """The range that scores and sums measure rows within [low, high] in."""
        return low, high

    def initial(self, centers: Floats) -> Floats:
        """Centers (k, d) to begin with. Raises ValueError if they are too large."""
        check_magnitude(centers, centers, "init")
        return centers

    def check(self, centers: NDArray[Any]) -> None:
        """Raise ValueError if these cannot be fitted centers (k, d)."""

    def centers_of(self, means: Floats, before: Floats) -> Floats:
        """The centers of clusters with these means (k, d), and with those centers before."""
        return means

    def mean_within(self, means: Floats, low: Floats, high: Floats) -> Floats:
        """The means (m, d) of rows within [low, high], which rounding may have moved. Which of the two zeros an extreme
        is, depends on the order of rows; adding makes one of them."""
        held = np.maximum(means, low)
        np.minimum(held, high, out=held)
        held += 0.0
        return held

    def too_coarse(self, means: Floats, errors: Floats, scales: Scales, low: Floats, high: Floats, part: float) -> Mask:
        """Which means (m, d) of rows within [low, high] may be off by more than a part of these rows' range, in any
        feature. errors: (m,) by how many `Scales.step` they may be off."""
        coarse = np.empty(len(means), bool)
        rows = max(1, _PIECE // means.shape[1])
        with np.errstate(invalid="ignore"):  # where rows have no weight, and features no range
            for a in range(0, len(means), rows):
                at = slice(a, a + rows)
                width = np.subtract(high[at], low[at], out=_like(means[at], "steps"))
                some = width > 0
                width *= part
                off = np.multiply(errors[at, None], scales.step, out=_like(means[at], "reach"))
                some &= off > width
                np.logical_or.reduce(some, axis=1, out=coarse[at])
        return coarse

    def without_direction(self, means: Floats, reach: Floats) -> Mask:
        """Which means (m, d) are nothing if they may be off by so much, reach (m,) being its square."""
        return np.zeros(len(means), bool)

    def transformed(self, dist_sq: Floats) -> Floats:
        """What `transform` answers for D, float64."""
        scaled = dist_sq if self.factor == 1 else dist_sq * self.factor
        return np.sqrt(scaled) if self.rooted else scaled


class Cosine(Metric):
    """Spherical k-means: rows and centers are unit vectors, or zero.

    From one unit vector to another D is twice what their cosine lacks of one. The unit vector in the direction of a
    cluster's mean has the largest sum of cosines with its rows. Opposite rows may have a mean of zero, to which every
    direction is as near: the center stays as it was before.

    Dhillon and Modha, "Concept decompositions for large sparse text data using clustering" (Machine Learning, 2001).
    """

    name: ClassVar = "cosine"
    normalizes: ClassVar = True
    factor: ClassVar = 0.5  # one less the cosine
    rooted: ClassVar = False

    def scaled_range(self, low: Floats, high: Floats) -> tuple[Floats, Floats]:
        """About zero, so that opposite directions cancel to the bit."""
        return about_zero(low, high)

    def initial(self, centers: Floats) -> Floats:
        return normalize(centers.T).T.copy()

    def check(self, centers: NDArray[Any]) -> None:
        """bfloat16 rounds a coordinate by less than 2**-8 of itself, and so the length. float16 does by 2**-11, or by
        2**-25: 2**30 of them move a length by less than 2**-9."""
        length = np.sqrt(norms(centers.astype(np.float64)))
        if (np.abs(length - 1) > 2.0**-8)[centers.any(axis=1)].any():
            raise ValueError(
                'With metric="cosine" they are unit vectors, or zero: bring them to length one, as by '
                "sklearn.preprocessing.normalize."
            )

    def centers_of(self, means: Floats, before: Floats) -> Floats:
        return np.where(means.any(axis=1, keepdims=True), normalize(means.T).T, before)

    def mean_within(self, means: Floats, low: Floats, high: Floats) -> Floats:
        return means  # of which the direction counts

    def too_coarse(self, means: Floats, errors: Floats, scales: Scales, low: Floats, high: Floats, part: float) -> Mask:
        """Of a direction a part of its length is compared, whatever the rows' range."""
        with np.errstate(over="ignore", invalid="ignore"):
            return errors * errors * scales.step_squared > part**2 * norms(means)

    def without_direction(self, means: Floats, reach: Floats) -> Mask:
        return reach > norms(means)


EUCLIDEAN, COSINE = Metric(), Cosine()
_METRICS = {metric.name: metric for metric in (EUCLIDEAN, COSINE)}


def _like(values: Floats, name: str) -> Floats:
    """Memory for as many, kept under that name."""
    return scratch(name, values.size, np.float64).reshape(values.shape)


def metric_of(name: str) -> Metric:
    """The metric of that name; raises ValueError for any other."""
    if name not in _METRICS:
        raise ValueError(f"metric must be one of {sorted(_METRICS)}, got {name!r}.")
    return _METRICS[name]
