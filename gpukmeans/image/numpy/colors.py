"""A picture's distinct colors: where they live, and the work that grows with their number.

Of 10^8 pixels a photograph has some 10^5 or 10^6 colors. They are clustered with how much each counts; what is in
between, and the palette, is the drivers' (palette.py, coarse.py). A new device is one more class with these methods.
"""

from __future__ import annotations

from functools import cached_property
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from gpukmeans import array_interop
from gpukmeans.exact.fixed_point import Weights, ceil_log2
from gpukmeans.image.color_space import Levels, to_points
from gpukmeans.image.files.read import premultiplied
from gpukmeans.image.numpy.pixels import nearest

# What all colors weigh at most where they become whole numbers: sums of mass times coordinate are then below 2**53, of
# mass times square below 2**63 (cells.py).
MASS_BITS = 38

# Up to so many pixels counts are masses.
MOST_COUNTED = 2**MASS_BITS / 1.01


class Colors(Protocol):
    """m distinct colors of c channels, uint8 or uint16, on one device. weights: (m,), positive, where the colors are.
    Labels are given where the colors are, and taken in either place."""

    channels: int
    dtype: Any
    weights: Any

    @property
    def unit(self) -> float:
        """What weight 1 becomes so that whole masses are at most 2**MASS_BITS in all."""

    def __len__(self) -> int: ...

    def levels(self) -> Levels:
        """(m, c), on the host."""

    def points(self, space: str) -> Any:
        """(m, c), what is clustered, where the colors are."""

    def weighed(self) -> tuple[Weights, Any]:
        """The weights' summary, and the weights (m,) as Points take them, where the colors are."""

    def nearest(self, palette: Levels, space: str) -> Any:
        """The label of the palette's color (k, 3) or (k, 4) nearest to each: (m,) int32."""

    def error(self, palette: Levels, labels: Any) -> int:
        """The sum of weight times squared difference of levels, premultiplied, from those that labels (m,) have in the
        palette (k, 3) or (k, 4); exactly. The weights are counts."""


class NumPyColors:
    """levels: (m, c). weights: (m,) positive, counts or float64."""

    def __init__(self, levels: Levels, weights: NDArray[Any]) -> None:
        self.channels, self.dtype = levels.shape[1], levels.dtype
        self._levels, self.weights = levels, weights

    @cached_property
    def unit(self) -> float:
        total = float(self.weights.sum())
        whole = self.weights.dtype.kind in "iu" or bool((self.weights == np.rint(self.weights)).all())
        if whole and total <= MOST_COUNTED:
            return 1.0
        # Rounding and order move the last bits of this sum, but not the power of two above it, which has room to spare.
        return 2.0 ** (MASS_BITS - ceil_log2(total * 1.01))

    def __len__(self) -> int:
        return len(self._levels)

    def levels(self) -> Levels:
        return self._levels

    def points(self, space: str) -> NDArray[Any]:
        return to_points(self._levels, space)

    def weighed(self) -> tuple[Weights, NDArray[Any]]:
        summary, used = Weights.of(self.weights.astype(np.float64))
        same = summary.shift == 0 and used.dtype == self.weights.dtype
        return summary, self.weights if same else used  # the same numbers are held once

    def nearest(self, palette: Levels, space: str) -> NDArray[np.int32]:
        own, like = with_alpha(self._levels, palette)
        return nearest(to_points(own, space), to_points(like, space))

    def error(self, palette: Levels, labels: Any) -> int:
        own, shown = (premultiplied(levels) for levels in with_alpha(self._levels, palette))
        labels, total = array_interop.to_numpy(labels), 0
        for a in range(0, len(own), 2**16):  # a piece at a time, added in Python's integers
            piece = slice(a, a + 2**16)
            squares = ((own[piece].astype(np.int64) - shown[labels[piece]]) ** 2).sum(axis=1)
            counts = self.weights[piece]
            total += int(squares.astype(object) @ counts) if own.dtype == np.uint16 else int(squares @ counts)
        return total


def with_alpha(colors: Levels, palette: Levels) -> tuple[Levels, Levels]:
    """Both with as many channels, of those that either needs: 3, or 4 if one has alpha."""
    if colors.shape[1] == 1:
        colors = np.repeat(colors, 3, axis=1)
    both = [colors, palette]
    if colors.shape[1] != palette.shape[1]:
        for i, levels in enumerate(both):
            if levels.shape[1] == 3:
                opaque = np.full((len(levels), 1), np.iinfo(levels.dtype).max, levels.dtype)
                both[i] = np.concatenate([levels, opaque], axis=1)
    return both[0], both[1]
