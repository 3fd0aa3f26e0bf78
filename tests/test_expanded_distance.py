"""Rule 1 for sparse rows: E, which takes the place of D where distances are summed or published."""

from __future__ import annotations

from fractions import Fraction

import numpy as np
import pytest
import scipy.sparse
from reference import expanded

from gpukmeans import KMeans
from gpukmeans.exact import sparse_rows
from gpukmeans.exact.distance import normalize, norms
from gpukmeans.exact.sparse_rows import Entries, expanded_distances, expansion_error, own_expanded_distances


def entries_of(x, *, zeros=0.0, seed=0):
    """The rows x, of which a part of the zeros is stored too."""
    stored = (x != 0) | (np.random.default_rng(seed).random(x.shape) < zeros)
    starts = np.concatenate([[0], np.cumsum(stored.sum(axis=1))])
    return Entries(x[stored], np.nonzero(stored)[1].astype(np.int32), starts.astype(np.int32), x.shape[1])


def looped(row, center):
    """E in a loop over Python's floats."""
    steps = square = 0.0
    for x, c in zip(row.astype(float).tolist(), center.tolist(), strict=True):
        step = x - c
        steps += step * step - c * c
        square += c * c
    return max(steps + square, 0.0)


def some(n, d, density, dtype=np.float64, seed=0):
    rng = np.random.default_rng(seed)
    x = np.where(rng.random((n, d)) < density, rng.normal(size=(n, d)) * 10.0 ** rng.uniform(-4, 4, (n, d)), 0)
    return x.astype(dtype), rng.normal(size=(5, d)) * 10.0 ** rng.uniform(-4, 4, (5, d))


@pytest.mark.parametrize("zeros", [0.0, 0.3, 1.0])
@pytest.mark.parametrize("dtype", [np.float64, np.float32, np.uint8])
@pytest.mark.parametrize(("n", "d", "density"), [(7, 1, 0.5), (20, 9, 0.5), (6, 700, 0.3), (4, 40, 0.0)])
def test_it_is_what_a_plain_loop_computes(n, d, density, dtype, zeros):
    x, centers = some(n, d, density)
    x = np.abs(x).clip(0, 255).astype(dtype) if dtype == np.uint8 else x.astype(dtype)
    entries, columns = entries_of(x, zeros=zeros), np.ascontiguousarray(centers.T)
    expected = np.array([[looped(row, center) for center in centers] for row in x])
    assert expanded_distances(entries, columns, norms(centers)).tobytes() == expected.tobytes()
    labels = np.arange(n, dtype=np.int32) % 5
    own = own_expanded_distances(entries, columns, norms(centers), labels)
    assert own.tobytes() == expected[np.arange(n), labels].tobytes()
    only = own_expanded_distances(entries, columns[:, 2:3], norms(centers[2:3]), None)
    assert only.tobytes() == expected[:, 2].tobytes()


def test_a_row_is_at_no_distance_from_itself():
    x, _ = some(30, 50, 0.4)
    distance = expanded_distances(entries_of(x), np.ascontiguousarray(x.T), norms(x))
    assert not np.diag(distance).any()


def test_it_differs_from_the_distance_by_rounding_alone():
    """From the true one, too; and by more than a tenth of the bound on it."""
    most = 0
    for seed in range(400):
        rng = np.random.default_rng(seed)
        d = int(rng.integers(1, 4))
        x, center = rng.normal(size=(1, d)), rng.normal(size=(1, d))
        x, center = x * 2.0 ** rng.integers(-2, 3), center + x * rng.integers(0, 2)
        e = Fraction(float(expanded_distances(entries_of(x), np.ascontiguousarray(center.T), norms(center))[0, 0]))
        pairs = [(Fraction(a), Fraction(b)) for a, b in zip(x[0].tolist(), center[0].tolist(), strict=True)]
        off = abs(e - sum((a - b) ** 2 for a, b in pairs))
        size = sum(a * a + b * b for a, b in pairs)
        assert off <= Fraction(expansion_error(d)) * size / 2
        most = max(most, off / size / Fraction(expansion_error(d)))
    assert most > Fraction(1, 10) / 2


@pytest.mark.parametrize("kind", ["some", "zeros", "huge", "denormal"])
def test_rows_are_brought_to_length_one_as_dense_ones_are(kind):
    x, _ = some(40, 30, 0.3)
    x *= {"some": 1.0, "zeros": 0.0, "huge": 2.0**480, "denormal": 2.0**-1060}[kind]
    x += 0.0  # where what underflows is a negative zero, an entry would be one
    entries = entries_of(x, zeros=0.2)
    dense = Entries(sparse_rows.normalize_entries(entries), entries.columns, entries.starts, entries.d).dense()
    assert dense.tobytes() == normalize(np.ascontiguousarray(x.T)).tobytes()


def test_an_inertia_far_from_zero_fits_its_scale(kmeans):
    """A row near a center, far from zero: of some E is many times D, and such a one is chosen here."""
    rng = np.random.default_rng(0)
    while True:
        center = (1 + rng.random((1, 64))) * 2.0**40
        row = center.copy()
        row[0, 0] += 2.0**14.5
        e = expanded(row, center)[0, 0]
        if e > 2.0**33:  # and D is 2**29
            break
    x = np.repeat(row, 3000, axis=0)
    model = kmeans(n_clusters=1, init=center, n_init=1, max_iter=1).fit(x)
    model.cluster_centers_ = center
    assert model.score(scipy.sparse.csr_array(x)) == -3000 * e


def test_all_ways_to_an_inertia_are_one(device, kmeans):
    """From a CSR matrix, whatever zeros it stores; from dense rows it is the sum of D, which differs."""
    x, _ = some(300, 40, 0.3)
    full = scipy.sparse.csr_array((x.ravel(), np.tile(np.arange(40), 300), np.arange(0, 12001, 40)), x.shape)
    models = [kmeans(n_clusters=6, init=x[:6], max_iter=3).fit(held) for held in (scipy.sparse.csr_array(x), full, x)]
    inertias = [model.inertia_ for model in models]
    assert inertias[0] == inertias[1] == KMeans(6, init=x[:6], max_iter=3, device="cpu").fit(full).inertia_
    assert inertias[2] == pytest.approx(inertias[0], rel=1e-12)
