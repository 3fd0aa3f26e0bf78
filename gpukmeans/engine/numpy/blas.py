"""Matrix products of a few rows by many columns."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

# OpenBLAS multiplies up to this many times without copying its operands first, 1.6 times as fast; beyond
# a few times as many, memory decides.
_DIRECT = 10**6
_MOST_PIECES = 4


def multiply(a: NDArray[np.float32], b: NDArray[np.float32], out: NDArray[np.float32]) -> NDArray[np.float32]:
    """``a @ b``, where a has few rows, in out."""
    pieces = -(-a.size * b.shape[1] // _DIRECT)
    step = b.shape[1] if pieces > _MOST_PIECES else -(-b.shape[1] // pieces)
    for start in range(0, b.shape[1], step):
        piece = slice(start, start + step)
        np.matmul(a, b[:, piece], out=out[:, piece])
    return out
