"""`gpukmeans fit` and `predict` of files that are larger than --memory-limit: the answer of those that are not."""

from __future__ import annotations

import json
import math
import zipfile

import numpy as np
import pyarrow as pa
import pyarrow.csv
import pyarrow.feather
import pyarrow.parquet
import pytest

from gpukmeans.cli.columns import Features
from gpukmeans.cli.main import main
from gpukmeans.cli.scaling import ColumnSums, Scaler
from gpukmeans.row_sources.base import RowSource

N = 2000
X = np.abs(np.random.default_rng(0).normal(50, 20, (N, 5))).astype(np.float32)
LIMIT = "60kB"


def table(x):
    return pa.table({f"f{i}": column for i, column in enumerate(x.T)})


FILES = {
    "csv": lambda path, x: pa.csv.write_csv(table(x), path),
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


@pytest.mark.parametrize("scale", ["none", "standard"])
@pytest.mark.parametrize("init", ["k-means++", "k-means||"])
@pytest.mark.parametrize("kind", FILES)
def test_a_file_larger_than_the_limit_has_the_answer_of_one_that_is_not(tmp_path, run, pieces, kind, init, scale):
    path = tmp_path / f"x.{kind}"
    FILES[kind](path, X)
    names = [str(i) if kind == "npy" else f"f{i}" for i in range(5)]
    how = ["fit", path, "-k", 4, "--columns", ",".join(names[:4]), "--weights", names[4], "--init", init, "--json"]
    how += ["--scale", scale]
    found = []
    for limit in (LIMIT, "1GB"):
        labels, model = tmp_path / "labels.csv", tmp_path / "model.npz"
        status, out, err = run(*how, "--memory-limit", limit, "--labels", labels, "--model", model)
        assert status == 0, err
        record = json.loads(out)
        del record["seconds"]
        predicted = tmp_path / "predicted.npy"
        assert run("predict", model, path, "-o", predicted, "--memory-limit", limit)[0] == 0
        found.append((record, labels.read_text(), np.load(predicted).tolist(), contents(model)))
        if limit == LIMIT:
            assert max(pieces) < N
            pieces.clear()
    assert found[0] == found[1]
    assert not pieces


def contents(model):
    """All of its file but the limit, which is a parameter."""
    with zipfile.ZipFile(model) as archive:
        found = {name: archive.read(name) for name in archive.namelist()}
    said = json.loads(found["metadata.json"])
    del said["parameters"]["memory_limit"]
    return {**found, "metadata.json": said}


SCALED = {
    "one k": (np.float32, "20kB", ["-k", 4]),
    "several k": (np.uint8, "100kB", ["-k", "2:3"]),
    "rows that are drawn": (np.float64, "100kB", ["-k", 4, "--minibatch"]),
    "cosine": (np.float16, "50kB", ["-k", 4, "--metric", "cosine"]),
}


@pytest.mark.parametrize("name", SCALED)
def test_scaled_rows_are_those_of_memory_in_pieces_of_any_size(tmp_path, run, pieces, name):
    dtype, limit, how = SCALED[name]
    x = X.astype(dtype)
    x[:, 3] = 7
    np.save(tmp_path / "x.npy", x)
    labels, model, plot = tmp_path / "labels.npy", tmp_path / "model.npz", tmp_path / "plot.svg"
    how = ["fit", tmp_path / "x.npy", *how, "--max-iter", 5, "--scale", "standard"]
    how += ["--labels", labels, "--model", model, "--plot", plot]
    found = []
    for memory in (limit, "1GB"):
        pieces.clear()
        status, _, err = run(*how, "--memory-limit", memory)
        assert status == 0, err
        assert (0 < max(pieces, default=0) < N) == (memory == limit)
        found.append((np.load(labels).tolist(), contents(model), plot.read_bytes()))
    assert found[0] == found[1]


@pytest.mark.parametrize("seed", range(20))
def test_sums_of_columns_are_exactly_rounded_whatever_they_are_cut_into(seed):
    draw = np.random.default_rng(seed)
    values = draw.normal(size=(3, 999)) * 2.0 ** draw.integers(-draw.integers(1, 1000), 400, size=(3, 999))
    values[1] *= 2.0**-1060  # down to the least that there is
    values[2, 500:] = -values[2, :499]  # all but one cancel
    values[2, 250] = 1e-300
    expected = [math.fsum(column) for column in values]
    for parts in (1, 4, 50):
        sums = ColumnSums(3)
        for part in np.array_split(values[:, draw.permutation(999)], parts, axis=1):
            sums.add(part.copy())
        assert sums.rounded().tolist() == expected


def test_a_scale_is_of_weights_that_no_product_overflows_with():
    """A power of two changes no mean."""
    rows, weights = np.array([[1e120], [3e120], [-2e120]]), np.array([3.0, 1.0, 2.0])
    scaler = Scaler.of(Features(rows, ["a"], True, weights))
    larger = Scaler.of(Features(rows, ["a"], True, weights * 2.0**1000))
    assert scaler == larger
    assert np.isfinite(larger.scale).all()


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
