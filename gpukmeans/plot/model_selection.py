"""How many clusters: the elbow and the silhouette."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator
from numpy.typing import ArrayLike
from sklearn.metrics import silhouette_samples

from gpukmeans.plot.axes import distinct, own_axes


def elbow(models: Iterable[Any], ax: Axes | None = None) -> Axes:
    """The inertia of fits to the same data against their numbers of clusters.

    More clusters always bring it down; where the curve bends, a further cluster no longer finds a gap in the data.

    Parameters
    ----------
    models : iterable of fitted KMeans
        In any order.
    ax : Axes, default=None

    Returns
    -------
    ax : Axes
    """
    found = sorted((model.n_clusters, model.inertia_) for model in models)
    ax = own_axes(ax, width=5.6, height=3.6)
    ax.plot(*zip(*found, strict=True), marker="o")
    ax.xaxis.set_major_locator(MaxNLocator(integer=True))
    ax.set_ylim(bottom=0)
    ax.set(xlabel="number of clusters", ylabel="inertia")
    ax.grid(alpha=0.3)
    return ax


def silhouette(X: ArrayLike, labels: ArrayLike, ax: Axes | None = None) -> Axes:
    """Silhouettes of all points, sorted within each cluster, and their mean.

    A point's silhouette compares a, its mean distance to its own cluster, with b, that to the nearest other one:
    (b - a) / max(a, b). Near 1 it lies well inside, at 0 between two clusters, below 0 rather in the other. Takes time
    with the square of the number of points.

    Rousseeuw, "Silhouettes: a graphical aid to the interpretation and validation of cluster analysis" (Journal of
    Computational and Applied Mathematics, 1987).

    Parameters
    ----------
    X : array-like of shape (n_samples, n_features)
    labels : array-like of shape (n_samples,), integers from 0
    ax : Axes, default=None

    Returns
    -------
    ax : Axes

    Raises
    ------
    ValueError
        If the labels are fewer than 2, or as many as the points: there is no other cluster, or no own one.
    """
    labels = np.asarray(labels)
    widths = silhouette_samples(X, labels)
    colors = distinct(int(labels.max()) + 1)
    gap = max(1, len(labels) // 60)
    ax = own_axes(ax, width=4.2, height=4.2)
    top, ticks = 0, []
    present = np.unique(labels)
    for label in present:
        own = np.sort(widths[labels == label])[::-1]
        ax.fill_betweenx(np.arange(top, top + len(own) + 1), np.append(own, own[-1]), color=colors[label], step="post")
        ticks.append(top + len(own) / 2)
        top += len(own) + gap
    ax.axvline(widths.mean(), color="black", linestyle="--", linewidth=1)
    ax.set_yticks(ticks, [str(label) for label in present])
    ax.tick_params(axis="y", length=0)
    ax.set(ylim=(top, -gap), xlim=(min(-0.1, widths.min()), 1))
    ax.set(xlabel=f"silhouette (mean {widths.mean():.2f})", ylabel="cluster")
    return ax
