"""Pixels on a GPU: 8-bit pictures of one or three channels, through kernels/image.cu.

The tests run the kernels on a CPU, with an object in CuPy's place; see points/cuda.py.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from gpukmeans.image.color import Levels
from gpukmeans.image.pixels import Codes, Ints, index_dtype
from gpukmeans.points.gpu import SHARED, Gpu

LABELS = {"uint8": "unsigned char", "uint16": "unsigned short", "int32": "int"}


class CudaPixels:
    """pixels: (n, 1) or (n, 3), uint8, in host memory. cp: CuPy, or what stands in its place."""

    def __init__(self, cp: Any, pixels: Levels) -> None:
        self.n, self._channels = pixels.shape
        self._gpu = Gpu(cp, (f"-DCHANNELS={self._channels}",))
        self._pixels = self._gpu.put(pixels)

    @staticmethod
    def serves(pixels: Levels) -> bool:
        """Whether the kernels take such pixels."""
        return pixels.dtype == np.uint8 and pixels.shape[1] in (1, 3) and len(pixels) < 2**32

    def _launch(self, name: str, *args: Any, label: Any = np.uint8, shared: int = 0) -> None:
        options = (f"-DLABEL={LABELS[np.dtype(label).name]}",)
        self._gpu.launch("image", name, self.n, self._pixels, np.int64(self.n), *args, options=options, shared=shared)

    def count(self) -> tuple[Codes, Ints]:
        counts = self._gpu.zeros(2 ** (8 * self._channels), np.uint32)
        self._launch("histogram", counts)
        found = self._gpu.get(counts)
        codes = np.flatnonzero(found).astype(np.uint32)
        return codes, found[codes].astype(np.int64)

    def map(self, codes: Codes, labels: NDArray[Any]) -> NDArray[Any]:
        table = np.zeros(2 ** (8 * self._channels), labels.dtype)
        table[codes] = labels
        result = self._gpu.empty(self.n, labels.dtype)
        self._launch("map_codes", self._gpu.put(table), result, label=labels.dtype)
        return self._gpu.get(result)

    def dither(self, offsets: NDArray[np.int32], width: int, palette: Levels) -> NDArray[Any]:
        k = len(palette)
        dtype = index_dtype(k)
        tile = min(k, SHARED // (4 * self._channels))
        result = self._gpu.empty(self.n, dtype)
        self._launch(
            *("dither", np.int64(width), self._gpu.put(offsets), np.int32(len(offsets))),
            *(self._gpu.put(palette.astype(np.int32)), np.int32(k), np.int32(tile), result),
            label=dtype,
            shared=4 * self._channels * tile,
        )
        return self._gpu.get(result)
