"""Cells of a grid on whole numbers: exact in float32 up to the largest coordinates, on every device."""

from __future__ import annotations

import numpy as np
import pytest

from gpukmeans.image.grid import HALF, MASS_BITS, GridScale, spread_scale, surplus_bits
from gpukmeans.image.numpy import cells, integral_points
from gpukmeans.image.numpy.cells import NumPyCells
from gpukmeans.image.numpy.colors import NumPyColors
from gpukmeans.image.numpy.integral_points import NumPyIntegralPoints
from gpukmeans.image.palette.grids import Grids
from gpukmeans.image.palette.multilevel import refined
from gpukmeans.image.palette.relocate import relocated


def random_cells(rng, m, d):
    """With corners, where scores are largest, and repeated points, where D ties."""
    x = rng.integers(-HALF, HALF + 1, (m, d)).astype(float)
    x[::7] = np.where(x[::7] > 0, HALF, -HALF)
    mass = rng.integers(1, 2**20, m).astype(float)
    return NumPyCells(x, mass, [mass * column for column in x.T])


def squares(x, centers):
    """D, in integers."""
    return ((x[:, None].astype(np.int64) - centers.astype(np.int64)) ** 2).sum(axis=2)


@pytest.mark.parametrize("d", [1, 3, 4])
@pytest.mark.parametrize("k", [1, 2, 64, 65, 300])
def test_the_nearest_and_the_next_are_exact(d, k, monkeypatch):
    monkeypatch.setattr(cells, "_SCORES", 2**12)
    rng = np.random.default_rng(k)
    held = random_cells(rng, 500, d)
    centers = held.x[rng.integers(0, 500, k)]  # some more than once, at the corners and elsewhere
    distance = squares(held.x, centers)
    assert (held.nearest(centers) == distance.argmin(axis=1)).all()
    assert (held.squares_to(centers) == distance.T).all()
    if k > 1:
        labels, second_, excess = held.two_nearest(centers)
        ordered = np.argsort(distance, axis=1, kind="stable")
        assert (labels == ordered[:, 0]).all()
        assert (second_ == ordered[:, 1]).all()
        nearest, second = (np.take_along_axis(distance, ordered[:, i, None], axis=1)[:, 0] for i in (0, 1))
        assert (excess == second - nearest).all()


def test_threads_and_pieces_do_not_matter(monkeypatch):
    held = random_cells(np.random.default_rng(0), 1000, 3)
    expected = [held.nearest(held.x[:k]) for k in (20, 100)]
    monkeypatch.setattr(cells, "_SCORES", 2**8)
    monkeypatch.setattr(cells, "_THREADED", 1)
    for k, want in zip((20, 100), expected, strict=True):
        assert (held.nearest(held.x[:k]) == want).all()


def test_no_point_lies_outside_its_half_range():
    """Where the middle is rounded to one end, the other is twice as far from it."""
    points = np.array([[1.0], [1 + 2.0**-52]])
    scale = GridScale.of(points[0], points[1], 1.0)
    found = NumPyIntegralPoints(points, np.ones(2), scale).cells()
    assert (np.abs(found.x) <= scale.half_range).all()


@pytest.mark.parametrize("d", [1, 3, 4])
def test_grids_lose_nothing_but_places(d, monkeypatch):
    monkeypatch.setattr(integral_points, "_PIECE", 1000)
    rng = np.random.default_rng(0)
    points = np.unique(rng.normal(0, [1, 0.3, 2, 0.1][:d], (5000, d)).astype(np.float32), axis=0)
    weights = rng.integers(1, 100, len(points))
    low, high = (bound(points.astype(float), axis=0) for bound in (np.min, np.max))
    grids = Grids(points, weights, GridScale.of(low, high, 1.0), device="cpu")
    levels, every = grids.merged(1, np.inf), grids.all_points()
    assert every.grid == 0
    assert np.abs(grids.centers(every.x) - points).max() <= 0.5 / grids.scale.scale + 1e-6
    assert [level.grid for level in levels] == sorted({level.grid for level in levels})
    assert len(levels) > 2
    for level in levels:
        assert level.mass.sum() == weights.sum()
        for column, expected in zip(level.weighted, every.weighted, strict=True):
            assert column.sum() == expected.sum()
        assert (np.abs(np.array(level.weighted) / level.mass - level.columns) <= 0.5).all()
        assert len(np.unique(level.x, axis=0)) == len(level.x)
        assert 0 <= level.lost <= level.mass.sum() * d * (2 * HALF / level.grid) ** 2


def test_weights_that_are_not_whole_become_whole():
    def mass_of(weights):
        mass_scale = NumPyColors(np.zeros((len(weights), 3), np.uint8), weights).mass_scale
        return integral_points.mass_of(weights, mass_scale)

    assert mass_of(np.array([3, 1, 2**37, 5])).tolist() == [3, 1, 2**37, 5]
    assert mass_of(np.array([3.0, 1.0])).tolist() == [3, 1]
    for weights in (np.array([0.5, 1e-30, 2.0, 1.5]), np.array([2.0**60, 1.0, 2.0**50, 3.0])):
        mass = mass_of(weights)
        assert (mass == np.rint(mass)).all()
        assert mass.min() == 1
        assert 2**36 <= mass.sum() <= 2**38
        assert mass[2] / mass[0] == weights[2] / weights[0]


def test_masses_fit_however_many_weigh_next_to_nothing():
    """Each of these is a mass of one, beside others that reach a power of two by themselves."""
    weights = np.array([1.0] + [1e-30] * 1000)
    mass_scale = NumPyColors(np.zeros((len(weights), 3), np.uint8), weights).mass_scale
    assert integral_points.mass_of(weights, mass_scale).sum() <= 2**MASS_BITS


@pytest.mark.parametrize("total", [1.0, 3.0, 2.0**28, 2.0**28 + 1, 2.0**38])
def test_sums_of_squares_are_exact_in_any_order(total):
    assert total * 2.0 ** -surplus_bits(total) * 2**24 <= 2**52
    assert total * spread_scale(total) * 2**22 <= 2**52


def test_a_fit_ends_at_means_and_with_less_inertia():
    held = random_cells(np.random.default_rng(0), 2000, 3)
    start = held.kmeans_plusplus(np.random.default_rng(1).uniform(size=(12, 4)))
    assert len(np.unique(start, axis=0)) == 12
    first, last = refined(held, start, 0.0, 1), refined(held, start, 1e-3, 60)
    assert last.inertia < first.inertia
    for stage in (first, last):
        for label, center in enumerate(stage.centers):
            own = stage.labels == label
            assert (center == np.array([x[own].sum() for x in held.weighted]) / held.mass[own].sum()).all()
        off = held.x - stage.centers[stage.labels]
        assert stage.inertia == pytest.approx((held.mass[:, None] * off**2).sum(), rel=1e-9)


def test_a_cluster_without_cells_stays_where_it_is():
    held = random_cells(np.random.default_rng(0), 50, 3)
    start = np.concatenate([held.x[:2], held.x[:1]])
    stage = refined(held, start, 0.0, 5)
    assert (stage.centers[2] == start[2]).all() or (stage.labels == 2).any()
    assert (refined(held, start, 0.0, 1).centers[2] == start[2]).all()
    assert np.isfinite(stage.centers).all()


def test_long_steps_end_where_scores_are_exact():
    """Beyond the means, but within HALF of zero."""

    class Watched(NumPyCells):
        def assign(self, centers):
            farthest.append(np.abs(centers).max())
            return super().assign(centers)

    farthest, x, mass = [], np.array([[HALF, -HALF], [HALF - 1, -HALF]], float), np.ones(2)
    refined(Watched(x, mass, list(x.T)), np.zeros((1, 2)), 0.0, 5)
    assert farthest[1] == max(farthest) == HALF


@pytest.mark.parametrize(
    ("seed", "m", "k", "d", "side"),
    [
        (2, 20, 8, 1, 30),
        (414, 16, 6, 1, 200),
        (476, 20, 8, 2, 30),
        (573, 20, 8, 1, 30),
        (724, 14, 5, 2, 10),
        (9516, 12, 8, 1, 100),
    ],
)
def test_moving_centers_far_away_without_slack_saves(seed, m, k, d, side):
    """Whichever clusters are dissolved, and whoever takes their cells: each case needs a check that others do not."""
    rng = np.random.default_rng(seed)
    x = np.unique(rng.integers(-side, side + 1, (m, d)), axis=0).astype(float)
    mass = np.rint(2.0 ** rng.uniform(0, 10, len(x)))
    held = NumPyCells(x, mass, [mass * column for column in x.T])
    centers = x[rng.choice(len(x), k, replace=False)]

    def inertia(centers):
        return ((x[:, None] - centers) ** 2).sum(axis=2).min(axis=1) @ mass

    moved = relocated(held, centers, 1.0)
    assert moved is None or inertia(moved) < inertia(centers)
