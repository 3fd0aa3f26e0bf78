"""What the contract tests share: the device under test, Points on it, brute force, and data."""

from __future__ import annotations

import os
import sys
import tracemalloc
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from explorer import Explorer
from host_cuda.build import CACHE
from host_cuda.machine import as_cupy
from host_cuda.runtime import HostCuda
from hypothesis import settings
from real_cupy.device import machine
from sklearn.datasets import load_digits, load_sample_image, make_blobs

from gpukmeans import KMeans, lloyd
from gpukmeans.engine import devices, dispatch
from gpukmeans.engine.cuda import stacks
from gpukmeans.engine.protocol import Points, Samples
from gpukmeans.exact.fixed_point import Weights
from gpukmeans.exact.metric import EUCLIDEAN, Metric
from gpukmeans.exact.scales import OwnScales, Scales

pytest.register_assert_rewrite("fuzz_checks")

# Dask's workers begin in a tenth of the time where they need not import anew what each of them imports.
if sys.platform == "linux":
    os.environ.setdefault("DASK_DISTRIBUTED__WORKER__MULTIPROCESSING_METHOD", "forkserver")

# One example may have to start a pool of threads; the failing example is printed, not stored.
settings.register_profile("contract", deadline=None, database=None, print_blob=True)
settings.load_profile("contract")


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--device",
        default="cpu",
        help="the device to test: cpu, cuda, cuda:N, or kernels: CUDA's, run on the CPU; kernels:address and "
        "kernels:race watch what they do, see host_cuda/build.py; real-cupy: the same kernels launched by CuPy "
        "itself, and real-cupy:ORDER, whose streams do late what they are given, see real_cupy/device.py",
    )
    parser.addoption(
        "--fuzz", type=float, default=0.0, help="seconds that each property of the fuzz goes on with other examples"
    )
    parser.addoption("--fuzz-turn", type=int, help="the turn of a property to run again, as it said when it failed")


# What a property of the fuzz tells of a test.
EXAMPLES = "examples of the fuzz"

_shares = pytest.StashKey[dict[str, str]]()


def pytest_configure(config: pytest.Config) -> None:
    stacks.WORTH_COMPILING = 0  # whatever was compiled before
    config.stash[_shares] = {}
    if not config.getoption("--device").startswith("cuda"):
        os.environ["CUPY_CACHE_DIR"] = str(CACHE)  # what is compiled for the CPU is in nobody's way


def pytest_terminal_summary(terminalreporter: Any, config: pytest.Config) -> None:
    if config.stash[_shares]:
        terminalreporter.section("points that scores left to D")
        for name, share in config.stash[_shares].items():
            terminalreporter.write_line(f"{name}: {share}")
    ended = [report for outcome in ("passed", "failed") for report in terminalreporter.stats.get(outcome, [])]
    tried = {report.nodeid: count for report in ended for name, count in report.user_properties if name == EXAMPLES}
    if tried:
        terminalreporter.section("examples of each property")
        for name, count in tried.items():
            terminalreporter.write_line(f"{name}: {count}")


@pytest.fixture
def report_share(request: pytest.FixtureRequest, record_property: Callable) -> Callable[[str, int, int], None]:
    """report_share(name, uncertain, looked_at): shown at the end of the run."""

    def report(name: str, uncertain: int, looked_at: int) -> None:
        share = f"{uncertain / looked_at:.4%} ({uncertain} of {looked_at})"
        record_property(name, share)
        request.config.stash[_shares][name] = share

    return report


# ---------------------------------------------------------------- the device


@pytest.fixture(scope="session")
def device(request: pytest.FixtureRequest) -> str:
    name = request.config.getoption("--device")
    kind, _, build = name.partition(":")
    if kind == "kernels":
        sys.modules["cupy"] = as_cupy(HostCuda(build=build or "fast", seed=1))  # type: ignore[assignment]
        name = "cuda"
    elif kind == "real-cupy":
        machine()
        name = "cuda"
    return name


@pytest.fixture(autouse=True)
def orderly(request: pytest.FixtureRequest) -> Iterator[None]:
    """On the machine that CuPy itself runs on: streams in the order that was asked for, and nothing done wrong."""
    kind, _, order = request.config.getoption("--device").partition(":")
    if kind != "real-cupy":
        yield
        return
    machine().set_order(order or "prompt", seed=1)
    yield
    assert machine().complaints() == []


@pytest.fixture(scope="session")
def slow(request: pytest.FixtureRequest) -> bool:
    """Whether a pass over rows takes a hundred times as long as NumPy's. Tests of averages and of large data take fewer
    then; what they say of the answer is as true, since its bits are NumPy's, which is tested of all data."""
    return request.config.getoption("--device").startswith(("kernels", "real-cupy"))


@pytest.fixture(autouse=True)
def fresh_dispatch(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Nothing remembered of devices, no variable set; and nothing of what is remembered meanwhile stays: a GPU that one
    test brought would be looked for by whichever comes next."""

    def forget() -> None:
        for value in vars(devices).values():
            if hasattr(value, "cache_clear"):
                value.cache_clear()

    monkeypatch.delenv(devices.VARIABLE, raising=False)
    forget()
    yield
    forget()


@pytest.fixture
def imported_anew(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., None]]:
    """imported_anew(folder, *names): from here on these modules are imported from that folder, by what is in their way
    now; afterwards nobody finds them."""
    forgotten: list[str] = []

    def forget(folder: Path, *names: str) -> None:
        monkeypatch.syspath_prepend(str(folder))
        forgotten.extend(names)
        for name in names:
            monkeypatch.delitem(sys.modules, name, raising=False)

    yield forget
    for name in forgotten:
        sys.modules.pop(name, None)


@pytest.fixture(scope="session")
def kmeans(device: str) -> Callable[..., KMeans]:
    """KMeans on the device under test."""
    return partial(KMeans, device=device)


@pytest.fixture(scope="session")
def fitted(kmeans: Callable[..., KMeans]) -> Callable[..., KMeans]:
    """fitted(centers): a KMeans that has exactly these centers."""

    def with_centers(centers: np.ndarray) -> KMeans:
        model = kmeans(n_clusters=len(centers))
        model.cluster_centers_ = np.array(centers)
        model.n_features_in_ = centers.shape[1]
        return model

    return with_centers


@pytest.fixture(scope="session")
def make_points(device: str) -> Callable[..., tuple[Points, Scales]]:
    """make_points(x, weights=None): Points ready for use, and their scales."""

    def make(
        x: np.ndarray, weights: Any = None, reused: bool = True, metric: Metric = EUCLIDEAN
    ) -> tuple[Points, Scales]:
        summary, used = (None, None) if weights is None else Weights.of(np.asarray(weights, np.float64))
        points = dispatch.make_points(
            Samples(x, used, summary, reused=reused, metric=metric), device=devices.resolve(device)
        )
        return points, lloyd.prepare(points, *points.feature_range())

    return make


@pytest.fixture(scope="session")
def own_sums() -> Callable[[Points, int, np.ndarray], list[Any]]:
    """own_sums(points, k, without): the extents of all k clusters and their sums at scales of their own, without the
    rows at some locations."""

    def found(points: Points, k: int, without: np.ndarray) -> list[Any]:
        clusters = np.arange(k)
        low, high = points.cluster_ranges(clusters, without)
        some = low <= high
        weight = np.ldexp(points.sums()[:, -1].astype(np.float64), -points.weights.exponent)
        scales = OwnScales.of(
            np.where(some, low, 0.0), np.where(some, high, 0.0), np.maximum(weight, 1), points.weights
        )
        return [low.tolist(), high.tolist(), points.cluster_sums(clusters, scales, without).tolist()]

    return found


class Ways(dict[str, dict[str, Any]]):
    def some(self, *names: str) -> list[str]:
        """These, of NumPy's."""
        return list(names)


class Untuned(Ways):
    """The ways of a device that has none of NumPy's: whichever of these is asked for, it does what it does."""

    def __missing__(self, name: str) -> dict[str, Any]:
        return {}

    def some(self, *names: str) -> list[str]:
        return list(self)[: len(names)]


@pytest.fixture(scope="session")
def ways(device: str) -> Ways:
    """Ways to the same answer, as arguments of points.numpy.tuned; the first uses none of the tricks. On another
    device there are two, of which the other fits what is small whole."""
    if device != "cpu":
        return Untuned({"by launches": {"whole": False}, "whole": {}})
    numpy: dict[str, dict[str, Any]] = {
        "plain": {"merge": False, "arrange": False, "scores": False, "bounds": False, "threads": 1},
        "scores": {"merge": False, "arrange": False, "scores": True, "bounds": False, "threads": 1},
        "bounds": {"merge": False, "arrange": False, "scores": True, "bounds": True, "threads": 1},
        "arrange": {"merge": False, "arrange": True, "scores": True, "bounds": True, "threads": 1},
        "merge": {"merge": True, "arrange": True, "scores": True, "bounds": True, "threads": 1},
        "merge, D only": {"merge": True, "arrange": True, "scores": False, "bounds": False, "threads": 1},
        "rows of 61": {"chunk_rows": 61, "threads": 1, "scores": True, "bounds": True},
        "rows of 1000": {"chunk_rows": 1000, "threads": 2},
        "all rows": {"chunk_rows": 10**9, "threads": 1},
        "2 threads": {"threads": 2},
        "4 threads": {"threads": 4, "chunk_rows": 100, "scores": True, "bounds": True, "arrange": True},
    }
    compiled = {name: numpy[name] for name in ("plain", "scores", "bounds", "merge", "rows of 61", "2 threads")}
    return Ways(
        {name: {**way, "compiled": False} for name, way in numpy.items()}
        | {f"compiled, {name}": {**way, "compiled": True, "whole": False} for name, way in compiled.items()}
        | {"compiled, whole": {"compiled": True, "whole": True, "threads": 2}}
    )


@pytest.fixture
def on(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """on(cp, rows): from here on, fits run on the kernels of cp, in batches of some rows, at first of all."""

    def switch(cp: HostCuda, rows: int | None = None) -> None:
        def make_points(samples: Samples, *, device: str) -> Points:
            points = dispatch.on_gpu(cp, samples)
            points.rows = rows or samples.shape[0]  # type: ignore[attr-defined]
            return points

        monkeypatch.setattr(dispatch, "make_points", make_points)
        monkeypatch.setattr(dispatch, "make_starts", lambda *given, device: None)

    return switch


# ---------------------------------------------------------------- the fuzz


@pytest.fixture
def explore(request: pytest.FixtureRequest, slow: bool, record_property: Callable) -> Explorer:
    """explore(check, examples, **strategies): holds a property; with --fuzz the end of the run tells how many examples
    were tried."""
    option = request.config.getoption
    again = f"python -m pytest --device {option('--device')} '{request.node.nodeid}'"
    return Explorer(option("--fuzz"), option("--fuzz-turn"), again, slow, partial(record_property, EXAMPLES))


@pytest.fixture(scope="module")
def devices_under_test(request: pytest.FixtureRequest, device: str) -> Iterator[list[str]]:
    """Their names as a user gives them: the CPU, or a GPU and, where there are more, several together, which share any
    data among them."""
    if device == "cpu":
        yield ["cpu"]
        return
    kind, _, build = request.config.getoption("--device").partition(":")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(dispatch, "PART", 1)
        if kind == "kernels":
            hosts = [HostCuda(build=build or "fast", seed=i + 1) for i in range(3)]
            patch.setitem(sys.modules, "cupy", as_cupy(*hosts))
        count = sys.modules["cupy"].cuda.runtime.getDeviceCount()
        yield ["cuda:0", "cuda:1,0", "cuda:all"] if count > 1 else [device]


# ---------------------------------------------------------------- brute force


@pytest.fixture(scope="session")
def brute_distances() -> Callable[[np.ndarray, np.ndarray], np.ndarray]:
    """D (n, k) of rows x (n, d) and centers (k, d), as Rule 1 spells it; test_distance.py holds it to
    a loop over Python's floats."""

    def distances(x: np.ndarray, centers: np.ndarray) -> np.ndarray:
        x, centers = np.asarray(x).astype(np.float64), np.asarray(centers).astype(np.float64)
        total = np.zeros((len(x), len(centers)))
        for j in range(x.shape[1]):
            step = x[:, j, None] - centers[None, :, j]
            total = total + step * step
        return total

    return distances


@pytest.fixture(scope="session")
def brute_labels(brute_distances: Callable) -> Callable[[np.ndarray, np.ndarray], np.ndarray]:
    """The smallest index among the centers of least D, for each row."""
    return lambda x, centers: brute_distances(x, centers).argmin(axis=1)


# ---------------------------------------------------------------- memory


@pytest.fixture(scope="session")
def peak() -> Callable[[Callable[[], Any]], int]:
    """The most bytes that were allocated at once during a call, beyond those before it."""

    def measure(call: Callable[[], Any]) -> int:
        tracemalloc.start()
        try:
            call()
            return tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()

    return measure


# ---------------------------------------------------------------- data


@pytest.fixture(scope="session")
def blobs() -> tuple[np.ndarray, np.ndarray]:
    return make_blobs(300, centers=4, cluster_std=0.6, random_state=0)


@pytest.fixture(scope="session")
def digits() -> tuple[np.ndarray, np.ndarray]:
    return load_digits(return_X_y=True)


@pytest.fixture(scope="session")
def china() -> np.ndarray:
    """The photograph, (427, 640, 3) uint8."""
    return load_sample_image("china.jpg")
