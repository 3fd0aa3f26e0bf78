"""Weighted points as whole numbers, on the CPU."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from gpukmeans.exact.distance import Floats
from gpukmeans.image.grid import Grid, GridScale
from gpukmeans.image.numpy.cells import NumPyCells, integral_sum
from gpukmeans.image.numpy.grid_table import GridTable

# Points at a time that are held as whole numbers: 8 MB for each feature.
_PIECE = 2**20


class NumPyIntegralPoints:
    """points: (m, d). weights: (m,). Of all points a piece at a time is held as whole numbers, unless they take part
    as they are."""

    def __init__(self, points: NDArray[Any], weights: NDArray[Any], scale: GridScale) -> None:
        self._points, self._weights, self._scale = points, weights, scale
        self.square = 0

    def _piece(self, rows: slice) -> tuple[Floats, Floats, list[Floats]]:
        """x as columns (d, m), mass (m,), and d times their product."""
        columns = np.empty((self._points.shape[1], len(self._points[rows])))
        for x, column, middle in zip(self._points[rows].T, columns, self._scale.middle, strict=True):
            np.subtract(x, middle, out=column)
        columns *= self._scale.scale
        np.rint(columns, out=columns)
        mass = mass_of(self._weights[rows], self._scale.mass_scale)
        return columns, mass, [mass * column for column in columns]

    def merged(self, grid: Grid) -> NumPyCells:
        table, self.square = GridTable(grid), 0
        for a in range(0, len(self._points), _PIECE):
            columns, mass, weighted = self._piece(slice(a, a + _PIECE))
            table.add(columns, mass, weighted)
            self.square += integral_sum(sum(map(np.multiply, weighted, columns)))
        return NumPyCells(*table.occupied(), grid=grid.cells)

    def cells(self) -> NumPyCells:
        columns, mass, weighted = self._piece(slice(None))
        return NumPyCells(columns.T, mass, weighted)


def mass_of(weights: NDArray[Any], mass_scale: float) -> Floats:
    """Weights as whole numbers, none zero
    (test_cells.test_weights_that_are_not_whole_become_whole fails if some are)."""
    return np.maximum(np.rint(weights * mass_scale), 1.0)
