"""Which of the two engines for dense rows in host memory serves: NumPy's, or the one whose passes are compiled."""

from __future__ import annotations

from functools import cache
from importlib.util import find_spec

from gpukmeans.engine.numpy import tuning
from gpukmeans.engine.numpy.points import NumPyPoints
from gpukmeans.engine.protocol import Samples

# Below so many values nothing is gained that would make up for importing numba, 0.5 s; once it is there, any gain.
_WORTH_IMPORTING = 2**15


def points_on_numpy(samples: Samples) -> NumPyPoints:
    wanted = tuning.current().compiled
    if wanted is not False and _installed():
        # numba is an optional dependency, and takes long to import.
        from gpukmeans.engine.numpy.compiled_points import CompiledPoints, compiles

        if compiles(samples):
            return CompiledPoints(samples)
    return NumPyPoints(samples)


@cache
def _installed() -> bool:
    return find_spec("numba") is not None
