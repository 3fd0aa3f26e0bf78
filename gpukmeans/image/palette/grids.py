"""The grids that colors are merged on, from coarse to fine; knows no device."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from gpukmeans.exact.distance import Floats
from gpukmeans.image import dispatch
from gpukmeans.image.numpy.cells import Cells
from gpukmeans.image.numpy.grid_cells import BITS, Frame, Grid, Whole

# A grid's table of sums has at most 2**18 entries, as 6 bits for each of three features; more takes longer than it
# saves.
_TABLE = 2**18


class Grids:
    """points: (m, d), weights: (m,), within [low, high]; see Frame for unit."""

    def __init__(self, points: Any, weights: Any, low: Floats, high: Floats, unit: float, device: str) -> None:
        self.frame = Frame.of(low, high, unit)
        self._whole: Whole = dispatch.make_whole(points, weights, self.frame, device=device)

    def centers(self, x: Floats) -> Floats:
        """Centers (k, d) as points of the space."""
        return x / self.frame.scale + self.frame.middle

    def inertia(self, of_cells: float) -> float:
        return of_cells / self.frame.scale**2 / self.frame.unit

    def merged(self, fewest: int, most: float) -> list[Cells]:
        """The grids of at least and at most so many cells, from coarse to fine."""
        return [cells for cells in self._merged(fewest) if cells.m <= most][::-1]

    def whole(self) -> Cells:
        """All points as they are."""
        return self._whole.cells()

    def _merged(self, fewest: int) -> Iterator[Cells]:
        """From fine to coarse, each from the last."""
        finer: Whole | Cells = self._whole
        for shift in range(1, BITS):
            grid = Grid(self.frame.extent, shift)
            if grid.bins > _TABLE:
                continue
            cells = finer.merged(grid)
            cells.lost = float(self._whole.square - cells.square)
            if cells.m < fewest:
                return
            yield cells
            finer = cells
