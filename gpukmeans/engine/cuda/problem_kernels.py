"""A function for each kernel of whole_fits.cu, in which a block takes a whole problem; as kernels.py has others.

x: the rows of all problems, (m, d), one problem after another; weights: (m,), or None.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from gpukmeans.engine.cuda.device import BLOCK, MORE_SHARED, SHARED, Gpu

# Features that a thread holds in registers: of more they spill, and rows are read from memory, in the frame.
MOST_HELD = 16

# Centers whose scores are made together, and candidates of k-means++ that are measured together: GROUP and TOGETHER.
_GROUP, _TOGETHER = 8, 4


class ProblemArrays(NamedTuple):
    """What is known of b problems on the device. counts: (b, 3) int64, first row, rows, total weight as sums count it.
    numbers: (b, 8 + 6 d) float64, limit and most_variance of StackDoubt, the frame's scale (0 for none), 2**exponent
    and twice the fractions of Weights, ceil_log2 of their total and of their copies, and widest of StackDoubt; then, d
    each, low, high, offset, scale and step of Scales, and the frame's offset."""

    counts: Any
    numbers: Any


def options(d: int) -> tuple[str, ...]:
    """The compiler's, for problems of d features."""
    return (f"-DD_FEW={-(-d // 4) * 4 if d <= MOST_HELD else 0}",)


def framed_words(rows: int, d: int) -> int:
    """float32 of memory that rows in the frame, and their norms, need on the device, if threads do not hold them."""
    return rows * 4 * (-(-d // 4) + 1) if d > MOST_HELD else 0


def candidates(trials: int) -> int:
    """How many are measured, where so many are drawn."""
    return -(-trials // _TOGETHER) * _TOGETHER


def rows_of_means(k: int, trials: int) -> int:
    """Rows of shared memory that means, or candidates, need."""
    return max(k, candidates(trials))


def shared(k: int, d: int, rows: int) -> int:
    """Bytes that a block keeps a problem of k clusters in; see Shared in whole_fits.cu."""
    padded, width = -(-k // _GROUP) * _GROUP, -(-d // 4) * 4
    doubles = rows * d + (rows * d & 1) + k * d + k + k * (d + 1) + width
    return 8 * doubles + 4 * padded * (width + 2)


def fits(k: int, d: int, trials: int, *, tensor_cores: bool) -> bool:
    """Whether a block has room for a problem. tensor_cores: of Gpu."""
    return shared(k, d, rows_of_means(k, trials)) <= (MORE_SHARED if tensor_cores else SHARED)


def problem_ranges(gpu: Gpu, *, x: Any, counts: Any, ranges: Any) -> None:
    """ranges: (b, 2, d) float64, become least and largest values; NaN where one is. counts: see ProblemArrays."""
    d = np.int32(x.shape[1])
    gpu.run(*("whole_fits", "problem_ranges", len(ranges), BLOCK, x, counts, d, ranges), options=options(x.shape[1]))


def fit_problems(
    gpu: Gpu,
    *,
    x: Any,
    weights: Any,
    arrays: ProblemArrays,
    tol: float,
    max_iter: int,
    draws: Any,
    trials: int,
    closest: Any,
    framed: Any,
    centers: Any,
    labels: Any,
    n_iter: Any,
    starts: bool = False,
    log: Any = None,
) -> None:
    """`Stack.fit`. centers: (b, k, d) float64, given or, where there are trials, made by draws (b, 1 + (k - 1) *
    trials) float64, and become those that follow. closest: (m,) float64, for seeding. framed: (framed_words(m, d),)
    float32, become rows in the frame. labels: (m,) int32. n_iter: (b,) int32. starts: whether arrays, rows and weights
    are of a single problem, which is fitted b times; then m is b times its rows. log: (room, b, 1 + k) int64, becomes
    what `StackLog` has of each iteration, shifts as the bits of float64.
    """
    b, k, d = centers.shape
    rows = rows_of_means(k, trials)
    of = *arrays, np.int32(k), np.int32(d), np.int32(starts)
    rules = np.float64(tol), np.int32(max_iter), gpu.given(draws, np.float64), np.int32(trials), np.int32(rows)
    gpu.run(
        *("whole_fits", "fit_problems", b, BLOCK, x, gpu.given(weights, np.float64), *of, *rules),
        *(gpu.given(closest, np.float64), gpu.given(framed, np.float32), centers, labels, n_iter),
        *(np.int32(0 if log is None else len(log)), gpu.given(log, np.int64)),
        options=options(d),
        shared=shared(k, d, rows),
    )


def publish_problems(
    gpu: Gpu,
    *,
    x: Any,
    weights: Any,
    arrays: ProblemArrays,
    framed: Any,
    centers: Any,
    labels: Any,
    found: Any,
    starts: bool = False,
) -> None:
    """`Stack.publish`. centers: (b, k, d) float64. labels: (m,) int32, with any labels of these clusters. found: (b, 4)
    int64, become coarse, fine, coarse_bits and occupied of StackLabels. starts, framed: as above, and as left."""
    b, k, d = centers.shape
    of = *arrays, np.int32(k), np.int32(d), np.int32(starts), np.int32(k)
    gpu.run(
        *("whole_fits", "publish_problems", b, BLOCK, x, gpu.given(weights, np.float64), *of),
        *(gpu.given(framed, np.float32), centers, labels, found),
        options=options(d),
        shared=shared(k, d, k),
    )
