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

from gpukmeans.engine.combine.base import Result, Sharded, Uses
from gpukmeans.engine.protocol import Points, Samples, Seeding
from gpukmeans.exact.distance import Floats
from gpukmeans.exact.fixed_point import Ints
from gpukmeans.exact.scales import Scales
from gpukmeans.thread_limits import at_most, thread_count
from gpukmeans.threads import run


class Parallel(Sharded):
    """parts: Points of the slices of the samples' rows, one after another. enter(i): the context that part i is used
    in, by any thread, one at a time. answer: where an array of the host belongs, if it is an answer of size n.
    """

    def __init__(
        self,
        parts: Sequence[Points],
        slices: list[slice],
        samples: Samples,
        enter: Callable[[int], AbstractContextManager] = nullcontext,
        answer: Callable[[Any], Any] = lambda array: array,
    ) -> None:
        super().__init__(slices[-1].stop, samples)
        self._parts, self._slices, self._enter, self._answer = parts, slices, enter, answer

    def _on_each(self, work: Callable[[int], Result]) -> list[Result]:
        """work(i) for each part, all at the same time."""

        threads = thread_count()

        def here(i: int) -> Result:
            with self._enter(i), at_most(threads):
                return work(i)

        return run(here, range(len(self._parts)), len(self._parts))

    def _each(
        self, work: Callable[[Any, slice], Result], uses: Uses = Uses.NOTHING, changes: Uses = Uses.NOTHING
    ) -> list[Result]:
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

    def distances(self, centers: Floats, dtype: Any = np.float64) -> Any:
        result = np.empty((self.n, len(centers)), dtype)

        def take(part: Points, rows: slice) -> None:
            result[rows] = part.distances(centers, dtype)

        self._each(take)
        return self._answer(result)

    # ------------------------------------------------------------ seeding

    def seeding(self) -> ParallelSeeding:
        return ParallelSeeding(self, self._each(lambda part, rows: part.seeding()))


class ParallelSeeding(Seeding):
    """The seeding of all parts at the same time."""

    def __init__(self, points: Parallel, seedings: list[Seeding]) -> None:
        self._points, self._seedings = points, seedings
        self._totals: list[int] = []

    def _each(self, work: Callable[[Seeding], Result]) -> list[Result]:
        return self._points._on_each(lambda i: work(self._seedings[i]))

    def end(self) -> None:
        self._each(lambda seeding: seeding.end())

    def abandon(self) -> None:
        """Nothing: parts may be busy, or gone, and the next seeding takes the place of this."""

    def total(self, exponent: int | None) -> int:
        self._totals = self._each(lambda seeding: seeding.total(exponent))
        return sum(self._totals)

    def find(self, indices: list[int]) -> Floats:
        found = np.empty((len(indices), self._points.d))
        starts = list(accumulate(self._totals, initial=0))

        def look(i: int) -> None:
            here = [j for j, index in enumerate(indices) if starts[i] <= index < starts[i + 1]]
            if here:
                found[here] = self._seedings[i].find([indices[j] - starts[i] for j in here])

        self._points._on_each(look)
        return found

    def propose(self, candidates: Floats) -> None:
        self._each(lambda seeding: seeding.propose(candidates))

    def potentials(self, exponent: int, exact: bool) -> tuple[list[int], list[int]]:
        parts = self._each(lambda seeding: seeding.potentials(exponent, exact=True)[0])
        totals = [sum(those_of_one) for those_of_one in zip(*parts, strict=True)]
        return totals, totals

    def accept(self, candidate: int) -> float:
        return max(self._each(lambda seeding: seeding.accept(candidate)))

    def accept_all(self, centers: Floats) -> float:
        return max(self._each(lambda seeding: seeding.accept_all(centers)))
