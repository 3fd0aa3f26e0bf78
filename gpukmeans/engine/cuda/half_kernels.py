"""One function a kernel, see kernels.py: those that look at rows first, by one product of float16."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from gpukmeans.engine.cuda.assignment_kernels import Comparison, Halves
from gpukmeans.engine.cuda.device import BLOCK, Gpu
from gpukmeans.engine.cuda.kernels import of_rows
from gpukmeans.engine.cuda.launch_plans import OWN_PRODUCTS, HalfPlan, LaunchPlan

# Threads of a block of assign_tcgen05: eight warps that look at sums, and one that asks for products.
TCGEN05_BLOCK = 288

# ---------------------------------------------------------------- the centers


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


def tcgen05_table(gpu: Gpu, plan: LaunchPlan, *, framed: Any, squares: Any, downs: Any, halves: Halves) -> None:
    """The same, as assign_tcgen05 reads it."""
    assert plan.half is not None
    gpu.launch(
        *("assign_tcgen05", "tcgen05_table", 32 * plan.table.centers, framed, squares, downs),
        *_half_table_arguments(plan, plan.half, framed, halves),
        options=plan.half.options,
    )


def _half_table_arguments(plan: LaunchPlan, half: HalfPlan, framed: Any, halves: Halves) -> tuple[Any, ...]:
    """The arguments from k to of_centers."""
    k, d = framed.shape
    shape = np.int32(k), np.int32(d), np.int32(half.features), np.int32(plan.table.tiles)
    return *shape, np.float32(half.summing), np.float32(half.roundings), halves.table, halves.of_centers


# ---------------------------------------------------------------- rows and centers


def assign_half(gpu: Gpu, compared: Comparison) -> None:
    """Tentative labels by one product of float16, and where that leaves doubt a place on a list; a block the rows that
    its shared memory holds."""
    blocks, arguments, how = _half_launch(gpu, compared)
    gpu.run(*("assign_half", "assign_half", blocks, BLOCK, *arguments), **how)


def assign_wgmma(gpu: Gpu, compared: Comparison) -> None:
    """The same by instructions that compute capability 9.0 has for it; a block 128 rows."""
    blocks, arguments, how = _half_launch(gpu, compared)
    gpu.run(*("assign_wgmma", "assign_wgmma", blocks, BLOCK, *arguments), **how)


def assign_tcgen05(gpu: Gpu, compared: Comparison) -> None:
    """The same by instructions that compute capability 10.0 has for it; a block 256 rows, and no more blocks than
    multiprocessors, as each takes all of one's tensor memory."""
    blocks, arguments, how = _half_launch(gpu, compared)
    blocks = min(blocks, gpu.multiprocessors)
    gpu.run(*("assign_tcgen05", "assign_tcgen05", blocks, TCGEN05_BLOCK, *arguments), **how)


def _half_launch(gpu: Gpu, compared: Comparison) -> tuple[int, tuple[Any, ...], dict[str, Any]]:
    """Of any of these: how many blocks, its arguments, and how `Gpu.run` is to launch it."""
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
        shared=OWN_PRODUCTS["assign_wgmma"].shared(8 * pieces),
    )


def known_sums(gpu: Gpu, *, rows: Any, table: Any, of_tiles: Any, products: Any) -> None:
    """Products of 256 rows with centers, as assign_tcgen05 makes them, with what stands in place of `down` added.

    rows: (depth / 8, 256, 8) float16. table: (tiles, depth / 8, 128, 8) float16. of_tiles: (tiles, 544) float32, as
    its table has them. products: (256, tiles * 128) float32, become the sums; what does not come in time stays as it
    is.
    """
    (tiles, pieces, _, _) = table.shape
    gpu.run(
        *("assign_tcgen05", "known_sums", 1, TCGEN05_BLOCK, rows, table, of_tiles),
        *(np.int32(8 * pieces), np.int32(tiles), products),
        shared=OWN_PRODUCTS["assign_tcgen05"].shared(8 * pieces),
    )


# By the names that launch plans have.
HALF_TABLES: dict[str, Callable[..., None]] = {
    "assign_half": half_table,
    "assign_wgmma": wgmma_table,
    "assign_tcgen05": tcgen05_table,
}
ASSIGN_HALF: dict[str, Callable[[Gpu, Comparison], None]] = {
    "assign_half": assign_half,
    "assign_wgmma": assign_wgmma,
    "assign_tcgen05": assign_tcgen05,
}
KNOWN: dict[str, Callable[..., None]] = {"assign_wgmma": known_product, "assign_tcgen05": known_sums}
