"""Sparse rows: a CSR matrix that stands where an array of rows does.

D and the terms of sums are defined over all features, zeros included (exact/): `(0 - c)^2` and
`rint((0 - offset) * scale)` count. So rows are made dense, as many at a time as a pass asks for, and the
bits are those of the dense matrix without its memory.
"""

# What is given up is speed: a pass costs n d operations, not one for each entry. Sorting and merging are left out. On a
# GPU rows become dense in the buffers that cross the bus.

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

# A matrix whose dense form takes no more than this is made dense as a whole: cheaper than once a pass,
# and nothing beside the memory of a process that has imported NumPy and SciPy (about 100 MB).
DENSE_BYTES = 2**26


class SparseRows:
    """The rows of a CSR matrix (n, d). Indexing gives rows, still sparse; NumPy's functions make them dense.

    nbytes is that of the dense form, stored that of the matrix, which is never written to. Duplicate
    entries add up, as in ``toarray()``.
    """

    def __init__(self, matrix: Any) -> None:
        self._matrix = matrix
        self.shape: tuple[int, int] = matrix.shape
        self.dtype: np.dtype = matrix.dtype
        self.size = self.shape[0] * self.shape[1]
        self.nbytes = self.size * self.dtype.itemsize
        self.stored = matrix.data.nbytes + matrix.indices.nbytes + matrix.indptr.nbytes

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, rows: Any) -> SparseRows:
        return SparseRows(self._matrix[rows])

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> NDArray[Any]:
        return self._matrix.toarray().astype(dtype or self.dtype, copy=False)


def rows_of(matrix: Any) -> NDArray[Any] | SparseRows:
    """A CSR matrix as rows that a Points takes: dense if that is small."""
    rows = SparseRows(matrix)
    return np.asarray(rows) if rows.nbytes <= DENSE_BYTES else rows
