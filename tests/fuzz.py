"""What the fuzz draws: data of every kind in every dtype and holder, and weights."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from importlib.util import find_spec
from typing import Any

import dask.array as da
import jax.numpy as jnp
import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import scipy.sparse as sp
from hypothesis import strategies as st


def _blobs(rng, n, d):
    return rng.normal(size=(5, d))[rng.integers(0, 5, n)] * 10 + rng.normal(size=(n, d))


def _outliers(rng, n, d):
    x = rng.normal(size=(n, d))
    x[rng.integers(0, n, 1 + n // 10), rng.integers(0, d, 1 + n // 10)] *= 10.0 ** rng.uniform(0, 100)
    return x


def _duplicates(rng, n, d):
    return rng.normal(size=(max(1, n // 4), d))[rng.integers(0, max(1, n // 4), n)]


def _text(rng, n, d):
    return rng.random((n, d)) * (rng.random((n, d)) < 0.2)


# name: rows (n, d)
DATA: dict[str, Callable[..., np.ndarray]] = {
    "blobs": _blobs,
    "noise": lambda rng, n, d: rng.normal(size=(n, d)),
    "grid": lambda rng, n, d: rng.integers(0, 4, (n, d)).astype(float),
    "halves": lambda rng, n, d: rng.integers(-5, 6, (n, d)) / 2,
    "duplicates": _duplicates,
    "one-hot": lambda rng, n, d: np.eye(d)[rng.integers(0, d, n)],
    "along the axes": lambda rng, n, d: np.eye(d)[rng.integers(0, d, n)] * rng.normal(size=(n, 1)),
    "some rows zero": lambda rng, n, d: rng.normal(size=(n, d)) * rng.integers(0, 2, (n, 1)),
    "text": _text,
    "denormal": lambda rng, n, d: rng.integers(-9, 10, (n, d)) * 5e-324,
    "small": lambda rng, n, d: rng.normal(size=(n, d)) * 10.0 ** rng.integers(-140, -6),
    "huge": lambda rng, n, d: rng.uniform(-1, 1, (n, d)) * 2.0 ** rng.integers(100, 501),
    "mixed scales": lambda rng, n, d: rng.normal(size=(n, d)) * 10.0 ** rng.integers(-30, 31, d),
    "an offset": lambda rng, n, d: rng.normal(size=(n, d)) + 10.0 ** rng.integers(2, 16),
    "outliers": _outliers,
    "heavy tails": lambda rng, n, d: 10.0 ** rng.uniform(-30, 30, (n, d)) * rng.choice([-1, 1], (n, d)),
    "constant": lambda rng, n, d: np.full((n, d), rng.normal()),
    "a constant feature": lambda rng, n, d: np.where(np.arange(d) == 0, rng.normal(), rng.normal(size=(n, d))),
    "two far groups": lambda rng, n, d: (
        rng.normal(size=(n, d)) + 10.0 ** rng.integers(1, 18) * rng.integers(0, 2, (n, 1))
    ),
}

# name: weights (n,), some of them positive
WEIGHTS: dict[str, Callable[..., np.ndarray | None]] = {
    "none": lambda rng, n: None,
    "ones": lambda rng, n: np.ones(n),
    "copies": lambda rng, n: rng.integers(1, 5, n).astype(float),
    "fractions": lambda rng, n: rng.random(n) + 0.01,
    "tiny": lambda rng, n: (rng.random(n) + 0.1) * 10.0 ** rng.integers(-307, -20),
    "huge": lambda rng, n: (rng.random(n) + 0.1) * 10.0 ** rng.integers(20, 300),
    "zeros among them": lambda rng, n: np.maximum(rng.integers(0, 3, n), np.arange(n) == rng.integers(0, n)) * 1.5,
    "far apart": lambda rng, n: 10.0 ** rng.uniform(-40, 40, n),
    "copies far apart": lambda rng, n: np.floor(10.0 ** rng.uniform(0, 18, n)),
    "copies beside light ones": lambda rng, n: np.where(
        rng.random(n) < 0.5, rng.integers(1, 5, n), rng.random(n) * 1e-15
    ),
    "many copies": lambda rng, n: rng.integers(1, 2**32 // n, n).astype(float),
}

DTYPES = ["float64", "float32", "float16", "uint8", "int64"]


def _of_dtype(x: np.ndarray, dtype: str) -> np.ndarray:
    if dtype == "uint8":
        return (np.abs(x) % 7).astype(dtype)
    info = np.finfo(dtype) if dtype.startswith("float") else np.iinfo(np.int32)
    with np.errstate(under="ignore"):
        return x.clip(float(info.min) / 2, float(info.max) / 2).astype(dtype)


def _entries(x: np.ndarray, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Values, rows and columns in any order: some zeros are stored, and some values in two parts."""
    rows, columns = np.nonzero((x != 0) | (rng.random(x.shape) < 0.1))
    values = x[rows, columns]
    half = values / 2 if x.dtype.kind == "f" else values // 2
    half = half.astype(x.dtype)
    rest = values - half
    parted = (rng.random(len(values)) < 0.2) & (half + rest == values)  # of the least number there is no half
    values = np.concatenate([np.where(parted, half, values), rest[parted]])
    order = rng.permutation(len(values))
    return values[order], np.concatenate([rows, rows[parted]])[order], np.concatenate([columns, columns[parted]])[order]


def _csr(x: np.ndarray, rng: np.random.Generator) -> Any:
    """Unsorted, with duplicate entries and stored zeros, of 64-bit indices."""
    values, rows, columns = _entries(x, rng)
    order = np.argsort(rows, kind="stable")
    begins = np.searchsorted(rows[order], np.arange(len(x) + 1))
    matrix = sp.csr_matrix((values[order], columns[order], begins), x.shape)
    matrix.indices, matrix.indptr = matrix.indices.astype(np.int64), matrix.indptr.astype(np.int64)
    return matrix


def _coo(x: np.ndarray, rng: np.random.Generator) -> Any:
    values, rows, columns = _entries(x, rng)
    return sp.coo_array((values, (rows, columns)), x.shape)


def _slices(x: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    wider = np.full((2 * len(x), x.shape[1] + 3), 77, x.dtype)
    wider[::2, 1:-2] = x
    return wider[::2, 1:-2]


def _read_only(x: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    x = x.copy()
    x.flags.writeable = False
    return x


def _unaligned(x: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    memory = np.zeros(x.nbytes + 1, np.uint8)[1:]
    memory[:] = np.frombuffer(x.tobytes(), np.uint8)
    return memory.view(x.dtype).reshape(x.shape)


def _names(x: np.ndarray) -> list[str]:
    return [f"f{j}" for j in range(x.shape[1])]


def _chunks(x: np.ndarray, rng: np.random.Generator) -> Any:
    return da.from_array(x, chunks=(int(rng.integers(1, len(x) + 1)), -1))


HOLDERS: dict[str, Callable[..., Any]] = {
    "rows": lambda x, rng: np.ascontiguousarray(x),
    "columns": lambda x, rng: np.asfortranarray(x),
    "slices": _slices,
    "reversed": lambda x, rng: x[::-1].copy()[::-1],
    "read-only": _read_only,
    "swapped bytes": lambda x, rng: x.astype(x.dtype.newbyteorder()),
    "unaligned": _unaligned,
    "list": lambda x, rng: list(x),
    "masked": lambda x, rng: np.ma.masked_array(x),
    "memoryview": lambda x, rng: memoryview(np.ascontiguousarray(x)),
    "pandas": lambda x, rng: pd.DataFrame(x, columns=_names(x)),
    "pandas by column": lambda x, rng: pd.DataFrame(dict(zip(_names(x), x.T.copy(), strict=True))),
    "polars": lambda x, rng: pl.DataFrame(x, schema=_names(x)),
    "pyarrow": lambda x, rng: pa.table(dict(zip(_names(x), x.T.copy(), strict=True))),
    "JAX": lambda x, rng: jnp.asarray(x),
    "CSR": _csr,
    "canonical CSR": lambda x, rng: sp.csr_array(x),
    "CSC": lambda x, rng: sp.csc_array(x),
    "COO": _coo,
    "Dask": _chunks,
}
if find_spec("torch"):
    import torch

    HOLDERS["torch"] = lambda x, rng: torch.from_numpy(x.copy())

# SciPy has no matrices of float16, and JAX keeps no 64 bits unless it is told to.
SOME_DTYPES = {
    **{holder: ["float64", "float32", "uint8", "int64"] for holder in ("CSR", "canonical CSR", "CSC", "COO")},
    "JAX": ["float32", "float16"],
}


@dataclass
class Problem:
    """x (n, d), held in some way; rows: the same as float64. given: x's dtype. dtype: of the centers. weights: (n,) or
    None."""

    x: Any
    rows: np.ndarray
    given: str
    dtype: np.dtype
    weights: np.ndarray | None
    k: int
    metric: str
    rng: np.random.Generator
    hold: Callable[[np.ndarray], Any]
    described: str

    @property
    def sparse(self) -> bool:
        return sp.issparse(self.x)

    @property
    def positive(self) -> np.ndarray:
        """Which rows weigh anything, (n,)."""
        return np.ones(len(self.rows), bool) if self.weights is None else self.weights > 0

    def _repr_pretty_(self, printer: Any, cycle: bool) -> None:
        """As hypothesis shows it."""
        printer.text(f"<{self.described}>")

    def start(self, kind: str) -> np.ndarray:
        """Centers (k, d) to begin with, of the dtype that they are rounded to."""
        at = self.rows[self.rng.permutation(len(self.rows))[: self.k]].copy()
        if kind == "far":  # mostly empty clusters
            at[self.rng.random(self.k) < 0.5] = self.rows.max(axis=0)
        elif kind == "between":
            at = (at + self.rows[self.rng.permutation(len(self.rows))[: self.k]]) / 2
        elif kind == "equal":
            at[:] = at[0]
        return at.astype(self.dtype)

    def batch(self, m: int) -> Problem:
        """Some rows, up to m of them, one of which weighs something."""
        chosen = self.rng.permutation(len(self.rows))[:m]
        chosen[0] = self.rng.choice(np.flatnonzero(self.positive))
        weights = None if self.weights is None else self.weights[chosen]
        rows = self.rows[chosen]
        return replace(self, x=self.hold(rows), rows=rows, weights=weights)


@st.composite
def problems(draw: Any, most: int = 40, holders: list[str] | None = None) -> Problem:
    """most: rows of nearly all; a few have ten times as many, which no block of a kernel's threads holds."""
    seed = draw(st.integers(0, 2**32 - 1))
    kind, weighing = draw(st.sampled_from(list(DATA))), draw(st.sampled_from(list(WEIGHTS)))
    n, d = (
        draw(st.integers(1, draw(st.sampled_from([most] * 9 + [10 * most])))),
        draw(st.sampled_from([1, 2, 3, 5, 17])),
    )
    k = draw(st.integers(1, min(n, most)))
    holder = draw(st.sampled_from(holders or list(HOLDERS)))
    dtype = draw(st.sampled_from(SOME_DTYPES.get(holder, DTYPES)))
    metric = draw(st.sampled_from(["euclidean", "cosine"]))
    rng = np.random.default_rng(seed)
    x = _of_dtype(DATA[kind](rng, n, d), dtype)
    weights = WEIGHTS[weighing](rng, n)
    if weights is not None:
        weights.flags.writeable = draw(st.booleans())
    described = f"{kind}, {n} x {d} {dtype} as {holder}, weights {weighing}, k={k}, {metric}, seed {seed}"
    published = np.dtype(dtype if dtype.startswith("float") else "float64")

    def hold(rows: np.ndarray) -> Any:
        return HOLDERS[holder](rows.astype(dtype), rng)

    return Problem(hold(x), x.astype(float), dtype, published, weights, k, metric, rng, hold, described)
