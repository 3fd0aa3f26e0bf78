"""The assignment step on NumPy: float32 scores propose, D decides (Rule 2).

Row-major scores, so that argmin runs along contiguous memory; the runner-up is a second argmin with
the winner masked, which NumPy does faster than a minimum or a partition.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from gpukmeans.exact import U32, Floats, Frame, squared_distance
from gpukmeans.points.rows import Features
from gpukmeans.threads import scratch

# D of at most this many values at a time: 1 MB of float64.
_PIECE = 2**17


@dataclass(frozen=True)
class Target:
    """The centers of one assignment step, in every form its parts need.

    centers: (d, k) float64. columns: (d + 1, k) float32, see Frame. z: (k, d) float32.
    """

    centers: Floats
    frame: Frame | None
    columns: NDArray[np.float32]
    z: NDArray[np.float32]
    largest_z: float

    @staticmethod
    def of(centers: Floats, frame: Frame | None) -> Target:
        exact = np.ascontiguousarray(centers.T)
        if frame is None:
            nothing = np.empty((0, 0), np.float32)
            return Target(exact, None, nothing, nothing, 0.0)
        columns, largest_z = frame.centers(centers)
        z = np.ascontiguousarray(columns[:-1].T) * np.float32(-0.5)
        return Target(exact, frame, columns, z, largest_z)


@dataclass(frozen=True)
class Nearest:
    """labels (m,); upper bounds on the distance to that center and lower bounds on all others, (m,)
    float32 in the frame's units; how many points the scores left uncertain."""

    labels: NDArray[np.int64]
    upper: NDArray[np.float32]
    lower: NDArray[np.float32]
    uncertain: int


def exact_nearest(x: Floats, centers: Floats) -> NDArray[np.int64]:
    """Labels of x (d, m) by D alone, for problems too small to gain from scores, or out of their range."""
    d, k = centers.shape
    step = max(1, _PIECE // k)
    labels = [
        squared_distance(x[:, None, a : a + step], centers[:, :, None]).argmin(axis=0)
        for a in range(0, x.shape[1], step)
    ]
    return labels[0] if len(labels) == 1 else np.concatenate(labels)


def nearest(features: Features, target: Target, exact: Callable[[NDArray[np.int64]], Floats]) -> Nearest:
    """The nearest centers of m points; ``exact(i)`` gives points i as (d, len(i)) float64."""
    assert target.frame is not None
    y, norms = features
    m, k = len(y), target.columns.shape[1]
    scores = scratch("scores", m * k, np.float32).reshape(m, k)
    np.matmul(y, target.columns, out=scores)
    flat = scores.reshape(-1)
    first = np.arange(0, m * k, k)
    labels = scores.argmin(axis=1)
    at = first + labels
    best = flat[at]
    flat[at] = np.inf
    second = flat[first + scores.argmin(axis=1)]

    margin = target.frame.margin(norms, target.largest_z)
    uncertain = np.flatnonzero(~(second - best > margin))
    if uncertain.size:
        flat[at[uncertain]] = best[uncertain]
        reach = best[uncertain].astype(np.float64) + margin[uncertain]
        possible = scores[uncertain] <= reach[:, None]
        labels[uncertain] = decide(exact(uncertain), possible, target.centers)
        # All that is known now: every center is at least as far as the best score allows, and the
        # chosen one is within the margin of it.
        second[uncertain] = best[uncertain]
        best[uncertain] += margin[uncertain]

    best += norms
    second += norms
    upper = np.sqrt(np.maximum(best + margin, 0)) * np.float32(1 + 4 * U32)
    lower = np.sqrt(np.maximum(second - margin, 0)) * np.float32(1 - 4 * U32)
    return Nearest(labels, upper, lower, len(uncertain))


def decide(x: Floats, possible: NDArray[np.bool_], centers: Floats) -> NDArray[np.int64]:
    """Labels of x (d, m) by D among the possible centers (m, k), at least one for each point."""
    row, center = np.nonzero(possible)
    distance = np.empty(len(row))
    step = max(1, _PIECE // len(x))
    for a in range(0, len(row), step):
        piece = slice(a, a + step)
        distance[piece] = squared_distance(x[:, row[piece]], centers[:, center[piece]])
    first = np.searchsorted(row, np.arange(x.shape[1]))
    least = np.minimum.reduceat(distance, first)
    return np.minimum.reduceat(np.where(distance == least[row], center, possible.shape[1]), first)
