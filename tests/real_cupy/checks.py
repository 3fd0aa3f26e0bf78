"""Fits on CuPy itself: arrays of its own, its pools under limits, two devices, and streams that run in any order.

    python -m pytest --device real-cupy tests/real_cupy/checks.py

Everything is held to the bits of device="cpu". The last tests hold that the machine sees what it is there to see.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Iterator
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from gpukmeans import KMeans, MiniBatchKMeans, quantize
from gpukmeans.engine import dispatch
from gpukmeans.errors import DeviceError

from .device import ORDERS, Machine, machine

RNG = np.random.RandomState(0)
X = (RNG.rand(900, 6) * 50).astype(np.float32)
WEIGHTS = RNG.rand(900) + 0.1
MANY = RNG.rand(6000, 16) * 50  # 0.7 MB
MEGABYTE = 2**20


@pytest.fixture(scope="module")
def cp(device: str) -> Any:
    """CuPy."""
    import cupy

    return cupy


@pytest.fixture
def limit(cp: Any) -> Iterator[Callable[[int], None]]:
    """limit(size): each device's pool has so many bytes, and nothing that earlier tests left there."""

    def limit_all(size: int) -> None:
        for number in range(cp.cuda.runtime.getDeviceCount()):
            with cp.cuda.Device(number):
                cp.get_default_memory_pool().free_all_blocks()
                cp.get_default_memory_pool().set_limit(size=size)

    yield limit_all
    limit_all(0)  # no limit


@pytest.fixture
def share(monkeypatch: pytest.MonkeyPatch) -> None:
    """Several devices share any data among them."""
    monkeypatch.setattr(dispatch, "PART", 100)


@pytest.fixture
def on_second(cp: Any) -> Callable[[np.ndarray], Any]:
    """on_second(array): on device 1, which is not the current one."""

    def put(array: np.ndarray) -> Any:
        with cp.cuda.Device(1):
            return cp.asarray(array)

    return put


def bits(model: Any) -> tuple[Any, ...]:
    labels, centers = model.labels_, model.cluster_centers_
    host = [np.asarray(a) if isinstance(a, np.ndarray) else a.get() for a in (labels, centers)]
    return *(a.tobytes() for a in host), model.inertia_, model.n_iter_


def fit(x: Any, device: str = "auto", sample_weight: Any = None, k: int = 7, **how: Any) -> Any:
    return KMeans(k, random_state=0, device=device, **how).fit(x, sample_weight=sample_weight)


# ---------------------------------------------------------------- CuPy's arrays


@pytest.mark.parametrize("dtype", ["float64", "float32", "float16", "uint8", "int64", "int32", "bool"])
def test_arrays_of_each_dtype_are_fitted_where_they_are(cp: Any, dtype: str) -> None:
    x = (X > 25).astype(dtype) if dtype == "bool" else X.astype(dtype)
    found = fit(cp.asarray(x))
    assert isinstance(found.labels_, cp.ndarray)
    assert bits(found) == bits(fit(x, "cpu")) == bits(fit(x, "cuda:0"))


def test_blocks_have_the_shared_memory_that_they_ask_for(cp: Any) -> None:
    wide = np.random.RandomState(1).rand(200, 190).astype(np.float32)  # 128 rows of which take 48 kB, and 8 more
    assert bits(fit(cp.asarray(wide), k=40, max_iter=3)) == bits(fit(wide, "cpu", k=40, max_iter=3))


def test_arrays_in_any_order_of_memory_have_the_same_answer(cp: Any) -> None:
    expected = bits(fit(X, "cpu"))
    assert bits(fit(cp.asarray(np.asfortranarray(X)))) == expected
    assert bits(fit(cp.asarray(np.repeat(X, 2, axis=1))[:, ::2])) == expected
    assert bits(fit(cp.asarray(np.repeat(X, 2, axis=0))[::2])) == expected
    assert bits(fit(cp.asarray(X)[100:])) == bits(fit(X[100:], "cpu"))


def test_arrays_of_other_libraries_on_the_device_come_without_a_copy(cp: Any, on_second: Callable) -> None:
    """By __cuda_array_interface__ and by DLPack, from a device that is not the current one."""
    x = on_second(X)
    interface = SimpleNamespace(__cuda_array_interface__=x.__cuda_array_interface__)

    class Exchanged:
        def __dlpack__(self, **how: Any) -> Any:
            return x.__dlpack__(**how)

        def __dlpack_device__(self) -> Any:
            return x.__dlpack_device__()

    for given in (interface, Exchanged()):
        assert bits(fit(given)) == bits(fit(X, "cpu"))


def test_weights_may_be_on_the_device(cp: Any) -> None:
    integers = RNG.randint(0, 4, len(X)).astype(np.float64)
    for weights in (WEIGHTS, integers):
        expected = bits(fit(X, "cpu", weights))
        assert bits(fit(cp.asarray(X), sample_weight=cp.asarray(weights))) == expected
        assert bits(fit(X, "cuda", weights)) == expected


def test_answers_after_a_fit_are_the_cpus(cp: Any) -> None:
    there, here = fit(cp.asarray(X)), fit(X, "cpu")
    others = X[::-1] + np.float32(0.5)
    assert np.array_equal(there.predict(cp.asarray(others)).get(), here.predict(others))
    assert np.array_equal(there.transform(cp.asarray(others)).get(), here.transform(others))
    assert there.score(cp.asarray(others)) == here.score(others)
    assert np.array_equal(there.predict(others), here.predict(others))


def test_distances_keep_the_smallest_numbers(cp: Any) -> None:
    """CuPy's own kernels are compiled with -ftz=true, and take float32 numbers below 2^-126 for zero."""
    x = np.array([[1], [2], [3], [40]], np.float32) * np.float32(2.0**-149)
    assert not cp.asarray(x).astype(np.float64).get().any(), "else the test shows nothing"
    model = KMeans(2, init=x[[0, 3]].copy(), n_init=1, max_iter=1)
    there, here = model.fit(cp.asarray(x)).transform(cp.asarray(x)).get(), model.fit(x).transform(x)
    assert here.any()
    assert there.tobytes() == here.tobytes()


def test_cosine_and_batches_of_rows_have_the_same_answer(cp: Any) -> None:
    assert bits(fit(cp.asarray(X), metric="cosine")) == bits(fit(X, "cpu", metric="cosine"))
    mini = [
        MiniBatchKMeans(5, random_state=0, batch_size=200, max_iter=3, device=device).fit(x)
        for device, x in (("cpu", X), ("cuda", X), ("auto", cp.asarray(X)))
    ]
    assert bits(mini[0]) == bits(mini[1]) == bits(mini[2])


def test_an_empty_cluster_moves_to_the_same_row(cp: Any) -> None:
    x = np.repeat(X[:320], 2, axis=0)
    assert bits(fit(cp.asarray(x), k=300, init="random")) == bits(fit(x, "cpu", k=300, init="random"))


@pytest.mark.parametrize("how", [{}, {"space": "rgb"}, {"dither": "bayer"}, {"dither": "floyd-steinberg"}])
def test_pictures_have_the_same_palette_and_indices(cp: Any, how: dict[str, str]) -> None:
    ramp = np.add.outer(np.arange(48), np.arange(64))[:, :, None] * np.array([1, 2, 3]) % 256
    picture = np.clip(ramp + RNG.randint(0, 30, ramp.shape), 0, 255).astype(np.uint8)
    here, there = (
        quantize(x, 8, random_state=0, device=device, **how)
        for device, x in (("cpu", picture), ("auto", cp.asarray(picture)))
    )
    assert isinstance(there.indices, cp.ndarray)
    assert np.array_equal(here.palette, there.palette)
    assert np.array_equal(here.indices, there.indices.get())
    assert here.psnr == there.psnr


def test_what_is_refused_is_refused_in_words(cp: Any) -> None:
    broken = X.copy()
    broken[77, 3] = np.nan
    for x in (cp.asarray(broken), broken):
        with pytest.raises(ValueError, match="NaN"):
            fit(x, "cuda")
    with pytest.raises(ValueError, match="Expected 2D array"):
        fit(cp.asarray(X)[:, 0])
    with pytest.raises(ValueError, match="minimum of 1"):
        fit(cp.zeros((0, 3)))
    with pytest.raises(ValueError, match="Complex"):
        fit(cp.zeros((10, 3), np.complex64))


# ---------------------------------------------------------------- memory


@pytest.mark.parametrize(
    ("dtype", "megabytes"), [("float64", 0.5), ("float64", 0.25), ("float32", 0.25), ("uint8", 0.06)]
)
def test_a_pool_under_a_limit_has_the_same_answer(
    limit: Callable[[int], None], caplog: pytest.LogCaptureFixture, dtype: str, megabytes: float
) -> None:
    x = MANY.astype(dtype)
    expected = bits(fit(x, "cpu", max_iter=2))
    limit(int(megabytes * MEGABYTE))
    caplog.set_level(logging.INFO)
    assert bits(fit(x, "cuda", max_iter=2)) == expected
    assert "Device memory is short" in caplog.text


def test_a_device_with_little_memory_has_the_same_answer(cp: Any, limit: Callable[[int], None]) -> None:
    expected = bits(fit(MANY, "cpu", max_iter=2))
    limit(0)
    machine().set_memory(MEGABYTE)
    try:
        assert bits(fit(MANY, "cuda", max_iter=2)) == expected
    finally:
        machine().set_memory(2**34)


def test_no_memory_at_all_is_told(limit: Callable[[int], None]) -> None:
    limit(1024)
    with pytest.raises(DeviceError, match=r"not even memory for one row: Out of memory .* bytes\)\. Free some"):
        fit(X, "cuda:0")
    limit(0)
    assert bits(fit(X, "cuda:0")) == bits(fit(X, "cpu"))


# ---------------------------------------------------------------- devices


@pytest.mark.parametrize("where", ["cuda:0", "cuda:1", "cuda:0,1", "cuda:1,0", "cuda:all"])
def test_any_devices_have_the_same_answer(share: None, cp: Any, on_second: Callable, where: str) -> None:
    for weights in (None, WEIGHTS):
        expected = bits(fit(X, "cpu", weights))
        for x in (X, cp.asarray(X), on_second(X)):
            found = fit(x, where, weights)
            assert bits(found) == expected
            assert isinstance(x, np.ndarray) or found.labels_.device == x.device
    assert cp.cuda.Device().id == 0


def test_answers_are_on_the_device_of_the_rows(cp: Any, on_second: Callable) -> None:
    x = on_second(X)
    model = fit(x)
    assert {model.labels_.device.id, model.cluster_centers_.device.id, model.predict(x).device.id} == {1}


def test_threads_fit_at_the_same_time(share: None) -> None:
    found: dict[int, Any] = {}
    devices = ["cuda:0", "cuda:1", "cuda:0", "cuda:all"]

    def one(i: int) -> None:
        found[i] = bits(fit(X, devices[i]))

    threads = [threading.Thread(target=one, args=(i,)) for i in range(len(devices))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [found[i] for i in range(len(devices))] == [bits(fit(X, "cpu"))] * len(devices)


# ---------------------------------------------------------------- streams


@pytest.fixture(params=[(order, 0) for order in ORDERS[1:4]] + [("shuffled", seed) for seed in range(1, 4)], ids=str)
def order(request: pytest.FixtureRequest) -> Machine:
    """Streams that do late, or now and then, what they are given."""
    machine().set_order(*request.param)
    return machine()


def test_streams_in_any_order_have_the_same_answer(order: Machine, cp: Any) -> None:
    for x, sample_weight in ((X, None), (X, WEIGHTS)):
        expected = bits(fit(x, "cpu", sample_weight))
        assert bits(fit(x, "cuda:0", sample_weight)) == expected
        assert bits(fit(cp.asarray(x), sample_weight=sample_weight)) == expected


def test_batches_are_there_before_they_are_read_whatever_the_order(
    order: Machine, limit: Callable[[int], None]
) -> None:
    expected = bits(fit(MANY, "cpu", max_iter=2))
    limit(MEGABYTE // 2)
    assert bits(fit(MANY, "cuda:0", max_iter=2)) == expected


def test_two_devices_in_any_order_have_the_same_answer(order: Machine, share: None, on_second: Callable) -> None:
    expected = bits(fit(X, "cpu"))
    assert bits(fit(X, "cuda:all")) == expected
    assert bits(fit(on_second(X), "cuda:0,1")) == expected


def test_a_stream_of_the_callers_has_the_same_answer(order: Machine, cp: Any) -> None:
    with cp.cuda.Stream(non_blocking=True):
        assert bits(fit(cp.asarray(X))) == bits(fit(X, "cpu"))


# ---------------------------------------------------------------- the machine


def test_kernels_of_cupys_own_run(cp: Any) -> None:
    """As they stand in CuPy, compiled by g++."""
    x, rows = RNG.rand(300, 3), RNG.randint(0, 300, 40)
    there = cp.asarray(x)
    assert np.array_equal(there[cp.asarray(rows)].get(), x[rows])
    assert np.array_equal(there[cp.asarray(x[:, 0] > 0.5)].get(), x[x[:, 0] > 0.5])
    assert np.array_equal(cp.ascontiguousarray(there.T).get(), x.T)
    for dtype in ("float32", "float16", "int64"):
        assert np.array_equal((there * 100).astype(dtype).get(), (x * 100).astype(dtype))
    assert int((there > 0.5).sum()) == (x > 0.5).sum()
    assert np.array_equal(cp.concatenate([there, there]).get(), np.concatenate([x, x]))


def test_memory_of_another_device_is_not_a_kernels(cp: Any, on_second: Callable) -> None:
    kernel = cp.RawKernel('extern "C" __global__ void two(double* x) { x[0] = 2; }', "two", options=("-DPLAIN",))
    kernel((1,), (1,), (x := cp.zeros(1),))
    assert x.get() == 2
    there = on_second(np.zeros(1))
    with pytest.raises(cp.cuda.driver.CUDADriverError, match="INVALID_VALUE"):
        kernel((1,), (1,), (there,))
    assert machine().complaints() == ["kernel two: the memory of argument 0 is another device's"]


def test_who_does_not_wait_finds_garbage(cp: Any) -> None:
    machine().set_order("late")
    x = cp.asarray(np.arange(4.0))
    answer = np.frombuffer(cp.cuda.alloc_pinned_memory(32), np.float64, 4)
    x.get(out=answer, blocking=False)
    assert set(answer.view(np.uint8)) == {0xA5}
    cp.cuda.get_current_stream().synchronize()
    assert answer.tolist() == [0, 1, 2, 3]


def test_a_stream_that_nobody_waits_for_is_late(cp: Any) -> None:
    machine().set_order("late-beside")
    x = cp.zeros(1)
    side = cp.cuda.Stream(non_blocking=True)
    with side:
        x.set(np.ones(1))
    assert x.get() == 0
    event = cp.cuda.Event()
    event.record(side)
    assert not event.done
    cp.cuda.get_current_stream().wait_event(event)
    assert x.get() == 1
    assert event.done


def test_what_cuda_has_and_the_machine_has_not_is_said(cp: Any) -> None:
    with pytest.raises(cp.cuda.runtime.CUDARuntimeError, match="NotSupported"):
        cp.cuda.runtime.mallocManaged(8)
    assert machine().complaints() == ["cudaMallocManaged is not here"]
