"""The labels of rows on a GPU by k centers, and the sums of the clusters.

Both follow the centers last asked for, the committed ones. Of a fit the next are predicted, and that assignment begins
early (speculation_state.py): its answer counts if these very centers are asked for
(test_speculation.test_a_prediction_counts_for_the_very_bits_alone fails if nearly the same will do). Should others be,
or the labels by those before, labels and sums change to these as to any.
"""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from gpukmeans.engine.cuda.assignment_kernels import DeviceSums, refine
from gpukmeans.engine.cuda.device import Gpu
from gpukmeans.engine.cuda.speculation_state import Speculation, SpeculationState, pays
from gpukmeans.engine.cuda.tentative_labels import BoundsMemory, TentativeLabels
from gpukmeans.exact.certificate import Frame
from gpukmeans.exact.distance import Floats
from gpukmeans.exact.fixed_point import Ints, Scales

# Rows that changed label, that D decided, and that are on the list; in front of the sums.
COUNTS = 3


class Rows(NamedTuple):
    """On the device: x (n, d), and their weights (n,), or None."""

    x: Any
    weights: Any


@dataclass
class Committed:
    """The centers (k, d) last asked for, and their sums (k * (d + 1),), if these came with the answer."""

    centers: Floats
    sums: NDArray[np.uint64] | None


class Labels:
    """Of n rows of d features and that dtype, sparse or not, by k centers. offset, scale: those of `scales` on the
    device, None with it. weight_scale: 2 to the exponent of weights. summing: whether sums are wanted. speculating:
    whether to begin assignments early, where it pays.

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
        frame: Frame | None,
        scales: Scales | None,
        offset: Any,
        scale: Any,
        weight_scale: float,
        summing: bool,
        speculating: bool,
    ) -> None:
        self._gpu, self.k, self._n = gpu, k, n
        self._scales, self._summing = scales, summing
        self.there = gpu.empty(n, np.int32)
        gpu.fill(self.there, 0xFF)
        # Counts, sums, and the centers that they are of: one array, which comes down at once.
        self._sums_end = COUNTS + k * (d + 1)
        self._answers = gpu.zeros(self._sums_end + k * d, np.uint64)
        self._counts = self._answers[:COUNTS]
        sums = self._answers[COUNTS : self._sums_end].reshape(k, d + 1)
        self._sums = DeviceSums(sums, offset, scale, weight_scale)
        centers = self._answers[self._sums_end :].view(np.float64).reshape(k, d)
        self.tentative = TentativeLabels(gpu, n, dtype, sparse, frame, centers, self._counts)
        self.speculation = Speculation(
            gpu, len(self._answers), allowed=speculating and frame is not None and pays(n, d, k)
        )
        self._committed: Committed | None = None
        self.uncertain = self.compared = 0

    def restart(self) -> None:
        """Another driver is to come."""
        self.speculation.restart()

    def assign(self, rows: Rows, memory: BoundsMemory, centers: Floats) -> int:
        """Give rows the labels of these centers (k, d); returns how many changed."""
        answers = self.speculation.answer()
        if answers is not None:
            bits = answers[self._sums_end :]
            if (bits == np.ascontiguousarray(centers).view(np.uint64).reshape(-1)).all():
                left_out = self.speculation.left_out
                self.speculation.commit()
                changed = self._commit(answers, left_out, bits.view(np.float64).reshape(centers.shape))
                self._speculate(rows, memory, answers)
                return changed
        self.roll_back(rows, memory)  # how many labels change is counted from those asked for before
        predicted = self._predicted()
        self.speculation.begin()
        self._label_by(rows, memory, centers)
        # The sums come with the counts, so that the host waits once.
        answers = self._gpu.get(self._answers[: self._sums_end if self._summing else COUNTS])
        self.speculation.commit()
        changed = self._commit(answers, self.tentative.listed is not None, centers.copy())
        if predicted is not None and np.array_equal(predicted, centers):
            self._speculate(rows, memory, answers)
        return changed

    def _commit(self, answers: NDArray[np.uint64], left_out: bool, centers: Floats) -> int:
        """What was answered is of these centers, which were asked for; returns how many labels changed."""
        self._committed = Committed(centers, answers[COUNTS : self._sums_end] if self._summing else None)
        changed, decided, length = answers[:COUNTS].tolist()
        self.uncertain += decided
        self.compared += length if left_out else self._n
        return changed

    def _label_by(self, rows: Rows, memory: BoundsMemory, given: Floats | DeviceSums) -> None:
        """Launch what gives all rows the labels of these centers, see TentativeLabels.compare."""
        tentative = self.tentative
        tentative.compare(rows.x, self.there, given, memory)
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

    def sums(self, rows: Rows, memory: BoundsMemory) -> Ints:
        """Of the committed centers' clusters, (k, d + 1)."""
        if self._committed is not None and self._committed.sums is not None:
            return self._clusters(self._committed.sums).copy()
        self.roll_back(rows, memory)
        sums = self._gpu.get(self._sums.sums).reshape(-1)
        if self._committed is not None:
            self._committed.sums = sums
        return self._clusters(sums).copy()

    def _clusters(self, sums: NDArray[np.uint64]) -> Ints:
        return sums.view(np.int64).reshape(self.k, -1)

    # ------------------------------------------------------------ speculation

    def _predicted(self) -> Floats | None:
        """The centers that are asked for next if this is a fit; None if not, or if speculating does not pay."""
        if self._committed is None or self._committed.sums is None or self._scales is None:
            return None
        if not self.speculation.worthwhile:
            return None
        sums = self._clusters(self._committed.sums)
        # test_speculation.test_whatever_is_asked_next_is_answered fails of empty clusters.
        return self._scales.centers(sums) if sums[:, -1].all() else None

    def _speculate(self, rows: Rows, memory: BoundsMemory, answers: NDArray[np.uint64]) -> None:
        """Label by the means of what was answered, unless the host will have something else in mind. Nobody asked for
        it, so that nobody is told should memory run out."""
        if answers[0] == 0 or not self._clusters(answers[COUNTS : self._sums_end])[:, -1].all():
            return
        with suppress(MemoryError):
            buffer = self.speculation.buffer()
            self.speculation.begin()
            self._label_by(rows, self.tentative.within(memory), self._sums)
            self.speculation.send_for(buffer, self._answers, left_out=self.tentative.listed is not None)

    def roll_back(self, rows: Rows, memory: BoundsMemory) -> None:
        """Go back to the committed labels and sums, unless the device has them
        (test_speculation.test_whatever_is_asked_next_is_answered fails without it after a misprediction that changed
        labels, and test_speculation.test_memory_may_run_out_at_any_launch_or_answer after an answer that did not come).
        """
        if self.speculation.state is SpeculationState.IDLE:
            return
        answers = self.speculation.answer()
        if answers is None or answers[0] > 0:
            if self._committed is None:
                self._gpu.fill(self.there, 0xFF)
                self._gpu.fill(self._answers, 0)
            else:
                self._label_by(rows, self.tentative.within(memory), self._committed.centers)
        self.speculation.rolled_back()
