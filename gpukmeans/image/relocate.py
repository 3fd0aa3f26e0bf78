"""Better local optima: centers move from where they save least to where they save most.

Lloyd's iteration cannot carry a center across others. Here, between two of its runs, clusters that are cheap to
dissolve give up their centers to clusters that gain by being split, several at a time, as in Patane and Russo, "The
enhanced LBG algorithm" (Neural Networks 14, 2001). Both amounts are bounds: points of a dissolved cluster go to their
second-nearest centers, and a cluster is split at its mean along its widest axis, before anything is moved to means.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from gpukmeans.exact import Floats, squared_distance
from gpukmeans.image.cells import Cells, Labels


def relocated(cells: Cells, centers: Floats, slack: float) -> Floats | None:
    """Centers (k, d) with some of them elsewhere, None where none should move.

    slack: how much more a cluster may cost than the other gains. With 1 the inertia is sure to fall; but both
    amounts are pessimistic, and more than 1 often leads further.
    """
    k = len(centers)
    found = cells.two_nearest(np.rint(centers))
    cost = np.bincount(found.labels, cells.mass * found.excess, k)
    halves, gain = _split(cells, found.labels, k)
    # The pairs of clusters of which points of one would go to the other, in order.
    pairs = np.unique(found.labels * k + found.second)
    heirs = np.split(pairs % k, np.searchsorted(pairs, np.arange(1, k) * k))
    moved, fixed = centers.copy(), np.zeros(k, bool)
    cheapest = iter(np.argsort(cost, kind="stable").tolist())
    for split in np.argsort(-gain, kind="stable").tolist():
        if fixed[split]:
            continue
        fixed[split] = True
        dissolved = next((i for i in cheapest if not fixed[i] and not fixed[heirs[i]].any()), None)
        if dissolved is None or cost[dissolved] >= slack * gain[split]:
            break
        fixed[heirs[dissolved]] = True
        fixed[dissolved] = True
        moved[split], moved[dissolved] = halves[split], halves[k + split]
    return moved if not np.array_equal(moved, centers) else None


def split(cells: Cells, labels: Labels, centers: Floats, k: int) -> Floats:
    """Up to twice as many centers, at most k: those whose clusters gain most by it become two."""
    halves, gain = _split(cells, labels, len(centers))
    chosen = np.argsort(-gain, kind="stable")[: k - len(centers)]
    chosen = chosen[gain[chosen] > 0]
    lower = centers.copy()
    lower[chosen] = halves[chosen]
    return np.concatenate([lower, halves[len(centers) + chosen]])


def _split(cells: Cells, labels: Labels, k: int) -> tuple[Floats, Floats]:
    """The means (2 k, d) of each cluster's lower and upper half, and what the inertia loses by the split, (k,)."""

    def means(label: NDArray[np.int64], count: int) -> tuple[Floats, Floats]:
        sums, mass = cells.sums(label, count)
        return sums / np.maximum(mass, 1.0)[:, None], mass

    center, _ = means(labels, k)
    off = [x - own.take(labels) for x, own in zip(cells.columns, center.T, strict=True)]
    spread = np.stack([np.bincount(labels, cells.mass * x * x, k) for x in off])
    upper = np.choose(spread.argmax(axis=0)[labels], off) > 0
    halves, mass = means(labels + k * upper, 2 * k)
    low, high = mass[:k], mass[k:]
    apart = squared_distance(halves[:k].T, halves[k:].T)
    return halves, np.where((low > 0) & (high > 0), low * high / np.maximum(low + high, 1.0) * apart, 0.0)
