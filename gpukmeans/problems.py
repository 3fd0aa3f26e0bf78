"""Many problems in one argument: an array of three dimensions, or a list of such as one problem takes."""

from __future__ import annotations

from collections.abc import Sequence
from numbers import Real
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gpukmeans import array_interop
from gpukmeans.array_interop import is_dask, issparse


class Problems:
    """X as a caller gives it, one problem after another.

    stacked: whether X is an array (b, n, d), so that answers are arrays of as many problems too; else they are lists.
    Raises ValueError for anything else.
    """

    def __init__(self, X: Any) -> None:
        self.stacked = hasattr(X, "shape") and hasattr(X, "dtype")
        if is_dask(X) or issparse(X) or not (self.stacked or isinstance(X, list | tuple)):
            raise ValueError(
                "X has to be an array of shape (n_problems, n_samples, n_features), or a list of arrays (n_samples, "
                f"n_features), got {type(X).__module__}.{type(X).__qualname__}. For one problem use KMeans."
            )
        if self.stacked and len(X.shape) != 3:
            raise ValueError(
                f"Expected an array of shape (n_problems, n_samples, n_features), got one of shape {tuple(X.shape)}. "
                "A list of arrays (n_samples, n_features) will do too; for one problem use KMeans."
            )
        if len(X) == 0:
            raise ValueError("Found no problems: X is empty, while a minimum of one is required.")
        self.X = X
        self.whole = array_interop.as_array(X) if self.stacked else None

    def __len__(self) -> int:
        return len(self.X)

    def __getitem__(self, i: int) -> Any:
        if self.X is self.whole and array_interop.gpu_of(self.whole) is not None:
            return self.whole[i : i + 1].reshape(*self.whole.shape[1:])
        return self.X[i]

    def like(self, i: int = 0) -> Any:
        """What answers for problem i are to be like: X, or this one of its problems."""
        return self.X if self.stacked else self.X[i]

    def of_another(self, given: Any, name: str) -> Sequence[Any]:
        """One of something for each problem: sample weights, None for none. A number is that of all problems."""
        if given is None or isinstance(given, Real):
            return [given] * len(self)
        if len(given) != len(self):
            raise ValueError(f"{name} is for {len(given)} problems, and X has {len(self)}.")
        return given

    def gpu(self) -> int | None:
        """The number of the GPU that all problems are on, as one array."""
        return None if self.whole is None else array_interop.gpu_of(self.whole)

    def on_gpu(self) -> Any:
        """All problems (b, n, d), where they are one array on a GPU, of a dtype that rows are read in; else None."""
        x: Any = self.whole
        if self.gpu() is None or x.dtype not in array_interop.DTYPES or not x.size:
            return None
        return x

    def rows(self) -> Any:
        """The rows (m, d) of all problems where these are one array, here or on a GPU; else None."""
        x: Any = self.whole
        if self.on_gpu() is None and not (isinstance(x, np.ndarray) and x.dtype in array_interop.DTYPES):
            return None
        return x.reshape(x.shape[0] * x.shape[1], x.shape[2])

    def host_array(self, i: int) -> NDArray[Any] | None:
        """Problem i where NumPy has it, of a dtype that rows are read in; None if it is, or is to be, anywhere else."""
        if self.whole is not None and not isinstance(self.whole, np.ndarray):
            return None
        x = array_interop.as_array(self.X[i]) if self.whole is None else self.whole[i]
        if isinstance(x, np.memmap):
            x = np.asarray(x)
        if isinstance(x, np.ndarray) and x.dtype.kind in "biu" and x.dtype != np.uint8:
            x = x.astype(np.float64)
        return x if array_interop.is_plain(x) else None


def named(error: Exception, problem: int, x: Any) -> Exception:
    """The same error, that says which problem it is of, and the first row that is not finite, if there is one."""
    row = _not_finite(x) if isinstance(error, ValueError) else None
    where = f"Problem {problem}" if row is None else f"Problem {problem}, row {row}"
    try:
        return type(error)(f"{where}: {error}")
    except TypeError:  # of a kind that is made of something else
        return error


def _not_finite(x: Any) -> int | None:
    if issparse(x):
        return None
    try:
        values = np.asarray(array_interop.to_numpy(x), np.float64)
    except (TypeError, ValueError):
        return None
    finite = np.isfinite(values).all(axis=1) if values.ndim == 2 else np.ones(1, bool)
    return None if finite.all() else int(finite.argmin())


def stack(like: Any, parts: Sequence[Any], output_type: str) -> Any:
    """Answers of all problems, of one shape, as one array of the kind that they are of. From a GPU they come here and
    go back, which is little beside their fits."""
    return array_interop.convert_like(like, np.stack([array_interop.to_numpy(part) for part in parts]), output_type)
