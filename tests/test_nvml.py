"""What is asked of NVML, of a driver that stands in for NVIDIA's; and that the real module has what is asked for."""

from __future__ import annotations

import importlib
import sys
from types import SimpleNamespace

import pytest

from gpukmeans import environment
from gpukmeans.engine import nvml


class NVMLError(Exception):
    pass


def refuse(handle):
    raise NVMLError("Not Supported")


@pytest.fixture
def driver(monkeypatch):
    """A machine with two GPUs, of which NVML's first is CUDA's second, and the second tells little."""
    buses = ["00000000:65:00.0", "00000000:1A:00.0"]
    state = SimpleNamespace(open=0)

    def only_first(value):
        return lambda handle: value if handle == 0 else refuse(handle)

    def opening(step):
        def change():
            state.open += step

        return change

    fake = SimpleNamespace(
        NVMLError=NVMLError,
        nvmlInit=opening(1),
        nvmlShutdown=opening(-1),
        nvmlSystemGetDriverVersion=lambda: b"580.1",
        nvmlDeviceGetCount=lambda: 2,
        nvmlDeviceGetHandleByIndex=lambda i: i,
        nvmlDeviceGetHandleByPciBusId=lambda bus: [nvml.place(known) for known in buses].index(nvml.place(bus)),
        nvmlDeviceGetName=lambda handle: ["NVIDIA H200", b"GRID"][handle],
        nvmlDeviceGetPciInfo=lambda handle: SimpleNamespace(busId=buses[handle]),
        nvmlDeviceGetMemoryInfo=lambda handle: SimpleNamespace(total=140 * 2**30, free=(35 + handle) * 2**30),
        nvmlDeviceGetCudaComputeCapability=only_first((9, 0)),
        nvmlDeviceGetPowerUsage=only_first(75_400),
        nvmlDeviceGetEnforcedPowerLimit=only_first(700_000),
        nvmlDeviceGetUtilizationRates=only_first(SimpleNamespace(gpu=3)),
        nvmlDeviceGetTotalEnergyConsumption=only_first(1500),
        nvmlDeviceGetMigMode=only_first([0, 1]),
    )
    monkeypatch.setitem(sys.modules, "pynvml", fake)
    yield fake
    assert state.open == 0, "what was opened was shut"


def test_the_real_module_has_what_is_asked_for(driver):
    asked = set(vars(driver))
    sys.modules.pop("pynvml")
    assert asked <= set(dir(importlib.import_module("pynvml")))


def test_gpus(driver):
    first, second = nvml.gpus()
    assert str(first) == "NVIDIA H200, compute capability 9.0, 35.0 of 140.0 GiB free, 75 of 700 W, 3 % busy"
    assert str(second) == "GRID, 36.0 of 140.0 GiB free"
    assert nvml.driver() == "580.1"


def test_a_gpu_that_is_lost_hides_no_other(driver):
    driver.nvmlDeviceGetHandleByIndex = lambda i: refuse(i) if i == 0 else i
    assert [gpu.name for gpu in nvml.gpus()] == ["GRID"]


def test_a_gpu_that_tells_nothing_hides_no_other(driver):
    """One that was lost after its handle was found."""
    for name, ask in vars(driver).items():
        if name.startswith("nvmlDeviceGet") and name not in ("nvmlDeviceGetCount", "nvmlDeviceGetHandleByIndex"):
            setattr(driver, name, lambda handle, ask=ask: refuse(handle) if handle == 0 else ask(handle))
    lost, other = nvml.gpus()
    assert str(lost) == "one that NVML cannot name"
    assert str(other) == "GRID, 36.0 of 140.0 GiB free"


def test_free_memory_and_energy(driver):
    assert nvml.free_memory("0000:1a:00.0") == 36 * 2**30
    driver.nvmlDeviceGetMigMode = lambda handle: [1, 1]
    assert nvml.free_memory("0000:1a:00.0") is None, "of a GPU in several parts"
    assert nvml.energy("0000:65:00.0") == 1.5
    assert nvml.energy("0000:1A:00.0") is None


def test_info_lists_the_gpus_by_cudas_numbers(driver, monkeypatch):
    runtime = SimpleNamespace(
        getDeviceCount=lambda: 2,
        deviceGetPCIBusId=lambda i: ["0000:1a:00.0", "0000:65:00.0"][i],
        runtimeGetVersion=lambda: 12090,
        driverGetVersion=lambda: 13020,
    )
    cupy = SimpleNamespace(__version__="14.2.0", cuda=SimpleNamespace(runtime=runtime))
    monkeypatch.setitem(sys.modules, "cupy", cupy)
    assert [line[0] for line in environment._gpu_software()] == [
        *("cuda:1", "cuda:0", "NVIDIA driver", "CuPy", "CUDA runtime", "CUDA driver")
    ]
    monkeypatch.setitem(sys.modules, "cupy", None)
    assert [line[0] for line in environment._gpu_software()] == ["GPU", "GPU", "NVIDIA driver"]


def cuda(monkeypatch, *places):
    """A CuPy that knows GPUs in these places; one that is None is lost."""

    def place_of(i):
        if places[i] is None:
            raise RuntimeError("cudaErrorDeviceUninitialized: invalid device context")
        return places[i]

    runtime = SimpleNamespace(getDeviceCount=lambda: len(places), deviceGetPCIBusId=place_of)
    monkeypatch.setitem(sys.modules, "cupy", SimpleNamespace(cuda=SimpleNamespace(runtime=runtime)))


def test_info_keeps_the_names_of_gpus_beside_one_that_is_lost(driver, monkeypatch):
    cuda(monkeypatch, "0000:1a:00.0", None, "0000:65:00.0")
    assert environment._gpus() == [
        ("cuda:2", "NVIDIA H200, compute capability 9.0, 35.0 of 140.0 GiB free, 75 of 700 W, 3 % busy"),
        ("cuda:0", "GRID, 36.0 of 140.0 GiB free"),
        ("cuda:1", "NVML does not tell more of it (it does not know it)"),
    ]
    driver.nvmlDeviceGetHandleByIndex = lambda i: refuse(i) if i == 0 else i
    cuda(monkeypatch, "0000:1a:00.0", "0000:65:00.0")
    assert [line[0] for line in environment._gpus()] == ["cuda:0", "cuda:1"], "which CUDA still counts"


def test_info_lists_all_parts_of_a_gpu(driver, monkeypatch):
    """CUDA's devices in one place (MIG)."""
    cuda(monkeypatch, "0000:65:00.0", "0000:65:00.0", "0000:1a:00.0")
    assert [line[0] for line in environment._gpus()] == ["cuda:0, cuda:1", "cuda:2"]


def test_info_names_the_gpus_that_only_cuda_knows(driver, monkeypatch):
    def shut():
        raise NVMLError("Driver/library version mismatch")

    driver.nvmlInit = shut
    cuda(monkeypatch, "0000:1a:00.0")
    (line,) = environment._gpu_software()
    assert line == ("cuda:0", "NVML does not tell more of it (NVMLError: Driver/library version mismatch)")


@pytest.mark.parametrize("module", [None, SimpleNamespace(nvmlInit=lambda: 1 / 0)])
def test_info_without_a_driver_says_nothing_of_it(module, monkeypatch):
    monkeypatch.setitem(sys.modules, "pynvml", module)
    monkeypatch.setitem(sys.modules, "cupy", None)
    assert environment._gpu_software() == []
