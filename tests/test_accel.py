"""scikit-learn's k-means computed by gpukmeans: whoever asks, and however it was got hold of."""

from __future__ import annotations

import inspect
import logging
import os
import pickle
import subprocess
import sys
from contextlib import contextmanager

import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp
import sklearn.cluster
from sklearn import config_context
from sklearn.base import clone
from sklearn.cluster import KMeans, MiniBatchKMeans, k_means, kmeans_plusplus
from sklearn.cluster._kmeans import _BaseKMeans
from sklearn.mixture import GaussianMixture
from sklearn.model_selection import GridSearchCV
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import KBinsDiscretizer, StandardScaler
from test_saving import assert_same

import gpukmeans
from gpukmeans import accel
from gpukmeans.accel import fallback

X = np.random.default_rng(0).normal(size=(400, 3))
WEIGHTS = np.random.default_rng(1).integers(0, 4, 400)

# scikit-learn's own, before anything is replaced.
REPLACED = [(KMeans, "fit"), (MiniBatchKMeans, "fit"), (MiniBatchKMeans, "partial_fit"), (_BaseKMeans, "_transform")]
OWN = [vars(owner)[name] for owner, name in REPLACED]


@pytest.fixture(autouse=True)
def on_the_device(device, monkeypatch):
    monkeypatch.setenv("GPUKMEANS_DEVICE", device)
    monkeypatch.delenv(accel.VARIABLE, raising=False)
    monkeypatch.setattr(fallback, "_told", set())


@contextmanager
def accelerated():
    accel.install()
    try:
        yield
    finally:
        accel.uninstall()


@pytest.fixture
def on():
    with accelerated():
        yield


@pytest.fixture
def fits(monkeypatch):
    """The estimators of ours that were fitted, in order."""
    seen = []
    for kind in (gpukmeans.KMeans, gpukmeans.MiniBatchKMeans):
        fit = kind.fit

        def counted(self, *args, fit=fit, **kwargs):
            seen.append(type(self))
            return fit(self, *args, **kwargs)

        monkeypatch.setattr(kind, "fit", counted)
    return seen


def bits(model, x):
    return [
        np.asarray(each).tobytes()
        for each in (model.cluster_centers_, model.labels_, model.inertia_, model.predict(x), model.score(x))
    ]


# ---------------------------------------------------------------- ours computes


@pytest.mark.parametrize("name", ["KMeans", "MiniBatchKMeans"])
@pytest.mark.parametrize("weights", [None, WEIGHTS])
@pytest.mark.parametrize(
    "x", [X, X.astype(np.float32), sp.csr_matrix(X), (X * 20 + 100).astype(np.uint8)], ids=["64", "32", "csr", "uint8"]
)
def test_the_answer_is_that_of_gpukmeans_to_the_bit(on, name, weights, x):
    theirs, ours = (getattr(module, name)(5, n_init=2, random_state=1) for module in (sklearn.cluster, gpukmeans))
    assert bits(theirs.fit(x, sample_weight=weights), x) == bits(ours.fit(x, sample_weight=weights), x)
    assert (theirs.n_iter_, theirs.n_features_in_) == (ours.n_iter_, 3)
    assert theirs.transform(x).tobytes() == ours.transform(x if x.dtype != np.uint8 else x.astype(float)).tobytes()
    assert theirs.score(x, sample_weight=weights) == ours.score(x, sample_weight=weights)
    assert type(theirs) is getattr(sklearn.cluster, name)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_labels_of_weighted_rows_are_those_of_all_rows(on, dtype):
    """As MiniBatchKMeans asks for them, where it is scikit-learn's that fits."""
    from sklearn.cluster._kmeans import _labels_inertia_threadpool_limit as labels_inertia

    x = X.astype(dtype)
    model = gpukmeans.KMeans(3, random_state=0).fit(x, sample_weight=WEIGHTS)
    labels, inertia = labels_inertia(x, WEIGHTS.astype(dtype), model.cluster_centers_)
    assert labels.tobytes() == model.labels_.tobytes()
    assert inertia == model.inertia_
    assert labels_inertia(x, None, model.cluster_centers_, return_inertia=False).tobytes() == labels.tobytes()


def test_steps_are_those_of_gpukmeans_to_the_bit(on):
    theirs, ours = sklearn.cluster.MiniBatchKMeans(5, random_state=1), gpukmeans.MiniBatchKMeans(5, random_state=1)
    for batch in (X[:100], X[100:250], X[250:]):
        assert bits(theirs.partial_fit(batch), X) == bits(ours.partial_fit(batch), X)
    assert theirs.n_steps_ == 3


def test_the_functions_are_ours(on):
    for own in (k_means, sklearn.cluster.k_means):
        found, expected = own(X, 4, random_state=0), gpukmeans.k_means(X, 4, random_state=0)
        assert_same([*map(np.asarray, found)], [*map(np.asarray, expected)])
    for own in (kmeans_plusplus, sklearn.cluster.kmeans_plusplus):
        found = own(X, 4, random_state=0, sample_weight=WEIGHTS)
        assert_same([*found], [*gpukmeans.kmeans_plusplus(X, 4, random_state=0, sample_weight=WEIGHTS)])


def test_what_scikit_learn_builds_on_it_is_ours(on, fits):
    x = np.random.default_rng(0).normal(size=(60, 4))
    for model in (
        sklearn.cluster.SpectralClustering(3, random_state=0),
        sklearn.cluster.SpectralBiclustering(2, n_components=2, n_best=1, random_state=0),
        sklearn.cluster.SpectralCoclustering(2, random_state=0),
        sklearn.cluster.SpectralCoclustering(2, mini_batch=True, random_state=0),
        sklearn.cluster.BisectingKMeans(3, random_state=0),
        sklearn.cluster.BisectingKMeans(3, algorithm="elkan", init="k-means++", random_state=0),
        KBinsDiscretizer(3, strategy="kmeans", encode="ordinal"),
        GaussianMixture(2, random_state=0),
    ):
        fits.clear()
        model.fit(np.abs(x) if "Spectral" in type(model).__name__ else x)
        assert fits, model
        assert all(issubclass(each, gpukmeans.KMeans) for each in fits)


def test_a_mixtures_seeds_are_ours(on, monkeypatch):
    from gpukmeans.accel import replacements

    asked = []
    own = replacements.kmeans_plusplus
    monkeypatch.setattr(replacements, "kmeans_plusplus", lambda *args, **how: asked.append(1) or own(*args, **how))
    GaussianMixture(2, init_params="k-means++", random_state=0).fit(X)
    assert asked


def test_bisecting_splits_each_cluster_as_scikit_learns_would():
    x = np.concatenate([X + shift for shift in ([0, 0, 0], [20, 0, 0], [0, 60, 0], [0, 70, 0])])
    model = sklearn.cluster.BisectingKMeans(4, random_state=0, init="k-means++", n_init=3)
    theirs = clone(model).fit(x)
    with accelerated():
        ours = clone(model).fit(x)
        assert (ours.predict(x) == ours.labels_).all()
    order = [int(ours.labels_[np.flatnonzero(theirs.labels_ == i)[0]]) for i in range(4)]
    assert (np.array(order)[theirs.labels_] == ours.labels_).all()
    np.testing.assert_allclose(ours.cluster_centers_[order], theirs.cluster_centers_, atol=1e-12)
    np.testing.assert_allclose(ours.inertia_, theirs.inertia_)


# ---------------------------------------------------------------- scikit-learn's classes stay what they are


def test_classes_and_instances_are_the_same_before_while_and_after():
    before = KMeans(3, random_state=0)
    with accelerated():
        assert sklearn.cluster.KMeans is KMeans
        model = sklearn.cluster.KMeans(3, random_state=0).fit(X)
        assert isinstance(model, KMeans)
        assert isinstance(model, _BaseKMeans)
        assert isinstance(before, sklearn.cluster.KMeans)
        assert bits(before.fit(X), X) == bits(model, X)
        assert inspect.signature(KMeans.fit) == inspect.signature(OWN[0])
        assert KMeans.fit.__doc__ == OWN[0].__doc__
        assert repr(model) == "KMeans(n_clusters=3, random_state=0)"
        assert model.get_params() == before.get_params()
        copy = clone(model)
    assert isinstance(model, KMeans)
    assert (model.predict(X) == model.labels_).all()
    assert bits(copy.fit(X), X) != bits(model, X)


def test_uninstalling_puts_everything_back():
    with accelerated():
        assert accel.installed()
        assert os.environ[accel.VARIABLE] == "1"
        accel.install()
        assert [vars(owner)[name] for owner, name in REPLACED] != OWN
    accel.uninstall()
    assert [vars(owner)[name] for owner, name in REPLACED] == OWN
    assert not accel.installed()
    assert accel.VARIABLE not in os.environ
    assert set(dir(KMeans)) == set(dir(sklearn.cluster.KMeans))


def test_a_variable_that_a_user_has_set_is_left(monkeypatch):
    monkeypatch.setenv(accel.VARIABLE, "true")
    with accelerated():
        pass
    assert os.environ[accel.VARIABLE] == "true"


@pytest.mark.parametrize("name", ["KMeans", "MiniBatchKMeans"])
def test_a_fit_leaves_what_scikit_learns_leaves(name):
    """Of the same types and dtypes; only what a MiniBatchKMeans watches while it is fitted is not there."""
    for x in (X, X.astype(np.float32), X.astype(np.float16), X.astype(int), sp.csr_matrix(X), pd.DataFrame(X)):
        model = getattr(sklearn.cluster, name)(4, tol=1e-4, random_state=0)
        theirs = clone(model).fit(x)
        with accelerated():
            ours = clone(model).fit(x)
        missing = vars(theirs).keys() - vars(ours).keys()
        assert missing == (set() if name == "KMeans" else {"_ewa_inertia", "_ewa_inertia_min", "_no_improvement"})
        assert vars(ours).keys() - vars(theirs).keys() == (set() if name == "KMeans" else {"_seed_drawn"})
        for key, value in vars(theirs).items():
            if isinstance(value, np.ndarray):
                found = getattr(ours, key)
                assert (found.dtype, found.shape) == (value.dtype, value.shape), key
        assert (ours._n_init, ours._n_threads, ours._n_features_out) == (1, theirs._n_threads, 4)
        np.testing.assert_allclose(ours._tol, theirs._tol, rtol=1e-3)
        assert ours.transform(x).dtype == theirs.transform(x).dtype


def test_in_pipelines_and_searches(on, fits):
    pipeline = make_pipeline(StandardScaler(), KMeans(4, random_state=0)).fit(X)
    scaled = StandardScaler().fit_transform(X)
    assert bits(pipeline[-1], scaled) == bits(gpukmeans.KMeans(4, random_state=0).fit(scaled), scaled)
    frame = pipeline[-1].set_output(transform="pandas").transform(scaled)
    assert frame.columns.tolist() == [f"kmeans{i}" for i in range(4)]
    fits.clear()
    search = GridSearchCV(KMeans(random_state=0), {"n_clusters": [2, 3]}, cv=2, error_score="raise").fit(X)
    assert len(fits) == 5
    assert search.best_params_ == {"n_clusters": 3}
    with config_context(enable_metadata_routing=True):
        routed = make_pipeline(StandardScaler(), KMeans(2, random_state=0).set_fit_request(sample_weight=True))
        routed.named_steps["standardscaler"].set_fit_request(sample_weight=False)
        routed.fit(X, sample_weight=WEIGHTS)
    expected = gpukmeans.KMeans(2, random_state=0).fit(scaled, sample_weight=WEIGHTS)
    assert routed[-1].cluster_centers_.tobytes() == expected.cluster_centers_.tobytes()


def test_frames_keep_their_names(on):
    frame = pd.DataFrame(X, columns=["a", "b", "c"])
    model = MiniBatchKMeans(3, random_state=0).partial_fit(frame).partial_fit(frame)
    assert model.feature_names_in_.tolist() == ["a", "b", "c"]
    assert KMeans(3, random_state=0).fit_transform(frame).shape == (400, 3)
    with pytest.raises(ValueError, match="feature names should match"):
        model.predict(frame.rename(columns={"a": "z"}))


# ---------------------------------------------------------------- models that go elsewhere


def test_a_model_loads_and_goes_on_where_gpukmeans_is_not(on, tmp_path):
    models = [KMeans(4, random_state=0).fit(X), MiniBatchKMeans(4, random_state=0).partial_fit(X)]
    assert b"gpukmeans" not in pickle.dumps(models)
    (tmp_path / "models").write_bytes(pickle.dumps(models))
    np.save(tmp_path / "x.npy", X)
    program = (
        "import sys, pickle, numpy; sys.modules['gpukmeans'] = None\n"
        "x = numpy.load('x.npy'); models = pickle.load(open('models', 'rb'))\n"
        "for model in models: print(*model.predict(x)); model.transform(x)\n"
        "models[1].partial_fit(x); models[0].fit(x); print(models[1].n_steps_)"
    )
    done = subprocess.run([sys.executable, "-c", program], cwd=tmp_path, capture_output=True, text=True, check=True)
    *labels, steps = done.stdout.splitlines()
    assert labels == [" ".join(map(str, model.labels_)) for model in models]
    assert steps == "2"


@pytest.mark.parametrize("step", ["fit", "partial_fit"])
def test_a_model_of_scikit_learns_goes_on_with_ours(step):
    model = getattr(MiniBatchKMeans(4, random_state=0), step)(X)
    steps, counts = model.n_steps_, model._counts.sum()
    labels = model.predict(X)
    with accelerated():
        assert (model.predict(X) == labels).all()
        model.partial_fit(X)
    assert (model.n_steps_, model._counts.sum()) == (steps + 1, counts + 400)
    assert model.partial_fit(X).n_steps_ == steps + 2


# ---------------------------------------------------------------- what is left to scikit-learn


class Jittered(KMeans):
    """Has a private method of its own, as subclasses in other libraries do."""

    def _init_centroids(self, X, *args, **kwargs):
        return super()._init_centroids(X, *args, **kwargs) + 0.25


class Checked(KMeans):
    """Uses private names, and has public methods of its own."""

    def fit(self, X, y=None, sample_weight=None):
        super().fit(X, sample_weight=sample_weight)
        assert self._n_threads >= 1
        assert self._algorithm == "lloyd"
        assert self._tol > 0
        return self

    def nearest(self, X):
        return self._transform(self._check_test_data(X)).min(axis=1)


def test_a_subclass_that_overrides_what_a_fit_calls_is_scikit_learns(caplog):
    expected = Jittered(4, init=X[:4]).fit(X)
    with accelerated(), caplog.at_level(logging.INFO, "gpukmeans"):
        for _ in range(3):
            found = Jittered(4, init=X[:4]).fit(X)
            assert found.cluster_centers_.tobytes() == expected.cluster_centers_.tobytes()
    told = [record.message for record in caplog.records if "scikit-learn" in record.message]
    assert told == ["Jittered.fit is left to scikit-learn: it has a _init_centroids of its own"]


def test_any_other_subclass_is_ours(on, fits):
    model = Checked(4, random_state=0).fit(X)
    assert bits(model, X) == bits(gpukmeans.KMeans(4, random_state=0).fit(X), X)
    assert model.nearest(X).tobytes() == model.transform(X).min(axis=1).tobytes()
    assert isinstance(model, sklearn.cluster.KMeans)


def test_a_method_replaced_on_an_instance_is_called(on):
    model = KMeans(2, init=X[:2])
    asked = []
    model._validate_center_shape = lambda X, centers: asked.append(centers.shape)
    model.fit(X)
    assert asked == [(2, 3)]


@pytest.mark.parametrize("seed", [0, "RandomState", None])
def test_negative_weights_get_scikit_learns_answer_from_scikit_learns_draws(seed, caplog):
    weights = np.where(np.arange(400) == 7, -0.125, WEIGHTS)

    def drawn(x, k, random_state):
        return x[random_state.permutation(len(x))[:k]]

    def fitted():
        np.random.seed(5)
        state = np.random.RandomState(3) if seed == "RandomState" else seed
        return KMeans(3, init=drawn, n_init=2, random_state=state).fit(X, sample_weight=weights)

    expected = fitted()
    with accelerated(), caplog.at_level(logging.INFO, "gpukmeans"):
        found = fitted()
    assert "KMeans.fit is left to scikit-learn: Negative values" in caplog.text
    assert found.cluster_centers_.tobytes() == expected.cluster_centers_.tobytes()


def test_draws_are_given_back_to_whichever_generator():
    from gpukmeans.accel.replacements import _draws_given_back

    for state in (np.random.RandomState(3), None, np.random):
        np.random.seed(3)
        generator = state if isinstance(state, np.random.RandomState) else np.random
        with _draws_given_back(state) as give_back:
            generator.random_sample(10)
            give_back()
        assert generator.random_sample() == np.random.RandomState(3).random_sample()


@pytest.mark.parametrize(
    ("how", "x"),
    [
        ({"n_clusters": 0}, X),
        ({"n_clusters": 500}, X),
        ({"init": "k-means||"}, X),
        ({"init": X[:3]}, X),
        ({"algorithm": "full"}, X),
        ({}, np.full((20, 2), np.nan)),
        ({}, X[:, :0]),
        ({}, X[0]),
        ({}, X + 1j),
        ({}, [["a"] * 3] * 20),
    ],
    ids=lambda value: str(list(value)) if isinstance(value, dict) else "",
)
def test_errors_are_scikit_learns(how, x):
    with pytest.raises((TypeError, ValueError)) as expected:
        KMeans(**{"n_clusters": 4, **how}).fit(x)
    with accelerated(), pytest.raises((TypeError, ValueError)) as found:
        KMeans(**{"n_clusters": 4, **how}).fit(x)
    assert (found.type, str(found.value)) == (expected.type, str(expected.value))


def test_unknown_parameters_are_scikit_learns_error(on):
    with pytest.raises(TypeError, match="unexpected keyword argument 'metric'"):
        KMeans(metric="cosine")


@pytest.mark.parametrize("init", [lambda x, k, random_state: x[:k].copy(), lambda x, k, random_state: np.eye(k, 3)])
def test_a_callable_sees_what_scikit_learn_shows_it(init):
    """Rows less their mean, and centers to which that is added. (A view of the rows would be written to there.)"""
    x = X + 5
    theirs = KMeans(3, init=init, n_init=1).fit(x)
    with accelerated():
        ours = KMeans(3, init=init, n_init=1).fit(x)
    np.testing.assert_allclose(ours.cluster_centers_, theirs.cluster_centers_, rtol=1e-12)
    assert (ours.labels_ == theirs.labels_).all()


def test_from_the_same_start_the_answer_is_scikit_learns(blobs, digits):
    for x, k in ((blobs[0], 4), (digits[0], 10)):
        start = x[:: len(x) // k][:k]
        theirs = KMeans(k, init=start).fit(x)
        with accelerated():
            ours = KMeans(k, init=start).fit(x)
        assert (ours.labels_ == theirs.labels_).all()
        np.testing.assert_allclose(ours.inertia_, theirs.inertia_, rtol=1e-9)
        np.testing.assert_allclose(ours.cluster_centers_, theirs.cluster_centers_, rtol=1e-9, atol=1e-9)
