"""Rows shared out among the workers of a cluster: how many parts, and whether each is kept there or streams."""

from __future__ import annotations

import math
import time
from dataclasses import dataclass, replace
from itertools import accumulate, pairwise
from math import isfinite, prod
from typing import Any

import numpy as np

from gpukmeans.array_interop import issparse
from gpukmeans.dask.chunks import StreamedRows
from gpukmeans.dask.cluster import POLL, Cluster
from gpukmeans.errors import DeviceError
from gpukmeans.row_sources.memory import in_bytes

# The largest part over the mean, from which rows are cut anew: everybody waits for it in each step.
UNEVEN = 1.3
# What a worker needs for a part, in bytes of its rows, while chunks are merged and its Points is made of them: 2.3 of
# float64 rows of 20 features, 2.7 of 3 features, by the most that a process held. And the share of its limit at which
# Dask kills it (distributed.worker.memory.terminate).
NEEDED, KILLED = 2.3, 0.95
# The share of its limit at which Dask gives a worker nothing more to do (distributed.worker.memory.pause).
PAUSED = 0.8
# By measurement: what a worker's process takes once it has imported what a fit needs, and what compiled passes and
# their like come to besides.
IMPORTED, PASSES = 270 * 10**6, 100 * 10**6
# Where rows are read again in each pass: what making a chunk takes, in bytes of its rows, and what each row of a part
# does, for its label and while centers are drawn (32 by measurement, of which 12 in mapped files).
MADE, PER_ROW = 2, 32
# Graphs of so few bytes go to workers whatever they hold.
_SMALL = 2**20


def shared_out(x: Any, cluster: Cluster) -> Any:
    """In no more chunks than there are workers, or will be; none of them empty, and none much larger than others."""
    x = _without_empty(x)
    n, sizes = len(x), x.chunks[0]
    parts = max(1, min(n, expected_workers(cluster)))
    if len(sizes) > parts or max(sizes) > UNEVEN * n / parts:
        x = x.rechunk({0: -(-n // parts)})
    return x


def _without_empty(x: Any) -> Any:
    """The same rows in chunks none of which is empty, unless all are."""
    sizes = x.chunks[0]
    return x.blocks[[i for i, size in enumerate(sizes) if size]] if 0 in sizes and any(sizes) else x


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


@dataclass(frozen=True)
class Sharing:
    """How rows x are cut. chunks: those of each part, one of them where a part is kept. graphs: of parts that stream,
    which read chunk after chunk in each pass and keep none: what makes their rows, see `chunks.StreamedRows`."""

    x: Any
    chunks: list[slice]
    graphs: list[StreamedRows] | None = None

    @property
    def rows(self) -> list[slice]:
        """Of each part."""
        starts = list(accumulate(self.x.chunks[0], initial=0))
        return [slice(starts[chunks.start], starts[chunks.stop]) for chunks in self.chunks]


def of_rows(x: Any, cluster: Cluster, memory_limit: int | str | None) -> Sharing:
    """Parts that are kept, where any worker has memory for them, and the memory_limit if the user gave one; else parts
    that stream, if they can. DeviceError for rows that can do neither, rather than lose one worker after the other.

    Sparse rows take as much as they hold, which nobody knows before.
    """
    shared = shared_out(x, cluster)
    kept = Sharing(shared, [slice(i, i + 1) for i in range(len(shared.chunks[0]))])
    if issparse(x._meta):
        return kept
    workers = [(worker["memory_limit"], _held(worker)) for worker in cluster.workers().values()]
    limited = all(limit for limit, _ in workers)
    free = [KILLED * limit - held for limit, held in workers] if limited else []
    needed = NEEDED * _largest(shared)
    asked = math.inf if memory_limit is None else in_bytes(memory_limit)
    if needed <= asked and all(needed <= KILLED * limit - _in_a_fit(held) for limit, held in workers if limited):
        return kept
    try:
        return _streamed(x, len(kept.chunks), workers if limited else [])
    except _NotStreamedError as error:
        if not free or needed <= max(free):
            return kept
        parts = len(kept.chunks)
        raise DeviceError(
            f"The rows are too many for the workers' memory: {_mb(shared.nbytes)} on {parts} of them are "
            f"{_mb(_largest(shared))} each, for which one needs {_mb(needed)}, and none has more than {_mb(max(free))} "
            f"(of its memory_limit, less what the process takes). Nor can they be read a chunk at a time: {error}. Or "
            "use more workers, or give them more memory, or give rows of a smaller dtype."
        ) from None


def room(memory_limit: int, held: int, rows: int, chunk: int) -> int:
    """What a worker of that memory_limit that holds so much may take for reading so many rows in chunks of so many
    bytes: half of what is left, as what was given back is not at once the system's."""
    return int(PAUSED * memory_limit - _in_a_fit(held) - PER_ROW * rows - MADE * chunk) // 2


def _in_a_fit(held: int) -> int:
    """What a worker's process takes in a fit, without the rows, that holds so much before."""
    return max(held, IMPORTED) + PASSES


class _NotStreamedError(Exception):
    """Why rows cannot be read a chunk at a time, and what to do."""


def _streamed(x: Any, parts: int, workers: list[tuple[int, int]]) -> Sharing:
    """At most so many parts, of chunks as they are, on workers of a memory_limit that hold so much."""
    from distributed import futures_of

    if futures_of(x):
        raise _NotStreamedError(
            "they are persisted, and so in the workers' memory already. Give them without persist()"
        )
    x = _without_empty(x)
    chunk, graphs = _largest(x), []
    found = Sharing(x, _runs(x.chunks[0], parts))
    most = max(rows.stop - rows.start for rows in found.rows)
    if any(room(limit, held, most, chunk) < chunk for limit, held in workers):
        raise _NotStreamedError(
            f"a chunk has {_mb(chunk)}, and one needs {MADE} of these, {_mb(PER_ROW * most)} for what is known of "
            f"rows, and {_mb(_in_a_fit(0))} for itself. Give smaller chunks"
        )
    for run in found.chunks:
        some = x.blocks[run]
        graphs.append(StreamedRows.of(some, chunk))
        if graphs[-1].size > max(_SMALL, some.nbytes // 4):
            raise _NotStreamedError(
                "their graph holds them, as that of an array in the client's memory does. Have the workers read them "
                "from a file"
            )
    return replace(found, graphs=graphs)


def _runs(sizes: tuple[int, ...], parts: int) -> list[slice]:
    """Chunks that follow each other, in at most so many runs of about as many rows."""
    ends = np.cumsum(sizes)
    wanted = ends[-1] * np.arange(1, parts) / parts
    bounds = np.unique([0, *(np.abs(ends - rows).argmin() + 1 for rows in wanted), len(sizes)]).tolist()
    return [slice(a, b) for a, b in pairwise(bounds)]


def _held(worker: dict[str, Any]) -> int:
    """The bytes that a worker's process takes, less those that Dask can write to disk."""
    metrics = worker["metrics"]
    return max(0, metrics.get("memory", 0) - metrics.get("managed_bytes", 0))


def _largest(x: Any) -> int:
    """The bytes of its largest chunk."""
    return max(x.chunks[0]) * prod(x.shape[1:]) * x.dtype.itemsize


def _mb(size: float) -> str:
    return f"{size / 1e6:,.0f} MB"
