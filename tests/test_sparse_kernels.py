"""CUDA's kernels on sparse rows (ROWS in kernels/common.cuh) give NumPy's bits, step by step, and make no row dense."""

from __future__ import annotations

from itertools import combinations

import numpy as np
import pytest
import scipy.sparse
from host_cuda.runtime import HostCuda

from gpukmeans import KMeans, lloyd
from gpukmeans.engine import dispatch
from gpukmeans.engine.cuda.sparse_points import CudaSparsePoints
from gpukmeans.engine.numpy.sparse_points import SparsePoints
from gpukmeans.engine.protocol import Samples
from gpukmeans.exact.distance import norms, squared_distance
from gpukmeans.exact.fixed_point import Weights
from gpukmeans.exact.inertia import Inertia
from gpukmeans.exact.metric import COSINE, EUCLIDEAN
from gpukmeans.exact.sparse_rows import Entries, expanded_distances
from gpukmeans.seeding import kmeans_plusplus

pytestmark = pytest.mark.kernels


@pytest.fixture(scope="module", params=["address", "race"])
def cp(request):
    return HostCuda(build=request.param, seed=1)


def matrix(n, d, density=0.2, dtype="float32", seed=0):
    """Some entries are stored zeros, one row has none, one feature is in all rows."""
    rng = np.random.default_rng(seed)
    values = rng.integers(1, 200, (n, d)) if dtype == "uint8" else rng.normal(size=(n, d)) * 10 ** rng.uniform(-2, 2, d)
    stored = rng.random((n, d)) < density
    stored[:, 0] = True
    stored[n // 2] = False
    values = np.where(rng.random((n, d)) < 0.1, 0, values).astype(dtype)
    starts = np.concatenate([[0], np.cumsum(stored.sum(axis=1))])
    return scipy.sparse.csr_array((values[stored], np.nonzero(stored)[1], starts), (n, d))


def both(cp, x, weights=None, metric=EUCLIDEAN, **how):
    """The two, ready for use."""
    summary, used = (None, None) if weights is None else Weights.of(weights)
    samples = Samples(x, used, summary, metric=metric, **how)
    points = SparsePoints(samples), CudaSparsePoints(cp, samples)
    ranges = [each.feature_range() for each in points]
    np.testing.assert_array_equal(*ranges)
    for each, found in zip(points, ranges, strict=True):
        lloyd.prepare(each, *found)
    return points


def same(points, ask):
    first, second = (ask(each) for each in points)
    np.testing.assert_array_equal(first, second)
    return first


# (rows, features, dtype, weights, metric, centers): no more lanes than are needed for few centers, several passes of
# eight for many
CASES = {
    "one center": (70, 9, "float32", None, EUCLIDEAN, 1),
    "bytes, in counts": (90, 30, "uint8", "counts", EUCLIDEAN, 7),
    "float64, in fractions": (70, 40, "float64", "fractions", EUCLIDEAN, 12),
    "many centers": (120, 20, "float32", "fractions", EUCLIDEAN, 70),
    "many features": (40, 900, "float32", None, EUCLIDEAN, 5),
    "cosine": (60, 25, "float32", None, COSINE, 9),
    "one feature": (50, 1, "float64", "counts", EUCLIDEAN, 3),
}


@pytest.mark.parametrize("case", CASES)
def test_every_step_is_numpys(cp, own_sums, case):
    n, d, dtype, weighing, metric, k = CASES[case]
    x, rng = matrix(n, d, dtype=dtype), np.random.default_rng(1)
    counts = rng.integers(1, 5, n).astype(float)
    weights = None if weighing is None else counts if weighing == "counts" else counts / 3
    points = both(cp, x, weights, metric)
    scales = points[0]._scales
    seeds = same(points, lambda each: kmeans_plusplus(each, min(k, 6), np.random.RandomState(0)))
    near = metric.initial(x[:k].toarray().astype(float) + 0.01)
    for centers in (near, near * 0.75, np.repeat(near[:1], k, axis=0), seeds):
        assert len({each.assign(centers) for each in points}) == 1
        same(points, lambda each: each.labels())
        same(points, lambda each: each.sums())
        split = Inertia.of(scales, centers)
        same(points, lambda each, centers=centers, split=split: each.inertia(centers, split))
        same(points, lambda each, centers=centers: each.distances(centers))
        far = [each.farthest(centers, 4) for each in points]
        for field in ("distance", "x", "label"):
            np.testing.assert_array_equal(*[getattr(found, field) for found in far])
        first, second = (own_sums(each, len(centers), far[0].x) for each in points)
        assert first == second
    for each in points:
        each.assign(near)
    seedings = [each.seeding() for each in points]
    total = {seeding.total(None) for seeding in seedings}
    assert len(total) == 1
    indices = rng.integers(0, total.pop(), 9).tolist()
    found = [seeding.find(indices) for seeding in seedings]
    np.testing.assert_array_equal(*found)
    for seeding in seedings:
        seeding.propose(found[0][:3])
    assert len({seeding.accept(1) for seeding in seedings}) == 1
    assert len({seeding.accept_all(near) for seeding in seedings}) == 1
    for seeding in seedings:
        seeding.propose(found[0])
    lower, _ = seedings[0].potentials(3, exact=True)
    assert lower == seedings[1].potentials(3, exact=True)[0]


def test_the_label_is_that_of_the_distance_and_not_of_its_expansion(brute_labels):
    """Of centers whose coordinates are the same in another order, also where a row has some itself."""
    rng = np.random.default_rng(0)
    centers = np.repeat(rng.random((1, 40)), 12, axis=0)
    for half in (slice(20), slice(20, 40)):
        centers[:, half] = rng.permuted(centers[:, half], axis=1)
    x = scipy.sparse.csr_array(np.repeat([np.arange(40) < 20], 200, axis=0) * rng.random((200, 1)))
    points = CudaSparsePoints(HostCuda(build="fast", seed=1), Samples(x))
    lloyd.prepare(points, *points.feature_range())
    points.assign(centers)
    expected = brute_labels(x.toarray(), centers)
    assert points.labels().tolist() == expected.tolist()
    assert points.uncertain == 200
    entries, columns = Entries.of(x), np.ascontiguousarray(centers.T)
    assert (expanded_distances(entries, columns, norms(centers)).argmin(axis=1) != expected).any()


@pytest.mark.parametrize("shrunk", [1, 2.0**-12])
def test_no_certain_label_is_wrong(shrunk):
    """Rows within rounding of the middle between two centers, whose scores come apart in float32; also of centers that
    are near each other, where rows are far from all of them."""
    rng = np.random.default_rng(0)
    d, n = 50, 3000
    x = np.where(rng.random((n, d)) < 0.3, rng.normal(size=(n, d)), 0)
    centers = rng.normal(size=(6, d)) * shrunk
    for i, (a, b) in zip(range(n), list(combinations(range(6), 2)) * n, strict=False):
        # Moved until it is as far from either, where it stores anything.
        across = centers[b] - centers[a]
        along = np.where(x[i] != 0, across, 0)
        x[i] += ((centers[a] + centers[b]) / 2 - x[i]) @ across / max(along @ along, shrunk**2 / 10) * along
    x = scipy.sparse.csr_array(x.astype(np.float32))
    points = both(HostCuda(build="fast", seed=1), x)
    for each in points:
        each.assign(centers)
    same(points, lambda each: each.labels())
    assert 0 < points[1].uncertain < n


def test_rows_are_equal_whatever_zeros_they_store(own_sums):
    """Those that take over empty clusters, and that leave others without them."""
    rng = np.random.default_rng(0)
    kinds = np.where(rng.random((5, 8)) < 0.4, rng.normal(size=(5, 8)), 0)
    kinds[1] = np.where(np.arange(8) == kinds[0].argmax(), 0, kinds[0])  # which stores a part of the same
    dense = kinds[rng.integers(0, 5, 80)]
    stored = (dense != 0) | (rng.random(dense.shape) < 0.3)
    starts = np.concatenate([[0], np.cumsum(stored.sum(axis=1))])
    x = scipy.sparse.csr_array((dense[stored], np.nonzero(stored)[1], starts), dense.shape)
    points = both(HostCuda(build="fast", seed=1), x)
    centers = np.full((2, 8), 0.5) * [[1], [9]]
    for each in points:
        each.assign(centers)
    far = [each.farthest(centers, 6) for each in points]
    np.testing.assert_array_equal(far[0].x, far[1].x)
    assert len(far[1].x) == 5
    for without in (kinds[:1], kinds[1:2], kinds[2:]):
        first, second = (own_sums(each, 2, without) for each in points)
        assert first == second


@pytest.mark.parametrize("scale", [2.0**-1040, 2.0**-148, 2.0**-60, 2.0**120, 2.0**490])
def test_values_of_any_size(scale):
    """Those that float32 holds, and those whose squares underflow."""
    x = matrix(60, 12, dtype="float64")
    x.data = np.rint(x.data * 4) * scale
    if 2.0**-149 <= scale < 2.0**100:
        x = x.astype(np.float32)
    points = both(HostCuda(build="fast", seed=1), x)
    for centers in (x[:5].toarray().astype(float), x[5:9].toarray().astype(float) * 0.7):
        for each in points:
            each.assign(centers)
        same(points, lambda each: each.labels())
        same(points, lambda each: each.sums())
        same(points, lambda each, centers=centers: each.distances(centers))


def test_values_that_are_no_numbers_are_seen():
    x = matrix(60, 12)
    x.data[7] = np.nan
    points = CudaSparsePoints(HostCuda(build="fast"), Samples(x))
    assert np.isnan(points.feature_range()).all()
    x.data[7] = np.inf
    assert CudaSparsePoints(HostCuda(build="fast"), Samples(x)).feature_range()[1].max() == np.inf


@pytest.mark.parametrize("rows", [1000, 300])
def test_neither_host_nor_device_holds_dense_rows(rows, peak):
    """32 MB if they were; k d numbers are 64 kB, and the host's tables of them a few of these."""
    n, d, k = 1000, 4000, 2
    rng = np.random.default_rng(0)
    places = rng.integers(0, n, 10 * n), rng.integers(0, d, 10 * n)
    x = scipy.sparse.coo_array((rng.normal(size=10 * n), places), shape=(n, d)).tocsr()
    cp = HostCuda(build="fast", seed=1)

    def fit():
        points = dispatch.on_gpu(cp, Samples(x))
        points.rows = rows
        lloyd.prepare(points, *points.feature_range())
        centers = x[:k].toarray()
        points.assign(centers)
        points.farthest(centers, 2)
        points.cluster_ranges(np.arange(k), np.empty((0, d)))
        return points

    used = peak(fit)
    assert max(used, cp.peak_bytes) < 4 * 2**20
    expected = squared_distance(x.toarray().T[:, :, None], x[:k].toarray().T[:, None]).argmin(axis=1)
    assert fit().labels().tolist() == expected.tolist()


def test_rows_in_batches_cross_as_they_are_stored():
    x = matrix(200, 50)
    cp = HostCuda(build="fast", seed=1)
    points = dispatch.on_gpu(cp, Samples(x, reused=False))
    points.rows = 60
    points.feature_range()
    entries = x.nnz * (4 + 4) + 8 * (200 + 4)
    assert cp.bytes_uploaded - entries <= 4 * 8 * (3 * 50 + 1)


def test_memory_may_run_out():
    """Then sparse rows go on in batches, of rows that are halved until they fit."""
    x = matrix(3000, 8)
    model = KMeans(3, random_state=0, n_init=1, max_iter=3, device="cpu").fit(x)
    for memory in (100_000, 60_000, 30_000):
        cp = HostCuda(build="fast", seed=1, memory=memory)
        points = dispatch.on_gpu(cp, Samples(x))
        lloyd.prepare(points, *points.feature_range())
        points.assign(model.cluster_centers_.astype(float))
        assert points.labels().tobytes() == model.labels_.tobytes()
        assert points.rows < 3000
