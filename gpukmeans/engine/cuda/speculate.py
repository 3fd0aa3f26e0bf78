"""The labels of rows on a GPU by k centers, the sums of the clusters, and the next assignment, which begins early.

What the driver of a fit asks next are the means of what it was answered. So that assignment is under way while the
host makes its centers, and answers come with the centers that they are of
(test_speculation.test_a_guess_counts_for_the_very_bits_alone fails if nearly the same will do). Should others be asked
for, or the labels by those before, labels and sums change to these as to any.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from gpukmeans.engine.cuda.assign import Means, Proposals
from gpukmeans.engine.cuda.device import SHARED, Gpu
from gpukmeans.engine.cuda.transfer import PendingAnswer
from gpukmeans.exact.certificate import Frame
from gpukmeans.exact.distance import Floats
from gpukmeans.exact.fixed_point import Ints, Scales

# What refine.cu counts, in front of the sums.
COUNTS = 3

# A fit makes some thirty iterations, and ends with up to two more on the device than it needed. To gain, these must
# take less than what the host takes in between for all others: by count HOST seconds, and HOST_VALUE for each value of
# the centers. The device takes PAIR for each feature of a row and a center.
ITERATIONS, IN_VAIN = 30, 2
HOST, HOST_VALUE, PAIR = 60e-6, 10e-9, 1 / 1.2e13

Bounds = Callable[[], Any] | None


class Rows(NamedTuple):
    """What kernels take of rows: x (n, d) on the device; and their weights there."""

    x: Any
    n: np.int64
    d: np.int32
    w: Any


class Labels:
    """Of n rows of d features and that dtype. offset, scale: those of `scales` on the device, or nothing. unit: 2 to
    the exponent of weights. summing: whether sums are wanted. guessing: whether to begin assignments ahead.

    Methods take the rows, which this does not keep, and bounds(), (n,) float64 of memory for bounds, which stays this
    object's until these are forgotten; or None.

    there: (n,) int32 on the device, the labels last asked for once `catch_up` was called; -1 before the first.
    uncertain, compared: rows that scores left to D, and that were compared with all centers, over all assignments.
    """

    def __init__(
        self,
        gpu: Gpu,
        n: int,
        d: int,
        k: int,
        dtype: np.dtype,
        frame: Frame | None,
        scales: Scales | None,
        offset: Any,
        scale: Any,
        weight_scale: np.float64,
        *,
        summing: bool,
        guessing: bool,
    ) -> None:
        self._gpu, self.k, self._n, self._d = gpu, k, n, d
        self._scales, self._weight_scale, self._summing = scales, weight_scale, summing
        gain, price = ITERATIONS * (HOST + k * d * HOST_VALUE), IN_VAIN * n * k * d * PAIR
        self._guessing = guessing and frame is not None and price < gain
        self.there = gpu.empty(n, np.int32)
        gpu.fill(self.there, 0xFF)
        # Counts, sums, and the centers that they are of.
        self._end = COUNTS + k * (d + 1)
        self._answers = gpu.zeros(self._end + k * d, np.uint64)
        self._counts = self._answers[:COUNTS]
        self._means = Means(self._answers[COUNTS : self._end], offset, scale, np.float64(1 / weight_scale))
        self.proposals = Proposals(gpu, n, d, dtype, frame, self._answers[self._end :].view(np.float64))
        # The centers last asked for, and their sums if these came; both may lie in what `_heeded` received.
        self._asked: Floats | None = None
        self._sums: NDArray[np.uint64] | None = None
        self._heeded: PendingAnswer | None = None
        # Whether labels and sums on the device may be those of other centers: a guess's, whose answer may be coming.
        self._astray = False
        self._guess: PendingAnswer | None = None
        self._guess_listed = False  # whether it left rows out
        self._unheeded = 0  # guesses one after another that were in vain
        self._two: list[PendingAnswer] = []
        self.uncertain = self.compared = 0

    def restart(self) -> None:
        """Another driver is to come."""
        self._unheeded = 0

    def assign(self, rows: Rows, bounds: Bounds, centers: Floats) -> int:
        guess = self._guess
        if guess is not None:
            answers = guess.wait()
            found = answers[self._end :]
            if (found == np.ascontiguousarray(centers).view(np.uint64).reshape(-1)).all():
                changed = self._take(answers, self._guess_listed, found.view(np.float64).reshape(centers.shape), guess)
                self._unheeded = 0
                self._guess_next(rows, bounds, answers)
                return changed
        self.catch_up(rows, bounds)  # how many labels change is counted from those asked for before
        expected = self._expected()
        self._astray = True
        self._label_by(rows, bounds, centers)
        # The sums come with the counts, so that the host waits once.
        answers = self._gpu.get(self._answers[: self._end if self._summing else COUNTS])
        changed = self._take(answers, self.proposals.listed, centers.copy(), None)
        if expected is not None and np.array_equal(expected, centers):
            self._guess_next(rows, bounds, answers)
        return changed

    def _take(self, answers: NDArray[np.uint64], listed: bool, centers: Floats, heeded: PendingAnswer | None) -> int:
        """What was answered is of these centers, which were asked for; returns how many labels changed."""
        self._sums = None
        self._asked, self._heeded = centers, heeded
        if self._summing:
            self._sums = answers[COUNTS : self._end]
        self._guess, self._astray = None, False
        changed, decided, length = answers[:COUNTS].tolist()
        self.uncertain += decided
        self.compared += length if listed else self._n
        return changed

    def _label_by(self, rows: Rows, bounds: Bounds, given: Floats | Means) -> None:
        """Launch what gives all rows the labels of these centers."""
        x, n, d, w = rows
        self.proposals.propose(x, self.there, given, self._counts, bounds)
        size = 8 * self.k * (self._d + 1)
        summing = 0 if not self._summing else 2 if size <= SHARED else 1
        self._gpu.launch(
            *("refine", "refine", self._n, x, n, d, self.proposals.columns, np.int32(self.k), w),
            *(
                self._means.offset,
                self._means.scale,
                self._weight_scale,
                np.int32(summing),
                self.proposals.next,
                self.there,
            ),
            *(self._means.sums, self._counts, np.int32(self.proposals.listed), self.proposals.list),
            shared=size if summing == 2 else 0,
        )
        self.proposals.settled()

    def sums(self, rows: Rows, bounds: Bounds) -> Ints:
        """Of the centers last asked for, (k, d + 1)."""
        if self._sums is None:
            self.catch_up(rows, bounds)
            self._sums = self._gpu.get(self._means.sums)
        return self._clusters(self._sums).copy()

    def _clusters(self, sums: NDArray[np.uint64]) -> Ints:
        return sums.view(np.int64).reshape(self.k, self._d + 1)

    # ------------------------------------------------------------ guesses

    def _expected(self) -> Floats | None:
        """The centers that are asked for next if this is a fit; None if not, or if a guess is not worth it."""
        if self._sums is None or self._scales is None or not self._guessing or self._unheeded > 1:
            return None
        sums = self._clusters(self._sums)
        # test_speculation.test_whatever_is_asked_next_is_answered fails of empty clusters.
        return self._scales.centers(sums) if sums[:, -1].all() else None

    def _guess_next(self, rows: Rows, bounds: Bounds, answers: NDArray[np.uint64]) -> None:
        """Label by the means of what was answered, unless the host will have something else in mind. Nobody asked for
        it, so that nobody is told should memory run out."""
        if answers[0] == 0 or not self._clusters(answers[COUNTS : self._end])[:, -1].all():
            return
        with suppress(MemoryError):
            if not self._two:
                self._two = [PendingAnswer(self._gpu, len(self._answers)) for _ in range(2)]
            answer = self._two[self._two[0] is self._heeded]
            self._astray = True
            self._label_by(rows, self.proposals.within(bounds), self._means)
            answer.send_for(self._answers)
            self._guess, self._guess_listed = answer, self.proposals.listed

    def catch_up(self, rows: Rows, bounds: Bounds) -> None:
        """Should the device be astray, go back to the labels and sums of the centers last asked for
        (test_speculation.test_whatever_is_asked_next_is_answered fails without it after a guess that changed labels,
        and test_speculation.test_memory_may_run_out_at_any_launch_or_answer after an answer that did not come)."""
        if not self._astray:
            return
        if self._guess is None or self._guess.wait()[0] > 0:
            if self._asked is None:
                self._gpu.fill(self.there, 0xFF)
                self._gpu.fill(self._answers, 0)
            else:
                self._label_by(rows, self.proposals.within(bounds), self._asked)
        self._unheeded += self._guess is not None
        self._guess, self._astray = None, False
