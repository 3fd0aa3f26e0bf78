"""Centers that were set by hand: they answer as any, or are refused with what is wrong, and nothing is lost."""

from __future__ import annotations

import decimal
from functools import partial

import ml_dtypes
import numpy as np
import pandas as pd
import polars as pl
import pytest
import scipy.sparse
from sklearn.cluster import KMeans as Theirs
from unaligned import unaligned

from gpukmeans import KMeans, MiniBatchKMeans

X = np.random.default_rng(0).normal(size=(50, 3))
C = X[:4] * 2

KINDS = {
    "KMeans": partial(KMeans, 4, random_state=0, device="cpu"),
    "MiniBatchKMeans": partial(MiniBatchKMeans, 4, random_state=0, device="cpu"),
}


@pytest.fixture(params=KINDS)
def kind(request):
    return KINDS[request.param]


@pytest.fixture(params=["fitted", "new"])
def model(request, kind):
    return kind().fit(X) if request.param == "fitted" else kind()


# name: what is set, and the array that it stands for
GOOD = {
    "float64": (C, C),
    "float32": (C.astype(np.float32), C.astype(np.float32)),
    "float16": (C.astype(np.float16), C.astype(np.float16)),
    "bfloat16": (C.astype(ml_dtypes.bfloat16), C.astype(ml_dtypes.bfloat16).astype(np.float32)),
    "other byte order": (C.astype(">f4"), C.astype(np.float32)),
    "not aligned": (unaligned(C), C),
    "Fortran's order": (np.asfortranarray(C), C),
    "integers": (np.rint(C).astype(np.int8), np.rint(C)),
    "uint8": (np.arange(12, dtype=np.uint8).reshape(4, 3), np.arange(12.0).reshape(4, 3)),
    "flags": (C > 0, (C > 0).astype(float)),
    "list": (C.tolist(), C),
    "objects": (C.astype(object), C),
    "decimals": ([[decimal.Decimal(1), 2, 3]] * 4, np.array([[1.0, 2.0, 3.0]] * 4)),
    "pandas": (pd.DataFrame(C), C),
    "polars": (pl.DataFrame(C.astype(np.float32)), C.astype(np.float32)),
    "as large as may be": (np.vstack([C[:3], [[2.0**500] * 3]]), np.vstack([C[:3], [[2.0**500] * 3]])),
}


@pytest.mark.parametrize("name", GOOD)
def test_centers_set_by_hand_answer(model, name, brute_distances, brute_labels):
    model.cluster_centers_, centers = GOOD[name]
    assert model.predict(X).tolist() == brute_labels(X, centers).tolist()
    distances = brute_distances(X, centers)
    assert model.transform(X).tobytes() == np.sqrt(distances).tobytes()
    assert model.score(X) == pytest.approx(-distances.min(axis=1).sum(), rel=1e-12)
    assert model.get_feature_names_out().tolist() == [f"{type(model).__name__.lower()}{i}" for i in range(4)]


@pytest.mark.parametrize("k", [1, 3, 9])
def test_another_number_of_centers_answers_as_theirs(model, k):
    theirs = Theirs(4, random_state=0).fit(X)
    model.cluster_centers_ = theirs.cluster_centers_ = X[:k] * 2
    assert model.predict(X).tolist() == theirs.predict(X).tolist()
    assert model.transform(X).shape == (50, k)
    assert model.score(X) == pytest.approx(theirs.score(X), rel=1e-12)
    assert len(model.get_feature_names_out()) == k


@pytest.mark.parametrize("far", [1e9, 1e15, 1e40, 1e140])
def test_a_center_that_is_far_from_all_takes_nothing_from_the_score(model, far):
    model.cluster_centers_ = C
    expected = model.score(X)
    model.cluster_centers_ = np.vstack([C, [[far] * 3]])
    assert model.score(X) == pytest.approx(expected, rel=2**-39)


def spoiled(value):
    centers = C.copy()
    centers[2, 1] = value
    return centers


# name: what is set, and what must be said of it
BAD = {
    "narrow": (C[:, :2], "They have 2 features, and X has 3"),
    "wide": (np.zeros((4, 5)), "They have 5 features, and X has 3"),
    "none": (C[:0], r"0 sample\(s\)"),
    "no features": (C[:, :0], r"0 feature\(s\)"),
    "one dimension": (C[0], "Expected 2D array, got 1D array"),
    "three dimensions": (C[None], "Found array with dim 3"),
    "a number": (3.0, "Expected 2D array, got scalar array"),
    "None": (None, "Expected 2D array, got scalar array"),
    "text": ("abc", "could not convert string to float"),
    "strings": (np.array([["a", "b", "c"]] * 4), "could not convert string to float"),
    "strings as objects": (np.array([[1, 2, "c"]] * 4, object), "could not convert string to float"),
    "complex": (C + 1j, "Complex data not supported"),
    "complex in lists": ((C + 1j).tolist(), "Complex data not supported"),
    "ragged": ([[1.0, 2.0, 3.0], [4.0]], "inhomogeneous"),
    "NaN": (spoiled(np.nan), "contains NaN"),
    "NaN in float32": (spoiled(np.nan).astype(np.float32), "contains NaN"),
    "None among objects": (np.array([[1, 2, None]] * 4, object), "contains NaN"),
    "infinity": (spoiled(-np.inf), "contains infinity"),
    "too large to square": (spoiled(2.0**501), "squared distances overflow float64"),
    "too large for float64": ([[10**400, 0, 0]] * 4, "too large to convert"),
    "too large, as long doubles": (np.full((4, 3), np.finfo(np.longdouble).max), "infinity|overflow float64"),
    "sparse": (scipy.sparse.csr_array(C), "dense data is required"),
    "a set": ({1.0}, "a real number, not 'set'"),
}


@pytest.mark.parametrize("name", BAD)
def test_what_cannot_be_centers_is_refused(model, name):
    model.cluster_centers_, message = BAD[name]
    calls = [model.predict, model.transform, model.score]
    if isinstance(model, MiniBatchKMeans):
        calls.append(model.partial_fit)
    before = vars(model).copy()
    for call in calls:
        with pytest.raises(ValueError, match=f"(?s)cluster_centers_ holds no centers .*({message}).* or fit again"):
            call(X)
        assert vars(model) == before or all(vars(model)[name] is value for name, value in before.items())
        assert vars(model).keys() == before.keys()
    assert model.fit(X).predict(X).tolist() == model.labels_.tolist(), "a fit puts them right"


def test_rows_that_come_lazily_are_answered_by_the_same_rule(model):
    da = pytest.importorskip("dask.array")
    rows = da.from_array(X, chunks=(20, 2))
    model.cluster_centers_ = C.astype(np.float32)
    for x, dtype in ((rows, np.float64), (rows.astype(np.float32), np.float32)):
        assert model.transform(x).dtype == model.transform(x).compute().dtype == dtype
        assert model.transform(x).compute().tobytes() == model.transform(np.asarray(x)).tobytes()
    model.cluster_centers_ = C[:, :2]
    for call in (model.predict, model.transform, model.score):
        with pytest.raises(ValueError, match="They have 2 features, and X has 3"):
            call(rows)


# ---------------------------------------------------------------- directions


def test_with_cosine_they_are_directions_or_nothing(kind):
    model = kind(metric="cosine").fit(X)
    unit = C / np.linalg.norm(C, axis=1, keepdims=True)
    cosines = (X / np.linalg.norm(X, axis=1, keepdims=True)) @ unit.T
    for dtype in (ml_dtypes.bfloat16, np.float16, np.float32, np.float64):
        model.cluster_centers_ = unit.astype(dtype)
        np.testing.assert_allclose(model.transform(X), 1 - cosines, atol=2e-2 if dtype is ml_dtypes.bfloat16 else 2e-3)
    many = np.random.default_rng(0).normal(size=(100_000, 3))
    rounded = (many / np.linalg.norm(many, axis=1, keepdims=True)).astype(ml_dtypes.bfloat16)
    off = np.abs(np.linalg.norm(rounded.astype(float), axis=1) - 1)
    assert off.max() > 2**-9, "more than float16's may be"
    model.cluster_centers_ = rounded[np.argsort(off)[-4:]]
    assert model.predict(X).shape == (len(X),)
    model.cluster_centers_ = np.vstack([unit[:3], np.zeros((1, 3))])
    np.testing.assert_allclose(model.transform(X)[:, 3], 0.5)
    for centers in (C, unit * 1.01, unit * 1e-200):
        model.cluster_centers_ = centers
        with pytest.raises(ValueError, match=r"With metric=.cosine. they are unit vectors.*normalize"):
            model.predict(X)


# ---------------------------------------------------------------- going on from them


def test_batches_go_on_from_centers_set_by_hand():
    """As from the same centers given as init: no row has been counted for any."""
    for dtype in (np.float32, np.float64):
        model = MiniBatchKMeans(4, random_state=0)
        model.cluster_centers_ = C.astype(dtype).tolist() if dtype is np.float64 else C.astype(dtype)
        expected = MiniBatchKMeans(4, random_state=0, init=C).partial_fit(X.astype(dtype))
        model.partial_fit(X.astype(dtype))
        assert model.cluster_centers_.dtype == dtype
        assert model.cluster_centers_.tobytes() == expected.cluster_centers_.tobytes()
        assert model.labels_.tolist() == expected.labels_.tolist() == model.predict(X.astype(dtype)).tolist()
        assert model.n_features_in_ == 3


def test_centers_of_integers_go_on_as_float64():
    model = MiniBatchKMeans(4, random_state=0)
    model.cluster_centers_ = np.rint(C).astype(int)
    model.partial_fit(X)
    assert model.cluster_centers_.dtype == np.float64
    assert model.labels_.tolist() == model.predict(X).tolist()


def test_another_number_of_centers_does_not_go_on():
    for model in (MiniBatchKMeans(4, random_state=0).partial_fit(X), MiniBatchKMeans(4)):
        model.cluster_centers_ = X[:5]
        before = vars(model).copy()
        with pytest.raises(ValueError, match="cluster_centers_ holds 5 centers, and partial_fit moves 4"):
            model.partial_fit(X)
        assert vars(model).keys() == before.keys()
        assert all(vars(model)[name] is value for name, value in before.items())


def test_centers_beyond_their_dtype_are_refused():
    """Those of float16 cannot follow rows of float64 everywhere."""
    model = MiniBatchKMeans(2, random_state=0, n_init=1).partial_fit(np.float16([[0], [1], [9]]))
    before = model.cluster_centers_
    with pytest.raises(ValueError, match=r"Centers of up to 5e\+05 are beyond float16"):
        model.partial_fit([[1e6], [0.0]])
    assert model.cluster_centers_ is before
    assert model.n_steps_ == 1
