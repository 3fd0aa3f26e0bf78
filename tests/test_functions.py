"""scikit-learn's functions, `k_means` and `kmeans_plusplus`: what the estimator does."""

from __future__ import annotations

import inspect
from functools import partial

import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp
import sklearn.cluster
from reference import Reference
from test_randomness import seed_in_parallel

import gpukmeans
from gpukmeans import row_lookup
from gpukmeans.row_lookup import first_rows

X = np.random.default_rng(0).normal(size=(200, 3))


@pytest.fixture
def k_means(device):
    return partial(gpukmeans.k_means, device=device)


@pytest.fixture
def kmeans_plusplus(device):
    return partial(gpukmeans.kmeans_plusplus, device=device)


@pytest.mark.parametrize("name", ["k_means", "kmeans_plusplus"])
def test_they_have_scikit_learns_parameters(name):
    ours, theirs = (inspect.signature(getattr(module, name)).parameters for module in (gpukmeans, sklearn.cluster))
    shared = [(each.name, each.kind, each.default) for each in ours.values()][: len(theirs)]
    assert shared == [(each.name, each.kind, each.default) for each in theirs.values()]


# ---------------------------------------------------------------- k_means


@pytest.mark.parametrize("weights", [None, np.arange(200.0)])
def test_k_means_is_the_estimators_fit(k_means, kmeans, weights):
    model = kmeans(n_clusters=5, n_init=2, random_state=3).fit(X, sample_weight=weights)
    found = k_means(X, 5, n_init=2, random_state=3, sample_weight=weights)
    centers, labels, inertia = found
    assert centers.tobytes() == model.cluster_centers_.tobytes()
    assert labels.tobytes() == model.labels_.tobytes()
    assert inertia == model.inertia_
    *same, n_iter = k_means(X, 5, n_init=2, random_state=3, sample_weight=weights, return_n_iter=True)
    assert (same[0].tobytes(), n_iter) == (centers.tobytes(), model.n_iter_)


def test_k_means_takes_what_the_estimator_takes(k_means, kmeans):
    model = kmeans(n_clusters=5, metric="cosine", init="k-means||", oversampling_factor=0.5, random_state=0).fit(X)
    found = k_means(X, 5, metric="cosine", init="k-means||", oversampling_factor=0.5, random_state=0)
    assert found[0].tobytes() == model.cluster_centers_.tobytes()


def test_k_means_refuses_what_scikit_learns_refuses(k_means):
    with pytest.raises(ValueError, match="The 'return_n_iter' parameter of k_means must be an instance of 'bool'"):
        k_means(X, 2, return_n_iter="yes")
    with pytest.raises(ValueError, match="The 'n_clusters' parameter of k_means must be an int"):
        k_means(X, 0)
    with pytest.raises(ValueError, match="n_samples=2 should be >= n_clusters=3"):
        k_means(X[:2], 3)


# ---------------------------------------------------------------- kmeans_plusplus


@pytest.mark.parametrize("dtype", [np.float64, np.float32, np.float16, np.uint8, np.int64])
@pytest.mark.parametrize("weights", [None, np.arange(200.0) % 7])
def test_a_fit_begins_with_these_centers(kmeans_plusplus, kmeans, dtype, weights):
    x = (X * 100).astype(dtype)
    centers, indices = kmeans_plusplus(x, 6, random_state=2, sample_weight=weights)
    assert (centers.dtype, indices.dtype) == (dtype, np.int64)
    assert (centers == x[indices]).all()
    assert weights is None or weights[indices].all()
    seeded, given = (
        kmeans(n_clusters=6, **how).fit(x, sample_weight=weights) for how in ({"random_state": 2}, {"init": centers})
    )
    assert seeded.cluster_centers_.tobytes() == given.cluster_centers_.tobytes()


def test_an_index_is_that_of_the_first_of_equal_rows(kmeans_plusplus):
    x = np.random.default_rng(1).integers(0, 3, size=(300, 2)).astype(float)
    x[x == 0] = -0.0
    centers, indices = kmeans_plusplus(x, 9, random_state=0)
    assert len(np.unique(centers, axis=0)) == 9
    assert indices.tolist() == [int(np.flatnonzero((x == center).all(axis=1))[0]) for center in centers]


def test_fewer_distinct_rows_than_centers(kmeans_plusplus):
    centers, indices = kmeans_plusplus(np.repeat([[1.0], [2.0]], 5, axis=0), 4, random_state=0)
    assert set(indices.tolist()) == {0, 5}
    assert set(centers.ravel().tolist()) == {1.0, 2.0}


def test_rows_of_a_sparse_matrix_come_back_dense(kmeans_plusplus):
    x = sp.random(200, 30, 0.1, format="csr", random_state=0)
    centers, indices = kmeans_plusplus(x, 8, random_state=0, sample_weight=np.arange(200) % 2)
    assert type(centers) is np.ndarray
    assert (centers == x[indices].toarray()).all()
    assert (indices % 2).all()


def test_rows_come_back_as_the_kind_of_array_they_are(kmeans_plusplus):
    expected, indices = kmeans_plusplus(X, 5, random_state=0)
    torch = pytest.importorskip("torch")
    found, same = kmeans_plusplus(torch.from_numpy(X), 5, random_state=0)
    assert type(found) is torch.Tensor
    assert found.numpy().tobytes() == expected.tobytes()
    for x in (X.tolist(), pd.DataFrame(X), np.asfortranarray(X)):
        found, same = kmeans_plusplus(x, 5, random_state=0)
        assert found.tobytes() == expected.tobytes()
        assert same.tolist() == indices.tolist()


@pytest.mark.parametrize("trials", [1, 3, 40])
def test_as_many_trials_as_asked_for(kmeans_plusplus, trials):
    _, indices = kmeans_plusplus(X, 7, random_state=4, n_local_trials=trials)
    expected = Reference(X).seed(7, np.random.RandomState(4), trials)
    assert X[indices].tolist() == expected.tolist()


def test_kmeans_plusplus_refuses_what_scikit_learns_refuses(kmeans_plusplus):
    for wrong, message in [
        ({"n_clusters": 0}, "'n_clusters' parameter of kmeans_plusplus must be an int"),
        ({"n_clusters": 3, "n_local_trials": 0}, "'n_local_trials' parameter"),
        ({"n_clusters": 201}, "n_samples=200 should be >= n_clusters=201"),
        ({"n_clusters": 3, "x_squared_norms": np.ones(3)}, "length of x_squared_norms 3 should be equal"),
        ({"n_clusters": 3, "random_state": "seed"}, "'random_state' parameter"),
        ({"n_clusters": 3, "sample_weight": -np.ones(200)}, "Negative values"),
    ]:
        with pytest.raises(ValueError, match=message):
            kmeans_plusplus(X, **wrong)
    with pytest.raises(ValueError, match="Input X contains NaN"):
        kmeans_plusplus(np.full((4, 2), np.nan), 2)
    norms = (X**2).sum(axis=1)
    one, other = (kmeans_plusplus(X, 4, random_state=0, x_squared_norms=given)[1] for given in (norms, None))
    assert one.tolist() == other.tolist()


# ---------------------------------------------------------------- where rows stand


@pytest.mark.parametrize("kind", [np.asarray, sp.csr_matrix])
def test_rows_are_found_where_their_hashes_agree(monkeypatch, kind):
    """Nobody can make such rows on purpose, so here all hashes agree."""
    x = np.random.default_rng(0).integers(0, 2, size=(40, 3)).astype(np.float64)
    expected = [int(np.flatnonzero((x == row).all(axis=1))[0]) for row in x]
    assert first_rows(kind(x), x).tolist() == expected
    monkeypatch.setattr(row_lookup, "hashes", lambda rows: np.zeros(rows.shape[0], np.uint64))
    assert first_rows(kind(x), x).tolist() == expected


def test_equal_rows_have_one_hash_whatever_holds_them():
    x = np.array([[0.0, 1.5, -0.0], [2.0, 0.0, 3.0], [0.0, 0.0, 0.0]])
    stored = sp.csr_matrix((np.array([1.5, 0.0, 3.0, 2.0]), [1, 2, 2, 0], [0, 2, 4, 4]), shape=(3, 3))
    found = row_lookup.hashes(x)
    for other in (row_lookup.Entries.of(sp.csr_matrix(x)), row_lookup.Entries.of(stored), x.astype(np.float16)):
        assert row_lookup.hashes(other).tolist() == found.tolist()
    assert len(set(found.tolist())) == 3
    assert row_lookup.hashes(x[:, ::-1])[1] != found[1]


# ---------------------------------------------------------------- k-means||


@pytest.mark.parametrize("factor", [1e-9, 0.5, 1.3, 2, 8])
def test_a_fit_begins_with_the_references_centers_for_any_factor(kmeans, factor):
    """1e-9 draws one row a round."""
    given = seed_in_parallel(Reference(X), 5, np.random.RandomState(1), factor)
    model, expected = (
        kmeans(5, **how).fit(X)
        for how in (
            {"init": "k-means||", "oversampling_factor": factor, "random_state": 1},
            {"init": given},
        )
    )
    assert model.cluster_centers_.tobytes() == expected.cluster_centers_.tobytes()


@pytest.mark.parametrize("factor", [0, -1, np.inf, "2"])
def test_a_factor_has_to_be_above_zero_and_finite(kmeans, factor):
    with pytest.raises(ValueError, match="'oversampling_factor' parameter of KMeans must be a float"):
        kmeans(2, init="k-means||", oversampling_factor=factor).fit(X)
