"""One function a kernel, see kernels.py: those of the assignment step.

k centers are compared with in a frame (exact.certificate.Frame): z = (center - offset) * scale, as y of a row. Each
kernel that does so reads the centers from a table of its own; which, a LaunchPlan says.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from gpukmeans.engine.cuda.device import BLOCK, SHARED, Gpu
from gpukmeans.engine.cuda.kernels import SparseRows, of_rows
from gpukmeans.engine.cuda.launch_plans import (
    GROUP,
    SPARSE_CENTERS,
    ClosePlan,
    ErrorFactors,
    HalfPlan,
    LaunchPlan,
    hamerly_options,
    wgmma_shared,
)
from gpukmeans.engine.protocol import Doubt
from gpukmeans.exact.sparse_rows import expansion_error

# Neighboring rows of a thread of hamerly.
HAMERLY_ROWS = 4


class DeviceSums(NamedTuple):
    """The clusters' sums, and what makes means of them (exact.Scales): sums (k, d + 1) uint64, weight last; offset,
    scale (d,) float64; weight_scale, 2 to the exponent of weights."""

    sums: Any
    offset: Any
    scale: Any
    weight_scale: float


class RowList(NamedTuple):
    """Some of n rows: rows (n,) int32, of which as many count as length (1,) uint64 says."""

    rows: Any
    length: Any


class RowBounds(NamedTuple):
    """By which rows keep their label, see hamerly.cu: slack, lower_bound (n,) float32 of rows; center_shift (4, k)
    float32, by how much centers have moved."""

    slack: Any
    lower_bound: Any
    center_shift: Any


class Halves(NamedTuple):
    """What assign_half, or assign_wgmma, reads of centers, and leaves undecided. table: (plan.words, 4) uint32;
    of_centers: (padded, 4) float32; see half_table. again: places, in the order of tentative labels, of rows that it
    leaves in doubt; its length is 0 before."""

    table: Any
    of_centers: Any
    again: RowList


class Framed(NamedTuple):
    """Rows, to be brought into the frame: x (n, d), see kernels.py, and the frame's offset, (d,) with zeros up to a
    multiple of 16, float64 if x is, else float32."""

    x: Any
    offset: Any

    def scale(self, scale: float) -> np.floating[Any]:
        return self.offset.dtype.type(scale)


# ---------------------------------------------------------------- the centers


class NextForms(NamedTuple):
    """What center_forms makes next centers of, and where what the host decides by goes.

    sums: of the clusters. means: (k, d) float64, become the means, which the centers are when brought to length one;
    None if they are those. doubt: when a mean is in doubt; one of an empty cluster always is. answer: (3 + k,) uint64,
    becomes the counts and D (k,) float64 to the centers of before, `shifts`, with the sign set of those in doubt.
    """

    sums: DeviceSums
    means: Any
    doubt: Doubt
    answer: Any
    shifts: Any

    @property
    def inexact(self) -> tuple[np.float64, np.float64, np.float64]:
        """The arguments inverse, fractions and limit."""
        return np.float64(1 / self.sums.weight_scale), np.float64(self.doubt.fractions), np.float64(self.doubt.limit)


# As the kernels have it: centers of a block of movement, on either side.
CROWDED_TILE = 256


def center_forms(
    gpu: Gpu,
    *,
    following: NextForms | None,
    offset: Any,
    scale: float,
    errors: ErrorFactors,
    centers: Any,
    columns: Any,
    framed: Any,
    squares: Any,
    own_errors: Any,
    downs: Any,
    table: Any,
    moved: Any,
    counts: Any,
) -> None:
    """The centers in the forms that other kernels read.

    centers: (k, d) float64, or what becomes the next centers. offset, scale: the frame's, as Framed has them. columns:
    (d, k) float64, the centers of before, which become these; for sparse rows (d + 1, k), with their squares. framed:
    (k, d) float32, become z. squares: (padded,) float32, become |z|^2 less its error. own_errors: (2, k) float32,
    become what scores of each center and distances to it may err by, as `errors` say. downs: (padded,) float32, what
    products are multiplied by where the table is lifted, or None. table: what assign_low_dim or assign_sparse reads, or
    None. moved: (k,) float64, becomes how far each center went, in the frame and from above. counts: (3,) uint64, those
    of `refine`, as they are.
    """
    (k, d), padded = centers.shape, len(squares)
    sums = following.sums if following else DeviceSums(None, None, None, 1.0)
    inexact = following.inexact if following else (np.float64(0),) * 3
    means = following.means if following else None
    gpu.launch(
        *("prepare_centers", "center_forms", 32 * padded),  # a warp a center
        *(gpu.given(sums.sums, np.uint64), gpu.given(sums.offset, np.float64), gpu.given(sums.scale, np.float64)),
        *(*inexact, np.int32(following is not None), np.int32(means is not None)),
        *(centers, centers if means is None else means, np.int32(k), np.int32(d), offset, np.float64(scale)),
        *(errors.per_center, errors.rest, errors.per_reach, errors.absolute, np.int32(padded)),
        *(framed, squares, own_errors, gpu.given(downs, np.float32), np.int32(downs is not None)),
        *(gpu.given(table, np.float32), np.int32(table is not None), columns, moved, counts),
        gpu.given(following and following.answer, np.uint64),
    )


def movement(
    gpu: Gpu,
    *,
    moved: Any,
    first: bool,
    unused: bool,
    longest: float,
    shift_sums: Any,
    center_shift: Any,
    counts: Any,
    following: NextForms | None,
    centers: Any,
) -> None:
    """How far centers have moved in all; and of the next centers, which are in doubt because they are too near.

    moved: what center_forms wrote. shift_sums: (2, k) float64, to which that is added, or which begin anew, if these
    are the first or once one is `longest`. unused: whether no row was looked at since this was called before.
    center_shift: see RowBounds, becomes what these say. counts: (3,) uint64, become zero. following, centers: as
    center_forms had them.
    """
    k, d = centers.shape
    tiles, widest, inexact = 0, 0, (np.float64(0),) * 3
    sums = means = shifts = None
    if following:
        sums, shifts, inexact = following.sums.sums, following.shifts, following.inexact
        means, widest = centers if following.means is None else following.means, following.doubt.widest
        tiles = (-(-k // CROWDED_TILE)) ** 2 if following.doubt.limit > 0 else 0
    gpu.run(
        *("prepare_centers", "movement", 1 + min(tiles, gpu.blocks), BLOCK, moved, np.int32(k), np.int32(first)),
        *(np.int32(unused), np.float64(longest), shift_sums, center_shift, counts),
        *(gpu.given(sums, np.uint64), np.int32(d), *inexact, gpu.given(means, np.float64), np.int32(widest)),
        gpu.given(shifts, np.uint64),
    )


def tiled_table(gpu: Gpu, plan: LaunchPlan, *, framed: Any, squares: Any, downs: Any, table: Any) -> None:
    """table: (plan.table.words,) float32, becomes what assign_tiled reads; a thread a word. downs: not read."""
    gpu.launch(
        *("assign_tiled", "tiled_table", plan.table.words, framed, squares, *_table_shape(plan, framed), table),
        options=plan.options,
    )


def tensor_table(gpu: Gpu, plan: LaunchPlan, *, framed: Any, squares: Any, downs: Any, table: Any) -> None:
    """table: (plan.table.words,) uint32, becomes what assign_tensor reads; a thread 16 bytes. squares: not read."""
    gpu.launch(
        *("assign_tensor", "tensor_table", plan.table.words // 4, framed, downs, *_table_shape(plan, framed), table),
        options=plan.options,
    )


def half_table(gpu: Gpu, plan: LaunchPlan, *, framed: Any, squares: Any, downs: Any, halves: Halves) -> None:
    """The table of `halves`, as assign_half reads it, and what scores err by for each center; a warp a center."""
    assert plan.half is not None
    gpu.launch(
        *("assign_half", "half_table", 32 * plan.table.centers, framed, squares, downs),
        *_half_table_arguments(plan, plan.half, framed, halves),
        options=plan.half.options,
    )


def wgmma_table(gpu: Gpu, plan: LaunchPlan, *, framed: Any, squares: Any, downs: Any, halves: Halves) -> None:
    """The same, as assign_wgmma reads it."""
    assert plan.half is not None
    gpu.launch(
        *("assign_wgmma", "wgmma_table", 32 * plan.table.centers, framed, squares, downs),
        *_half_table_arguments(plan, plan.half, framed, halves),
        options=plan.half.options,
    )


def _half_table_arguments(plan: LaunchPlan, half: HalfPlan, framed: Any, halves: Halves) -> tuple[Any, ...]:
    """The arguments from k to of_centers."""
    k, d = framed.shape
    shape = np.int32(k), np.int32(d), np.int32(half.features), np.int32(plan.table.tiles)
    return *shape, np.float32(half.summing), np.float32(half.roundings), halves.table, halves.of_centers


def _table_shape(plan: LaunchPlan, framed: Any) -> tuple[np.int32, ...]:
    """The arguments k, d, depth and tiles."""
    k, d = framed.shape
    return np.int32(k), np.int32(d), np.int32(plan.table.features), np.int32(plan.table.tiles)


# ---------------------------------------------------------------- rows and centers


def hamerly(
    gpu: Gpu,
    *,
    rows: Framed,
    scale: float,
    framed: Any,
    labels: Any,
    bounds: RowBounds,
    relative: np.float64,
    own_errors: Any,
    listed: RowList,
) -> None:
    """listed: becomes the rows whose label may have changed; its length is 0 before. bounds: of rows that are measured
    they follow.

    scale: the frame's. framed: (k, d) float32, own_errors: (2, k) float32, as center_forms writes them. labels: (n,)
    int32. relative: of ErrorFactors.
    """
    n, d = rows.x.shape
    gpu.run(
        *("hamerly", "hamerly", min(gpu.blocks, -(-n // (BLOCK * HAMERLY_ROWS))), BLOCK, *of_rows(rows.x)),
        *(
            rows.offset,
            rows.scale(scale),
            framed,
            labels,
            *bounds,
            np.int32(len(framed)),
            np.float32(relative),
            own_errors,
            *listed,
        ),
        options=hamerly_options(d),
    )


class Comparison(NamedTuple):
    """What the kernels that compare rows with all centers are given, whichever of them does.

    plan: which does. table: what its maker wrote; squares, own_errors, downs: what center_forms did. tentative: (n,)
    int32, becomes labels, UNCERTAIN where scores leave them to D. listed: the rows to compare, in whose order tentative
    is then, or None for all. bounds: become those of these rows, unless None. halves: where the plan has a half.
    doubts: becomes the places of uncertain rows, in the order of tentative, unless None; its length is 0 before.
    """

    plan: LaunchPlan
    rows: Framed
    table: Any
    squares: Any
    own_errors: Any
    downs: Any
    tentative: Any
    listed: RowList | None
    bounds: RowBounds | None
    halves: Halves | None = None
    doubts: RowList | None = None

    def blocks(self, gpu: Gpu) -> int:
        return min(gpu.blocks, -(-len(self.rows.x) // self.plan.rows))

    @property
    def frame(self) -> tuple[Any, np.floating[Any]]:
        return self.rows.offset, self.rows.scale(self.plan.scale)

    def outcome(self, gpu: Gpu) -> tuple[Any, ...]:
        """The arguments from per_norm to lower_bound, in the order of all these kernels."""
        return np.float32(self.plan.errors.per_norm), self.own_errors, *self.labels_and_bounds(gpu)

    def labels_and_bounds(self, gpu: Gpu) -> tuple[Any, ...]:
        """The arguments from tentative to lower_bound."""
        listed = self.listed or _no_list(gpu)
        slack, lower_bound, shift = self.bounds or RowBounds(*[gpu.given(None, np.float32)] * 3)
        k = np.int32(0 if self.bounds is None else shift.shape[1])
        of_list = np.int32(self.listed is not None), *listed
        return self.tentative, *of_list, np.int32(self.bounds is not None), shift, k, slack, lower_bound

    def in_doubt(self, gpu: Gpu) -> tuple[Any, ...]:
        """The arguments doubting, doubts and doubts_length."""
        return np.int32(self.doubts is not None), *(self.doubts or _no_list(gpu))


def _no_list(gpu: Gpu) -> RowList:
    """For arguments that a kernel will not read."""
    return RowList(gpu.given(None, np.int32), gpu.given(None, np.uint64))


def assign_low_dim(gpu: Gpu, compared: Comparison) -> None:
    """Of up to 16 features: tentative labels by float32 scores; a thread four rows, or two."""
    x, plan = compared.rows.x, compared.plan
    groups = plan.table.tile // GROUP
    gpu.run(
        *("assign_low_dim", "assign_low_dim", compared.blocks(gpu), BLOCK, x, np.int64(len(x)), *compared.frame),
        *(compared.table, np.int32(plan.table.centers), np.int32(groups), *compared.outcome(gpu)),
        *compared.in_doubt(gpu),
        options=plan.options,
        shared=plan.shared,
    )


def assign_tiled(gpu: Gpu, compared: Comparison) -> None:
    """Of any number of features: tentative labels by float32 scores; a block a tile of rows."""
    plan = compared.plan
    gpu.run(
        *("assign_tiled", "assign_tiled", compared.blocks(gpu), BLOCK, *of_rows(compared.rows.x)),
        *(np.int32(plan.table.features), *compared.frame, compared.table, np.int32(plan.table.tiles)),
        *compared.outcome(gpu),
        *compared.in_doubt(gpu),
        options=plan.options,
    )


def assign_tensor(gpu: Gpu, compared: Comparison) -> None:
    """Of any number of features: tentative labels by scores that tensor cores make; a block 128 rows. Where the plan
    has a half, of the rows that this left in doubt."""
    plan = compared.plan
    again = compared.halves.again if compared.halves else _no_list(gpu)
    gpu.run(
        *("assign_tensor", "assign_tensor", compared.blocks(gpu), BLOCK, *of_rows(compared.rows.x)),
        *(np.int32(plan.table.features), *compared.frame, compared.table, compared.squares),
        *(compared.downs, np.int32(plan.table.tiles), *compared.outcome(gpu), *compared.in_doubt(gpu)),
        *(np.int32(compared.halves is not None), *again),
        options=plan.options,
    )


def assign_half(gpu: Gpu, compared: Comparison) -> None:
    """Tentative labels by one product of float16, and where that leaves doubt a place on a list; a block the rows that
    its shared memory holds."""
    blocks, arguments, how = _half_launch(gpu, compared)
    gpu.run(*("assign_half", "assign_half", blocks, BLOCK, *arguments), **how)


def assign_wgmma(gpu: Gpu, compared: Comparison) -> None:
    """The same by instructions that compute capability 9.0 has for it; a block 128 rows."""
    blocks, arguments, how = _half_launch(gpu, compared)
    gpu.run(*("assign_wgmma", "assign_wgmma", blocks, BLOCK, *arguments), **how)


def _half_launch(gpu: Gpu, compared: Comparison) -> tuple[int, tuple[Any, ...], dict[str, Any]]:
    """Of either: how many blocks, its arguments, and how `Gpu.run` is to launch it."""
    half, halves = compared.plan.half, compared.halves
    assert half is not None
    assert halves is not None
    centers = halves.table, halves.of_centers, np.int32(compared.plan.table.tiles), np.float32(half.roundings)
    rows = *of_rows(compared.rows.x), np.int32(half.features), *compared.frame
    arguments = *rows, *centers, *halves.again, *compared.outcome(gpu)
    blocks = min(gpu.blocks, -(-len(compared.rows.x) // half.rows))
    return blocks, arguments, {"options": half.options, "shared": half.shared}


def known_product(gpu: Gpu, *, rows: Any, table: Any, products: Any) -> None:
    """Products of 128 rows with centers, as assign_wgmma makes them.

    rows: (depth / 8, 128, 8) float16. table: (tiles, depth / 8, 128, 8) float16. products: (128, tiles * 128) float32,
    become the sums; what does not come in time stays as it is.
    """
    (tiles, pieces, _, _) = table.shape
    gpu.run(
        *("assign_wgmma", "known_product", 1, BLOCK, rows, table, np.int32(8 * pieces), np.int32(tiles), products),
        shared=wgmma_shared(8 * pieces),
    )


def assign_close(gpu: Gpu, plan: ClosePlan, compared: Comparison, *, columns: Any, fewest: int) -> None:
    """Tentative labels by float32 differences, of rows in doubt, if there are so many; a block a tile of rows.

    columns: (d, k) float64, the centers.
    """
    (n, _), k = compared.rows.x.shape, columns.shape[1]
    gpu.run(
        *("assign_close", "assign_close", min(gpu.blocks, -(-n // plan.rows)), BLOCK, *of_rows(compared.rows.x)),
        *(np.int32(plan.features), compared.rows.offset, compared.rows.scale(plan.scale), columns, np.int32(k)),
        *(np.float32(plan.errors.per_center), np.float32(plan.errors.per_norm), np.float32(plan.errors.rest)),
        *(np.int32(fewest), *compared.labels_and_bounds(gpu), *compared.in_doubt(gpu)),
        options=plan.options,
    )


def assign_sparse(gpu: Gpu, compared: Comparison) -> None:
    """Of sparse rows: tentative labels by float32 scores; a few lanes a row. Neither lists nor bounds serve."""
    table = compared.plan.table
    _, scale = compared.frame
    gpu.run(
        *("assign_sparse", "assign_sparse", compared.blocks(gpu), BLOCK, *of_rows(compared.rows.x), scale),
        *(compared.table, np.int32(table.centers), np.int32(table.tile // SPARSE_CENTERS)),
        *(np.float32(compared.plan.errors.per_norm), compared.own_errors, compared.tentative),
    )


# By the names that launch plans have.
TABLES: dict[str, Callable[..., None]] = {"tiled_table": tiled_table, "tensor_table": tensor_table}
HALF_TABLES: dict[str, Callable[..., None]] = {"assign_half": half_table, "assign_wgmma": wgmma_table}
ASSIGN: dict[str, Callable[[Gpu, Comparison], None]] = {
    "assign_low_dim": assign_low_dim,
    "assign_tiled": assign_tiled,
    "assign_tensor": assign_tensor,
    "assign_sparse": assign_sparse,
}
ASSIGN_HALF: dict[str, Callable[[Gpu, Comparison], None]] = {"assign_half": assign_half, "assign_wgmma": assign_wgmma}


# ---------------------------------------------------------------- labels and sums


def refine(
    gpu: Gpu,
    *,
    x: Any,
    columns: Any,
    weights: Any,
    tentative: Any,
    labels: Any,
    sums: DeviceSums | None,
    counts: Any,
    listed: RowList | None,
) -> None:
    """labels: (n,) int32, -1 before the first, become the tentative ones, and where those are UNCERTAIN the ones by D.

    columns: (d, k) float64, or for sparse rows (d + 1, k), as center_forms writes them. sums: of the clusters, follow;
    None: they are not wanted. counts: (3,) uint64, gets how many labels changed, and how many D decided. tentative,
    listed: as Comparison has them, the list's length being the third of counts.
    """
    (_, d), k = x.shape, columns.shape[1]
    size = 8 * k * (d + 1)
    # What adding the error to E and taking it off round is less than one feature more makes of it.
    error = np.float64(expansion_error(d + 1) if isinstance(x, SparseRows) else 0)
    in_shared = sums is not None and size <= SHARED
    amounts, offset, scale, weight_scale = sums or DeviceSums(None, None, None, 1.0)
    gpu.launch(
        *("refine", "refine", len(x), *of_rows(x), columns, np.int32(k), error, gpu.given(weights, np.float64)),
        *(gpu.given(offset, np.float64), gpu.given(scale, np.float64), np.float64(weight_scale)),
        *(np.int32(0 if sums is None else 2 if in_shared else 1), tentative, labels, gpu.given(amounts, np.uint64)),
        *(counts, np.int32(listed is not None), gpu.given(listed and listed.rows, np.int32)),
        shared=size if in_shared else 0,
    )
