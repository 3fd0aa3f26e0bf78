"""Which of the engines for rows in host memory serves: NumPy's, or the one whose passes numba compiled."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gpukmeans import numba_support
from gpukmeans.engine.numpy import line_points, tuning
from gpukmeans.engine.numpy.points import NumPyPoints
from gpukmeans.engine.protocol import MakeStarts, Points, Samples, Stack, Stacks
from gpukmeans.exact.fixed_point import Weights
from gpukmeans.exact.sparse_rows import Entries
from gpukmeans.thread_limits import thread_count

# How many values have to have come, in all fits of this process, until numba is worth importing (0.5 s); as so many
# counts a fit of fewer, of which calls are most. Where others imported it, rows of so many are worth the time to load
# compiled passes from disk.
_WORTH_IMPORTING = 2**18
_LEAST = 2**10
_WORTH_LOADING = 2**12

# How many colors of a picture, which take part in the last few iterations alone, count as one row
# (test_import.test_a_photograph_takes_no_numba).
_COLORS = 10

# Values of problems that are made a stack, at most: 32 MB of float64, as they are copied.
_STACKED = 2**22

# In products of values and centers, which take some 0.08 ns: what is done beside them for a row; what an iteration of
# passes takes in calls, and in waking threads; and from which work on bounds gain more than calls cost (measured).
_ROW, _CALLS, _WORK = 2**9, 2**20, 2**24

_values_so_far = 0


def on_numpy(samples: Samples) -> Points:
    """Each engine is imported where it is needed: SciPy's matrices, and numba."""
    if line_points.serves(samples):
        return line_points.LinePoints(samples)
    if not samples.sparse:
        size = samples.x.size
        if _compiled(size, size // _COLORS if samples.distinct else max(_LEAST, size)):
            from gpukmeans.engine.numpy.numba_points import CompiledPoints, compiles

            if compiles(samples):
                return CompiledPoints(samples)
        return NumPyPoints(samples)
    from gpukmeans.engine.numpy.sparse_points import SparsePoints

    samples = replace(samples, x=Entries.of(samples.x))
    work = len(samples.x.values) + samples.shape[0]  # a row without entries is labelled too
    if _compiled(work, max(_LEAST, work)):
        from gpukmeans.engine.numpy.numba_sparse_points import CompiledSparsePoints, compiles_entries

        if compiles_entries(samples.x):
            return CompiledSparsePoints(samples)
    return SparsePoints(samples)


def stacks_on_numpy(values: int) -> Stacks | None:
    """What makes a Stack, if problems of so many values altogether are worth compiled passes; with weights, of one."""
    if not _may_be_whole() or not _compiled(values, max(_LEAST, values)):
        return None
    from gpukmeans.engine.numpy.stacks import CompiledStack, stacks

    def make(
        xs: Sequence[NDArray[Any]], weights: Sequence[Any], summaries: Sequence[Weights], k: int, rows: Any
    ) -> Stack | None:
        x = np.stack(xs)
        return CompiledStack(x, weights[0], summaries[0]) if stacks(x) else None

    return Stacks(make, mixed=False, values=_STACKED)


def starts_on_numpy(x: NDArray[Any], k: int, starts: int) -> MakeStarts | None:
    """What makes a Stack of starts of one problem, see `dispatch.make_starts`."""
    if not (tuning.current().whole or _sooner_whole(x, k, starts)) or not _may_be_whole():
        return None
    if not _compiled(x.size, max(_LEAST, x.size), asked_again=True):
        return None
    from gpukmeans.engine.numpy.stacks import CompiledStarts

    return CompiledStarts


def _sooner_whole(x: NDArray[Any], k: int, starts: int) -> bool:
    """Whether starts of one problem x (n, d) are sooner made whole, each by a thread, than one after another by all
    threads: they are if calls take more than is lost by threads that have no start in the last round."""
    n, d = x.shape
    work = n * (d * k + _ROW)
    if x.size > tuning.SMALL or work > _WORK:
        return False
    if work <= _CALLS:
        return True
    if d == 1:  # see LinePoints
        return False
    threads = thread_count()
    return work * (-starts % threads) <= starts * threads * _CALLS


def _may_be_whole() -> bool:
    chosen = tuning.current()
    return chosen.whole is not False and chosen.line is not True and not chosen.of_passes


def _compiled(values: int, counted: int, asked_again: bool = False) -> bool:
    """Whether passes over so many values are to be compiled ones. counted: how many they count as towards numba;
    asked_again: but where they are not to be, as of the same values it will be asked again."""
    wanted = tuning.current().compiled
    if wanted is None:
        global _values_so_far
        so_far = _values_so_far + counted
        wanted = so_far >= _WORTH_IMPORTING or ("numba" in sys.modules and values >= _WORTH_LOADING)
        if wanted or not asked_again:
            _values_so_far = so_far
    return wanted and numba_support.works()
