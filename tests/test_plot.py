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

from gpukmeans import KMeans, datasets, plot

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
    "points alone": partial(plot.clusters, X),
    "legend": partial(plot.clusters, X, LABELS, names="abcd"),
    "elbow": partial(plot.elbow, [KMeans(k, device="cpu").fit(X) for k in (1, 2)]),
    "silhouette": partial(plot.silhouette, X, LABELS),
}
BLOBS = datasets.blobs().X


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


def test_without_matplotlib() -> None:
    program = (
        "import sys; sys.modules['matplotlib'] = None; import gpukmeans\n"
        "try: from gpukmeans import plot\n"
        "except ImportError as error: print(error)"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert "pip install 'gpukmeans[plot]'" in done.stdout, done.stderr


def test_clusters() -> None:
    points, centers = plot.clusters(X, LABELS, X[:4]).collections
    assert np.array_equal(points.get_offsets(), X)
    colors = points.get_facecolors()
    assert len(np.unique(colors, axis=0)) == 4
    assert all(len(np.unique(colors[label == LABELS], axis=0)) == 1 for label in range(4))
    assert np.array_equal(centers.get_offsets(), X[:4])
    assert centers.get_zorder() >= points.get_zorder()


def test_clusters_without_labels_or_centers() -> None:
    (points,) = plot.clusters(X).collections
    assert len(points.get_facecolors()) == 1
    drawn = plot.clusters(X, LABELS).collections
    assert len(drawn) == 1
    assert len(np.unique(drawn[0].get_facecolors(), axis=0)) == 4


def test_legend() -> None:
    ax = plot.clusters(X, LABELS, names=["zero", "one", "two", "three"])
    colors = [to_rgba(handle.get_facecolor()[0])[:3] for handle in ax.get_legend().legend_handles]
    assert [text.get_text() for text in ax.get_legend().get_texts()] == ["zero", "one", "two", "three"]
    points = ax.collections[0].get_facecolors()[:, :3]
    assert all(np.array_equal(points[i], colors[LABELS[i]]) for i in range(40))


def test_a_label_has_one_color_everywhere() -> None:
    labels = np.where(LABELS == 1, 0, LABELS)  # nobody has the label 1
    points = plot.clusters(X, labels).collections[0].get_facecolors()[:, :3]
    bands = plot.silhouette(X, labels).collections
    assert [tuple(band.get_facecolor()[0][:3]) for band in bands] == [tuple(points[labels == i][0]) for i in (0, 2, 3)]


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


# ---------------------------------------------------------------- how many clusters


def test_elbow() -> None:
    models = [KMeans(k, random_state=0, device="cpu").fit(X) for k in (3, 1, 2)]
    (line,) = plot.elbow(iter(models)).lines
    assert line.get_xydata().tolist() == sorted([m.n_clusters, m.inertia_] for m in models)


def test_silhouette() -> None:
    # Pairs 1 apart, 10 from each other: a = 1, b = 10 for the near ends and 11 for the far ones.
    ax = plot.silhouette([[0.0], [1], [11], [12]], [0, 0, 2, 2])
    near, far = (10.5 - 1) / 10.5, (11.5 - 1) / 11.5
    for band, top in zip(ax.collections, (0, 3), strict=True):
        (path,) = band.get_paths()
        widths = {(x, y) for x, y in path.vertices.tolist() if x != 0}
        assert {y for _, y in widths} == {top, top + 1, top + 2}
        assert sorted({x for x, _ in widths}) == pytest.approx([near, far])
    assert [text.get_text() for text in ax.get_yticklabels()] == ["0", "2"]
    assert ax.lines[0].get_xdata()[0] == pytest.approx((near + far) / 2)
    assert f"mean {(near + far) / 2:.2f}" in ax.get_xlabel()


# ---------------------------------------------------------------- step by step


def drawn_centers(ax: Axes) -> np.ndarray:
    return ax.collections[-1].get_offsets()


def test_steps_are_those_of_the_algorithm() -> None:
    frames = plot.steps(BLOBS, BLOBS[[0, 1, 2, 3]], ax=Figure().subplots(6, 6))
    titles = [ax.get_title() for ax in frames]
    fit = KMeans(4, init=BLOBS[:4], tol=0, device="cpu").fit(BLOBS)
    assert titles[:3] == ["start", "1: assignment", "1: update"]
    assert titles[-1] == f"{(len(frames) - 1) // 2}: update (end)"
    assert np.array_equal(drawn_centers(frames[0]), BLOBS[:4])
    assert np.array_equal(drawn_centers(frames[1]), BLOBS[:4])
    assert np.array_equal(drawn_centers(frames[-1]), fit.cluster_centers_)
    for i in range(1, len(frames), 2):
        centers = drawn_centers(frames[i])
        nearest = ((BLOBS[:, None] - centers) ** 2).sum(axis=2).argmin(axis=1)
        for ax in frames[i : i + 2]:
            colors = ax.collections[0].get_facecolors()
            assert len(np.unique(np.c_[nearest, colors], axis=0)) == len(np.unique(nearest))
        means = [BLOBS[nearest == label].mean(axis=0) for label in range(4)]
        assert np.allclose(drawn_centers(frames[i + 1]), means, rtol=1e-12)
    assert {(ax.get_xlim(), ax.get_ylim()) for ax in frames} == {(frames[0].get_xlim(), frames[0].get_ylim())}


def test_steps_on_a_figure_of_their_own() -> None:
    frames = plot.steps(BLOBS, BLOBS[:4])
    assert frames.shape == (8,)
    assert list(frames) == frames[0].figure.axes
    assert frames[-1].get_title().endswith("(end)"), "the last step is shown although others are not"
    few = plot.steps(BLOBS, KMeans(4, random_state=0, device="cpu").fit(BLOBS).cluster_centers_)
    assert [ax.get_title() for ax in few] == ["start", "1: assignment", "1: update (end)"]
    frames[0].figure.savefig(io.BytesIO(), format="png")


def test_steps_draw_on_as_many_axes_as_there_are() -> None:
    given = Figure().subplots(1, 2)
    start, end = plot.steps(BLOBS, BLOBS[:4], ax=given)
    assert [start, end] == list(given)
    assert (start.get_title(), end.get_title()[-5:]) == ("start", "(end)")
    (alone,) = plot.steps(BLOBS, BLOBS[:4], ax=Figure().add_subplot())
    assert alone.get_title().endswith("(end)")
    with pytest.raises(ValueError, match="at least one Axes"):
        plot.steps(BLOBS, BLOBS[:4], ax=[])


def test_steps_go_on_through_an_empty_cluster() -> None:
    frames = plot.steps([[0.0, 0], [1, 0], [5, 0]], [[0.5, 0], [4, 0], [100, 0]])
    assert sorted(drawn_centers(frames[-1])[:, 0].tolist()) == [0, 1, 5]


def test_slider() -> None:
    widget = plot.steps_slider(BLOBS, BLOBS[:4])
    (play, slider), image = widget.children[0].children, widget.children[1]
    seen = [image.value]
    for step in (1, 2, slider.max):
        slider.value = step
        seen.append(image.value)
    assert len(set(seen)) == 4
    assert all(bytes(png).startswith(b"\x89PNG") for png in seen)
    assert play.value == play.max == slider.max
    slider.value = 0
    assert image.value == seen[0]


def test_slider_without_ipywidgets(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ipywidgets", None)
    with pytest.raises(ImportError, match=r"pip install 'gpukmeans\[notebook\]'"):
        plot.steps_slider(BLOBS, BLOBS[:4])


# ---------------------------------------------------------------- colors in their cube


def test_cloud() -> None:
    colors = rng.random((6, 3))
    ax = plot.cloud(colors, weights=[0, 1, 2, 3, 4, 5])
    (points,) = ax.collections
    assert np.array_equal(np.transpose(points._offsets3d), colors)
    ax.figure.savefig(io.BytesIO(), format="png")  # which sorts them by depth
    assert sorted(points.get_facecolors()[:, :3].tolist()) == sorted(colors.tolist())
    assert sorted(points.get_sizes().tolist()) == pytest.approx([0, 24, 48, 72, 96, 120])
    figure = Figure()
    given = figure.add_subplot(projection="3d")
    assert plot.cloud(colors, ax=given) is given
    figure.savefig(io.BytesIO(), format="png")


def test_cloud_draws_some_of_many() -> None:
    (points,) = plot.cloud(np.linspace(0, 1, 300).reshape(100, 3), most=7).collections
    drawn = np.transpose(points._offsets3d)
    assert len(drawn) == 7
    assert drawn[[0, -1], [0, -1]].tolist() == [0, 1]


# ---------------------------------------------------------------- wrong input


@pytest.mark.parametrize(
    ("draw", "message"),
    [
        (partial(plot.clusters, X, LABELS, np.zeros((4, 3))), r"\(4, 3\)"),
        (partial(plot.steps, np.zeros((5, 3)), np.zeros((1, 3))), r"\(5, 3\)"),
        (partial(plot.steps, np.zeros((5, 2)), np.zeros((1, 3))), r"\(1, 3\)"),
        (partial(plot.cloud, np.zeros((5, 4))), r"\(5, 4\)"),
        (partial(plot.cloud, np.zeros((5, 3)), ax=Figure().add_subplot()), "projection='3d'"),
        (partial(plot.silhouette, X, np.zeros(40, int)), "Number of labels is 1"),
        (partial(plot.clusters, np.zeros((5, 3)), np.zeros(5, int), np.zeros((1, 3))), r"\(5, 3\)"),
        (partial(plot.centers, np.zeros((2, 63))), r"\(2, 63\)"),
        (partial(plot.comparison, PICTURE, PICTURE[1:]), r"\(6, 9, 3\) and \(5, 9, 3\)"),
    ],
)
def test_wrong_shapes(draw: Callable[..., Axes], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        draw()
