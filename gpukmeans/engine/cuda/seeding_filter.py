"""What kernels/seeding_filter.cu is told of rows and candidates, so that D is computed of few pairs: the plan of its
launch, and the candidates in float32."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gpukmeans.engine.cuda.device import Gpu
from gpukmeans.exact.direct_bound import DirectBound
from gpukmeans.exact.distance import Floats

# Candidates that the kernel may be compiled for, to look at together.
WIDTHS = (4, 8, 12, 16)

# Up to so many features a lane has a whole row; else four share one, each four features at a time.
FEATURES_OF_A_LANE = 8


def width_of(m: int) -> int:
    """Of m candidates."""
    return next((width for width in WIDTHS if m <= width), max(WIDTHS))


def lanes_of(d: int) -> int:
    """Of rows of d features: how many share one."""
    return 1 if d <= FEATURES_OF_A_LANE else 4


def options(width: int) -> tuple[str, ...]:
    """The compiler's."""
    return (f"-DCANDIDATES={width}",)


@dataclass(frozen=True)
class FilterPlan:
    """bound: by which pairs are certain. offset: (4 * fours,) float64 on the device, or None. lanes: that share a row.
    fours: features of a row, four at a time, padded so that all lanes have as many."""

    bound: DirectBound
    offset: Any
    lanes: int
    fours: int

    @staticmethod
    def of(gpu: Gpu, bound: DirectBound, d: int) -> FilterPlan:
        lanes = lanes_of(d)
        fours = -(-d // (4 * lanes)) * lanes
        offset = None if bound.offset is None else gpu.put(np.pad(bound.offset, (0, 4 * fours - d)))
        return FilterPlan(bound, offset, lanes, fours)

    def size(self, m: int, width: int) -> int:
        """Of the table of m candidates, in floats; width: of them are looked at together."""
        return -(-m // width) * width * self.fours * 4

    def table(self, candidates: Floats, width: int) -> NDArray[np.float32]:
        """candidates (m, d) as the kernel reads them, see table_place of kernels/seeding.cuh: (size(m, width),)."""
        m, d = candidates.shape
        y = np.zeros((-(-m // width) * width, 4 * self.fours), np.float32)
        y[:m, :d] = self.bound.features(candidates)
        # (group, candidate, step, lane, four features)
        parts = y.reshape(-1, width, self.fours // self.lanes, self.lanes, 4)
        return np.ascontiguousarray(parts.transpose(0, 2, 1, 3, 4)).reshape(-1)
