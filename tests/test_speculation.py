"""The CUDA points begin an assignment before it is asked for; nobody sees it. On a CPU, see test_kernels.py."""

from __future__ import annotations

import gc
from itertools import count

import numpy as np
import pytest
from host_cuda.runtime import CUDARuntimeError, HostCuda
from host_cuda.streams import Event, Stream

from gpukmeans import DeviceError, KMeans, cluster_means, lloyd
from gpukmeans.engine.cuda import device as gpu
from gpukmeans.engine.cuda import speculation_state, transfer
from gpukmeans.engine.cuda import tentative_labels as assign
from gpukmeans.engine.cuda.points import CudaPoints
from gpukmeans.engine.cuda.speculation_state import Speculation, SpeculationState
from gpukmeans.engine.numpy.points import NumPyPoints
from gpukmeans.engine.protocol import Samples
from gpukmeans.exact.fixed_point import Weights
from gpukmeans.exact.inertia import Inertia

pytestmark = [pytest.mark.kernels, pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")]


@pytest.fixture
def fast():
    return HostCuda(build="fast", seed=1)


def blobs(n, d, k, seed=0, spread=3.0):
    rng = np.random.default_rng(seed)
    return rng.normal(0, 4, (k, d))[rng.integers(0, k, n)] + rng.normal(0, spread, (n, d))


def both(cp, x, weights=None, keep_on_device=False):
    """stay: whether the kernels' rows are on the device, and labels stay there."""
    summary, used = (None, None) if weights is None else Weights.of(weights)
    found = CudaPoints(
        cp, Samples(cp.asarray(x) if keep_on_device else x, used, summary), keep_on_device=keep_on_device
    )
    for points in (NumPyPoints(Samples(x, used, summary)), found):
        yield points, lloyd.prepare(points, *points.feature_range())


def following(points, scales, centers):
    """As a fit goes on from there."""
    made, _ = lloyd.next_centers(points, scales, centers, cluster_means.doubt(points, scales))
    return made.centers


@pytest.mark.parametrize("weighed", [False, True])
@pytest.mark.parametrize(("d", "k"), [(2, 5), (3, 30), (20, 6), (20, 40)])
@pytest.mark.parametrize("seed", range(3))
def test_whatever_is_asked_next_is_answered(fast, seed, d, k, weighed):
    """What fits ask, in any order: predictions come true, do not, and are overtaken."""
    rng = np.random.default_rng(seed)
    x = blobs(150, d, 7, seed)
    weights = rng.integers(0, 2, len(x)) + 0.5 if weighed else None
    (numpy, scales), (found, _) = both(fast, x, weights, keep_on_device=weighed)
    centers = x[:k]
    asked_by = {numpy: centers, found: centers}
    committed = 0
    for step in range(120):
        asked = rng.choice(["means", "other", "sums", "inertia", "labels", "farthest", "seed", "all", "k"], p=_SHARES)
        said = []
        in_flight = found._by is not None and found._by.speculation.state is SpeculationState.IN_FLIGHT
        if asked in ("other", "k"):
            centers = centers + rng.normal(0, 1, centers.shape)
            if asked == "k":
                centers = x[rng.choice(len(x), int(rng.choice([k, k + 1])), replace=False)]
            asked_by = {numpy: centers, found: centers}
        for points in (numpy, found):
            if asked in ("means", "other", "k"):
                if asked == "means" and step:
                    asked_by[points] = following(points, scales, asked_by[points])
                    centers = np.asarray(asked_by[points]) if points is numpy else centers
                said.append(points.assign(asked_by[points]))
            elif step and asked == "sums":
                said.append(points.sums().tolist())
            elif step and asked == "inertia":
                said.append(points.inertia(centers, Inertia.of(scales, centers)))
            elif step and asked == "labels":
                there = points.labels()
                said.append((there.get() if isinstance(there, fast.ndarray) else there).tolist())
            elif step and asked == "farthest":
                far = points.farthest(centers, 3)
                said.append((far.distance.tolist(), far.x.tolist(), far.label.tolist()))
            elif step and asked in ("seed", "all"):
                seeding = points.seeding()
                seeding.propose(x[:1].astype(np.float64))
                said.append(seeding.accept(0) if asked == "seed" else seeding.accept(0) + seeding.accept_all(centers))
                seeding.end()
        assert not said or said[0] == said[1], (step, asked)
        committed += in_flight and asked == "means" and found._by.speculation.mispredictions == 0
    assert committed > 0


_SHARES = [0.65, 0.05, 0.04, 0.04, 0.04, 0.04, 0.08, 0.04, 0.02]


def test_other_centers_are_not_taken_for_those_that_were_predicted(fast):
    """Of a center that is one bit off the mean, for which a row half way between two changes sides."""
    x = np.array([-4, -4, -4, 0, 3, 100, 101, 102, 120.0])[:, None]
    (numpy, scales), (found, _) = both(fast, x)
    centers = there = np.array([[-3], [3], [100], [101.9]])  # the means of the first two; rows move between the others
    for _ in range(2):
        assert found.assign(there) == numpy.assign(centers)
        centers, there = following(numpy, scales, centers), following(found, scales, there)
    assert np.asarray(there).ravel().tolist() == centers.ravel().tolist() == [-3, 3, 101, 120]
    assert found._by._ahead.centers is there
    centers[0] = np.nextafter(-3, -4)
    assert found.assign(centers) == numpy.assign(centers) == 1
    assert found.labels().tolist() == numpy.labels().tolist() == [0, 0, 0, 1, 1, 2, 2, 2, 3]


@pytest.mark.parametrize(("dtype", "d"), [("uint8", 3), ("float32", 3), ("float64", 20)])
def test_a_fit_sends_no_centers_and_waits_for_nothing_else(on, fast, monkeypatch, dtype, d):
    """But for the first assignment, and for that by the centers as they are published."""
    x = (blobs(700, d, 8, spread=6) * 5 + 100).clip(0, 255).astype(dtype)
    parameters = {"init": x[:8].astype(float), "tol": 0, "max_iter": 12, "device": "cpu"}
    expected = KMeans(8, **parameters).fit(x)
    assert expected.n_iter_ > 8
    on(fast)
    crossings = []
    for owner, name in ((gpu.Gpu, "write"), (transfer.PendingAnswer, "wait")):
        crossing = getattr(owner, name)
        monkeypatch.setattr(owner, name, lambda *args, name=name, to=crossing: crossings.append(name) or to(*args))
    found = KMeans(8, **parameters).fit(x)
    assert found.cluster_centers_.tobytes() == expected.cluster_centers_.tobytes()
    assert found.labels_.tobytes() == expected.labels_.tobytes()
    assert found.n_iter_ == expected.n_iter_
    assert crossings.count("write") == 2
    assert crossings.count("wait") >= expected.n_iter_ - 2
    assert fast.launches["refine"] <= expected.n_iter_ + 5


def test_whoever_looks_at_each_iteration_pays_for_two_mispredictions(on, fast):
    x = blobs(300, 3, 6)
    seen = []
    on(fast)
    model = KMeans(6, init=x[:6], tol=0, device="cpu", callback=lambda record: seen.append(record.inertia))
    model.fit(x)
    assert model.n_iter_ > 8
    # Each misprediction costs itself, and the labels of before once more.
    assert fast.launches["refine"] <= model.n_iter_ + 2 * 2 + 2
    assert seen[-1] == pytest.approx(model.inertia_, rel=1e-6)


def test_no_assignment_begins_early_for_empty_clusters_for_large_data_or_for_batches(on, fast, monkeypatch):
    x = blobs(300, 3, 4)
    init = np.concatenate([x[:3], np.full((2, 3), 1e3)])
    on(fast)
    KMeans(5, init=init, max_iter=1, device="cpu").fit(x)
    assert fast.launches["refine"] == 2
    monkeypatch.setattr(speculation_state, "PAIR", 1.0)
    fast.launches.clear()
    model = KMeans(5, init=x[:5], tol=0, max_iter=5, device="cpu").fit(x)
    assert fast.launches["refine"] == model.n_iter_ + 1
    monkeypatch.setattr(speculation_state, "PAIR", 0.0)
    fast.launches.clear()
    on(fast, 150)
    model = KMeans(5, init=x[:5], tol=0, max_iter=5, device="cpu").fit(x)
    assert fast.launches["refine"] == 2 * (model.n_iter_ + 1)


def speculating(cp):
    x = blobs(200, 3, 6)
    points = CudaPoints(cp, Samples(x))
    scales = lloyd.prepare(points, *points.feature_range())
    centers = x[:6]
    for _ in range(3):
        points.assign(centers)
        centers = following(points, scales, centers)
    assert points._by.speculation.state is SpeculationState.IN_FLIGHT
    return points, centers


def test_pinned_memory_is_kept_while_an_answer_is_on_its_way(fast, monkeypatch):
    points, _ = speculating(fast)
    answers, waited = len(points._by.speculation._buffers), []
    gc.collect()  # what tests before have left waits as well
    monkeypatch.setattr(Stream, "synchronize", lambda self: waited.append(self.number))
    del points
    gc.collect()
    assert waited == [0] * answers == [0, 0]


def test_an_error_of_a_speculative_assignment_names_its_kernels(fast, monkeypatch):
    points, centers = speculating(fast)

    def fail(self):
        raise CUDARuntimeError("cudaErrorIllegalAddress: an illegal memory access")

    with monkeypatch.context() as patched:
        patched.setattr(Event, "synchronize", fail)
        with pytest.raises(
            DeviceError, match=r"answered: assign_low_dim, refine, center_forms, movement\. .*IllegalAddress"
        ):
            points.assign(centers)


@pytest.mark.parametrize(("name", "k", "fewest"), [("run", 8, 24), ("run", 30, 24), ("get", 8, 3)])
def test_memory_may_run_out_at_any_launch_or_answer(fast, monkeypatch, name, k, fewest):
    """Of what was asked for, it may be asked again; of speculation nobody is told. Neither loses a change of labels."""
    method = getattr(gpu.Gpu, name)
    x = blobs(150, 3, 8)
    for at in count():
        (numpy, scales), (found, _) = both(fast, x)
        centers = there = x[:k]
        left = [at]

        def failing(*args, left=left, **how):
            left[0] -= 1
            if left[0] == -1:
                raise MemoryError("full")
            return method(*args, **how)

        monkeypatch.setattr(gpu.Gpu, name, failing)
        for step in range(6):
            assert twice(found.assign, there) == numpy.assign(centers), (at, step)
            if step == 4:
                assert twice(found.sums).tolist() == numpy.sums().tolist()
            centers, there = following(numpy, scales, centers), twice(following, found, scales, there)
        assert twice(np.asarray, there).tolist() == centers.tolist()
        assert twice(found.labels).tolist() == numpy.labels().tolist(), at
        monkeypatch.setattr(gpu.Gpu, name, method)
        if left[0] >= 0:
            break
    assert at >= fewest


def test_states_are_those_of_the_table(fast):
    device = gpu.Gpu(fast, ())
    speculation, answers = Speculation(device, 2, allowed=True), device.put(np.arange(2, dtype=np.uint64))

    def speculate():
        buffer = speculation.buffer()
        speculation.begin()
        assert speculation.state is SpeculationState.STALE
        speculation.send_for(buffer, answers)
        assert speculation.state is SpeculationState.IN_FLIGHT
        return buffer

    assert speculation.state is SpeculationState.IDLE
    assert speculation.answer() is None
    speculation.begin()
    speculation.commit()
    assert speculation.state is SpeculationState.IDLE
    speculate()
    assert speculation.answer().tolist() == [0, 1]
    speculation.rolled_back()
    assert (speculation.state, speculation.mispredictions) == (SpeculationState.IDLE, 1)
    first = speculate()
    assert speculation.commit() is first
    assert (speculation.state, speculation.mispredictions) == (SpeculationState.IDLE, 0)
    assert speculate() is not first, "whose answer may not have been read"
    speculation.rolled_back()
    speculate()
    speculation.rolled_back()
    assert not speculation.worthwhile
    speculation.restart()
    assert speculation.worthwhile
    speculation.begin()  # and fails
    speculation.rolled_back()
    assert (speculation.state, speculation.mispredictions) == (SpeculationState.IDLE, 0)


def twice(method, *args):
    try:
        return method(*args)
    except MemoryError:
        return method(*args)


@pytest.mark.parametrize("what", ["Event", "alloc_pinned_memory"])
def test_a_fit_without_memory_for_speculation(on, fast, monkeypatch, what):
    x = blobs(300, 3, 8)
    parameters = {"init": x[:8], "tol": 0, "device": "cpu"}
    expected = KMeans(8, **parameters).fit(x)
    on(fast)
    make, at = getattr(fast.cuda, what), 0
    for at in count():
        left = [at]

        def failing(*args, left=left):
            left[0] -= 1
            if left[0] == -1:
                raise CUDARuntimeError("cudaErrorMemoryAllocation: out of memory")
            return make(*args)

        monkeypatch.setattr(fast.cuda, what, failing)
        found = KMeans(8, **parameters).fit(x)
        assert found.cluster_centers_.tobytes() == expected.cluster_centers_.tobytes()
        assert (found.n_iter_, found.inertia_) == (expected.n_iter_, expected.inertia_)
        if left[0] >= 0:
            break
    assert at > 1


@pytest.mark.parametrize("build", ["address", "race"])
@pytest.mark.parametrize(("d", "k"), [(3, 6), (20, 34)])
def test_no_race_and_nothing_out_of_bounds(monkeypatch, build, d, k):
    monkeypatch.setattr(assign, "FEWEST_CENTERS", 1)
    x = blobs(300, d, 6).astype(np.float32)
    (numpy, scales), (found, _) = both(HostCuda(build=build, seed=3), x)
    centers = there = x[:k].astype(np.float64)
    for _ in range(5):
        assert found.assign(there) == numpy.assign(centers)
        centers, there = following(numpy, scales, centers), following(found, scales, there)
    assert found.labels().tolist() == numpy.labels().tolist()
