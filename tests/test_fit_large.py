"""`gpukmeans fit` and `predict` of files that are larger than --memory-limit: the answer of those that are not."""

from __future__ import annotations

import json

import numpy as np
import pyarrow as pa
import pyarrow.feather
import pyarrow.parquet
import pytest

from gpukmeans.cli.main import main
from gpukmeans.row_sources.base import RowSource

N = 2000
X = np.abs(np.random.default_rng(0).normal(50, 20, (N, 5))).astype(np.float32)
LIMIT = "60kB"


def table(x):
    return pa.table({f"f{i}": column for i, column in enumerate(x.T)})


FILES = {
    "npy": np.save,
    "parquet": lambda path, x: pa.parquet.write_table(table(x), path, row_group_size=300),
    "feather": lambda path, x: pa.feather.write_feather(table(x), path, chunksize=300),
}


@pytest.fixture
def run(capsys):
    def call(*arguments):
        status = main([str(argument) for argument in arguments])
        out, err = capsys.readouterr()
        return status, out, err

    return call


@pytest.fixture
def pieces(monkeypatch):
    """The number of rows of each piece that was read."""
    seen, read = [], RowSource.read

    def watched(self, rows):
        seen.append(rows.stop - rows.start)
        return read(self, rows)

    monkeypatch.setattr(RowSource, "read", watched)
    return seen


@pytest.mark.parametrize("init", ["k-means++", "k-means||"])
@pytest.mark.parametrize("kind", FILES)
def test_a_file_larger_than_the_limit_has_the_answer_of_one_that_is_not(tmp_path, run, pieces, kind, init):
    path = tmp_path / f"x.{kind}"
    FILES[kind](path, X)
    names = [str(i) if kind == "npy" else f"f{i}" for i in range(5)]
    how = ["fit", path, "-k", 4, "--columns", ",".join(names[:4]), "--weights", names[4], "--init", init, "--json"]
    found = []
    for limit in (LIMIT, "1GB"):
        labels, model = tmp_path / "labels.csv", tmp_path / "model.npz"
        status, out, err = run(*how, "--memory-limit", limit, "--labels", labels, "--model", model)
        assert status == 0, err
        record = json.loads(out)
        del record["seconds"]
        predicted = tmp_path / "predicted.npy"
        assert run("predict", model, path, "-o", predicted, "--memory-limit", limit)[0] == 0
        found.append((record, labels.read_text(), np.load(predicted).tolist()))
        if limit == LIMIT:
            assert max(pieces) < N
            pieces.clear()
    assert found[0] == found[1]
    assert not pieces


@pytest.mark.parametrize("kind", FILES)
def test_a_scaled_model_labels_a_file_that_is_larger_than_the_limit(tmp_path, run, kind):
    path, model = tmp_path / f"x.{kind}", tmp_path / "model.npz"
    FILES[kind](path, X)
    labels = tmp_path / "labels.npy"
    assert run("fit", path, "-k", 4, "--scale", "standard", "--model", model, "--labels", labels)[0] == 0
    predicted = tmp_path / "predicted.npy"
    assert run("predict", model, path, "-o", predicted, "--memory-limit", LIMIT)[0] == 0
    assert np.load(predicted).tolist() == np.load(labels).tolist()
    status, _, err = run("fit", path, "-k", 4, "--scale", "standard", "--memory-limit", LIMIT)
    assert status != 0
    assert "--scale standard has all rows in memory" in err


def test_a_missing_value_far_in_a_large_file_is_named(tmp_path, run):
    x = X.copy()
    x[1234, 2] = np.nan
    pa.parquet.write_table(table(x), tmp_path / "x.parquet", row_group_size=300)
    status, _, err = run("fit", tmp_path / "x.parquet", "-k", 4, "--memory-limit", LIMIT)
    assert status != 0
    assert "a missing value in row 1,235, column f2" in err


@pytest.mark.parametrize("limit", ["0", "much", "-4GB"])
def test_a_limit_is_a_number_of_bytes(run, limit, capsys):
    with pytest.raises(SystemExit):
        main(["fit", "x.npy", "-k", "4", f"--memory-limit={limit}"])
    assert "must be a number of bytes" in capsys.readouterr().err
