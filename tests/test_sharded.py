"""Several Points as one, in batches or on several devices, answer each step as one Points of all rows does."""

from __future__ import annotations

from functools import partial
from itertools import pairwise

import numpy as np
import pytest
from host_cuda.machine import as_cupy
from host_cuda.runtime import HostCuda

from gpukmeans import KMeans, lloyd
from gpukmeans.engine import dispatch
from gpukmeans.engine.combine.multi_device import Parallel
from gpukmeans.engine.numpy.points import NumPyPoints
from gpukmeans.engine.numpy.tuning import tuned
from gpukmeans.engine.protocol import Samples
from gpukmeans.exact.fixed_point import Weights
from gpukmeans.exact.inertia import Inertia
from gpukmeans.seeding import kmeans_parallel, kmeans_plusplus

pytestmark = pytest.mark.kernels

rng = np.random.default_rng(0)


@pytest.fixture(scope="module")
def gpus():
    return as_cupy(*(HostCuda(build="fast", seed=i + 1) for i in range(3)))


def numpy_parts(rows, samples):
    """Parts of so many rows, each NumPy's."""
    bounds = [*range(0, len(samples.x), rows), len(samples.x)]
    slices = [slice(a, b) for a, b in pairwise(bounds)]
    return Parallel([NumPyPoints(samples.part(part)) for part in slices], slices, samples)


def in_batches(rows, gpus, *samples):
    points = dispatch.on_gpu(gpus, Samples(*samples))
    points.rows = rows
    return points


WAYS = {
    **{f"batches of {rows}": partial(in_batches, rows) for rows in (120, 50, 11)},
    **{
        f"{count} GPUs": lambda gpus, *x, count=count: dispatch.on_gpus(gpus, list(range(count)), Samples(*x))
        for count in (2, 3)
    },
    **{
        f"NumPy's, {rows} rows each": lambda gpus, *x, rows=rows: numpy_parts(rows, Samples(*x))
        for rows in (120, 50, 7)
    },
}


@pytest.fixture(params=WAYS)
def made(request, gpus):
    """made(x, weights, summary): Points."""
    return partial(WAYS[request.param], gpus)


@pytest.mark.parametrize("weighed", ["weighed", "not"])
@pytest.mark.parametrize("d", [2, 20])
def test_every_step_is_that_of_all_rows(made, own_sums, d, weighed):
    """Locations that stand in several parts, at distances that tie: the first row leads, all rows leave."""
    x = np.tile(rng.integers(0, 4, (30, d)), (4, 1)).astype(np.float64)
    summary, used = Weights.of(np.arange(1.0, 121.0)) if weighed == "weighed" else (None, None)
    centers = np.repeat([[1.0], [2.0], [99.0]], d, axis=1)
    found = []
    for points in (NumPyPoints(Samples(x, used, summary)), made(x, used, summary)):
        scales = lloyd.prepare(points, *points.feature_range())
        steps = [points.assign(centers), points.labels().tolist(), points.sums().tolist()]
        for m in (1, 3, 40):
            far = points.farthest(centers, m)
            steps += [far.distance.tolist(), far.x.tolist(), far.label.tolist(), own_sums(points, 3, far.x)]
        steps += [points.inertia(centers, Inertia.of(scales, centers)), points.distances(centers).tolist()]
        steps += [kmeans_plusplus(points, 6, np.random.RandomState(3)).tolist()]
        make = partial(dispatch.make_points, device="cpu")
        steps += [kmeans_parallel(points, 6, np.random.RandomState(3), make).tolist()]
        steps += [points.assign(centers[:2] + 0.25), points.sums().tolist(), points.labels().tolist()]
        found.append(steps[1:])  # how many changed, equal rows may count as one
    assert found[1] == found[0]


def test_no_location_is_far_where_all_are_on_centers(made):
    points = made(np.repeat(np.eye(2), 60, axis=0))
    lloyd.prepare(points, *points.feature_range())
    points.assign(np.eye(2))
    far = points.farthest(np.eye(2), 2)
    assert (far.distance.shape, far.x.shape) == ((0,), (0, 2))


def test_a_value_that_is_nan_shows_in_the_extent_of_all(made):
    x = rng.normal(size=(120, 2))
    x[77, 1] = np.nan
    assert np.isnan(made(x).feature_range()).any()


@pytest.mark.parametrize("d", [3, 20])
def test_parts_know_where_the_centers_of_others_are(made, d):
    """Of rows in order, each part has a small piece, or a single location, far from most centers. Scores serve there as
    well: compared within the extent of all rows, hardly any row is left to D."""
    counts = [300, *[27] * 10, 30]
    x = np.repeat(np.arange(12.0), counts)[:, None] * 1e20
    x = x + rng.normal(size=(600, d)) * 1e17 * (np.arange(600) >= 300)[:, None]
    points = made(x)
    scales = lloyd.prepare(points, *points.feature_range())
    centers = x[np.cumsum(counts) - 1]
    for _ in range(3):
        points.assign(centers)
        centers, _ = lloyd.update(points, scales, centers)
    assert points.labels().tolist() == np.repeat(np.arange(12), counts).tolist()
    assert points.uncertain < 20


PARTS = {
    # of the first the rows are whole, of others not
    "whole beside fractions": np.concatenate([rng.integers(0, 9, (20, 2)) * 1.0, rng.random((40, 2)) * 9]),
    "whole beside halves": np.concatenate([rng.integers(0, 9, (20, 2)) * 1.0, rng.integers(0, 19, (40, 2)) / 2]),
    "equal beside fractions": np.concatenate([np.full((20, 2), 3.0), rng.random((40, 2)) * 9]),
}


@pytest.mark.parametrize("init", ["k-means++", "k-means||", "random"])
@pytest.mark.parametrize("case", PARTS)
def test_what_is_true_of_a_part_may_not_be_of_all(monkeypatch, case, init):
    x = PARTS[case]
    parameters = {"n_clusters": 5, "init": init, "random_state": 0, "n_init": 3, "device": "cpu"}
    expected = KMeans(**parameters).fit(x)
    monkeypatch.setattr(dispatch, "make_points", lambda samples, *, device: numpy_parts(20, samples))
    for scores in (True, False):
        with tuned(scores=scores):
            found = KMeans(**parameters).fit(x)
        assert found.cluster_centers_.tobytes() == expected.cluster_centers_.tobytes()
        assert found.labels_.tolist() == expected.labels_.tolist()
        assert found.inertia_ == expected.inertia_
