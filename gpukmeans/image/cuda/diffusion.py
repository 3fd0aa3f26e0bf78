"""Error diffusion on a GPU: pixels of one, three or four channels, of 8 or 16 bits.

All that grows with pixels, or with colors times cells, is done there: how much of their share pixels take, which colors
may be nearest to the levels of a cell, and the diffusion itself.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from gpukmeans.engine.cuda.device import Gpu
from gpukmeans.engine.cuda.errors import Launched
from gpukmeans.image.cuda import kernels
from gpukmeans.image.diffusion_plan import DiffusionPlan, texture_of
from gpukmeans.image.levels import index_dtype

# Pixels that take the host at least as long as a step takes here, of which there are width + 3 height: 100 to 300 ns
# against 1.2 microseconds, the latter by count (kernels/image_diffusion.cu), and some launches.
_STEP = 16

# Leading bits of a level that tell cells apart, at most, by channels: 256 cells, or 2**18, or 2**20. And pixels to a
# cell, at least, so that the tables take less than the picture.
_BITS = {1: 8, 3: 6, 4: 5}
_PIXELS = 8

# Candidates of all cells, in fours: 128 MB. Of colors that are equal there may be more, and cells are then larger
# (test_diffusion_kernels.test_equal_colors_are_listed_for_fewer_cells fails otherwise).
_MOST_FOURS = 2**24


def serves(height: int, width: int) -> bool:
    """Whether this takes less time than the host; and 32 bits count the pixels."""
    return height * width > _STEP * (width + 3 * height) and height * width < 2**32


def diffused(cp: Any, plan: DiffusionPlan, *, launched: Launched | None = None) -> Any:
    """The indices (h, w) of a plan, on the GPU if its pixels are there. cp: CuPy, or what stands in its place.
    launched: see Gpu."""
    k, channels = plan.colors.shape
    dtype = plan.pixels.dtype
    gpu = Gpu(cp, kernels.diffusion_options(channels, dtype, index_dtype(k)), launched=launched)
    pixels = gpu.put(plan.pixels)
    fixed = None if plan.fixed is None else gpu.put(plan.fixed.view(np.uint8))
    texture = texture_of(plan.top)
    count = int(gpu.get(kernels.count_textured(gpu, pixels=pixels, texture=texture))[0])
    textured = plan.textured_strength(count)
    strength = kernels.local_strength(
        gpu, pixels=pixels, texture=texture, textured=textured, scale=plan.scale, fixed=fixed
    )
    padded = np.zeros((k, 4), dtype)
    padded[:, :channels] = plan.colors
    colors = gpu.put(padded)
    bits, starts, candidates = candidates_of_cells(gpu, colors, channels, plan.pixels.size // channels)
    labels = kernels.diffuse(
        gpu,
        pixels=pixels,
        strength=strength,
        colors=colors,
        limits=gpu.put(np.stack([plan.low, plan.high])),
        caps=gpu.put(plan.cap),
        starts=starts,
        candidates=candidates,
        bits=bits,
        fixed_index=plan.fixed_index,
        dtype=index_dtype(k),
    )
    return labels if gpu.holds(plan.pixels) else gpu.get(labels)


def candidates_of_cells(gpu: Gpu, colors: Any, channels: int, n: int) -> tuple[int, Any, Any]:
    """By how many leading bits cells are told apart for a picture of n pixels; where the fours of candidates of each
    begin, (cells + 1,) int32; and these, uint16. colors: (k, 4)."""
    bits = _BITS[channels]
    while bits > 1 and _PIXELS << bits * channels > n:
        bits -= 1
    while True:
        fours = gpu.get(kernels.count_candidates(gpu, colors=colors, bits=bits, cells=1 << bits * channels))
        ends = np.cumsum(fours, dtype=np.int64)
        if ends[-1] <= _MOST_FOURS:
            break
        bits -= 1
    starts = gpu.put(np.concatenate([[0], ends]).astype(np.int32))
    candidates = kernels.list_candidates(gpu, colors=colors, bits=bits, starts=starts, fours=int(ends[-1]))
    return bits, starts, candidates
