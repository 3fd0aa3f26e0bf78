"""Which of the engines for rows in host memory serves: NumPy's, or the one whose passes numba compiled."""

from __future__ import annotations

import sys
from dataclasses import replace

from gpukmeans import compiler
from gpukmeans.engine.numpy import tuning
from gpukmeans.engine.numpy.points import NumPyPoints
from gpukmeans.engine.protocol import Points, Samples
from gpukmeans.exact.sparse_rows import Entries

# Values from which on compiled passes are worth calling; and how many have to have come, in all fits of this process,
# until numba is worth importing (0.5 s).
_WORTH_CALLING = 2**12
_WORTH_IMPORTING = 2**18

# How many colors of a picture, which take part in the last few iterations alone, count as one row
# (test_import.test_a_photograph_takes_no_numba).
_COLORS = 10

_values_so_far = 0


def on_numpy(samples: Samples) -> Points:
    """Each engine is imported where it is needed: SciPy's matrices, and numba."""
    if not samples.sparse:
        if _compiled(samples.x.size, _COLORS if samples.distinct else 1):
            from gpukmeans.engine.numpy.compiled_points import CompiledPoints, compiles

            if compiles(samples):
                return CompiledPoints(samples)
        return NumPyPoints(samples)
    from gpukmeans.engine.numpy.sparse_points import SparsePoints

    samples = replace(samples, x=Entries.of(samples.x))
    if _compiled(len(samples.x.values)):
        from gpukmeans.engine.numpy.compiled_sparse_points import CompiledSparsePoints, compiles_entries

        if compiles_entries(samples.x):
            return CompiledSparsePoints(samples)
    return SparsePoints(samples)


def _compiled(values: int, of_a_row: int = 1) -> bool:
    """Whether passes over so many values are to be compiled ones, of which so many count as one towards numba."""
    wanted = tuning.current().compiled
    if wanted is None:
        global _values_so_far
        _values_so_far += values // of_a_row
        imported = "numba" in sys.modules or _values_so_far >= _WORTH_IMPORTING
        wanted = imported and values >= _WORTH_CALLING
    return wanted and compiler.works()
