"""The table in which the points of a grid's cells are added up, on the CPU."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from gpukmeans.exact.distance import Floats
from gpukmeans.image.grid import Grid


class GridTable:
    """What adds up in each cell of a grid."""

    def __init__(self, grid: Grid) -> None:
        self._grid = grid
        self._mass: Floats | None = None
        self._sums: list[Floats] = []

    def add(self, columns: Floats, mass: Floats, weighted: list[Floats]) -> None:
        """Add points: columns (d, m), mass (m,), and d times (m,) what the mass times their coordinates is."""
        code = np.zeros(columns.shape[1], np.int64)
        for column, half, size in zip(columns, self._grid.half_range, self._grid.sizes, strict=True):
            code *= size
            code += (column + half).astype(np.int64) >> self._grid.shift
        sums = [sum_by_label(code, column, self._grid.bins) for column in weighted]
        if self._mass is None:
            self._mass, self._sums = sum_by_label(code, mass, self._grid.bins), sums
            return
        self._mass += sum_by_label(code, mass, self._grid.bins)
        for total, part in zip(self._sums, sums, strict=True):
            total += part

    def occupied(self) -> tuple[Floats, Floats, list[Floats]]:
        """Of the cells that have points, in the order of their codes, the means x (m, d), rounded; the mass (m,); and
        the sums, d times (m,).

        A mean lies in its cell, and so does the nearest whole number: the next grid finds it where its points are.
        """
        assert self._mass is not None
        kept = np.flatnonzero(self._mass)
        mass, sums = self._mass[kept], [column[kept] for column in self._sums]
        return np.rint(np.stack([column / mass for column in sums], axis=1)), mass, sums


def sum_by_label(labels: NDArray[Any], x: Floats, k: int) -> Floats:
    """The sum of x (m,) over each of k labels."""
    return np.bincount(labels, x, k)  # type: ignore[return-value]  # float64 like its weights
