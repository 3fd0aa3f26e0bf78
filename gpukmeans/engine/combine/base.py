"""Several Points as one: each does its part of the rows, and integers, minima and maxima are brought together.

What is common to Batches, one after another on one device, and Parallel, each on a device of its own.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from enum import Flag, auto
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from gpukmeans.engine.protocol import Centers, Doubt, Farthest, Known, NextCenters, Samples
from gpukmeans.exact.distance import Floats
from gpukmeans.exact.fixed_point import Ints
from gpukmeans.exact.inertia import Inertia
from gpukmeans.exact.scales import OwnScales

Result = TypeVar("Result")


class Uses(Flag):
    """What work on a part reads or changes: its rows, the labels last given, the D to the closest center so far."""

    NOTHING = 0
    ROWS = auto()
    LABELS = auto()
    CLOSEST_DIST_SQ = auto()


class Sharded(ABC):
    """The methods of Points that need nothing of the parts but their answers.

    n: how many of the samples' rows are the parts'.
    """

    integral = False  # as far as is known

    def __init__(self, n: int, samples: Samples) -> None:
        self.n, self.d = n, samples.shape[1]
        self.weights, self.metric = samples.all_weights, samples.metric
        self.sparse = samples.sparse

    @abstractmethod
    def _each(
        self, work: Callable[[Any, slice], Result], uses: Uses = Uses.NOTHING, changes: Uses = Uses.NOTHING
    ) -> list[Result]:
        """The results of work on each part and its rows, in the order of rows; what it uses, and what it changes."""

    # ------------------------------------------------------------ assignment and update

    def feature_range(self) -> tuple[Floats, Floats]:
        lows, highs = zip(*self._each(lambda part, rows: part.feature_range(), Uses.ROWS), strict=True)
        # NaN in any of them stays.
        return np.minimum.reduce(lows), np.maximum.reduce(highs)

    def next_centers(self, doubt: Doubt) -> NextCenters | None:
        return None  # the sums of all parts are known on the host alone

    def moved(self, centers: Floats, counts: Floats, part: float) -> tuple[Floats, Floats] | None:
        return None  # likewise

    def assign(self, centers: Centers) -> int:
        return sum(self._each(lambda part, rows: part.assign(centers), Uses.ROWS | Uses.LABELS, changes=Uses.LABELS))

    def farthest(self, centers: Floats, m: int) -> Farthest:
        """Of the m first of each part, which are in the order of distance and row, the m first of all.

        They are there: whatever comes before a location in the part of its first row does so among all
        (test_sharded.test_every_step_is_that_of_all_rows fails if each is asked for fewer).
        """
        found = self._each(lambda part, rows: part.farthest(centers, m), Uses.ROWS | Uses.LABELS)
        distance, x, label = (
            np.concatenate([getattr(far, name) for far in found]) for name in ("distance", "x", "label")
        )
        order = np.argsort(-distance, kind="stable")
        _, first = np.unique(x[order] + 0.0, axis=0, return_index=True)  # adding makes one zero of the two
        kept = order[np.sort(first)][:m]
        return Farthest(distance[kept], x[kept], label[kept])

    def cluster_ranges(
        self, clusters: NDArray[np.int64], without: Floats, known: Known | None = None
    ) -> tuple[Floats, Floats]:
        found = self._each(lambda part, rows: part.cluster_ranges(clusters, without, known), Uses.ROWS | Uses.LABELS)
        lows, highs = zip(*found, strict=True)
        return np.minimum.reduce(lows), np.maximum.reduce(highs)

    def cluster_sums(self, clusters: NDArray[np.int64], scales: OwnScales, without: Floats) -> Ints:
        sums = self._each(lambda part, rows: part.cluster_sums(clusters, scales, without), Uses.ROWS | Uses.LABELS)
        return sum(sums, np.zeros((len(clusters), self.d + 1), np.int64))

    def inertia(self, centers: Floats, split: Inertia) -> tuple[int, int]:
        uses = Uses.ROWS | Uses.LABELS if len(centers) > 1 else Uses.ROWS
        coarse, fine = zip(*self._each(lambda part, rows: part.inertia(centers, split), uses), strict=True)
        return sum(coarse), sum(fine)
