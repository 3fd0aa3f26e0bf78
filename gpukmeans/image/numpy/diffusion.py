"""Error diffusion on the CPU: which of the ways to do it serves a picture of that size."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from gpukmeans.image.diffusion_plan import DiffusionPlan
from gpukmeans.image.levels import index_dtype
from gpukmeans.image.numpy import diffusion_loop, diffusion_waves


def diffused(plan: DiffusionPlan) -> NDArray[Any]:
    """The indices (h, w) of a plan whose pixels are NumPy's, one after another."""
    height, width, _ = plan.pixels.shape
    k, several = len(plan.colors), diffusion_waves.segments(height, width)
    out = np.empty((height, width), index_dtype(k))
    looped = several == 1 or diffusion_loop.serves(height, width, k, several)
    if not looped and diffusion_waves.diffuse_in_segments(plan, out):
        return out
    if diffusion_loop.serves(height, width, k):
        diffusion_loop.diffuse_in_a_loop(plan, out)
    else:
        diffusion_waves.diffuse_in_waves(plan, out)
    return out
