"""The scales at which coordinates become integers, and their sums centers (Rule 3, docs/design.md, section 1)."""

# 2**1000 is the finest scale, so that it and its inverse are normal numbers. A term of a range R has then log2(R) + 999
# bits at most: fewer than 30 below 2**-970, and where F weights are no integers, errors of up to F terms add up. So of
# ranges below 2**-960 no more is promised than that a center lies among its rows (cluster_means.py holds it there).

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gpukmeans.exact.distance import U64, Floats, norms
from gpukmeans.exact.fixed_point import SUM_BITS, Ints, Weights, ceil_log2, weigh
from gpukmeans.exact.sparse_rows import Entries, expansion_error
from gpukmeans.threads import scratch

# Coordinates of centers at a time: 0.5 MB of float64, in a core's second-level cache.
_PIECE = 2**16

# Up to so many coordinates exact sums take as few calls as any others.
_FEW = 2**12


def about_zero(low: Floats, high: Floats) -> tuple[Floats, Floats]:
    """The least range that holds [low, high] and whose middle is zero, for each feature."""
    largest = np.maximum(-low, high)
    return -largest, largest


def _offset(low: Floats, high: Floats) -> Floats:
    """Where terms of features within [low, high] measure from: zero if that is in the range, else the middle.

    The middle gains up to a bit. From zero, a coordinate of zero adds nothing: sums cost what rows hold beside zeros.
    """
    if np.maximum.reduce(low, axis=None) <= 0 <= np.minimum.reduce(high, axis=None):
        return np.zeros(low.shape)
    return np.where((low <= 0) & (high >= 0), 0.0, low + (high - low) / 2)


def _half(low: Floats, high: Floats, offset: Floats) -> Floats:
    """How far from the offset features are at most."""
    half = high - offset
    return np.maximum(half, offset - low, out=half)


def _means(sums: Ints, exponent: Any, scale: Floats, offset: Floats | None) -> Floats:
    """The centers (m, d) of sums (m, d + 1) whose weights, in units of 2**-exponent, are not zero."""
    centers = sums[:, :-1] / np.ldexp(sums[:, -1].astype(np.float64), -exponent)[:, None]
    centers /= scale  # exact; the product of weight and scale might overflow
    if offset is not None:
        centers += offset
    return centers


@dataclass(frozen=True)
class Scales:
    """How coordinates become integers: ``rint((x - offset) * scale)``, per feature.

    offset: (d,) zero, or the middle of a range without zero; scale: (d,) a power of two, as fine as a sum over
    all the weight allows. Both depend on the range and the total weight alone, so not on any order.
    """

    offset: Floats
    scale: Floats
    low: Floats
    high: Floats
    weights: Weights
    sparse: bool = False

    @staticmethod
    def of(low: Floats, high: Floats, weights: Weights, *, sparse: bool = False) -> Scales:
        """Scales for features within [low, high], each (d,) float64. sparse: whether distances are E."""
        offset = _offset(low, high)
        half = _half(low, high, offset)
        # `power_for` of all features at once, 2**p by its exponent's bits. Those of a half-range and all but the last
        # bit of a mantissa carry to the next power of two, unless it is one; of subnormal ones they are not its
        # logarithm, but low enough for the finest scale
        # (test_fixed_point.test_scales_are_as_fine_as_sums_allow_in_any_range fails of another).
        exponents = half.view(np.int64) + (2**52 - 1)
        exponents >>= 52
        np.subtract(SUM_BITS - ceil_log2(weights.total) + 2 * 1023, exponents, out=exponents)
        np.minimum(exponents, 1000 + 1023, out=exponents)
        exponents <<= 52
        scale = exponents.view(np.float64)
        np.copyto(scale, 1.0, where=half <= 0)
        return Scales(offset, scale, low, high, weights, sparse)

    def terms(self, x: NDArray[Any], weights: Floats | Ints | None) -> Ints:
        """x (d, m), any dtype, as int64 terms (m, d + 1) of the sums; the last column is the weight."""
        result = np.empty((x.shape[1], len(x) + 1), np.int64)
        steps = scratch("steps", x.size, np.float64)
        steps = steps.reshape(x.shape) if x.flags.c_contiguous else steps.reshape(x.T.shape).T
        np.subtract(x, self.offset[:, None], out=steps)
        steps *= self.scale[:, None]
        np.rint(steps, out=steps)
        result.T[:-1] = steps if weights is None else weigh(steps, weights)
        result[:, -1] = 1 if weights is None else self.weights.integer_weights(weights)
        return result

    def terms_of_entries(self, entries: Entries, weights: Floats | Ints | None) -> Ints:
        """The same of what sparse rows store, (e,), without the weights; weights: of the rows, (m,)."""
        scale = self.scale.take(entries.columns)
        if self._about_zero:
            steps = np.multiply(entries.exact, scale, out=scale)
        else:
            steps = entries.exact - self.offset.take(entries.columns)
            steps *= scale
        return weigh(np.rint(steps, out=steps), None if weights is None else weights.take(entries.rows))

    def centers(self, sums: Ints) -> Floats:
        """The centers (k, d) float64 of sums (k, d + 1) int64 whose weights are not zero."""
        return _means(sums, self.weights.exponent, self.scale, None if self._about_zero else self.offset)

    @cached_property
    def _about_zero(self) -> bool:
        return not self.offset.any()

    @cached_property
    def step(self) -> Floats:
        """(d,): by how much a center's coordinate may err while nothing but terms and its division are rounded.

        A term is off by half of 1 / scale, and by the rounding of x - offset; two more roundings make the quotient.
        Each of these three is at most 2**-53 of the feature's half-range. All terms of a constant feature are zero, and
        such means need no second look (test_fixed_point.test_a_constant_feature_leaves_means_certain fails if they do).
        """
        half = _half(self.low, self.high, self.offset)
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
        return float(np.add.accumulate(self.step * self.step)[-1])

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
        """The largest D between any point in range and any of the centers (k, d): that of a corner. Of larger numbers
        each operation of D rounds to no smaller one, in its order
        (test_fixed_point.test_no_row_in_range_is_farther_than_the_farthest fails of another, or of one side alone).

        E may be larger by its error, |x|^2 being at most 2 D + 2 |c|^2
        (test_expanded_distance.test_an_inertia_far_from_zero_fits_its_scale fails without it).
        """
        farthest = float(norms(np.maximum(self.high - centers, centers - self.low)).max())
        return self._with_error(farthest, float(norms(centers).max()) if self.sparse else 0.0)

    def _with_error(self, farthest: float, square: float) -> float:
        """The largest distance of points whose D is at most `farthest` from centers of |c|^2 at most `square`."""
        if self.sparse:
            farthest += expansion_error(len(self.low)) * (2 * farthest + 3 * square)
        return farthest

    def farthest_power(self, centers: Floats) -> int | None:
        """`ceil_log2` of `farthest`, None where that is zero: all that a scale needs.

        Sums in another order differ by less than 3 (d + 8) 2**-53 of themselves, underflow apart. Where that might be
        the next power of two, the order counts (test_fixed_point.test_a_power_of_two_is_that_of_the_farthest fails if
        it is not asked).
        """
        off = 3 * (centers.shape[1] + 8) * U64
        if self.sparse and centers.size > _FEW:
            low, high = self._about_farthest(centers)
            if low > 2.0**-900 and ceil_log2(low * (1 - 2**12 * off)) == (power := ceil_log2(high * (1 + off))):
                return power
        rows = max(1, _PIECE // centers.shape[1])
        farthest, square = [0.0], [0.0]
        for a in range(0, len(centers) if centers.size > _FEW else 0, rows):
            c = centers[a : a + rows]
            reach = np.subtract(self.high, c, out=scratch("reach", c.size, np.float64).reshape(c.shape))
            below = np.subtract(c, self.low, out=scratch("steps", c.size, np.float64).reshape(c.shape))
            np.maximum(reach, below, out=reach)
            farthest.append(float(np.einsum("ij,ij->i", reach, reach).max()))
            if self.sparse:
                square.append(float(np.einsum("ij,ij->i", c, c).max()))
        about = self._with_error(max(farthest), max(square))
        if about > 2.0**-900 and ceil_log2(about * (1 - off)) == (power := ceil_log2(about * (1 + off))):
            return power
        exact = self.farthest(centers)
        return ceil_log2(exact) if exact > 0 else None

    def _about_farthest(self, centers: Floats) -> tuple[float, float]:
        """Bounds on `farthest`, but for rounding, in two passes over the centers (k, d); a lower one of zero says
        nothing.

        Of a feature within [-w, h], h >= w, the farther end is at least |h - c| away and at most h + |c|; if w is
        greater, the same holds of the other end. So with H the sum of the ends' squares, the farthest is from
        H - 2 h.c + |c|^2 to (H^(1/2) + |c|)^2. Of sparse rows and their means these are close together.

        The lower bound's three sums are off by (d + 8) 2**-52 (H + |c|^2) at most: if more than a 2**10th of that is
        left, by less than 2**11 (d + 8) 2**-52 of themselves.
        """
        end = np.where(self.high >= -self.low, self.high, self.low)
        ends = float(end @ end)
        squares = np.einsum("ij,ij->i", centers, centers)
        largest = float(squares.max())
        low = float((squares - 2 * (centers @ end)).max()) + ends
        high = self._with_error((math.sqrt(ends) + math.sqrt(largest)) ** 2, largest)
        return low if low > 2.0**-10 * (ends + largest) else 0.0, high


@dataclass(frozen=True)
class OwnScales:
    """`Scales` for each of m clusters by itself, as fine as its own range and weight allow.

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
        offset = _offset(low, high)
        half = _half(low, high, offset)
        bits = _ceil_log2(total)
        shift = np.zeros(len(total), np.int32)
        exponent = np.zeros(len(total), np.int32)
        if weights.exponent:
            shift = np.maximum(-bits, 0)
            bits = bits + shift
            exponent = SUM_BITS - bits
        power = np.minimum(SUM_BITS - bits[:, None] - _ceil_log2(half), 1000)
        return OwnScales(offset, np.where(half > 0, _power_of_two(power), 1.0), shift, exponent)

    def terms(self, x: Floats, clusters: NDArray[Any], weights: Floats | Ints | None) -> Ints:
        """x (d, m) float64, of these clusters (m,), as int64 terms (m, d + 1); the last column is the weight."""
        steps = np.rint((x - self.offset[clusters].T) * self.scale[clusters].T)
        terms = weigh(steps, self._shifted(clusters, weights))
        return np.concatenate([terms, self.units(clusters, weights)[None]]).T

    def terms_of_entries(self, entries: Entries, clusters: NDArray[Any], weights: Floats | Ints | None) -> Ints:
        """The same of what sparse rows store, (e,), without the weights; clusters and weights: of the rows, (m,)."""
        at = clusters.take(entries.rows), entries.columns
        steps = np.rint((entries.exact - self.offset[at]) * self.scale[at])
        shifted = self._shifted(clusters, weights)
        return weigh(steps, None if weights is None else shifted.take(entries.rows))

    def units(self, clusters: NDArray[Any], weights: Floats | Ints | None) -> Ints:
        """The weights of rows in these clusters (m,), as sums count them."""
        if weights is None:
            return np.ones(len(clusters), np.int64)
        shifted = self._shifted(clusters, weights)
        if shifted.dtype == np.int64:
            return shifted
        return np.rint(np.ldexp(shifted, self.exponent[clusters])).astype(np.int64)

    def _shifted(self, clusters: NDArray[Any], weights: Any) -> Any:
        if weights is None or weights.dtype == np.int64:
            return weights
        return np.ldexp(weights, self.shift[clusters])

    def centers(self, sums: Ints) -> Floats:
        """The centers (m, d) float64 of sums (m, d + 1) int64 whose weights are not zero."""
        return _means(sums, self.exponent, self.scale, self.offset)

    def weight_of(self, units: Ints) -> Floats:
        """The weights (m,) that so many units, the last column of sums, stand for."""
        return np.ldexp(units.astype(np.float64), -self.exponent - self.shift)


def _power_of_two(exponents: NDArray[np.int32]) -> Floats:
    """np.ldexp(1.0, exponents), of normal numbers, in a sixth of its time: the exponent's bits of float64."""
    return ((exponents.astype(np.int64) + 1023) << 52).view(np.float64)


def _ceil_log2(values: Floats) -> NDArray[np.int32]:
    """`ceil_log2` of each value."""
    mantissa, exponent = np.frexp(values)
    return exponent - (mantissa == 0.5)
