"""Error diffusion in NumPy, many pixels at a time.

A pixel waits for its left neighbour and three above, so those with the same x + 2 y can be done at once: about w + 2 h
steps of up to h pixels.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from gpukmeans.thread_limits import one_blas_thread


def diffuse_in_waves(plan: Any, out: NDArray[Any]) -> None:
    """Fill out (h, w) with the indices that diffusion.Plan asks for."""
    height, width, c = plan.pixels.shape
    flat, strengths, found = plan.pixels.reshape(-1, c), plan.strength.reshape(-1), out.reshape(-1)
    colors, top = plan.colors, plan.top
    # Scores |p|^2 - 2 p.v of levels are integers below 2**24, or 2**53, and so exact in any order of summation
    # (test_dither.test_neighbours_among_16_bits_are_told_apart fails of float32).
    exact: Any = np.float32 if top == 255 else np.float64
    wide = colors.astype(exact)
    columns = np.concatenate([wide.T * exact(-2), np.sum(wide**2, axis=1)[None]]).astype(exact)
    # Errors of the last three steps, by row: one, two and three pixels ago. Row -1 is the last, always zero
    # (test_dither.test_diffusion_is_the_loop fails without it).
    one, two, three = (np.zeros((height + 1, c), np.int32) for _ in range(3))
    values = np.ones((height, c + 1), exact)
    with one_blas_thread():
        for step in range(width + 2 * (height - 1)):
            first, last = max(0, (step - width + 2) // 2), min(height - 1, step // 2)
            rows = slice(first, last + 1)
            above = slice(first - 1, last) if first else np.arange(-1, last)
            at = np.arange(first, last + 1) * (width - 2) + step
            strength = strengths[at]
            share = 7 * one[rows] + 3 * one[above] + 5 * two[above] + three[above]
            levels = flat[at] + ((share * strength[:, None] + 2048) >> 12)
            np.clip(levels, 0, top, out=levels)
            values[: len(at), :c] = levels
            labels = (values[: len(at)] @ columns).argmin(axis=1)
            error = np.clip(levels, plan.low, plan.high) - colors[labels]
            cap = np.where(strength == 256, top, plan.cap[labels])[:, None]
            np.clip(error, -cap, cap, out=error)
            unchanged = strength < 0
            labels[unchanged], error[unchanged] = plan.fixed_index, 0
            found[at] = labels
            one, two, three = three, one, two
            one[rows] = error
            # Rows that have ended, and the one that begins next, have no error of this step
            # (test_dither.test_diffusion_is_the_loop fails of what stood there).
            one[:first] = 0
