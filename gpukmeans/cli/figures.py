"""The figures of ``gpukmeans fit``: clusters in the plane, and what speaks for a number of them."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import issparse

from gpukmeans.cli import outputs
from gpukmeans.cli.choice import Choice
from gpukmeans.cli.errors import CommandError

# More points than these cover each other.
MOST_POINTS = 10_000


def check() -> None:
    """CommandError where matplotlib is not installed."""
    try:
        import matplotlib  # noqa: F401
    except ImportError as error:
        raise CommandError(f"--plot needs matplotlib ({error}): pip install 'gpukmeans[plot]'") from None


def write_clusters(path: str, X: Any, model: Any, names: list[str]) -> None:
    """Rows (n, d) by label, and the centers: in the plane of two features, or of the first two principal components;
    of a single feature, against the number of the row. Of more than MOST_POINTS rows as many, evenly spaced."""
    from gpukmeans import plot

    n, d = X.shape
    rows = np.linspace(0, n - 1, min(n, MOST_POINTS)).astype(np.intp)
    points, labels, centers = X[rows], model.labels_[rows], model.cluster_centers_
    if model.metric == "cosine":
        from sklearn.preprocessing import normalize

        points = normalize(points)
    if d == 1:
        points, centers = np.column_stack([_dense(points)[:, 0].astype(np.float64), rows]), None
        names = [*names, "row"]
    elif d > 2 and len(rows) > 2:
        points, centers, names = _projected(points, centers)
    else:
        points, centers = points[:, :2], centers[:, :2]
    ax = plot.clusters(_dense(points), labels, centers)
    if d == 1:
        ax.set_aspect("auto")
    ax.set(xlabel=names[0], ylabel=names[1])
    clusters = len(model.cluster_centers_)
    ax.set_title(f"{n:,} rows in {clusters:,} cluster{'' if clusters == 1 else 's'}, inertia {model.inertia_:,.6g}")
    _save(path, ax.figure)


def write_choice(path: str, found: Choice) -> None:
    """Inertia and mean silhouette against k, and a line at the k that is suggested."""
    from matplotlib.figure import Figure
    from matplotlib.ticker import MaxNLocator

    from gpukmeans import plot

    figure = Figure(figsize=(9.6, 3.8), layout="constrained")
    left, right = figure.subplots(1, 2)
    plot.elbow(found.models, ax=left)
    known = [
        (model.n_clusters, value)
        for model, value in zip(found.models, found.silhouettes, strict=True)
        if value is not None
    ]
    right.plot(*zip(*known, strict=True), marker="o")
    right.xaxis.set_major_locator(MaxNLocator(integer=True))
    right.set(xlabel="number of clusters", ylabel="mean silhouette")
    right.grid(alpha=0.3)
    best = found.models[found.suggested].n_clusters
    for ax in (left, right):
        ax.axvline(best, color="black", linestyle="--", linewidth=1)
    right.set_title(f"suggested: {best}")
    _save(path, figure)


def _dense(points: Any) -> Any:
    return points.toarray() if issparse(points) else points


def _projected(points: Any, centers: NDArray[Any]) -> tuple[Any, Any, list[str]]:
    """Points (n, d) and centers on the first two principal components of the points, n and d at least 3; the names of
    the two."""
    from sklearn.decomposition import PCA

    with np.errstate(invalid="ignore"):  # rows that are all the same have no variance to have a share of
        pca = PCA(2, svd_solver="arpack" if issparse(points) else "full", random_state=0).fit(points)
    shares = np.nan_to_num(pca.explained_variance_ratio_)
    names = [f"principal component {i + 1} ({share:.0%} of the variance)" for i, share in enumerate(shares)]
    return pca.transform(points), pca.transform(centers), names


def _save(path: str, figure: Any) -> None:
    import matplotlib

    kind = Path(path).suffix[1:].lower()
    # No date and no random names, so that equal fits make equal files.
    dateless = {"svg": {"Date": None}, "pdf": {"CreationDate": None}}.get(kind, {})
    with matplotlib.rc_context({"svg.hashsalt": "gpukmeans"}):
        outputs.write(path, partial(figure.savefig, format=kind, dpi=150, metadata=dateless))
