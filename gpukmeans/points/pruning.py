"""How far centers have moved since rows were last looked at, for the bounds that kernels/active.cu keeps of them."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from gpukmeans.exact import Floats
from gpukmeans.points.bounds import moved

# From so many centers on: below, comparing a row with all of them takes no longer than reading what tells whether
# that is needed. Reading 8 bytes takes 1.9 ps at 4.3 TB/s, and writing 12 in the passes before as much again; a pair
# of few features takes 0.1 to 0.3 ps on 132 multiprocessors (benchmarks/floors.py).
FEWEST_CENTERS = 24

# Sums of movement beyond this are begun anew, all rows being looked at: as float32 they keep steps of 2**-19, a
# thousandth of an 8-bit color's.
LONGEST = 16.0


class Movement:
    """The distances that k centers have moved in all, in the frame's units.

    own: (k,) each center's. others: (k,) in each iteration, the most that any other center moved.
    """

    def __init__(self, k: int) -> None:
        self._sums = np.zeros((2, k))  # own and others together, and others

    def follow(self, old: Floats, new: Floats, scale: float) -> bool:
        """Add what centers (k, d) moved; returns whether bounds written before are still worth keeping."""
        own, others = moved(old, new, scale, features=1)
        own += others
        self._sums[0] += own
        self._sums[1] += others
        return float(self._sums[0].max()) < LONGEST

    def table(self) -> NDArray[np.float32]:
        """(4, k): own and others together from above and from below, others from above and from below."""
        return (self._sums[:, None] * _AROUND).reshape(4, -1).astype(np.float32)


# Twice what rounding to float32 may take away or add.
_AROUND = np.array([[1 + 2.0**-23], [1 - 2.0**-23]])
