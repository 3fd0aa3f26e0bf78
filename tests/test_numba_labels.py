"""Labels of a batch of rows that numba finds in one call: those by D, whatever it chose to score them by."""

from __future__ import annotations

from functools import partial

import numpy as np
import pytest
from numpy.testing import assert_array_equal
from twins import WEIGHTS, assert_twins, prepared

from gpukmeans import MiniBatchKMeans, lloyd
from gpukmeans.engine.numpy import numba_steps
from gpukmeans.engine.numpy.numba_points import CompiledPoints
from gpukmeans.engine.numpy.points import NumPyPoints
from gpukmeans.engine.numpy.tuning import tuned

both = partial(prepared, (NumPyPoints, CompiledPoints))

KINDS = {
    "noise": lambda rng, x: x,
    "an outlier": lambda rng, x: np.where(np.arange(len(x))[:, None] == 7, -9999.0, x),
    "heavy tails": lambda rng, x: rng.standard_cauchy(x.shape),
    "far from zero": lambda rng, x: x + 1e6,
    "whole numbers": lambda rng, x: np.rint(2 * x),
    "copies": lambda rng, x: x[rng.integers(50, size=len(x))],
    "one place": lambda rng, x: np.full(x.shape, 3.0),
}


def rows(kind, n, d, dtype):
    rng = np.random.default_rng(n + d)
    return KINDS[kind](rng, rng.normal(size=(n, d))).astype(dtype)


def nearest(x, centers):
    steps = x[:, None].astype(float) - centers
    return np.add.accumulate(steps * steps, axis=2)[:, :, -1].argmin(axis=1)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("weighing", WEIGHTS)
@pytest.mark.parametrize(("n", "d", "k"), [(1000, 20, 30), (2500, 7, 50), (130, 100, 9)])
def test_labels_in_one_call_are_those_of_any_other(kind, dtype, weighing, n, d, k):
    x = rows(kind, n, d, dtype)
    with tuned(threads=1):
        (plain, scales), (fast, _) = both(x, WEIGHTS[weighing](np.random.default_rng(n), n))
        centers = x[:k].astype(float) + 0.25
        assert fast._is_batch(k)
        for _ in range(3):
            assert_twins(plain, fast, scales, centers)
            centers, _ = lloyd.update(plain, scales, centers)
    if kind in ("noise", "an outlier", "far from zero") and dtype == "float64":
        assert fast.uncertain < 0.02 * 3 * n


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_near_ties_are_decided_by_distance(dtype):
    rng = np.random.default_rng(1)
    for d, k in ((12, 20), (40, 12), (60, 64)):
        centers = rng.normal(size=(k, d)).astype(dtype).astype(float)
        pair = rng.integers(k, size=(2, 1000))
        x = ((centers[pair[0]] + centers[pair[1]]) / 2).astype(dtype)
        x = np.nextafter(x, np.where(rng.random(x.shape) < 0.5, -np.inf, np.inf).astype(dtype))
        with tuned(threads=1):
            _, (points, _) = both(x)
            assert points._is_batch(k)
            points.assign(centers)
        assert_array_equal(points.labels(), nearest(x, centers))
        assert points.uncertain > 0


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("k", [30, 70])
def test_rows_labelled_again_are_skipped_where_no_label_can_change(dtype, k):
    """However far centers move, one alone or all, and of rows between two of them."""
    rng = np.random.default_rng(k)
    centers = rng.normal(size=(k, 24))
    pair = rng.integers(k, size=(2, 1000))
    ties = (centers[pair[0]] + centers[pair[1]]) / 2
    near = centers[pair[0]] + 0.2 * rng.normal(size=ties.shape)
    for x, least in ((near, 0.9), (ties, 0.0)):
        for step in (0.0, 1e-9, 1e-6, 1e-3, 0.1, 1.0):
            for moves in (np.arange(k) == 3, np.arange(k) < k):
                with tuned(threads=1):
                    _, (points, _) = both(x.astype(dtype))
                    assert points._is_batch(k)
                    points.assign(centers)
                    for again in range(1, 4):
                        moved = centers + again * step * moves[:, None] * rng.normal(size=centers.shape)
                        points.assign(moved)
                        assert_array_equal(points.labels(), nearest(x.astype(dtype), moved))
                        assert step > 1e-3 or points._skipped >= least * len(x)


def test_bounds_hold_of_the_centers_last_compared_with_alone():
    """Not of those before labels came another way, nor of an array that has changed since."""
    x = rows("noise", 1000, 20, "float32")
    some, others = x[:20].astype(float), x[20:40].astype(float)
    far = others.copy()
    far[3] = 1e30
    for between in (far, others[:10], others):
        with tuned(threads=1):
            _, (points, _) = both(x)
            for centers in (some, between, some):
                given = centers.copy()
                points.assign(given)
                assert_array_equal(points.labels(), nearest(x, centers))
                given[:] = 0


@pytest.mark.parametrize(("dtype", "size"), [("float32", 1e-40), ("float32", 1e-25), ("float32", 1e37)])
@pytest.mark.parametrize("wide", [1.0, 1e-130, 1e110])
def test_values_of_any_size_are_labelled(dtype, size, wide):
    """Down to subnormal numbers, and as far as scores and their scale reach."""
    dtype, size = (dtype, size) if wide == 1.0 else ("float64", size * wide)
    x = (rows("noise", 700, 12, "float64") * size).astype(dtype)
    centers = x[:20].astype(float)
    with tuned(threads=1):
        _, (points, _) = both(x)
        points.assign(centers)
    assert_array_equal(points.labels(), nearest(x, centers))


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("far", [1e3, 1e9, 1e30])
def test_centers_too_far_for_scores_are_left_to_distances(dtype, far):
    x = rows("noise", 600, 20, dtype)
    centers = x[10:30].astype(float)
    centers[3] = far
    with tuned(threads=1):
        (plain, scales), (fast, _) = both(x)
        for one, other in ((x[:20].astype(float), centers), (centers, x[:20].astype(float))):
            for each in (one, other):
                assert_twins(plain, fast, scales, each)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_groups_far_apart_leave_few_rows_to_distances(dtype):
    rng = np.random.default_rng(3)
    x = rng.normal(size=(3000, 12))
    x[1::3] += 1e4
    x[2::3, 0] -= 3e4
    x = x.astype(dtype)
    with tuned(threads=1):
        (plain, scales), (fast, _) = both(x)
        assert x.size >= numba_steps._WORTH_GROUPS
        assert fast._is_batch(20)
        assert_twins(plain, fast, scales, x[:20].astype(float))
    assert fast.uncertain <= 100


@pytest.mark.parametrize("weighing", WEIGHTS)
def test_sums_are_those_of_the_labels(weighing):
    """Whichever way rows were labelled before anybody asked, with however many centers."""
    x = rows("noise", 900, 16, "float64")
    some, others = x[:20].astype(float), x[100:120].astype(float)
    far = others.copy()
    far[3] = 1e30
    ways = [[some], [some, others], [some, far], [far, some], [some, x[:3].astype(float)], [some, x[:30].astype(float)]]
    for way in ways:
        with tuned(threads=1):
            (plain, _), (fast, _) = both(x, WEIGHTS[weighing](np.random.default_rng(0), len(x)))
            for centers in way:
                assert plain.assign(centers) == fast.assign(centers)
            assert_array_equal(plain.sums(), fast.sums())
            fast.assign(some)
            plain.assign(some)
            assert_array_equal(plain.sums(), fast.sums())


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_a_model_of_batches_is_the_same_without(dtype):
    x = rows("noise", 3 * 1024, 24, dtype)
    found = []
    for compiled in (True, False):
        with tuned(compiled=compiled):
            model = MiniBatchKMeans(40, random_state=0, device="cpu")
            for batch in np.array_split(x, 3):
                model.partial_fit(batch)
            found.append((model.cluster_centers_.tobytes(), model.labels_.tobytes(), model.inertia_))
    assert found[0] == found[1]
