"""Weighted points as whole numbers, and the table in which those of a grid's cells add up."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from gpukmeans.exact.distance import Floats
from gpukmeans.image.numpy.cells import HALF, Cells, NumPyCells, added, whole_sum

# Of numbers from -HALF to HALF.
BITS = 11

# Points at a time that are held as whole numbers: 8 MB for each feature.
_PIECE = 2**20


@dataclass(frozen=True)
class Frame:
    """A point is x / scale + middle, x being whole within extent (d,) of zero, which is at most HALF. unit: what weight
    1 becomes as mass, so that all masses are below 2**38 (colors.MASS_BITS)."""

    scale: float
    middle: Floats
    extent: Floats
    unit: float

    @staticmethod
    def of(low: Floats, high: Floats, unit: float) -> Frame:
        """For points within [low, high], (d,) each. Of levels and of float32 numbers extents are at most HALF."""
        span = float((high - low).max())
        scale = (2 * HALF - 2) / span if span > 0 else 1.0
        middle = low + (high - low) / 2
        # By the operations that make points whole: as none of these passes over another in rounding, no point lies
        # outside.
        extent = np.rint(np.maximum(high - middle, middle - low) * scale)
        return Frame(scale, middle, extent, unit)


@dataclass(frozen=True)
class Grid:
    """Cells 2**shift wide, in each of d features sizes[j] of them. A cell's code is its place in all features, the
    last one changing fastest."""

    extent: Floats
    shift: int

    @cached_property
    def sizes(self) -> list[int]:
        return [(int(2 * extent) >> self.shift) + 1 for extent in self.extent]

    @property
    def bins(self) -> int:
        return math.prod(self.sizes)

    @property
    def cells(self) -> int:
        """Along the widest feature."""
        return 1 << (BITS - self.shift)

    def table(self) -> _Table:
        return _Table(self)


class Whole(Protocol):
    """Weighted points as whole numbers of a frame, on one device. square: the sum of mass times |x|^2, once `merged`
    was called."""

    square: int

    def merged(self, grid: Grid) -> Cells: ...

    def cells(self) -> Cells:
        """All points as they are."""


class NumPyWhole:
    """points: (m, d). weights: (m,). Of all points a piece at a time is held as whole numbers, unless they take part
    as they are."""

    def __init__(self, points: NDArray[Any], weights: NDArray[Any], frame: Frame) -> None:
        self._points, self._weights, self._frame = points, weights, frame
        self.square = 0

    def _piece(self, rows: slice) -> tuple[Floats, Floats, list[Floats]]:
        """x as columns (d, m), mass (m,), and d times their product."""
        columns = np.empty((self._points.shape[1], len(self._points[rows])))
        for x, column, middle in zip(self._points[rows].T, columns, self._frame.middle, strict=True):
            np.subtract(x, middle, out=column)
        columns *= self._frame.scale
        np.rint(columns, out=columns)
        mass = mass_of(self._weights[rows], self._frame.unit)
        return columns, mass, [mass * column for column in columns]

    def merged(self, grid: Grid) -> NumPyCells:
        table, self.square = grid.table(), 0
        for a in range(0, len(self._points), _PIECE):
            columns, mass, weighted = self._piece(slice(a, a + _PIECE))
            table.add(columns, mass, weighted)
            self.square += whole_sum(sum(map(np.multiply, weighted, columns)))  # type: ignore[arg-type]
        return table.cells()

    def cells(self) -> NumPyCells:
        columns, mass, weighted = self._piece(slice(None))
        return NumPyCells(columns.T, mass, weighted)


class _Table:
    """What adds up in each cell of a grid."""

    def __init__(self, grid: Grid) -> None:
        self._grid = grid
        self._mass: Floats | None = None
        self._sums: list[Floats] = []

    def add(self, columns: Floats, mass: Floats, weighted: list[Floats]) -> _Table:
        code, count = np.zeros(columns.shape[1], np.int64), 1
        for column, extent, size in zip(columns, self._grid.extent, self._grid.sizes, strict=True):
            code *= size
            code += (column + extent).astype(np.int64) >> self._grid.shift
            count *= size
        sums = [added(code, column, count) for column in weighted]
        if self._mass is None:
            self._mass, self._sums = added(code, mass, count), sums
            return self
        self._mass += added(code, mass, count)
        for total, part in zip(self._sums, sums, strict=True):
            total += part
        return self

    def cells(self) -> NumPyCells:
        assert self._mass is not None
        kept = np.flatnonzero(self._mass)
        mass, sums = self._mass[kept], [column[kept] for column in self._sums]
        # A mean lies in its cell, and so does the nearest whole number: the next grid finds it where its points are.
        x = np.rint(np.stack([column / mass for column in sums], axis=1))
        return NumPyCells(x, mass, sums, grid=self._grid.cells)


def mass_of(weights: NDArray[Any], unit: float) -> Floats:
    """Weights as whole numbers, none zero."""
    return np.maximum(np.rint(weights * unit), 1.0)
