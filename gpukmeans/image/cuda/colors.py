"""Distinct colors on a GPU: those of three bytes."""

from __future__ import annotations

from typing import Any

import numpy as np

from gpukmeans.engine.cuda.device import Gpu
from gpukmeans.engine.cuda.points import CudaPoints
from gpukmeans.engine.protocol import Samples
from gpukmeans.exact.fixed_point import Weights
from gpukmeans.image.color_space import oklab_tables, to_points, ycbcr_factors
from gpukmeans.image.cuda import kernels
from gpukmeans.image.grid import MOST_COUNTED
from gpukmeans.image.levels import Levels, unpack

# Up to so many colors the host takes less time than launches do. Greys are no more, and are one dimension there.
_FEWEST = 2**8


class CudaColors:
    """codes: (m,) uint32 of three bytes. counts: (m,) int64, total in all, at most MOST_COUNTED. Either in host memory
    or on the current GPU. cp: CuPy, or what stands in its place. Palettes have three channels."""

    channels, dtype, mass_scale = 3, np.dtype(np.uint8), 1.0

    def __init__(self, cp: Any, codes: Any, counts: Any, total: int) -> None:
        self._gpu, self._total = Gpu(cp, kernels.COLOR_OPTIONS), total
        self._codes, self.weights = self._gpu.put(codes), self._gpu.put(counts)

    @staticmethod
    def serves(codes: Any, channels: int, total: int, palette_channels: int = 3) -> bool:
        """Whether the kernels take such colors, and palettes of so many channels
        (test_image_colors.test_colors_are_held_where_palettes_can_be_compared_with_them fails of others); and whether
        counts are masses (test_image_colors.test_more_pixels_than_masses_can_count_are_the_hosts fails of more)."""
        of_three_bytes = codes.dtype == np.uint32 and channels == palette_channels == 3
        return of_three_bytes and len(codes) > _FEWEST and total <= MOST_COUNTED

    def __len__(self) -> int:
        return len(self._codes)

    def levels(self) -> Levels:
        return unpack(self._gpu.get(self._codes), 3)

    def points(self, space: str) -> Any:
        if space == "rgb":
            return kernels.rgb_points(self._gpu, codes=self._codes)
        if space == "ycbcr":
            factors = self._gpu.put(ycbcr_factors().astype(np.int32))
            return kernels.ycbcr_points(self._gpu, codes=self._codes, factors=factors)
        return kernels.oklab_points(self._gpu, codes=self._codes, tables=self._gpu.put(oklab_tables(255)))

    def engine_weights(self) -> tuple[Weights, Any]:
        return Weights(float(self._total), float(self._total), 0), self.weights

    def nearest(self, palette: Levels, space: str) -> Any:
        points = CudaPoints(self._gpu.cp, Samples(self.points(space), reused=False), keep_on_device=True)
        points.feature_range()
        points.assign(to_points(palette, space).astype(np.float64))
        return points.labels()

    def nearest_levels(self, palette: Levels) -> Any:
        return self.nearest(palette, "rgb")  # whose points are the levels, of colors without alpha

    def error(self, palette: Levels, labels: Any) -> int:
        levels = self._gpu.put(palette.astype(np.int32))
        total = kernels.color_error(
            self._gpu, codes=self._codes, counts=self.weights, labels=self._gpu.put(labels), palette=levels
        )
        return int(self._gpu.get(total)[0])
