"""Sums of squared distances, as integers of two parts (Rule 3, docs/design.md, section 1)."""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction

import numpy as np

from gpukmeans.exact.distance import Floats
from gpukmeans.exact.fixed_point import SUM_BITS, Ints, Weights, ceil_log2, weigh
from gpukmeans.exact.scales import Scales


@dataclass(frozen=True)
class Inertia:
    """Sums of D as integers of two parts, ``(coarse * 2**fine_bits + fine) * 2**-(coarse_bits + fine_bits)``.

    One int64 would give a far outlier all the bits and everybody else none; the second takes up what
    the first rounds away.
    """

    coarse_bits: int
    fine_bits: int

    @staticmethod
    def of(scales: Scales, centers: Floats) -> Inertia:
        """The split for distances from ``centers`` (k, d)."""
        power = scales.farthest_power(centers)
        coarse = 0 if power is None else min(1000, SUM_BITS - ceil_log2(scales.weights.total) - power)
        return Inertia(coarse, Inertia.fine_bits_of(scales.weights))

    @staticmethod
    def fine_bits_of(weights: Weights) -> int:
        return SUM_BITS - ceil_log2(weights.copies)

    @staticmethod
    def least_units(weights: Weights) -> int:
        """Of a sum that need not be taken again in `finer` units: each copy of a row is rounded by half of one."""
        return 1 << ceil_log2(weights.copies) + 40

    def sums(self, distances: Floats, weights: Floats | Ints | None) -> tuple[int, int]:
        """The two integer sums over distances (m,)."""
        copies: Ints | None = None
        scaled = distances * 2.0**self.coarse_bits  # first, for the product with a weight might overflow
        if weights is not None:
            if weights.dtype == np.int64:
                copies = weights.astype(np.int64, copy=False)
            else:
                whole = weights == np.rint(weights)
                copies = np.where(whole, weights, 1.0).astype(np.int64)
                scaled *= np.where(whole, 1.0, weights)
        coarse = np.rint(scaled)
        scaled -= coarse
        scaled *= 2.0**self.fine_bits
        fine = np.rint(scaled, out=scaled)
        return int(weigh(coarse, copies).sum()), int(weigh(fine, copies).sum())

    def units(self, coarse: int, fine: int) -> int:
        """The sum as accumulated, in units of 2**-(coarse_bits + fine_bits)."""
        return (coarse << self.fine_bits) + fine

    def value(self, units: int) -> Fraction:
        exponent = self.coarse_bits + self.fine_bits
        return Fraction(units, 1 << exponent) if exponent >= 0 else Fraction(units << -exponent)

    def finer(self, units: int, scales: Scales, centers: Floats) -> Inertia | None:
        """The split for a sum that is no more than this one, the same in `sums` of it; None if this one will do.

        test_fixed_point.test_an_inertia_far_below_what_it_might_be_is_summed_again fails if fewer units will do.
        """
        if units >= self.least_units(scales.weights):
            return None
        copies = 1 << ceil_log2(scales.weights.copies)
        bits = SUM_BITS + self.coarse_bits + self.fine_bits - (units + copies).bit_length()
        power = scales.farthest_power(centers)
        coarse = self.coarse_bits if power is None else min(bits, 1000 - max(0, power))
        return Inertia(coarse, self.fine_bits) if coarse > self.coarse_bits else None
