"""Cells of grids on a GPU: the numbers of numpy/cells.py.

What crosses the bus is what k centers say and are answered, and of a grid how many of each 256 of its bins are used.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from gpukmeans.engine.cuda.device import Gpu
from gpukmeans.exact.distance import Floats
from gpukmeans.image.cuda import kernels
from gpukmeans.image.cuda.compaction import compact_table
from gpukmeans.image.grid import Grid, score_columns, spread_scale, surplus_bits
from gpukmeans.image.protocol import CellSums, SecondNearest

# A bit for each pair of up to so many clusters: 2 MB. Beyond, the second-nearest centers come to the host.
_PAIRED = 2**12


class CudaCells:
    """x: (m, d) float32. sums: (m, d + 1) int64, of each cell mass times coordinate, and mass. grid, square: see Cells.
    total: the mass of all. gpu: compiled for these cells."""

    def __init__(self, gpu: Gpu, x: Any, sums: Any, *, grid: int, square: int, total: int) -> None:
        self.m, self._d = x.shape
        self._gpu, self._x, self._sums, self.grid, self.square, self._total = gpu, x, sums, grid, square, total
        self.lost = 0.0

    @staticmethod
    def of_table(gpu: Gpu, table: Any, *, grid: int, total: int) -> CudaCells:
        """The bins of a table (bins, d + 1) that have mass."""
        x, sums, square = compact_table(gpu, table)
        return CudaCells(gpu, x, sums, grid=grid, square=square, total=total)

    def _columns(self, centers: Floats) -> Any:
        return self._gpu.put(np.ascontiguousarray(score_columns(centers).T))

    def _cluster_sums(self, answers: NDArray[np.uint64]) -> CellSums:
        sums = answers.view(np.int64).astype(np.float64).reshape(-1, self._d + 1)
        return CellSums(sums[:, :-1], sums[:, -1])

    def assign(self, centers: Floats) -> tuple[Any, CellSums]:
        answers = self._gpu.zeros((len(centers), self._d + 1), np.uint64)
        labels = kernels.nearest_centers(
            self._gpu, x=self._x, sums=self._sums, columns=self._columns(centers), answers=answers
        )
        return labels, self._cluster_sums(self._gpu.get(answers))

    def second_nearest(self, centers: Floats) -> SecondNearest:
        k, gpu, bits = len(centers), self._gpu, surplus_bits(self._total)
        paired, row = k <= _PAIRED, self._d + 1
        # One array, which comes down at once: the clusters' sums, their costs, and the pairs.
        ends = np.cumsum([k * row, k, -(-k * k // 64) if paired else 0]).tolist()
        answers = gpu.zeros(ends[2], np.uint64)
        labels, second = kernels.second_centers(
            gpu,
            x=self._x,
            sums=self._sums,
            columns=self._columns(centers),
            cost_scale=2.0**-bits,
            answers=answers[: ends[0]].reshape(k, row),
            cost=answers[ends[0] : ends[1]],
            pairs=answers[ends[1] :].view(np.uint32),
        )
        sums, cost, flags = np.split(gpu.get(answers), ends[:2])
        if paired:
            bytes_ = flags.astype("<u8", copy=False).view(np.uint8)
            pairs = np.flatnonzero(np.unpackbits(bytes_, bitorder="little"))
        else:
            pairs = np.unique(gpu.get(labels).astype(np.int64) * k + gpu.get(second))
        return SecondNearest(labels, self._cluster_sums(sums), np.ldexp(cost.astype(np.float64), bits), pairs)

    def half_sums(self, labels: Any, centers: Floats) -> CellSums:
        gpu, x, sums = self._gpu, self._x, self._sums
        means = gpu.put(np.ascontiguousarray(centers))
        scale = spread_scale(self._total)
        spread = kernels.spreads(gpu, x=x, sums=sums, labels=labels, means=means, mass_scale=scale)
        halves = kernels.half_sums(gpu, x=x, sums=sums, labels=labels, means=means, spread=spread)
        return self._cluster_sums(gpu.get(halves))

    def kmeans_plusplus(self, draws: Floats) -> Floats:
        bits = surplus_bits(self._total)
        centers = kernels.seed_cells(self._gpu, x=self._x, sums=self._sums, draws=self._gpu.put(draws), bits=bits)
        return self._gpu.get(centers).astype(np.float64)

    def merged(self, grid: Grid) -> CudaCells:
        table = empty_table(self._gpu, grid, self._d)
        geometry = self._gpu.put(np.array([np.zeros(self._d), grid.half_range, grid.sizes], np.float64))
        kernels.add_cells(self._gpu, x=self._x, sums=self._sums, geometry=geometry, shift=grid.shift, table=table)
        return CudaCells.of_table(self._gpu, table, grid=grid.cells, total=self._total)


def empty_table(gpu: Gpu, grid: Grid, d: int) -> Any:
    """Zeros (bins, d + 1) uint64, to which the bins' mass times coordinates, and mass, are added."""
    return gpu.zeros((grid.bins, d + 1), np.uint64)
