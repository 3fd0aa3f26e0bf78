"""Cells on a GPU, through kernels/image_cells.cu and image_cells_seeding.cu: the numbers of cells.py and whole.py.

What crosses the bus is what k centers say and are answered, and of a grid how many of each 256 of its bins are used.
The tests run the kernels on a CPU, with an object in CuPy's place; see points/cuda.py.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from gpukmeans.engine.cuda.device import SHARED, Gpu
from gpukmeans.engine.cuda.points import X_KINDS
from gpukmeans.exact.distance import Floats
from gpukmeans.image.numpy.cells import Seconds, Sums, fineness, score_columns, surplus
from gpukmeans.image.numpy.grid_cells import Frame, Grid

# Bins of a block of used_bins and gather_bins, and threads of the block that seeds: the most that one may have.
_BINS, _SEEDING = 256, 1024

# A bit for each pair of up to so many clusters: 2 MB. Beyond, the second-nearest centers come to the host.
_PAIRED = 2**12


class CudaWhole:
    """points: (m, d). weights: (m,), int64 or float64. Either in host memory or on the current GPU."""

    def __init__(self, cp: Any, points: Any, weights: Any, frame: Frame) -> None:
        self.m, self._d = points.shape
        kind = 1 if weights.dtype == np.int64 else 2
        options = f"-DX_KIND={X_KINDS[points.dtype.name]}", f"-DWEIGHT_KIND={kind}", f"-DD={self._d}"
        self._gpu = Gpu(cp, options)
        self._points, self._weights, self._frame = self._gpu.put(points), self._gpu.put(weights), frame
        self.square = 0

    def _given(self, sizes: list[int]) -> tuple[Any, ...]:
        """The arguments that say what a point is as whole numbers, and in which bin."""
        frame = self._gpu.put(np.array([self._frame.middle, self._frame.extent, sizes], np.float64))
        numbers = np.float64(self._frame.scale), np.float64(self._frame.unit)
        return self._points, self._weights, np.int64(self.m), frame, *numbers

    def merged(self, grid: Grid) -> CudaCells:
        table = self._gpu.zeros(grid.bins * (self._d + 1), np.uint64)
        totals = self._gpu.zeros(2, np.uint64)
        given = self._given(grid.sizes)
        self._gpu.launch("image_cells", "add_points", self.m, *given, np.int32(grid.shift), table, totals)
        self.square, mass = self._gpu.get(totals).tolist()
        return _gathered(self._gpu, self._d, table, grid, mass)

    def cells(self) -> CudaCells:
        x = self._gpu.empty((self.m, self._d), np.float32)
        sums = self._gpu.empty(self.m * (self._d + 1), np.int64)
        totals = self._gpu.zeros(2, np.uint64)
        self._gpu.launch("image_cells", "whole_points", self.m, *self._given([1] * self._d), x, sums, totals)
        square, mass = self._gpu.get(totals).tolist()
        return CudaCells(self._gpu, x, sums, 0, square, mass)


def _gathered(gpu: Gpu, d: int, table: Any, grid: Grid, mass: int) -> CudaCells:
    """The bins of a table, (bins * (d + 1),) sums, that have mass."""
    parts = -(-grid.bins // _BINS)
    found = gpu.empty(parts, np.int32)
    bins, table = np.int32(grid.bins), table.view(np.int64)
    gpu.launch("image_cells", "used_bins", grid.bins, table, bins, found)
    ends = np.cumsum(gpu.get(found), dtype=np.int32)
    m = int(ends[-1])
    x, sums, total = gpu.empty((m, d), np.float32), gpu.empty(m * (d + 1), np.int64), gpu.zeros(1, np.uint64)
    starts = gpu.put(np.concatenate([np.zeros(1, np.int32), ends[:-1]]))
    gpu.launch("image_cells", "gather_bins", grid.bins, table, bins, starts, x, sums, total)
    return CudaCells(gpu, x, sums, grid.cells, int(gpu.get(total)[0]), mass)


class CudaCells:
    """x: (m, d) float32. sums: (m * (d + 1),), of each cell mass times coordinate and mass. total: the mass of all."""

    def __init__(self, gpu: Gpu, x: Any, sums: Any, grid: int, square: int, total: int) -> None:
        self.m, self._d = x.shape
        self._gpu, self._x, self._sums, self.grid, self.square, self._total = gpu, x, sums, grid, square, total
        self.lost = 0.0

    def _rows(self) -> tuple[Any, Any, np.int64]:
        return self._x, self._sums, np.int64(self.m)

    def _columns(self, centers: Floats) -> tuple[Any, np.int32, np.int32, int]:
        """The centers as kernels take them, how many, how many at a time, and the bytes of shared memory of these."""
        k, size = len(centers), 4 * (self._d + 1)
        tile = min(k, SHARED // size)
        columns = self._gpu.put(np.ascontiguousarray(score_columns(centers).T))
        return columns, np.int32(k), np.int32(tile), tile * size

    def _answered(self, answers: NDArray[np.uint64]) -> Sums:
        sums = answers.view(np.int64).astype(np.float64).reshape(-1, self._d + 1)
        return Sums(sums[:, :-1], sums[:, -1])

    def clusters(self, centers: Floats) -> tuple[Any, Sums]:
        *columns, shared = self._columns(centers)
        labels = self._gpu.empty(self.m, np.int32)
        answers = self._gpu.zeros(len(centers) * (self._d + 1), np.uint64)
        self._gpu.launch(
            "image_cells", "nearest_centers", self.m, *self._rows(), *columns, labels, answers, shared=shared
        )
        return labels, self._answered(self._gpu.get(answers))

    def seconds(self, centers: Floats) -> Seconds:
        k, gpu, bits = len(centers), self._gpu, surplus(self._total)
        *columns, shared = self._columns(centers)
        labels, second = gpu.empty(self.m, np.int32), gpu.empty(self.m, np.int32)
        # One array, which comes down at once.
        pairing, row = k <= _PAIRED, self._d + 1
        answers = gpu.zeros(k * (row + 1) + (-(-k * k // 64) if pairing else 0), np.uint64)
        sums, cost, pairs = answers[: k * row], answers[k * row : k * (row + 1)], answers[k * (row + 1) :]
        gpu.launch(
            *("image_cells", "second_centers", self.m, *self._rows(), *columns, np.float64(2.0**-bits)),
            *(np.int32(pairing), labels, second, sums, cost, pairs.view(np.uint32)),
            shared=shared,
        )
        found = gpu.get(answers)
        costs = np.ldexp(found[k * row : k * (row + 1)].astype(np.float64), bits)
        if pairing:
            flags = found[k * (row + 1) :].astype("<u8", copy=False).view(np.uint8)
            codes = np.flatnonzero(np.unpackbits(flags, bitorder="little"))
        else:
            codes = np.unique(gpu.get(labels).astype(np.int64) * k + gpu.get(second))
        return Seconds(labels, self._answered(found[: k * row]), costs, codes)

    def halves(self, labels: Any, centers: Floats) -> Sums:
        k, gpu = len(centers), self._gpu
        means = gpu.put(np.ascontiguousarray(centers))
        spread = gpu.zeros(k * self._d, np.uint64)
        answers = gpu.zeros(2 * k * (self._d + 1), np.uint64)
        given = *self._rows(), labels, means
        gpu.launch("image_cells", "spreads", self.m, *given, np.float64(fineness(self._total)), spread)
        gpu.launch("image_cells", "half_sums", self.m, *given, spread, np.int32(k), answers)
        return self._answered(gpu.get(answers))

    def seeds(self, draws: Floats) -> Floats:
        k, trials = draws.shape
        centers, closest = self._gpu.empty((k, self._d), np.float32), self._gpu.empty(self.m, np.int32)
        self._gpu.run(
            *(
                "image_cells_seeding",
                "seed_cells",
                1,
                _SEEDING,
                *self._rows(),
                self._gpu.put(draws),
                np.int32(k),
                np.int32(trials),
            ),
            *(np.int32(surplus(self._total)), closest, centers),
        )
        return self._gpu.get(centers).astype(np.float64)

    def merged(self, grid: Grid) -> CudaCells:
        table = self._gpu.zeros(grid.bins * (self._d + 1), np.uint64)
        frame = self._gpu.put(np.array([np.zeros(self._d), grid.extent, grid.sizes], np.float64))
        self._gpu.launch("image_cells", "add_cells", self.m, *self._rows(), frame, np.int32(grid.shift), table)
        return _gathered(self._gpu, self._d, table, grid, self._total)
