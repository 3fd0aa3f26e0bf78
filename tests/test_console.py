"""The command as a process: whatever ends it, and whatever becomes of its streams, it ends quietly and in order."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image

from gpukmeans.cli.main import main

COMMAND = [sys.executable, "-m", "gpukmeans"]
POSIX = pytest.mark.skipif(os.name != "posix", reason="signals and descriptors are POSIX'")
FULL = pytest.mark.skipif(not os.path.exists("/dev/full"), reason="no /dev/full")


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


@pytest.fixture
def source(tmp_path: Path) -> Path:
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (9, 9, 3), np.uint8)).save(tmp_path / "in.png")
    return tmp_path / "in.png"


# ---------------------------------------------------------------- signals

# What the process does as it starts: it ends itself as soon as a module is imported or a file begun.
STARTED = """
import os, runpy, signal, sys
from importlib.abc import MetaPathFinder
class Finder(MetaPathFinder):
    def find_spec(self, name, path, target=None):
        if name == {at!r}:
            os.kill(os.getpid(), {number})
sys.meta_path.insert(0, Finder())
sys.argv = ["gpukmeans", *sys.argv[1:]]
runpy.run_module("gpukmeans", run_name="__main__", alter_sys=True)
"""


@pytest.fixture(autouse=True)
def nothing_is_ignored():
    """What the tests were started by, such as nohup, may have SIGHUP ignored, which the command would then leave so. A
    handler of this process is none of the processes that it starts."""
    if os.name == "posix":
        before = signal.signal(signal.SIGHUP, lambda *_: None)
        yield
        signal.signal(signal.SIGHUP, before)
    else:
        yield


@POSIX
@pytest.mark.parametrize(
    ("number", "at"),
    [
        (signal.SIGINT, "gpukmeans.cli.main"),
        (signal.SIGINT, "numpy.linalg"),
        (signal.SIGINT, "gpukmeans.cli.info"),
        (signal.SIGTERM, "numpy"),
        (signal.SIGHUP, "numpy"),
    ],
)
def test_a_signal_while_modules_are_imported_ends_the_command_quietly(number: signal.Signals, at: str) -> None:
    program = STARTED.format(at=at, number=int(number))
    done = subprocess.run([sys.executable, "-c", program, "info"], capture_output=True, text=True)
    assert (done.returncode, done.stdout, done.stderr) == (128 + number, "", "")


def test_ctrl_c_before_there_is_a_handler_ends_the_command_quietly() -> None:
    program = STARTED.format(at="signal", number=int(signal.SIGINT)).replace(
        "runpy.run", "del sys.modules['signal']\nrunpy.run"
    )
    done = subprocess.run([sys.executable, "-c", program, "info"], capture_output=True, text=True)
    assert (done.returncode, done.stdout, done.stderr) == (130, "", "")


@POSIX
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_signal_while_a_file_is_written_leaves_what_was_there(number: signal.Signals, tmp_path: Path) -> None:
    rows = np.lib.format.open_memmap(tmp_path / "in.npy", "w+", np.uint8, (200_000, 512))
    rows[::7] = 9
    (tmp_path / "out.tif").write_text("an earlier one")
    argv = [*COMMAND, "quantize", str(tmp_path / "in.npy"), str(tmp_path / "out.tif"), "--bands", "--device", "cpu"]
    process = subprocess.Popen(argv, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    end = time.monotonic() + 60
    while not list(tmp_path.glob(".gpukmeans-*")) and process.poll() is None and time.monotonic() < end:
        time.sleep(0.01)
    assert process.poll() is None, "it is being written"
    process.send_signal(number)
    out, errors = process.communicate()
    assert (process.returncode, out, errors) == (128 + number, b"", b"")
    assert names(tmp_path) == ["in.npy", "out.tif"]
    assert (tmp_path / "out.tif").read_text() == "an earlier one"


@POSIX
def test_a_signal_that_is_ignored_stays_so() -> None:
    """As nohup has it."""
    program = STARTED.format(at="sklearn.cluster", number=int(signal.SIGHUP))
    program = "import signal; signal.signal(signal.SIGHUP, signal.SIG_IGN)\n" + program
    done = subprocess.run([sys.executable, "-c", program, "--version"], capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith("gpukmeans ")


@POSIX
def test_nothing_but_the_command_touches_signals() -> None:
    program = (
        "import signal; numbers = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)\n"
        "before = [*map(signal.getsignal, numbers)]\n"
        "import gpukmeans, gpukmeans.__main__, gpukmeans.cli.main\n"
        "gpukmeans.cli.main.main(['info'])\n"
        "gpukmeans.quantize(__import__('numpy').zeros((2, 2), 'uint8')).save('/dev/null', 'PNG')\n"
        "assert [*map(signal.getsignal, numbers)] == before"
    )
    subprocess.run([sys.executable, "-c", program], check=True, capture_output=True)


# ---------------------------------------------------------------- streams


@FULL
def test_a_full_output_is_not_the_pictures_fault(
    source: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    out = source.with_name("out.png")
    for argv in (
        ["quantize", str(source), str(out), "-k", "2"],
        ["quantize", str(source), str(out), "-k", "2", "--json"],
        ["quantize", str(source), "-", "-k", "2"],
        ["info"],
        ["--version"],
        ["quantize", "--help"],
    ):
        with open("/dev/full", "w") as full, monkeypatch.context() as patch:
            patch.setattr(sys, "stdout", full)
            assert main(argv) == 1, argv
        assert capsys.readouterr().err == (
            "gpukmeans: error: cannot write standard output: No space left on device\n"
        ), argv
    assert names(source.parent) == ["in.png", "out.png"]


def test_a_closed_output_keeps_nobody_from_writing_a_file(
    source: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    out = source.with_name("out.png")
    monkeypatch.setattr(sys, "stdout", None)
    monkeypatch.setattr(sys, "stdin", None)
    for option in ([], ["--json"]):
        assert main(["quantize", str(source), str(out), "-k", "2", *option]) == 0
        with Image.open(out) as image:
            assert image.size == (9, 9)
        out.unlink()
    assert main(["info"]) == 0
    assert capsys.readouterr().err == ""


def test_what_is_asked_for_of_a_closed_stream_is_an_error(
    source: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "stdout", None)
    monkeypatch.setattr(sys, "stdin", None)
    assert main(["quantize", str(source), "-"]) == 1
    assert main(["quantize", "-", str(source.with_name("out.png"))]) == 1
    assert capsys.readouterr().err.splitlines() == [
        "gpukmeans: error: cannot write standard output: it is closed",
        "gpukmeans: error: standard input: it is closed",
    ]
    assert names(source.parent) == ["in.png"]


@POSIX
def test_an_input_that_cannot_be_read_is_not_the_targets_fault(
    source: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    with open(os.open(os.devnull, os.O_WRONLY), "rb") as unreadable, monkeypatch.context() as patch:
        patch.setattr(sys, "stdin", SimpleNamespace(buffer=unreadable))
        assert main(["quantize", "-", str(source.with_name("out.png"))]) == 1
    assert capsys.readouterr().err == "gpukmeans: error: standard input: Bad file descriptor\n"


def test_an_error_that_nobody_hears_is_not_said_to_others(
    source: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Least of all into the picture that is written to standard output."""
    monkeypatch.setattr(sys, "stderr", None)
    assert main(["quantize", str(source.with_name("none.png")), "-"]) == 1
    assert capsys.readouterr().out == ""


@POSIX
def test_no_file_takes_the_place_of_a_closed_stream(source: Path) -> None:
    """Where whoever writes to the stream's number would write into it."""
    program = (
        "import os, sys; [os.close(number) for number in range(3)]; sys.stdin = sys.stdout = sys.stderr = None\n"
        "from gpukmeans import __main__, atomic_write\n"
        "__main__._fill_streams()\n"
        "with atomic_write.atomic(sys.argv[1]) as file:\n"
        "    file.write(b'%d' % file.fileno())"
    )
    subprocess.run([sys.executable, "-c", program, str(source.with_name("number"))], check=True)
    assert int(source.with_name("number").read_text()) > 2
    line = f"'{sys.executable}' -m gpukmeans quantize $1 $2 2>&- >&- <&-"
    done = subprocess.run(["sh", "-c", line, "sh", source, source.with_name("out.png")])
    assert done.returncode == 0
    with Image.open(source.with_name("out.png")) as image:
        image.load()


@POSIX
def test_a_name_that_is_no_text_is_told_of(source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Bytes that are not UTF-8, and letters that the output has not."""
    odd = os.fsdecode(os.fsencode(tmp_path) + b"/\xff\xc3\xa9.png")
    os.link(source, odd)
    with open(tmp_path / "said", "w", encoding="ascii") as said, monkeypatch.context() as patch:
        patch.setattr(sys, "stdout", said)
        assert main(["quantize", odd, str(tmp_path / "out.png"), "-k", "2"]) == 0
        assert main(["quantize", odd, str(tmp_path / "out.tif"), "-k", "2", "--bands", "--json"]) == 0
    first, second = (tmp_path / "said").read_text().splitlines()
    assert "/\\udcff\\xe9.png -> " in first
    assert json.loads(second)["input"] == odd
