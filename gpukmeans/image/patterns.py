"""The patterns of ordered dithering: squares of ranks that repeat, in which those below any threshold lie evenly.

Bayer's ("An optimum method for two-level rendition of continuous-tone pictures", ICC 1973), or blue noise by Ulichney's
void-and-cluster method ("The void-and-cluster method for dither array generation", SPIE 1913, 1993).
"""

from __future__ import annotations

from functools import cache

import numpy as np
from numpy.typing import NDArray

# 64 ranks of Bayer's pattern are as many as a palette's steps can use.
BAYER_BITS = 3

# A tile of blue noise repeats; this large it does not show, and is made in a tenth of a second.
TILE = 64


def pattern_of(dither: str) -> NDArray[np.int32]:
    """The ranks 0 to t**2 - 1 of the pattern (t, t) of "bayer" or "blue-noise"."""
    return (bayer(BAYER_BITS) if dither == "bayer" else blue_noise(TILE)).astype(np.int32)


def bayer(bits: int) -> NDArray[np.int64]:
    """The ranks 0 to 4**bits - 1 in Bayer's order."""
    ranks = np.zeros((1, 1), np.int64)
    for _ in range(bits):
        ranks = np.block([[4 * ranks, 4 * ranks + 2], [4 * ranks + 3, 4 * ranks + 1]])
    return ranks


@cache
def blue_noise(size: int) -> NDArray[np.int64]:
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
