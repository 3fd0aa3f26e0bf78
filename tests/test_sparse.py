"""A sparse matrix has the labels and centers of its dense form, at a cost that grows with what it stores."""

from __future__ import annotations

from fractions import Fraction

import numpy as np
import pytest
import scipy.sparse
from reference import expanded
from sklearn.cluster import KMeans as Theirs

from gpukmeans import KMeans, MiniBatchKMeans, lloyd
from gpukmeans.engine import dispatch
from gpukmeans.engine.numpy import assign, csr_rows
from gpukmeans.engine.numpy.numba_sparse_points import CompiledSparsePoints
from gpukmeans.engine.numpy.points import NumPyPoints
from gpukmeans.engine.numpy.sparse_points import SparsePoints
from gpukmeans.engine.numpy.tuning import tuned
from gpukmeans.engine.protocol import Samples
from gpukmeans.exact.fixed_point import Weights
from gpukmeans.exact.sparse_rows import Entries


def matrix(n, d, density=0.1, dtype=np.float64, seed=0, whole=False):
    rng = np.random.default_rng(seed)
    values = rng.integers(1, 9, (n, d)) if whole else rng.normal(size=(n, d)) * 10 ** rng.uniform(-3, 3, d)
    return scipy.sparse.csr_array(np.where(rng.random((n, d)) < density, values, 0).astype(dtype))


def answer(model):
    """What must be that of the dense form."""
    return model.cluster_centers_.tobytes(), model.cluster_centers_.dtype, model.labels_.tobytes(), model.n_iter_


def whole_answer(model):
    return (*answer(model), model.inertia_)


# (rows, features): few of both, many rows, many features; rows where a pass takes long
SHAPES = [(40, 5, 40), (5000, 3, 600), (3000, 70, 300), (60, 1500, 60)]


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("dtype", [np.float64, np.float32, np.uint8, np.int64])
def test_a_sparse_fit_has_the_dense_labels_and_centers(kmeans, slow, shape, dtype):
    """Its inertia is the sum of E, its distances the roots of E."""
    n, d, fewer = shape
    n = fewer if slow else n
    x = matrix(n, d, dtype=dtype, whole=np.issubdtype(dtype, np.integer))
    weights = np.random.default_rng(1).integers(0, 4, n)
    for sample_weight in (None, weights, weights / 3):
        model = kmeans(n_clusters=7, init=x[n - 7 :].toarray(), max_iter=8)
        expected = answer(model.fit(x.toarray(), sample_weight=sample_weight))
        found = model.fit(x, sample_weight=sample_weight)
        assert answer(found) == expected
        np.testing.assert_array_equal(found.predict(x), found.labels_)
        distances = expanded(x.toarray().astype(float), found.cluster_centers_.astype(float))
        assert found.transform(x).tobytes() == np.sqrt(distances).astype(found.cluster_centers_.dtype).tobytes()
        w = np.ones(n) if sample_weight is None else sample_weight
        own = distances[np.arange(n), found.labels_].tolist()
        inertia = sum(Fraction(a) * Fraction(b) for a, b in zip(own, w.tolist(), strict=True))
        assert abs(Fraction(found.inertia_) - inertia) <= inertia / 2**38
        assert found.score(x, None, sample_weight) == -found.inertia_


@pytest.mark.parametrize("init", ["k-means++", "random", "k-means||"])
@pytest.mark.parametrize("metric", ["euclidean", "cosine"])
def test_every_way_and_device_gives_the_same_bits(kmeans, ways, init, metric):
    x = matrix(900, 20)
    weights = np.random.default_rng(1).random(900) + 0.1
    parameters = {"n_clusters": 9, "init": init, "n_init": 2, "metric": metric, "random_state": 0, "max_iter": 6}
    expected = whole_answer(KMeans(**parameters, device="cpu").fit(x, sample_weight=weights))
    for name in ways.some("plain", "D only" if "D only" in ways else "merge, D only", "rows of 61", "2 threads"):
        with tuned(**ways[name]):
            assert whole_answer(kmeans(**parameters).fit(x, sample_weight=weights)) == expected, name


@pytest.mark.parametrize("kind", [KMeans, MiniBatchKMeans])
def test_whole_fits_come_near_the_dense_ones(kind):
    """Seeding draws by E: on data like these the same rows."""
    x = matrix(2000, 50)
    models = [kind(8, random_state=0, n_init=1, device="cpu").fit(held) for held in (x, x.toarray())]
    assert models[0].inertia_ == pytest.approx(models[1].inertia_, rel=1e-12)
    np.testing.assert_array_equal(models[0].labels_, models[1].labels_)


@pytest.mark.parametrize("dtype", [np.float64, np.float32])
@pytest.mark.parametrize("exponent", [-400, -60, -21, -19, 0, 15, 21, 65, 127, 400])
def test_values_of_any_size(kmeans, dtype, exponent):
    """Where they fit in float32 scores read them as they are, and else times a power of two: so they decide on most."""
    if abs(exponent) > 100 and dtype == np.float32:
        return
    x = matrix(300, 12)
    x.data = (np.random.default_rng(1).random(len(x.data)) * 2.0**exponent).astype(dtype)
    model = kmeans(n_clusters=6, init=x[:6].toarray(), max_iter=5)
    assert answer(model.fit(x)) == answer(model.fit(x.toarray()))
    points = SparsePoints(Samples(x))
    lloyd.prepare(points, *points.feature_range())
    points.assign(x[:6].toarray() * 0.75)
    assert points.uncertain < 150


def test_ties_of_whole_numbers_need_no_dense_rows(monkeypatch, device, brute_labels):
    """Most one-hot rows are as far from each of the others. Where centers are no whole numbers, sums of the same terms
    in another order may differ, and D says by how much."""
    if device != "cpu":
        return
    x = scipy.sparse.csr_array(np.eye(40)[np.random.default_rng(0).integers(0, 40, 500)])
    points = SparsePoints(Samples(x))
    lloyd.prepare(points, *points.feature_range())
    centers = x[:12].toarray()
    third = np.random.default_rng(1).permuted(np.repeat(np.random.default_rng(2).random((1, 40)), 12, axis=0), axis=1)
    with monkeypatch.context() as patch:
        patch.setattr(Entries, "dense", None)
        points.assign(centers)
    assert points.labels().tolist() == brute_labels(x.toarray(), centers).tolist()
    assert points.uncertain > 300
    empty = scipy.sparse.csr_array((30, 40))
    points = SparsePoints(Samples(empty))
    lloyd.prepare(points, np.zeros(40), np.ones(40))
    points.set_feature_range(np.zeros(40), np.ones(40))
    points.assign(third)
    assert points.labels().tolist() == brute_labels(empty.toarray(), third).tolist()
    assert points.labels()[0] != np.einsum("ij,ij->i", third, third).argmin(), "another order has another least"


@pytest.mark.parametrize("kind", [SparsePoints, CompiledSparsePoints])
def test_centers_that_repeat_leave_no_row_in_doubt(device, brute_labels, kind):
    """As where many rows are empty, and centers were drawn among them; with zeros of both signs."""
    if device != "cpu":
        return
    x = matrix(500, 40, density=0.02)
    centers = np.concatenate([x[[3, 5]].toarray(), np.zeros((30, 40)), x[[3, 5, 7, 5]].toarray()])
    centers[20:, :7] *= -1.0
    points = kind(Samples(x))
    lloyd.prepare(points, *points.feature_range())
    points.assign(centers)
    assert points.labels().tolist() == brute_labels(x.toarray(), centers).tolist()
    assert points.uncertain < 5


def test_centers_that_repeat_by_their_hash_alone(device, brute_labels, monkeypatch):
    """They have one norm, as have rows of the same values in another order."""
    if device != "cpu":
        return
    monkeypatch.setattr(assign, "hashes", lambda rows: np.zeros(len(rows), np.uint64))
    x = scipy.sparse.csr_array(np.eye(9).repeat(4, axis=0))
    centers = np.eye(9)[[2, 0, 2, 5, 0]]
    points = SparsePoints(Samples(x))
    lloyd.prepare(points, *points.feature_range())
    points.assign(centers)
    assert points.labels().tolist() == brute_labels(x.toarray(), centers).tolist()


def test_the_farthest_rows_are_those_of_the_dense_form(device):
    """Rows whose D differ by the order of their features alone."""
    if device != "cpu":
        return
    rng = np.random.default_rng(0)
    x = np.where(rng.random((1, 30)) < 0.5, rng.random((1, 30)), 0)
    x = rng.permuted(np.repeat(x, 200, axis=0), axis=1)
    x[50:80] = x[20]
    both = [kind(Samples(form)) for kind, form in ((SparsePoints, scipy.sparse.csr_array(x)), (NumPyPoints, x))]
    centers = np.array([np.full(30, 0.3), np.full(30, 50.0)])
    for points in both:
        lloyd.prepare(points, *points.feature_range())
        points.assign(centers)
    far = [points.farthest(centers, 150) for points in both]
    for field in ("distance", "x", "label"):
        np.testing.assert_array_equal(*[getattr(found, field) for found in far])
    own = expanded(x, centers[:1])[:, 0]
    assert not np.array_equal(x[np.argsort(-own, kind="stable")[:3]], far[0].x[:3]), "E would choose others"


@pytest.mark.parametrize("alike", [False, True])
def test_empty_clusters_take_the_same_rows(kmeans, monkeypatch, alike):
    """Most rows are equal, all zeros: whichever are farthest leave together. Rows are looked for by their hashes, which
    may be those of other rows."""
    if alike:
        monkeypatch.setattr(csr_rows, "hashes", lambda x: np.zeros(x.shape[0], np.uint64))
    x = matrix(400, 6, density=0.02, whole=True)
    init = np.repeat(x[[0]].toarray(), 9, axis=0)
    init[4:] += 1000.0
    for max_iter in (1, 2, 50):
        model = kmeans(n_clusters=9, init=init, max_iter=max_iter)
        assert answer(model.fit(x)) == answer(model.fit(x.toarray()))


@pytest.mark.parametrize(
    "kind",
    [
        scipy.sparse.csr_matrix,
        scipy.sparse.csc_matrix,
        scipy.sparse.coo_array,
        scipy.sparse.csc_array,
        scipy.sparse.lil_array,
        scipy.sparse.dok_array,
    ],
)
def test_any_sparse_format(kmeans, kind):
    x = matrix(50, 8)
    model = kmeans(n_clusters=3, random_state=0)
    assert whole_answer(model.fit(kind(x))) == whole_answer(model.fit(x))


def test_odd_but_valid_matrices(kmeans):
    """Entries that add up, zeros that are stored, columns out of order, 64-bit indices, memory that is
    read-only: none is changed."""
    at, columns = [0, 0, 1, 2, 2, 3, 3], [1, 1, 0, 2, 1, 0, 0]
    values = [1.0, 2.0, 5.0, 0.0, -1.0, 4.0, -4.0]
    coo = scipy.sparse.coo_array((values, (at, columns)), shape=(5, 3))
    x = scipy.sparse.csr_array((5, 3))
    x.data, x.indices, x.indptr = np.array(values), np.array(columns), np.array([0, 2, 3, 5, 7, 7])
    assert not x.has_canonical_format
    for array in (x.data, x.indices, x.indptr):
        array.flags.writeable = False
    model = kmeans(n_clusters=2, random_state=0)
    expected = whole_answer(model.fit(scipy.sparse.csr_array(coo.toarray())))
    for wide in (x, scipy.sparse.csr_array((x.data, x.indices.astype(np.int64), x.indptr.astype(np.int64)), x.shape)):
        assert whole_answer(model.fit(wide)) == expected
    assert x.data.tolist() == values
    assert x.indices.tolist() == columns


def test_a_callable_init_sees_the_sparse_matrix(kmeans):
    """As theirs does."""
    x = matrix(50, 8)
    seen = []

    def init(X, n_clusters, random_state):
        seen.append(X)
        return X[:n_clusters].toarray()

    for kind in (kmeans, Theirs):
        kind(n_clusters=3, init=init, n_init=1).fit(x)
    assert [found.format for found in seen] == ["csr", "csr"]


# ---------------------------------------------------------------- errors


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_values_that_are_not_finite(kmeans, value):
    x = matrix(50, 8)
    model = kmeans(n_clusters=3, random_state=0).fit(x)
    before = answer(model)
    x.data[5] = value
    for call in (kmeans(n_clusters=3).fit, Theirs(3).fit, model.fit, model.predict, model.transform, model.score):
        with pytest.raises(ValueError, match="NaN" if np.isnan(value) else "infinity"):
            call(x)
    assert answer(model) == before


def test_what_sums_nothing_asks_for_one_range(device, monkeypatch):
    """The range of each feature takes longer than the labels of so few; scores are as right by that of all."""
    if device != "cpu":
        return
    x = matrix(300, 12)
    model = KMeans(5, init=x[:5].toarray(), max_iter=3, device="cpu").fit(x)
    labels, distances, score = model.predict(x), model.transform(x), model.score(x)
    for kind in (SparsePoints, CompiledSparsePoints):
        monkeypatch.setattr(kind, "_range_of_rows", None)
    assert model.predict(x).tolist() == labels.tolist() == model.labels_.tolist()
    assert model.transform(x).tobytes() == distances.tobytes()
    with pytest.raises(TypeError):
        assert model.score(x) == score, "whose scale is by the range of each feature"


def test_shapes_and_values_that_do_not_fit(kmeans):
    x = matrix(50, 8)
    model = kmeans(n_clusters=3, random_state=0).fit(x)
    with pytest.raises(ValueError, match="n_samples=2 should be >= n_clusters=3"):
        kmeans(n_clusters=3).fit(x[:2])
    with pytest.raises(ValueError, match="X has 7 features"):
        model.predict(x[:, :7])
    with pytest.raises(ValueError, match="overflow float64"):
        model.fit(x * 1e200)
    with pytest.raises(ValueError, match="Complex data not supported"):
        model.fit(x * 1j)
    with pytest.raises(TypeError, match=r"[Ss]parse"):
        kmeans(n_clusters=3, init=x[:3]).fit(x)


# ---------------------------------------------------------------- memory


@pytest.mark.parametrize(("n", "d"), [(1000, 20_000), (150, 150_000)])
def test_a_fit_never_makes_all_rows_dense(device, kmeans, n, d, peak):
    """160 to 180 MB when dense. Eight numbers for each feature and center, and the tables of NumPy's pool, are left."""
    if device != "cpu":
        return  # there the dense rows are the device's
    rng = np.random.default_rng(0)
    entries = 20 * n
    places = rng.integers(0, n, entries), rng.integers(0, d, entries)
    x = scipy.sparse.coo_array((rng.normal(size=entries), places), shape=(n, d)).tocsr()
    model = kmeans(n_clusters=2, init=x[:2].toarray(), max_iter=2)
    model.fit(x)  # what numba takes to be imported, and to compile, is not the rows'
    for use in (model.fit, model.predict, model.transform):
        assert peak(lambda use=use: use(x)) < 2 * d * 8 * 12 + 2**22


@pytest.mark.parametrize("weighing", ["counts", "fractions"])
def test_points_on_sparse_rows_answer_as_on_an_array(device, own_sums, weighing):
    """Step by step, where a fit could hide one behind another."""
    if device != "cpu":
        return
    x = matrix(900, 12)
    weights = np.random.default_rng(2).integers(1, 5, 900).astype(float) / (1 if weighing == "counts" else 3)
    summary, weights = Weights.of(weights)
    both = [dispatch.on_numpy(Samples(form, weights, summary)) for form in (x.toarray(), x)]
    feature_ranges = [points.feature_range() for points in both]
    np.testing.assert_array_equal(*feature_ranges)
    for points, feature_range in zip(both, feature_ranges, strict=True):
        lloyd.prepare(points, *feature_range)
    for centers in (x[:5].toarray() + 0.25, x[5:10].toarray() / 3):
        assert len({points.assign(centers) for points in both}) == 1
        np.testing.assert_array_equal(*[points.labels() for points in both])
        np.testing.assert_array_equal(*[points.sums() for points in both])
    far = [points.farthest(centers, 4) for points in both]
    for field in ("distance", "x", "label"):
        np.testing.assert_array_equal(*[getattr(found, field) for found in far])
    first, second = (own_sums(points, 5, far[0].x) for points in both)
    assert first == second
    seedings = [points.seeding() for points in both]
    totals = {seeding.total(None) for seeding in seedings}
    assert len(totals) == 1
    indices = np.random.default_rng(3).integers(0, totals.pop(), 50).tolist()
    np.testing.assert_array_equal(*[seeding.find(indices) for seeding in seedings])
