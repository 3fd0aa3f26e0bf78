"""A batch's step that numba compiles, to the bits of the driver's."""

from __future__ import annotations

import numpy as np
import pytest
from numba import njit
from numpy.testing import assert_array_equal
from scipy import sparse
from twins import WEIGHTS, prepared

from gpukmeans import MiniBatchKMeans, minibatch_step
from gpukmeans.cluster_means import FINE
from gpukmeans.engine.numpy import numba_batches
from gpukmeans.engine.numpy.numba_points import CompiledPoints
from gpukmeans.engine.numpy.numba_sparse_points import CompiledSparsePoints
from gpukmeans.engine.numpy.points import NumPyPoints
from gpukmeans.engine.numpy.sparse_points import SparsePoints
from gpukmeans.engine.numpy.tuning import tuned

KINDS = {"dense": (NumPyPoints, CompiledPoints), "sparse": (SparsePoints, CompiledSparsePoints)}
FAR = 1e6  # where no row is


def rows(kind, n, d, dtype, low):
    """A third of them zeros; a feature that is never zero, one that always is, and one that does not vary."""
    rng = np.random.default_rng(n + d)
    x = np.where(rng.random((n, d)) < 1 / 3, 0, rng.uniform(low, 200, (n, d)))
    x[:, 0] = 1 + rng.random(n) * 9
    x[:, -1] = 0
    x[:, -2] = 7
    x = x.astype(dtype)
    return sparse.csr_array(x) if kind == "sparse" else x


def by_driver(points, scales, centers, counts, monkeypatch):
    with monkeypatch.context() as patched:
        patched.setattr(type(points), "moved", lambda *arguments: None)
        return minibatch_step.moved(points, scales, centers, counts)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("dtype", ["uint8", "float16", "float32", "float64"])
@pytest.mark.parametrize("weighing", WEIGHTS)
@pytest.mark.parametrize(("n", "d", "k"), [(701, 5, 6), (300, 40, 130), (9000, 3, 4), (3, 4, 3)])
def test_a_step_is_the_drivers(kind, dtype, weighing, n, d, k, monkeypatch):
    """Of clusters that are empty too, of more rows than ranges are asked of, and of centers that have seen weight, or
    none. Several steps, so that a center is one that was moved before."""
    if kind == "sparse" and dtype in ("uint8", "float16"):
        return  # which have no compiled passes
    rng = np.random.default_rng(n + k)
    x = rows(kind, n, d, dtype, 0 if dtype == "uint8" else -50)
    first = x[rng.integers(n, size=k)]
    centers = (first.toarray() if kind == "sparse" else first).astype(float) + 0.25
    if k > 3:
        centers[1] = FAR
    counts = np.where(np.arange(k) % 2, 10.0, 0.0)
    with tuned(threads=1):
        (plain, scales), (fast, _) = prepared(KINDS[kind], x, WEIGHTS[weighing](rng, n))
        for _ in range(3):
            plain.assign(centers)
            fast.assign(centers)
            expected = minibatch_step.moved(plain, scales, centers, counts)
            made = fast.moved(centers, counts, FINE)
            assert (made is None) == (weighing == "fractions")
            for found in (by_driver(fast, scales, centers, counts, monkeypatch), made or expected):
                assert found[0].tobytes() == expected[0].tobytes()
                assert_array_equal(found[1], expected[1])
            centers, counts = expected


@pytest.mark.parametrize("kind", KINDS)
def test_a_mean_in_doubt_is_left_to_the_driver(kind):
    """An outlier leaves the others' range too few of the bits."""
    x = np.random.default_rng(0).random((400, 3))
    x[0] = 1e12
    centers = np.array([[1e12] * 3, [0.5] * 3])
    (plain, scales), (fast, _) = prepared(KINDS[kind], sparse.csr_array(x) if kind == "sparse" else x)
    for points in (plain, fast):
        points.assign(centers)
    assert fast.moved(centers, np.zeros(2), FINE) is None
    assert fast.moved(centers, np.zeros(2), 1.0) is not None
    expected, made = (minibatch_step.moved(points, scales, centers, np.zeros(2)) for points in (plain, fast))
    assert made[0].tobytes() == expected[0].tobytes()


@pytest.mark.parametrize("kind", KINDS)
def test_normalized_rows_are_left_to_the_driver(kind):
    x = rows(kind, 50, 4, "float64", -1)
    _, (fast, _) = prepared(KINDS[kind], x, metric="cosine")
    fast.assign(np.eye(4))
    assert fast.moved(np.eye(4), np.zeros(4), FINE) is None


def test_a_range_of_some_rows_that_leaves_a_mean_outside_is_not_taken():
    """Of 9,000 rows in one cluster each eighth or so is looked at, and these are all alike."""
    x = np.random.default_rng(0).random((9000, 2))
    (plain, scales), (fast, _) = prepared(KINDS["dense"], x)
    step = fast._range_step(1)
    assert step > 1
    x[::step] = 0.25
    (plain, scales), (fast, _) = prepared(KINDS["dense"], x)
    centers = np.full((1, 2), 0.5)
    for points in (plain, fast):
        points.assign(centers)
    expected, made = (minibatch_step.moved(points, scales, centers, np.ones(1)) for points in (plain, fast))
    assert fast.moved(centers, np.ones(1), FINE) is not None
    assert made[0].tobytes() == expected[0].tobytes()


@pytest.mark.slow
def test_nothing_is_fused():
    """Each operation is rounded by itself."""
    wide = np.dtype(np.float64)
    by_rows, by_entries = numba_batches.moved_by_rows(wide), numba_batches.moved_by_entries(wide, np.dtype(np.int32))
    compiled = [numba_batches.moved(), by_rows, by_entries]
    for function in compiled:
        code = njit(function.py_func, **numba_batches._OPTIONS)
        code.compile(function.signatures[0])
        (assembly,) = code.inspect_asm().values()
        assert "fmadd" not in assembly
        assert "div" in assembly


@pytest.mark.parametrize("kind", KINDS)
def test_a_model_that_nobody_may_write_to_goes_on(kind):
    """As `joblib.load(path, mmap_mode="r")` has one."""
    x = rows(kind, 400, 12, "float64", -50)
    found = []
    for compiled in (True, False):
        with tuned(compiled=compiled):
            model = MiniBatchKMeans(4, random_state=0, device="cpu").partial_fit(x[:200])
            model._counts.flags.writeable = model.cluster_centers_.flags.writeable = False
            found.append(model.partial_fit(x[200:]).cluster_centers_.tobytes())
    assert found[0] == found[1]
