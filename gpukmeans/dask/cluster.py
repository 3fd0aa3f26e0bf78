"""A Dask cluster as a fit sees it: who is there, calls of actors, and why one of them has no answer.

An actor's worker may be lost (another takes its part: DeviceLost), or all of the cluster (DeviceError, which names the
cause). Who waits looks now and then whether those are there that can answer.
"""

# Calls go to the worker itself, where it can be reached, and else by the scheduler, as Dask's Actor has it do; which
# would also wait for half a minute for a worker that is gone, and repeat a call whose connection broke, though it may
# have changed the actor.

from __future__ import annotations

import asyncio
import concurrent.futures
import logging
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from typing import Any, TypeVar
from weakref import WeakSet

from gpukmeans.errors import DeviceError, DeviceLost, describe_error

logger = logging.getLogger("gpukmeans")

Result = TypeVar("Result")

# In seconds: how long an answer is waited for before it is asked whether the actor is still there, which costs nothing,
# and how often then whether the scheduler is, and has heard of the worker.
POLL, LOOK = 0.1, 2.0
# Without a heartbeat, of which there is one a second, a worker is lost. While one imports a library for the first time
# it sends none, which may take a minute from a slow disk. Dask itself gives it five.
SILENCE = 120.0
# How long the scheduler has to answer, and a worker to be reached without it.
SCHEDULER_ANSWERS, WORKER_REACHED = 30.0, 2.0
# How long there may be no worker at all.
NO_WORKER = 600.0


class Cluster:
    """The cluster of a client."""

    def __init__(self, client: Any) -> None:
        self.client = client
        self._generation = client.generation
        self._heard: dict[str, tuple[float, float]] = {}  # of each worker: last_seen, and when that was new, here
        self._workers_seen = time.monotonic()
        self._looking = threading.Lock()
        self._reachable: dict[str, bool] = {}  # whether a worker is, without the scheduler
        self.calls = 0
        _open.add(self)

    # ------------------------------------------------------------ who is there

    def workers(self) -> dict[str, dict[str, Any]]:
        """What the scheduler says of each worker, by address."""
        self._check_client()
        try:
            found = self._wait(self.client.scheduler.identity(), SCHEDULER_ANSWERS)
        except (OSError, TimeoutError, asyncio.CancelledError, concurrent.futures.CancelledError) as error:
            self._check_client()
            raise self._no_scheduler(describe_error(error)) from error
        return dict(found["workers"])

    def _wait(self, coroutine: Any, timeout: float | None = None) -> Any:
        return asyncio.run_coroutine_threadsafe(coroutine, self.client.loop.asyncio_loop).result(timeout)

    def _no_scheduler(self, why: str) -> DeviceError:
        return DeviceError(
            f"The scheduler of the Dask cluster does not answer any more ({why}), and what it knew is lost with it. "
            "Fit again with a client of another."
        )

    def _check_client(self) -> None:
        """Raise DeviceError if this client, or its scheduler, is not what it was."""
        if self.client.generation != self._generation:
            raise DeviceError("The Dask cluster was restarted while it was used, by client.restart(). Fit again.")
        if self.client.status in ("closing", "closed"):
            raise DeviceError("The Dask client was closed while it was used. Fit again with another.")
        if self.client.status != "running":
            raise self._no_scheduler(f"the client is {self.client.status}")

    def look(self, of: str | None = None) -> int:
        """Whether everybody is there who has to be for an answer: the scheduler, and the worker at that address, or all
        of them. One that was silent for too long is taken from the cluster, as the scheduler itself does later. Returns
        how many workers there are."""
        with self._looking:
            workers = self.workers()
            now = time.monotonic()
            if workers:
                self._workers_seen = now
            elif now - self._workers_seen > NO_WORKER:
                raise DeviceError(f"The Dask cluster has had no worker for {NO_WORKER:.0f} s. Fit again when it has.")
            for address in workers if of is None else workers.keys() & {of}:
                last_seen = workers[address]["last_seen"]
                if self._heard.get(address, (None,))[0] != last_seen:
                    self._heard[address] = last_seen, now
                silent = now - self._heard[address][1]
                if silent > SILENCE:
                    logger.warning("The worker at %s is taken for lost: no heartbeat for %.0f s", address, silent)
                    stimulus = f"gpukmeans-silent-{time.time()}"
                    gone = self.client.scheduler.unregister(address=address, stimulus_id=stimulus)
                    self._wait(gone, SCHEDULER_ANSWERS)
                elif silent > SILENCE / 3:
                    logger.info("No heartbeat of the worker at %s for %.0f s", address, silent)
            return len(workers)

    def told(self) -> None:
        """Return once the scheduler was sent what was released: its next graph, in which Dask may give the same keys
        other tasks, does not meet them there."""
        # A release is handed from one callback of the loop to another, a graph to one only.
        with suppress(OSError, RuntimeError, TimeoutError):  # as of a cluster that is lost
            self._wait(asyncio.sleep(0), SCHEDULER_ANSWERS)

    # ------------------------------------------------------------ what is being made

    def made(self, future: Any) -> str:
        """The address of the worker that holds a future, once it is made. What raised there is raised here."""
        from distributed import CancelledError, KilledWorker, wait

        looked = time.monotonic()
        while future.status == "pending":
            try:
                wait(future, timeout=POLL)
            except TimeoutError:
                if time.monotonic() - looked > LOOK:
                    self.look()
                    looked = time.monotonic()
            except CancelledError:
                break
        if future.status != "finished":
            self._raise_why(future, CancelledError, KilledWorker)
        holders = self._wait(self.client.scheduler.who_has(keys=[future.key]), SCHEDULER_ANSWERS)[future.key]
        if not holders:
            raise DeviceLost("A worker of the Dask cluster was lost.")
        return holders[0]

    def _raise_why(self, future: Any, cancelled: type[Exception], killed: type[Exception]) -> None:
        if future.status == "error":
            try:
                future.result()
            except killed as error:
                raise DeviceError(
                    "Workers of the Dask cluster were lost one after another, each while it made the same rows, for "
                    f"which they may have too little memory ({describe_error(error)})."
                ) from error
            except RuntimeError as error:
                if str(error) != "Worker holding Actor was lost":
                    raise
        self._settle()
        if future.status == "cancelled":
            why = ""
            try:
                future.result()
            except cancelled as error:
                why = str(error)
            if "lost dependencies" in why:
                raise DeviceError(
                    "The Dask cluster no longer has what the rows are made of: results that were persisted or "
                    "scattered by a client that is closed, or that were released. Give rows that can be made again, or "
                    "persist them by this client."
                )
        raise DeviceLost("A worker of the Dask cluster was lost.")

    def _settle(self) -> None:
        """Before a worker is said to be lost: it might be the scheduler, whose workers end when it does."""
        deadline = time.monotonic() + 2 * POLL
        while time.monotonic() < deadline:
            self._check_client()
            time.sleep(POLL / 5)
        self.workers()

    def _lost(self, address: str) -> DeviceLost:
        """What to raise for a worker without an answer, unless all of the cluster is lost, which is raised here."""
        self._settle()
        return DeviceLost(f"The worker of the Dask cluster at {address} was lost.")

    # ------------------------------------------------------------ calls

    def call(self, future: Any, address: str, name: str, args: tuple[Any, ...], how: dict[str, Any]) -> Any:
        """What the actor that a future stands for answers, at this address."""
        self.calls += 1
        answer = asyncio.run_coroutine_threadsafe(
            self._execute(future.key, address, name, args, how), self.client.loop.asyncio_loop
        )
        looked = time.monotonic()
        try:
            while not concurrent.futures.wait([answer], POLL).done:
                if future.status != "finished":
                    break
                if time.monotonic() - looked > LOOK:
                    self.look(address)
                    looked = time.monotonic()
        finally:
            answer.cancel()
        try:
            found = answer.result()
        # KeyError: it is no longer the scheduler's, and not the worker's
        except (OSError, KeyError, concurrent.futures.CancelledError, asyncio.CancelledError) as error:
            raise self._lost(address) from error
        if found["status"] != "OK":
            raised = found["exception"]
            if str(raised) == "cannot schedule new futures after shutdown":  # of a worker that is about to end
                raise self._lost(address) from raised
            raise raised
        return found["result"]

    async def _execute(self, key: Any, address: str, name: str, args: tuple[Any, ...], how: dict[str, Any]) -> Any:
        from distributed.actor import ProxyRPC
        from distributed.protocol import to_serialize

        # Of each anew, since another that began meanwhile may lie behind other walls.
        if address not in self._reachable:
            try:
                comm = await asyncio.wait_for(self.client.rpc.connect(address), WORKER_REACHED)
                self.client.rpc.reuse(address, comm)
                self._reachable[address] = True
            except (OSError, TimeoutError):
                self._reachable[address] = False
        worker = self.client.rpc(address) if self._reachable[address] else ProxyRPC(self.client.scheduler, address)
        return await worker.actor_execute(
            function=name,
            actor=key,
            args=[to_serialize(value) for value in args],
            kwargs={key: to_serialize(value) for key, value in how.items()},
        )


# To be counted, by tests and benchmarks.
_open: WeakSet[Cluster] = WeakSet()


class ActorCall:
    """Calls methods of the actor that a future stands for, which is released with this."""

    def __init__(self, cluster: Cluster, future: Any, address: str) -> None:
        self._cluster, self._future, self._address = cluster, future, address
        self.release: Callable[[], None] = future.release

    def __call__(self, name: str, *args: Any, **how: Any) -> Any:
        return self._cluster.call(self._future, self._address, name, args, how)
