"""A `WorkerPoints` as a Points, in as few calls as may be; call(name, ...) calls a method of the part."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gpukmeans.engine.protocol import Centers, Doubt, Known, NextCenters
from gpukmeans.exact.distance import Floats
from gpukmeans.exact.fixed_point import Ints


class RemotePoints:
    """A `WorkerPoints` as a Points, in as few calls as may be. call(name, ...): calls a method of the part."""

    def __init__(self, call: Callable[..., Any]) -> None:
        self._call = call
        self._sums: Ints | None = None

    @property
    def uncertain(self) -> int:
        return self._call("call", "uncertain")

    def next_centers(self, doubt: Doubt) -> NextCenters | None:
        return None  # see Parallel

    def moved(self, centers: Floats, counts: Floats, part: float) -> tuple[Floats, Floats] | None:
        return None  # see Parallel

    def assign(self, centers: Centers) -> int:
        changed, self._sums = self._call("assign", np.asarray(centers))
        return changed

    def sums(self) -> Ints:
        assert self._sums is not None, "no centers were assigned to, or nobody was to ask"
        return self._sums.copy()

    def cluster_ranges(
        self, clusters: NDArray[np.int64], without: Floats, known: Known | None = None
    ) -> tuple[Floats, Floats]:
        return self.ask("cluster_ranges", clusters, without)  # what is known, this process knows

    def seeding(self) -> RemoteSeeding:
        return RemoteSeeding(self._call)

    def __getattr__(self, name: str) -> Callable[..., Any]:
        return partial(self.ask, name)

    def ask(self, name: str, *args: Any, **how: Any) -> Any:
        return self._call("call", name, *args, **how)


class RemoteSeeding:
    """The seeding of a `WorkerPoints` as a Seeding. That it begins, and candidates, go with the next call."""

    def __init__(self, call: Callable[..., Any]) -> None:
        self._call = call
        self._begun = False
        self._proposed: Floats | None = None

    def propose(self, candidates: Floats) -> None:
        self._proposed = candidates

    def end(self) -> None:
        self._call("end_seeding")

    def __getattr__(self, name: str) -> Callable[..., Any]:
        return partial(self.ask, name)

    def ask(self, name: str, *args: Any, **how: Any) -> Any:
        proposed, self._proposed = self._proposed, None
        begin, self._begun = not self._begun, True
        return self._call("seed", name, *args, begin=begin, proposed=proposed, **how)
