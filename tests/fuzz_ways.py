"""How the fuzz has its answers computed: on one device or several, in batches, and by what shortcuts on NumPy."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import dask
import pytest
from hypothesis import strategies as st

from gpukmeans.dask import workers
from gpukmeans.engine import dispatch
from gpukmeans.engine.combine.multi_device import Parallel
from gpukmeans.engine.combine.out_of_memory import Batches
from gpukmeans.engine.numpy.points import NumPyPoints
from gpukmeans.engine.numpy.sparse_points import SparsePoints
from gpukmeans.engine.numpy.tuning import tuned
from gpukmeans.engine.protocol import Samples

TUNING = {
    "merge": st.sampled_from([None, True, False]),
    "arrange": st.sampled_from([None, True, False]),
    "scores": st.sampled_from([None, True, False]),
    "bounds": st.sampled_from([None, True, False]),
    "chunk_rows": st.sampled_from([None, 1, 7, 1000]),
    "threads": st.sampled_from([None, 1, 3]),
    "compiled": st.sampled_from([None, True, False]),
    "line": st.sampled_from([None, True, False]),
}

# Small problems are fitted whole where nothing is said of how passes go.
WHOLE = {"compiled": st.just(True), "whole": st.just(True), "threads": st.sampled_from([None, 1, 3])}


@dataclass(frozen=True)
class Way:
    """device: as a user says it. parts: among so many NumPyPoints are rows shared out, 0 as the package does it; GPUs
    are as many as the device names. batch: rows of a batch on each GPU. tuning: of NumPy, or whether a GPU fits whole
    what is small."""

    device: str = "cpu"
    parts: int = 0
    batch: int = 0
    tuning: tuple[tuple[str, Any], ...] = ()

    @contextmanager
    def taken(self) -> Iterator[None]:
        """In here all answers are computed so; on no cluster of Dask's, whatever another test has open. What runs
        kernels on the CPU answers one thread at a time, and Dask would make chunks in several."""
        scheduler = {} if self.device == "cpu" else {"scheduler": "synchronous"}
        with pytest.MonkeyPatch.context() as patch, tuned(**dict(self.tuning)), dask.config.set(**scheduler):
            patch.setattr(workers, "_client", lambda: None)
            make, on_gpu = dispatch.make_points, dispatch.on_gpu

            def make_points(samples: Samples, *, device: str) -> Any:
                return self._parts(samples) if device == "cpu" and self.parts else make(samples, device=device)

            def in_batches(*args: Any) -> Batches:
                points = on_gpu(*args)
                points.rows = self.batch or points.rows
                return points

            patch.setattr(dispatch, "make_points", make_points)
            if self.parts or self.batch:
                patch.setattr(dispatch, "make_starts", lambda *given, device: None)
            patch.setattr(dispatch, "on_gpu", in_batches)
            yield

    def _parts(self, samples: Samples) -> Parallel:
        n = samples.shape[0]
        bounds = sorted({n * i // self.parts for i in range(self.parts + 1)})
        slices = [slice(a, b) for a, b in pairwise(bounds)]
        parts = [dispatch.on_numpy(samples.part(part)) for part in slices]
        assert isinstance(parts[0], NumPyPoints | SparsePoints)
        return Parallel(parts, slices, samples)


def ways(devices: list[str]) -> st.SearchStrategy[Way]:
    """devices: those under test, each the name of one or several."""
    if devices == ["cpu"]:
        choices = st.fixed_dictionaries(TUNING) | st.fixed_dictionaries(WHOLE)
        tuning = choices.map(lambda drawn: tuple(drawn.items()))
        return st.builds(Way, parts=st.sampled_from([0, 0, 1, 2, 5]), tuning=tuning)
    tuning = st.sampled_from([(), (("whole", False),)])
    return st.builds(Way, device=st.sampled_from(devices), batch=st.integers(1, 50) | st.just(0), tuning=tuning)
