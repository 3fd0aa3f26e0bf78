"""Libraries that take an estimator, or scikit-learn's by default: they work with ours, given or put in its place."""

from __future__ import annotations

import numpy as np
import pytest
import sklearn.cluster
from imblearn.over_sampling import KMeansSMOTE
from imblearn.under_sampling import ClusterCentroids
from kneed import KneeLocator
from sklearn.datasets import make_classification

import gpukmeans
from gpukmeans import accel


@pytest.fixture(autouse=True)
def on_the_device(device, monkeypatch):
    monkeypatch.setenv("GPUKMEANS_DEVICE", device)


@pytest.fixture(scope="module")
def unbalanced():
    return make_classification(600, n_features=4, weights=[0.8], random_state=0)


def resampled(sampler, x, y):
    return [np.asarray(each).tobytes() for each in sampler.fit_resample(x, y)]


def test_imbalanced_learn_has_the_same_centroids_by_ours_and_by_theirs_accelerated(unbalanced):
    given = ClusterCentroids(estimator=gpukmeans.KMeans(random_state=0, n_init=1), random_state=0)
    expected = resampled(given, *unbalanced)
    accel.install()
    try:
        model = sklearn.cluster.KMeans(random_state=0, n_init=1)
        assert resampled(ClusterCentroids(estimator=model, random_state=0), *unbalanced) == expected
        resampled(ClusterCentroids(random_state=0), *unbalanced)
    finally:
        accel.uninstall()


def test_imbalanced_learn_oversamples_by_ours_and_by_theirs_accelerated():
    rng = np.random.default_rng(0)
    x = np.concatenate([rng.normal(size=(250, 2)), rng.normal(20, 1, size=(50, 2))])
    y = np.repeat([0, 1], [250, 50])

    def sampler(module):
        model = module.MiniBatchKMeans(4, random_state=0, n_init=1)
        return KMeansSMOTE(kmeans_estimator=model, cluster_balance_threshold=0.05, random_state=0)

    expected = resampled(sampler(gpukmeans), x, y)
    accel.install()
    try:
        assert resampled(sampler(sklearn.cluster), x, y) == expected
    finally:
        accel.uninstall()


def test_kneed_finds_the_knee_of_our_inertias(kmeans, blobs):
    inertias = [kmeans(k, random_state=0).fit(blobs[0]).inertia_ for k in range(1, 10)]
    assert KneeLocator(range(1, 10), inertias, curve="convex", direction="decreasing").knee == 4
