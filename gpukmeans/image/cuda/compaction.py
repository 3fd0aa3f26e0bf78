"""Bins that are not empty, in their order: counts of codes, and a grid's table.

Two passes over the bins. The first counts those that are used, a block's share at a time. The host adds up these
counts, some thousands at most, and so knows where each share begins. The second writes each bin where it belongs.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from gpukmeans.engine.cuda.device import Gpu
from gpukmeans.image.cuda import kernels


def compact_counts(gpu: Gpu, counts: Any) -> tuple[Any, Any]:
    """The codes (m,) uint32 whose counts (bins,) uint32 are not zero, ascending, and these counts (m,) int64."""
    starts, per_block = kernels.used(gpu, counts=counts)
    block_starts, m = _exclusive_scan(gpu, per_block)
    return kernels.gather_used(gpu, counts=counts, starts=starts, block_starts=block_starts, m=m)


def compact_table(gpu: Gpu, table: Any) -> tuple[Any, Any, int]:
    """The bins of a table (bins, d + 1) uint64 that have mass, as cells: x (m, d), sums (m, d + 1), and the sum of mass
    times |mean|^2."""
    table = table.reshape(-1).view(np.int64).reshape(table.shape)
    block_starts, m = _exclusive_scan(gpu, kernels.used_bins(gpu, table=table))
    x, sums, square = kernels.gather_bins(gpu, table=table, block_starts=block_starts, m=m)
    return x, sums, int(gpu.get(square)[0])


def _exclusive_scan(gpu: Gpu, counts: Any) -> tuple[Any, int]:
    """How much there is before each of the counts (b,) int32, on the device as they are; and in all."""
    ends = np.cumsum(gpu.get(counts), dtype=np.int32)
    return gpu.put(np.concatenate([np.zeros(1, np.int32), ends[:-1]])), int(ends[-1])
