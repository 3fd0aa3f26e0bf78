"""Error diffusion that cannot pile up: neighbours make up for what a pixel's color lacks, as far as that helps.

Floyd and Steinberg's ("An adaptive algorithm for spatial grey scale", Proceedings of the SID 17, 1976), left to right
and top to bottom: 7/16 of a pixel's error to its right, 3/16 below left, 5/16 below, 1/16 below right. All of it is
integer arithmetic on levels (premultiplied by alpha where there is any), so that there is one answer; and the nearest
color is measured in levels too, whatever space the palette was found in: what is passed on is a difference of levels,
and it stays small only if the color chosen is the nearest in the same measure. A pixel's level is its own plus its
share, rounded (halves up) and cut to the range of levels. What is new:

- A pixel takes its share times a strength. Where its four neighbours are its equals it takes all, so that a flat
  surface is mixed in proportion; where they differ it takes less: there what it would even out is not seen, while its
  dots are, and what it lacks has a half-life of few pixels. The more of the picture is such texture, the less it takes,
  and where nearly all is, nothing, unless the palette is grey (`diffusion_plan.textured_strength`): noise dithers by
  itself. (That texture hides errors is an old observation; libimagequant weakens its dithering by a map of edges, "How
  pngquant works", pngquant.org.)
- Error is the level, cut to the range that the palette has in each channel, less the color's: what no mixture of the
  palette's colors can make up for is dropped, and does not wander to where a stray dot would let it out.
- Where the strength is not full, a channel's error is cut to three quarters of the distance from the color to the one
  nearest to it: between these two it is never more than half, and much more is what makes dots of a far color. Between
  colors within a few levels it is cut further (`diffusion_plan.caps`).

Examples
--------
>>> diffuse(np.full((2, 4, 1), 100, np.uint8), np.array([[0], [255]], np.uint8)).tolist()
[[0, 1, 0, 0], [0, 1, 0, 1]]
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from gpukmeans.image import dispatch
from gpukmeans.image.diffusion_plan import FULL, DiffusionPlan, caps
from gpukmeans.image.levels import Levels


def diffuse(
    pixels: Levels,
    palette: Levels,
    *,
    strength: float = 1.0,
    fixed: NDArray[np.bool_] | None = None,
    fixed_index: int = 0,
    device: str = "cpu",
) -> NDArray[Any]:
    """The indices (h, w) of pixels (h, w, c) in palette (k, c), by error diffusion.

    strength: 0 to 1, what each pixel's own is multiplied by; 0 leaves the nearest colors. fixed: (h, w) pixels that
    take `fixed_index`, and neither receive nor pass on any error. device: one that `resolve` returned; indices of
    pixels that are on a GPU may stay there.
    """
    colors = palette.astype(np.int32)
    plan = DiffusionPlan(
        pixels,
        colors,
        int(np.rint(FULL * strength)),
        fixed,
        fixed_index,
        colors.min(axis=0),
        colors.max(axis=0),
        caps(palette),
    )
    return dispatch.diffused(plan, device=device)
