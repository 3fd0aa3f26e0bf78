"""The palette of weighted colors: k-means from coarse to fine, then on the colors that can be shown.

A first palette is found among cells of grids (multilevel.py). At the end all distinct colors take part, and the palette
is one of levels, not of means: a color of the palette moves to the levels that its pixels' mean rounds to, where these
are nearer to the mean than its own. Each such step lessens the error, so the iteration ends, and at its end the palette
as it will be written is a fixed point of Lloyd's iteration on all pixels: every pixel has the nearest color, and every
color is its pixels' rounded mean.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np

from gpukmeans import array_interop, cluster_means, lloyd
from gpukmeans.engine import devices, dispatch
from gpukmeans.engine.protocol import Points, Samples
from gpukmeans.exact.distance import Floats, squared_distance
from gpukmeans.exact.scales import Scales
from gpukmeans.image.color_space import to_colors, to_points
from gpukmeans.image.grid import GridScale
from gpukmeans.image.levels import Levels, pack
from gpukmeans.image.palette.grids import Grids
from gpukmeans.image.palette.multilevel import Stage, coarse_to_fine
from gpukmeans.image.protocol import Colors
from gpukmeans.thread_limits import one_blas_thread

# Iterations on levels; photographs take 2 to 20.
_MOST = 1000


class Step(NamedTuple):
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
class PaletteFit:
    """palette: (k, c). labels: (m,) int32 of the distinct colors, where these are. converged: whether the palette is a
    fixed point. history: how it was found."""

    palette: Levels
    labels: Any
    converged: bool
    history: list[Step] = field(default_factory=list)


def fit_palette(
    colors: Colors,
    k: int,
    *,
    space: str,
    random_state: int | np.random.RandomState | None,
    device: str,
    init: Floats | None = None,
    kept: Levels | None = None,
) -> PaletteFit:
    """At most k colors for the m colors.

    init: (k, c) centers to begin with, as points of the space; found as above unless given. kept: (f, c) distinct
    colors, at most k, that the palette begins with, whatever the colors are; the others are found around them.
    """
    if kept is None:
        kept = np.empty((0, colors.channels), colors.dtype)
    if len(colors) + len(kept) <= k or (len(kept) == 0 and len(colors) <= k):
        with devices.on(device):
            return _all_of_them(colors, kept)
    if len(kept) == k:
        with devices.on(device):
            return PaletteFit(kept, colors.nearest(kept, space), True)
    history: list[Step] = []

    def tell(stage: Stage, inertia: float) -> None:
        history.append(Step(stage.cells.grid, stage.cells.m, stage.iterations, inertia))

    with one_blas_thread(), devices.on(device):
        coordinates = colors.points(space)
        summary, weights = colors.engine_weights()
        points = dispatch.make_points(Samples(coordinates, weights, summary, distinct=True), device=device)
        low, high = points.feature_range()
        if init is None and len(colors) <= k:
            init = to_points(colors.levels(), space).astype(np.float64)
        elif init is None:
            grids = Grids(coordinates, colors.weights, GridScale.of(low, high, colors.mass_scale), device=device)
            init = coarse_to_fine(grids, len(colors), k, random_state, tell)
            del grids
        scales = lloyd.prepare(points, low, high)
        if len(kept):
            init = _around(init, to_points(kept, space).astype(np.float64), k)
        palette, converged = _on_levels(points, scales, init, space, colors.dtype, history, kept)
        labels = points.labels()
        used = cluster_means.occupied(points)
        used[: len(kept)] = True
    if not used.all():  # equal colors leave all but the first without pixels
        labels = (np.cumsum(used, dtype=np.int32) - 1)[array_interop.to_numpy(labels)]
    return PaletteFit(palette[used], labels, converged, history)


def _all_of_them(colors: Colors, kept: Levels) -> PaletteFit:
    """The kept colors, and all that are none of them."""
    levels = colors.levels()
    place = np.arange(len(levels), dtype=np.int32)
    if len(kept) == 0:
        return PaletteFit(levels, place, True)
    codes, own = pack(kept), pack(levels)
    order = np.argsort(codes)
    at = order[np.minimum(np.searchsorted(codes[order], own), len(kept) - 1)].astype(np.int32)
    new = codes[at] != own
    labels = np.where(new, len(kept) + np.cumsum(new, dtype=np.int32) - 1, at).astype(np.int32)
    return PaletteFit(np.concatenate([kept, levels[new]]), labels, True)


def _around(centers: Floats, kept: Floats, k: int) -> Floats:
    """The kept centers (f, d), and k - f of the others: without those that a kept one makes needless, one after another
    the one nearest to it."""
    rest = centers
    for own in kept:
        if len(rest) <= k - len(kept):
            break
        rest = np.delete(rest, int(squared_distance(rest.T, own[:, None]).argmin()), axis=0)
    rest = rest[: k - len(kept)]
    # Where there are fewer, the iteration on levels finds places for those left over.
    more = np.repeat(kept[:1], k - len(kept) - len(rest), axis=0)
    return np.concatenate([kept, rest, more])


def _on_levels(
    points: Points, scales: Scales, centers: Floats, space: str, dtype: Any, history: list[Step], kept: Levels
) -> tuple[Levels, bool]:
    """Lloyd's iteration on palettes of levels, from the one that centers round to: (k, c), and whether it is a fixed
    point. The points are left labelled by it. kept: (f, c), what the first of them are and remain."""
    palette = to_colors(centers, space, dtype)
    palette[: len(kept)] = kept
    own = to_points(palette, space).astype(np.float64)
    for _ in range(_MOST):
        changed = points.assign(own)
        updated = _updated(points, scales, own, len(kept))
        rounded = to_colors(updated, space, dtype)
        new = to_points(rounded, space).astype(np.float64)
        moves = squared_distance(new.T, updated.T) < squared_distance(own.T, updated.T)
        moves[: len(kept)] = False
        history.append(Step(0, points.n, 1, None, int(changed), int(np.count_nonzero(moves))))
        if not moves.any():
            return palette, True
        palette, own = np.where(moves[:, None], rounded, palette), np.where(moves[:, None], new, own)
    points.assign(own)
    return palette, False


def _updated(points: Points, scales: Scales, own: Floats, kept: int) -> Floats:
    """`lloyd.update`, but that the first `kept` centers may have no colors: nothing is taken from others for them."""
    if kept:
        found = cluster_means.of_iteration(points, scales)
        empty = found.weight == 0
        if not empty[kept:].any():
            return np.where(empty[:, None], own, points.metric.centers_of(found.centers, own))
    return lloyd.update(points, scales, own)[0]
