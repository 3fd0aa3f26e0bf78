"""What all figures share: where they are drawn, and the colors of labels."""

from __future__ import annotations

from typing import Any

import numpy as np
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import ArrayLike, NDArray


def own_figure(width: float, height: float) -> Figure:
    """A Figure of that size in inches."""
    return Figure(figsize=(width, height), layout="constrained")


def own_axes(ax: Axes | None, width: float, height: float) -> Axes:
    """ax, or the one Axes of a new Figure of that size in inches."""
    return own_figure(width, height).add_subplot() if ax is None else ax


def in_the_plane(points: ArrayLike) -> NDArray[Any]:
    """points as an array (n, 2). Raises ValueError for any other shape."""
    points = np.asarray(points)
    if points.ndim != 2 or points.shape[1] != 2:
        raise ValueError(
            f"Points in the plane have the shape (n, 2), got {points.shape}. Choose two features, or project."
        )
    return points


def distinct(count: int) -> NDArray[np.float64]:
    """Colors (count, 4) that can be told apart, as far as that goes."""
    for name, size in (("tab10", 10), ("tab20", 20)):
        if count <= size:
            return colormaps[name](np.arange(count))
    return colormaps["turbo"](np.linspace(0, 1, count))
