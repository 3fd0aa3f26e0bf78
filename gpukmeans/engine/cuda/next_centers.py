"""The next centers of a fit, made on the device of the clusters' sums, and kept there.

They are those that `lloyd.update` makes, to the bit, or in doubt: then the host makes them. What it decides by comes
down in one array of 8 k bytes and 24 more: how many labels changed, how far each center goes, and which means are in
doubt. The centers themselves do only if somebody asks.
"""

from __future__ import annotations

from contextlib import suppress
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gpukmeans.engine.cuda.assignment_kernels import DeviceSums, NextForms
from gpukmeans.engine.cuda.device import Gpu
from gpukmeans.engine.protocol import Doubt
from gpukmeans.exact.distance import Floats

# Rows that changed label, that D decided, and that are on the list; in front of the sums, and of what is answered.
COUNTS = 3

# Centers kept at a time: those that labels are of, those that follow from them, and, while labels by these are on their
# way, those that follow then.
KEPT = 3


class DeviceCenters:
    """k centers on the device, (k, d) float64, which `numpy.asarray` brings to the host. there: the array; None once
    others are kept in its place."""

    def __init__(self, gpu: Gpu, there: Any) -> None:
        self._gpu, self._k, self.there = gpu, len(there), there
        self._here: Floats | None = None

    def __len__(self) -> int:
        return self._k

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> NDArray[Any]:
        if self._here is None:
            assert self.there is not None, "the centers are no longer kept"
            # Whoever has these can make no smaller batches if memory is short
            # (test_batches.test_memory_may_run_out_in_the_middle_of_seeding fails if it is asked for once).
            with suppress(MemoryError):
                self._here = self._gpu.get(self.there)
        if self._here is None:
            self._here = self._gpu.get(self.there)
        return self._here if dtype is None else self._here.astype(dtype, copy=False)


class Following:
    """Of clusters with these sums: the centers that follow, one after another. normalized: whether these are means
    brought to length one. answer: on the device, the counts and what each center moved (kernels/prepare_centers.cu)."""

    def __init__(self, gpu: Gpu, sums: DeviceSums, doubt: Doubt, *, normalized: bool) -> None:
        k, d = sums.sums.shape
        d -= 1
        self._gpu = gpu
        self._arrays = [gpu.empty((k, d), np.float64) for _ in range(KEPT)]
        self._made: list[DeviceCenters | None] = [None] * KEPT
        self.answer = gpu.empty(COUNTS + k, np.uint64)
        self.forms = NextForms(
            sums=sums,
            means=gpu.empty((k, d), np.float64) if normalized else None,
            doubt=doubt,
            answer=self.answer,
            shifts=self.answer[COUNTS:],
        )

    def keeps(self, centers: DeviceCenters) -> bool:
        return any(centers is made for made in self._made)

    def place(self, *kept: Any) -> DeviceCenters:
        """For the centers to make next, where none of these are."""
        at = next(i for i, made in enumerate(self._made) if made is None or not any(made is others for others in kept))
        before = self._made[at]
        if before is not None:
            before.there = None
        made = self._made[at] = DeviceCenters(self._gpu, self._arrays[at])
        return made


def moved(answer: NDArray[np.uint64]) -> Floats:
    """D from each of the next centers to the one before, (k,), its sign set where the mean is in doubt."""
    return answer[COUNTS:].view(np.float64)
