"""Whole fits of many problems in one launch: each has the bits of KMeans on NumPy, and the host waits as often for many
as for one."""

from __future__ import annotations

import sys
import warnings

import numpy as np
import pytest
from host_cuda.machine import as_cupy
from host_cuda.runtime import HostCuda

from gpukmeans import KMeans
from gpukmeans.cli.main import main
from gpukmeans.engine import dispatch
from gpukmeans.engine.cuda import problem_kernels, stacks, whole_fit_plans
from gpukmeans.engine.cuda.stacks import CudaStarts, narrowed, stacks_on_gpu
from gpukmeans.exact.fixed_point import Weights
from gpukmeans.many_fits import Starts, fit_stack
from gpukmeans.random_state import seeded

pytestmark = pytest.mark.kernels

rng = np.random.default_rng(2)


@pytest.fixture(scope="module")
def fast():
    return HostCuda(build="fast", seed=1)


def weights_of(kind, lengths):
    """Weights of each problem, as they are used, and their summaries."""
    if kind == "none":
        return [None] * len(lengths), [Weights.of_rows(n) for n in lengths]
    some = {
        "copies": lambda n: rng.integers(1, 5, size=n).astype(float),
        "fractions": lambda n: rng.random(n) + 0.1,
        "light": lambda n: (rng.random(n) + 0.1) * 2.0**-40,
    }[kind]
    summaries, used = zip(*(Weights.of(some(n)) for n in lengths), strict=True)
    return used, summaries


def together(host, xs, weights, summaries, k, *, rows=None, init="k-means++", n_init=1, tol=1e-4, max_iter=300):
    """The fits of all problems, by seeds 0, 1, and so on."""
    centers = None if isinstance(init, str) else init
    starts = Starts(k, init if centers is None else "", centers, n_init, tol, max_iter)
    stack = stacks_on_gpu(host).make(xs, weights, summaries, k, rows)
    dtype = xs[0].dtype if xs[0].dtype.kind == "f" else np.dtype(np.float64)
    return fit_stack(stack, [seeded(i) for i in range(len(xs))], starts, dtype)


def assert_are_numpys(fits, xs, weights, k, init="k-means++", **parameters):
    """Returns how many there are."""
    for i, fit in enumerate(fits):
        if fit is None:
            continue
        own = KMeans(
            k,
            random_state=i,
            device="cpu",
            init=init if isinstance(init, str) else init[i],
            **{"n_init": 1, **parameters},
        )
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            own.fit(xs[i], sample_weight=weights[i])
        assert fit.centers.tobytes() == own.cluster_centers_.tobytes()
        assert np.array_equal(fit.labels, own.labels_)
        assert float(fit.inertia) == own.inertia_
        assert fit.n_iter == own.n_iter_
    return sum(fit is not None for fit in fits)


def blobs(n, d, dtype, centers=6):
    x = 8 * rng.normal(size=(centers, d))[rng.integers(centers, size=n)] + rng.normal(size=(n, d))
    return (x + 40).astype(dtype) if dtype == np.uint8 else x.astype(dtype)


@pytest.mark.parametrize("dtype", [np.uint8, np.float16, np.float32, np.float64])
@pytest.mark.parametrize(
    ("d", "k"),
    [(1, 2), (3, 5), (4, 8), (7, 9), (16, 16), (17, 4), (33, 3)],
)
def test_problems_of_any_shape_are_numpys(fast, dtype, d, k):
    """Features a thread holds and more, centers that pad a group, rows that are fewer or more than threads."""
    lengths = [k + 60, 300, 700]
    xs = [blobs(n, d, dtype) for n in lengths]
    weights, summaries = weights_of("none", lengths)
    fits = together(fast, xs, weights, summaries, k)
    assert assert_are_numpys(fits, xs, weights, k) >= 2


@pytest.mark.parametrize("kind", ["copies", "fractions", "light"])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_each_problem_has_weights_of_its_own(fast, kind, dtype):
    lengths = [90, 300, 523]
    xs = [blobs(n, 5, dtype) for n in lengths]
    weights, summaries = weights_of(kind, lengths)
    fits = together(fast, xs, weights, summaries, 6)
    # Of so little weight, means may be off by more than a GPU decides.
    assert assert_are_numpys(fits, xs, weights, 6) == (0 if kind == "light" else 3)


@pytest.mark.parametrize(
    "parameters",
    [{"n_init": 3}, {"init": "random"}, {"tol": 0.0}, {"tol": 0.3}, {"max_iter": 1}, {"max_iter": 3}],
    ids=str,
)
def test_fits_end_as_numpys_do(fast, parameters):
    xs = [rng.normal(size=(200, 3)) for _ in range(3)]
    weights, summaries = weights_of("none", [200] * 3)
    fits = together(fast, xs, weights, summaries, 5, **parameters)
    assert assert_are_numpys(fits, xs, weights, 5, **parameters) == 3


def test_centers_may_be_given_and_lie_anywhere(fast):
    """Also so far that no score serves, and D decides of all rows."""
    xs = [rng.normal(size=(300, 3)) for _ in range(2)]
    init = np.stack([x[:4] for x in xs])
    init[1, 3] = 1e60, 0, 0
    weights, summaries = weights_of("none", [300] * 2)
    fits = together(fast, xs, weights, summaries, 4, init=init)
    assert assert_are_numpys(fits, xs, weights, 4, init=init) == 1
    assert fits[1] is None  # a cluster of no rows


def test_ties_go_to_the_first_center(fast):
    """Of whole numbers many are as far from one center as from another."""
    grid = np.stack(np.meshgrid(np.arange(12.0), np.arange(12.0)), axis=-1).reshape(-1, 2)
    init = np.array([[[0.0, 0.0], [3.0, 9.0], [7.0, 1.0], [11.0, 11.0]]] * 2)
    weights, summaries = weights_of("none", [144] * 2)
    for dtype in (np.float32, np.float64, np.uint8):
        xs = [grid.astype(dtype)] * 2
        fits = together(fast, xs, weights, summaries, 4, init=init, max_iter=2)
        assert assert_are_numpys(fits, xs, weights, 4, init=init, max_iter=2) == 2


@pytest.mark.parametrize("b", [1, 3, 20])
def test_the_host_waits_as_often_for_many_problems_as_for_one(fast, b):
    """Three launches and three waits for all iterations of all problems: for ranges, centers, and labels."""
    xs = [np.random.default_rng(i).normal(size=(300, 3)).astype(np.float32) for i in range(b)]
    weights, summaries = weights_of("none", [300] * b)
    before = fast.traffic
    fits = together(fast, xs, weights, summaries, 5)
    assert sum(fit.n_iter for fit in fits) > 3 * b
    spent = fast.traffic.since(before)
    assert spent.launches == 3
    assert spent.waits == 3
    # Down come ranges, centers and iterations, the inertia and labels; up go rows, draws, scales, and centers twice.
    assert spent.down == b * (2 * 3 * 8 + (5 * 3 + 1) * 8 + 4 * 8 + 300 * 4)
    assert spent.up == b * (300 * 3 * 4 + 3 * 8 + 8 * 8 + 6 * 3 * 8 + (1 + 4 * 3) * 8 + 5 * 3 * 8)


@pytest.mark.parametrize("starts", [1, 3, 10])
@pytest.mark.parametrize("there", [False, True])
def test_the_host_waits_as_often_for_many_starts_as_for_one(fast, monkeypatch, there, starts):
    """Of one KMeans: three launches and four waits, the fourth for what `history_` tells; rows go up once, or are used
    where they are."""
    x = np.random.default_rng(0).normal(size=(300, 3)).astype(np.float32)
    monkeypatch.setitem(sys.modules, "cupy", as_cupy(fast))
    rows = fast.asarray(x) if there else x
    KMeans(2, device="cuda", max_iter=1).fit(x)  # of which CUDA is asked whether it works
    before = fast.traffic
    model = KMeans(5, n_init=starts, random_state=0, device="cuda").fit(rows)
    spent = fast.traffic.since(before)
    iterations = [record.start for record in model.history_]
    longest = max(iterations.count(start) for start in range(starts))
    assert (spent.launches, spent.waits) == (3, 4)
    labels = 0 if there else 300 * 4  # which stay where rows are
    assert spent.down == 2 * 3 * 8 + starts * ((5 * 3 + 1) * 8 + 4 * 8 + labels + longest * (1 + 5) * 8)
    up = 3 * 8 + 8 * 8 + 6 * 3 * 8 + starts * ((1 + 4 * 3) * 8 + 5 * 3 * 8)
    # Centers go where rows came from, and beforehand a value of theirs, to see what becomes of its dtype.
    # Labels of the best start are copied, which the CPU in a GPU's place does by way of the host.
    copied = 300 * 4 if starts > 1 else 0
    assert spent.up == up + (5 * 3 * 4 + 4 + copied if there else 300 * 3 * 4)


@pytest.mark.parametrize("n_init", [1, 4])
def test_rows_on_a_gpu_are_fitted_whole_there(fast, monkeypatch, n_init):
    x = blobs(300, 3, np.float64)
    expected = KMeans(5, n_init=n_init, init="random", random_state=0, device="cpu").fit(x)
    monkeypatch.setitem(sys.modules, "cupy", as_cupy(fast))
    found = KMeans(5, n_init=n_init, init="random", random_state=0).fit(fast.asarray(x))
    assert isinstance(found.labels_, fast.ndarray)
    assert fast.launches["fit_problems"] >= 1
    assert found.labels_.get().tobytes() == expected.labels_.tobytes()
    assert found.cluster_centers_.get().tobytes() == expected.cluster_centers_.tobytes()
    assert found.history_ == expected.history_


def test_where_memory_is_short_starts_are_made_one_after_another(monkeypatch):
    """Of the same draws."""
    x = blobs(300, 3, np.float32)
    expected = KMeans(5, n_init=8, random_state=np.random.RandomState(0), device="cpu").fit(x)
    short = HostCuda(build="fast", seed=1)
    monkeypatch.setitem(sys.modules, "cupy", as_cupy(short))
    given = CudaStarts.fit

    def fit(self, *how):
        given(self, *how)
        raise MemoryError

    monkeypatch.setattr(CudaStarts, "fit", fit)
    found = KMeans(5, n_init=8, random_state=np.random.RandomState(0), device="cuda").fit(x)
    assert short.launches["refine"] > 8
    assert found.cluster_centers_.tobytes() == expected.cluster_centers_.tobytes()
    assert found.history_ == expected.history_


def test_what_is_shared_out_to_several_gpus_is_not_fitted_whole(monkeypatch):
    x = blobs(300, 3, np.float32)
    hosts = [HostCuda(build="fast", seed=i) for i in (1, 2)]
    monkeypatch.setitem(sys.modules, "cupy", as_cupy(*hosts))
    assert dispatch.make_starts(x, 5, 3, device="cuda:0,1") is not None
    monkeypatch.setattr(dispatch, "PART", 100)
    assert dispatch.make_starts(x, 5, 3, device="cuda:0,1") is None
    assert dispatch.make_starts(x, 5, 3, device="cuda:1") is not None


def test_sizes_decide_what_a_block_fits(fast, monkeypatch):
    def sooner(n, d, k, starts=1, dtype="float32", doubles=True):
        kind = np.dtype(dtype)
        return whole_fit_plans.sooner(n, d, k, kind, starts, multiprocessors=132, tensor_cores=doubles)

    assert sooner(1797, 64, 10)
    assert not sooner(1797, 64, 10, doubles=False)  # k-means++ measures in float64
    assert sooner(1797, 64, 10, starts=10, doubles=False)  # each on a multiprocessor of its own
    assert sooner(10_000, 64, 10, starts=10)
    assert not sooner(10_000, 64, 10)
    assert not sooner(2**22 + 1, 1, 2, starts=100)
    monkeypatch.setitem(sys.modules, "cupy", as_cupy(fast))
    assert dispatch.make_starts(np.zeros((300, 40)), 10, 1, device="cuda:0") is not None
    assert dispatch.make_starts(np.zeros((300, 400)), 100, 1, device="cuda:0") is None  # more than a block can keep


def test_values_are_sent_in_the_narrowest_dtype_that_holds_them(fast):
    x = np.arange(12.0).reshape(4, 3)
    assert narrowed(x).dtype == np.uint8
    for value in (0.5, -1.0, 256.0, 2.0**127):
        x[2, 1] = value
        assert narrowed(x).dtype == np.float32
        assert np.array_equal(narrowed(x), x)
    for value in (0.1, 2.0**128, 1e-60, np.nan):
        x[2, 1] = value
        assert narrowed(x) is x
    there = fast.asarray(np.zeros((4, 3)))
    assert narrowed(there) is there
    assert narrowed(np.zeros((4, 3), np.float16)).dtype == np.float16


def test_a_range_of_k_is_a_launch_each(fast, monkeypatch, tmp_path, capsys):
    np.save(tmp_path / "x.npy", blobs(200, 3, np.float32))
    monkeypatch.setitem(sys.modules, "cupy", as_cupy(fast))
    before = fast.launches["fit_problems"]
    assert main(["fit", str(tmp_path / "x.npy"), "-k", "2:6", "--n-init", "3", "--device", "cuda"]) == 0
    assert fast.launches["fit_problems"] == before + 5
    on_gpu = capsys.readouterr().out.splitlines()[1:]
    assert main(["fit", str(tmp_path / "x.npy"), "-k", "2:6", "--n-init", "3", "--device", "cpu"]) == 0
    assert capsys.readouterr().out.splitlines()[1:] == on_gpu


def test_a_process_compiles_it_once_there_were_many_starts(fast, monkeypatch, tmp_path):
    """Or finds it, where any process has; of each kind of rows and weights."""
    monkeypatch.setenv("CUPY_CACHE_DIR", str(tmp_path))
    monkeypatch.setattr(stacks, "WORTH_COMPILING", 10)
    monkeypatch.setattr(stacks, "_starts_so_far", 0)
    monkeypatch.setitem(sys.modules, "cupy", as_cupy(fast))
    x = blobs(100, 3, np.float32)

    def whole(starts, weights=None):
        before = fast.launches["fit_problems"]
        KMeans(3, n_init=starts, random_state=0, device="cuda").fit(x, sample_weight=weights)
        return fast.launches["fit_problems"] > before

    assert [whole(3), whole(6), whole(1), whole(1)] == [False, False, False, True]
    monkeypatch.setattr(stacks, "_starts_so_far", 0)
    assert whole(1)
    assert not whole(1, np.full(100, 0.5))


@pytest.mark.parametrize("build", ["address", "race"])
@pytest.mark.parametrize(("dtype", "d", "kind"), [(np.float32, 3, "none"), (np.float64, 19, "fractions")])
def test_nothing_is_read_beyond_its_end_or_raced_for(build, dtype, d, kind):
    lengths = [40, 300]
    xs = [blobs(n, d, dtype) for n in lengths]
    weights, summaries = weights_of(kind, lengths)
    fits = together(HostCuda(build=build, seed=3), xs, weights, summaries, 5)
    assert assert_are_numpys(fits, xs, weights, 5) == 2


def test_a_problem_that_does_not_fit_a_block_is_fitted_by_itself(fast):
    assert problem_kernels.shared(16, 16, 16) < 10_000
    x = rng.normal(size=(300, 400))
    weights, summaries = weights_of("none", [300])
    assert stacks_on_gpu(fast).make([x], weights, summaries, 100, None) is None
