"""Which engine holds rows, on one device or several; the only place that chooses a Points."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from itertools import pairwise
from typing import Any

import numpy as np
from scipy.sparse import issparse

from gpukmeans.engine.combine.multi_device import Parallel
from gpukmeans.engine.combine.out_of_core import Batches
from gpukmeans.engine.csr_rows import rows_of
from gpukmeans.engine.cuda.points import CudaPoints
from gpukmeans.engine.cuda.transfer import Prefetch
from gpukmeans.engine.devices import gpus
from gpukmeans.engine.numpy.points import NumPyPoints
from gpukmeans.engine.protocol import Points
from gpukmeans.exact.distance import Floats
from gpukmeans.exact.fixed_point import Ints, Weights

# Values of a part of the data, at least: one GPU has done with a million pixels before another could be asked.
PART = 2**22


def make_points(
    x: Any,
    weights: Floats | Ints | None = None,
    summary: Weights | None = None,
    *,
    device: str,
    reused: bool = True,
    normalized: bool = False,
    distinct: bool = False,
) -> Points:
    """The Points for x (n, d), an array or a CSR matrix, on a device that `resolve` returned; see NumPyPoints
    for the other arguments."""
    if issparse(x):
        x = rows_of(x)
    if device == "cpu":
        return NumPyPoints(x, weights, summary, reused, normalized, distinct)
    import cupy

    numbers = gpus(device)[: max(1, min(len(x), x.size // PART))]
    if len(numbers) == 1:
        return on_gpu(cupy, x, weights, summary, reused, normalized)
    return on_gpus(cupy, numbers, x, weights, summary, reused, normalized)


def on_gpu(
    cp: Any,
    x: Any,
    weights: Floats | Ints | None = None,
    summary: Weights | None = None,
    reused: bool = True,
    normalized: bool = False,
    part: slice | None = None,
) -> Batches:
    """CudaPoints for x (n, d) on the current GPU, of all rows or, where memory is short, of batches; cp: CuPy.

    part: of which rows, all unless told; the others are somewhere else.
    """
    whole = summary or Weights.of_rows(len(x))
    there = isinstance(x, cp.ndarray) and part is None
    first, end = (0, len(x)) if part is None else (part.start, part.stop)
    answer = cp.asarray if there else np.asarray

    beside = Prefetch(cp)

    def make(rows: slice, ahead: bool) -> CudaPoints:
        rows = slice(first + rows.start, first + rows.stop)
        single_batch = rows == slice(first, end)
        w = None if weights is None else weights[rows]
        return CudaPoints(
            cp, x[rows], w, whole, reused, there and single_batch, normalized, beside if ahead else None, single_batch
        )

    return Batches(make, end - first, x.shape[1], whole, answer=answer, normalized=normalized, reused=reused)


def on_gpus(
    cp: Any,
    numbers: list[int],
    x: Any,
    weights: Floats | Ints | None = None,
    summary: Weights | None = None,
    reused: bool = True,
    normalized: bool = False,
) -> Points:
    """The same on several GPUs, each with as many rows. If x is on one, that is the current one."""
    n, d = x.shape
    whole = summary or Weights.of_rows(n)
    there = isinstance(x, cp.ndarray)
    if there:
        # Other GPUs' streams do not wait for what makes x, nor for what CuPy would make of it to copy it.
        x = cp.ascontiguousarray(x)
        cp.cuda.get_current_stream().synchronize()
    streams: dict[int, Any] = {}

    @contextmanager
    def enter(i: int) -> Iterator[None]:
        # A stream for each, since threads may have streams of their own, and any thread may be the one that enters.
        with cp.cuda.Device(numbers[i]):
            if i not in streams:
                streams[i] = cp.cuda.Stream(non_blocking=True)
            with streams[i]:
                yield

    bounds = [n * i // len(numbers) for i in range(len(numbers) + 1)]
    slices = [slice(a, b) for a, b in pairwise(bounds)]
    parts = [on_gpu(cp, x, weights, whole, reused, normalized, rows) for rows in slices]
    return Parallel(parts, slices, d, whole, normalized, enter, cp.asarray if there else np.asarray)
