"""Rows on the workers of a Dask cluster as one Points: each worker keeps its part of them, and a Points of these.

That is an actor: an object that lives on a worker, and whose methods the client calls there. In an iteration centers go
to all of them and integers of size k * d come back, as with several GPUs.
"""

# Actors and not tasks: tasks would have to hand over all of a Points' state after each step. Every call is a round trip
# through the scheduler, so sums come with the count of an assignment, and candidates go with the call that follows. A
# worker that is lost takes its part with it: the fit fails and says so. In one process with several clients, Dask may
# ask the wrong one for an actor: let there be one. k-means|| chooses among its candidates on the client's NumPy, and
# MiniBatchKMeans, which draws rows anywhere, has all of them come to the client.

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from functools import partial
from itertools import accumulate, pairwise
from typing import Any, cast
from uuid import uuid4

import numpy as np
from numpy.typing import NDArray

from gpukmeans import array_interop
from gpukmeans.engine import devices, dispatch
from gpukmeans.engine.combine.multi_device import Parallel
from gpukmeans.engine.numpy.tuning import tuned
from gpukmeans.engine.protocol import Centers, Doubt, Known, NextCenters, Points, Samples
from gpukmeans.errors import DeviceError, describe_error
from gpukmeans.exact.distance import Floats
from gpukmeans.exact.fixed_point import Ints


def make_points(samples: Samples, *, device: str) -> Points:
    """The Points for samples in a Dask array: on the workers, if this process has a client of a cluster, or else here.

    device: as the user said it; what it means, every worker finds for itself.
    """
    x, weights = samples.x, samples.weights
    known = replace(samples, x=None, weights=None, summary=samples.all_weights)  # what every part knows
    client = _client()
    calls: list[Callable[..., Any]]
    if client is None:
        from gpukmeans.dask.chunks import rows_here

        slices = [slice(0, len(x))]
        calls = [partial(_of, WorkerPoints(rows_here(x, samples.memory_limit), weights, known, device))]
    else:
        x = _shared_out(x, len(client.scheduler_info(n_workers=-1)["workers"]))
        slices = [slice(a, b) for a, b in pairwise(accumulate(x.chunks[0], initial=0))]
        calls = _on_workers(client, x, [None if weights is None else weights[rows] for rows in slices], known, device)
    points = Parallel([cast(Points, RemotePoints(call)) for call in calls], slices, samples)
    points.sparse = bool(calls[0]("call", "sparse"))  # of a collection nobody knows before
    return points


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


def _shared_out(x: Any, workers: int) -> Any:
    """In no more chunks than there are workers, none of them empty: each costs a call in every step."""
    if x.numblocks[0] > workers or 0 in x.chunks[0]:
        x = x.rechunk({0: -(-len(x) // max(1, workers))})
    # Under names of their own: the scheduler keeps them for the actors, and the caller's may mean something else in the
    # next graph, in which Dask joins other tasks into one.
    return x.map_blocks(_itself, dtype=x.dtype, meta=x._meta, name=f"gpukmeans-rows-{uuid4().hex}")


def _itself(rows: Any) -> Any:
    return rows


def _on_workers(client: Any, x: Any, ws: list[Any], known: Samples, device: str) -> list[Callable[..., Any]]:
    """What calls the `WorkerPoints` of each chunk of x, with its weights, on the worker where the chunk is made."""
    chunks = client.compute(x.to_delayed().ravel().tolist())
    ws = [w if w is None else client.scatter(w, hash=False) for w in ws]
    parts = [
        client.submit(WorkerPoints, chunk, w, known, device, actor=True, pure=False)
        for chunk, w in zip(chunks, ws, strict=True)
    ]
    try:
        with _workers_lost(), _making_room():
            return [ActorProxy(actor) for actor in client.gather(parts)]
    finally:
        # An exception that a worker raised would keep all of this: the client has it, and it has this frame.
        for future in (*chunks, *ws, *parts):
            if future is not None:
                future.release()


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
    """Points of rows x (n, d) with these weights on the device of the machine that this is made on, the current one
    while it works. known: the rest of their `Samples`."""

    def __init__(self, x: Any, weights: Floats | Ints | None, known: Samples, device: str) -> None:
        self._device, self._reused = devices.resolve(device, array_interop.gpu_of(x)), known.reused
        self._seeding: Any = None
        with devices.on(self._device), _threads_of_worker():
            self._points = dispatch.make_points(replace(known, x=x, weights=weights), device=self._device)

    def call(self, name: str, *args: Any, **how: Any) -> Any:
        """What a method of the Points answers; or an attribute says."""
        with devices.on(self._device):
            found = getattr(self._points, name)
            return array_interop.to_numpy(found(*args, **how) if callable(found) else found)

    def begin_seeding(self) -> None:
        with devices.on(self._device):
            self._seeding = self._points.seeding()

    def seed(self, name: str, *args: Any, proposed: Floats | None, **how: Any) -> Any:
        """What a method of the seeding answers, once these candidates are proposed, if any."""
        with devices.on(self._device):
            if proposed is not None:
                self._seeding.propose(proposed)
            return getattr(self._seeding, name)(*args, **how)

    def end_seeding(self) -> None:
        self._seeding = None

    def assign(self, centers: Floats) -> tuple[int, Ints | None]:
        """How many labels changed, and the sums, if anybody will ask for them."""
        with devices.on(self._device):
            return self._points.assign(centers), self._points.sums() if self._reused else None


def _of(part: WorkerPoints, name: str, *args: Any, **how: Any) -> Any:
    return getattr(part, name)(*args, **how)


@contextmanager
def _threads_of_worker() -> Iterator[None]:
    """As many as the worker may have, if there is one: Dask sets OMP_NUM_THREADS to one for all."""
    try:
        from distributed import get_worker

        threads = get_worker().state.nthreads
    except (ImportError, ValueError):
        yield
    else:
        with tuned(threads=threads):
            yield


class RemotePoints:
    """A `WorkerPoints` as a Points, in as few calls as may be. call(name, ...): calls a method of the part."""

    def __init__(self, call: Callable[..., Any]) -> None:
        self._call = call
        self._sums: Ints | None = None

    @property
    def uncertain(self) -> int:
        return self._call("call", "uncertain")

    def next_centers(self, doubt: Doubt) -> NextCenters | None:
        return None  # see Parallel

    def assign(self, centers: Centers) -> int:
        changed, self._sums = self._call("assign", np.asarray(centers))
        return changed

    def sums(self) -> Ints:
        assert self._sums is not None, "no centers were assigned to, or nobody was to ask"
        return self._sums.copy()

    def cluster_ranges(
        self, clusters: NDArray[np.int64], without: Floats, known: Known | None = None
    ) -> tuple[Floats, Floats]:
        return self._ask("cluster_ranges", clusters, without)  # what is known, this process knows

    def seeding(self) -> RemoteSeeding:
        self._call("begin_seeding")
        return RemoteSeeding(self._call)

    def __getattr__(self, name: str) -> Callable[..., Any]:
        return partial(self._ask, name)

    def _ask(self, name: str, *args: Any, **how: Any) -> Any:
        return self._call("call", name, *args, **how)


class RemoteSeeding:
    """The seeding of a `WorkerPoints` as a Seeding. Candidates go with the next call."""

    def __init__(self, call: Callable[..., Any]) -> None:
        self._call = call
        self._proposed: Floats | None = None

    def propose(self, candidates: Floats) -> None:
        self._proposed = candidates

    def end(self) -> None:
        self._call("end_seeding")

    def __getattr__(self, name: str) -> Callable[..., Any]:
        return partial(self._ask, name)

    def _ask(self, name: str, *args: Any, **how: Any) -> Any:
        proposed, self._proposed = self._proposed, None
        return self._call("seed", name, *args, proposed=proposed, **how)


class ActorProxy:
    """Calls methods of a `WorkerPoints` on a worker, by its actor, which goes with this. Dask would keep it, and the
    rows, until Python happens to collect garbage here, since an actor's calls are part of a cycle."""

    def __init__(self, actor: Any) -> None:
        self._actor = actor

    def __call__(self, name: str, *args: Any, **how: Any) -> Any:
        with _workers_lost():
            return getattr(self._actor, name)(*args, **how).result()

    def __del__(self) -> None:
        with suppress(Exception):  # as of a worker that is lost
            self._actor._future.release()


# What Dask says of actors whose worker is no more.
_LOST = ("Worker holding Actor was lost", "Unable to contact Actor's worker")


@contextmanager
def _workers_lost() -> Iterator[None]:
    from distributed import CancelledError, KilledWorker

    try:
        yield
    except (CancelledError, KilledWorker, OSError, RuntimeError, ValueError) as error:
        if not isinstance(error, CancelledError | KilledWorker) and not str(error).startswith(_LOST):
            raise  # by what is done there
        raise DeviceError(
            "A worker of the Dask cluster was lost, and what it knew of its rows with it "
            f"({describe_error(error)}). Fit again, with workers that stay."
        ) from error
