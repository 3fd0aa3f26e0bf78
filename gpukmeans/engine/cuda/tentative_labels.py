"""The GPU's side of the assignment step, up to the tentative labels that scores give (Rule 2); `refine` follows.

Most rows are left out once centers move little: kernels/hamerly.cu lists those whose label may have changed, by bounds
that the kernels of launch_plans.py write.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from gpukmeans.engine.cuda import launch_plans
from gpukmeans.engine.cuda.assignment_kernels import (
    ASSIGN,
    TABLES,
    Comparison,
    Framed,
    Halves,
    NextForms,
    RowBounds,
    RowList,
    assign_close,
    center_forms,
    hamerly,
    movement,
)
from gpukmeans.engine.cuda.device import Gpu
from gpukmeans.engine.cuda.half_kernels import ASSIGN_HALF, HALF_TABLES
from gpukmeans.engine.cuda.known_products import compute_as_known
from gpukmeans.engine.cuda.launch_plans import ClosePlan, LaunchPlan
from gpukmeans.exact.certificate import Frame
from gpukmeans.exact.distance import Floats, norms

# Rows on a list are known by int32 (test_hamerly.test_of_more_rows_than_a_list_can_name_all_are_compared fails without
# it).
MOST_LISTED = 2**31 - 1

# Bounds are kept from so many centers on: below, comparing a row with all of them takes no longer than reading what
# tells whether that is needed. Reading 8 bytes takes 1.9 ps at 4.3 TB/s, and writing 12 in the passes before as much
# again; a pair of few features takes 0.1 to 0.3 ps on 132 multiprocessors (benchmarks/common/floors.py).
FEWEST_CENTERS = 24

# Sums of center shifts beyond this are begun anew, all rows being looked at: as float32 they keep steps of 2**-19, a
# thousandth of an 8-bit color's.
LONGEST_SHIFT = 16.0

# Bounds are not read where they left out less than 30 % of the rows: finding the others takes a tenth of comparing all
# with 1,024 centers of 128 features, by count. They are written all the same, which takes a fiftieth, and read again
# after LONGEST_REST assignments at most, as clusters often begin to stand still from one iteration to the next.
LARGEST_SHARE, LONGEST_REST = 0.7, 2

# Of fewer rows in doubt to a multiprocessor D is quicker, for which a warp takes each, than assign_close, of which a
# block takes 128: by count on an H100 1.4 ps for each row and value of the centers, and 1.9 ns for each value and any
# number of rows up to 128 a block.
FEWEST_DOUBTS = 8

# Gives (n,) float64 of memory for bounds, which are its owner's until they are dropped; None where no later assignment
# will profit from any.
BoundsMemory = Callable[[], Any] | None


class BoundsTrial:
    """Whether reading bounds pays, as far as assignments show."""

    def __init__(self) -> None:
        self._rest, self._pause = 0, 1

    def reads(self) -> bool:
        """Whether the next assignment, whose rows have bounds, shall."""
        self._rest -= 1
        return self._rest < 0

    def told(self, share: float) -> None:
        """Such an assignment compared this share of the rows."""
        self._rest, pause = (self._pause, 2 * self._pause) if share > LARGEST_SHARE else (0, 1)
        self._pause = min(pause, LONGEST_REST)


class TentativeLabels:
    """Of n rows of d features and that dtype, by k centers: `labels` (n,) int32, UNCERTAIN where D has to decide.

    listed: the rows that they are of, in whose order they are, while the others keep their label; None: all rows.
    columns: (d, k) float64 on the device, the centers compared with, or for sparse rows (d + 1, k) with their squares.
    counts: (3,) uint64 on the device, see `compare`.
    """

    def __init__(
        self, gpu: Gpu, n: int, d: int, k: int, dtype: np.dtype, sparse: bool, frame: Frame | None, counts: Any
    ) -> None:
        self._gpu, self._n, self._k, self._sparse, self._frame = gpu, n, k, sparse, frame
        self._given = gpu.empty((k, d), np.float64)  # where centers of the host go
        self.columns = gpu.empty((d + sparse, k), np.float64)
        self.labels = gpu.empty(n, np.int32)
        self.listed: RowList | None = None
        self._counts, self._length = counts, counts[2:]
        # Once there are bounds: the memory that was given for them, and the arrays in it.
        self._memory: Any = None
        self._list: RowList | None = None
        self._bounds: RowBounds | None = None
        # Whether rows have bounds that are of their labels, and whether they will have once `labels` are theirs.
        self._bounds_hold = self._bounds_written = False
        self.trial = BoundsTrial()
        # The array whose centers the forms are of, and whether no row was compared since they were made.
        self._formed: Any = None
        self._unused = False
        self.kernel = ""  # which compares most rows with the centers, if there are scores
        if frame is None:
            return
        self._plan = _plan(gpu, frame, k, dtype)
        # As far as any of the kernels reads it, in the type that brings rows into the frame (scores.cuh).
        padded = max(d + -d % launch_plans.TENSOR_DEPTH, self._plan.half.features if self._plan.half else 0)
        offset = np.pad(frame.offset, (0, padded - d))
        self._offset = gpu.put(offset.astype(np.float64 if dtype == np.float64 else np.float32))
        self._framed, self._squares = gpu.empty((k, d), np.float32), gpu.empty(self._plan.table.centers, np.float32)
        self._table = gpu.empty(self._plan.table.words, self._plan.table.dtype)
        self._downs = gpu.empty(self._plan.table.centers, np.float32) if self._plan.table.lifted else None
        self._lengths = gpu.empty(2, np.uint64)  # of lists
        self._halves: Halves | None = None  # where one product comes first
        self.kernel = self._plan.kernel
        if self._plan.half is not None and n <= MOST_LISTED:
            self.kernel = self._plan.half.kernel
            table, of_centers = (
                gpu.empty(4 * self._plan.half.words, np.uint32),
                gpu.empty(self._plan.half.numbers, np.float32),
            )
            self._halves = Halves(table, of_centers, RowList(gpu.empty(n, np.int32), self._lengths[:1]))
        # Rows that are in doubt, where these are looked at closer.
        self._close: ClosePlan | None = None
        self._doubts: RowList | None = None
        if not sparse and n <= MOST_LISTED and launch_plans.looks_closer(n, d, k, dtype):
            self._close = launch_plans.close_plan(frame, k)
            self._doubts = RowList(gpu.empty(n, np.int32), self._lengths[1:])
        self._moved, self._shift_sums = gpu.empty(k, np.float64), gpu.empty((2, k), np.float64)
        self._center_shift, self._own_errors = gpu.empty((4, k), np.float32), gpu.empty((2, k), np.float32)

    def drop_bounds(self) -> None:
        """Their memory serves others, or labels are no longer those that they are of."""
        self._bounds_hold = False

    def refined(self) -> None:
        """`labels`, refined, are what the rows have."""
        self._bounds_hold = self._bounds_written

    def within(self, memory: BoundsMemory) -> BoundsMemory:
        """For a `compare` that shall not need more memory than those before."""
        return None if self._list is None else memory

    def compare(self, x: Any, labels: Any, centers: Any, memory: BoundsMemory) -> None:
        """Set `labels` and `listed` by centers (k, d), on the host or on the device.

        x: (n, d), labels: (n,) int32, what the rows have. The counts become zero, and the third the length of the list.
        """
        bounds_held, self._bounds_hold, self._bounds_written = self._bounds_hold, False, False
        if isinstance(centers, np.ndarray):
            if not self._send(centers):
                self.listed = None
                self._gpu.fill(self.labels, 0xFF)  # UNCERTAIN
                self._gpu.fill(self._counts, 0)
                return
            centers = self._given
        bounds = self._bounds_in(memory)
        self.listed = self._list if bounds_held and bounds and self.trial.reads() else None
        if self._formed is not centers:
            self._forms(centers, None, anew=not bounds_held)
        gpu, rows, plan = self._gpu, Framed(x, self._offset), self._plan
        if self.listed and bounds:
            assert self._frame is not None
            hamerly(
                gpu,
                rows=rows,
                scale=self._frame.scale,
                framed=self._framed,
                labels=labels,
                bounds=bounds,
                relative=plan.errors.relative,
                own_errors=self._own_errors,
                listed=self.listed,
            )
        compared = Comparison(
            plan=plan,
            rows=rows,
            table=self._table,
            squares=self._squares,
            own_errors=self._own_errors,
            downs=self._downs,
            tentative=self.labels,
            listed=self.listed,
            bounds=bounds,
            halves=self._halves,
            doubts=self._doubts,
        )
        if self._halves or self._doubts:
            gpu.fill(self._lengths, 0)
        if self._halves and plan.half:
            ASSIGN_HALF[plan.half.kernel](gpu, compared)
        ASSIGN[plan.kernel](gpu, compared)
        if self._close:
            assign_close(gpu, self._close, compared, columns=self.columns, fewest=FEWEST_DOUBTS * gpu.multiprocessors)
        self._bounds_written, self._unused = bounds is not None, False

    def follow(self, centers: Any, following: NextForms) -> None:
        """Make the next centers (k, d), of the labels by those last compared with, and their forms. The counts, which
        are answered, become zero."""
        held, self._bounds_hold = self._bounds_hold, False
        self._forms(centers, following, anew=not held)
        self._bounds_hold = held

    def _bounds_in(self, memory: BoundsMemory) -> RowBounds | None:
        if memory is None or self._k < FEWEST_CENTERS or self._n > MOST_LISTED:
            return None
        found = memory()
        if self._list is None:
            self._list = RowList(self._gpu.empty(self._n, np.int32), self._length)
        if found is not self._memory:  # nearly always it is, and views of it cost as much as launches
            halves = found.view(np.float32)
            self._bounds = RowBounds(halves[: self._n], halves[self._n :], self._center_shift)
            self._memory = found
        return self._bounds

    def _send(self, centers: Floats) -> bool:
        """Send the centers; returns whether scores serve for them."""
        self._formed = None
        self._gpu.write(self._given, centers)
        # test_tensor.test_centers_of_any_length_are_compared_on_tensor_cores fails of centers too far for scores.
        if self._frame is None or self._frame.reach(centers) is None:
            columns = np.vstack([centers.T, norms(centers)]) if self._sparse else centers.T
            self._gpu.write(self.columns, columns)
            return False
        return True

    def _forms(self, centers: Any, following: NextForms | None, *, anew: bool) -> None:
        """Make the forms of centers (k, d), or of those that follow, and account for how far they have moved. anew: no
        row has bounds."""
        assert self._frame is not None
        self._formed = None
        gpu, plan = self._gpu, self._plan
        maker = TABLES.get(plan.table.made_by)
        center_forms(
            gpu,
            following=following,
            offset=self._offset,
            scale=self._frame.scale,
            errors=plan.errors,
            centers=centers,
            columns=self.columns,
            framed=self._framed,
            squares=self._squares,
            own_errors=self._own_errors,
            downs=self._downs,
            table=None if maker else self._table,
            moved=self._moved,
            counts=self._counts,
        )
        movement(
            gpu,
            moved=self._moved,
            first=anew,
            unused=self._unused,
            longest=LONGEST_SHIFT,
            shift_sums=self._shift_sums,
            center_shift=self._center_shift,
            counts=self._counts,
            following=following,
            centers=centers,
        )
        self._unused = True
        if maker:
            maker(gpu, plan, framed=self._framed, squares=self._squares, downs=self._downs, table=self._table)
        if self._halves and plan.half:
            forms = {"framed": self._framed, "squares": self._squares, "downs": self._downs}
            HALF_TABLES[plan.half.kernel](gpu, plan, **forms, halves=self._halves)
        self._formed = centers


def _plan(gpu: Gpu, frame: Frame, k: int, dtype: np.dtype) -> LaunchPlan:
    if frame.entries is not None:
        return launch_plans.sparse(frame, k)
    on_tensor_cores = launch_plans.tensor(frame, k, dtype, gpu.own_products) if gpu.tensor_cores else None
    half = on_tensor_cores and on_tensor_cores.half
    own = launch_plans.OWN_PRODUCTS.get(half.kernel) if half else None
    if own and not compute_as_known(gpu, own):
        on_tensor_cores = launch_plans.tensor(frame, k, dtype)
    few = len(frame.offset) <= launch_plans.LOW_DIM_FEATURES
    return on_tensor_cores or (launch_plans.low_dim(frame, k) if few else launch_plans.tiled(frame, k))
