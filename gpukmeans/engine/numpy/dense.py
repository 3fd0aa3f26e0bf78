"""Which of the two engines for dense rows in host memory serves: NumPy's, or the one whose passes numba compiled."""

from __future__ import annotations

import sys

from gpukmeans import compiler
from gpukmeans.engine.numpy import tuning
from gpukmeans.engine.numpy.points import NumPyPoints
from gpukmeans.engine.protocol import Samples

# How many values have to have come, in all fits of this process, until numba is worth importing (0.5 s); as so many
# counts a fit of fewer, of which calls are most. Where others imported it, rows of so many are worth the time to load
# compiled passes from disk.
_WORTH_IMPORTING = 2**18
_LEAST = 2**10
_WORTH_LOADING = 2**12

# How many colors of a picture, which take part in the last few iterations alone, count as one row
# (test_import.test_a_photograph_takes_no_numba).
_COLORS = 10

_values_so_far = 0


def points_on_numpy(samples: Samples) -> NumPyPoints:
    wanted = tuning.current().compiled
    if wanted is None:
        global _values_so_far
        size = samples.x.size
        _values_so_far += size // _COLORS if samples.distinct else max(_LEAST, size)
        wanted = _values_so_far >= _WORTH_IMPORTING
        wanted |= "numba" in sys.modules and size >= _WORTH_LOADING
    if wanted and compiler.works():
        # Here, as it imports numba.
        from gpukmeans.engine.numpy.compiled_points import CompiledPoints, compiles

        if compiles(samples):
            return CompiledPoints(samples)
    return NumPyPoints(samples)
