"""Exact arithmetic: the distance D, fixed-point sums, and the bound on a fast score's error.

These are Rules 1 to 3 of the contract (docs/design.md, section 1). Everything here is a pure
function of its arguments, spelled in single IEEE operations, so that every backend can give the
same bits. Where D or the terms of sums are computed, coordinates are feature-major, ``(d, ...)``: a feature
is then one contiguous run, and the order of Rule 1 (features ascending) is the order of the loop.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from fractions import Fraction
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gpukmeans.threads import scratch

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

# A sum must stay below 2**63; one bit is kept for the half that each rounding may add.
SUM_BITS = 62

# Beyond this, (2 * x)**2 summed over up to 2**20 features would pass the largest float64, 2**1024
# (test_distance.test_no_distance_within_the_largest_magnitude_overflows fails without it).
LARGEST_MAGNITUDE = 2.0**500

# Up to this many features D is computed feature by feature, in fewer passes over memory.
_FEW_FEATURES = 4

# Beyond, this many coordinates at a time: 0.5 MB of float64, in a core's second-level cache.
_PIECE = 2**16


# ---------------------------------------------------------------- Rule 1: the distance


def squared_distance(x: NDArray[Any], c: NDArray[Any], labels: NDArray[Any] | None = None) -> Floats:
    """D: squared Euclidean distances, summed over the first axis in ascending order.

    ``x`` and ``c`` are float64 of shape (d, ...), broadcast against each other; the result has the
    broadcast shape without the first axis. With labels (m,), ``c`` is (d, k) and each point of x (d, m)
    is measured to its own center ``c[:, label]``.

    Each subtraction, product and sum is rounded on its own: NumPy's ufuncs never fuse, and neither a
    pairwise nor a BLAS summation is used.
    """
    if len(x) > _FEW_FEATURES:
        return _squared_distance_wide(x, c, labels)
    total = x[0] - (c[0] if labels is None else c[0].take(labels))
    total *= total
    step = np.empty_like(total)
    for j in range(1, len(x)):
        np.subtract(x[j], c[j] if labels is None else c[j].take(labels), out=step)
        np.multiply(step, step, out=step)
        total += step
    return total


def _squared_distance_wide(x: NDArray[Any], c: NDArray[Any], labels: NDArray[Any] | None) -> Floats:
    """`squared_distance` in a few calls for all features together, where three for each would cost more
    than the arithmetic."""
    if labels is None and x.ndim == 2 and max(x.size, c.size) <= _PIECE:
        steps = np.subtract(x, c, order="C")
        steps *= steps
        return _sum_features(steps)
    shape = x.shape if labels is not None else np.broadcast_shapes(x.shape, c.shape)
    wide, m = math.prod(shape[:-1]), shape[-1]
    result = np.empty(shape[1:])
    step = max(1, _PIECE // wide)
    for a in range(0, m, step):
        at = slice(a, min(a + step, m))
        steps = scratch("steps", wide * (at.stop - a), np.float64).reshape(*shape[:-1], -1)
        if labels is not None:
            y = c.take(labels[at], axis=1, out=steps, mode="clip")  # the default mode would copy
        else:
            y = c[..., at] if c.shape[-1] > 1 else c
        np.subtract(x[..., at] if x.shape[-1] > 1 else x, y, out=steps)
        np.multiply(steps, steps, out=steps)
        result[..., at] = _sum_features(steps)
    return result


def _sum_features(steps: Floats) -> Floats:
    """The sum over the first axis of a C-contiguous array, in ascending order.

    NumPy sums pairwise only along the axis that is contiguous in memory, and row by row along any other;
    accumulate is sequential by definition (test_distance.test_squared_distance_adds_in_order fails without it).
    """
    if steps.size > len(steps):
        return np.add.reduce(steps, axis=0)
    return np.add.accumulate(steps, axis=0)[-1]


# ---------------------------------------------------------------- directions, for metric="cosine"


def unit(x: Floats) -> Floats:
    """x (d, m) float64 with each point brought to length one; NaN for a point that is not finite. A point that is
    zero has no direction, and stays zero.

    A point is multiplied by the power of two that brings its largest coordinate in magnitude into [1/2, 1), so that
    no square overflows and only what is lost in the sum underflows; its length is then the root of D to zero (Rule 1),
    and each coordinate is divided by it. Product, root and quotient are rounded once each. The power of two itself
    stays within 2**-1022 to 2**1022, where it is a normal float64: larger numbers come to be below four, and subnormal
    ones, of which 2**-1074 is the least, at least 2**-52
    (test_cosine.test_rows_are_brought_to_length_one_as_a_plain_loop_does fails without these limits, and
    test_cosine.test_rows_that_are_zero_stay_zero if zero is divided by its length).
    """
    with np.errstate(invalid="ignore"):
        _, exponent = np.frexp(np.abs(x).max(axis=0))
        y = x * np.ldexp(1.0, np.clip(-exponent, -1022, 1022))
        length = np.sqrt(squared_distance(y, np.zeros((len(y), 1))))
        length[length == 0] = 1.0
        y /= length
    return y


# ---------------------------------------------------------------- Rule 3: fixed point


def magnitude(low: Floats, high: Floats) -> float:
    """The largest absolute value within [low, high]; NaN if both have one."""
    return max(-float(low.min()), float(high.max()))


def about_zero(low: Floats, high: Floats) -> tuple[Floats, Floats]:
    """The least range that holds [low, high] and whose middle is zero, for each feature."""
    largest = np.maximum(-low, high)
    return -largest, largest


def is_single(values: Floats) -> bool:
    """Whether all values are float32 numbers."""
    with np.errstate(over="ignore"):
        return bool(np.array_equal(values.astype(np.float32), values))


def ceil_log2(value: float) -> int:
    """The least e with value <= 2**e, for a positive finite value."""
    mantissa, exponent = math.frexp(value)
    return exponent - 1 if mantissa == 0.5 else exponent


def power_for(largest: float, total_weight: float) -> int:
    """The exponent p of the finest scale 2**p at which ``total_weight`` values of at most ``largest`` fit.

    total_weight * rint(largest * 2**p) <= 2**62 (test_fixed_point.test_scaled_values_fit_however_many fails of more).
    At most 2**1000, so that it is a normal float64 (test_distance.test_fit_is_brute_force_on_hard_data fails of more,
    here and where scales are made).
    """
    return min(1000, SUM_BITS - ceil_log2(total_weight) - ceil_log2(largest)) if largest > 0 else 0


@dataclass(frozen=True)
class Weights:
    """What the weights as a whole decide. A Points holds only rows of positive weight.

    Integer weights count copies: a row of weight 3 contributes three times its own rounded term, in
    int64. Any other weight scales the term before it is rounded.
    """

    total: float  # exact (math.fsum), so free of order
    copies: float  # the sum of max(weight, 1): how many rounded terms a sum may have
    exponent: int  # cluster weights are summed as rint(w * 2**exponent); 0 where all are counts, and sums exact
    shift: int = 0  # the weights in use are the caller's times 2**shift
    fractions: int = 0  # how many rows have a weight that is no integer

    # Integer weights are taken as counts up to this total, at which a term still has 30 bits. Larger ones are scaled
    # down by a power of two, to a total of at most 2**NORMAL_BITS, and lose the meaning of copies (2**32 rows fit no
    # memory).
    MOST_COPIES = 2.0**32
    NORMAL_BITS = 30

    @staticmethod
    def of_rows(n: int) -> Weights:
        """n rows of weight one."""
        return Weights(float(n), float(n), 0)

    @staticmethod
    def of(weights: Floats) -> tuple[Weights, Floats | Ints]:
        """Summarise positive float64 weights: (summary, the weights to use).

        The weights to use are int64 if all are integers, else float64. They are the caller's own
        unless these total more than 2**32 or reach no more than 2**-100; then a power of two brings
        them into range (test_fixed_point.test_any_weights_are_brought_into_range and
        test_fixed_point.test_weights_are_copies_up_to_a_total_of_2_to_the_32 fail of other limits).
        """
        shift = 0
        largest = float(weights.max())
        # The sum of larger ones might overflow. A buffer gives Python's floats, three times as fast as an array, but
        # only if they are aligned and of the machine's byte order.
        weights = np.require(weights, np.float64, ["C", "A"])
        total = math.inf if largest > Weights.MOST_COPIES else math.fsum(weights.data)
        if largest < 2.0**-100 or total > Weights.MOST_COPIES:
            bits = ceil_log2(largest) + ceil_log2(float(len(weights)))
            shift = Weights.NORMAL_BITS - bits
            # In two steps: 2**shift itself may lie outside float64.
            weights = np.ldexp(np.ldexp(weights, shift // 2), shift - shift // 2)
            total = math.fsum(weights)
        fractions = int(np.count_nonzero(weights != np.rint(weights)))
        if fractions == 0:
            return Weights(total, total, 0, shift), weights.astype(np.int64)
        copies = math.fsum(np.maximum(weights, 1.0))
        return Weights(total, copies, SUM_BITS - ceil_log2(total), shift, fractions), weights

    def masses(self, weights: Floats | Ints) -> Ints:
        """The weights as sums count them, int64."""
        if weights.dtype == np.int64:
            return weights  # type: ignore[return-value]
        return np.rint(np.ldexp(weights, self.exponent)).astype(np.int64)


def weigh(terms: Floats, weights: Floats | Ints | None) -> Ints:
    """``terms`` (float64 holding integers) times ``weights``, as int64.

    Exact for integer weights; any other weight rounds the product once.
    """
    if weights is None:
        return terms.astype(np.int64)
    if weights.dtype == np.int64:
        return terms.astype(np.int64) * weights.astype(np.int64, copy=False)
    whole = weights == np.rint(weights)
    # Only sums over whole weights are sure to hold the terms themselves
    # (test_fixed_point.test_sums_are_the_integer_sums fails if all count as whole).
    copies = np.where(whole, terms, 0.0).astype(np.int64) * np.where(whole, weights, 0.0).astype(np.int64)
    return np.where(whole, copies, np.rint(terms * weights).astype(np.int64))


def _means(sums: Ints, exponent: Any, scale: Floats, offset: Floats) -> Floats:
    """The centers (m, d) of sums (m, d + 1) whose weights, in units of 2**-exponent, are not zero."""
    centers = sums[:, :-1] / np.ldexp(sums[:, -1].astype(np.float64), -exponent)[:, None]
    centers /= scale  # exact; the product of weight and scale might overflow
    centers += offset
    return centers


@dataclass(frozen=True)
class Scales:
    """How coordinates become integers: ``rint((x - offset) * scale)``, per feature.

    offset: (d,) midpoint of the feature's range; scale: (d,) a power of two, as fine as a sum over
    all the weight allows. Both depend on the range and the total weight alone, so not on any order.
    """

    offset: Floats
    scale: Floats
    low: Floats
    high: Floats
    weights: Weights

    @staticmethod
    def of(low: Floats, high: Floats, weights: Weights) -> Scales:
        """Scales for features within [low, high], each (d,) float64."""
        offset = low + (high - low) / 2
        half = np.maximum(high - offset, offset - low)
        powers = SUM_BITS - ceil_log2(weights.total) - _ceil_log2(half)  # power_for, for all features at once
        scale = np.where(half > 0, np.ldexp(1.0, np.minimum(powers, 1000)), 1.0)
        return Scales(offset, scale, low, high, weights)

    def terms(self, x: NDArray[Any], weights: Floats | Ints | None) -> Ints:
        """x (d, m), any dtype, as int64 terms (m, d + 1) of the sums; the last column is the weight."""
        result = np.empty((x.shape[1], len(x) + 1), np.int64)
        steps = scratch("steps", x.size, np.float64)
        steps = steps.reshape(x.shape) if x.flags.c_contiguous else steps.reshape(x.T.shape).T
        np.subtract(x, self.offset[:, None], out=steps)
        steps *= self.scale[:, None]
        np.rint(steps, out=steps)
        result.T[:-1] = steps if weights is None else weigh(steps, weights)
        result[:, -1] = 1 if weights is None else self.weights.masses(weights)
        return result

    def centers(self, sums: Ints) -> Floats:
        """The centers (k, d) float64 of sums (k, d + 1) int64 whose weights are not zero."""
        return _means(sums, self.weights.exponent, self.scale, self.offset)

    @cached_property
    def step(self) -> Floats:
        """(d,): by how much a center's coordinate may err while nothing but terms and its division are rounded.

        A term is off by half of 1 / scale, and by the rounding of x - offset; two more roundings make the quotient.
        Each of these three is at most 2**-53 of the feature's half-range. All terms of a constant feature are zero.
        """
        half = np.maximum(self.high - self.offset, self.offset - self.low)
        return np.where(half > 0, 1 / self.scale + 2.0**-51 * half, 0.0)

    @cached_property
    def widest(self) -> int:
        """The feature of the largest range."""
        return int(np.argmax(self.high - self.low))

    @cached_property
    def coarsest(self) -> float:
        """The largest `step`."""
        return float(self.step.max())

    @cached_property
    def step_squared(self) -> float:
        """The squared length of `step`, in the order of D."""
        return float(squared_distance(self.step[:, None], np.zeros((len(self.step), 1)))[0])

    def errors(self, weight: Any) -> Any:
        """By how many `step` the centers of clusters of these summed weights, one or (k,), may err, rounding to float64
        apart.

        A weight that is no integer rounds its own term once more, by a half, and counts itself off by up to half a
        unit, 2**-exponent, of which a coordinate in range takes no more than another half. F of them move a center by
        F / W, W being the cluster's weight; and W is known to within a factor of two while it counts F units or more.
        Below that, the result is beyond the range of the data, as the error may be.
        """
        if self.weights.fractions == 0:
            return 1.0
        with np.errstate(divide="ignore"):
            return 1 + 2.0 * self.weights.fractions / weight

    def farthest(self, centers: Floats) -> float:
        """An upper bound on D between any point in range and any of the centers (k, d)."""
        reach = np.ascontiguousarray(np.maximum(self.high - centers, centers - self.low).T)
        return float(np.max(_sum_features(reach * reach))) * (1 + 2.0**-20)


@dataclass(frozen=True)
class OwnScales:
    """`Scales` for each of m clusters by itself, as fine as its own extent and weight allow.

    Coordinates become ``rint((x - offset) * scale)``, offset and scale (m, d). Weights that are no counts are
    multiplied by 2**shift first, (m,), and then summed in units of 2**-exponent, (m,); of counts both are zero.
    """

    offset: Floats
    scale: Floats
    shift: NDArray[np.int32]
    exponent: NDArray[np.int32]

    @staticmethod
    def of(low: Floats, high: Floats, total: Floats, weights: Weights) -> OwnScales:
        """Scales for clusters within [low, high], (m, d) each, that weigh at most `total` (m,).

        Less than one becomes at most one, so that no scale has to make up for light weights.
        """
        offset = low + (high - low) / 2
        half = np.maximum(high - offset, offset - low)
        bits = _ceil_log2(total)
        shift = np.zeros(len(total), np.int32)
        exponent = np.zeros(len(total), np.int32)
        if weights.exponent:
            shift = np.maximum(-bits, 0)
            bits = bits + shift
            exponent = SUM_BITS - bits
        power = np.minimum(SUM_BITS - bits[:, None] - _ceil_log2(half), 1000)
        return OwnScales(offset, np.where(half > 0, np.ldexp(1.0, power), 1.0), shift, exponent)

    def terms(self, x: Floats, clusters: NDArray[Any], weights: Floats | Ints | None) -> Ints:
        """x (d, m) float64, of these clusters (m,), as int64 terms (m, d + 1); the last column is the weight."""
        steps = np.rint((x - self.offset[clusters].T) * self.scale[clusters].T)
        if weights is not None and weights.dtype != np.int64:
            weights = np.ldexp(weights, self.shift[clusters])
            mass = np.rint(np.ldexp(weights, self.exponent[clusters])).astype(np.int64)
        else:
            mass = np.ones(x.shape[1], np.int64) if weights is None else weights
        return np.concatenate([weigh(steps, weights), mass[None]]).T

    def centers(self, sums: Ints) -> Floats:
        """The centers (m, d) float64 of sums (m, d + 1) int64 whose weights are not zero."""
        return _means(sums, self.exponent, self.scale, self.offset)

    def weight_of(self, units: Ints) -> Floats:
        """The weights (m,) that so many units, the last column of sums, stand for."""
        return np.ldexp(units.astype(np.float64), -self.exponent - self.shift)


def _ceil_log2(values: Floats) -> NDArray[np.int32]:
    """`ceil_log2` of each value."""
    mantissa, exponent = np.frexp(values)
    return exponent - (mantissa == 0.5)


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
        coarse = power_for(scales.farthest(centers), scales.weights.total)
        return Inertia(coarse, SUM_BITS - ceil_log2(scales.weights.copies))

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

        Each copy of a row is rounded by half a unit
        (test_fixed_point.test_an_inertia_far_below_what_it_might_be_is_summed_again fails if fewer will do).
        """
        copies = 1 << ceil_log2(scales.weights.copies)
        if units >= copies << 40:
            return None
        bits = SUM_BITS + self.coarse_bits + self.fine_bits - (units + copies).bit_length()
        farthest = scales.farthest(centers)
        coarse = min(bits, 1000 - max(0, ceil_log2(farthest))) if farthest > 0 else self.coarse_bits
        return Inertia(coarse, self.fine_bits) if coarse > self.coarse_bits else None


def mass(closest: Floats, exponent: int, weights: Floats | Ints | None) -> Ints:
    """The fixed-point weights of k-means++: weight times D (m,), as int64 at the scale 2**exponent."""
    return weigh(np.rint(closest * 2.0**exponent), weights)


# ---------------------------------------------------------------- Rule 2: the certificate

U32 = 2.0**-24  # half the spacing of float32 at one: the relative error of one rounding

# |z|^2 from which on scores near the largest float32
# (test_certificate.test_a_frame_is_refused_where_its_bound_would_not_hold fails without it).
_TOO_FAR = 2.0**120


@dataclass(frozen=True)
class Frame:
    """Coordinates for fast scores: ``y = float32((x - offset) * 2**exponent)``, within [-1, 1] for data.

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

    @staticmethod
    def of(low: Floats, high: Floats) -> Frame | None:
        """The frame of data within [low, high]; None if float32 scores cannot serve.

        They cannot for ranges below 2**-380 or above 2**380, where D underflows or nears overflow, or
        with more than 2**17 features, where the bound above no longer holds; nor for data not finite
        (test_certificate.test_a_frame_is_refused_where_its_bound_would_not_hold fails without these).

        Where all extremes are float32 numbers, as float32 and narrower data's are, offset and scale are too (an
        offset rounded to float32 stays within the range). y is then a float32 difference times a power of two: one
        rounding, with no float64 in between.
        """
        if not magnitude(low, high) <= LARGEST_MAGNITUDE:
            return None
        offset = low + (high - low) / 2
        single = is_single(low) and is_single(high)
        if single:
            offset = offset.astype(np.float32).astype(np.float64)
        largest = float(np.maximum(high - offset, offset - low).max())
        exponent = -ceil_log2(largest) if largest > 0 else 0
        if single:  # the scale is a float32 number too (test_kernels.test_no_certain_label_is_wrong fails without it)
            exponent = min(exponent, 126)
        return Frame(offset, exponent) if abs(exponent) <= 380 and len(low) < 2**17 else None

    def at_zero(self, low: Floats, high: Floats) -> Frame:
        """The same of data within [low, high] with an offset of zero, if its scale can be the same: y is then x times a
        power of two. Else as it is."""
        largest = magnitude(low, high)
        if largest > 0 and ceil_log2(largest) == -self.exponent:
            return Frame(np.zeros(len(low)), self.exponent)
        return self

    @property
    def scale(self) -> float:
        return 2.0**self.exponent

    def features(self, x: NDArray[Any]) -> NDArray[np.float32]:
        """x (m, d), any dtype, as y with a column of ones appended: (m, d + 1), in x's memory order."""
        m, d = x.shape
        major = m > 1 and x.strides[0] < x.strides[-1]
        result = np.empty((d + 1, m), np.float32).T if major else np.empty((m, d + 1), np.float32)
        steps = scratch("steps", x.size, np.float64)
        steps = steps.reshape(d, m).T if major else steps.reshape(m, d)
        np.subtract(x, self.offset, out=steps)
        np.multiply(steps, self.scale, out=result[:, :d], casting="same_kind")
        result[:, d] = 1.0
        return result

    def centers(self, centers: Floats) -> tuple[NDArray[np.float32], float] | None:
        """centers (k, d) as the columns (d + 1, k) to multiply features by, and Z^2.

        None for centers too far for float32, see `reach`.
        """
        z = (centers - self.offset) * self.scale
        norms = np.einsum("ij,ij->i", z, z)
        largest = float(norms.max())
        if not largest < _TOO_FAR:
            return None
        columns = np.empty((centers.shape[1] + 1, len(centers)), np.float32)
        np.multiply(z.T, -2.0, out=columns[:-1], casting="same_kind")
        columns[-1] = norms
        return columns, largest

    def reach(self, centers: Floats) -> tuple[float, float] | None:
        """Z^2 of centers (k, d), and the largest coordinate of any z.

        None for centers so far from the data, 2**60 times its range, that float32 cannot tell.
        """
        rows = max(1, _PIECE // centers.shape[1])
        found = []
        for a in range(0, len(centers), rows):
            z = centers[a : a + rows] - self.offset
            z *= self.scale
            found.append((np.einsum("ij,ij->i", z, z).max(), z.max(), -z.min()))
        square, above, below = np.max(found, axis=0).tolist()  # of NaN it is NaN, which Python's max may not be
        return (square, max(above, below)) if square < _TOO_FAR else None

    def margin(self, y_norms: NDArray[np.float32], largest_z: float) -> NDArray[np.float32]:
        """The gap between two scores above which their order is certain; y_norms: |y|^2 (m,)."""
        per_norm, per_center, rest = self.margin_factors()
        margin = y_norms * np.float32(per_norm)
        margin += np.float32(per_center * largest_z + rest)
        return margin

    def margin_factors(self) -> tuple[float, float, float]:
        """The margin is the first times |y|^2, plus the second times Z^2, plus the third."""
        d = len(self.offset)
        return 1.07 * U32 * (2.04 * d + 11.2), 1.07 * U32 * (4.06 * d + 16.2), (d + 4) * 2.0**-118

    def tensor_margin_factors(self) -> tuple[float, float, float]:
        """As margin_factors, for scores whose products 2 y.z are made by tensor cores (kernels/assign_tensor.cu).

        y and z are there sums of two float16 each, after a factor of 2**14, and three of the four products are added up
        in float32. Of each value 2**-22 = 4 u of itself is lost, or 2**-28 where the second part becomes subnormal and
        counts as zero; so is the fourth product, 4 u |y| Z. In 2 y.z that is at most
        24.3 u |y| Z + u / 8 sqrt(d) (|y| + Z) <= u [12.3 |y|^2 + 12.3 Z^2 + d / 8].

        PTX promises that sums keep at least the precision of float32, in any order and with any rounding. Known devices
        add 4, 8 or 16 products at a time, cut to 24 or more bits of the largest of them and the sum so far, and cut
        the result to 24 (Fasi, Higham, Mikaitis and Pranesh, 2021; Khattak and Mikaitis, 2025). Taken for each product
        by itself, its own bits, the sum's and the result's may each lose 2 u of what is largest. 16 features at a time,
        of norms y' and z', begin with zero and their small products, at most 2**-10 of 2 |y'| |z'|; the large ones then
        lose 16 * 3 * 2 u * 2 |y'| |z'|, and all features by Cauchy-Schwarz 96 u * 2 |y| Z, or less than
        98 u (|y|^2 + Z^2) with what is small. Adding up d' / 16 such sums, d' being d rounded up to a multiple of 16,
        rounds each time by u of at most 2 |y| Z: 0.064 d' u (|y|^2 + Z^2).

        Together with what does not change, rounding y and z, adding |z|^2 and D's own error, a score is off by at most
        u [(0.066 d' + 115.4) |y|^2 + (0.066 d' + 117.4) Z^2 + d / 8]; the rest is as for `margin`. |y|^2 is summed in
        the same way, by fours, with d' / 16 + 6 roundings, so that half the margin covers them too.
        (test_tensor.test_no_certain_label_is_wrong fails without the margin.)
        """
        d = len(self.offset)
        whole = d + -d % 16
        rest = 1.07 * U32 * d / 4 + (d + 4) * 2.0**-118
        return 1.07 * U32 * (0.132 * whole + 231.8), 1.07 * U32 * (0.132 * whole + 236.8), rest
