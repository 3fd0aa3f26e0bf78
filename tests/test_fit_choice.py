"""gpukmeans fit of several k, and its figures."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from row_files import failure, here, labels_in, record, samples, written
from sklearn.decomposition import PCA
from sklearn.metrics import silhouette_score
from sklearn.preprocessing import StandardScaler

import gpukmeans
from gpukmeans.cli import choice, figures
from gpukmeans.cli.main import main

__all__ = ["here", "samples"]  # fixtures


def test_a_range_of_k(X: np.ndarray, here: Path, capsys: Any) -> None:
    written("data.csv", X)
    argv = ["fit", "data.csv", "-k", "1:6", "--scale", "standard", "--labels", "l.csv", "--model", "m.npz"]
    found = record(capsys, *argv)
    assert [fit["clusters"] for fit in found["fits"]] == [1, 2, 3, 4, 5, 6]
    assert (found["clusters"], found["sizes"]) == (4, [30] * 4), "the four that are there"
    assert found["rule"] == "the largest mean silhouette (Rousseeuw, 1987)"
    silhouettes = [fit["silhouette"] for fit in found["fits"]]
    assert silhouettes[0] is None
    assert max(silhouettes[1:]) == silhouettes[3]
    scaled = StandardScaler().fit_transform(X)
    assert silhouettes[3] == pytest.approx(silhouette_score(scaled, labels_in("l.csv")), rel=1e-9)
    for fit in found["fits"]:
        assert fit["inertia"] == record(capsys, *argv[:3], str(fit["clusters"]), *argv[4:6])["inertia"]
    assert gpukmeans.load("m.npz").n_clusters == 4
    assert main(argv) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines[1:8]] == ["k", "1", "2", "3", "4", "5", "6"]
    assert lines[2].split()[2] == "-"
    assert lines[8] == "suggested: k = 4, by the largest mean silhouette (Rousseeuw, 1987)"
    assert lines[9].startswith("4 clusters, inertia ")


def test_silhouettes_of_many_rows_are_of_some(X: np.ndarray, here: Path, capsys: Any, monkeypatch: Any) -> None:
    monkeypatch.setattr(choice, "MOST_ROWS", 50)
    written("data.npy", X)
    written("data.svmlight", X)
    argv = ["-k", "2:3", "--seed", "3", "--labels", "l.npy"]
    rows = np.sort(np.random.RandomState(3).permutation(120)[:50])
    for name in ("data.npy", "data.svmlight"):
        found = record(capsys, "fit", name, *argv)
        assert found["silhouette_rows"] == 50
        of = [fit["silhouette"] for fit in found["fits"] if fit["clusters"] == found["clusters"]]
        assert of == [pytest.approx(silhouette_score(X[rows], np.load("l.npy")[rows]), rel=1e-6)]
    assert main(["fit", "data.npy", *argv]) == 0
    assert ", of 50 rows drawn at random\n" in capsys.readouterr().out


def test_a_range_that_is_too_long_or_finds_nothing(here: Path, capsys: Any) -> None:
    np.save("data.npy", np.arange(6.0).reshape(3, 2))
    assert failure(capsys, "fit", "data.npy", "-k", "2:4") == "data.npy: 3 rows, too few for 4 clusters"
    expected = "data.npy: no k is suggested, as no row is in another cluster than the others, or each is"
    np.save("data.npy", np.arange(4.0).reshape(2, 2))
    assert failure(capsys, "fit", "data.npy", "-k", "1:2", "--plot", "c.png") == expected


@pytest.mark.parametrize("suffix", ["png", "svg", "pdf"])
def test_a_figure_is_of_its_ending(suffix: str, X: np.ndarray, here: Path, capsys: Any) -> None:
    written("data.csv", X[:, :2])
    for out in ("one", "other"):
        found = record(capsys, "fit", "data.csv", "-k", "3", "--plot", f"{out}.{suffix}")
        assert found["plot"] == f"{out}.{suffix}"
    begins = {"png": b"\x89PNG", "svg": b"<?xml", "pdf": b"%PDF"}[suffix]
    assert Path(f"one.{suffix}").read_bytes().startswith(begins)
    assert Path(f"one.{suffix}").read_bytes() == Path(f"other.{suffix}").read_bytes()


def test_a_figure_of_any_rows(X: np.ndarray, here: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    seen = {}
    monkeypatch.setattr(figures, "_save", lambda path, figure: seen.update({path: figure.axes[0].get_xlabel()}))
    files = {"one.npy": X[:, :1], "few.npy": X[:2], "same.npy": np.ones((5, 3)), "small.svmlight": X[:2]}
    for name, rows in {**files, "data.svmlight": X}.items():
        written(name, rows)
        record(capsys, "fit", name, "-k", "1", "--plot", f"{name}.png")
    record(capsys, "fit", "data.svmlight", "-k", "2", "--metric", "cosine", "--plot", "cosine.png")
    projected = "principal component 1"
    assert [label[:21] for label in seen.values()] == ["0", "0", projected, "0", projected, projected]


def test_a_figure_shows_what_was_found(X: np.ndarray, here: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    seen = {}
    monkeypatch.setattr(figures, "_save", lambda path, figure: seen.update({path: figure}))
    written("data.csv", X)
    record(capsys, "fit", "data.csv", "-k", "3", "--columns", "c,a", "--plot", "two.png")
    (ax,) = seen["two.png"].axes
    assert (ax.get_xlabel(), ax.get_ylabel()) == ("c", "a")
    assert ax.collections[0].get_offsets().tolist() == X[:, [2, 0]].tolist()
    record(capsys, "fit", "data.csv", "-k", "3", "--plot", "three.png")
    (ax,) = seen["three.png"].axes
    assert ax.get_xlabel() == "principal component 1 (100% of the variance)"
    np.testing.assert_allclose(ax.collections[0].get_offsets(), PCA(2).fit_transform(X), atol=1e-8)
    record(capsys, "fit", "data.csv", "-k", "2:5", "--scale", "standard", "--plot", "range.png")
    left, right = seen["range.png"].axes
    assert left.get_ylabel() == "inertia"
    assert right.lines[0].get_xdata().tolist() == [2, 3, 4, 5]
    assert right.get_title() == "suggested: 4"
