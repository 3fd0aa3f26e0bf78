"""Some rows of many on NumPy, made anew in each pass: a Batch of combine/out_of_memory.py.

Its rows are read when something first looks at them, or ahead of that on a thread, while the piece before is worked on.
What is drawn for seeding needs no rows but those drawn.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gpukmeans.engine.numpy.choice import on_numpy
from gpukmeans.engine.numpy.normalized_rows import NormalizedRows
from gpukmeans.engine.numpy.points import NumPyPoints
from gpukmeans.engine.numpy.seeding import NumPySeeding
from gpukmeans.engine.numpy.seeding_distances import ClosestDistances
from gpukmeans.engine.numpy.weighted_sampling import InverseCdf
from gpukmeans.engine.protocol import Samples, State
from gpukmeans.exact.distance import Floats
from gpukmeans.exact.fixed_point import Ints
from gpukmeans.exact.metric import Metric
from gpukmeans.row_sources.base import Part, Reading


class Piece:
    """samples: some rows of a RowSource, `Samples.part`, whose x is a Part. ahead: whether they are read from now on.

    What it does not define, its NumPyPoints do, which are made of the rows once they are there.
    """

    sparse = False
    integral = False

    def __init__(self, samples: Samples, ahead: bool) -> None:
        self._samples = samples
        self._rows: Part = samples.x
        self.n, self.d = samples.shape
        self.metric, self.weights = samples.metric, samples.all_weights
        self.k = 0
        self._state: State | None = None
        self._seeding: PieceSeeding | None = None
        rows = slice(self._rows.start, self._rows.start + self.n)
        self._reading = Reading(self._rows.source, rows) if ahead else None

    @cached_property
    def points(self) -> NumPyPoints:
        """Points of these rows that nothing is kept of for another pass, but their sums if anybody will ask."""
        x = self._rows[:] if self._reading is None else self._reading.result()
        samples = self._samples
        made = on_numpy(Samples(x, samples.weights, samples.summary, samples.metric, reused=False))
        assert isinstance(made, NumPyPoints)
        made.go_on_from(self._state, summed=samples.reused)
        self._reading = None
        return made

    def begin(self, meanwhile: Callable[[], None] | None) -> None:
        if meanwhile is not None:
            _ = self.points  # one thread reads at a time
            meanwhile()

    def resume(self, state: State) -> None:
        self._state, self.k = state, state.k
        if "points" in self.__dict__:
            self.points.go_on_from(state, summed=self._samples.reused)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.points, name)

    @property
    def uncertain(self) -> int:
        return self.points.uncertain if "points" in self.__dict__ else 0

    def sums(self) -> Ints:
        return self.points.sums() if self._samples.reused else np.zeros((self.k, self.d + 1), np.int64)

    def labels_on_host(self) -> NDArray[np.int32]:
        return self.points.labels()

    # ------------------------------------------------------------ seeding

    def closest_dist_sq(self) -> Floats | None:
        return None if self._seeding is None else self._seeding.closest_dist_sq

    def ongoing_seeding(self) -> PieceSeeding:
        if self._seeding is None:
            self._seeding = PieceSeeding(self, self._state and self._state.closest_dist_sq)
        return self._seeding

    def end_seeding(self) -> None:
        self._seeding = None


class PieceSeeding(NumPySeeding):
    """The seeding of all rows, for a piece of them. known: D to the closest center so far, (n,); None for infinity."""

    def __init__(self, piece: Piece, known: Floats | None) -> None:
        samples = piece._samples
        super().__init__(
            _Drawn(piece._rows, piece.metric),
            InverseCdf(piece.n, samples.weights, samples.all_weights, None),
            lambda: self._begun(piece),
            lambda centers: piece.points._all_own_distances(centers),
        )
        self._known = known

    def _begun(self, piece: Piece) -> ClosestDistances:
        first, later = piece.points._closest_distances()
        if self._known is None:
            return first()
        distances = (later or first)()
        distances.lower(self._known)
        return distances

    @property
    def _measured(self) -> ClosestDistances:
        if self._distances is None:
            self._distances = self._make()
        return self._distances

    @property
    def closest_dist_sq(self) -> Floats | None:
        return self._known if self._distances is None else self._distances.closest_dist_sq

    def total(self, exponent: int | None) -> int:
        known = self.closest_dist_sq
        self._total = self._inverse_cdf.total(exponent, np.empty(0) if known is None else known)
        return self._total


class _Drawn:
    """Rows of a part by their indices there, brought to length one if the metric has them so."""

    def __init__(self, part: Part, metric: Metric) -> None:
        self._part, self._metric = part, metric

    def __getitem__(self, rows: NDArray[np.int64]) -> NDArray[Any]:
        x = self._part.source.take(rows + self._part.start)
        return NormalizedRows(x)[:] if self._metric.normalizes else x
