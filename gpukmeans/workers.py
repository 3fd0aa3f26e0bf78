"""Rows on the workers of a Dask cluster as one Points: each worker keeps its part of them, and a Points of these.

That is an actor: an object that lives on a worker, and whose methods the client calls there. In an iteration centers go
to all of them and integers of size k * d come back, as with several GPUs.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext, suppress
from functools import partial
from itertools import accumulate, pairwise
from typing import Any, cast

from gpukmeans import arrays, dispatch
from gpukmeans.exact import Floats, Ints, Weights
from gpukmeans.points.base import DeviceError, Points, said
from gpukmeans.points.numpy import tuned
from gpukmeans.points.parallel import Parallel


def make_points(
    x: Any, weights: Floats | Ints | None, summary: Weights | None, device: str, lasting: bool, unit: bool
) -> Points:
    """The Points for a Dask array x (n, d): on the workers, if this process has a client of a cluster, or else here.

    device: as the user said it; what it means, every worker finds for itself. See NumPyPoints for the others.
    """
    whole = summary or Weights.of_rows(len(x))
    client = _client()
    if client is None:
        x = x.rechunk(x.shape)
        chunks = [x.compute()]
    else:
        x = _shared_out(x, len(client.scheduler_info(n_workers=-1)["workers"]))
        # Chunks first: an actor is then made where its chunk is.
        chunks = client.compute(x.to_delayed().ravel().tolist())
    slices = [slice(a, b) for a, b in pairwise(accumulate(x.chunks[0], initial=0))]
    given = dict(zip([rows.start for rows in slices], chunks, strict=True))

    def make(rows: slice) -> Points:
        chunk, w = given.pop(rows.start), None if weights is None else weights[rows]
        if client is None:
            return cast(Points, ByName(Part(chunk, w, whole, device, lasting, unit).call))
        with _workers_lost():
            w = w if w is None else client.scatter(w, hash=False)
            actor = client.submit(Part, chunk, w, whole, device, lasting, unit, actor=True, pure=False).result()
        return cast(Points, ByName(Away(actor)))

    return Parallel(make, slices, x.shape[1], whole, unit, lambda i: nullcontext())


def _client() -> Any:
    """The current one, or that of the worker that this runs on; None if there is none."""
    try:
        from distributed import get_client
    except ImportError:
        return None
    try:
        return get_client()
    except ValueError:
        return None


def _shared_out(x: Any, workers: int) -> Any:
    """In no more chunks than there are workers, none of them empty: each costs a call in every step."""
    if x.numblocks[0] <= workers and 0 not in x.chunks[0]:
        return x
    return x.rechunk({0: -(-len(x) // max(1, workers))})


class Part:
    """Points of rows x (n, d) on the device of the machine that this is made on, the current one while it works."""

    def __init__(
        self, x: Any, weights: Floats | Ints | None, summary: Weights, device: str, lasting: bool, unit: bool
    ) -> None:
        self._device = dispatch.resolve(device, arrays.gpu_of(x))
        with dispatch.on(self._device), _threads_of_worker():
            self._points = dispatch.make_points(x, weights, summary, device=self._device, lasting=lasting, unit=unit)

    def call(self, name: str, *args: Any, **how: Any) -> Any:
        """What a method of the Points answers, or an attribute says."""
        with dispatch.on(self._device):
            found = getattr(self._points, name)
            return arrays.to_numpy(found(*args, **how) if callable(found) else found)

    def close(self) -> None:
        """No more is asked of it."""
        del self._points


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


class ByName:
    """A Points whose methods are called by name, as call(name, ...)."""

    def __init__(self, call: Callable[..., Any]) -> None:
        self._call = call

    @property
    def uncertain(self) -> int:
        return self._call("uncertain")

    def __getattr__(self, name: str) -> Callable[..., Any]:
        return partial(self._call, name)


class Away:
    """The `call` of a `Part` on a worker, by its actor. The rows go with it: Dask would keep them until Python happens
    to collect garbage here, since its actors' calls are part of a cycle."""

    def __init__(self, actor: Any) -> None:
        self._actor = actor

    def __call__(self, name: str, *args: Any, **how: Any) -> Any:
        with _workers_lost():
            return self._actor.call(name, *args, **how).result()

    def __del__(self) -> None:
        with suppress(Exception):  # as of a worker that is lost
            self._actor.close()


@contextmanager
def _workers_lost() -> Iterator[None]:
    try:
        yield
    except (OSError, RuntimeError) as error:
        if isinstance(error, DeviceError) or "ctor" not in str(error):
            raise
        raise DeviceError(
            f"A worker of the Dask cluster was lost, and what it knew of its rows with it ({said(error)}). Fit again, "
            "with workers that stay."
        ) from error
