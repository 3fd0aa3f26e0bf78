"""Dask's arrays and frames: rows that are on other machines, or not computed yet; never gathered unless asked for."""

from __future__ import annotations

import sys
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np


def is_lazy(X: Any) -> bool:
    """Whether X is a collection of Dask's."""
    dask = sys.modules.get("dask")
    return dask is not None and dask.is_dask_collection(X)


def rows_of(X: Any) -> Any:
    """A collection as an array whose chunks hold whole rows, of which it is known how many; it may compute for that.

    Raises TypeError for a collection that is neither an array nor a frame.
    """
    if hasattr(X, "to_dask_array"):
        X = X.to_dask_array(lengths=True)
    if not hasattr(X, "rechunk"):
        raise TypeError(f"Of Dask's collections, arrays and frames can be clustered, not {type(X).__name__}.")
    if any(np.isnan(size) for size in X.shape):
        X = X.compute_chunk_sizes()
    return X.rechunk({1: -1}) if X.ndim == 2 else X


def stand_in(X: Any, x: Any) -> Any:
    """A row to be validated in the place of all of x, which is `rows_of` X; a frame's has its names."""
    row = np.zeros((min(1, x.shape[0]), *x.shape[1:]), x.dtype)
    if not hasattr(X, "columns"):
        return row
    import pandas as pd

    return pd.DataFrame(row, columns=X.columns)


def map_rows(call: Callable[[Any], Any], x: Any, dtype: Any, width: int | None = None) -> Any:
    """call(rows) of each chunk of x (n, d), once they are computed: an array (n,) of that dtype, or (n, width)."""
    empty = np.empty((0,) if width is None else (0, width), dtype)
    chunks = {"drop_axis": 1} if width is None else {"chunks": (x.chunks[0], (width,))}
    return x.map_blocks(partial(_of_rows, call, empty), dtype=dtype, meta=empty, **chunks)


def _of_rows(call: Callable[[Any], Any], empty: Any, rows: Any) -> Any:
    return call(rows) if len(rows) else empty


def bad_value(x: Any) -> Any:
    """NaN if any value of x is, else infinity: (1,) of its dtype. One of them is there."""
    import dask.array as da

    return np.array([np.nan if da.isnan(x).any().compute() else np.inf], x.dtype)
