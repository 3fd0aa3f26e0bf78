"""Rows shared out among the workers of a cluster: how many parts, and whether they fit."""

from __future__ import annotations

import time
from math import isfinite
from typing import Any

from gpukmeans.dask.cluster import POLL, Cluster

# The largest part over the mean, from which rows are cut anew: everybody waits for it in each step.
UNEVEN = 1.3


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
