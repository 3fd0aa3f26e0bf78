"""What a batch does to the centers (Sculley, Web-Scale K-Means Clustering, 2010), and which are too light to stay."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from gpukmeans import cluster_means, lloyd
from gpukmeans.engine.protocol import Points
from gpukmeans.exact.distance import Floats
from gpukmeans.exact.scales import Scales


def labelled(points: Points, feature_range: tuple[Floats, Floats], centers: Floats) -> Scales:
    """Label a batch by the centers (k, d); returns the scales of its sums."""
    scales = lloyd.prepare(points, *feature_range)
    points.assign(centers)
    return scales


def moved(points: Points, scales: Scales, centers: Floats, counts: Floats) -> tuple[Floats, Floats]:
    """The centers (k, d) after a batch that is labelled by those before, and the weight that each has seen (k,).

    Each goes from where it was towards the mean of its rows, by their share of all the weight that it has seen. Raises
    ValueError if weights add up to more than float64 holds.
    """
    made = points.moved(centers, counts, cluster_means.FINE)
    if made is not None:
        return made
    found = cluster_means.of_result(points, scales)
    with np.errstate(over="ignore"):
        weight = np.ldexp(found.weight, -points.weights.shift)
        counts = counts + weight
    if not np.isfinite(counts).all():
        raise ValueError("The weights of a cluster add up to more than float64 holds. Scale them down.")
    seen = weight > 0
    share = (weight[seen] / counts[seen])[:, None]
    mean, before = (found.centers, centers) if seen.all() else (found.centers[seen], centers[seen])
    after = mean - before
    after *= share
    after += before
    # The difference may round: what had no weight before is the mean itself.
    np.copyto(after, mean, where=share == 1)
    centers = centers.copy()
    centers[seen] = points.metric.centers_of(after, before)
    return centers, counts


def lightest(counts: Floats, ratio: float, most: int) -> NDArray[np.int64]:
    """Which centers, up to so many, have counts below that ratio of the heaviest's, the lightest first; ascending."""
    light = counts < ratio * counts.max()
    light[counts.argmax()] = False
    order = np.argsort(counts, kind="stable")
    return np.sort(order[light[order]][:most])
