"""Libraries that take an estimator or make scikit-learn's, and others that keep models: they work with ours, given or
put in its place."""

from __future__ import annotations

import subprocess
import sys
import warnings

import numpy as np
import pytest
import sklearn.cluster
import skops.io
from clustergram import Clustergram
from imblearn.over_sampling import KMeansSMOTE
from imblearn.under_sampling import ClusterCentroids
from kneed import KneeLocator
from onnx.reference import ReferenceEvaluator
from skl2onnx import to_onnx
from sklearn.datasets import make_classification
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

import gpukmeans
from gpukmeans import KMeans, MiniBatchKMeans, accel


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


@pytest.fixture
def accelerated():
    accel.install()
    yield
    accel.uninstall()


def test_shap_summarizes_rows_by_theirs_accelerated(accelerated, digits):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of matplotlib's that it draws with
        import shap
    x = digits[0][:300]
    model = KMeans(5, n_init=10, random_state=0).fit(x)
    summary = shap.kmeans(x, 5, round_values=False)
    assert summary.data.tobytes() == model.cluster_centers_.tobytes()
    assert summary.weights.tolist() == (np.bincount(model.labels_) / len(x)).tolist()


def test_clustergram_draws_labels_by_theirs_accelerated(accelerated, digits):
    x = digits[0][:300]
    drawn = Clustergram(range(1, 5), backend="sklearn", random_state=0, n_init=1, verbose=False).fit(x)
    for k in range(1, 5):
        model = KMeans(k, n_init=1, random_state=0).fit(x)
        assert drawn.labels_[k].tolist() == model.labels_.tolist()


# ---------------------------------------------------------------- models in other libraries' files


@pytest.fixture
def registered():
    gpukmeans.register_onnx()
    gpukmeans.register_onnx()  # again


def answers(model, x, **options):
    """The labels and distances of an ONNX model."""
    return ReferenceEvaluator(to_onnx(model, x[:1], **options)).run(None, {"X": x})


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
@pytest.mark.parametrize("kind", [KMeans, MiniBatchKMeans])
def test_skl2onnx_converts_ours_as_it_does_scikit_learns(registered, kind, dtype, digits):
    model = kind(10, random_state=0).fit(digits[0].astype(dtype))
    x = digits[0].astype(np.float64 if dtype == np.float64 else np.float32)
    for gemm in (True, False):
        theirs = model.to_sklearn()
        expected = answers(theirs, x, options={id(theirs): {"gemm": gemm}})
        for options in ({id(model): {"gemm": gemm}}, {kind: {"gemm": gemm}}):
            nodes = [node.op_type for node in to_onnx(model, x[:1], options=options).graph.node]
            assert ("Gemm" in nodes) == gemm
            found = answers(model, x, options=options)
            assert [each.tobytes() for each in found] == [each.tobytes() for each in expected]
    assert found[0].tolist() == model.labels_.tolist()
    np.testing.assert_allclose(found[1], model.transform(x), rtol=1e-3)


def test_skl2onnx_converts_pipelines_with_ours(registered, digits):
    x = digits[0]
    pipeline = make_pipeline(StandardScaler(), KMeans(10, random_state=0)).fit(x)
    assert answers(pipeline, x)[0].tolist() == pipeline[-1].labels_.tolist()


def test_skl2onnx_is_not_given_what_it_would_convert_wrongly(registered, digits):
    model = KMeans(10, metric="cosine", random_state=0).fit(digits[0])
    with pytest.raises(ValueError, match="metric='cosine' has no counterpart"):
        to_onnx(model, digits[0][:1])


def test_without_skl2onnx_the_remedy_is_named():
    program = (
        "import sys; sys.modules['skl2onnx'] = None\n"
        "import gpukmeans\n"
        "try: gpukmeans.register_onnx()\n"
        "except ImportError as error: print(error)"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.startswith("register_onnx needs skl2onnx (")
    assert done.stdout.endswith("): pip install skl2onnx\n")


@pytest.mark.parametrize(
    ("kind", "trusted"),
    [
        (KMeans, ["gpukmeans.estimator.KMeans", "gpukmeans.progress.Record"]),
        (MiniBatchKMeans, ["gpukmeans.minibatch.MiniBatchKMeans"]),
    ],
)
def test_skops_asks_to_trust_what_the_pages_say(kind, trusted, digits):
    model = kind(10, random_state=0).fit(digits[0])
    dumped = skops.io.dumps(model)
    assert skops.io.get_untrusted_types(data=dumped) == trusted
    loaded = skops.io.loads(dumped, trusted=trusted)
    assert loaded.predict(digits[0]).tolist() == model.labels_.tolist()
    assert vars(loaded).keys() == vars(model).keys()
    assert skops.io.get_untrusted_types(data=skops.io.dumps(model.to_sklearn())) == []
