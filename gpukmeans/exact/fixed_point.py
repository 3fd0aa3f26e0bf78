"""Rule 3: sums as integers in fixed point (docs/design.md, section 1): weights, and what a sum may hold.

scales.py has the scales of coordinates, inertia.py those of squared distances.
"""

# Rows of weight zero are taken out before anything here sees them. Left in, they would change the ranges, with these
# the scales, and with those bits, although they weigh nothing.

from __future__ import annotations

import math
from dataclasses import dataclass
from fractions import Fraction

import numpy as np
from numpy.typing import NDArray

from gpukmeans.exact.distance import Floats

Ints = NDArray[np.int64]

# A sum must stay below 2**63; one bit is kept for the half that each rounding may add.
SUM_BITS = 62


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


def exact_sum(values: Floats) -> float:
    """math.fsum of positive values (n,), C-contiguous: by whole numbers of so many bits that n of them fit into 62, the
    first of each value, then of what is left. A buffer gives Python's floats, three times as fast as an array."""
    bits, rest, total, shift = min(50, SUM_BITS - ceil_log2(float(len(values)))), values, 0, 0
    first = bits - ceil_log2(float(values.max()))
    for by in (first, bits):  # two hold all bits of values that are not too far apart
        if not 0 <= by <= 900:  # products by 2**by are exact
            break
        rest = rest * 2.0**by
        whole = np.floor(rest)
        rest -= whole
        total, shift = (total << bits) + int(whole.astype(np.int64).sum()), shift + by
        if not rest.any():
            return float(Fraction(total) / Fraction(2) ** shift)
    return math.fsum(values.data)


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
    LEAST = 2.0**-1040

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
        test_fixed_point.test_weights_are_copies_up_to_a_total_of_2_to_the_32 fail of other limits). Raises ValueError
        if it would leave less than LEAST of some, which has bits for a mean to 2**-33 of its range
        (test_fixed_point.test_weights_too_far_apart_for_float64_are_refused fails without).
        """
        shift = 0
        largest = float(weights.max())
        # The sum of larger ones might overflow. Buffers are aligned and of the machine's byte order.
        weights = np.require(weights, np.float64, ["C", "A"])
        total = math.inf if largest > Weights.MOST_COPIES else exact_sum(weights)
        if largest < 2.0**-100 or total > Weights.MOST_COPIES:
            bits = ceil_log2(largest) + ceil_log2(float(len(weights)))
            shift = Weights.NORMAL_BITS - bits
            # In two steps: 2**shift itself may lie outside float64.
            given, weights = weights, np.ldexp(np.ldexp(weights, shift // 2), shift - shift // 2)
            if shift < 0 and weights.min() < Weights.LEAST:
                raise ValueError(
                    f"Sample weights from {given.min():.3g} to {largest:.3g} are too far apart: the least are nothing "
                    "beside the others. Leave their samples out, or give them more."
                )
            total = exact_sum(weights)
        fractions = int(np.count_nonzero(weights != np.rint(weights)))
        if fractions == 0:
            return Weights(total, total, 0, shift), weights.astype(np.int64)
        copies = exact_sum(np.maximum(weights, 1.0))
        return Weights(total, copies, SUM_BITS - ceil_log2(total), shift, fractions), weights

    def integer_weights(self, weights: Floats | Ints) -> Ints:
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


def sampling_weights(closest_dist_sq: Floats, exponent: int, weights: Floats | Ints | None) -> Ints:
    """The fixed-point weights of k-means++: weight times D (m,), as int64 at the scale 2**exponent."""
    return weigh(np.rint(closest_dist_sq * 2.0**exponent), weights)


def inverse_cdf_index(uniform: float, total: int) -> int:
    """floor(uniform * total) for a uniform draw in [0, 1) of 53 bits, exactly."""
    return int(uniform * 2.0**53) * total >> 53
