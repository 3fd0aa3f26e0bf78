"""Parts of a Dask cluster's rows that workers have no memory for, and read a chunk at a time: the bits of memory."""

from __future__ import annotations

import os
from functools import partial

import dask
import dask.array as da
import dask.dataframe as dd
import numpy as np
import pandas as pd
import pytest
from dask_workers import killing_after
from distributed import Client, LocalCluster

from gpukmeans import DeviceError, KMeans
from gpukmeans.dask import cluster as clusters
from gpukmeans.dask import sharing, workers

local = partial(LocalCluster, threads_per_worker=1, dashboard_address=":0")

rng = np.random.default_rng(0)
X = rng.normal(50, 20, (1201, 3)).astype(np.float32)
WEIGHTS = np.arange(len(X)) % 4 / 2
# Less than any part takes, of which there are three.
LIMIT = "5kB"


@pytest.fixture(scope="module")
def cluster():
    with local(n_workers=3) as cluster, Client(cluster) as client:
        yield client


def said(x, weights=None, **parameters):
    model = KMeans(5, random_state=0, max_iter=4, tol=0, **parameters).fit(x, sample_weight=weights)
    return model.cluster_centers_.tobytes(), np.asarray(model.labels_).tobytes(), model.inertia_, model.n_iter_


def parts(dask_worker):
    return [type(actor._points).__name__ for actor in dask_worker.state.actors.values()]


FITS = {
    "k-means++": {},
    "k-means||": {"init": "k-means||", "weights": WEIGHTS},
    "random": {"init": "random", "n_init": 2},
    "an empty cluster": {"init": X[:5] + np.float32([[0], [0], [0], [1e4], [1e4]]), "n_init": 1},
    "cosine": {"metric": "cosine"},
}


@pytest.mark.parametrize("name", FITS)
def test_a_fit_of_parts_that_stream_is_that_of_numpy(cluster, name):
    seen = []

    def look(record):
        seen.extend(cluster.run(parts).values())

    rows = da.from_array(X, chunks=(97, 3)) * 1
    assert said(rows, **FITS[name], memory_limit=LIMIT, callback=look) == said(X, **FITS[name])
    assert seen
    assert all(found == ["Batches"] for found in seen)


def test_chunks_may_be_of_any_sizes(cluster):
    rows = da.from_array(X, chunks=((1, 1000, 0, 200), 3)) * 1
    assert said(rows, memory_limit=LIMIT) == said(X)


def test_frames_stream(cluster):
    frame = pd.DataFrame(X, columns=list("abc"))
    rows = dd.from_pandas(frame, npartitions=9)
    assert said(rows, memory_limit=LIMIT) == said(frame)
    assert sharing.of_rows(rows.to_dask_array(lengths=True), clusters.Cluster(cluster), LIMIT).graphs


def test_chunks_go_together_in_parts_of_about_as_many_rows():
    sizes = (1, 300, 300, 10, 290, 300)
    assert sharing._runs(sizes, 3) == [slice(0, 2), slice(2, 5), slice(5, 6)]
    assert sharing._runs(sizes, 1) == [slice(0, 6)]
    assert sharing._runs((5, 1000), 3) == [slice(0, 1), slice(1, 2)]
    assert sharing._runs((1000,), 3) == [slice(0, 1)]


def test_a_worker_that_is_killed_costs_no_bit(cluster):
    lose, lost = killing_after(cluster, 2)
    rows = da.from_array(X, chunks=(100, 3)) + 0
    assert said(rows, memory_limit=LIMIT, callback=lose) == said(X)
    assert lost


def other_each_time(block):
    return block + np.random.default_rng().integers(0, 9, block.shape).astype(block.dtype)


@pytest.mark.parametrize("where", ["workers", "here"])
def test_chunks_that_come_out_otherwise_are_an_error(cluster, monkeypatch, where):
    if where == "here":
        monkeypatch.setattr(workers, "_client", lambda: None)
    rows = da.from_array(X, chunks=(100, 3)).map_blocks(other_each_time, dtype=X.dtype, meta=X[:0])
    with dask.config.set(scheduler="synchronous"), pytest.raises(DeviceError, match="in each pass came out otherwise"):
        KMeans(5, random_state=0, max_iter=4, memory_limit=LIMIT).fit(rows)


def memory(limit, held=150):
    return {"memory_limit": limit * 10**6, "metrics": {"memory": held * 10**6, "managed_bytes": 0}}


def test_rows_that_do_not_fit_and_cannot_stream_are_an_error_that_says_why(cluster, monkeypatch):
    there = clusters.Cluster(cluster)
    made = da.zeros((3 * 10**6, 20), chunks=(10**5, 20))
    monkeypatch.setattr(clusters.Cluster, "workers", lambda self: {"a": memory(600), "b": memory(600)})
    assert sharing.of_rows(made, there, None).graphs, "480 MB, of which each can read chunks of 16"
    monkeypatch.setattr(sharing, "NEEDED", 10**3)
    with pytest.raises(
        DeviceError,
        match=r"Nor can they .* at a time: a chunk has 160 MB.*Give smaller chunks\. Or use more",
    ):
        sharing.of_rows(made.rechunk((10**6, 20)), there, None)
    rows = np.zeros((3 * 10**5, 20))
    with pytest.raises(DeviceError, match=r"Nor can they .*: their graph holds them.*read them from a file\. Or use"):
        sharing.of_rows(da.from_array(rows, chunks=(10**4, 20)), there, None)
    with pytest.raises(DeviceError, match=r"Nor can they .*: they are persisted.*without persist\(\)\. Or use"):
        sharing.of_rows(cluster.persist(da.zeros(rows.shape, chunks=(10**5, 20))), there, None)


@pytest.mark.slow
def test_more_rows_than_the_workers_memory():
    """640 MB on two workers of 600, none of which comes near its limit."""
    with local(n_workers=2, memory_limit="600MB") as cluster, Client(cluster) as client:
        before = client.run(os.getpid)
        rows = da.random.default_rng(0).random((2_000_000, 40), chunks=(20_000, 40))
        how = {"n_clusters": 4, "init": np.eye(4, 40), "n_init": 1, "max_iter": 2}
        model = KMeans(**how).fit(rows)
        assert client.run(os.getpid) == before
    expected = KMeans(**how).fit(rows.compute(scheduler="threads"))
    assert model.inertia_ == expected.inertia_
    assert model.cluster_centers_.tobytes() == expected.cluster_centers_.tobytes()
