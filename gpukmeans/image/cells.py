"""Colors merged into cells of a grid, on whole numbers, for which float32 products are exact.

Coarse palettes only begin finer ones, so their points and centers may be whole numbers of 11 bits: each at most
`HALF` from zero. A score |z|^2 - 2 x.z, and any part of its sum, is at most 3 d HALF^2 and below 2**24, so that float32
holds it in whatever order BLAS adds, fused or not. No bound on rounding is needed, no runner-up, and no second look:
the nearest center is the least score. Masses are whole numbers too, and all sums are exact; so the same palette
comes of every machine and device.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from gpukmeans import dispatch
from gpukmeans.exact import Floats, ceil_log2
from gpukmeans.points.base import Points
from gpukmeans.threads import run, scratch, thread_count

# For four features at most: 3 * 4 * HALF**2 < 2**24.
HALF = 2**10

# What all cells weigh at most: sums of mass times coordinate are then below 2**53, of mass times square below 2**63.
_MASS_BITS = 38

# A grid's table of sums has at most 2**18 entries, as 6 bits for each of three features; more takes longer than it
# saves.
_TABLE = 2**18

# Scores at a time: 512 KB of float32, a part of a core's second-level cache.
_SCORES = 2**17

# Up to so many centers, a power of two, scores and indices are packed.
_FEW = 64

# From so many scores on, several threads are faster than one.
_THREADED = 2**20

Labels = NDArray[np.int64]


class Second(NamedTuple):
    """labels: (m,) nearest centers. second: (m,) those next to them. excess: (m,) how much larger their D is."""

    labels: Labels
    second: Labels
    excess: Floats


class Cells:
    """x: (m, d) whole numbers within HALF of zero. mass: (m,) whole numbers, as float64. sums: d times (m,), what mass
    times coordinate adds up to in each, which x rounds. grid: cells along the widest feature, 0 for colors that
    were not merged."""

    def __init__(self, x: Floats, mass: Floats, sums: list[Floats], *, grid: int = 0, device: str = "cpu") -> None:
        self.x, self.mass, self.weighted, self.grid, self._device = x, mass, sums, grid, device
        # The sum of mass |mean|^2, each term rounded so that the sum has no order: (m,) below 2**63 in all.
        self.square = int(np.rint(_squares(sums) / mass).astype(np.int64).sum())
        self.columns = np.ascontiguousarray(x.T)
        self.lost = 0.0  # the inertia about the means of what was merged

    @cached_property
    def _y(self) -> NDArray[np.float32]:
        y = np.ones((len(self.x), self.x.shape[1] + 1), np.float32)
        y[:, :-1] = self.x
        return y

    @cached_property
    def _held(self) -> Points:
        held = dispatch.make_points(self._y[:, :-1].copy(), device=self._device, lasting=False)
        held.extent()
        return held

    def nearest(self, centers: Floats) -> Labels:
        """The labels (m,): the nearest of the centers (k, d), which are whole numbers; the first of equals."""
        if self._device != "cpu":
            self._held.assign(centers)
            return self._held.labels().astype(np.int64)
        labels = np.empty(len(self.x), np.int64)
        if len(centers) <= _FEW:
            self._packed(centers, labels)
            return labels

        def part(rows: slice, scores: NDArray[np.float32]) -> None:
            labels[rows] = scores.argmin(axis=1)

        self._scored(centers, part)
        return labels

    def _packed(self, centers: Floats, labels: Labels) -> None:
        """Of few centers: a column of scores to a cell, with the center's index in the bits below, so that the least
        number is both. argmin's cost a row is that of 60 scores."""
        k = len(centers)
        scaled = score_columns(centers).astype(np.float64) * _FEW
        scaled[-1] += np.arange(k)
        scaled = np.ascontiguousarray(scaled.T)
        step = _SCORES // k

        def score(first: int) -> None:
            y = self._columns[:, first : first + step]
            scores = scratch("packed", step * k, np.float64)[: k * y.shape[1]].reshape(k, y.shape[1])
            least = np.minimum.reduce(np.matmul(scaled, y, out=scores), axis=0)
            np.bitwise_and(least.astype(np.int64), _FEW - 1, out=labels[first : first + step])

        self._run(score, range(0, len(self.x), step), k)

    @cached_property
    def _columns(self) -> Floats:
        return np.concatenate([self.columns, np.ones((1, len(self.x)))])

    def two_nearest(self, centers: Floats) -> Second:
        """The same, and the next nearest of at least two centers."""
        m, k = len(self.x), len(centers)
        found = Second(np.empty(m, np.int64), np.empty(m, np.int64), np.empty(m))

        def part(rows: slice, scores: NDArray[np.float32]) -> None:
            flat, first = scores.reshape(-1), np.arange(0, scores.size, k)
            nearest = scores.argmin(axis=1)
            best = flat[first + nearest]
            flat[first + nearest] = np.inf
            second = scores.argmin(axis=1)
            found.labels[rows], found.second[rows] = nearest, second
            found.excess[rows] = flat[first + second] - best

        self._scored(centers, part)
        return found

    def _scored(self, centers: Floats, part: Callable[[slice, NDArray[np.float32]], None]) -> None:
        """Calls part(rows, scores) for all rows, a piece at a time."""
        m, k = len(self.x), len(centers)
        columns = score_columns(centers)
        step = max(64, _SCORES // k)

        def score(first: int) -> None:
            y = self._y[first : first + step]
            scores = scratch("scores", step * k, np.float32)[: len(y) * k].reshape(len(y), k)
            np.matmul(y, columns, out=scores)
            part(slice(first, first + len(y)), scores)

        self._run(score, range(0, m, step), k)

    def _run(self, score: Callable[[int], None], pieces: range, k: int) -> None:
        run(score, pieces, thread_count() if len(self.x) * k >= _THREADED else 1)

    def sums(self, labels: Labels, k: int) -> tuple[Floats, Floats]:
        """Each cluster's sum of mass times x, (k, d), and of mass, (k,)."""
        return np.stack([added(labels, x, k) for x in self.weighted], axis=1), added(labels, self.mass, k)

    def squares_to(self, centers: Floats) -> NDArray[np.float32]:
        """D from each of the centers (k, d), whole numbers, to each cell: (k, m), below 2**24 and exact."""
        squares = score_columns(centers).T @ self._y.T
        squares += self._norms
        return squares

    @cached_property
    def _norms(self) -> NDArray[np.float32]:
        return _squares(list(self.columns)).astype(np.float32)


def added(labels: Labels, x: Floats, k: int) -> Floats:
    """The sum of x (m,) over each of k labels."""
    return np.bincount(labels, x, k)  # type: ignore[return-value]  # float64 like its weights


def _squares(columns: list[Floats]) -> Floats:
    """The sum of squares, (m,), of d columns (m,)."""
    total = columns[0] * columns[0]
    for column in columns[1:]:
        total += column * column
    return total


def score_columns(centers: Floats) -> NDArray[np.float32]:
    """What [x, 1] is multiplied by to give the scores of centers (k, d): (d + 1, k)."""
    return np.concatenate([-2 * centers.T, (centers.T**2).sum(axis=0)[None]]).astype(np.float32)


class Grids:
    """Weighted points (m, d) on whole numbers, and their cells on grids from coarse to fine.

    A point of the space is x / scale + middle.
    """

    def __init__(self, points: NDArray[Any], weights: NDArray[Any], device: str) -> None:
        low, high = points.min(axis=0).astype(np.float64), points.max(axis=0).astype(np.float64)
        span = float((high - low).max())
        self.scale, self.middle = (2 * HALF - 2) / span if span > 0 else 1.0, low + (high - low) / 2
        self._extent = np.rint((high - low) / 2 * self.scale)
        self._x = np.empty(points.shape)
        for j, column in enumerate(points.T):
            np.rint((column - self.middle[j]) * self.scale, out=self._x[:, j])
        self._mass, self._unit = _masses(weights)
        self._device = device

    def centers(self, x: Floats) -> Floats:
        """Centers (k, d) as points of the space."""
        return x / self.scale + self.middle

    def inertia(self, of_cells: float) -> float:
        return of_cells / self.scale**2 / self._unit

    def each(self, fewest: int, most: float) -> Iterator[Cells]:
        """Those of at least and at most so many cells, and at the end all points as they are."""
        columns = np.ascontiguousarray(self._x.T)
        last = Cells(self._x, self._mass, [self._mass * column for column in columns], device=self._device)
        levels: list[Cells] = []
        cells = last
        for bits in range((2 * HALF).bit_length() - 2, 0, -1):
            shift = (2 * HALF).bit_length() - 1 - bits
            if math.prod(self._sizes(shift)) > _TABLE:
                continue
            cells = self._merged(cells, shift, last.square)
            if len(cells.x) < fewest:
                break
            if len(cells.x) <= most:
                levels.append(cells)
        yield from reversed(levels)
        yield last

    def _sizes(self, shift: int) -> list[int]:
        """How many cells, 2**shift wide, lie along each feature."""
        return [(int(2 * extent) >> shift) + 1 for extent in self._extent]

    def _merged(self, finer: Cells, shift: int, square: int) -> Cells:
        code, count = np.zeros(len(finer.x), np.int64), 1
        for column, extent, size in zip(finer.columns, self._extent, self._sizes(shift), strict=True):
            code *= size
            code += (column + extent).astype(np.int64) >> shift
            count *= size
        mass = added(code, finer.mass, count)
        kept = np.flatnonzero(mass)
        mass, sums = mass[kept], [added(code, column, count)[kept] for column in finer.weighted]
        # A mean lies in its cell, and so does the nearest whole number: the next grid finds it where its points are.
        x = np.rint(np.stack([column / mass for column in sums], axis=1))
        cells = Cells(x, mass, sums, grid=1 << ((2 * HALF).bit_length() - 1 - shift), device=self._device)
        cells.lost = float(square - cells.square)
        return cells


def _masses(weights: NDArray[Any]) -> tuple[Floats, float]:
    """Weights (m,) as whole numbers of at most 2**_MASS_BITS in all, none zero, and what weight 1 became."""
    mass = weights.astype(np.float64)
    # Rounding and order move the last bits of this sum, but not the power of two above it, which has room to spare.
    bits = ceil_log2(float(mass.sum()) * 1.01)
    if bits <= _MASS_BITS and (mass == np.rint(mass)).all():
        return mass, 1.0
    unit = 2.0 ** (_MASS_BITS - bits)
    return np.maximum(np.rint(mass * unit), 1.0), unit
