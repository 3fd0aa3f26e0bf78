"""gpukmeans fit and predict: files of every kind, what a model keeps of their columns, and how they fail."""

from __future__ import annotations

import errno
import io
import json
import os
import shlex
import signal
import subprocess
import sys
import time
from contextlib import redirect_stderr
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.feather
import pyarrow.parquet
import pytest
import tqdm
from scipy import sparse
from sklearn.datasets import dump_svmlight_file, make_blobs
from sklearn.decomposition import PCA
from sklearn.metrics import silhouette_score
from sklearn.preprocessing import StandardScaler

import gpukmeans
from gpukmeans import KMeans, MiniBatchKMeans
from gpukmeans.cli import choice, figures
from gpukmeans.cli.main import main

COMMAND = [sys.executable, "-m", "gpukmeans"]


@pytest.fixture(name="X")
def rows() -> np.ndarray:
    """(120, 3), in four clusters that only show once the columns are scaled."""
    return make_blobs(120, 3, centers=4, cluster_std=0.4, random_state=3)[0] * [1, 1000, 1e-3]


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("GPUKMEANS_DEVICE", "cpu")
    return tmp_path


def written(path: str, X: np.ndarray, *names: str) -> str:
    """A file of its ending, of these columns: a, b, c unless they have other names."""
    names = names or ("a", "b", "c")
    table = pa.table(dict(zip(names, X.T.copy(), strict=False)))
    if path.endswith(".csv"):
        pd.DataFrame(X, columns=names[: X.shape[1]]).to_csv(path, index=False)
    elif path.endswith(".parquet"):
        pa.parquet.write_table(table, path)
    elif path.endswith((".feather", ".arrow")):
        pa.feather.write_feather(table, path)
    elif path.endswith(".npy"):
        np.save(path, X)
    elif path.endswith(".npz"):
        np.savez(path, X=X)
    else:
        dump_svmlight_file(X, np.zeros(len(X)), path, zero_based=False)
    return path


def labels_in(path: str) -> list[int]:
    if path.endswith(".npy"):
        return np.load(path).tolist()
    frame = {"csv": pd.read_csv, "parquet": pd.read_parquet, "feather": pd.read_feather}[path.rpartition(".")[2]](path)
    assert list(frame) == ["label"]
    return frame["label"].tolist()


def record(capsys: pytest.CaptureFixture[str], *argv: str) -> dict[str, Any]:
    """What --json prints."""
    assert main([*argv, "--json"]) == 0
    shown = capsys.readouterr()
    assert shown.err == ""
    return json.loads(shown.out)


def failure(capsys: pytest.CaptureFixture[str], *argv: str) -> str:
    """The one line on stderr of a command that must fail with status 1, having written nothing."""
    before = {path.name: path.read_bytes() for path in Path().iterdir() if path.is_file()}
    assert main(list(argv)) == 1
    assert {path.name: path.read_bytes() for path in Path().iterdir() if path.is_file()} == before
    shown = capsys.readouterr()
    lines = shown.err.splitlines()
    assert (len(lines), shown.out) == (1, ""), lines
    return lines[0].removeprefix("gpukmeans: error: ")


# ---------------------------------------------------------------- fit and predict


@pytest.mark.parametrize("name", ["data.csv", "data.npy"])
@pytest.mark.parametrize("kind", [KMeans, MiniBatchKMeans])
def test_fit_is_the_estimators(name: str, kind: Any, X: np.ndarray, here: Path, capsys: Any) -> None:
    more = ["--minibatch"] if kind is MiniBatchKMeans else []
    written(name, X)
    argv = ["fit", name, "-k", "4", "--seed", "7", "--n-init", "2", "--labels", "l.csv", "--model", "m.npz", *more]
    found = record(capsys, *argv)
    model = kind(4, n_init=2, random_state=7).fit(X)
    assert found["inertia"] == model.inertia_
    assert found["iterations"] == model.n_iter_
    assert found["centers"] == model.cluster_centers_.tolist()
    assert found["sizes"] == np.bincount(model.labels_).tolist()
    assert found["columns"] == (["a", "b", "c"] if name.endswith("csv") else ["0", "1", "2"])
    assert labels_in("l.csv") == model.labels_.tolist()
    loaded = gpukmeans.load("m.npz")
    assert type(loaded) is kind
    assert loaded.cluster_centers_.tobytes() == model.cluster_centers_.tobytes()
    assert getattr(loaded, "feature_names_in_", None) is None or list(loaded.feature_names_in_) == ["a", "b", "c"]


def test_cosine_and_weights_are_the_estimators(X: np.ndarray, here: Path, capsys: Any) -> None:
    written("data.csv", np.column_stack([X, np.arange(120)]), "a", "b", "c", "w")
    found = record(capsys, "fit", "data.csv", "-k", "3", "--metric", "cosine", "--weights", "w")
    model = KMeans(3, metric="cosine", random_state=0).fit(X, sample_weight=np.arange(120))
    assert (found["inertia"], found["columns"]) == (model.inertia_, ["a", "b", "c"])


def test_it_says_what_it_found(X: np.ndarray, here: Path, capsys: Any) -> None:
    written("data.csv", X)
    assert main(["fit", "data.csv", "-k", "4", "--scale", "standard", "--labels", "l.csv"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "data.csv: 120 rows, 3 columns, standardized, on cpu"
    assert lines[1].startswith("4 clusters, inertia ")
    assert lines[2].split() == ["cluster", "rows", "a", "b", "c"]
    assert [line.split()[:2] for line in lines[3:7]] == [[str(label), "30"] for label in range(4)]
    assert lines[7:] == ["wrote l.csv"]


def test_predict_does_to_columns_what_fit_did(X: np.ndarray, here: Path, capsys: Any) -> None:
    written("data.csv", np.column_stack([np.arange(120), X]), "id", "a", "b", "c")
    argv = ["fit", "data.csv", "-k", "4", "--drop", "id", "--scale", "standard", "--labels", "l.csv"]
    found = record(capsys, *argv, "--model", "m.npz")
    assert found["sizes"] == [30] * 4
    expected = labels_in("l.csv")
    assert record(capsys, "predict", "m.npz", "data.csv", "-o", "own.csv")["columns"] == ["a", "b", "c"]
    assert labels_in("own.csv") == expected
    # Other columns in another order, and a file without names whose columns are those of the model.
    written("moved.csv", X[:, [2, 0, 1]], "c", "a", "b")
    record(capsys, "predict", "m.npz", "moved.csv", "-o", "moved-l.csv")
    assert labels_in("moved-l.csv") == expected
    written("plain.npy", X)
    record(capsys, "predict", "m.npz", "plain.npy", "-o", "plain-l.npy")
    assert labels_in("plain-l.npy") == expected


def test_a_model_of_scaled_columns_says_so_in_python(X: np.ndarray, here: Path, capsys: Any) -> None:
    written("data.csv", X)
    found = record(capsys, "fit", "data.csv", "-k", "4", "--scale", "standard", "--model", "m.npz", "--labels", "l.npy")
    scaler = StandardScaler().fit(X)
    model = gpukmeans.load("m.npz")
    np.testing.assert_allclose(model.scaler_mean_, scaler.mean_, rtol=1e-12)
    np.testing.assert_allclose(model.scaler_scale_, scaler.scale_, rtol=1e-12)
    np.testing.assert_allclose(found["centers"], scaler.inverse_transform(model.cluster_centers_), rtol=1e-12)
    frame = pd.DataFrame(X, columns=["a", "b", "c"])
    with pytest.raises(ValueError, match="standardized a"):
        model.predict(frame)
    scaled = ((frame - model.scaler_mean_) / model.scaler_scale_).add_prefix("standardized ")
    assert model.predict(scaled).tolist() == labels_in("l.npy")
    # Fitted again, it knows other columns, and predict does not scale them.
    model.fit(frame).save("again.npz")
    record(capsys, "predict", "again.npz", "data.csv", "-o", "again.npy")
    assert labels_in("again.npy") == model.labels_.tolist()


@pytest.mark.parametrize(
    ("mean", "scale"),
    [
        (np.zeros(2), np.ones(2)),
        (np.zeros(3), np.array([1.0, 0.0, 1.0])),
        (np.zeros(3), np.array([1.0, -1.0, 1.0])),
        (np.zeros(3), np.array([1.0, np.nan, 1.0])),
        (np.array([0.0, np.inf, 0.0]), np.ones(3)),
        (np.zeros(3, np.float32), np.ones(3)),
        ([0.0, 0.0, 0.0], np.ones(3)),
        (np.zeros(3), None),
        (None, np.ones(3)),
    ],
)
def test_a_scale_that_no_fit_makes_is_neither_saved_nor_loaded(
    mean: Any, scale: Any, X: np.ndarray, here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = KMeans(2, random_state=0).fit(X)
    for name, value in (("scaler_mean_", mean), ("scaler_scale_", scale)):
        if value is not None:
            setattr(model, name, value)
    with pytest.raises(ValueError, match="scaler_"):
        model.save("m.npz")
    with monkeypatch.context() as patched:  # as somebody else's program might
        patched.setattr("gpukmeans.saving.estimators.check_attributes", lambda *given: None)
        model.save("m.npz")
    with pytest.raises(ValueError, match=r"m\.npz cannot be loaded: .*scaler_"):
        gpukmeans.load("m.npz")


def test_scaling_knows_no_order(X: np.ndarray, here: Path, capsys: Any) -> None:
    X[:, 1] = 5.0
    order = np.random.default_rng(0).permutation(len(X))
    for name, rows in (("one.npy", X), ("other.npy", X[order])):
        np.save(name, rows)
        record(capsys, "fit", name, "-k", "1", "--scale", "standard", "--model", f"{name}.npz")
    one, other = gpukmeans.load("one.npy.npz"), gpukmeans.load("other.npy.npz")
    assert one.scaler_mean_.tobytes() == other.scaler_mean_.tobytes()
    assert one.scaler_scale_.tobytes() == other.scaler_scale_.tobytes()
    assert (one.scaler_mean_[1], one.scaler_scale_[1]) == (5.0, 1.0), "a column of equal values"


def test_scaling_takes_weights_as_copies(here: Path, capsys: Any) -> None:
    rows, weights = np.array([[1.0], [2.0], [7.0]]), [3, 1, 2]
    np.save("copies.npy", np.repeat(rows, weights, axis=0))
    np.save("weights.npy", np.column_stack([rows, weights]))
    one = record(capsys, "fit", "copies.npy", "-k", "2", "--scale", "standard")
    other = record(capsys, "fit", "weights.npy", "-k", "2", "--scale", "standard", "--weights", "1")
    assert one["centers"] == other["centers"]


@pytest.mark.parametrize("dtype", [np.float32, np.float16, np.uint8])
def test_narrow_types_stay(dtype: Any, X: np.ndarray, here: Path, capsys: Any) -> None:
    X = (np.abs(X) * [1, 1e-3, 1e3]).astype(dtype)
    for name in ("data.npy", "data.parquet"):
        written(name, X)
        found = record(capsys, "fit", name, "-k", "4", "--model", "m.npz")
        assert found["dtype"] == np.dtype(dtype).name
        model = KMeans(4, random_state=0).fit(X)
        assert found["inertia"] == model.inertia_
        assert gpukmeans.load("m.npz").cluster_centers_.dtype == model.cluster_centers_.dtype


def test_an_npy_is_mapped(X: np.ndarray, here: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    seen = []
    monkeypatch.setattr(KMeans, "fit", lambda self, X, sample_weight: seen.append(X) or 1 / 0)
    written("data.npy", X)
    with pytest.raises(ZeroDivisionError):
        main(["fit", "data.npy", "-k", "4"])
    assert type(seen[0]) is np.memmap


def test_columns_by_number_where_there_are_no_names(X: np.ndarray, here: Path, capsys: Any) -> None:
    written("data.npy", X)
    record(capsys, "fit", "data.npy", "-k", "3", "--columns", "2,0", "--model", "m.npz")
    model = gpukmeans.load("m.npz")
    assert list(model.feature_names_in_) == ["2", "0"]
    record(capsys, "predict", "m.npz", "data.npy", "-o", "l.npy")
    assert labels_in("l.npy") == model.labels_.tolist()


def test_a_csv_as_it_comes(X: np.ndarray, here: Path, capsys: Any) -> None:
    frame = pd.DataFrame(X, columns=["a", "b", "c, of d"])
    frame.to_csv("bom.csv", index=False, encoding="utf-8-sig", sep=";", lineterminator="\r\n")
    frame.to_csv("tabs.tsv", index=False, sep="\t")
    frame.to_csv("bare.csv", index=False, header=False)
    expected = KMeans(4, random_state=0).fit(X[:, [2, 0]]).inertia_
    for argv in (["bom.csv", "--delimiter", ";"], ["tabs.tsv"]):
        assert record(capsys, "fit", *argv, "-k", "4", "--columns", '"c, of d",a')["inertia"] == expected
    assert record(capsys, "fit", "bare.csv", "-k", "4", "--header", "no", "--columns", "2,0")["inertia"] == expected
    with_years = frame.set_axis(["2019", "2020", "2021"], axis=1)
    with_years.to_csv("years.csv", index=False)
    found = record(capsys, "fit", "years.csv", "-k", "4", "--header", "yes", "--columns", "2021,2019")
    assert found["inertia"] == expected


def test_integers_that_become_floats_late_in_a_csv(here: Path, capsys: Any) -> None:
    """Types are of whole columns, not of the first block."""
    text = 1000 * "x"
    rows = "".join(f"{value},{text}\n" for value in [*range(18_000), 0.5])
    Path("data.csv").write_text(f"a,text\n{rows}")
    assert Path("data.csv").stat().st_size > 2**24
    assert record(capsys, "fit", "data.csv", "-k", "1", "--drop", "text")["rows"] == 18_001


# ---------------------------------------------------------------- other formats


@pytest.mark.parametrize("name", ["d.csv", "d.parquet", "d.feather", "d.arrow", "d.npz", "d.svmlight", "d.libsvm"])
def test_all_formats_hold_the_same_rows(name: str, X: np.ndarray, here: Path, capsys: Any) -> None:
    X = np.round(X, 6)  # an svmlight file is written in 16 digits
    X[::3, 1] = 0
    expected = KMeans(4, random_state=0).fit(sparse.csr_array(X) if "svm" in name else X)
    found = record(capsys, "fit", written(name, X), "-k", "4", "--model", "m.npz")
    assert found["inertia"] == expected.inertia_
    assert found["centers"] == expected.cluster_centers_.tolist()
    for suffix in ("csv", "npy", "parquet", "feather"):
        record(capsys, "predict", "m.npz", name, "-o", f"labels.{suffix}")
        assert labels_in(f"labels.{suffix}") == expected.labels_.tolist()


def test_columns_of_several_types(here: Path, capsys: Any) -> None:
    columns = {
        "float": pa.array([1.5, 2, 9], pa.float32()),
        "integer": pa.array([1, 2, 3], pa.int64()),
        "truth": pa.array([True, False, True]),
        "decimal": pa.array([1, 2, 3], pa.decimal128(5, 2)),
        "names": pa.array(["x", "y", "z"]).dictionary_encode(),
        "hole": pa.array([1, None, 3]),
    }
    pa.parquet.write_table(pa.table(columns), "data.parquet")
    argv = ["fit", "data.parquet", "-k", "1"]
    found = record(capsys, *argv, "--drop", "names,hole")
    assert (found["dtype"], found["centers"]) == ("float64", [[12.5 / 3, 2.0, 2 / 3, 2.0]])
    line = failure(capsys, *argv)
    assert line.startswith("data.parquet: no numbers in column names ('x' in row 1): ")
    line = failure(capsys, *argv, "--drop", "names")
    assert line == "data.parquet: a missing value in row 2, column hole (rows count from 1)"


def test_folders_are_no_columns(X: np.ndarray, here: Path, capsys: Any) -> None:
    Path("year=2026").mkdir()
    found = record(capsys, "fit", written("year=2026/data.parquet", X), "-k", "2")
    assert found["columns"] == ["a", "b", "c"]


def test_row_numbers_of_pandas_are_no_feature(X: np.ndarray, here: Path, capsys: Any) -> None:
    frame = pd.DataFrame(X, columns=["a", "b", "c"], index=np.arange(120) * 2)
    frame.to_parquet("data.parquet")
    line = failure(capsys, "fit", "data.parquet", "-k", "2")
    assert line.startswith("data.parquet: column 4, named '__index_level_0__', seems to number the rows: ")
    found = record(capsys, "fit", "data.parquet", "-k", "2", "--drop", "__index_level_0__")
    assert found["inertia"] == KMeans(2, random_state=0).fit(X).inertia_


def test_which_array_of_an_npz(X: np.ndarray, here: Path, capsys: Any) -> None:
    np.savez("several.npz", X=X, other=X[:5], y=np.arange(120))
    argv = ["fit", "several.npz", "-k", "2"]
    expected = "several.npz: it has several arrays of two dimensions (X, other): say which with --array"
    assert failure(capsys, *argv) == expected
    assert record(capsys, *argv, "--array", "other")["rows"] == 5
    assert failure(capsys, *argv, "--array", "z") == "several.npz: no array 'z' in it; it has X, other, y"
    np.savez_compressed("lines.npz", y=np.arange(120))
    assert failure(capsys, "fit", "lines.npz", "-k", "2") == "lines.npz: it has no array of two dimensions (y)"
    sparse.save_npz("sparse.npz", sparse.csc_array(X))
    found = record(capsys, "fit", "sparse.npz", "-k", "2", "--columns", "2,1")
    assert found["inertia"] == KMeans(2, random_state=0).fit(sparse.csr_array(X[:, [2, 1]])).inertia_


def test_a_sparse_file_may_end_in_zeros(X: np.ndarray, here: Path, capsys: Any) -> None:
    written("data.svmlight", X)
    X[:, 2] = 0
    written("short.svmlight", X)
    record(capsys, "fit", "data.svmlight", "-k", "3", "--model", "m.npz")
    record(capsys, "predict", "m.npz", "short.svmlight", "-o", "l.npy")
    assert labels_in("l.npy") == gpukmeans.load("m.npz").predict(sparse.csr_array(X)).tolist()
    written("wide.svmlight", np.ones((2, 4)))
    line = failure(capsys, "predict", "m.npz", "wide.svmlight", "-o", "l2.npy")
    assert line == "wide.svmlight: it has 4 columns, and the model 3 features"


def test_sparse_files_are_refused_what_they_cannot_have(X: np.ndarray, here: Path, capsys: Any) -> None:
    Path("data.svmlight").write_text("0 1:1 3:2\n1 2:5 3:nan\n")
    line = failure(capsys, "fit", "data.svmlight", "-k", "2")
    assert line == "data.svmlight: a missing value in row 2, column 2 (rows count from 1)"
    written("data.svmlight", X)
    line = failure(capsys, "fit", "data.svmlight", "-k", "2", "--scale", "standard")
    assert line == "data.svmlight: --scale standard would make all zeros of a sparse file something else"
    dump_svmlight_file(X, np.zeros(120), "zero.svmlight", zero_based=True)
    line = failure(capsys, "fit", "zero.svmlight", "-k", "2")
    assert line == "zero.svmlight: its columns begin with 0: say --zero-based"
    assert record(capsys, "fit", "zero.svmlight", "-k", "2", "--zero-based")["columns"] == ["0", "1", "2"]


def test_warnings_are_notes(here: Path, capsys: Any) -> None:
    np.save("data.npy", np.ones((5, 2)))
    assert main(["fit", "data.npy", "-k", "2"]) == 0
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("gpukmeans: note: Number of distinct clusters (1) found smaller than n_clusters (2).")


def test_the_commands_of_the_readme(X: np.ndarray, here: Path, capsys: Any) -> None:
    readme = (Path(__file__).parents[1] / "README.md").read_text(encoding="utf-8")
    section = readme.partition("\n## Files from the command line\n")[2].partition("\n## ")[0]
    lines = section.partition("```sh\n")[2].partition("```")[0].splitlines()
    columns = np.column_stack([np.arange(120), X[:, :2], np.ones(120)])
    written("data.csv", columns, "id", "height", "income", "count")
    written("new.parquet", columns, "id", "height", "income", "count")
    for line in lines:
        command, *argv = shlex.split(line, comments=True)
        assert command == "gpukmeans"
        assert main(argv) == 0, line
    outputs = {"choice.png", "clusters.png", "labels.csv", "model.npz", "new-labels.csv"}
    assert {path.name for path in here.iterdir()} == {"data.csv", "new.parquet", *outputs}
    assert capsys.readouterr().err == ""
    assert labels_in("new-labels.csv") == labels_in("labels.csv")


# ---------------------------------------------------------------- several k, and figures


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
    assert failure(capsys, "fit", "data.npy", "-k", "2:4") == "data.npy: 3 rows are too few for 4 clusters"
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


# ---------------------------------------------------------------- what is refused


TEXTS = {
    "a,b\n1,2\n3,\n,4\n": "data.csv: a missing value in row 2, column b, the first of 2 (rows count from 1)",
    "a,b\n1,2\n3,NaN\n": "data.csv: a missing value in row 2, column b (rows count from 1)",
    "a\n1\n\n3\n": "data.csv: a missing value in row 2, column a (rows count from 1)",
    "a,b\n1,2\n3,inf\n": "data.csv: inf in row 2, column b (rows count from 1)",
    "a,b\n1,2\n3,1e300\n": "data.csv: ",
    "a,b,c\n1,2,x\n3,?,y\n": "data.csv: no numbers in columns b, c ('?' in row 2): leave out such columns with --drop, "
    "or name the others with --columns",
    "a,day\n1,2026-01-02\n2,2026-01-03\n": "data.csv: no numbers in column day ('2026-01-02' in row 1): leave out such "
    "columns with --drop, or name the others with --columns",
    "a,b\n1,2\n": "data.csv: 1 rows are too few for 2 clusters",
    "a,b\n": "data.csv: it has no rows",
    "": "data.csv: it is empty",
    "\n\n": "data.csv: ",
    "1,2\n3,4\n": "data.csv: its first line has numbers only: say --header no if it is a row, --header yes if it has "
    "the names of the columns",
    "a,a\n1,2\n3,4\n": "data.csv: several columns are named 'a'",
    ",a\n0,2\n1,4\n": "data.csv: column 1, named '', seems to number the rows: leave it out with --drop '', or name "
    "all that you want with --columns",
    "a,b\n1,2\n3\n": "data.csv: it is damaged, or no CSV (CSV parse error: Expected 2 columns, got 1: 3)",
}


@pytest.mark.parametrize("text", TEXTS)
def test_bad_csvs(text: str, here: Path, capsys: Any) -> None:
    Path("data.csv").write_text(text)
    line = failure(capsys, "fit", "data.csv", "-k", "2", "--labels", "l.csv", "--model", "m.npz")
    assert line == TEXTS[text] or (TEXTS[text] == "data.csv: " and line.startswith("data.csv: ")), line


def test_bad_choices_of_columns(X: np.ndarray, here: Path, capsys: Any) -> None:
    written("data.csv", X)
    no_column = "data.csv: no column 'd'; it has a, b, c"
    for option in ("--columns", "--drop", "--weights"):
        assert failure(capsys, "fit", "data.csv", "-k", "2", option, "d") == no_column
    assert failure(capsys, "fit", "data.csv", "-k", "2", "--drop", "a,b,c") == "data.csv: no column is left"
    twice = "data.csv: a column is named twice, in --columns or there and in --weights"
    assert failure(capsys, "fit", "data.csv", "-k", "2", "--columns", "a,a") == twice
    assert failure(capsys, "fit", "data.csv", "-k", "2", "--columns", "a,b", "--weights", "a") == twice
    line = failure(capsys, "fit", "data.csv", "-k", "2", "--weights", "b")
    assert line == f"data.csv: a negative weight in row {np.argmax(X[:, 1] < 0) + 1}, column b (rows count from 1)"


def test_bad_arrays(here: Path, capsys: Any) -> None:
    arrays = {
        "line": (np.arange(3.0), "its array has the shape (3,), and should have two dimensions"),
        "complex": (np.ones((3, 2), complex), "its array is of complex128, which is no real number"),
        "hole": (np.array([[1, 2], [3, np.nan]]), "a missing value in row 2, column 1 (rows count from 1)"),
    }
    for name, (array, expected) in arrays.items():
        np.save(f"{name}.npy", array)
        assert failure(capsys, "fit", f"{name}.npy", "-k", "2") == f"{name}.npy: {expected}"
    np.save("objects.npy", np.array([[1, None]]), allow_pickle=True)
    assert failure(capsys, "fit", "objects.npy", "-k", "2").startswith("objects.npy: it is damaged, or no .npy file")


def test_files_that_are_not_what_their_ending_says(X: np.ndarray, here: Path, capsys: Any) -> None:
    kinds = ["csv", "parquet", "feather", "npy", "npz", "svmlight"]
    for kind in kinds:
        written(f"true.{kind}", X)
    for kind in kinds:
        for other in kinds:
            if other != kind:
                os.replace(f"true.{other}", f"false.{kind}")
                line = failure(capsys, "fit", f"false.{kind}", "-k", "2")
                assert line.startswith(f"false.{kind}: "), line
                os.replace(f"false.{kind}", f"true.{other}")
        whole = Path(f"true.{kind}").read_bytes()
        Path(f"half.{kind}").write_bytes(whole[: len(whole) // 2 + 1])
        if kind not in ("csv", "svmlight"):  # half a text is a text
            assert failure(capsys, "fit", f"half.{kind}", "-k", "2").startswith(f"half.{kind}: it is damaged, or no ")


def test_what_is_not_there_or_no_file(here: Path, capsys: Any) -> None:
    assert failure(capsys, "fit", "none.csv", "-k", "2") == "none.csv: No such file or directory"
    assert failure(capsys, "fit", "none.xlsx", "-k", "2").startswith("none.xlsx: its ending is none of .csv, ")
    Path("folder.csv").mkdir()
    assert failure(capsys, "fit", "folder.csv", "-k", "2") == "folder.csv: it is a folder"
    if hasattr(os, "mkfifo"):
        os.mkfifo("pipe.csv")
        assert failure(capsys, "fit", "pipe.csv", "-k", "2") == "pipe.csv: it is no regular file"


def test_predict_refuses_what_the_model_does_not_know(X: np.ndarray, here: Path, capsys: Any) -> None:
    written("data.csv", X)
    written("wide.npy", np.ones((3, 4)))
    written("other.csv", X, "a", "b", "d")
    record(capsys, "fit", "data.csv", "-k", "2", "--model", "m.npz")
    argv = ["predict", "m.npz"]
    assert failure(capsys, *argv, "other.csv", "-o", "l.csv") == "other.csv: no column 'c'; it has a, b, d"
    assert failure(capsys, *argv, "wide.npy", "-o", "l.csv") == "wide.npy: it has 4 columns, and the model 3 features"
    written("arrays.npz", X)
    assert failure(capsys, "predict", "arrays.npz", "data.csv", "-o", "l.csv").startswith("arrays.npz cannot be loaded")
    assert failure(capsys, "predict", "gone.npz", "data.csv", "-o", "l.csv") == "gone.npz: No such file or directory"
    KMeans(2).save("early.npz")
    line = failure(capsys, "predict", "early.npz", "data.csv", "-o", "l.csv")
    assert line == "early.npz: this model was saved before it was fitted"


@pytest.mark.parametrize(
    "argv",
    [
        ["fit", "data.csv"],
        ["fit", "data.csv", "-k", "0"],
        ["fit", "data.csv", "-k", "x"],
        ["fit", "data.csv", "-k", "5:2"],
        ["fit", "data.csv", "-k", "0:2"],
        ["fit", "data.csv", "-k", "3:3"],
        ["fit", "data.csv", "-k", "2:"],
        ["fit", "data.csv", "-k", "2", "--columns", "a", "--drop", "b"],
        ["fit", "data.csv", "-k", "2", "--scale", "minmax"],
        ["fit", "data.csv", "-k", "2", "--seed", "-1"],
        ["fit", "data.csv", "-k", "2", "--n-init", "0"],
        ["fit", "data.csv", "-k", "2", "--delimiter", ";;"],
        ["predict", "m.npz", "data.csv"],
    ],
)
def test_usage_errors(argv: list[str], here: Path, capsys: Any) -> None:
    with pytest.raises(SystemExit) as exit:
        main(argv)
    assert exit.value.code == 2
    assert capsys.readouterr().err.startswith(f"usage: gpukmeans {argv[0]}")


# ---------------------------------------------------------------- what is written


def test_no_output_over_an_input_unless_that_is_forced(X: np.ndarray, here: Path, capsys: Any) -> None:
    written("data.csv", X)
    Path("link.csv").symlink_to("data.csv")
    for name in ("data.csv", "link.csv"):
        line = failure(capsys, "fit", "data.csv", "-k", "2", "--labels", name)
        assert line == f"--labels would be written over {name}, which is read: say --force if it is meant to"
    record(capsys, "fit", "data.csv", "-k", "2", "--model", "m.npz")
    line = failure(capsys, "predict", "m.npz", "data.csv", "-o", "data.csv")
    assert line == "-o would be written over data.csv, which is read: say --force if it is meant to"
    expected = gpukmeans.load("m.npz").labels_.tolist()
    record(capsys, "predict", "m.npz", "data.csv", "-o", "data.csv", "--force")
    assert labels_in("data.csv") == expected
    written("data.npz", X)
    line = failure(capsys, "fit", "data.npz", "-k", "2", "--model", "data.npz")
    assert line == "--model would be written over data.npz, which is read: say --force if it is meant to"


def test_outputs_that_cannot_be_written_are_refused_before_work(
    X: np.ndarray, here: Path, capsys: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    written("data.csv", X)
    monkeypatch.setattr("gpukmeans.cli.tables.read", lambda path, args: 1 / 0)
    argv = ["fit", "data.csv", "-k", "2"]
    line = failure(capsys, *argv, "--labels", "no/l.csv")
    assert line == f"cannot write no/l.csv: there is no folder {here / 'no'}"
    assert failure(capsys, *argv, "--labels", "l.txt").startswith("--labels l.txt: its ending is none of .csv, ")
    assert failure(capsys, *argv, "--model", "m.pkl") == "--model m.pkl: its ending is none of .npz"
    Path("folder.csv").mkdir()
    assert failure(capsys, *argv, "--labels", "folder.csv") == "cannot write folder.csv: it is a folder"


@pytest.mark.parametrize("option", ["--labels", "--model"])
def test_a_file_is_whole_or_as_it_was(
    option: str, X: np.ndarray, here: Path, capsys: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    written("data.csv", X)
    Path("out.npz" if option == "--model" else "out.npy").write_text("an earlier run's")
    name = "out.npz" if option == "--model" else "out.npy"
    monkeypatch.setattr(os, "fsync", full)
    line = failure(capsys, "fit", "data.csv", "-k", "2", option, name)
    assert line == f"cannot write {name}: No space left on device"
    assert {path.name for path in here.iterdir()} == {"data.csv", name}


@pytest.mark.parametrize("k", ["4", "2:4"])
def test_a_bar_on_a_terminal_changes_nothing(k: str, X: np.ndarray, here: Path, monkeypatch: Any) -> None:
    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    shown = tqdm.tqdm
    monkeypatch.setattr(tqdm, "tqdm", lambda *args, **how: shown(*args, **{**how, "delay": 0, "mininterval": 0}))
    written("data.csv", X)
    argv = ["fit", "data.csv", "-k", k, "--n-init", "2"]
    assert main([*argv, "--model", "silent.npz"]) == 0
    with redirect_stderr(Terminal()) as errors:
        assert main([*argv, "--model", "told.npz"]) == 0
    assert Path("told.npz").read_bytes() == Path("silent.npz").read_bytes()
    bars = errors.getvalue().split("\r")
    assert bars[-2].strip() == "", "it is gone at the end"
    if k == "4":
        assert "inertia" in errors.getvalue()
        assert any(bar.startswith("k-means, start 2") for bar in bars)
    else:
        assert any(bar.startswith("fitting: 100%") for bar in bars)


# ---------------------------------------------------------------- as a process


def test_a_process(X: np.ndarray, here: Path) -> None:
    written("data.csv", X)
    fit = [*COMMAND, "fit", "data.csv", "-k", "4", "--model", "m.npz", "--labels", "l.csv"]
    done = subprocess.run(fit, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.splitlines()[-2:] == ["wrote l.csv", "wrote m.npz"]
    predict = [*COMMAND, "predict", "m.npz", "data.csv", "-o", "l2.csv"]
    done = subprocess.run(predict, capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (0, "data.csv -> l2.csv: 120 rows in 4 clusters\n")
    assert Path("l2.csv").read_bytes() == Path("l.csv").read_bytes()


@pytest.mark.skipif(sys.platform == "win32", reason="no SIGINT to a child")
def test_an_interrupted_fit_leaves_nothing(here: Path) -> None:
    np.save("data.npy", np.random.default_rng(0).normal(size=(400_000, 16)))
    argv = [*COMMAND, "fit", "data.npy", "-k", "500", "--n-init", "1000", "--labels", "l.csv"]
    process = subprocess.Popen(argv, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    time.sleep(2)
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate()
    assert (process.returncode, errors) == (130, b"")
    assert [path.name for path in here.iterdir()] == ["data.npy"]


def test_without_pyarrow(X: np.ndarray, here: Path) -> None:
    """One line says what is missing; arrays need none of it."""
    names = [written(name, X) for name in ("data.csv", "data.parquet", "data.feather", "data.npy")]
    program = (
        "import sys; sys.modules['pyarrow'] = None\n"
        "from gpukmeans.cli.main import main\n"
        f"results = [main(['fit', name, '-k', '2', '--device', 'cpu', '--json']) for name in {names}]\n"
        "print([*results, main(['fit', 'data.npy', '-k', '2', '--labels', 'l.parquet'])])"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.stdout.splitlines()[-1] == "[1, 1, 1, 0, 1]"
    lines = done.stderr.splitlines()
    assert [line.split()[2] for line in lines] == [*(f"{name}:" for name in names[:3]), "--labels"]
    assert all("pip install 'gpukmeans[files]'" in line for line in lines)
