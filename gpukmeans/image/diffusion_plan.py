"""What a diffusion is told, and the two things that it is made of: how much of their share pixels take, and how far
apart colors are. Why it is so stands in diffusion.py."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gpukmeans.image.levels import MOST_COLORS, Levels, is_grey, largest_level, to_rgb

# Strengths are in 256ths.
FULL = 256

# Up to so many colors: what a pixel within texture takes of its neighbours' errors where part of the picture is smooth,
# and from which part of the pixels on, that are within texture, it takes less. With few colors errors are larger than
# texture: dots show in it, and yet it cannot do without. Of 0 to 176 what served photographs best with the palettes of
# the spaces that `color_space.space_for` takes, between what blurs to the right color and what keeps structure
# (docs/quantization.md, benchmarks/NOTES.md).
_IN_TEXTURE = ((23, 104, 0.8), (47, 116, 0.9), (MOST_COLORS, 120, 0.5))

# The same of greys, whatever the texture: see `textured_strength`. Of a few they are far apart, and what blurs to the
# right grey is worth more dots.
_GREYS, _FEW_GREYS, _FEW = 104, 200, range(5, 9)

# Where so much of a picture is within texture, or more, it takes nothing: such noise dithers by itself.
_ALL_TEXTURE = 0.97

# Pixels at a time, which a core's cache holds.
_PIECE = 2**15

# From what difference between neighbours on, of 255, a pixel counts as within texture.
_TEXTURE = 4


@dataclass(frozen=True)
class DiffusionPlan:
    """pixels: (h, w, c) levels, of NumPy or on a GPU. colors: (k, c) int32. scale: what pixels' own strength is
    multiplied by, of FULL. fixed: (h, w) bool, pixels that take `fixed_index`, and neither receive nor pass on; or
    None. low, high: (c,) int32, the palette's range. cap: (k,) int32, the most error of a color where strength is not
    full: `caps`."""

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

    def textured_strength(self, textured: int) -> int:
        """What a pixel within texture takes where so many are, of FULL."""
        n = self.pixels.shape[0] * self.pixels.shape[1]
        return textured_strength(textured, n, self.colors)

    @cached_property
    def strength(self) -> NDArray[np.int32]:
        """How much of its share each pixel takes, of FULL, and -1 where it is fixed: (h, w). Pixels are NumPy's."""
        strengths = local_strength(self.pixels, self.colors, self.scale)
        if self.fixed is not None:
            strengths[self.fixed] = -1
        return strengths


def texture_of(top: int) -> int:
    """From what difference between neighbours on a pixel counts as within texture, by the largest level."""
    return _TEXTURE * (top // 255)


def textured_strength(textured: int, n: int, colors: NDArray[Any]) -> int:
    """What a pixel within texture takes, of FULL, where so many of the picture's n are, with colors (k, c).

    Examples
    --------
    >>> colors = np.arange(3 * 64).reshape(64, 3)
    >>> [textured_strength(textured, 100, colors) for textured in (50, 80, 90, 97)]
    [120, 89, 46, 0]
    """
    if is_grey(to_rgb(colors[:, :3])):
        # Whatever a grey lacks, others can make up for, which colors can of a part only: this is worth the dots.
        return _FEW_GREYS if len(colors) in _FEW else _GREYS
    most, knee = next(each[1:] for each in _IN_TEXTURE if len(colors) <= each[0])
    beyond = min(max(textured / n - knee, 0.0) / (_ALL_TEXTURE - knee), 1.0)
    return round(most * (1 - beyond * beyond * beyond))


def local_strength(pixels: Levels, colors: NDArray[Any], scale: int = FULL) -> NDArray[np.int32]:
    """How much of its share each of the pixels (h, w, c) takes with colors (k, c): (h, w), of FULL, times scale.

    By the largest difference, in any channel, from the four neighbours; and by how many pixels are within texture.

    Examples
    --------
    >>> local_strength(np.array([[[9], [9], [10], [90]]], np.uint8), np.array([[0], [90]])).tolist()
    [[256, 218, 104, 104]]
    """
    h, w, c = pixels.shape
    texture = texture_of(largest_level(pixels.dtype))
    most = np.empty((h, w), pixels.dtype)
    step = max(1, _PIECE // w)
    for top in range(0, h, step):
        # With a row more at either end, where there is one.
        first = max(top - 1, 0)
        rows = pixels[first : top + step + 1].reshape(-1, w * c)
        found = np.zeros_like(rows)
        _raise_to_steps(found[1:], found[:-1], rows[1:], rows[:-1])
        _raise_to_steps(found[:, c:], found[:, :-c], rows[:, c:], rows[:, :-c])
        own = found[top - first : top - first + step].reshape(-1, w, c)
        largest = own[..., 0]
        for j in range(1, c):
            largest = np.maximum(largest, own[..., j])
        np.minimum(largest, texture, out=most[top : top + step])
    textured = textured_strength(int(np.count_nonzero(most == texture)), most.size, colors)
    table = FULL - (FULL - textured) * np.arange(texture + 1, dtype=np.int32) // texture
    return (table * np.int32(scale) >> 8)[most]


def _raise_to_steps(found: Levels, other: Levels, one: Levels, two: Levels) -> None:
    """Raise both to the differences of levels, without signs and so of as few bytes as levels have."""
    steps = np.maximum(one, two)
    steps -= np.minimum(one, two)
    np.maximum(found, steps, out=found)
    np.maximum(other, steps, out=other)


def caps(palette: Levels) -> NDArray[np.int32]:
    """The most error of each of the colors (k, c) where strength is not full: (k,).

    Three quarters of the distance to the nearest color. Of colors no more than four levels of 8 bits apart it is two
    levels less than that distance: what they err by is hardly seen, and dots are, and take bytes.

    Examples
    --------
    >>> caps(np.array([[0, 0], [0, 9], [100, 0], [100, 3]], np.uint8)).tolist()
    [7, 7, 1, 1]
    """
    apart, level = distances(palette), largest_level(palette.dtype) // 255
    return np.where(apart <= 4 * level, np.maximum(apart - 2 * level, 0), (apart + 1) // 2 * 3 // 2)


def distances(palette: Levels) -> NDArray[np.int32]:
    """The distance from each of the colors (k, c) to the one nearest to it: the largest difference in any channel, of
    the nearest by |p - q|^2, equal colors aside. (k,); of a single color 0.

    Examples
    --------
    >>> distances(np.array([[0, 0], [0, 9], [100, 0]], np.uint8)).tolist()
    [9, 9, 100]
    """
    colors = np.unique(palette, axis=0).astype(np.int64)
    norms = (colors * colors).sum(axis=1)
    found = np.zeros(len(palette), np.int32)
    if len(colors) == 1:
        return found
    apart = np.empty(len(colors), np.int32)
    step = max(1, 2**22 // len(colors))
    for a in range(0, len(colors), step):
        rows = colors[a : a + step]
        # Whole numbers below 2**53, and so exact as products of BLAS.
        cross = rows.astype(np.float64) @ colors.T.astype(np.float64)
        squares = norms[a : a + step, None] + norms - 2 * cross
        squares[np.arange(len(rows)), np.arange(a, a + len(rows))] = np.inf
        nearest = squares.argmin(axis=1)
        apart[a : a + step] = np.abs(rows - colors[nearest]).max(axis=1)
    _, place = np.unique(palette, axis=0, return_inverse=True)
    return apart[place.reshape(-1)]
