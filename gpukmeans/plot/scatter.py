"""Points where they lie: in the plane by label, and colors in the cube that they span."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from numpy.typing import ArrayLike

from gpukmeans.plot.axes import distinct, in_the_plane, own_axes, own_figure


def clusters(
    X: ArrayLike,
    labels: ArrayLike | None = None,
    centers: ArrayLike | None = None,
    ax: Axes | None = None,
    *,
    names: Sequence[Any] | None = None,
) -> Axes:
    """Points in the plane, colored by label, and the centers.

    Parameters
    ----------
    X : array-like of shape (n_samples, 2)
    labels : array-like of shape (n_samples,), integers from 0, default=None
        Without labels all points are gray.
    centers : array-like of shape (n_clusters, 2), default=None
    ax : Axes, default=None
    names : sequence, default=None
        The names of the labels from 0 on, for a legend.

    Returns
    -------
    ax : Axes

    Raises
    ------
    ValueError
        If the points or the centers do not have two features.
    """
    X = in_the_plane(X)
    if centers is not None:
        centers = in_the_plane(centers)
    ax = own_axes(ax, width=6.4, height=5.6)
    size = 18 if len(X) <= 1000 else 8
    if labels is None:
        ax.scatter(X[:, 0], X[:, 1], s=size, c="0.55", linewidths=0, alpha=0.75)
    else:
        labels = np.asarray(labels)
        colors = distinct(int(labels.max(initial=-1)) + 1)
        ax.scatter(X[:, 0], X[:, 1], s=size, c=colors[labels], linewidths=0, alpha=0.75)
        for name, color in zip(names or (), colors, strict=False):
            ax.scatter([], [], color=color, label=str(name))
        if names is not None:
            ax.legend(markerscale=0.8, fontsize="small", loc="upper left", bbox_to_anchor=(1, 1), frameon=False)
    if centers is not None:
        # White around black shows on every color.
        x, y = np.transpose(centers)
        ax.scatter(x, y, s=170, c="black", marker="X", edgecolors="white", linewidths=1.5, zorder=3)
    ax.set_aspect("equal", adjustable="datalim")  # k-means knows no other distance
    ax.set(xlabel="feature 0", ylabel="feature 1")
    return ax


def cloud(colors: ArrayLike, weights: ArrayLike | None = None, ax: Any = None, *, most: int = 10_000) -> Any:
    """Colors as points in the cube of red, green and blue, each in its own color.

    Parameters
    ----------
    colors : array-like of shape (n_colors, 3)
        sRGB, in [0, 1].
    weights : array-like of shape (n_colors,), default=None
        The areas of the points are proportional to these.
    ax : Axes3D, default=None
        As ``figure.add_subplot(projection="3d")`` makes it.
    most : int, default=10_000
        Of more colors than this, that many rows are drawn, evenly spaced.

    Returns
    -------
    ax : Axes3D

    Raises
    ------
    ValueError
        If there are not three channels, or ax has two dimensions.
    """
    rgb = np.clip(np.asarray(colors, dtype=float), 0, 1)
    if rgb.ndim != 2 or rgb.shape[1] != 3:
        raise ValueError(f"cloud() draws colors of shape (n, 3), got {rgb.shape}.")
    ax = own_figure(width=5.6, height=5.6).add_subplot(projection="3d") if ax is None else ax
    if ax.name != "3d":
        raise ValueError("cloud() draws in three dimensions: make ax with projection='3d'.")
    area = np.full(len(rgb), 2.0)
    if weights is not None:
        share = np.asarray(weights, dtype=float)
        # 100 points by weight would cover about as much as 100 middling markers do.
        area = 60.0 * len(rgb) * share / share.sum()
    rows = np.linspace(0, len(rgb) - 1, min(most, len(rgb))).astype(np.intp)
    rgb, area = rgb[rows], area[rows]
    ax.scatter(*rgb.T, c=rgb, s=area, linewidths=0, depthshade=False, alpha=1 if weights is None else 0.9)
    ax.set(xlabel="red", ylabel="green", xlim=(0, 1), ylim=(0, 1), zlim=(0, 1))
    ax.set_zlabel("blue", labelpad=10)
    for axis in (ax.xaxis, ax.yaxis, ax.zaxis):
        axis.set_pane_color("0.85")  # white and black both show
        axis.set_ticks([0.25, 0.5, 0.75])  # at 0 and 1 the numbers of two axes would meet
    ax.set_box_aspect((1, 1, 1), zoom=0.9)  # room for the labels of the axes
    return ax
