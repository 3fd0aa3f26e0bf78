"""The GPU's side of the assignment step, up to the labels that float32 scores propose (Rule 2).

Most rows are left out once centers move little: kernels/active.cu lists those whose label may have changed, by bounds
that the kernels of searches.py write.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from gpukmeans.exact import Floats, Frame
from gpukmeans.points import searches
from gpukmeans.points.bounds import distance_bounds
from gpukmeans.points.gpu import BLOCK, PIECE, Gpu, Parcel
from gpukmeans.points.pruning import FEWEST_CENTERS, Movement

# Rows of a thread of active.
EACH = 4

# Rows on a list are known by int32.
MOST_LISTED = 2**31 - 1


class Forms(NamedTuple):
    """Centers on the device: columns (d, k) float64, and tables, what a search reads of them; for bounds, what is in
    the frame (k, d) float32, and their movement."""

    columns: Any
    tables: list[Any]
    framed: Any
    drift: Any


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
        self._scale = np.float64(0.0 if frame is None else frame.scale)
        self._largest_z = 0.0  # |z|^2 of the farthest center
        self._is_few = d <= searches.FEW_FEATURES
        self._none = gpu.nothing.view(np.int32)
        self.listed, self.list = False, self._none
        self._parcels: dict[tuple[tuple[int, ...], ...], Parcel] = {}
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
        search = self._few(centers) if self._is_few else self._wide(centers)
        if search is None:
            self.forget()
            with self._gpu:
                self.next.fill(-1)
            return self._gpu.put(centers.T)
        gpu, k, n = self._gpu, np.int32(len(centers)), np.int64(self.n)
        if len(centers) < FEWEST_CENTERS or self.n > MOST_LISTED:
            bounds = None
        room = reach = gpu.nothing.view(np.float32)
        movement = None
        if bounds is not None:
            self.listed, movement = self._follow(centers)
            halves = bounds().view(np.float32)
            room, reach = halves[: self.n], halves[self.n :]
        forms = self._forms(search, centers, movement)
        if self.listed:
            gpu.run(
                *("active", "active", min(gpu.blocks, -(-self.n // (BLOCK * EACH))), BLOCK, x, n, np.int32(self.d)),
                *(self._offset, self._type(self._scale), forms.framed, labels, room, reach, forms.drift, k),
                *(*distance_bounds(self.d, self._largest_z), self.list, counts[2:]),
                options=(f"-DD_FEW={self.d}",) if self._is_few else (),
            )
        gpu.run(
            *(search.kernel, search.kernel, min(gpu.blocks, -(-self.n // search.rows)), BLOCK, x, n, *search.shape),
            *(self._offset, self._type(search.scale), *forms.tables, *search.numbers, *search.margin, self.next),
            *(np.int32(self.listed), self.list, counts[2:], np.int32(bounds is not None), forms.drift, k, room, reach),
            options=search.options,
            shared=search.shared,
        )
        self._centers = centers.copy() if bounds else None
        return forms.columns

    def _few(self, centers: Floats) -> searches.Few | None:
        """How rows of few features are compared with the centers; None if scores do not serve."""
        scores = None if self._frame is None else self._frame.centers(centers)
        if self._frame is None or scores is None:
            return None
        columns, self._largest_z = scores
        return searches.few(self._frame, columns, self._largest_z)

    def _wide(self, centers: Floats) -> searches.Wide | None:
        """The same of many."""
        reach = None if self._frame is None else self._frame.reach(centers)
        if self._frame is None or reach is None:
            return None
        self._largest_z = reach[0]
        found = searches.tensor(self._frame, len(centers), reach) if self._gpu.tensor_cores else None
        return found or searches.many(self._frame, len(centers), self._largest_z)

    def _forms(
        self, search: searches.Few | searches.Wide, centers: Floats, movement: NDArray[np.float32] | None
    ) -> Forms:
        """movement: what bounds need to know of it, None if there are none."""
        gpu, (k, d) = self._gpu, centers.shape
        none = gpu.nothing.view(np.float32)
        if isinstance(search, searches.Few):
            more = () if movement is None else (search.table[1:, :k].T * np.float32(-0.5), movement)  # exact
            columns, table, *bounds = self._send(centers.T, search.table, *more)
            return Forms(columns, [table], *(bounds or (none, none)))
        sent, *moved = self._send(centers, *(() if movement is None else (movement,)))
        framed, squares = gpu.empty((k, d), np.float32), gpu.empty(search.padded, np.float32)
        columns = gpu.empty((d, k), np.float64)
        made = np.int32(search.padded), framed, squares, columns
        shape = np.int32(k), np.int32(d), self._offset, self._scale
        gpu.launch("centers", "center_forms", 32 * search.padded, sent, *shape, *made)
        table = gpu.empty(search.words, search.dtype)
        sources = (framed,) if search.apart else (framed, squares)
        sizes = (np.int32(k), *search.shape, *search.numbers)
        threads = search.words // search.step
        gpu.launch(search.kernel, search.maker, threads, *sources, *sizes, table, options=search.options)
        tables = [table, squares] if search.apart else [table]
        return Forms(columns, tables, framed, moved[0]) if moved else Forms(columns, tables, none, none)

    def _send(self, *arrays: NDArray[Any]) -> list[Any]:
        """As `put_together`, in the memory that the last of the same shapes were in."""
        if sum(array.nbytes for array in arrays) > PIECE:
            return self._gpu.put_together(*arrays)
        shapes = tuple(array.shape for array in arrays)
        if shapes not in self._parcels:
            self._parcels = {shapes: Parcel(self._gpu, *arrays)}
        return self._parcels[shapes].send(*arrays)

    def _follow(self, centers: Floats) -> tuple[bool, NDArray[np.float32]]:
        """Account for the centers' movement; whether there are bounds that it leaves of use, and what they need to
        know of it."""
        # Should memory run out before bounds are written, there are none of these centers' movement.
        old, self._centers, scale = self._centers, None, float(self._scale)
        if old is not None and self._movement is not None and self._movement.follow(old, centers, scale):
            return True, self._movement.table()
        if self.list is self._none:
            self.list = self._gpu.empty(self.n, np.int32)
        self._movement = Movement(len(centers))
        return False, self._movement.table()
