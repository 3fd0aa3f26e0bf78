"""Which of the two engines for dense rows in host memory serves: NumPy's, or the one whose passes numba compiled."""

from __future__ import annotations

import sys

from gpukmeans import compiler
from gpukmeans.engine.numpy import tuning
from gpukmeans.engine.numpy.points import NumPyPoints
from gpukmeans.engine.protocol import Samples

# Values from which on compiled passes are worth calling; and how many have to have come, in all fits of this process,
# until numba is worth importing (0.5 s).
_WORTH_CALLING = 2**12
_WORTH_IMPORTING = 2**18

# How many colors of a picture, which take part in the last few iterations alone, count as one row
# (test_import.test_a_photograph_takes_no_numba).
_COLORS = 10

_values_so_far = 0


def points_on_numpy(samples: Samples) -> NumPyPoints:
    wanted = tuning.current().compiled
    if wanted is None:
        global _values_so_far
        _values_so_far += samples.x.size // (_COLORS if samples.distinct else 1)
        imported = "numba" in sys.modules or _values_so_far >= _WORTH_IMPORTING
        wanted = imported and samples.x.size >= _WORTH_CALLING
    if wanted and compiler.works():
        # Here, as it imports numba.
        from gpukmeans.engine.numpy.compiled_points import CompiledPoints, compiles

        if compiles(samples):
            return CompiledPoints(samples)
    return NumPyPoints(samples)
