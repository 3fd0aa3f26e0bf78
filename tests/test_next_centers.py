"""A GPU makes the centers of an iteration by itself, to the bit. On a CPU, see test_kernels.py."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
import scipy.sparse
from host_cuda.runtime import HostCuda

from gpukmeans import cluster_means, lloyd
from gpukmeans.engine.cuda import speculation_state
from gpukmeans.engine.cuda import tentative_labels as assign
from gpukmeans.engine.cuda.points import CudaPoints
from gpukmeans.engine.cuda.sparse_points import CudaSparsePoints
from gpukmeans.engine.numpy.points import NumPyPoints
from gpukmeans.engine.numpy.sparse_points import SparsePoints
from gpukmeans.engine.protocol import Samples
from gpukmeans.exact.distance import squared_distance
from gpukmeans.exact.fixed_point import Weights
from gpukmeans.exact.metric import COSINE, EUCLIDEAN

pytestmark = pytest.mark.kernels


@pytest.fixture
def fast():
    return HostCuda(build="fast", seed=1)


def blobs(n, d, k, seed=0, spread=3.0):
    rng = np.random.default_rng(seed)
    return rng.normal(0, 4, (k, d))[rng.integers(0, k, n)] + rng.normal(0, spread, (n, d))


def weights_of(kind, n):
    drawn = np.random.default_rng(1).integers(1, 4, n)
    return {"none": None, "counts": drawn * 1.0, "fractions": drawn + 0.3}[kind]


class Fit:
    """Iterations on the device beside NumPy's, each from its own centers."""

    def __init__(self, cp, x, init, weights=None, metric=EUCLIDEAN):
        summary, used = (None, None) if weights is None else Weights.of(weights)
        samples = Samples(x, used, summary, metric)
        numpy, cuda = (SparsePoints, CudaSparsePoints) if samples.sparse else (NumPyPoints, CudaPoints)
        self.numpy, self.found = numpy(samples), cuda(cp, samples)
        for points in (self.numpy, self.found):
            self.scales = lloyd.prepare(points, *points.feature_range())
        self.doubt = cluster_means.doubt(self.numpy, self.scales)
        self.expected = self.there = metric.initial(np.asarray(init, np.float64))

    def go_on(self):
        """Returns whether the device made the centers that follow."""
        assert self.found.assign(self.there) == self.numpy.assign(self.expected)
        before, (self.expected, _) = self.expected, lloyd.update(self.numpy, self.scales, self.expected)
        made = self.found.next_centers(self.doubt)
        if made is None:
            self.there, _ = lloyd.update(self.found, self.scales, np.asarray(self.there))
        else:
            assert made.shifts.tobytes() == squared_distance(self.expected.T, before.T.copy()).tobytes()
            self.there = made.centers
        return made is not None

    def agrees(self):
        assert np.asarray(self.there).tobytes() == self.expected.tobytes()
        assert self.found.labels().tolist() == self.numpy.labels().tolist()
        assert self.found.sums().tolist() == self.numpy.sums().tolist()
        return True


@pytest.mark.parametrize("metric", [EUCLIDEAN, COSINE], ids=lambda metric: metric.name)
@pytest.mark.parametrize("weighed", ["none", "counts", "fractions"])
@pytest.mark.parametrize(
    ("dtype", "d", "k"), [("uint8", 3, 30), ("float16", 2, 5), ("float32", 40, 34), ("float64", 33, 9)]
)
def test_centers_and_their_shifts_are_numpys(fast, dtype, d, k, weighed, metric):
    x = (blobs(400, d, 7) * 4 + 100).clip(0, 255).astype(dtype)
    fit = Fit(fast, x, x[:k], weights_of(weighed, len(x)), metric)
    assert all(fit.go_on() for _ in range(6))
    assert fit.agrees()


@pytest.mark.parametrize("metric", [EUCLIDEAN, COSINE], ids=lambda metric: metric.name)
@pytest.mark.parametrize("weighed", ["none", "fractions"])
def test_centers_of_sparse_rows_are_numpys(fast, weighed, metric):
    x = scipy.sparse.random(300, 70, 0.1, "csr", random_state=0)
    x = x[np.diff(x.indptr) > 0]
    fit = Fit(fast, x, x[:12].toarray(), weights_of(weighed, x.shape[0]), metric)
    assert all(fit.go_on() for _ in range(5))
    assert fit.agrees()


def test_more_centers_than_a_block_compares_with_each_other(fast):
    x = blobs(900, 3, 300)
    fit = Fit(fast, x, x[:300])
    assert all(fit.go_on() for _ in range(3))
    assert fit.agrees()


# ---------------------------------------------------------------- what the host has to look at


def crowded():
    """Two centers nearer to each other than the sums of all rows tell, beside a far row: in the feature of the largest
    range they are equal, and in another all but equal."""
    x = np.repeat([[0.0, 0.0], [0.0, 2.0**-20], [1e9, 0.0], [5e8, 1e3]], 50, axis=0)
    return x, x[[0, 50, 100, 150]]


def light():
    """Two clusters whose weight is next to nothing, though not zero."""
    x, _ = crowded()
    x = x + np.arange(200)[:, None] * 1e-3
    return x, x[[0, 50, 100, 150]]


DOUBTS = {
    "a crowded mean": (*crowded(), None),
    "light clusters": (*light(), np.repeat([2.0**-60, 2.0**-60, 0.7, 1.3], 50)),
    "an empty cluster": (blobs(60, 2, 3), [[0, 0], [1, 1], [1e3, 1e3]], None),
    "an empty cluster, in fractions": (blobs(60, 2, 3), [[0, 0], [1, 1], [1e3, 1e3]], np.linspace(0.3, 1.7, 60)),
}


@pytest.mark.parametrize("metric", [EUCLIDEAN, COSINE], ids=lambda metric: metric.name)
@pytest.mark.parametrize("case", DOUBTS)
def test_a_mean_in_doubt_is_left_to_the_host(fast, case, metric):
    x, init, weights = DOUBTS[case]
    fit = Fit(fast, x, init, weights, metric)
    if metric is EUCLIDEAN:
        assert not fit.go_on()
    for _ in range(4):
        fit.go_on()
    assert fit.agrees()


def test_a_direction_that_nearly_cancels_is_in_doubt(fast):
    x = np.array([[1, 0, 0], [-1, 0.7 * 2.0**-49, 0.3 * 2.0**-49], *[[0, -1, 0]] * 100])
    fit = Fit(fast, x, [[0.0, 0.6, -0.8], [0, -1, 0]], metric=COSINE)
    assert not fit.go_on()
    assert fit.agrees()


def test_a_center_whose_rows_cancel_stays_where_it_was(fast):
    x = np.array([[1.0, 0], [-1, 0], *[[0, -1]] * 30])
    fit = Fit(fast, x, [[0.0, 1], [0, -1]], metric=COSINE)
    fit.go_on()
    assert fit.agrees()
    assert fit.expected[0].tolist() == [0, 1]


@pytest.mark.parametrize("seed", range(6))
def test_what_the_device_goes_on_with_the_host_does_not_doubt(fast, seed):
    """Rows on a grid of scales, weights far apart: no doubt is missed, and few are in vain."""
    rng = np.random.default_rng(seed)
    x = blobs(200, 2, 6, seed, 0.1) * 10.0 ** rng.integers(-9, 9, (200, 1))
    weights = 2.0 ** rng.integers(-40, 3, 200) if seed % 2 else None
    fit = Fit(fast, x, x[rng.permutation(200)[:8]], weights, [EUCLIDEAN, COSINE][seed % 3 == 0])
    needed = made = 0
    for _ in range(6):
        went = fit.go_on()
        doubtful = (
            cluster_means.of_iteration(fit.numpy, fit.scales).certified.any() or not fit.numpy.sums()[:, -1].all()
        )
        assert not (went and doubtful)
        needed, made = needed + (not doubtful), made + went
    assert fit.agrees()
    assert made >= needed - 2


# ---------------------------------------------------------------- what crosses


@pytest.mark.parametrize(("d", "k", "launches"), [(3, 6, 4), (3, 30, 5), (20, 30, 6), (40, 34, 8)])
@pytest.mark.parametrize("ahead", [True, False])
def test_an_iteration_sends_nothing_and_waits_once_for_few_bytes(fast, monkeypatch, ahead, d, k, launches):
    """8 bytes a center and 24 more. Rows' kernels, of which bounds may not be read, and two that make centers; of many
    features also their table."""
    monkeypatch.setattr(speculation_state, "PAIR", 0.0 if ahead else 1.0)
    x = blobs(1500, d, k).astype(np.float32)
    points = CudaPoints(fast, Samples(x))
    scales = lloyd.prepare(points, *points.feature_range())
    seen = [fast.traffic]

    def watch(iteration):
        seen.append(fast.traffic)

    tolerance = lloyd.Tolerance(0, points, scales)
    centers = x[:k].astype(np.float64)
    lloyd.fit(points, scales, centers, max_iter=9, tolerance=tolerance, dtype=np.dtype(np.float64), watch=watch)
    each = [now.since(before) for before, now in pairwise(seen)][3:]
    assert len(each) >= 4
    for step in each:
        assert step[1:] == (0, 8 * k + 24, 1)
        assert step.down <= 16 * k + 64
        assert launches - (k >= assign.FEWEST_CENTERS) <= step.launches <= launches


@pytest.mark.parametrize("k", [6, 30])
def test_of_sparse_rows_as_well(fast, k):
    x = scipy.sparse.random(300, 70, 0.1, "csr", random_state=0)
    points = CudaSparsePoints(fast, Samples(x))
    scales = lloyd.prepare(points, *points.feature_range())
    centers, doubt = x[:k].toarray(), cluster_means.doubt(points, scales)
    for step in range(5):
        before = fast.traffic
        points.assign(centers)
        centers = points.next_centers(doubt).centers
        if step > 1:
            assert fast.traffic.since(before) == (4, 0, 8 * k + 24, 1)


def test_centers_come_down_once_and_only_if_asked_for(fast):
    x = blobs(300, 3, 6)
    fit = Fit(fast, x, x[:6])
    for _ in range(4):
        fit.go_on()
    before = fast.bytes_downloaded
    for _ in range(2):
        np.testing.assert_array_equal(np.asarray(fit.there), fit.expected)
    assert fast.bytes_downloaded - before == 8 * 6 * 3


# ---------------------------------------------------------------- bounds, races


def test_shifts_that_were_begun_anew_stay_so_until_rows_are_looked_at(fast, monkeypatch):
    """Next centers are made, for which the sums of shifts begin anew, and others near them are asked for: rows must not
    stand by bounds from before."""
    monkeypatch.setattr(assign, "FEWEST_CENTERS", 1)
    monkeypatch.setattr(assign, "LONGEST_SHIFT", 1e-2)
    monkeypatch.setattr(speculation_state, "PAIR", 1.0)
    fit = Fit(fast, np.linspace(-1, 1, 400)[:, None], [[-0.9], [0.1], [0.9]])
    for _ in range(4):
        fit.go_on()
        fit.expected = fit.there = np.asarray(fit.there) + 1e-5
    assert fit.go_on()
    assert fit.found.labels().tolist() == fit.numpy.labels().tolist()


@pytest.mark.parametrize("build", ["address", "race"])
@pytest.mark.parametrize("metric", [EUCLIDEAN, COSINE], ids=lambda metric: metric.name)
@pytest.mark.parametrize(("d", "k"), [(3, 6), (40, 34)])
def test_no_race_and_nothing_out_of_bounds(build, metric, d, k):
    x = blobs(200, d, 6)
    fit = Fit(HostCuda(build=build, seed=3), x, x[:k], weights_of("fractions", len(x)), metric)
    for _ in range(3):
        fit.go_on()
    assert fit.agrees()


@pytest.mark.parametrize("build", ["address", "race"])
def test_crowded_means_without_a_race(build):
    rng = np.random.default_rng(0)
    x = np.concatenate([rng.normal(0, 2.0**-19, (290, 2)), [[1e9, 1e9]]])
    fit = Fit(HostCuda(build=build, seed=3), x, x[:270])
    assert not fit.go_on()
    assert fit.agrees()
