"""A part of the rows whose device may be lost: it is made anew on another, and told again what it has to know.

Whatever a Points answers is a function of its rows and of what it was told: range, scales, the centers that a seeding
accepted, the centers last assigned. So a log of these, of size k * d, and a way to make the rows again are all that
it takes; the call that was under way is then made again. A lost device costs time, and no bit.
"""

# That the rows made again are those of before is for who makes them to see to.

from __future__ import annotations

import logging
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from functools import partial
from typing import Any, NamedTuple, TypeVar

import numpy as np
from numpy.typing import NDArray

from gpukmeans.engine.protocol import Centers, Doubt, Known, NextCenters, Points, Seeding
from gpukmeans.errors import DeviceLost
from gpukmeans.exact.distance import Floats
from gpukmeans.exact.scales import Scales

logger = logging.getLogger("gpukmeans")

Result = TypeVar("Result")

# Losses in a row, without an answer in between, after which a fit fails.
LOSSES = 4


class Accepted(NamedTuple):
    """Centers (m, d) that a seeding took: those that labels were last given by, or a single one."""

    centers: Floats
    labelled: bool


@dataclass
class SeedingLog:
    """What it was told. counted: whether it counted sampling weights since the last center; by which exponent."""

    accepted: list[Accepted] = field(default_factory=list)
    counted: bool = False
    exponent: int | None = None
    proposed: Floats | None = None


@dataclass
class Log:
    """What the part was told last."""

    feature_range: tuple[Floats, Floats] | None = None
    scales: Scales | None = None
    centers: Floats | None = None
    seeding: SeedingLog | None = None


class Replayed:
    """A Points that `make` makes, of the same rows each time: now, and when one was lost. Then it raises DeviceLost, as
    any call of the Points does. enter(): the context that the Points is made and used in."""

    def __init__(
        self, make: Callable[[], Points], enter: Callable[[], AbstractContextManager[Any]] = nullcontext
    ) -> None:
        self._make, self._enter = make, enter
        self._points: Points | None = None
        self._seeding: Seeding | None = None
        self._log = Log()

    def ready(self) -> None:
        """Return once the part is there."""
        self.ask(lambda points: None)

    def ask(self, call: Callable[[Any], Result]) -> Result:
        """call(points), of the part as it is or, once that is lost, of the one that takes its place."""
        losses = 0
        while True:
            try:
                with self._enter():
                    if self._points is None:
                        self._points = self._replayed()
                    return call(self._points)
            except DeviceLost as error:
                self._points = self._seeding = None
                losses += 1
                if losses > LOSSES:
                    raise DeviceLost(f"{error} That was the {losses}th loss in a row.") from error
                logger.warning("%s Its rows are taken up anew, and the fit goes on.", error)

    def ask_seeding(self, call: Callable[[Any], Result]) -> Result:
        return self.ask(lambda points: call(self._seeding))

    # ------------------------------------------------------------ the log

    def _replayed(self) -> Points:
        points, log = self._make(), self._log
        if log.feature_range is not None:
            points.set_feature_range(*log.feature_range)
        if log.scales is not None:
            points.prepare(log.scales)
        if log.seeding is not None:
            self._seeding = self._seeded(points, log.seeding)
        if log.centers is not None:
            points.assign(log.centers)
        return points

    def _seeded(self, points: Points, log: SeedingLog) -> Seeding:
        seeding = points.seeding()
        for accepted in log.accepted:
            if accepted.labelled:
                points.assign(accepted.centers)
                seeding.accept_all(accepted.centers)
            else:
                seeding.propose(accepted.centers)
                seeding.accept(0)
        if log.counted:
            seeding.total(log.exponent)
        if log.proposed is not None:
            seeding.propose(log.proposed)
        return seeding

    # ------------------------------------------------------------ Points

    @property
    def uncertain(self) -> int:
        return self.ask(lambda points: points.uncertain)

    def set_feature_range(self, low: Floats, high: Floats) -> None:
        self.ask(lambda points: points.set_feature_range(low, high))
        self._log.feature_range = low, high

    def prepare(self, scales: Scales) -> None:
        self.ask(lambda points: points.prepare(scales))
        self._log.scales = scales

    def next_centers(self, doubt: Doubt) -> NextCenters | None:
        return None  # see Parallel

    def moved(self, centers: Floats, counts: Floats, part: float) -> tuple[Floats, Floats] | None:
        return None  # see Parallel

    def assign(self, centers: Centers) -> int:
        # Until it has answered, the labels are those of before, by which it says how many changed
        # (test_replay.test_a_loss_at_any_call_changes_no_answer fails if the log has the new ones first).
        changed = self.ask(lambda points: points.assign(centers))
        self._log.centers = np.asarray(centers)
        return changed

    def cluster_ranges(
        self, clusters: NDArray[np.int64], without: Floats, known: Known | None = None
    ) -> tuple[Floats, Floats]:
        return self.ask(lambda points: points.cluster_ranges(clusters, without, known))

    def __getattr__(self, name: str) -> Callable[..., Any]:
        """What changes nothing."""
        return partial(self._query, name)

    def _query(self, name: str, *args: Any, **how: Any) -> Any:
        return self.ask(lambda points: getattr(points, name)(*args, **how))

    def seeding(self) -> ReplayedSeeding:
        def begin(points: Points) -> None:
            self._seeding = points.seeding()

        self._log.seeding = None
        self.ask(begin)
        self._log.seeding = SeedingLog()
        return ReplayedSeeding(self, self._log.seeding)

    def end_seeding(self) -> None:
        """Not of a part that is lost: the next has begun none."""
        self._log.seeding = None
        seeding, self._seeding = self._seeding, None
        if seeding is not None:
            try:
                with self._enter():
                    seeding.end()
            except DeviceLost:
                self._points = None


class ReplayedSeeding(Seeding):
    def __init__(self, part: Replayed, log: SeedingLog) -> None:
        self._part, self._log = part, log

    def end(self) -> None:
        self._part.end_seeding()

    def total(self, exponent: int | None) -> int:
        total = self._part.ask_seeding(lambda seeding: seeding.total(exponent))
        self._log.counted, self._log.exponent = True, exponent
        return total

    def find(self, indices: list[int]) -> Floats:
        return self._part.ask_seeding(lambda seeding: seeding.find(indices))

    def propose(self, candidates: Floats) -> None:
        self._part.ask_seeding(lambda seeding: seeding.propose(candidates))
        self._log.proposed = candidates

    def potentials(self, exponent: int, exact: bool) -> tuple[Floats, Floats] | tuple[list[int], list[int]]:
        return self._part.ask_seeding(lambda seeding: seeding.potentials(exponent, exact))

    def accept(self, candidate: int) -> float:
        farthest = self._part.ask_seeding(lambda seeding: seeding.accept(candidate))
        self._accepted(candidate)
        return farthest

    def accept_and_draw(self, candidate: int, exponent: int, indices: list[int]) -> tuple[float, int, Floats | None]:
        found = self._part.ask_seeding(lambda seeding: seeding.accept_and_draw(candidate, exponent, indices))
        self._accepted(candidate)
        self._log.counted, self._log.exponent = True, exponent
        return found

    def accept_all(self, centers: Floats) -> float:
        farthest = self._part.ask_seeding(lambda seeding: seeding.accept_all(centers))
        self._log.accepted.append(Accepted(centers, True))
        self._log.counted = False
        return farthest

    def _accepted(self, candidate: int) -> None:
        assert self._log.proposed is not None, "no candidates were proposed"
        self._log.accepted.append(Accepted(self._log.proposed[candidate : candidate + 1], False))
        self._log.proposed, self._log.counted = None, False
