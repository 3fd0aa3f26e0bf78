"""Rule 2: the certificate, a bound on the error of fast scores (docs/design.md, section 1)."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from gpukmeans.exact.distance import LARGEST_MAGNITUDE, U64, Floats, magnitude
from gpukmeans.exact.fixed_point import ceil_log2
from gpukmeans.exact.row_sample import typical_square
from gpukmeans.threads import scratch

U32 = 2.0**-24  # half the spacing of float32 at one: the relative error of one rounding

# |z|^2 from which on scores near the largest float32
# (test_certificate.test_a_frame_is_refused_where_its_bound_would_not_hold fails without it).
TOO_FAR = 2.0**120

# Data are y as they are from 2**-20 up to 2**20, and where their squares are at most so many times those about the
# offset: the margin is in proportion.
_AS_IT_IS = 20
_NEARLY = 2.0

# An offset is much nearer than another if |y|^2, and so what scores err by, is of most rows so many times less.
_MUCH = 4

# Coordinates of centers at a time: 0.5 MB of float64, in a core's second-level cache.
_PIECE = 2**16


def is_single(values: Floats) -> bool:
    """Whether all values are float32 numbers."""
    with np.errstate(over="ignore"):
        return bool((values.astype(np.float32) == values).all())


class ScoreErrors(NamedTuple):
    """What scores of a kernel err by, see `Frame.score_errors`."""

    per_norm: float
    per_center: float
    rest: float


@dataclass(frozen=True)
class Frame:
    """Coordinates for fast scores: ``y = float32((x - offset) * 2**exponent)``, within [-largest, largest] for data.

    Centers may lie outside. The score of a center is ``|z|^2 - 2 y.z`` in float32: its squared distance
    less |y|^2, which all centers share. The certificate rests on the following. With u = 2**-24, Z the
    largest |z|, and T the true squared distance times 2**(2 * exponent):

    - y and z are rounded, each component by at most 1.001 u of itself, which moves
      |y|^2 - 2 y.z + |z|^2 by at most 2.003 u (|y| + Z)^2.
    - the product of d + 1 terms in any order, fused or not, is off by at most
      1.01 (d + 1) u (2 |y| Z + Z^2), while (d + 1) u <= 0.01; |z|^2 itself by u Z^2.
    - D is off by (d + 3) 2**-53 T, less than 0.001 (d + 3) u (|y| + Z)^2.

    By 2 |y| Z <= |y|^2 + Z^2 the sum is at most u [(1.02 d + 5.1) |y|^2 + (2.03 d + 7.1) Z^2]. Two
    scores differ by more than twice that only if the two D do, in the same order. Adding the margin to a
    score rounds once more, by at most u (|y|^2 + 2 Z^2). ``margin`` returns twice the first and once
    the second, with 7 % added for its own float32 arithmetic (|y|^2 has d roundings), so half of it
    also covers |y|^2 when that is added to a score. Underflow adds at most (d + 4) 2**-119, also where
    the processor flushes denormals. (test_certificate.test_no_gap_above_the_margin_is_wrong fails without the part of
    Z^2, test_certificate.test_near_ties_far_from_all_centers_are_decided_by_distance without that of |y|^2.)
    """

    offset: Floats
    exponent: int
    # Of sparse rows, whose offset is zero: how many entries a row has at most. A product with these has so many terms,
    # whatever d is; of the bound on D and on |z|^2, summed in float64, (d + 3) 2**-52 is left, which the constants
    # cover while d is at most 2**22 (test_certificate.test_no_bound_on_a_score_of_sparse_rows_is_wrong).
    entries: int | None = None
    largest: float = 1.0
    # The median length of the rows of a sample, in the frame; infinite where none was taken.
    typical: float = math.inf

    @staticmethod
    def of(low: Floats, high: Floats, sample: Floats | None = None, single: bool | None = None) -> Frame | None:
        """The frame of data within [low, high]; None if float32 scores cannot serve. single: whether these are float32
        numbers, if that is known.

        The offset is the middle of the range, or the median of a sample (s, d) of the rows, each a value of theirs,
        where these are much nearer to that. So an outlier that sets the range leaves the other rows with scores near
        zero, where float32 is fine. (A kernel's float32 difference from that may overflow. The row's norm is then
        infinite, and it is left to D: test_kernels.test_the_largest_float32_are_labelled.)

        They cannot for ranges below 2**-380 or above 2**380, where D underflows or nears overflow, or
        with more than 2**17 features, where the bound above no longer holds; nor for data not finite
        (test_certificate.test_a_frame_is_refused_where_its_bound_would_not_hold fails without these).

        Where all extremes are float32 numbers, as float32 and narrower data's are, offset and scale are too (an
        offset rounded to float32 stays within the range). y is then a float32 difference times a power of two: one
        rounding, with no float64 in between.
        """
        if not magnitude(low, high) <= LARGEST_MAGNITUDE:
            return None
        offset, typical = low + (high - low) / 2, math.inf
        single = is_single(low) and is_single(high) if single is None else single
        if sample is not None:
            median = np.partition(sample, len(sample) // 2, axis=0)[len(sample) // 2]
            typical, near = typical_square(sample, offset), typical_square(sample, median)
            if typical > _MUCH * near:
                offset, typical = median, near
        if single:
            offset = offset.astype(np.float32).astype(np.float64)
        largest = float(np.maximum(high - offset, offset - low).max())
        exponent = -ceil_log2(largest) if largest > 0 else 0
        if single:  # the scale is a float32 number too (test_kernels.test_no_certain_label_is_wrong fails without it)
            exponent = min(exponent, 126)
        if abs(exponent) > 380 or len(low) >= 2**17:
            return None
        return Frame(offset, exponent, typical=math.sqrt(typical) * 2.0**exponent)

    def as_it_is(self, low: Floats, high: Floats, sample: Floats) -> Frame:
        """The frame in which float32 data within [low, high] are y themselves, where that leaves scores nearly as fine:
        where most rows of a sample (s, d) are about as near to zero as to the offset. Else this one.

        The limits keep squares within float32 and underflow what it is for [-1, 1]: of y 2**-126 at most, by z of up to
        2**60, is below the part of Z^2 (test_certificate.test_near_ties_are_decided_by_distance).
        """
        largest = magnitude(low, high)
        if not 2.0**-_AS_IT_IS <= largest <= 2.0**_AS_IT_IS:
            return self
        known = math.isfinite(self.typical)
        near = (self.typical / self.scale) ** 2 if known else typical_square(sample, self.offset)
        zero = np.zeros(len(low))
        return self if typical_square(sample, zero) > _NEARLY * near else Frame(zero, 0, largest=largest)

    @staticmethod
    def of_sparse(low: Floats, high: Floats, entries: int, *, as_it_is: bool = False) -> Frame | None:
        """The frame of sparse rows within [low, high], of so many entries at most: y is x times a power of two, which
        is a float32 number if the extremes are. None as for `of`.

        as_it_is: whether that may be one, within the limits of `as_it_is` (test_sparse.test_values_of_any_size fails
        beyond).
        """
        largest = max(abs(float(low.min())), abs(float(high.max())))
        if not largest <= LARGEST_MAGNITUDE:
            return None
        if as_it_is and 2.0**-_AS_IT_IS <= largest <= 2.0**_AS_IT_IS and entries < 2**17 and len(low) <= 2**22:
            return Frame(np.zeros(len(low)), 0, entries, largest)
        exponent = -ceil_log2(largest) if largest > 0 else 0
        if is_single(low) and is_single(high):  # test_sparse_kernels.test_values_of_any_size fails without it
            exponent = min(exponent, 126)
        few = entries < 2**17 and len(low) <= 2**22
        return Frame(np.zeros(len(low)), exponent, entries) if abs(exponent) <= 380 and few else None

    @property
    def terms(self) -> int:
        """How many features, or entries, add to a product."""
        return len(self.offset) if self.entries is None else self.entries

    def at_zero(self, low: Floats, high: Floats, sample: Floats) -> Frame:
        """The same of data within [low, high] with an offset of zero, if its scale can be the same and the rows of the
        sample are not much nearer to where it is: y is then x times a power of two. Else as it is."""
        zero, largest = np.zeros(len(low)), magnitude(low, high)
        near, far = typical_square(sample, self.offset), typical_square(sample, zero)
        if largest > 0 and ceil_log2(largest) == -self.exponent and far <= _MUCH * near:
            return Frame(zero, self.exponent, typical=math.sqrt(far) * self.scale)
        return self

    @property
    def scale(self) -> float:
        return 2.0**self.exponent

    @cached_property
    def keeps(self) -> bool:
        """Whether float32 data are y themselves."""
        return self.exponent == 0 and not self.offset.any()

    @cached_property
    def single(self) -> bool:
        """Whether offset and scale are float32 numbers, so that a float32 x becomes y by float32 operations."""
        return is_single(self.offset) and abs(self.exponent) <= 126

    def features(self, x: NDArray[Any]) -> NDArray[np.float32]:
        """x (m, d), any dtype, as y (m, d), in x's memory order; x itself where it is that."""
        m, d = x.shape
        if self.keeps:
            return x.astype(np.float32, copy=False)
        major = m > 1 and x.strides[0] < x.strides[-1]
        result = np.empty((d, m), np.float32).T if major else np.empty((m, d), np.float32)
        if x.dtype == np.float32 and self.single:
            np.subtract(x, self.offset.astype(np.float32), out=result)
            return np.multiply(result, np.float32(self.scale), out=result)
        steps = scratch("steps", x.size, np.float64)
        steps = steps.reshape(d, m).T if major else steps.reshape(m, d)
        np.subtract(x, self.offset, out=steps)
        return np.multiply(steps, self.scale, out=result, casting="same_kind")

    def centers(self, centers: Floats) -> tuple[NDArray[np.float32], float] | None:
        """centers (k, d) as the columns (d + 1, k) to multiply features and a one by, and Z^2.

        None for centers too far for float32, see `reach`.
        """
        placed = self._placed(centers)
        return None if placed is None else (_columns(*placed), float(placed[1].max()))

    def _placed(self, centers: Floats) -> tuple[Floats, Floats] | None:
        """z (k, d) of centers and |z|^2 (k,), None for centers too far."""
        z = centers if self.keeps else (centers - self.offset) * self.scale
        norms = np.einsum("ij,ij->i", z, z)
        return (z, norms) if float(norms.max()) < TOO_FAR else None

    def least_scores(self, centers: Floats) -> tuple[NDArray[np.float32], Floats, NDArray[np.float32]] | None:
        """centers (k, d) as columns (d + 1, k) whose products with features and a one are lower bounds on scores, but
        for what depends on the row, `row_margin`; |z|^2 (k,); and what to add for upper bounds, (k,).

        Each center's score errs by its own |z|^2 alone, and a far one makes no other doubtful. Of the error above a
        score's own |z|^2 has the factor 2.03 d + 7.1. Taking it off, adding |y|^2 and the row's part, and adding up to
        an upper bound round seven times, each by u of at most 2 |y|^2 + 2 |z|^2: together 2.03 d + 14.1, with 7 % as
        in `margin`. (test_certificate.test_no_bound_on_a_score_is_wrong fails without it.)

        None for centers too far for float32, see `reach`.
        """
        placed = self._placed(centers)
        if placed is None:
            return None
        z, norms = placed
        errors = norms * self.center_error
        return _columns(z, norms - errors), norms, (2 * errors).astype(np.float32)

    @property
    def center_error(self) -> float:
        """What a score errs by for each unit of its center's |z|^2, see `least_scores`."""
        return 1.07 * U32 * (2.03 * self.terms + 14.1)

    def row_margin(self, y_norms: NDArray[np.float32]) -> NDArray[np.float32]:
        """What two bounds on scores of the same row may err by beside that, (m,); half of it is each one's.

        Of |y|^2 the factor is that of `margin` and what the same seven roundings add.
        """
        per_norm, rest = self.row_margin_factors
        margin = y_norms * per_norm
        margin += rest
        return margin

    @property
    def row_margin_factors(self) -> tuple[np.float32, np.float32]:
        """What `row_margin` multiplies |y|^2 by, and adds."""
        d = self.terms
        return np.float32(1.07 * U32 * (2.04 * d + 24.2)), np.float32((d + 4) * 2.0**-118)

    def possible(self, x: Floats, centers: Floats) -> NDArray[np.bool_]:
        """Which of the centers (d, k) may by D be the nearest to each of x (d, m), as far as float64 products can tell:
        (m, k), at least one for each. They can nearly as much as D itself, at the speed of BLAS
        (test_certificate.test_float64_products_exclude_no_nearest_center fails without their bounds).
        """
        low, high = self.distance_bounds(x, centers)
        return low <= np.minimum.reduce(high, axis=1)[:, None]

    def distance_bounds(self, x: Floats, centers: Floats) -> tuple[Floats, Floats]:
        """Bounds on D of x (d, m) to centers (d, k), in the frame's units: (m, k) each, by float64 products.

        They are those of `least_scores` and `row_margin` with u = 2**-53, where D's own error is no longer a thousandth
        of the others: (d + 3) u T, at most 2 (d + 3) u of |y|^2 + |z|^2. Underflow in D is at most d 2**-1074, in the
        frame d 2**-314, since its scale is 2**380 at most.
        """
        y = ((x - self.offset[:, None]) * self.scale).T
        z = (centers - self.offset[:, None]) * self.scale
        return self.bounds_of_products(y @ z, np.einsum("ij,ij->i", y, y), np.einsum("ij,ij->j", z, z))

    def bounds_of_products(self, square: Floats, y_norms: Floats, norms: Floats) -> tuple[Floats, Floats]:
        """`distance_bounds` of products y.z (m, k), which are overwritten; y_norms, norms: |y|^2 (m,), |z|^2 (k,)."""
        per_row, per_center, rest = self.product_errors
        errors = np.add.outer(y_norms * per_row, norms * per_center)
        errors += rest
        square *= -2.0
        square += norms
        square += y_norms[:, None]
        low = np.maximum(square - errors, 0.0)
        square += errors
        return low, square

    @property
    def product_errors(self) -> tuple[float, float, float]:
        """What such a distance errs by for each unit of |y|^2, and of |z|^2, and besides."""
        d = len(self.offset)
        return 1.07 * U64 * (3.02 * d + 18.1), 1.07 * U64 * (4.03 * d + 20.1), (d + 4) * 2.0**-311

    def reach(self, centers: Floats) -> float | None:
        """Z^2 of centers (k, d). None for centers so far from the data, 2**60 times its range, that float32 cannot
        tell."""
        rows = max(1, _PIECE // centers.shape[1])
        found = []
        for a in range(0, len(centers), rows):
            z = centers[a : a + rows] - self.offset
            z *= self.scale
            found.append(np.einsum("ij,ij->i", z, z).max())
        square = float(np.max(found))  # of NaN it is NaN, which Python's max may not be
        return square if square < TOO_FAR else None

    def margin(self, y_norms: NDArray[np.float32], largest_z: float) -> NDArray[np.float32]:
        """The gap between two scores above which their order is certain; y_norms: |y|^2 (m,)."""
        d = len(self.offset)
        margin = y_norms * np.float32(1.07 * U32 * (2.04 * d + 11.2))
        margin += np.float32(1.07 * U32 * (4.06 * d + 16.2) * largest_z + (d + 4) * 2.0**-118)
        return margin

    def score_errors(self) -> ScoreErrors:
        """For kernels that add scores up in float32, in any order. Of each center's |z|^2 they take per_center |z|^2
        off, so that a score is a lower bound, by all that does not depend on the row, and 2 per_center |z|^2 more an
        upper one. By D the center of the least score is nearer than another whose score is larger by more than

            margin = per_norm |y|^2 + (2 per_center |z|^2 + rest),

        z being that of the least score. Each center's score errs by its own |z|^2 alone, and a far one makes no other
        doubtful (test_certificate.test_one_far_value_leaves_no_row_in_doubt).

        Of the error above |y|^2 has the factor 1.02 d + 5.1, for each of the two, and a center's own |z|^2 that of
        2.03 d + 7.1. Nothing is added to a score: the difference of two rounds by u of itself, and the margin three
        times, by u of it each. These, and d u that |y|^2 is off by, are less than the 7 % that are added.

        For bounds on distances |y|^2 and the margin are added to the least score, or |y|^2 to that of another and the
        margin taken off. In the margin the row's part stands twice and is needed once; what is left is more than |y|^2
        is off by. The two sums round by u of a squared distance each, which the factors beside the root cover
        (write_bounds in kernels/scores.cuh). Should the first be less than zero, it is so by less than the margin, and
        its rounding is of the 7 %.
        """
        d = self.terms
        return ScoreErrors(1.07 * U32 * (2.04 * d + 10.2), 1.07 * U32 * (2.03 * d + 7.1), (d + 4) * 2.0**-118)

    def tensor_score_errors(self) -> ScoreErrors:
        """As `score_errors`, for scores whose products 2 y.z are made by tensor cores (kernels/assign_tensor.cu).

        y and z are there sums of two float16 each, after a factor of 2**14, for z with another that brings its length
        to [1, 2) unless it is below 2**-64; and three of the four products are added up in float32. Of each value
        2**-22 = 4 u of itself is lost, or, where the second part becomes subnormal and counts as zero, 2**-28, of z
        2**-28 |z|; so is the fourth product, 4 u |y| |z|. In 2 y.z that is at most 24.3 u |y| |z| +
        u / 8 sqrt(d) (|z| + |y| |z|), which is less than
        u [(12.3 + 0.07 sqrt(d)) |y|^2 + (12.3 + 0.32 sqrt(d)) |z|^2 + sqrt(d) / 64].

        PTX promises that sums keep at least the precision of float32, in any order and with any rounding. Known devices
        add 4, 8 or 16 products at a time, cut to 24 or more bits of the largest of them and the sum so far, and cut
        the result to 24 (Fasi, Higham, Mikaitis and Pranesh, 2021; Khattak and Mikaitis, 2025). Taken for each product
        by itself, its own bits, the sum's and the result's may each lose 2 u of what is largest. 16 features at a time,
        of norms y' and z', begin with zero and their small products, at most 2**-10 of 2 |y'| |z'|; the large ones then
        lose 16 * 3 * 2 u * 2 |y'| |z'|, and all features by Cauchy-Schwarz 96 u * 2 |y| |z|, or less than
        98 u (|y|^2 + |z|^2) with what is small. Adding up d' / 16 such sums, d' being d rounded up to a multiple of 16,
        rounds each time by u of at most 2 |y| |z|: 0.064 d' u (|y|^2 + |z|^2).

        Together with what does not change, rounding y and z, adding |z|^2 and D's own error, a score is off by at most
        u [(0.066 d' + 115.4 + 0.07 sqrt(d)) |y|^2 + (0.066 d' + 117.4 + 0.32 sqrt(d)) |z|^2 + sqrt(d) / 64]; the rest
        is as above. |y|^2 is summed by fours, with d' / 16 + 6 roundings, so that what is left of the margin covers
        them too. (test_tensor.test_no_certain_label_is_wrong fails without the margin.)
        """
        d = len(self.offset)
        each, root = 0.066 * (d + -d % 16), math.sqrt(d)
        return ScoreErrors(
            1.07 * U32 * 2 * (each + 115.4 + 0.07 * root),
            1.07 * U32 * (each + 117.4 + 0.32 * root),
            1.07 * U32 * root / 32 + (d + 4) * 2.0**-118,
        )

    def half_score_errors(self) -> tuple[float, float]:
        """By what the sum of one product of float16, of all features, errs in 2 y.z for each unit of |y| |z|, as
        tensor_score_errors has it, each of d' products losing 6 u of that; and a factor for lengths that float32
        computes, of squares summed in any order. Both with 7 % more (kernels/assign_half.cu)."""
        d = len(self.offset)
        return 1.07 * U32 * 12 * (d + -d % 16), 1 + 1.07 * U32 * (d + 16)

    def difference_errors(self) -> ScoreErrors:
        """What sums of squared float32 differences, in the frame's scale, err by: `per_center` of each sum, `per_norm`
        of |y|^2, and `rest` (kernels/assign_close.cu). Of the least sum and another these are taken together.

        y and z are sums of two float32 each, y of rows of float32 or narrower of one. They are measured from zero, or
        those of float64 from the offset in float64, which is off by 2^-53 of each. So are the pairs, by u^2, and the
        difference of their low parts, by u of at most u (|y| + |z|): together 2.04 u^2 (|y| + |z|), at most
        e = 4.1 u^2 |y| and 2.1 u^2 of the distance. The high parts' difference is exact where one is at most twice the
        other, and else larger than all low parts by far: with the sum of both differences 2.1 u of the distance. d
        squares are added in d roundings. So with T the true squared distance, a sum is within
        T (1 + (1.01 d + 4.5) u) + 2 e sqrt(T) + e^2, where 2 e sqrt(T) is at most u T + e^2 / u: 17.5 u^3 |y|^2.
        D's own error is a thousandth of that. Of both sums 2 * 17.5 u^3 |y|^2, and (1.04 d + 7) u of each; the larger
        factor also covers what float32 rounds in the sums that bounds are made of. 7 % as in `margin`.
        """
        d = len(self.offset)
        return ScoreErrors(1.07 * 36 * U32**3, 1.07 * U32 * (1.04 * d + 12), (d + 4) * 2.0**-118)


def _columns(z: Floats, squares: Floats) -> NDArray[np.float32]:
    """-2 z, and below it the squares, as (d + 1, k)."""
    columns = np.empty((z.shape[1] + 1, len(z)), np.float32)
    np.multiply(z.T, -2.0, out=columns[:-1], casting="same_kind")
    columns[-1] = squares
    return columns


def distance_error_factors(d: int, largest: float = 1.0) -> tuple[float, float, float]:
    """What a float32 distance between a row and a center in the frame is multiplied by, what is added for each unit of
    Z, and what besides, to bound the true one from above: the norm's own roundings, relatively; those of y and z, whose
    norms are at most sqrt(d) times the largest and Z, and what may have underflowed, absolutely. The product and the
    sum round too. (test_certificate.test_bounds_bound_distances_in_rationals fails without these.)
    """
    return 1 + (d + 12) * U32, 1.11 * U32, math.sqrt(d) * largest * (1.11 * U32 + 2.0**-60)
