"""Better local optima: centers move from where they save least to where they save most.

Lloyd's iteration cannot carry a center across others. Here, between two of its runs, clusters that are cheap to
dissolve give up their centers to clusters that gain by being split, several at a time, as in Patane and Russo, "The
enhanced LBG algorithm" (Neural Networks 14, 2001). Both amounts are bounds: points of a dissolved cluster go to their
second-nearest centers, and a cluster is split at its mean along its widest axis, before anything is moved to means.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from gpukmeans.exact.distance import Floats, squared_distance
from gpukmeans.image.protocol import Cells


def relocated(cells: Cells, centers: Floats, slack: float) -> Floats | None:
    """Centers (k, d) with some of them elsewhere, None where none should move.

    slack: how much more a cluster may cost than the other gains. With 1 the inertia is sure to fall; but both
    amounts are pessimistic, and more than 1 often leads further. It is sure because a cluster takes part once: it is
    halved, or dissolved, or receives cells of one that is
    (test_cells.test_moving_centers_far_away_without_slack_saves fails without any of the checks, or if one that costs
    more is dissolved).
    """
    k = len(centers)
    labels, clusters, cost, pairs = cells.second_nearest(np.rint(centers))
    halves, gain = _split(cells, labels, clusters.means)
    # Where points of cluster i would go: heirs[first[i] : first[i + 1]].
    heirs, first = pairs % k, np.searchsorted(pairs, np.arange(k + 1) * k).tolist()
    moved, fixed = centers.copy(), np.zeros(k, bool)
    cheapest = iter(np.argsort(cost, kind="stable").tolist())
    for halved in np.argsort(-gain, kind="stable").tolist():
        if fixed[halved]:
            continue
        fixed[halved] = True
        free = (i for i in cheapest if not fixed[i] and not fixed[heirs[first[i] : first[i + 1]]].any())
        dissolved = next(free, None)
        if dissolved is None or cost[dissolved] >= slack * gain[halved]:
            break
        fixed[heirs[first[dissolved] : first[dissolved + 1]]] = True
        fixed[dissolved] = True
        moved[halved], moved[dissolved] = halves[halved], halves[k + halved]
    return moved if not np.array_equal(moved, centers) else None


def split(cells: Cells, labels: Any, centers: Floats, k: int) -> Floats:
    """Up to twice as many centers, at most k: those whose clusters gain most by it become two."""
    halves, gain = _split(cells, labels, centers)
    chosen = np.argsort(-gain, kind="stable")[: k - len(centers)]
    chosen = chosen[gain[chosen] > 0]
    lower = centers.copy()
    lower[chosen] = halves[chosen]
    return np.concatenate([lower, halves[len(centers) + chosen]])


def _split(cells: Cells, labels: Any, centers: Floats) -> tuple[Floats, Floats]:
    """The means (2 k, d) of each cluster's lower and upper half, and what the inertia loses by the split, (k,)."""
    k, halves = len(centers), cells.half_sums(labels, centers)
    means, low, high = halves.means, halves.mass[:k], halves.mass[k:]
    apart = squared_distance(means[:k].T, means[k:].T)
    return means, np.where((low > 0) & (high > 0), low * high / np.maximum(low + high, 1.0) * apart, 0.0)
