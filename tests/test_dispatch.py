"""Which device a fit runs on, and what is said where it cannot run there."""

from __future__ import annotations

import logging
import os
import subprocess
import sys
import types
from pathlib import Path

import numpy as np
import pytest

import gpukmeans
from gpukmeans import DeviceError, KMeans
from gpukmeans.engine import devices, dispatch
from gpukmeans.engine.numpy.points import NumPyPoints
from gpukmeans.engine.protocol import Samples

X = np.array([[0.0], [1.0], [9.0], [10.0]])


@pytest.fixture
def no_cupy(monkeypatch):
    """As on a machine without CuPy."""
    monkeypatch.setitem(sys.modules, "cupy", None)


def broken(source):
    """A fixture: a CuPy that imports like this."""

    @pytest.fixture
    def install(monkeypatch, tmp_path):
        (tmp_path / "cupy.py").write_text(source)
        monkeypatch.delitem(sys.modules, "cupy", raising=False)
        monkeypatch.syspath_prepend(tmp_path)
        yield
        sys.modules.pop("cupy", None)

    return install


# As CuPy 14 says it.
cupy_without_library = broken(
    """
try:
    raise ImportError("libcudart.so.13: cannot open shared object file: No such file or directory")
except ImportError as exc:
    raise ImportError(f'''
================================================================
Failed to import CuPy.

If you installed CuPy via wheels, make sure that the package matches with the version of CUDA or ROCm installed.

Original error:
  {type(exc).__name__}: {exc}
================================================================
''') from exc
"""
)


def cupy_that_counts(error, driver, runtime=13020):
    """A fixture: a CuPy whose count of devices is this error, with these versions of CUDA."""
    return broken(f"""
class CUDARuntimeError(RuntimeError):
    pass
class cuda:
    class runtime:
        def getDeviceCount():
            raise CUDARuntimeError({error!r})
        def driverGetVersion():
            return {driver}
        def runtimeGetVersion():
            return {runtime}
""")


INSUFFICIENT = "cudaErrorInsufficientDriver: CUDA driver version is insufficient for CUDA runtime version"
cupy_without_driver = cupy_that_counts(INSUFFICIENT, 0)
cupy_of_a_newer_cuda = cupy_that_counts(INSUFFICIENT, 12040)
cupy_of_a_much_newer_cuda = cupy_that_counts(INSUFFICIENT, 11080)
cupy_after_a_fork = cupy_that_counts("cudaErrorInitializationError: initialization error", 13020)
cupy_without_device = cupy_that_counts("cudaErrorNoDevice: no CUDA-capable device is detected", 13000)


def fallbacks(caplog):
    return [record for record in caplog.records if record.name.startswith("gpukmeans")]


# ---------------------------------------------------------------- names


def test_cpu(no_cupy):
    assert devices.resolve("cpu") == "cpu"
    assert isinstance(dispatch.make_points(Samples(X), device="cpu"), NumPyPoints)


@pytest.mark.parametrize(
    "name",
    [
        *("gpu", "CPU", "Auto", "cuda:", "cuda:x", "cuda:-1", "cuda0", "cpu:0", " cpu", "", "cpu\n"),
        *("cuda:0,", "cuda:,1", "cuda:0, 1", "cuda:0,cuda:1", "cuda:all,0", "all"),
    ],
)
def test_other_names_are_refused(no_cupy, name):
    with pytest.raises(ValueError, match="'auto', 'cpu', 'cuda', 'cuda:N', 'cuda:N,M' or 'cuda:all'") as caught:
        KMeans(2, device=name).fit(X)
    assert repr(name) in str(caught.value)


def test_the_public_names():
    estimators = {"BatchedKMeans", "KMeans", "MiniBatchKMeans", "Record", "load"}
    pictures = {"ImageError", "Quantized", "quantize", "remap"}
    functions = {"Estimate", "estimate", "k_means", "kmeans_plusplus", "register_onnx", "show_versions"}
    assert set(gpukmeans.__all__) == {"DeviceError", "__version__", *estimators, *pictures, *functions}
    assert issubclass(DeviceError, RuntimeError)


# ---------------------------------------------------------------- a GPU that is not there

MODES = ["fit", "predict", "transform", "score"]


@pytest.mark.parametrize("name", ["cuda", "cuda:0", "cuda:1"])
@pytest.mark.parametrize("method", MODES)
def test_cuda_without_cupy_names_cause_and_remedy(no_cupy, name, method):
    model = KMeans(2, random_state=0, device="cpu")
    if method != "fit":
        model.fit(X)
    before = vars(model).copy()
    with pytest.raises(DeviceError) as caught:
        getattr(model.set_params(device=name), method)(X)
    message = str(caught.value)
    assert repr(name) in message
    assert "CuPy does not import" in message
    assert "pip install 'gpukmeans[cuda13]'" in message
    assert "device='cpu'" in message
    assert {**vars(model), "device": "cpu"} == before


def test_cuda_with_a_broken_cupy_names_its_error(cupy_without_library):
    with pytest.raises(DeviceError, match="libcudart") as caught:
        KMeans(2, device="cuda").fit(X)
    assert "device='cpu'" in str(caught.value)


def test_cuda_without_a_device_names_cause_and_remedy(cupy_without_device):
    with pytest.raises(DeviceError, match="no CUDA-capable device") as caught:
        KMeans(2, device="cuda").fit(X)
    assert "nvidia-smi" in str(caught.value)
    assert "CUDA_VISIBLE_DEVICES" in str(caught.value)
    assert "device='cpu'" in str(caught.value)


@pytest.mark.parametrize(
    ("machine", "remedy"),
    [
        ("cupy_without_driver", r"No NVIDIA driver is found: install one, .* container .*, or use device='cpu'\."),
        ("cupy_of_a_newer_cuda", r"up to 12\.4, .* CuPy is for CUDA 13: update the driver, or .*\[cuda12\]', or use"),
        ("cupy_of_a_much_newer_cuda", r"up to 11\.8, .* CuPy is for CUDA 13: update the driver, or use device='cpu'\."),
    ],
)
def test_no_driver_and_an_old_one_are_told_apart(request, machine, remedy):
    """CUDA has the same error for both."""
    request.getfixturevalue(machine)
    with pytest.raises(DeviceError, match="cudaErrorInsufficientDriver.*" + remedy):
        KMeans(2, device="cuda").fit(X)


def test_cuda_that_was_there_before_a_fork_is_told_apart(cupy_after_a_fork):
    with pytest.raises(DeviceError, match=r"was forked from one that had used CUDA.*'spawn'.*, or use device='cpu'\.$"):
        KMeans(2, device="cuda").fit(X)


@pytest.mark.kernels
def test_a_child_forked_after_cuda_was_used_has_no_gpu():
    """Whatever was found out before. In a process of its own: the child shares all that stands in CuPy's place."""
    code = """
import os, sys
import numpy as np
from host_cuda.machine import as_cupy
from host_cuda.runtime import HostCuda
from gpukmeans import DeviceError, KMeans
from gpukmeans.engine import devices

sys.modules["cupy"] = as_cupy(HostCuda(build="fast"))
x = np.array([[0.0], [1.0], [9.0], [10.0]])


def in_a_child(*expected):
    child = os.fork()
    if child == 0:
        found = [devices.resolve("auto"), KMeans(2, random_state=0).fit(x).labels_.tobytes()]
        try:
            found.append(devices.resolve("cuda:0"))
        except DeviceError as error:
            found.append(str(error))
        os._exit(found[0] != expected[0] or found[1] != labels or expected[1] not in found[2])
    assert os.waitpid(child, 0)[1] == 0, expected


labels = KMeans(2, random_state=0, device="cpu").fit(x).labels_.tobytes()
in_a_child("cuda:0", "cuda:0")
assert devices.resolve("auto") == "cuda:0"
in_a_child("cpu", "device='cuda:0' cannot be used: This process was forked from one that had used CUDA")
assert KMeans(2, random_state=0).fit(x).labels_.tobytes() == labels, "the parent goes on"
"""
    folder = str(Path(__file__).parent)
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, env={**os.environ, "PYTHONPATH": folder}
    )
    assert done.returncode == 0, done.stderr


# ---------------------------------------------------------------- auto


@pytest.mark.parametrize(
    ("machine", "reason"),
    [
        ("no_cupy", "CuPy does not import"),
        ("cupy_without_library", "(ImportError: libcudart.so.13: cannot open"),
        ("cupy_without_driver", "No NVIDIA driver"),
        ("cupy_of_a_newer_cuda", "update the driver"),
        ("cupy_without_device", "no CUDA-capable device"),
    ],
)
def test_auto_falls_back_and_says_why_once(request, caplog, machine, reason):
    request.getfixturevalue(machine)
    with caplog.at_level(logging.INFO, "gpukmeans"):
        model = KMeans(2, random_state=0).fit(X)
        model.predict(X)
        KMeans(2, random_state=1).fit(X)
    (record,) = fallbacks(caplog)
    assert record.levelno == logging.INFO
    assert "NumPy" in record.getMessage()
    assert reason in record.getMessage()
    assert len(record.getMessage().splitlines()) == 1
    assert sorted(model.cluster_centers_.ravel().tolist()) == [0.5, 9.5]


def test_auto_is_the_default(no_cupy):
    assert KMeans().device == "auto"
    assert devices.resolve("auto") == "cpu"


def test_cpu_neither_imports_cupy_nor_logs(monkeypatch, caplog):
    """A module that complains of every look at it, but for the type by which its arrays are known."""

    class Watched(types.ModuleType):
        ndarray = type("ndarray", (), {})

        def __getattr__(self, name):
            raise AssertionError(f"looked at cupy.{name}")

    monkeypatch.setitem(sys.modules, "cupy", Watched("cupy"))
    with caplog.at_level(logging.DEBUG, "gpukmeans"):
        KMeans(2, random_state=0, device="cpu").fit(X).predict(X)
    assert not fallbacks(caplog)


def test_importing_gpukmeans_does_not_import_cupy():
    code = (
        "import sys; sys.modules['cupy'] = None; import gpukmeans; print(sorted(m for m in sys.modules if 'cupy' in m))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "['cupy']\n"
    code = (
        "import sys, gpukmeans; print([m for m in sys.modules if m.split('.')[0] in ('cupy', 'pynvml', 'matplotlib')])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"


# ---------------------------------------------------------------- the environment variable


def test_the_variable_takes_the_place_of_auto(no_cupy, monkeypatch, caplog):
    monkeypatch.setenv("GPUKMEANS_DEVICE", "cpu")
    with caplog.at_level(logging.INFO, "gpukmeans"):
        KMeans(2, random_state=0).fit(X)
    assert not fallbacks(caplog)
    monkeypatch.setenv("GPUKMEANS_DEVICE", "cuda:3")
    with pytest.raises(DeviceError, match="cuda:3"):
        KMeans(2).fit(X)


@pytest.mark.parametrize("value", ["", "auto"])
def test_a_variable_that_says_nothing(no_cupy, monkeypatch, value):
    monkeypatch.setenv("GPUKMEANS_DEVICE", value)
    assert devices.resolve("auto") == "cpu"


def test_the_variable_does_not_override_an_argument(no_cupy, monkeypatch):
    monkeypatch.setenv("GPUKMEANS_DEVICE", "cuda")
    assert KMeans(2, random_state=0, device="cpu").fit(X).n_iter_ >= 1
    monkeypatch.setenv("GPUKMEANS_DEVICE", "cpu")
    with pytest.raises(DeviceError):
        KMeans(2, device="cuda").fit(X)


def test_a_bad_variable_is_named(no_cupy, monkeypatch):
    monkeypatch.setenv("GPUKMEANS_DEVICE", "gpu0")
    with pytest.raises(ValueError, match="GPUKMEANS_DEVICE") as caught:
        KMeans(2).fit(X)
    assert "'gpu0'" in str(caught.value)
