"""Points whose passes numba compiles, beside those on NumPy that define them: what both of their test modules ask."""

from __future__ import annotations

import numpy as np
from numpy.testing import assert_array_equal

from gpukmeans import lloyd
from gpukmeans.engine.protocol import Samples
from gpukmeans.exact.fixed_point import Weights
from gpukmeans.exact.inertia import Inertia
from gpukmeans.exact.metric import metric_of
from gpukmeans.exact.scales import OwnScales

WEIGHTS = {
    "none": lambda rng, n: None,
    "counts": lambda rng, n: rng.integers(1, 5, n).astype(float),
    "fractions": lambda rng, n: rng.uniform(0.25, 2.0, n),
}


def prepared(kinds, x, weights=None, metric="euclidean", reused=True):
    """Of each kind of Points the points of x, and their scales."""
    used, summary = (None, None) if weights is None else reversed(Weights.of(weights))
    samples = Samples(x, used, summary, metric_of(metric), reused)
    return [(points := kind(samples), lloyd.prepare(points, *points.feature_range())) for kind in kinds]


def assert_twins(plain, fast, scales, centers):
    """Both assign to these centers, and then have the same labels, sums, inertia, farthest rows, ranges, and sums of
    clusters by themselves."""
    k, d = centers.shape
    assert plain.assign(centers) == fast.assign(centers)
    assert_array_equal(plain.labels(), fast.labels())
    assert_array_equal(plain.sums(), fast.sums())
    split = Inertia.of(scales, centers)
    assert plain.inertia(centers, split) == fast.inertia(centers, split)
    assert plain.inertia(centers[:1], split) == fast.inertia(centers[:1], split)
    farthest = [points.farthest(centers, 3) for points in (plain, fast)]
    assert_array_equal(farthest[0].x, farthest[1].x)
    for without in (np.empty((0, d)), farthest[0].x):
        ranges = [points.cluster_ranges(np.arange(0, k, 2), without) for points in (plain, fast)]
        assert_array_equal(*ranges)
        low, high = (np.where(ranges[0][0] <= ranges[0][1], extreme, 0.0) for extreme in ranges[0])
        own = OwnScales.of(low, high, np.full(len(low), float(plain.weights.total)), plain.weights)
        assert_array_equal(*(points.cluster_sums(np.arange(0, k, 2), own, without) for points in (plain, fast)))
