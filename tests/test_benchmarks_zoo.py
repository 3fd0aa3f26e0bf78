"""benchmarks/zoo.py compares equal work, and says what it measured. Nothing here depends on how long anything takes."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest

pytestmark = pytest.mark.slow

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"
SOME = ["tiny", "photograph", "map", "one_hot_csr", "seeding", "predict_far", "score", "transform", "partial_csr"]


def run(*command: str | Path) -> str:
    """What the command prints, if it ends well."""
    done = subprocess.run([sys.executable, *command], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture
def zoo(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    import zoo

    return zoo


def case(name: str, ratio: float, goal: float = 0.8, **more: Any) -> dict[str, Any]:
    """A case as it is reported, of these seconds to scikit-learn's one."""
    what = {"name": name, "about": "noise", "does": "predict", "shape": [1000, 2], "dtype": "float32", "k": 3}
    seconds = {"gpukmeans": ratio, "scikit-learn": 1.0}
    rest = {"sparse": False, "goal": goal, "seconds": seconds, "ratio": ratio, "cores_busy_with_others": 0.1}
    rest["turns"] = {"gpukmeans": [ratio] * 5}
    return {**what, **rest, **more}


def test_some_cases_measured_quickly(tmp_path: Path) -> None:
    path = tmp_path / "new" / "zoo.json"
    printed = run(BENCHMARKS / "zoo.py", *SOME, "--quick", "--json", path)
    report = json.loads(path.read_text())
    assert report["command"] == f"python benchmarks/zoo.py {' '.join(SOME)} --repeats 1 --quick"
    assert (report["kind"], report["repeats"]) == ("zoo", 1)
    assert [case["name"] for case in report["cases"]] == SOME
    for case in report["cases"]:
        seconds = case["seconds"]
        assert case["ratio"] == seconds["gpukmeans"] / seconds["scikit-learn"] > 0
        assert case["goal"] == (1.5 if case["sparse"] else 0.8)
        assert f"| {case['name']} | {case['about']}, " in printed
    assert run(BENCHMARKS / "report.py", path) == printed


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="no /proc")
def test_memory_is_that_of_a_call_besides_its_input(tmp_path: Path) -> None:
    path = tmp_path / "zoo.json"
    printed = run(BENCHMARKS / "zoo.py", "map", "transform64", "--quick", "--memory", "--json", path)
    mapped, transformed = json.loads(path.read_text())["cases"]
    rows, clusters = transformed["shape"][0], transformed["k"]
    for library in ("gpukmeans", "scikit-learn"):
        assert transformed["peak_bytes"][library] >= rows * clusters * 8  # the result's own
        assert mapped["peak_bytes"][library] > 0
    assert "| gpukmeans, peak | scikit-learn, peak |" in printed


def test_what_there_is_is_listed(zoo: ModuleType) -> None:
    listed = run(BENCHMARKS / "zoo.py", "--list").splitlines()
    assert [line.split()[0] for line in listed] == list(zoo.CASES)


@pytest.mark.parametrize(
    ("options", "said"), [(["rings"], "unknown cases rings"), (["--quick", "--publish"], "--publish is for all of it")]
)
def test_what_cannot_be_measured_is_refused(options: list[str], said: str) -> None:
    done = subprocess.run([sys.executable, BENCHMARKS / "zoo.py", *options], capture_output=True, text=True)
    assert done.returncode == 2
    assert said in done.stderr


def test_data_are_the_same_in_every_run(zoo: ModuleType) -> None:
    for name in ("photograph", "map", "cauchy", "tfidf", "one_hot_csr"):
        case = zoo.chosen(name, quick=True)
        one, other = case.rows(case.n), case.rows(case.n)
        assert (one.shape, one.dtype) == (other.shape, other.dtype)
        assert (one != other).sum() == 0


def test_different_work_is_not_compared(zoo: ModuleType) -> None:
    labels = np.arange(1000) % 3
    right = zoo.Answer(labels, 1.0, 10, np.ones((2, 2)))
    zoo.compare(right, right._replace(inertia=1.00009), zoo.fit(10))
    for wrong, said in [
        ({"labels": (labels + (np.arange(1000) < 51)) % 3}, "5.10% of the labels"),
        ({"inertia": 1.0002}, "inertia 1 and 1.0002"),
        ({"iterations": 9}, "10 and 9 iterations"),
        ({"distances": np.full((2, 2), 1.001)}, "the distances"),
    ]:
        with pytest.raises(RuntimeError, match=said):
            zoo.compare(right, right._replace(**wrong), zoo.fit(10))


def test_nothing_is_kept_where_a_case_fails(
    zoo: ModuleType, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path, right = tmp_path / "zoo.json", zoo.chosen("tiny", quick=True)
    wrong = right._replace(work=right.work._replace(inertia=-1))
    monkeypatch.setattr(zoo, "CASES", {"wrong": wrong, "right": right})
    monkeypatch.setattr(sys, "argv", ["zoo.py", "--quick", "--json", str(path)])
    with pytest.raises(SystemExit, match="wrong: different work is compared: inertia"):
        zoo.main()
    assert "| right | points in the plane" in capsys.readouterr().out
    assert not path.exists()


def test_a_peer_has_seconds_where_it_does_the_same(zoo: ModuleType) -> None:
    same = zoo.LIBRARIES["scikit-learn"]
    lazy = same._replace(KMeans=lambda k, **options: same.KMeans(k, **options | {"max_iter": 1}))
    peers = {"same": same, "lazy": lazy}
    timed = {name: zoo.measure(zoo.chosen(name, quick=True), 1, True, peers)["seconds"] for name in ("ten", "predict")}
    assert list(timed["ten"]) == ["gpukmeans", "scikit-learn", "same"]
    assert list(timed["predict"]) == ["gpukmeans", "scikit-learn"]


def test_the_worst_is_named_first_and_what_misses_its_goal_is_bold(zoo: ModuleType) -> None:
    cases = [
        case("near", 0.7),
        case("far", 1.2),
        case("text", 1.4, goal=1.5, sparse=True),
    ]
    for each in cases:
        each["peak_bytes"] = {"gpukmeans": 2000, "scikit-learn": 3 * 10**6}
    about = {"date": "2026-11-29 12:00 UTC", "machine": {"cpu": "A processor", "cores": 2}, "versions": {"numpy": "2"}}
    cases[0]["turns"] = {"gpukmeans": [0.7] * 3}
    cases[0]["seconds"] = cases[0]["seconds"] | {"faiss-cpu": 0.6}
    text = zoo.zoo_table({"cases": cases, "repeats": 5, **about})
    assert "of its time: text (1.40), far (1.20), near (0.70). 1 of 3 miss the goal, in bold." in text
    assert [line.split()[1] for line in text.splitlines() if line.startswith("| ")][2:] == ["text", "far", "near"]
    assert "| text | noise, 1,000x2 float32, CSR, k=3 | predict | 1.4 | 1 | \N{EN DASH} | 1.40 | 2 kB | 3 MB |" in text
    assert "| 1.2 | 1 | \N{EN DASH} | **1.20** |" in text
    assert "| 0.7 | 1 | 0.6 | 0.70 |" in text
    assert "medians of 3 to 5 turns" in text


def test_publishing_keeps_the_report_and_shows_its_table(
    zoo: ModuleType, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    readme, results = tmp_path / "README.md", tmp_path / "results"
    readme.write_text("before\n<!-- zoo benchmark -->\nold\n<!-- /zoo benchmark -->\nafter\n")
    monkeypatch.setitem(zoo.publish.__globals__["PAGES"], "zoo", readme)
    monkeypatch.setattr(zoo.result_files, "FOLDER", results)
    monkeypatch.setattr(zoo, "CASES", {name: zoo.chosen(name, quick=True) for name in ("tiny", "score")})
    monkeypatch.setattr(sys, "argv", ["zoo.py", "--repeats", "1", "--publish"])
    zoo.main()
    (kept,) = results.glob("zoo-*.json")
    table = zoo.zoo_table(json.loads(kept.read_text()))
    assert readme.read_text() == f"before\n<!-- zoo benchmark -->\n{table}\n<!-- /zoo benchmark -->\nafter\n"
