"""Workers that dask_cuda begins, each of which sees all GPUs of a machine, its own first: with real processes, whose
GPUs are CPUs."""

from __future__ import annotations

import copy
import os
import sys
import time

import dask.array as da
import numpy as np
import pytest
from dask_workers import killing_after
from distributed import Client, LocalCluster

from gpukmeans import DeviceError, KMeans

pytestmark = [pytest.mark.kernels, pytest.mark.slow]

X = np.random.default_rng(0).normal(50, 20, (601, 3)).astype(np.float32)
ROWS = {"chunks": (200, 3)}


class LocalGpus(LocalCluster):
    """As dask_cuda.LocalCUDACluster, whose workers have one variable each. visible: the numbers of the GPUs."""

    def __init__(self, visible):
        self.visible = visible
        super().__init__(n_workers=0, threads_per_worker=1, dashboard_address=":0")
        self.new_spec["options"]["preload"] = ["host_cuda.visible"]
        self.scale(len(visible))
        self.sync(self._correct_state)

    def new_worker_spec(self):
        name = min(set(self.visible) - set(self.worker_spec))
        i = self.visible.index(name)
        spec = copy.deepcopy(self.new_spec)
        order = ",".join(map(str, self.visible[i:] + self.visible[:i]))
        spec["options"]["env"] = {"CUDA_VISIBLE_DEVICES": order, "GPUKMEANS_DEVICE": ""}
        return {name: spec}


@pytest.fixture(scope="module")
def gpus():
    """A client of two workers; here is no GPU."""
    with LocalGpus([0, 1]) as cluster, Client(cluster) as client:
        client.wait_for_workers(2)
        yield client


def launched():
    """What a worker sees, and how many labellings each of these GPUs refined since this was asked for."""
    found = [host.launches["refine"] for host in sys.modules["cupy"].hosts]
    for host in sys.modules["cupy"].hosts:
        host.launches.clear()
    return os.environ["CUDA_VISIBLE_DEVICES"], found


def said(model, rows):
    answers = (model.cluster_centers_, model.labels_, model.predict(rows), model.transform(rows))
    return [np.asarray(answer).tobytes() for answer in answers], model.inertia_, model.n_iter_


def parameters(**more):
    return {"n_clusters": 5, "random_state": 0, "max_iter": 4, "tol": 0, **more}


@pytest.mark.parametrize("device", ["auto", "cuda", "cuda:0"])
@pytest.mark.parametrize("init", ["k-means++", "k-means||"])
def test_each_worker_takes_the_first_gpu_that_it_sees(gpus, device, init):
    """Though another has more memory free; with the bits of one process without a GPU."""
    gpus.run(launched)
    lazy = da.from_array(X, **ROWS)
    fitted = KMeans(**parameters(init=init, device=device)).fit(lazy)
    of_fit = dict(gpus.run(launched).values())
    found = said(fitted, lazy)
    of_answers = dict(gpus.run(launched).values())
    for seen in (of_fit, of_answers):
        assert seen.keys() == {"0,1", "1,0"}
        assert [others for _, others in seen.values()] == [0, 0]
    assert all(own >= 4 for own, _ in of_fit.values()), "each has a part"
    assert sum(own for own, _ in of_answers.values()) > 0
    assert found == said(KMeans(**parameters(init=init, device="cpu")).fit(X), X)


def test_what_the_client_sees_has_no_part_in_it(gpus, monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "7")
    monkeypatch.setenv("GPUKMEANS_DEVICE", "cpu")
    gpus.run(launched)
    fitted = KMeans(**parameters(device="auto")).fit(da.from_array(X, **ROWS))
    assert all(own >= 4 and other == 0 for own, other in dict(gpus.run(launched).values()).values())
    assert fitted.inertia_ == KMeans(**parameters(device="cpu")).fit(X).inertia_


def test_a_worker_that_ends_comes_back_on_its_own_gpu(gpus):
    """Its rows go to the other meanwhile, or to itself."""
    lose, lost = killing_after(gpus, 1)
    found = KMeans(**parameters(device="cuda", callback=lose)).fit(da.from_array(X, **ROWS))
    assert lost
    assert found.inertia_ == KMeans(**parameters(device="cpu")).fit(X).inertia_
    while len(gpus.scheduler_info(n_workers=-1)["workers"]) < 2:
        time.sleep(0.1)
    seen = dict(gpus.run(launched).values())
    assert seen.keys() == {"0,1", "1,0"}
    assert [others for _, others in seen.values()] == [0, 0]


def test_a_gpu_that_a_worker_does_not_see(gpus):
    with pytest.raises(DeviceError, match=r"device='cuda:2' cannot be used: there is 'cuda:0', 'cuda:1'"):
        KMeans(**parameters(device="cuda:2")).fit(da.from_array(X, **ROWS))
