"""Pictures: centers, confusion matrices, palettes, and two side by side."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import PowerNorm
from matplotlib.patches import Rectangle
from numpy.typing import ArrayLike, NDArray

from gpukmeans.image.color_space import linear_light
from gpukmeans.plot.axes import own_axes


def centers(
    centers: ArrayLike, shape: tuple[int, int] = (8, 8), ax: Axes | None = None, *, names: Sequence[Any] | None = None
) -> Axes:
    """Centers as pictures, dark where a feature is large, in rows of five.

    Parameters
    ----------
    centers : array-like of shape (n_clusters, height * width)
    shape : (height, width), default=(8, 8)
    ax : Axes, default=None
    names : sequence of n_clusters names, default=None
        What to write above each; their indices unless told.

    Raises
    ------
    ValueError
        If the centers do not have height * width features.
    """
    pictures = np.asarray(centers, dtype=float)
    height, width = shape
    if pictures.ndim != 2 or pictures.shape[1] != height * width:
        raise ValueError(f"centers() draws centers of shape (k, {height} * {width}), got {pictures.shape}.")
    columns = min(5, len(pictures))
    rows = -(-len(pictures) // columns)
    # A fifth of a picture between the columns, and room for a name between the rows.
    step_x, step_y = width * 1.2, height * 1.45
    ax = own_axes(ax, width=1.4 * columns, height=1.7 * rows)
    for i, picture in enumerate(pictures):
        left, top = i % columns * step_x, i // columns * step_y
        extent = (left, left + width, top + height, top)
        ax.imshow(picture.reshape(shape), cmap="gray_r", extent=extent, vmin=pictures.min(), vmax=pictures.max())
        ax.add_patch(Rectangle((left, top), width, height, fill=False, edgecolor="0.8", clip_on=False))
        ax.text(left + width / 2, top - 0.05 * height, str(i if names is None else names[i]), ha="center", va="bottom")
    ax.set(xlim=(0, columns * step_x - 0.2 * width), ylim=(rows * step_y - 0.45 * height, -0.3 * height))
    ax.set_axis_off()
    return ax


def confusion(matrix: ArrayLike, ax: Axes | None = None) -> Axes:
    """Counts of true labels (rows) against the labels that their clusters map to (columns).

    Parameters
    ----------
    matrix : array-like of shape (n_labels, n_labels), int
    ax : Axes, default=None
    """
    matrix = np.asarray(matrix)
    ax = own_axes(ax, width=5.6, height=5.4)
    # The square root: a handful of errors must be seen beside hundreds of hits.
    norm = PowerNorm(0.5, vmin=0, vmax=max(1, matrix.max()))
    ax.imshow(matrix, cmap="Blues", norm=norm)
    for row, column in np.argwhere(matrix):
        count = matrix[row, column]
        color = "white" if norm(count) > 0.6 else "black"
        ax.text(column, row, str(count), ha="center", va="center", color=color, fontsize="small")
    ticks = range(len(matrix))
    ax.set(xticks=ticks, yticks=ticks, xlabel="label given by the cluster", ylabel="true label")
    ax.tick_params(length=0)
    return ax


def palette(colors: ArrayLike, ax: Axes | None = None) -> Axes:
    """Colors from dark to light, as stripes of equal width.

    Parameters
    ----------
    colors : array-like of shape (n_colors, 3)
        sRGB, in [0, 1].
    ax : Axes, default=None
    """
    rgb = np.clip(np.asarray(colors, dtype=float), 0, 1)
    rgb = rgb[np.argsort(_luminance(rgb), kind="stable")]
    ax = own_axes(ax, width=10, height=1)
    ax.imshow(rgb[None], aspect="auto", interpolation="nearest")
    ax.set(xticks=[], yticks=[])
    return ax


def comparison(
    original: ArrayLike,
    result: ArrayLike,
    ax: Axes | None = None,
    *,
    names: tuple[str, str] = ("original", "result"),
) -> Axes:
    """Two pictures side by side.

    Parameters
    ----------
    original, result : array-like of shape (height, width, 3)
        sRGB, in [0, 1].
    ax : Axes, default=None
    names : pair of str
        What to write above each.

    Raises
    ------
    ValueError
        If the pictures differ in shape.
    """
    pictures = [np.clip(np.asarray(picture, dtype=float), 0, 1) for picture in (original, result)]
    if pictures[0].shape != pictures[1].shape:
        raise ValueError(f"comparison() draws pictures of one shape, got {pictures[0].shape} and {pictures[1].shape}.")
    height, width = pictures[0].shape[:2]
    ax = own_axes(ax, width=12, height=6 * height / width + 0.4)
    for i, (picture, name) in enumerate(zip(pictures, names, strict=True)):
        left = i * 1.02 * width
        ax.imshow(picture, extent=(left, left + width, height, 0))
        ax.text(left + width / 2, -0.02 * height, name, ha="center", va="bottom", fontsize="large")
    ax.set(xlim=(0, 2.02 * width), ylim=(height, 0))
    ax.set_axis_off()
    return ax


def _luminance(colors: NDArray[np.float64]) -> NDArray[np.float64]:
    """The relative luminance (n,) of sRGB colors (n, 3): IEC 61966-2-1. Orders colors as CIE lightness does."""
    return linear_light(colors) @ np.array([0.2126, 0.7152, 0.0722])
