"""What all figures share: where they are drawn, and the colors of labels."""

from __future__ import annotations

import numpy as np
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import NDArray


def own_figure(width: float, height: float) -> Figure:
    """A Figure of that size in inches."""
    return Figure(figsize=(width, height), layout="constrained")


def own_axes(ax: Axes | None, width: float, height: float) -> Axes:
    """ax, or the one Axes of a new Figure of that size in inches."""
    return own_figure(width, height).add_subplot() if ax is None else ax


def distinct(count: int) -> NDArray[np.float64]:
    """Colors (count, 4) that can be told apart, as far as that goes."""
    for name, size in (("tab10", 10), ("tab20", 20)):
        if count <= size:
            return colormaps[name](np.arange(count))
    return colormaps["turbo"](np.linspace(0, 1, count))
