"""Dithering: neighbours make up for what a pixel's color lacks.

All of it is integer arithmetic on levels (premultiplied by alpha where there is any), and the nearest color is
measured in levels too, whatever space the palette was found in: what is passed on is a difference of levels, and it
stays small only if the color chosen is the nearest in the same measure.

- Floyd and Steinberg's error diffusion ("An adaptive algorithm for spatial grey scale", Proceedings of the SID 17,
  1976), left to right and top to bottom: 7/16 of a pixel's error to its right, 3/16 below left, 5/16 below, 1/16
  below right. A pixel's level is its own plus its share, rounded to the nearest integer (halves up) and cut to the
  range of levels; its error is that level less its color's.
- Ordered dithering adds a repeating pattern of offsets before the nearest color is taken: Bayer's ("An optimum method
  for two-level rendition of continuous-tone pictures", ICC 1973), or blue noise by Ulichney's void-and-cluster method
  ("The void-and-cluster method for dither array generation", SPIE 1913, 1993). Pixels do not depend on each other, so
  this is what a GPU does (`Pixels.shifted`).
"""

from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gpukmeans.image import dispatch
from gpukmeans.image.levels import Levels, index_dtype, largest_level
from gpukmeans.image.protocol import Pixels
from gpukmeans.thread_limits import one_blas_thread

DITHERS = ("none", "floyd-steinberg", "bayer", "blue-noise")

# 64 ranks of Bayer's pattern are as many as a palette's steps can use.
_BAYER_BITS = 3

# A tile of blue noise repeats; this large it does not show, and is made in a tenth of a second.
_TILE = 64


def floyd_steinberg(
    pixels: Levels, palette: Levels, fixed: NDArray[np.bool_] | None = None, fixed_index: int = 0
) -> NDArray[Any]:
    """The indices (h, w) of pixels (h, w, c) in palette (k, c), by error diffusion.

    fixed: (h, w) pixels that take `fixed_index`, and neither receive nor pass on any error.

    A pixel waits for its left neighbour and three above, so those with the same x + 2 y can be done at once: about
    w + 2 h steps of up to h pixels.

    Examples
    --------
    >>> floyd_steinberg(np.full((2, 4, 1), 100, np.uint8), np.array([[0], [255]], np.uint8)).tolist()
    [[0, 1, 0, 0], [0, 1, 0, 1]]
    """
    height, width, c = pixels.shape
    top = largest_level(pixels.dtype)
    flat = pixels.reshape(-1, c)
    out = np.empty(height * width, index_dtype(len(palette)))
    colors = palette.astype(np.int32)
    # Scores |p|^2 - 2 p.v of levels are integers below 2**24, or 2**53, and so exact in any order of summation
    # (test_dither.test_neighbours_among_16_bits_are_told_apart fails of float32).
    exact: Any = np.float32 if top == 255 else np.float64
    columns = np.concatenate([palette.T.astype(exact) * exact(-2), np.sum(palette.astype(exact) ** 2, axis=1)[None]])
    columns = columns.astype(exact)
    # Errors of the last three steps, by row: one, two and three pixels ago. Row -1 is the last, always zero
    # (test_dither.test_floyd_steinberg_is_the_loop fails without it).
    one, two, three = (np.zeros((height + 1, c), np.int32) for _ in range(3))
    values = np.ones((height, c + 1), exact)
    with one_blas_thread():
        for step in range(width + 2 * (height - 1)):
            first, last = max(0, (step - width + 2) // 2), min(height - 1, step // 2)
            rows = slice(first, last + 1)
            above = slice(first - 1, last) if first else np.arange(-1, last)
            at = np.arange(first, last + 1) * (width - 2) + step
            share = 7 * one[rows] + 3 * one[above] + 5 * two[above] + three[above]
            levels = flat[at] + ((share + 8) >> 4)
            np.clip(levels, 0, top, out=levels)
            values[: len(at), :c] = levels
            labels = (values[: len(at)] @ columns).argmin(axis=1)
            error = levels - colors[labels]
            if fixed is not None:
                unchanged = fixed.reshape(-1)[at]
                labels[unchanged], error[unchanged] = fixed_index, 0
            out[at] = labels
            one, two, three = three, one, two
            one[rows] = error
            # Rows that have ended, and the one that begins next, have no error of this step
            # (test_dither.test_floyd_steinberg_is_the_loop fails of what stood there).
            one[:first] = 0
    return out.reshape(height, width)


def ordered(pixels: Pixels, offsets: NDArray[np.int32], width: int, palette: Levels, *, device: str) -> Any:
    """The indices (n,) of pixels in palette (k, c), by ordered dithering: for each the color nearest to its levels plus
    an offset, the least index of the nearest.

    offsets: (t, t, c), see `offsets_of`; they repeat over a picture of that width. Sums are cut to the range of levels.
    Answers of a GPU stay there if the pixels were there.

    Examples
    --------
    >>> pixels = dispatch.make_pixels(np.full((8, 1), 100, np.uint8), device="cpu")
    >>> palette = np.array([[0], [255]], np.uint8)
    >>> ordered(pixels, np.array([[[-64], [64]], [[64], [-64]]], np.int32), 4, palette, device="cpu").tolist()
    [0, 1, 0, 1, 1, 0, 1, 0]
    """
    moved = pixels.shifted(offsets, width)
    codes, counts = moved.count()
    c = palette.shape[1]
    colors = dispatch.make_colors(codes, counts, c, pixels.n, device=device, palette_channels=c)
    return moved.map(codes, colors.nearest_levels(palette), index_dtype(len(palette)))


def offsets_of(dither: str, palette: Levels) -> NDArray[np.int32]:
    """The pattern (t, t, c) that ordered dithering with this palette (k, c) adds to levels; dither: "bayer" or
    "blue-noise"."""
    ranks = _bayer(_BAYER_BITS) if dither == "bayer" else _blue_noise(_TILE)
    count, c = ranks.size, palette.shape[1]
    # Thresholds from -1/2 to 1/2, in units of 1 / (2 count); a channel's differ, or only greys could be mixed.
    shifts = [(0, 0), (1, 2), (2, 1), (3, 3)][:c] if dither == "bayer" else [(0, 0), (21, 43), (43, 21), (32, 32)][:c]
    planes = [2 * np.roll(ranks, shift, axis=(0, 1)) + 1 - count for shift in shifts]
    twice = np.stack(planes, axis=-1) * _spacing(palette)
    return ((twice + count) // (2 * count)).astype(np.int32)


def _spacing(palette: Levels) -> int:
    """How far apart levels of neighbouring colors lie in a channel: the range that offsets have to cover."""
    p = palette.astype(np.int64)
    k, c = p.shape
    if k < 2:
        return 0
    nearest = np.empty(k, np.int64)
    for i, color in enumerate(p):
        squares = ((p - color) ** 2).sum(axis=1)
        squares[i] = squares.max() + 1
        nearest[i] = squares.min()
    # The root mean square of the distance to the nearest, shared among channels.
    return int(np.sqrt(float(nearest.sum()) / (k * c)) + 0.5)


def _bayer(bits: int) -> NDArray[np.int64]:
    """The ranks 0 to 4**bits - 1 in Bayer's order."""
    ranks = np.zeros((1, 1), np.int64)
    for _ in range(bits):
        ranks = np.block([[4 * ranks, 4 * ranks + 2], [4 * ranks + 3, 4 * ranks + 1]])
    return ranks


@cache
def _blue_noise(size: int) -> NDArray[np.int64]:
    """The ranks 0 to size**2 - 1 such that those below any threshold lie evenly; on a torus."""
    energy_of = _Energy(size)
    count = size * size
    ones = np.zeros(count, bool)
    ones[np.random.RandomState(0).choice(count, count // 10, replace=False)] = True
    energy = energy_of.all(ones)
    while True:  # the tightest cluster goes to the largest void, until it would come back
        cluster = int(np.where(ones, energy, -1).argmax())
        ones[cluster] = False
        energy -= energy_of.one(cluster)
        void = int(np.where(ones, energy.max() + 1, energy).argmin())
        ones[void] = True
        energy += energy_of.one(void)
        if void == cluster:
            break
    ranks = np.empty(count, np.int64)
    rest, remaining = energy.copy(), ones.copy()
    for rank in range(int(ones.sum()) - 1, -1, -1):
        cluster = int(np.where(remaining, rest, -1).argmax())
        remaining[cluster] = False
        rest -= energy_of.one(cluster)
        ranks[cluster] = rank
    for rank in range(int(ones.sum()), count):
        void = int(np.where(ones, np.iinfo(np.int64).max, energy).argmin())
        ones[void] = True
        energy += energy_of.one(void)
        ranks[void] = rank
    return ranks.reshape(size, size)


class _Energy:
    """What each pixel of a torus adds to the others': a Gaussian of deviation 1.5 (Ulichney's), in integers."""

    def __init__(self, size: int) -> None:
        self._size = size
        side = np.minimum(np.arange(size), size - np.arange(size))
        table = [2**40]
        while len(table) <= 2 * (size // 2) ** 2:
            table.append(table[-1] * 13119 >> 14)  # exp(-1 / (2 * 1.5**2)) = 0.80074, and 13119 / 2**14 = 0.80072
        self._kernel = np.array(table)[side[:, None] ** 2 + side**2]

    def one(self, pixel: int) -> NDArray[np.int64]:
        return np.roll(self._kernel, (pixel // self._size, pixel % self._size), axis=(0, 1)).reshape(-1)

    def all(self, ones: NDArray[np.bool_]) -> NDArray[np.int64]:
        total = np.zeros(len(ones), np.int64)
        for pixel in np.flatnonzero(ones):
            total += self.one(int(pixel))
        return total
