"""Ordered dithering: each pixel takes one of two colors whose mixture is nearest to its own, as a pattern says.

Thomas Knoll's pattern dithering (US patent 6606166, expired) and Joel Yliluoma's ("Arbitrary-palette positional
dithering algorithm", 2011) choose among colors that a pixel is to be mixed of, where Bayer's way, to add the pattern to
the levels, fits palettes in regular steps only. Here a color p is mixed of a, the palette's color nearest to it, and b,
by projection: the point of the line from a to b that is nearest to p lies t of the way from a, and b is taken by t of
the pixels. Of the other colors b is the one that lessens most

    |p - mixture|^2 + NOISE t (1 - t) |b - a|^2,

what the mixture still lacks, and how far its pixels are from it, as a small part of which is seen. If p is a color of
the palette, or lies on the far side of a from all others, there is nothing to mix. Of the two the darker one takes the
lower ranks, so that the pattern goes on where a and b change places.

Distances, and t, are measured in the space of the palette; of one channel and of colors with alpha in levels. So greys
keep their mean level in "rgb", and their mean lightness in "oklab".

Pixels do not depend on each other, and all but the pattern depends on the color alone: distinct colors are looked at,
on the host, and pixels are looked up. Scores are float64 operations, each rounded by itself.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from gpukmeans import array_interop
from gpukmeans.image import dispatch
from gpukmeans.image.color_space import to_points
from gpukmeans.image.levels import Levels, index_dtype
from gpukmeans.image.protocol import Mixtures, Pixels
from gpukmeans.thread_limits import thread_count
from gpukmeans.threads import run

# 1 / NOISE. With more noise counted, colors near a are mixed of others near a whatever their hue
# (test_dither.test_flat_levels_are_mixed_in_proportion fails of 8); with less, photographs are farther from what they
# were, near and far.
_NOISE = 16.0

# How many of the colors near a color may be mixed with it, and the most colors that are looked at: where there are
# more, they are too close together for a mixture to show.
NEIGHBOURS = 32
MOST_MIXED = 4096

# Colors at a time: numerators of all neighbours take 4 MB.
_PIECE = 2**14


def ordered(
    pixels: Pixels,
    ranks: NDArray[np.int32],
    width: int,
    palette: Levels,
    *,
    space: str = "rgb",
    device: str,
    strength: float = 1.0,
) -> Any:
    """The indices (n,) of pixels in palette (k, c), by ordered dithering.

    ranks: (t, t), see `patterns.pattern_of`; they repeat over a picture of that width. space: of color_space.
    strength: 0 to 1, what the share of the second color is multiplied by. Answers of a GPU stay there if the pixels
    were there.

    Examples
    --------
    >>> pixels = dispatch.make_pixels(np.full((8, 1), 100, np.uint8), device="cpu")
    >>> palette = np.array([[0], [255]], np.uint8)
    >>> ordered(pixels, np.array([[0, 2], [3, 1]], np.int32), 4, palette, device="cpu").tolist()
    [0, 1, 0, 1, 1, 0, 1, 0]
    """
    codes, counts = pixels.count()
    c = palette.shape[1]
    colors = dispatch.make_colors(codes, counts, c, pixels.n, device=device, palette_channels=c)
    # Levels with alpha are premultiplied already (test_dither.test_alpha_is_mixed_by_levels fails if once more).
    nearest = colors.nearest(palette, space) if c == 3 else colors.nearest_levels(palette)
    labels = array_interop.to_numpy(nearest)
    mixtures = mixtures_of(colors.levels(), labels, palette, ranks.size, space=space, strength=strength)
    return pixels.mixed(codes, mixtures, ranks, width, index_dtype(len(palette)))


def mixtures_of(
    levels: Levels,
    nearest: NDArray[np.int32],
    palette: Levels,
    ranks: int,
    *,
    space: str = "rgb",
    strength: float = 1.0,
) -> Mixtures:
    """What colors (m, c), the labels (m,) of whose nearest are known, are mixed of in the palette (k, c).

    Examples
    --------
    >>> palette = np.array([[255, 255, 255], [0, 0, 0]], np.uint8)
    >>> mixed = mixtures_of(np.array([[64, 64, 64], [0, 0, 0]], np.uint8), np.array([1, 1]), palette, 64)
    >>> mixed.first.tolist(), mixed.second.tolist(), mixed.counts.tolist()
    ([1, 1], [0, 1], [48, 64])
    """

    def points(colors: Levels) -> NDArray[np.float64]:
        return (to_points(colors, space) if colors.shape[1] == 3 else colors).astype(np.float64)

    neighbours, shown = _neighbours(palette), points(palette)
    wide = palette.astype(np.int64)
    brightness = wide[:, :3] @ np.array([2, 5, 1][: min(3, wide.shape[1])], np.int64)

    def mix(rows: slice) -> Mixtures:
        label = nearest[rows]
        other, part = _best_other(points(levels[rows]), label, shown, neighbours)
        share = np.floor(part * (ranks * strength) + 0.5).astype(np.int32)
        other_first = (brightness[other] < brightness[label]) | (
            (brightness[other] == brightness[label]) & (other < label)
        )
        return Mixtures(
            np.where(other_first, other, label).astype(np.int32),
            np.where(other_first, label, other).astype(np.int32),
            np.where(other_first, share, ranks - share).astype(np.int32),
        )

    pieces = [slice(a, a + _PIECE) for a in range(0, len(levels), _PIECE)]
    return Mixtures(*(np.concatenate(each) for each in zip(*run(mix, pieces, thread_count()), strict=True)))


def _best_other(
    own: NDArray[np.float64], label: NDArray[Any], shown: NDArray[np.float64], neighbours: NDArray[np.int64]
) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """For each color (m, c) what to mix its nearest with: the label (m,), its own for nothing; and t (m,)."""
    best = np.full(len(own), -np.inf)
    other, part = label.astype(np.int64), np.zeros(len(own))
    error = own - shown[label]
    for column in neighbours.T:  # nearer ones first, which win ties
        b = column[label]
        step = shown[b] - shown[label]
        along, length = _dot(error, step), _dot(step, step)
        t = along / np.where(length > 0, length, 1.0)
        # Times 1 / NOISE: along t is what the projection lessens, t (1 - t) length what noise adds.
        gain = along * t * (_NOISE + 1) - along
        better = (along > 0) & (gain > best)
        best, other, part = np.where(better, gain, best), np.where(better, b, other), np.where(better, t, part)
    return other, np.minimum(part, 1.0)


def _dot(x: NDArray[np.float64], y: NDArray[np.float64]) -> NDArray[np.float64]:
    """The sums of products of rows (m, c), channels ascending, each operation rounded on its own."""
    products = x * y
    total: NDArray[np.float64] = products[:, 0]
    for column in products.T[1:]:
        total = total + column
    return total


def _neighbours(palette: Levels) -> NDArray[np.int64]:
    """For each color of the palette (k, c) others near to it, the nearest first, of equals the least index: (k, j)."""
    k = len(palette)
    if not 1 < k <= MOST_MIXED:
        return np.zeros((k, 0), np.int64)
    wide = palette.astype(np.float64)
    norms = (wide * wide).sum(axis=1)
    found, step = [], max(1, 2**21 // k)
    for a in range(0, k, step):
        # Whole numbers below 2**53, and so exact.
        squares = norms[a : a + step, None] + norms - 2 * (wide[a : a + step] @ wide.T)
        squares[squares == 0] = np.inf  # itself, and colors equal to it
        found.append(np.argsort(squares, axis=1, kind="stable")[:, :NEIGHBOURS])
    return np.concatenate(found)
