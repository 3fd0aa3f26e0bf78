"""Which engine holds a picture's pixels, colors and points; the only place that chooses one.

That of a GPU, and what diffuses errors, is imported where it is needed: it takes as long as a small picture.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np

from gpukmeans import array_interop
from gpukmeans.image.grid import GridScale
from gpukmeans.image.levels import unpack
from gpukmeans.image.numpy.colors import NumPyColors
from gpukmeans.image.numpy.integral_points import NumPyIntegralPoints
from gpukmeans.image.numpy.pixels import NumPyPixels
from gpukmeans.image.protocol import Colors, IntegralPoints, Pixels

if TYPE_CHECKING:
    from gpukmeans.image.diffusion_plan import DiffusionPlan


def make_pixels(pixels: Any, *, device: str) -> Pixels:
    """The Pixels for (n, c) levels on a device that `resolve` returned; NumPy's where no kernel serves them."""
    if device != "cpu":
        from gpukmeans.image.cuda.pixels import CudaPixels
    if device == "cpu" or not CudaPixels.serves(pixels):
        return NumPyPixels(array_interop.to_numpy(pixels))
    import cupy

    return CudaPixels(cupy, pixels)


def make_colors(
    codes: Any, counts: Any, channels: int, total: int, *, device: str, palette_channels: int = 3
) -> Colors:
    """The Colors of such codes (m,), of which there are so many (m,), and total in all, on a device that `resolve`
    returned; NumPy's where no kernel serves them. palette_channels: 4 if they are to be compared with a palette that
    has alpha."""
    if device != "cpu":
        from gpukmeans.image.cuda.colors import CudaColors
    if device == "cpu" or not CudaColors.serves(codes, channels, total, palette_channels):
        return NumPyColors(unpack(array_interop.to_numpy(codes), channels), array_interop.to_numpy(counts))
    import cupy

    return CudaColors(cupy, codes, counts, total)


def make_integral_points(points: Any, weights: Any, scale: GridScale, *, device: str) -> IntegralPoints:
    """The IntegralPoints of points (m, d) with weights (m,), on a device that `resolve` returned."""
    if device == "cpu":
        return NumPyIntegralPoints(points, weights, scale)
    import cupy

    from gpukmeans.image.cuda.integral_points import CudaIntegralPoints

    return CudaIntegralPoints(cupy, points, weights, scale)


def diffused(plan: DiffusionPlan, *, device: str) -> Any:
    """The indices (h, w) of a diffusion, on a device that `resolve` returned; on the host where that is sooner done,
    as of thin pictures."""
    if device != "cpu":
        from gpukmeans.image.cuda import diffusion as cuda_diffusion

        if cuda_diffusion.serves(*plan.pixels.shape[:2]):
            import cupy

            return cuda_diffusion.diffused(cupy, plan)
    from gpukmeans.image.numpy import diffusion as numpy_diffusion

    own = np.ascontiguousarray(array_interop.to_numpy(plan.pixels))
    return numpy_diffusion.diffused(replace(plan, pixels=own))


def opaque(levels: Any) -> Any:
    """Levels (h, w, 4) of uint8 that are on a GPU without their alpha, None if one is not opaque."""
    import cupy

    from gpukmeans.image.cuda.pixels import without_alpha

    with cupy.cuda.Device(array_interop.gpu_of(levels)):
        return without_alpha(cupy, levels)
