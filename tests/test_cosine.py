"""metric="cosine": rows of length one, centers of length one, and nothing else that is not so for any metric."""

from __future__ import annotations

import itertools
import logging
import math
import sys
from decimal import Decimal, localcontext
from functools import partial

import numpy as np
import pytest
import scipy.sparse
from host_cuda.machine import as_cupy
from host_cuda.runtime import HostArray, HostCuda
from reference import Reference
from sklearn.base import clone
from sklearn.exceptions import ConvergenceWarning
from sklearn.metrics.pairwise import cosine_distances

import gpukmeans
from gpukmeans import KMeans, MiniBatchKMeans, lloyd
from gpukmeans.engine.cuda import points as cuda
from gpukmeans.engine.numpy import normalized_rows
from gpukmeans.engine.numpy.normalized_rows import NormalizedRows
from gpukmeans.engine.numpy.points import NumPyPoints
from gpukmeans.engine.numpy.tuning import tuned
from gpukmeans.engine.protocol import Samples
from gpukmeans.exact.metric import COSINE

pytestmark = pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")


@pytest.fixture(scope="session")
def spherical(device):
    return partial(KMeans, metric="cosine", device=device, random_state=0)


def plain_unit(row):
    """The definition, in Python's floats."""
    row = [float(value) for value in row]
    _, exponent = math.frexp(max(map(abs, row)))
    scale = math.ldexp(1.0, max(-1022, min(1022, -exponent)))
    total = 0.0
    for value in row:
        total += value * scale * (value * scale)
    length = math.sqrt(total) or 1.0
    return [value * scale / length for value in row]


def plain_units(x):
    return np.array([plain_unit(row) for row in x])


def bits(model):
    arrays = model.cluster_centers_, model.labels_
    return *(array.tobytes() for array in arrays), model.inertia_, model.n_iter_


def words(n=400, d=30, k=5):
    """Counts of words of k subjects, in texts of many lengths."""
    rng = np.random.default_rng(0)
    subjects = rng.gamma(0.3, size=(k, d))
    lengths = rng.integers(1, 200, n)[:, None]
    counts = rng.poisson(lengths * (subjects / subjects.sum(axis=1, keepdims=True))[rng.integers(0, k, n)])
    counts[:, 0] += 1
    return np.minimum(counts, 255).astype(np.uint8)


def directions(n=1200):
    """Few distinct directions in space, at lengths of all magnitudes: merged and sorted once they are unit rows."""
    rng = np.random.default_rng(1)
    x = rng.integers(-3, 4, (n, 3)).astype(np.float64)
    assert not x.any(axis=1).all(), "some are zero"
    return x * 2.0 ** rng.integers(-100, 100, (n, 1))


# ---------------------------------------------------------------- rows that are whole once they are of length one


def signs(rng, n):
    return rng.choice([-1.0, 1.0], n)


WHOLE = {
    "one-hot": lambda rng, n: np.eye(20)[rng.integers(0, 20, n)],
    "axes": lambda rng, n: np.eye(5)[rng.integers(0, 5, n)] * signs(rng, n)[:, None],
    "multiples": lambda rng, n: np.eye(7)[rng.integers(0, 7, n)] * 10.0 ** rng.integers(-200, 200, n)[:, None],
    "zeros among them": lambda rng, n: np.eye(4)[rng.integers(0, 4, n)] * rng.integers(0, 2, n)[:, None],
    "one feature": lambda rng, n: rng.normal(size=(n, 1)),
    "one positive feature": lambda rng, n: rng.random((n, 1)) + 1,
}


def test_rows_that_nearly_cancel_have_a_direction_while_a_fit_goes_on(make_points):
    """Sums of all rows know a mean of 2**-50 to a few bits. No other mean is near, but zero is."""
    x = np.array([[1, 0, 0], [-1, 0.7 * 2.0**-49, 0.3 * 2.0**-49], *[[0, -1, 0]] * 100])
    points, scales = make_points(x, metric=COSINE)
    centers = np.array([[0.0, 0.6, -0.8], [0, -1, 0]])
    points.assign(centers)
    coarse = scales.centers(points.sums()) * 2.0**50
    assert np.abs(coarse[0] - [0, 0.7, 0.3]).max() > 2.0**-10
    updated, _ = lloyd.update(points, scales, centers)
    assert np.abs(updated[0] * math.hypot(0.7, 0.3) - [0, 0.7, 0.3]).max() < 2.0**-24


@pytest.mark.parametrize("dtype", [np.float64, np.float32])
@pytest.mark.parametrize("kind", WHOLE)
def test_cosine_of_rows_that_are_whole(spherical, ways, slow, kind, dtype):
    """Their float32 features add up exactly, from where terms are measured: zero, and not the middle of their range."""
    rng = np.random.default_rng(0)
    x = WHOLE[kind](rng, 60 if slow else 300)
    x = x if dtype == np.float64 else np.sign(x).astype(dtype)
    for k in (1, 2, 4):
        init = x[rng.permutation(len(x))[:k]]
        expected, labels, inertia, n_iter = Reference(x, metric="cosine").fit(init, dtype=dtype)
        for name, way in ways.items():
            with tuned(**way):
                model = spherical(k, init=init).fit(x)
            assert model.cluster_centers_.tolist() == expected.tolist(), name
            assert model.labels_.tolist() == labels.tolist(), name
            assert abs(model.inertia_ - float(inertia)) <= 1e-12 * float(inertia), name
            assert model.n_iter_ == n_iter, name


def test_cosine_of_one_hot_rows_by_default(spherical):
    x = np.eye(20)[np.random.default_rng(0).integers(0, 20, 3000)]
    model = spherical(2).fit(x)
    assert model.inertia_ == pytest.approx(4410.810855108337, rel=1e-12)
    assert (model.cluster_centers_ >= 0).all()


# ---------------------------------------------------------------- rows of length one


def odd_rows(d):
    """Rows of every magnitude, also within one row; d values each."""
    rng = np.random.default_rng(d)
    for low, high in [(-1, 1), (-1074, -1000), (-1074, 1023), (950, 1023), (-100, 100)]:
        x = rng.normal(size=(60, d)) * np.exp2(rng.integers(low, high, (60, d)).astype(np.float64))
        yield np.where(x == 0, 2.0**-1074, np.nan_to_num(x, posinf=1e308, neginf=-1e308))
    yield [[0.0] * d, [-0.0] * d]
    yield np.eye(d)[: min(d, 60)] * sys.float_info.max
    yield -np.eye(d)[: min(d, 60)] * 2.0**-1074
    yield np.where(
        np.eye(60, d) + (np.arange(60) >= d)[:, None] > 0, 1e-300, rng.choice([1e-30, 1e30, -0.0, 3.0], (60, d))
    )


@pytest.mark.parametrize("d", [1, 2, 3, 5, 40, 300])
def test_rows_are_brought_to_length_one_as_a_plain_loop_does(make_points, d):
    x = np.concatenate(list(odd_rows(d)))
    seeding = make_points(x, metric=COSINE)[0].seeding()
    seeding.total(None)
    assert seeding.find(list(range(len(x)))).tobytes() == plain_units(x).tobytes()


@pytest.mark.parametrize("dtype", ["uint8", "float16", "float32", "float64"])
def test_rows_of_every_dtype_become_those_of_their_float64(make_points, dtype):
    x = (np.random.default_rng(0).random((3000, 7)) * 250 + 1).astype(dtype)
    for rows in (x, np.asfortranarray(x), x[::2, 1:5]):
        seeding = make_points(rows, metric=COSINE)[0].seeding()
        seeding.total(None)
        some = list(range(0, len(rows), 97))
        assert seeding.find(some).tobytes() == plain_units(rows[some]).tobytes()


def test_the_definition_is_within_its_roundings_of_the_direction():
    """d + 4 of them at most, of which the sum's count half; underflow aside."""
    d = 12
    for row in np.random.default_rng(0).normal(size=(50, d)) * np.exp2(np.linspace(-900, 900, 50))[:, None]:
        with localcontext(prec=60):
            length = sum(Decimal(float(value)) ** 2 for value in row).sqrt()
            for value, found in zip(row, plain_unit(row), strict=True):
                true = Decimal(float(value)) / length
                assert abs(Decimal(found) - true) <= abs(true) * Decimal((d / 2 + 3) * 2.0**-53)


def test_rows_that_are_made_when_asked_for_are_those_that_are_kept(monkeypatch, device, ways):
    """Large rows of many features, and all that serve once, are not kept in float64."""
    if device != "cpu":
        return  # the GPU's are made as they arrive
    x = words(4500)
    expected = [NumPyPoints(Samples(x, metric=COSINE, reused=reused)) for reused in (True, False)]
    assert all(type(points._row_x) is np.ndarray for points in expected)
    model = KMeans(6, metric="cosine", random_state=0, device="cpu", max_iter=4)
    kept = bits(model.fit(x)), model.transform(x[:50]).tobytes()
    monkeypatch.setattr(normalized_rows, "MADE_BYTES", 0)
    assert type(NumPyPoints(Samples(x, metric=COSINE))._row_x) is NormalizedRows
    assert type(NumPyPoints(Samples(x[:, :3] + 1, metric=COSINE))._row_x) is np.ndarray, "few features will be sorted"
    assert type(NumPyPoints(Samples(x[:, :3] + 1, metric=COSINE, reused=False))._row_x) is NormalizedRows
    for way in ("plain", "merge", "rows of 61", "2 threads", "compiled, bounds"):
        with tuned(**ways[way]):
            assert (bits(model.fit(x)), model.transform(x[:50]).tobytes()) == kept, way


def test_memory_of_rows_that_are_not_kept(monkeypatch, device, peak):
    if device != "cpu":
        return
    monkeypatch.setattr(normalized_rows, "MADE_BYTES", 0)
    x = np.random.default_rng(0).random((80_000, 60)).astype(np.float16)
    model = KMeans(2, metric="cosine", random_state=0, device="cpu", max_iter=1).fit(x[:100])
    unit = 8 * x.size
    with tuned(threads=1):  # each has buffers of its own
        for use in (model.predict, model.transform):
            assert peak(lambda use=use: use(x)) < 0.7 * unit
        assert peak(lambda: model.fit(x)) < unit, "float32 features are half of it"


# ---------------------------------------------------------------- the algorithm


def by_hand(x, weights, init, iterations, brute_labels, make_points):
    """Spherical k-means in loops: the centers (k, d), and the labels, after some iterations."""
    unit, centers = plain_units(x), plain_units(init)
    _, scales = make_points(x, weights, metric=COSINE)
    assert not scales.offset.any()
    for _ in range(iterations):
        labels = brute_labels(unit, centers)
        for c in range(len(centers)):
            terms = [[round(value) for value in row] for row in (unit[labels == c] * scales.scale).tolist()]
            share = weights[labels == c].tolist()
            sums = [sum(w * term[j] for w, term in zip(share, terms, strict=True)) for j in range(x.shape[1])]
            if any(sums):
                centers[c] = plain_unit([float(s) / sum(share) / t for s, t in zip(sums, scales.scale, strict=True)])
    return centers, brute_labels(unit, centers)


@pytest.mark.parametrize("iterations", [1, 2, 5])
def test_a_fit_is_spherical_k_means_by_hand(spherical, make_points, brute_labels, iterations):
    x = words(150, 6, 3).astype(np.float64)
    weights = np.random.default_rng(3).integers(1, 5, len(x))
    centers, labels = by_hand(x, weights, x[:4] * 7, iterations, brute_labels, make_points)
    model = spherical(4, init=x[:4] * 7, max_iter=iterations, tol=0).fit(x, sample_weight=weights)
    assert model.cluster_centers_.tobytes() == centers.tobytes()
    np.testing.assert_array_equal(model.labels_, labels)


def test_each_step_lowers_the_inertia_and_the_last_centers_are_their_directions(spherical, digits):
    x = digits[0]
    model = spherical(10, tol=0, callback=lambda record: False).fit(x)
    inertias = [record.inertia for record in model.history_]
    assert all(after <= before for before, after in itertools.pairwise(inertias))
    unit = x / np.linalg.norm(x, axis=1, keepdims=True)
    for c, center in enumerate(model.cluster_centers_):
        total = unit[model.labels_ == c].sum(axis=0)
        np.testing.assert_allclose(center, total / np.linalg.norm(total), rtol=0, atol=1e-14)


def test_what_a_fit_says_of_cosines(spherical, digits):
    x = digits[0]
    weights = np.random.default_rng(0).random(len(x))
    model = spherical(10).fit(x, sample_weight=weights)
    distances = model.transform(x)
    np.testing.assert_allclose(distances, cosine_distances(x, model.cluster_centers_), rtol=0, atol=4e-15)
    np.testing.assert_array_equal(distances.argmin(axis=1), model.labels_)
    np.testing.assert_array_equal(model.predict(x), model.labels_)
    np.testing.assert_array_equal(model.predict(x * 3.7), model.labels_)
    assert model.inertia_ == pytest.approx(2 * (weights * distances.min(axis=1)).sum(), rel=1e-13)
    assert model.score(x, sample_weight=weights) == -model.inertia_
    assert model.fit_transform(x).tobytes() == model.transform(x).tobytes()


def test_distances_are_half_of_d(fitted, brute_distances):
    x = words(40, 5).astype(np.float64)
    model = fitted(plain_units(x[:3])).set_params(metric="cosine")
    expected = brute_distances(plain_units(x), model.cluster_centers_) / 2
    assert model.transform(x).tobytes() == expected.tobytes()
    single = fitted(plain_units(x[:3]).astype(np.float32)).set_params(metric="cosine")
    expected = brute_distances(plain_units(x), single.cluster_centers_) / 2
    assert single.transform(x.astype(np.float32)).tobytes() == expected.astype(np.float32).tobytes()


@pytest.mark.parametrize("dtype", ["uint8", "int32", "float16", "float32", "float64"])
def test_centers_are_unit_vectors_of_the_input_s_dtype(spherical, dtype):
    x = words().astype(dtype)
    model = spherical(5).fit(x)
    expected = np.dtype(dtype) if dtype.startswith("float") else np.dtype(np.float64)
    assert model.cluster_centers_.dtype == expected
    lengths = np.linalg.norm(model.cluster_centers_.astype(np.float64), axis=1)
    assert np.abs(lengths - 1).max() <= np.finfo(expected).eps
    np.testing.assert_array_equal(model.predict(x), model.labels_)


def test_starts_are_unit_vectors(spherical):
    """Whatever lengths an array or a callable gives them; and rows that are drawn have length one."""
    x = words(60, 4)
    given = x[:3] * 100.0
    array = bits(spherical(3, init=given).fit(x))
    assert array == bits(spherical(3, init=given / 128).fit(x))
    assert array == bits(spherical(3, init=lambda X, k, random_state: X[:k] * 100.0, n_init=1).fit(x))
    for init in ("k-means++", "k-means||", "random"):
        seen = []

        def keep(record, seen=seen):
            seen.append(record.inertia)
            return True

        spherical(3, init=init, n_init=1, callback=keep).fit(x)
        assert seen[0] <= 2 * len(x), "no unit vector with positive coordinates is farther from one"


def test_opposite_directions_leave_a_center_where_it_was(spherical):
    """Their sum is zero to the bit, although the range is not symmetric, and sums have few bits for so much weight."""
    start = plain_unit(plain_unit([3.0, 5.0, 1.0]))
    around = [[3.0, 4.0, 0.0], [-9.0, -12.0, 0.0], [1.0, -7.0, 0.0], [-0.5, 3.5, 0.0]]
    model = spherical(1, init=[start]).fit(around)
    assert model.cluster_centers_.tolist() == [start]
    up, down, below = [0.0, 0.0, 1.0], [0.0, 0.0, -1.0], [[9.0, 0.1, -1.0], [8.0, -3.0, -1.0]]
    model = spherical(2, init=[up, down], max_iter=1).fit([*around, *below], sample_weight=[2.0**37] * 6)
    assert model.cluster_centers_[0].tolist() == up
    assert model.cluster_centers_[1].tolist() != down


def test_empty_clusters_take_the_farthest_directions(spherical):
    x = np.array([[9.0, 1.0], [50.0, 0.0], [0.0, 2.0], [-3.0, 0.5]])
    model = spherical(3, init=[[1.0, 0.0]] * 3, max_iter=1).fit(x)
    assert sorted(model.labels_.tolist()) == [0, 0, 1, 2]
    assert {tuple(row) for row in model.cluster_centers_.tolist()} >= {
        tuple(plain_unit(x[2])),
        tuple(plain_unit(x[3])),
    }


# ---------------------------------------------------------------- one answer


DATA = {
    "words": (words(), 6),
    "directions": (directions(), 12),
    "float32": (np.random.default_rng(2).normal(size=(400, 20)).astype(np.float32), 40),
}
WEIGHTS = {
    "no weights": lambda rng, n: None,
    "integer weights": lambda rng, n: rng.integers(0, 4, n),
    "any weights": lambda rng, n: np.where(rng.random(n) < 0.5, rng.integers(0, 4, n), rng.random(n) * 10),
}


@pytest.fixture(params=DATA)
def problem(request):
    return DATA[request.param]


@pytest.mark.parametrize(
    ("init", "weighing"), [("k-means++", "no weights"), ("k-means||", "integer weights"), ("array", "any weights")]
)
def test_no_trick_and_no_device_changes_a_bit(spherical, device, problem, ways, init, weighing):
    x, k = problem
    settings = {"init": x[:k].astype(np.float64) if init == "array" else init, "n_init": 1, "max_iter": 5}
    weights = WEIGHTS[weighing](np.random.default_rng(4), len(x))
    expected = bits(model := spherical(k, **settings).fit(x, sample_weight=weights))
    np.testing.assert_array_equal(model.predict(x), model.labels_)
    for way in ways if device == "cpu" else ["plain"]:
        with tuned(**ways[way]):
            assert bits(spherical(k, device="cpu", **settings).fit(x, sample_weight=weights)) == expected, way


@pytest.mark.parametrize("weighing", WEIGHTS)
def test_permuting_the_rows_permutes_the_labels(spherical, problem, weighing):
    x, k = problem
    rng = np.random.default_rng(6)
    weights = WEIGHTS[weighing](rng, len(x))
    model = spherical(k, init=x[:k])
    centers, labels, *numbers = bits(model.fit(x, sample_weight=weights))
    labels = model.labels_
    order = rng.permutation(len(x))
    permuted = bits(model.fit(x[order], sample_weight=None if weights is None else weights[order]))
    assert permuted == (centers, labels[order].tobytes(), *numbers)


def test_an_integer_weight_is_copies(spherical, problem):
    x, k = problem
    weights = np.random.default_rng(7).integers(0, 4, len(x))
    model = spherical(k, init=x[:k])
    weighted = model.fit(x, sample_weight=weights)
    expected = bits(weighted)[0], bits(weighted)[2:], weighted.labels_.repeat(weights).tobytes()
    copies = model.fit(x.repeat(weights, axis=0))
    assert (bits(copies)[0], bits(copies)[2:], copies.labels_.tobytes()) == expected


def test_layout_dtype_and_powers_of_two_change_no_bit(spherical, tmp_path):
    x = words()
    expected = bits(spherical(5).fit(x))
    file = np.memmap(tmp_path / "x.bin", x.dtype, "w+", shape=x.shape)
    file[:] = x
    for same in (np.asfortranarray(x), x[::-1].copy()[::-1], file, x.tolist(), x.astype(np.int64), x * 2.0**900):
        assert bits(spherical(5).fit(same)) == expected
    lengths = 2.0 ** np.random.default_rng(0).integers(-1000, 1000, (len(x), 1))
    assert bits(spherical(5).fit(x * lengths)) == expected
    assert spherical(5).fit(x.astype(np.float32)).n_iter_ == expected[-1]


def test_sparse_rows_have_the_centers_of_their_dense_form(spherical):
    """Distances that are summed or published differ by rounding (test_sparse.py)."""
    x = words(300, 40).astype(np.float32)
    matrix = scipy.sparse.csr_array(x)
    model = spherical(6, init=x[:6], max_iter=5)
    expected = bits(model.fit(x))[:2], model.transform(x), model.score(x), model.predict(x[:9]).tolist()
    model.fit(matrix)
    assert bits(model)[:2] == expected[0]
    np.testing.assert_allclose(model.transform(matrix), expected[1], rtol=0, atol=1e-7)
    assert model.score(matrix) == pytest.approx(expected[2], rel=1e-14)
    assert model.predict(matrix[:9]).tolist() == expected[3]


# ---------------------------------------------------------------- on a device


def everything(kind, x, **settings):
    model = kind(5, metric="cosine", random_state=0, device="cpu", **{"max_iter": 3, **settings})
    fitted = model.fit(x, sample_weight=np.arange(x.shape[0]) % 3)
    return fitted.cluster_centers_.tobytes(), fitted.labels_.tobytes(), fitted.inertia_, fitted.transform(x).tobytes()


@pytest.mark.kernels
@pytest.mark.parametrize(
    ("dtype", "build"),
    [("uint8", "address"), ("float16", "address"), ("float32", "address"), ("float64", "address"), ("float32", "race")],
)
def test_kernels_make_numpys_rows(monkeypatch, build, dtype):
    """In one piece, and in several."""
    with np.errstate(over="ignore"):
        x = np.concatenate(list(odd_rows(5))).astype(dtype) if dtype[0] == "f" else words(300, 5)
    expected = np.asarray(NumPyPoints(Samples(x, metric=COSINE))._row_x)
    for most in (10**6, 5 * 70):
        monkeypatch.setattr(cuda, "NORMALIZED", most)
        points = cuda.CudaPoints(HostCuda(build=build, seed=1), Samples(x, metric=COSINE))
        np.testing.assert_array_equal(points._x.get(), expected)
        np.testing.assert_array_equal(points.feature_range(), [-abs(expected).max(axis=0), abs(expected).max(axis=0)])


@pytest.mark.kernels
@pytest.mark.parametrize("d", [3, 20])
def test_kernels_give_numpys_bits(monkeypatch, on, d):
    forms = words(150, d), scipy.sparse.csr_array(words(150, d))
    expected = [everything(KMeans, x) for x in forms]
    monkeypatch.setattr(cuda, "NORMALIZED", d * 60)
    on(HostCuda(seed=1))
    assert [everything(KMeans, x) for x in forms] == expected


@pytest.mark.kernels
def test_batches_give_the_bits_of_all_rows(on):
    x = words(120, 3).astype(np.float32)
    forms = x, scipy.sparse.csr_array(x)
    expected = [everything(KMeans, x) for x in forms]
    on(HostCuda(seed=1), 50)
    assert [everything(KMeans, x) for x in forms] == expected


@pytest.mark.kernels
def test_memory_may_run_out(on, caplog):
    x = np.tile(words(100, 3).astype(np.float32), (10, 1))
    expected = everything(KMeans, x)
    on(HostCuda(seed=1, memory=8 * x.size + 8 * len(x)))
    caplog.set_level(logging.INFO, "gpukmeans")
    assert everything(KMeans, x) == expected
    assert "going on with batches" in caplog.text


@pytest.fixture
def cupy(monkeypatch):
    module = as_cupy(HostCuda(seed=1))
    monkeypatch.setitem(sys.modules, "cupy", module)
    return module


@pytest.mark.kernels
@pytest.mark.parametrize("dtype", ["uint8", "float32", "int32"])
def test_arrays_on_a_gpu_stay_there(cupy, dtype):
    x = words(150, 20).astype(dtype)
    expected = KMeans(5, metric="cosine", random_state=0, max_iter=3, device="cpu").fit(x)
    model = KMeans(5, metric="cosine", random_state=0, max_iter=3).fit(cupy.asarray(x))
    for name in ("cluster_centers_", "labels_"):
        assert type(getattr(model, name)) is HostArray
        assert getattr(model, name).get().tobytes() == getattr(expected, name).tobytes()
    assert model.inertia_ == expected.inertia_
    assert model.transform(cupy.asarray(x)).get().tobytes() == expected.transform(x).tobytes()


# ---------------------------------------------------------------- MiniBatchKMeans


def test_a_step_moves_centers_and_keeps_their_length(device, brute_labels):
    x = words().astype(np.float64)
    unit = plain_units(x)
    model = MiniBatchKMeans(4, metric="cosine", init=x[:4], reassignment_ratio=0, device=device)
    centers, total = unit[:4], np.zeros(4)
    for a in range(0, len(x), 100):
        part = unit[a : a + 100]
        labels = brute_labels(part, centers)
        for c in set(labels.tolist()):
            mine = part[labels == c]
            total[c] += len(mine)
            moved = centers[c] + (mine.mean(axis=0) - centers[c]) * len(mine) / total[c]
            centers[c] = moved / np.linalg.norm(moved)
        model.partial_fit(x[a : a + 100])
        np.testing.assert_allclose(model.cluster_centers_, centers, rtol=0, atol=1e-12)
        np.testing.assert_array_equal(model.labels_, model.predict(x[a : a + 100]))
        assert model.inertia_ == -model.score(x[a : a + 100])


def test_a_step_of_opposite_directions_moves_nothing(device):
    start = plain_unit([1.0, 7.0])
    model = MiniBatchKMeans(1, metric="cosine", init=[[1.0, 7.0]], device=device).partial_fit([[2.0, 0.0], [-1.0, 0.0]])
    assert model.cluster_centers_.tolist() == [start]


def test_batches_drawn_at_random(on, device, ways):
    x = words(150, 3)
    settings = {"batch_size": 60, "tol": 1e-6}
    expected = everything(MiniBatchKMeans, x, **settings)
    centers = np.frombuffer(expected[0]).reshape(5, 3)
    assert np.abs(np.linalg.norm(centers, axis=1) - 1).max() < 1e-15
    for way in ("plain", "merge", "rows of 61", "4 threads", "compiled, rows of 61"):
        with tuned(**ways[way]):
            assert everything(MiniBatchKMeans, x, **settings) == expected, way
    on(HostCuda(seed=1))
    assert everything(MiniBatchKMeans, x, **settings) == expected


# ---------------------------------------------------------------- rows that are zero


@pytest.mark.parametrize("kind", [KMeans, MiniBatchKMeans])
def test_rows_that_are_zero_stay_zero(device, kind):
    x = words(60, 6).astype(np.float64)
    others = x.copy()
    x[[4, 9]] = [0.0, -0.0, 0.0, 0.0, 0.0, -0.0]
    answers = []
    for form in (x, scipy.sparse.csr_array(x), x.astype(np.uint8)):
        model = kind(3, metric="cosine", random_state=0, device=device).fit(form)
        np.testing.assert_allclose(np.linalg.norm(model.cluster_centers_, axis=1), 1, rtol=0, atol=1e-15)
        np.testing.assert_allclose(model.transform(form)[[4, 9]], 0.5, rtol=0, atol=1e-15)
        assert model.labels_.tolist() == model.predict(form).tolist()
        answers.append((model.cluster_centers_.tobytes(), model.labels_.tobytes(), model.inertia_))
    assert answers[0] == answers[2]
    assert answers[1][:2] == answers[0][:2]
    assert answers[1][2] == pytest.approx(answers[0][2], rel=1e-14)
    # They add one each to the inertia, and pull no direction to anywhere.
    init = others[[10, 20, 30]]
    few, many = (
        KMeans(3, metric="cosine", init=init, device=device).fit(rows) for rows in (np.delete(x, [4, 9], 0), x)
    )
    np.testing.assert_allclose(many.cluster_centers_, few.cluster_centers_, rtol=0, atol=1e-12)
    assert many.inertia_ == pytest.approx(few.inertia_ + 2, rel=1e-12)


def test_nothing_but_zero(spherical):
    with pytest.warns(ConvergenceWarning, match="Number of distinct clusters"):
        model = spherical(2).fit(np.zeros((5, 3)))
    assert model.inertia_ == 0
    assert not model.cluster_centers_.any()


# ---------------------------------------------------------------- what is refused


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_values_that_are_not_finite_are_refused_as_ever(spherical, value):
    x = np.ones((5, 3))
    x[2, 1] = value
    match = "Input X contains NaN" if np.isnan(value) else "Input X contains infinity or a value too large"
    for form in (x, x.astype(np.float16), scipy.sparse.csr_array(x)):
        with pytest.raises(ValueError, match=match):
            spherical(1).fit(form)


def test_an_unknown_metric_is_refused(blobs):
    with pytest.raises(ValueError, match="'metric' parameter of KMeans must be a str among"):
        KMeans(metric="manhattan").fit(blobs[0])


def test_the_metric_is_saved_and_cloned(spherical, tmp_path):
    x = words()
    model = spherical(4).fit(x)
    assert clone(model).metric == "cosine"
    model.save(tmp_path / "model.npz")
    loaded = gpukmeans.load(tmp_path / "model.npz")
    assert loaded.metric == "cosine"
    assert loaded.transform(x).tobytes() == model.transform(x).tobytes()
