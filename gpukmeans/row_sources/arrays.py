"""Rows in arrays: of NumPy, in memory or mapped from a file, or anything that has a shape, a dtype and slices."""

from __future__ import annotations

import mmap
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gpukmeans.array_interop import DTYPES, gpu_of, issparse, readable
from gpukmeans.row_sources.base import RowSource

_PAGE = mmap.PAGESIZE


def is_mapped(x: Any) -> bool:
    """Whether an array of NumPy's is a file's, or part of one."""
    while isinstance(x, np.ndarray):
        if isinstance(x, np.memmap):
            return getattr(x, "_mmap", None) is not None  # that of a copy is
        x = x.base
    return isinstance(x, mmap.mmap)


def is_sliceable(X: Any) -> bool:
    """Whether X is rows that are somewhere else, as zarr's and h5py's arrays: of two dimensions and a dtype of numbers,
    and no array of a library that gives access to its memory, or frame."""
    shape, dtype = getattr(X, "shape", None), getattr(X, "dtype", None)
    if not isinstance(shape, tuple) or len(shape) != 2 or dtype is None or not hasattr(X, "__getitem__"):
        return False
    known = ("__dlpack__", "__cuda_array_interface__", "__array_interface__", "__dataframe__", "iloc")
    if (
        isinstance(X, np.ndarray | RowSource)
        or gpu_of(X) is not None
        or issparse(X)
        or any(hasattr(X, name) for name in known)
    ):
        return False
    return isinstance(dtype, np.dtype) and dtype.kind in "biuf"


class ArrayRows(RowSource):
    """x: (n, d), an array of NumPy's of any dtype of numbers. Of those that are read as they are, pieces are views."""

    at_random = True

    def __init__(self, x: NDArray[Any], limit: int) -> None:
        super().__init__(x.shape, readable(x)[1], limit)
        self.given = x
        self._x = x.view(np.ndarray)
        self._mapped = is_mapped(x)

    def _read(self, start: int, stop: int) -> NDArray[Any]:
        rows = self._x[start:stop]
        if rows.dtype == self.dtype:
            if self._mapped:
                _touch(rows)
            return rows
        return rows.astype(self.dtype)

    def take(self, indices: NDArray[np.integer]) -> NDArray[Any]:
        return self._x[indices].astype(self.dtype, copy=False)


class SlicedRows(RowSource):
    """x: anything with a shape (n, d), a dtype of numbers, and slices of rows that NumPy can read."""

    def __init__(self, x: Any, limit: int) -> None:
        dtype = np.dtype(x.dtype).newbyteorder("=")
        n, d = x.shape
        super().__init__((int(n), int(d)), dtype if dtype in DTYPES else DTYPES[0], limit)
        self.given = self._x = x

    def _read(self, start: int, stop: int) -> NDArray[Any]:
        rows = np.asarray(self._x[start:stop])
        if rows.shape != (stop - start, self.shape[1]):
            raise ValueError(
                f"Rows {start} to {stop} of an array of type {type(self._x).__module__}.{type(self._x).__name__} have "
                f"the shape {rows.shape}, and should have {(stop - start, self.shape[1])}."
            )
        return rows.astype(self.dtype, copy=False)


def _touch(x: NDArray[Any]) -> None:
    """Have the system read what is mapped, so that whoever works on it need not wait: a value of each page."""
    with np.errstate(all="ignore"):
        for part in (x.reshape(-1),) if x.flags.c_contiguous else x.T:
            part[:: max(1, _PAGE // max(1, abs(part.strides[0])))].max()
