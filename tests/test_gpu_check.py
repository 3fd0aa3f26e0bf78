"""benchmarks/gpu_check, as far as a CPU goes: its cases on kernels that a CPU runs, its arguments, the names in it."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tarfile
from itertools import islice
from pathlib import Path
from types import SimpleNamespace

import pytest
from host_cuda.build import KERNEL
from host_cuda.machine import as_cupy
from host_cuda.runtime import HostCuda

from gpukmeans.engine.cuda import launch_plans, seeding_bytes
from gpukmeans.engine.numpy.tuning import tuned

pytestmark = pytest.mark.kernels

ROOT = Path(__file__).parents[1]
GPU_CHECK = ROOT / "benchmarks" / "gpu_check"
SCRIPT = GPU_CHECK / "check.sh"


@pytest.fixture
def host(monkeypatch, imported_anew):
    """A machine with a GPU that check's programs can import; its pool of memory can be told a limit."""
    host = HostCuda(build="fast", seed=1)
    cupy = as_cupy(host)
    memory = host.total_bytes
    pool = SimpleNamespace(
        free_all_blocks=lambda: None,
        total_bytes=lambda: host.used_bytes,
        set_limit=lambda size: setattr(host, "total_bytes", host.used_bytes + size if size else memory),
    )
    allocators = []
    cupy.get_default_memory_pool = lambda: pool
    cupy.asfortranarray = lambda array: array
    cupy.cuda.set_allocator = cupy.cuda.set_pinned_memory_allocator = allocators.append
    host.allocators = allocators
    monkeypatch.setitem(sys.modules, "cupy", cupy)
    imported_anew(GPU_CHECK, "bits", "profiled")
    return host


def run_bits(monkeypatch, capsys, *arguments):
    """The lines that bits.py prints, and its exit status."""
    import bits

    monkeypatch.setattr(sys, "argv", ["bits.py", *arguments])
    with pytest.raises(SystemExit) as end:
        bits.main()
    return capsys.readouterr().out.splitlines(), end.value.code


@pytest.mark.parametrize(
    ("group", "rows", "step", "cases"),
    [
        ("low_dim", 340, 5, 5),
        ("tiled", 340, 4, 4),
        ("tensor", 340, 8, 4),
        ("groups", 340, 4, 2),
        ("seeding", 340, 3, 8),
        ("inputs", 340, 1, 5),
        ("batches", 6000, 2, 1),
        ("big", 340, 1, 1),
        ("images", 340, 5, 3),
        ("sanitizer", 340, 3, 4),
    ],
)
def test_cases_have_numpys_bits(host, monkeypatch, capsys, group, rows, step, cases):
    """One in `step` of them: the kernels are the other tests' matter."""
    import bits

    if group == "groups":  # of so few rows D would be quicker
        monkeypatch.setattr(launch_plans, "CLOSE_VALUES", 0)
    every = bits.GROUPS[group]
    monkeypatch.setitem(bits.GROUPS, group, lambda data: islice(every(data), 0, None, step))
    lines, status = run_bits(monkeypatch, capsys, "--rows", str(rows), group)
    assert [line[:4] for line in lines] == ["OK  "] * cases + ["----"], lines
    assert status == 0


def test_a_case_that_does_not_hold_is_named(host, monkeypatch, capsys):
    """Other bits, a kernel that was to run and did not, an error: each is said, and the other cases go on."""
    import bits

    answers = [{"centers": b"1", "inertia": 1.0}, {"centers": b"1", "inertia": 1.0}, {"centers": b"2", "inertia": 1.0}]

    def group(data):
        yield bits.Case("other bits", lambda: answers)
        yield bits.Case("another kernel", lambda: answers[:2], ("assign_tensor",))
        yield bits.Case("no answer", lambda: 1 // 0)
        yield bits.Case("good", lambda: answers[:2])
        raise ValueError("no more data")

    monkeypatch.setitem(bits.GROUPS, "low_dim", group)
    lines, status = run_bits(monkeypatch, capsys, "low_dim")
    said = [re.sub(r"[\d.]+ s", "T", line) for line in lines]
    assert said[0] == "FAIL; other bits; T; centers of answer 2; "
    assert said[1] == "FAIL; another kernel; T; assign_tensor did not run; "
    assert said[2].startswith("FAIL; no answer; T; ZeroDivisionError(")
    assert said[3] == "OK  ; good; T; "
    assert said[4] == "FAIL; low_dim; ValueError('no more data')"
    assert status == 1


def test_arrays_may_have_allocations_of_their_own(host, monkeypatch, capsys):
    import bits

    monkeypatch.setitem(bits.GROUPS, "low_dim", lambda data: iter(()))
    assert run_bits(monkeypatch, capsys, "--own-allocations", "low_dim")[1] == 0
    assert host.allocators == [None, None]


def test_what_is_profiled_launches_the_kernels_that_are_looked_at(host, monkeypatch):
    import profiled

    # 256 rows, so 128 centers, as many as assign_half takes at a time; of all rows bytes pay.
    monkeypatch.setattr(seeding_bytes, "SAVED", 0)
    monkeypatch.setattr(sys, "argv", ["profiled.py", "--divide", "3900"])
    with tuned(whole=False):  # as it is of all rows
        profiled.main()
    for pattern in profiled_kernels():
        assert any(re.fullmatch(pattern, name) for name in host.launches), pattern
    looked_at = "|".join(profiled_kernels())
    launches = sum(count for name, count in host.launches.items() if re.fullmatch(looked_at, name))
    (most,) = re.findall(r"--launch-count (\d+)", SCRIPT.read_text(encoding="utf-8"))
    assert launches <= int(most)
    assert {"assign_low_dim", "assign_tiled", "assign_half", "assign_wgmma", "assign_tensor"} <= set(host.launches)


def profiled_kernels():
    """What ncu is told to look at: names, or patterns of names."""
    return re.search(r"regex:\^\((.*)\)\$", SCRIPT.read_text(encoding="utf-8")).group(1).split("|")


def test_names_in_the_script_are_there():
    """The kernels that ncu looks at, the tests, the programs, and the groups of cases."""
    text = SCRIPT.read_text(encoding="utf-8").replace("\\\n", "")
    kernels = {
        name for path in (ROOT / "kernels").glob("*.cu") for _, name in KERNEL.findall(path.read_text(encoding="utf-8"))
    }
    for pattern in profiled_kernels():
        assert any(re.fullmatch(pattern, name) for name in kernels), pattern
    (tests,) = re.findall(r"for group in (tensor distance .*?); do", text)
    assert [name for name in tests.split() if not (ROOT / "tests" / f"test_{name}.py").exists()] == []
    for name in re.findall(r"[\w/$]+\.py\b", text):
        path = name.replace("$here", "benchmarks/gpu_check")
        assert (ROOT / path).exists() or path == "tests/test_$group.py", name
    (groups,) = re.findall(r"for group in (low_dim .*?); do", text)
    source = (GPU_CHECK / "bits.py").read_text(encoding="utf-8")
    for name in groups.replace('"', "").split():
        assert f"def {name}(data: Data)" in source


def kept(tmp_path):
    """What came back, by name: the folder has one file, in which all others are."""
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["gpu_check.tar.gz"]
    with tarfile.open(tmp_path / "out" / "gpu_check.tar.gz") as archive:
        files = [member for member in archive.getmembers() if member.isfile()]
        return {Path(member.name).name: archive.extractfile(member).read().decode() for member in files}


def check(tmp_path, *words, **environment):
    environment = {**os.environ, "PYTHON": sys.executable, "OUT": str(tmp_path / "out"), **environment}
    return subprocess.run(["bash", SCRIPT, *words], env=environment, capture_output=True, text=True)


@pytest.fixture
def stand_ins(tmp_path):
    """Programs that note what they are asked for, and fail where that has a word of the file `failing` in it."""
    folder = tmp_path / "bin"
    folder.mkdir()
    for name in ("python", "compute-sanitizer", "ncu", "nvidia-smi"):
        program = folder / name
        program.write_text(
            f'#!/bin/sh\necho {name} "$@" >>{tmp_path}/asked\necho "OK   answer"\n'
            f'for word in $(cat {tmp_path}/failing); do case "$*" in *$word*) exit 1 ;; esac; done\n'
        )
        program.chmod(0o755)
    (tmp_path / "failing").write_text("")
    return {"PYTHON": str(folder / "python"), "PATH": f"{folder}{os.pathsep}{os.environ['PATH']}"}


def test_each_word_is_a_step(tmp_path, stand_ins):
    done = check(tmp_path, "correct", "speed", "china64", "embed1k", "profile", **stand_ins, REPEATS="2")
    assert done.returncode == 0, done.stdout
    assert "FAILED" not in done.stdout
    asked = (tmp_path / "asked").read_text()
    for program in (
        "python examples/fingerprint.py --device cuda",
        "python benchmarks/gpu_check/bits.py seeding inputs",
        "python -m pytest -q --maxfail 40 --device cuda",
        "compute-sanitizer --tool memcheck",
        "compute-sanitizer --tool racecheck",
        "python benchmarks/gpu.py --workloads china64 --libraries gpukmeans,flash-kmeans --repeats 2",
        "python benchmarks/gpu.py --workloads embed1k",
        "ncu --clock-control none",
    ):
        assert asked.count(program) == 1, program
    assert asked.count("gpu.py --workloads") == 2
    came_back = {*kept(tmp_path)}
    assert {"environment.txt", "tests.txt", "memcheck.txt", "racecheck.txt", "china64.md", "ncu.txt"} < came_back
    assert not [name for name in came_back if name.startswith("failed")]


@pytest.mark.parametrize("step", ["correct", "speed", "profile"])
def test_a_step_alone_and_what_fails_in_it(tmp_path, stand_ins, step):
    (tmp_path / "failing").write_text("bits.py pytest memcheck gpu.py profiled.py")
    done = check(tmp_path, step, **stand_ins)
    failed = re.findall(r"FAILED: (.*)", done.stdout)
    workloads = ["china64", "embed1k", "embed1k_half", "noise1k", "image100M64"]
    # Of the sanitizers both run bits.py.
    expected = {"correct": ["bits", "memcheck", "racecheck", "tests"], "profile": ["profile"]}
    assert (done.returncode, failed) == (1, expected.get(step, [f"speed {name}" for name in workloads]))


def test_another_fingerprint_fails(tmp_path, stand_ins):
    program = Path(stand_ins["PYTHON"])
    program.write_text(program.read_text().replace("answer", "$*"))
    done = check(tmp_path, **stand_ins)
    assert done.returncode == 1
    assert "FAILED: smoke" in done.stdout


def test_where_no_fit_runs_on_a_gpu_it_ends_after_the_first_step(tmp_path):
    done = check(tmp_path, "correct", CUDA_VISIBLE_DEVICES="")
    assert done.returncode == 3, done.stdout
    assert "no fit ran on a GPU" in done.stdout
    files = kept(tmp_path)
    assert "DeviceError" in files["fingerprint_cuda.txt"]
    assert "numpy" in files["environment.txt"]
    assert set(files) == {"environment.txt", "fingerprint_cpu.txt", "fingerprint_cuda.txt"}


def test_what_there_is_no_time_for_is_left_out_and_named(tmp_path, stand_ins):
    """What was done before stays."""
    done = check(tmp_path, "correct", "speed", "china64", "profile", **stand_ins, LIMIT="120")
    assert (done.returncode, re.findall(r"FAILED: (.*)", done.stdout)) == (1, ["no time left for correct"])
    files = kept(tmp_path)
    assert {"china64.md", "ncu.txt"} < set(files)
    assert "tests.txt" not in files


def test_what_was_done_is_kept_when_it_is_stopped(tmp_path, stand_ins):
    """In the middle of the tests, of which each has written something."""
    program = Path(stand_ins["PYTHON"])
    program.write_text(
        program.read_text() + 'case "$*" in *pytest*) kill "$(cat ' + str(tmp_path) + '/script)"; sleep 9 ;; esac\n'
    )
    environment = {**os.environ, **stand_ins, "OUT": str(tmp_path / "out")}
    script = f"echo $$ >{tmp_path}/script; exec bash {SCRIPT} correct speed"
    done = subprocess.run(["bash", "-c", script], env=environment, capture_output=True, text=True)
    assert done.returncode == 130, done.stdout
    files = kept(tmp_path)
    assert files["bits_low_dim.txt"] == "OK   answer\n"
    assert "china64.md" not in files


@pytest.mark.parametrize("words", [["china64"], ["correct", "china64"], ["speed", "correct", "china64"], ["--bits"]])
def test_unknown_words_are_refused(tmp_path, words):
    done = check(tmp_path, *words)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("usage: bash benchmarks/gpu_check/check.sh [correct]")
    assert not (tmp_path / "out").exists()


def test_device_only_leaves_out_stand_ins_for_a_gpu():
    command = ["-m", "pytest", "-q", "--collect-only", "-p", "no:cacheprovider", "tests/test_tensor.py"]
    environment = {**os.environ, "PYTHONPATH": str(GPU_CHECK)}

    def collected(*more):
        done = subprocess.run(
            [sys.executable, *command, *more], cwd=ROOT, env=environment, capture_output=True, text=True
        )
        assert done.returncode == 0, done.stdout
        return {line.split("[")[0] for line in done.stdout.splitlines() if "::" in line}

    kept = collected("-p", "device_only")
    assert "tests/test_tensor.py::test_fits_are_numpys" in collected() - kept
    assert kept
