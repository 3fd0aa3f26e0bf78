"""Workers of a Dask cluster that are lost cost time, and no bit; what cannot be made good is an error that names it.

All of it with real processes and signals.
"""

from __future__ import annotations

import logging
import os
import signal
import subprocess
import sys
import time
from functools import partial

import dask
import dask.array as da
import numpy as np
import pytest
from dask_workers import kill, pid_at
from distributed import Client, LocalCluster

from gpukmeans import DeviceError, KMeans
from gpukmeans.dask import cluster as clusters

pytestmark = pytest.mark.slow

local = partial(LocalCluster, threads_per_worker=1, dashboard_address=":0")

rng = np.random.default_rng(0)
X = rng.normal(50, 20, (1201, 3)).astype(np.float32)
ROWS = {"chunks": (300, 3)}


@pytest.fixture(scope="module")
def client():
    """Of three workers, each a process, in whose place another begins when it ends."""
    # A worker that begins slowly, as on a machine that has much to do, is not given up.
    patience = dask.config.set({"distributed.deploy.lost-worker-timeout": "1h"})
    with patience, local(n_workers=3) as cluster, Client(cluster) as client:
        yield client


@pytest.fixture
def cluster(client):
    while len(client.scheduler_info(n_workers=-1)["workers"]) < 2:
        time.sleep(0.1)
    return client


def said(x, **parameters):
    model = KMeans(5, random_state=0, max_iter=8, tol=0, **parameters).fit(x)
    return model.cluster_centers_.tobytes(), np.asarray(model.labels_).tobytes(), model.inertia_, model.n_iter_


EXPECTED = {init: said(X, init=init) for init in ("k-means++", "k-means||", "random")}


def at(monkeypatch, act, *moments):
    """Have act(address) done before the nth call of a name, of those since the moment before: moments are (name, n)."""
    call, left = clusters.Cluster.call, [list(moment) for moment in moments]

    def counted(self, future, address, name, args, how):
        if left and left[0][0] == (args[0] if name in ("call", "seed") else name):
            left[0][1] -= 1
            if left[0][1] == 0:
                left.pop(0)
                act(address)
        return call(self, future, address, name, args, how)

    monkeypatch.setattr(clusters.Cluster, "call", counted)
    return left


MOMENTS = {
    "before anything": [("feature_range", 1)],
    "seeding": [("accept_and_draw", 8)],
    "iterations": [("assign", 14)],
    "the last pass": [("inertia", 1)],
    "again while its rows are told what they were": [("assign", 14), ("prepare", 1)],
}


@pytest.mark.parametrize("moment", MOMENTS)
def test_a_worker_that_is_killed_costs_no_bit(cluster, monkeypatch, caplog, moment):
    left = at(monkeypatch, partial(kill, cluster), *MOMENTS[moment])
    with caplog.at_level(logging.WARNING, "gpukmeans"):
        assert said(da.from_array(X, **ROWS)) == EXPECTED["k-means++"]
    assert left == []
    assert "was lost. Its rows are taken up anew" in caplog.text


@pytest.mark.parametrize(("init", "moment"), [("k-means||", ("accept_all", 4)), ("random", ("find", 1))])
def test_whatever_the_seeding(cluster, monkeypatch, init, moment):
    left = at(monkeypatch, partial(kill, cluster), moment)
    assert said(da.from_array(X, **ROWS), init=init) == EXPECTED[init]
    assert left == []


def dying(block, marks, times):
    """The rows, of the process that has not died of them so many times."""
    for i in range(times):
        try:
            os.close(os.open(f"{marks}/{i}", os.O_CREAT | os.O_EXCL))
        except FileExistsError:
            continue
        os.kill(os.getpid(), signal.SIGKILL)
    return block


@pytest.mark.parametrize("times", [1, 2])
def test_a_worker_that_is_killed_while_it_loads(cluster, tmp_path, times):
    rows = da.from_array(X, **ROWS).map_blocks(dying, str(tmp_path), times, dtype=X.dtype, meta=X[:0])
    assert said(rows) == EXPECTED["k-means++"]
    assert len(list(tmp_path.iterdir())) == times


def other_each_time(block):
    return block + np.random.default_rng().integers(0, 9, block.shape)


def test_rows_that_come_out_otherwise_are_an_error_and_never_other_bits(cluster, monkeypatch):
    at(monkeypatch, partial(kill, cluster), ("assign", 8))
    rows = da.from_array(X, **ROWS).map_blocks(other_each_time, dtype=X.dtype, meta=X[:0])
    with pytest.raises(DeviceError, match="Rows that were lost with a worker came out otherwise"):
        KMeans(5, random_state=0).fit(rows)


def test_a_worker_that_is_silent_is_taken_for_lost(cluster, monkeypatch, caplog):
    monkeypatch.setattr(clusters, "SILENCE", 3.0)
    monkeypatch.setattr(clusters, "LOOK", 0.5)
    stopped = []

    def stop(address):
        stopped.append(pid_at(cluster, address))
        os.kill(stopped[0], signal.SIGSTOP)

    at(monkeypatch, stop, ("assign", 8))
    try:
        with caplog.at_level(logging.INFO, "gpukmeans"):
            assert said(da.from_array(X, **ROWS)) == EXPECTED["k-means++"]
        assert "is taken for lost: no heartbeat for" in caplog.text
    finally:
        os.kill(stopped[0], signal.SIGKILL)


def refusing(cluster, monkeypatch, reachable):
    """Have the client reach a worker only if reachable(address), asked once for each."""
    connect, asked = cluster.rpc.connect, {}

    async def refuse(address, *args, **how):
        if address != cluster.scheduler.address and not asked.setdefault(address, reachable(address)):
            raise OSError
        return await connect(address, *args, **how)

    monkeypatch.setattr(cluster.rpc, "connect", refuse)
    return asked


def test_workers_that_cannot_be_reached_are_asked_by_the_scheduler(cluster, monkeypatch):
    asked = refusing(cluster, monkeypatch, lambda address: False)
    assert said(da.from_array(X, **ROWS)) == EXPECTED["k-means++"]
    assert asked


def test_of_workers_of_which_some_cannot_be_reached_each_is_asked_as_it_can_be(cluster, monkeypatch):
    """As one that began when the others were there already."""
    first = []
    asked = refusing(cluster, monkeypatch, lambda address: not first and not first.append(address))
    assert said(da.from_array(X, **ROWS)) == EXPECTED["k-means++"]
    assert sorted(asked.values()) == [False] * (len(asked) - 1) + [True]
    assert len(asked) > 1


# ---------------------------------------------------------------- what is no loss of a worker


def test_rows_of_another_client_that_is_closed(cluster):
    with Client(cluster.cluster, set_as_default=False) as other:
        rows = other.persist(da.from_array(X, **ROWS))
        other.gather(other.compute(rows.sum()))
    with pytest.raises(DeviceError, match=r"no longer has what the rows are made of.*by a client that is closed"):
        KMeans(5, random_state=0).fit(rows)


def test_a_restart_of_the_client(cluster, monkeypatch):
    done = []

    def restart(record):
        if not done:
            done.append(cluster.restart())

    with pytest.raises(DeviceError, match=r"was restarted while it was used, by client\.restart"):
        KMeans(5, random_state=0, callback=restart).fit(da.from_array(X, **ROWS))


def test_a_scheduler_that_is_killed(tmp_path):
    """Its workers end with it, and are not what is named."""
    file = str(tmp_path / "scheduler.json")
    command = [sys.executable, "-m", "dask"]
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    options = ["--scheduler-file", file, "--no-dashboard"]
    scheduler = subprocess.Popen([*command, "scheduler", "--port", "0", *options], **quiet)
    worker = subprocess.Popen([*command, "worker", "--nthreads", "1", "--no-nanny", *options], **quiet)
    try:
        while not os.path.exists(file):
            time.sleep(0.05)
        # For which it is looked for again once the client is closed.
        patience = dask.config.set({"distributed.comm.timeouts.connect": "3s"})
        with patience, Client(scheduler_file=file):
            assert said(da.from_array(X, **ROWS)) == EXPECTED["k-means++"]

            def lose(record):
                scheduler.kill()
                worker.wait(60)  # which the client asks without a scheduler as long as it is there

            with pytest.raises(DeviceError, match="The scheduler of the Dask cluster does not answer any more"):
                KMeans(5, random_state=0, callback=lose).fit(da.from_array(X, **ROWS))
    finally:
        for process in (worker, scheduler):
            process.kill()
            process.wait()


# ---------------------------------------------------------------- clusters that change


def test_a_cluster_that_grows_and_shrinks():
    """By itself while there is nothing for it to do that it knows of, and as it is told."""
    with local(n_workers=1) as cluster, Client(cluster) as client:
        cluster.adapt(minimum=1, maximum=4, interval="200ms", wait_count=2)
        found = []

        def wait(record):
            found.append(len(client.scheduler_info(n_workers=-1)["workers"]))
            if record.iteration == 2:
                client.retire_workers([min(client.scheduler_info(n_workers=-1)["workers"])])
            time.sleep(0.3)

        assert said(da.from_array(X, **ROWS), callback=wait) == EXPECTED["k-means++"]
        assert len(found) > 4
