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

_values_so_far = 0


def on_numpy(samples: Samples) -> Points:
    """Each engine is imported where it is needed: SciPy's matrices, and numba."""
    if not samples.sparse:
        if _compiled(samples.x.size):
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


def _compiled(values: int) -> bool:
    """Whether passes over so many values are to be compiled ones."""
    wanted = tuning.current().compiled
    if wanted is None:
        global _values_so_far
        _values_so_far += values
        imported = "numba" in sys.modules or _values_so_far >= _WORTH_IMPORTING
        wanted = imported and values >= _WORTH_CALLING
    return wanted and compiler.works()
