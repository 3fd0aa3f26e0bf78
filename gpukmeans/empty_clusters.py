"""Clusters without rows: which locations they take over. Knows no device."""

# Of several locations equally far from their centers the one of the smallest row index goes to an empty cluster, as the
# first of equals is taken everywhere else. To settle it by coordinates would keep the order of rows out altogether;
# that is open. Sums are not handed from one cluster to another: the rows that are left are summed again, since what
# moved is one location.

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from gpukmeans import cluster_means
from gpukmeans.engine.protocol import Farthest, Points
from gpukmeans.exact.distance import Floats
from gpukmeans.exact.scales import Scales


def filled(
    points: Points, scales: Scales, centers: Floats, found: cluster_means.Means
) -> tuple[Floats, cluster_means.Means]:
    """The next centers (k, d) where some clusters are empty, and the means of the rows that stay.

    As in scikit-learn, the points farthest from their own centers, one for each empty cluster in
    order, leave their cluster for it. All rows at the same location leave together, so that a weight
    of 3 is the same as three rows; and a location that is all its cluster has stays, since its mean is there. Where
    none is left to leave, every cluster has a single one, and empty clusters go to that of the heaviest.
    """
    empty = np.flatnonzero(found.weight == 0)
    far, leaving = _leaving(points, centers, len(empty))
    left = np.unique(far.label[leaving])
    found = cluster_means.sum_again(points, found, left, without=far.x[leaving])
    heaviest = int(found.weight.argmax())
    if len(leaving) < len(empty) and not found.certified[heaviest]:
        found = cluster_means.certify(points, scales, found, np.array([heaviest]))
    updated = points.metric.centers_of(found.centers, centers)
    updated[empty[: len(leaving)]] = far.x[leaving] + 0.0  # makes one zero of the two: rows may have either
    updated[empty[len(leaving) :]] = updated[heaviest]
    return updated, found


def _leaving(points: Points, centers: Floats, m: int) -> tuple[Farthest, NDArray[np.int64]]:
    """The farthest locations, and which up to m of them leave their clusters something."""
    asked = m
    while True:
        far = points.farthest(centers, asked)
        labels, from_last = np.unique(far.label[::-1], return_index=True)
        low, high = points.cluster_ranges(labels, far.x)
        stays = len(far.label) - 1 - from_last[low[:, 0] > high[:, 0]]
        leaving = np.setdiff1d(np.arange(len(far.label)), stays)
        if len(leaving) >= m or len(far.label) < asked:
            return far, leaving[:m]
        asked += m - len(leaving)
