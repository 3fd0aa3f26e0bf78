"""The kernels that compare rows with all centers, kernels/assign_*.cu: where each serves, and how it is launched."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from gpukmeans.engine.cuda.device import BLOCK, MORE_SHARED, SHARED, SHARED_OF_HOPPER
from gpukmeans.exact.certificate import Frame, ScoreErrors, distance_error_factors

# Up to this many features a thread holds whole rows in registers.
LOW_DIM_FEATURES = 16

# As assign_low_dim has it: centers of a group, and floats between groups in shared memory, which read other banks then.
GROUP, GROUP_PADDING = 8, 4

# As assign_tiled has it: features that a block compares at a time, and how many centers, with how many rows. All
# centers of a tile cost the same, whether or not they are anybody's, so few centers have narrower ones.
TILED_DEPTH = 8
TILED_ROWS = {16: 256, 32: 256, 64: 256, 128: 128}

# The same of assign_tensor, of which there is but one tile.
TENSOR_DEPTH, TENSOR_CENTERS, TENSOR_ROWS = 16, 128, 128

# As assign_sparse has it: centers of a lane, and lanes of a row at most, whose loads are then 128 bytes together.
SPARSE_CENTERS, SPARSE_LANES = 4, 8

# The same of assign_half, and how many rows a block may have in shared memory, with how much that is not theirs: two
# halves of 4 kB.
HALF_ROWS, HALF_SHARED = (128, 64), 8192

# Of up to 32 features half of what assign_wgmma and assign_tcgen05 multiply would be nobody's, and choosing takes
# longer than that.
FEWEST_OWN_FEATURES = 33

# From so many features on, and if no more than a fifth of the centers compared with are nobody's, one product on
# tensor cores takes fewer instructions than assign_low_dim: by count 10 a pair and 240 a row, where that takes 15 a
# pair for 12 features and 20 for 16
# (test_estimate.test_few_features_take_tensor_cores_where_that_takes_fewer_instructions).
FEWEST_TENSOR_FEATURES = 12

# assign_close is launched where all rows have so many values of centers to be compared with, 0.1 ms of D on an H100 and
# ten times that where float64 is slow, if a seventh are in doubt; and not of uint8, whose groups are as wide as their
# steps are, at least: of those scores leave few in doubt.
CLOSE_VALUES = 2**26

# Up to 32 centers, a tile of assign_tiled that is no wider costs no more than one of assign_tensor, three quarters of
# which are nobody's (by count, benchmarks/NOTES.md). A larger scale would overflow float32, and rows that are shorter
# beside the farthest lose the second of their two float16
# (test_tensor.test_they_serve_where_their_bound_holds fails without these).
FEWEST_TENSOR_CENTERS = 33
LARGEST_TENSOR_EXPONENT = 112
SHORTEST_TENSOR_ROW = 2.0**-4


class ErrorFactors(NamedTuple):
    """What scores of row y and center z may err by (Frame.score_errors), and a distance v in float32, which is at most
    relative v + per_reach |z| + absolute (exact.certificate.distance_error_factors); in the frame.
    """

    per_norm: np.float64
    per_center: np.float64
    rest: np.float64
    relative: np.float64
    per_reach: np.float64
    absolute: np.float64

    @classmethod
    def of(cls, scores: ScoreErrors, d: int) -> ErrorFactors:
        return cls(*map(np.float64, (*scores, *distance_error_factors(d))))


@dataclass(frozen=True, kw_only=True)
class CenterTable:
    """What a kernel reads of the centers, in the layout that its file describes.

    made_by: the kernel that writes it: center_forms, along with the other forms of centers, or the family's own.
    centers, features: of the table, with those that are nobody's. tile: centers that a block compares at a time.
    words: of 4 bytes, of this dtype. lifted: whether centers are brought to about the same length there, and |z|^2 and
    the way back are read beside it.
    """

    made_by: str
    centers: int
    features: int
    tile: int
    words: int
    dtype: type[np.generic]
    lifted: bool

    @property
    def tiles(self) -> int:
        return self.centers // self.tile

    @staticmethod
    def of_floats(*, made_by: str, centers: int, features: int, tile: int) -> CenterTable:
        """-2 z and |z|^2 of each center, as they are."""
        words = centers * (features + 1)
        return CenterTable(
            made_by=made_by,
            centers=centers,
            features=features,
            tile=tile,
            words=words,
            dtype=np.float32,
            lifted=False,
        )


@dataclass(frozen=True, kw_only=True)
class HalfPlan:
    """How assign_half, or one of OWN_PRODUCTS, looks at rows before the kernel of a LaunchPlan does.

    kernel: its name, and its family's. rows, options, shared: as LaunchPlan has them. features: of its table, with
    those that are nobody's; words: of 16 bytes; numbers: of float32, that it has of centers. summing, roundings: of
    Frame.half_score_errors.
    """

    kernel: str
    features: int
    rows: int
    options: tuple[str, ...]
    shared: int
    words: int
    numbers: int
    summing: float
    roundings: float


@dataclass(frozen=True, kw_only=True)
class ClosePlan:
    """How assign_close looks at rows that a LaunchPlan's kernel leaves in doubt. options: the compiler's. rows: that a
    block takes at a time. features: with those that are nobody's. scale: the frame's. errors: of its
    difference_errors."""

    options: tuple[str, ...]
    rows: int
    features: int
    scale: float
    errors: ScoreErrors


@dataclass(frozen=True, kw_only=True)
class LaunchPlan:
    """How one of the kernels compares rows with k centers.

    kernel: its name, and its family's. options: the compiler's, which its table's maker shares. rows: that a block
    of 256 threads takes at a time. shared: bytes of dynamic shared memory. scale: brings rows into the frame. half:
    how rows are looked at before, so that only those in doubt are left to it; None: they are not.
    """

    kernel: str
    options: tuple[str, ...]
    rows: int
    shared: int
    scale: float
    table: CenterTable
    errors: ErrorFactors
    half: HalfPlan | None = None


def expected(d: int, k: int, dtype: np.dtype, sparse: bool, tensor_cores: bool) -> tuple[str, tuple[str, ...]]:
    """The kernel that compares most rows of this kind with k centers, and the compiler's options, as the functions
    below decide where they know the rows' frame, too."""
    if sparse:
        return "assign_sparse", ()
    if tensor_cores and tensor_pays(d, k):
        return "assign_tensor", ("-DAT_ZERO=1",) if dtype == np.float16 else ()
    if d <= LOW_DIM_FEATURES:
        return "assign_low_dim", (f"-DD_FEW={d}",)
    return "assign_tiled", (f"-DCENTERS={tile_width(k)}",)


def tensor_pays(d: int, k: int) -> bool:
    """Whether tensor cores are quicker, where they are worth using at all."""
    if d > LOW_DIM_FEATURES:
        return k >= FEWEST_TENSOR_CENTERS
    padded = k + -k % TENSOR_CENTERS
    return d >= FEWEST_TENSOR_FEATURES and 4 * padded <= 5 * k


def half_rows(d: int) -> int | None:
    """Rows of d features that a block of assign_half has in shared memory, None if too few are."""
    depth = d + -d % TENSOR_DEPTH
    return next((rows for rows in HALF_ROWS if 2 * rows * depth + HALF_SHARED <= MORE_SHARED), None)


def half_options(rows: int) -> tuple[str, ...]:
    """The compiler's for assign_half."""
    return (f"-DROWS={rows}",)


@dataclass(frozen=True)
class OwnProducts:
    """A kernel that stands in assign_half's place on GPUs whose own instructions it uses.

    rows: that a block has in shared memory. beside: bytes of it that are not theirs. of_tile: float32 numbers that its
    table has of a tile of centers, beside those of each. slot: features of centers that come at a time.
    """

    kernel: str
    rows: int
    beside: int
    of_tile: int = 0
    slot: int = 64

    def features(self, d: int) -> int:
        """With those that are nobody's."""
        return d + -d % self.slot

    def shared(self, features: int) -> int:
        """Bytes of dynamic shared memory, for so many features."""
        return self.beside + 2 * self.rows * features

    def serves(self, d: int) -> bool:
        return d >= FEWEST_OWN_FEATURES and self.shared(self.features(d)) <= SHARED_OF_HOPPER


# By the names of device.OWN_PRODUCTS. Four slots of 16 kB, and of assign_tcgen05 two OfTile.
OWN_PRODUCTS = {
    own.kernel: own
    for own in (
        OwnProducts("assign_wgmma", 128, 4 * 16384),
        OwnProducts("assign_tcgen05", 256, 4 * 16384 + 2 * 4 * 544, of_tile=544),
    )
}


def own_products(kernel: str | None, d: int) -> OwnProducts | None:
    """The kernel of that name, if it serves d features; None if there is none."""
    own = OWN_PRODUCTS[kernel] if kernel else None
    return own if own and own.serves(d) else None


def half_plan(frame: Frame, padded: int, kernel: str | None) -> HalfPlan | None:
    """Of rows that `tensor` serves, by so many centers. kernel: of OWN_PRODUCTS, where it can be used."""
    d = len(frame.offset)
    summing, roundings = frame.half_score_errors()
    own = own_products(kernel, d)
    if own:
        depth = own.features(d)
        return HalfPlan(
            kernel=own.kernel,
            features=depth,
            rows=own.rows,
            options=(),
            shared=own.shared(depth),
            words=padded * depth // 8,
            numbers=4 * padded + padded // TENSOR_CENTERS * own.of_tile,
            summing=summing,
            roundings=roundings,
        )
    rows, depth = half_rows(d), d + -d % TENSOR_DEPTH
    if rows is None:
        return None
    return HalfPlan(
        kernel="assign_half",
        features=depth,
        rows=rows,
        options=half_options(rows),
        shared=2 * rows * depth + HALF_SHARED,
        words=padded * depth // 8,
        numbers=4 * padded,
        summing=summing,
        roundings=roundings,
    )


def hamerly_options(d: int) -> tuple[str, ...]:
    """The compiler's, for rows of d features."""
    return (f"-DD_FEW={d}",) if d <= LOW_DIM_FEATURES else ()


def tile_width(k: int) -> int:
    """Centers that assign_tiled compares at a time."""
    return next((width for width in TILED_ROWS if k <= width), max(TILED_ROWS))


def low_dim(frame: Frame, k: int) -> LaunchPlan:
    """For k centers and up to LOW_DIM_FEATURES."""
    d = len(frame.offset)
    padded = k + -k % GROUP
    group_bytes = 4 * ((d + 1) * GROUP + GROUP_PADDING)
    groups = min(padded // GROUP, SHARED // group_bytes)
    return LaunchPlan(
        kernel="assign_low_dim",
        options=(f"-DD_FEW={d}",),
        rows=BLOCK * (4 if d <= 8 else 2),  # as many as fit a thread's registers
        shared=groups * group_bytes,
        scale=frame.scale,
        table=CenterTable.of_floats(made_by="center_forms", centers=padded, features=d, tile=groups * GROUP),
        errors=ErrorFactors.of(frame.score_errors(), d),
    )


def tiled(frame: Frame, k: int) -> LaunchPlan:
    """For k centers and any number of features."""
    d = len(frame.offset)
    width = tile_width(k)
    padded, depth = k + -k % width, d + -d % TILED_DEPTH
    return LaunchPlan(
        kernel="assign_tiled",
        options=(f"-DCENTERS={width}",),
        rows=TILED_ROWS[width],
        shared=0,
        scale=frame.scale,
        table=CenterTable.of_floats(made_by="tiled_table", centers=padded, features=depth, tile=width),
        errors=ErrorFactors.of(frame.score_errors(), d),
    )


def looks_closer(n: int, d: int, k: int, dtype: np.dtype) -> bool:
    """Whether rows that scores leave in doubt are looked at by assign_close before D."""
    return n * d * k >= CLOSE_VALUES and dtype != np.uint8


def close_options(k: int) -> tuple[str, ...]:
    """The compiler's for assign_close, whose tiles are those of assign_tiled."""
    return (f"-DCENTERS={tile_width(k)}",)


def close_plan(frame: Frame, k: int) -> ClosePlan:
    """For k centers."""
    d = len(frame.offset)
    return ClosePlan(
        options=close_options(k),
        rows=TILED_ROWS[tile_width(k)],
        features=d + -d % TILED_DEPTH,
        scale=frame.scale,
        errors=frame.difference_errors(),
    )


def sparse(frame: Frame, k: int) -> LaunchPlan:
    """For sparse rows."""
    d = len(frame.offset)
    lanes = next((lanes for lanes in (1, 2, 4) if k <= SPARSE_CENTERS * lanes), SPARSE_LANES)
    tile = SPARSE_CENTERS * lanes
    padded = k + -k % tile
    return LaunchPlan(
        kernel="assign_sparse",
        options=(),
        rows=BLOCK // lanes,
        shared=0,
        scale=frame.scale,
        table=CenterTable.of_floats(made_by="center_forms", centers=padded, features=d, tile=tile),
        errors=ErrorFactors.of(frame.score_errors(), d),
    )


def tensor(frame: Frame, k: int, dtype: np.dtype, kernel: str | None = None) -> LaunchPlan | None:
    """As `tiled`, or None where the kernel or its bound does not serve. Rows of float16 are that in the frame too if
    its offset is zero, and take two products (test_tensor.test_float16_about_zero_takes_two_products fails if others
    do). kernel: as half_plan has it.
    """
    d = len(frame.offset)
    if not tensor_pays(d, k) or frame.exponent > LARGEST_TENSOR_EXPONENT or frame.typical < SHORTEST_TENSOR_ROW:
        return None
    padded, depth = k + -k % TENSOR_CENTERS, d + -d % TENSOR_DEPTH
    return LaunchPlan(
        kernel="assign_tensor",
        options=("-DAT_ZERO=1",) if dtype == np.float16 and not frame.offset.any() else (),
        rows=TENSOR_ROWS,
        shared=0,
        scale=frame.scale * 2.0**14,
        table=CenterTable(
            made_by="tensor_table",
            centers=padded,
            features=depth,
            tile=TENSOR_CENTERS,
            words=padded * depth,
            dtype=np.uint32,
            lifted=True,
        ),
        errors=ErrorFactors.of(frame.tensor_score_errors(), d),
        half=half_plan(frame, padded, kernel),
    )
