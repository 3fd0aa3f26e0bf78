"""Lloyd's algorithm step by step: as a strip of frames, and behind a slider in Jupyter."""

from __future__ import annotations

import io
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from numpy.typing import ArrayLike, NDArray
from sklearn.exceptions import ConvergenceWarning

from gpukmeans.estimator import KMeans
from gpukmeans.plot.axes import in_the_plane, own_figure
from gpukmeans.plot.scatter import clusters

# A strip's frames side by side; more go below.
COLUMNS = 4


def steps(X: ArrayLike, centers: ArrayLike, ax: Sequence[Axes] | NDArray[Any] | None = None) -> NDArray[Any]:
    """The steps of k-means from given centers, a frame each, from left to right.

    First the points and the centers as given; then, in turns, every point takes the color of its nearest center (the
    assignment or expectation step), and every center moves into the middle of its points (the update or maximization
    step); until no point changes color. If there are more steps than frames, the last frame shows the last step.

    Parameters
    ----------
    X : array-like of shape (n_samples, 2)
    centers : array-like of shape (n_clusters, 2)
        Where to start.
    ax : array of Axes, default=None
        One for each frame; those left over are left alone. Eight of a new Figure unless given.

    Returns
    -------
    ax : ndarray of Axes, of shape (n_frames,)

    Raises
    ------
    ValueError
        If points and centers do not have two features, or there is no Axes to draw on.
    """
    found = list(_steps(X, centers))
    if ax is None:
        count = min(len(found), 2 * COLUMNS)
        rows = -(-count // COLUMNS)
        figure = own_figure(width=3 * COLUMNS, height=3 * rows)
        ax = [figure.add_subplot(rows, COLUMNS, i + 1) for i in range(count)]
    frames = np.ravel(np.asarray(ax, dtype=object))[: len(found)]
    if len(frames) == 0:
        raise ValueError("steps() needs at least one Axes.")
    shown = [*found[: len(frames) - 1], found[-1]]
    limits = _limits(found)
    for frame, step in zip(frames, shown, strict=True):
        _draw(step, frame, limits)
    return frames


def steps_slider(X: ArrayLike, centers: ArrayLike) -> Any:
    """The steps of k-means from given centers, one at a time: a slider, for Jupyter.

    Parameters
    ----------
    X : array-like of shape (n_samples, 2)
    centers : array-like of shape (n_clusters, 2)
        Where to start.

    Returns
    -------
    widget : ipywidgets.VBox
        Shown by Jupyter at the end of a cell.

    Raises
    ------
    ImportError
        If ipywidgets is not installed. `steps` draws the same without it.
    ValueError
        If points and centers do not have two features.
    """
    try:
        import ipywidgets
    except ImportError as error:
        raise ImportError(f"steps_slider() needs ipywidgets ({error}): pip install 'gpukmeans[notebook]'") from error
    found = list(_steps(X, centers))
    limits = _limits(found)

    @cache
    def png(i: int) -> bytes:
        figure, drawn = own_figure(width=5, height=5), io.BytesIO()
        _draw(found[i], figure.add_subplot(), limits)
        figure.savefig(drawn, format="png")
        return drawn.getvalue()

    last = len(found) - 1
    slider = ipywidgets.IntSlider(description="step", max=last)
    play = ipywidgets.Play(interval=1000, max=last)  # milliseconds a step
    image = ipywidgets.Image(value=png(0), format="png")
    slider.observe(lambda change: setattr(image, "value", png(change.new)), "value")
    ipywidgets.link((play, "value"), (slider, "value"))
    return ipywidgets.VBox([ipywidgets.HBox([play, slider]), image])


@dataclass(frozen=True)
class _Step:
    """What a frame shows; before: where the centers were that moved in this step."""

    title: str
    X: NDArray[Any]  # (n, 2)
    centers: NDArray[Any]  # (k, 2)
    labels: NDArray[np.int32] | None = None  # (n,)
    before: NDArray[Any] | None = None  # (k, 2)


def _steps(X: ArrayLike, centers: ArrayLike) -> Iterator[_Step]:
    """Every step until no label changes, each by a fit of one iteration."""
    X, centers = in_the_plane(X).astype(float), in_the_plane(centers).astype(float)
    yield _Step("start", X, centers)
    model = KMeans(len(centers), n_init=1, max_iter=1, tol=0)
    model.cluster_centers_ = centers
    labels = model.predict(X)
    for iteration in range(1, KMeans().max_iter + 1):
        yield _Step(f"{iteration}: assignment", X, centers, labels)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ConvergenceWarning)  # of clusters that are empty for now
            model.set_params(init=centers).fit(X)
        centers, before = np.asarray(model.cluster_centers_), centers
        done = np.array_equal(model.labels_, labels)
        yield _Step(f"{iteration}: update{' (end)' if done else ''}", X, centers, labels, before)
        if done:
            return
        labels = model.labels_


def _draw(step: _Step, ax: Axes, limits: NDArray[Any]) -> Axes:
    clusters(step.X, step.labels, step.centers, ax=ax)
    if step.before is not None:
        for start, end in zip(step.before, step.centers, strict=True):
            ax.plot(*zip(start, end, strict=True), color="black", linewidth=1.2, zorder=2)
            ax.plot(*start, color="black", marker="x", markersize=5, zorder=2)
    ax.set_aspect("equal", adjustable="box")  # the limits are fixed, for all frames alike
    ax.set_title(step.title)
    ax.set(xlabel="", ylabel="", xticks=[], yticks=[], xlim=limits[:, 0], ylim=limits[:, 1])
    return ax


def _limits(found: list[_Step]) -> NDArray[Any]:
    """The least and largest coordinates (2, 2) of a square with room for the points and every center."""
    everything = np.concatenate([found[0].X, *(step.centers for step in found)])
    low, high = everything.min(axis=0), everything.max(axis=0)
    reach = 0.55 * max(np.max(high - low), 1e-12)
    return np.stack([(low + high) / 2 - reach, (low + high) / 2 + reach])
