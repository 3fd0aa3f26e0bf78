"""Centers to begin with: k-means on the cells of grids, from coarse to fine.

Seeding and the first, large movements cost a few thousand cells an iteration instead of all distinct colors. Finer
grids follow, each from the last one's centers. At the coarsest, clusters are split until there are enough, and centers
are moved to where they are of more use (relocate.py). Where even the finest grid hides too much, all distinct colors
take its place.
"""

# With steps of 1.8 times the way to the means, an end where an iteration saves a thousandth of the inertia, and up to
# eight relocations, all of ten pictures come to within 0.05 dB of the mean of five full fits of scikit-learn at 16, 64
# and 256 colors; with other seeds one or two of thirty miss that by 0.005 dB (benchmarks/NOTES.md).

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from gpukmeans.exact.distance import Floats
from gpukmeans.image.grid import HALF
from gpukmeans.image.palette.grids import Grids
from gpukmeans.image.palette.relocate import relocated, split
from gpukmeans.image.protocol import Cells
from gpukmeans.random_state import generator_of
from gpukmeans.thread_limits import one_blas_thread

# k-means++ takes a step for each color, so it draws this many; the rest come from splitting clusters.
_SEEDS = 64

# A grid has to have this many cells to each seed, or seeds are lost in cells; and this many to each color.
_CELLS_PER_SEED, _CELLS_PER_COLOR = 32, 16

# Beyond this share of the inertia, what cells hide within them decides too much.
_MOST_LOST = 0.25

# A grid that leaves more than this share of the points to the next is not worth its iterations.
_WORTH_MERGING = 0.7

# A fit ends when an iteration saves no more than this share of the inertia, 0.004 dB; while there are not yet all
# colors, a few rough ones will do.
_TOL, _ROUGH = 1e-3, 3e-3
_MOST, _FEW = 60, 2

# How far centers go, in units of the way to their means: Lee, Baek and Sung, "A modified K-means algorithm for vector
# quantizer design" (IEEE Transactions on Image Processing 6, 1997). Half the iterations, and often a better optimum.
_STEP = 1.8

# How often centers are moved far away, at most: at the coarsest grid, and at finer ones, where it costs more. The first
# moves gain most, and many colors leave more to gain.
_RELOCATIONS, _LATER_RELOCATIONS, _COLORS_PER_RELOCATION = 8, 2, 64

# See `relocated`: more than the bounds promise is tried first, after each failure less, and then what they guarantee.
_SLACK, _LESS = 3.0, 1.75


class Stage(NamedTuple):
    """A fit to cells. centers: (k, d), the means, of inertia about them. labels: (m,), where the cells are."""

    cells: Cells
    centers: Floats
    labels: Any
    inertia: float
    iterations: int


def coarse_to_fine(
    grids: Grids,
    m: int,
    k: int,
    random_state: int | np.random.RandomState | None,
    tell: Callable[[Stage, float], None],
) -> Floats:
    """Centers (k, d) for the m points of the grids, m above k.

    tell: told of each fit, and its inertia in the points' space.
    """
    seeds = min(k, _SEEDS)
    draws = generator_of(random_state).uniform(size=(seeds, 2 + int(math.log(seeds))))

    def fit(cells: Cells, centers: Floats, *, tol: float = _TOL, most: int = _MOST) -> Stage:
        stage = refined(cells, centers, tol, most)
        tell(stage, grids.inertia(stage.inertia))
        return stage

    def advance(cells: Cells, best: Stage | None) -> Stage | None:
        """The next grid's best fit, from the last one's; None while cells hide too much."""
        found = fit(cells, cells.kmeans_plusplus(draws) if best is None else best.centers, tol=_TOL if best else rough)
        if best is None and _hidden(found):
            return None
        grown = best is None
        while len(found.centers) < k and (cells.grid == 0 or cells.m >= _CELLS_PER_COLOR * k):
            more = split(cells, found.labels, found.centers, k)
            if len(more) == len(found.centers):
                break
            grown = True
            found = fit(cells, more) if len(more) == k else fit(cells, more, tol=_ROUGH, most=_FEW)
        return _improved(found, _RELOCATIONS if grown else later, fit)

    rough = _TOL if seeds == k else _ROUGH
    later = max(_LATER_RELOCATIONS, min(_RELOCATIONS // 2, k // _COLORS_PER_RELOCATION))
    best: Stage | None = None
    with one_blas_thread():
        for cells in grids.merged(_CELLS_PER_SEED * seeds, _WORTH_MERGING * m):
            best = advance(cells, best)
        if best is None or len(best.centers) < k or _hidden(best):
            best = advance(grids.all_points(), best)
    assert best is not None
    # Where rounding left fewer locations than colors, the iteration on levels finds places for those left over.
    rest = np.repeat(best.centers[:1], k - len(best.centers), axis=0)
    return grids.centers(np.concatenate([best.centers, rest]))


def _hidden(stage: Stage) -> bool:
    return stage.cells.lost > _MOST_LOST * stage.inertia


def refined(cells: Cells, centers: Floats, tol: float, most: int) -> Stage:
    """Lloyd's iteration with long steps, until the inertia falls by no more than a share tol."""
    before, iterations = math.inf, 0
    while True:
        at = np.rint(centers)
        labels, clusters = cells.assign(at)
        mass = clusters.mass[:, None]
        means = np.where(mass > 0, clusters.means, at)
        inertia = cells.square - math.fsum((mass * means * means).ravel().tolist())
        iterations += 1
        if iterations == most or before - inertia <= tol * inertia:
            return Stage(cells, means, labels, inertia, iterations)
        before = inertia
        # Not beyond what scores hold (test_cells.test_long_steps_end_where_scores_are_exact fails without it).
        centers = np.clip(centers + _STEP * (means - centers), -HALF, HALF)


def _improved(best: Stage, most: int, fit: Callable[[Cells, Floats], Stage]) -> Stage:
    """Centers of less inertia, as long as moving some of them far away leads to such."""
    slack = _SLACK
    for _ in range(most if len(best.centers) > 1 else 0):
        moved = relocated(best.cells, best.centers, slack)
        if moved is None:  # nor would less slack move any
            break
        found = fit(best.cells, moved)
        saved = best.inertia - found.inertia
        if saved > 0:
            best = found
            if saved < _TOL * best.inertia:
                break
        elif slack == 1:
            break
        else:
            slack = max(1.0, slack / _LESS)
    return best
