"""Kernels are compiled by other threads before they are asked for: the right ones, once, and to nobody's harm."""

from __future__ import annotations

import subprocess
import sys
import threading

import numpy as np
import pytest
from host_cuda.machine import as_cupy
from host_cuda.runtime import HostCuda
from scipy.sparse import csr_array

from gpukmeans import DeviceError, KMeans
from gpukmeans.engine import dispatch
from gpukmeans.engine.cuda import compile_ahead
from gpukmeans.engine.protocol import Points, Samples

pytestmark = [pytest.mark.kernels, pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")]


class Recorded(HostCuda):
    """compiled: each module that was compiled, by its source and options, and in which thread."""

    def __init__(self, **how):
        self.compiled = []
        super().__init__(build="fast", **how)

    def compile(self, source, options=(), *more, **how):
        self.compiled.append((source, tuple(options), threading.current_thread().name))
        return super().compile(source, options, *more, **how)

    @property
    def modules(self):
        return sorted(module[:2] for module in self.compiled)

    @property
    def threads(self):
        return {module[2] for module in self.compiled}


@pytest.fixture
def cold(monkeypatch, tmp_path):
    """Nothing on disk."""
    monkeypatch.setenv("CUPY_CACHE_DIR", str(tmp_path))
    return tmp_path


@pytest.fixture
def fit(monkeypatch):
    """fit(cp, x, k, ...): on the kernels of cp; begin: whether they are compiled ahead. Returns the labels."""

    def run(cp, x, k, begin=True, weights=None, **parameters):
        def make_points(samples: Samples, *, device: str) -> Points:
            if not begin:
                object.__setattr__(samples, "k", None)
            return dispatch.on_gpu(cp, samples)

        with monkeypatch.context() as patched:
            patched.setattr(dispatch, "make_points", make_points)
            patched.setattr(dispatch, "make_starts", lambda *given, device: None)
            model = KMeans(k, **{"random_state": 0, "max_iter": 3, "device": "cpu", **parameters})
            labels = model.fit(x, sample_weight=weights).predict(x)
        for thread in threading.enumerate():
            if thread.name == "gpukmeans-ahead":
                thread.join()
        return labels

    return run


def rows(dtype, d, n=90):
    return np.random.default_rng(0).integers(0, 256, (n, d)).astype(dtype)


@pytest.mark.parametrize(
    ("x", "k", "how"),
    [
        (rows("uint8", 3), 30, {}),
        (rows("float32", 3), 8, {"weights": np.arange(90) % 3 + 1}),
        (rows("float64", 17), 5, {"weights": np.linspace(0.1, 1, 90)}),
        (rows("float32", 20), 20, {"capability": "86"}),
        (rows("float32", 20), 40, {"capability": "86"}),
        (rows("float32", 20), 40, {}),
        (rows("float16", 20) - np.float16(128), 40, {}),
        (rows("float32", 4), 5, {"metric": "cosine"}),
        (csr_array(rows("float32", 9) * (rows("float32", 9) > 200)), 6, {}),
    ],
    ids=["pixels", "copies", "fractions", "narrow tile", "wide tile", "tensor cores", "float16", "cosine", "sparse"],
)
def test_what_a_fit_needs_is_known_before(cold, fit, x, k, how):
    """No module is compiled that the fit would not have asked for itself, and none is forgotten."""
    how = dict(how)
    capability = how.pop("capability", "90")
    asked, begun = Recorded(capability=capability), Recorded(capability=capability)
    expected = fit(asked, x, k, begin=False, **how)
    for kept in cold.iterdir():
        kept.unlink()
    assert fit(begun, x, k, **how).tobytes() == expected.tobytes()
    assert begun.modules == asked.modules
    assert asked.threads == {"MainThread"}
    assert "gpukmeans-ahead" in begun.threads
    for cp in (begun, Recorded(capability=capability)):  # a second fit, and one of another process
        cp.compiled.clear()
        fit(cp, x, k, **how)
        assert cp.compiled == []


def test_gpus_of_one_kind_share_what_is_compiled(cold, monkeypatch):
    first = Recorded()
    monkeypatch.setitem(sys.modules, "cupy", as_cupy(first, Recorded()))
    monkeypatch.setattr(dispatch, "PART", 1)
    x = rows("float32", 3)
    expected = KMeans(30, random_state=0, device="cpu").fit(x)
    found = KMeans(30, random_state=0, device="cuda:0,1").fit(x)
    assert found.labels_.tobytes() == expected.labels_.tobytes()
    # But cluster_sums, which few fits need, each may have compiled by itself.
    shared = [module for module in first.modules if "\ncluster_ranges(" not in module[0]]
    assert len(shared) == len(set(shared)) > 6


def test_one_thread_begins_nothing(cold, fit, monkeypatch):
    monkeypatch.setattr(compile_ahead, "thread_count", lambda: 1)
    cp = Recorded()
    fit(cp, rows("float32", 2), 4)
    assert cp.threads == {"MainThread"}


class Refusing(HostCuda):
    """Does not compile seeding."""

    def compile(self, source, options=(), *more, **how):
        if "\npotentials(" in source:
            raise self.cuda.compiler.CompileException(threading.current_thread().name)
        return super().compile(source, options, *more, **how)


def test_what_fails_ahead_of_time_is_told_to_whoever_needs_it(cold, fit):
    x = rows("float32", 2)
    assert len(fit(Refusing(build="fast"), x, 4, init=x[:4])) == 90, "which does not need it"
    with pytest.raises(DeviceError, match=r"kmeans_plusplus\.cu were not compiled .*CompileException: MainThread"):
        fit(Refusing(build="fast"), x, 4)


def test_what_nobody_has_begun_is_made_by_whoever_needs_it(monkeypatch):
    """What a thread is at work on is waited for, and taken once."""
    go, began = threading.Event(), threading.Event()

    def slow():
        began.set()
        go.wait()
        return b"slow"

    def never():
        raise AssertionError("it was asked for before")

    monkeypatch.setattr(compile_ahead, "thread_count", lambda: 2)
    compile_ahead.begin({(name, go): slow for name in ("slow", "other", *range(100))} | {("never", go): never})
    began.wait()
    assert compile_ahead.taken((99, go), lambda: b"mine") == b"mine"
    assert compile_ahead.taken(("never", go), lambda: b"mine") == b"mine"
    threading.Timer(0.05, go.set).start()
    assert compile_ahead.taken(("slow", go), lambda: b"mine") == b"slow"
    assert compile_ahead.taken(("slow", go), lambda: b"mine") == b"mine"
    assert compile_ahead.taken("what nobody wanted", lambda: b"mine") == b"mine"


def test_a_process_ends_without_what_is_not_begun():
    code = """
import threading
from gpukmeans.engine.cuda import compile_ahead

def wait():
    threading.main_thread().join()
    return b""

compile_ahead.thread_count = lambda: 2
compile_ahead.begin({i: wait if i < 2 else lambda i=i: print(i) for i in range(100)})
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
