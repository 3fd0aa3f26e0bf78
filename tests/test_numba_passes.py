"""Passes that numba compiles: each gives what its twin on NumPy does, to the bit, and is there only if numba is."""

import os
import re
import subprocess
import sys
from functools import partial

import numpy as np
import pytest
from numba import njit
from numpy.testing import assert_array_equal
from twins import WEIGHTS, assert_twins, prepared

from gpukmeans import KMeans, cluster_means, lloyd, numba_support
from gpukmeans.engine.numpy import choice, numba_means, numba_passes, numba_points
from gpukmeans.engine.numpy.numba_points import CompiledPoints
from gpukmeans.engine.numpy.points import NumPyPoints
from gpukmeans.engine.numpy.tuning import tuned
from gpukmeans.engine.protocol import Samples
from gpukmeans.exact.certificate import Frame

DTYPES = ["uint8", "float16", "float32", "float64"]
LAYOUTS = {
    "rows": np.ascontiguousarray,
    "columns": np.asfortranarray,
    "every other": lambda x: np.repeat(np.repeat(x, 2, axis=0), 2, axis=1)[::2, ::2],
}


def rows(rng, n, d, dtype):
    """Rows near some hundred places, with ties: a quarter are copies, a quarter halfway between two."""
    x = rng.normal(size=(100, d)).take(rng.integers(100, size=n), axis=0) * 40 + 100
    x += rng.normal(size=(n, d)) * (np.arange(n) % 4 > 1)[:, None]
    x[::4] = (x[::4] + x[rng.permutation(n)[: len(x[::4])]]) / 2
    return np.clip(x, 0, 255).astype(dtype)


both = partial(prepared, (NumPyPoints, CompiledPoints))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("weighing", WEIGHTS)
@pytest.mark.parametrize(("n", "d", "k"), [(701, 3, 5), (502, 40, 9), (300, 60, 70), (67, 1, 1)])
def test_each_pass_is_its_twin(dtype, layout, weighing, n, d, k):
    rng = np.random.default_rng(n + k)
    x = LAYOUTS[layout](rows(rng, n, d, dtype))
    for bounds in (True, False):
        with tuned(scores=True, bounds=bounds, threads=1, merge=False, arrange=False):
            (numpy, scales), (fast, same) = both(x, WEIGHTS[weighing](rng, n))
            assert_array_equal(scales.low, same.low)
            assert_array_equal(scales.high, same.high)
            centers = x[:k].astype(float)
            for _ in range(6):
                assert_twins(numpy, fast, scales, centers)
                centers, _ = lloyd.update(numpy, scales, centers)
            assert_array_equal(numpy.distances(centers), fast.distances(centers))
            assert_array_equal(numpy.distances(centers, np.float32), fast.distances(centers, np.float32))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("weighing", WEIGHTS)
@pytest.mark.parametrize(("n", "d", "k"), [(150, 4, 3), (67, 1, 1), (90, 7, 9)])
def test_an_iteration_of_small_data_is_its_twin(dtype, layout, weighing, n, d, k):
    """As it is chosen by size, with ties: labels, sums, the centers that follow and how far each goes."""
    rng = np.random.default_rng(n + k)
    x = LAYOUTS[layout](rows(rng, n, d, dtype))
    (numpy, scales), (fast, _) = both(x, WEIGHTS[weighing](rng, n))
    doubt = cluster_means.doubt(numpy, scales)
    centers = np.concatenate([x[: k - 1], x[:1]]).astype(float)  # the first and the last are one
    for _ in range(6):
        assert numpy.assign(centers) == fast.assign(centers)
        assert_array_equal(numpy.labels(), fast.labels())
        assert_array_equal(numpy.sums(), fast.sums())
        (expected, _), (made, _) = (lloyd.next_centers(points, scales, centers, doubt) for points in (numpy, fast))
        assert expected.centers.tobytes() == np.asarray(made.centers).tobytes()
        assert expected.shifts.tobytes() == made.shifts.tobytes()
        centers = expected.centers


def test_the_next_centers_of_few_clusters_are_made_in_one_call():
    x = rows(np.random.default_rng(0), 150, 4, "float64")
    _, (fast, scales) = both(x)
    fast.assign(x[:3])
    assert fast.next_centers(cluster_means.doubt(fast, scales)) is not None


def test_means_apart_in_another_feature_than_the_widest_are_made_in_one_call():
    x = np.random.default_rng(3).normal(size=(600, 2))
    x[:, 0] = np.sign(x[:, 0]) * 1e9
    x[:, 1] += np.where(np.arange(600) % 2, 100, -100)
    _, (fast, scales) = both(x)
    fast.assign(np.array([[-1e9, 0], [1e9, 100], [1e9, -100]]))
    assert fast.next_centers(cluster_means.doubt(fast, scales)) is not None


@pytest.mark.parametrize("case", ["a mean beside another", "an empty cluster", "many clusters", "cosine"])
def test_a_mean_in_doubt_is_left_to_the_driver(case):
    """Two means that lie together in the widest feature, and no farther apart in the other than they may be off."""
    rng = np.random.default_rng(3)
    x = rng.normal(size=(1200 if case == "many clusters" else 600, 2))
    x[:, 0] = np.sign(x[:, 0]) * 1e9 if case == "a mean beside another" else x[:, 0]
    k = 1100 if case == "many clusters" else 3
    centers = x[:k].copy()
    if case == "a mean beside another":
        centers = np.array([[-1e9, 0], [1e9, 1e-3], [1e9, -1e-3]])
        x[:, 1] = np.where(np.arange(600) % 2, 1e-3, -1e-3)
    if case == "an empty cluster":
        centers[1] = centers[0]
    _, (fast, scales) = both(x, metric="cosine" if case == "cosine" else "euclidean")
    fast.assign(centers)
    assert fast.next_centers(cluster_means.doubt(fast, scales)) is None


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_rows_far_from_all_centers_and_centers_far_from_all_rows(dtype):
    rng = np.random.default_rng(0)
    x = rng.normal(size=(600, 20)).astype(dtype)
    x[5] = 1e9
    for far in (1e3, 1e9, 1e30):
        centers = x[10:30].astype(float)
        centers[3] = far
        with tuned(scores=True, threads=1):
            (numpy, _), (fast, _) = both(x)
            assert numpy.assign(centers) == fast.assign(centers)
        assert_array_equal(numpy.labels(), fast.labels())


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("far", [0.0, 1e4])
def test_near_ties_are_decided_by_distance(dtype, far):
    """Fails without the margin: rows halfway between two centers, but for their last bits."""
    rng = np.random.default_rng(1)
    for d, k in ((3, 20), (40, 12), (60, 64)):
        centers = (rng.normal(size=(k, d)) + far).astype(dtype).astype(float)
        pair = rng.integers(k, size=(2, 2000))
        x = ((centers[pair[0]] + centers[pair[1]]) / 2).astype(dtype)
        x = np.nextafter(x, np.where(rng.random(x.shape) < 0.5, -np.inf, np.inf).astype(dtype))
        with tuned(scores=True, threads=1, merge=False):
            points = CompiledPoints(Samples(x))
            lloyd.prepare(points, *points.feature_range())
            points.assign(centers)
        steps = x[:, None].astype(float) - centers
        distance = np.add.accumulate(steps * steps, axis=2)[:, :, -1]
        assert_array_equal(points.labels(), distance.argmin(axis=1))
        assert points.uncertain > 0


@pytest.mark.parametrize("dtype", ["float16", "float32", "float64"])
@pytest.mark.parametrize(("d", "k"), [(12, 20), (30, 70)])
def test_groups_far_apart_leave_few_rows_to_distances(dtype, d, k):
    """Three groups, in turns: about the offset that most rows are near to, scores of the others leave all in doubt."""
    rng = np.random.default_rng(3)
    x = rng.normal(size=(6000, d))
    x[1::3] += 3e4 if dtype == "float16" else 1e4
    x[2::3, 0] -= 3e4
    x = x.astype(dtype)
    with tuned(scores=True, threads=1, merge=False, chunk_rows=700 if d == 30 else None):
        (numpy, scales), (fast, _) = both(x)
        centers = x[:k].astype(float)
        for i in range(5):
            before = fast.uncertain
            assert numpy.assign(centers) == fast.assign(centers)
            assert_array_equal(numpy.labels(), fast.labels())
            assert_array_equal(numpy.sums(), fast.sums())
            assert dtype == "float16" or fast.uncertain - before <= 100, i  # float16 has ties there
            centers, _ = lloyd.update(numpy, scales, centers)
    assert len(fast._groups[0]) >= 3  # and the middle, where most rows are near none


def test_one_far_row_is_no_group():
    x = np.random.default_rng(4).normal(size=(4000, 20))
    x[:: 4000 // 50] *= np.geomspace(1, 1e9, 50)[:, None]
    with tuned(scores=True, threads=1):
        (numpy, _), (fast, _) = both(x)
        for points in (numpy, fast):
            points.assign(x[1:30])
    assert_array_equal(numpy.labels(), fast.labels())
    assert len(fast._groups[1]) == 0


@pytest.mark.parametrize("n", [2, 3, 40])
def test_rows_by_columns_have_a_median_with_strides(n):
    x = np.asfortranarray(np.random.default_rng(0).normal(size=(n, 3)))
    found = []
    for compiled in (False, True):
        with tuned(scores=True, compiled=compiled):
            found.append(KMeans(2, init=x[:2], n_init=1).fit(x).cluster_centers_)
    assert found[0].tobytes() == found[1].tobytes()


@pytest.mark.parametrize("kind", ["noise", "apart", "offset", "thirds", "tiny"])
def test_distances_in_float32_are_rounded_ones(monkeypatch, brute_distances, kind):
    """By float64 products and D, whichever says; of groups far apart products say little, and D says all."""
    monkeypatch.setattr(numba_points, "_WORTH_PRODUCTS", 0)
    monkeypatch.setattr(numba_points, "_EXACT", 2**12)
    rng = np.random.default_rng(0)
    x = {
        "noise": lambda: rng.normal(size=(400, 40)),
        "apart": lambda: np.concatenate([rng.normal(size=(200, 20)), 1e7 + rng.normal(size=(200, 20))]),
        "offset": lambda: 1e5 + rng.normal(size=(400, 30)),
        "thirds": lambda: rng.integers(0, 3, (1500, 4)) / 7,
        "tiny": lambda: 1e-30 * rng.normal(size=(400, 9)),
    }[kind]().astype(np.float32)
    centers = (x[:11] + np.linspace(0, 1e-3, 11)[:, None] * (x[11:22] - x[:11])).astype(np.float32).astype(float)
    centers[3] = x[30]
    _, (fast, _) = both(x)
    found = fast.distances(centers, np.float32)
    assert found.dtype == np.float32
    expected = np.sqrt(brute_distances(x.astype(float), centers)).astype(np.float32)
    assert found.tobytes() == expected.tobytes()


def test_few_rows_are_left_to_distances():
    x = np.random.default_rng(2).normal(size=(5000, 30)).astype(np.float32)
    with tuned(scores=True, threads=1):
        (numpy, _), (fast, _) = both(x)
        for points in (numpy, fast):
            points.assign(x[:50].astype(float))
    assert 0 <= fast.uncertain <= 2 * numpy.uncertain + 10
    assert Frame.of(np.full(30, -5.0), np.full(30, 5.0)) is not None


def test_terms_become_the_nearest_whole_numbers():
    """Of any size that a sum has room for, and of halves the even one."""
    rng = np.random.default_rng(0)
    some = np.ldexp(rng.uniform(-1, 1, 4000), rng.integers(-3, 62, 4000))
    powers = np.ldexp(1.0, np.arange(62))
    halves = rng.integers(-(2**40), 2**40, 2000) / 2
    steps = [powers, powers * 1.5, np.nextafter(powers, 0), np.nextafter(powers, np.inf), powers - 0.5, powers + 0.5]
    for term in np.concatenate([some, halves, *steps, *(-step for step in steps), [0.0, -0.0, 2.0**31 + 0.5]]):
        assert numba_passes._whole(term) == int(np.rint(term))


@pytest.mark.slow
def test_only_scores_are_fused():
    """D, terms and units are single operations, whatever the processor could do."""
    x = np.ones((8, 5), np.float32)
    centers, sums, labels = np.ones((4, 5)), np.zeros((4, 6), np.int64), np.zeros(8, np.int32)
    floats = np.ones(5)
    numba_passes._own_distance(x, 0, floats)
    numba_passes._own_of_some(x, 0, labels, centers, np.empty(8, np.int64), np.empty(8, np.int64), np.empty(8))
    parts = numba_passes.Sums(sums, floats, floats, True)
    rows = np.zeros(1, np.int64)
    numba_passes._move_rows(
        x, rows, rows, 1, labels, 2, floats, rows, sums, floats, floats, True, np.zeros(6, np.int64)
    )
    numba_passes._whole(1.0)
    loops = numba_means._label, numba_means._next_centers, numba_passes._distances
    label, following, distances = (njit(**numba_passes._OPTIONS)(loop) for loop in loops)
    distances(x, centers, 1.0, np.empty((8, 4)))
    label(x, centers, labels, parts)
    following(sums, 1.0, floats, floats, centers, 1.0, 0.0, 0, centers, floats)
    exact = (
        label,
        following,
        distances,
        numba_passes._own_distance,
        numba_passes._own_of_some,
        numba_passes._move_rows,
        numba_passes._whole,
    )
    for function in exact:
        for code in function.inspect_llvm().values():
            fused = re.findall(r"= (\w+) .*contract ", code)
            assert set(fused) <= ({"fmul", "fsub"} if function is distances else set()), function  # x * 1 - c
            assert " reassoc " not in code, function
        assert not any("fmadd" in text for text in function.inspect_asm().values()), function
    numba_passes._place(x, 0, np.zeros(5, np.float32), np.float32(1), np.empty((1, 5), np.float32), 0)
    for code in numba_passes._place.inspect_llvm().values():
        assert " contract " in code, "the flag is spelled otherwise, and the test above finds nothing"


@pytest.mark.slow
def test_the_answer_is_the_same_whatever_the_processors_registers_hold():
    """Tiles of eight centers or sixteen: for the processor that this is, and for one that is like none."""
    code = """if True:
        import numpy as np
        from gpukmeans import KMeans
        from gpukmeans.engine.numpy import numba_tiles
        from gpukmeans.engine.numpy.tuning import tuned
        x = np.random.default_rng(0).normal(size=(3001, 21)).astype(np.float32)
        for k in (3, 20, 41, 70):
            with tuned(compiled=True, whole=False):
                model = KMeans(k, init=x[:k], n_init=1, max_iter=5, tol=0, device="cpu").fit(x)
                print(k, model.inertia_.hex(), model.labels_.sum(), model.cluster_centers_.tobytes().hex())
                print(model.transform(x[:300]).tobytes().hex(), model.predict(x).sum())
        print(numba_tiles.PANEL, numba_tiles.EXACT_PANEL)
    """
    answers = []
    for variables in ({}, {"NUMBA_CPU_NAME": "generic", "NUMBA_CPU_FEATURES": ""}):
        command = [sys.executable, "-W", "ignore", "-c", code]
        done = subprocess.run(command, capture_output=True, text=True, timeout=600, env=os.environ | variables)
        assert done.returncode == 0, done.stderr
        answers.append(done.stdout.splitlines())
    assert answers[0][:-1] == answers[1][:-1]
    assert answers[1][-1] == "8 4"


def test_numba_serves_where_it_is_and_pays(monkeypatch):
    monkeypatch.setattr(numba_support, "works", lambda: True)
    monkeypatch.setattr(choice, "_values_so_far", 0)
    few, many = np.ones((10, 2)), np.ones((2**12, 2))
    assert type(choice.on_numpy(Samples(few))) is NumPyPoints
    assert type(choice.on_numpy(Samples(many))) is CompiledPoints
    for _ in range(2**8):
        points = choice.on_numpy(Samples(few))
    assert type(points) is CompiledPoints
    monkeypatch.setattr(choice, "_values_so_far", 0)
    with tuned(compiled=False):
        assert type(choice.on_numpy(Samples(many))) is NumPyPoints
    with tuned(compiled=True):
        assert type(choice.on_numpy(Samples(few))) is CompiledPoints
    monkeypatch.setattr(numba_support, "works", lambda: False)
    assert type(choice.on_numpy(Samples(many))) is NumPyPoints


@pytest.mark.parametrize("how", ["hidden", "broken", "told not to compile"])
@pytest.mark.slow
def test_without_numba_the_answer_is_the_same(tmp_path, how):
    """In a process that has none, or none that works, and in one that imports it once rows are many."""
    code = """if True:
        import sys
        import numpy as np
        import gpukmeans
        assert "numba" not in sys.modules
        if {hidden}:
            sys.modules["numba"] = None
        x = np.random.default_rng(0).normal(size=(2**13, 40)).astype(np.float32)
        model = gpukmeans.KMeans(7, random_state=0, device="cpu", max_iter=5, tol=0).fit(x)
        print(model.inertia_.hex(), model.labels_.sum(), model.cluster_centers_.tobytes().hex())
        print(sys.modules.get("gpukmeans.engine.numpy.numba_passes") is not None)
    """
    (tmp_path / "numba").mkdir()
    (tmp_path / "numba" / "__init__.py").write_text("raise ImportError('Numba needs NumPy 1.0 or less')")
    settings = {"broken": {"PYTHONPATH": str(tmp_path)}, "told not to compile": {"NUMBA_DISABLE_JIT": "1"}}
    answers = []
    for hidden, variables in ((how == "hidden", settings.get(how, {})), (False, {})):
        command = [sys.executable, "-W", "ignore", "-c", code.format(hidden=hidden)]
        environment = os.environ | variables
        done = subprocess.run(command, capture_output=True, text=True, timeout=300, env=environment)
        assert done.returncode == 0, done.stderr
        answers.append(done.stdout.splitlines())
    assert answers[0][0] == answers[1][0]
    assert [answer[1] for answer in answers] == ["False", "True"]


def test_rows_that_cannot_be_written_or_are_not_aligned():
    x = np.random.default_rng(0).normal(size=(3000, 5))
    expected = KMeans(4, random_state=0).fit(x)
    closed = x.copy()
    closed.flags.writeable = False
    odd = np.frombuffer(bytes(1) + x.tobytes(), np.uint8)[1:].view(np.float64).reshape(x.shape)
    assert not odd.flags.aligned
    for other in (closed, odd):
        model = KMeans(4, random_state=0).fit(other)
        assert_array_equal(model.cluster_centers_, expected.cluster_centers_)
        assert model.inertia_ == expected.inertia_
