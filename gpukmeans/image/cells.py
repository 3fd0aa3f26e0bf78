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
_BITS = 11

# What all cells weigh at most: sums of mass times coordinate are then below 2**53, of mass times square below 2**63.
_MASS_BITS = 38

# A grid's table of sums has at most 2**18 entries, as 6 bits for each of three features; more takes longer than it
# saves.
_TABLE = 2**18

# Points at a time that are held as whole numbers: 8 MB for each feature.
_PIECE = 2**20

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
        self.square = whole_sum(np.rint(_squares(sums) / mass))
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

    A point of the space is x / scale + middle. Of all points a piece at a time is held as whole numbers, unless they
    take part as they are.
    """

    def __init__(self, points: NDArray[Any], weights: NDArray[Any], device: str) -> None:
        low, high = (np.array([bound(x) for x in points.T], np.float64) for bound in (np.min, np.max))
        span = float((high - low).max())
        self.scale, self.middle = (2 * HALF - 2) / span if span > 0 else 1.0, low + (high - low) / 2
        self._extent = np.rint((high - low) / 2 * self.scale)
        self._points, self._weights, self._device = points, weights, device
        self._unit = _unit(weights)

    def centers(self, x: Floats) -> Floats:
        """Centers (k, d) as points of the space."""
        return x / self.scale + self.middle

    def inertia(self, of_cells: float) -> float:
        return of_cells / self.scale**2 / self._unit

    def _piece(self, rows: slice) -> tuple[Floats, Floats]:
        """x as columns (d, m), and mass (m,)."""
        columns = np.empty((self._points.shape[1], len(self._points[rows])))
        for x, column, middle in zip(self._points[rows].T, columns, self.middle, strict=True):
            np.subtract(x, middle, out=column)
        columns *= self.scale
        return np.rint(columns, out=columns), mass_of(self._weights[rows], self._unit)

    def merged(self, fewest: int, most: float) -> list[Cells]:
        """The grids of at least and at most so many cells, from coarse to fine."""
        return [cells for cells in self._merged(fewest) if len(cells.x) <= most][::-1]

    def whole(self) -> Cells:
        """All points as they are."""
        columns, mass = self._piece(slice(None))
        return Cells(columns.T, mass, [mass * column for column in columns], device=self._device)

    def _merged(self, fewest: int) -> Iterator[Cells]:
        """From fine to coarse, each from the last."""
        finer: Cells | None = None
        for shift in range(1, _BITS):
            sizes = [(int(2 * extent) >> shift) + 1 for extent in self._extent]
            if math.prod(sizes) > _TABLE:
                continue
            table = _Table(sizes, self._extent, shift)
            if finer is None:
                square = 0
                for a in range(0, len(self._points), _PIECE):
                    columns, mass = self._piece(slice(a, a + _PIECE))
                    weighted = [mass * column for column in columns]
                    table.add(columns, mass, weighted)
                    square += whole_sum(sum(map(np.multiply, weighted, columns)))
            else:
                table.add(finer.columns, finer.mass, finer.weighted)
            cells = table.cells(1 << (_BITS - shift), self._device)
            cells.lost = float(square - cells.square)
            if len(cells.x) < fewest:
                return
            yield cells
            finer = cells


class _Table:
    """What adds up in each cell of a grid, 2**shift wide."""

    def __init__(self, sizes: list[int], extent: Floats, shift: int) -> None:
        self._sizes, self._extent, self._shift = sizes, extent, shift
        self._mass: Floats | None = None
        self._sums: list[Floats] = []

    def add(self, columns: Floats, mass: Floats, weighted: list[Floats]) -> None:
        code, count = np.zeros(columns.shape[1], np.int64), 1
        for column, extent, size in zip(columns, self._extent, self._sizes, strict=True):
            code *= size
            code += (column + extent).astype(np.int64) >> self._shift
            count *= size
        sums = [added(code, column, count) for column in weighted]
        if self._mass is None:
            self._mass, self._sums = added(code, mass, count), sums
            return
        self._mass += added(code, mass, count)
        for total, part in zip(self._sums, sums, strict=True):
            total += part

    def cells(self, grid: int, device: str) -> Cells:
        assert self._mass is not None
        kept = np.flatnonzero(self._mass)
        mass, sums = self._mass[kept], [column[kept] for column in self._sums]
        # A mean lies in its cell, and so does the nearest whole number: the next grid finds it where its points are.
        x = np.rint(np.stack([column / mass for column in sums], axis=1))
        return Cells(x, mass, sums, grid=grid, device=device)


def whole_sum(x: Floats) -> int:
    """The sum of whole numbers, exactly, up to 2**63."""
    return int(x.astype(np.int64).sum())


def _unit(weights: NDArray[Any]) -> float:
    """What weight 1 becomes so that all weights (m,) are at most 2**_MASS_BITS: 1 for whole ones of no more."""
    # Rounding and order move the last bits of this sum, but not the power of two above it, which has room to spare.
    bits = ceil_log2(float(weights.sum()) * 1.01)
    whole = weights.dtype.kind in "iu" or bool((weights == np.rint(weights)).all())
    return 1.0 if whole and bits <= _MASS_BITS else 2.0 ** (_MASS_BITS - bits)


def mass_of(weights: NDArray[Any], unit: float) -> Floats:
    """Weights as whole numbers, none zero."""
    return np.maximum(np.rint(weights * unit), 1.0)
