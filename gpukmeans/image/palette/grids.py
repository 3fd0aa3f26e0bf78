"""The grids that colors are merged on, from coarse to fine; knows no device."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from gpukmeans.exact.distance import Floats
from gpukmeans.image import dispatch
from gpukmeans.image.grid import BITS, Grid, GridScale
from gpukmeans.image.protocol import Cells, IntegralPoints

# A grid's table of sums has at most 2**18 entries, as 6 bits for each of three features; more takes longer than it
# saves.
_TABLE = 2**18


class Grids:
    """points: (m, d), weights: (m,), both on the device or on the host. scale: of the points."""

    def __init__(self, points: Any, weights: Any, scale: GridScale, *, device: str) -> None:
        self.scale = scale
        self._points: IntegralPoints = dispatch.make_integral_points(points, weights, scale, device=device)

    def centers(self, x: Floats) -> Floats:
        """Centers (k, d) of cells as points of the space."""
        return x / self.scale.scale + self.scale.middle

    def inertia(self, of_cells: float) -> float:
        """The inertia of cells in units of the space and of weights."""
        return of_cells / self.scale.scale**2 / self.scale.mass_scale

    def merged(self, fewest: int, most: float) -> list[Cells]:
        """The grids of at least and at most so many cells, from coarse to fine."""
        return [cells for cells in self._merged(fewest) if cells.m <= most][::-1]

    def all_points(self) -> Cells:
        """All points as they are."""
        return self._points.cells()

    def _merged(self, fewest: int) -> Iterator[Cells]:
        """From fine to coarse, each from the last."""
        finer: IntegralPoints | Cells = self._points
        for shift in range(1, BITS):
            grid = Grid(self.scale.half_range, shift)
            if grid.bins > _TABLE:
                continue
            cells = finer.merged(grid)
            cells.lost = float(self._points.square - cells.square)
            if cells.m < fewest:
                return
            yield cells
            finer = cells
