"""Rows that the CUDA points leave out of an assignment would have kept their label; on a CPU, see test_kernels.py."""

from __future__ import annotations

from fractions import Fraction

import numpy as np
import pytest
from host_cuda.runtime import HostCuda

from gpukmeans import lloyd
from gpukmeans.engine.cuda import device as gpu
from gpukmeans.engine.cuda import tentative_labels as assign
from gpukmeans.engine.cuda.assignment_kernels import Framed, RowBounds, RowList, hamerly
from gpukmeans.engine.cuda.points import CudaPoints
from gpukmeans.engine.numpy.points import NumPyPoints
from gpukmeans.engine.numpy.tuning import tuned
from gpukmeans.engine.protocol import Samples

pytestmark = pytest.mark.kernels


@pytest.fixture(autouse=True)
def always(monkeypatch):
    """Bounds however few centers there are."""
    monkeypatch.setattr(assign, "FEWEST_CENTERS", 1)


@pytest.fixture(scope="module")
def address():
    return HostCuda(build="address", seed=1)


def ready(points):
    return points, lloyd.prepare(points, *points.feature_range())


def both(cp, x):
    """The kernels' Points, and NumPy's without any tricks."""
    with tuned(merge=False, arrange=False, scores=False, bounds=False, threads=1):
        return ready(CudaPoints(cp, Samples(x)))[0], ready(NumPyPoints(Samples(x)))


def agree(found, expected):
    assert found.labels().tolist() == expected.labels().tolist()
    assert found.sums().tolist() == expected.sums().tolist()


def blobs(n, d, k, seed=0, spread=0.3):
    rng = np.random.default_rng(seed)
    return rng.normal(0, 5, (k, d))[rng.integers(0, k, n)] + rng.normal(0, spread, (n, d))


@pytest.mark.parametrize("dtype", ["uint8", "float16", "float32", "float64"])
@pytest.mark.parametrize(("d", "k"), [(1, 8), (3, 8), (16, 8), (17, 8), (40, 36)])
def test_iterations(address, dtype, d, k):
    x = (blobs(400, d, 8) * 8 + 100).clip(0, 255).astype(dtype)
    found, (expected, scales) = both(address, x)
    centers = x[:k].astype(np.float64)
    for _ in range(6):
        found.assign(centers)
        expected.assign(centers)
        agree(found, expected)
        centers, _ = lloyd.update(expected, scales, centers)


@pytest.mark.parametrize(("d", "clusters", "capability"), [(3, 6, "90"), (24, 40, "90"), (24, 40, "86")])
def test_rows_that_stay_are_left_out(d, clusters, capability):
    address = HostCuda(build="fast", seed=1, capability=capability)
    x = blobs(900, d, clusters, spread=0.05)
    found, (expected, scales) = both(address, x)
    centers = x[:40]
    shares = []
    for _ in range(12):
        before = found.compared
        found.assign(centers)
        expected.assign(centers)
        agree(found, expected)
        shares.append((found.compared - before) / len(x))
        centers, _ = lloyd.update(expected, scales, centers)
    assert shares[0] == 1
    assert shares[-1] < 0.5, shares
    before = found.compared
    found.assign(centers)
    found.assign(centers)
    assert found.compared - before < 0.5 * len(x), "where nothing moved"


def test_bounds_are_not_read_while_they_leave_few_rows_out():
    """Of noise every third time; and once rows stay, each time."""
    cp = HostCuda(build="fast", seed=1, capability="86")
    x = np.random.default_rng(0).normal(size=(600, 40))
    found, (expected, _) = both(cp, x)
    centers = x[:40]
    for _ in range(9):
        found.assign(centers)
        expected.assign(centers)
        agree(found, expected)
        centers = centers + np.random.default_rng(1).normal(0, 0.3, centers.shape)
    assert cp.launches["hamerly"] == 3, "the second, fourth and seventh"
    assert found.compared > 8.5 * len(x)
    for _ in range(4):
        found.assign(centers)
    before = found.compared
    for _ in range(3):
        found.assign(centers)
    assert cp.launches["hamerly"] == 3 + 1 + 4
    assert found.compared - before < len(x)


def ties():
    grid = np.stack(np.meshgrid(*[np.arange(8.0)] * 2), axis=-1).reshape(-1, 2)
    return np.repeat(grid, 3, axis=0)


HARD = {
    "ties": ties(),
    "far off": blobs(200, 3, 5) + 1e8,
    "ranges": blobs(150, 9, 5) * 10.0 ** np.linspace(-30, 30, 9),
    "subnormals": np.rint(blobs(150, 3, 5)) * 1e-310,
    "huge": blobs(150, 4, 5) * 2.0**300,
    "half precision": blobs(200, 2, 4).astype(np.float16),
    "bytes": (blobs(300, 3, 5) * 8 + 100).clip(0, 255).astype(np.uint8),
    "many features": blobs(200, 35, 5) + 1e4,
    "many bytes": (blobs(300, 17, 5) * 8 + 100).clip(0, 255).astype(np.uint8),
}


@pytest.mark.parametrize("name", HARD)
def test_any_walk_of_the_centers(address, name):
    """Steps of all sizes, down to the last bit and to none, of all centers or one, and leaps."""
    x = HARD[name]
    rng = np.random.default_rng(3)
    found, (expected, _) = both(address, x)
    size = np.ptp(x.astype(np.float64), axis=0)
    centers = x[rng.integers(0, len(x), 7)].astype(np.float64)
    for turn in range(24):
        found.assign(centers)
        expected.assign(centers)
        agree(found, expected)
        step = rng.normal(0, 10.0 ** -rng.integers(1, 17), centers.shape) * size
        if turn % 3 == 0:
            step[rng.integers(0, 7)] = 0
        elif turn % 3 == 1:
            step[1:] = 0
        if turn % 8 == 7:
            step *= 0
        centers = centers + step
        if turn % 10 == 9:
            centers = x[rng.integers(0, len(x), 7)].astype(np.float64)


def test_rows_just_past_the_middle_change_sides(address):
    """Two centers approach a row from both sides by steps that the bounds all but allow."""
    x = np.linspace(-1, 1, 201)[:, None]
    found, (expected, _) = both(address, x)
    for step in np.linspace(0, 0.2, 60):
        centers = np.array([[-0.5 + step], [0.5 + step * 0.999], [9.0]])
        found.assign(centers)
        expected.assign(centers)
        agree(found, expected)


def test_long_shifts_are_begun_anew(address, monkeypatch):
    monkeypatch.setattr(assign, "LONGEST_SHIFT", 0.05)
    x = blobs(300, 2, 5)
    found, (expected, scales) = both(address, x)
    centers = x[:5]
    for _ in range(8):
        found.assign(centers)
        expected.assign(centers)
        agree(found, expected)
        centers, _ = lloyd.update(expected, scales, centers)
    assert found.compared > 2 * len(x)


def test_bounds_end_where_their_memory_serves_others(address):
    """Searching far rows, and seeding anew: what stands there then would let rows keep labels that change."""
    x = blobs(300, 2, 5)
    found, (expected, _) = both(address, x)
    for points in (found, expected):
        points.assign(x[:5])
        points.assign(x[:5])
        points.farthest(x[:5], 3)
        points.assign(x[50:55])
    agree(found, expected)
    for points in (found, expected):
        points.assign(x[50:55])
        seeding = points.seeding()
        seeding.propose(x[:1])
        seeding.accept(0)
        seeding.end()
        points.assign(x[100:105])
    agree(found, expected)


def test_other_numbers_of_centers(address):
    x = blobs(200, 3, 5)
    found, (expected, _) = both(address, x)
    for k in (5, 30, 30, 4, 4):
        for points in (found, expected):
            points.assign(x[:k])
        agree(found, expected)


@pytest.mark.parametrize(("n", "d", "k"), [(2500, 3, 6), (700, 18, 6), (600, 18, 34)])
@pytest.mark.parametrize("seed", [2, 3])
def test_no_race_and_no_order_of_threads(monkeypatch, seed, n, d, k):
    monkeypatch.setattr(gpu, "RESIDENT", 1)
    x = blobs(n, d, 6).astype(np.float32)
    found, (expected, scales) = both(HostCuda(build="race" if seed == 2 else "address", seed=seed), x)
    centers = x[:k].astype(np.float64)
    for _ in range(4):
        found.assign(centers)
        expected.assign(centers)
        agree(found, expected)
        centers, _ = lloyd.update(expected, scales, centers)


@pytest.mark.parametrize(("d", "capability"), [(3, "90"), (20, "86"), (20, "90")])
def test_what_is_kept_of_rows_bounds_their_distances_in_rationals(d, capability):
    """When they are compared with all centers, tensor cores or not, and when the distance to their own is measured. In
    a corner of the frame, where scores err by more than distances of that length do, and more than those to a center
    in its middle."""
    rng = np.random.default_rng(0)
    x, centers = rng.uniform(0.9, 1, (600, d)), rng.uniform(0.9, 1, (34, d))
    x[300:] *= -1  # so that the offset stays between them
    centers[0] = 0
    points, _ = both(HostCuda(build="fast", seed=1, capability=capability), x)
    moved = centers + rng.normal(size=centers.shape) * 2.0**-12
    scale = Fraction(points._frame.scale)

    def squares(i, centers):
        """To the row's own center, and the least to another."""
        steps = [[Fraction(v) - Fraction(c) for v, c in zip(x[i], center, strict=True)] for center in centers]
        found = [sum(step * step for step in row) * scale**2 for row in steps]
        return found.pop(labels[i]), min(found)

    points.assign(centers)
    labels, kept = points.labels(), points._spare.get().view(np.float32).reshape(2, -1)
    for i in np.flatnonzero(kept[0] > -1e37)[:25]:
        slack, lower_bound = (Fraction(float(value)) for value in kept[:, i])
        own, others = squares(i, centers)
        assert 0 <= lower_bound**2 <= others
        assert (lower_bound - slack) ** 2 >= own
    points.assign(moved)
    shift = points._by.tentative._center_shift.get().reshape(4, -1)
    now = points._spare.get().view(np.float32).reshape(2, -1)
    measured = np.flatnonzero((now[0] != kept[0]) & (now[1] == kept[1]))
    assert len(measured) > 10
    for i in measured[:50]:
        slack, lower_bound = (Fraction(float(value)) for value in now[:, i])
        _, down, others_up, _ = (Fraction(float(value)) for value in shift[:, labels[i]])
        assert (lower_bound - others_up - (slack - down)) ** 2 >= squares(i, moved)[0]


def test_bounds_are_rounded_so_that_they_stay_bounds(address):
    """Distances here are exact in float32, and margins none: all that is left is how sums are rounded."""
    rng, n, k = np.random.default_rng(0), 2000, 100
    x = np.ldexp(rng.integers(1, 2**12, n).astype(np.float32), -rng.integers(12, 27, n)).astype(np.float32)
    slack, lower_bound = np.full(n, -1, np.float32), rng.uniform(0, 2, n).astype(np.float32)
    labels, shift = rng.integers(0, k, n).astype(np.int32), rng.uniform(0, 0.1, (4, k)).astype(np.float32)
    device = gpu.Gpu(address, ("-DX_KIND=2",))
    listed = RowList(device.empty(n, np.int32), device.zeros(1, np.uint64))
    bounds = RowBounds(device.put(slack), device.put(lower_bound), device.put(shift))
    hamerly(
        device,
        rows=Framed(device.put(x[:, None]), device.zeros(16, np.float32)),
        scale=1.0,
        framed=device.zeros((k, 1), np.float32),
        labels=device.put(labels),
        bounds=bounds,
        relative=np.float64(1),
        own_errors=device.zeros((2, k), np.float32),
        listed=listed,
    )
    kept = np.ones(n, bool)
    kept[device.get(listed.rows)[: int(device.get(listed.length)[0])]] = False
    _, own, others, _ = shift.astype(float)[:, labels[kept]]  # float64 holds all sums
    left = lower_bound[kept] - others - x[kept]
    assert kept.sum() > n / 2
    assert (left > 0).all()
    found = device.get(bounds.slack)[kept]
    assert (found <= left + own).all()
    assert (found > left + own - 2.0**-21).all()


def test_a_measured_distance_errs_by_its_own_center(address):
    """All rows are half as far as others are at least; to every second center that is not certain."""
    n, k = 700, 10
    labels, errors = np.arange(n, dtype=np.int32) % k, np.zeros((2, k), np.float32)
    errors[1, ::2] = 0.75
    device = gpu.Gpu(address, ("-DX_KIND=2",))
    listed = RowList(device.empty(n, np.int32), device.zeros(1, np.uint64))
    slack, lower_bound, shift = np.full(n, -1, np.float32), np.ones(n, np.float32), np.zeros((4, k), np.float32)
    hamerly(
        device,
        rows=Framed(device.put(np.full((n, 1), 0.5, np.float32)), device.zeros(16, np.float32)),
        scale=1.0,
        framed=device.zeros((k, 1), np.float32),
        labels=device.put(labels),
        bounds=RowBounds(device.put(slack), device.put(lower_bound), device.put(shift)),
        relative=np.float64(1),
        own_errors=device.put(errors),
        listed=listed,
    )
    found = device.get(listed.rows)[: int(device.get(listed.length)[0])]
    assert sorted(found.tolist()) == np.flatnonzero(labels % 2 == 0).tolist()


def test_of_more_rows_than_a_list_can_name_all_are_compared(address, monkeypatch):
    x = blobs(300, 2, 5)
    compared = []
    for most in (len(x), len(x) - 1):
        monkeypatch.setattr(assign, "MOST_LISTED", most)
        points, _ = both(address, x)
        for _ in range(3):
            points.assign(x[:5])
        compared.append(points.compared)
    assert compared[0] < 2 * len(x)
    assert compared[1] == 3 * len(x)


def test_movement_adds_up_from_above(address, monkeypatch):
    x = np.array([[-1.0, -1.0], [1.0, 1.0], [0.0, 0.5]])  # the frame's unit is one, its middle zero
    points, _ = both(address, x)
    old = np.zeros((3, 2))
    new = np.array([[0.3, 0.4], [0.0, 0.1], [0.0, 0.0]])
    for centers in (old, new, old):
        points.assign(centers)
    shift = points._by.tentative._center_shift.get().reshape(4, 3).astype(np.float64)
    both_up, both_down, others_up, others_down = shift
    for up, down, true in ((both_up, both_down, [1.2, 1.2, 1.0]), (others_up, others_down, [0.2, 1.0, 1.0])):
        assert (down < true).all()
        assert (up > true).all()
        np.testing.assert_allclose(up, down, rtol=1e-6)
    monkeypatch.setattr(assign, "LONGEST_SHIFT", 1.7)
    points.assign(new)
    shift = points._by.tentative._center_shift.get().reshape(4, 3)
    assert (shift[::2] > 1e37).all(), "too far for any row to be left out"
    assert not shift[1::2].any()
