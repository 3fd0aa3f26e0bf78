"""Every kernel compiles for every GPU that is supported, and stays within its share of a multiprocessor: no spills,
and registers, shared memory and the instructions of its inner loop within the budget of one table."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import Any

import nvrtc
import pytest
from nvrtc import compile_for
from sass import disassembled, inner_loops, machine_code

pytestmark = pytest.mark.kernels

# By NVRTC, as on a user's machine. CUDA 13 compiles for these and what lies between: Turing, Ampere (A100), Ada,
# Hopper, Blackwell (B200, then RTX 50). What it makes for RTX 30 is what it makes for Ada
# (test_rtx_30_has_the_code_of_ada).
ARCHITECTURES = (75, 80, 89, 90, 100, 120)

# Tensor cores serve where they are worth it alone (engine/cuda/device.py): A100, H100 and H200, B200.
# And wgmma is of sm_90a alone, tcgen05 of sm_100a and sm_103a.
ONLY = {
    "assign_tensor": (80, 90, 100),
    "assign_half": (80, 90, 100),
    "assign_wgmma": ("90a",),
    "assign_tcgen05": ("100a", "103a"),
}

# Instructions are counted for the GPU that NOTES.md computes its floors for. (For sm_120, waits of float64 arithmetic
# stand in the code as NOPs.)
COUNTED = (90, "90a", "100a")

# A multiprocessor has 65,536 registers. Blocks have 256 threads unless noted; for so many blocks to be resident a
# thread may use at most:
FOUR_BLOCKS, THREE_BLOCKS, TWO_BLOCKS, ONE_BLOCK = 64, 80, 128, 255


@dataclass(frozen=True)
class Loop:
    """The inner loop with most operations `marker` (or "marker.64", ...) has at most `most` instructions to each of
    them; most(size) if that depends on what the kernel is specialised for."""

    marker: str
    most: float | Callable[[int], float]


@dataclass(frozen=True)
class Budget:
    """What one kernel may use. shared: static, in bytes, or shared(size); what is dynamic the launch decides
    (engine/cuda/*kernels.py)."""

    registers: int
    loop: Loop | None  # None: it has none
    shared: int | Callable[[int], int] = 0


def at(limit: Any, size: int | None) -> Any:
    return limit(size) if callable(limit) else limit


# One square of D: x, its conversion, the center's coordinate, a difference, a product, a sum. That is 6, two of them
# DADD; the rest is the loop's own, spread by unrolling.
ONE_SQUARE = Loop("DADD", 7 / 2)


def group_of_centers(d: int) -> float:
    """assign_low_dim, a group of 8 centers: a fused multiply-add a feature of every pair; of each row 7 + 5
    comparisons; d + 1 values of 8 centers in loads of 4; the loop's own 5, and one to spare."""
    rows = 4 if d <= 8 else 2
    return (8 * rows * d + 12 * rows + 2 * (d + 1) + 6) / (8 * rows * d)


def measured_rows(d: int | None) -> float:
    """hamerly, a row that is measured: of each feature loads of it, its offset and center, a difference, a
    multiply-add, and a conversion, which takes six for a float16; multiply-adds for the root and the bound. By a warp,
    addresses of 64 bits for each feature."""
    return 19 if d is None else (13 * d + 107) / (d + 3)


def sixteen_features(value: int, parts: int = 2) -> float:
    """assign_tensor, 16 features of a warp's 32 rows and 64 centers: 16 HMMA for each product; 64 additions of their
    sums; 8 loads of centers and 2 of each part of rows. 8 values to bring: each a load or a share of one, a test and a
    zero for what is not there, 2 operations into the frame, 1 for the norm, `value` to unpack and split. 2 copies and a
    store to shared memory, all with addresses; two pointers of 64 bits; the loop's own: 120."""
    products = 16 * (parts + 1)
    return (products + 64 + 8 + 2 * parts + 8 * (3 + 2 + 1 + value) + 120) / products


def tensor_shared(parts: int) -> int:
    """Twice the parts of 128 rows and two of 128 centers, of 16 features, two bytes each; of 256 threads best, second
    and label of four rows; where rows begin, their norms, and two counts."""
    return 2 * 16 * 2 * (128 * parts + 128 * 2) + 256 * 4 * 12 + 128 * 8 + 128 * 4 + 16


def eight_features(width: int) -> float:
    """assign_tiled, eight features of a thread's pairs: for 128 centers 512 FFMA and 4 more for the norm. 32 loads of
    operands, 4 values of up to 19 instructions to unpack (of a float16), bring into the frame and store; 48 to load
    what comes next, row by row or four values at once, and the loop's own. Narrower tiles bring 8 values, each also
    with its load, and have fewer operands."""
    pairs = {16: 16, 32: 32, 64: 64, 128: 64}[width]
    values = 4 if width == 128 else 8
    operands = 8 * {16: 2, 32: 3, 64: 4, 128: 4}[width]
    return (8 * pairs + values + operands + 19 * values + 48 * values // 4) / (8 * pairs + values)


def tiled_shared(width: int) -> int:
    """Two halves of two tiles of 8 features, 4 floats between rows; the norms; of 256 threads best, second and
    label; the number of rows."""
    rows = 128 if width == 128 else 256
    return 4 * (2 * 8 * (rows + 4 + width + 4) + rows + 256 * 3) + 8


def differences(width: int, parts: int = 1) -> float:
    """assign_close, eight features of a thread's pairs: a multiply-add and two subtractions, or three where rows have
    two parts; of each feature loads of both parts of centers and of rows'. 4 or 8 values of rows with up to 25
    instructions to load, unpack and store, 32 with two parts; up to 4 of centers with 20, and 10 of the loop's own."""
    pairs = {16: 16, 32: 32, 64: 64, 128: 64}[width]
    values = 4 if width == 128 else 8
    rows, centers = {16: (1, 1), 32: (2, 1), 64: (2, 2), 128: (2, 2)}[width]
    operands = 8 * (parts * rows + 2 * centers)
    brought = (25 if parts == 1 else 32) * values + 20 * max(1, width * 8 // 256)
    return (8 * pairs * (2 + parts) + operands + brought + 10) / (8 * pairs + values)


def close_shared(width: int, parts: int = 1) -> int:
    """As tiled_shared; centers have two parts, and rows of float64."""
    rows = 128 if width == 128 else 256
    return 4 * (2 * 8 * (parts * (rows + 4) + 2 * (width + 4)) + rows + 256 * 3) + 8


def filtered_four(value: int, most_rows: int = 4) -> Callable[[int], float]:
    """filtered_potentials, four features: of 4 rows, or 2 where registers are few, `value` instructions to load and
    frame each; the loop's own 40."""

    def most(width: int) -> float:
        rows = most_rows if width <= 8 else 2
        pairs = 4 * rows * width
        return (2 * pairs + 2 * width + 4 * rows * value + 40) / pairs

    return most


def filter_shared(width: int) -> int:
    """Of eight warps rows' numbers, up to four for each lane and 32 more, and 64 pairs, eight bytes each; sums."""
    return 8 * 8 * (32 * (4 if width <= 8 else 2) + 32 + 64) + 8 * width


def bytes_part(columns: int) -> float:
    """byte_doubts, 64 features of a warp's 32 rows and 8 or 16 candidates: 8 IMMA for each 8, with 2.3 moves each;
    loads of rows by addresses of 64 bits, 20; of candidates, and the loop's own 10."""
    products = columns
    return (3.3 * products + 20 + columns / 8 + 10) / products


def scored_group(rows: int) -> Callable[[int | None], float]:
    """whole_fits, eight centers of a thread's rows: of each pair a multiply-add a feature, and six instructions to keep
    best, second and label; centers' features by loads of four, their squares, and the loop's own 24. Of more than 16
    features, four of a row that is read again, and the loop's own 14."""

    def most(d: int | None) -> float:
        if d is None:
            return (32 + 8 + 1 + 14) / 32
        return (8 * rows * (d + 6) + 2 * d + 8 + 24) / (8 * rows * d)

    return most


def half_stage(rows: int) -> float:
    """assign_half, 16 features: of 128 rows a block 16 HMMA a warp, of 64 eight."""
    products = rows // 8
    return (products + products / 4 + 2 + 28) / products


def center_of_cells(d: int, more: int) -> float:
    """image_cells, four centers: of each d FFMA, the score's comparison, two selects and the center's index, and
    `more`; d + 1 values in loads of 4; the loop's own 5."""
    return (4 * (d + 4 + more) + (d + 1) + 5) / (4 * d)


def added_points(d: int) -> float:
    """image_cells, a point: of each feature a load, conversions between float64, float32 and integers, the frame's
    difference and product, a place in the grid, a product and an addition of 64 bits; the weight, and the sums of all
    points."""
    return (24 * d + 30) / (d + 1)


def four_candidates(comparison: int) -> Callable[[int], float]:
    """diffuse, four candidates, in five loads: of each level unpacking, a difference and a multiply-add; `comparison`
    instructions for the first of the nearest, and an address; the loop's own."""
    return lambda channels: (4 * (3 * channels + comparison) + 16) / 5


BUDGETS = {
    "probe": Budget(FOUR_BLOCKS, None),
    # Bound by memory: half of all threads resident are enough to keep it busy, or a quarter with 16 bytes of small
    # values each. A value: least, largest, a test for NaN; conversion, eight of a float16; of float64 each of two
    # registers and by selects. The loop's own 3 are spread by unrolling.
    "feature_range": Budget(FOUR_BLOCKS, Loop("LDG.128", 4 * 4 + 3)),
    "feature_range of uint8": Budget(TWO_BLOCKS, Loop("LDG.128", 16 * 6)),
    "feature_range of float16": Budget(TWO_BLOCKS, Loop("LDG.128", 8 * 14 + 3)),
    "feature_range of float64": Budget(FOUR_BLOCKS, Loop("LDG.128", 2 * 20 + 3)),
    # A value: its place by a division, a load, a conversion, which takes ten for a float16, a store.
    "sample_rows": Budget(FOUR_BLOCKS, Loop("STG.64", 40)),
    # D for all centers, of uncertain rows; the compiler makes addresses anew for each value.
    "refine": Budget(FOUR_BLOCKS, Loop("DADD", 9 / 2)),
    # The center is the label's, so its address is 64 bits of its own.
    "inertia": Budget(FOUR_BLOCKS, Loop("DADD", 9 / 2)),
    "distances": Budget(FOUR_BLOCKS, ONE_SQUARE),
    "own_distances": Budget(FOUR_BLOCKS, ONE_SQUARE),
    # A comparison of 64 bits is two and two selects; the index has 64 bits too.
    "farthest": Budget(FOUR_BLOCKS, Loop("LDG", 9)),
    "first_farthest": Budget(FOUR_BLOCKS, Loop("LDG", 22)),
    # A feature of two rows, compared as doubles.
    "take_farthest": Budget(FOUR_BLOCKS, Loop("LDG", 9)),
    # A value: its load, a conversion, which takes ten for a float16, and its key of 64 bits, compared with two loads.
    "cluster_ranges": Budget(FOUR_BLOCKS, Loop("LDG", 40)),
    # A value: three loads and their addresses, the term, of which a weight that is no integer makes two, and a 64-bit
    # addition.
    "cluster_sums": Budget(FOUR_BLOCKS, Loop("DADD", 28)),
    "cluster_sums of float16": Budget(FOUR_BLOCKS, Loop("DADD", 28 + 10)),
    # A square: a load, a conversion, which takes ten for a float16, two products, a sum; the loop's own, unrolled.
    "normalize": Budget(FOUR_BLOCKS, Loop("DADD", 1 + 10 + 3 + 2)),
    # Four features: of each its load, unless they are aligned, its conversion, the center's load and 3; and 12 for
    # addresses and the loop. A float16 is converted by ten.
    "accept_center": Budget(FOUR_BLOCKS, Loop("DADD", (4 * 6 + 12) / 8)),
    "accept_center of float16": Budget(FOUR_BLOCKS, Loop("DADD", (4 * 16 + 12) / 8)),
    "accept_least": Budget(FOUR_BLOCKS, Loop("DADD", (4 * 6 + 12) / 8)),
    "accept_least of float16": Budget(FOUR_BLOCKS, Loop("DADD", (4 * 16 + 12) / 8)),
    "accept_all": Budget(FOUR_BLOCKS, Loop("DADD", (4 * 6 + 11) / 8)),
    "accept_all of float16": Budget(FOUR_BLOCKS, Loop("DADD", (4 * 16 + 11) / 8)),
    # A row's mass: distance and weight, a product, rounding, a sum of 64 bits. Shared: the sums of eight warps.
    "run_sums": Budget(FOUR_BLOCKS, Loop("LDG", 17), 8 * 8),
    # Four features and candidates: of each feature its load, its conversion, two loads of the candidates' and 12; and
    # 15 for addresses and the loop. Shared: 64 rows' numbers for each of eight warps.
    "potentials": Budget(THREE_BLOCKS, Loop("DADD", (4 * 16 + 15) / 32), 8 * 64 * 8),
    "potentials of float16": Budget(THREE_BLOCKS, Loop("DADD", (4 * 26 + 15) / 32), 8 * 64 * 8),
    # Four features of a lane's rows, and of all candidates: a difference and a multiply-add for each pair. Each row's
    # four are loaded, one by one unless they are aligned, with their addresses, and brought into the frame, each
    # candidate's by a load; and the loop's own. Shared: rows' numbers and pairs of eight warps, sums of 64 bits.
    "filtered_potentials": Budget(TWO_BLOCKS, Loop("FFMA", filtered_four(3)), filter_shared),
    "filtered_potentials of uint8": Budget(TWO_BLOCKS, Loop("FFMA", filtered_four(5)), filter_shared),
    "filtered_potentials of float16": Budget(TWO_BLOCKS, Loop("FFMA", filtered_four(9)), filter_shared),
    "filtered_potentials of float64": Budget(TWO_BLOCKS, Loop("FFMA", filtered_four(10, 2)), filter_shared),
    # A value: its conversion, which takes ten for a float16, into the frame, rounded and held within a byte, by selects
    # of two registers each, a difference, a square, a sum, another of integers, its place in the word; a fourth of a
    # store.
    "byte_rows": Budget(FOUR_BLOCKS, Loop("FRND", 40)),
    "byte_rows of float16": Budget(FOUR_BLOCKS, Loop("FRND", 50)),
    # 16 features of 8 candidates take two IMMA. Shared: of eight warps 64 rows' numbers and bounds; candidates' norms
    # and losses. Where a lane reads less at once, there are fewer IMMA to a load.
    "byte_doubts": Budget(THREE_BLOCKS, Loop("IMMA", bytes_part), lambda columns: 8 * 64 * 12 + 8 * columns),
    "byte_doubts of 1 words": Budget(THREE_BLOCKS, Loop("IMMA", 45 / 4), 8 * 64 * 12 + 8 * 16),
    "byte_doubts of 2 words": Budget(THREE_BLOCKS, Loop("IMMA", 53 / 8), 8 * 64 * 12 + 8 * 16),
    # Shared: the sums of eight warps. 1,024 masses in 10 SHFL: five steps over the warp of 7, eight sums of warps of 6
    # and four masses of 12, all of 64 bits; the loop's own 20.
    "prefix_sums": Budget(FOUR_BLOCKS, Loop("SHFL", (5 * 7 + 8 * 6 + 4 * 12 + 20) / 10), 8 * 8),
    # Four features of a row and of a center: of each two loads, two conversions of up to 3, and 3; and 8. Shared: the
    # sums of eight warps, and the row.
    "find": Budget(FOUR_BLOCKS, Loop("DADD", (4 * 11 + 8) / 8), 8 * 8 + 8),
    "find of float16": Budget(FOUR_BLOCKS, Loop("DADD", (4 * 27 + 9) / 8), 8 * 8 + 8),
    # Rows: 4 x 8 or 2 x 16 values, with best, second and label each; 32 scores at a time, 8 operands.
    "assign_low_dim": Budget(TWO_BLOCKS, Loop("FFMA", group_of_centers)),
    # Bound by memory as long as most rows are done with a comparison; the loop is that over blocks of rows.
    "hamerly": Budget(FOUR_BLOCKS, Loop("FFMA", measured_rows), 4 * 8 + 8),
    # Two rows of 16 features and 16 scores, two blocks; where weights are of float64 one, and of float64 one row.
    # Shared: what warps add up, and of 256 threads where their rows' weights end.
    "fit_problems": Budget(ONE_BLOCK, Loop("FFMA", scored_group(2)), 8 * 256 + 4 * 64 + 3 * 8 * 8),
    "fit_problems of float64": Budget(ONE_BLOCK, Loop("FFMA", scored_group(1)), 8 * 256 + 4 * 64 + 3 * 8 * 8),
    "publish_problems": Budget(ONE_BLOCK, Loop("FFMA", scored_group(2)), 2 * 8 * 8),
    "publish_problems of float64": Budget(ONE_BLOCK, Loop("FFMA", scored_group(1)), 2 * 8 * 8),
    # A value: its load, a conversion, which takes ten for a float16, a test for NaN, two comparisons by selects.
    "problem_ranges": Budget(FOUR_BLOCKS, Loop("LDG", 40), 2 * 8 * 256),
    # A pixel: its byte, or its share of a load, put together; whether it differs from the last, and if so an addition
    # of what came before. Or a look into the table.
    "histogram": Budget(FOUR_BLOCKS, Loop("LDG", 20)),
    "map_codes": Budget(FOUR_BLOCKS, Loop("LDG", 16)),
    # Four counts a load: a comparison each, and a share of the scan of a block's; shared: the counts of eight warps.
    "used": Budget(FOUR_BLOCKS, Loop("LDG", 18), 8 * 4),
    # Where there are any, two stores with 64-bit addresses, one of 64 bits.
    "gather_used": Budget(FOUR_BLOCKS, Loop("LDG", 52)),
    "fill_table": Budget(FOUR_BLOCKS, Loop("LDG", 16)),
    "squared_error": Budget(FOUR_BLOCKS, Loop("LDG", 16)),
    "without_alpha": Budget(FOUR_BLOCKS, Loop("LDG", 16)),
    # A pixel: its place in the picture and in the pattern, three divisions of 12, and the loop's own; three loads and a
    # store, with addresses of 64 bits.
    "mix": Budget(FOUR_BLOCKS, Loop("STG", 3 * 12 + 6 + 4 * 5)),
    # Three bytes of a code, each stored by itself.
    "rgb_points": Budget(FOUR_BLOCKS, Loop("STG", 5)),
    # Of nine factors three a coordinate: two multiply-adds and a product, a conversion and a store.
    "ycbcr_points": Budget(FOUR_BLOCKS, Loop("STG", 3 + 2 + 6)),
    # Of three roots six steps of two divisions, each of 7 DFMA, 2 DMUL and 7 operations that see to its range.
    "oklab_points": Budget(FOUR_BLOCKS, Loop("DFMA", 4.5)),
    # Of a color its code, its palette's levels, and their differences; a product of 64 bits.
    "color_error": Budget(FOUR_BLOCKS, Loop("LDG", 6)),
    "add_points": Budget(FOUR_BLOCKS, Loop("REDG", added_points)),
    # A value of a cell with its 64-bit address, and of each feature its place in the grid.
    "add_cells": Budget(FOUR_BLOCKS, Loop("REDG", 12)),
    # As add_points, but stored; a division of 20.
    "whole_points": Budget(FOUR_BLOCKS, Loop("DMUL", 17)),
    # A bin's mass, a vote of the block, and the loop over parts.
    "used_bins": Budget(FOUR_BLOCKS, Loop("LDG", 18)),
    # The counts of eight warps, four to a load.
    "gather_bins": Budget(FOUR_BLOCKS, Loop("LDS", 10), 8 * 4),
    "nearest_centers": Budget(FOUR_BLOCKS, Loop("FFMA", lambda d: center_of_cells(d, 0))),
    # Also the second-nearest: a comparison, three minima and maxima, a select.
    "second_centers": Budget(FOUR_BLOCKS, Loop("FFMA", lambda d: center_of_cells(d, 5))),
    # A feature: a load, the mean's, a difference, two products, rounding, conversion, address, addition; the cell's 20.
    "spreads": Budget(FOUR_BLOCKS, Loop("REDG", lambda d: (9 * d + 20) / d)),
    # A sum of a cell, and its share of finding the axis.
    "half_sums": Budget(FOUR_BLOCKS, Loop("REDG", 15)),
    # One block of 1,024 threads. A cell's mass and D: rounded, shifted, multiplied and added in 64 bits. Shared: a sum
    # of each warp, one for each of 16 trials, and these trials.
    "seed_cells": Budget(FOUR_BLOCKS, Loop("LDG", 7), 8 * (32 + 32 * 16 + 16)),
    # A pixel as below, without its strength, and a comparison.
    "count_textured": Budget(FOUR_BLOCKS, Loop("LDG", 16)),
    # A pixel: its column by a division of 12 and its strength by another; of four neighbours a test, an address, a
    # level, its difference and the largest.
    "local_strength": Budget(FOUR_BLOCKS, Loop("LDG", 16)),
    # A level of a color: its distance from a cell on either side, the larger, its square; and to store a candidate.
    "count_candidates": Budget(FOUR_BLOCKS, Loop("LDG", 6)),
    # Squares of 16 bits are compared by two instructions, and two selects.
    "count_candidates of uint16": Budget(FOUR_BLOCKS, Loop("LDG", 9)),
    "list_candidates": Budget(FOUR_BLOCKS, Loop("LDG", 9)),
    "list_candidates of uint16": Budget(FOUR_BLOCKS, Loop("LDG", 12)),
    # Blocks of 128 threads, eight of which are as many as four of 256.
    "diffuse": Budget(FOUR_BLOCKS, Loop("LDG", four_candidates(3))),
    "diffuse of uint16": Budget(FOUR_BLOCKS, Loop("LDG", four_candidates(8))),
    # 64 scores, 16 operands and as many on their way, 8 values for the next 8 features, pointers.
    "assign_tiled": Budget(TWO_BLOCKS, Loop("FFMA", eight_features), tiled_shared),
    # 64 sums, 8 values of rows and as many of centers, or 16; one block, as few rows come to it.
    "assign_close": Budget(ONE_BLOCK, Loop("FFMA", differences), close_shared),
    "assign_close of float64": Budget(
        ONE_BLOCK, Loop("FFMA", lambda width: differences(width, 2)), lambda width: close_shared(width, 2)
    ),
    # 64 sums, 16 words of rows and 4 of centers, 8 values for the next 16 features. To split a value: half a conversion
    # of two, a conversion back, a difference, half a conversion.
    "assign_tensor": Budget(TWO_BLOCKS, Loop("HMMA", sixteen_features(3)), tensor_shared(2)),
    "assign_tensor of float16": Budget(TWO_BLOCKS, Loop("HMMA", sixteen_features(3 + 13)), tensor_shared(2)),
    "assign_tensor of float64": Budget(TWO_BLOCKS, Loop("HMMA", sixteen_features(3 + 2)), tensor_shared(2)),
    "assign_tensor of uint8": Budget(TWO_BLOCKS, Loop("HMMA", sixteen_features(1 + 5, parts=1)), tensor_shared(1)),
    "assign_tensor of float16 at zero": Budget(
        TWO_BLOCKS, Loop("HMMA", sixteen_features(1 + 13, parts=1)), tensor_shared(1)
    ),
    # 64 sums, or 32, best, second and label of four rows; 16 features take 16 HMMA, or 8, 6 loads, or 4, a copy, a
    # barrier and the loop's own. Shared: |y|^2 and two lengths of each row, two counts.
    "assign_half": Budget(TWO_BLOCKS, Loop("HMMA", half_stage), lambda rows: 12 * rows + 16),
    # 64 sums, best, second and label of two rows and what these err by. To bring four features of a row: each a load,
    # its conversion, the frame, to float16 and back, two sums; two F2FP. Shared: |y|^2 of 128 rows, ten barriers, what
    # is copied next, and up to a multiple of 128.
    "assign_wgmma": Budget(TWO_BLOCKS, Loop("F2FP", 60 / 2 + 15), 4 * 128 + 8 * 10 + 16 + 32),
    "assign_wgmma of float16": Budget(TWO_BLOCKS, Loop("F2FP", 60 / 2 + 25), 4 * 128 + 8 * 10 + 16 + 32),
    "wgmma_table": Budget(FOUR_BLOCKS, Loop("F2FP", 60 / 2)),
    # 16 bytes of the rows: a load, a store, addresses.
    "known_product": Budget(TWO_BLOCKS, Loop("LDG.128", 5), 8 * 10 + 16 + 32),
    # 64 sums, best, second, label, bound and errors of four rows; one block of 288 threads, so up to 224 registers. 16
    # centers, a fourth of the loop: of 16 scores eight multiply-adds of two, of four rows the least by two minima, two
    # multiply-adds and a comparison, and of all three loads, two maxima, a vote and a jump; of those looked at sixteen
    # multiply-adds of two, five instructions each to choose, two loads. Shared: 13 barriers, an address, and up to a
    # multiple of 128.
    "assign_tcgen05": Budget(224, Loop("FFMA2", (8 + 4 * 5 + 7 + 16 + 16 * 5 + 2 + 4) / 24), 128),
    # As for half_table, and the largest of eight errors. Shared: these.
    "tcgen05_table": Budget(FOUR_BLOCKS, Loop("F2FP", 60 / 2), 128),
    # 64 sums, a store with its address each.
    "known_sums": Budget(224, Loop("STG", 8), 128),
    # Four features of a center: loads, tests, products, four conversions and back, two sums; a store with its address.
    "half_table": Budget(FOUR_BLOCKS, Loop("F2FP", 60 / 2)),
    # A mean: a division of 14 with what it needs on the side, the inverse of a scale, three loads, a store, addresses;
    # four of them, of whose loads eight are LDG.64. Shared: of eight warps 32 squares.
    "center_forms": Budget(FOUR_BLOCKS, Loop("LDG.64", 190 / 8), 8 * 32 * 8),
    # Of each center two sums, and what it moved. Shared: of eight warps two largest and which; a feature of 256 means.
    "movement": Budget(FOUR_BLOCKS, Loop("LDG.64", 26 / 4), 8 * 24 + 256 * 8),
    # A value with its place by two divisions, a load, a store.
    "tiled_table": Budget(FOUR_BLOCKS, Loop("FMUL", 45)),
    # Four values: each a load and its address, two tests, a product, a difference and two conversions; a store, a
    # division for the place, and the loop's own: 40. Four F2FP.
    "tensor_table": Budget(FOUR_BLOCKS, Loop("F2FP", (4 * 10 + 40) / 4)),
    # Of sparse rows an entry of four centers: its column and value, which may be converted; into the frame; a 64-bit
    # address and a load of the table; five multiply-adds; and the loop's own.
    "assign_sparse": Budget(FOUR_BLOCKS, Loop("FFMA", 22 / 5)),
    # An entry: two loads, a test, the key of 64 bits, three operations with 64-bit addresses; the loop's own.
    "entry_range": Budget(FOUR_BLOCKS, Loop("REDG", 44 / 4)),
    # An entry: its column and value, a conversion, the center's coordinate by a 64-bit address, 5 operations, three of
    # them DADD; the loop's own.
    "inertia of sparse rows": Budget(FOUR_BLOCKS, Loop("DADD", 16 / 3)),
    "distances of sparse rows": Budget(FOUR_BLOCKS, Loop("DADD", 16 / 3)),
    "accept_all of sparse rows": Budget(FOUR_BLOCKS, Loop("DADD", 16 / 3)),
    # Rows on a list: the compiler makes addresses anew for each value.
    "accept_least of sparse rows": Budget(FOUR_BLOCKS, Loop("DADD", 21 / 3)),
    "accept_center of sparse rows": Budget(FOUR_BLOCKS, Loop("DADD", 20 / 3)),
    # The same of four candidates.
    "potentials of sparse rows": Budget(THREE_BLOCKS, Loop("DADD", 36 / 12), 8 * 64 * 8),
    # One entry of a candidate for N: a value, its square, a sum.
    "find of sparse rows": Budget(FOUR_BLOCKS, Loop("DADD", 7 / 2), 8 * 8 + 8),
    # As inertia, with the row's own square; the compiler makes addresses anew for each value.
    "refine of sparse rows": Budget(FOUR_BLOCKS, Loop("DADD", 21 / 3)),
    # A feature: whether the row stores it, and then its value and the next column.
    "own_distances of sparse rows": Budget(FOUR_BLOCKS, Loop("DADD", 27 / 2)),
    # A value as of dense rows, its column, and more of what is the loop's own.
    "cluster_sums of sparse rows": Budget(FOUR_BLOCKS, Loop("DADD", 28 + 10)),
    # Twice the registers for the next values: one block, where need be.
    "assign_tiled of float64": Budget(ONE_BLOCK, Loop("FFMA", eight_features), tiled_shared),
}

KINDS = {"uint8": 0, "float16": 1, "float32": 2, "float64": 3}
# What a family is specialised for beside types: a number of features, or centers of a tile.
SIZES = {
    "assign_low_dim": "D_FEW",
    "hamerly": "D_FEW",
    "assign_tiled": "CENTERS",
    "assign_close": "CENTERS",
    "image_cells": "D",
    "image_cells_seeding": "D",
    "seeding_filter": "CANDIDATES",
    "seeding_bytes": "CANDIDATES",
    "assign_half": "ROWS",
    "whole_fits": "D_FEW",
}

KERNEL = r"__global__ void (?:__launch_bounds__\([^)]*\)\s)?(\w+)\("

SPECIALISATIONS = [
    ("probe", "uint8", 0, None),
    *[("feature_range", x, 0, None) for x in KINDS],
    *[("normalize", x, 0, None) for x in ("float16", "float64")],
    *[("assign_low_dim", x, 0, 3) for x in KINDS],
    *[("assign_low_dim", "float32", 0, d) for d in (1, 2, 9)],
    # Those that take most registers.
    *[("assign_low_dim", x, 0, d) for x, d in (("uint8", 8), ("float64", 8), ("uint8", 16), ("float64", 16))],
    *[("hamerly", x, 0, d) for x, d in (("uint8", 3), ("float16", 3), ("float32", 16), ("float64", 16))],
    *[("hamerly", x, 0, None) for x in KINDS],
    *[("prepare_centers", x, 0, None) for x in ("float32", "float64")],
    *[("assign_tensor", x, 0, None) for x in KINDS],
    *[("assign_half", x, 0, rows) for x in KINDS for rows in (128, 64)],
    *[("assign_wgmma", x, 0, None) for x in KINDS],
    *[("assign_tcgen05", x, 0, None) for x in KINDS],
    *[("assign_tiled", x, 0, 128) for x in KINDS],
    *[("assign_tiled", x, 0, 16) for x in ("uint8", "float64")],
    *[("assign_tiled", x, 0, 32) for x in ("float16", "float32")],
    *[("assign_tiled", x, 0, 64) for x in ("float32", "float64")],
    *[("assign_close", x, 0, 128) for x in ("float16", "float32", "float64")],
    *[("assign_close", x, 0, c) for x, c in (("float32", 16), ("float16", 32), ("float32", 64), ("float64", 64))],
    *[("refine", x, w, None) for x, w in (("uint8", 0), ("uint8", 1), ("float32", 0), ("float64", 2))],
    *[("exact_distance", x, w, None) for x, w in (("uint8", 1), ("float32", 0), ("float64", 2))],
    *[("cluster_sums", x, w, None) for x, w in (("uint8", 1), ("float16", 0), ("float32", 0), ("float64", 2))],
    ("image_colors", "uint8", 1, None),
    *[("image_cells", x, w, d) for x, w, d in (("uint8", 1, 1), ("uint8", 1, 3), ("float32", 1, 3), ("float32", 2, 4))],
    ("image_cells", "float64", 2, 4),
    *[("image_cells_seeding", "float32", 1, d) for d in (1, 3, 4)],
    *[("kmeans_plusplus", x, w, None) for x, w in (("uint8", 1), ("float16", 1), ("float32", 0), ("float64", 2))],
    *[("seeding_filter", "float32", 0, width) for width in (4, 8, 12, 16)],
    *[("seeding_filter", x, w, 8) for x, w in (("uint8", 1), ("float16", 1), ("float64", 2))],
    ("seeding_filter", "float64", 2, 16),
    *[("seeding_bytes", x, 0, 8) for x in KINDS],
    ("seeding_bytes", "float32", 0, 16),
    *[("whole_fits", x, w, 16) for x, w in (("uint8", 1), ("float16", 1), ("float32", 0), ("float64", 2))],
    *[("whole_fits", x, w, None) for x, w in (("float16", 1), ("float32", 2), ("float64", 2))],
    ("whole_fits", "float32", 0, 4),
]

# Families that are compiled for sparse rows, or for nothing else.
SPARSE = [
    *("assign_sparse", "entry_range", "normalize", "prepare_centers", "refine"),
    *("cluster_sums", "exact_distance", "kmeans_plusplus"),
]


# One of each family; the last, which is of the widest values in most.
ONE_OF_EACH = list({each[0]: each for each in SPECIALISATIONS if each[0] not in ONLY}.values())


def name_of(specialisation: tuple[str, str, int, int | None]) -> str:
    family, x, weights, size = specialisation
    return f"{family}-{x}-weights{weights}" + (f"-{SIZES[family]}{size}" if size else "")


def options_of(specialisation: tuple[str, str, int, int | None]) -> list[str]:
    family, x, weights, size = specialisation
    return [f"-DX_KIND={KINDS[x]}", f"-DWEIGHT_KIND={weights}", *([f"-D{SIZES[family]}={size}"] if size else [])]


def budget_of(kernel: str, x: str) -> Budget:
    return BUDGETS.get(f"{kernel} of {x}", BUDGETS[kernel])


def check_resources(kernels: set[str], x: str, size: int | None, architecture: int | str, report: str) -> None:
    """The report is what ptxas says of every kernel."""
    found = re.findall(
        r"entry function '(\w+)' for 'sm_(\w+)'.*?(\d+) bytes stack frame, (\d+) bytes spill stores, "
        r"(\d+) bytes spill loads.*?Used (\d+) registers(?:.*?(\d+) bytes smem)?",
        re.sub(r"\n(?!ptxas info    : Compiling)", " ", report),
    )
    assert sorted(entry[:2] for entry in found) == sorted((kernel, str(architecture)) for kernel in kernels)
    for kernel, _, stack, stores, loads, registers, shared in found:
        where, budget = f"{kernel} on sm_{architecture}", budget_of(kernel, x)
        assert (stack, stores, loads) == ("0", "0", "0"), f"{where} spills"
        assert int(registers) <= budget.registers, f"{where} takes {registers} registers"
        assert int(shared or 0) <= at(budget.shared, size), f"{where} takes {shared} bytes of shared memory"


def check_code(kernels: set[str], x: str, size: int | None, cubin: Path) -> None:
    found = disassembled(cubin)
    assert set(found) == kernels
    for kernel, code in found.items():
        where = f"{kernel} in {cubin.name}"
        # What the machine has no atomic operation for is compared and swapped until nobody came between.
        assert not re.search(r"ATOM\w*\.\S*(CAS|SPIN)", code), f"{where} spins"
        budget = budget_of(kernel, x).loop
        if budget is None:
            assert not inner_loops(code), f"{where} has a loop"
            continue
        most = at(budget.most, size)
        loops = inner_loops(code)
        marked = [sum(n for name, n in loop.items() if budget.marker in (name, name.split(".")[0])) for loop in loops]
        assert any(marked), f"{where} has no loop with {budget.marker}: {loops}"
        for loop, markers in zip(loops, marked, strict=True):
            if markers == max(marked):
                each = loop.total() / markers
                assert each <= most, f"{where}: {each:.3f} instructions to a {budget.marker}, {loop}"


def test_budgets_are_of_kernels_that_there_are() -> None:
    """A budget by another name would be nobody's."""
    sources = "".join(path.read_text() for path in Path(str(files("gpukmeans.kernels"))).glob("*.cu"))
    assert {name.split(" of ")[0] for name in BUDGETS} == set(re.findall(KERNEL, sources))


@pytest.mark.parametrize("specialisation", SPECIALISATIONS, ids=name_of)
def test_kernels_compile_within_their_budgets(specialisation: tuple[str, str, int, int | None], tmp_path: Path) -> None:
    family, x, _, size = specialisation
    check(family, options_of(specialisation), tmp_path, x, size)


@pytest.mark.parametrize("specialisation", ONE_OF_EACH, ids=name_of)
def test_rtx_30_has_the_code_of_ada(specialisation: tuple[str, str, int, int | None]) -> None:
    """One kernel of each family stands for the others, since none looks at what tells sm_86 from sm_89."""
    folder = Path(str(files("gpukmeans.kernels")))
    sources = "".join(path.read_text() for path in folder.glob("*.cu*"))
    assert not re.search(r"__CUDA_ARCH__\W+8[1-9]\d", sources)
    source = (folder / f"{specialisation[0]}.cu").read_text()
    found = []
    for architecture in (86, 89):
        options = ["--std=c++17", f"-I{folder}", *options_of(specialisation)]
        report, cubin = compile_for(architecture, source, options)
        code = machine_code(cubin)
        assert set(code) == set(re.findall(KERNEL, source))
        assert all(code.values())
        found.append((re.sub(r"sm_\d+|Compile time.*", "", report), code))
    assert found[0] == found[1]


def test_two_products_of_float16_compile_within_their_budget(tmp_path: Path) -> None:
    check("assign_tensor", ["-DX_KIND=1", "-DAT_ZERO=1"], tmp_path, "float16 at zero", None)


@pytest.mark.parametrize("words", [1, 2])
def test_bytes_of_few_features_compile_within_their_budget(words: int, tmp_path: Path) -> None:
    """With as many registers as of more; a part of fewer features has fewer products to its loads."""
    options = ["-DX_KIND=2", "-DCANDIDATES=16", f"-DWORDS={words}"]
    check("seeding_bytes", options, tmp_path, f"{words} words", 16)


@pytest.mark.parametrize("family", SPARSE)
@pytest.mark.parametrize(("x", "weights"), [("uint8", 1), ("float32", 0), ("float64", 2)])
def test_kernels_of_sparse_rows_compile_within_their_budgets(family: str, x: str, weights: int, tmp_path: Path) -> None:
    check(family, [f"-DX_KIND={KINDS[x]}", f"-DWEIGHT_KIND={weights}", "-DSPARSE=1"], tmp_path, "sparse rows", None)


@pytest.mark.parametrize(("channels", "label"), [(1, "unsigned char"), (3, "unsigned short"), (3, "int")])
def test_image_kernels_compile_within_their_budgets(channels: int, label: str, tmp_path: Path) -> None:
    check("image_pixels", [f"-DCHANNELS={channels}", f"-DLABEL={label}"], tmp_path, "uint8", channels)


@pytest.mark.parametrize("bits", [8, 16])
@pytest.mark.parametrize(("channels", "label"), [(1, "unsigned char"), (3, "unsigned char"), (4, "unsigned short")])
def test_diffusion_compiles_within_its_budgets(channels: int, bits: int, label: str, tmp_path: Path) -> None:
    options = [f"-DCHANNELS={channels}", f"-DLEVEL_BITS={bits}", f"-DLABEL={label}"]
    check("image_diffusion", options, tmp_path, f"uint{bits}", channels)


def test_what_was_compiled_is_kept_for_all_that_it_was_made_of(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The source, what it includes, wherever that lies, the options, the architecture, and the compiler."""
    made: list[tuple[int, str, list[str]]] = []

    def compiled(architecture: int, code: str, options: list[str]) -> tuple[str, bytes]:
        made.append((architecture, code, options))
        return f"report {len(made)}\nof \u00fc", b"\n\0code\n" + bytes([len(made)])

    monkeypatch.setattr(nvrtc, "CACHE", tmp_path / "kept")
    monkeypatch.setattr(nvrtc, "_compiled", compiled)
    for name, text in (("one", "int x;"), ("same", "int x;"), ("other", "int y;")):
        (tmp_path / name).mkdir()
        (tmp_path / name / "head.cuh").write_text(text)
    code = '#include "head.cuh"\n'
    first = compile_for(90, code, ["-DA=1", f"-I{tmp_path / 'one'}"])
    assert first == ("report 1\nof \u00fc", b"\n\0code\n\1")
    for _ in range(2):
        assert compile_for(90, code, ["-DA=1", f"-I{tmp_path / 'same'}"]) == first
    assert len(made) == 1
    others = [
        (90, code, ["-DA=1", f"-I{tmp_path / 'other'}"]),
        (90, code, ["-DA=2", f"-I{tmp_path / 'one'}"]),
        (80, code, ["-DA=1", f"-I{tmp_path / 'one'}"]),
        (90, code + "\n", ["-DA=1", f"-I{tmp_path / 'one'}"]),
    ]
    for each in others:
        compile_for(*each)
    assert made[1:] == others
    monkeypatch.setattr(nvrtc, "version", lambda name: "99")
    compile_for(90, code, ["-DA=1", f"-I{tmp_path / 'one'}"])
    assert len(made) == 6


def check(family: str, options: list[str], tmp_path: Path, x: str, size: int | None) -> None:
    """The family's kernels, for values of type x and that size, compile for all architectures within budget."""
    folder = Path(str(files("gpukmeans.kernels")))
    source = (folder / f"{family}.cu").read_text()
    kernels = set(re.findall(KERNEL, source))
    for architecture in ONLY.get(family, ARCHITECTURES):
        report, cubin = compile_for(architecture, source, ["--std=c++17", f"-I{folder}", *options])
        assert "warning" not in report, report
        assert "serialized" not in report, report  # each product waited for
        check_resources(kernels, x, size, architecture, report)
        if architecture in COUNTED:
            path = tmp_path / f"{family}.cubin"
            path.write_bytes(cubin)
            check_code(kernels, x, size, path)
