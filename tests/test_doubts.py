"""Rows that scores leave in doubt, on a GPU: float32 differences decide nearly all of them, wherever groups lie, and
what they call certain is right."""

from __future__ import annotations

import numpy as np
import pytest
from host_cuda.runtime import HostCuda
from test_kernels import SEARCHES, mirrored

from gpukmeans import lloyd
from gpukmeans.engine.cuda import launch_plans, tentative_labels
from gpukmeans.engine.cuda.points import CudaPoints
from gpukmeans.engine.protocol import Samples
from gpukmeans.exact.certificate import Frame, ScoreErrors

pytestmark = pytest.mark.kernels

DTYPES = ["float16", "float32", "float64"]


@pytest.fixture(scope="module")
def fast():
    return HostCuda(build="fast", seed=1)


@pytest.fixture(autouse=True)
def any_number(monkeypatch):
    """Of rows, and of values of centers."""
    monkeypatch.setattr(tentative_labels, "FEWEST_DOUBTS", 0)
    monkeypatch.setattr(launch_plans, "CLOSE_VALUES", 0)


def assigned(cp, x, centers):
    points = CudaPoints(cp, Samples(x))
    lloyd.prepare(points, *points.feature_range())
    points.assign(np.asarray(centers, np.float64))
    return points


def groups(dtype, n, d):
    """Rows of four groups, as far apart as the dtype has bits for."""
    apart = {"float16": 500, "float32": 1e4, "float64": 1e7}[dtype]
    where = np.arange(n) * 4 // n
    return (np.random.default_rng(0).normal(size=(n, d)) * 4 + apart * where[:, None]).astype(dtype)


# Features and centers, on which GPU, and what compares all rows with them.
KERNELS = {
    "assign_low_dim": (3, 40, "86"),
    "assign_tiled": (40, 60, "86"),
    "assign_tensor": (40, 60, "90"),
    "of three products": (40, 60, "90"),
}


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("kernel", KERNELS)
def test_groups_far_apart_do_not_come_to_distances_row_by_row(brute_labels, monkeypatch, kernel, dtype):
    d, k, capability = KERNELS[kernel]
    if kernel == "of three products":
        monkeypatch.setattr(launch_plans, "half_plan", lambda *_: None)
    x = groups(dtype, 800, d)
    centers = x[:: 800 // k][:k].astype(np.float64)
    centers += np.random.default_rng(1).normal(size=centers.shape) / 16
    shares = {}
    for fewest in (10**6, 0):
        monkeypatch.setattr(tentative_labels, "FEWEST_DOUBTS", fewest)
        points = assigned(HostCuda(build="fast", seed=1, capability=capability), x, centers)
        assert points.labels().tolist() == brute_labels(x.astype(np.float64), centers).tolist()
        shares[fewest] = points.uncertain / len(x)
    assert shares[0] <= 0.005
    assert shares[10**6] > 0.2 or (dtype == "float16" and d == 3)


@pytest.mark.parametrize(("dtype", "d", "k"), [search for search in SEARCHES if search[0] != "uint8"])
def test_no_label_by_differences_is_wrong(fast, brute_labels, monkeypatch, dtype, d, k):
    """Of rows none of which scores decide."""
    monkeypatch.setattr(Frame, "score_errors", lambda frame: ScoreErrors(1.0, 1.0, 1.0))
    monkeypatch.setattr(Frame, "tensor_score_errors", lambda frame: ScoreErrors(1.0, 1.0, 1.0))
    monkeypatch.setattr(Frame, "half_score_errors", lambda frame: (1.0, 2.0))
    certain = 0
    for seed in range(12):
        x, centers = mirrored(np.random.default_rng(seed), dtype, d, k)
        points = assigned(fast, x, centers)
        np.testing.assert_array_equal(points.labels(), brute_labels(x, centers), err_msg=f"seed {seed}")
        certain += len(x) - points.uncertain
    assert certain > 0


@pytest.mark.parametrize(("dtype", "d", "k"), [("float64", 16, 33), ("float32", 40, 129)])
def test_the_search_would_find_dishonest_differences(fast, brute_labels, monkeypatch, dtype, d, k):
    monkeypatch.setattr(Frame, "difference_errors", lambda frame: ScoreErrors(0.0, 0.0, 0.0))
    wrong = 0
    for seed in range(12):
        x, centers = mirrored(np.random.default_rng(seed), dtype, d, k)
        wrong += np.count_nonzero(assigned(fast, x, centers).labels() != brute_labels(x, centers))
    assert wrong > 0


@pytest.mark.parametrize("build", ["address", "race"])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_rows_in_doubt_are_read_within_bounds_and_without_races(brute_labels, build, dtype):
    """More of them than a block takes at a time, and a last one that is not full; and rows by a list, with bounds."""
    x = groups(dtype, 300, 20)
    centers = x[::8].astype(np.float64)
    points = assigned(HostCuda(build=build, seed=1, capability="86"), x, centers)
    for _ in range(3):
        centers = centers + np.random.default_rng(1).normal(size=centers.shape) / 64
        points.assign(centers)
        assert points.labels().tolist() == brute_labels(x.astype(np.float64), centers).tolist()
    assert points.uncertain <= 0.01 * 4 * len(x)
