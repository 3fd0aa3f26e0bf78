"""Which of the two engines for dense rows in host memory serves: NumPy's, or the one whose passes numba compiled."""

from __future__ import annotations

import logging
import os
import sys
from functools import cache
from importlib.util import find_spec

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
    if wanted and _compiler_works():
        from gpukmeans.engine.numpy.compiled_points import CompiledPoints, compiles

        if compiles(samples):
            return CompiledPoints(samples)
    return NumPyPoints(samples)


@cache
def _compiler_works() -> bool:
    """Whether numba, an optional dependency, is installed and can be imported, and compiles."""
    if find_spec("numba") is None or os.environ.get("NUMBA_DISABLE_JIT", "0") not in ("", "0"):
        return False
    try:
        import numba  # noqa: F401
    except Exception as error:  # as where NumPy is newer than it knows
        logging.getLogger("gpukmeans").info("numba cannot be imported, NumPy computes: %s", error)
        return False
    return True
