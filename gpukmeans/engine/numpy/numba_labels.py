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
    _INFINITE,
    _OPTIONS,
    MANY,
    PANEL,
    SUMS,
    TILE,
    WEIGHING,
    Bounds,
    Features,
    Sums,
    Target,
    Weighing,
    _assign,
    _move_rows,
    _own_square,
    _place_center,
    compiled,
)
from gpukmeans.engine.numpy.rows import read_only
from gpukmeans.exact.certificate import TOO_FAR, Frame, distance_error_factors
from gpukmeans.exact.distance import Floats

# Rows that tell where most are, and when these are much nearer to their median: as in row_sample.py and certificate.py.
_SAMPLE, _MUCH = 16, 4


class Errors(NamedTuple):
    """What scores and distances of so many features err by: `Frame.center_error`, `Frame.row_margin_factors`, and
    relative and absolute (`distance_error_factors`)."""

    center: float
    per_norm: Any
    rest: Any
    relative: Any
    of_distance: Any


@cache
def errors_of(d: int) -> Errors:
    frame = Frame(np.zeros(d), 0)
    relative, _, error = np.array(distance_error_factors(d), np.float32)
    return Errors(frame.center_error, *frame.row_margin_factors, relative, error)


class Earlier(NamedTuple):
    """What one labelling of these rows leaves to the next. bounds: upper and lower, (2, m) float32. places: (d + 1,),
    the frame's offset and scale, in the dtype that features are made in. centers: those compared with, (k, d)."""

    bounds: Any
    places: Any
    centers: Any

    @staticmethod
    def room_for(x: NDArray[Any], k: int) -> Earlier:
        m, d = x.shape
        return Earlier(np.empty((2, m), np.float32), np.empty(d + 1, x.dtype), np.empty((k, d)))


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


@njit(**_OPTIONS)
def _find_frame(x: Any, low: Any, high: Any, narrow: bool, step: int, look: bool, places: Any) -> bool:
    """Set an offset and a scale for rows x within [low, high], `Earlier.places`; False where there is none that serves,
    or where rows may be in groups far apart, if told to look for those."""
    offset, squares = _offset(x, step, low, high, narrow)
    if look and _has_groups(x, step, squares):
        return False
    largest = 0.0
    for j in range(len(low)):
        places[j] = offset[j]
        largest = max(largest, high[j] - offset[j], offset[j] - low[j])
    exponent = 0
    if largest > 0:
        mantissa, power = math.frexp(largest)
        exponent = (1 if mantissa == 0.5 else 0) - power
    places[-1] = math.ldexp(1.0, exponent)
    # test_numba_labels.test_values_of_any_size_are_labelled fails without it
    return abs(exponent) <= (126 if narrow else 380)


@njit(**_OPTIONS)
def _shifts(before: Any, centers: Any, scale: float) -> Any:
    """How far each center moved, and the most that any other did, as `hamerly.moved` has it, (k,) float32."""
    k = len(centers)
    own, others = np.empty(k, np.float32), np.empty(k, np.float32)
    most = second = np.float32(0)
    for c in range(k):
        moved = np.sqrt(_own_square(before, c, centers[c])) * (scale * (1 + 2.0**-30))
        own[c] = np.nextafter(np.float32(moved), _INFINITE)
        second = max(second, min(own[c], most))
        most = max(most, own[c])
    for c in range(k):
        others[c] = second if own[c] == most else most
    return own, others


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
    earlier: Any,
    again: bool,
) -> Any:
    """Label rows x (m, d) within [low, high]; returns how many of the caller's changed, how many were skipped by bounds
    of an earlier labelling, and how many scores left to D: -1 where these cannot serve (`_find_frame`). narrow: whether
    x is float32. step: `sample_step`. again: whether there was an earlier labelling; this one is for the next."""
    k, d = centers.shape
    places = earlier.places
    found = np.zeros(3, np.int64)
    found[2] = -1
    if not again and not _find_frame(x, low, high, narrow, step, look, places):
        return found
    offset, scale = places[:d], float64(places[d])
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
    none = np.empty(0, np.float32)
    own, others = _shifts(earlier.centers, centers, scale) if again else (none, none)
    target = Target(centers, panels, scores, slack, offset, places[d], errors.per_norm, errors.rest, True)
    still, state, measure = np.zeros(k if again else 0, np.float32), 2 if again else 1, k >= MANY
    bounds = Bounds(
        earlier.bounds[0], earlier.bounds[1], state, own, others, still, measure, errors.relative, errors.of_distance
    )
    kept = Features(np.empty((0, 0), np.float32), none)
    earlier.centers[:] = centers
    return _assigned(x, kept, np.empty(0, np.uint8), 0, weights, target, bounds, sums, labels)


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
    x: NDArray[Any],
    low: Floats,
    high: Floats,
    look: bool,
    centers: Floats,
    weights: Weighing,
    sums: Sums,
    labels: Any,
    earlier: Earlier,
    again: bool,
) -> tuple[int, int, int]:
    """`_label`, compiled."""
    narrow, step = x.dtype == np.float32, sample_step(len(x))
    lowest, highest = np.ascontiguousarray(low), np.ascontiguousarray(high)
    call, errors = label(x.dtype), errors_of(x.shape[1])
    given = read_only(x), lowest, highest, narrow, step, look, centers, errors, weights, sums, labels
    found = call(*given, earlier, again)
    changed, skipped, uncertain = found.tolist()
    return changed, skipped, uncertain


_ERRORS = types.NamedTuple((float64, *[float32] * 4), Errors)
_assigned = njit(**_OPTIONS)(_assign)


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
    earlier = types.NamedTuple((float32[:, ::1], types.Array(from_dtype(dtype), 1, "C"), centers), Earlier)
    arguments = _rows(dtype), floats, floats, boolean, int64, boolean, centers, _ERRORS, WEIGHING, SUMS, int32[::1]
    return compiled(_label, *arguments, earlier, boolean, returns=int64[::1])
