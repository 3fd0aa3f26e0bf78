"""The GPU's side of the assignment step, up to the labels that float32 scores propose (Rule 2).

Most rows are left out once centers move little: kernels/active.cu lists those whose label may have changed, by bounds
that the kernels of searches.py write.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from gpukmeans.exact import Floats, Frame
from gpukmeans.points import searches
from gpukmeans.points.bounds import distance_bounds
from gpukmeans.points.gpu import BLOCK, Gpu
from gpukmeans.points.pruning import FEWEST_CENTERS, Movement

# Rows of a thread of active.
EACH = 4

# Rows on a list are known by int32.
MOST_LISTED = 2**31 - 1


class Proposals:
    """Labels proposed for n rows of d features: `next`, UNCERTAIN where D has to decide.

    If `listed`, only for the rows of `list`, in its order; the others keep theirs.
    """

    def __init__(self, gpu: Gpu, n: int, d: int, dtype: np.dtype, frame: Frame | None) -> None:
        self._gpu, self.n, self.d, self._frame = gpu, n, d, frame
        # The type that rows are brought into the frame with (kernels/assign.cuh).
        self._type = np.float64 if dtype == np.float64 else np.float32
        # A multiple of what any kernel reads at a time.
        padding = (0, -d % searches.TENSOR_DEPTH)
        self._offset = None if frame is None else gpu.put(np.pad(frame.offset, padding).astype(self._type))
        self.next = gpu.empty(n, np.int32)
        self._none = gpu.nothing.view(np.int32)
        self.listed, self.list = False, self._none
        self.forget()

    def forget(self) -> None:
        """The bounds are no longer there, or not of the labels."""
        self._centers: Floats | None = None
        self._movement: Movement | None = None

    def propose(self, x: Any, labels: Any, centers: Floats, counts: Any, bounds: Callable[[], Any] | None) -> Any:
        """Set `next` and the list; returns the centers on the device, (d, k).

        counts: of which the third becomes the list's length. bounds(): (n,) float64 of memory that is this object's
        until `forget`; None if no later call will profit from it.
        """
        self.listed = False
        scores = self._frame.centers(centers) if self._frame is not None else None
        if self._frame is None or scores is None:
            self.forget()
            with self._gpu:
                self.next.fill(-1)
            return self._gpu.put(centers.T)
        columns, largest_z = scores
        gpu, k, n = self._gpu, np.int32(len(centers)), np.int64(self.n)
        search = self._search(columns, largest_z)
        if len(centers) < FEWEST_CENTERS or self.n > MOST_LISTED:
            bounds = None
        room = reach = drift = gpu.nothing.view(np.float32)
        given = [centers.T, *search.tables]
        if bounds is not None:
            self.listed = self._follow(centers)
            assert self._movement is not None
            halves = bounds().view(np.float32)
            room, reach = halves[: self.n], halves[self.n :]
            given.append(self._movement.table())
        if bounds is not None or search.table:
            given.append(columns[:-1].T * np.float32(-0.5))  # exact: the centers in the frame
        device = gpu.put_together(*given)
        tables, in_frame = device[1 : 1 + len(search.tables)], device[-1]
        if bounds is not None:
            drift = device[-2]
        if search.table:
            made = gpu.empty(search.table, np.uint32)
            shape = (k, *search.shape, *search.numbers)
            gpu.launch("assign_tensor", "tensor_table", search.table // 4, in_frame, *shape, made)
            tables = [made, *tables]
        if self.listed:
            gpu.run(
                *("active", "active", min(gpu.blocks, -(-self.n // (BLOCK * EACH))), BLOCK, x, n, np.int32(self.d)),
                *(self._offset, self._type(self._frame.scale), in_frame),
                *(labels, room, reach, drift, k, *distance_bounds(self.d, largest_z), self.list, counts[2:]),
                options=self._few,
            )
        gpu.run(
            *(search.kernel, search.kernel, min(gpu.blocks, -(-self.n // search.rows)), BLOCK, x, n, *search.shape),
            *(self._offset, self._type(search.scale), *tables, *search.numbers, *search.margin, self.next),
            *(np.int32(self.listed), self.list, counts[2:], np.int32(bounds is not None), drift, k, room, reach),
            options=search.options,
            shared=search.shared,
        )
        # Only now: had memory run out before, the bounds would be those of earlier centers.
        self._centers = centers.copy() if bounds else None
        return device[0]

    def _search(self, columns: searches.F32, largest_z: float) -> searches.Search:
        assert self._frame is not None
        if self._few:
            return searches.few(self._frame, columns, largest_z)
        found = searches.tensor(self._frame, columns, largest_z) if self._gpu.tensor_cores else None
        return found or searches.many(self._frame, columns, largest_z)

    @property
    def _few(self) -> tuple[str, ...]:
        """How kernels are told that features are few; empty if they are not."""
        return (f"-DD_FEW={self.d}",) if self.d <= searches.FEW_FEATURES else ()

    def _follow(self, centers: Floats) -> bool:
        """Account for the centers' movement; whether there are bounds that it leaves of use."""
        assert self._frame is not None
        old, scale = self._centers, self._frame.scale
        if old is not None and self._movement is not None and self._movement.follow(old, centers, scale):
            return True
        if self.list is self._none:
            self.list = self._gpu.empty(self.n, np.int32)
        self._movement = Movement(len(centers))
        return False
