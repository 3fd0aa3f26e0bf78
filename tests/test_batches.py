"""Rows in batches, one on the device at a time, give the bits of all at once, wherever memory runs out.

The CUDA points run on the CPU here, on a device with as little memory as a test says; see test_kernels.py.
"""

from __future__ import annotations

import logging
from functools import partial
from itertools import count

import numpy as np
import pytest
from host_cuda.failing import FailingHost
from host_cuda.runtime import CUDARuntimeError, HostCuda, OutOfMemoryError
from host_cuda.streams import Stream

from gpukmeans import DeviceError, KMeans, lloyd
from gpukmeans.engine import dispatch
from gpukmeans.engine.cuda import device as gpu
from gpukmeans.engine.cuda import transfer
from gpukmeans.engine.numpy.points import NumPyPoints
from gpukmeans.engine.protocol import Samples
from gpukmeans.seeding import kmeans_plusplus

pytestmark = [pytest.mark.kernels, pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")]

rng = np.random.default_rng(0)
X = rng.normal(50, 20, (700, 3)).astype(np.float32)


def said(model, x):
    arrays = [model.cluster_centers_, model.labels_, model.predict(x[::-1]), model.transform(x[:50])]
    return [array.tobytes() for array in arrays], model.inertia_, model.n_iter_, model.score(x)


def fit(x=X, k=5, weights=None, **parameters):
    model = KMeans(k, device="cpu", **{"random_state": 0, "max_iter": 4, **parameters})
    return said(model.fit(x, sample_weight=weights), x)


# ---------------------------------------------------------------- many batches as one


@pytest.mark.parametrize("rows", [1, 60, 350, 699, 700])
def test_batches_of_any_size_give_the_same_answer(on, rows):
    x = X[:40] if rows == 1 else X
    expected = fit(x, weights=np.arange(len(x)) % 5)
    on(HostCuda(seed=1), rows)
    assert fit(x, weights=np.arange(len(x)) % 5) == expected


@pytest.mark.parametrize("init", ["random", "k-means||", X[:5]], ids=["random", "k-means||", "array"])
def test_batches_of_wide_and_whole_numbers(on, init):
    x = rng.integers(0, 255, (90, 20)).astype(np.uint8)
    init = x[:5] if isinstance(init, np.ndarray) else init
    expected = fit(x, init=init, n_init=2 if isinstance(init, str) else 1)
    on(HostCuda(seed=1), 40)
    assert fit(x, init=init, n_init=2 if isinstance(init, str) else 1) == expected


# ---------------------------------------------------------------- running out


@pytest.mark.parametrize("kib", [4, 8, 16, 22])
def test_a_small_device_gives_the_same_answer(on, caplog, kib):
    """The rows take 8.2 KiB, and what a fit remembers of them 10.9 KiB more, 16 bytes a row; centers take the rest."""
    expected = fit()
    cp = HostCuda(seed=1, memory=kib * 1024)
    on(cp)
    with caplog.at_level(logging.INFO, "gpukmeans"):
        assert fit() == expected
    assert cp.peak_bytes <= kib * 1024
    assert bool(caplog.records) == (kib < 22), "batches were used where they were needed, and only there"


@pytest.mark.parametrize("before", [0, 20_000, 25_000, 30_000, 38_000, 46_000])
def test_memory_in_pieces_is_no_reason_for_smaller_batches(on, caplog, before):
    """Somebody had some before, which CuPy's pool keeps in one block and splits: rows and what is remembered of them
    fit the device, as long as nothing is cut off from it."""
    x = rng.normal(50, 20, (1500, 2)).astype(np.float32)
    expected = fit(x)
    cp = HostCuda(build="fast", seed=1, memory=48 * 1024, pooled=True)
    on(cp)
    del cp.empty(before, np.uint8)._memory
    with caplog.at_level(logging.INFO, "gpukmeans"):
        assert fit(x) == expected
    assert not caplog.records


@pytest.mark.parametrize("kib", [10, 14, 18, 22, 26])
def test_a_small_device_whose_memory_is_in_pieces_gives_the_same_answer(on, kib):
    expected = fit()
    on(HostCuda(build="fast", seed=1, memory=kib * 1024, pooled=True))
    assert fit() == expected


def test_memory_may_run_out_beside_rows_on_the_device():
    """Labels that stay on the device then have to come to the host."""

    def iterated(points):
        scales = lloyd.prepare(points, *points.feature_range())
        centers = kmeans_plusplus(points, 5, np.random.RandomState(0))
        for _ in range(4):
            points.assign(centers)
            centers, _ = lloyd.update(points, scales, centers)
        return points.labels(), centers.tolist()

    labels, centers = iterated(NumPyPoints(Samples(X)))
    ran_out = 0
    for at in count(0, 2):
        cp = FailingHost(seed=1)
        x = cp.asarray(X)
        cp.arm(at, OutOfMemoryError("Out of memory allocating 512 bytes"))
        found = iterated(dispatch.on_gpu(cp, Samples(x)))
        if cp.left is not None:
            break
        ran_out += 1
        assert found[0].get().tolist() == labels.tolist()
        assert found[1] == centers
    assert ran_out > 10


def test_memory_may_run_out_in_the_middle_of_seeding(on, monkeypatch):
    """When some centers are chosen already, and when they come down."""
    expected = KMeans(12, random_state=0, max_iter=2, device="cpu").fit(X)
    on(HostCuda(build="fast", seed=1))
    for name, method in (("run", gpu.Gpu.run), ("get", gpu.Gpu.get)):
        for at in count(0, 7 if name == "run" else 1):
            left = [at]

            def failing(*args, left=left, method=method, **how):
                left[0] -= 1
                if left[0] == -1:
                    raise MemoryError("full")
                return method(*args, **how)

            monkeypatch.setattr(gpu.Gpu, name, failing)
            found = KMeans(12, random_state=0, max_iter=2, device="cpu").fit(X)
            assert found.cluster_centers_.tobytes() == expected.cluster_centers_.tobytes(), (name, at)
            assert found.labels_.tobytes() == expected.labels_.tobytes()
            if left[0] >= 0:
                break
        assert at > 6
        monkeypatch.setattr(gpu.Gpu, name, method)


def test_pinned_memory_may_run_out_anywhere(on, monkeypatch):
    """On the way down, too: an answer that is lost could not be asked for again, since labels have changed by then."""
    monkeypatch.setattr(transfer, "PIECE", 128)  # less than the sums of five clusters
    init = X[:5]
    expected = KMeans(5, init=init, tol=0, device="cpu").fit(X)
    assert expected.n_iter_ > 3
    for at in count(0, 3):
        cp = HostCuda(build="fast", seed=1)
        make, left = cp.cuda.alloc_pinned_memory, [at]

        def pinned(size, make=make, left=left):
            left[0] -= 1
            if left[0] == -1:
                raise CUDARuntimeError("cudaErrorMemoryAllocation: out of memory")
            return make(size)

        cp.cuda.alloc_pinned_memory = pinned
        on(cp)
        found = KMeans(5, init=init, tol=0, device="cpu").fit(X)
        assert found.n_iter_ == expected.n_iter_
        assert found.cluster_centers_.tobytes() == expected.cluster_centers_.tobytes()
        assert found.labels_.tobytes() == expected.labels_.tobytes()
        if left[0] >= 0:  # it did not run out any more
            break
    assert at > 10


START = np.concatenate([X[:1], X[1:2], X[:1] + 1e3])  # the third center has no point


@pytest.mark.parametrize(
    ("k", "init", "fewest"), [(2, "k-means++", 30), (2, "k-means||", 40), (3, START, 20)], ids=["++", "||", "empty"]
)
def test_memory_may_run_out_anywhere(on, caplog, k, init, fewest):
    """At any allocation of a fit, seeded with weights or with a cluster that becomes empty, and of `transform`."""
    x = np.concatenate([np.repeat(X[:3], 2, axis=0), X[:6]])
    weights = np.arange(len(x)) % 4 + 0.5 if isinstance(init, str) else None

    def everything():
        model = KMeans(k, init=init, max_iter=2, random_state=0, device="cpu").fit(x, sample_weight=weights)
        return model.cluster_centers_.tolist(), model.labels_.tolist(), model.transform(x).tolist()

    expected = everything()
    caplog.set_level(logging.INFO, "gpukmeans")
    at = 0
    while True:
        cp = FailingHost(seed=1)
        cp.arm(at, OutOfMemoryError("Out of memory allocating 512 bytes"))
        on(cp)
        assert everything() == expected, at
        if cp.left is not None:
            break
        assert "going on with batches of" in caplog.text, at
        caplog.clear()
        at += 1
    assert at > fewest, "all allocations were reached"


def test_memory_may_run_out_beside_many_centers_of_many_features(on):
    """Whose forms are made on the device."""
    x = np.random.default_rng(0).normal(size=(50, 20))
    expected = KMeans(34, init=x[:34], max_iter=3, tol=0, device="cpu").fit(x)
    for at in count(0, 3):
        cp = FailingHost(seed=1)
        cp.arm(at, OutOfMemoryError("Out of memory allocating 512 bytes"))
        on(cp)
        found = KMeans(34, init=x[:34], max_iter=3, tol=0, device="cpu").fit(x)
        assert found.cluster_centers_.tobytes() == expected.cluster_centers_.tobytes(), at
        assert found.labels_.tobytes() == expected.labels_.tobytes(), at
        if cp.left is not None:
            break
    assert at > 20, "all allocations were reached"


def test_too_little_for_a_single_row_is_said(on):
    on(HostCuda(seed=1, memory=60))
    model = KMeans(2, device="cpu")
    with pytest.raises(DeviceError, match=r"not even memory for one row: .* bytes\)\. Free some.*device='cpu'"):
        model.fit(X)
    assert not hasattr(model, "n_features_in_")


# ---------------------------------------------------------------- transfers and errors


@pytest.mark.parametrize("piece", [1, 100, 2**10])
def test_rows_that_come_in_pieces(on, monkeypatch, piece):
    views = [X, X[::2], np.asfortranarray(X), X[::-1, ::-1], X.astype(np.float16), X[:1]]
    expected = [fit(x, k=1 if len(x) == 1 else 5) for x in views]
    monkeypatch.setattr(transfer, "PIECE", piece * 12)
    on(HostCuda(seed=1))
    assert [fit(x, k=1 if len(x) == 1 else 5) for x in views] == expected


@pytest.mark.parametrize("error", [KeyboardInterrupt, OSError])
def test_pinned_memory_is_given_back_once_nothing_copies_there(monkeypatch, error):
    """Whoever is given it next would find it overwritten."""

    def interrupt(target, source):
        raise error

    for crossing in ("up", "down"):
        cp = HostCuda(seed=1)
        device = gpu.Gpu(cp, ())
        array = device.put(X)
        with monkeypatch.context() as patched:
            copies = iter([transfer._copy, interrupt] if crossing == "up" else [interrupt])
            patched.setattr(transfer, "_copy", lambda target, source, copies=copies: next(copies)(target, source))
            patched.setattr(transfer, "PIECE", 1024)
            with pytest.raises(error):
                device.put(X) if crossing == "up" else device.get(array)
        assert cp.streams.record[-2][0] == crossing, "it was on its way"
        assert not cp.streams.current[0].waiting


def test_an_error_that_shows_when_pinned_memory_is_waited_for_is_a_device_error(monkeypatch):
    cp = HostCuda(seed=1)
    device = gpu.Gpu(cp, ())
    monkeypatch.setattr(transfer, "PIECE", 1024)
    pieces = device.upload(device.empty(X.shape, X.dtype), X)
    next(pieces)

    def fail(event):
        raise cp.cuda.runtime.CUDARuntimeError("cudaErrorIllegalAddress: an illegal memory access was encountered")

    monkeypatch.setattr(Stream, "synchronize", fail)
    with pytest.raises(DeviceError, match="IllegalAddress"):
        pieces.throw(KeyboardInterrupt)


def test_an_error_names_the_kernel_and_leaves_the_estimator(on):
    cp = HostCuda(seed=1)

    class Broken(cp.cuda.Module.func):
        def get_function(self, name):
            if name == "refine":
                raise cp.cuda.driver.CUDADriverError("CUDA_ERROR_ILLEGAL_ADDRESS: an illegal memory access")
            return super().get_function(name)

    model = KMeans(3, random_state=0, device="cpu").fit(X[:100])
    before = {name: np.copy(value) for name, value in vars(model).items()}
    on(cp)
    cp.cuda.Module = partial(Broken, cp)
    with pytest.raises(DeviceError, match=r"'cuda:0'.* refine.*ILLEGAL_ADDRESS") as caught:
        model.set_params(n_clusters=4).fit(X)
    assert "find" not in str(caught.value), "only kernels since the last answer"
    model.set_params(n_clusters=3)
    assert {name: np.copy(value).tolist() for name, value in vars(model).items()} == {
        name: value.tolist() for name, value in before.items()
    }
