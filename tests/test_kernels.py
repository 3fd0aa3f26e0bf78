"""The CUDA kernels and the Points that drives them, run on the CPU: NumPy's bits, and nothing out of bounds.

The kernels and gpukmeans/engine/cuda/ are those that a GPU runs; host_cuda.HostCuda stands where CuPy does. The
"address" build is watched by the address and undefined-behaviour sanitizers, the "race" build for unordered accesses;
both shuffle the order of threads and blocks.
"""

from __future__ import annotations

import logging
import sys
from itertools import count
from types import SimpleNamespace

import numpy as np
import pytest
from host_cuda.machine import as_cupy
from host_cuda.runtime import HostCuda, OutOfMemoryError

from gpukmeans import DeviceError, KMeans, lloyd
from gpukmeans.engine import devices, dispatch
from gpukmeans.engine.combine.out_of_memory import Batches
from gpukmeans.engine.cuda import compile, kernels, launch_plans, seeding_kernels, stacks, transfer
from gpukmeans.engine.cuda import device as gpu
from gpukmeans.engine.cuda.points import CudaPoints
from gpukmeans.engine.numpy.points import NumPyPoints
from gpukmeans.engine.protocol import Samples
from gpukmeans.exact.certificate import Frame, ScoreErrors
from gpukmeans.exact.fixed_point import Weights
from gpukmeans.exact.inertia import Inertia
from gpukmeans.seeding import kmeans_plusplus

pytestmark = [pytest.mark.kernels, pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")]

DTYPES = ["uint8", "float16", "float32", "float64"]


@pytest.fixture(scope="session")
def address():
    return HostCuda(build="address", seed=1)


@pytest.fixture(scope="session")
def race():
    return HostCuda(build="race", seed=2)


def everything(x, k, weights=None, **parameters):
    """All that a model says, as bytes."""
    model = KMeans(k, device="cpu", **{"random_state": 0, "max_iter": 6, **parameters}).fit(x, sample_weight=weights)
    arrays = [model.cluster_centers_, model.labels_, model.predict(x[::-1]), model.transform(x[:20])]
    numbers = [model.inertia_, model.score(x, sample_weight=weights)]
    return [array.tobytes() for array in arrays], numbers, model.n_iter_


def same(on, cp, x, k, weights=None, **parameters):
    expected = everything(x, k, weights, **parameters)
    on(cp)
    assert everything(x, k, weights, **parameters) == expected


def values(dtype, n, d, seed=0):
    x = np.random.default_rng(seed).normal(100, 30, (n, d))
    return np.clip(x, 0, 255).astype(dtype) if dtype == "uint8" else x.astype(dtype)


WEIGHTS = {
    "none": lambda rng, n: None,
    "copies": lambda rng, n: rng.integers(0, 4, n),
    "fractions": lambda rng, n: rng.random(n),
    "some whole": lambda rng, n: np.where(rng.random(n) < 0.5, rng.integers(1, 9, n), rng.random(n)),
}


# ---------------------------------------------------------------- NumPy's bits


@pytest.mark.parametrize("weighing", WEIGHTS)
@pytest.mark.parametrize("dtype", DTYPES)
def test_fits_are_numpys(on, address, dtype, weighing):
    weights = WEIGHTS[weighing](np.random.default_rng(1), 300)
    same(on, address, values(dtype, 300, 3), 8, weights)


@pytest.mark.parametrize(
    ("n", "d", "k"),
    [
        *[(60, 1, 60), (300, 2, 4), (257, 16, 5), (200, 17, 70), (150, 24, 150), (65, 64, 64), (300, 21, 30)],
        *[(40, 300, 7), (1, 1, 1)],
    ],
)
def test_fits_of_many_shapes_are_numpys(on, address, n, d, k):
    same(on, address, values("float64", n, d), k)


def test_more_centers_than_fit_shared_memory_at_once(on, address):
    """Tiles of centers, and sums in global memory."""
    x = values("float32", 960, 12)
    same(on, address, x, 950, init=x[:950], max_iter=2)


def test_centers_of_more_than_a_piece_are_numpys(on, address, monkeypatch):
    """Beside the movement that bounds need, which then crosses by itself."""
    monkeypatch.setattr(transfer, "PIECE", 1024)
    same(on, address, values("float32", 200, 20), 30)


@pytest.mark.parametrize("init", ["k-means++", "k-means||", "random"])
def test_several_starts_are_numpys(on, address, init):
    same(on, address, values("float32", 200, 3), 5, init=init, n_init=3)


@pytest.mark.parametrize("d", [1, 3])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_extremes_behind_the_last_whole_word_are_seen_to_the_bit(address, dtype, d):
    """0.1 has lower words that 1 has not: those of one must not be taken for the other's."""
    for value in (0.1, -0.1, 1.1):
        x = np.ones((1001, d), dtype)
        x[-1] = value
        low, high = CudaPoints(address, Samples(x)).feature_range()
        assert low.tolist() == x.min(axis=0).tolist()
        assert high.tolist() == x.max(axis=0).tolist()


@pytest.mark.parametrize("dtype", DTYPES)
def test_feature_ranges_are_numpys(address, dtype):
    """Words of 16 bytes whose values are of several rows, or of a part of one; what is left over; no words at all."""
    for n, d in [(400, 3), (333, 5), (90, 16), (77, 24), (3, 700), (1, 1), (2, 9)]:
        x = values(dtype, n + 1, d, seed=n)
        device = address.asarray(x)
        for start in (0, 1):  # the second row begins at no multiple of 16 bytes, mostly
            for place, value in [(0, 0), (0, 255), (n * d // 2, 0), (n * d - 1, 0), (n * d - 1, 255)]:
                part = x[start : start + n].copy()
                part.flat[place] = value
                device[start : start + n].set(part)
                low, high = CudaPoints(address, Samples(device[start : start + n])).feature_range()
                assert np.array_equal(low, part.min(axis=0))
                assert np.array_equal(high, part.max(axis=0))
                if dtype != "uint8":
                    part.flat[place] = np.nan
                    device[start : start + n].set(part)
                    assert np.isnan(CudaPoints(address, Samples(device[start : start + n])).feature_range()).all()


def test_memory_orders_are_numpys(on, address):
    x = values("float32", 200, 6)
    for view in (np.asfortranarray(x), x[::2], x[:, 1:4], x[::-1, ::-1]):
        same(on, address, view, 4)


def hard_data():
    rng = np.random.default_rng(5)
    ties = rng.integers(0, 3, (200, 3)).astype(np.float64)
    yield "ties", ties, ties[:7] / 2
    yield "duplicate centers", ties, np.repeat(ties[:3], 3, axis=0)
    wide = rng.normal(size=(150, 9)) * 10.0 ** np.linspace(-30, 30, 9)
    yield "ranges", wide, wide[:6]
    far = rng.normal(size=(150, 4)) + 1e8
    yield "offset", far, far[:6]
    tiny = rng.integers(-9, 9, (150, 3)) * 1e-310
    yield "subnormals", tiny, tiny[:5]
    yield "centers far away", far, far[:4] * np.array([[1.0], [1e60], [-1e90], [1.0]])
    yield "huge", far * 2.0**460, far[:5] * 2.0**460
    yield "constant", np.full((50, 3), 7.0), np.arange(6.0).reshape(2, 3)
    # Three centers without points, and far points that tie.
    yield "empty clusters", ties * 10, np.concatenate([ties[:2], np.full((3, 3), 1e3)])


@pytest.mark.parametrize(
    ("kind", "x", "centers"), list(hard_data()), ids=lambda value: value if isinstance(value, str) else ""
)
def test_hard_data_is_numpys(on, address, kind, x, centers):
    same(on, address, x, len(centers), init=centers, max_iter=4)


def test_uncertain_points_are_decided(address):
    """The scores of points half way between two centers decide nothing; D does."""
    x = np.repeat(np.arange(0.0, 64.0)[:, None], 3, axis=1)
    centers = x[::2].copy()
    centers[:, 1] += 1e-12
    found = []
    for points in (NumPyPoints(Samples(x)), CudaPoints(address, Samples(x))):
        lloyd.prepare(points, *points.feature_range())
        points.assign(centers)
        found.append((points.labels().tolist(), points.sums().tolist(), points.uncertain > 0))
    assert found[1] == found[0] or (found[1][:2] == found[0][:2] and found[1][2])
    assert found[1][2]


# ---------------------------------------------------------------- tentative labels: what is certain is right


def labels_of(cp, x, centers):
    points = CudaPoints(cp, Samples(x))
    lloyd.prepare(points, *points.feature_range())
    points.assign(centers)
    return points.labels(), points.uncertain


def mirrored(rng, dtype, d, k):
    """Rows of dtype (n, d), each about halfway between two of the centers (k, d): off by none to many of float64's
    roundings, with a center twice, and with centers in an order that says nothing."""
    scale = rng.choice([1.0, 2.0**-20, 2.0**-140]) if dtype == "float32" else 1.0
    if dtype == "float64":
        scale = 2.0 ** rng.integers(-200, 200)
    offset = {"uint8": 100, "float16": 500, "float32": 1e5, "float64": 1e9}[dtype] * rng.choice([0, 1])
    spread = 10.0 ** -(rng.random(d) * rng.choice([0, 6]))
    x = rng.normal(size=(4 * k, d)) * spread * 20 + offset
    x = np.clip(np.rint(x), 0, 255).astype(dtype) if dtype == "uint8" else (x * scale).astype(dtype)
    half = (k + 1) // 2
    row = x[:half].astype(np.float64)
    step = rng.normal(size=(half, d)) * x.astype(np.float64).std(axis=0) * 10.0 ** -rng.integers(0, 5)
    nudge = rng.choice([0, 1, -1], (half, 1)) * 2.0 ** -rng.integers(5, 53, (half, 1))
    centers = np.concatenate([row + step, row - step * (1 + nudge)])[:k]
    centers[rng.integers(k)] = centers[rng.integers(k)]
    return x, centers[rng.permutation(k)]


# Few and many features, groups and tiles of centers that are full, one over and one short.
SEARCHES = [
    *[(dtype, 3, k) for dtype in DTYPES for k in (2, 16, 65)],
    *[("float64", 16, 33), ("float32", 12, 9)],
    *[(dtype, 17, 30) for dtype in DTYPES],
    *[("float32", 40, 129), ("float64", 23, 128)],
]


@pytest.mark.parametrize(("dtype", "d", "k"), SEARCHES)
def test_no_certain_label_is_wrong(address, brute_labels, dtype, d, k):
    certain = 0
    for seed in range(12):
        x, centers = mirrored(np.random.default_rng(seed), dtype, d, k)
        labels, uncertain = labels_of(address, x, centers)
        np.testing.assert_array_equal(labels, brute_labels(x, centers), err_msg=f"seed {seed}")
        certain += len(x) - uncertain
    assert certain > 0


@pytest.mark.parametrize(
    ("dtype", "d", "k"), [("uint8", 3, 16), ("float32", 3, 65), ("float64", 16, 33), ("float32", 17, 30)]
)
def test_the_search_would_find_a_dishonest_kernel(address, brute_labels, monkeypatch, dtype, d, k):
    """The same rows refute kernels whose scores were believed."""
    monkeypatch.setattr(Frame, "score_errors", lambda frame: ScoreErrors(0.0, 0.0, 0.0))
    wrong = 0
    for seed in range(12):
        x, centers = mirrored(np.random.default_rng(seed), dtype, d, k)
        wrong += np.count_nonzero(labels_of(address, x, centers)[0] != brute_labels(x, centers))
    assert wrong > 0


@pytest.mark.parametrize("least", [-1, 0.5])
@pytest.mark.parametrize("d", [3, 17])
def test_the_largest_float32_are_labelled(address, brute_labels, d, least):
    """The frame's scale is a subnormal float32, 2**-128, and no difference from the middle overflows; but one from rows
    at one end does."""
    largest = np.finfo(np.float32).max
    x = (np.random.default_rng(0).uniform(least, 1, (150, d)) * largest).astype(np.float32)
    x[1], x[2] = -largest, largest
    centers = x[:9].astype(np.float64)
    labels, uncertain = labels_of(address, x, centers)
    np.testing.assert_array_equal(labels, brute_labels(x, centers))
    assert uncertain < 15


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("d", [3, 17, 20])
def test_rows_may_begin_at_any_address(address, brute_labels, dtype, d):
    """Wide loads need aligned rows; a part of a larger array is not always."""
    n, whole = 82, values(dtype, 83, d).reshape(-1)
    for first in range(4):
        part = slice(first, first + n * d)
        x = whole[part].reshape(n, d)
        centers = x[5:40:5].astype(np.float64)
        points = CudaPoints(address, Samples(address.asarray(whole)[part].reshape(n, d)))
        lloyd.prepare(points, *points.feature_range())
        points.assign(centers)
        np.testing.assert_array_equal(points.labels(), brute_labels(x, centers))
        there = NumPyPoints(Samples(x))
        lloyd.prepare(there, *there.feature_range())
        for held in (points, there):
            held.seeding().end()
        chosen = [kmeans_plusplus(held, 9, np.random.RandomState(first)).tolist() for held in (points, there)]
        assert chosen[0] == chosen[1]


# ---------------------------------------------------------------- step by step


def test_many_runs_and_turns_of_the_grid_are_numpys(on, address, monkeypatch):
    monkeypatch.setattr(gpu, "RESIDENT", 1)
    for module in (kernels, launch_plans):
        monkeypatch.setattr(module, "SHARED", 256)
    monkeypatch.setattr(seeding_kernels, "RUN", 32)
    same(on, address, values("float32", 5000, 2), 30, max_iter=3)


def test_farthest_locations_and_sums_without_them_are_numpys(address, own_sums):
    """Ties go to the first row, and rows at one place leave together."""
    x = np.repeat(np.random.default_rng(0).integers(0, 4, (80, 2)), 2, axis=0).astype(np.float64)
    summary, used = Weights.of(np.arange(1.0, 161.0))
    centers = np.array([[1.0, 1.0], [2.0, 2.0]])
    found = []
    for points in (NumPyPoints(Samples(x, used, summary)), CudaPoints(address, Samples(x, used, summary))):
        scales = lloyd.prepare(points, *points.feature_range())
        points.assign(centers)
        far = points.farthest(centers, 30)
        split = Inertia.of(scales, centers)
        found.append([part.tolist() for part in (far.distance, far.x, far.label)])
        found[-1].append(own_sums(points, 2, far.x[::2]))
        found[-1].append(points.inertia(centers, split))
    assert found[1] == found[0]


# ---------------------------------------------------------------- what a GPU needs besides


def test_no_race(on, race):
    same(on, race, values("uint8", 400, 3), 8, max_iter=3)
    same(on, race, values("float32", 150, 20), 9, np.random.default_rng(0).random(150), max_iter=3)


def test_no_race_beyond_one_turn_of_the_grid(on, race, monkeypatch):
    """More rows than all blocks together take at once, more centers than a tile, more runs than a block scans."""
    monkeypatch.setattr(gpu, "RESIDENT", 1)
    for module in (kernels, launch_plans):
        monkeypatch.setattr(module, "SHARED", 256)
    monkeypatch.setattr(seeding_kernels, "RUN", 32)
    same(on, race, values("float32", 2500, 2), 30, max_iter=2)
    same(on, race, values("float32", 300, 17), 140, max_iter=2)
    same(on, race, values("float32", 600, 2), 3, init="k-means||", max_iter=1)


def test_no_race_for_empty_clusters(on, race):
    x = values("float32", 90, 2)
    same(on, race, x, 4, init=np.concatenate([x[:2], x[:2] + 1e4]), max_iter=2)


@pytest.mark.parametrize("seed", range(3, 7))
def test_no_order_of_threads_and_blocks_matters(on, seed):
    same(on, HostCuda(build="address", seed=seed), values("float32", 500, 3), 6)


@pytest.mark.parametrize(("d", "k"), [(3, 4), (20, 30)])
def test_an_iteration_moves_nothing_of_the_size_of_the_data(address, d, k):
    x = values("float32", 3000, d)
    points = CudaPoints(address, Samples(x))
    scales = lloyd.prepare(points, *points.feature_range())
    centers = x[:k].astype(np.float64)
    points.assign(centers)
    before = address.bytes_uploaded + address.bytes_downloaded
    lloyd.update(points, scales, centers)
    points.assign(centers + 0.1)
    moved = address.bytes_uploaded + address.bytes_downloaded - before
    # Of few features also the forms that kernels read.
    assert moved < (40 if d == 3 else 17) * k * (d + 1) + 200, moved


@pytest.mark.parametrize("d", [3, 20])
def test_an_iteration_takes_no_memory_of_the_size_of_the_data(address, d):
    """What is of that size is made once, by the second assignment at the latest."""
    n, k = 3000, 30
    x = values("float32", n, d)
    points = CudaPoints(address, Samples(x))
    lloyd.prepare(points, *points.feature_range())
    centers = x[:k].astype(np.float64)
    for step in range(2):
        points.assign(centers + step)
    address.peak_bytes = before = address.used_bytes
    for step in range(2, 5):
        points.assign(centers + step)
    assert address.used_bytes == before
    assert address.peak_bytes - before < 4 * n + (
        0 if d == 3 else 42 * 32 * 32
    )  # what tiles and features are padded to


def test_memory_that_runs_out_leaves_no_bounds(address, monkeypatch, brute_labels):
    """Asked again, the same points do not take for bounds what was not written. Once there are bounds, an assignment
    takes no memory at all."""
    rng = np.random.default_rng(0)
    x = rng.uniform(-1, 1, (200, 20))
    path = x[:30] / 2 + rng.normal(0, 0.3, (4, 30, 20)).cumsum(axis=0)
    empty = gpu.Gpu.empty
    for there in count():
        points, left = CudaPoints(address, Samples(x)), [there]
        lloyd.prepare(points, *points.feature_range())

        def failing(*args, left=left):
            left[0] -= 1
            if left[0] < 0:
                raise MemoryError("full")
            return empty(*args)

        with monkeypatch.context() as patched:
            patched.setattr(gpu.Gpu, "empty", failing)
            try:
                points.assign(path[0])
                points.assign(path[1])
                break
            except MemoryError:
                pass
        for centers in path:
            points.assign(centers)
            np.testing.assert_array_equal(points.labels(), brute_labels(x, centers))
    assert there > 8


def test_a_feature_range_waits_once(address, monkeypatch):
    crossings = []
    get = gpu.Gpu.get
    monkeypatch.setattr(gpu.Gpu, "get", lambda *args: crossings.append("get") or get(*args))
    CudaPoints(address, Samples(values("float32", 300, 3))).feature_range()
    assert crossings == ["get"]


@pytest.mark.parametrize("d", [3, 20])
def test_an_iteration_waits_once_for_the_device(address, monkeypatch, d):
    x = values("float32", 300, d)
    points = CudaPoints(address, Samples(x))
    scales = lloyd.prepare(points, *points.feature_range())
    centers = x[:30].astype(np.float64)
    points.assign(centers)
    crossings = []
    for name in ("get", "upload", "write"):
        crossing = getattr(gpu.Gpu, name)
        monkeypatch.setattr(gpu.Gpu, name, lambda *args, name=name, to=crossing: crossings.append(name) or to(*args))
    points.assign(lloyd.update(points, scales, centers)[0])
    assert crossings == ["write", "get"]


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("dtype", ["float16", "float32", "float64"])
def test_values_that_are_not_finite_are_found(on, address, dtype, bad):
    x = values(dtype, 200, 3)
    x[170, 2] = bad
    on(address)
    with pytest.raises(ValueError, match="NaN" if np.isnan(bad) else "infinity"):
        KMeans(2, device="cpu").fit(x)


# ---------------------------------------------------------------- dispatch


@pytest.fixture
def machine(monkeypatch, address):
    """A machine with two GPUs, as far as CuPy and NVML say; returns what can be changed about it."""
    cupy = as_cupy(address, HostCuda(build="address", seed=1))
    free = {"bus 0": 1000, "bus 1": 2000}
    nvml = SimpleNamespace(
        NVMLError=RuntimeError,
        nvmlInit=lambda: None,
        nvmlShutdown=lambda: None,
        nvmlDeviceGetMigMode=lambda bus: [0, 0],
        nvmlDeviceGetHandleByPciBusId=lambda bus: bus,
        nvmlDeviceGetMemoryInfo=lambda bus: SimpleNamespace(free=free[bus]),
    )
    monkeypatch.setitem(sys.modules, "cupy", cupy)
    monkeypatch.setitem(sys.modules, "pynvml", nvml)
    return SimpleNamespace(cupy=cupy, free=free)


def test_auto_takes_the_gpu_with_the_most_free_memory(machine, monkeypatch):
    assert devices.resolve("auto") == devices.resolve("cuda") == "cuda:1"
    machine.free["bus 0"] = 3000
    assert devices.resolve("auto") == "cuda:0"
    parts = SimpleNamespace(**{**vars(sys.modules["pynvml"]), "nvmlDeviceGetMigMode": lambda bus: [1, 1]})
    machine.cupy.cuda.runtime.memGetInfo = lambda: (1000 + machine.cupy.entered[-1], 4000)
    for pynvml in (None, parts):  # CUDA says what is free, where NVML cannot say it of CUDA's devices
        monkeypatch.setitem(sys.modules, "pynvml", pynvml)
        assert devices.resolve("auto") == "cuda:1"


def test_a_gpu_that_cannot_be_asked_has_no_memory(machine, monkeypatch):
    """One that another process has for itself, say."""
    monkeypatch.setitem(sys.modules, "pynvml", None)

    def ask():
        if machine.cupy.entered[-1] == 1:
            raise machine.cupy.cuda.runtime.CUDARuntimeError("cudaErrorDevicesUnavailable: busy or unavailable")
        return (1, 4000)

    machine.cupy.cuda.runtime.memGetInfo = ask
    assert devices.resolve("auto") == "cuda:0"


def test_the_first_kernel_runs_on_the_gpu_that_is_meant(machine, caplog):
    """And one that fails is no reason against another GPU."""
    zeros = machine.cupy.zeros

    def fail(shape, dtype):
        if machine.cupy.entered[-1] == 1:
            raise machine.cupy.cuda.runtime.CUDARuntimeError("cudaErrorDevicesUnavailable: busy or unavailable")
        return zeros(shape, dtype)

    machine.cupy.zeros = fail
    with pytest.raises(DeviceError, match=r"device='cuda:1'.*'cuda:1' \(CUDARuntimeError: cudaErrorDevicesUnavailable"):
        devices.resolve("cuda:1")
    with caplog.at_level(logging.INFO, "gpukmeans"):
        assert devices.resolve("auto") == "cpu", "which would take the one with the most memory"
    assert "DevicesUnavailable" in caplog.text
    assert devices.resolve("cuda:0") == "cuda:0"


def test_a_gpu_that_is_too_old_is_refused(machine, monkeypatch):
    """The kernels are compiled for 7.5 and later; whether an older one would run them, nobody has tried."""
    old, recent = (HostCuda(build="fast", capability=capability) for capability in ("70", "75"))
    monkeypatch.setitem(sys.modules, "cupy", as_cupy(recent, old))
    assert devices.resolve("auto") == devices.resolve("cuda") == devices.resolve("cuda:all") == "cuda:0"
    reason = r"'cuda:1' has compute capability 7\.0, and the kernels need 7\.5 .* or device='cpu'"
    for name in ("cuda:1", "cuda:0,1"):
        with pytest.raises(DeviceError, match=reason):
            devices.resolve(name)
    monkeypatch.setitem(sys.modules, "cupy", as_cupy(old))
    assert devices.resolve("auto") == "cpu"
    for name in ("cuda", "cuda:0", "cuda:all"):
        with pytest.raises(DeviceError, match=r"'cuda:0' has compute capability 7\.0"):
            devices.resolve(name)


def test_a_full_gpu_is_asked_again(machine):
    """Whoever has its memory may give it back; a kernel that does not compile never will."""
    zeros = machine.cupy.zeros

    def full(shape, dtype):
        raise OutOfMemoryError("Out of memory allocating 512 bytes (allocated so far: 0 bytes).")

    machine.cupy.zeros = full
    with pytest.raises(DeviceError, match=r"the memory of 'cuda:1' is full.*512 bytes.*device='cpu'"):
        KMeans(2, device="cuda").fit(np.arange(4.0)[:, None])
    machine.cupy.zeros = zeros
    assert devices.resolve("cuda") == "cuda:1"


def test_fits_on_a_gpu_are_numpys(machine):
    x = values("float32", 200, 3)
    expected = KMeans(4, random_state=0, device="cpu").fit(x)
    found = KMeans(4, random_state=0).fit(x)
    assert isinstance(dispatch.make_points(Samples(x), device="cuda:0"), Batches)
    assert found.cluster_centers_.tobytes() == expected.cluster_centers_.tobytes()
    assert found.predict(x).tobytes() == expected.labels_.tobytes()
    assert found.transform(x).tobytes() == expected.transform(x).tobytes()
    assert found.score(x) == expected.score(x)


@pytest.mark.parametrize("metric", ["euclidean", "cosine"])
def test_small_distances_are_rounded_and_not_zero(machine, metric):
    """To float32, whose numbers below 2^-126 CuPy's own conversion, compiled with -ftz=true, has none of."""
    x = np.ldexp(np.float32([[1, 0], [1, 1], [1, 2**-20], [3, 2**-21]]), [[-149], [-140], [-127], [-120]])
    x = x.astype(np.float32)
    model = KMeans(2, metric=metric, init=x[:2], n_init=1, max_iter=1, device="cpu").fit(x)
    model.cluster_centers_ = x[[0, 2]] if metric == "euclidean" else np.float32([[1, 2**-70], [1, 0]])
    expected = model.transform(x)
    small = (expected > 0) & (expected < 2**-126)
    assert expected.dtype == np.float32
    assert small.any()
    model.set_params(device="cuda:0")
    assert model.transform(x).tobytes() == expected.tobytes(), "to the host"
    there = model.transform(machine.cupy.asarray(x))
    assert there.dtype == np.float32
    assert there.get().tobytes() == expected.tobytes(), "on the device"


def test_a_fit_is_on_the_gpu_asked_for(machine):
    KMeans(2, random_state=0).fit(values("float32", 50, 2))  # compiles, and looks for the most free memory
    for number in (0, 1):
        machine.cupy.entered.clear()
        KMeans(2, random_state=0, device=f"cuda:{number}").fit(values("float32", 50, 2))
        assert machine.cupy.entered[0] == number


def test_a_gpu_that_is_not_there_is_named_beside_those_that_are(machine, monkeypatch):
    with pytest.raises(DeviceError, match=r"device='cuda:2'.*'cuda:0', 'cuda:1'"):
        KMeans(2, device="cuda:2").fit(np.zeros((4, 1)))
    monkeypatch.setenv("GPUKMEANS_DEVICE", "cuda:5")
    with pytest.raises(DeviceError, match="GPUKMEANS_DEVICE='cuda:5'"):
        KMeans(2).fit(np.zeros((4, 1)))


def test_a_kernel_that_does_not_compile_is_a_reason(machine, caplog, monkeypatch, tmp_path):
    def refuse(*source, **name):
        log = (
            "nvrtc: error: invalid value for --gpu-architecture (-arch)\n\n/tmp/tmp1.cubin.cu(7): error: of many\n" * 40
        )
        raise machine.cupy.cuda.compiler.CompileException(log)

    monkeypatch.setattr(machine.cupy.cuda.compiler, "compile_using_nvrtc", refuse)
    monkeypatch.setenv("CUPY_CACHE_DIR", str(tmp_path))
    with pytest.raises(DeviceError, match=r"gpu-architecture.*nvidia-smi.*device='cpu'"):
        KMeans(2, device="cuda").fit(np.arange(4.0)[:, None])
    with caplog.at_level(logging.INFO, "gpukmeans"):
        assert KMeans(2, random_state=0).fit(np.arange(4.0)[:, None]).n_iter_ >= 1
    (record,) = [record for record in caplog.records if record.name.startswith("gpukmeans")]
    assert "gpu-architecture" in record.getMessage()
    assert "kernels launched" not in record.getMessage()
    assert len(record.getMessage().splitlines()) == 1
    assert len(record.getMessage()) < 1000


class DynamicLibNotFoundError(RuntimeError):
    """That of cuda.pathfinder, by which CuPy looks for NVRTC."""


@pytest.mark.parametrize(
    "make",
    [
        lambda cupy: cupy.cuda.compiler.CompileException("nvrtc: error: failed to open libnvrtc-builtins.so.13.2"),
        lambda cupy: cupy.cuda.nvrtc.NVRTCError("NVRTC_ERROR_OUT_OF_MEMORY (1)"),
        lambda cupy: DynamicLibNotFoundError("Failure finding libnvrtc.so"),
        lambda cupy: OSError(24, "Too many open files"),
    ],
)
def test_a_later_kernel_that_does_not_compile_is_told_in_words(machine, monkeypatch, tmp_path, make):
    """The first one ran, so nobody looks for a reason against the GPU any more."""
    model = KMeans(2, random_state=0, device="cuda:0").fit(values("float32", 50, 2))
    before = vars(model).copy()
    monkeypatch.setenv("CUPY_CACHE_DIR", str(tmp_path))
    monkeypatch.setattr(compile, "function", compile.function.__wrapped__)
    monkeypatch.setattr(compile, "_module", compile._module.__wrapped__)
    monkeypatch.setattr(stacks, "WORTH_COMPILING", sys.maxsize)  # so that it is made by launches
    error = make(machine.cupy)

    def refuse(source, options, **name):
        raise error

    monkeypatch.setattr(machine.cupy.cuda.compiler, "compile_using_nvrtc", refuse)
    with pytest.raises(DeviceError, match=r"kernels of feature_range\.cu were not compiled for 'cuda:0'") as caught:
        model.fit(values("float32", 50, 2))
    message = str(caught.value)
    assert f"({type(error).__name__}: {error})" in message
    assert "pip install 'gpukmeans[cuda13]'" in message
    assert "device='cpu'" in message
    assert caught.value.__cause__ is error
    assert vars(model) == before


def test_a_kernel_of_cupys_own_that_does_not_compile_is_told_in_words(machine, monkeypatch):
    def refuse(array):
        raise machine.cupy.cuda.nvrtc.NVRTCError("NVRTC_ERROR_COMPILATION (6)")

    there = machine.cupy.asarray(values("float32", 50, 2))
    monkeypatch.setattr(HostCuda, "ascontiguousarray", lambda self, array: refuse(array))
    with pytest.raises(DeviceError, match=r"CuPy's own was not compiled .*NVRTC_ERROR_COMPILATION.*device='cpu'"):
        KMeans(2, random_state=0, device="cuda:0").fit(there)
