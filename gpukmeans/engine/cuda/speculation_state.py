"""Assignments that begin before they are asked for: when they pay, and which labels the device has meanwhile.

What the driver of a fit asks next are the means of what it was answered: a division and a sum in float64, the same on
the device as on the host. A speculative assignment by these is under way while the host makes its centers, and its
answer comes with the centers that it is of.

No such assignment begins where a cluster is empty or no label changed, after two mispredictions (somebody looks at
each iteration), of batches, of normalized rows, or where a pass takes so long that one too many costs more than is
saved in a fit.

assign.py predicts the centers, begins these assignments, and goes back where the prediction failed.
"""

from __future__ import annotations

from enum import Enum
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gpukmeans.engine.cuda.device import Gpu
from gpukmeans.engine.cuda.transfer import PendingAnswer

# A fit makes some thirty iterations, and ends with up to two more on the device than it needed. To gain, these must
# take less than what the host takes in between for all others: by count HOST seconds, and HOST_VALUE for each value of
# the centers. The device takes PAIR for each feature of a row and a center.
ITERATIONS, MISPREDICTIONS = 30, 2
HOST, HOST_VALUE, PAIR = 60e-6, 10e-9, 1 / 1.2e13


def pays(n: int, d: int, k: int) -> bool:
    return MISPREDICTIONS * n * k * d * PAIR < ITERATIONS * (HOST + k * d * HOST_VALUE)


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

    allowed: whether to speculate at all. mispredictions: how many there were one after another. left_out: whether the
    assignment in flight left rows out.
    """

    def __init__(self, gpu: Gpu, size: int, *, allowed: bool) -> None:
        """size: of answers, arrays of uint64."""
        self.state = SpeculationState.IDLE
        self.mispredictions = 0
        self.left_out = False
        self._gpu, self._size, self._allowed = gpu, size, allowed
        # One for what is in flight, one for what is committed, which may lie where it came.
        self._buffers: list[PendingAnswer] = []
        self._in_flight: PendingAnswer | None = None
        self._committed: PendingAnswer | None = None

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
        return self._buffers[self._buffers[0] is self._committed]

    def send_for(self, buffer: PendingAnswer, answers: Any, *, left_out: bool) -> None:
        """Of a speculative assignment that was launched."""
        assert self.state is SpeculationState.STALE
        buffer.send_for(answers)
        self.state, self._in_flight, self.left_out = SpeculationState.IN_FLIGHT, buffer, left_out

    def commit(self) -> None:
        assert self.state is not SpeculationState.IDLE
        if self.state is SpeculationState.IN_FLIGHT:
            self.mispredictions = 0
        self.state, self._in_flight, self._committed = SpeculationState.IDLE, None, self._in_flight

    def rolled_back(self) -> None:
        assert self.state is not SpeculationState.IDLE
        self.mispredictions += self.state is SpeculationState.IN_FLIGHT
        self.state, self._in_flight = SpeculationState.IDLE, None
