"""Several GPUs at once: device="cuda:0,1" gives the bits of one, and each keeps its own rows.

Each GPU is a CPU process of its own that runs the kernels (host_cuda/machine.py): an array of one is no use to another.
"""

from __future__ import annotations

import logging
import sys
import threading

import numpy as np
import pytest
from host_cuda.machine import as_cupy
from host_cuda.runtime import HostArray, HostCuda, OutOfMemoryError
from scipy.sparse import csr_matrix

from gpukmeans import DeviceError, KMeans, MiniBatchKMeans, quantize
from gpukmeans.engine import devices, dispatch
from gpukmeans.engine.combine.multi_device import Parallel
from gpukmeans.engine.protocol import Samples

pytestmark = pytest.mark.kernels

rng = np.random.default_rng(0)
X = rng.normal(50, 20, (601, 3)).astype(np.float32)
WEIGHTS = np.arange(len(X)) % 4 / 2


@pytest.fixture
def cupy(monkeypatch):
    """CuPy on a machine with three GPUs, among which any data is shared out."""
    module = as_cupy(*(HostCuda(build="fast", seed=i + 1) for i in range(3)))
    monkeypatch.setitem(sys.modules, "cupy", module)
    monkeypatch.setattr(dispatch, "PART", 1)
    devices.resolve("cuda:all")  # tries each
    for host in module.hosts:
        host.launches.clear()
    return module


def said(x, device, weights=None, model=KMeans, **parameters):
    parameters = {"n_clusters": 5, "random_state": 0, "max_iter": 4, **parameters}
    fitted = model(device=device, **parameters).fit(x, sample_weight=weights)
    answers = [fitted.cluster_centers_, fitted.labels_, fitted.predict(x), fitted.transform(x)]
    arrays = [answer.get() if isinstance(answer, HostArray) else answer for answer in answers]
    return [array.tobytes() for array in arrays], fitted.inertia_, fitted.n_iter_, fitted.score(x)


def used(cupy):
    return [sum(host.launches.values()) for host in cupy.hosts]


# ---------------------------------------------------------------- one answer

WIDE = rng.integers(0, 255, (90, 20)).astype(np.uint8)
FITS = {
    "float32": {"x": X},
    "in order": {"x": np.sort(X.astype(np.float64), axis=0)},
    "weighed": {"x": X, "weights": WEIGHTS},
    "wide": {"x": WIDE},
    "halves": {"x": WIDE.astype(np.float16), "weights": WEIGHTS[:90]},
    "k-means||": {"x": X, "init": "k-means||", "weights": WEIGHTS},
    "random": {"x": X, "init": "random", "n_init": 2},
    "given": {"x": X, "init": X[:5], "n_init": 1},
    "an empty cluster": {"x": X, "init": X[:5] + np.float32([[0], [0], [0], [1e4], [1e4]]), "n_init": 1},
    "cosine": {"x": X - 50, "metric": "cosine"},
    "sparse": {"x": csr_matrix(WIDE * (WIDE > 200))},
    "transposed": {"x": np.asfortranarray(X)},
    "fewer rows than GPUs": {"x": X[:2], "n_clusters": 2},
    "batches": {"x": X, "model": MiniBatchKMeans, "batch_size": 100, "weights": WEIGHTS},
}


@pytest.mark.parametrize("name", FITS)
@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
def test_a_fit_is_that_of_numpy(cupy, name):
    assert said(device="cuda:all", **FITS[name]) == said(device="cpu", **FITS[name])
    assert np.count_nonzero(used(cupy)) == min(3, FITS[name]["x"].shape[0])


@pytest.mark.parametrize("device", ["cuda:0,2", "cuda:2,1,0"])
def test_gpus_may_be_named_in_any_order(cupy, device):
    assert said(X, device) == said(X, "cpu")
    assert [number for number, launches in enumerate(used(cupy)) if launches] == sorted(devices.gpus(device))


def test_the_environment_may_name_several(cupy, monkeypatch):
    monkeypatch.setenv(devices.VARIABLE, "cuda:1,2")
    assert said(X, "auto") == said(X, "cpu")
    assert [bool(launches) for launches in used(cupy)] == [False, True, True]


@pytest.mark.parametrize("near", [0, 1])
def test_an_array_on_one_of_them_stays_there(cupy, near):
    """Its own GPU reads it in place, the others a copy of their rows; the answers are where it is."""
    x = np.tile(X, (20, 1))
    with cupy.cuda.Device(near):
        held = cupy.asarray(x)
    before = [host.used_bytes for host in cupy.hosts]
    for host in cupy.hosts:
        host.peak_bytes = host.bytes_uploaded = 0
    model = KMeans(5, init=x[:5], max_iter=3, device="cuda:0,1").fit(held)
    labels, distances = model.predict(held), model.transform(held)
    for answer in (model.labels_, labels, model.cluster_centers_, distances):
        assert isinstance(answer, HostArray)
        assert answer.device.id == near
    # Of the half that the other has: 12 bytes a row, with 12 of labels, proposals and list or 40 of distances.
    assert cupy.hosts[1 - near].peak_bytes - before[1 - near] < (12 + 40) * len(x) // 2 + 20_000
    answered = 2 * 4 + 5 * (8 + 4)  # labels, twice; distances, which are then made float32
    assert cupy.hosts[near].bytes_uploaded < answered * len(x) + 20_000, "no rows"
    expected = KMeans(5, init=x[:5], max_iter=3, device="cpu").fit(x)
    assert model.cluster_centers_.get().tobytes() == expected.cluster_centers_.tobytes()
    assert model.labels_.get().tobytes() == labels.get().tobytes() == expected.labels_.tobytes()
    assert distances.get().tobytes() == expected.transform(x).tobytes()


def test_an_array_on_another_gpu_goes_by_the_host(cupy):
    with cupy.cuda.Device(2):
        held = cupy.asarray(X)
        model = KMeans(5, random_state=0, device="cuda:0,1").fit(held)
    assert model.labels_.device.id == 2
    assert model.labels_.get().tobytes() == KMeans(5, random_state=0, device="cpu").fit(X).labels_.tobytes()


# ---------------------------------------------------------------- what is shared out


def test_little_data_is_not_shared_out(cupy, monkeypatch):
    monkeypatch.setattr(dispatch, "PART", 3 * 400)
    for rows, busy in ((399, 1), (601, 1), (800, 2), (1300, 3)):
        KMeans(2, random_state=0, max_iter=2, device="cuda:all").fit(np.resize(X, (rows, 3)))
        assert np.count_nonzero(used(cupy)) == busy, rows


def test_sparse_rows_are_shared_out_by_what_they_store(cupy, monkeypatch):
    monkeypatch.setattr(dispatch, "PART", 400)
    for rows, busy in ((300, 1), (900, 2)):
        x = csr_matrix((np.arange(1.0, rows + 1), (np.arange(rows), np.arange(rows) % 50)), (rows, 50))
        KMeans(2, init="random", random_state=0, max_iter=1, device="cuda:all").fit(x)
        assert np.count_nonzero(used(cupy)) == busy, rows


def test_parts_are_worked_on_at_the_same_time():
    """Each waits for the others, in every step, which none would survive alone."""
    everyone = threading.Barrier(3)

    class Part:
        uncertain = 0

        def __init__(self, rows):
            self.rows = rows

        def assign(self, centers):
            everyone.wait(10)
            return self.rows.stop - self.rows.start

    slices = [slice(0, 2), slice(2, 5), slice(5, 6)]
    points = Parallel([*map(Part, slices)], slices, Samples(np.zeros((6, 1))))
    assert points.assign(np.zeros((1, 1))) == points.n == 6


def test_what_crosses_the_bus_in_an_iteration_has_the_size_of_the_centers(cupy):
    def crossed(max_iter):
        for host in cupy.hosts:
            host.bytes_uploaded = host.bytes_downloaded = 0
        KMeans(5, init=X[:5], max_iter=max_iter, tol=0, device="cuda:all").fit(X)
        return np.array([(host.bytes_uploaded, host.bytes_downloaded) for host in cupy.hosts])

    up, down = (crossed(9) - crossed(3)).T / 6
    k, d = 5, 3
    assert (up <= 8 * k * d + 64).all()
    assert (down <= 8 * (k * (d + 1) + 3) + 64).all()


def test_each_works_on_a_stream_of_its_own(cupy):
    """Whichever thread comes, and whatever else goes on."""
    KMeans(5, init=X[:5], max_iter=9, device="cuda:all").fit(X)
    for host in cupy.hosts:
        host.streams.record.clear()
    KMeans(5, random_state=0, device="cuda:all").fit(X).transform(X)
    assert all(number > 0 for host in cupy.hosts for _, number in host.streams.record)


def test_an_array_may_still_be_in_the_making(cupy):
    """By a stream that the others know nothing of."""
    with cupy.cuda.Stream(non_blocking=True):
        found = KMeans(5, random_state=0, max_iter=4, device="cuda:0,1").fit_predict(cupy.asarray(X)).get()
    assert found.tobytes() == KMeans(5, random_state=0, max_iter=4, device="cpu").fit_predict(X).tobytes()


def test_none_guesses_centers_from_its_own_sums(cupy):
    """They are not those of all rows: every guess would be in vain."""
    model = KMeans(5, init=X[:5], device="cuda:all").fit(X)
    assert model.n_iter_ > 4
    assert {host.launches["refine"] for host in cupy.hosts} <= {model.n_iter_, model.n_iter_ + 1}


# ---------------------------------------------------------------- memory and errors


def test_the_memory_of_one_may_be_short(cupy, caplog):
    """Its rows go through in batches, the others' stay."""
    cupy.hosts[1].total_bytes = cupy.hosts[1].used_bytes + 6000
    with caplog.at_level(logging.INFO, "gpukmeans"):
        assert said(X, "cuda:all", WEIGHTS) == said(X, "cpu", WEIGHTS)
    assert "going on with batches of 100 rows" in caplog.text, "half of a third"


def test_memory_may_run_out_anywhere(cupy):
    """On the second, at any allocation."""
    expected = said(X, "cpu", init="k-means++")
    make, at = cupy.hosts[1].empty, 0

    def empty(shape, dtype):
        nonlocal left
        left -= 1
        if left == -1:
            raise OutOfMemoryError("Out of memory allocating 512 bytes")
        return make(shape, dtype)

    cupy.hosts[1].empty = empty
    left = 0
    while left < 1:
        left = at
        assert said(X, "cuda:0,1", init="k-means++") == expected, at
        at += 3
    assert at > 60


@pytest.mark.parametrize("bad", [np.nan, np.inf])
@pytest.mark.parametrize("row", [0, 300, 600])
def test_values_that_are_not_finite_are_found_in_any_part(cupy, row, bad):
    x = X.copy()
    x[row, 1] = bad
    with pytest.raises(ValueError, match="NaN" if np.isnan(bad) else "infinity"):
        KMeans(2, device="cuda:all").fit(x)


def dying(cupy, numbers, after):
    """Have each of these GPUs fail for good once it has allocated memory so many times; returns how often it did."""
    allocated = dict.fromkeys(numbers, 0)

    def fail_later(number, make):
        def make_or_fail(*args):
            allocated[number] += 1
            if allocated[number] > after:
                error = "cudaErrorECCUncorrectable: uncorrectable ECC error encountered"
                raise cupy.cuda.runtime.CUDARuntimeError(error)
            return make(*args)

        return make_or_fail

    for number in numbers:
        host = cupy.hosts[number]
        host.empty, host.zeros = fail_later(number, host.empty), fail_later(number, host.zeros)
    return allocated


@pytest.mark.parametrize("init", ["k-means++", "k-means||"])
@pytest.mark.parametrize("after", [0, 9, 23, 40, 67])
def test_one_that_fails_is_replaced_by_the_others(cupy, caplog, init, after):
    expected = said(X, "cpu", WEIGHTS, init=init)
    allocated = dying(cupy, [1], after)
    assert said(X, "cuda:all", WEIGHTS, init=init) == expected
    assert allocated[1] > after
    assert "CUDA failed on device 'cuda:1'" in caplog.text


def test_two_of_three_may_fail(cupy):
    expected = said(X, "cpu", WEIGHTS)
    allocated = dying(cupy, [0, 2], 30)
    assert said(X, "cuda:all", WEIGHTS) == expected
    assert min(allocated.values()) > 30


def test_when_all_fail_the_error_names_one_and_leaves_the_estimator(cupy):
    model = KMeans(3, random_state=0, device="cuda:all").fit(X[:100])
    before = {name: np.copy(value).tolist() for name, value in vars(model).items()}
    dying(cupy, [0, 1, 2], 20)
    with pytest.raises(DeviceError, match=r"'cuda:[012]'.*\n?.*ECC"):
        model.fit(X)
    assert {name: np.copy(value).tolist() for name, value in vars(model).items()} == before


# ---------------------------------------------------------------- names


def test_all_of_one_gpu_is_that(monkeypatch):
    monkeypatch.setitem(sys.modules, "cupy", as_cupy(HostCuda(build="fast", seed=1)))
    assert devices.resolve("cuda:all") == "cuda:0"


def test_names(cupy):
    assert devices.resolve("cuda:all") == "cuda:0,1,2"
    assert devices.resolve("cuda:2,0") == "cuda:2,0"
    assert devices.resolve("cuda:2,0", near=0) == "cuda:0,2", "the one with the data is the current one"
    assert devices.resolve("cuda", near=1) == "cuda:1"
    with pytest.raises(DeviceError, match=r"'cuda:1,3'.*there is 'cuda:0', 'cuda:1', 'cuda:2'"):
        devices.resolve("cuda:1,3")
    with pytest.raises(ValueError, match=r"'cuda:1,2,1' names a GPU twice.*'cuda:all'"):
        devices.resolve("cuda:1,2,1")


def test_one_that_cannot_be_used_is_named(cupy):
    devices._why_no_kernel.cache_clear()

    def fail(shape, dtype):
        raise cupy.cuda.runtime.CUDARuntimeError("cudaErrorDevicesUnavailable: busy or unavailable")

    cupy.hosts[1].zeros = fail
    with pytest.raises(DeviceError, match=r"device='cuda:all'.*'cuda:1' \(CUDARuntimeError: cudaErrorDevicesUnavail"):
        KMeans(2, device="cuda:all").fit(X)
    assert devices.resolve("cuda:0,2") == "cuda:0,2"


# ---------------------------------------------------------------- pictures


def test_pictures_are_the_same_on_several(cupy):
    image = rng.integers(0, 255, (40, 50, 3)).astype(np.uint8)
    one, several = (quantize(image, 8, device=device, random_state=0) for device in ("cpu", "cuda:1,2"))
    assert one.palette.tobytes() == several.palette.tobytes()
    assert (one.indices == several.indices).all()
