"""The rows of the next batch cross the bus while the device works on this one; see engine/combine/out_of_memory.py.

Streams of the device that stands here do as little as CUDA lets them (host_cuda/streams.py): a copy that nobody waits
for is not there, and its absence shows in the answer.
"""

from __future__ import annotations

import logging

import numpy as np
import pytest
from host_cuda.failing import FailingHost
from host_cuda.runtime import HostArray, HostCuda, OutOfMemoryError
from host_cuda.streams import Event, Stream
from scipy.sparse import csr_array

from gpukmeans import DeviceError, lloyd
from gpukmeans.engine import dispatch
from gpukmeans.engine.cuda import transfer
from gpukmeans.engine.numpy.points import NumPyPoints
from gpukmeans.engine.protocol import Samples
from gpukmeans.exact.fixed_point import Weights
from gpukmeans.exact.metric import COSINE, EUCLIDEAN
from gpukmeans.seeding import kmeans_plusplus

pytestmark = pytest.mark.kernels

X = np.random.default_rng(0).normal(50, 20, (700, 3)).astype(np.float32)
CENTERS = X[:5].astype(np.float64)


def batches(cp, rows, x=X, weights=None, **how):
    summary, used = (None, None) if weights is None else Weights.of(weights)
    points = dispatch.on_gpu(cp, Samples(x, used, summary, **how))
    points.rows = rows
    return points


def steps(points, centers=CENTERS, times=2):
    """What a fit asks for, and what it is told."""
    lloyd.prepare(points, *points.feature_range())
    found = [kmeans_plusplus(points, 2 * times, np.random.RandomState(0)).tolist()]
    for moved in (centers, centers + 0.5)[:times]:
        points.assign(moved)
        far = points.farthest(moved, 2)
        low, high = points.cluster_ranges(np.arange(len(moved)), far.x)
        found += [points.labels().tolist(), points.sums().tolist(), far.x.tolist(), low.tolist(), high.tolist()]
    return found


def between(record, first, second):
    """The entries from each of the first kind to the next one of the second."""
    parts = []
    for entry in record:
        if entry == first:
            parts.append([])
        elif parts and parts[-1][-1:] != [second]:
            parts[-1].append(entry)
    return parts


# ---------------------------------------------------------------- order


def test_the_next_rows_are_on_their_way_before_an_answer_is_waited_for():
    cp = HostCuda(seed=1)
    points = batches(cp, 300)
    lloyd.prepare(points, *points.feature_range())
    cp.streams.record.clear()
    points.assign(CENTERS)
    parts = between(cp.streams.record, ("refine", 0), ("down", 0))
    assert len(parts) == 3
    for part in parts:
        assert part == [("fill", 0), ("wait", 1), ("up", 1), ("event", 1), ("down", 0)]


def test_rows_are_waited_for_before_kernels_and_what_comes_after_waits_for_no_kernel():
    """Memory that rows are sent to may have been read by kernels of the batch before, not by those of this one."""
    cp = HostCuda(seed=1)
    points = batches(cp, 300)
    lloyd.prepare(points, *points.feature_range())
    cp.streams.record.clear()
    points.assign(CENTERS)
    record = [entry for entry in cp.streams.record if entry[0] in ("event", "wait", "refine")]
    assert record == 3 * [("event", 0), ("wait", 0), ("refine", 0), ("wait", 1), ("event", 1)]


def test_rows_cross_once_a_pass_and_only_for_passes_that_read_them():
    cp = HostCuda(seed=1)
    points = batches(cp, 300)
    before = cp.bytes_uploaded

    def sent(call, *args):
        nonlocal before
        call(*args)
        sent, before = cp.bytes_uploaded - before, cp.bytes_uploaded
        return sent - X.nbytes

    assert 0 < sent(lambda: lloyd.prepare(points, *points.feature_range())) - X[:300].nbytes < 500, (
        "one for the next pass"
    )
    assert 0 < sent(points.assign, CENTERS) < 4 * len(X)
    assert 0 < sent(points.assign, CENTERS + 1) - 4 * len(X) < 2000, "labels go along"
    assert sent(points.seeding().total, None) < 200 - X.nbytes, "weights are all that is looked at"
    assert 0 < sent(points.assign, CENTERS) - 4 * len(X) < 2000


def test_nothing_is_sent_that_nobody_will_read():
    """After a single assignment; and by batches of a single row, which could not be halved if two did not fit."""
    cp = HostCuda(seed=1)
    points = batches(cp, 300, reused=False)
    lloyd.prepare(points, *points.feature_range())
    points.assign(CENTERS)
    assert 2 * X.nbytes < cp.bytes_uploaded < 2 * X.nbytes + X[:300].nbytes
    cp = HostCuda(seed=1)
    points = batches(cp, 1, X[:5])
    points.feature_range()
    assert ("up", 1) not in between(cp.streams.record, ("feature_range", 0), ("down", 0))[0]


# ---------------------------------------------------------------- the answer


@pytest.mark.parametrize("kind", ["float32", "weights", "normalized", "sparse", "normalized sparse"])
@pytest.mark.parametrize("piece", [1024, 2**22])
def test_prefetched_rows_are_numpys(monkeypatch, kind, piece):
    """In pieces through pinned memory, and at once."""
    x, weights = X, None
    if "sparse" in kind:
        x = csr_array(np.where(X > 50, X, 0).astype(np.float32))
    if kind == "weights":
        weights = np.random.default_rng(1).random(len(X)) + 0.1
    summary, used = (None, None) if weights is None else Weights.of(weights)
    metric = COSINE if "normalized" in kind else EUCLIDEAN
    centers = CENTERS / 100 if metric.normalizes else CENTERS
    expected = steps(dispatch.on_numpy(Samples(x, used, summary, metric=metric)), centers)
    monkeypatch.setattr(transfer, "PIECE", piece)
    for rows in (200, 350, 699):
        assert steps(batches(HostCuda(seed=1), rows, x, weights, metric=metric), centers) == expected


@pytest.mark.parametrize("forgotten", ["arrival", "pinned memory"])
def test_a_wait_that_is_forgotten_shows(monkeypatch, forgotten):
    """The kernels', for rows to have arrived; the host's, for pinned memory to have been read."""
    expected = steps(dispatch.on_numpy(Samples(X)))
    if forgotten == "arrival":
        monkeypatch.setattr(Stream, "wait_event", lambda stream, event: None)
    else:
        monkeypatch.setattr(transfer, "PIECE", 1024)
        monkeypatch.setattr(Event, "synchronize", lambda event: None)
    try:
        found = steps(batches(HostCuda(seed=1), 300))
    except (DeviceError, ValueError, OverflowError):
        return  # what is in memory before rows arrive may be no numbers
    assert found != expected


# ---------------------------------------------------------------- memory


def test_where_two_batches_do_not_fit_smaller_ones_follow(caplog):
    """A batch of 350 rows takes 4,200 bytes, and as many again to be labelled: 12 bytes a row."""
    cp = HostCuda(seed=1, memory=11 * 1024)
    points = batches(cp, 350)
    with caplog.at_level(logging.INFO, "gpukmeans"):
        found = steps(points)
    assert found == steps(NumPyPoints(Samples(X)))
    assert points.rows == 175
    assert len(caplog.records) == 1, "half as many rows twice take what all took"
    assert cp.peak_bytes <= 11 * 1024
    cp.streams.record.clear()
    points.assign(CENTERS)
    assert all(("up", 1) in part for part in between(cp.streams.record, ("refine", 0), ("down", 0)))


FEW, TWO = X[:12], CENTERS[:2]


def test_memory_may_run_out_at_any_allocation_of_batches(caplog):
    expected = steps(dispatch.on_numpy(Samples(FEW)), TWO, 1)
    caplog.set_level(logging.INFO, "gpukmeans")
    cp, at = FailingHost(build="fast", seed=1), 0
    while True:
        points = batches(cp, 6, FEW)
        cp.arm(at, OutOfMemoryError("Out of memory"))
        assert steps(points, TWO, 1) == expected, at
        if cp.left is not None:
            break
        assert points.rows < 6, at
        assert "going on with batches of" in caplog.text
        caplog.clear()
        at += 1
    assert at > 80, "all allocations were reached"


# ---------------------------------------------------------------- errors


@pytest.mark.parametrize("kind", [KeyboardInterrupt, RuntimeError])
def test_an_interruption_leaves_nothing_behind(kind):
    """No memory, no current stream, and the same Points may go on."""
    expected = NumPyPoints(Samples(FEW))
    lloyd.prepare(expected, *expected.feature_range())
    expected.assign(TWO)
    cp, at = FailingHost(build="fast", seed=1), 0
    while True:
        points = batches(cp, 6, FEW)
        cp.arm(at, kind())
        try:
            steps(points, TWO, 1)
        except kind as error:
            error.__traceback__ = None  # which holds what was being done
        else:
            break
        assert points._next is None
        assert [stream.number for stream in cp.streams.current] == [0]
        lloyd.prepare(points, *points.feature_range())
        points.assign(TWO)
        assert points.labels().tolist() == expected.labels().tolist()
        del points
        assert cp.used_bytes == 0
        at += 5
    assert at > 80, "all allocations were reached"


def test_an_interruption_between_batches_leaves_no_rows_that_are_taken_for_others(monkeypatch):
    """The second batch is on its way then, and the next pass begins with the first."""
    expected, points = NumPyPoints(Samples(X)), batches(HostCuda(build="fast", seed=1), 300)
    for held in (expected, points):
        lloyd.prepare(held, *held.feature_range())
    work = points._try

    def interrupted(*args):
        work(*args)
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(points, "_try", interrupted)
        with pytest.raises(KeyboardInterrupt):
            points.assign(CENTERS)
    for held in (expected, points):
        held.assign(CENTERS)
    assert points.labels().tolist() == expected.labels().tolist()
    assert points.sums().tolist() == expected.sums().tolist()


def test_an_error_that_shows_while_rows_are_sent_names_the_kernels_at_work(monkeypatch):
    cp = HostCuda(seed=1)
    points = batches(cp, 300)
    lloyd.prepare(points, *points.feature_range())
    upload = HostArray.set

    def fail(array, values, stream=None):
        if cp.streams.current[-1].number == 1 and cp.streams.record[-2][0] == "fill":
            raise cp.cuda.runtime.CUDARuntimeError("cudaErrorIllegalAddress: an illegal memory access was encountered")
        upload(array, values, stream)

    monkeypatch.setattr(HostArray, "set", fail)
    with pytest.raises(
        DeviceError,
        match=r"since it last answered: center_forms, movement, assign_low_dim, refine\. .*IllegalAddress",
    ):
        points.assign(CENTERS)
    assert len(cp.streams.current) == 1
