"""Normalized rows: rows that stand brought to length one where an array of rows does.

They are float64 whatever the dtype that they are made of, as every pass reads them: so the same numbers in another
dtype stay the same rows. Making them again costs a pass less than a comparison with a few centers does, and so they
are kept only where that takes little memory, or where they will be sorted.
"""

# Rounded to float32 they would take half the memory, but then the same numbers in float32 and in float64 would be
# different rows, and labels of the former true of rounded rows only.

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from gpukmeans.engine.numpy.deduplicate import CURVE_FEATURES
from gpukmeans.exact.distance import Floats, normalize
from gpukmeans.thread_limits import thread_count
from gpukmeans.threads import run

# Normalized rows that take no more than this are made as a whole: cheaper than once a pass, and nothing beside the
# memory of a process that has imported NumPy and SciPy (about 100 MB).
MADE_BYTES = 2**26

# Values to bring to length one at once: 512 KB of float64.
_PIECE = 2**16


class NormalizedRows:
    """Rows x (n, d) by their direction, float64; indexing makes them (exact.distance.normalize).

    nbytes is that of all rows, made; stored is the same: as much as a pass may leave behind of them.
    """

    dtype = np.dtype(np.float64)

    def __init__(self, x: NDArray[Any]) -> None:
        self._x = x
        self.shape: tuple[int, int] = x.shape
        self.size = self.shape[0] * self.shape[1]
        self.nbytes = self.stored = 8 * self.size

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, rows: Any) -> Floats:
        x = np.asarray(self._x[rows])
        made = np.empty(x.shape[::-1])
        step = max(1, _PIECE // self.shape[1])
        for a in range(0, len(x), step):
            made[:, a : a + step] = normalize(np.ascontiguousarray(x[a : a + step].T, dtype=np.float64))
        return made.T


def normalized_rows(x: NDArray[Any], reused: bool) -> Floats | NormalizedRows:
    """The normalized rows of x: all of them made if that is small, or if they have few features and will be reused."""
    rows = NormalizedRows(x)
    n, d = rows.shape
    if rows.nbytes > MADE_BYTES and (d > CURVE_FEATURES or not reused):
        return rows
    made = np.empty(rows.shape)
    step = max(1, _PIECE // d)

    def make(span: slice) -> None:
        made[span] = rows[span]

    run(make, [slice(a, min(a + step, n)) for a in range(0, n, step)], 1 if n <= step else thread_count())
    return made
