"""Seeding by the CUDA kernels, on a CPU: k-means++ as the device decides it, held to NumPy's; see test_kernels.py."""

from __future__ import annotations

import numpy as np
import pytest
from host_cuda.runtime import HostCuda
from test_kernels import DTYPES, WEIGHTS, values

from gpukmeans import lloyd
from gpukmeans.engine.cuda import device as gpu
from gpukmeans.engine.cuda import seeding_bytes, seeding_kernels
from gpukmeans.engine.cuda.points import CudaPoints
from gpukmeans.engine.numpy.points import NumPyPoints
from gpukmeans.engine.protocol import Samples
from gpukmeans.exact.fixed_point import Weights
from gpukmeans.seeding import kmeans_plusplus

pytestmark = pytest.mark.kernels


@pytest.fixture(scope="module")
def address():
    return HostCuda(build="address", seed=1)


@pytest.fixture(scope="module")
def race():
    return HostCuda(build="race", seed=2)


@pytest.mark.parametrize("weighing", WEIGHTS)
def test_every_step_of_seeding_is_numpys(address, weighing):
    """More rows than a run has, so that ranks are looked up in runs first."""
    x = values("float32", 2500, 2)
    weights = WEIGHTS[weighing](np.random.default_rng(2), len(x))
    summary, used = (None, None) if weights is None else Weights.of(np.maximum(weights, 0.25).astype(np.float64))
    found = []
    for points in (NumPyPoints(Samples(x, used, summary)), CudaPoints(address, Samples(x, used, summary))):
        lloyd.prepare(points, *points.feature_range())
        seeding = points.seeding()
        said = [seeding.total(None)]
        said.append(seeding.find([0, said[0] // 2, said[0] - 1]).tolist())
        seeding = points.seeding()
        for center in (x[:1], x[7:9], x[100:103]):
            seeding.propose(center.astype(np.float64))
            if len(said) > 2:
                said.append(seeding.potentials(20, exact=True))
            said.append(seeding.accept(len(center) - 1))
            said.append(seeding.total(20))
            said.append(seeding.find([0, said[-1] // 3, said[-1] - 1]).tolist())
        for m in (4, 9, 16, 17, 33):  # more than a lane, a part of a warp, a warp take at once
            total = seeding.total(20)
            candidates = seeding.find([total * i // m for i in range(m)])
            seeding.propose(candidates)
            said += [candidates.tolist(), seeding.potentials(20, exact=True), seeding.accept(m // 2)]
        many = x[200:230].astype(np.float64)
        said += [points.assign(many) > 0, seeding.accept_all(many), seeding.total(20)]
        said.append(seeding.find([0, said[-1] // 3, said[-1] - 1]).tolist())
        said.append(kmeans_plusplus(points, 9, np.random.RandomState(3)).tolist())
        found.append(said)
    assert found[1] == found[0]


def steps_of(monkeypatch, points, k, draws):
    """k-means++ on the points, prepared: the total mass of each step, the largest D after each, and the centers."""
    masses, left = [], []

    def noted(method):
        def call(*args):
            answer = method(*args)
            if method.__name__ == "accept_drawn":
                masses.extend(answer[1].tolist())
                left.extend(answer[2].tolist())
            elif method.__name__ == "accept":
                left.append(answer)
            elif args[0] is not None:
                masses.append(answer)
            return answer

        return call

    lloyd.prepare(points, *points.feature_range())
    if isinstance(points, CudaPoints):
        monkeypatch.setattr(points._seeds, "accept_drawn", noted(points._seeds.accept_drawn))
    else:
        seeding = points.seeding()
        seeding.total, seeding.accept = noted(seeding.total), noted(seeding.accept)
        monkeypatch.setattr(points, "seeding", lambda: seeding)
    centers = kmeans_plusplus(points, k, draws)
    return masses, left, centers.tolist()


class Drawn:
    """In a generator's place: the first row with a mass is drawn first, and then by these."""

    def __init__(self, *draws):
        self.draws = draws

    def random_sample(self, shape=None):
        return 0.0 if shape is None else np.repeat(self.draws, shape[1]).reshape(shape)


@pytest.mark.parametrize(("d", "sides", "scale"), [(1, 300, 1), (3, 9, 2.0**470), (18, 2, 1), (3, 9, 2.0**-498)])
def test_seeding_leaves_out_no_row_that_a_candidate_takes(address, monkeypatch, d, sides, scale):
    """On a lattice, where rows lie just at the limits and a little beside them; also where masses are of few bits."""
    monkeypatch.setattr(seeding_kernels, "RUN", 32)
    # Several blocks of 32 threads, each in several turns, find limits.
    monkeypatch.setattr(seeding_kernels, "OWNERS", 128)
    rng = np.random.default_rng(d)
    x = rng.integers(0, sides, (700, d)) + rng.integers(-1, 2, (700, d)) * 2.0 ** -rng.integers(22, 45, (700, d))
    x *= scale
    for k in (3, 12, 60, 300):  # 3 to 7 candidates at a time
        expected, found = (
            steps_of(monkeypatch, points, k, np.random.RandomState(k))
            for points in (NumPyPoints(Samples(x)), CudaPoints(address, Samples(x)))
        )
        assert len(found[0]) == k - 1
        assert len(found[1]) == k
        assert found == expected, k


def test_limits_of_seeding_bear_rounding(address, monkeypatch):
    """Rows so near the middle of a center and a candidate that the D to either are in the wrong order, or below a
    quarter of that between the two."""
    rng = np.random.default_rng(0)
    for _ in range(8):
        center, candidate = rng.random((2, 18))
        x = np.repeat([center, *[(center + candidate) / 2] * 60, candidate], [1] * 62, axis=0)
        for i in range(1, 61):
            for j in rng.integers(0, 18, 2):
                x[i, j] = np.nextafter(x[i, j], candidate[j])
        draws = Drawn(1 - 2.0**-53, 0.5)
        expected, found = (
            steps_of(monkeypatch, points, 3, draws)
            for points in (NumPyPoints(Samples(x)), CudaPoints(address, Samples(x)))
        )
        assert found[2][1] == candidate.tolist()
        assert found == expected


@pytest.mark.parametrize("d", [3, 20])
def test_seeding_reads_only_rows_that_a_candidate_may_take(address, monkeypatch, d):
    """Three of four blobs, all but their centers, become the candidate itself, and nobody sees it."""
    blob = np.repeat(np.arange(4), 100)
    x = np.random.default_rng(0).normal(0, 1, (400, d)).astype(np.float32)
    x[:, 0] += 100 * blob
    own = address.asarray(x)
    draws = Drawn(0.9, 0.5, 0.5, 0.0)  # each blob has a center then; the last are in the first blob
    expected = steps_of(monkeypatch, NumPyPoints(Samples(x)), 5, draws)
    others = [row for row in np.flatnonzero(blob > 0) if x[row].astype(float).tolist() not in expected[2]]
    assert len(others) == 297
    run, drawn = gpu.Gpu.run, []

    def change(self, family, name, *args, **how):
        run(self, family, name, *args, **how)
        drawn.append(name)
        if name == "find" and drawn.count("find") == 5:  # one of them for the first center
            for row in others:
                own[row : row + 1].set(np.array(expected[2][4:], np.float32))

    monkeypatch.setattr(gpu.Gpu, "run", change)
    points = CudaPoints(address, Samples(own))
    assert steps_of(monkeypatch, points, 5, draws) == expected
    assert drawn.count("accept_least") == 4


@pytest.mark.parametrize("weighing", WEIGHTS)
def test_where_no_mass_is_left_the_host_goes_on(address, monkeypatch, weighing):
    """Six locations, and ten centers: the last four repeat points, drawn by weight."""
    x = values("float32", 6, 2)[np.arange(200) % 6]
    weights = WEIGHTS[weighing](np.random.default_rng(2), len(x))
    summary, used = (None, None) if weights is None else Weights.of(weights + 1.0)
    expected, found = (
        steps_of(monkeypatch, points, 10, np.random.RandomState(1))
        for points in (NumPyPoints(Samples(x, used, summary)), CudaPoints(address, Samples(x, used, summary)))
    )
    assert found[2] == expected[2]
    assert found[0][:6] == [*expected[0][:5], 0]
    assert found[1][:6] == expected[1][:6]


@pytest.mark.parametrize(("near", "far", "weight"), [(2.0**60, 2.0**60, 2.0**-74), (2.0**40, 2.0**103, 2.0**-190)])
def test_a_row_whose_mass_is_nothing_is_left(address, monkeypatch, near, far, weight):
    """It weighs less than 2**-62 of all, and is off its center when eight are asked for. The steps end with a total of
    zero, though its D is larger than one, or than any integer."""
    x = values("float64", 6, 2)[np.arange(60) % 5] * near
    x[59] = values("float64", 6, 2)[5] * far
    summary, used = Weights.of(np.where(np.arange(60) < 59, 1.0, weight))
    expected, found = (
        steps_of(monkeypatch, points, 8, np.random.RandomState(1))
        for points in (NumPyPoints(Samples(x, used, summary)), CudaPoints(address, Samples(x, used, summary)))
    )
    assert found[2] == expected[2]
    made = found[0].index(0)
    assert found[0][:made] == expected[0][:made]
    assert found[1][made] == expected[1][made] > 1


@pytest.mark.parametrize("another", [False, True])
def test_the_device_goes_on_from_a_center_that_it_found(address, another):
    """Of which it knows the row, from which others are measured: not where another was looked up in between."""
    x = values("float64", 60, 3)
    points = CudaPoints(address, Samples(x))
    lloyd.prepare(points, *points.feature_range())
    seeding = points.seeding()
    seeding.total(None)
    center = seeding.find([7])
    if another:
        seeding.find([30])
    seeding.propose(center)
    farthest = seeding.accept(0)
    added, _ = seeding.accept_drawn(np.full((4, 3), 0.5), farthest)
    assert len(added) == (0 if another else 4)


@pytest.mark.parametrize("weighing", ["none", "copies"])
def test_seeding_waits_for_no_center(address, monkeypatch, weighing):
    x = values("float32", 2000, 3)
    weights = WEIGHTS[weighing](np.random.default_rng(2), len(x))
    summary, used = (None, None) if weights is None else Weights.of(weights + 1.0)
    points = CudaPoints(address, Samples(x, used, summary))
    lloyd.prepare(points, *points.feature_range())
    waits, get = [], gpu.Gpu.get
    monkeypatch.setattr(gpu.Gpu, "get", lambda self, array: waits.append(array) or get(self, array))
    kmeans_plusplus(points, 40, np.random.RandomState(0))
    assert len(waits) == 5  # the weight, the first center, the D it leaves; then all others, and the masses


# ---------------------------------------------------------------- pairs that float32 leaves out


@pytest.mark.parametrize(
    ("build", "dtype", "d", "k"),
    [
        *(("address", dtype, d, 60) for dtype in DTYPES for d in (3, 21)),
        *(("address", "float32", d, 5) for d in (1, 8, 9, 64)),
        ("address", "float32", 20, 300),
        *(("race", dtype, 20, 60) for dtype in ("float32", "float64")),
    ],
)
def test_centers_of_all_kinds_of_rows_are_numpys(address, race, build, dtype, d, k):
    """By a lane for each row and by four, of features in fours and not, and 4, 8 and 12 candidates."""
    x = values(dtype, 400, d)
    held, there = NumPyPoints(Samples(x)), CudaPoints({"address": address, "race": race}[build], Samples(x))
    for points in (held, there):
        lloyd.prepare(points, *points.feature_range())
    expected, found = (kmeans_plusplus(points, k, np.random.RandomState(k)) for points in (held, there))
    assert found.tobytes() == expected.tobytes()


@pytest.mark.parametrize(
    ("dtype", "d", "m"),
    [*((dtype, 20, 8) for dtype in DTYPES), ("float32", 3, 16), ("float64", 20, 12), ("uint8", 3, 37)],
)
def test_float32_leaves_few_pairs_to_distances(address, dtype, d, m):
    """All in which the candidate is closer are in doubt, and hardly any other."""
    x = np.random.default_rng(0).normal(100, 30, (1000, d)).clip(0, 255).astype(dtype)
    rows = x.astype(np.float64)
    at = np.random.default_rng(1).integers(0, len(x), m)
    so_far = ((rows[:, None] - rows[:40]) ** 2).sum(2).min(1)
    candidates = ((rows[:, None] - rows[at]) ** 2).sum(2)
    closer, as_close = candidates < so_far[:, None], candidates <= so_far[:, None]
    points = CudaPoints(address, Samples(x))
    lloyd.prepare(points, *points.feature_range())
    seeds = points._seeds
    seeds.closest_dist_sq = address.asarray(so_far)
    seeds.propose(points._x, rows[at])
    doubts, launch = [], seeding_kernels.filtered_potentials

    def watched(*args, **how):
        launch(*args, **how)
        doubts.append(how["filtered"].doubts.get())

    seeding_kernels.filtered_potentials = watched
    try:
        seeds.potentials(points._x, 20)
    finally:
        seeding_kernels.filtered_potentials = launch
    bits, tied = np.zeros((2, len(x)), np.uint16)
    for candidate in range(m):
        bits |= closer[:, candidate].astype(np.uint16) << np.uint16(candidate % 16)
        tied |= as_close[:, candidate].astype(np.uint16) << np.uint16(candidate % 16)
    assert np.array_equal(bits & doubts[0], bits)
    assert np.count_nonzero(bits) > 100
    assert np.count_nonzero(doubts[0] & ~tied) <= (len(x) // 50 if dtype != "uint8" else np.count_nonzero(closer))


def test_candidates_beyond_float32_are_measured(address):
    """Those of other rows than these, which a device of several is asked for."""
    x = values("float64", 400, 5) * 1e-30
    centers = values("float64", 5, 5) * 1e60
    centers[1:] = centers[0] + (centers[1:] - centers[0]) * 0.5
    found = []
    for points in (NumPyPoints(Samples(x)), CudaPoints(address, Samples(x))):
        lloyd.prepare(points, *points.feature_range())
        seeding = points.seeding()
        seeding.total(None)
        seeding.propose(centers[:1])
        said = [seeding.accept(0)]
        seeding.propose(centers[1:])
        said.append(seeding.potentials(-400, exact=True))
        found.append(said)
    assert found[1] == found[0]
    assert len(set(found[0][1][0])) > 1


# ---------------------------------------------------------------- rows that bytes leave out


@pytest.fixture
def in_bytes(monkeypatch):
    """Wherever bytes can serve they do; returns what is launched."""
    monkeypatch.setattr(seeding_bytes, "SAVED", -(2**62))
    monkeypatch.setattr(seeding_bytes, "STEPS", 1)
    launched, run = [], gpu.Gpu.run

    def note(self, family, name, *args, **how):
        launched.append(name)
        run(self, family, name, *args, **how)

    monkeypatch.setattr(gpu.Gpu, "run", note)
    return launched


def both_ways(cp, x, k, trials=None, weights=None):
    """The centers by NumPy and by the kernels."""
    summary, used = (None, None) if weights is None else Weights.of(weights)
    for points in (NumPyPoints(Samples(x, used, summary)), CudaPoints(cp, Samples(x, used, summary))):
        lloyd.prepare(points, *points.feature_range())
        yield kmeans_plusplus(points, k, np.random.RandomState(k), trials).tolist()


@pytest.mark.parametrize(
    ("build", "dtype", "d", "trials"),
    [
        *(("address", dtype, d, None) for dtype in DTYPES for d in (3, 20, 130)),
        *(("address", "float32", d, trials) for d in (16, 64) for trials in (1, 8, 9, 16)),
        *(("race", dtype, d, trials) for dtype, d, trials in (("float32", 70, 12), ("float64", 20, None))),
    ],
)
def test_bytes_leave_centers_as_they_are(address, race, in_bytes, build, dtype, d, trials):
    """By lanes that read four, eight or sixteen features, all of a row at once or not, and of up to 16 candidates."""
    x = values(dtype, 400, d)
    expected, found = both_ways({"address": address, "race": race}[build], x, 40, trials)
    assert found == expected
    assert in_bytes.count("byte_rows") == 1
    assert in_bytes.count("byte_doubts") == in_bytes.count("filtered_potentials") == 39


@pytest.mark.parametrize("d", [2, 20])
def test_bytes_leave_out_no_row_that_a_candidate_takes(address, monkeypatch, in_bytes, d):
    """Where they lose as much as rows are apart, in a frame that is far too coarse, or too fine for most rows."""
    x = np.random.default_rng(d).normal(size=(700, d))
    for scale in (0.7, 1.3, 1e3):
        monkeypatch.setattr(seeding_bytes, "frame", lambda sample, low, high, scale=scale: (np.zeros(d), scale))
        expected, found = both_ways(address, x, 120)
        assert found == expected, scale
        assert "byte_doubts" in in_bytes


@pytest.mark.parametrize("scale", [1.0, 2.0**-340, 2.0**340])
def test_bytes_bear_what_is_far_from_most_and_what_is_alike(address, in_bytes, scale):
    rng = np.random.default_rng(0)
    x = rng.standard_t(2, (600, 24)) * scale
    x[::97] *= 1e6
    x[1::50] = x[0]
    expected, found = both_ways(address, x, 80)
    assert found == expected
    assert "byte_doubts" in in_bytes


def test_where_no_mass_is_left_there_are_no_candidates_in_bytes(address, in_bytes):
    """Six locations, and ten centers."""
    x = values("float32", 6, 20)[np.arange(300) % 6]
    expected, found = both_ways(address, x, 10, weights=np.arange(1.0, 301.0))
    assert found == expected
    assert "byte_doubts" in in_bytes


@pytest.mark.parametrize(("dtype", "d"), [*((dtype, 64) for dtype in DTYPES), ("float32", 12)])
def test_bytes_leave_few_rows_to_float32(address, monkeypatch, in_bytes, dtype, d):
    """All that a candidate is closer to are in doubt, and not many more."""
    x = np.random.default_rng(0).normal(100, 30, (1500, d)).clip(0, 255).astype(dtype)
    doubts, launch = [], seeding_kernels.byte_doubts

    def watched(*args, **how):
        so_far = how["closest_dist_sq"].get()
        launch(*args, **how)
        candidates = x[how["candidate_rows"].get()].astype(np.float64)
        closer = ((x[:, None].astype(np.float64) - candidates) ** 2).sum(2) < so_far[:, None]
        found = how["doubts"].get()[:, None] >> np.arange(len(candidates), dtype=np.uint16) & 1
        assert not np.any(closer & (found == 0))
        doubts.append((found.any(1).mean(), closer.any(1).mean()))

    monkeypatch.setattr(seeding_kernels, "byte_doubts", watched)
    points = CudaPoints(address, Samples(x))
    lloyd.prepare(points, *points.feature_range())
    kmeans_plusplus(points, 100, np.random.RandomState(0))
    found, closer = np.mean(doubts[20:], axis=0)
    assert 0.01 < closer <= found < 2.5 * closer


def test_without_memory_for_bytes_rows_are_read(address, monkeypatch, in_bytes):
    empty = gpu.Gpu.empty

    def full(self, shape, dtype):
        if dtype == np.uint32:
            raise MemoryError
        return empty(self, shape, dtype)

    monkeypatch.setattr(gpu.Gpu, "empty", full)
    expected, found = both_ways(address, values("float32", 300, 20), 20)
    assert found == expected
    assert "byte_doubts" not in in_bytes
    assert in_bytes.count("filtered_potentials") == 19


def test_bytes_are_made_where_they_save_more_than_they_cost():
    many, step = (10**6, 128, 4, 8), (10**6, 128, 4, 8, 1000)
    assert seeding_bytes.pays(*step)
    assert seeding_bytes.pays(10**6, 128, 2, 8, 1000)
    assert not seeding_bytes.pays(*many, steps=3)
    assert not seeding_bytes.pays(10**6, 128, 1, 8, 1000)  # bytes already
    assert not seeding_bytes.pays(10**4, 128, 4, 8, 1000)
    assert not seeding_bytes.pays(10**6, 128, 4, 17, 1000)
    assert not seeding_bytes.pays(10**6, 3000, 4, 8, 1000)
    assert not seeding_bytes.pays(10**8, 3, 4, 6, 63)


def test_the_frame_of_bytes_is_that_of_most_rows():
    rng = np.random.default_rng(0)
    sample = rng.normal(1000, 1, (64, 50))
    low, high = np.full(50, 1000 - 6.0), np.full(50, 1000 + 6.0)
    offset, scale = seeding_bytes.frame(sample, low, high)
    assert np.all(np.abs(offset - 1000) < 1)
    assert 127 / 6 < scale < 127 / 2
    sample[:3] *= 1e6
    offset, fine = seeding_bytes.frame(sample, low, high * 1e6)
    assert np.all(np.abs(offset - 1000) < 1)
    assert fine <= 127 / ((high * 1e6 - low).max() * 2.0**-16)
    assert seeding_bytes.frame(np.ones((64, 50)), np.ones(50), np.ones(50))[1] == 1
