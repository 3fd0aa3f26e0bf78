"""benchmarks/gpu.py runs, on kernels that a CPU runs, and says what it says; how long anything takes is not tested."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from host_cuda import streams
from host_cuda.machine import as_cupy
from host_cuda.runtime import HostCuda, MemoryPointer
from PIL import Image

from gpukmeans.engine import dispatch

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"

pytestmark = [pytest.mark.kernels, pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")]


@pytest.fixture
def machine(monkeypatch, imported_anew):
    """A machine with a GPU, as far as gpu.py asks; whatever is timed by events takes two milliseconds."""
    host = HostCuda(seed=1, memory=2**26)
    cupy = as_cupy(host)
    clock = SimpleNamespace(now=0.0)

    class Event(streams.Event):
        def __init__(self):
            super().__init__(host.streams)

        def record(self, stream=None):
            clock.now += 1
            self.time = clock.now
            super().record(stream)

    cupy.__version__ = "14.2.0"
    cupy.cuda.Event = Event
    cupy.cuda.get_elapsed_time = lambda begin, end: 2 * (end.time - begin.time)
    pool = SimpleNamespace(free_all_blocks=lambda: None, total_bytes=lambda: host.peak_bytes)
    cupy.get_default_memory_pool = lambda: pool
    vars(cupy.cuda.runtime).update(
        getDeviceProperties=lambda number: {"name": b"A GPU"},
        runtimeGetVersion=lambda: 13020,
        driverGetVersion=lambda: 13020,
    )
    monkeypatch.setattr(MemoryPointer, "copy_from_device_async", lambda self, source, size: None, raising=False)
    monkeypatch.setitem(sys.modules, "cupy", cupy)
    for name in ("torch", "flash_kmeans"):
        monkeypatch.setitem(sys.modules, name, None)
    imported_anew(BENCHMARKS, "gpu", "common.gpu_libraries")
    return cupy


def test_a_report(machine, monkeypatch, tmp_path, capsys):
    import gpu

    path = tmp_path / "new" / "gpu.json"
    monkeypatch.setattr(dispatch, "make_starts", lambda *given, device: None)  # as of what is not small
    monkeypatch.setattr(gpu, "ENERGY_SECONDS", 0.0)
    monkeypatch.setattr(sys, "argv", ["gpu.py", "--workloads", "small", "--repeats", "2", "--json", str(path)])
    gpu.main()
    printed = capsys.readouterr().out
    kept = json.loads(path.read_text())
    assert (kept["kind"], kept["device"]["name"], kept["repeats"]) == ("gpu", "A GPU", 2)
    assert "flash-kmeans" in kept["not_installed"]
    (workload,) = kept["workloads"]
    assert (workload["n"], workload["d"], workload["k"], workload["input_bytes"]) == (600, 3, 4, 7200)
    ours, theirs = (workload["libraries"][name] for name in ("gpukmeans", "scikit-learn (CPU)"))
    np.testing.assert_allclose(ours["summary"]["inertia"], theirs["summary"]["inertia"], rtol=1e-6)
    assert len(ours["iteration"]) == len(ours["whole"]) == len(ours["from_host"]) == len(ours["seeded"]) == 2
    assert ours["iterations"] == theirs["iterations"]
    launched = {"assign_low_dim", "refine", "inertia", "feature_range", "filtered_potentials", "find"}
    assert launched <= set(ours["kernels"])
    assert ours["kernels"]["refine"]["milliseconds"] == 2.0
    assert ours["kernels"]["refine"]["times_its_floor"] == 2.0 / ours["kernels"]["refine"]["floor_milliseconds"]
    assert "| small 600x3, k=4, float32 | gpukmeans |" in printed
    assert "| small | refine |" in printed

    import report

    assert report.markdown(kept) + "\n" == printed
    text = "before\n<!-- gpu benchmark -->\nold\n<!-- /gpu benchmark -->\nafter\n"
    assert report.replaced(text, kept) == text.replace("old", report.markdown(kept))
    with pytest.raises(ValueError, match="<!-- gpu benchmark -->"):
        report.replaced("nothing", kept)
    cpu = json.loads(next((BENCHMARKS / "results").glob("cpu-*.json")).read_text())
    report.plot([cpu, kept], tmp_path / "plot.png")
    with Image.open(tmp_path / "plot.png") as image:
        assert image.size[0] == 1350


def test_without_a_gpu_it_says_so(monkeypatch):
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    import gpu

    monkeypatch.setattr("gpukmeans.engine.devices.why_no_gpu", lambda: "there is none")
    monkeypatch.setattr(sys, "argv", ["gpu.py"])
    with pytest.raises(SystemExit, match="nothing to measure on: there is none"):
        gpu.main()
    monkeypatch.setattr(sys, "argv", ["gpu.py", "--workloads", "small,rings"])
    with pytest.raises(SystemExit, match="2"):
        gpu.main()


def test_floors(monkeypatch):
    """A device that copies 1 GB/s, and has a single multiprocessor of 1 GHz."""
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    from common import floors

    device = floors.Device("A GPU", 1e9, 1e9, 1024)
    n = 10**6
    assert floors.feature_range_seconds(device, n, 3, 4) == 0.012
    assert floors.refine_seconds(device, n) == 0.008
    # Few centers: 16 bytes a row. Many: four instructions of 64 a clock; with many features, 128 multiply-adds a clock.
    assert floors.assign_seconds(device, n, 3, 1, 4) == 0.016
    assert floors.assign_seconds(device, n, 3, 1024, 4) == pytest.approx(n * 1024 / 16 / 1e9)
    assert floors.assign_seconds(device, n, 128, 1024, 4) == pytest.approx(n * 1024 / 1e9)
    # Three products of 128 features at 1,024 a clock; two for bytes.
    assert floors.assign_tensor_seconds(device, n, 128, 1024, 2) == pytest.approx(n * 1024 * 3 / 8 / 1e9)
    assert floors.assign_tensor_seconds(device, n, 128, 1024, 1) == pytest.approx(n * 1024 * 2 / 8 / 1e9)
    assert floors.assign_half_seconds(device, n, 128, 8192, 2) == pytest.approx(n * 8192 / 8 / 1e9)


def test_some_libraries_alone(machine, monkeypatch, tmp_path, capsys):
    import gpu

    path = tmp_path / "gpu.json"
    monkeypatch.setattr(gpu, "ENERGY_SECONDS", 0.0)
    command = ["gpu.py", "--workloads", "small", "--repeats", "1", "--json", str(path), "--libraries"]
    monkeypatch.setattr(sys, "argv", [*command, "gpukmeans,flash-kmeans"])
    gpu.main()
    kept = json.loads(path.read_text())
    assert kept["command"].endswith("--workloads small --repeats 1 --libraries gpukmeans,flash-kmeans")
    assert (list(kept["workloads"][0]["libraries"]), list(kept["not_installed"])) == (["gpukmeans"], ["flash-kmeans"])
    assert "scikit-learn (CPU)" not in capsys.readouterr().out
    monkeypatch.setattr(sys, "argv", [*command, "plain CuPy"])
    with pytest.raises(SystemExit, match="2"):
        gpu.main()
    monkeypatch.setattr(sys, "argv", [*command, "gpukmeans,rings"])
    with pytest.raises(ValueError, match="unknown libraries rings; there are gpukmeans, flash-kmeans"):
        gpu.main()


def test_the_pictures_and_blobs_are_what_they_say(monkeypatch):
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    import gpu

    pixels = gpu.picture(2)
    assert (pixels.shape, pixels.dtype) == ((4 * 273_280, 3), np.uint8)
    X = gpu.blobs(1000, 5, 7, "float16", spread=100)
    assert (X.shape, X.dtype) == ((1000, 5), np.float16)
    assert len(np.unique(np.rint(X / 50), axis=0)) < 200, "in clusters"
    assert {case.n_clusters for case in gpu.WORKLOADS.values()} >= {64, 256, 1024, 8192}


def test_what_a_first_fit_compiles(monkeypatch, tmp_path, capsys):
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    import compile_time

    monkeypatch.setitem(sys.modules, "cupy", None)  # in whose place it puts a GPU's
    monkeypatch.setattr(compile_time, "FITS", {"narrow": ("uint8", 2, 3), "wide": ("float32", 20, 3)})
    monkeypatch.setattr(
        sys, "argv", ["compile_time.py", "--arch", "75", "--json", str(tmp_path / "new" / "times.json")]
    )
    compile_time.main()
    report = json.loads((tmp_path / "new" / "times.json").read_text())
    assert (report["arch"], {*report["fits"]}) == (75, {"narrow", "wide"})
    assert all(seconds > 0 for fit in report["fits"].values() for seconds in fit)
    assert "narrow: " in capsys.readouterr().out
