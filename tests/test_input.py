"""What may come in: dtypes as they are, frames, and errors of scikit-learn's own types that say what is wrong."""

from __future__ import annotations

import itertools
import warnings

import numpy as np
import pandas as pd
import polars as pl
import pytest
from scipy import sparse
from sklearn.cluster import KMeans as Theirs
from sklearn.exceptions import ConvergenceWarning, NotFittedError
from unaligned import unaligned

from gpukmeans import KMeans
from gpukmeans.engine.numpy.deduplicate import arrange
from gpukmeans.engine.numpy.points import NumPyPoints
from gpukmeans.engine.numpy.tuning import tuned
from gpukmeans.engine.protocol import Samples
from gpukmeans.exact.distance import LARGEST_MAGNITUDE
from gpukmeans.exact.fixed_point import Weights

# ---------------------------------------------------------------- bad input

GOOD = np.random.default_rng(0).normal(size=(12, 3))


def spoiled(value, dtype=np.float64):
    x = GOOD.astype(dtype)
    x[7, 1] = value
    return x


def weights(*, value=1.0, n=12):
    w = np.ones(n)
    w[5] = value
    return w


# name: (X, arguments of fit, parameters, what the message must say)
BAD_FITS = {
    "NaN": (spoiled(np.nan), {}, {}, "NaN"),
    "NaN in float32": (spoiled(np.nan, np.float32), {}, {}, "NaN"),
    "NaN in float16": (spoiled(np.nan, np.float16), {}, {}, "NaN"),
    "NaN in a list": (spoiled(np.nan).tolist(), {}, {}, "NaN"),
    "NaN in a frame": (pd.DataFrame(spoiled(np.nan)), {}, {}, "NaN"),
    "None": ([[1.0, None], [2.0, 3.0]], {}, {}, "NaN"),
    "infinity": (spoiled(np.inf), {}, {}, "infinity"),
    "minus infinity": (spoiled(-np.inf), {}, {}, "infinity"),
    "infinity in float32": (spoiled(np.inf, np.float32), {}, {}, "infinity"),
    "no rows": (np.empty((0, 3)), {}, {}, r"0 sample\(s\)"),
    "no columns": (np.empty((12, 0)), {}, {}, r"0 feature\(s\)"),
    "no numbers": ([], {}, {}, "Expected 2D array"),
    "one dimension": (GOOD[:, 0], {}, {}, "Expected 2D array"),
    "three dimensions": (GOOD[None], {}, {}, "dim 3"),
    "no dimension": (np.float64(3), {}, {}, "Expected 2D array"),
    "fewer rows than clusters": (GOOD[:1], {}, {}, "n_samples=1 should be >= n_clusters=2"),
    "ragged": ([[1.0, 2.0], [3.0]], {}, {}, "inhomogeneous"),
    "strings": (np.array([["a", "b"], ["c", "d"]]), {}, {}, "could not convert string to float"),
    "strings as objects": (np.array([["a", 1], ["c", 2]], object), {}, {}, "could not convert string to float"),
    "complex": (GOOD + 1j, {}, {}, "Complex data not supported"),
    "no clusters": (GOOD, {}, {"n_clusters": 0}, "'n_clusters' parameter .* must be an int in the range"),
    "negative clusters": (GOOD, {}, {"n_clusters": -1}, "'n_clusters' parameter"),
    "clusters as float": (GOOD, {}, {"n_clusters": 2.0}, "'n_clusters' parameter"),
    "no starts": (GOOD, {}, {"n_init": 0}, "'n_init' parameter"),
    "no iterations": (GOOD, {}, {"max_iter": 0}, "'max_iter' parameter"),
    "negative tolerance": (GOOD, {}, {"tol": -1.0}, "'tol' parameter"),
    "unknown init": (GOOD, {}, {"init": "kmeans"}, "'init' parameter"),
    "unknown algorithm": (GOOD, {}, {"algorithm": "full"}, "'algorithm' parameter"),
    "bad seed": (GOOD, {}, {"random_state": "x"}, "'random_state' parameter"),
    "negative weight": (GOOD, {"sample_weight": weights(value=-1.0)}, {}, "Negative values"),
    "NaN weight": (GOOD, {"sample_weight": weights(value=np.nan)}, {}, "NaN"),
    "infinite weight": (GOOD, {"sample_weight": weights(value=np.inf)}, {}, "infinity"),
    "too few weights": (GOOD, {"sample_weight": weights(n=11)}, {}, r"\(11,\)"),
    "too many weights": (GOOD, {"sample_weight": weights(n=13)}, {}, r"\(13,\)"),
    "weights in columns": (GOOD, {"sample_weight": np.ones((12, 2))}, {}, "1D|1d|dimension"),
    "NaN where the weight is zero": (spoiled(np.nan), {"sample_weight": np.arange(12) != 7}, {}, "NaN"),
    "init of another width": (GOOD, {}, {"init": np.zeros((2, 4))}, "number of features"),
    "init of another length": (GOOD, {}, {"init": np.zeros((3, 3))}, "number of clusters"),
}


def error_of(call, *args, **kwargs):
    with pytest.raises(Exception) as caught:  # noqa: PT011, the type is what is asked for
        call(*args, **kwargs)
    return caught.value


@pytest.mark.parametrize("case", BAD_FITS)
def test_bad_input_to_fit_is_refused_as_theirs_is(kmeans, case):
    x, arguments, parameters, message = BAD_FITS[case]
    parameters = {"n_clusters": 2, **parameters}
    theirs = error_of(Theirs(**parameters).fit, x, **arguments)
    with pytest.raises(type(theirs), match=message) as caught:
        kmeans(**parameters).fit(x, **arguments)
    assert type(caught.value) is type(theirs)


@pytest.mark.filterwarnings("ignore:invalid value encountered in:RuntimeWarning")
def test_infinities_that_cancel(kmeans):
    """scikit-learn's own check adds them up, and warns, before it raises."""
    x = np.array([[np.inf], [-np.inf], [0.0]])
    for model in (Theirs(2), kmeans(2)):
        with pytest.raises(ValueError, match="infinity"):
            model.fit(x)


def test_weights_that_are_all_zero(kmeans):
    """scikit-learn divides by zero here; ours is the error that it raises elsewhere for such weights."""
    for w in (np.zeros(12), [0] * 12):
        with pytest.raises(ValueError, match="zero"):
            kmeans(n_clusters=2).fit(GOOD, sample_weight=w)


# name: (X, what the message must say)
BAD_PREDICTIONS = {
    "narrow": (GOOD[:, :2], "X has 2 features, but KMeans is expecting 3 features"),
    "wide": (np.ones((4, 5)), "X has 5 features, but KMeans is expecting 3 features"),
    "one dimension": (GOOD[0], "Expected 2D array"),
    "no rows": (np.empty((0, 3)), r"0 sample\(s\)"),
    "NaN": (spoiled(np.nan), "NaN"),
    "infinity": (spoiled(np.inf, np.float32), "infinity"),
    "strings": (np.array([["a", "b", "c"]]), "could not convert string to float"),
    "complex": (GOOD + 0j, "Complex data not supported"),
}


@pytest.mark.parametrize("method", ["predict", "transform", "score"])
@pytest.mark.parametrize("case", BAD_PREDICTIONS)
def test_bad_input_to_a_fitted_model_is_refused_as_theirs_is(kmeans, case, method):
    x, message = BAD_PREDICTIONS[case]
    ours, theirs = (kind(n_clusters=2, random_state=0).fit(GOOD) for kind in (kmeans, Theirs))
    expected = type(error_of(getattr(theirs, method), x))
    with pytest.raises(expected, match=message) as caught:
        getattr(ours, method)(x)
    assert type(caught.value) is expected


def test_plain_arrays_and_frames_take_turns():
    """An array of NumPy's own is not validated by scikit-learn, whose rules for names and widths it follows."""
    x = np.arange(12.0).reshape(6, 2)
    model = KMeans(2, random_state=0, device="cpu").fit(pd.DataFrame(x, columns=["a", "b"]))
    with pytest.warns(UserWarning, match="X does not have valid feature names"):
        expected = model.predict(x)
    model.fit(x)
    assert not hasattr(model, "feature_names_in_")
    assert model.predict(x).tolist() == expected.tolist()
    with pytest.warns(UserWarning, match="X has feature names"):
        model.predict(pd.DataFrame(x, columns=["a", "b"]))
    with pytest.raises(ValueError, match="X has 1 features, but KMeans is expecting 2 features"):
        model.predict(x[:, :1])
    assert model.fit(x[:, :1]).n_features_in_ == 1


def test_plain_csr_and_frames_take_turns():
    """Nor is a CSR matrix, of either kind; another format or dtype becomes one."""
    x = sparse.csr_matrix(np.arange(12.0).reshape(6, 2))
    frame = pd.DataFrame(x.toarray(), columns=["a", "b"])
    model = KMeans(2, random_state=0, device="cpu").fit(frame)
    for each in (x, sparse.csr_array(x)):
        with pytest.warns(UserWarning, match="X does not have valid feature names"):
            model.predict(each)
    expected = model.fit(x).labels_.tolist()
    assert not hasattr(model, "feature_names_in_")
    for each in (sparse.csr_array(x), x.tocsc(), x.tocoo(), x.astype(np.int64), x.astype(np.float32)):
        assert KMeans(2, random_state=0, device="cpu").fit(each).labels_.tolist() == expected
        assert model.predict(each).tolist() == expected
    with pytest.raises(ValueError, match="X has 1 features, but KMeans is expecting 2 features"):
        model.predict(x[:, :1])
    with pytest.raises(ValueError, match="Found array with 0 sample"):
        model.predict(x[:0])
    with pytest.raises(ValueError, match="0 feature"):
        KMeans(2, device="cpu").fit(x[:, :0])


def test_a_subclass_has_defaults_of_its_own():
    """Which are looked at as any other value is."""

    class Few(KMeans):
        def __init__(self, n_clusters=0, *, max_iter=0):
            super().__init__(n_clusters, max_iter=max_iter)

    for parameters, name in (({"max_iter": 5}, "n_clusters"), ({"n_clusters": 2}, "max_iter")):
        with pytest.raises(ValueError, match=f"'{name}' parameter of Few must be an int in the range"):
            Few(**parameters).fit(np.ones((3, 2)))


@pytest.mark.parametrize("method", ["predict", "transform", "score"])
def test_before_fit(kmeans, method):
    theirs = error_of(getattr(Theirs(), method), GOOD)
    with pytest.raises(NotFittedError) as caught:
        getattr(kmeans(), method)(GOOD)
    assert str(caught.value) == str(theirs)


def test_bad_weights_at_score(kmeans):
    model = kmeans(n_clusters=2, random_state=0).fit(GOOD)
    for w, message in [(weights(value=-1.0), "Negative"), (weights(value=np.nan), "NaN"), (weights(n=9), r"\(9,\)")]:
        with pytest.raises(ValueError, match=message):
            model.score(GOOD, sample_weight=w)


def test_the_device_must_be_a_name():
    with pytest.raises(ValueError, match="'device' parameter"):
        KMeans(2, device=0).fit(GOOD)


def test_values_whose_squares_overflow(kmeans):
    remedy = r"overflow float64\. Scale the data to at most"
    model = kmeans(n_clusters=2, random_state=0).fit(GOOD)
    for value in (1e200, -1e200, np.nextafter(LARGEST_MAGNITUDE, np.inf), np.finfo(np.float64).max):
        x = spoiled(value)
        for call in (kmeans(n_clusters=2).fit, model.predict, model.transform, model.score):
            with pytest.raises(ValueError, match=remedy):
                call(x)
        with pytest.raises(ValueError, match=remedy):
            kmeans(n_clusters=2).fit(x, sample_weight=np.arange(12) != 7)
    for value in (LARGEST_MAGNITUDE, -LARGEST_MAGNITUDE):
        fitted = kmeans(n_clusters=2, random_state=0).fit(spoiled(value))
        assert np.isfinite(fitted.cluster_centers_).all()
        assert np.isfinite(fitted.transform(spoiled(value))).all()


def test_an_inertia_beyond_float64_is_infinite_as_theirs_is(kmeans):
    """Each D is finite; only their weighted sum is not."""
    x = GOOD * 1e100
    with np.errstate(over="ignore"):
        theirs = Theirs(n_clusters=1).fit(x, sample_weight=np.full(12, 1e200))
    assert theirs.inertia_ == np.inf
    model = kmeans(n_clusters=1).fit(x, sample_weight=np.full(12, 1e200))
    assert model.inertia_ == np.inf
    np.testing.assert_allclose(model.cluster_centers_, x.mean(axis=0, keepdims=True), rtol=1e-6)


# ---------------------------------------------------------------- good input


def containers(x):
    yield "list", x.tolist()
    yield "tuple", tuple(map(tuple, x.tolist()))
    yield "pandas", pd.DataFrame(x, columns=["a", "b", "c"])
    yield "polars", pl.DataFrame(x, schema=["a", "b", "c"])
    yield "objects", x.astype(object)
    yield "long double", x.astype(np.longdouble)
    yield "subclass", x.view(type("Sub", (np.ndarray,), {}))


def test_containers_hold_the_same_numbers(kmeans):
    expected = kmeans(n_clusters=3, random_state=0).fit(GOOD)
    for name, x in containers(GOOD):
        model = kmeans(n_clusters=3, random_state=0).fit(x)
        assert model.cluster_centers_.tobytes() == expected.cluster_centers_.tobytes(), name
        assert type(model.cluster_centers_) is np.ndarray, name
        assert model.predict(x).tolist() == expected.labels_.tolist(), name
        assert type(model.labels_) is np.ndarray, name
        assert model.transform(x).tobytes() == expected.transform(GOOD).tobytes(), name


def test_frames_of_mixed_dtypes(kmeans):
    columns = {"a": np.arange(8, dtype=np.uint8), "b": np.linspace(0, 1, 8, dtype=np.float32), "c": [True, False] * 4}
    whole = np.column_stack([np.asarray(c, np.float64) for c in columns.values()])
    expected = kmeans(n_clusters=3, random_state=0).fit(whole)
    model = kmeans(n_clusters=3, random_state=0).fit(pd.DataFrame(columns))
    assert model.labels_.tolist() == expected.labels_.tolist()


def test_weights_come_in_any_container(kmeans):
    w = np.random.default_rng(1).integers(0, 4, 12)
    expected = kmeans(n_clusters=3, random_state=0).fit(GOOD, sample_weight=w)
    for same in (w.tolist(), w.astype(np.float32), w.astype(np.uint8), pd.Series(w), pl.Series(w)):
        model = kmeans(n_clusters=3, random_state=0).fit(GOOD, sample_weight=same)
        assert model.cluster_centers_.tobytes() == expected.cluster_centers_.tobytes()
        assert model.inertia_ == expected.inertia_


@pytest.mark.parametrize("shape", [(5000, 3), (9000, 40), (300, 2000)], ids=str)
@pytest.mark.parametrize("dtype", ["f2", "f4", "f8"])
def test_many_rows_that_are_not_aligned(kmeans, shape, slow, dtype):
    """Which are not copied: every pass reads them, on whatever device."""
    if slow:
        shape = (shape[0] // 20, shape[1])
    x = np.random.default_rng(0).normal(size=shape).astype(dtype)
    w = np.random.default_rng(1).random(len(x)) + 0.5
    one, other = (kmeans(n_clusters=5, random_state=0, max_iter=3) for _ in range(2))
    one.fit(x, sample_weight=w)
    other.fit(unaligned(x), sample_weight=unaligned(w))
    assert other.cluster_centers_.tobytes() == one.cluster_centers_.tobytes()
    assert other.labels_.tobytes() == one.labels_.tobytes()
    assert other.predict(unaligned(x)).tobytes() == one.labels_.tobytes()
    assert other.transform(unaligned(x)).tobytes() == one.transform(x).tobytes()


@pytest.mark.parametrize("dtype", [np.uint8, np.float16, np.float32, np.float64])
@pytest.mark.parametrize("order", ["C", "F"])
def test_input_is_never_written_to(kmeans, dtype, order):
    """Read-only arrays pass (test_one_answer.py); writable ones keep every byte too."""
    x = np.random.default_rng(0).integers(0, 200, (5000, 3)).astype(dtype, order=order)
    w = np.random.default_rng(1).random(5000)
    before, weights_before = x.tobytes(), w.tobytes()
    for copy_x in (True, False):
        model = kmeans(n_clusters=5, random_state=0, max_iter=3, copy_x=copy_x).fit(x, sample_weight=w)
        model.predict(x)
        model.transform(x)
        model.score(x, sample_weight=w)
        assert x.tobytes() == before
        assert w.tobytes() == weights_before


def test_results_do_not_alias_the_input_or_each_other(kmeans):
    x = GOOD.copy()
    init = x[:3].copy()
    model = kmeans(n_clusters=3, init=init, max_iter=1).fit(x)
    found = [model.labels_, model.cluster_centers_, model.predict(x), model.transform(x)]
    for i, a in enumerate(found):
        assert a.flags.writeable
        assert not any(np.shares_memory(a, b) for b in [x, init, *found[:i]])


# ---------------------------------------------------------------- memory


@pytest.mark.parametrize("dtype", [np.uint8, np.float16, np.float32, np.float64])
def test_points_hold_the_callers_memory(device, dtype):
    if device != "cpu":
        return  # a device has memory of its own
    x = np.zeros((100_000, 3), dtype)
    points = NumPyPoints(Samples(x))
    assert points._rows.x is x or np.shares_memory(points._rows.x, x)
    points = NumPyPoints(Samples(x, *reversed(Weights.of(np.ones(len(x))))))
    assert np.shares_memory(points._rows.x, x)


@pytest.fixture(scope="module")
def image():
    """2000 x 2000 pixels of noise, 12 MB: as many colors as there can be, so nothing merges away."""
    return np.random.default_rng(0).integers(0, 256, (4_000_000, 3), dtype=np.uint8)


# Bytes a pixel takes as float64; as uint8 it takes 3.
COPY = 24


def test_fitting_an_image_makes_no_float64_copy(device, image, peak):
    """In the caller's order: labels (4 bytes a pixel) and two float32 bounds (8) while it runs; then labels
    for the caller (4), and their counting (8). A copy while it runs would make 36."""
    if device != "cpu":
        return
    init = image[:16].astype(np.float64)
    with tuned(arrange=False, threads=2):
        used = peak(lambda: KMeans(n_clusters=16, init=init, max_iter=2, device="cpu").fit(image))
    assert used < 28 * len(image) < (4 + 8 + COPY) * len(image)


def test_fitting_an_image_by_default_takes_less_than_a_float64_copy_at_any_one_time(device, image, peak):
    """Sorted along a curve: keys (8 bytes a pixel) and orders (4 + 4) before, positions (4), the colors
    themselves (3), their counts (8), labels (4) and bounds (8) after."""
    if device != "cpu":
        return
    init = image[:16].astype(np.float64)
    used = peak(lambda: KMeans(n_clusters=16, init=init, max_iter=2, device="cpu").fit(image))
    assert used < 40 * len(image)


def test_predicting_an_image_makes_no_float64_copy(device, fitted, image, peak):
    """Labels (4 bytes a pixel), once in the Points and once for the caller, and chunks."""
    if device != "cpu":
        return
    model = fitted(image[:16].astype(np.float64))
    assert peak(lambda: model.predict(image)) < 8 * len(image) + 2**24 < COPY * len(image)


# ---------------------------------------------------------------- more than 2**31 numbers


LONG = 3_000_000_000


@pytest.fixture(scope="module")
def long():
    """3,000,000,000 rows to look at, one to hold: all are the same memory."""
    return np.lib.stride_tricks.as_strided(np.ones((1, 3), np.uint8), (LONG, 3), (0, 1), writeable=False)


def test_spans_reach_every_row_beyond_32_bits(device, long):
    if device != "cpu":
        return
    points = NumPyPoints(Samples(long))
    with tuned(chunk_rows=700_000_001):
        cut = NumPyPoints(Samples(long))
    for spans in (cut._spans(LONG, 1), points._spans(LONG, 2**30)):
        assert spans[0].start == 0
        assert spans[-1].stop == LONG
        assert all(a.stop == b.start for a, b in itertools.pairwise(spans))
        assert all(type(a.start) is int for a in spans)  # Python's integers do not wrap


def test_rows_beyond_32_bits_are_found(device, long):
    """A gather and a slice at the far end: indices are 64-bit."""
    if device != "cpu":
        return
    points = NumPyPoints(Samples(long))
    far = LONG - np.arange(1, 6)
    assert far.dtype == np.int64
    assert points._rows.exact(far).tolist() == [[1.0] * 5] * 3
    assert points._rows.exact(slice(LONG - 5, LONG)).shape == (3, 5)
    assert points.weights.total == 3e9


def test_rows_beyond_32_bits_are_not_sorted_by_32_bit_keys(device, long):
    """Rearranging packs a row's index into 32 bits; beyond that it must decline, before any work."""
    if device == "cpu":
        assert arrange(long, None, np.zeros(3), np.ones(3)) is None


def test_a_warning_that_is_an_error_leaves_the_estimator_as_it_was(kmeans):
    model = kmeans(n_clusters=2, random_state=0).fit([[0.0], [1.0], [9.0]])
    before = vars(model).copy()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with pytest.raises(ConvergenceWarning):
            model.fit([[1.0], [1.0]])
    assert vars(model) == before


def test_a_metric_that_there_is_not_is_an_error_wherever_it_is_looked_up() -> None:
    model = KMeans(2, random_state=0, device="cpu").fit(np.arange(6.0)[:, None])
    model.metric = "manhattan"
    for call in (model.predict, model.transform, model.score):
        with pytest.raises(ValueError, match=r"metric must be one of \['cosine', 'euclidean'\], got 'manhattan'"):
            call(np.arange(6.0)[:, None])
