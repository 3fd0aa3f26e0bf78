"""The command gpukmeans: what it prints and writes, and how it fails."""

from __future__ import annotations

import errno
import io
import json
import os
import signal
import subprocess
import sys
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
import sklearn.cluster
from matplotlib.figure import Figure
from PIL import Image

import gpukmeans
from gpukmeans import KMeans, __version__, datasets
from gpukmeans.cli import demo
from gpukmeans.cli.main import COMMANDS, main
from gpukmeans.engine import devices

SIZES = {"blobs.png": (750, 960), "digits.png": (1620, 624), "china.png": (1800, 780), "china-64.png": (640, 427)}
COMMAND = [sys.executable, "-m", "gpukmeans"]


class Shown(NamedTuple):
    out: Path
    text: str
    errors: str


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.fixture(scope="module")
def shown(tmp_path_factory: pytest.TempPathFactory, device: str) -> Shown:
    """One run of the demo, into a folder whose parent does not exist either."""
    out = tmp_path_factory.mktemp("cli") / "new" / "demo"
    with redirect_stdout(io.StringIO()) as text, redirect_stderr(Terminal()) as errors:
        assert main(["demo", "--out", str(out), "--device", device]) == 0
    return Shown(out, text.getvalue(), errors.getvalue())


def failure(capsys: pytest.CaptureFixture[str], *argv: str) -> str:
    """The one line on stderr of a command that must fail with status 1."""
    assert main(list(argv)) == 1
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 1, lines
    return lines[0].removeprefix("gpukmeans: error: ")


# ---------------------------------------------------------------- demo


@pytest.mark.slow
def test_demo_writes_its_pictures_and_nothing_else(shown: Shown) -> None:
    found = {}
    for path in shown.out.iterdir():
        with Image.open(path) as picture:
            assert picture.format == "PNG"
            found[path.name] = picture.size
    assert found == SIZES
    assert all(str(shown.out / name) in shown.text.splitlines()[-1] for name in SIZES)


def test_a_bar_tells_how_far_it_is_and_goes(shown: Shown) -> None:
    steps = ["blobs:", "digits:", "china:"]
    assert [step for step in steps if step in shown.errors] == steps
    assert shown.errors.index("digits:") < shown.errors.index("china:")
    assert shown.errors.endswith("\r")
    assert shown.errors.rstrip("\r").split("\r")[-1].strip() == ""


def test_files_are_as_readable_as_any(shown: Shown, tmp_path: Path) -> None:
    (tmp_path / "any").touch()
    assert {path.stat().st_mode for path in shown.out.iterdir()} == {(tmp_path / "any").stat().st_mode}


def test_quantized_picture_has_64_colors_and_looks_like_the_original(shown: Shown, china: np.ndarray) -> None:
    with Image.open(shown.out / "china-64.png") as picture:
        pixels = np.asarray(picture.convert("RGB"))
    assert len(np.unique(pixels.reshape(-1, 3), axis=0)) == 64
    error = np.mean((pixels / 255 - china / 255) ** 2)
    assert -10 * np.log10(error) > 32  # dB


def test_table(shown: Shown, kmeans: Any, device: str) -> None:
    lines = shown.text.splitlines()
    assert len({len(line) for line in lines[1:5]}) == 1, "the columns are aligned"
    rows = [line.replace(",", "").split() for line in lines[2:5]]
    assert lines[5] == ""
    assert [row[:6] for row in rows] == [
        ["blobs", "300", "x", "2", "4", devices.resolve(device)],
        ["digits", "1797", "x", "64", "10", devices.resolve(device)],
        ["china", "273280", "x", "3", "64", devices.resolve(device)],
    ]
    for row in rows:
        assert 0 < float(row[6]) < 60
        assert 0 < float(row[9]) < 60
    for row, workload in zip(rows, (datasets.blobs(), datasets.digits()), strict=False):
        ours = kmeans(workload.n_clusters, random_state=0).fit(workload.X)
        theirs = sklearn.cluster.KMeans(workload.n_clusters, random_state=0).fit(workload.X)
        assert row[7:9] == [str(ours.n_iter_), f"{ours.inertia_:.3f}"]
        assert row[10:] == [str(theirs.n_iter_), f"{theirs.inertia_:.3f}"]
    assert float(rows[2][8]) == pytest.approx(float(rows[2][11]), rel=0.02)


def test_it_says_where_scikit_learn_is_faster() -> None:
    times = "0.50 of scikit-learn's on blobs, 1.25 of scikit-learn's on digits, 2.00 of scikit-learn's on china"
    assert demo._in_words({"blobs": 0.5, "digits": 1.25, "china": 2.0}) == (
        times + "; scikit-learn is faster on digits and china"
    )
    assert demo._in_words({"blobs": 0.5}) == "0.50 of scikit-learn's on blobs"


def test_accuracy(shown: Shown) -> None:
    digits = datasets.digits()
    labels = KMeans(10, random_state=0, device="cpu").fit(digits.X).labels_
    assert f"digits: {datasets.accuracy(labels, digits.truth):.1%} accuracy" in shown.text


def test_seed(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    seeds = []
    monkeypatch.setattr(demo, "_compare", lambda workload, device, seed, repeats: seeds.append(seed) or 1 / 0)
    with pytest.raises(ZeroDivisionError):
        main(["demo", "--seed", "7"])
    assert seeds == [7]


# ---------------------------------------------------------------- demo: failures


def test_out_is_a_file(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    (tmp_path / "file").write_text("kept")
    line = failure(capsys, "demo", "--out", str(tmp_path / "file"))
    assert line == f"cannot write to {tmp_path / 'file'}: it is not a directory"
    line = failure(capsys, "demo", "--out", str(tmp_path / "file" / "below"))
    assert line == f"cannot write to {tmp_path / 'file' / 'below'}: Not a directory"
    assert (tmp_path / "file").read_text() == "kept"


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="root may write anywhere")
def test_out_is_read_only(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    tmp_path.chmod(0o500)
    assert "Permission denied" in failure(capsys, "demo", "--out", str(tmp_path))
    assert "Permission denied" in failure(capsys, "demo", "--out", str(tmp_path / "below"))


def test_out_cannot_be_made(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*args: Any, **kwargs: Any) -> None:
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(tmp_path))

    monkeypatch.setattr(os, "mkdir", refuse)
    line = failure(capsys, "demo", "--out", str(tmp_path / "new"))
    assert line == f"cannot write to {tmp_path / 'new'}: Permission denied"


@pytest.mark.parametrize(
    ("error", "status"), [(OSError(errno.ENOSPC, "No space left on device"), 1), (KeyboardInterrupt(), 130)]
)
def test_a_file_is_whole_or_as_it_was(
    error: BaseException,
    status: int,
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def half(self: Figure, file: Any, **kwargs: Any) -> None:
        file.write(b"half a picture")
        raise error

    monkeypatch.setattr(Figure, "savefig", half)
    argv = ["demo", "--out", str(tmp_path), "--device", "cpu"]
    assert main(argv) == status
    assert list(tmp_path.iterdir()) == []
    (tmp_path / "blobs.png").write_text("an earlier run's")
    assert main(argv) == status
    assert [path.read_text() for path in tmp_path.iterdir()] == ["an earlier run's"]
    message = f"gpukmeans: error: cannot write to {tmp_path}: No space left on device\n"
    assert capsys.readouterr().err == 2 * (message if status == 1 else "")


def test_a_folder_in_the_way_of_a_file(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    (tmp_path / "blobs.png").mkdir()
    assert failure(capsys, "demo", "--out", str(tmp_path)).startswith(f"cannot write to {tmp_path}: ")
    assert [path.name for path in tmp_path.iterdir()] == ["blobs.png"]


@pytest.mark.parametrize("name", ["tpu", "cuda:x", "cuda:99"])
def test_device_that_is_not_there(name: str, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    assert repr(name) in failure(capsys, "demo", "--out", str(tmp_path / "new"), "--device", name)
    assert not (tmp_path / "new").exists()


def test_environment_names_a_device_that_is_not_there(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("GPUKMEANS_DEVICE", "tpu")
    assert "GPUKMEANS_DEVICE" in failure(capsys, "demo", "--out", str(tmp_path))


@pytest.mark.parametrize(
    "argv", [[], ["dance"], ["demo", "--seed", "-1"], ["demo", "--seed", "4294967296"], ["demo", "--seed", "x"]]
)
def test_usage_errors(argv: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as exit:
        main(argv)
    assert exit.value.code == 2
    assert capsys.readouterr().err.startswith("usage: gpukmeans")


def test_without_a_command_all_are_listed(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as exit:
        main([])
    assert exit.value.code == 2
    said = capsys.readouterr()
    assert not said.out
    assert all(f"\n    {command}" in said.err for command in COMMANDS)


@pytest.mark.parametrize(
    ("argv", "usage", "unknown"),
    [
        (["fit", "rows.csv", "-k", "3", "--bogus"], "gpukmeans fit", "--bogus"),
        (["quantize", "a.png", "b.png", "--bogus=1"], "gpukmeans quantize", "--bogus=1"),
        (["info", "more"], "gpukmeans info", "more"),
        (["--bogus", "info", "more"], "gpukmeans", "--bogus more"),
    ],
)
def test_an_unknown_argument_shows_how_its_own_command_is_used(
    argv: list[str], usage: str, unknown: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as exit:
        main(argv)
    assert exit.value.code == 2
    said = capsys.readouterr().err
    assert said.startswith(f"usage: {usage} [")
    assert said.endswith(f"{usage}: error: unrecognized arguments: {unknown}\n")


@pytest.mark.parametrize("missing", ["matplotlib", "PIL", "tqdm"])
@pytest.mark.slow
def test_without_what_draws(missing: str, tmp_path: Path) -> None:
    program = (
        f"import sys; sys.modules[{missing!r}] = None\n"
        "import gpukmeans.cli.main, gpukmeans.datasets\n"
        "assert 'matplotlib.figure' not in sys.modules\n"
        f"sys.exit(gpukmeans.cli.main.main(['demo', '--out', {str(tmp_path / 'new')!r}]))"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (1, "")
    assert len(done.stderr.splitlines()) == 1
    assert "pip install 'gpukmeans[demo]'" in done.stderr
    assert not (tmp_path / "new").exists()


# ---------------------------------------------------------------- info


def test_info(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GPUKMEANS_DEVICE", "cpu")
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    assert main(["info"]) == 0
    lines = [line.split(maxsplit=1) for line in capsys.readouterr().out.splitlines()]
    found = {name: value.strip() for name, value in lines}
    assert found["device"] == found["GPUKMEANS_DEVICE"] == "cpu"
    assert found["GPU"] == f"not used: {devices.why_no_gpu() or 'GPUKMEANS_DEVICE says so'}"
    assert found["threads"] == "1"
    assert found["NumPy"] == np.__version__
    assert found["scikit-learn"] == sklearn.__version__
    assert {"gpukmeans", "Python", "SciPy", "BLAS"} <= set(found)


def test_info_as_json_has_the_same_names_and_values(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GPUKMEANS_DEVICE", "cpu")
    assert main(["info"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert main(["info", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert [f"{name:<16}  {value}" for name, values in found.items() for value in values] == lines
    gpukmeans.show_versions()
    assert capsys.readouterr().out.splitlines() == lines


def test_a_device_that_is_not_there_is_said_in_json_and_in_a_report_too(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GPUKMEANS_DEVICE", "tpu")
    assert main(["info", "--json"]) == 1
    (failure,) = json.loads(capsys.readouterr().out)["failure"]
    assert failure.startswith("the environment variable GPUKMEANS_DEVICE must be")
    gpukmeans.show_versions()
    assert capsys.readouterr().out.splitlines()[-1] == f"failure           {failure}"


def test_info_with_a_device_that_is_not_there(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GPUKMEANS_DEVICE", "tpu")
    assert main(["info"]) == 1
    output = capsys.readouterr()
    assert "NumPy" in output.out, "what can be said is said"
    assert output.err.startswith("gpukmeans: error: the environment variable GPUKMEANS_DEVICE must be")


# ---------------------------------------------------------------- as a process


@pytest.mark.skipif(sys.platform == "win32", reason="no SIGPIPE")
def test_a_reader_who_leaves() -> None:
    process = subprocess.Popen([*COMMAND, "info"], stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    assert process.stdout is not None
    process.stdout.close()
    _, errors = process.communicate()
    assert (process.returncode, errors) == (128 + signal.SIGPIPE, b"")


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="no /dev/full")
def test_nowhere_to_print() -> None:
    with open("/dev/full", "wb") as full:
        done = subprocess.run([*COMMAND, "info"], stdout=full, stderr=subprocess.PIPE, text=True)
    assert done.returncode == 1
    assert done.stderr == "gpukmeans: error: cannot write standard output: No space left on device\n"


def test_version() -> None:
    done = subprocess.run([*COMMAND, "--version"], capture_output=True, text=True)
    assert (done.returncode, done.stdout, done.stderr) == (0, f"gpukmeans {__version__}\n", "")


# ---------------------------------------------------------------- labels against the truth


def test_map_labels() -> None:
    # Cluster 0 has nobody, 1 mostly 5s, 2 as many 3s as 9s.
    labels = np.array([1, 1, 1, 2, 2], np.int32)
    truth = np.array([5, 9, 5, 9, 3])
    assert datasets.map_labels(labels, truth).tolist() == [3, 5, 3]
    assert datasets.accuracy(labels, truth) == 3 / 5
    assert datasets.confusion(labels, truth).tolist() == [[1, 0, 0], [0, 2, 0], [1, 1, 0]]


def test_workloads() -> None:
    shapes = {load().name: (load().X.shape, load().n_clusters) for load in (datasets.blobs, datasets.digits)}
    assert shapes == {"blobs": ((300, 2), 4), "digits": ((1797, 64), 10)}
    china = datasets.china()
    assert china.X.shape == (273_280, 3)
    assert china.X.dtype == np.float64
    assert china.shape == (427, 640, 3)
    assert china.X.min() == 0
    assert china.X.max() == 1
