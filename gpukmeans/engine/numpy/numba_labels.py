"""Labels of a batch of rows as one loop that numba compiles (the extra `fast`): the frame, centers and rows placed in
it, scores, their certificate, and D of what they leave in doubt. Of a thousand rows the fifty calls of NumPy's that
numba_points.py makes for it take longer than the arithmetic.

No bit depends on the frame: it is chosen of fewer rows than `Frame.of` looks at. Arguments are checked by nobody.
"""

from __future__ import annotations

import math
from functools import cache
from typing import Any, NamedTuple

import numpy as np
from numba import boolean, float32, float64, from_dtype, int32, int64, njit, types
from numpy.typing import NDArray

from gpukmeans.engine.numpy.numba_passes import (
    _OPTIONS,
    BLOCK,
    PANEL,
    SUMS,
    TILE,
    WEIGHING,
    Bounds,
    Features,
    Sums,
    Target,
    Weighing,
    _assign_block,
    _buffers,
    _move_rows,
    _own_square,
    _place_center,
    compiled,
)
from gpukmeans.engine.numpy.rows import read_only
from gpukmeans.exact.certificate import TOO_FAR, Frame
from gpukmeans.exact.distance import Floats

# Rows that tell where most are, and when these are much nearer to their median: as in row_sample.py and certificate.py.
_SAMPLE, _MUCH = 16, 4


class Errors(NamedTuple):
    """What scores of so many features err by: `Frame.center_error` and `Frame.row_margin_factors`."""

    center: float
    per_norm: Any
    rest: Any


@cache
def errors_of(d: int) -> Errors:
    frame = Frame(np.zeros(d), 0)
    return Errors(frame.center_error, *frame.row_margin_factors)


@cache
def sample_step(n: int) -> int:
    """One of so many rows is looked at, by the rule of `row_sample.sampled_rows`."""
    step = -(-n // _SAMPLE)
    while math.gcd(step, 30) > 1:
        step += 1
    return step


@njit(**_OPTIONS)
def _squares_to(x: Any, step: int, place: Any) -> Any:
    """Of each so many rows, the squared distance to a place."""
    squares = np.empty(-(-len(x) // step))
    for s in range(len(squares)):
        squares[s] = _own_square(x, s * step, place)
    return squares


@njit(**_OPTIONS)
def _median(x: Any, step: int) -> Any:
    """Of each so many rows, the median of each feature, a value of theirs. Sorted by insertion, all features at a
    time."""
    d = x.shape[1]
    rows = np.empty((-(-len(x) // step), d))
    for s in range(len(rows)):
        for j in range(d):
            rows[s, j] = x[s * step, j]
        for t in range(s, 0, -1):
            for j in range(d):
                a, b = rows[t - 1, j], rows[t, j]
                rows[t - 1, j] = b if b < a else a
                rows[t, j] = a if b < a else b
    return rows[len(rows) // 2]


@njit(**_OPTIONS)
def _offset(x: Any, step: int, low: Any, high: Any, narrow: bool) -> Any:
    """Where features measure from, as `Frame.of` has it, float32 numbers of narrow rows; and the sample's squared
    distances to it."""
    offset = np.empty(len(low))
    for j in range(len(low)):
        middle = low[j] + (high[j] - low[j]) / 2
        offset[j] = float64(np.float32(middle)) if narrow else middle
    squares = _squares_to(x, step, offset)
    median = _median(x, step)
    near = _squares_to(x, step, median)
    half = len(squares) // 2
    return (median, near) if np.sort(squares)[half] > _MUCH * np.sort(near)[half] else (offset, squares)


@njit(**_OPTIONS)
def _has_groups(x: Any, step: int, squares: Any) -> bool:
    """Whether `row_sample.far_offsets` may find one."""
    far = _squares_to(x, step, x[squares.argmax() * step].astype(np.float64))
    group = 0
    for s in range(len(far)):
        group += far[s] * 2.0**12 < squares[s]
    return group >= 2


def _label(
    x: Any,
    low: Any,
    high: Any,
    narrow: bool,
    step: int,
    look: bool,
    centers: Any,
    errors: Any,
    weights: Any,
    sums: Any,
    labels: Any,
) -> Any:
    """Label rows x (m, d) within [low, high]; returns how many of the caller's changed, nothing, and how many scores
    left to D: -1 where these cannot serve, or where rows may be in groups far apart, if told to look for those. narrow:
    whether x is float32. step: `sample_step`."""
    k, d = centers.shape
    found = np.zeros(3, np.int64)
    found[2] = -1
    offset, squares = _offset(x, step, low, high, narrow)
    if look and _has_groups(x, step, squares):
        return found
    largest = 0.0
    for j in range(d):
        largest = max(largest, high[j] - offset[j], offset[j] - low[j])
    exponent = 0
    if largest > 0:
        mantissa, power = math.frexp(largest)
        exponent = (1 if mantissa == 0.5 else 0) - power
    # test_numba_labels.test_values_of_any_size_are_labelled fails without it
    if abs(exponent) > (126 if narrow else 380):
        return found
    scale = math.ldexp(1.0, exponent)
    panels = np.empty((-(-k // PANEL), d, PANEL), np.float32)
    panels[-1] = np.float32(0)
    scores = np.full(k + -k % TILE, np.inf, np.float32)
    slack = np.empty(k, np.float32)
    for c in range(k):
        norm = _place_center(centers, c, offset, scale, panels)
        if not norm < TOO_FAR:  # where scores are near the largest float32
            return found
        scores[c] = np.float32(norm - norm * errors.center)
        slack[c] = np.float32(2 * (norm * errors.center))
    found[2] = 0
    none = np.empty(0, np.float32)
    places = np.empty(d + 1, x.dtype)  # in which features are made, and so is the scale
    places[d] = scale
    for j in range(d):
        places[j] = offset[j]
    target = Target(centers, panels, scores, slack, places[:d], places[d], errors.per_norm, errors.rest, True)
    bounds = Bounds(none, none, 0, none, none, none, False, errors.rest, errors.rest)
    kept = Features(np.empty((0, 0), np.float32), none)
    buffers = _buffers(len(panels), d, d, True)
    for first in range(0, len(x), BLOCK):
        m = min(BLOCK, len(x) - first)
        for r in range(m):
            buffers.index[r] = buffers.places[r] = first + r
        _assign_block(x, kept, weights, target, bounds, sums, labels, m, buffers, found)
    return found


def _sum_labels(x: Any, weights: Any, sums: Any, labels: Any) -> None:
    """Add the terms of all rows to the sums of their clusters."""
    value, offset, scale, small = sums.value, sums.offset, sums.scale, sums.small
    kind, given, counts = weights.kind, weights.given, weights.counts
    terms = np.empty(x.shape[1] + 1, np.int64)
    rows, nowhere = np.arange(len(x)), np.full(len(x), -1)
    _move_rows(x, rows, nowhere, len(x), labels, kind, given, counts, value, offset, scale, small, terms)


def sum_labels(x: NDArray[Any], weights: Weighing, sums: Sums, labels: NDArray[np.int32]) -> None:
    """`_sum_labels`, compiled."""
    summed(x.dtype)(read_only(x), weights, sums, labels)


def label_batch(
    x: NDArray[Any], low: Floats, high: Floats, look: bool, centers: Floats, weights: Weighing, sums: Sums, labels: Any
) -> tuple[int, int, int]:
    """`_label`, compiled."""
    narrow, step = x.dtype == np.float32, sample_step(len(x))
    lowest, highest = np.ascontiguousarray(low), np.ascontiguousarray(high)
    call, errors = label(x.dtype), errors_of(x.shape[1])
    found = call(read_only(x), lowest, highest, narrow, step, look, centers, errors, weights, sums, labels).tolist()
    return found[0], found[1], found[2]


_ERRORS = types.NamedTuple((float64, float32, float32), Errors)


def _rows(dtype: np.dtype) -> Any:
    return types.Array(from_dtype(dtype), 2, "C", readonly=True)


@cache
def summed(dtype: np.dtype) -> Any:
    """`_sum_labels` of rows of float32 or float64, compiled likewise."""
    return compiled(_sum_labels, _rows(dtype), WEIGHING, SUMS, int32[::1])


@cache
def label(dtype: np.dtype) -> Any:
    """`_label` of rows of float32 or float64, compiled by whoever asks first, as `numba_passes.passes` are."""
    floats, centers = float64[::1], float64[:, ::1]
    arguments = _rows(dtype), floats, floats, boolean, int64, boolean, centers, _ERRORS, WEIGHING, SUMS, int32[::1]
    return compiled(_label, *arguments, returns=int64[::1])
