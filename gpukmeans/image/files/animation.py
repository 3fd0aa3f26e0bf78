"""Animations of few colors: as many frames as there are, each for its own time (gif.py, apng.py, animated_webp.py).

Pillow encodes each frame's rectangle, and the containers are written by those modules: Pillow itself leaves out frames
that equal the one before, and chooses palettes anew. A frame is the rectangle in which it differs from the one before.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gpukmeans.image.levels import Levels, to_rgba

# What a frame is shown for that says nothing, in milliseconds: as browsers do.
USUAL = 100.0


@dataclass(frozen=True)
class Frames:
    """indices: (t, h, w). palettes: of each frame, (k, 3) or (k, 4) uint8; one for all is the same object."""

    indices: NDArray[Any]
    palettes: list[NDArray[np.uint8]]

    @property
    def shared(self) -> bool:
        return all(palette is self.palettes[0] for palette in self.palettes)

    def colors(self, i: int) -> Levels:
        """(h, w, 4)."""
        return to_rgba(self.palettes[i])[self.indices[i]]

    def rectangles(self) -> Iterator[tuple[int, tuple[slice, slice]]]:
        """Each frame, and where it differs from the one before; a single pixel if nowhere."""
        before: Levels | None = None
        for i in range(len(self.indices)):
            colors = self.colors(i)
            yield i, _rectangle(np.ones(colors.shape[:2], bool) if before is None else (colors != before).any(axis=-1))
            before = colors


def _rectangle(changed: NDArray[np.bool_]) -> tuple[slice, slice]:
    rows, columns = np.flatnonzero(changed.any(axis=1)), np.flatnonzero(changed.any(axis=0))
    if len(rows) == 0:
        return slice(0, 1), slice(0, 1)
    return slice(int(rows[0]), int(rows[-1]) + 1), slice(int(columns[0]), int(columns[-1]) + 1)


def ticks_of(times: tuple[float, ...], per_second: int) -> list[int]:
    """Durations in milliseconds as whole parts of a second, of which each frame begins at the nearest."""
    ends = np.rint(np.cumsum([0.0, *times]) * per_second / 1000).astype(int)
    return np.diff(ends).tolist()
