"""The labels of rows on a GPU by k centers, the sums of the clusters, and the next assignment, which begins early.

What the driver of a fit asks next are the means of what it was answered. So that assignment is under way while the
host makes its centers, and answers come with the centers that they are of. Should others be asked for, or the labels by
those before, labels and sums change to these as to any.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from gpukmeans.exact import Floats, Frame, Ints, Scales
from gpukmeans.points.gpu import SHARED, Answer, Gpu
from gpukmeans.points.proposals import Means, Proposals

# What settle.cu counts, in front of the sums.
COUNTS = 3

# A fit makes some thirty iterations, and ends with up to two more on the device than it needed. To gain, these must
# take less than what the host takes in between for all others: by count 60 us, and 10 ns for each value of the centers.
# Up to so many rows, at 1.2 10^13 pairs and features a second: 15 * (60 us + k d * 10 ns) * 1.2e13 / (k d).
MOST_GUESSED = 1.8e6
GUESSED_VALUES = 1.08e10

Bounds = Callable[[], Any] | None


class Rows(NamedTuple):
    """What kernels take of rows: x (n, d) on the device; and their weights there."""

    x: Any
    n: np.int64
    d: np.int32
    w: Any


class Guess(Answer):
    """The answers to an assignment that was not asked for. listed: whether it left rows out."""

    def __init__(self, gpu: Gpu, array: Any, buffer: NDArray[np.uint64], listed: bool) -> None:
        self.listed = listed
        super().__init__(gpu, array, buffer)


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
        unit: np.float64,
        *,
        summing: bool,
        guessing: bool,
    ) -> None:
        self._gpu, self.k, self._n, self._d = gpu, k, n, d
        self._scales, self._unit, self._summing = scales, unit, summing
        self._guessing = guessing and frame is not None and n < MOST_GUESSED + GUESSED_VALUES / (k * d)
        self.there = gpu.full(n, -1, np.int32)
        # Counts, sums, and the centers that they are of.
        self._end = COUNTS + k * (d + 1)
        self._answers = gpu.zeros(self._end + k * d, np.uint64)
        self._counts = self._answers[:COUNTS]
        self._means = Means(self._answers[COUNTS : self._end], offset, scale, np.float64(1 / unit))
        self.proposals = Proposals(gpu, n, d, dtype, frame, self._answers[self._end :].view(np.float64))
        self._sums: NDArray[np.uint64] | None = None  # as they were answered
        self._centers: Floats = np.empty((k, d))  # those last asked for
        self._guess: Guess | None = None
        self._unheeded = 0  # guesses one after another that were in vain
        self._pinned: list[NDArray[np.uint64]] = []
        self.uncertain = self.compared = 0

    def restart(self) -> None:
        """Another driver is to come."""
        self._unheeded = 0

    def assign(self, rows: Rows, bounds: Bounds, centers: Floats) -> int:
        guess = self._guess
        if guess is not None:
            answers = guess.wait()
            if (answers[self._end :] == np.ascontiguousarray(centers).view(np.uint64).reshape(-1)).all():
                self._unheeded = 0
                self._guess_next(rows, bounds, answers)
                self._centers = answers[self._end :].view(np.float64).reshape(centers.shape)
                return self._heed(answers, guess.listed)
            self.catch_up(rows, bounds)  # how many labels change is counted from those asked for before
        expected, self._sums = self._expected(), None
        self._centers = centers.copy()
        self._label_by(rows, bounds, centers)
        # The sums come with the counts, so that the host waits once.
        answers = self._gpu.get(self._answers[: self._end if self._summing else COUNTS])
        if expected is not None and np.array_equal(expected, centers):
            self._guess_next(rows, bounds, answers)
        return self._heed(answers, self.proposals.listed)

    def _heed(self, answers: NDArray[np.uint64], listed: bool) -> int:
        if self._summing:
            self._sums = answers[COUNTS : self._end]
        changed, decided, length = answers[:COUNTS].tolist()
        self.uncertain += decided
        self.compared += length if listed else self._n
        return changed

    def _label_by(self, rows: Rows, bounds: Bounds, given: Floats | Means) -> None:
        """Launch what gives all rows the labels of these centers."""
        x, n, d, w = rows
        with self._gpu:
            self._counts.fill(0)
        self.proposals.propose(x, self.there, given, self._counts, bounds)
        size = 8 * self.k * (self._d + 1)
        summing = 0 if not self._summing else 2 if size <= SHARED else 1
        self._gpu.launch(
            *("settle", "settle", self._n, x, n, d, self.proposals.columns, np.int32(self.k), w),
            *(self._means.offset, self._means.scale, self._unit, np.int32(summing), self.proposals.next, self.there),
            *(self._means.sums, self._counts, np.int32(self.proposals.listed), self.proposals.list),
            shared=size if summing == 2 else 0,
        )

    def sums(self) -> Ints:
        if self._sums is None:
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
        return self._scales.centers(sums) if sums[:, -1].all() else None

    def _guess_next(self, rows: Rows, bounds: Bounds, answers: NDArray[np.uint64]) -> None:
        """Label by the means of what was answered, unless the host will have something else in mind."""
        self._guess = None
        if answers[0] == 0 or not self._clusters(answers[COUNTS : self._end])[:, -1].all():
            return
        if not self._pinned:
            with suppress(MemoryError):
                self._pinned = [self._gpu.pinned(len(self._answers)) for _ in range(2)]
        if self._pinned:
            self._pinned.reverse()  # the other one holds the answers
            self._label_by(rows, bounds, self._means)
            self._guess = Guess(self._gpu, self._answers, self._pinned[0], self.proposals.listed)

    def catch_up(self, rows: Rows, bounds: Bounds) -> None:
        """Should the device be ahead, go back to the labels and sums of the centers last asked for."""
        guess, self._guess = self._guess, None
        if guess is not None:
            self._unheeded += 1
            if guess.wait()[0] > 0:
                self._label_by(rows, bounds, self._centers)
