"""What is a worker's own where this process is one of a Dask cluster, and a task or an actor runs here: threads, a GPU,
and memory."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from typing import Any

from gpukmeans.engine import devices
from gpukmeans.engine.numpy.tuning import tuned


def this_worker() -> Any:
    """The worker that this runs on, None if it is none."""
    try:
        from distributed import get_worker

        return get_worker()
    except (ImportError, ValueError):
        return None


def own_threads() -> AbstractContextManager[None]:
    """The context in which NumPy's Points take as many threads as the worker may have: Dask sets OMP_NUM_THREADS to one
    for all."""
    worker = this_worker()
    return nullcontext() if worker is None else tuned(threads=worker.state.nthreads)


def own_gpu() -> AbstractContextManager[None]:
    """The context in which "auto" and "cuda" mean the worker's own GPU: dask_cuda shows each all of a machine's, its
    own first, so that the one with the most free memory would be the same for all."""
    return nullcontext() if this_worker() is None else devices.shared_out()


def own_memory() -> tuple[int, int] | None:
    """The worker's limit and what its process takes now, in bytes; None without a limit."""
    worker = this_worker()
    limit = None if worker is None else worker.memory_manager.memory_limit
    return (int(limit), int(worker.monitor.get_process_memory())) if limit else None
