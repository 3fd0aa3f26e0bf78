"""Matrix products of a few rows by many columns, in pieces that stay in a core's second-level cache."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

# Values of the long operand at a time: 512 KB of float32. OpenBLAS copies operands to multiply them, which costs half
# as much again where they come from memory.
_PIECE = 2**17


def multiply(a: NDArray[np.float32], b: NDArray[np.float32], out: NDArray[np.float32]) -> NDArray[np.float32]:
    """``a @ b``, where a has few rows, in out."""
    m = out.shape[1]
    step = max(256, _PIECE // max(1, len(b)))
    for start in range(0, m, step):
        piece = slice(start, min(start + step, m))
        np.matmul(a, b[:, piece], out=out[:, piece])
    return out


def score(columns: NDArray[np.float32], y: NDArray[np.float32], out: NDArray[np.float32]) -> NDArray[np.float32]:
    """The scores (k, m) of features y (m, d) by columns (d + 1, k), see `Frame.least_scores`, in out."""
    multiply(columns[:-1].T, y.T, out)
    out += columns[-1][:, None]
    return out
