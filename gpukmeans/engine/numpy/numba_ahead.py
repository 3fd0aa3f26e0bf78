"""All that numba compiles, compiled and kept before anybody waits for it: `gpukmeans warmup --cpu`."""

from __future__ import annotations

import multiprocessing
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from importlib import import_module
from itertools import product
from typing import Any

import numpy as np

from gpukmeans.engine.numpy import (
    numba_batches,
    numba_fits,
    numba_labels,
    numba_means,
    numba_passes,
    numba_sparse_passes,
)

# What there are passes for: rows, the values of sparse ones, and where these lie.
ROWS = tuple(map(np.dtype, ("float32", "float64", "uint8")))
VALUES = tuple(map(np.dtype, ("float32", "float64")))
_INDICES = tuple(map(np.dtype, ("int32", "int64")))

# Each function that compiles, and the arguments that it may be asked with; those that take longest first, so that no
# process is left alone with one. test_numba_ahead.test_whatever_compiles_is_named says that none is missing.
EVERYTHING: dict[Callable[..., Any], list[tuple[Any, ...]]] = {
    numba_fits.fit_stack: [()],
    numba_passes.passes: list(product(ROWS, (True, False))),
    numba_sparse_passes.sparse_passes: list(product(VALUES, _INDICES)),
    numba_labels.label: list(product(VALUES)),
    numba_batches.moved_by_rows: list(product(VALUES)),
    numba_labels.summed: list(product(VALUES)),
    numba_batches.moved_by_entries: list(product(VALUES, _INDICES)),
    numba_batches.moved: [()],
    numba_means.label: list(product(ROWS, (True, False))),
    numba_means.next_centers: [()],
    numba_means.any_close: [()],
    numba_passes.place_centers: [()],
    numba_sparse_passes.center_passes: [()],
}


def compile_everything(processes: int) -> tuple[int, int, str | None]:
    """How many functions were compiled, how many were there already, and in which folder; None where numba has none.

    processes: how many compile at once; of threads numba lets only one.
    """
    jobs = [(function.__module__, function.__name__, key) for function, keys in EVERYTHING.items() for key in keys]
    with ProcessPoolExecutor(processes, multiprocessing.get_context("spawn")) as pool:
        made, there, folders = zip(*pool.map(_compile, jobs), strict=True)
    return sum(made), sum(there), folders[0]


def _compile(job: tuple[str, str, tuple[Any, ...]]) -> tuple[int, int, str | None]:
    module, name, key = job
    found = getattr(import_module(module), name)(*key)
    stats = [one.stats for one in (found if isinstance(found, tuple) else (found,))]
    made, there = (sum(getattr(each, kind).total() for each in stats) for kind in ("cache_misses", "cache_hits"))
    return made, there, stats[0].cache_path
