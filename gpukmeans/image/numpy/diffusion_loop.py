"""Error diffusion a pixel at a time: compiled, where numba is installed and the picture is worth it; and interpreted,
for thin pictures, where few pixels can be done at once.

Either way it is the same function, and of whole numbers: there is one answer. The nearest color is looked for among
candidates alone: levels are cut into some thousands of cells, and a color is a candidate of a cell unless another
color's farthest distance from the cell is less than its nearest.
"""

from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gpukmeans import numba_support
from gpukmeans.image.diffusion_plan import DiffusionPlan

# Leading bits of a level that tell cells apart, by channels: 4,096 cells, and 256 of one channel.
_BITS = {1: 8, 3: 4, 4: 3}

# From so many pixels for each color on one bit more pays, and from so many two: each halves the candidates, and takes
# some times as long to list them.
_FINER, _FINEST = 2**10, 2**13

# Up to so many bits of all channels cells are compared with all colors, and beyond with those of a cell twice as wide.
_AT_ONCE = 9

# What a step of waves takes, in pixels of the interpreted loop: some 60 microseconds against 10.
_STEP = 6

# From so many pixels on the compiled loop saves more than its start takes, half a second or, the first time of all,
# some seconds. In steps of waves, which take as long however few pixels there are.
_FEW_STEPS = 8000


def serves(height: int, width: int, k: int, segments: int = 1) -> bool:
    """Whether a picture is diffused in a loop; else it is in waves, with so many segments side by side."""
    return _compiles(height, width, k, segments) or (segments == 1 and _is_thin(height, width))


def _is_thin(height: int, width: int) -> bool:
    """Whether a loop takes less time, although it is interpreted."""
    return height * width < _STEP * (width + 2 * (height - 1))


def _compiles(height: int, width: int, k: int, segments: int = 1) -> bool:
    """Whether a compiled loop pays."""
    steps = (width + 2 * (height - 1)) / segments + height * width * k / 2**21
    return steps > _FEW_STEPS and numba_support.works()


def diffuse_in_a_loop(plan: DiffusionPlan, out: NDArray[Any]) -> None:
    """Fill out (h, w) with the indices that the plan asks for."""
    height, width, c = plan.pixels.shape
    each = out.size / len(plan.colors)
    bits = _BITS[c] + (c > 1) * ((each > _FINER) + (each > _FINEST))
    starts, candidates = candidates_of_cells(plan.colors, plan.top, bits)
    compiled = _compiles(height, width, len(plan.colors))
    # One row more of errors than pixels at either end.
    errors = np.zeros(2 * (width + 2) * c, np.int64)
    arrays = [plan.pixels, plan.strength, plan.colors, starts, candidates, plan.cap, errors]
    flat = [each.reshape(-1) for each in arrays]
    # The channels are as many as these have, which is known when the loop is compiled: a third of its time.
    limits = tuple(plan.low.tolist()), tuple(plan.high.tolist())
    numbers = height, width, (8 if plan.top == 255 else 16) - bits, bits, plan.top, plan.fixed_index
    if compiled:
        _compiled()(*flat, *limits, *numbers, out.reshape(-1))
    else:  # lists, whose items are integers of Python, are several times as fast as arrays here
        found = [0] * out.size
        given: list[Any] = [*(each.tolist() for each in flat), *limits, *numbers, found]
        _diffuse(*given)
        out.reshape(-1)[:] = found


def candidates_of_cells(colors: NDArray[np.int32], top: int, bits: int) -> tuple[NDArray[Any], NDArray[Any]]:
    """For each of 2**(bits c) cells, by the leading bits of its levels, channel 0 first, the colors (k, c) that may be
    nearest to a level of it, ascending: those of cell i are candidates[starts[i] : starts[i + 1]]."""
    c = colors.shape[1]
    if bits == 1 or bits * c <= _AT_ONCE:
        cells, color = np.divmod(np.arange(len(colors) << bits * c), len(colors))
        return _possible(colors, top, bits, cells, color, np.arange(1 << bits * c) * len(colors))
    # What may be nearest in a part of a cell may be so in the cell.
    firsts, found = candidates_of_cells(colors, top, bits - 1)
    counts, cells = np.diff(firsts), np.arange(len(firsts) - 1)
    side, parts = 2 ** (bits - 1), []
    for part in range(1 << c):
        # In each channel the cell's digit, and one bit more.
        own = sum((cells >> (bits - 1) * j & side - 1) << bits * j + 1 | (part >> j & 1) << bits * j for j in range(c))
        starts, kept = _possible(colors, top, bits, np.repeat(own, counts), found, firsts[:-1])
        parts.append((own, starts, kept))
    lengths = np.empty(1 << bits * c, np.int64)
    for own, starts, _ in parts:
        lengths[own] = np.diff(starts)
    begins = np.concatenate([np.zeros(1, np.int64), np.cumsum(lengths)])
    candidates = np.empty(begins[-1], np.int32)
    for own, starts, kept in parts:
        candidates[np.repeat(begins[own] - starts[:-1], np.diff(starts)) + np.arange(len(kept))] = kept
    return begins, candidates


def _possible(
    colors: NDArray[np.int32], top: int, bits: int, cells: Any, indices: Any, firsts: NDArray[Any]
) -> tuple[NDArray[Any], NDArray[np.int32]]:
    """Of pairs (m,) of cells and colors those whose color is a candidate, as `candidates_of_cells` has them. firsts:
    where each cell's pairs begin."""
    c, wide = colors.shape[1], (top + 1) >> bits
    nearest, farthest = np.zeros(len(cells), np.int64), np.zeros(len(cells), np.int64)
    for j in range(c):
        low = (cells >> bits * (c - 1 - j) & 2**bits - 1) * wide
        above = colors[indices, j] - low
        below = wide - 1 - above  # what the cell's largest level is above the color
        nearest += np.maximum(np.maximum(-above, -below), 0) ** 2
        farthest += np.maximum(above, below) ** 2
    counts = np.diff(firsts, append=len(cells))
    possible = nearest <= np.repeat(np.minimum.reduceat(farthest, firsts), counts)
    starts = np.concatenate([np.zeros(1, np.int64), np.cumsum(np.add.reduceat(possible, firsts, dtype=np.int64))])
    return starts, indices[possible].astype(np.int32)


@cache
def _compiled() -> Any:
    import numba

    return numba.njit(cache=True, nogil=True)(_diffuse)


def _diffuse(  # type: ignore[no-untyped-def]
    pixels,
    strengths,
    colors,
    starts,
    candidates,
    caps,
    errors,
    low,
    high,
    height,
    width,
    shift,
    bits,
    top,
    fixed_index,
    out,
):
    c = len(low)
    # errors holds two rows of (width + 2) c: what is passed to this row, and to the next; pixel x's are at x + 1.
    row = (width + 2) * c
    here, below = 0, row
    i = 0
    for _ in range(height):
        for x in range(below, below + row):
            errors[x] = 0
        for x in range(width):
            strength = strengths[i]
            at = here + (x + 1) * c
            if strength < 0:
                out[i] = fixed_index
                i += 1
                continue
            cell = 0
            for j in range(c):
                level = pixels[i * c + j] + ((errors[at + j] * strength + 2048) >> 12)
                level = min(max(level, 0), top)
                errors[at + j] = level
                cell = cell << bits | level >> shift
            label, best = 0, -1
            for place in range(starts[cell], starts[cell + 1]):
                color = candidates[place]
                distance = 0
                for j in range(c):
                    step = errors[at + j] - colors[color * c + j]
                    distance += step * step
                # Candidates ascend, so that the first of equals is kept
                # (test_dither.test_ties_go_to_the_least_index fails of the last).
                if best < 0 or distance < best:
                    label, best = color, distance
            out[i] = label
            cap = top if strength == 256 else caps[label]
            for j in range(c):
                level = min(max(errors[at + j], low[j]), high[j])
                error = min(max(level - colors[label * c + j], -cap), cap)
                errors[at + c + j] += 7 * error
                errors[below + x * c + j] += 3 * error
                errors[below + (x + 1) * c + j] += 5 * error
                errors[below + (x + 2) * c + j] += error
            i += 1
        here, below = below, here
