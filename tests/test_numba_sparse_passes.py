"""The passes over entries of sparse rows that numba compiles: each to the bits of its twin on SciPy and NumPy."""

from __future__ import annotations

from functools import partial

import numpy as np
import pytest
from numba import njit
from numpy.testing import assert_array_equal
from scipy import sparse
from twins import WEIGHTS, assert_twins, prepared

from gpukmeans import KMeans, lloyd, numba_support
from gpukmeans.cluster_means import doubt
from gpukmeans.engine.numpy import choice, numba_passes, numba_sparse_passes
from gpukmeans.engine.numpy.numba_sparse_points import CompiledSparsePoints, compiles_entries
from gpukmeans.engine.numpy.sparse_points import SparsePoints
from gpukmeans.engine.numpy.tuning import tuned
from gpukmeans.engine.protocol import Samples
from gpukmeans.exact.sparse_rows import Entries


def matrix(n, d, *, dtype=np.float64, index=np.int32, low=-1.0, seed=0):
    """Rows of which some are copies, some zero; features of which one is never absent, and one always."""
    rng = np.random.default_rng(seed)
    x = np.where(rng.random((n, d)) < 0.15, rng.uniform(low, 1, (n, d)), 0)
    x[::3] = x[rng.integers(n, size=len(x[::3]))]
    x[::17] = 0
    x[:, 0] = 1 + rng.random(n)
    x[:, -1] = 0
    x = sparse.csr_array(x.astype(dtype))
    return sparse.csr_array((x.data, x.indices.astype(index), x.indptr.astype(index)), shape=x.shape)


both = partial(prepared, (SparsePoints, CompiledSparsePoints))


@pytest.mark.parametrize("metric", ["euclidean", "cosine"])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("weighing", WEIGHTS)
@pytest.mark.parametrize(("n", "d", "k"), [(701, 30, 5), (200, 60, 130), (67, 3, 1)])
def test_each_pass_is_its_twin(metric, dtype, weighing, n, d, k):
    rng = np.random.default_rng(n + k)
    x = matrix(n, d, dtype=dtype, low=-1.0 if k % 2 else 0.0)
    made_some = metric == "cosine"
    for scores in (True, False):
        with tuned(scores=scores, threads=1):
            (plain, scales), (fast, same) = both(x, WEIGHTS[weighing](rng, n), metric)
            assert_array_equal(scales.low, same.low)
            assert_array_equal(scales.high, same.high)
            centers = x[:k].toarray().astype(float) + 0.25
            for _ in range(4):
                assert_twins(plain, fast, scales, centers)
                made = fast.next_centers(doubt(fast, scales))
                following, _ = lloyd.update(plain, scales, centers)
                if made is not None:
                    made_some = True
                    assert np.asarray(made.centers).tobytes() == following.tobytes()
                    assert_array_equal(made.shifts, ((following - centers) ** 2).cumsum(axis=1)[:, -1])
                centers = following
            assert_array_equal(plain.distances(centers), fast.distances(centers))
    assert made_some or k == 130  # of which some are empty


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("whole", [False, True])
def test_near_ties_are_decided_by_distance(dtype, whole):
    """Fails without the margin: rows halfway between two centers, but for their last bits."""
    rng = np.random.default_rng(1)
    for n, d, k in ((500, 40, 12), (100, 3000, 64)):
        centers = np.where(rng.random((k, d)) < 0.1, rng.integers(1, 9, (k, d)) * 2.0, 0)
        centers *= 1 if whole else 1 + rng.random((k, d))
        centers = centers.astype(dtype).astype(float)
        pair = rng.integers(k, size=(2, n))
        x = ((centers[pair[0]] + centers[pair[1]]) / 2).astype(dtype)
        if not whole:
            moved = np.nextafter(x, np.where(rng.random(x.shape) < 0.5, -np.inf, np.inf).astype(dtype))
            x = np.where(x == 0, x, moved)
        with tuned(scores=True, threads=1):
            points = CompiledSparsePoints(Samples(sparse.csr_array(x)))
            lloyd.prepare(points, *points.feature_range())
            points.assign(centers)
        steps = x[:, None].astype(float) - centers
        expected = np.add.accumulate(steps * steps, axis=2)[:, :, -1].argmin(axis=1)
        assert_array_equal(points.labels(), expected)
        assert points.uncertain > 0


def test_means_in_doubt_are_left_to_the_driver():
    """Of two clusters beside an outlier, whose means differ by less than sums may be off by."""
    x = sparse.csr_array(np.array([[1.0, 0.0], [1 + 2.0**-30, 0.0], [2.0**80, 0.0]]))
    points = CompiledSparsePoints(Samples(x))
    scales = lloyd.prepare(points, *points.feature_range())
    points.assign(x.toarray())
    assert points.next_centers(doubt(points, scales)) is None
    answers = []
    for fast in (False, True):
        with tuned(compiled=fast):
            model = KMeans(3, init=x.toarray(), max_iter=3, tol=0).fit(x)
            answers.append(model.cluster_centers_.tobytes())
    assert answers[0] == answers[1] == x.toarray().tobytes()


def test_a_cluster_without_rows_is_left_to_the_driver():
    x = matrix(50, 10)
    points = both(x)[1][0]
    centers = x[:3].toarray()
    centers[2] = 1e3
    points.assign(centers)
    assert points.sums()[2, -1] == 0
    assert points.next_centers(doubt(points, lloyd.prepare(points, *points.feature_range()))) is None


def test_it_serves_where_numba_is_and_pays(monkeypatch):
    monkeypatch.setattr(numba_support, "works", lambda: True)
    monkeypatch.setattr(choice, "_values_so_far", 0)
    few, many = matrix(20, 10), matrix(2000, 30)
    assert type(choice.on_numpy(Samples(few))) is SparsePoints
    assert type(choice.on_numpy(Samples(many))) is CompiledSparsePoints
    monkeypatch.setattr(choice, "_values_so_far", choice._WORTH_IMPORTING)
    assert type(choice.on_numpy(Samples(few))) is CompiledSparsePoints, "a fit of few is mostly calls"
    with tuned(compiled=True):
        assert type(choice.on_numpy(Samples(few))) is CompiledSparsePoints
        for dtype in (np.uint8, np.int64):  # which pass the door as they are, and as float64
            assert type(choice.on_numpy(Samples(many.astype(dtype)))) is SparsePoints
        assert type(choice.on_numpy(Samples(matrix(40, 9, index=np.int64)))) is CompiledSparsePoints
    monkeypatch.setattr(numba_support, "works", lambda: False)
    assert type(choice.on_numpy(Samples(many))) is SparsePoints


@pytest.mark.parametrize("index", [np.int32, np.int64])
def test_arrays_of_any_kind_have_the_same_answer(index):
    """Indices of 64 bits, arrays that may not be written to, and that do not lie along memory."""
    x = matrix(900, 40, index=index)
    with tuned(compiled=False):
        expected = KMeans(6, random_state=0).fit(x)
    closed = sparse.csr_array((x.data.copy(), x.indices.copy(), x.indptr.copy()), shape=x.shape)
    for array in (closed.data, closed.indices, closed.indptr):
        array.flags.writeable = False
    apart = Entries(np.repeat(x.data, 2)[::2], x.indices, x.indptr, x.shape[1])
    assert not compiles_entries(apart)
    for other in (x, closed):
        with tuned(compiled=True):
            model = KMeans(6, random_state=0).fit(other)
        assert_array_equal(model.cluster_centers_, expected.cluster_centers_)
        assert_array_equal(model.labels_, expected.labels_)
        assert model.inertia_ == expected.inertia_


def test_only_scores_are_fused():
    """E, terms and means are single operations, whatever the processor could do."""
    x, floats, wide = matrix(20, 4), np.ones(4), np.ones((2, 4))
    entries, sums, pair = (x.data, x.indices, x.indptr), np.ones((2, 5), np.int64), np.ones(2)
    labels, rows = np.zeros(20, np.int32), np.arange(20)
    calls = {
        numba_sparse_passes._expanded: (*entries, np.ones((4, 2)), pair, np.empty((20, 2))),
        numba_sparse_passes._own_expanded: (*entries, wide, pair, labels, np.empty(20)),
        numba_sparse_passes._move: (*entries, rows, labels, labels, floats, floats, 2, np.ones(20), rows, sums),
        numba_sparse_passes._squares: (wide, pair),
        numba_sparse_passes._means: (sums, np.ones(2), floats, floats, wide, np.empty((2, 4)), pair),
    }
    for function, arguments in calls.items():
        made = njit(**numba_passes._OPTIONS)(function)
        made(*arguments)
        for code in made.inspect_llvm().values():
            assert " contract " not in code, function
            assert " reassoc " not in code, function
        assert not any("fmadd" in text or "fmsub" in text for text in made.inspect_asm().values()), function


@pytest.mark.parametrize("weights", ["counts", "fractions"])
def test_weights_may_be_read_only(weights):
    x, given = matrix(200, 9), WEIGHTS[weights](np.random.default_rng(0), 200)
    fixed = given.copy()
    fixed.flags.writeable = False
    with tuned(compiled=True):
        one, other = (KMeans(4, random_state=0).fit(x, sample_weight=each) for each in (given, fixed))
    assert one.cluster_centers_.tobytes() == other.cluster_centers_.tobytes()
