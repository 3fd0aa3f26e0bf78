"""The labels of rows on a GPU by k centers, and the sums of the clusters.

Both follow the centers last asked for, the committed ones. The driver of a fit that asks for the centers that follow
(next_centers.py) gets them made here with each answer, and what stands for them; and labels by these begin early
(speculation_state.py), before that answer is read. They count if these very centers are asked for. Should others be, or
the labels by those before, labels and sums change to these as to any
(test_speculation.test_whatever_is_asked_next_is_answered fails if they do not).
"""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from gpukmeans.engine.cuda.assignment_kernels import DeviceSums, refine
from gpukmeans.engine.cuda.device import Gpu
from gpukmeans.engine.cuda.next_centers import COUNTS, DeviceCenters, Following, moved
from gpukmeans.engine.cuda.speculation_state import Speculation, SpeculationState, pays
from gpukmeans.engine.cuda.tentative_labels import BoundsMemory, TentativeLabels
from gpukmeans.engine.protocol import Centers, Doubt, NextCenters
from gpukmeans.exact.certificate import Frame
from gpukmeans.exact.distance import Floats
from gpukmeans.exact.fixed_point import Ints
from gpukmeans.exact.scales import Scales


class DeviceRows(NamedTuple):
    """On the device: x (n, d), and their weights (n,), or None."""

    x: Any
    weights: Any


@dataclass
class Assignment:
    """Of labels to all rows. centers: (k, d), those that it is by. left_out: whether it left rows out. following: the
    centers that follow from it, unless nobody wants them. answer: what came down of it, counts first; None until it
    did. sums: (k * (d + 1),) of it, if these came down."""

    centers: Floats | DeviceCenters
    left_out: bool
    following: DeviceCenters | None = None
    answer: NDArray[np.uint64] | None = None
    sums: NDArray[np.uint64] | None = None


class DeviceLabels:
    """Of n rows of d features and that dtype, sparse or not, normalized or not, by k centers. offset, scale: those of
    `scales` on the device, None with it. weight_scale: 2 to the exponent of weights. summing: whether sums are wanted.
    going_on: whether centers may be made here, these being all rows, and assignments begin early, where it pays.

    Methods take the rows, which this does not keep, and memory for bounds, see TentativeLabels.

    there: (n,) int32 on the device, the committed labels once `roll_back` was called; -1 before the first. uncertain,
    compared: rows that scores left to D, and that were compared with all centers, over all assignments.
    """

    def __init__(
        self,
        gpu: Gpu,
        *,
        n: int,
        d: int,
        k: int,
        dtype: np.dtype,
        sparse: bool,
        normalized: bool,
        frame: Frame | None,
        scales: Scales | None,
        offset: Any,
        scale: Any,
        weight_scale: float,
        summing: bool,
        going_on: bool,
    ) -> None:
        self._gpu, self._n, self._d, self.k, self._normalized = gpu, n, d, k, normalized
        self._summing = summing
        self._going_on = going_on and summing and frame is not None and scales is not None
        self.there = gpu.empty(n, np.int32)
        gpu.fill(self.there, 0xFF)
        # Counts and sums: one array, which comes down at once where the driver wants both.
        self._answers = gpu.zeros(COUNTS + k * (d + 1), np.uint64)
        self._counts = self._answers[:COUNTS]
        self._sums = DeviceSums(self._answers[COUNTS:].reshape(k, d + 1), offset, scale, weight_scale)
        self.tentative = TentativeLabels(gpu, n, d, k, dtype, sparse, frame, self._counts)
        self.speculation = Speculation(gpu, COUNTS + k, allowed=self._going_on)
        self._following: Following | None = None  # once it was asked for
        self._committed: Assignment | None = None
        self._ahead: Assignment | None = None  # by the centers that follow, if that is in flight
        self.uncertain = self.compared = 0
        self._last_compared = n  # rows, by the last answer

    def restart(self) -> None:
        """Another driver is to come."""
        self.speculation.restart()

    def assign(self, rows: DeviceRows, memory: BoundsMemory, centers: Centers) -> int:
        """Give rows the labels of these centers (k, d); returns how many changed."""
        given = self._known(centers)
        if self._ahead is not None and self._ahead.centers is given:
            self._committed, self._ahead = self._ahead, None
            answer = self.speculation.commit()
            assert answer is not None
            self._speculate(rows, memory)  # and only now the host waits
            self._committed.answer = answer.wait().copy()
            return self._counted(self._committed)
        self.roll_back(rows, memory)  # how many labels change is counted from those asked for before
        self.speculation.begin()
        labelled = self._label_by(rows, memory, given)
        answers = self._following.answer if self._following is not None else self._answers
        labelled.answer = self._gpu.get(answers if self._summing else self._counts)
        self.speculation.commit()
        self._committed = labelled
        changed = self._counted(labelled)
        if changed and isinstance(given, DeviceCenters) and not self._in_doubt(labelled):
            self._speculate(rows, memory)
        return changed

    def _known(self, centers: Centers) -> Floats | DeviceCenters:
        """Themselves if they were made here and are kept, else as they are on the host."""
        if isinstance(centers, DeviceCenters) and self._following is not None and self._following.keeps(centers):
            return centers
        return np.array(centers, np.float64, order="C")

    def _label_by(self, rows: DeviceRows, memory: BoundsMemory, centers: Floats | DeviceCenters) -> Assignment:
        """Launch what gives all rows the labels of these centers, and makes those that follow if anybody wants them."""
        self._relabel(rows, memory, centers)
        labelled = Assignment(centers, self.tentative.listed is not None)
        if self._following is not None:
            self._follow(labelled, self._following)
        return labelled

    def _relabel(self, rows: DeviceRows, memory: BoundsMemory, centers: Floats | DeviceCenters) -> None:
        tentative = self.tentative
        tentative.compare(rows.x, self.there, _array(centers), memory)
        refine(
            self._gpu,
            x=rows.x,
            columns=tentative.columns,
            weights=rows.weights,
            tentative=tentative.labels,
            labels=self.there,
            sums=self._sums if self._summing else None,
            counts=self._counts,
            listed=tentative.listed,
        )
        tentative.refined()

    def _follow(self, labelled: Assignment, following: Following) -> None:
        """Launch what makes the centers that follow from this assignment."""
        before = None if self._committed is None else self._committed.centers
        made = following.place(before, labelled.centers)
        self.tentative.follow(made.there, following.forms)
        labelled.following = made

    def _counted(self, labelled: Assignment) -> int:
        """How many labels changed by the answer."""
        assert labelled.answer is not None
        if labelled.following is None and self._summing:
            labelled.sums = labelled.answer[COUNTS:]
        changed, decided, length = labelled.answer[:COUNTS].tolist()
        self._last_compared = self._n
        if labelled.left_out:
            self._last_compared = length
            self.tentative.trial.told(length / self._n)
        self.uncertain += decided
        self.compared += self._last_compared
        return changed

    def sums(self, rows: DeviceRows, memory: BoundsMemory) -> Ints:
        """Of the committed centers' clusters, (k, d + 1)."""
        committed = self._committed
        sums = None if committed is None else committed.sums
        if sums is None:
            self.roll_back(rows, memory)
            sums = self._gpu.get(self._sums.sums).reshape(-1)
            if committed is not None:
                committed.sums = sums
        return sums.view(np.int64).reshape(self.k, -1).copy()

    # ------------------------------------------------------------ the centers that follow

    def next_centers(self, rows: DeviceRows, memory: BoundsMemory, doubt: Doubt) -> NextCenters | None:
        """Of the committed labels; None if the host has to make them. doubt: the same each time."""
        committed = self._committed
        if not self._going_on or committed is None:
            return None
        if committed.following is None:
            self.roll_back(rows, memory)
            if self._following is None:
                self._following = Following(self._gpu, self._sums, doubt, normalized=self._normalized)
            self.speculation.begin()
            self._follow(committed, self._following)
            committed.answer = self._gpu.get(self._following.answer)
            self.speculation.commit()
        assert self._following is not None
        assert self._following.forms.doubt == doubt, "scales have changed"
        if self._in_doubt(committed):
            return None
        assert committed.following is not None
        assert committed.answer is not None
        return NextCenters(committed.following, moved(committed.answer).copy())

    def _in_doubt(self, labelled: Assignment) -> bool:
        assert labelled.answer is not None
        return bool(np.signbit(moved(labelled.answer)).any())

    # ------------------------------------------------------------ speculation

    def _speculate(self, rows: DeviceRows, memory: BoundsMemory) -> None:
        """Label by the centers that follow from the committed labels. Nobody asked for it, so that nobody is told
        should memory run out."""
        committed = self._committed
        if not self.speculation.worthwhile or not pays(self._last_compared, self._d, self.k, self.tentative.kernel):
            return
        assert self._following is not None
        assert committed is not None
        assert committed.following is not None
        with suppress(MemoryError):
            buffer = self.speculation.buffer()
            self.speculation.begin()
            ahead = self._label_by(rows, self.tentative.within(memory), committed.following)
            self.speculation.send_for(buffer, self._following.answer)
            self._ahead = ahead

    def roll_back(self, rows: DeviceRows, memory: BoundsMemory) -> None:
        """Go back to the committed labels and sums, unless the device has them
        (test_speculation.test_whatever_is_asked_next_is_answered fails without it after a misprediction that changed
        labels, and test_speculation.test_memory_may_run_out_at_any_launch_or_answer after an answer that did not come).
        """
        if self.speculation.state is SpeculationState.IDLE:
            return
        answer = self.speculation.answer()
        if answer is None or answer[0] > 0:
            if self._committed is None:
                self._gpu.fill(self.there, 0xFF)
                self._gpu.fill(self._answers, 0)
            else:
                self._relabel(rows, self.tentative.within(memory), self._committed.centers)
        self._ahead = None
        self.speculation.rolled_back()


def _array(centers: Floats | DeviceCenters) -> Any:
    return centers.there if isinstance(centers, DeviceCenters) else centers
