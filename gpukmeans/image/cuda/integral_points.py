"""Weighted points as whole numbers, on a GPU: the numbers of numpy/integral_points.py."""

from __future__ import annotations

from typing import Any

import numpy as np

from gpukmeans.engine.cuda.device import Gpu
from gpukmeans.image.cuda import kernels
from gpukmeans.image.cuda.cells import CudaCells, empty_table
from gpukmeans.image.grid import Grid, GridScale


class CudaIntegralPoints:
    """points: (m, d). weights: (m,), int64 or float64. Either in host memory or on the current GPU. cp: CuPy, or what
    stands in its place."""

    def __init__(self, cp: Any, points: Any, weights: Any, scale: GridScale) -> None:
        self.m, self._d = points.shape
        self._gpu = Gpu(cp, kernels.cell_options(points.dtype, weights.dtype, self._d))
        self._points, self._weights, self._scale = self._gpu.put(points), self._gpu.put(weights), scale
        self.square = 0

    def _geometry(self, sizes: list[int]) -> Any:
        return self._gpu.put(np.array([self._scale.middle, self._scale.half_range, sizes], np.float64))

    def merged(self, grid: Grid) -> CudaCells:
        table = empty_table(self._gpu, grid, self._d)
        totals = kernels.add_points(
            self._gpu,
            points=self._points,
            weights=self._weights,
            geometry=self._geometry(grid.sizes),
            scale=self._scale.scale,
            mass_scale=self._scale.mass_scale,
            shift=grid.shift,
            table=table,
        )
        self.square, total = self._gpu.get(totals).tolist()
        return CudaCells.of_table(self._gpu, table, grid=grid.cells, total=total)

    def cells(self) -> CudaCells:
        x, sums, totals = kernels.integral_points(
            self._gpu,
            points=self._points,
            weights=self._weights,
            geometry=self._geometry([1] * self._d),
            scale=self._scale.scale,
            mass_scale=self._scale.mass_scale,
        )
        square, total = self._gpu.get(totals).tolist()
        return CudaCells(self._gpu, x, sums, grid=0, square=square, total=total)
