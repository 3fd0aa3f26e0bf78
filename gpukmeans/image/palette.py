"""The palette of weighted colors: k-means from coarse to fine, then on the colors that can be shown.

A first palette is found among cells of grids (coarse.py). At the end all distinct colors take part, and the palette is
one of levels, not of means: a color of the palette moves to the levels that its pixels' mean rounds to, where these
are nearer to the mean than its own. Each such step lessens the error, so the iteration ends, and at its end the
palette as it will be written is a fixed point of Lloyd's iteration on all pixels: every pixel has the nearest color,
and every color is its pixels' rounded mean.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gpukmeans import dispatch, lloyd
from gpukmeans.exact import Floats, Weights, squared_distance
from gpukmeans.image.coarse import Stage, coarse_to_fine
from gpukmeans.image.color import Levels, to_colors, to_points
from gpukmeans.threads import one_blas_thread

# Iterations on levels; photographs take 2 to 20.
_MOST = 1000


@dataclass(frozen=True)
class Step:
    """A fit to the cells of a grid, or an iteration on palettes. grid: cells along a feature; 0 for all distinct
    colors. points: how many took part. iterations: of the fit; 1 for an iteration. inertia: at the fit's end, in the
    space of the clustering. changed: how many points an iteration gave another color, and moved: how many colors of
    the palette it changed; both None for a fit."""

    grid: int
    points: int
    iterations: int
    inertia: float | None = None
    changed: int | None = None
    moved: int | None = None


@dataclass(frozen=True)
class Found:
    """palette: (k, c). labels: (m,) of the distinct colors. converged: whether the palette is a fixed point."""

    palette: Levels
    labels: NDArray[np.int32]
    converged: bool
    history: list[Step] = field(default_factory=list)


def find(
    colors: Levels,
    weights: NDArray[Any],
    k: int,
    *,
    space: str,
    random_state: int | np.random.RandomState | None,
    device: str,
    init: Floats | None = None,
) -> Found:
    """At most k colors for colors (m, c) of positive weights (m,).

    init: (k, c) centers to begin with, as points of the space; found as above unless given.
    """
    if len(colors) <= k:
        return Found(colors, np.arange(len(colors), dtype=np.int32), True)
    points = to_points(colors, space)
    history: list[Step] = []
    if init is None:

        def tell(stage: Stage, inertia: float) -> None:
            history.append(Step(stage.cells.grid, len(stage.cells.x), stage.iterations, inertia))

        with dispatch.on(device):
            init = coarse_to_fine(points, weights, k, random_state, device, tell)
    palette, labels, converged = _on_levels(points, weights, init, space, colors.dtype, device, history)
    used = np.bincount(labels, minlength=len(palette)) > 0  # equal colors leave all but the first without pixels
    return Found(palette[used], (np.cumsum(used, dtype=np.int32) - 1)[labels], converged, history)


def _on_levels(
    points: NDArray[Any],
    weights: NDArray[Any],
    centers: Floats,
    space: str,
    dtype: Any,
    device: str,
    history: list[Step],
) -> tuple[Levels, NDArray[np.int32], bool]:
    """Lloyd's iteration on palettes of levels, from the one that centers round to."""
    summary, used = Weights.of(weights.astype(np.float64))
    used = weights if used.dtype == weights.dtype else used  # the same numbers, held once
    with one_blas_thread(), dispatch.on(device):
        held = dispatch.make_points(points, used, summary, device=device, distinct=True)
        scales = lloyd.prepare(held, *held.extent())
        palette = to_colors(centers, space, dtype)
        converged = False
        for _ in range(_MOST):
            own = to_points(palette, space).astype(np.float64)
            changed = held.assign(own)
            means = lloyd.update(held, scales, own)
            rounded = to_colors(means, space, dtype)
            new = to_points(rounded, space).astype(np.float64)
            moves = squared_distance(new.T, means.T) < squared_distance(own.T, means.T)
            history.append(Step(0, len(points), 1, None, int(changed), int(np.count_nonzero(moves))))
            if not moves.any():
                converged = True
                break
            palette = np.where(moves[:, None], rounded, palette)
        if not converged:
            held.assign(to_points(palette, space).astype(np.float64))
        return palette, held.labels(), converged
