"""One function a kernel, see kernels.py: those of seeding, kernels/kmeans_plusplus.cu, seeding_filter.cu
and seeding_bytes.cu.

A row's sampling weight is an integer, its weight times D to the closest center so far at a scale. Of integers there are
exact prefix sums, in which a draw becomes a row by its inverse-CDF index (gpukmeans/seeding.py).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from gpukmeans.engine.cuda import seeding_bytes, seeding_filter
from gpukmeans.engine.cuda.device import BLOCK, Gpu
from gpukmeans.engine.cuda.kernels import SparseRows, of_rows
from gpukmeans.engine.cuda.seeding_bytes import ByteRows
from gpukmeans.engine.cuda.seeding_filter import FilterPlan

FAMILY = "kmeans_plusplus"

# Rows of a run, whose sampling weights are summed: the four that each thread of a block scans. 10^8 rows have 10^5
# runs, which one block scans in 100 steps.
RUN = 4 * BLOCK

# Centers so far to a block that finds a candidate and measures it to these: eight threads share one, and have eight at
# most.
OWNERS = BLOCK

# Blocks to a multiprocessor that `potentials`, `filtered_potentials` and `byte_doubts` have registers for.
RESIDENT, FILTER_RESIDENT, BYTES_RESIDENT = 3, 2, 3


def padded(m: int) -> int:
    """Columns that m candidates take, as lanes share them out: 4, 8 or a multiple of 16."""
    return 4 if m <= 4 else 8 if m <= 8 else -(-m // 16) * 16


def run_count(n: int) -> int:
    return -(-n // RUN)


@dataclass(frozen=True, kw_only=True)
class DeviceScale:
    """The scale of sampling weights as the device finds it: 2 to fixed_point.power_for the largest D that a step left.

    largest: uint64, the bits of that D, an element a step. spare_bits: those of sums that the total weight leaves.
    """

    largest: Any
    step: int
    spare_bits: int


@dataclass(frozen=True, kw_only=True)
class SamplingWeights:
    """Of n rows. weights: (n,), see kernels.py. weight_scale: 2 to the exponent of weights. closest_dist_sq: (n,)
    float64, D to the closest center so far, or None: the weight alone counts. scale: the power of two for weight times
    D, where closest_dist_sq is given."""

    weights: Any
    weight_scale: float
    closest_dist_sq: Any
    scale: float | DeviceScale = 1.0


def _scale(gpu: Gpu, scale: float | DeviceScale) -> tuple[np.float64, tuple[Any, np.int32, np.int32]]:
    """The scale, negative if the device finds it, and the arguments by which it does."""
    if isinstance(scale, DeviceScale):
        return np.float64(-1.0), (scale.largest, np.int32(scale.spare_bits), np.int32(scale.step))
    return np.float64(scale), (gpu.given(None, np.uint64), np.int32(0), np.int32(0))


def _sampling(gpu: Gpu, sampling: SamplingWeights) -> tuple[Any, ...]:
    """The arguments from weights to step."""
    scale, found = _scale(gpu, sampling.scale)
    return (
        gpu.given(sampling.weights, np.float64),
        gpu.given(sampling.closest_dist_sq, np.float64),
        np.float64(0.0) if sampling.closest_dist_sq is None else scale,
        np.float64(sampling.weight_scale),
        *found,
    )


def options() -> tuple[str, ...]:
    """The compiler's."""
    return (f"-DRUN={RUN}",)


def _scanning() -> int:
    """Threads of a block that scans a run."""
    return min(RUN, BLOCK)


# ---------------------------------------------------------------- a draw becomes a row


def run_sums(gpu: Gpu, *, n: int, sampling: SamplingWeights, sums: Any) -> None:
    """sums: (run_count(n),) uint64, become the sums of each run's sampling weights."""
    blocks = min(gpu.blocks, run_count(n))
    given = np.int64(n), *_sampling(gpu, sampling), sums
    gpu.run(FAMILY, "run_sums", blocks, _scanning(), *given, options=options())


def prefix_sums(
    gpu: Gpu, *, sums: Any, totals: Any, step: int, draws: Any = None, indices: Any = None, cleared: Any = None
) -> None:
    """sums: what run_sums wrote, becomes inclusive prefix sums. totals: uint64, gets their total at `step`.

    draws: (steps, m) float64, uniform, of which those of the step become inverse-CDF indices (m,) int64, -1 if the
    total is zero. cleared: uint64, becomes zero. None of these three, where the host decides.
    """
    drawn = np.int32(0 if draws is None else len(indices))
    given = (
        *(sums, np.int64(len(sums)), totals, np.int32(step)),
        *(gpu.given(draws, np.float64), drawn, gpu.given(indices, np.int64)),
        *(gpu.given(cleared, np.uint64), np.int32(0 if cleared is None else len(cleared))),
    )
    gpu.run(FAMILY, "prefix_sums", 1, _scanning(), *given, options=options())


@dataclass(frozen=True, kw_only=True)
class Filter:
    """By which D is left out where float32 tells that a candidate changes nothing. width: candidates that are looked at
    together, all of them or 16. table: (plan.size(m, width),) float32, the candidates, zeros where it has nobody's.
    doubts: (n,) uint16, which candidates of a row may change something, the bits of their numbers modulo 16. bytes: a
    copy of the rows, by which the doubts are known before, but more than there are."""

    plan: FilterPlan
    width: int
    table: Any
    doubts: Any
    bytes: ByteRows | None = None


@dataclass(frozen=True, kw_only=True)
class Limits:
    """Up to which D to its owner, the closest of `owners` centers so far, a row need not be compared with candidates.

    center_rows: int64, which rows these centers are. by_candidate: float64, (owners, padded), and least: (owners,)
    uint64, the least of them as least_key of the kernels, 0 before.
    """

    center_rows: Any
    owners: int
    by_candidate: Any
    least: Any


def find(
    gpu: Gpu,
    *,
    x: Any,
    sampling: SamplingWeights,
    prefix: Any,
    indices: Any,
    candidates: Any,
    candidate_rows: Any,
    limits: Limits | None = None,
    filtered: Filter | None = None,
) -> None:
    """The rows at inverse-CDF indices (m,) int64; none for one below zero.

    prefix: what prefix_sums wrote. candidates: (d, padded(m)) float64, for sparse rows (d + 1, padded(m)), become these
    rows as columns, and candidate_rows: (m,) int64, their numbers. limits, and the table of `filtered`: become those of
    the candidates, if given.
    """
    m, padded = len(indices), candidates.shape[1]
    if limits is None:
        blocks = m
        limited = gpu.given(None, np.int64), np.int32(0), gpu.given(None, np.float64), gpu.given(None, np.uint64)
    else:
        blocks = m * -(-limits.owners // OWNERS)
        limited = limits.center_rows, np.int32(limits.owners), limits.by_candidate, limits.least
    gpu.run(
        *(FAMILY, "find", blocks, _scanning(), *of_rows(x), *_sampling(gpu, sampling), prefix, np.int64(len(prefix))),
        *(indices, np.int32(m), np.int32(padded), candidates, candidate_rows, *_table(gpu, x, filtered), *limited),
        options=options(),
    )


def _frame(gpu: Gpu, x: Any, plan: FilterPlan | None) -> tuple[Any, ...]:
    """The arguments offset and frame_scale: float64 for rows of that."""
    dtype = x.values.dtype if isinstance(x, SparseRows) else x.dtype
    kind = np.float64 if dtype == np.float64 else np.float32
    offset, scale = (None, 1.0) if plan is None else (plan.offset, plan.bound.scale)
    return gpu.given(offset, kind), kind(scale)


def _table(gpu: Gpu, x: Any, filtered: Filter | None) -> tuple[Any, ...]:
    """The arguments from fours to table."""
    if filtered is None:
        shape, table = (0, 1, 0), gpu.given(None, np.float32)
    else:
        shape, table = (filtered.plan.fours, filtered.plan.lanes, filtered.width), filtered.table
    return *map(np.int32, shape), *_frame(gpu, x, None if filtered is None else filtered.plan), table


# ---------------------------------------------------------------- a copy in bytes


def byte_rows(gpu: Gpu, *, x: Any, offset: Any, made: ByteRows, m: int) -> None:
    """What `made` has becomes that of dense rows x (n, d) about an offset (d,) float64. m: candidates of a step."""
    (n, d), threads = x.shape, 4 * seeding_bytes.words(x.shape[1])
    given = x, np.int64(n), np.int32(d), offset, np.float64(made.scale), np.int32(made.parts)
    gpu.launch(
        *("seeding_bytes", "byte_rows", n * threads, *given, made.rows, made.norms, made.losses),
        options=seeding_bytes.options(d, m),
        resident=4,
    )


def byte_doubts(
    gpu: Gpu,
    *,
    bytes: ByteRows,
    closest_dist_sq: Any,
    candidate_rows: Any,
    totals: Any,
    step: int,
    limits: Limits,
    doubts: Any,
    owners: Any,
) -> None:
    """doubts: (n,) uint16, which candidates may be closer to a row than its owner, or more. As `accept_least` has the
    rest; without candidates, where the total of the step is zero, nothing."""
    n, m = len(doubts), len(candidate_rows)
    given = (
        *(np.int64(n), bytes.rows, np.int32(bytes.parts), bytes.norms, bytes.losses, np.float64(bytes.scale)),
        *(candidate_rows, np.int32(m), closest_dist_sq, owners, limits.least, totals, np.int32(step), doubts),
    )
    options = seeding_bytes.options(bytes.d, m)
    gpu.launch(
        *("seeding_bytes", "byte_doubts", n, *given),
        options=options,
        shared=seeding_bytes.columns(m) * seeding_bytes.depth(bytes.d),
        resident=BYTES_RESIDENT,
    )


# ---------------------------------------------------------------- a candidate becomes a center


def potentials(
    gpu: Gpu, *, x: Any, sampling: SamplingWeights, candidates: Any, sums: Any, owners: Any = None, least: Any = None
) -> None:
    """sums: (m + 1,) uint64, zeros before: how each candidate would change the sum of sampling weights, and that sum.

    candidates: as `find` has them. owners: (n,) int32, the number of each row's closest center so far, and least:
    as Limits has it, to leave rows out by; None: all are measured.
    """
    m, padded = len(sums) - 1, candidates.shape[1]
    scale, found = _scale(gpu, sampling.scale)
    weights = gpu.given(sampling.weights, np.float64)
    limited = np.int32(owners is not None), gpu.given(owners, np.int32), gpu.given(least, np.uint64)
    gpu.launch(
        *(FAMILY, "potentials", len(x), *of_rows(x), weights, sampling.closest_dist_sq, candidates, np.int32(m)),
        *(np.int32(padded), *limited, scale, *found, sums),
        options=options(),
        resident=RESIDENT,
    )


def filtered_potentials(
    gpu: Gpu,
    *,
    x: Any,
    sampling: SamplingWeights,
    candidates: Any,
    filtered: Filter,
    sums: Any,
    owners: Any = None,
    least: Any = None,
) -> None:
    """`potentials` of dense rows, where `filtered` leaves pairs out; its doubts become those of the candidates. Where
    byte_doubts has found them before, the sum of sampling weights stays what it was."""
    (n, d), m, plan = x.shape, len(sums) - 1, filtered.plan
    scale, found = _scale(gpu, sampling.scale)
    bound = plan.bound
    given = (
        *(x, np.int64(n), np.int32(d), gpu.given(sampling.weights, np.float64), sampling.closest_dist_sq),
        *(candidates, np.int32(m), np.int32(candidates.shape[1])),
        *(filtered.table, np.int32(plan.fours), np.int32(plan.lanes), *_frame(gpu, x, plan)),
        *(np.float64(bound.scale**2), bound.relative, bound.absolute, bound.rest),
        *(
            np.int32(filtered.bytes is not None),
            np.int32(owners is not None),
            gpu.given(owners, np.int32),
            gpu.given(least, np.uint64),
        ),
        *(scale, *found, filtered.doubts, sums),
    )
    gpu.launch(
        *("seeding_filter", "filtered_potentials", n, *given),
        options=seeding_filter.options(filtered.width),
        resident=FILTER_RESIDENT,
    )


def accept_center(
    gpu: Gpu, *, x: Any, candidates: Any, candidate: int, first: bool, closest_dist_sq: Any, largest: Any
) -> None:
    """closest_dist_sq: (n,) float64, lowered to D to that candidate, of (d, padded), or set to it for the first center.
    largest: (1,) uint64, 0 before, the bits of the largest D left."""
    gpu.launch(
        *(FAMILY, "accept_center", len(x), *of_rows(x), candidates, np.int32(candidate)),
        *(np.int32(candidates.shape[1]), np.int32(first), closest_dist_sq, largest),
        options=options(),
    )


def accept_least(
    gpu: Gpu,
    *,
    x: Any,
    candidates: Any,
    candidate_rows: Any,
    sums: Any,
    totals: Any,
    step: int,
    limits: Limits,
    closest_dist_sq: Any,
    owners: Any,
    centers: Any,
    largest: Any,
    doubts: Any = None,
) -> None:
    """accept_center of the candidate that leaves the least sum, the first of equals, as center number step + 1; nothing
    if the total of the step is zero.

    sums, owners: as `potentials` has them; totals: as prefix_sums; the rest as `find`. owners and
    limits.center_rows[step + 1] follow; centers: (steps, d) float64, gets its coordinates at step; largest: (steps +
    1,) uint64, at step + 1 the bits of the largest D left, 0 before. doubts: as Filter has it, if that wrote them.
    """
    given = candidates, np.int32(candidates.shape[1]), sums, np.int32(len(sums) - 1), totals, np.int32(step)
    gpu.launch(
        *(FAMILY, "accept_least", len(x), *of_rows(x), *given, candidate_rows, limits.by_candidate),
        *(np.int32(doubts is not None), gpu.given(doubts, np.uint16), closest_dist_sq),
        *(owners, limits.center_rows, centers, largest),
        options=options(),
    )


def accept_all(gpu: Gpu, *, x: Any, centers: Any, labels: Any, closest_dist_sq: Any, largest: Any) -> None:
    """closest_dist_sq: (n,) float64, lowered to D to the row's own center, of (m, d) float64, see `with_norms`, by
    labels (n,) int32. largest: as accept_center has it."""
    given = centers, labels, closest_dist_sq, largest
    gpu.launch(FAMILY, "accept_all", len(x), *of_rows(x), *given, options=options())
