"""How much pixels count for a palette whose errors are diffused: less where texture hides what they err by.

In 8 x 8 pixels of little variance an error is seen, and dots even more; in a meadow neither is (masking; it is what
SSIM divides by, Wang, Bovik, Sheikh and Simoncelli, "Image quality assessment: from error visibility to structural
similarity", IEEE Transactions on Image Processing 13, 2004). So smooth parts get more of the palette, which leaves less
to dither where dithering shows. With few colors errors are larger than most texture, and all pixels count alike.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from gpukmeans.image.levels import Levels, largest_level, premultiplied

# The side of a block.
BLOCK = 8

# What a pixel of a block without any variance counts.
_FULL = 256

# Variance at which a pixel counts 0.7 of that, for 256 colors, in levels of 8 bits; of a quarter of the colors it is
# twice as much, since squared errors in three dimensions grow with k^(-2/3).
_VARIANCE = 80

# Pixels at a time.
_PIECE = 2**14


def importance(levels: Levels, k: int) -> NDArray[np.float64]:
    """What pixels (h, w, c) count for a palette of k colors: (h, w), whole numbers from 1 to _FULL.

    Examples
    --------
    >>> importance(np.array([[[90], [90], [90]]], np.uint8), 256).tolist()
    [[256.0, 256.0, 256.0]]
    >>> importance(np.array([[[0], [250]]], np.uint8), 256).tolist()
    [[18.0, 18.0]]
    """
    h, w, c = levels.shape
    rows, columns = np.arange(0, h, BLOCK), np.arange(0, w, BLOCK)
    n = np.minimum(BLOCK, h - rows)[:, None] * np.minimum(BLOCK, w - columns)
    # n^2 times the variance, added over channels: whole numbers, of 16 bits below 2**47. A piece at a time, which a
    # core's cache holds; sums of squares of 8 bits take 32.
    spread = np.empty(n.shape, np.int64)
    step = max(1, _PIECE // (BLOCK * w))
    for top in range(0, len(rows), step):
        at = slice(top, top + step)
        piece = premultiplied(levels[BLOCK * top : BLOCK * (top + step)])
        # What the last blocks lack adds nothing.
        values = np.zeros((len(n[at]) * BLOCK, len(columns) * BLOCK, c), np.uint32 if piece.itemsize == 1 else np.int64)
        values[: len(piece), :w] = piece
        sums, squares = _block_sums(values), _block_sums(values * values)
        spread[at] = (n[at, :, None] * squares - sums * sums).sum(axis=2)
    half = _VARIANCE * np.sqrt(256 / k) * (largest_level(levels.dtype) // 255) ** 2
    # A fourth channel that does not vary counts for nothing, as if it were not there.
    c = min(c, 3)
    # Divisions, sums and roots, each rounded as IEEE says: the same everywhere.
    weights = np.rint(_FULL * np.sqrt(half / (half + spread / (n * n * c))))
    blocks: Any = np.maximum(weights, 1)
    return np.repeat(np.repeat(blocks, BLOCK, axis=0), BLOCK, axis=1)[:h, :w]


def _block_sums(values: NDArray[Any]) -> NDArray[np.int64]:
    """The sums over blocks of (BLOCK y, BLOCK x, c): (y, x, c)."""
    h, w, c = values.shape
    strips = values.reshape(h // BLOCK, BLOCK, w * c).sum(axis=1, dtype=values.dtype).reshape(-1, w // BLOCK, BLOCK, c)
    total = strips[:, :, 0].astype(np.int64)
    for i in range(1, BLOCK):
        total += strips[:, :, i]
    return total
