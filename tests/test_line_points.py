"""Rows of one feature, of which clusters are runs: labels by D to the last bit, sums, ranges, and fits."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.testing import assert_array_equal
from scipy import sparse

from gpukmeans import KMeans, lloyd
from gpukmeans.engine.numpy import line_points
from gpukmeans.engine.numpy.choice import on_numpy
from gpukmeans.engine.numpy.line_points import LinePoints
from gpukmeans.engine.numpy.points import NumPyPoints
from gpukmeans.engine.numpy.tuning import tuned
from gpukmeans.engine.protocol import Samples
from gpukmeans.exact.metric import COSINE

pytestmark = pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")

rng = np.random.default_rng(0)


def next_to(centers):
    """Values next to the middles of centers: so many steps of float64 away, and exactly there."""
    ascending = np.unique(centers)
    middles = ascending[:-1] + np.diff(ascending) / 2
    return (middles[:, None] + np.arange(-6, 7) * np.spacing(middles)[:, None]).ravel()


def both_sides(count, offset=0.0, width=1.0):
    centers = offset + width * np.random.default_rng(count).random(count)
    return np.concatenate([next_to(centers), centers, [offset - 3 * width, offset + 3 * width]]), centers


SPREAD = np.concatenate([sign * np.exp(np.linspace(-9, 9, 40) + 0.01 * sign) for sign in (-1, 1)])
GRID = np.arange(-40.0, 41.0) / 8
CLOSE = 1 + np.arange(5) * 2.0**-45

# Rows, and centers to assign them to.
LINES = {
    "middles": both_sides(40),
    "middles far from zero": both_sides(40, offset=1e6),
    "middles between small numbers": both_sides(40, width=1e-30),
    "middles of unequal numbers": (next_to(SPREAD), SPREAD),
    "ties go to the first center": (GRID, GRID[::5]),
    "ties, from the last center on": (GRID, GRID[::-5].copy()),
    "ties, in any order": (GRID, np.random.default_rng(1).permutation(GRID[::5])),
    "equal centers": (GRID, np.array([1.0, -1.0, 1.0, 2.0, -1.0])),
    "centers closer than roundings reach": (
        np.concatenate([1e5 * rng.normal(size=200), next_to(CLOSE)]),
        CLOSE[::-1].copy(),
    ),
    "squares below the least number": (np.arange(-50.0, 51.0) * 1e-165, np.array([-3e-164, 0.0, 1e-164, 1.5e-164])),
    "one center": (GRID, np.array([7.0])),
    "clusters without rows": (GRID, np.array([100.0, 0.0, 200.0, -100.0, 1.0])),
    "all rows equal": (np.full(30, 0.1), np.array([0.3, 0.2, 0.0])),
    "wide": (np.exp(rng.normal(0, 40, 300)), np.exp(np.linspace(-60, 60, 30))),
    "copies": (rng.integers(0, 5, 5000) / 4, np.array([0.1, 0.9, 0.5])),
}


def prepared(x, weights=None):
    points = LinePoints(Samples(x[:, None], weights))
    return points, lloyd.prepare(points, *points.feature_range())


@pytest.mark.parametrize("dtype", ["float64", "float32", "float16"])
@pytest.mark.parametrize("kind", LINES)
def test_a_line_is_brute_force(kind, dtype, brute_labels):
    x, centers = LINES[kind]
    most = np.finfo(dtype).max
    x = np.random.default_rng(2).permutation(np.clip(x, -most, most).astype(dtype))
    points, scales = prepared(x)
    before = np.full(len(x), -1)
    for given in (centers, centers[::-1].copy(), centers):
        changed = points.assign(given[:, None])
        labels = brute_labels(x[:, None], given[:, None])
        assert_array_equal(points.labels(), labels)
        assert changed == np.count_nonzero(labels != before)
        terms = scales.terms(x[None].astype(float), None)
        expected = np.zeros((len(given), 2), np.int64)
        np.add.at(expected, labels, terms)
        assert_array_equal(points.sums(), expected)
        low, high = points.cluster_ranges(np.arange(len(given)), np.empty((0, 1)))
        for c in range(len(given)):
            own = x[labels == c].astype(float)
            assert low[c, 0] == own.min(initial=np.inf)
            assert high[c, 0] == own.max(initial=-np.inf)
        before = labels


@pytest.mark.parametrize(
    ("name", "value", "kind"),
    [
        ("_NEXT", 0.0, "middles of unequal numbers"),
        ("_APART", -1.0, "centers closer than roundings reach"),
        ("_LEAST_SPAN", 0.0, "squares below the least number"),
    ],
)
def test_each_guard_is_needed(monkeypatch, brute_labels, name, value, kind):
    x, centers = LINES[kind]
    monkeypatch.setattr(line_points, name, value)
    points, _ = prepared(x)
    points.assign(centers[:, None])
    assert (points.labels() != brute_labels(x[:, None], centers[:, None])).any()


def test_only_rows_next_to_middles_are_measured():
    x = rng.normal(size=4000)
    points, _ = prepared(x)
    points.assign(x[:50, None])
    assert points.uncertain == 0
    points, _ = prepared(np.concatenate([x, next_to(x[:50])]))
    points.assign(x[:50, None])
    assert points.uncertain >= 49


WEIGHTS = {
    "none": lambda n: None,
    "integers": lambda n: rng.integers(0, 4, n).astype(float),
    "any": lambda n: rng.random(n) * 10.0 ** rng.integers(-9, 9, n),
}
DATA = {
    "normal": lambda: rng.normal(size=3000),
    "grid": lambda: rng.integers(0, 400, 3000) / 8,
    "bytes": lambda: rng.integers(0, 256, 5000).astype(np.uint8),
    "heavy tails": lambda: rng.standard_cauchy(3000).astype(np.float32),
    "few values": lambda: rng.choice([0.0, 1e-300, 1.0, 1 + 2.0**-30, 5.0], 3000),
    "half": lambda: rng.normal(size=3000).astype(np.float16),
}


@pytest.mark.parametrize("init", ["k-means++", "random", "k-means||"])
@pytest.mark.parametrize("weighing", WEIGHTS)
@pytest.mark.parametrize("data", DATA)
def test_fits_are_those_without(data, weighing, init):
    x = DATA[data]()[:, None]
    weights = WEIGHTS[weighing](len(x))
    for k in (1, 9, 60):
        found = []
        for way in ({"line": True}, {"line": False, "compiled": False}, {"line": False, "compiled": True}, {}):
            with tuned(**way):
                model = KMeans(k, init=init, random_state=k, max_iter=12, tol=0, device="cpu").fit(
                    x, sample_weight=weights
                )
            bits = model.cluster_centers_.tobytes(), model.labels_.tobytes(), model.inertia_, model.history_
            found.append(bits)
        assert found[1:] == found[:-1]


def test_it_serves_lines_that_are_looked_at_more_than_once():
    line = rng.normal(size=(4000, 1))
    assert type(on_numpy(Samples(line))) is LinePoints
    plain = [
        Samples(line, reused=False),
        Samples(line, metric=COSINE),
        Samples(line[:100]),
        Samples(rng.normal(size=(4000, 2))),
        Samples(sparse.csr_array(line)),
    ]
    for samples in plain:
        assert type(on_numpy(samples)) is not LinePoints
    for way in (
        {"line": False},
        {"merge": True},
        {"arrange": False},
        {"scores": True},
        {"bounds": True},
        {"chunk_rows": 7},
    ):
        with tuned(compiled=False, **way):
            assert type(on_numpy(Samples(line))) is NumPyPoints
