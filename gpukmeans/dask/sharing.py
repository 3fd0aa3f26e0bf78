"""Rows shared out among the workers of a cluster: how many parts, and whether they fit."""

from __future__ import annotations

import time
from math import isfinite, prod
from typing import Any

from gpukmeans.array_interop import issparse
from gpukmeans.dask.cluster import POLL, Cluster
from gpukmeans.errors import DeviceError

# The largest part over the mean, from which rows are cut anew: everybody waits for it in each step.
UNEVEN = 1.3
# What a worker needs for a part, in bytes of its rows, while chunks are merged and its Points is made of them: 2.3 of
# float64 rows of 20 features, 2.7 of 3 features, by the most that a process held. And the share of its limit at which
# Dask kills it (distributed.worker.memory.terminate).
NEEDED, KILLED = 2.3, 0.95


def shared_out(x: Any, cluster: Cluster) -> Any:
    """In no more chunks than there are workers, or will be; none of them empty, and none much larger than others."""
    sizes = x.chunks[0]
    if 0 in sizes:
        x = x.blocks[[i for i, size in enumerate(sizes) if size]] if any(sizes) else x
    n, sizes = len(x), x.chunks[0]
    parts = max(1, min(n, expected_workers(cluster)))
    if len(sizes) > parts or max(sizes) > UNEVEN * n / parts:
        x = x.rechunk({0: -(-n // parts)})
    return x


def expected_workers(cluster: Cluster) -> int:
    """Those that are there or were asked for, and the most that an adaptive cluster may have."""
    asked = cluster.client.cluster  # None of a client that was given an address
    adaptive = getattr(asked, "_adaptive", None)
    most = adaptive.maximum if adaptive is not None and adaptive.periodic_callback else 0
    there = len(cluster.workers())
    while there == 0 and asked is None:  # nobody says how many will come
        time.sleep(POLL)
        there = cluster.look()
    return max(there, len(getattr(asked, "plan", ())), int(most) if isfinite(most) else 0)


def check_memory(x: Any, cluster: Cluster) -> None:
    """Raise DeviceError if the rows of a part are more than any worker has memory for, rather than lose one after the
    other. Sparse rows take as much as they hold, which nobody knows before."""
    if issparse(x._meta):
        return
    part = max(x.chunks[0]) * prod(x.shape[1:]) * x.dtype.itemsize
    free = []
    for worker in cluster.workers().values():
        if not worker["memory_limit"]:
            return
        metrics = worker["metrics"]
        own = metrics.get("memory", 0) - metrics.get("managed_bytes", 0)
        free.append(KILLED * worker["memory_limit"] - max(0, own))
    if free and NEEDED * part > max(free):
        parts = len(x.chunks[0])
        raise DeviceError(
            f"The rows are too many for the workers' memory: {_mb(parts * part)} on {parts} of them are "
            f"{_mb(part)} each, for which one needs {_mb(NEEDED * part)}, and none has more than {_mb(max(free))} (of "
            "its memory_limit, less what the process takes). Use more workers, or give them more memory, or give rows "
            "of a smaller dtype."
        )


def _mb(size: float) -> str:
    return f"{size / 1e6:,.0f} MB"
