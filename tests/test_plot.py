"""Figures: what is on the Axes, and that nothing is drawn anywhere else."""

from __future__ import annotations

import io
import subprocess
import sys
from collections.abc import Callable
from functools import partial

import numpy as np
import pytest
from matplotlib.axes import Axes
from matplotlib.colors import to_rgba
from matplotlib.figure import Figure

from gpukmeans import plot

rng = np.random.default_rng(0)
X = rng.random((40, 2))
LABELS = np.arange(40) % 4
PICTURE = rng.random((6, 9, 3))

FIGURES = {
    "clusters": partial(plot.clusters, X, LABELS, X[:4]),
    "centers": partial(plot.centers, rng.random((10, 64))),
    "confusion": partial(plot.confusion, np.arange(9).reshape(3, 3)),
    "palette": partial(plot.palette, rng.random((5, 3))),
    "comparison": partial(plot.comparison, PICTURE, 1 - PICTURE),
}


@pytest.mark.parametrize("draw", FIGURES.values(), ids=FIGURES)
def test_draws_on_the_axes_given_or_on_its_own(draw: Callable[..., Axes]) -> None:
    figure = Figure()
    given, other = figure.subplots(1, 2)
    assert draw(ax=given) is given
    assert given.has_data()
    assert not other.has_data()
    own = draw()
    assert isinstance(own.figure, Figure)
    assert own.figure.axes == [own]
    for each in (figure, own.figure):
        each.savefig(io.BytesIO(), format="png")  # a warning, say of a layout that does not fit, is an error


def test_pyplot_is_left_alone() -> None:
    program = (
        "import sys, gpukmeans.plot as plot; plot.palette([[0, 0, 0]]); sys.exit('matplotlib.pyplot' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", program]).returncode == 0


def test_clusters() -> None:
    points, centers = plot.clusters(X, LABELS, X[:4]).collections
    assert np.array_equal(points.get_offsets(), X)
    colors = points.get_facecolors()
    assert len(np.unique(colors, axis=0)) == 4
    assert all(len(np.unique(colors[label == LABELS], axis=0)) == 1 for label in range(4))
    assert np.array_equal(centers.get_offsets(), X[:4])
    assert centers.get_zorder() >= points.get_zorder()


@pytest.mark.parametrize("count", [1, 10, 11, 20, 21, 64])
def test_every_cluster_has_a_color_of_its_own(count: int) -> None:
    points = plot.clusters(np.zeros((count, 2)), np.arange(count), np.zeros((count, 2))).collections[0]
    assert len(np.unique(points.get_facecolors(), axis=0)) == count


def test_centers() -> None:
    pictures = rng.random((7, 12))
    ax = plot.centers(pictures, shape=(3, 4), names="abcdefg")
    assert np.array_equal([image.get_array() for image in ax.images], pictures.reshape(7, 3, 4))
    assert {image.get_clim() for image in ax.images} == {(pictures.min(), pictures.max())}, "one scale for all"
    assert [text.get_text() for text in ax.texts] == list("abcdefg")
    boxes = [image.get_extent() for image in ax.images]  # left, right, bottom, top
    assert [(right - left, bottom - top) for left, right, bottom, top in boxes] == [(pytest.approx(4), 3)] * 7
    (x0, x1), (y1, y0) = ax.get_xlim(), ax.get_ylim()
    for left, right, bottom, top in boxes:
        assert x0 <= left
        assert right <= x1 + 1e-9
        assert y0 <= top
        assert bottom <= y1 + 1e-9


def test_confusion() -> None:
    ax = plot.confusion([[200, 1, 0], [0, 150, 0], [3, 0, 90]])
    found = {text.get_position(): text for text in ax.texts}
    assert {where: text.get_text() for where, text in found.items()} == {
        (0, 0): "200",
        (1, 0): "1",  # x is the column
        (1, 1): "150",
        (0, 2): "3",
        (2, 2): "90",
    }
    (image,) = ax.images
    for (column, row), text in found.items():
        background = image.cmap(image.norm(image.get_array()[row, column]))
        assert np.abs(np.subtract(to_rgba(text.get_color()), background)[:3]).max() > 0.5, "the count can be read"
    one, none = (np.array(image.cmap(image.norm(count))) for count in (1, 0))
    assert np.abs(one - none).max() > 0.03, "a single error shows"


def test_confusion_of_nothing() -> None:
    assert not plot.confusion(np.zeros((2, 2), int)).texts


def test_palette_runs_from_dark_to_light() -> None:
    white, black, blue, green = [1, 1, 1], [0, 0, 0], [0, 0, 1], [0, 1, 0]
    (image,) = plot.palette([white, green, black, blue]).images
    assert image.get_array().tolist() == [[black, blue, green, white]]


def test_palette_clips_rounding() -> None:
    (image,) = plot.palette([[1 + 1e-15, 0.5, -1e-18]]).images
    assert image.get_array().tolist() == [[[1, 0.5, 0]]]


def test_comparison() -> None:
    ax = plot.comparison(PICTURE, 1 - PICTURE, names=("before", "after"))
    left, right = ax.images
    assert np.array_equal(left.get_array(), PICTURE)
    assert np.array_equal(right.get_array(), 1 - PICTURE)
    assert left.get_extent()[1] < right.get_extent()[0], "a gap between them"
    assert [text.get_text() for text in ax.texts] == ["before", "after"]


@pytest.mark.parametrize(
    ("draw", "message"),
    [
        (partial(plot.clusters, np.zeros((5, 3)), np.zeros(5, int), np.zeros((1, 3))), r"\(5, 3\)"),
        (partial(plot.centers, np.zeros((2, 63))), r"\(2, 63\)"),
        (partial(plot.comparison, PICTURE, PICTURE[1:]), r"\(6, 9, 3\) and \(5, 9, 3\)"),
    ],
)
def test_wrong_shapes(draw: Callable[..., Axes], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        draw()
