"""Passes over rows as loops that numba compiles (the extra `fast`): what points.py spells in NumPy's calls.

A value read from memory is used for all that it is needed for, where NumPy reads and writes an array for each step. No
loop here defines anything: D, terms and the inertia's units are those of exact/, in single IEEE operations, which numba
fuses or reorders only where told to (`_ANY_ORDER`; test_numba_passes.test_only_scores_are_fused looks at the code). The
certificate holds of scores added up in any order, fused or not.

Arguments are checked by nobody: CompiledPoints (numba_points.py) is the only caller.
"""

from __future__ import annotations

from functools import cache
from typing import Any, NamedTuple

import numpy as np
from numba import boolean, float32, float64, from_dtype, int32, int64, njit, types, uint8, void
from numpy.typing import NDArray

from gpukmeans import numba_support
from gpukmeans.engine.numpy.numba_tiles import (
    EXACT_PANEL,
    OWN,
    PANEL,
    ROWS,
    address,
    bits,
    distance_tile,
    own_distance_tile,
    tile_of_one,
    tile_of_three,
    tile_of_two,
)

_OPTIONS: dict[str, Any] = {"nogil": True, "error_model": "numpy"}

# For scores and bounds, of which the certificate allows for any order and fusion.
_ANY_ORDER: dict[str, Any] = {**_OPTIONS, "fastmath": {"contract", "nsz", "reassoc"}}

# Rows that are compared with all centers together: 16 registers of eight float32 make LLVM's loops worth their ends.
BLOCK = 128

# Centers that scores are looked through at a time.
TILE = 4

# From so many centers on, a row's distance to its own costs little beside a search among all.
MANY = 2**6

# Rows of a strip, which tiles of any width cover; D to all centers is taken of so many together.
STRIP = 8

# Added to a number of this magnitude at most, 1.5 * 2**52 leaves its nearest whole one, of halves the even, in the low
# bits of the sum: a conversion in registers (test_numba_passes.test_each_pass_is_its_twin fails of larger ones).
SMALL = 2**51
_WHOLE, _WHOLE_BITS = 1.5 * 2.0**52, int(np.float64(1.5 * 2.0**52).view(np.int64))

_UP, _DOWN = np.float32(1 + 2.0**-22), np.float32(1 - 2.0**-22)
_CLEAR = np.float32(1 + 2.0**-20)  # see hamerly.py
_INFINITE = np.float32(np.inf)


class Weighing(NamedTuple):
    """Weights of rows. kind: 0 none, and the arrays are empty; 1 counts; 2 any. given: (m,) float64. counts: (m,)
    int64, as sums count them. rows: (m,) int64, of how many of the caller's each is made; empty where each is one."""

    kind: int
    given: Any
    counts: Any
    rows: Any


class Target(NamedTuple):
    """Centers of one assignment. centers: (k, d) float64. panels: (P, d, PANEL) float32, -2 z, of centers of zero
    beyond the last; squares: (K,), see Frame.least_scores, infinite for those. slack: (k,). offset: (d,), scale: of the
    frame, in the dtype that features are made in. per_norm, rest: of the margin. scored: whether there are scores;
    without, D decides alone."""

    centers: Any
    panels: Any
    squares: Any
    slack: Any
    offset: Any
    scale: Any
    per_norm: Any
    rest: Any
    scored: bool


class Bounds(NamedTuple):
    """upper, lower: (m,) float32, see HamerlyBounds. state: 0 there are none, 1 they are to be made, 2 they hold of the
    centers before, which moved by own and others, half_gap being that of these; (k,) float32 each. measure: whether a
    row's distance to its own center is measured before it is compared with all; relative and error are what that may
    be off by (distance_error_factors)."""

    upper: Any
    lower: Any
    state: int
    own: Any
    others: Any
    half_gap: Any
    measure: bool
    relative: Any
    error: Any


class Sums(NamedTuple):
    """value: (k, d + 1) int64, what is to be added to the sums of clusters; of no rows if they are not wanted. offset,
    scale: (d,) float64, of Scales. small: whether terms of rows of weight one are at most SMALL."""

    value: Any
    offset: Any
    scale: Any
    small: bool


class Buffers(NamedTuple):
    """What a block of rows needs. y: (BLOCK, d) float32, their features, and order: where these are; empty where
    features are kept. scores: (P * PANEL, BLOCK). norms, margins, best, second, nearest: (BLOCK,) float32, the last
    being numbers of centers, which are selected as scores are while they are float32 too; most: the upper bounds of
    best. index: which rows these are, and places: where their kept features are; some: which of them have to be seen
    to. moved: rows that changed their label, and left: the clusters they were in. terms: (d + 1,) int64, of a row."""

    y: Any
    order: Any
    some: Any
    scores: Any
    norms: Any
    margins: Any
    most: Any
    best: Any
    second: Any
    nearest: Any
    index: Any
    places: Any
    moved: Any
    left: Any
    terms: Any


class Features(NamedTuple):
    """y: (m, d) float32, all rows' features, and norms: (m,), their |y|^2, in the order of `_keep`. Empty where they
    are made as rows are read, norms also where it is the rows themselves that are read, and once."""

    y: Any
    norms: Any


# ---------------------------------------------------------------- scores


@njit(**_ANY_ORDER)
def _place(x: Any, i: int, offset: Any, scale: Any, y: Any, r: int) -> Any:
    """Row i's features, y[r]; returns |y|^2."""
    total = np.float32(0)
    for j in range(x.shape[1]):
        v = np.float32((x[i, j] - offset[j]) * scale)
        y[r, j] = v
        total += v * v
    return total


@njit(**_ANY_ORDER, forceinline=True)
def _norm(y: Any, i: int) -> Any:
    total = np.float32(0)
    for j in range(y.shape[1]):
        total += y[i, j] * y[i, j]
    return total


def _keep(x: Any, groups: Any, offsets: Any, scale: Any, y: Any, norms: Any) -> None:
    """The features (m, d) of all rows, and |y|^2 (m,), group by group, so that a pass over one reads memory as it lies;
    offsets: (G, d), of groups (m,), which are empty where there is one."""
    at = 0
    for g in range(len(offsets)):
        offset = offsets[g]
        for i in range(len(x)):
            if len(groups) == 0 or groups[i] == g:
                norms[at] = _place(x, i, offset, scale, y, at)
                at += 1


@njit(**_OPTIONS)
def _products(at: int, index: Any, m: int, panels: Any, scores: Any) -> None:
    """scores (P * PANEL, BLOCK) of the rows at index[:m], a multiple of STRIP, of features at an address."""
    p = 0
    while p < len(panels):
        left = len(panels) - p
        if left >= 3:
            for r in range(0, m, ROWS):
                tile_of_three(at, index, r, panels, p, scores)
        elif left == 2:
            for r in range(0, m, ROWS):
                tile_of_two(at, index, r, panels, p, scores)
        else:
            for r in range(0, m, STRIP):
                tile_of_one(at, index, r, panels, p, scores)
        p += 3


@njit(**_ANY_ORDER)
def _place_center(centers: Any, c: int, offset: Any, scale: float, panels: Any) -> float:
    """Center c's column in its panel; returns |z|^2."""
    p, lane, norm = c // PANEL, c % PANEL, 0.0
    for j in range(centers.shape[1]):
        z = (centers[c, j] - offset[j]) * scale
        panels[p, j, lane] = np.float32(-2.0 * z)
        norm += z * z
    return norm


def _place_centers(
    centers: Any, offset: Any, scale: float, error: float, panels: Any, squares: Any, slack: Any, norms: Any
) -> None:
    """Fill in a Target's panels, squares and slack as `Frame.least_scores` has them, and |z|^2 (k,). error: of a
    center's score for each unit of that."""
    panels[-1] = np.float32(0)
    for c in range(len(centers)):
        norms[c] = _place_center(centers, c, offset, scale, panels)
        squares[c] = np.float32(norms[c] - norms[c] * error)
        slack[c] = np.float32(2 * (norms[c] * error))


@njit(**_OPTIONS)
def _two_least(scores: Any, squares: Any, m: int, best: Any, second: Any, nearest: Any) -> None:
    """The least score of each row, whose it is, the smallest if several, and the next; by selections, four centers at
    a time, which LLVM turns into a handful of operations on eight rows each."""
    for r in range(m):
        best[r] = _INFINITE
        second[r] = _INFINITE
        nearest[r] = np.float32(0)
    for c in range(0, len(squares), TILE):
        s0, s1, s2, s3 = scores[c], scores[c + 1], scores[c + 2], scores[c + 3]
        q0, q1, q2, q3 = squares[c], squares[c + 1], squares[c + 2], squares[c + 3]
        n0, n1, n2, n3 = np.float32(c), np.float32(c + 1), np.float32(c + 2), np.float32(c + 3)
        for r in range(m):
            b, t, n = best[r], second[r], nearest[r]
            v = s0[r] + q0
            w = v if v > b else b
            t = w if w < t else t
            n = n0 if v < b else n
            b = v if v < b else b
            v = s1[r] + q1
            w = v if v > b else b
            t = w if w < t else t
            n = n1 if v < b else n
            b = v if v < b else b
            v = s2[r] + q2
            w = v if v > b else b
            t = w if w < t else t
            n = n2 if v < b else n
            b = v if v < b else b
            v = s3[r] + q3
            w = v if v > b else b
            t = w if w < t else t
            n = n3 if v < b else n
            b = v if v < b else b
            best[r], second[r], nearest[r] = b, t, n


@njit(**_ANY_ORDER)
def _own_square(x: Any, i: int, center: Any) -> float:
    """|x - c|^2 of row i, in any order: nearer to it than that of float32 features would be."""
    total = 0.0
    for j in range(x.shape[1]):
        step = float64(x[i, j]) - center[j]
        total += step * step
    return total


# ---------------------------------------------------------------- what exact/ defines


@njit(**_OPTIONS)
def _nearest_by_distance(x: Any, i: int, target: Any, scores: Any, r: int, most: Any) -> int:
    """The label of row i by D (Rule 1) among the centers whose score is no more than `most`. Four at a time: their sums
    wait for no one but themselves."""
    centers, squares, scored = target.centers, target.squares, target.scored
    k, d = centers.shape
    nearest, least, c = -1, np.inf, 0
    while c < k:
        found = 0
        n0 = n1 = n2 = n3 = 0
        while c < k and found < 4:
            if not scored or scores[c, r] + squares[c] <= most:
                if found == 0:
                    n0 = n1 = n2 = n3 = c
                elif found == 1:
                    n1 = c
                elif found == 2:
                    n2 = c
                else:
                    n3 = c
                found += 1
            c += 1
        if found == 0:
            break
        a = b = e = f = 0.0
        for j in range(d):
            v = float64(x[i, j])
            p, q, s, t = v - centers[n0, j], v - centers[n1, j], v - centers[n2, j], v - centers[n3, j]
            a += p * p
            b += q * q
            e += s * s
            f += t * t
        # In order: of equal distances the first center's counts. Numbers beyond `found` repeat n0 and win nothing.
        if a < least or nearest < 0:
            nearest, least = n0, a
        if b < least:
            nearest, least = n1, b
        if e < least:
            nearest, least = n2, e
        if f < least:
            nearest, least = n3, f
    return nearest


@njit(**_OPTIONS)
def _own_of_some(x: Any, first: int, labels: Any, centers: Any, rows: Any, own: Any, out: Any) -> int:
    """D of up to OWN rows from `first` to their own centers, or to the only one; returns how many. rows, own: (OWN,)
    int64, room."""
    m = min(OWN, len(x) - first)
    for r in range(OWN):
        rows[r] = first + min(r, m - 1)
        own[r] = labels[rows[r]] if len(centers) > 1 else 0  # otherwise there may be no labels
    own_distance_tile(x, rows, centers, own, out)
    return m


@njit(**_OPTIONS)
def _own_distance(x: Any, i: int, center: Any) -> float:
    total = 0.0
    for j in range(x.shape[1]):
        step = float64(x[i, j]) - center[j]
        total += step * step
    return total


@njit(**_OPTIONS)
def _weighed(term: Any, weight: Any) -> Any:
    """`fixed_point.weigh` of weights that are no counts."""
    if weight == np.rint(weight):
        return int64(term) * int64(weight)
    return int64(np.rint(term * weight))


@njit(**_OPTIONS)
def _whole(term: float) -> int:
    """The nearest whole number, of halves the even, of a term of 62 bits at most, in registers as those up to SMALL:
    the nearest multiple of 2**32, and what is left. Both are exact: what is left has no bit below the term's last."""
    high = term * 2.0**-32 + _WHOLE
    low = term - (high - _WHOLE) * 2.0**32
    return ((bits(high) - _WHOLE_BITS) << 32) + (bits(low + _WHOLE) - _WHOLE_BITS)


@njit(**_OPTIONS)
def _move_rows(
    x: Any,
    rows: Any,
    left: Any,
    m: int,
    labels: Any,
    kind: int,
    given: Any,
    counts: Any,
    value: Any,
    offset: Any,
    scale: Any,
    small: bool,
    terms: Any,
) -> None:
    """rows[:m] have left these clusters, unless that is negative, for those of their labels (Rule 3). All in one call,
    as one for each row takes longer than its terms (d + 1,); a loop to each kind, as LLVM makes vectors of what has no
    branches."""
    d = x.shape[1]
    for u in range(m):
        i, off = rows[u], left[u]
        to = labels[i]
        if kind == 2:
            weight = given[i]
            if weight == np.rint(weight):  # as `_weighed` has it
                for j in range(d):
                    terms[j] = _whole((float64(x[i, j]) - offset[j]) * scale[j]) * int64(weight)
            else:
                for j in range(d):
                    terms[j] = _whole(np.rint((float64(x[i, j]) - offset[j]) * scale[j]) * weight)
        elif kind == 1:
            for j in range(d):
                terms[j] = _whole((float64(x[i, j]) - offset[j]) * scale[j]) * counts[i]
        elif small:
            for j in range(d):
                terms[j] = bits((float64(x[i, j]) - offset[j]) * scale[j] + _WHOLE) - _WHOLE_BITS
        else:
            for j in range(d):
                terms[j] = _whole((float64(x[i, j]) - offset[j]) * scale[j])
        terms[d] = counts[i] if kind else int64(1)
        for j in range(d + 1):
            value[to, j] += terms[j]
        if off >= 0:
            for j in range(d + 1):
                value[off, j] -= terms[j]


# ---------------------------------------------------------------- passes


@njit(**_OPTIONS)
def _buffers(panels: int, width: int, d: int, made: bool) -> Any:
    """Buffers for rows of d features, of which scores see `width`; made: whether these are made in them."""
    return Buffers(
        np.empty((BLOCK if made else 0, width), np.float32),
        np.arange(BLOCK),
        np.empty(BLOCK, np.int64),
        np.empty((panels * PANEL, BLOCK), np.float32),
        np.empty(BLOCK, np.float32),
        np.empty(BLOCK, np.float32),
        np.empty(BLOCK, np.float32),
        np.empty(BLOCK, np.float32),
        np.empty(BLOCK, np.float32),
        np.empty(BLOCK, np.float32),
        np.empty(BLOCK, np.int64),
        np.empty(BLOCK, np.int64),
        np.empty(BLOCK, np.int64),
        np.empty(BLOCK, np.int64),
        np.empty(d + 1, np.int64),
    )


def _assign(
    x: Any, kept: Any, groups: Any, g: int, weights: Any, target: Any, bounds: Any, sums: Any, labels: Any
) -> Any:
    """Label the rows of group g, or all where groups (m,) are empty; returns how many of the caller's rows changed, how
    many were skipped by their bounds, and how many the scores left to D. kept: their Features."""
    buffers = _buffers(len(target.panels), x.shape[1] if target.scored else 0, x.shape[1], len(kept.y) == 0)
    index, places, found = buffers.index, buffers.places, np.zeros(3, np.int64)
    if len(groups) == 0 and bounds.state < 2:
        for first in range(0, len(x), BLOCK):
            m = min(BLOCK, len(x) - first)
            for r in range(m):
                index[r] = places[r] = first + r
            _assign_block(x, kept, weights, target, bounds, sums, labels, m, buffers, found)
        return found
    filled = before = 0
    for i in range(len(groups)):
        before += groups[i] < g
    for i in range(len(x)):
        place = i
        if len(groups):
            if groups[i] != g:
                continue
            place = before
            before += 1
        if bounds.state == 2:
            n = labels[i]
            upper = (bounds.upper[i] + bounds.own[n]) * _UP
            lower = max(bounds.lower[i] - bounds.others[n], np.float32(0)) * _DOWN
            clear = max(lower, bounds.half_gap[n])
            if bounds.measure and upper * _CLEAR >= clear:
                upper = np.float32(np.sqrt(_own_square(x, i, target.centers[n])) * target.scale) * bounds.relative
                upper += bounds.error
            bounds.upper[i], bounds.lower[i] = upper, lower
            if upper * _CLEAR < clear:
                found[1] += 1
                continue
        index[filled], places[filled] = i, place
        filled += 1
        if filled == BLOCK:
            _assign_block(x, kept, weights, target, bounds, sums, labels, filled, buffers, found)
            filled = 0
    if filled:
        _assign_block(x, kept, weights, target, bounds, sums, labels, filled, buffers, found)
    return found


@njit(**_OPTIONS)
def _to_see_to(index: Any, m: int, buffers: Any, slack: Any, labels: Any) -> int:
    """Which of m rows are in doubt or change their label, buffers.some, and how many."""
    best, most, second, margins, some = buffers.best, buffers.most, buffers.second, buffers.margins, buffers.some
    found = 0
    for r in range(m):
        label = int(buffers.nearest[r])
        most[r] = best[r] + slack[label]
        some[found] = r
        certain = second[r] - most[r] > margins[r]  # test_certificate.test_near_ties_are_decided_by_distance
        found += not (certain and label == labels[index[r]])
    return found


@njit(**_OPTIONS)
def _assign_block(
    x: Any, kept: Any, weights: Any, target: Any, bounds: Any, sums: Any, labels: Any, m: int, buffers: Any, found: Any
) -> None:
    index, norms, best, second = buffers.index, buffers.norms, buffers.best, buffers.second
    scores, nearest, most, places = buffers.scores, buffers.nearest, buffers.most, buffers.places
    margins, some, count = buffers.margins, buffers.some, m
    copies, moved, left, moves = weights.rows, buffers.moved, buffers.left, 0
    if target.scored:
        width = -(-m // STRIP) * STRIP
        for r in range(m, width):
            index[r], places[r] = index[m - 1], places[m - 1]
        if len(kept.y):
            for r in range(m):
                norms[r] = kept.norms[places[r]] if len(kept.norms) else _norm(kept.y, places[r])
            _products(address(kept.y), places, width, target.panels, scores)
        else:
            for r in range(width):
                norms[r] = _place(x, index[r], target.offset, target.scale, buffers.y, r)
            _products(address(buffers.y), buffers.order, width, target.panels, scores)
        _two_least(scores, target.squares, width, best, second, nearest)
        for r in range(m):
            margins[r] = norms[r] * target.per_norm + target.rest
        count = _to_see_to(index, m, buffers, target.slack, labels)
    for u in range(count):
        r = some[u] if target.scored else u
        i = index[r]
        if not target.scored:
            label = _nearest_by_distance(x, i, target, scores, r, _INFINITE)
        elif second[r] - most[r] > margins[r]:
            label = int(nearest[r])
        else:
            found[2] += 1
            second[r] = best[r]  # all that is known of the others, see assign.nearest
            most[r] += margins[r]
            label = _nearest_by_distance(x, i, target, scores, r, most[r])
        before = labels[i]
        if label != before:
            labels[i] = label
            found[0] += copies[i] if len(copies) else 1
            moved[moves], left[moves] = i, before
            moves += 1
    if moves and len(sums.value):
        value, offset, scale, small = sums.value, sums.offset, sums.scale, sums.small
        kind, given, counts = weights.kind, weights.given, weights.counts
        _move_rows(x, moved, left, moves, labels, kind, given, counts, value, offset, scale, small, buffers.terms)
    if bounds.state:
        for r in range(m):  # in registers, if nothing is scattered yet
            upper, lower = most[r] + norms[r] + margins[r], second[r] + norms[r] - margins[r]
            most[r] = np.sqrt(upper if upper > 0 else np.float32(0)) * _UP
            second[r] = np.sqrt(lower if lower > 0 else np.float32(0)) * _DOWN
        for r in range(m):
            bounds.upper[index[r]], bounds.lower[index[r]] = most[r], second[r]


def _inertia(x: Any, weights: Any, labels: Any, centers: Any, coarse: float, fine: float) -> Any:
    """The two sums of Inertia; coarse, fine: the scales."""
    rows, own, distances = np.empty(OWN, np.int64), np.empty(OWN, np.int64), np.empty(OWN)
    total = np.zeros(2, np.int64)
    for first in range(0, len(x), OWN):
        m = _own_of_some(x, first, labels, centers, rows, own, distances)
        for i in range(first, first + m):
            scaled, copies = distances[i - first] * coarse, int64(1)
            if weights.kind == 1:
                copies = weights.counts[i]
            elif weights.kind == 2:
                weight = weights.given[i]
                if weight == np.rint(weight):
                    copies = int64(weight)
                else:
                    scaled *= weight
            whole = np.rint(scaled)
            total[0] += int64(whole) * copies
            total[1] += int64(np.rint((scaled - whole) * fine)) * copies
    return total


def _own_distances(x: Any, labels: Any, centers: Any, out: Any) -> None:
    """D of rows to their own centers, or to the only one, in out (m,)."""
    rows, own, distances = np.empty(OWN, np.int64), np.empty(OWN, np.int64), np.empty(OWN)
    for first in range(0, len(x), OWN):
        m = _own_of_some(x, first, labels, centers, rows, own, distances)
        out[first : first + m] = distances[:m]


@njit(**_OPTIONS)
def _is_at(x: Any, i: int, locations: Any) -> bool:
    """Whether row i is at any of these (p, d)."""
    for p in range(len(locations)):
        j = 0
        while j < x.shape[1] and float64(x[i, j]) == locations[p, j]:
            j += 1
        if j == x.shape[1]:
            return True
    return False


def _cluster_ranges(x: Any, labels: Any, place: Any, without: Any, low: Any, high: Any, step: int) -> None:
    """Widen low and high (m, d), of x's dtype or one that has infinities, to hold one of each so many rows:
    those at place[label], if that is not negative, but for those at locations (p, d)."""
    some = len(without) > 0
    for i in range(0, len(x), step):
        at = place[labels[i]]
        if at >= 0 and not (some and _is_at(x, i, without)):
            for j in range(x.shape[1]):
                v, least, most = x[i, j], low[at, j], high[at, j]
                low[at, j] = v if v < least else least
                high[at, j] = v if v > most else most


def _cluster_sums(
    x: Any, labels: Any, place: Any, without: Any, offset: Any, scale: Any, weights: Any, sums: Any
) -> None:
    """Add the terms of the same rows to sums (m, d + 1), at scales of their clusters' own (m, d). weights: none, or
    counts."""
    d = x.shape[1]
    for i in range(len(x)):
        at = place[labels[i]]
        if at >= 0 and not _is_at(x, i, without):
            count = weights.counts[i] if weights.kind else int64(1)
            sums[at, d] += count
            for j in range(d):
                sums[at, j] += int64(np.rint((float64(x[i, j]) - offset[at, j]) * scale[at, j])) * count


def _rounded(x: Any, centers: Any, products: Any, norms: Any, own: Any, errors: Any, units: float, out: Any) -> int:
    """The roots of D of rows to all centers as float32, out (m, k); returns how many float64 products left to D itself.
    products: y.z (m, k), norms: |y|^2 (m,) and own: |z|^2 (k,) in the frame; errors: what a distance errs by for each
    unit of these two, and besides; units: the square of a distance in the frame is so many times D's (a power of two).
    See `Frame.bounds_of_products`."""
    m, k = products.shape
    doubts = 0
    for i in range(m):
        norm, error, open_ = norms[i], norms[i] * errors[0] + errors[2], 0
        for c in range(k):
            square, off = norm + (own[c] - 2 * products[i, c]), error + own[c] * errors[1]
            low = np.float32(np.sqrt(max(square - off, 0.0) * units))
            # test_numba_passes.test_distances_in_float32_are_rounded_ones fails if D is not asked where they differ
            open_ += low != np.float32(np.sqrt((square + off) * units))
            out[i, c] = low
        if open_:
            doubts += open_
            for c in range(k):
                square, off = norm + (own[c] - 2 * products[i, c]), error + own[c] * errors[1]
                if np.float32(np.sqrt(max(square - off, 0.0) * units)) != np.float32(np.sqrt((square + off) * units)):
                    out[i, c] = np.sqrt(_own_distance(x, i, centers[c]))
    return doubts


def _distances(x: Any, centers: Any, one: float, out: Any) -> None:
    """D of rows to all centers, out (m, k); one: 1.0, see `distance_tile`."""
    k, d = centers.shape
    panels = np.zeros((2 * -(-k // (2 * EXACT_PANEL)), d, EXACT_PANEL))
    for c in range(k):
        for j in range(d):
            panels[c // EXACT_PANEL, j, c % EXACT_PANEL] = centers[c, j]
    y, order = np.zeros((STRIP, d)), np.arange(STRIP)
    found = np.empty((STRIP, len(panels) * EXACT_PANEL))
    for first in range(0, len(x), STRIP):
        m = min(STRIP, len(x) - first)
        for r in range(m):
            for j in range(d):
                y[r, j] = x[first + r, j]
        for p in range(0, len(panels), 2):
            for r in range(0, STRIP, ROWS):
                distance_tile(address(y), order, r, panels, p, found, one)
        for r in range(m):
            out[first + r] = found[r, :k]


# ---------------------------------------------------------------- compiled


class Passes(NamedTuple):
    """The passes for rows of one dtype."""

    assign: Any
    inertia: Any
    own_distances: Any
    cluster_ranges: Any
    cluster_sums: Any
    distances: Any
    rounded: Any
    keep: Any


def _vector(dtype: Any) -> Any:
    return types.Array(dtype, 1, "C")


def _matrix(dtype: Any) -> Any:
    return types.Array(dtype, 2, "C")


_PANELS = types.Array(float32, 3, "C")
_ONCE = tuple(types.Array(kind, 1, "C", readonly=True) for kind in (float64, int64, int64))
WEIGHING = types.NamedTuple((int64, *_ONCE), Weighing)
SUMS = types.NamedTuple((_matrix(int64), _vector(float64), _vector(float64), boolean), Sums)


@cache
def place_centers() -> Any:
    """`_place_centers`, compiled as `passes` are."""
    centers, floats, singles = types.Array(float64, 2, "C", readonly=True), _vector(float64), _vector(float32)
    return compiled(_place_centers, centers, floats, float64, float64, _PANELS, singles, singles, floats)


def compiled(function: Any, *arguments: Any, returns: Any = void) -> Any:
    """The function compiled for arguments of these types, or as it was compiled and kept before."""
    signature = returns(*arguments)
    try:
        kept = njit(cache=True, **_OPTIONS)(function)
    except RuntimeError:  # nowhere to keep the code
        return njit(signature, **_OPTIONS)(function)
    numba_support.forget_others(kept.stats.cache_path)
    kept.compile(signature)
    kept.disable_compile()
    return kept


@cache
def passes(dtype: np.dtype, contiguous: bool) -> Passes:
    """The passes for rows of float32, float64 or uint8, C-contiguous or of any strides.

    The first process to ask compiles them, which takes some seconds, and keeps the code where numba keeps it
    (NUMBA_CACHE_DIR); others read it.
    """
    value = from_dtype(dtype)
    placed = float64 if dtype == np.float64 else float32
    wide = value if dtype.kind == "f" else float64  # which has infinities
    x = types.Array(value, 2, "C" if contiguous else "A", readonly=True)
    floats, ints, singles = _vector(float64), _vector(int64), _vector(float32)
    target = types.NamedTuple(
        (_matrix(float64), _PANELS, singles, singles, _vector(placed), placed, float32, float32, boolean), Target
    )
    bounds = types.NamedTuple((singles, singles, int64, singles, singles, singles, boolean, float32, float32), Bounds)
    sums, weights = SUMS, WEIGHING
    kept = types.NamedTuple((types.Array(float32, 2, "C", readonly=True), singles), Features)
    given = types.Array(float64, 2, "C", readonly=True)
    labels, groups = types.Array(int32, 1, "C"), types.Array(uint8, 1, "C")

    return Passes(
        assign=compiled(_assign, x, kept, groups, int64, weights, target, bounds, sums, labels, returns=ints),
        inertia=compiled(_inertia, x, weights, labels, _matrix(float64), float64, float64, returns=ints),
        own_distances=compiled(_own_distances, x, labels, _matrix(float64), floats),
        cluster_ranges=compiled(_cluster_ranges, x, labels, ints, given, _matrix(wide), _matrix(wide), int64),
        cluster_sums=compiled(_cluster_sums, x, labels, ints, given, given, given, weights, _matrix(int64)),
        distances=compiled(_distances, x, _matrix(float64), float64, _matrix(float64)),
        rounded=compiled(
            _rounded,
            x,
            _matrix(float64),
            _matrix(float64),
            floats,
            floats,
            floats,
            float64,
            _matrix(float32),
            returns=int64,
        ),
        keep=compiled(_keep, x, groups, _matrix(placed), placed, _matrix(float32), singles),
    )


def compilable(x: NDArray[Any]) -> NDArray[Any]:
    """Rows in a dtype that there are passes for, if they are not: float16, for which processors have little."""
    return x.astype(np.float32) if x.dtype == np.float16 else x


def passes_for(x: NDArray[Any]) -> Passes:
    """Of rows as they lie, `compilable` ones."""
    return passes(x.dtype, x.flags.c_contiguous)
