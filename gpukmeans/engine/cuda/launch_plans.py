"""The kernels that compare rows with all centers, kernels/assign_*.cu: where each serves, and how it wants them."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from gpukmeans.engine.cuda.device import BLOCK, SHARED
from gpukmeans.exact.certificate import Frame, distance_error_factors

# Up to this many features a thread holds whole rows in registers.
FEW_FEATURES = 16

# As assign_few has it: centers of a group, and floats between groups in shared memory, which read other banks then.
GROUP, GROUP_PADDING = 8, 4

# As assign_many has it: features that a block compares at a time, and how many centers, with how many rows. All centers
# of a tile cost the same, whether or not they are anybody's, so few centers have narrower ones.
DEPTH = 8
TILES = {16: 256, 32: 256, 64: 256, 128: 128}

# The same of assign_tensor, of which there is but one tile.
TENSOR_DEPTH, TENSOR_TILE = 16, 128

# Up to 32 centers, a tile of assign_many that is no wider costs no more than one of assign_tensor, three quarters of
# which are nobody's (by count, benchmarks/NOTES.md). A part of a center beyond this would overflow float16, and a
# larger scale float32 (test_tensor.test_centers_that_overflow_float16_are_compared_otherwise and
# test_tensor.test_they_serve_where_their_bound_holds fail without them).
FEWEST_TENSOR_CENTERS = 33
LARGEST_TENSOR_CENTER = 3.9
LARGEST_TENSOR_EXPONENT = 112


@dataclass(frozen=True, kw_only=True)
class Search:
    """A launch of `kernel` with blocks of 256 threads, each for so many rows at a time.

    shape: numbers that follow n. scale: brings rows into the frame. numbers: what follows the tables. factors: of
    the bounds on scores and on distances, Frame.margin_factors and bounds.distance_bounds. shared: bytes of dynamic
    shared memory.

    What the kernel reads of the centers is made by its family's `maker`, which takes k and the numbers `made`, as so
    many words of 4 bytes and this dtype, `step` to a thread; or, if there is none, by center_forms. padded: as many
    |z|^2 are needed. apart: whether the kernel reads these, or else the maker.
    """

    kernel: str
    options: tuple[str, ...]
    rows: int
    shape: tuple[np.int32, ...]
    scale: float
    numbers: tuple[np.int32, ...]
    factors: tuple[np.float64, ...]
    shared: int = 0
    maker: str = ""
    made: tuple[np.int32, ...] = ()
    words: int
    dtype: type[np.generic] = np.float32
    step: int = 1
    padded: int
    apart: bool = False


def few(frame: Frame, k: int) -> Search:
    """For k centers and up to FEW_FEATURES."""
    d = len(frame.offset)
    padded = k + -k % GROUP
    size = 4 * ((d + 1) * GROUP + GROUP_PADDING)
    tile = min(padded // GROUP, SHARED // size)
    return Search(
        kernel="assign_low_dim",
        options=(f"-DD_FEW={d}",),
        rows=BLOCK * (4 if d <= 8 else 2),  # as many as fit a thread's registers
        shape=(),
        scale=frame.scale,
        numbers=(np.int32(padded), np.int32(tile)),
        factors=_factors(frame.margin_factors(), d),
        shared=tile * size,
        words=(d + 1) * padded,
        padded=padded,
    )


def many(frame: Frame, k: int) -> Search:
    """For k centers and any number of features."""
    d = len(frame.offset)
    width = next((width for width in TILES if k <= width), max(TILES))
    tiles, depth = -(-k // width), d + -d % DEPTH
    return Search(
        kernel="assign_tiled",
        options=(f"-DCENTERS={width}",),
        rows=TILES[width],
        shape=(np.int32(d), np.int32(depth)),
        scale=frame.scale,
        numbers=(np.int32(tiles),),
        factors=_factors(frame.margin_factors(), d),
        maker="tiled_table",
        made=(np.int32(d), np.int32(depth), np.int32(tiles)),
        words=tiles * (depth + 1) * width,
        padded=tiles * width,
    )


def tensor(frame: Frame, k: int, dtype: np.dtype) -> Search | None:
    """As `many`, or None where the kernel or its bound does not serve. Coordinates of centers in the frame may be up to
    LARGEST_TENSOR_CENTER. Rows of float16 are that in the frame too if its offset is zero, and take two products
    (test_tensor.test_float16_about_zero_takes_two_products fails if others do)."""
    if k < FEWEST_TENSOR_CENTERS or frame.exponent > LARGEST_TENSOR_EXPONENT:
        return None
    d = len(frame.offset)
    tiles, depth = -(-k // TENSOR_TILE), d + -d % TENSOR_DEPTH
    return Search(
        kernel="assign_tensor",
        options=("-DAT_ZERO=1",) if dtype == np.float16 and not frame.offset.any() else (),
        rows=128,
        shape=(np.int32(d), np.int32(depth)),
        scale=frame.scale * 2.0**14,
        numbers=(np.int32(tiles),),
        factors=_factors(frame.tensor_margin_factors(), d),
        maker="tensor_table",
        made=(np.int32(d), np.int32(depth), np.int32(tiles)),
        words=tiles * depth * TENSOR_TILE,
        dtype=np.uint32,
        step=4,
        padded=tiles * TENSOR_TILE,
        apart=True,
    )


def _factors(margin: tuple[float, float, float], d: int) -> tuple[np.float64, ...]:
    return tuple(np.float64(factor) for factor in (*margin, *distance_error_factors(d)))
