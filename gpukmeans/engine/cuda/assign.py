"""The GPU's side of the assignment step, up to the labels that float32 scores propose (Rule 2).

Most rows are left out once centers move little: kernels/hamerly.cu lists those whose label may have changed, by bounds
that the kernels of searches.py write.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from gpukmeans.engine.cuda import launch_plans
from gpukmeans.engine.cuda.device import BLOCK, Gpu
from gpukmeans.exact.certificate import Frame
from gpukmeans.exact.distance import Floats

# Rows of a thread of active.
EACH = 4

# Rows on a list are known by int32 (test_hamerly.test_of_more_rows_than_a_list_can_name_all_are_compared fails without
# it).
MOST_LISTED = 2**31 - 1

# Bounds are kept from so many centers on: below, comparing a row with all of them takes no longer than reading what
# tells whether that is needed. Reading 8 bytes takes 1.9 ps at 4.3 TB/s, and writing 12 in the passes before as much
# again; a pair of few features takes 0.1 to 0.3 ps on 132 multiprocessors (benchmarks/floors.py).
FEWEST_CENTERS = 24

# Sums of movement beyond this are begun anew, all rows being looked at: as float32 they keep steps of 2**-19, a
# thousandth of an 8-bit color's.
LONGEST = np.float64(16)


class Means(NamedTuple):
    """What centers are made of on the device, see center_forms in kernels/prepare_centers.cu."""

    sums: Any
    offset: Any
    scale: Any
    inverse: np.float64


class Proposals:
    """Labels proposed for n rows of d features and k centers: `next`, UNCERTAIN where D has to decide.

    If `listed`, only for the rows of `list`, in its order; the others keep theirs. centers: (k * d,) float64 on the
    device, which are compared with; columns: the same as (d, k).
    """

    def __init__(self, gpu: Gpu, n: int, d: int, dtype: np.dtype, frame: Frame | None, centers: Any) -> None:
        k = len(centers) // d
        self._gpu, self.n, self.d, self.k, self._frame = gpu, n, d, k, frame
        self.centers, self.columns = centers, gpu.empty(k * d, np.float64)
        self.next = gpu.empty(n, np.int32)
        self._none = gpu.nothing.view(np.int32)
        self.listed, self.list = False, self._none
        self._kept = self._written = False  # whether there are bounds, which are of the labels, or will be
        if frame is None:
            return
        # The type that rows are brought into the frame with (kernels/scores.cuh).
        self._type = np.float64 if dtype == np.float64 else np.float32
        # A multiple of what any kernel reads at a time.
        padding = (0, -d % launch_plans.TENSOR_DEPTH)
        self._offset = gpu.put(np.pad(frame.offset, padding).astype(self._type))
        self._scale = np.float64(frame.scale)
        self._is_few = d <= launch_plans.FEW_FEATURES
        on_tensor_cores = launch_plans.tensor(frame, k, dtype) if gpu.tensor_cores and not self._is_few else None
        self._search = launch_plans.few(frame, k) if self._is_few else on_tensor_cores or launch_plans.many(frame, k)
        self._framed, self._squares = gpu.empty(k * d, np.float32), gpu.empty(self._search.padded, np.float32)
        self._table = gpu.empty(self._search.words, self._search.dtype)
        nothing = gpu.nothing
        self._no_means = Means(nothing.view(np.uint64), nothing, nothing, np.float64(0))
        self._moved, self._way = gpu.empty(k, np.float64), gpu.empty(2 * k, np.float64)
        self._drift, self._margins = gpu.empty(4 * k, np.float32), gpu.empty(4, np.float32)

    def forget(self) -> None:
        """The bounds are no longer there, or not of the labels."""
        self._kept = False

    def settled(self) -> None:
        """What was proposed is what the rows have."""
        self._kept = self._written

    def within(self, bounds: Callable[[], Any] | None) -> Callable[[], Any] | None:
        """For `propose`, if it shall not need more memory than before."""
        return None if self.list is self._none else bounds

    def propose(
        self, x: Any, labels: Any, given: Floats | Means, counts: Any, bounds: Callable[[], Any] | None
    ) -> None:
        """Set `next`, the list, and the centers, which are given (k, d) or are means of what is on the device.

        counts: (3,), which become zero, and the third then the list's length. bounds(): (n,) float64 of memory that is
        this object's until `forget`; None if no later call will profit from it.
        """
        search, means = (self._search, given) if isinstance(given, Means) else (self._given(given), None)
        kept, self._kept, self._written = self._kept, False, False
        if search is None:
            self.listed = False
            self._gpu.fill(self.next, 0xFF)  # UNCERTAIN
            self._gpu.fill(counts, 0)
            return
        gpu, k, n = self._gpu, np.int32(self.k), np.int64(self.n)
        if self.k < FEWEST_CENTERS or self.n > MOST_LISTED:
            bounds = None
        room = reach = self._drift
        if bounds is not None:
            halves = bounds().view(np.float32)
            room, reach = halves[: self.n], halves[self.n :]
            if self.list is self._none:
                self.list = gpu.empty(self.n, np.int32)
        self.listed = kept and bounds is not None
        table, squares = self._forms(search, means, counts)
        if self.listed:
            gpu.run(
                *("hamerly", "hamerly", min(gpu.blocks, -(-self.n // (BLOCK * EACH))), BLOCK, x, n, np.int32(self.d)),
                *(self._offset, self._type(self._scale), self._framed, labels, room, reach, self._drift),
                *(k, self._margins, self.list, counts[2:]),
                options=(f"-DD_FEW={self.d}",) if self._is_few else (),
            )
        tables = (table, squares) if search.apart else (table,)
        gpu.run(
            *(search.kernel, search.kernel, min(gpu.blocks, -(-self.n // search.rows)), BLOCK, x, n, *search.shape),
            *(self._offset, self._type(search.scale), *tables, *search.numbers, self._margins, self.next),
            *(np.int32(self.listed), self.list, counts[2:], np.int32(bounds is not None), self._drift, k, room, reach),
            options=search.options,
            shared=search.shared,
        )
        self._written = bounds is not None

    def _given(self, centers: Floats) -> launch_plans.Search | None:
        """Send the centers; returns how rows are compared with them, None if scores do not serve."""
        reach = None if self._frame is None else self._frame.reach(centers)
        self._gpu.write(self.centers, centers)
        # test_tensor.test_centers_that_overflow_float16_are_compared_otherwise fails of centers too far for scores.
        if self._frame is None or reach is None:
            self._gpu.write(self.columns, centers.T)
            return None
        if self._search.kernel == "assign_tensor" and reach[1] > launch_plans.LARGEST_TENSOR_CENTER:
            return launch_plans.many(self._frame, self.k)
        return self._search

    def _forms(self, search: launch_plans.Search, means: Means | None, counts: Any) -> tuple[Any, Any]:
        """Make the centers' forms, and account for how far they have moved; returns what the search reads."""
        gpu, k, d = self._gpu, np.int32(self.k), np.int32(self.d)
        table, squares = self._table, self._squares
        if search is not self._search:
            table, squares = gpu.empty(search.words, search.dtype), gpu.empty(search.padded, np.float32)
        gpu.launch(
            *(
                "prepare_centers",
                "center_forms",
                32 * search.padded,
                *(means or self._no_means),
                np.int32(means is not None),
            ),
            *(self.centers, k, d, self._offset, self._scale, np.int32(search.padded), self._framed, squares),
            *(table.view(np.float32), np.int32(not search.maker), self.columns, self._moved),
        )
        gpu.run(
            *("prepare_centers", "movement", 1, BLOCK, self._moved, squares, k, np.int32(not self.listed), LONGEST),
            *(*search.factors, self._way, self._drift, self._margins, counts),
        )
        if search.maker:
            sources = (self._framed,) if search.apart else (self._framed, squares)
            threads = search.words // search.step
            gpu.launch(search.kernel, search.maker, threads, *sources, k, *search.made, table, options=search.options)
        return table, squares
