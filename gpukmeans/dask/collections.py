"""Dask's arrays and frames: rows that are on other machines, or not computed yet; never gathered unless asked for."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from math import isnan
from typing import Any

import numpy as np

from gpukmeans.dask import on_worker


def validation_proxy(X: Any) -> Any:
    """A row to be validated in the place of all, of the same types; a frame's has its names.

    Raises TypeError for a collection that is neither an array nor a frame.
    """
    if hasattr(X, "to_dask_array"):
        return _row_of_frame(X)
    if not hasattr(X, "rechunk"):
        raise TypeError(f"Of Dask's collections, arrays and frames can be clustered, not {type(X).__name__}.")
    shape = tuple(1 if i == 0 and size != 0 else size for i, size in enumerate(_sized(X, counted=False).shape))
    return np.full(shape, "0" if X.dtype.kind in "SU" else 0, X.dtype)


def _row_of_frame(X: Any) -> Any:
    import pandas as pd

    def one(dtype: Any) -> Any:
        # Of integers that may be missing, one that is: it tells that they are to be read as floats.
        nullable = not isinstance(dtype, np.dtype) and pd.api.types.is_integer_dtype(dtype)
        try:
            return pd.Series([None if nullable else 0]).astype(dtype)
        except (TypeError, ValueError):  # whatever it is
            return pd.Series([0], dtype=object)

    if X.ndim == 1:
        return one(X.dtype)
    row = pd.DataFrame({i: one(dtype) for i, dtype in enumerate(X.dtypes)})
    row.columns = X.columns
    return row


def rows_of(X: Any, dtype: np.dtype, counted: bool) -> Any:
    """A collection as an array (n, d) of that dtype, whose chunks hold whole rows.

    counted: whether it has to be known how many, which may have to be computed.
    """
    if hasattr(X, "to_dask_array"):
        x = X.astype(dtype).to_dask_array(lengths=True if counted else None)
    else:
        x = _sized(X if X.dtype == dtype else X.astype(dtype), counted)
    return x.rechunk({1: -1}) if x.numblocks[1] > 1 else x


def _sized(x: Any, counted: bool) -> Any:
    """The same array with its number of features known, and that of its rows if `counted`."""
    unknown = any(map(isnan, x.shape if counted else x.shape[1:]))
    return x.copy().compute_chunk_sizes() if unknown else x  # a copy, as sizes are written to what they are asked of


def map_rows(call: Callable[[Any], Any], x: Any, dtype: Any, width: int | None = None) -> Any:
    """call(rows) of each chunk of x (n, d), once they are computed: an array (n,) of that dtype, or (n, width)."""
    empty = np.empty((0,) if width is None else (0, width), dtype)
    chunks = {"drop_axis": 1} if width is None else {"chunks": (x.chunks[0], (width,))}
    return x.map_blocks(partial(_of_rows, call, empty), dtype=dtype, meta=empty, **chunks)


def _of_rows(call: Callable[[Any], Any], empty: Any, rows: Any) -> Any:
    if not rows.shape[0]:
        return empty
    with on_worker.own_gpu():
        return call(rows)


def like(X: Any, answer: Any) -> Any:
    """An answer for each row, an array of Dask's, as what X is: of a frame, with its index, a series if it is (n,), and
    else a frame, whose columns are numbered."""
    if not hasattr(X, "to_dask_array"):
        return answer
    from dask.dataframe import from_dask_array

    columns = None if answer.ndim == 1 else list(range(answer.shape[1]))
    return from_dask_array(answer, columns=columns, index=X.index)


def bad_value(x: Any) -> Any:
    """NaN if any value of x is, else infinity: (1,) of its dtype. One of them is there."""
    import dask.array as da

    return np.array([np.nan if da.isnan(x).any().compute() else np.inf], x.dtype)
