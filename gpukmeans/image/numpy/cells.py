"""Cells of grids on the CPU: the nearest of centers by products of float32, which are exact, and sums of clusters."""

from __future__ import annotations

from collections.abc import Callable
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gpukmeans.engine.protocol import CenterSampler
from gpukmeans.exact.distance import Floats
from gpukmeans.exact.fixed_point import Ints
from gpukmeans.image.grid import Grid, score_columns, spread_scale, surplus_bits
from gpukmeans.image.numpy.grid_table import GridTable, sum_by_label
from gpukmeans.image.protocol import CellSums, SecondNearest
from gpukmeans.seeding import greedy
from gpukmeans.thread_limits import thread_count
from gpukmeans.threads import run, scratch

# Scores at a time: 512 KB of float32, a part of a core's second-level cache.
_SCORES = 2**17

# Up to so many centers, a power of two, scores and indices are packed
# (test_cells.test_the_nearest_and_the_next_are_exact fails of one more).
_FEW = 64

# From so many scores on, several threads are faster than one.
_THREADED = 2**20


class NumPyCells:
    """x: (m, d) whole numbers within HALF of zero. mass: (m,) whole numbers, as float64. weighted: d times (m,), what
    mass times coordinate adds up to in each, which x rounds. grid: see Cells."""

    def __init__(self, x: Floats, mass: Floats, weighted: list[Floats], *, grid: int = 0) -> None:
        self.m = len(x)
        self.x, self.mass, self.weighted, self.grid = x, mass, weighted, grid
        self.square = integral_sum(np.rint(_squares(weighted) / mass))
        self.columns = np.ascontiguousarray(x.T)
        self.lost = 0.0

    @cached_property
    def _rows_and_ones(self) -> NDArray[np.float32]:
        """[x, 1], (m, d + 1)."""
        rows = np.ones((self.m, self.x.shape[1] + 1), np.float32)
        rows[:, :-1] = self.x
        return rows

    @cached_property
    def _columns_and_ones(self) -> Floats:
        """The same, (d + 1, m)."""
        return np.concatenate([self.columns, np.ones((1, self.m))])

    @cached_property
    def _total(self) -> float:
        return float(self.mass.sum())

    # ------------------------------------------------------------ the nearest of centers

    def assign(self, centers: Floats) -> tuple[Ints, CellSums]:
        labels = self.nearest(centers)
        return labels, self._cluster_sums(labels, len(centers))

    def _cluster_sums(self, labels: Ints, k: int) -> CellSums:
        sums = np.stack([sum_by_label(labels, x, k) for x in self.weighted], axis=1)
        return CellSums(sums, sum_by_label(labels, self.mass, k))

    def nearest(self, centers: Floats) -> Ints:
        """The labels (m,): the nearest of the centers (k, d)."""
        labels = np.empty(self.m, np.int64)
        if len(centers) <= _FEW:
            self._nearest_of_few(centers, labels)
            return labels

        def take_least(rows: slice, scores: NDArray[np.float32]) -> None:
            labels[rows] = scores.argmin(axis=1)

        self._scored(centers, take_least)
        return labels

    def _nearest_of_few(self, centers: Floats, labels: Ints) -> None:
        """A column of scores to a cell, with the center's index in the bits below, so that the least number is both.
        argmin's cost a row is that of 60 scores. Both together have more bits than float32
        (test_cells.test_the_nearest_and_the_next_are_exact fails of it)."""
        k = len(centers)
        packing = score_columns(centers).astype(np.float64) * _FEW
        packing[-1] += np.arange(k)
        packing = np.ascontiguousarray(packing.T)
        step = _SCORES // k

        def score(first: int) -> None:
            columns = self._columns_and_ones[:, first : first + step]
            packed = scratch("packed", step * k, np.float64)[: k * columns.shape[1]].reshape(k, columns.shape[1])
            least = np.minimum.reduce(np.matmul(packing, columns, out=packed), axis=0)
            np.bitwise_and(least.astype(np.int64), _FEW - 1, out=labels[first : first + step])

        self._run(score, range(0, self.m, step), k)

    def two_nearest(self, centers: Floats) -> tuple[Ints, Ints, Floats]:
        """The nearest, the next nearest, and how much larger their D is: (m,) each."""
        m, k = self.m, len(centers)
        labels, second, excess = np.empty(m, np.int64), np.empty(m, np.int64), np.empty(m)

        def take_two(rows: slice, scores: NDArray[np.float32]) -> None:
            flat, first = scores.reshape(-1), np.arange(0, scores.size, k)
            nearest = scores.argmin(axis=1)
            best = flat[first + nearest]
            flat[first + nearest] = np.inf
            next_ = scores.argmin(axis=1)
            labels[rows], second[rows] = nearest, next_
            excess[rows] = flat[first + next_] - best

        self._scored(centers, take_two)
        return labels, second, excess

    def second_nearest(self, centers: Floats) -> SecondNearest:
        k = len(centers)
        labels, second, excess = self.two_nearest(centers)
        excess *= self.mass
        bits = surplus_bits(self._total)
        # What is left out of each term by itself (test_image_colors.test_cells_are_numpys fails otherwise).
        cost = sum_by_label(labels, np.rint(np.ldexp(excess, -bits)) if bits else excess, k)
        pairs = np.unique(labels * k + second)
        return SecondNearest(labels, self._cluster_sums(labels, k), np.ldexp(cost, bits), pairs)

    def _scored(self, centers: Floats, take: Callable[[slice, NDArray[np.float32]], None]) -> None:
        """Calls take(rows, scores) for all rows, a piece at a time."""
        k = len(centers)
        columns = score_columns(centers)
        step = max(64, _SCORES // k)

        def score(first: int) -> None:
            rows = self._rows_and_ones[first : first + step]
            scores = scratch("scores", step * k, np.float32)[: len(rows) * k].reshape(len(rows), k)
            np.matmul(rows, columns, out=scores)
            take(slice(first, first + len(rows)), scores)

        self._run(score, range(0, self.m, step), k)

    def _run(self, score: Callable[[int], None], pieces: range, k: int) -> None:
        run(score, pieces, thread_count() if self.m * k >= _THREADED else 1)

    # ------------------------------------------------------------ halves of clusters

    def half_sums(self, labels: Ints, centers: Floats) -> CellSums:
        k = len(centers)
        from_center = [x - own.take(labels) for x, own in zip(self.columns, centers.T, strict=True)]
        mass = self.mass * spread_scale(self._total)

        def spread_along(x: Floats) -> Floats:
            terms = mass * x
            terms *= x
            # Sums of these have no order (test_image_colors.test_cells_are_numpys fails of terms that are not rounded).
            return sum_by_label(labels, np.rint(terms, out=terms), k)

        spread = np.stack([spread_along(x) for x in from_center])
        upper = np.choose(spread.argmax(axis=0)[labels], from_center) > 0
        return self._cluster_sums(labels + k * upper, 2 * k)

    # ------------------------------------------------------------ seeding

    def squares_to(self, centers: Floats) -> NDArray[np.float32]:
        """D from each of the centers (k, d) to each cell: (k, m), below 2**24 and exact."""
        squares = score_columns(centers).T @ self._rows_and_ones.T
        squares += self._norms
        return squares

    @cached_property
    def _norms(self) -> NDArray[np.float32]:
        return _squares(list(self.columns)).astype(np.float32)

    def kmeans_plusplus(self, draws: Floats) -> Floats:
        bits = surplus_bits(self._total)
        # test_image_colors.test_cells_that_weigh_next_to_nothing_are_seeds_too fails if they are rounded down.
        mass = np.ceil(np.ldexp(self.mass, -bits)) if bits else self.mass
        return greedy(CellSampler(self, mass), float(draws[0, 0]), draws[1:], lambda farthest: 0)

    # ------------------------------------------------------------ coarser grids

    def merged(self, grid: Grid) -> NumPyCells:
        table = GridTable(grid)
        table.add(self.columns, self.mass, self.weighted)
        return NumPyCells(*table.occupied(), grid=grid.cells)


class CellSampler(CenterSampler):
    """Cells that weigh `mass` (m,) in draws. Their D are integers, and masses times D, below 2**53: they are taken as
    they are, whatever the exponent."""

    def __init__(self, cells: NumPyCells, mass: Floats) -> None:
        self._cells, self._mass = cells, mass
        self._closest: NDArray[np.float32] | None = None  # before the first center

    def total(self, exponent: int | None) -> int:
        masses = self._mass if exponent is None or self._closest is None else self._mass * self._closest
        self._prefix = np.cumsum(masses)
        return int(self._prefix[-1])

    def find(self, indices: list[int]) -> Floats:
        return self._cells.x[np.searchsorted(self._prefix, indices, side="right")]

    def propose(self, candidates: Floats) -> None:
        squares = self._cells.squares_to(candidates)
        self._proposed = squares if self._closest is None else np.minimum(squares, self._closest)

    def potentials(self, exponent: int, exact: bool) -> tuple[list[int], list[int]]:
        left = (self._proposed @ self._mass).tolist()
        return left, left

    def accept(self, candidate: int) -> float:
        self._closest = self._proposed[candidate]
        return float(self._closest.max())


def _squares(columns: list[Floats]) -> Floats:
    """The sum of squares, (m,), of d columns (m,)."""
    total = columns[0] * columns[0]
    for column in columns[1:]:
        total += column * column
    return total


def integral_sum(x: Any) -> int:
    """The sum of whole numbers, exactly, up to 2**63."""
    return int(x.astype(np.int64).sum())
