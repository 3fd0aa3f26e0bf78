"""Pixels on a GPU: 8-bit pictures of one or three channels, through kernels/image_pixels.cu.

The distinct colors and their counts stay on the device; the pixels cross the bus only where they, or the answer, belong
on the host. The tests run the kernels on a CPU, with an object in CuPy's place; see points/cuda.py.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from gpukmeans.engine.cuda.device import BLOCK, Gpu
from gpukmeans.image.color_space import Levels
from gpukmeans.image.cuda.colors import CudaColors
from gpukmeans.image.numpy.pixels import index_dtype, nearest, unpack

LABELS = {"uint8": "unsigned char", "uint16": "unsigned short", "int32": "int"}

# Pixels, and counts, to a thread in kernels/image_pixels.cu.
_RUN, _BINS = 16, 64


class CudaPixels:
    """pixels: (n, 1) or (n, 3), uint8, in host memory or on the current GPU, where labels then stay. cp: CuPy, or what
    stands in its place. launched: see Gpu."""

    def __init__(self, cp: Any, pixels: Any, launched: list[str] | None = None) -> None:
        self.n, self._channels = pixels.shape
        self._gpu = Gpu(cp, (f"-DCHANNELS={self._channels}",), launched=launched)
        self._stay = self._gpu.holds(pixels)
        self._pixels = self._gpu.put(pixels)

    @staticmethod
    def serves(pixels: Any) -> bool:
        """Whether the kernels take such pixels."""
        return pixels.dtype == np.uint8 and pixels.shape[1] in (1, 3) and len(pixels) < 2**32

    def _launch(self, name: str, threads: int, *args: Any, label: Any = np.uint8) -> None:
        options = (f"-DLABEL={LABELS[np.dtype(label).name]}",)
        self._gpu.launch("image_pixels", name, threads, *args, options=options)

    def _answer(self, labels: Any) -> Any:
        return labels if self._stay else self._gpu.get(labels)

    def count(self) -> tuple[Any, Any]:
        bins = 2 ** (8 * self._channels)
        counts = self._gpu.zeros(bins, np.uint32)
        self._launch("histogram", -(-self.n // _RUN), self._pixels, np.int64(self.n), counts)
        return self._used(counts, bins)

    def _used(self, counts: Any, bins: int) -> tuple[Any, Any]:
        """The codes whose counts are not zero, and these."""
        parts = bins // _BINS
        blocks = -(-parts // BLOCK)
        starts, found = self._gpu.empty(parts, np.int32), self._gpu.empty(blocks, np.int32)
        self._launch("used", parts, counts, np.int32(bins), starts, found)
        ends = np.cumsum(self._gpu.get(found), dtype=np.int32)
        bases = self._gpu.put(np.concatenate([np.zeros(1, np.int32), ends[:-1]]))
        codes, times = (self._gpu.empty(int(ends[-1]), dtype) for dtype in (np.uint32, np.int64))
        self._launch("gather_used", parts, counts, np.int32(bins), starts, bases, codes, times)
        return codes, times

    def map(self, codes: Any, labels: Any, dtype: Any) -> Any:
        table = self._gpu.zeros(2 ** (8 * self._channels), dtype)
        known = self._gpu.put(codes), self._gpu.put(labels)
        self._launch("fill_table", len(codes), *known, np.int64(len(codes)), table, label=dtype)
        result = self._gpu.empty(self.n, dtype)
        pixels = self._pixels, np.int64(self.n)
        self._launch("map_codes", -(-self.n // _RUN), *pixels, table, result, label=dtype)
        return self._answer(result)

    def dither(self, offsets: NDArray[np.int32], width: int, palette: Levels) -> Any:
        cp, moved = self._gpu.cp, self._gpu.empty((self.n, self._channels), np.uint8)
        pattern = self._gpu.put(offsets), np.int32(len(offsets))
        self._launch("add_offsets", self.n, self._pixels, np.int64(self.n), np.uint32(width), *pattern, moved)
        held = CudaPixels(cp, moved, self._gpu.launched)
        codes, counts = held.count()
        if CudaColors.serves(codes, self._channels, self.n):
            labels = CudaColors(cp, codes, counts, self.n).nearest(palette, "rgb")
        else:
            labels = nearest(unpack(self._gpu.get(codes), self._channels), palette)
        return self._answer(held.map(codes, labels, index_dtype(len(palette))))

    def error(self, palette: Levels, labels: Any) -> int:
        total = self._gpu.zeros(1, np.uint64)
        colors = self._gpu.put(palette.astype(np.int32))
        own = self._pixels, np.int64(self.n), self._gpu.put(labels), colors
        self._launch("squared_error", self.n, *own, total, label=labels.dtype)
        return int(self._gpu.get(total)[0])


def without_alpha(cp: Any, levels: Any) -> Any:
    """Levels (h, w, 3) of an opaque picture (h, w, 4), uint8, both on the current GPU; None if it is not opaque."""
    h, w, _ = levels.shape
    gpu = Gpu(cp, ("-DCHANNELS=3", "-DLABEL=unsigned char"))
    colors, clear = gpu.empty((h, w, 3), np.uint8), gpu.zeros(1, np.int32)
    gpu.launch("image_pixels", "without_alpha", h * w, gpu.put(levels), np.int64(h * w), colors, clear)
    return None if gpu.get(clear)[0] else colors
