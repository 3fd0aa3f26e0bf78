"""Rule 1: distance has one definition, and the label is the smallest index of the least."""

from __future__ import annotations

import math

import numpy as np
import pytest

from gpukmeans.engine.numpy.tuning import tuned
from gpukmeans.exact.distance import LARGEST_MAGNITUDE, distances_of_rows, normalize, squared_distance


def one_distance(x, c):
    """D of two points, on Python's floats: every operation is one IEEE rounding."""
    total = 0.0
    for a, b in zip(x.tolist(), c.tolist(), strict=True):
        step = float(a) - float(b)
        total = total + step * step
    return total


# ---------------------------------------------------------------- data


def random_data(rng, dtype, n, d):
    if dtype == np.bool_:
        return rng.random((n, d)) < 0.5
    if np.issubdtype(dtype, np.integer):
        info = np.iinfo(dtype)
        return rng.integers(max(info.min, -(2**52)), min(info.max, 2**52), (n, d), dtype=dtype, endpoint=True)
    return rng.normal(size=(n, d)).astype(dtype)


def pick(rng, x, k):
    """k rows of x as centers, float64."""
    return x[rng.permutation(len(x))[:k]].astype(np.float64)


def lattice(rng, n, d, k):
    """Points of a small lattice, centers on lattice points and midpoints, some of them twice."""
    x = rng.integers(0, 4, (n, d)).astype(np.float64)
    centers = rng.integers(0, 7, (k, d)) / 2
    centers[k // 2 :] = centers[rng.integers(0, max(1, k // 2), k - k // 2)] if k > 4 else centers[k // 2 :]
    return x, centers


def wide(rng, n, d, k):
    """Features with ranges from 1e-30 to 1e30."""
    x = rng.normal(size=(n, d)) * 10.0 ** np.linspace(-30, 30, d)
    return x, pick(rng, x, k) * 1.0000001


def narrow_first(rng, n, d, k):
    """As `wide`, but all large features are constant: the small ones decide, over the large ones' rounding."""
    x = rng.normal(size=(n, d)) * 10.0 ** np.linspace(-30, 0, d)
    x[:, d // 2 :] = 1e30
    return x, pick(rng, x, k)


def offset(rng, n, d, k):
    x = rng.normal(size=(n, d)) + 1e8
    return x, pick(rng, x, k) + rng.normal(size=(k, d)) * 1e-7


def signed_zeros(rng, n, d, k):
    x = rng.choice([0.0, -0.0, 1.0, -1.0], (n, d))
    return x, rng.choice([0.0, -0.0, 0.5, -0.5], (k, d))


def subnormals(rng, n, d, k):
    x = rng.integers(-9, 9, (n, d)) * 1e-310
    return x, pick(rng, x, k)


def subnormals_of_float32(rng, n, d, k):
    x = rng.integers(-9, 9, (n, d)).astype(np.float32) * np.finfo(np.float32).smallest_subnormal
    return x, pick(rng, x, k)


def subnormals_of_float16(rng, n, d, k):
    """Some beside larger numbers: all count in one frame."""
    steps = rng.integers(-99, 99, (n, d)) * np.where(rng.random((n, 1)) < 0.1, 256, 1)
    x = steps.astype(np.float16) * np.finfo(np.float16).smallest_subnormal
    return x, pick(rng, x, k)


def barely_normal_squares(rng, n, d, k):
    """Differences about 1e-160: their squares lose bits, so many D tie that exact distances would not."""
    x = rng.normal(size=(n, d)) * 1e-160
    return x, pick(rng, x, k) + rng.normal(size=(k, d)) * 1e-161


def tiny_differences(rng, n, d, k):
    """Differences whose squares underflow beside data of ordinary size."""
    x = np.where(rng.random((n, d)) < 0.5, 1.0, rng.integers(-5, 5, (n, d)) * 1e-163)
    return x, pick(rng, x, k)


def huge(rng, n, d, k):
    x = rng.choice([-1.0, -0.999999, 0.0, 1e-3, 1.0], (n, d)) * LARGEST_MAGNITUDE
    return x, pick(rng, x, k)


def far_centers(rng, n, d, k):
    """Centers so far away that the data are one point to float32, or to float64."""
    x = rng.normal(size=(n, d))
    return x, rng.normal(size=(k, d)) * 10.0 ** rng.uniform(0, 40, (k, 1))


KINDS = [
    lattice,
    wide,
    narrow_first,
    offset,
    signed_zeros,
    subnormals,
    subnormals_of_float32,
    subnormals_of_float16,
    barely_normal_squares,
    tiny_differences,
    huge,
    far_centers,
]

# (n, d, k)
SHAPES = [(1, 1, 1), (9, 1, 9), (60, 2, 5), (300, 3, 33), (90, 7, 90), (50, 40, 12), (31, 300, 4)]

DTYPES = [np.uint8, np.float16, np.float32, np.float64, np.int8, np.int32, np.uint32, np.int64, np.bool_]

TRICKS = [
    *["plain", "scores", "bounds", "merge", "merge, D only", "rows of 61"],
    *["compiled, plain", "compiled, scores", "compiled, bounds", "compiled, merge", "compiled, whole"],
]


def some(n_dk):
    return "-".join(map(str, n_dk))


# ---------------------------------------------------------------- labels


@pytest.mark.parametrize("shape", SHAPES, ids=some)
@pytest.mark.parametrize("dtype", DTYPES)
def test_predict_is_brute_force_for_every_dtype(fitted, ways, brute_labels, dtype, shape):
    n, d, k = shape
    rng = np.random.default_rng(n * d)
    x = random_data(rng, dtype, n, d)
    model = fitted(pick(rng, x, k))
    expected = brute_labels(x, model.cluster_centers_)
    for way in TRICKS:
        with tuned(**ways[way]):
            np.testing.assert_array_equal(model.predict(x), expected, err_msg=way)


@pytest.mark.parametrize("shape", SHAPES, ids=some)
@pytest.mark.parametrize("kind", KINDS)
def test_predict_is_brute_force_on_hard_data(fitted, ways, brute_labels, kind, shape):
    n, d, k = shape
    for seed in range(3):
        x, centers = kind(np.random.default_rng(seed), n, d, k)
        expected = brute_labels(x, centers)
        for way in TRICKS:
            with tuned(**ways[way]):
                np.testing.assert_array_equal(fitted(centers).predict(x), expected, err_msg=f"{way}, seed {seed}")


@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
@pytest.mark.parametrize("shape", SHAPES, ids=some)
@pytest.mark.parametrize("dtype", DTYPES)
def test_fit_is_brute_force_for_every_dtype(kmeans, ways, brute_labels, dtype, shape):
    n, d, k = shape
    rng = np.random.default_rng(n + d)
    x = random_data(rng, dtype, n, d)
    init = pick(rng, x, k)
    for way in TRICKS:
        with tuned(**ways[way]):
            model = kmeans(n_clusters=k, init=init, max_iter=5).fit(x)
        expected = brute_labels(x, model.cluster_centers_)
        np.testing.assert_array_equal(model.labels_, expected, err_msg=way)
        np.testing.assert_array_equal(model.predict(x), expected, err_msg=way)


@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
@pytest.mark.parametrize("shape", SHAPES, ids=some)
@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind is not far_centers])
def test_fit_is_brute_force_on_hard_data(kmeans, ways, brute_labels, kind, shape):
    n, d, k = shape
    x, centers = kind(np.random.default_rng(n), n, d, k)
    for way in TRICKS:
        with tuned(**ways[way]):
            model = kmeans(n_clusters=k, init=centers, max_iter=5).fit(x)
        np.testing.assert_array_equal(model.labels_, brute_labels(x, model.cluster_centers_), err_msg=way)


@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
@pytest.mark.parametrize("kind", [lattice, wide, subnormals, subnormals_of_float32, huge])
def test_fit_is_brute_force_at_sizes_that_sort_and_merge(kmeans, brute_labels, kind):
    """Nothing is forced here: 5000 rows of 2 features are sorted and merged by default."""
    x, centers = kind(np.random.default_rng(1), 5000, 2, 20)
    model = kmeans(n_clusters=20, init=centers, max_iter=5).fit(x)
    np.testing.assert_array_equal(model.labels_, brute_labels(x, model.cluster_centers_))


def test_of_equal_centers_the_first_is_chosen(fitted, ways):
    centers = np.array([[5.0, 5.0], [1.0, 1.0], [1.0, 1.0], [-1.0, 1.0]])
    x = np.array([[1.0, 1.0], [0.0, 1.0], [5.0, 5.0], [-3.0, 1.0]])
    for way in TRICKS:
        with tuned(**ways[way]):
            assert fitted(centers).predict(x).tolist() == [1, 1, 0, 3]


# In each, both centers tie under the definition or differ by one unit in the last place of D, to x = 0.
SMALL = 2.0**-27  # its square is a quarter of the spacing at 1; four of them are all of it
LAST_ROUNDINGS = {
    # 1 + 1/4 + 1/4 + 1/4 + 1/4 is 1 in ascending order; the squares first would give 1 + 1.
    "ascending": ([1.0, SMALL, SMALL, SMALL, SMALL], [1.0, 0.0, 0.0, 0.0, 0.0], 0),
    "not descending": ([SMALL, SMALL, SMALL, SMALL, 1.0], [0.0, 0.0, 0.0, 0.0, 1.0], 1),
    # (1 + SMALL)**2 loses SMALL**2, which a fused multiply-add would keep and carry over.
    "products rounded": ([1.25 * SMALL, 1 + SMALL], [0.0, 1 + SMALL], 0),
    # 1e8 + 1e-9 is 1e8.
    "differences rounded": ([1e8 + 1e-9], [1e8], 0),
}


@pytest.mark.parametrize("case", LAST_ROUNDINGS)
def test_every_rounding_is_that_of_the_definition(fitted, ways, case):
    first, second, expected = LAST_ROUNDINGS[case]
    x = np.zeros((1, len(first)))
    distances = [one_distance(x[0], np.array(c)) for c in (first, second)]
    assert (distances[0] > distances[1]) == (expected == 1)
    for way in TRICKS:
        with tuned(**ways[way]):
            assert fitted(np.array([first, second])).predict(x).tolist() == [expected]


@pytest.mark.parametrize("dtype", [np.float16, np.float32])
def test_labels_hold_for_the_centers_as_published(kmeans, brute_labels, dtype):
    """Narrow centers are rounded first; labels and inertia are theirs."""
    x = np.random.default_rng(0).normal(size=(500, 2)).astype(dtype)
    model = kmeans(n_clusters=30, random_state=0).fit(x)
    assert model.cluster_centers_.dtype == dtype
    np.testing.assert_array_equal(model.labels_, brute_labels(x, model.cluster_centers_))
    assert model.inertia_ == -model.score(x)


# ---------------------------------------------------------------- the definition itself


@pytest.mark.parametrize("kind", KINDS)
def test_the_loop_over_features_is_the_loop_over_numbers(brute_distances, kind):
    x, centers = kind(np.random.default_rng(3), 6, 9, 4)
    expected = [[one_distance(a, c) for c in centers] for a in x]
    assert brute_distances(x, centers).tolist() == expected


# (d, m): few and many features, one and many points, either side of squared_distance's own limits
@pytest.mark.parametrize("d", [1, 2, 4, 5, 6, 33, 300])
@pytest.mark.parametrize("m", [1, 2, 31, 32, 33, 110, 9000])
def test_squared_distance_in_all_its_shapes(brute_distances, d, m):
    rng = np.random.default_rng(d * m)
    x = rng.normal(size=(d, m)) * 10.0 ** rng.uniform(-8, 8, (d, 1))
    c = rng.normal(size=(d, 7)) * 10.0 ** rng.uniform(-8, 8, (d, 1))
    expected = brute_distances(x.T, c.T)  # (m, 7)
    labels = rng.integers(0, 7, m)
    own = expected[np.arange(m), labels]

    np.testing.assert_array_equal(squared_distance(x, c[:, :1]), expected[:, 0])
    np.testing.assert_array_equal(squared_distance(x, c[:, labels]), own)
    np.testing.assert_array_equal(squared_distance(x, c, labels), own)
    np.testing.assert_array_equal(squared_distance(x[:, None, :], c[:, :, None]), expected.T)
    np.testing.assert_array_equal(squared_distance(np.asfortranarray(x), c[:, :1]), expected[:, 0])


# (rows, features): few and many values, more than are added up at once, rows longer than that
LYING = [(1, 1), (30, 3), (1, 9), (40, 9), (1000, 9), (900, 100), (2, 70_000), (1, 140_000)]


@pytest.mark.parametrize(("m", "d"), LYING)
@pytest.mark.parametrize("dtype", [np.float64, np.float32, np.uint8])
def test_rows_are_measured_as_they_lie(m, d, dtype):
    rng = np.random.default_rng(m * d)
    x = (rng.random((m, d)) * 200).astype(dtype)
    c = rng.normal(size=(7, d)) * 10.0 ** rng.uniform(-8, 8, d)
    labels = rng.integers(0, 7, m)
    columns = np.ascontiguousarray(x.T, dtype=np.float64)
    own = squared_distance(columns, c.T.copy(), labels).tobytes()
    assert distances_of_rows(x, c, labels).tobytes() == own
    assert distances_of_rows(x, c[labels]).tobytes() == own
    assert distances_of_rows(x, c[3]).tobytes() == squared_distance(columns, c[3][:, None]).tobytes()


@pytest.mark.parametrize("d", [5, 9, 64, 300])
def test_squared_distance_adds_in_order(d):
    """One large term first, then small ones that only a reordered or pairwise sum would see."""
    x = np.full((d, 3), SMALL)
    x[0] = 1.0
    assert math.fsum((x[:, 0] ** 2).tolist()) > 1
    for copies in (1, 20, 4000):
        assert set(squared_distance(np.tile(x, copies), np.zeros((d, 1))).tolist()) == {1.0}
        assert set(distances_of_rows(np.tile(x, copies).T.copy(), np.zeros(d)).tolist()) == {1.0}
    assert squared_distance(x[:, :1], np.zeros((d, 1))).tolist() == [1.0], "a point by itself"


def test_no_distance_within_the_largest_magnitude_overflows():
    """Of up to 2**20 features."""
    x = np.full((2**20, 1), LARGEST_MAGNITUDE)
    assert squared_distance(x, -x).tolist() == [2.0**1022]


@pytest.mark.parametrize("metric", ["euclidean", "cosine"])
@pytest.mark.parametrize("kind", ["noise", "apart", "duplicates", "offset", "few features"])
def test_distances_in_float32_are_rounded_ones(kmeans, brute_distances, kind, metric):
    """Of D as Rule 1 has it, to the bit: D says what float64 products leave open, near zero and between two numbers."""
    rng = np.random.default_rng(0)
    x = {
        "noise": lambda: rng.normal(size=(400, 40)),
        "apart": lambda: np.concatenate([rng.normal(size=(200, 20)), 1e6 + rng.normal(size=(200, 20))]),
        "duplicates": lambda: rng.integers(0, 3, (1500, 4)) / 7,
        "offset": lambda: 1e5 + rng.normal(size=(400, 30)),
        "few features": lambda: rng.normal(size=(3000, 2)),
    }[kind]().astype(np.float32)
    model = kmeans(n_clusters=12, init=x[:12], n_init=1, max_iter=1, metric=metric).fit(x)
    model.cluster_centers_ = model.cluster_centers_.copy()
    model.cluster_centers_[:4] = x[20:24] if metric == "euclidean" else model.cluster_centers_[4:8]
    found = model.transform(x)
    rows = normalize(x.T.astype(np.float64)).T if metric == "cosine" else x.astype(np.float64)
    squares = brute_distances(rows, model.cluster_centers_.astype(np.float64))
    assert found.dtype == np.float32
    assert found.tobytes() == (squares / 2 if metric == "cosine" else np.sqrt(squares)).astype(np.float32).tobytes()
