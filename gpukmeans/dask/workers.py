"""Rows on the workers of a Dask cluster as one Points: each worker keeps its part of them, and a Points of these.

That is an actor: an object that lives on a worker, and whose methods the client calls there. In an iteration centers go
to all of them and integers of size k * d come back, as with several GPUs. Where a worker is lost its rows are made
again, on any, from the graph that they came of (engine/combine/replay.py).
"""

# Actors and not tasks: tasks would have to hand over all of a Points' state after each step. Every call is a round
# trip, so sums come with the count of an assignment, and candidates go with the call that follows. In one process with
# several clients, Dask may ask the wrong one: let there be one. k-means|| chooses among its candidates on the client's
# NumPy, and MiniBatchKMeans, which draws rows anywhere, has all of them come to the client.

from __future__ import annotations

import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from contextvars import ContextVar
from dataclasses import replace
from functools import partial
from typing import Any, cast
from uuid import uuid4

import numpy as np

from gpukmeans import array_interop
from gpukmeans.dask import on_worker, sharing
from gpukmeans.dask.chunks import StreamedRows, rows_here
from gpukmeans.dask.cluster import ActorCall, Cluster
from gpukmeans.dask.remote import RemotePoints
from gpukmeans.engine import devices, dispatch
from gpukmeans.engine.combine.multi_device import Parallel
from gpukmeans.engine.combine.replay import Replayed
from gpukmeans.engine.protocol import Points, Samples
from gpukmeans.errors import DeviceError
from gpukmeans.exact.distance import Floats
from gpukmeans.exact.fixed_point import Ints
from gpukmeans.row_sources.base import RowSource
from gpukmeans.row_sources.memory import in_bytes


def make_points(samples: Samples, *, device: str) -> Points:
    """The Points for samples in a Dask array: on the workers, if this process has a client of a cluster, or else here.

    device: as the user said it; what it means, every worker finds for itself.
    """
    x, weights = samples.x, samples.weights
    known = replace(samples, x=None, weights=None, summary=samples.all_weights)  # what every part knows
    client = _client()
    if client is None:
        part = WorkerPoints(rows_here(x, samples.memory_limit), weights, known, device)
        points = Parallel([cast(Points, RemotePoints(partial(_of, part)))], [slice(0, len(x))], samples)
        points.sparse = part.sparse
        return points
    cluster = Cluster(client)
    shared = sharing.of_rows(x, cluster, samples.memory_limit)
    slices = shared.rows
    loader = _Loader(cluster, shared, [None if weights is None else weights[rows] for rows in slices], known, device)
    held = _held.get()
    if held is not None:
        held.append(loader)
    try:
        parts = loader.parts()
    except BaseException:
        loader.release()
        raise
    points = Parallel(cast(Sequence[Points], parts), slices, samples)
    points.sparse = loader.sparse  # of a collection nobody knows before
    return points


_held: ContextVar[list[_Loader] | None] = ContextVar("held", default=None)


@contextmanager
def released() -> Iterator[None]:
    """The context after which no rows are left on workers, whoever still holds the points that had them there: after an
    error that is the traceback, which a console may keep for long."""
    loaders: list[_Loader] = []
    token = _held.set(loaders)
    try:
        yield
    finally:
        _held.reset(token)
        for loader in loaders:
            loader.release()
            loader.cluster.told()


def _client() -> Any:
    """The current one, or that of the worker that this runs on; None if there is none."""
    try:
        from distributed import get_client

        client = get_client()
    except (ImportError, ValueError):
        return None
    if client.asynchronous:
        raise RuntimeError(
            "A fit waits for the workers, which it cannot with an asynchronous client. Make one with "
            "Client(asynchronous=False), or fit in another thread, by asyncio.to_thread."
        )
    return client


class _Loader:
    """Makes the parts: of each block of rows, with its weights, on the worker where the block is made; of rows that
    stream, anywhere.

    That is kept for as long as the fit goes on, to make a part again: the graph of the rows, and the weights.
    """

    def __init__(
        self, cluster: Cluster, shared: sharing.Sharing, weights: list[Any], known: Samples, device: str
    ) -> None:
        self.cluster, self._weights, self._graphs = cluster, weights, shared.graphs
        self._chunks = [] if shared.graphs else _renamed(shared.x)
        self._known, self._device = known, device
        self._begun: dict[int, Any] = {}  # a part that is being made, and what it is made of
        self._made: dict[int, ActorCall] = {}
        self._digests: dict[int, int] = {}
        self.sparse = False

    def parts(self) -> list[Replayed]:
        """All parts, which are there."""
        numbers = range(len(self._weights))
        with _making_room():
            self._begin(list(numbers))
            parts = [Replayed(partial(self._part, i)) for i in numbers]
            for part in parts:
                part.ready()
        return parts

    def _begin(self, numbers: list[int]) -> None:
        client, graphs = self.cluster.client, self._graphs
        chunks = [None] * len(numbers) if graphs else client.compute([self._chunks[i] for i in numbers])
        for i, chunk in zip(numbers, chunks, strict=True):
            w = self._weights[i]
            w = w if w is None else client.scatter(w, hash=False)
            rows = graphs[i] if graphs else chunk
            part = client.submit(WorkerPoints, rows, w, self._known, self._device, actor=True, pure=False)
            self._begun[i] = part, chunk, w

    def _part(self, i: int) -> Points:
        if i in self._made:
            self._made.pop(i).release()
        if i not in self._begun:
            with _making_room():
                self._begin([i])
        part, *others = self._begun.pop(i)
        try:
            call = ActorCall(self.cluster, part, self.cluster.made(part))
        except BaseException:
            part.release()
            raise
        finally:
            # An exception that a worker raised would keep all of this: the client has it, and it has this frame.
            for future in others:
                if future is not None:
                    future.release()
        self._made[i] = call
        digest, self.sparse = call("about")
        if self._digests.setdefault(i, digest) != digest:
            raise DeviceError(
                "Rows that were lost with a worker came out otherwise, or in another order, when they were made again. "
                "They have to be the same each time, as those of a file or of a seeded generator; what was shuffled "
                "may not be: keep it in a file first."
            )
        return cast(Points, RemotePoints(call))

    def release(self) -> None:
        """Everything that workers hold."""
        for futures in list(self._begun.values()):
            for future in futures:
                if future is not None:
                    future.release()
        for call in list(self._made.values()):
            with suppress(Exception):  # as of a cluster that is lost
                call.release()
        self._begun, self._made = {}, {}

    def __del__(self) -> None:
        with suppress(Exception):
            self.release()


def _renamed(x: Any) -> list[Any]:
    """The blocks of rows x under names of their own: the scheduler keeps them for the actors, and the caller's may mean
    something else in the next graph, in which Dask joins other tasks into one. For that reason it is one graph, too,
    whatever part of it is computed again."""
    rows = x.map_blocks(_itself, dtype=x.dtype, meta=x._meta, name=f"gpukmeans-rows-{uuid4().hex}")
    return rows.to_delayed().ravel().tolist()


def _itself(rows: Any) -> Any:
    return rows


@contextmanager
def _making_room() -> Iterator[None]:
    """For others to work, if this is a task on a worker, which might have no other thread for them."""
    from distributed import rejoin, secede

    try:
        secede()
    except (AttributeError, KeyError, ValueError):  # it is none
        yield
        return
    try:
        yield
    finally:
        rejoin()


class WorkerPoints:
    """Points of rows x (n, d), or those that StreamedRows make, with these weights on the device of the machine that
    this is made on, the current one while it works. known: the rest of their `Samples`."""

    def __init__(self, x: Any, weights: Floats | Ints | None, known: Samples, device: str) -> None:
        if isinstance(x, StreamedRows):
            x = x.rows(_limit_of_reading(x, known.memory_limit))
        with on_worker.own_gpu():
            self._device, self._reused = devices.resolve(device, array_interop.gpu_of(x)), known.reused
        self._seeding: Any = None
        with devices.on(self._device), on_worker.own_threads():
            self._points = dispatch.make_points(replace(known, x=x, weights=weights), device=self._device)
            self.sparse = bool(self._points.sparse)
            self._digest = digest(x)

    def about(self) -> tuple[int, bool]:
        """A digest of the rows, and whether they are sparse."""
        return self._digest, self.sparse

    def call(self, name: str, *args: Any, **how: Any) -> Any:
        """What a method of the Points answers; or an attribute says."""
        with devices.on(self._device):
            found = getattr(self._points, name)
            return array_interop.to_numpy(found(*args, **how) if callable(found) else found)

    def seed(self, name: str, *args: Any, begin: bool, proposed: Floats | None, **how: Any) -> Any:
        """What a method of the seeding answers, once it has begun and these candidates are proposed, if any."""
        with devices.on(self._device):
            if begin:
                self._seeding = self._points.seeding()
            if proposed is not None:
                self._seeding.propose(proposed)
            return getattr(self._seeding, name)(*args, **how)

    def end_seeding(self) -> None:
        self._seeding = None

    def assign(self, centers: Floats) -> tuple[int, Ints | None]:
        """How many labels changed, and the sums, if anybody will ask for them."""
        with devices.on(self._device):
            return self._points.assign(centers), self._points.sums() if self._reused else None


def digest(x: Any) -> int:
    """Of rows, an array, a RowSource or a CSR matrix: in which any bit counts, and the order."""
    if array_interop.issparse(x):
        return digest(x.indptr) ^ digest(x.indices) ^ digest(x.data)
    if isinstance(x, RowSource):
        pieces = (piece for _, piece in x.pieces())
    else:
        rows = max(1, 2**20 // max(1, x[:1].nbytes))
        pieces = (array_interop.to_numpy(x[i : i + rows]) for i in range(0, len(x), rows))
    found = 0
    for piece in pieces:
        found = zlib.crc32(np.ascontiguousarray(piece).data.cast("B"), found)
    return found


def _limit_of_reading(rows: StreamedRows, memory_limit: int | str | None) -> int:
    """What reading these rows may take here: the user's limit, and what the worker has, but a chunk at least, for which
    there was room when the rows were shared out."""
    found = [] if memory_limit is None else [in_bytes(memory_limit)]
    own = on_worker.own_memory()
    if own is not None:
        found.append(max(rows.chunk, sharing.room(*own, rows.n, rows.chunk)))
    return min(found, default=in_bytes(None))


def _of(part: WorkerPoints, name: str, *args: Any, **how: Any) -> Any:
    return getattr(part, name)(*args, **how)
