"""Pixels on a GPU: 8-bit pictures of one or three channels.

The distinct colors and their counts stay on the device; the pixels cross the bus only where they, or the answer, belong
on the host.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from gpukmeans.engine.cuda.device import Gpu
from gpukmeans.engine.cuda.errors import Launched
from gpukmeans.image.cuda import kernels
from gpukmeans.image.cuda.compaction import compact_counts
from gpukmeans.image.levels import Levels
from gpukmeans.image.protocol import Mixtures


class CudaPixels:
    """pixels: (n, 1) or (n, 3), uint8, in host memory or on the current GPU. cp: CuPy, or what stands in its place.
    keep_on_device: whether answers of size n stay there; if the pixels are there unless told. launched: see Gpu."""

    def __init__(
        self, cp: Any, pixels: Any, *, keep_on_device: bool | None = None, launched: Launched | None = None
    ) -> None:
        self.n, self._channels = pixels.shape
        self._gpu = Gpu(cp, kernels.pixel_options(self._channels), launched=launched)
        self._keep_on_device = self._gpu.holds(pixels) if keep_on_device is None else keep_on_device
        self._pixels = self._gpu.put(pixels)

    @staticmethod
    def serves(pixels: Any) -> bool:
        """Whether the kernels take such pixels, and 32 bits count them
        (test_image_kernels.test_what_no_kernel_takes_is_numpys fails of others)."""
        return pixels.dtype == np.uint8 and pixels.shape[1] in (1, 3) and len(pixels) < 2**32

    def count(self) -> tuple[Any, Any]:
        return compact_counts(self._gpu, kernels.histogram(self._gpu, pixels=self._pixels, channels=self._channels))

    def map(self, codes: Any, labels: Any, dtype: Any) -> Any:
        gpu = self._gpu
        table = gpu.zeros(2 ** (8 * self._channels), dtype)
        kernels.fill_table(gpu, codes=gpu.put(codes), labels=gpu.put(labels), table=table)
        result = kernels.map_codes(gpu, pixels=self._pixels, table=table)
        return result if self._keep_on_device else gpu.get(result)

    def mixed(self, codes: Any, mixtures: Mixtures, ranks: NDArray[np.int32], width: int, dtype: Any) -> Any:
        gpu, codes = self._gpu, self._gpu.put(codes)

        def looked_up(values: NDArray[np.int32], dtype: Any) -> Any:
            table = gpu.zeros(2 ** (8 * self._channels), dtype)
            kernels.fill_table(gpu, codes=codes, labels=gpu.put(values), table=table)
            return kernels.map_codes(gpu, pixels=self._pixels, table=table)

        first, second = looked_up(mixtures.first, dtype), looked_up(mixtures.second, dtype)
        counts = looked_up(mixtures.counts, np.uint16)
        kernels.mix(gpu, first=first, second=second, counts=counts, width=width, ranks=gpu.put(ranks))
        return first if self._keep_on_device else gpu.get(first)

    def error(self, palette: Levels, labels: Any) -> int:
        levels = self._gpu.put(palette.astype(np.int32))
        total = kernels.squared_error(self._gpu, pixels=self._pixels, labels=self._gpu.put(labels), palette=levels)
        return int(self._gpu.get(total)[0])


def without_alpha(cp: Any, levels: Any) -> Any:
    """Levels (h, w, 3) of an opaque picture (h, w, 4), uint8, both on the current GPU; None if it is not opaque."""
    h, w, _ = levels.shape
    gpu = Gpu(cp, kernels.pixel_options(3))
    colors, clear = kernels.without_alpha(gpu, pixels=gpu.put(levels).reshape(h * w, 4))
    return None if gpu.get(clear)[0] else colors.reshape(h, w, 3)
