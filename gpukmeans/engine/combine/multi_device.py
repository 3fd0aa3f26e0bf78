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
from itertools import accumulate, pairwise
from typing import Any, NamedTuple, cast

import numpy as np

from gpukmeans.engine.combine.base import Result, Sharded, Uses
from gpukmeans.engine.protocol import Points, Samples, Seeding
from gpukmeans.exact.distance import Floats
from gpukmeans.exact.fixed_point import Ints, inverse_cdf_index
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


class Ahead(NamedTuple):
    """What parts were asked before the driver did: their totals by this exponent, the rows at these indices."""

    exponent: int
    indices: list[int]
    found: Floats


class ParallelSeeding(Seeding):
    """The seeding of all parts at the same time.

    Each step is a way to all parts and back, and k-means++ has four for a center. But all draws are known before
    (`accept_drawn`), and what each candidate would leave, the total of its center's successor, comes with the
    potentials: so the rows that the next draws fall in are asked for with `accept`, and two steps are left. Where the
    largest D has come down so far that the exponent is another one, what was asked is forgotten, and the two
    others follow (test_sharded.test_steps_that_are_asked_ahead_are_those_of_one fails if it counts).
    """

    def __init__(self, points: Parallel, seedings: list[Seeding]) -> None:
        self._points, self._seedings = points, seedings
        self._totals: list[int] = []
        self._exponent: int | None = None
        self._candidates: list[list[int]] | None = None  # of each part, what it would have left by each of them
        self._draws: list[list[float]] = []  # those to come, the next one last
        self._ahead: Ahead | None = None

    def _each(self, work: Callable[[Seeding], Result]) -> list[Result]:
        return self._points._on_each(lambda i: work(self._seedings[i]))

    def end(self) -> None:
        self._each(lambda seeding: seeding.end())

    def abandon(self) -> None:
        """Nothing: parts may be busy, or gone, and the next seeding takes the place of this."""

    def total(self, exponent: int | None) -> int:
        if self._ahead is None or self._ahead.exponent != exponent:
            self._ahead = None
            self._totals = self._each(lambda seeding: seeding.total(exponent))
        self._exponent = exponent
        return sum(self._totals)

    def _here(self, indices: list[int]) -> list[tuple[list[int], list[int]]]:
        """Of each part, which of the indices fall in it, and where in it."""
        starts = list(accumulate(self._totals, initial=0))
        parts = []
        for start, end in pairwise(starts):
            those = [j for j, index in enumerate(indices) if start <= index < end]
            parts.append((those, [indices[j] - start for j in those]))
        return parts

    def find(self, indices: list[int]) -> Floats:
        if self._ahead is not None and self._ahead.indices == indices:
            return self._ahead.found
        found, here = np.empty((len(indices), self._points.d)), self._here(indices)

        def look(i: int) -> None:
            those, within = here[i]
            if those:
                found[those] = self._seedings[i].find(within)

        self._points._on_each(look)
        return found

    def propose(self, candidates: Floats) -> None:
        self._candidates = None
        self._each(lambda seeding: seeding.propose(candidates))

    def potentials(self, exponent: int, exact: bool) -> tuple[list[int], list[int]]:
        parts = self._each(lambda seeding: seeding.potentials(exponent, exact=True)[0])
        self._candidates = cast(list[list[int]], parts)  # as they are exact
        totals = [sum(those_of_one) for those_of_one in zip(*parts, strict=True)]
        return totals, totals

    def accept_drawn(self, draws: Floats, farthest: float) -> tuple[Floats, float]:
        """No step: see above."""
        self._draws = draws[:0:-1].tolist()
        return np.empty((0, 0)), farthest

    def accept(self, candidate: int) -> float:
        exponent, self._ahead = self._exponent, None
        if not self._draws or exponent is None:
            return max(self._each(lambda seeding: seeding.accept(candidate)))
        uniforms, indices = self._draws.pop(), []
        if self._candidates is not None:
            self._totals = [potentials[candidate] for potentials in self._candidates]
            total = sum(self._totals)
            indices = [inverse_cdf_index(u, total) for u in uniforms] if total else []
        found, here = np.empty((len(indices), self._points.d)), self._here(indices)

        def take(i: int) -> tuple[float, int]:
            those, within = here[i]
            farthest, total, rows = self._seedings[i].accept_and_draw(candidate, exponent, within)
            if those:
                found[those] = rows
            return farthest, total

        farthest, totals = zip(*self._points._on_each(take), strict=True)
        self._totals = list(totals)
        self._ahead = Ahead(exponent, indices, found)
        return max(farthest)

    def accept_all(self, centers: Floats) -> float:
        return max(self._each(lambda seeding: seeding.accept_all(centers)))
