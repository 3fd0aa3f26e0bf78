"""The palette of weighted colors: k-means from coarse to fine, then on the colors that can be shown.

Colors are first merged by cells of a grid, and the palette is found among the cells' means: seeding and the
first, large movements cost a few thousand points an iteration instead of all distinct colors. Finer grids follow,
each from the last one's palette. In each, clusters are split until there are enough, and centers are moved to where
they are of more use (relocate.py). Where even the finest grid hides too much, all distinct colors take its place.

At the end all distinct colors take part, and the palette is one of levels, not of means: a color of the palette
moves to the levels that its pixels' mean rounds to, where these are nearer to the mean than its own. Each such step
lessens the error, so the iteration ends, and at its end the palette as it will be written is a fixed point of
Lloyd's iteration on all pixels: every pixel has the nearest color, and every color is its pixels' rounded mean.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.exceptions import ConvergenceWarning
from sklearn.utils import check_random_state

from gpukmeans import dispatch, lloyd
from gpukmeans.estimator import KMeans
from gpukmeans.exact import Floats, Weights, squared_distance
from gpukmeans.image.color import Levels, to_colors, to_points
from gpukmeans.image.relocate import relocated, split
from gpukmeans.threads import one_blas_thread

# k-means++ takes a step for each color, so it draws this many; the rest come from splitting clusters.
_SEEDS = 64

# A grid has to have this many cells to each seed, or seeds are lost in cells; and this many to each color.
_CELLS_PER_SEED, _CELLS_PER_COLOR = 32, 16

# Beyond this share of the inertia, what cells hide within them decides too much.
_MOST_LOST = 0.25

# A grid that leaves more than this share of the points to the next is not worth its iterations.
_WORTH_MERGING = 0.7

# Cells are numbered by at most 2**18: 6 bits for each of three features, 4 for each of four. A table of 2**21 sums
# takes longer than it saves.
_CELL_BITS = 18

# Coarse palettes only begin finer ones. Measured on china.jpg and others; 1e-5 gains 0.003 dB.
_COARSE_TOL = 1e-4

# How often centers are moved far away, at most. The first gain most.
_RELOCATIONS = 3

# See `relocated`: twice what the bounds promise is tried first, then what they guarantee.
_SLACK = 2.0

# Iterations of a stage; photographs take 5 to 100.
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
        init = _coarse_to_fine(points, weights, k, random_state, device, history)
    palette, labels, converged = _on_levels(points, weights, init, space, colors.dtype, device, history)
    used = np.bincount(labels, minlength=len(palette)) > 0  # equal colors leave all but the first without pixels
    return Found(palette[used], (np.cumsum(used, dtype=np.int32) - 1)[labels], converged, history)


def _coarse_to_fine(
    points: NDArray[Any],
    weights: NDArray[Any],
    k: int,
    random_state: int | np.random.RandomState | None,
    device: str,
    history: list[Step],
) -> Floats:
    """Centers (k, d) for the points."""
    generator = check_random_state(random_state)
    centers: Floats | None = None
    grid = _Grid(points, weights)
    seeds = min(k, _SEEDS)
    # No coarser grid than the first has as many cells.
    for bits in range((_CELLS_PER_SEED * seeds - 1).bit_length() // points.shape[1], grid.bits + 1):
        merged = grid.cells(bits, _CELLS_PER_SEED * seeds)
        if merged is None:
            continue
        cells, mass, lost = merged
        if len(cells) > _WORTH_MERGING * len(points):
            break
        stage = partial(_fit, cells, mass, generator=generator, device=device, grid=2**bits, history=history)
        found = stage(seeds, "k-means++") if centers is None else stage(len(centers), centers)
        if centers is None and lost > _MOST_LOST * found.inertia_:
            continue
        while len(found.cluster_centers_) < k and len(cells) >= _CELLS_PER_COLOR * k:
            more = split(cells, mass, found.labels_, found.cluster_centers_, k)
            found = stage(len(more), more, most=1 if len(more) < k else _MOST)
        found = _improved(cells, mass, found, stage)
        centers, hidden = found.cluster_centers_, lost / found.inertia_
    stage = partial(_fit, points, weights, generator=generator, device=device, grid=0, history=history)
    if centers is None or len(centers) < k:
        centers = stage(k, "k-means++").cluster_centers_
    elif hidden > _MOST_LOST:
        centers = _improved(points, weights, stage(k, centers), stage).cluster_centers_
    return centers.astype(np.float64)


def _improved(points: Floats, weights: NDArray[Any], best: KMeans, fit: Callable[[int, Floats], KMeans]) -> KMeans:
    """Centers of less inertia, as long as moving some of them far away leads to such."""
    slack = _SLACK
    for _ in range(_RELOCATIONS):
        moved = relocated(points, weights, best.labels_, best.cluster_centers_, slack)
        if moved is None:  # nor would less slack move any
            break
        found = fit(len(moved), moved)
        if found.inertia_ < best.inertia_:
            best = found
        elif slack == 1:
            break
        else:
            slack = 1.0
    return best


def _fit(
    points: NDArray[Any],
    weights: NDArray[Any],
    k: int,
    init: Any,
    *,
    generator: np.random.RandomState,
    device: str,
    grid: int,
    history: list[Step],
    most: int = _MOST,
) -> KMeans:
    model = KMeans(k, init=init, n_init=1, tol=_COARSE_TOL, max_iter=most, random_state=generator, device=device)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # of clusters left empty: the next stage fills them
        model.fit(points, sample_weight=weights)
    history.append(Step(grid, len(points), int(model.n_iter_), float(model.inertia_)))
    return model


class _Grid:
    """The points by cells of a grid of 2**bits along each feature, for several bits. points: (m, d), weights: (m,).

    Sums are taken one after another, in the points' order, so that they have the same bits everywhere.
    """

    def __init__(self, points: NDArray[Any], weights: NDArray[Any]) -> None:
        d = points.shape[1]
        self.bits, self._weights = _CELL_BITS // d, weights
        low, high = points.min(axis=0).astype(np.float64), points.max(axis=0).astype(np.float64)
        self._places, self._weighted, self._square = [], [], 0.0
        for x, least, most in zip(points.T, low, high, strict=True):
            span = most - least
            place = ((x - least) * (2**self.bits / span if span > 0 else 0.0)).astype(np.int64)
            self._places.append(np.minimum(place, 2**self.bits - 1))
            self._weighted.append(x * weights.astype(np.float64))
            self._square += float(np.cumsum(self._weighted[-1] * x)[-1])

    def cells(self, bits: int, least: int) -> tuple[Floats, NDArray[Any], float] | None:
        """The cells' means (c, d) and weights (c,), and the inertia about the means; None of fewer cells than least."""
        cell = self._places[0] >> (self.bits - bits)
        for place in self._places[1:]:
            cell = (cell << bits) | (place >> (self.bits - bits))
        size = 1 << (bits * len(self._places))
        mass = np.bincount(cell, self._weights, size)
        kept = np.flatnonzero(mass)
        if len(kept) < least:
            return None
        mass = mass[kept]
        means = np.stack([np.bincount(cell, x, size)[kept] / mass for x in self._weighted], axis=1)
        about = np.cumsum(mass * (means * means).sum(axis=1))[-1]
        return means, mass, max(0.0, self._square - float(about))


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
    with one_blas_thread(), dispatch.on(device):
        held = dispatch.make_points(points, used, summary, device=device)
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
