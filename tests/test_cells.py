"""Cells of a grid on whole numbers: exact in float32 up to the largest coordinates, on every device."""

from __future__ import annotations

import sys

import numpy as np
import pytest
from host_cuda.machine import as_cupy
from host_cuda.runtime import HostCuda

from gpukmeans.image import cells
from gpukmeans.image.cells import HALF, Cells, Grids
from gpukmeans.image.coarse import refined, seeded


def random_cells(rng, m, d, device="cpu"):
    """With corners, where scores are largest, and repeated points, where D ties."""
    x = rng.integers(-HALF, HALF + 1, (m, d)).astype(float)
    x[::7] = np.where(x[::7] > 0, HALF, -HALF)
    mass = rng.integers(1, 2**20, m).astype(float)
    return Cells(x, mass, [mass * column for column in x.T], device=device)


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
        found = held.two_nearest(centers)
        ordered = np.argsort(distance, axis=1, kind="stable")
        assert (found.labels == ordered[:, 0]).all()
        assert (found.second == ordered[:, 1]).all()
        nearest, second = (np.take_along_axis(distance, ordered[:, i, None], axis=1)[:, 0] for i in (0, 1))
        assert (found.excess == second - nearest).all()


def test_a_gpu_finds_the_same(monkeypatch, fresh_dispatch):
    host = HostCuda(build="address", seed=1)
    monkeypatch.setitem(sys.modules, "cupy", as_cupy(host))
    for k in (3, 70):
        here, there = (random_cells(np.random.default_rng(0), 300, 3, device) for device in ("cpu", "cuda:0"))
        centers = here.x[:k]
        for _ in range(3):
            assert (here.nearest(centers) == there.nearest(centers)).all()
            centers = np.rint(centers / 2)
    assert host.launches


def test_threads_and_pieces_do_not_matter(monkeypatch):
    held = random_cells(np.random.default_rng(0), 1000, 3)
    expected = [held.nearest(held.x[:k]) for k in (20, 100)]
    monkeypatch.setattr(cells, "_SCORES", 2**8)
    monkeypatch.setattr(cells, "_THREADED", 1)
    for k, want in zip((20, 100), expected, strict=True):
        assert (held.nearest(held.x[:k]) == want).all()


@pytest.mark.parametrize("d", [1, 3, 4])
def test_grids_lose_nothing_but_places(d, monkeypatch):
    monkeypatch.setattr(cells, "_PIECE", 1000)
    rng = np.random.default_rng(0)
    points = np.unique(rng.normal(0, [1, 0.3, 2, 0.1][:d], (5000, d)).astype(np.float32), axis=0)
    weights = rng.integers(1, 100, len(points))
    grids = Grids(points, weights, "cpu")
    levels, whole = grids.merged(1, np.inf), grids.whole()
    assert whole.grid == 0
    assert np.abs(grids.centers(whole.x) - points).max() <= 0.5 / grids.scale + 1e-6
    assert [level.grid for level in levels] == sorted({level.grid for level in levels})
    assert len(levels) > 2
    for level in levels:
        assert level.mass.sum() == weights.sum()
        for column, expected in zip(level.weighted, whole.weighted, strict=True):
            assert column.sum() == expected.sum()
        assert (np.abs(np.array(level.weighted) / level.mass - level.columns) <= 0.5).all()
        assert len(np.unique(level.x, axis=0)) == len(level.x)
        assert 0 <= level.lost <= level.mass.sum() * d * (2 * HALF / level.grid) ** 2


def test_weights_that_are_not_whole_become_whole():
    unit = cells._unit(np.array([3, 1, 2**37, 5]))
    assert cells.mass_of(np.array([3, 1, 2**37, 5]), unit).tolist() == [3, 1, 2**37, 5]
    assert cells._unit(np.array([3.0, 1.0])) == 1
    for weights in (np.array([0.5, 1e-30, 2.0, 1.5]), np.array([2.0**60, 1.0, 2.0**50, 3.0])):
        mass = cells.mass_of(weights, cells._unit(weights))
        assert (mass == np.rint(mass)).all()
        assert mass.min() == 1
        assert 2**36 <= mass.sum() <= 2**38
        assert mass[2] / mass[0] == weights[2] / weights[0]


def test_a_fit_ends_at_means_and_with_less_inertia():
    held = random_cells(np.random.default_rng(0), 2000, 3)
    start = seeded(held, np.random.default_rng(1).uniform(size=(12, 4)))
    assert len(np.unique(start, axis=0)) == 12
    first, last = refined(held, start, 0.0, 1), refined(held, start, 1e-3, 60)
    assert last.inertia < first.inertia
    for stage in (first, last):
        sums, mass = held.sums(stage.labels, 12)
        assert (stage.centers == sums / mass[:, None]).all()
        off = held.x - stage.centers[stage.labels]
        assert stage.inertia == pytest.approx((held.mass[:, None] * off**2).sum(), rel=1e-9)


def test_a_cluster_without_cells_stays_where_it_is():
    held = random_cells(np.random.default_rng(0), 50, 3)
    start = np.concatenate([held.x[:2], held.x[:1]])
    stage = refined(held, start, 0.0, 5)
    assert (stage.centers[2] == start[2]).all() or (stage.labels == 2).any()
    assert np.isfinite(stage.centers).all()
