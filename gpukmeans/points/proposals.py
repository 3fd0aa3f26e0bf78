"""The GPU's side of the assignment step, up to the labels that float32 scores propose (Rule 2).

Launches kernels/assign_few.cu and assign_many.cu. For few features, most rows are left out once centers move little:
active.cu lists those whose label may have changed, by bounds that assign_few writes.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gpukmeans.exact import Floats, Frame
from gpukmeans.points.bounds import distance_bounds
from gpukmeans.points.gpu import BLOCK, SHARED, Gpu
from gpukmeans.points.pruning import FEWEST_CENTERS, Movement

# Up to this many features a thread holds whole rows in registers.
FEW_FEATURES = 16

# As assign_few has it: centers of a group, and floats between groups in shared memory, which read other banks then.
GROUP, GROUP_PADDING = 8, 4

# As assign_many has it: features that a block compares at a time, and how many centers, with how many rows. All centers
# of a tile cost the same, whether or not they are anybody's, so few centers have narrower ones.
DEPTH = 8
TILES = {16: 256, 32: 256, 64: 256, 128: 128}

# Rows of a thread of active.
EACH = 4

# |z|^2 of centers that are nobody's, above all scores.
NEVER = np.finfo(np.float32).max

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
        self._offset = None if frame is None else gpu.put(np.pad(frame.offset, (0, -d % DEPTH)).astype(self._type))
        self.next = gpu.empty(n, np.int32)
        self._none = gpu.nothing.view(np.int32)
        self.listed, self.list = False, self._none
        self.forget()

    def forget(self) -> None:
        """The bounds are no longer there, or not of the labels."""
        self._centers: Floats | None = None
        self._movement: Movement | None = None

    def propose(self, x: Any, labels: Any, centers: Floats, counts: Any, bounds: Callable[[], Any] | None) -> Any:
        """Set `next` and the list; returns the centers on the device. counts: of which the third becomes the list's
        length. bounds(): (n,) float64 of memory that is this object's until `forget`; None if no later call will
        profit from it.
        """
        self.listed = False
        scores = self._frame.centers(centers) if self._frame is not None else None
        if self._frame is None or scores is None:
            self.forget()
            with self._gpu:
                self.next.fill(-1)
            return self._gpu.put(centers)
        columns, largest_z = scores
        margin = self._frame.margin_factors(largest_z)
        where = (self._offset, self._type(self._frame.scale))
        if self.d <= FEW_FEATURES:
            return self._few(x, labels, centers, columns, largest_z, margin, where, counts, bounds)
        return self._many(x, centers, columns, margin, where)

    def _few(
        self,
        x: Any,
        labels: Any,
        centers: Floats,
        columns: NDArray[np.float32],
        largest_z: float,
        margin: tuple[np.float32, np.float32],
        where: tuple[Any, Any],
        counts: Any,
        bounds: Callable[[], Any] | None,
    ) -> Any:
        gpu, k, n = self._gpu, np.int32(len(centers)), np.int64(self.n)
        padded = _padded(columns, 1, GROUP)
        stride = np.int32(padded.shape[1])
        if len(centers) < FEWEST_CENTERS or self.n > MOST_LISTED:
            bounds = None
        room = reach = drift = gpu.nothing.view(np.float32)
        if bounds is not None:
            self.listed = self._follow(centers)
            assert self._movement is not None
            halves = bounds().view(np.float32)
            room, reach = halves[: self.n], halves[self.n :]
            table, device, drift = gpu.put_together(padded, centers, self._movement.table())
        else:
            table, device = gpu.put_together(padded, centers)
        options = (f"-DD_FEW={self.d}",)
        if self.listed:
            blocks = min(gpu.blocks, -(-self.n // (BLOCK * EACH)))
            gpu.run(
                *("active", "active", blocks, BLOCK, x, n, *where, table, stride, labels, room, reach, drift, k),
                *(*distance_bounds(self.d, largest_z), self.list, counts[2:]),
                options=options,
            )
        size = 4 * (padded.shape[0] * GROUP + GROUP_PADDING)
        tile = min(padded.shape[1] // GROUP, SHARED // size)
        # 16 or fewer values of a row fit the registers four, or beyond eight two at a time.
        rows_each = 4 if self.d <= 8 else 2
        gpu.launch(
            *("assign_few", "assign_few", -(-self.n // rows_each), x, n, *where, table, stride, np.int32(tile)),
            *(*margin, self.next, np.int32(self.listed), self.list, counts[2:]),
            *(np.int32(bounds is not None), drift, k, room, reach),
            options=options,
            shared=tile * size,
        )
        # Only now: had memory run out before, the bounds would be those of earlier centers.
        self._centers = centers.copy() if bounds else None
        return device

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

    def _many(
        self,
        x: Any,
        centers: Floats,
        columns: NDArray[np.float32],
        margin: tuple[np.float32, np.float32],
        where: tuple[Any, Any],
    ) -> Any:
        width = next((width for width in TILES if columns.shape[1] <= width), max(TILES))
        padded = _padded(columns, DEPTH, width)
        depth, tiles = padded.shape[0] - 1, padded.shape[1] // width
        blocks = min(self._gpu.blocks, -(-self.n // TILES[width]))
        table, device = self._gpu.put_together(padded.reshape(depth + 1, tiles, width).swapaxes(0, 1), centers)
        self._gpu.run(
            *("assign_many", "assign_many", blocks, BLOCK, x, np.int64(self.n), np.int32(self.d), np.int32(depth)),
            *(*where, table, np.int32(tiles), *margin, self.next),
            options=(f"-DCENTERS={width}",),
        )
        return device


def _padded(columns: NDArray[np.float32], depth: int, width: int) -> NDArray[np.float32]:
    """Frame.centers' columns (d + 1, k) with |z|^2 first, d and k rounded up to multiples of depth and width."""
    d, k = columns.shape[0] - 1, columns.shape[1]
    result = np.zeros((1 + d + -d % depth, k + -k % width), np.float32)
    result[0, k:] = NEVER
    result[0, :k] = columns[d]
    result[1 : d + 1, :k] = columns[:d]
    return result
