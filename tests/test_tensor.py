"""Tensor cores in the assignment step: what the bound on their scores rests on, and that no certain label is wrong.

On a CPU they are tests/host_cuda/tensor.h, which loses as many bits as any device is known to. With --device cuda, what
the bound takes for granted is asked of the GPU itself.
"""

from __future__ import annotations

from importlib.resources import files
from pathlib import Path

import numpy as np
import pytest
from host_cuda.runtime import HostCuda
from test_kernels import mirrored, same, values

from gpukmeans import KMeans, lloyd
from gpukmeans.engine.cuda import compile as modules
from gpukmeans.engine.cuda import device as gpu
from gpukmeans.engine.cuda import launch_plans
from gpukmeans.engine.cuda.points import CudaPoints
from gpukmeans.engine.protocol import Samples
from gpukmeans.exact.certificate import U32, Frame, ScoreErrors

pytestmark = pytest.mark.kernels

DTYPES = ["uint8", "float16", "float32", "float64"]


@pytest.fixture(scope="module", params=["80", "90", "100"])
def address(request):
    """An A100, and a H100 and a B200, which have instructions of their own for one product."""
    return HostCuda(build="address", seed=1, capability=request.param)


# ---------------------------------------------------------------- one instruction


SOURCE = """
#include "mma.cuh"

// Products of `count` pairs of matrices, as lanes hold them, each added to its own sums.
extern "C" __global__ void multiply(const uint4* a, const uint2* b, float4* c, int count) {
    for (int i = 0; i < count; i++) {
        int at = i * 32 + threadIdx.x;
        float sum[4] = {c[at].x, c[at].y, c[at].z, c[at].w};
        multiply_matrices(sum, a[at], b[at].x, b[at].y);
        c[at] = make_float4(sum[0], sum[1], sum[2], sum[3]);
    }
}

extern "C" __global__ void split(const float* x, unsigned* halves, float* back, int count) {
    for (int i = threadIdx.x; i < count; i += 32) {
        halves[i] = to_halves(x[2 * i], x[2 * i + 1]);
        back[2 * i] = low_half(halves[i]);
        back[2 * i + 1] = high_half(halves[i]);
    }
}
"""


@pytest.fixture(scope="module")
def cp(device):
    """The GPU under test, or the CPU in its place."""
    if not device.startswith("cuda"):
        return HostCuda(build="fast", seed=1)
    import cupy

    if cupy.cuda.Device().compute_capability not in gpu.TENSOR_CORES:
        pytest.skip("a GPU whose tensor cores are not used")
    return cupy


@pytest.fixture(scope="module")
def functions(cp):
    options = ("--std=c++17", f"-I{files('gpukmeans.kernels')}")
    module = cp.cuda.Module()
    module.load(cp.cuda.compiler.compile_using_nvrtc(SOURCE, options, cache_in_memory=True)[0])
    return {name: module.get_function(name) for name in ("multiply", "split")}


def multiply(cp, functions, a, b, c):
    """c + a b of float16 a (m, 16, 16) and b (m, 16, 8), and float32 c (m, 16, 8)."""
    m = len(a)
    # Lane 4 g + t: rows g and g + 8, columns 2 t, 2 t + 1 and those eight further; see kernels/mma.cuh.
    lanes_a = a.reshape(m, 2, 8, 2, 4, 2).transpose(0, 2, 4, 3, 1, 5)
    lanes_b = b.reshape(m, 2, 4, 2, 8).transpose(0, 4, 2, 1, 3)
    lanes_c = c.reshape(m, 2, 8, 4, 2).transpose(0, 2, 3, 1, 4)
    device = [cp.asarray(np.ascontiguousarray(array)) for array in (lanes_a, lanes_b, lanes_c)]
    functions["multiply"]((1,), (32,), (*device, np.int32(m)))
    return cp.asnumpy(device[2]).reshape(m, 8, 4, 2, 2).transpose(0, 3, 1, 2, 4).reshape(c.shape)


def test_products_are_of_the_matrices_meant(cp, functions):
    """Small whole numbers, which nobody rounds."""
    rng = np.random.default_rng(0)
    a, b = (rng.integers(-9, 10, (20, *shape)).astype(np.float16) for shape in ((16, 16), (16, 8)))
    c = rng.integers(-99, 100, (20, 16, 8)).astype(np.float32)
    found = multiply(cp, functions, a, b, c)
    np.testing.assert_array_equal(found, c + a.astype(np.float32) @ b.astype(np.float32))


def sums(rng, m):
    """Products that cancel, that are alike, that are much smaller than the sum so far, or one among many of them."""
    spread = rng.choice([0, 4, 12], (m, 1, 1))
    a = rng.normal(size=(m, 16, 16)) * 2.0 ** (8 - spread * rng.random((m, 16, 16)))
    b = rng.normal(size=(m, 16, 8)) * 2.0 ** (8 - spread * rng.random((m, 16, 8)))
    alike = rng.random((m, 1, 1)) < 0.3
    a, b = np.where(alike, np.abs(a), a).astype(np.float16), np.where(alike, np.abs(b), b).astype(np.float16)
    for factor in (a, b):
        factor[np.abs(factor) < 2.0**-14] = 0  # subnormal numbers, which need not count (exact.Frame)
    product = a.astype(np.float64) @ b.astype(np.float64)
    c = product * rng.choice([-1, 1, 0, 2.0**-9, 2.0**11], (m, 1, 1)) * rng.uniform(0.5, 1, (m, 16, 8))
    return a, b, c.astype(np.float32)


def test_sums_lose_no_more_than_the_bound_allows_them(cp, functions):
    """Of each of 16 products its own last bits, the sum's and the result's: 6 u of what is largest (exact.Frame)."""
    a, b, c = sums(np.random.default_rng(1), 400)
    exact = c + a.astype(np.float64) @ b.astype(np.float64)
    largest = np.abs(c) + np.abs(a.astype(np.float64)) @ np.abs(b.astype(np.float64))
    lost = np.abs(multiply(cp, functions, a, b, c) - exact) / (16 * 6 * U32 * largest)
    assert lost.max() <= 1
    assert lost.max() > 2**-12, "as if nothing were ever lost"


def test_halves_are_float16(cp, functions):
    rng = np.random.default_rng(2)
    x = (rng.normal(size=4000) * 2.0 ** rng.integers(-30, 16, 4000)).astype(np.float32)
    ties = (np.arange(-2050, 2050) + 0.5).astype(np.float32) * np.float32(2.0**-3)
    x = np.concatenate(
        [x, ties, ties * np.float32(2.0**-21), np.float32([0.0, -0.0, 65504, -65504, 2.0**-25, 2.0**-24])]
    )
    with np.errstate(over="ignore"):
        expected = x.astype(np.float16)
    given = cp.asarray(x)
    halves, back = cp.asarray(np.zeros(len(x) // 2, np.uint32)), cp.asarray(np.zeros(len(x), np.float32))
    functions["split"]((1,), (32,), (given, halves, back, np.int32(len(x) // 2)))
    np.testing.assert_array_equal(cp.asnumpy(halves).view(np.float16), expected)
    np.testing.assert_array_equal(cp.asnumpy(back), expected.astype(np.float32))


# ---------------------------------------------------------------- what is certain is right


def along_rays(rng, dtype, d, k):
    """Rows in a corner, each with one center behind it and one before it at almost the same distance: sums of products
    that are all positive, three times as large for one as for the other, so that what they lose does not cancel. As
    many rows in the opposite corner keep the frame's offset between them."""
    half = (k + 1) // 2
    y = rng.uniform(0.6, 1, (half, d)).astype(np.float32).astype(np.float64)
    nudge = 2.0 ** -rng.integers(8, 24, (half, 1)) * rng.choice([-1, 1], (half, 1))
    x = np.concatenate([y, -y, -np.ones((1, d)), np.ones((1, d))]).astype(np.float32)
    if dtype == "uint8":
        x = np.rint(x * 127.5 + 127.5).astype(np.uint8)
        y = x[:half].astype(np.float64) - 127.5
        return x, np.concatenate([y * 1.5 * (1 + nudge), y / 2])[:k] + 127.5
    x = x.astype(dtype)
    y = x[:half].astype(np.float64)
    return x, np.concatenate([y * 1.5 * (1 + nudge), y / 2])[:k]


# Features and centers that fill tiles, one over and one short.
SEARCHES = [
    *[("float32", 16, 128), ("float64", 12, 110)],
    *[(dtype, 17, 33) for dtype in DTYPES],
    *[("float32", 40, 129), ("float64", 31, 128), ("float16", 65, 127), ("uint8", 48, 257), ("float32", 200, 60)],
]


def labels_of(cp, x, centers):
    points = CudaPoints(cp, Samples(x))
    lloyd.prepare(points, *points.feature_range())
    points.assign(centers)
    return points.labels(), points.uncertain


@pytest.mark.parametrize(("dtype", "d", "k"), SEARCHES)
def test_no_certain_label_is_wrong(address, brute_labels, dtype, d, k):
    certain, before = 0, address.launches["assign_tensor"]
    for make in (mirrored, along_rays):
        for seed in range(4):
            x, centers = make(np.random.default_rng(seed), dtype, d, k)
            labels, uncertain = labels_of(address, x, centers)
            np.testing.assert_array_equal(labels, brute_labels(x, centers), err_msg=f"{make.__name__} {seed}")
            certain += len(x) - uncertain
    assert certain > 0
    assert address.launches["assign_tensor"] >= before + 4  # the rest is of scales that they do not serve


# Without what float16 loses of rows, or of centers.
WITHOUT = {"rows": ("loss * roundings", "0.0f * loss"), "centers": ("2.0f * lost", "0.0f * lost")}


def rounded_one_way(rng, part, d, k):
    """Rows each with two centers along it, behind and before, nearly as far as each other. Either the rows or the
    centers behind them have more bits than float16, which loses these all to one side, so that it takes the farther one
    for the nearer."""
    half = (k + 1) // 2
    signs, side = rng.choice([-1, 1], (half, d)), rng.choice([-1, 1], (half, 1))
    exact = signs * rng.integers(176, 250, (half, d)) / 256
    more = 0.4 * 2.0**-11 * side * signs
    behind = 1.5 * exact
    # By one to three times what decides between them, of the two or three that are lost.
    share, toward = (0.1, 1) if part == "rows" else (0.2, -1)
    for row, step in zip(behind, 2.0**-9 * toward * side * signs, strict=True):
        count = int(d * share * rng.uniform(0.3, 0.9) * (1 if part == "rows" else 3))
        row[:count] += step[:count]
    if part == "centers":
        behind += 2 * more
    y = exact + more if part == "rows" else exact
    x = np.concatenate([y, -y, -np.ones((1, d)), np.ones((1, d))]).astype(np.float32)
    return x, np.concatenate([behind, exact / 2])[:k].astype(np.float32).astype(np.float64)


@pytest.mark.parametrize("part", WITHOUT)
@pytest.mark.parametrize(("d", "k"), [(40, 129), (160, 60), (640, 33)])
def test_no_label_of_one_product_is_wrong(address, brute_labels, part, d, k):
    """By 128 rows a block, in more shared memory than is given unasked, and by 64; of those that it decides by itself,
    and those that it leaves."""
    x, centers = rounded_one_way(np.random.default_rng(0), part, d, k)
    labels, _ = labels_of(address, x, centers)
    np.testing.assert_array_equal(labels, brute_labels(x, centers))


@pytest.mark.parametrize("part", WITHOUT)
@pytest.mark.parametrize("capability", ["80", "90", "100"])
def test_one_product_would_be_wrong_without_what_it_loses(brute_labels, monkeypatch, tmp_path, part, capability):
    monkeypatch.setenv("CUPY_CACHE_DIR", str(tmp_path))  # so that nobody finds these kernels
    cp = HostCuda(build="fast", seed=1, capability=capability)
    compile_here, found = cp.compile, []
    folder = Path(str(files("gpukmeans.kernels")))
    header, ring = ((folder / name).read_text() for name in ("half.cuh", "ring.cuh"))

    def without(source, *more, **how):
        source = source.replace('#include "ring.cuh"', ring)
        if '#include "half.cuh"' in source:
            found.append(header.count(WITHOUT[part][0]))
            source = source.replace('#include "half.cuh"', header.replace(*WITHOUT[part]))
        return compile_here(source, *more, **how)

    monkeypatch.setattr(cp, "compile", without)
    monkeypatch.setattr(cp.cuda.compiler, "compile_using_nvrtc", without)
    x, centers = rounded_one_way(np.random.default_rng(0), part, 40, 129)
    assert (labels_of(cp, x, centers)[0] != brute_labels(x, centers)).any()
    assert max(found) > 0


@pytest.mark.parametrize(("dtype", "d", "k"), [("float64", 330, 60), ("float16", 400, 60), ("float32", 600, 60)])
def test_the_search_would_find_a_dishonest_kernel(address, brute_labels, monkeypatch, dtype, d, k):
    """The bound is a worst case of any order and of all roundings going one way; a thousandth of it is too little."""
    honest = Frame.tensor_score_errors
    monkeypatch.setattr(launch_plans, "half_plan", lambda *_: None)
    monkeypatch.setattr(
        Frame,
        "tensor_score_errors",
        lambda frame: ScoreErrors(*(factor / 1000 for factor in honest(frame))),
    )

    def wrong(seed):
        x, centers = along_rays(np.random.default_rng(seed), dtype, d, k)
        return (labels_of(address, x, centers)[0] != brute_labels(x, centers)).any()

    assert any(wrong(seed) for seed in range(12))


@pytest.mark.parametrize("capability", ["86", "90"])
def test_few_rows_are_left_to_d(capability):
    """Of noise in many features, in any iteration: tensor cores no more than float32's multiply-adds."""
    x = np.random.default_rng(1).normal(size=(500, 512)).astype(np.float32)
    points = CudaPoints(HostCuda(build="fast", seed=1, capability=capability), Samples(x))
    scales = lloyd.prepare(points, *points.feature_range())
    centers = x[:60].astype(np.float64)
    for _ in range(4):
        before = points.uncertain
        points.assign(centers)
        assert points.uncertain - before <= 0.01 * len(x)
        centers, _ = lloyd.update(points, scales, centers)


# ---------------------------------------------------------------- fits


@pytest.mark.parametrize("dtype", DTYPES)
def test_fits_are_numpys(on, address, dtype):
    before = address.launches["assign_tensor"]
    same(on, address, values(dtype, 300, 19), 40, np.random.default_rng(1).integers(0, 4, 300))
    assert address.launches["assign_tensor"] > before + 3


def test_float16_about_zero_takes_two_products(on, address, monkeypatch):
    """Some of it too small for the float16 that are multiplied."""
    x = values("float16", 300, 19) - np.float16(100)
    x[:, ::4] *= np.float16(2.0**-16)
    compiled = []
    function = modules.function
    monkeypatch.setattr(modules, "function", lambda *asked: compiled.append(asked[-1]) or function(*asked))
    cp = HostCuda(build="address", seed=1)
    same(on, cp, x, 40)
    assert [words for words in compiled if "-DAT_ZERO=1" in words]
    compiled.clear()
    same(on, HostCuda(build="fast", seed=1), x + np.float16(100), 40)
    assert not [words for words in compiled if "-DAT_ZERO=1" in words]


@pytest.mark.parametrize("seed", [2, 3])
def test_no_race_and_no_order_of_threads(on, monkeypatch, seed):
    """More tiles of rows than blocks at once, more tiles of centers than one."""
    monkeypatch.setattr(gpu, "RESIDENT", 1)
    cp = HostCuda(build="race" if seed == 2 else "address", seed=seed, capability="80")
    same(on, cp, values("float32", 700, 20), 140, max_iter=2)
    same(on, cp, values("uint8", 300, 33), 40, max_iter=2)
    same(on, cp, values("float16", 300, 33) - np.float16(100), 40, max_iter=2)
    assert cp.launches["assign_half"] > 4


# ---------------------------------------------------------------- when they serve


@pytest.mark.parametrize(
    ("serves", "d", "k", "scale", "outlier"),
    [
        (True, 17, 33, 1.0, 1),
        (False, 17, 32, 1.0, 1),
        (True, 20, 40, 2.0**-110, 1),
        (False, 20, 40, 2.0**-114, 1),
        (True, 20, 40, 2.0**300, 1),
        (True, 20, 40, 1.0, 30),
        (False, 20, 40, 1.0, 90),
    ],
    ids=["fewest centers", "too few", "small", "too small", "large", "an outlier", "a far one"],
)
def test_they_serve_where_their_bound_holds(serves, d, k, scale, outlier):
    x = np.random.default_rng(0).uniform(-1, 1, (50, d)) * scale
    x[0] *= outlier
    frame = Frame.of(x.min(axis=0), x.max(axis=0), x)
    assert (launch_plans.tensor(frame, k, x.dtype) is not None) == serves


@pytest.mark.parametrize(
    ("reach", "serves"),
    [(4.5, True), (-4.5, True), (1e10, True), (1e-10, True), (1e-30, True), (0.0, True), (1e20, False)],
)
def test_centers_of_any_length_are_compared_on_tensor_cores(brute_labels, reach, serves):
    """One of them, or all, or all on one side. Or by D alone, and the next ones again on tensor cores."""
    cp = HostCuda(build="fast", capability="90")
    x = np.random.default_rng(0).uniform(-1, 1, (50, 20))
    x[:2] = [[-1], [1]]  # the frame's offset is zero
    points = CudaPoints(cp, Samples(x))
    lloyd.prepare(points, *points.feature_range())
    one, side = x[:40].copy(), x[:40] / 2
    one[7] *= reach
    side[:, 3] = reach
    others = (x[:40] * reach, serves), (one, serves), (side, serves)
    for centers, served in ((x[:40], True), *others, (x[:40] / 2, True)):
        cp.launches.clear()
        points.assign(centers)
        assert points.labels().tolist() == brute_labels(x, centers).tolist()
        launched = {name for name in cp.launches if name.startswith("assign")}
        assert launched == ({"assign_half", "assign_tensor"} if served else set())
    if abs(reach) == 4.5:  # beyond float16 by itself
        assert points.uncertain == 0


@pytest.mark.parametrize(("capability", "used"), [("80", True), ("86", False), ("90", True), ("120", False)])
def test_they_serve_on_gpus_where_they_are_worth_it(on, capability, used):
    cp = HostCuda(build="fast", capability=capability)
    on(cp)
    KMeans(40, random_state=0, max_iter=2, device="cpu").fit(values("float32", 200, 20))
    assert (cp.launches["assign_tensor"] > 0) == used
    assert (cp.launches["assign_tiled"] > 0) == (not used)
