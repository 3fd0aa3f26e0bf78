"""Distinct colors on the CPU: as points, their nearest colors, and what a palette errs by."""

from __future__ import annotations

from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gpukmeans import array_interop
from gpukmeans.engine.dispatch import make_points
from gpukmeans.engine.protocol import Samples
from gpukmeans.exact.fixed_point import Weights
from gpukmeans.image.color_space import to_points
from gpukmeans.image.grid import mass_scale_of
from gpukmeans.image.levels import Levels, premultiplied, with_common_channels

# Colors at a time: 2 MB of squared differences of four channels.
_PIECE = 2**16


class NumPyColors:
    """levels: (m, c). weights: (m,) positive, counts or float64."""

    def __init__(self, levels: Levels, weights: NDArray[Any]) -> None:
        self.channels, self.dtype = levels.shape[1], levels.dtype
        self._levels, self.weights = levels, weights

    @cached_property
    def mass_scale(self) -> float:
        # test_cells.test_weights_that_are_not_whole_become_whole fails if all weights are taken for whole.
        counts = self.weights.dtype.kind in "iu" or bool((self.weights == np.rint(self.weights)).all())
        return mass_scale_of(float(self.weights.sum()), counts=counts)

    def __len__(self) -> int:
        return len(self._levels)

    def levels(self) -> Levels:
        return self._levels

    def points(self, space: str) -> NDArray[Any]:
        return to_points(self._levels, space)

    def engine_weights(self) -> tuple[Weights, NDArray[Any]]:
        summary, used = Weights.of(self.weights.astype(np.float64))
        same = summary.shift == 0 and used.dtype == self.weights.dtype
        # The same numbers are held once (test_quantize.test_only_ratios_of_weights_matter fails if others are, too).
        return summary, self.weights if same else used

    def nearest(self, palette: Levels, space: str) -> NDArray[np.int32]:
        own, other = with_common_channels(self._levels, palette)
        return _nearest(to_points(own, space), to_points(other, space))

    def nearest_levels(self, palette: Levels) -> NDArray[np.int32]:
        return _nearest(self._levels, palette)

    def error(self, palette: Levels, labels: Any) -> int:
        own, shown = map(premultiplied, with_common_channels(self._levels, palette))
        labels, total = array_interop.to_numpy(labels), 0
        for a in range(0, len(own), _PIECE):  # added in Python's integers
            piece = slice(a, a + _PIECE)
            squares = ((own[piece].astype(np.int64) - shown[labels[piece]]) ** 2).sum(axis=1)
            counts = self.weights[piece]
            # Of 16 bits and few channels these have 34 bits, and counts 38
            # (test_quantize.test_errors_of_16_bits_are_exact_however_many_pixels fails of int64).
            total += int(squares.astype(object) @ counts) if own.dtype == np.uint16 else int(squares @ counts)
        return total


def _nearest(coordinates: NDArray[Any], palette: NDArray[Any]) -> NDArray[np.int32]:
    """The index of the palette's color (k, d) nearest to each of the coordinates (m, d), by D (Rule 1): (m,) int32."""
    exact = coordinates.astype(np.float32) if coordinates.dtype == np.uint16 else coordinates
    points = make_points(Samples(exact, reused=False, distinct=True), device="cpu")
    points.feature_range()
    points.assign(palette.astype(np.float64))
    return points.labels()
