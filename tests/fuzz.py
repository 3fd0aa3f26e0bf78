"""What the fuzz draws: data of every kind in every dtype and holder, weights, and what computes with them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import dask.array as da
import numpy as np
import pandas as pd
import scipy.sparse as sp
from hypothesis import strategies as st

from gpukmeans.engine import dispatch
from gpukmeans.engine.combine.multi_device import Parallel
from gpukmeans.engine.combine.out_of_memory import Batches
from gpukmeans.engine.numpy.points import NumPyPoints
from gpukmeans.engine.numpy.sparse_points import SparsePoints
from gpukmeans.engine.protocol import Samples


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


def _csr(x: np.ndarray, rng: np.random.Generator) -> Any:
    """Unsorted, with entries given in two parts and zeros that are stored, of 64-bit indices."""
    rows, columns = np.indices(x.shape).reshape(2, -1)
    stored = (x.ravel() != 0) | (rng.random(x.size) < 0.1)
    order = rng.permutation(np.flatnonzero(stored))
    order = order[np.argsort(rows[order], kind="stable")]
    matrix = sp.csr_matrix(
        (x.ravel()[order], columns[order], np.searchsorted(rows[order], np.arange(len(x) + 1))), x.shape
    )
    matrix.indices, matrix.indptr = matrix.indices.astype(np.int64), matrix.indptr.astype(np.int64)
    return matrix


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


HOLDERS: dict[str, Callable[..., Any]] = {
    "rows": lambda x, rng: np.ascontiguousarray(x),
    "columns": lambda x, rng: np.asfortranarray(x),
    "slices": _slices,
    "reversed": lambda x, rng: x[::-1].copy()[::-1],
    "read-only": _read_only,
    "swapped bytes": lambda x, rng: x.astype(x.dtype.newbyteorder()),
    "unaligned": _unaligned,
    "frame": lambda x, rng: pd.DataFrame(x, columns=[f"f{j}" for j in range(x.shape[1])]),
    "CSR": _csr,
    "CSC": lambda x, rng: sp.csc_array(x),
    "Dask": lambda x, rng: da.from_array(x, chunks=(int(rng.integers(1, len(x) + 1)), -1)),
}
SPARSE = {"CSR", "CSC"}

TUNING = {
    "merge": st.sampled_from([None, True, False]),
    "arrange": st.sampled_from([None, True, False]),
    "scores": st.sampled_from([None, True, False]),
    "bounds": st.sampled_from([None, True, False]),
    "chunk_rows": st.sampled_from([None, 1, 7, 1000]),
    "threads": st.sampled_from([None, 1, 3]),
    "compiled": st.sampled_from([None, True, False]),
}


@dataclass
class Problem:
    """x (n, d), held in some way; rows: the same as float64. dtype: of the centers. weights: (n,) or None."""

    x: Any
    rows: np.ndarray
    dtype: np.dtype
    weights: np.ndarray | None
    k: int
    metric: str
    rng: np.random.Generator
    described: str

    @property
    def sparse(self) -> bool:
        return sp.issparse(self.x)

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


@st.composite
def problems(draw: Any, most: int = 40, holders: list[str] | None = None) -> Problem:
    seed = draw(st.integers(0, 2**32 - 1))
    kind, weighing = draw(st.sampled_from(list(DATA))), draw(st.sampled_from(list(WEIGHTS)))
    n, d = draw(st.integers(1, most)), draw(st.sampled_from([1, 2, 3, 5, 17]))
    k = draw(st.integers(1, min(n, 12)))
    holder = draw(st.sampled_from(holders or list(HOLDERS)))
    dtype = draw(st.sampled_from(["float64", "float32"] if holder in SPARSE else DTYPES))
    metric = draw(st.sampled_from(["euclidean", "cosine"]))
    rng = np.random.default_rng(seed)
    x = _of_dtype(DATA[kind](rng, n, d), dtype)
    weights = WEIGHTS[weighing](rng, n)
    described = f"{kind}, {n} x {d} {dtype} as {holder}, weights {weighing}, k={k}, {metric}, seed {seed}"
    published = np.dtype(dtype if dtype.startswith("float") else "float64")
    return Problem(HOLDERS[holder](x, rng), x.astype(float), published, weights, k, metric, rng, described)


def shared_out(monkeypatch: Any, count: int, rows: int) -> None:
    """From here on rows are shared out among so many NumPyPoints, or on kernels come in batches of so many."""
    make = dispatch.make_points

    def make_points(samples: Samples, *, device: str) -> Any:
        if device != "cpu":
            points = make(samples, device=device)
            if isinstance(points, Batches):
                points.rows = rows
            return points
        n = samples.shape[0]
        bounds = sorted({n * i // count for i in range(count + 1)})
        slices = [slice(a, b) for a, b in pairwise(bounds)]
        parts = [make(samples.part(part), device=device) for part in slices]
        assert isinstance(parts[0], NumPyPoints | SparsePoints)
        return Parallel(parts, slices, samples)

    monkeypatch.setattr(dispatch, "make_points", make_points)
