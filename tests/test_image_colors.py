"""What grows with a picture's distinct colors (kernels image_colors, image_cells and image_cells_seeding), on the CPU:
NumPy's bits."""

from __future__ import annotations

import sys

import numpy as np
import pytest
from host_cuda.machine import as_cupy
from host_cuda.runtime import HostCuda

from gpukmeans import array_interop
from gpukmeans.engine.cuda import device as gpu
from gpukmeans.image import dispatch
from gpukmeans.image.color_space import SPACES
from gpukmeans.image.cuda import cells as cuda_cells
from gpukmeans.image.cuda import kernels
from gpukmeans.image.cuda.colors import CudaColors
from gpukmeans.image.cuda.integral_points import CudaIntegralPoints
from gpukmeans.image.grid import Grid, GridScale
from gpukmeans.image.levels import pack
from gpukmeans.image.numpy.colors import NumPyColors
from gpukmeans.image.numpy.integral_points import NumPyIntegralPoints

pytestmark = pytest.mark.kernels


@pytest.fixture(scope="module", params=["address", "race"])
def cp(request):
    return HostCuda(build=request.param, seed=1)


# ---------------------------------------------------------------- colors


def random_colors(cp, m):
    rng = np.random.default_rng(0)
    colors = np.unique(np.concatenate([rng.integers(0, 256, (m, 3)), [[0, 0, 0], [255, 255, 255], [0, 0, 1]]]), axis=0)
    colors = colors.astype(np.uint8)
    counts = rng.integers(1, 1000, len(colors))
    return CudaColors(cp, pack(colors), counts, int(counts.sum())), NumPyColors(colors, counts)


@pytest.mark.parametrize("space", SPACES)
def test_points_are_numpys(cp, space):
    ours, theirs = random_colors(cp, 700)
    assert len(ours) == len(theirs)
    assert (ours.levels() == theirs.levels()).all()
    found, expected = ours.points(space).get(), theirs.points(space)
    assert found.dtype == expected.dtype
    assert found.tobytes() == expected.tobytes()


def test_every_root_is_numpys():
    """All 2^16 colors of a plane, which have every level's light, and roots over their whole range."""
    levels = np.stack(np.meshgrid(np.arange(256), np.arange(256), [0], indexing="ij"), axis=-1).reshape(-1, 3)
    levels = levels.astype(np.uint8)
    counts = np.ones(len(levels), np.int64)
    ours = CudaColors(HostCuda(build="fast"), pack(levels), counts, len(counts))
    assert ours.points("oklab").get().tobytes() == NumPyColors(levels, counts).points("oklab").tobytes()


@pytest.mark.parametrize("space", SPACES)
def test_the_nearest_and_the_error_are_numpys(cp, space):
    ours, theirs = random_colors(cp, 400)
    rng = np.random.default_rng(1)
    palette = rng.integers(0, 256, (30, 3)).astype(np.uint8)
    palette[20] = palette[3]
    found, labels = ours.nearest(palette, space), theirs.nearest(palette, space)
    assert (found.get() == labels).all()
    assert (ours.nearest_levels(palette).get() == theirs.nearest_levels(palette)).all()
    assert ours.error(palette, labels) == ours.error(palette, cp.asarray(labels)) == theirs.error(palette, labels)


def test_colors_are_held_where_palettes_can_be_compared_with_them(monkeypatch, cp):
    """On the GPU, unless the palette has alpha; with NumPy's answers either way."""
    monkeypatch.setitem(sys.modules, "cupy", as_cupy(cp))
    levels = np.unique(np.random.default_rng(0).integers(0, 256, (400, 3)).astype(np.uint8), axis=0)
    counts = np.arange(1, len(levels) + 1)
    expected = NumPyColors(levels, counts)
    for channels, kind in ((3, CudaColors), (4, NumPyColors)):
        palette = np.random.default_rng(1).integers(0, 256, (30, channels)).astype(np.uint8)
        codes, times = cp.asarray(np.sort(pack(levels))), cp.asarray(counts[np.argsort(pack(levels))])
        total = int(counts.sum())
        ours = dispatch.make_colors(codes, times, 3, total, device="cuda:0", palette_channels=channels)
        assert type(ours) is kind
        labels = np.empty(len(levels), np.int32)
        labels[np.argsort(pack(levels))] = array_interop.to_numpy(ours.nearest(palette, "oklab"))
        assert (labels == expected.nearest(palette, "oklab")).all()
        assert ours.error(palette, ours.nearest(palette, "oklab")) == expected.error(palette, labels)


def test_more_pixels_than_masses_can_count_are_the_hosts(monkeypatch, cp):
    """Masses are then counts no more, but less."""
    monkeypatch.setitem(sys.modules, "cupy", as_cupy(cp))
    levels = np.stack([np.arange(300) // 256, np.arange(300) % 256, np.zeros(300, int)], axis=1).astype(np.uint8)
    for each in (2**20, 2**30):
        counts = np.full(300, each)
        ours = dispatch.make_colors(pack(levels), counts, 3, int(counts.sum()), device="cuda:0")
        assert type(ours) is (CudaColors if each == 2**20 else NumPyColors)
        assert ours.mass_scale == NumPyColors(levels, counts).mass_scale


def test_weights_are_numpys(cp):
    ours, theirs = random_colors(cp, 400)
    (summary, weights), (expected, given) = ours.engine_weights(), theirs.engine_weights()
    assert summary == expected
    assert (weights.get() == given).all()
    assert ours.mass_scale == theirs.mass_scale


# ---------------------------------------------------------------- cells


def both(cp, points, weights):
    colors = NumPyColors(np.zeros((len(points), 3), np.uint8), weights)
    scale = GridScale.of(points.min(axis=0).astype(float), points.max(axis=0).astype(float), colors.mass_scale)
    return CudaIntegralPoints(cp, points, weights, scale), NumPyIntegralPoints(points, weights, scale), scale


def random_points(d, dtype, m=600):
    rng = np.random.default_rng(d)
    points = rng.normal(0, [40, 20, 60, 5][:d], (m, d)) + 128
    return np.unique(np.clip(points, 0, 255).astype(dtype), axis=0)


def agree(ours, theirs):
    """Whether cells are the same: what they are, and what they answer."""
    assert (ours.m, ours.grid, ours.square) == (theirs.m, theirs.grid, theirs.square)
    rng = np.random.default_rng(0)
    for k in (1, 2, 33):
        centers = theirs.x[rng.integers(0, theirs.m, k)]  # some more than once
        (found, sums), (expected, same) = ours.assign(centers), theirs.assign(centers)
        assert (found.get() == expected).all()
        assert_same(sums, same)
        assert_same(ours.half_sums(found, same.means), theirs.half_sums(expected, same.means))
        if k > 1:
            second, other = ours.second_nearest(centers), theirs.second_nearest(centers)
            assert (second.labels.get() == other.labels).all()
            assert_same(second.clusters, other.clusters)
            assert second.cost.tobytes() == other.cost.tobytes()
            assert (second.pairs == other.pairs).all()
    for size in ((1, 2), (9, 4)):
        draws = rng.uniform(size=size)
        assert ours.kmeans_plusplus(draws).tobytes() == theirs.kmeans_plusplus(draws).tobytes()


def assert_same(found, expected):
    assert (found.sums == expected.sums).all()
    assert (found.mass == expected.mass).all()


@pytest.mark.parametrize(("d", "dtype"), [(1, np.uint8), (3, np.uint8), (3, np.float32), (4, np.float32), (4, float)])
@pytest.mark.parametrize("kind", ["counts", "few", "heavy", "fractions"])
def test_cells_are_numpys(cp, d, dtype, kind):
    points = random_points(d, dtype)
    rng = np.random.default_rng(1)
    weights = {
        "counts": rng.integers(1, 1000, len(points)),
        "few": np.ones(len(points), np.int64),
        "heavy": rng.integers(1, 2**28, len(points)),
        "fractions": rng.uniform(size=len(points)) * 1e-9,
    }[kind]
    ours, theirs, scale = both(cp, points, weights)
    agree(ours.cells(), theirs.cells())
    finer = None
    for shift in (5, 8, 10):
        grid = Grid(scale.half_range, shift)
        finer = (ours.merged(grid), theirs.merged(grid)) if finer is None else [cells.merged(grid) for cells in finer]
        assert ours.square == theirs.square
        agree(*finer)


def test_all_bins_used_and_one_color(cp):
    grid = np.stack(np.meshgrid(*[np.arange(8, dtype=np.uint8)] * 3), axis=-1).reshape(-1, 3)
    ours, theirs, scale = both(cp, grid, np.arange(1, 513))
    eighths = Grid(scale.half_range, 8)
    assert eighths.bins == 512
    found, expected = ours.merged(eighths), theirs.merged(eighths)
    assert found.m == 512
    agree(found, expected)
    ours, theirs, scale = both(cp, grid[:1], np.array([7]))
    agree(ours.cells(), theirs.cells())
    agree(ours.merged(Grid(scale.half_range, 5)), theirs.merged(Grid(scale.half_range, 5)))


def test_tiles_pairs_and_strides_do_not_matter(cp, monkeypatch):
    monkeypatch.setattr(kernels, "SHARED", 16 * 10)  # ten centers at a time
    monkeypatch.setattr(cuda_cells, "_PAIRED", 20)
    monkeypatch.setattr(kernels, "_SEEDING", 64)
    monkeypatch.setattr(gpu, "RESIDENT", 1)
    points = random_points(3, np.uint8)
    ours, theirs, _ = both(cp, points, np.arange(1, len(points) + 1))
    assert len(points) > 512, "more cells than threads"
    agree(ours.cells(), theirs.cells())


def test_cells_that_weigh_next_to_nothing_are_seeds_too(cp):
    """Bits of masses are left out beside a heavy one, and rounded up, so that none is zero."""
    points = random_points(3, np.uint8, m=60)
    ours, theirs, _ = both(cp, points, np.where(np.arange(len(points)) == 7, 2**37, 1))
    draws = np.random.default_rng(0).uniform(size=(20, 3))
    found = ours.cells().kmeans_plusplus(draws)
    assert len(np.unique(found, axis=0)) == 20
    assert found.tobytes() == theirs.cells().kmeans_plusplus(draws).tobytes()


def test_cells_at_centers_are_drawn_by_mass(cp):
    """As k-means++ takes points that are seeds already where there are no others."""
    points = np.array([[0, 0, 0], [90, 0, 0], [200, 10, 0]], np.uint8)
    ours, theirs, _ = both(cp, points, np.array([1, 1000, 3]))
    draws = np.random.default_rng(0).uniform(size=(40, 3))
    found = theirs.cells().kmeans_plusplus(draws)
    assert ours.cells().kmeans_plusplus(draws).tobytes() == found.tobytes()
    places, counts = np.unique(found, axis=0, return_counts=True)
    assert len(places) == 3
    assert counts[1] > 35
