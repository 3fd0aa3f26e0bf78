"""Points of colors as whole numbers, and the grids whose cells they are added up in.

Coarse palettes only begin finer ones, so their points and centers may be whole numbers of 11 bits: each at most `HALF`
from zero. A score |z|^2 - 2 x.z of up to four features, and any part of its sum, is at most 3 d HALF^2 and below 2**24,
so that float32 holds it in whatever order it is added up, fused or not. No bound on rounding is needed, no runner-up,
and no second look: the nearest center is the least score. Masses are whole numbers too, and all sums are exact; so the
same palette comes of every machine and device.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from gpukmeans.exact.distance import Floats
from gpukmeans.exact.fixed_point import ceil_log2

# For four features at most: 3 * 4 * HALF**2 < 2**24 (test_cells.test_the_nearest_and_the_next_are_exact fails of more).
HALF = 2**10

# Of numbers from -HALF to HALF.
BITS = 11

# What all points weigh at most as whole numbers: sums of mass times coordinate are then below 2**53, of mass times
# square below 2**63 (test_cells.test_weights_that_are_not_whole_become_whole fails of more).
MASS_BITS = 38

# What a total weight is multiplied by before the power of two above it is taken: rounding and order move the last bits
# of a sum of weights, but not that power, which has this room to spare
# (test_cells.test_masses_fit_however_many_weigh_next_to_nothing fails without it).
ROOM = 1.01

# Up to so many pixels counts are masses as they are.
MOST_COUNTED = 2**MASS_BITS / ROOM


class GridScale(NamedTuple):
    """How points become whole numbers: a point is x / scale + middle.

    middle: (d,), a point. half_range: (d,), how far from zero x may be in each feature, at most HALF. mass_scale:
    what a weight of 1 becomes as mass, so that all masses together are at most 2**MASS_BITS.
    """

    scale: float
    middle: Floats
    half_range: Floats
    mass_scale: float

    @staticmethod
    def of(low: Floats, high: Floats, mass_scale: float) -> GridScale:
        """For points within [low, high], (d,) each. Of levels and of float32 numbers half_range is at most HALF."""
        span = float((high - low).max())
        scale = (2 * HALF - 2) / span if span > 0 else 1.0
        middle = low + (high - low) / 2
        # By the operations that make points whole: as none of these passes over another in rounding, no point lies
        # outside (test_cells.test_no_point_lies_outside_its_half_range fails if the lower side alone is measured).
        half_range = np.rint(np.maximum(high - middle, middle - low) * scale)
        return GridScale(scale, middle, half_range, mass_scale)


@dataclass(frozen=True)
class Grid:
    """Cells 2**shift wide, in each of d features sizes[j] of them, over whole numbers within half_range (d,) of zero. A
    cell's code, which is its bin in a table, is its place in all features, the last one changing fastest."""

    half_range: Floats
    shift: int

    @cached_property
    def sizes(self) -> list[int]:
        return [(int(2 * each) >> self.shift) + 1 for each in self.half_range]

    @property
    def bins(self) -> int:
        return math.prod(self.sizes)

    @property
    def cells(self) -> int:
        """Along the widest feature."""
        return 1 << (BITS - self.shift)


def mass_scale_of(total: float, *, counts: bool) -> float:
    """What a weight of 1 becomes so that masses are at most 2**MASS_BITS in all. counts: whether weights are whole."""
    return 1.0 if counts and total <= MOST_COUNTED else 2.0 ** (MASS_BITS - ceil_log2(total * ROOM))


def score_columns(centers: Floats) -> NDArray[np.float32]:
    """What [x, 1] is multiplied by to give the scores of centers (k, d): (d + 1, k)."""
    return np.concatenate([-2 * centers.T, (centers.T**2).sum(axis=0)[None]]).astype(np.float32)


def surplus_bits(total: float) -> int:
    """By how many bits a total mass passes 28. Masses that are less by these, or products of mass and D, at most 2**24,
    add up to less than 2**53 in all, which float64 holds in whatever order
    (test_cells.test_sums_of_squares_are_exact_in_any_order fails of fewer)."""
    return max(0, ceil_log2(total) - 28)


def spread_scale(total: float) -> float:
    """A power of two: masses of that total times it, times squares of differences, each at most 2**22, add up to less
    than 2**53, rounded one by one (test_cells.test_sums_of_squares_are_exact_in_any_order fails of one that is larger
    by 2**2)."""
    return 2.0 ** (29 - ceil_log2(total))
