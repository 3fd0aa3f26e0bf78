"""Which engine holds a picture's pixels, colors and points; the only place that chooses one."""

from __future__ import annotations

from typing import Any

from gpukmeans import array_interop
from gpukmeans.image.cuda.cells import CudaWhole
from gpukmeans.image.cuda.colors import CudaColors
from gpukmeans.image.cuda.pixels import CudaPixels, without_alpha
from gpukmeans.image.numpy.colors import Colors, NumPyColors
from gpukmeans.image.numpy.grid_cells import Frame, NumPyWhole, Whole
from gpukmeans.image.numpy.pixels import NumPyPixels, Pixels, unpack


def make_pixels(pixels: Any, *, device: str) -> Pixels:
    """The Pixels for (n, c) levels on a device that `resolve` returned; NumPy's where no kernel serves them."""
    if device == "cpu" or not CudaPixels.serves(pixels):
        return NumPyPixels(array_interop.to_numpy(pixels))
    import cupy

    return CudaPixels(cupy, pixels)


def make_colors(codes: Any, counts: Any, channels: int, total: int, *, device: str) -> Colors:
    """The Colors of such codes (m,), of which there are so many (m,), and in all, on a device that `resolve` returned;
    NumPy's where no kernel serves them."""
    if device == "cpu" or not CudaColors.serves(codes, channels, total):
        return NumPyColors(unpack(array_interop.to_numpy(codes), channels), array_interop.to_numpy(counts))
    import cupy

    return CudaColors(cupy, codes, counts, total)


def make_whole(points: Any, weights: Any, frame: Frame, *, device: str) -> Whole:
    """Points (m, d) of weights (m,) as whole numbers, on a device that `resolve` returned."""
    if device == "cpu":
        return NumPyWhole(points, weights, frame)
    import cupy

    return CudaWhole(cupy, points, weights, frame)


def opaque(levels: Any) -> Any:
    """Levels (h, w, 4) of uint8 that are on a GPU without their alpha, None if one is not opaque."""
    import cupy

    with cupy.cuda.Device(array_interop.gpu_of(levels)):
        return without_alpha(cupy, levels)
