"""Better local optima: centers move from where they save least to where they save most.

Lloyd's iteration cannot carry a center across others. Here, between two of its runs, clusters that are cheap to
dissolve give up their centers to clusters that gain by being split, several at a time, as in Patane and Russo, "The
enhanced LBG algorithm" (Neural Networks 14, 2001). Both amounts are bounds: points of a dissolved cluster go to their
second-nearest centers, and a cluster is split at its mean along its widest axis, before anything is moved to means.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from gpukmeans.exact import Floats, squared_distance


def relocated(
    points: Floats, weights: NDArray[Any], labels: NDArray[Any], centers: Floats, slack: float
) -> Floats | None:
    """Centers (k, d) with some of them elsewhere, None where none should move.

    points: (m, d). weights, labels: (m,). slack: how much more a cluster may cost than the other gains. With 1 the
    inertia is sure to fall; but both amounts are pessimistic, and more than 1 often leads further.
    """
    k = len(centers)
    second, excess = _second(points, labels, centers)
    cost = np.bincount(labels, weights * excess, k)
    halves, gain = _split(points, weights, labels, k)
    heirs = np.zeros((k, k), bool)  # whether points of one would go to the other
    heirs[labels, second] = True
    moved, fixed = centers.copy(), np.zeros(k, bool)
    cheapest = iter(np.argsort(cost, kind="stable").tolist())
    for split in np.argsort(-gain, kind="stable").tolist():
        if fixed[split]:
            continue
        fixed[split] = True
        dissolved = next((i for i in cheapest if not fixed[i] and not (heirs[i] & fixed).any()), None)
        if dissolved is None or cost[dissolved] >= slack * gain[split]:
            break
        fixed |= heirs[dissolved]
        fixed[dissolved] = True
        moved[split], moved[dissolved] = halves[split], halves[k + split]
    return moved if not np.array_equal(moved, centers) else None


def split(points: Floats, weights: NDArray[Any], labels: NDArray[Any], centers: Floats, k: int) -> Floats:
    """Up to twice as many centers, at most k: those whose clusters gain most by it become two."""
    halves, gain = _split(points, weights, labels, len(centers))
    chosen = np.argsort(-gain, kind="stable")[: k - len(centers)]
    lower = centers.copy()
    lower[chosen] = halves[chosen]
    return np.concatenate([lower, halves[len(centers) + chosen]])


# How many centers around its own a point may be given to.
_NEIGHBORS = 12


def _second(points: Floats, labels: NDArray[Any], centers: Floats) -> tuple[NDArray[np.int64], Floats]:
    """Each point's nearest center but its own, of those near that one, and how much farther it is."""
    columns = np.ascontiguousarray(centers.T)
    between = squared_distance(columns[:, :, None], columns[:, None, :])
    np.fill_diagonal(between, np.inf)
    near = np.argsort(between, axis=1, kind="stable")[:, :_NEIGHBORS]
    x = np.ascontiguousarray(points.T)
    least = np.full(len(points), np.inf)
    second = np.zeros(len(points), np.int64)
    for column in near.T:
        other = column[labels]
        distance = squared_distance(x, columns, other)
        nearer = distance < least
        least[nearer] = distance[nearer]
        second[nearer] = other[nearer]
    return second, least - squared_distance(x, columns, labels)


def _split(points: Floats, weights: NDArray[Any], labels: NDArray[np.int64], k: int) -> tuple[Floats, Floats]:
    """The means (2 k, d) of each cluster's lower and upper half, and what the inertia loses by the split, (k,)."""

    def means(label: NDArray[np.int64], count: int) -> tuple[Floats, NDArray[Any]]:
        mass = np.bincount(label, weights, count)
        sums = [np.bincount(label, weights * x, count) for x in points.T]
        return np.stack(sums, axis=1) / np.maximum(mass, np.finfo(np.float64).tiny)[:, None], mass

    center, _ = means(labels, k)
    off = points - center[labels]
    spread = np.stack([np.bincount(labels, weights * x * x, k) for x in off.T], axis=1)
    upper = off[np.arange(len(points)), spread.argmax(axis=1)[labels]] > 0
    halves, mass = means(labels + k * upper, 2 * k)
    low, high = mass[:k], mass[k:]
    apart = squared_distance(halves[:k].T, halves[k:].T)
    return halves, np.where(high > 0, low * high / np.maximum(low + high, np.finfo(np.float64).tiny) * apart, 0.0)
