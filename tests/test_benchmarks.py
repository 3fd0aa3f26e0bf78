"""The benchmarks run, and write what they say they write. Nothing here depends on how long anything takes."""

from __future__ import annotations

import importlib.util
import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
from PIL import Image

pytestmark = pytest.mark.slow

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"
LIBRARIES = ["gpukmeans", "scikit-learn", "faiss-cpu", "superkmeans"]


def run(*command: str | Path) -> str:
    """What the command prints, if it ends well."""
    done = subprocess.run([sys.executable, *command], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout


class Written(NamedTuple):
    path: Path
    printed: str
    report: dict[str, Any]


@pytest.fixture(scope="module")
def quick(tmp_path_factory: pytest.TempPathFactory) -> Written:
    path = tmp_path_factory.mktemp("benchmarks") / "new" / "quick.json"
    printed = run(BENCHMARKS / "cpu.py", "--quick", "--json", path)
    return Written(path, printed, json.loads(path.read_text()))


def strings(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, list | dict):
        for item in value.values() if isinstance(value, dict) else value:
            yield from strings(item)


def test_cpu_measures_every_library(quick: Written) -> None:
    report = quick.report
    assert report["date"].endswith(" UTC")
    assert report["command"] == "python benchmarks/cpu.py --workloads blobs,digits,small --seeds 1 --quick"
    assert report["machine"]["cores"] >= 1
    assert report["versions"]["numpy"] == np.__version__
    assert [workload["name"] for workload in report["workloads"]] == ["blobs", "digits", "small"]
    for workload in report["workloads"]:
        n, d, k = workload["n"], workload["d"], workload["k"]
        assert workload["pass_bytes"] == n * d * np.dtype(workload["dtype"]).itemsize
        assert workload["iteration_flops"] == 2 * n * d * k
        assert [*workload["libraries"], *report["not_installed"]] == LIBRARIES
        assert list(report["threads"]) == list(workload["libraries"])
        for result in workload["libraries"].values():
            (run,) = result["seeds"]
            summary = result["summary"]
            assert run["seed"] == 0
            assert min(run["seconds"], run["repetitions"], run["iterations"], run["inertia"]) > 0
            assert summary["seconds"] == run["seconds"]
            assert summary["points_per_second"] == n / run["seconds"]
            assert summary["pairs_per_second"] == n * k * run["iterations"] / run["seconds"]
            assert set(summary["time_ratio"]) == {"median", "min", "max"}


def test_cpu_compares_the_same_problem(quick: Written) -> None:
    """From the same initial centers both libraries come to the same end."""
    given = [workload for workload in quick.report["workloads"] if workload["init"] == "given"]
    assert given
    for workload in given:
        ours, theirs = (workload["libraries"][name]["seeds"][0] for name in LIBRARIES[:2])
        assert ours["iterations"] == theirs["iterations"] == 10
        np.testing.assert_allclose(ours["inertia"], theirs["inertia"], rtol=1e-9)


def test_report_prints_an_earlier_table(quick: Written) -> None:
    assert run(BENCHMARKS / "report.py", quick.path) == quick.printed


def test_the_pages_show_what_is_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    """The tables in the README and in docs/ are those of files in results/, the newest of each kind."""
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    import report

    newest: dict[str, dict[str, Any]] = {}
    for path in (BENCHMARKS / "results").glob("*.json"):
        kept = json.loads(path.read_text())
        if kept["date"] > newest.get(report.kind(kept), {"date": ""})["date"]:
            newest[report.kind(kept)] = kept
    assert "cpu" in newest
    for kept in newest.values():
        text = report.PAGES[report.kind(kept)].read_text(encoding="utf-8")
        assert report.replaced(text, kept) == text


def test_cpu_says_nothing_of_whose_machine_it_was(quick: Written) -> None:
    for text in strings(quick.report):
        assert not any(word.startswith(("/", "\\")) for word in text.split()), text


def test_cpu_does_without_a_peer(monkeypatch: pytest.MonkeyPatch, quick: Written) -> None:
    """A library that cannot do a workload has a row of dashes and its reason; one not installed, a line."""
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    import cpu
    from common import cpu_libraries, cpu_tables

    def refuse(*_: Any) -> cpu_libraries.Fit:
        raise RuntimeError("Error in train at /src/it.cpp:1: Error: too few features\nand more")

    center: Callable = lambda X, *_: cpu_libraries.Fit(X[:1], 1)  # noqa: E731
    found = {"gpukmeans": center, "scikit-learn": center, "faiss-cpu": refuse}
    case = cpu.Case(np.arange(12.0).reshape(6, 2), 1)
    results = cpu.measure(case, found, seeds=2, enough=1e-9)
    assert results["faiss-cpu"] == {"missing": "too few features"}
    measured = {"name": "line", **case.facts(), "cores_busy_with_others": None, "libraries": results}
    text = cpu_tables.cpu_table({**quick.report, "workloads": [measured], "not_installed": ["superkmeans"], "seeds": 2})
    dashes = " | ".join("\N{EN DASH}" * 7)
    assert "an unknown number of cores" in text
    assert f"| line 6x2, k=1, float64 | faiss-cpu | {dashes} |" in text
    assert "- faiss-cpu has no result for line: too few features\n" in text
    assert "- superkmeans is not installed: pip install 'gpukmeans[bench]'\n" in text


def test_cpu_changes_the_order(monkeypatch: pytest.MonkeyPatch) -> None:
    """Everyone runs once for each seed; scikit-learn, whose iterations the peers repeat, before them."""
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    import cpu

    orders = [cpu.order(LIBRARIES, seed) for seed in range(4)]
    assert [order.index("gpukmeans") for order in orders] == [0, 1, 2, 3]
    for order in orders:
        assert sorted(order) == sorted(LIBRARIES)
        assert order.index("scikit-learn") < min(order.index("faiss-cpu"), order.index("superkmeans"))


def test_cpu_names_an_unknown_workload() -> None:
    command = [sys.executable, BENCHMARKS / "cpu.py", "--workloads", "blobs,rings"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 2
    assert "unknown workloads rings" in done.stderr


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="no /proc")
def test_memory(tmp_path: Path) -> None:
    path = tmp_path / "memory.json"
    printed = run(BENCHMARKS / "memory.py", "--rows", "20000", "--json", path)
    report = json.loads(path.read_text())
    assert (report["rows"], report["clusters"], report["dtype"]) == (20_000, 64, "float32")
    assert report["input_bytes"] == 20_000 * 3 * 4
    assert report["peak_above_input_bytes"] > 0
    assert report["ratio"] == report["peak_above_input_bytes"] / report["input_bytes"]
    assert 1 <= report["n_iter"] <= report["iterations"] == 5
    assert min(report["seconds"], report["inertia"]) > 0
    assert report["measured_by"] in printed


def test_dither_compares_the_libraries(tmp_path: Path) -> None:
    path = tmp_path / "report.json"
    printed = run(BENCHMARKS / "dither.py", "--images", "chelsea", "--colors", "8", "--json", path)
    (case,) = json.loads(path.read_text())["cases"]
    assert (case["image"], case["colors"]) == ("chelsea", 8)
    assert {"gpukmeans none", "gpukmeans floyd-steinberg", "gpukmeans bayer"} <= set(case["methods"])
    for figures in case["methods"].values():
        assert set(figures) == {"delta_e", "ssim", "bytes", "stray"}
        assert 0 < figures["delta_e"] < 10
        assert 0 < figures["ssim"] < 1
    assert run(BENCHMARKS / "dither.py", "--table", path) == printed


def test_quantize_compares_the_libraries(tmp_path: Path) -> None:
    path, sheet = tmp_path / "new" / "report.json", tmp_path / "sheet.png"
    command = [BENCHMARKS / "quantize.py", "--images", "chelsea", "--colors", "8", "--seeds", "1", "--repeats", "1"]
    printed = run(*command, "--json", path, "--sheet", sheet)
    report = json.loads(path.read_text())
    (case,) = report["cases"]
    assert (case["image"], case["width"], case["height"], case["colors"]) == ("chelsea", 451, 300, 8)
    assert {"gpukmeans rgb", "gpukmeans oklab", "scikit-learn", "Pillow octree"} <= set(case["methods"])
    for figures in case["methods"].values():
        assert set(figures) == {"psnr", "ssim", "delta_e", "delta_e_95", "seconds", "each", "bytes"}
        assert 15 < figures["psnr"] < 40
        assert 0 < figures["ssim"] < 1
        assert 0 < figures["delta_e"] < figures["delta_e_95"]
        assert figures["seconds"] > 0
        assert figures["bytes"] > 1000
    assert run(BENCHMARKS / "quantize.py", "--table", path) == printed
    # Quality is measured apart from seconds, and is the same.
    again = run(*command, "--quality", "--json", path)
    (beside,) = json.loads(path.read_text())["cases"]
    times = {"seconds", "each"}
    for name, figures in beside["methods"].items():
        assert figures == {figure: value for figure, value in case["methods"][name].items() if figure not in times}
    quality_rows = [line for line in again.splitlines() if line.startswith("| ")]
    assert quality_rows == [line for line in printed.splitlines() if line.startswith("| ")][: len(quality_rows)]
    with Image.open(sheet) as image:
        assert image.format == "PNG"
    for text in strings(report):
        assert not any(word.startswith(("/", "\\")) for word in text.split()), text


def test_batched_compares_many_problems_with_loops() -> None:
    printed = run(BENCHMARKS / "batched.py", "--problems", "3", "--rows", "40", "--turns", "1")
    assert "noise: 3 problems of 40 x 16 float32, k=16" in printed
    for way in ("BatchedKMeans", "KMeans", "scikit-learn", "scikit-learn, one thread"):
        assert printed.count(f"\n  {way} ") == 2
    assert printed.count("\n  faiss-cpu ") == (2 if importlib.util.find_spec("faiss") else 0)


@pytest.mark.skipif(sys.platform != "linux", reason="Processes are held to processors by Linux's own means")
def test_scale_compares_workers_with_one_process_on_their_processors() -> None:
    pytest.importorskip("distributed")
    size = ("--rows", "500", "600", "--features", "3", "-k", "2", "--iterations", "2", "--repeats", "1")
    printed = run(BENCHMARKS / "scale.py", *size, "--workers", "1", "--init", "random")
    assert "| 1 workers, s | 1 process, 1 processor, s | 1 process, 1 processors, s |" in printed
    rows = [line for line in printed.splitlines() if line.startswith(("| 500 ", "| 600 "))]
    assert [line.split(" | ")[:3] for line in rows] == [["| 500", "2", "random"], ["| 600", "2", "random"]]


def test_scale_fails_where_workers_are_slower(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("distributed")
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    scale = importlib.import_module("scale")
    slow, fast = [[2.0], [1.0], [1.0]], [[1.0], [2.0], [1.0]]
    assert scale.slower([(100, "random", slow)], scale.GOAL) == [f"{scale.GOAL:,} rows, k=100, random"]
    assert scale.slower([(100, "random", fast)], scale.GOAL) == []
    assert scale.slower([(100, "random", slow)], scale.GOAL - 1) == []
