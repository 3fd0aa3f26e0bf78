"""What a diffusion is told, and the two things that it is made of: how much of their share pixels take, and how far
apart colors are. Why it is so stands in diffusion.py."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gpukmeans.image.levels import Levels, largest_level

# Strengths are in 256ths; the share of its neighbours' errors that a pixel within texture takes. Of 0.4 to 0.9 what
# served photographs best, between what blurs to the right color and what keeps structure (docs/quantization.md).
FULL = 256
TEXTURED = 112

# From what difference between neighbours on, of 255, a pixel counts as within texture.
_TEXTURE = 4


@dataclass(frozen=True)
class DiffusionPlan:
    """pixels: (h, w, c) levels, of NumPy or on a GPU. colors: (k, c) int32. scale: what pixels' own strength is
    multiplied by, of FULL. fixed: (h, w) bool, pixels that take `fixed_index`, and neither receive nor pass on; or
    None. low, high: (c,) int32, the palette's range. cap: (k,) int32, the most error of a color where strength is not
    full."""

    pixels: Any
    colors: NDArray[np.int32]
    scale: int
    fixed: NDArray[np.bool_] | None
    fixed_index: int
    low: NDArray[np.int32]
    high: NDArray[np.int32]
    cap: NDArray[np.int32]

    @property
    def top(self) -> int:
        """The largest level."""
        return largest_level(self.pixels.dtype)

    @cached_property
    def strength(self) -> NDArray[np.int32]:
        """How much of its share each pixel takes, of FULL, and -1 where it is fixed: (h, w). Pixels are NumPy's."""
        strengths = (local_strength(self.pixels) * self.scale) >> 8
        if self.fixed is not None:
            strengths[self.fixed] = -1
        return strengths


def texture_of(top: int) -> int:
    """From what difference between neighbours on a pixel counts as within texture, by the largest level."""
    return _TEXTURE * (top // 255)


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
    texture = texture_of(largest_level(pixels.dtype))
    np.minimum(most, texture, out=most)
    return FULL - (FULL - TEXTURED) * most // texture


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
