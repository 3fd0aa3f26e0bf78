"""A bound on D from below, by squares of float32 differences: where it is no less than the distance to the closest
center so far, no candidate of k-means++ changes anything, and its D is not asked for (Rule 2)."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gpukmeans.exact.certificate import U32, Frame
from gpukmeans.exact.distance import Floats, magnitude
from gpukmeans.exact.fixed_point import ceil_log2


@dataclass(frozen=True)
class DirectBound:
    """Rows x as ``y = float32((x - offset) * 2**exponent)``, and what ``s``, the sum of squares of float32 differences
    between two of them, in any order and fused or not, says of their D:

        D 2**(2 exponent) >= relative s - absolute sqrt(s) - rest

    as float32 computes the right side, if it is finite. Let y* be y before it is rounded, T the right D's, and u =
    2**-24. s is at most |y - z|^2 (1 + u)^(d + 3), so that 1 - 1.01 (d + 3) u takes it back, while (d + 3) u <= 0.01.

    - Of float32 and what is narrower the offset is zero, y is exact, and T is |y - z|^2.
    - float64 is rounded, by u |y*| at most; rows of the data are within [-1, 1] there, candidates may lie anywhere. So
      |y - z| differs from sqrt(T) by a <= u (|y| + |z|), and |z| <= |y| + |y - z|; T >= |y - z|^2 - 2 a |y - z|, which
      is u (4.04 sqrt(d) sqrt(s) + 2.02 s) less.
    - D errs by (d + 3) 2**-53 of itself, and what is computed of s rounds five times, by u s at most.
    - Underflow, of values, differences and squares, is below 2**-120 a feature.

    Each with 7 % more. (test_direct_bound.test_no_bound_is_above_the_distance fails without either part.)
    """

    offset: Floats | None  # None is zero
    exponent: int
    relative: np.float32
    absolute: np.float32
    rest: np.float32

    @staticmethod
    def of(low: Floats, high: Floats, dtype: np.dtype) -> DirectBound | None:
        """For rows of that dtype within [low, high], (d,) each; None where float32 cannot serve."""
        d = len(low)
        frame = Frame.of(low, high)
        if frame is None:
            return None
        offset: Floats | None = frame.offset
        exponent, absolute = frame.exponent, 1.07 * U32 * 4.04 * math.sqrt(d)
        if dtype != np.float64:
            largest = magnitude(low, high)
            offset, absolute = None, 0.0
            # A float32 number, too. Values are 4 at most.
            exponent = min(max(-ceil_log2(largest), -126), 126) if largest > 0 else 0
        relative, rest = 1 - 1.07 * U32 * (d + 15), (d + 4) * 2.0**-118
        return DirectBound(offset, exponent, np.float32(relative), np.float32(absolute), np.float32(rest))

    @property
    def scale(self) -> float:
        return 2.0**self.exponent

    def features(self, x: NDArray[Any]) -> NDArray[np.float32]:
        """y of x (m, d)."""
        if self.offset is None:
            return x.astype(np.float32) * np.float32(self.scale)
        with np.errstate(over="ignore"):  # what is far is infinite, and left to D
            y: Floats = (x.astype(np.float64) - self.offset) * self.scale
            return y.astype(np.float32)

    def least(self, sums: NDArray[np.float32]) -> NDArray[np.float32]:
        """The bound on D 2**(2 exponent) for each s."""
        return np.subtract(self.relative * sums - self.absolute * np.sqrt(sums), self.rest, dtype=np.float32)
