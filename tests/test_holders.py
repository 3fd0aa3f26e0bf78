"""What holds numbers changes no bit: their dtype decides, in whatever array, frame, list or matrix they come."""

from __future__ import annotations

import array
import re

import ml_dtypes
import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pytest
import scipy.sparse
from sklearn.cluster import KMeans as Theirs
from unaligned import unaligned

from gpukmeans import KMeans, MiniBatchKMeans
from gpukmeans.exact.fixed_point import Weights

X = np.random.default_rng(0).normal(20, 5, (60, 3))
NAMES = list("abc")
ARROW = {"f2": "halffloat[pyarrow]", "f4": "float[pyarrow]", "f8": "double[pyarrow]", "u1": "uint8[pyarrow]"}


def swapped(x):
    return x.astype(x.dtype.newbyteorder())


def read_only(x):
    x = x.copy()
    x.flags.writeable = False
    return x


def scalars(x):
    found = np.empty(x.shape, object)
    for at in np.ndindex(x.shape):
        found[at] = x[at]
    return found


def frame(x):
    return pd.DataFrame(x, columns=NAMES)


def columns(x):
    return dict(zip(NAMES, x.T.copy(), strict=True))


HOLDERS = {
    "other byte order": swapped,
    "not aligned": unaligned,
    "neither": lambda x: unaligned(swapped(x)),
    "read-only": read_only,
    "every other row": lambda x: np.repeat(x, 2, axis=0)[::2],
    "backwards": lambda x: x[::-1].copy()[::-1],
    "Fortran's order": np.asfortranarray,
    "subclass": lambda x: x.view(type("Sub", (np.ndarray,), {})),
    "masked": np.ma.masked_array,
    "memoryview": memoryview,
    "list of arrays": list,
    "lists of scalars": lambda x: [list(row) for row in x],
    "objects that are scalars": scalars,
    "pandas": frame,
    "pandas, a column each": lambda x: pd.DataFrame(columns(x)),
    "pandas, sparse": lambda x: frame(x).astype(pd.SparseDtype(x.dtype, 0)),
    "pandas, other byte order": lambda x: frame(swapped(x)),
    "pandas of pyarrow": lambda x: frame(x).astype(ARROW[x.dtype.str[1:]]),
    "pandas, a category": lambda x: frame(x).astype({"b": "category"}),
    "polars": lambda x: pl.DataFrame(x, schema=NAMES),
    "pyarrow": lambda x: pa.table(columns(x)),
    "pyarrow, a batch": lambda x: pa.record_batch(columns(x)),
}


def said(x, **parameters):
    """Every answer, to the bit."""
    model = KMeans(4, **{"random_state": 0, "device": "cpu", **parameters}).fit(x)
    answers = [model.cluster_centers_, model.labels_, model.predict(x), model.transform(x)]
    return [(answer.dtype, answer.tobytes()) for answer in answers], model.inertia_, model.score(x), model.n_iter_


# SciPy, by which the one is read, and pandas' indices have none.
NO_FLOAT16 = {"pandas, sparse", "pandas, a category"}


@pytest.mark.parametrize(
    ("holder", "dtype"),
    [(name, d) for name in HOLDERS for d in ("f2", "f4", "f8", "u1") if not (d == "f2" and name in NO_FLOAT16)],
)
def test_a_holder_changes_no_bit(holder, dtype):
    x = X.astype(dtype)
    assert said(HOLDERS[holder](x)) == said(scipy.sparse.csr_array(x) if "sparse" in holder else x)


@pytest.mark.parametrize("dtype", [">f2", ">f4", ">f8", ">u2", ">i4", ">c16", "g", "?", "i8"])
def test_every_dtype_is_read_as_what_it_holds(dtype):
    x = X.astype(dtype) if dtype != "?" else X > 20
    if dtype == ">c16":
        with pytest.raises(ValueError, match="Complex data not supported"):
            KMeans(4).fit(x)
        return
    assert said(x) == said(x.astype({">f2": "f2", ">f4": "f4"}.get(dtype, "f8")))


@pytest.mark.parametrize("code", ["f", "d"])
def test_arrays_of_the_standard_library(code):
    x = X.astype(code)
    assert said([array.array(code, row) for row in x]) == said(x)


@pytest.mark.parametrize("dtypes", ["Float32", ("Float32", "float32", "float[pyarrow]")], ids=str)
def test_nullable_columns_without_missing_values(dtypes):
    x = X.astype(np.float32)
    dtypes = dict(zip(NAMES, [dtypes] * 3 if isinstance(dtypes, str) else dtypes, strict=True))
    assert said(frame(x).astype(dtypes)) == said(x)


FRAMES = {"pandas": pd.DataFrame, "polars": pl.DataFrame, "pyarrow": pa.table, "batch": pa.RecordBatch.from_pydict}


@pytest.mark.parametrize("kind", FRAMES)
@pytest.mark.parametrize(
    ("a", "b", "c", "read"),
    [
        ("f4", "u1", "f4", "f4"),
        ("f4", "u2", "?", "f4"),
        ("f2", "u1", "?", "f2"),
        ("f2", "f4", "u1", "f4"),
        ("f4", "i4", "f4", "f8"),
        ("f4", "f8", "u1", "f8"),
        ("u1", "?", "u1", "f8"),
    ],
)
def test_columns_of_several_dtypes_are_read_in_one_that_holds_them(kind, a, b, c, read):
    held = {name: column.astype(dtype) for (name, column), dtype in zip(columns(X).items(), (a, b, c), strict=True)}
    whole = np.column_stack([column.astype(read) for column in held.values()])
    if kind == "batch":
        held = {name: pa.array(column) for name, column in held.items()}
    assert said(FRAMES[kind](held)) == said(whole)


@pytest.mark.parametrize("dtype", ["Float32", "UInt8", "boolean", "float[pyarrow]", "uint8[pyarrow]"])
def test_missing_values_are_nan(dtype):
    missing = pd.DataFrame({"a": pd.array([1, 0, None, 1], "Float32")}).astype(dtype)
    for table in (missing, pa.Table.from_pandas(missing), pl.from_arrow(pa.Table.from_pandas(missing))):
        with pytest.raises(ValueError, match="Input X contains NaN"):
            KMeans(2).fit(table)


def test_a_mask_counts_for_nothing_as_in_theirs():
    x = np.ma.masked_array(X, X > 25)
    assert Theirs(4, random_state=0).fit(x).inertia_ == Theirs(4, random_state=0).fit(X).inertia_
    assert said(x) == said(X)


def test_matrices_are_refused_as_they_are_by_theirs():
    with pytest.warns(PendingDeprecationWarning):
        x = np.matrix(X)
    for model in (Theirs(4), KMeans(4)):
        with pytest.raises(TypeError, match=r"np\.matrix is not supported"):
            model.fit(x)


# Which cannot hold it, or, as a category, hold float64 for it.
NO_BFLOAT16 = {"memoryview", "pandas of pyarrow", "pandas, a category", "pandas, sparse", "pyarrow", "pyarrow, a batch"}


@pytest.mark.parametrize("holder", sorted(HOLDERS.keys() - NO_BFLOAT16))
def test_bfloat16_is_read_as_float32_which_has_all_its_values(holder):
    x = X.astype(ml_dtypes.bfloat16)
    x[:4, 0] = ml_dtypes.finfo(ml_dtypes.bfloat16).smallest_subnormal
    assert said(HOLDERS[holder](x)) == said(x.astype(np.float32))


@pytest.mark.parametrize("model", [KMeans, MiniBatchKMeans])
@pytest.mark.parametrize("metric", ["euclidean", "cosine"])
def test_bfloat16_as_start_as_weights_and_as_centers(model, metric):
    """Of length one, too, as near as it can be: each coordinate is off by up to 2**-8 of itself."""
    rows, weights = X.astype(ml_dtypes.bfloat16), (np.arange(60) % 5).astype(ml_dtypes.bfloat16)

    def answers(x, w, start):
        fitted = model(4, init=start, n_init=1, metric=metric, random_state=0, device="cpu").fit(x, sample_weight=w)
        given = fitted.cluster_centers_, fitted.labels_, fitted.transform(x), fitted.score(x, sample_weight=w)
        if model is MiniBatchKMeans:
            given += (fitted.partial_fit(x, sample_weight=w).cluster_centers_,)
        fitted.cluster_centers_ = fitted.cluster_centers_.astype(ml_dtypes.bfloat16).astype(start.dtype)
        return [(np.asarray(each).dtype, np.asarray(each).tobytes()) for each in (*given, fitted.transform(x))]

    assert answers(rows, weights, rows[:4]) == answers(*(each.astype("f4") for each in (rows, weights, rows[:4])))


# ---------------------------------------------------------------- sparse

FORMATS = ["csr", "csc", "coo", "bsr", "dia", "lil", "dok"]


@pytest.mark.parametrize("kind", ["matrix", "array"])
@pytest.mark.parametrize("form", FORMATS)
@pytest.mark.parametrize("dtype", ["f4", "f8", "u1", "i2"])
def test_sparse_ones_are_read_as_csr(form, kind, dtype):
    x = (X * (X > 18)).astype(dtype)
    assert said(getattr(scipy.sparse, f"{form}_{kind}")(x)) == said(scipy.sparse.csr_array(x))


@pytest.mark.parametrize("form", ["csr", "csc", "coo", "bsr", "dia"])
@pytest.mark.parametrize("dtype", ["f2", ">f4", ">f8", ">u2", "bfloat16"])
def test_sparse_ones_of_dtypes_that_scipy_does_not_make(form, dtype):
    dtype = np.dtype(ml_dtypes.bfloat16 if dtype == "bfloat16" else dtype)
    x = (X * (X > 18)).astype(dtype)
    matrix = getattr(scipy.sparse, f"{form}_array")(x.astype("f8"))
    matrix.data = matrix.data.astype(dtype)
    read = "f4" if dtype.itemsize == 2 and dtype.kind != "u" else dtype.newbyteorder("=")
    assert said(matrix) == said(scipy.sparse.csr_array(x.astype(read)))


def test_sparse_ones_that_are_not_aligned():
    x = scipy.sparse.csr_array((X * (X > 18)).astype(np.float32))
    x.data = unaligned(x.data)
    assert said(x) == said(x.toarray())


# ---------------------------------------------------------------- weights and starts

LINES = {
    "other byte order": swapped,
    "not aligned": unaligned,
    "neither": lambda w: unaligned(swapped(w)),
    "read-only": read_only,
    "every other": lambda w: np.repeat(w, 2)[::2],
    "backwards": lambda w: w[::-1].copy()[::-1],
    "list": list,
    "objects": lambda w: w.astype(object),
    "memoryview": memoryview,
    "array": lambda w: array.array(w.dtype.char, w.tolist()),
    "pandas": pd.Series,
    "pandas, nullable": lambda w: pd.Series(w).convert_dtypes(),
    "pandas of pyarrow": lambda w: pd.Series(w).convert_dtypes(dtype_backend="pyarrow"),
    "polars": pl.Series,
    "pyarrow": pa.array,
    "pyarrow, in chunks": lambda w: pa.chunked_array([pa.array(w[:9]), pa.array(w[9:])]),
}


@pytest.mark.parametrize("model", [KMeans, MiniBatchKMeans])
@pytest.mark.parametrize("holder", LINES)
@pytest.mark.parametrize("dtype", ["f8", "f4", "i4"])
def test_weights_in_any_holder(model, holder, dtype):
    weights = (np.random.default_rng(1).random(60) * 5 + 1).astype(dtype)

    def answer(held):
        fitted = model(4, random_state=0, device="cpu").fit(X, sample_weight=held)
        return fitted.cluster_centers_.tobytes(), fitted.labels_.tobytes(), fitted.inertia_, fitted.score(X, None, held)

    assert answer(LINES[holder](weights)) == answer(weights.astype(np.float64))


def test_flags_as_weights():
    flags = X[:, 0] > 15
    expected = KMeans(4, random_state=0).fit(X, sample_weight=flags.astype(float))
    for held in (flags, flags.tolist(), pa.array(flags), pl.Series(flags), pd.Series(flags, dtype="boolean")):
        assert KMeans(4, random_state=0).fit(X, sample_weight=held).inertia_ == expected.inertia_


def test_missing_weights_are_nan():
    missing = [1.0, None] * 30
    for held in (missing, pa.array(missing), pl.Series(missing), pd.Series(missing, dtype="Float64")):
        with pytest.raises(ValueError, match=re.escape("Input sample_weight contains NaN")):
            KMeans(4).fit(X, sample_weight=held)


def test_weights_are_summarised_wherever_they_lie():
    weights = np.random.default_rng(0).random(100)
    summary, used = Weights.of(weights)
    assert used is weights, "what is where it belongs is not copied"
    for held in (unaligned(weights), swapped(weights), np.repeat(weights, 2)[::2]):
        found, same = Weights.of(held)
        assert found == summary
        assert same.tobytes() == used.tobytes()


@pytest.mark.parametrize("model", [KMeans, MiniBatchKMeans])
@pytest.mark.parametrize("holder", sorted(HOLDERS.keys() - {"memoryview"}))  # which scikit-learn takes for no parameter
def test_starts_in_any_holder(model, holder):
    start = X[:4].astype(np.float32)
    if holder == "pandas, sparse":
        with pytest.raises(TypeError, match="Sparse data was passed for init"):
            model(4, init=HOLDERS[holder](start), n_init=1).fit(X)
        return
    found, expected = (
        model(4, init=init, n_init=1, max_iter=1, random_state=0).fit(X) for init in (HOLDERS[holder](start), start)
    )
    assert found.cluster_centers_.tobytes() == expected.cluster_centers_.tobytes()
