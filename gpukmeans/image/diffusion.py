"""Error diffusion that cannot pile up: neighbours make up for what a pixel's color lacks, as far as that helps.

Floyd and Steinberg's ("An adaptive algorithm for spatial grey scale", Proceedings of the SID 17, 1976), left to right
and top to bottom: 7/16 of a pixel's error to its right, 3/16 below left, 5/16 below, 1/16 below right. All of it is
integer arithmetic on levels (premultiplied by alpha where there is any), so that there is one answer; and the nearest
color is measured in levels too, whatever space the palette was found in: what is passed on is a difference of levels,
and it stays small only if the color chosen is the nearest in the same measure. A pixel's level is its own plus its
share, rounded (halves up) and cut to the range of levels. What is new:

- A pixel takes its share times a strength. Where its four neighbours are its equals it takes all, so that a flat
  surface is mixed in proportion; where they differ it takes less, down to _TEXTURED of it: there what it would even
  out is not seen, while its dots are, and what it lacks has a half-life of few pixels. (That texture hides errors is
  an old observation; libimagequant weakens its dithering by a map of edges, "How pngquant works", pngquant.org.)
- Error is the level, cut to the range that the palette has in each channel, less the color's: what no mixture of the
  palette's colors can make up for is dropped, and does not wander to where a stray dot would let it out.
- Where the strength is not full, a channel's error is cut to three quarters of the distance from the color to the one
  nearest to it: between these two it is never more than half, and much more is what makes dots of a far color.

Examples
--------
>>> diffuse(np.full((2, 4, 1), 100, np.uint8), np.array([[0], [255]], np.uint8)).tolist()
[[0, 1, 0, 0], [0, 1, 0, 1]]
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from gpukmeans.image.levels import Levels, index_dtype, largest_level
from gpukmeans.image.numpy import diffusion_loop, diffusion_waves

# Strengths are in 256ths; the share of its neighbours' errors that a pixel within texture takes. Of 0.4 to 0.9 what
# served photographs best, between what blurs to the right color and what keeps structure (docs/quantization.md).
FULL = 256
_TEXTURED = 112

# From what difference between neighbours on, of 255, a pixel counts as within texture.
_TEXTURE = 4


class Plan(NamedTuple):
    """What a diffusion is told. pixels: (h, w, c) levels. colors: (k, c) int32. strength: (h, w) int32, of FULL; below
    0 for pixels that take `fixed_index`, and neither receive nor pass on. low, high: (c,) int32, the palette's range.
    cap: (k,) int32, the most error of a color where strength is not full. top: the largest level."""

    pixels: Levels
    colors: NDArray[np.int32]
    strength: NDArray[np.int32]
    low: NDArray[np.int32]
    high: NDArray[np.int32]
    cap: NDArray[np.int32]
    top: int
    fixed_index: int


def diffuse(
    pixels: Levels,
    palette: Levels,
    *,
    strength: float = 1.0,
    fixed: NDArray[np.bool_] | None = None,
    fixed_index: int = 0,
) -> NDArray[Any]:
    """The indices (h, w) of pixels (h, w, c) in palette (k, c), by error diffusion.

    strength: 0 to 1, what each pixel's own is multiplied by; 0 leaves the nearest colors. fixed: (h, w) pixels that
    take `fixed_index`, and neither receive nor pass on any error.
    """
    height, width, _ = pixels.shape
    strengths = (local_strength(pixels) * int(np.rint(FULL * strength))) >> 8
    if fixed is not None:
        strengths[fixed] = -1
    colors = palette.astype(np.int32)
    plan = Plan(
        np.ascontiguousarray(pixels),
        colors,
        strengths,
        colors.min(axis=0),
        colors.max(axis=0),
        half_distances(palette) * 3 // 2,
        largest_level(pixels.dtype),
        fixed_index,
    )
    out = np.empty((height, width), index_dtype(len(palette)))
    k, several = len(palette), diffusion_waves.segments(height, width)
    looped = several == 1 or diffusion_loop.serves(height, width, k, several)
    if not looped and diffusion_waves.diffuse_in_segments(plan, out):
        return out
    if diffusion_loop.serves(height, width, k):
        diffusion_loop.diffuse_in_a_loop(plan, out)
    else:
        diffusion_waves.diffuse_in_waves(plan, out)
    return out


def local_strength(pixels: Levels) -> NDArray[np.int32]:
    """How much of its share each of the pixels (h, w, c) takes: (h, w), of FULL.

    By the largest difference, in any channel, from the four neighbours.

    Examples
    --------
    >>> local_strength(np.array([[[9], [9], [10], [90]]], np.uint8)).tolist()
    [[256, 220, 112, 112]]
    """
    h, w, _ = pixels.shape
    # As far as it counts, so that rounding differences of 16 bits is all that is lost.
    most = np.zeros((h, w), np.int32)
    for axis in (0, 1):
        steps = np.abs(np.diff(pixels.astype(np.int32), axis=axis)).max(axis=2)
        before, after = (slice(None), slice(None, -1)), (slice(None), slice(1, None))
        if axis == 0:
            before, after = before[::-1], after[::-1]
        np.maximum(most[before], steps, out=most[before])
        np.maximum(most[after], steps, out=most[after])
    texture = _TEXTURE * (largest_level(pixels.dtype) // 255)
    np.minimum(most, texture, out=most)
    return FULL - (FULL - _TEXTURED) * most // texture


def half_distances(palette: Levels) -> NDArray[np.int32]:
    """Half the distance from each of the colors (k, c) to the one nearest to it, rounded up: the largest difference in
    any channel, of the nearest by |p - q|^2, equal colors aside. (k,); of a single color 0.

    Examples
    --------
    >>> half_distances(np.array([[0, 0], [0, 9], [100, 0]], np.uint8)).tolist()
    [5, 5, 50]
    """
    colors = np.unique(palette, axis=0).astype(np.int64)
    norms = (colors * colors).sum(axis=1)
    found = np.zeros(len(palette), np.int32)
    if len(colors) == 1:
        return found
    half = np.empty(len(colors), np.int32)
    step = max(1, 2**22 // len(colors))
    for a in range(0, len(colors), step):
        rows = colors[a : a + step]
        # Whole numbers below 2**53, and so exact as products of BLAS.
        cross = rows.astype(np.float64) @ colors.T.astype(np.float64)
        squares = norms[a : a + step, None] + norms - 2 * cross
        squares[np.arange(len(rows)), np.arange(a, a + len(rows))] = np.inf
        nearest = squares.argmin(axis=1)
        half[a : a + step] = (np.abs(rows - colors[nearest]).max(axis=1) + 1) // 2
    _, place = np.unique(palette, axis=0, return_inverse=True)
    return half[place.reshape(-1)]
