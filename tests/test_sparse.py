"""A sparse matrix is read as its dense form: the same bits, in bounded memory."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import scipy.sparse
from host_cuda.runtime import HostCuda
from sklearn.cluster import KMeans as Theirs

from gpukmeans import KMeans, lloyd
from gpukmeans.engine import csr_rows, dispatch
from gpukmeans.engine.csr_rows import SparseRows, rows_of
from gpukmeans.engine.cuda import transfer
from gpukmeans.engine.numpy import rows
from gpukmeans.engine.numpy.points import NumPyPoints
from gpukmeans.engine.numpy.tuning import tuned
from gpukmeans.engine.protocol import Samples
from gpukmeans.exact.fixed_point import Weights


def matrix(n, d, density=0.1, dtype=np.float64, seed=0, whole=False):
    rng = np.random.default_rng(seed)
    values = rng.integers(1, 9, (n, d)) if whole else rng.normal(size=(n, d)) * 10 ** rng.uniform(-3, 3, d)
    return scipy.sparse.csr_array(np.where(rng.random((n, d)) < density, values, 0).astype(dtype))


def answer(model):
    return (
        model.cluster_centers_.tobytes(),
        model.cluster_centers_.dtype,
        model.labels_.tobytes(),
        model.inertia_,
        model.n_iter_,
    )


@pytest.fixture(params=["dense as a whole", "dense row by row"])
def densely(request, monkeypatch):
    if request.param == "dense row by row":
        monkeypatch.setattr(csr_rows, "DENSE_BYTES", 0)


# (rows, features): few of both, sorted and merged where dense, many features, and more than scores serve; rows where
# a pass takes long
SHAPES = [(40, 5, 40), (5000, 3, 600), (3000, 70, 300), (60, 1500, 60)]


@pytest.mark.usefixtures("densely")
@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("init", ["k-means++", "random"])
@pytest.mark.parametrize("dtype", [np.float64, np.float32, np.uint8, np.int64])
def test_a_sparse_fit_is_the_dense_one(kmeans, slow, shape, init, dtype):
    n, d, fewer = shape
    n = fewer if slow else n
    x = matrix(n, d, dtype=dtype, whole=np.issubdtype(dtype, np.integer))
    weights = np.random.default_rng(1).integers(0, 4, n)
    for sample_weight in (None, weights, weights / 3):
        model = kmeans(n_clusters=7, init=init, n_init=2, max_iter=8, random_state=0)
        dense = model.fit(x.toarray(), sample_weight=sample_weight)
        expected = answer(dense), dense.transform(x.toarray()).tobytes(), dense.score(x.toarray(), None, sample_weight)
        found = model.fit(x, sample_weight=sample_weight)
        assert (answer(found), found.transform(x).tobytes(), found.score(x, None, sample_weight)) == expected
        np.testing.assert_array_equal(found.predict(x), found.labels_)


@pytest.mark.usefixtures("densely")
@pytest.mark.parametrize("way", range(11))
def test_every_way_gives_the_dense_bits(kmeans, device, ways, way):
    if device != "cpu":
        return  # the ways are NumPy's
    x = matrix(4500, 20, whole=True)
    model = kmeans(n_clusters=30, random_state=0, max_iter=6)
    expected = answer(model.fit(x.toarray()))
    with tuned(**list(ways.values())[way]):
        assert answer(model.fit(x)) == expected


@pytest.mark.usefixtures("densely")
def test_empty_clusters_take_the_same_rows(kmeans):
    """Most rows are equal, all zeros: whichever are farthest leave together."""
    x = matrix(400, 6, density=0.02, whole=True)
    init = np.repeat(x[[0]].toarray(), 9, axis=0)
    init[4:] += 1000.0
    for max_iter in (1, 2, 50):
        model = kmeans(n_clusters=9, init=init, max_iter=max_iter)
        assert answer(model.fit(x)) == answer(model.fit(x.toarray()))


@pytest.mark.usefixtures("densely")
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
    assert answer(model.fit(kind(x))) == answer(model.fit(x.toarray()))


@pytest.mark.usefixtures("densely")
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
    expected = answer(model.fit(coo.toarray()))
    for wide in (x, scipy.sparse.csr_array((x.data, x.indices.astype(np.int64), x.indptr.astype(np.int64)), x.shape)):
        assert answer(model.fit(wide)) == expected
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


@pytest.mark.usefixtures("densely")
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


@pytest.mark.usefixtures("densely")
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
def test_a_fit_never_makes_all_rows_dense(device, kmeans, monkeypatch, n, d, peak):
    """160 MB and 180 MB when dense. The second has more features than scores serve: D alone decides.

    Features that passes keep take 64 MB at most whatever the data; that is left out here.
    """
    if device != "cpu":
        return  # there the dense rows are the device's
    monkeypatch.setattr(rows, "_KEEP_BYTES", 0)
    rng = np.random.default_rng(0)
    entries = 20 * n
    places = rng.integers(0, n, entries), rng.integers(0, d, entries)
    x = scipy.sparse.coo_array((rng.normal(size=entries), places), shape=(n, d)).tocsr()
    model = kmeans(n_clusters=2, random_state=0, max_iter=1)
    for use in (model.fit, model.predict, model.transform):
        assert peak(lambda use=use: use(x)) < 8 * n * d * 2 / 3


@pytest.mark.parametrize("batch", [60, 1000])
def test_on_a_device_rows_become_dense_a_piece_at_a_time(monkeypatch, batch):
    """In the buffers that cross the bus, of ten rows here, and never as a whole on the host."""
    x = matrix(200, 6, whole=True)
    expected = answer(KMeans(4, random_state=0, max_iter=3, device="cpu").fit(x))
    most = 0

    class Watched(SparseRows):
        def __getitem__(self, at):
            return Watched(self._matrix[at])

        def __array__(self, dtype=None, copy=None):
            nonlocal most
            most = max(most, len(self))
            return super().__array__(dtype, copy)

    def make_points(samples, *, device):
        points = dispatch.on_gpu(cp, replace(samples, x=Watched(samples.x)))
        points.rows = batch
        return points

    cp = HostCuda(seed=1)
    monkeypatch.setattr(transfer, "PIECE", 10 * 6 * 8)
    monkeypatch.setattr(dispatch, "make_points", make_points)
    assert answer(KMeans(4, random_state=0, max_iter=3, device="cpu").fit(x)) == expected
    assert 0 < most <= 10


def test_small_matrices_become_arrays():
    x = matrix(100, 10)
    assert type(rows_of(x)) is np.ndarray
    wide = scipy.sparse.csr_array((csr_rows.DENSE_BYTES // 80 + 1, 10))
    assert isinstance(rows_of(wide), SparseRows)


def test_points_on_sparse_rows_answer_as_on_an_array(device, own_sums):
    """Step by step, where a fit could hide one behind another."""
    if device != "cpu":
        return
    x = matrix(900, 12, whole=True)
    summary, weights = Weights.of(np.random.default_rng(2).integers(1, 5, 900).astype(float))
    both = [NumPyPoints(Samples(form, weights, summary)) for form in (x.toarray(), SparseRows(x))]
    cluster_ranges = [points.feature_range() for points in both]
    np.testing.assert_array_equal(*cluster_ranges)
    scales, _ = (
        lloyd.prepare(points, *feature_range) for points, feature_range in zip(both, cluster_ranges, strict=True)
    )
    centers = x[:5].toarray() + 0.25
    assert len({points.assign(centers) for points in both}) == 1
    np.testing.assert_array_equal(*[points.sums() for points in both])
    np.testing.assert_array_equal(*[points.distances(centers) for points in both])
    assert len({lloyd.inertia(points, scales, centers) for points in both}) == 1
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
