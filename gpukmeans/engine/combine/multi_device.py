"""Points on several devices at once as one Points: each keeps its part of the rows.

What crosses between them and the host in an iteration is of size k * d for each: centers go to all, and their
sums, which are integers, are added up. Nothing goes from one to another.
"""

# Devices do not speak with each other. k (d + 1) integers a device and iteration cross the bus to the host, which makes
# the centers anyway; NCCL would have to be installed, and adds nothing to that. Parts are told the range of all rows,
# in which scores compare them with centers that may lie outside their own. What a single GPU decides ahead of being
# asked needs the sums of all rows: so parts decide no center of k-means++, and begin no assignment. A part whose memory
# is short goes on in batches, which the others do not notice.

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from itertools import accumulate
from typing import Any

import numpy as np

from gpukmeans.engine.combine.base import Result, Sharded
from gpukmeans.engine.protocol import Points
from gpukmeans.exact.distance import Floats
from gpukmeans.exact.fixed_point import Ints, Scales, Weights
from gpukmeans.threads import run


class Parallel(Sharded):
    """parts: Points of the slices of the rows, one after another, which know the weights of all and not of each other.
    enter(i): the context that part i is used in, by any thread, one at a time. answer: where an array of the host
    belongs, if it is an answer of size n.
    """

    def __init__(
        self,
        parts: Sequence[Points],
        slices: list[slice],
        d: int,
        weights: Weights,
        normalized: bool,
        enter: Callable[[int], AbstractContextManager] = nullcontext,
        answer: Callable[[Any], Any] = lambda array: array,
    ) -> None:
        super().__init__(slices[-1].stop, d, weights, normalized)
        self._parts, self._slices, self._enter, self._answer = parts, slices, enter, answer
        self._totals: list[int] = []

    def _on_each(self, work: Callable[[int], Result]) -> list[Result]:
        """work(i) for each part, all at the same time."""

        def here(i: int) -> Result:
            with self._enter(i):
                return work(i)

        return run(here, range(len(self._parts)), len(self._parts))

    def _each(self, work: Callable[[Any, slice], Result], uses: str = "", changes: str = "") -> list[Result]:
        return self._on_each(lambda i: work(self._parts[i], self._slices[i]))

    @property
    def uncertain(self) -> int:
        return sum(part.uncertain for part in self._parts)

    def feature_range(self) -> tuple[Floats, Floats]:
        low, high = super().feature_range()
        # test_sharded.test_parts_know_where_the_centers_of_others_are fails without it.
        self.set_feature_range(low, high)
        return low, high

    def set_feature_range(self, low: Floats, high: Floats) -> None:
        self._each(lambda part, rows: part.set_feature_range(low, high))

    def prepare(self, scales: Scales) -> None:
        self._each(lambda part, rows: part.prepare(scales))

    def sums(self) -> Ints:
        first, *others = self._each(lambda part, rows: part.sums())
        return sum(others, first)

    def labels(self) -> Any:
        result = np.empty(self.n, np.int32)

        def take(part: Points, rows: slice) -> None:
            result[rows] = part.labels()

        self._each(take)
        return self._answer(result)

    def distances(self, centers: Floats) -> Any:
        result = np.empty((self.n, len(centers)))

        def take(part: Points, rows: slice) -> None:
            result[rows] = part.distances(centers)

        self._each(take)
        return self._answer(result)

    # ------------------------------------------------------------ seeding

    def restart(self) -> None:
        self._each(lambda part, rows: part.restart())

    def total(self, exponent: int | None) -> int:
        self._totals = self._each(lambda part, rows: part.total(exponent))
        return sum(self._totals)

    def find(self, ranks: list[int]) -> Floats:
        found = np.empty((len(ranks), self.d))
        starts = list(accumulate(self._totals, initial=0))

        def look(i: int) -> None:
            here = [j for j, rank in enumerate(ranks) if starts[i] <= rank < starts[i + 1]]
            if here:
                found[here] = self._parts[i].find([ranks[j] - starts[i] for j in here])

        self._on_each(look)
        return found

    def propose(self, candidates: Floats) -> None:
        self._each(lambda part, rows: part.propose(candidates))

    def potentials(self, exponent: int, exact: bool) -> tuple[list[int], list[int]]:
        parts = self._each(lambda part, rows: part.potentials(exponent, exact=True)[0])
        totals = [sum(those_of_one) for those_of_one in zip(*parts, strict=True)]
        return totals, totals

    def accept(self, candidate: int) -> float:
        return max(self._each(lambda part, rows: part.accept(candidate)))

    def accept_drawn(self, draws: Floats, farthest: float) -> tuple[Floats, float]:
        return np.empty((0, self.d)), farthest  # no device knows the others' masses
