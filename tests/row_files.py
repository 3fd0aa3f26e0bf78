"""What tests of gpukmeans fit and predict share: files of rows, and what the command makes of them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.feather
import pyarrow.parquet
import pytest
from sklearn.datasets import dump_svmlight_file, make_blobs

from gpukmeans.cli.main import main


@pytest.fixture(name="X")
def samples() -> np.ndarray:
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
