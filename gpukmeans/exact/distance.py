"""Rule 1: the distance D, and rows brought to length one (docs/design.md, section 1).

Everything in this package is a pure function of its arguments, spelled in single IEEE operations, so that every engine
can give the same bits. Where D or the terms of sums are computed, coordinates are feature-major, ``(d, ...)``: a
feature is then one contiguous run, and the order of Rule 1 (features ascending) is the order of the loop.
"""

from __future__ import annotations

import math
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gpukmeans.threads import scratch

Floats = NDArray[np.float64]

U64 = 2.0**-53  # half the spacing of float64 at one: the relative error of one rounding

# Beyond this, (2 * x)**2 summed over up to 2**20 features would pass the largest float64, 2**1024
# (test_distance.test_no_distance_within_the_largest_magnitude_overflows fails without it).
LARGEST_MAGNITUDE = 2.0**500

# Up to this many features D is computed feature by feature, in fewer passes over memory.
_FEW_FEATURES = 4

# Up to so many coordinates it takes fewer calls to turn rows around than to add them up as they lie.
_FEW = 2**12

# Beyond, this many coordinates at a time: 0.5 MB of float64, in a core's second-level cache.
_PIECE = 2**16


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
        return sum_features(steps)
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
        result[..., at] = sum_features(steps)
    return result


def norms(x: Floats) -> Floats:
    """D of points x (m, d) to zero, (m,)."""
    return distances_of_rows(x, np.zeros(x.shape[1]))


def distances_of_rows(x: NDArray[Any], c: Floats, labels: NDArray[Any] | None = None) -> Floats:
    """D of each of the points x (m, d) to that of c (m, d) beside it, or to the only one, (d,): (m,). With labels (m,)
    to its own of c (k, d). Rows that lie along memory need not be turned around for `squared_distance`."""
    m, d = x.shape
    if d <= _FEW_FEATURES or x.size <= _FEW:
        return squared_distance(x.T.astype(np.float64, copy=False), c.T if c.ndim == 2 else c[:, None], labels)
    result = np.empty(m)
    rows = max(1, _PIECE // d)
    for a in range(0, m, rows):
        at = slice(a, min(a + rows, m))
        steps = scratch("steps", (at.stop - a) * d, np.float64).reshape(-1, d)
        y = c
        if labels is not None:
            y = c.take(labels[at], axis=0, out=steps, mode="clip")  # the default mode would copy
        elif c.ndim == 2:
            y = c[at]
        np.subtract(x[at], y, out=steps)
        steps *= steps
        result[at] = sum_rows(steps)
    return result


def sum_rows(steps: Floats) -> Floats:
    """The sum of each row of a C-contiguous array (m, d), from zero and in ascending order, (m,). May overwrite it.

    NumPy would sum pairwise. SciPy adds a row's products up one after another, here those with one, which round nothing
    (test_distance.test_squared_distance_adds_in_order fails of NumPy's sums).
    """
    m, d = steps.shape
    if d <= _PIECE:
        return _ones(m, d) @ steps.reshape(-1)
    totals = np.zeros(m)
    for i, row in enumerate(steps):
        for a in range(0, d, _PIECE):
            piece = row[a : a + _PIECE]
            piece[0] += totals[i]
            totals[i] = (_ones(1, len(piece)) @ piece)[0]
    return totals


@lru_cache(maxsize=4)
def _ones(m: int, d: int) -> Any:
    """The matrix (m, m d) whose product with m rows of d values has their sums."""
    places = np.arange(m * d, dtype=np.int32)
    from scipy.sparse import csr_array  # here, as dense rows do without

    return csr_array((np.ones(m * d), places, np.arange(0, m * d + 1, d, dtype=np.int32)), shape=(m, m * d))


def sum_features(steps: Floats) -> Floats:
    """The sum over the first axis of a C-contiguous array, in ascending order.

    NumPy sums pairwise only along the axis that is contiguous in memory, and row by row along any other;
    accumulate is sequential by definition (test_distance.test_squared_distance_adds_in_order fails without it).
    """
    if steps.size > len(steps):
        return np.add.reduce(steps, axis=0)
    return np.add.accumulate(steps, axis=0)[-1]


def normalize(x: Floats) -> Floats:
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


def magnitude(low: Floats, high: Floats) -> float:
    """The largest absolute value within [low, high]; NaN if both have one."""
    return max(-float(low.min()), float(high.max()))


def check_magnitude(largest: float, name: str = "X") -> None:
    """Raise ValueError if values of this `magnitude` are too large to square; name: of the input they are from."""
    if largest > LARGEST_MAGNITUDE:
        raise ValueError(
            f"Input {name} contains values up to {largest:.3g}, whose squared distances overflow float64. "
            f"Scale the data to at most {LARGEST_MAGNITUDE:.3g} in magnitude."
        )
