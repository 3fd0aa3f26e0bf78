"""The kernels of pictures, a function for each: what it takes, what it answers, and the launch that it needs.

All arrays are on the device. n: pixels; m: colors or cells; k: colors of a palette, or centers; d: features. The Gpu
has to be made with the compiler's options of the family: `pixel_options`, `COLOR_OPTIONS`, `cell_options` or
`diffusion_options`. Blocks have BLOCK threads, and no more blocks are launched than the device holds at once, which
stride over the rest, unless a function says otherwise.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from gpukmeans.engine.cuda.device import BLOCK, SHARED, Gpu
from gpukmeans.engine.cuda.families import X_KINDS

# Pixels to a thread, which it loads 16 bytes at a time: RUN in image_pixels.cu.
_RUN = 16

# Counts to a thread of `used`: image_pixels.cu.
_COUNTS = 64

# Threads of the one block that seeds: the most that a block may have.
_SEEDING = 1024

# Rows of a warp that diffuses errors: a lane each. And warps of a block: one for each scheduler of a multiprocessor.
_ROWS, _DIFFUSING = 32, 4

# A kernel's LABEL, by dtype.
_LABELS = {"uint8": "unsigned char", "uint16": "unsigned short", "int32": "int"}


# ---------------------------------------------------------------- image_pixels.cu


def pixel_options(channels: int) -> tuple[str, ...]:
    """The compiler's options for pixels of 1 or 3 channels."""
    return (f"-DCHANNELS={channels}",)


def _label(dtype: Any = np.uint8) -> tuple[str, ...]:
    """Of all kernels of the family, also of those that know no label: uint8, so that they are compiled once."""
    return (f"-DLABEL={_LABELS[np.dtype(dtype).name]}",)


def histogram(gpu: Gpu, *, pixels: Any, channels: int) -> Any:
    """How many of the pixels (n, channels) uint8, n below 2**32, have each code: (2**(8 channels),) uint32."""
    counts = gpu.zeros(2 ** (8 * channels), np.uint32)
    n = len(pixels)
    gpu.launch("image_pixels", "histogram", -(-n // _RUN), pixels, np.int64(n), counts, options=_label())
    return counts


def used(gpu: Gpu, *, counts: Any) -> tuple[Any, Any]:
    """Of counts (bins,) uint32, a multiple of 64, how many are not zero.

    Answers starts (bins / 64,) int32, how many there are before each 64 in their block's share, BLOCK times 64; and
    per_block int32, how many there are in each share.
    """
    threads = len(counts) // _COUNTS
    starts, per_block = gpu.empty(threads, np.int32), gpu.empty(-(-threads // BLOCK), np.int32)
    bins = np.int32(len(counts))
    gpu.launch("image_pixels", "used", threads, counts, bins, starts, per_block, options=_label())
    return starts, per_block


def gather_used(gpu: Gpu, *, counts: Any, starts: Any, block_starts: Any, m: int) -> tuple[Any, Any]:
    """The codes (m,) uint32 of the counts that are not zero, ascending, and these counts (m,) int64.

    starts: as `used` answers. block_starts: int32, how many there are before each block's share.
    """
    codes, times = gpu.empty(m, np.uint32), gpu.empty(m, np.int64)
    args = counts, np.int32(len(counts)), starts, block_starts, codes, times
    gpu.launch("image_pixels", "gather_used", len(counts) // _COUNTS, *args, options=_label())
    return codes, times


def fill_table(gpu: Gpu, *, codes: Any, labels: Any, table: Any) -> None:
    """table[codes] = labels, for codes (m,) uint32, labels (m,) int32 and a table (2**(8 channels),) of any dtype that
    labels of pixels have: uint8, uint16 or int32."""
    m = len(codes)
    gpu.launch("image_pixels", "fill_table", m, codes, labels, np.int64(m), table, options=_label(table.dtype))


def map_codes(gpu: Gpu, *, pixels: Any, table: Any) -> Any:
    """What the table has for the codes of pixels (n, channels) uint8: (n,) of the table's dtype, as of `fill_table`."""
    n = len(pixels)
    labels = gpu.empty(n, table.dtype)
    args = pixels, np.int64(n), table, labels
    gpu.launch("image_pixels", "map_codes", -(-n // _RUN), *args, options=_label(table.dtype))
    return labels


def squared_error(gpu: Gpu, *, pixels: Any, labels: Any, palette: Any) -> Any:
    """The sum over pixels (n, channels) uint8 of the squared differences from the levels that their labels (n,) uint8,
    uint16 or int32 have in the palette (k, channels) int32: (1,) uint64."""
    total = gpu.zeros(1, np.uint64)
    n = len(pixels)
    args = pixels, np.int64(n), labels, palette, total
    gpu.launch("image_pixels", "squared_error", n, *args, options=_label(labels.dtype))
    return total


def without_alpha(gpu: Gpu, *, pixels: Any) -> tuple[Any, Any]:
    """The colors (n, 3) of pixels (n, 4) uint8; and (1,) int32, not zero if a pixel is not opaque."""
    n = len(pixels)
    colors, clear = gpu.empty((n, 3), np.uint8), gpu.zeros(1, np.int32)
    gpu.launch("image_pixels", "without_alpha", n, pixels, np.int64(n), colors, clear, options=_label())
    return colors, clear


def mix(gpu: Gpu, *, first: Any, second: Any, counts: Any, width: int, ranks: Any) -> None:
    """Where the rank of a pixel is not below its count, its second label in place of the first.

    first, second: (n,) uint8, uint16 or int32, n below 2**32. counts: (n,) uint16. ranks: (t, t) int32, which repeat
    over a picture of that width.
    """
    n = len(first)
    args = first, second, counts, np.int64(n), np.uint32(width), ranks, np.int32(len(ranks))
    gpu.launch("image_pixels", "mix", n, *args, options=_label(first.dtype))


# ---------------------------------------------------------------- image_colors.cu

COLOR_OPTIONS: tuple[str, ...] = ()


def rgb_points(gpu: Gpu, *, codes: Any) -> Any:
    """The levels (m, 3) uint8 of codes (m,) uint32."""
    m = len(codes)
    points = gpu.empty((m, 3), np.uint8)
    gpu.launch("image_colors", "rgb_points", m, codes, np.int64(m), points)
    return points


def oklab_points(gpu: Gpu, *, codes: Any, tables: Any) -> Any:
    """Oklab's points (m, 3) float32 of codes (m,) uint32. tables: float64, `color_space.oklab_tables` of 255."""
    m = len(codes)
    points = gpu.empty((m, 3), np.float32)
    gpu.launch("image_colors", "oklab_points", m, codes, np.int64(m), tables, points)
    return points


def ycbcr_points(gpu: Gpu, *, codes: Any, factors: Any) -> Any:
    """YCbCr's points (m, 3) float32 of codes (m,) uint32. factors: (3, 3) int32, `color_space.ycbcr_factors`."""
    m = len(codes)
    points = gpu.empty((m, 3), np.float32)
    gpu.launch("image_colors", "ycbcr_points", m, codes, np.int64(m), factors, points)
    return points


def color_error(gpu: Gpu, *, codes: Any, counts: Any, labels: Any, palette: Any) -> Any:
    """The sum over colors of counts (m,) int64 times the squared differences of the levels of codes (m,) uint32 from
    those that labels (m,) int32 have in the palette (k, 3) int32: (1,) uint64."""
    total = gpu.zeros(1, np.uint64)
    m = len(codes)
    gpu.launch("image_colors", "color_error", m, codes, counts, np.int64(m), labels, palette, total)
    return total


# ---------------------------------------------------------------- image_cells.cu, image_cells_seeding.cu


def cell_options(points_dtype: Any, weights_dtype: Any, d: int) -> tuple[str, ...]:
    """The compiler's options for points (m, d) of this dtype, with weights int64 or float64, and cells of them."""
    kind = 1 if weights_dtype == np.int64 else 2
    return f"-DX_KIND={X_KINDS[np.dtype(points_dtype).name]}", f"-DWEIGHT_KIND={kind}", f"-DD={d}"


def add_points(
    gpu: Gpu, *, points: Any, weights: Any, geometry: Any, scale: float, mass_scale: float, shift: int, table: Any
) -> Any:
    """Add points (m, d) with weights (m,), as whole numbers, to the bins that they are in: mass times coordinates, and
    mass, to table (bins, d + 1) uint64. Answers (2,) uint64: the sums of mass times |x|^2, and of mass.

    geometry: (3, d) float64, GridScale's middle and half_range and the grid's sizes. The others are GridScale's and
    Grid's.
    """
    totals = gpu.zeros(2, np.uint64)
    m = len(points)
    numbers = np.float64(scale), np.float64(mass_scale), np.int32(shift)
    gpu.launch("image_cells", "add_points", m, points, weights, np.int64(m), geometry, *numbers, table, totals)
    return totals


def integral_points(
    gpu: Gpu, *, points: Any, weights: Any, geometry: Any, scale: float, mass_scale: float
) -> tuple[Any, Any, Any]:
    """Points (m, d) with weights (m,) as cells of their own: x (m, d) float32, sums (m, d + 1) int64 of mass times
    coordinates and mass, and (2,) uint64, the sums of mass times |x|^2 and of mass. The rest as `add_points`."""
    m, d = points.shape
    x, sums, totals = gpu.empty((m, d), np.float32), gpu.empty((m, d + 1), np.int64), gpu.zeros(2, np.uint64)
    args = points, weights, np.int64(m), geometry, np.float64(scale), np.float64(mass_scale), x, sums, totals
    gpu.launch("image_cells", "whole_points", m, *args)
    return x, sums, totals


def add_cells(gpu: Gpu, *, x: Any, sums: Any, geometry: Any, shift: int, table: Any) -> None:
    """Add cells x (m, d) float32 to the bins of a coarser grid that they are in: sums (m, d + 1) int64 to table (bins,
    d + 1) uint64. geometry: as of `add_points`, the middle being zero."""
    m = len(x)
    gpu.launch("image_cells", "add_cells", m, x, sums, np.int64(m), geometry, np.int32(shift), table)


def used_bins(gpu: Gpu, *, table: Any) -> Any:
    """How many of each BLOCK bins of a table (bins, d + 1) int64 have mass: int32. A block counts so many at a time."""
    bins = len(table)
    per_block = gpu.empty(-(-bins // BLOCK), np.int32)
    gpu.launch("image_cells", "used_bins", bins, table, np.int32(bins), per_block)
    return per_block


def gather_bins(gpu: Gpu, *, table: Any, block_starts: Any, m: int) -> tuple[Any, Any, Any]:
    """The m bins of a table (bins, d + 1) int64 that have mass, in order, as cells: x (m, d) float32, sums (m, d + 1)
    int64, and (1,) uint64, the sum of mass times |mean|^2. block_starts: int32, how many lie before each BLOCK bins."""
    bins, row = table.shape
    x, sums, square = gpu.empty((m, row - 1), np.float32), gpu.empty((m, row), np.int64), gpu.zeros(1, np.uint64)
    gpu.launch("image_cells", "gather_bins", bins, table, np.int32(bins), block_starts, x, sums, square)
    return x, sums, square


def _tile(k: int, d: int) -> tuple[np.int32, int]:
    """How many of k centers a block holds in shared memory at a time, and the bytes of these: d + 1 float32 each."""
    size = 4 * (d + 1)
    tile = min(k, SHARED // size)
    return np.int32(tile), tile * size


def nearest_centers(gpu: Gpu, *, x: Any, sums: Any, columns: Any, answers: Any) -> Any:
    """The labels (m,) int32 of the nearest of k centers to cells x (m, d) float32; adds their sums (m, d + 1) int64 to
    the clusters' in answers (k, d + 1) uint64. columns: (k, d + 1) float32, `grid.score_columns` transposed."""
    (m, d), k = x.shape, len(columns)
    tile, shared = _tile(k, d)
    labels = gpu.empty(m, np.int32)
    args = x, sums, np.int64(m), columns, np.int32(k), tile, labels, answers
    gpu.launch("image_cells", "nearest_centers", m, *args, shared=shared)
    return labels


def second_centers(
    gpu: Gpu, *, x: Any, sums: Any, columns: Any, cost_scale: float, answers: Any, cost: Any, pairs: Any
) -> tuple[Any, Any]:
    """As `nearest_centers`, and the next nearest: labels and second (m,) int32 each.

    cost: (k,) uint64, to which mass times how much larger the second's D is is added, times cost_scale and rounded.
    pairs: uint32, a bit for each k * label + second; or empty, and then they are not told.
    """
    (m, d), k = x.shape, len(columns)
    tile, shared = _tile(k, d)
    labels, second = gpu.empty(m, np.int32), gpu.empty(m, np.int32)
    args = x, sums, np.int64(m), columns, np.int32(k), tile, np.float64(cost_scale), np.int32(len(pairs) > 0)
    gpu.launch("image_cells", "second_centers", m, *args, labels, second, answers, cost, pairs, shared=shared)
    return labels, second


def spreads(gpu: Gpu, *, x: Any, sums: Any, labels: Any, means: Any, mass_scale: float) -> Any:
    """The sums over each cluster's cells of mass times mass_scale times the squared distance from its mean, feature by
    feature, each term rounded: (k, d) uint64. x: (m, d) float32. sums: (m, d + 1) int64. labels: (m,) int32. means:
    (k, d) float64."""
    m = len(x)
    spread = gpu.zeros(means.shape, np.uint64)
    args = x, sums, np.int64(m), labels, means, np.float64(mass_scale), spread
    gpu.launch("image_cells", "spreads", m, *args)
    return spread


def half_sums(gpu: Gpu, *, x: Any, sums: Any, labels: Any, means: Any, spread: Any) -> Any:
    """The sums (2 k, d + 1) uint64 of each cluster's cells up to its mean and, k further, beyond it, along the feature
    of the largest spread (k, d) uint64, the first of equals. The rest as of `spreads`."""
    (k, d), m = means.shape, len(x)
    answers = gpu.zeros((2 * k, d + 1), np.uint64)
    gpu.launch("image_cells", "half_sums", m, x, sums, np.int64(m), labels, means, spread, np.int32(k), answers)
    return answers


def seed_cells(gpu: Gpu, *, x: Any, sums: Any, draws: Any, bits: int) -> Any:
    """k cells (k, d) float32 of x (m, d) float32 with sums (m, d + 1) int64, by k-means++ of draws (k, trials) float64,
    at most 16 trials. bits: of mass that are left out. One block makes all steps, so that none waits for the host."""
    (m, d), (k, trials) = x.shape, draws.shape
    centers, closest = gpu.empty((k, d), np.float32), gpu.empty(m, np.int32)
    args = x, sums, np.int64(m), draws, np.int32(k), np.int32(trials), np.int32(bits), closest, centers
    gpu.run("image_cells_seeding", "seed_cells", 1, _SEEDING, *args)
    return centers


# ---------------------------------------------------------------- image_diffusion.cu


def diffusion_options(channels: int, dtype: Any, labels: Any) -> tuple[str, ...]:
    """The compiler's options for pixels of 1, 3 or 4 channels, uint8 or uint16, and labels of either."""
    bits = 8 * np.dtype(dtype).itemsize
    return f"-DCHANNELS={channels}", f"-DLEVEL_BITS={bits}", f"-DLABEL={_LABELS[np.dtype(labels).name]}"


def count_textured(gpu: Gpu, *, pixels: Any, texture: int) -> Any:
    """How many of the pixels (h, w, c) differ from a neighbour by so much: (1,) uint32."""
    height, width, _ = pixels.shape
    count, n = gpu.zeros(1, np.uint32), height * width
    gpu.launch("image_diffusion", "count_textured", n, pixels, np.int64(n), np.uint32(width), np.int32(texture), count)
    return count


def local_strength(gpu: Gpu, *, pixels: Any, texture: int, textured: int, scale: int, fixed: Any) -> Any:
    """How much of their share pixels (h, w, c) take: (h, w) uint16, `diffusion_plan.local_strength` times scale, of
    FULL; 65,535 where fixed (h, w) uint8, if it is not None, is not zero."""
    height, width, _ = pixels.shape
    strength, n = gpu.empty((height, width), np.uint16), height * width
    numbers = np.int32(texture), np.int32(textured), np.int32(scale)
    args = gpu.given(fixed, np.uint8), np.int32(fixed is not None), strength
    gpu.launch("image_diffusion", "local_strength", n, pixels, np.int64(n), np.uint32(width), *numbers, *args)
    return strength


def count_candidates(gpu: Gpu, *, colors: Any, bits: int, cells: int) -> Any:
    """How many fours the candidates of each of so many cells take: (cells,) int32. colors: (k, 4), as pixels' dtype.
    bits: of a level that tell cells apart."""
    fours = gpu.empty(cells, np.int32)
    args = colors, np.int32(len(colors)), np.int32(bits), np.int32(cells), fours
    gpu.launch("image_diffusion", "count_candidates", cells, *args)
    return fours


def list_candidates(gpu: Gpu, *, colors: Any, bits: int, starts: Any, fours: int) -> Any:
    """The candidates of cells, (4 fours,) uint16: those of cell i from 4 starts[i] to 4 starts[i + 1], starts (cells +
    1,) int32. The rest as of `count_candidates`."""
    candidates, cells = gpu.empty(4 * fours, np.uint16), len(starts) - 1
    args = colors, np.int32(len(colors)), np.int32(bits), np.int32(cells), starts, candidates
    gpu.launch("image_diffusion", "list_candidates", cells, *args)
    return candidates


def diffuse(
    gpu: Gpu,
    *,
    pixels: Any,
    strength: Any,
    colors: Any,
    limits: Any,
    caps: Any,
    starts: Any,
    candidates: Any,
    bits: int,
    fixed_index: int,
    dtype: Any,
) -> Any:
    """The labels (h, w) of that dtype, uint8 or uint16, of pixels (h, w, c), by error diffusion.

    strength: (h, w) uint16. colors: (k, 4), as pixels' dtype. limits: (2, c) int32, their range. caps: (k,) int32.
    starts, candidates: as `list_candidates` has them. A warp has 32 rows, and takes others when it is done.
    """
    (height, width, channels), bands = pixels.shape, -(-pixels.shape[0] // _ROWS)
    taken, passed = gpu.zeros(1, np.int32), gpu.zeros(max(1, (bands - 1) * channels * width), np.int32)
    labels = gpu.empty((height, width), dtype)
    blocks = min(gpu.blocks, -(-bands // _DIFFUSING))
    given = pixels, strength, np.int32(height), np.int32(width), colors, limits, caps, starts, candidates
    args = np.int32(bits), np.int32(fixed_index), taken, passed, labels
    gpu.run("image_diffusion", "diffuse", blocks, 32 * _DIFFUSING, *given, *args)
    return labels
