"""On kernels one far row or center leaves no other row in doubt: where their scores are measured from, and by how much
each center's own err. On a CPU, see test_kernels.py."""

from __future__ import annotations

import numpy as np
import pytest
import scipy.sparse
from host_cuda.runtime import HostCuda

from gpukmeans import lloyd
from gpukmeans.engine.combine.multi_device import Parallel
from gpukmeans.engine.combine.out_of_memory import Batches
from gpukmeans.engine.cuda.points import CudaPoints
from gpukmeans.engine.cuda.sparse_points import CudaSparsePoints
from gpukmeans.engine.protocol import Samples
from gpukmeans.exact.certificate import Frame
from gpukmeans.exact.metric import COSINE
from gpukmeans.exact.row_sample import sampled_rows

pytestmark = pytest.mark.kernels


def assigned(points, centers):
    lloyd.prepare(points, *points.feature_range())
    points.assign(np.asarray(centers, np.float64))
    return points


def noise(dtype, n, d):
    x = np.random.default_rng(0).normal(size=(n, d))
    return np.rint(x * 4 + 20).clip(0, 40).astype(dtype) if dtype == "uint8" else x.astype(dtype)


FAR = {"uint8": 255, "float16": -9999, "float32": -9999, "float64": 1e9}

# Features, and which GPU; of other features than the first no value is far.
KERNELS = {"assign_low_dim": (8, "86"), "assign_tiled": (40, "86"), "assign_tensor": (40, "90")}


@pytest.mark.parametrize("dtype", FAR)
@pytest.mark.parametrize("kind", ["row", "row that is a center", "center"])
@pytest.mark.parametrize("kernel", KERNELS)
def test_one_far_value_leaves_no_row_in_doubt(brute_labels, kernel, kind, dtype):
    d, capability = KERNELS[kernel]
    x, used = noise(dtype, 600, d), kernel
    centers = x[1:41] + np.random.default_rng(1).uniform(-0.3, 0.3, (40, d))  # whole numbers would tie
    if kind == "center":
        centers[7] = FAR[dtype]
    else:
        x[0, 0] = FAR[dtype]
        if kernel == "assign_tensor" and dtype != "uint8":
            used = "assign_tiled"  # beside such a row others are too short for float16
    if kind == "row that is a center":
        centers[7] = x[0]
    cp = HostCuda(build="fast", seed=1, capability=capability)
    points = assigned(CudaPoints(cp, Samples(x)), centers)
    expected = {used, "assign_wgmma"} if used == "assign_tensor" else {used}
    assert {name for name in cp.launches if name.startswith("assign")} == expected
    assert points.labels().tolist() == brute_labels(x.astype(np.float64), centers).tolist()
    assert points.uncertain <= 0.01 * len(x)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_a_row_that_is_not_so_far_leaves_none_in_doubt_on_tensor_cores(brute_labels, dtype):
    x = noise(dtype, 600, 40)
    x[0, 0] = -60
    cp = HostCuda(build="fast", seed=1, capability="90")
    points = assigned(CudaPoints(cp, Samples(x)), x[1:41])
    assert cp.launches["assign_tensor"] == 1
    assert points.labels().tolist() == brute_labels(x, x[1:41].astype(np.float64)).tolist()
    assert points.uncertain <= 0.01 * len(x)


@pytest.fixture(scope="module")
def fast():
    return HostCuda(build="fast", seed=1)


def test_float16_far_from_zero_is_not_measured_from_there(fast, brute_labels):
    """Though the scale would be the same, and two products would do."""
    x = (np.random.default_rng(0).normal(size=(600, 40)) * 2 + 1000).astype(np.float16)
    x[0, 0], x[1, 1] = 60000, -60000
    points = assigned(CudaPoints(fast, Samples(x)), x[2:42])
    assert points.labels().tolist() == brute_labels(x.astype(np.float64), x[2:42].astype(np.float64)).tolist()
    assert points.uncertain <= 0.01 * len(x)


@pytest.mark.parametrize("metric", [None, COSINE])
@pytest.mark.parametrize("dtype", FAR)
def test_the_sample_is_the_same_wherever_rows_are_given(fast, dtype, metric):
    more = {} if metric is None else {"metric": metric}
    for n, d in ((1000, 3), (7, 40), (64, 1), (1, 5)):
        x = noise(dtype, n, d)
        samples = [
            CudaPoints(fast, Samples(given, **more))._sample for given in (x, np.asfortranarray(x), fast.asarray(x))
        ]
        assert len(samples[0]) <= 64
        for sample in samples:
            assert sample.dtype == np.float64
            assert sample.tolist() == samples[0].tolist()
        if metric is None:
            assert samples[0].tolist() == x[sampled_rows(n, d)].tolist()


def test_a_frame_is_that_of_the_last_range(fast):
    """Parts of rows are told the range of all."""
    points = CudaPoints(fast, Samples(noise("float32", 50, 3)))
    points.feature_range()
    before = points._frame
    points.set_feature_range(np.full(3, -9.0), np.full(3, 900.0))
    assert points._frame.exponent < before.exponent


@pytest.mark.parametrize("way", ["batches", "devices", "sparse"])
def test_one_far_row_leaves_none_in_doubt_however_rows_are_held(brute_labels, way):
    x = noise("float64", 600, 24)
    x[:, ::2] = 0
    x[5, 0] = 1e6
    centers = x[10:50]
    samples = Samples(scipy.sparse.csr_array(x) if way == "sparse" else x)

    def part(rows, ahead=False):
        kind = CudaSparsePoints if samples.sparse else CudaPoints
        return kind(HostCuda(build="fast", seed=1), samples.part(rows), single_batch=False)

    if way == "batches":
        points = Batches(part, len(x), samples)
        points.rows = 150
    elif way == "devices":
        slices = [slice(0, 250), slice(250, 600)]
        points = Parallel([part(rows) for rows in slices], slices, samples)
    else:
        points = part(slice(None))
    assigned(points, centers)
    assert points.labels().tolist() == brute_labels(x, centers).tolist()
    assert points.uncertain <= 0.01 * len(x)


def test_noise_is_measured_from_the_middle(fast):
    """And float16 about zero from zero, for two products of three."""
    for dtype in ("uint8", "float16", "float32", "float64"):
        x = noise(dtype, 500, 20)
        points = CudaPoints(fast, Samples(x))
        low, high = points.feature_range()
        middle = np.zeros(20) if dtype == "float16" else Frame.of(low, high).offset
        assert points._frame.offset.tolist() == middle.tolist()
