"""Seeding on NumPy: the closest distances, and prefix sums of what rows weigh in a draw, kept in step."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from gpukmeans.engine.numpy.seeding_distances import ClosestDistances, MakeDistances, Potentials
from gpukmeans.engine.numpy.weighted_sampling import InverseCdf
from gpukmeans.engine.protocol import Seeding
from gpukmeans.exact.distance import Floats

# From so many centers on few rows come closer to another (measured: between 20 and 60).
FEW = 32


class NumPySeeding(Seeding):
    """x: (n, d) the caller's rows, in whatever form. distances(): the way to measure them that suits them best.
    own_distances(centers): D (n,) to each row's own center, by the labels last given. later(): the way that suits them
    better once there are `FEW` centers, if another does.
    """

    def __init__(
        self,
        x: Any,
        inverse_cdf: InverseCdf,
        distances: MakeDistances,
        own_distances: Callable[[Floats], Floats],
        later: MakeDistances | None = None,
    ) -> None:
        self._x, self._inverse_cdf = x, inverse_cdf
        self._make, self._later, self._own_distances = distances, later, own_distances
        self._centers = 0
        self._distances: ClosestDistances | None = None  # before the first candidates
        self._total = 0

    @property
    def _measured(self) -> ClosestDistances:
        assert self._distances is not None, "no candidates were proposed"
        return self._distances

    def end(self) -> None:
        self._distances = None
        self._inverse_cdf.forget()

    def total(self, exponent: int | None) -> int:
        closest_dist_sq = np.empty(0) if self._distances is None else self._distances.closest_dist_sq
        self._total = self._inverse_cdf.total(exponent, closest_dist_sq)
        return self._total

    def find(self, indices: list[int]) -> Floats:
        return np.asarray(self._x[self._inverse_cdf.find(indices)]).astype(np.float64)

    def propose(self, candidates: Floats) -> None:
        if self._distances is None:
            self._distances = self._make()
        elif self._centers == FEW and self._later is not None:
            before, self._distances = self._distances, self._later()
            self._distances.lower(before.closest_dist_sq)
        self._distances.propose(candidates)

    def potentials(self, exponent: int, exact: bool) -> Potentials:
        return self._measured.potentials(exponent, exact, self._total)

    def accept(self, candidate: int) -> float:
        self._centers += 1
        self._inverse_cdf.follow(self._measured.accept(candidate, self._inverse_cdf.most))
        return self._measured.largest()

    def accept_all(self, centers: Floats) -> float:
        self._measured.lower(self._own_distances(centers))
        self._inverse_cdf.follow(None)
        return self._measured.largest()
