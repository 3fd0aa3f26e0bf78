"""Error diffusion in NumPy, many pixels at a time.

A pixel waits for its left neighbour and three above, so those with the same x + 2 y can be done at once: about w + 2 h
steps of up to h pixels.

Of thin pictures these are few, and steps are cut into segments that are done side by side. Each begins some steps
early, as if nothing had been passed on yet: what was is halved with every pixel or two, and what rounding leaves is
soon gone. Where a segment then begins with just the errors that the one before ends with, bit for bit, it is what
diffusion gives; where it does not, as in smooth pictures, it is done again with these.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gpukmeans.image.diffusion_plan import DiffusionPlan
from gpukmeans.thread_limits import one_blas_thread

# How many steps early a segment begins: in photographs of up to 16 rows errors met within 34.
_WARM = 48

# Pixels of a step that are worth as many segments; and how many times _WARM a segment has at least.
_LANES, _LENGTH = 512, 4

# How often segments are done again, and of how many it is worth while: else all waits for itself, step by step.
_AGAIN, _FEW = 8, 1 / 4


def diffuse_in_waves(plan: DiffusionPlan, out: NDArray[Any]) -> None:
    """Fill out (h, w) with the indices that the plan asks for."""
    height, width, c = plan.pixels.shape
    choose, found = _choice(plan, height), out.reshape(-1)
    # Errors of the last three steps, by row: one, two and three pixels ago. Row -1 is the last, always zero
    # (test_dither.test_diffusion_is_the_loop fails without it).
    one, two, three = (np.zeros((height + 1, c), np.int32) for _ in range(3))
    with one_blas_thread():
        for step in range(width + 2 * (height - 1)):
            first, last = max(0, (step - width + 2) // 2), min(height - 1, step // 2)
            rows = slice(first, last + 1)
            above = slice(first - 1, last) if first else np.arange(-1, last)
            at = np.arange(first, last + 1) * (width - 2) + step
            labels, error = choose(at, 7 * one[rows] + 3 * one[above] + 5 * two[above] + three[above])
            found[at] = labels
            one, two, three = three, one, two
            one[rows] = error
            # Rows that have ended, and the one that begins next, have no error of this step
            # (test_dither.test_diffusion_is_the_loop fails of what stood there).
            one[:first] = 0


def segments(height: int, width: int) -> int:
    """Into how many segments the steps of a picture are cut; 1 if they are not."""
    steps = width + 2 * (height - 1)
    at_once = height * width / steps
    return max(1, min(steps // (_LENGTH * _WARM), int(_LANES / at_once)))


def diffuse_in_segments(plan: DiffusionPlan, out: NDArray[Any]) -> bool:
    """The same in segments. False if too many of them do not begin as they should: out is then to be filled anew."""
    height, width, c = plan.pixels.shape
    steps, several = width + 2 * (height - 1), segments(height, width)
    length = -(-steps // several)
    begins = np.arange(-(-steps // length)) * length
    lanes = _Lanes(plan, out, len(begins))
    nothing = np.zeros((3, len(begins), lanes.rows, c), np.int32)
    given = lanes.run(begins - _WARM, _WARM, nothing, write=False)
    ends = lanes.run(begins, length, given, write=True)
    for left in range(_AGAIN, -1, -1):
        # test_dither.test_segments_that_begin_otherwise_are_done_again fails if they are left as they are.
        wrong = np.flatnonzero((given[:, 1:] != ends[:, :-1]).any(axis=(0, 2, 3))) + 1
        if len(wrong) == 0:
            return True
        if left == 0 or len(wrong) > _FEW * len(begins):
            return False
        given[:, wrong] = ends[:, wrong - 1]
        ends[:, wrong] = lanes.run(begins[wrong], length, given[:, wrong], write=True)
    raise AssertionError("the last turn returns")


class _Lanes:
    """Segments side by side. Of each, errors are kept of as many rows as a step may touch, in a ring: row y at y mod
    `rows`, which is free again once that row is needed no more."""

    def __init__(self, plan: DiffusionPlan, out: NDArray[Any], most: int) -> None:
        self._height, self._width, self._c = plan.pixels.shape
        self.rows = min(self._height, (self._width + 1) // 2 + 2)
        self._choose, self._found = _choice(plan, most * self.rows), out.reshape(-1)

    def run(self, begins: NDArray[Any], steps: int, errors: NDArray[np.int32], *, write: bool) -> NDArray[np.int32]:
        """Do so many steps of n segments, from step begins (n,) on. errors, and what is returned: (3, n, rows, c), of
        the last three steps, the latest first. write: whether to write indices."""
        n, rows, height, width = len(begins), self.rows, self._height, self._width
        one, two, three = (each.reshape(n * rows, -1).copy() for each in errors)
        slots = np.arange(rows)
        above_of = (np.arange(n)[:, None] * rows + (slots - 1) % rows).reshape(-1)
        with one_blas_thread():
            for i in range(steps):
                step = (begins + i)[:, None]
                first = np.maximum(0, (step - width + 2) // 2)
                y = first + (slots - first) % rows
                x = step - 2 * y
                here = np.flatnonzero((x >= 0) & (x < width) & (y < height))
                y, x = y.reshape(-1)[here], x.reshape(-1)[here]
                above = above_of[here]
                # The first row has none above it, whose place is the last one's.
                share = 3 * one[above] + 5 * two[above] + three[above]
                share[y == 0] = 0
                at = y * width + x
                labels, error = self._choose(at, share + 7 * one[here])
                if write:
                    self._found[at] = labels
                one, two, three = three, one, two
                one[:] = 0
                one[here] = error
        return np.stack([each.reshape(n, rows, -1) for each in (one, two, three)])


def _choice(
    plan: DiffusionPlan, most: int
) -> Callable[[Any, NDArray[np.int32]], tuple[NDArray[Any], NDArray[np.int32]]]:
    """A function that says, of up to so many pixels `at` (m,) and 16 times what is passed to them (m, c), their indices
    (m,) and errors (m, c)."""
    c = plan.pixels.shape[2]
    flat, strengths = plan.pixels.reshape(-1, c), plan.strength.reshape(-1)
    colors, top = plan.colors, plan.top
    # Scores |p|^2 - 2 p.v of levels are integers below 2**24, or 2**53, and so exact in any order of summation
    # (test_dither.test_neighbours_among_16_bits_are_told_apart fails of float32).
    exact: Any = np.float32 if top == 255 else np.float64
    wide = colors.astype(exact)
    columns = np.concatenate([wide.T * exact(-2), np.sum(wide**2, axis=1)[None]]).astype(exact)
    values = np.ones((most, c + 1), exact)

    def choose(at: Any, share: NDArray[np.int32]) -> tuple[NDArray[Any], NDArray[np.int32]]:
        strength = strengths[at]
        levels = flat[at] + ((share * strength[:, None] + 2048) >> 12)
        np.clip(levels, 0, top, out=levels)
        values[: len(at), :c] = levels
        labels = (values[: len(at)] @ columns).argmin(axis=1)
        error = np.clip(levels, plan.low, plan.high) - colors[labels]
        cap = np.where(strength == 256, top, plan.cap[labels])[:, None]
        np.clip(error, -cap, cap, out=error)
        unchanged = strength < 0
        labels[unchanged], error[unchanged] = plan.fixed_index, 0
        return labels, error

    return choose
