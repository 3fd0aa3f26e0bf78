"""Assignments that begin before they are asked for: when they pay, and which labels the device has meanwhile.

What the driver of a fit asks next are labels by the centers that follow from those it has, and the device makes these
by itself (next_centers.py). So an assignment by them is under way before the answer to the one before is read, and is
of no use if the fit ended there.

No such assignment begins where a mean is in doubt or no label changed, if that is known already, after two
mispredictions (somebody looks at each iteration), of batches, or while a pass takes so long that one too many costs
more than is saved in a fit.

assign.py begins these assignments, and goes back where others are asked for.
"""

from __future__ import annotations

from enum import Enum
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gpukmeans.engine.cuda.device import Gpu
from gpukmeans.engine.cuda.transfer import PendingAnswer

# A fit makes some thirty iterations, and ends with up to two more on the device than it needed. To gain, these must
# take less than what the device waits in between for all others: by count HOST seconds, until an answer has come down,
# the host has decided, and launches have come up. The device takes PAIR for each feature of a row and a center; SOONER:
# how many times sooner it is done by kernels of one product on tensor cores, assign_half of few features.
ITERATIONS, MISPREDICTIONS = 30, 2
HOST, PAIR = 60e-6, 1 / 1.2e13
SOONER = {"assign_half": 3, "assign_wgmma": 20, "assign_tcgen05": 20}


def pays(rows: int, d: int, k: int, kernel: str) -> bool:
    """Of assignments that compare so many rows with all centers, by that kernel: as the last one did, the rest being
    left out."""
    return MISPREDICTIONS * rows * k * d * PAIR < ITERATIONS * HOST * SOONER.get(kernel, 1)


class SpeculationState(Enum):
    """What labels and sums on the device are."""

    IDLE = "those of the committed centers, the last that were asked for"
    IN_FLIGHT = "those of predicted centers, or about to be; the answer is on its way"
    STALE = "any: an assignment was launched, and has not been answered or sent for"


class Speculation:
    """The state of labels on the device, and the speculative assignment that is in flight.

    | state     | what happens                                                | method         | state     |
    | --------- | ----------------------------------------------------------- | -------------- | --------- |
    | IDLE      | an assignment is to be launched, asked for or speculative   | `begin`        | STALE     |
    | STALE     | it was speculative, and its answer was sent for             | `send_for`     | IN_FLIGHT |
    | STALE     | it was asked for, and has been answered                     | `commit`       | IDLE      |
    | STALE     | it failed                                                   |                | STALE     |
    | IN_FLIGHT | the very centers that were predicted are asked for          | `commit`       | IDLE      |
    | IN_FLIGHT | others are, or the committed labels: a misprediction, which |                |           |
    |           | is over once labels are the committed ones again            | `rolled_back`  | IDLE      |
    | STALE     | labels are the committed ones again                         | `rolled_back`  | IDLE      |

    allowed: whether to speculate at all. mispredictions: how many there were one after another.
    """

    def __init__(self, gpu: Gpu, size: int, *, allowed: bool) -> None:
        """size: of answers, arrays of uint64."""
        self.state = SpeculationState.IDLE
        self.mispredictions = 0
        self._gpu, self._size, self._allowed = gpu, size, allowed
        # One for what is in flight, one for what was before and is asked for, whose answer is read after that began.
        self._buffers: list[PendingAnswer] = []
        self._in_flight: PendingAnswer | None = None

    @property
    def worthwhile(self) -> bool:
        """Not if somebody looks at each iteration, so that none comes true."""
        return self._allowed and self.mispredictions < MISPREDICTIONS

    def answer(self) -> NDArray[np.uint64] | None:
        """The answer in flight, waited for; None if none is."""
        if self.state is not SpeculationState.IN_FLIGHT:
            return None
        assert self._in_flight is not None
        return self._in_flight.wait()

    def restart(self) -> None:
        """Another driver is to come."""
        self.mispredictions = 0

    # ------------------------------------------------------------ transitions

    def begin(self) -> None:
        assert self.state is SpeculationState.IDLE
        self.state = SpeculationState.STALE

    def buffer(self) -> PendingAnswer:
        """For `send_for`, so that memory runs out before anything was launched."""
        if not self._buffers:
            self._buffers = [PendingAnswer(self._gpu, self._size) for _ in range(2)]
        return self._buffers[0]

    def send_for(self, buffer: PendingAnswer, answers: Any) -> None:
        """Of a speculative assignment that was launched."""
        assert self.state is SpeculationState.STALE
        buffer.send_for(answers)
        self._buffers.reverse()
        self.state, self._in_flight = SpeculationState.IN_FLIGHT, buffer

    def commit(self) -> PendingAnswer | None:
        """Returns the answer that was in flight, which the next but one will be sent for in the place of."""
        assert self.state is not SpeculationState.IDLE
        pending, self._in_flight = self._in_flight, None
        if pending is not None:
            self.mispredictions = 0
        self.state = SpeculationState.IDLE
        return pending

    def rolled_back(self) -> None:
        assert self.state is not SpeculationState.IDLE
        self.mispredictions += self.state is SpeculationState.IN_FLIGHT
        self.state, self._in_flight = SpeculationState.IDLE, None
