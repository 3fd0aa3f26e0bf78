"""Files that gpukmeans fit and predict read, of every kind; and what they refuse."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.feather
import pyarrow.parquet
import pytest
from row_files import failure, here, labels_in, record, samples, written
from scipy import sparse
from sklearn.datasets import dump_svmlight_file

import gpukmeans
from gpukmeans import KMeans
from gpukmeans.cli.main import main

__all__ = ["here", "samples"]  # fixtures


# ---------------------------------------------------------------- formats


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
    assert line == "data.svmlight: a missing value in row 2, column 2 (rows count from 1, columns from 0)"
    written("data.svmlight", X)
    line = failure(capsys, "fit", "data.svmlight", "-k", "2", "--scale", "standard")
    assert line == "data.svmlight: --scale standard would make all zeros of a sparse file something else"
    dump_svmlight_file(X, np.zeros(120), "zero.svmlight", zero_based=True)
    line = failure(capsys, "fit", "zero.svmlight", "-k", "2")
    assert line == "zero.svmlight: its columns begin with 0: say --zero-based"
    assert record(capsys, "fit", "zero.svmlight", "-k", "2", "--zero-based")["columns"] == ["0", "1", "2"]


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
    "a,b\n1,2\n": "data.csv: 1 row, too few for 2 clusters",
    "a,b\n": "data.csv: it has no rows",
    "": "data.csv: it is empty",
    "\n\n": "data.csv: ",
    "1,2\n3,4\n": "data.csv: its first line has numbers only: say --header no if it is a row, --header yes if it has "
    "the names of the columns",
    "a,a\n1,2\n3,4\n": "data.csv: several columns are named 'a'",
    ",a\n0,2\n1,4\n": "data.csv: column 1, named '', seems to number the rows: leave it out with --drop '', or name "
    "all that you want with --columns",
    "a;b\n1,5;2\n3,5;4\n": "data.csv: there is no ',' in its first line, but ';': say --delimiter ';' if that is "
    "between its values, --delimiter ',' if it has a single column",
    "a\tb\n1\t2\n": r"data.csv: there is no ',' in its first line, but '\t': say --delimiter '\t' if that is "
    "between its values, --delimiter ',' if it has a single column",
    "a,b\n1,2\n3\n": "data.csv: it is damaged, or no CSV (CSV parse error: Expected 2 columns, got 1: 3)",
}


@pytest.mark.parametrize("text", TEXTS)
def test_bad_csvs(text: str, here: Path, capsys: Any) -> None:
    Path("data.csv").write_text(text)
    for more in ([], ["--memory-limit", "1B"]):
        line = failure(capsys, "fit", "data.csv", "-k", "2", "--labels", "l.csv", "--model", "m.npz", *more)
        assert line == TEXTS[text] or (TEXTS[text] == "data.csv: " and line.startswith("data.csv: ")), line


def test_text_after_the_first_block_of_a_csv_is_no_number(here: Path, capsys: Any) -> None:
    rows = "".join(f"{row},{'x' * 1000}\n" for row in range(18_000))
    Path("data.csv").write_text(f"a,text\n{rows}?,x\n")
    argv = ["fit", "data.csv", "-k", "2", "--drop", "text"]
    assert failure(capsys, *argv).startswith("data.csv: no numbers in column a ('?' in row 18,001): ")
    line = failure(capsys, *argv, "--memory-limit", "1B")
    assert line.startswith("data.csv: it is damaged, or no CSV of numbers (")
    assert "'?'" in line


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


def test_names_of_several_lines_are_told_in_one(X: np.ndarray, here: Path, capsys: Any) -> None:
    written("data.csv", X, "a", "b\n(in cm)", "c")
    assert failure(capsys, "fit", "data.csv", "-k", "2", "--drop", "d").endswith("it has a, b (in cm), c")
    with pytest.raises(SystemExit):
        main(["fit", "data.csv", "-k", "2", "--columns", "b\n(in cm)"])
    assert "has to stand in" in capsys.readouterr().err
    assert main(["fit", "data.csv", "-k", "2", "--columns", '"b\n(in cm)",c']) == 0
    assert capsys.readouterr().out.splitlines()[2].split() == ["cluster", "rows", "b", "(in", "cm)", "c"]


def test_bad_arrays(here: Path, capsys: Any) -> None:
    arrays = {
        "line": (np.arange(3.0), "its array has the shape (3,), and should have two dimensions"),
        "complex": (np.ones((3, 2), complex), "its array is of complex128, which is no real number"),
        "hole": (
            np.array([[1, 2], [3, np.nan]]),
            "a missing value in row 2, column 1 (rows count from 1, columns from 0)",
        ),
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
