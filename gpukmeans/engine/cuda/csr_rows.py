"""Sparse rows on their way to a GPU: a CSR matrix that stands where an array of rows does.

Kernels read rows that are dense; these become so in the buffers that cross the bus, as many at a time as fit there.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray


class SparseRows:
    """The rows of a CSR matrix (n, d). Indexing gives rows, still sparse; NumPy's functions make them dense.

    nbytes is that of the dense form. The matrix is never written to. Duplicate entries add up, as in ``toarray()``.
    """

    def __init__(self, matrix: Any) -> None:
        self._matrix = matrix
        self.shape: tuple[int, int] = matrix.shape
        self.dtype: np.dtype = matrix.dtype
        self.size = self.shape[0] * self.shape[1]
        self.nbytes = self.size * self.dtype.itemsize

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, rows: Any) -> SparseRows:
        return SparseRows(self._matrix[rows])

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> NDArray[Any]:
        return self._matrix.toarray().astype(dtype or self.dtype, copy=False)
