"""Estimators as scikit-learn's, and back; and other libraries' names, which are errors that name ours."""

from __future__ import annotations

import pickle
import subprocess
import sys

import numpy as np
import pandas as pd
import pytest
import sklearn.cluster
from sklearn import config_context
from test_saving import assert_same

import gpukmeans
from gpukmeans import KMeans, MiniBatchKMeans

X = np.random.default_rng(0).normal(size=(300, 3))


# ---------------------------------------------------------------- to scikit-learn's class


@pytest.mark.parametrize("dtype", [np.float64, np.float32, np.float16, np.uint8])
@pytest.mark.parametrize("name", ["KMeans", "MiniBatchKMeans"])
def test_scikit_learns_has_the_same_fit(device, name, dtype):
    x = (X * 20 + 100).astype(dtype)
    model = getattr(gpukmeans, name)(6, random_state=0, device=device).fit(x)
    theirs = model.to_sklearn()
    assert type(theirs) is getattr(sklearn.cluster, name)
    assert (theirs.cluster_centers_ == model.cluster_centers_).all()
    assert theirs.cluster_centers_.dtype in (np.float64, np.float32)
    assert theirs.labels_.tobytes() == model.labels_.tobytes()
    assert (theirs.inertia_, theirs.n_iter_, theirs.n_features_in_) == (model.inertia_, model.n_iter_, 3)
    assert (theirs.predict(x) == model.labels_).all()
    np.testing.assert_allclose(theirs.transform(x), model.transform(x), rtol=1e-3)
    np.testing.assert_allclose(theirs.score(x), model.score(x), rtol=1e-4)
    assert theirs.get_feature_names_out().tolist() == model.get_feature_names_out().tolist()
    theirs.fit(x)


def test_parameters_go_along_as_far_as_there_are_any():
    state = np.random.RandomState(1)
    model = KMeans(3, init=X[:3], n_init=1, max_iter=7, tol=0.5, algorithm="elkan", random_state=state, device="cpu")
    theirs = model.to_sklearn()
    assert not hasattr(theirs, "cluster_centers_")
    for name, value in theirs.get_params().items():
        assert_same(value, model.get_params()[name])
    assert theirs.init is not model.init
    assert theirs.random_state is not state
    assert KMeans(3, init="k-means||").to_sklearn().init == "k-means++"


def test_there_and_back_is_the_same_estimator(device):
    frame = pd.DataFrame(X, columns=["a", "b", "c"])
    with config_context(enable_metadata_routing=True):
        requesting = MiniBatchKMeans(4, random_state=0).set_fit_request(sample_weight=None)
    for model in (
        KMeans(4, random_state=0, tol=1e-3).fit(frame),
        MiniBatchKMeans(4, random_state=0, batch_size=50).fit(frame).set_output(transform="pandas"),
        requesting.partial_fit(frame),
        KMeans(4),
    ):
        back = type(model).from_sklearn(model.to_sklearn())
        expected = {name: value for name, value in model.__getstate__().items() if name != "history_"}
        assert_same(dict(sorted(back.__getstate__().items())), dict(sorted(expected.items())))


def test_it_goes_on_with_partial_fit_where_it_was(device, tmp_path):
    model = MiniBatchKMeans(4, random_state=0, device=device).partial_fit(X[:100])
    theirs = model.to_sklearn()
    back = MiniBatchKMeans.from_sklearn(theirs).set_params(device=device)
    back.save(tmp_path / "model.npz")
    for each in (model, back, gpukmeans.load(tmp_path / "model.npz"), theirs):
        each.partial_fit(X[100:])
        assert each.n_steps_ == 2
        assert each._counts.sum() == 300
    assert back.cluster_centers_.tobytes() == model.cluster_centers_.tobytes()


def test_cosine_is_refused_with_the_reason():
    with pytest.raises(ValueError, match="metric='cosine' has no counterpart in scikit-learn, which does not bring"):
        KMeans(2, metric="cosine").fit(X).to_sklearn()


def test_centers_that_cannot_be_used_are_refused():
    model = KMeans(2).fit(X)
    model.cluster_centers_ = np.full((2, 3), np.nan)
    with pytest.raises(ValueError, match="cluster_centers_ holds no centers that can be used"):
        model.to_sklearn()


def test_its_pickle_loads_where_gpukmeans_is_not(tmp_path):
    model = KMeans(4, random_state=0).fit(X)
    (tmp_path / "model.pickle").write_bytes(pickle.dumps(model.to_sklearn()))
    np.save(tmp_path / "x.npy", X)
    program = (
        "import sys, pickle, numpy; sys.modules['gpukmeans'] = None\n"
        "model = pickle.load(open('model.pickle', 'rb')); print(*model.predict(numpy.load('x.npy')))"
    )
    done = subprocess.run([sys.executable, "-c", program], cwd=tmp_path, capture_output=True, text=True, check=True)
    assert done.stdout.split() == [str(label) for label in model.labels_]


# ---------------------------------------------------------------- from scikit-learn's class


@pytest.mark.parametrize("name", ["KMeans", "MiniBatchKMeans"])
def test_ours_has_the_fit_of_scikit_learns(device, name, tmp_path):
    theirs = getattr(sklearn.cluster, name)(6, random_state=0).fit(X)
    model = getattr(gpukmeans, name).from_sklearn(theirs).set_params(device=device)
    assert {**theirs.get_params()}.items() <= model.get_params().items()
    assert model.cluster_centers_.tobytes() == theirs.cluster_centers_.tobytes()
    assert model.cluster_centers_ is not theirs.cluster_centers_
    assert (model.predict(X) == theirs.labels_).all()
    assert (model.n_iter_, model.n_features_in_) == (theirs.n_iter_, 3)
    model.save(tmp_path / "model.npz")
    assert (gpukmeans.load(tmp_path / "model.npz").predict(X) == theirs.labels_).all()
    if name == "MiniBatchKMeans":
        counts = theirs._counts.sum()
        assert model.partial_fit(X)._counts.sum() == counts + 300


def test_only_the_class_of_the_same_name_is_taken():
    class Other(sklearn.cluster.KMeans):
        pass

    for model in (sklearn.cluster.MiniBatchKMeans(), sklearn.cluster.BisectingKMeans(), Other(), KMeans(), None):
        with pytest.raises(TypeError, match=r"takes a sklearn.cluster.KMeans and no subclass of it, got"):
            KMeans.from_sklearn(model)


# ---------------------------------------------------------------- other libraries' names


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("max_samples_per_batch", "which is one of cuML. Batches are as large as memory allows"),
        ("handle", "leave it out"),
        ("batch_size", "which is one of MiniBatchKMeans. Use that"),
        ("niter", "which is one of FAISS. Write max_iter"),
        ("seed", "Write random_state"),
        ("spherical", 'Write metric="cosine"'),
        ("tolerance", "Write tol"),
    ],
)
def test_a_foreign_parameter_is_an_error_that_names_ours(name, message):
    with pytest.raises(TypeError, match=f"KMeans has no parameter '{name}'") as error:
        KMeans(**{name: 1})
    assert message in str(error.value)
    with pytest.raises(ValueError, match=f"Invalid parameter '{name}', which is one of"):
        KMeans().set_params(**{name: 1})


def test_a_parameter_that_nobody_has_is_pythons_and_scikit_learns_error():
    with pytest.raises(TypeError, match="unexpected keyword argument 'clusterz'"):
        KMeans(clusterz=3)
    with pytest.raises(ValueError, match="Invalid parameter 'clusterz'"):
        KMeans().set_params(clusterz=3)
    assert MiniBatchKMeans(batch_size=5, init_size=7).init_size == 7


def test_a_subclass_may_have_a_parameter_of_such_a_name():
    class Seeded(KMeans):
        def __init__(self, n_clusters=8, seed=0):
            super().__init__(n_clusters, random_state=seed)
            self.seed = seed

    assert Seeded().set_params(seed=3).seed == 3


@pytest.mark.parametrize("Model", [KMeans, MiniBatchKMeans])
@pytest.mark.parametrize(
    ("given", "instead"),
    [
        ({"init": "scalable-k-means++"}, 'what cuML calls it. Write init="k-means||"'),
        ({"init": "afk-mc2"}, 'Write init="k-means||"'),
        ({"metric": "L2"}, 'Write metric="euclidean"'),
        ({"metric": "cos"}, 'Write metric="cosine"'),
    ],
)
def test_a_foreign_value_is_an_error_that_names_ours(Model, given, instead):
    with pytest.raises(ValueError, match="is what") as error:
        Model(2, **given).fit(X)
    assert instead in str(error.value)
