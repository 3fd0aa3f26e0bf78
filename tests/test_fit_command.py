"""gpukmeans fit and predict: what they find, what a model keeps of columns, and what they write."""

from __future__ import annotations

import errno
import io
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
import pytest
import tqdm
from row_files import failure, here, labels_in, record, samples, written
from sklearn.preprocessing import StandardScaler

import gpukmeans
from gpukmeans import KMeans, MiniBatchKMeans
from gpukmeans.cli.main import main

COMMAND = [sys.executable, "-m", "gpukmeans"]

__all__ = ["here", "samples"]  # fixtures


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


@pytest.mark.parametrize("kind", [KMeans, MiniBatchKMeans])
def test_as_many_iterations_as_asked_for(kind: Any, here: Path, capsys: Any) -> None:
    x = np.random.default_rng(0).normal(size=(3000, 5))
    written("data.npy", x)
    more = ["--minibatch"] if kind is MiniBatchKMeans else []
    for most in (1, 3):
        found = record(capsys, "fit", "data.npy", "-k", "20", "--max-iter", str(most), "--model", "m.npz", *more)
        assert found["iterations"] == gpukmeans.load("m.npz").n_iter_ == most
        assert found["inertia"] == kind(20, max_iter=most, random_state=0).fit(x).inertia_
    with pytest.raises(SystemExit):
        main(["fit", "data.npy", "-k", "20", "--max-iter", "0"])
    assert "argument --max-iter: must be an integer from 1 on, got '0'" in capsys.readouterr().err


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
    frame.to_csv("tabs.csv", index=False, sep="\t")
    frame.to_csv("bare.csv", index=False, header=False)
    expected = KMeans(4, random_state=0).fit(X[:, [2, 0]]).inertia_
    for argv in (["bom.csv", "--delimiter", ";"], ["tabs.tsv"], ["tabs.csv", "--delimiter", r"\t"]):
        assert record(capsys, "fit", *argv, "-k", "4", "--columns", '"c, of d",a')["inertia"] == expected
    assert record(capsys, "fit", "bare.csv", "-k", "4", "--header", "no", "--columns", "2,0")["inertia"] == expected
    frame[["b"]].set_axis(["m; from a"], axis=1).to_csv("one.csv", index=False)
    argv = ["fit", "one.csv", "-k", "4", "--delimiter", ","]
    assert record(capsys, *argv)["inertia"] == KMeans(4, random_state=0).fit(X[:, [1]]).inertia_
    assert main(argv) == 0
    assert capsys.readouterr().out.startswith("one.csv: 120 rows, 1 column, on ")
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


@pytest.mark.parametrize("argv", [["4"], ["2:4"], ["4", "--minibatch"]], ids=" ".join)
def test_a_bar_on_a_terminal_changes_nothing(argv: list[str], X: np.ndarray, here: Path, monkeypatch: Any) -> None:
    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    shown = tqdm.tqdm
    monkeypatch.setattr(tqdm, "tqdm", lambda *args, **how: shown(*args, **{**how, "delay": 0, "mininterval": 0}))
    written("data.csv", X)
    argv = ["fit", "data.csv", "--n-init", "2", "-k", *argv]
    assert main([*argv, "--model", "silent.npz"]) == 0
    with redirect_stderr(Terminal()) as errors:
        assert main([*argv, "--model", "told.npz"]) == 0
    assert Path("told.npz").read_bytes() == Path("silent.npz").read_bytes()
    bars = errors.getvalue().split("\r")
    assert bars[-2].strip() == "", "it is gone at the end"
    if "--minibatch" in argv:
        steps = gpukmeans.load("told.npz").n_steps_
        assert any(f" {steps}/100 " in bar and " steps" in bar for bar in bars)
    elif "4" in argv:
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


@pytest.mark.slow
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
