"""The two zeros are one number: no answer has a negative one, and none depends on which one the data has."""

from __future__ import annotations

from functools import partial

import numpy as np
import pytest
from scipy.sparse import csr_matrix, issparse

from gpukmeans import KMeans, MiniBatchKMeans, quantize

pytestmark = pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")

# Of few values, among them what a narrower dtype rounds to zero from below, and what is lost when squared.
VALUES = {
    "zeros alone": [0.0, -0.0],
    "one zero": [-0.0],
    "signs": [0.0, -0.0, 1.0, -1.0],
    "negative": [-0.0, -1.0],
    "positive": [-0.0, 3.0],
    "small": [0.0, -0.0, 6e-8, -6e-8, 1.0],
    "squares of nothing": [0.0, -0.0, 1e-30, -1e-30],
    "far apart": [-0.0, 1e140, -1e-200, -1e-45],
    "the least": [0.0, -0.0, 5e-324, -5e-324, 1.0],
}


def with_every_entry(x):
    """CSR with an entry for each value, zeros too."""
    n, d = x.shape
    return csr_matrix((x.ravel().copy(), np.tile(np.arange(d), n), np.arange(n + 1) * d), x.shape)


def forms(x):
    """The same numbers with other zeros, or with none: dense, and sparse."""
    negative = np.where(x == 0, x.dtype.type(-0.0), x)
    yield [x, x + x.dtype.type(0), negative]
    if x.dtype != np.float16:  # which SciPy has not
        yield [csr_matrix(x), with_every_entry(x), with_every_entry(negative)]


def rows_at(index, X, n_clusters, random_state):
    return X[index].toarray() if issparse(X) else np.asarray(X)[index]


def answers(model, steps, x, weights):
    """Everything that is published: of a fit, or of steps; and of one more from centers whose zeros are negative."""
    if not steps:
        model.fit(x, sample_weight=weights)
    for _ in range(steps):
        model.partial_fit(x, sample_weight=weights)
    found = [model.cluster_centers_, model.transform(x), model.labels_, model.predict(x)]
    numbers = model.inertia_, model.score(x, sample_weight=weights)
    model.cluster_centers_ = np.where(model.cluster_centers_ == 0, -0.0, model.cluster_centers_).astype(x.dtype)
    found.append(model.transform(x))
    if steps:
        found.append(model.partial_fit(x, sample_weight=weights).cluster_centers_)
    return found, numbers


@pytest.mark.parametrize("metric", ["euclidean", "cosine"])
@pytest.mark.parametrize("dtype", ["f2", "f4", "f8"])
@pytest.mark.parametrize("values", VALUES)
def test_no_answer_tells_one_zero_from_the_other(device, slow, values, dtype, metric):
    few = [value for value in VALUES[values] if abs(value) <= float(np.finfo(dtype).max)]
    for seed in range(0, 4, 3 if slow else 1):
        rng = np.random.default_rng([seed, *map(ord, values + dtype + metric)])
        n, d = int(rng.integers(1, 30)), int(rng.integers(1, 7))
        k = int(rng.integers(1, n + 1))
        x = rng.choice(few, (n, d)).astype(dtype)
        starts = [
            "k-means++",
            "k-means||",
            "random",
            rng.choice([0.0, -0.0, 1.0, -1.0, -1e-30, -1e-310], (k, d)).astype(rng.choice(["f2", "f4", "f8"])),
            partial(rows_at, rng.integers(0, n, k)),
        ]
        weights = None if rng.random() < 0.5 else rng.choice([1.0, 2.0, 0.5, 1e-12], n)
        steps = int(rng.integers(0, 3))
        start = starts[int(rng.integers(len(starts) - (seed % 2 or steps > 0)))]  # a batch has other rows than the last
        how = {"init": start, "n_init": 1, "max_iter": 3, "metric": metric, "random_state": seed, "device": device}
        kmeans = partial(MiniBatchKMeans if steps or seed % 2 else KMeans, k, **how)
        for group in forms(x):
            (expected, numbers), *others = [answers(kmeans(), steps, form, weights) for form in group]
            for answer in expected:
                assert not (np.signbit(answer) & (answer == 0)).any()
            for found, their_numbers in others:
                assert their_numbers == numbers
                for one, other in zip(found, expected, strict=True):
                    assert one.dtype == other.dtype
                    assert one.tobytes() == other.tobytes()


def test_what_a_narrower_dtype_rounds_to_zero_from_below_is_zero(kmeans):
    """A mean that the data's dtype does not hold, and one that a metric does not."""
    rows = np.array([[-1e-45, 1.0]] * 3 + [[1e-45, 1.0]], np.float32)
    for x, metric in ((rows, "euclidean"), (rows, "cosine"), (np.array([[-5e-324, 1.0]] * 3), "cosine")):
        (center,) = kmeans(1, metric=metric).fit(x).cluster_centers_
        assert center.tolist() == [0.0, 1.0]
        assert not np.signbit(center).any()


@pytest.mark.parametrize("space", ["rgb", "oklab"])
def test_pictures_whose_zeros_are_negative(device, space):
    picture = np.random.default_rng(0).choice([0.0, 0.5, 1.0, 0.3], (9, 8, 3)).astype(np.float32)
    negative = np.where(picture == 0, np.float32(-0.0), picture)
    one, other = (quantize(each, 5, space=space, device=device) for each in (picture, negative))
    assert one.indices.tobytes() == other.indices.tobytes()
    assert one.palette.tobytes() == other.palette.tobytes()
    assert not np.signbit(other.to_array()).any()
