"""Closest distances for k-means++ whose D numba compiles (the extra `fast`): the classes of seeding_distances.py.

D of every row to every candidate takes as long as scores and all that certifies them, while centers are few: from one
center to the next less of the rows come closer, which scores tell.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from gpukmeans.engine.numpy.numba_passes import compilable, passes_for
from gpukmeans.engine.numpy.rows import Rows
from gpukmeans.engine.numpy.seeding_distances import FilteredDistances
from gpukmeans.exact.distance import Floats
from gpukmeans.threads import run, scratch


def by_compiled_distance(rows: Rows, spans: Callable[[int], list[slice]], threads: int) -> Callable[[Floats], Floats]:
    """`seeding_distances.by_distance`. spans: all rows, in pieces for so many candidates."""

    def measure(candidates: Floats) -> Floats:
        m = len(candidates)
        centers, result = np.ascontiguousarray(candidates), np.empty((m, rows.m))

        def part(span: slice) -> None:
            x = compilable(rows.take(span))
            out = scratch("distances", len(x) * m, np.float64).reshape(len(x), m)
            passes_for(x).distances(x, centers, 1.0, out)
            result[:, span] = out.T

        run(part, spans(m), threads)
        return result

    return measure


class CompiledFilteredDistances(FilteredDistances):
    def _distance(self, rows: Any, candidate: int) -> Floats:
        x = compilable(self.rows.take(rows))
        center, distance = np.ascontiguousarray(self.candidates[:, candidate])[None], np.empty(len(x))
        passes_for(x).own_distances(x, np.zeros(len(x), np.int32), center, distance)
        return distance
