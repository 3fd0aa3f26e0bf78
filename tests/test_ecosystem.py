"""At home in scikit-learn: its checks of estimators, and the tools that take any estimator."""

from __future__ import annotations

import os
import pickle
import subprocess
import sys

import numpy as np
import pandas as pd
import polars as pl
import pytest
from sklearn import config_context
from sklearn.base import clone
from sklearn.cluster import KMeans as Theirs
from sklearn.exceptions import UnsetMetadataPassedError
from sklearn.model_selection import GridSearchCV
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.utils.estimator_checks import parametrize_with_checks

from gpukmeans import KMeans, MiniBatchKMeans

# ---------------------------------------------------------------- scikit-learn's checks


class SameCenters:
    """An init that depends on the shape of X alone."""

    def __call__(self, X, n_clusters, random_state):
        return np.random.RandomState(0).random_sample((n_clusters, X.shape[1]))

    def __repr__(self):  # a function's has its address, and tests that are run in several processes need one name
        return "same_centers"


same_centers = SameCenters()


# The checks' data sets are tiny; two clusters and few iterations are what scikit-learn gives its own.
QUICK = {"n_clusters": 2, "n_init": 2, "max_iter": 5}
CHECKED = [
    KMeans(**QUICK),
    KMeans(**QUICK, init="random", copy_x=False),
    KMeans(**QUICK, init=same_centers),
    KMeans(n_clusters=2, tol=0, device="cpu"),
    KMeans(**QUICK, metric="cosine"),
    KMeans(**QUICK, metric="cosine", init=same_centers),
    MiniBatchKMeans(**QUICK, batch_size=10),
    MiniBatchKMeans(**QUICK, batch_size=10, metric="cosine"),
    MiniBatchKMeans(**QUICK, init="random", tol=0.1, compute_labels=True, max_no_improvement=None),
]

ROW_ORDER = "k-means++ and 'random' draw by rank in row order, and the check shuffles the rows"
WEIGHT_CHECKS = ["check_sample_weight_equivalence_on_dense_data", "check_sample_weight_equivalence_on_sparse_data"]


def expected_failures(estimator):
    return {} if callable(estimator.init) else dict.fromkeys(WEIGHT_CHECKS, ROW_ORDER)


@parametrize_with_checks(CHECKED, expected_failed_checks=expected_failures)
def test_estimator_check(device, monkeypatch, estimator, check):
    monkeypatch.setenv("GPUKMEANS_DEVICE", device)
    check(estimator)


def test_the_only_expected_failures_are_those_that_theirs_has():
    from sklearn.utils._test_common.instance_generator import PER_ESTIMATOR_XFAIL_CHECKS

    for estimator in CHECKED:
        assert expected_failures(estimator).keys() <= PER_ESTIMATOR_XFAIL_CHECKS[Theirs].keys()


def test_array_api_dispatch_changes_nothing():
    """This check runs only where SciPy was imported with the variable set, so in a process of its own."""
    program = """
from sklearn.utils.estimator_checks import check_estimator
from gpukmeans import KMeans
results = check_estimator(KMeans(n_clusters=2, device="cpu"), on_skip=None, on_fail=None)
found = {result["check_name"]: result["status"] for result in results}
assert found["check_array_api_input"] == "passed", found
"""
    environment = {**os.environ, "SCIPY_ARRAY_API": "1"}
    subprocess.run([sys.executable, "-W", "ignore", "-c", program], env=environment, check=True)


@pytest.mark.parametrize("n_init", [1, 3])
def test_a_weight_is_copies_wherever_they_stand_if_the_start_is_fixed(kmeans, n_init):
    """What the two checks ask for, to the bit: weights in another row order, zeros among them."""
    rng = np.random.RandomState(0)
    for _ in range(20):
        x = rng.random_sample((15, 30))
        weights = rng.randint(0, 5, size=15)
        order = rng.permutation(15)
        model = kmeans(n_clusters=3, init=same_centers, n_init=n_init)
        repeated = clone(model).fit(x.repeat(weights, axis=0))
        weighted = clone(model).fit(x[order], sample_weight=weights[order])
        assert weighted.cluster_centers_.tobytes() == repeated.cluster_centers_.tobytes()
        assert weighted.inertia_ == repeated.inertia_
        assert weighted.n_iter_ == repeated.n_iter_
        assert weighted.transform(x).tobytes() == repeated.transform(x).tobytes()
        np.testing.assert_array_equal(weighted.labels_, repeated.predict(x[order]))


# ---------------------------------------------------------------- parameters


def test_clone_has_the_parameters_and_nothing_of_the_fit(kmeans, blobs):
    model = kmeans(n_clusters=3, tol=0.5, init=blobs[0][:3]).fit(blobs[0])
    copy = clone(model)
    assert copy.get_params().keys() == model.get_params().keys() >= {*Theirs().get_params(), "device"}
    assert copy.tol == 0.5
    assert not [name for name in vars(copy) if name.endswith("_")]
    np.testing.assert_array_equal(copy.fit(blobs[0]).labels_, model.labels_)
    with pytest.raises(ValueError, match="Invalid parameter 'clusters'"):
        model.set_params(clusters=3)


def test_pickling_keeps_every_bit(kmeans, digits):
    x, _ = digits
    model = kmeans(n_clusters=10, random_state=0).fit(x)
    stored = pickle.dumps(model)
    assert b"cupy" not in stored  # so that it loads where there is none
    loaded = pickle.loads(stored)
    assert loaded.get_params() == model.get_params()
    assert loaded.cluster_centers_.tobytes() == model.cluster_centers_.tobytes()
    np.testing.assert_array_equal(loaded.labels_, model.labels_)
    assert (loaded.inertia_, loaded.n_iter_) == (model.inertia_, model.n_iter_)
    np.testing.assert_array_equal(loaded.predict(x[::3]), model.labels_[::3])
    np.testing.assert_array_equal(loaded.fit(x).labels_, model.labels_)


def test_html_names_the_estimator_and_its_parameters(kmeans, blobs):
    model = kmeans(n_clusters=3)
    page = model._repr_html_()
    assert "KMeans" in page
    assert "Not fitted" in page
    assert "n_clusters" in page
    fitted = model.fit(blobs[0])._repr_html_()
    assert "Not fitted" not in fitted
    assert "Fitted" in fitted
    assert repr(kmeans(n_clusters=3)).startswith("KMeans(")


# ---------------------------------------------------------------- in others' hands


def test_in_a_pipeline(kmeans, digits):
    x, _ = digits
    pipeline = make_pipeline(StandardScaler(), kmeans(n_clusters=10, random_state=0))
    labels = pipeline.fit_predict(x)
    scaled = StandardScaler().fit_transform(x)
    np.testing.assert_array_equal(labels, kmeans(n_clusters=10, random_state=0).fit(scaled).labels_)
    np.testing.assert_array_equal(pipeline.predict(x), labels)
    assert pipeline.transform(x).shape == (len(x), 10)
    assert pipeline.score(x) == pipeline[-1].score(scaled)
    assert pipeline.get_feature_names_out().tolist() == [f"kmeans{i}" for i in range(10)]


def test_grid_search_finds_the_number_of_blobs_it_scores_best(kmeans, blobs):
    """The score is minus the inertia, which more centers always lower."""
    x, _ = blobs
    search = GridSearchCV(kmeans(random_state=0), {"n_clusters": [2, 3, 4]}, cv=3, error_score="raise").fit(x)
    assert search.best_params_ == {"n_clusters": 4}
    np.testing.assert_array_equal(search.predict(x), kmeans(n_clusters=4, random_state=0).fit(x).labels_)
    scores = search.cv_results_["mean_test_score"]
    assert scores[0] < scores[1] < scores[2] < 0


def test_grid_search_in_other_processes(kmeans, blobs, device):
    if device != "cpu":
        return  # the parent's device does not reach another process
    x, _ = blobs
    searches = [
        GridSearchCV(kmeans(random_state=0), {"n_clusters": [2, 4]}, cv=2, n_jobs=jobs).fit(x) for jobs in (1, 2)
    ]
    scores = [search.cv_results_["mean_test_score"].tolist() for search in searches]
    assert scores[0] == scores[1]


# ---------------------------------------------------------------- names and frames


@pytest.mark.parametrize("frame", [pd.DataFrame, pl.DataFrame])
def test_frames_give_their_names(kmeans, blobs, frame):
    x, _ = blobs
    columns = {"width": x[:, 0], "height": x[:, 1]}
    model = kmeans(n_clusters=4, random_state=0).fit(frame(columns))
    expected = kmeans(n_clusters=4, random_state=0).fit(x)
    theirs = Theirs(n_clusters=4, random_state=0).fit(frame(columns))
    assert model.feature_names_in_.tolist() == theirs.feature_names_in_.tolist() == ["width", "height"]
    assert model.cluster_centers_.tobytes() == expected.cluster_centers_.tobytes()
    np.testing.assert_array_equal(model.predict(frame(columns)), expected.labels_)
    with pytest.raises(ValueError, match="feature names"):
        model.predict(frame({"a": x[:, 0], "b": x[:, 1]}))


@pytest.mark.parametrize(("kind", "frame"), [("pandas", pd.DataFrame), ("polars", pl.DataFrame)])
def test_output_names_and_frames(kmeans, blobs, kind, frame):
    x, _ = blobs
    ours, theirs = (model(n_clusters=3, random_state=0).fit(x) for model in (kmeans, Theirs))
    expected = list(theirs.get_feature_names_out())
    assert ours.get_feature_names_out().tolist() == expected == ["kmeans0", "kmeans1", "kmeans2"]
    plain = ours.transform(x)
    with config_context(transform_output=kind):
        assert list(ours.transform(x).columns) == expected
    for table in (ours.set_output(transform=kind).transform(x), ours.fit_transform(x)):
        assert isinstance(table, frame)
        assert list(table.columns) == expected
        assert np.asarray(table).tobytes() == plain.tobytes()
    assert type(ours.predict(x)) is np.ndarray


def test_frames_keep_their_index(kmeans, blobs):
    x = pd.DataFrame(blobs[0], index=np.arange(len(blobs[0])) * 7)
    table = kmeans(n_clusters=3, random_state=0).set_output(transform="pandas").fit_transform(x)
    assert table.index.equals(x.index)


# ---------------------------------------------------------------- metadata routing


def test_sample_weight_is_routed_where_it_is_asked_for(kmeans, blobs):
    x, _ = blobs
    weights = np.random.RandomState(0).randint(1, 5, len(x))
    scaled = StandardScaler().fit_transform(x)
    with config_context(enable_metadata_routing=True):
        model = kmeans(n_clusters=3, random_state=0).set_fit_request(sample_weight=True)
        pipeline = make_pipeline(StandardScaler().set_fit_request(sample_weight=False), model)
        pipeline.fit(x, sample_weight=weights)
        expected = kmeans(n_clusters=3, random_state=0).fit(scaled, sample_weight=weights)
        assert pipeline[-1].cluster_centers_.tobytes() == expected.cluster_centers_.tobytes()

        ignoring = make_pipeline(StandardScaler(), kmeans(n_clusters=3, random_state=0))
        with pytest.raises(UnsetMetadataPassedError, match="sample_weight"):
            ignoring.fit(x, sample_weight=weights)

        scored = model.set_score_request(sample_weight=True)
        search = GridSearchCV(scored, {"n_clusters": [2, 3]}, cv=2).fit(x, sample_weight=weights)
        half = len(x) // 2
        expected = [
            clone(model)
            .set_params(n_clusters=2)
            .fit(x[a], sample_weight=weights[a])
            .score(x[b], sample_weight=weights[b])
            for a, b in [(slice(half, None), slice(half)), (slice(half), slice(half, None))]
        ]
        found = [search.cv_results_[f"split{i}_test_score"][0] for i in range(2)]
        assert found == expected
