"""Which of the two engines for dense rows in host memory serves: NumPy's, or the one whose passes numba compiled."""

from __future__ import annotations

import sys

from gpukmeans import compiler
from gpukmeans.engine.numpy import tuning
from gpukmeans.engine.numpy.points import NumPyPoints
from gpukmeans.engine.protocol import Samples

# Values from which on compiled passes are worth calling, and importing numba is (0.5 s; ten iterations gain as much of
# a hundred times as many).
_WORTH_CALLING = 2**12
_WORTH_IMPORTING = 2**18


def points_on_numpy(samples: Samples) -> NumPyPoints:
    wanted = tuning.current().compiled
    if wanted is None:
        enough = _WORTH_CALLING if "numba" in sys.modules else _WORTH_IMPORTING
        wanted = samples.x.size >= enough
    if wanted and compiler.works():
        from gpukmeans.engine.numpy.compiled_points import CompiledPoints, compiles

        if compiles(samples):
            return CompiledPoints(samples)
    return NumPyPoints(samples)
