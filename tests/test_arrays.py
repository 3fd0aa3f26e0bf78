"""Arrays of other libraries, on the host and on a GPU: the same bits, without a copy, and the same kind back.

The GPU is a CPU that runs the kernels, with an object in CuPy's place; see test_kernels.py.
"""

from __future__ import annotations

import copy
import importlib.util
import pickle
import subprocess
import sys
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from host_cuda.machine import as_cupy
from host_cuda.runtime import HostArray, HostCuda
from sklearn.exceptions import NotFittedError

from gpukmeans import DeviceError, KMeans, MiniBatchKMeans, array_interop, load, quantize

X = np.random.default_rng(0).normal(20, 5, (120, 3)).astype(np.float32)


class Tensor:
    """An array of a library named torch, which knows DLPack and nothing of NumPy."""

    def __init__(self, data):
        self.data = data

    def __dlpack_device__(self):
        return (2, 0) if isinstance(self.data, HostArray) else (1, 0)

    def __dlpack__(self, **how):
        return self.data if isinstance(self.data, HostArray) else self.data.__dlpack__(**how)


Tensor.__module__ = "torch"


@pytest.fixture
def torch(monkeypatch):
    monkeypatch.setitem(sys.modules, "torch", SimpleNamespace(from_dlpack=Tensor))
    return Tensor


@pytest.fixture
def cupy(monkeypatch):
    """CuPy on a machine with two GPUs; its arrays are on the first."""
    host = HostCuda(seed=1)
    module = as_cupy(host, HostCuda(seed=1))
    module.host = host
    monkeypatch.setitem(sys.modules, "cupy", module)
    return module


def fitted(x, **parameters):
    return KMeans(4, **{"random_state": 0, "max_iter": 5, **parameters}).fit(x)


@pytest.fixture(scope="session")
def expected():
    return fitted(X, device="cpu")


def bits(array):
    return (array.get() if isinstance(array, HostArray) else np.asarray(array)).tobytes()


def same(model, expected, x, kind, unwrap=lambda array: array):
    """The model's answers are the expected ones, and of a kind."""
    for name in ("cluster_centers_", "labels_"):
        assert type(getattr(model, name)) is kind, name
        assert bits(unwrap(getattr(model, name))) == getattr(expected, name).tobytes(), name
    assert (model.inertia_, model.n_iter_) == (expected.inertia_, expected.n_iter_)
    for method in ("predict", "transform", "fit_predict", "fit_transform"):
        answer = getattr(copy.copy(model), method)(x)
        assert type(answer) is kind, method
        assert bits(unwrap(answer)) == getattr(copy.copy(expected), method)(X).tobytes(), method
    assert model.score(x) == expected.score(X)


def fitted_in_batches(x, part, **parameters):
    model = MiniBatchKMeans(4, **{"random_state": 0, "max_iter": 2, "batch_size": 50, **parameters})
    return model.fit(x, sample_weight=np.arange(120) % 3).partial_fit(part)


# ---------------------------------------------------------------- on the host


@pytest.mark.parametrize(("library", "module"), [("jax", "jax.numpy"), ("torch", "torch")])
@pytest.mark.slow
def test_libraries_as_they_are(library, module):
    """In a process of its own: JAX starts threads, and warns of every fork from then on."""
    if importlib.util.find_spec(library) is None:
        pytest.skip(f"{library} is not installed")
    code = (
        f"import {module} as library, numpy as np"
        + """
from gpukmeans import KMeans, MiniBatchKMeans, array_interop as arrays, quantize
X = np.random.default_rng(0).normal(20, 5, (120, 3)).astype(np.float32)
x, kind = library.asarray(X), type(library.zeros(1))
expected = KMeans(4, random_state=0, device="cpu").fit(X)
for model, data in (
    (KMeans(4, random_state=0, device="cpu").fit(x), x),
    (KMeans(4, random_state=0, device="cpu", output_type=library.__name__.partition(".")[0]).fit(X), X),
):
    answers = [model.cluster_centers_, model.labels_, model.predict(data), model.transform(data)]
    assert all(type(answer) is kind for answer in answers)
    known = [expected.cluster_centers_, expected.labels_, expected.predict(X), expected.transform(X)]
    assert [np.asarray(answer).tobytes() for answer in answers] == [answer.tobytes() for answer in known]
    assert model.score(data) == expected.score(X)
x = library.asarray(np.concatenate([X, np.full((5, 3), 1e-39, np.float32)]), dtype=library.bfloat16)
model, expected = (KMeans(4, random_state=0, device="cpu").fit(rows) for rows in (x, arrays.to_numpy(x)))
assert arrays.to_numpy(x)[-1, 0] > 0 and arrays.to_numpy(x).dtype == np.float32
assert np.asarray(model.cluster_centers_).tobytes() == expected.cluster_centers_.tobytes()
assert np.asarray(model.transform(x)).tobytes() == expected.transform(arrays.to_numpy(x)).tobytes()
weights = library.asarray(np.arange(125) % 4, dtype=library.bfloat16)
for metric in ("euclidean", "cosine"):
    how = {"n_init": 1, "metric": metric, "random_state": 0, "device": "cpu"}
    model = MiniBatchKMeans(4, init=x[:4], **how).fit(x, sample_weight=weights).partial_fit(x, sample_weight=weights)
    rows, counts = arrays.to_numpy(x), arrays.to_numpy(weights)
    expected = MiniBatchKMeans(4, init=rows[:4], **how).fit(rows, sample_weight=counts)
    expected.partial_fit(rows, sample_weight=counts)
    answers = [model.cluster_centers_, model.labels_, model.predict(x), model.transform(x)]
    assert all(type(answer) is kind for answer in answers) and answers[0].dtype == answers[3].dtype == library.float32
    known = [expected.cluster_centers_, expected.labels_, expected.predict(rows), expected.transform(rows)]
    assert [np.asarray(answer).tobytes() for answer in answers] == [answer.tobytes() for answer in known]
    assert model.score(x, sample_weight=weights) == expected.score(rows, sample_weight=counts)
    model.cluster_centers_ = library.asarray(model.cluster_centers_, dtype=library.bfloat16)
    assert type(model.predict(x)) is kind
picture = library.asarray(np.random.default_rng(0).random((9, 8, 3)), dtype=library.bfloat16)
found, expected = quantize(picture, 4, device="cpu"), quantize(arrays.to_numpy(picture), 4, device="cpu")
assert type(found.indices) is kind and np.asarray(found.indices).tobytes() == expected.indices.tobytes()
"""
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_arrays_without_access_to_their_memory_are_refused(torch, monkeypatch):
    def refuse(self, **how):
        raise BufferError("Can't export tensors that require gradient")

    monkeypatch.setattr(Tensor, "__dlpack__", refuse)
    with pytest.raises(TypeError, match=r"torch.Tensor cannot be read: Can't export .* outside the recording of grad"):
        fitted(torch(X), device="cpu")


@pytest.mark.parametrize(
    "refusal",
    [
        BufferError("__dlpack__ device only supported for unsharded arrays"),
        RuntimeError("Array has been deleted"),
        NotImplementedError("no such device"),
        TypeError("a tensor of a subclass"),
        ValueError("Unknown device type meta for Dlpack"),
    ],
    ids=lambda error: type(error).__name__,
)
def test_arrays_that_do_not_say_where_they_are_are_refused(torch, monkeypatch, expected, refusal):
    """JAX's on several devices do not, nor torch's on none, as those of "meta"."""

    def refuse(self):
        raise refusal

    monkeypatch.setattr(Tensor, "__dlpack_device__", refuse)
    model = copy.copy(expected)
    calls = [
        lambda: fitted(torch(X), device="cpu"),
        lambda: model.fit(X, sample_weight=torch(X[:, 0])),
        lambda: model.predict(torch(X)),
        lambda: fitted_in_batches(torch(X), torch(X[:30]), device="cpu"),
        lambda: quantize(torch(X.reshape(30, 4, 3)), 4, device="cpu"),
    ]
    for call in calls:
        with pytest.raises(
            TypeError, match=rf"torch.Tensor cannot be read: {refusal}\. .* on a single device"
        ) as caught:
            call()
        assert caught.value.__cause__ is refusal


def test_a_library_that_knows_only_dlpack(torch, expected):
    same(fitted(torch(X), device="cpu"), expected, torch(X), torch, lambda tensor: tensor.data)


@pytest.mark.kernels
def test_batches_on_the_host_and_on_a_gpu(torch, cupy):
    expected = fitted_in_batches(X, X[:30], device="cpu")
    kinds = [
        (lambda x: x, torch, torch, lambda tensor: tensor.data),
        (cupy.asarray, lambda x: x, HostArray, lambda array: array),
    ]
    for here, wrap, kind, unwrap in kinds:
        model = fitted_in_batches(wrap(here(X)), wrap(here(X[:30])))
        for name in ("cluster_centers_", "labels_"):
            assert type(getattr(model, name)) is kind, name
            assert bits(unwrap(getattr(model, name))) == getattr(expected, name).tobytes(), name
        assert (model.inertia_, model.n_steps_) == (expected.inertia_, expected.n_steps_)
    named = fitted_in_batches(torch(X), torch(X[:30]), output_type="numpy", device="cpu")
    assert type(named.labels_) is np.ndarray


def test_host_arrays_are_not_copied(torch):
    assert np.shares_memory(array_interop.as_array(torch(X)), X)
    assert array_interop.as_array(X) is X


def test_tables_give_numpy(expected):
    for table in (pd.DataFrame(X, columns=list("abc")), pa.table(dict(zip("abc", X.T, strict=True)))):
        model = fitted(table, device="cpu")
        assert model.feature_names_in_.tolist() == ["a", "b", "c"]
        for labels in (model.labels_, model.predict(table), model.fit_predict(table)):
            assert type(labels) is np.ndarray
            assert labels.tobytes() == expected.labels_.tobytes()


@pytest.mark.parametrize("output_type", ["numpy", "torch"])
def test_another_kind_may_be_asked_for(torch, expected, output_type):
    kind = {"numpy": np.ndarray, "torch": torch}[output_type]
    model = fitted(X, device="cpu", output_type=output_type)
    same(model, expected, X, kind, lambda array: getattr(array, "data", array) if kind is torch else array)


def test_an_unknown_kind_is_refused():
    with pytest.raises(ValueError, match="'output_type' parameter of KMeans"):
        fitted(X, output_type="list")


# ---------------------------------------------------------------- on a GPU


@pytest.mark.kernels
def test_cupy_arrays_stay_where_they_are(cupy, expected):
    x = cupy.asarray(X)
    model = fitted(x)
    same(model, expected, x, HostArray)
    assert cupy.entered, "a GPU was chosen"
    assert set(cupy.entered) == {0}, "the one that the array is on, of two"
    x = cupy.asarray(np.tile(X, (30, 1)))
    cupy.host.bytes_uploaded = cupy.host.bytes_downloaded = cupy.host.peak_bytes = 0
    before = cupy.host.used_bytes
    labels = fitted(x, init=x[:4], n_init=1).predict(x)
    assert labels.shape == (len(x),)
    assert cupy.host.bytes_uploaded + cupy.host.bytes_downloaded < 4 * len(x), "nothing of size n crosses the bus"
    assert cupy.host.peak_bytes - before < 12 * len(x) + 1000, "12 bytes a row: three arrays of labels, no second x"


@pytest.mark.kernels
@pytest.mark.parametrize("dtype", ["uint8", "float16", "float64", "int32", "bool"])
def test_cupy_dtypes(cupy, dtype):
    x = np.rint(X).astype(dtype) if dtype != "bool" else X > 20
    model, expected = fitted(cupy.asarray(x)), fitted(x, device="cpu")
    assert bits(model.cluster_centers_) == expected.cluster_centers_.tobytes()
    assert model.cluster_centers_.dtype == expected.cluster_centers_.dtype
    assert bits(model.labels_) == expected.labels_.tobytes()


@pytest.mark.kernels
def test_what_stands_for_an_array_on_a_gpu_has_no_size(cupy):
    """Nor has what is validated, in whatever dtype it is to be read."""
    for dtype, read in (("int32", "float64"), ("float32", "float32"), ("uint8", "uint8"), ("complex64", "complex64")):
        found = array_interop.validation_proxy(cupy.asarray(np.ones((9, 2), dtype)))
        assert (found.shape, found.strides, found.dtype) == ((9, 2), (0, 0), read)


@pytest.mark.kernels
@pytest.mark.parametrize("dtype", ["int64", "int32", "bool", "float16", "uint8"])
def test_no_array_on_a_gpu_is_validated_by_a_copy_on_the_host(cupy, peak, dtype):
    """Nor by one of another dtype, which for integers had eight bytes a value."""
    fitted(cupy.asarray(X))  # compiles, and imports
    x = cupy.asarray(np.ones((2**16, 16), dtype))
    before = cupy.host.bytes_downloaded
    assert peak(lambda: KMeans(2)._validated(array_interop.validation_proxy(x), True)) < 2**16
    assert cupy.host.bytes_downloaded == before


@pytest.mark.kernels
def test_dlpack_on_a_gpu(cupy, torch, expected):
    x = torch(cupy.asarray(X))
    same(fitted(x), expected, x, torch, lambda tensor: tensor.data)


@pytest.mark.kernels
def test_the_cuda_array_interface(cupy, expected):
    class Foreign:
        def __init__(self, array):
            self.__cuda_array_interface__ = {"data": (array, False), "shape": array.shape}

    x = Foreign(cupy.asarray(X))
    same(fitted(x), expected, x, HostArray)
    same(fitted(x, output_type="numpy"), expected, x, np.ndarray)


@pytest.mark.kernels
def test_weights_and_starts_on_a_gpu(cupy):
    weights = np.arange(120) % 3  # some weigh nothing
    x, expected = cupy.asarray(X), fitted(X, device="cpu", init=X[:4], n_init=1).fit(X, sample_weight=weights)
    model = fitted(x, init=x[:4], n_init=1).fit(x, sample_weight=cupy.asarray(weights))
    assert bits(model.cluster_centers_) == expected.cluster_centers_.tobytes()
    assert bits(model.labels_) == expected.labels_.tobytes()
    called = fitted(x, init=lambda X, k, random_state: X[:k], n_init=1)
    assert bits(called.labels_) == fitted(X, device="cpu", init=X[:4], n_init=1).labels_.tobytes()


@pytest.mark.kernels
@pytest.mark.parametrize("device", ["cpu", "cuda:1"])
def test_a_device_asked_for_elsewhere_gets_the_data(cupy, expected, device):
    x = cupy.asarray(X)
    same(fitted(x, device=device), expected, x, HostArray)
    assert device == "cpu" or 1 in cupy.entered


@pytest.mark.kernels
def test_too_little_memory_beside_the_array_gives_the_same_answer(cupy, expected):
    x = cupy.asarray(X)
    cupy.host.total_bytes = cupy.host.used_bytes + 1100
    model = KMeans(4, random_state=0, max_iter=5, output_type="numpy").fit(x)
    assert model.labels_.tobytes() == expected.labels_.tobytes()


@pytest.mark.kernels
def test_errors_are_those_of_the_host(cupy):
    model = fitted(X, device="cpu")
    bad = X.copy()
    bad[7, 1] = np.nan
    for x in (bad, np.where(np.isnan(bad), np.inf, bad), X[0], X[None], X[:3], X[:0], X[:, :0], X.astype(complex)):
        with pytest.raises(ValueError, match=r"Input|Expected|Found|n_samples|Complex") as there:
            fitted(cupy.asarray(x))
        with pytest.raises(ValueError, match=r".") as here:
            fitted(x, device="cpu")
        assert str(there.value).split("\n")[0] == str(here.value).split("\n")[0]
    with pytest.raises(ValueError, match="2 features, but KMeans is expecting 3"):
        model.predict(cupy.asarray(X[:, :2].copy()))
    with pytest.raises(NotFittedError):
        KMeans(2).predict(cupy.asarray(X))


@pytest.mark.kernels
def test_a_model_fitted_on_a_gpu_loads_without_one(cupy, expected, monkeypatch, tmp_path):
    model = fitted(cupy.asarray(X), device="cuda")
    data = pickle.dumps(model)
    model.save(tmp_path / "model.npz")
    monkeypatch.setitem(sys.modules, "cupy", None)
    for loaded in (pickle.loads(data), load(tmp_path / "model.npz")):
        same(loaded.set_params(device="cpu"), expected, X, np.ndarray)


def test_an_array_on_a_gpu_without_cupy_is_refused(torch, monkeypatch):
    tensor = torch(X)
    monkeypatch.setattr(Tensor, "__dlpack_device__", lambda self: (2, 0))
    monkeypatch.setitem(sys.modules, "cupy", None)
    with pytest.raises(DeviceError, match=r"needs CuPy.*gpukmeans\[cuda13\]"):
        fitted(tensor)
