"""Colors on a GPU: those of three bytes, through kernels/image_colors.cu.

The tests run the kernels on a CPU, with an object in CuPy's place; see points/cuda.py.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from gpukmeans.engine.cuda.device import Gpu
from gpukmeans.engine.cuda.points import CudaPoints
from gpukmeans.engine.protocol import Samples
from gpukmeans.exact.fixed_point import Weights
from gpukmeans.image.color_space import Levels, oklab_tables, to_points
from gpukmeans.image.numpy.colors import MOST_COUNTED, NumPyColors
from gpukmeans.image.numpy.pixels import unpack

# Up to so many colors the host takes less time than launches do. Greys are no more, and are one dimension there.
_FEWEST = 2**8


class CudaColors:
    """codes: (m,) uint32 of three bytes. counts: (m,) int64, at most 2**38 in all. Either in host memory or on the
    current GPU. cp: CuPy, or what stands in its place."""

    channels, dtype, unit = 3, np.dtype(np.uint8), 1.0

    def __init__(self, cp: Any, codes: Any, counts: Any, total: int) -> None:
        self._gpu, self._total = Gpu(cp, ()), total
        self._codes, self.weights = self._gpu.put(codes), self._gpu.put(counts)

    @staticmethod
    def serves(codes: Any, channels: int, total: int) -> bool:
        """Whether the kernels take such colors."""
        return codes.dtype == np.uint32 and channels == 3 and len(codes) > _FEWEST and total <= MOST_COUNTED

    def __len__(self) -> int:
        return len(self._codes)

    def _launch(self, name: str, *args: Any) -> None:
        self._gpu.launch("image_colors", name, len(self), self._codes, *args)

    def levels(self) -> Levels:
        return unpack(self._gpu.get(self._codes), 3)

    def points(self, space: str) -> Any:
        points = self._gpu.empty((len(self), 3), np.uint8 if space == "rgb" else np.float32)
        tables = () if space == "rgb" else (self._gpu.put(oklab_tables(255)),)
        self._launch(f"{space}_points", np.int64(len(self)), *tables, points)
        return points

    def weighed(self) -> tuple[Weights, Any]:
        total = float(self._total)
        return Weights(total, total, 0), self.weights

    def _on_host(self) -> NumPyColors:
        return NumPyColors(self.levels(), self._gpu.get(self.weights))

    def nearest(self, palette: Levels, space: str) -> Any:
        if palette.shape[1] == 4:
            return self._on_host().nearest(palette, space)
        held = CudaPoints(self._gpu.cp, Samples(self.points(space), reused=False), keep_on_device=True)
        held.feature_range()
        held.assign(to_points(palette, space).astype(np.float64))
        return held.labels()

    def error(self, palette: Levels, labels: Any) -> int:
        if palette.shape[1] == 4:
            labels = self._gpu.get(labels) if self._gpu.holds(labels) else labels
            return self._on_host().error(palette, labels)
        total = self._gpu.zeros(1, np.uint64)
        given = self._gpu.put(labels), self._gpu.put(palette.astype(np.int32))
        self._launch("color_error", self.weights, np.int64(len(self)), *given, total)
        return int(self._gpu.get(total)[0])
