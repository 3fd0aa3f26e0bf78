"""The code on the pages runs as it stands, and prints what the pages say; the pages name what exists."""

from __future__ import annotations

import inspect
import os
import re
import subprocess
import sys
from pathlib import Path

import matplotlib
import pytest
import sklearn.cluster

from gpukmeans import KMeans

ROOT = Path(__file__).parents[1]
README = ROOT / "README.md"
DOCS = ROOT / "docs"
DESIGN, COMING_FROM, DEVICES, GUIDE, REPRODUCIBILITY = (
    DOCS / f"{name}.md" for name in ("design", "coming-from", "devices", "guide", "reproducibility")
)
LINKED = [README, ROOT / "CONTRIBUTING.md", ROOT / "benchmarks" / "gpu_check" / "README.md", *sorted(DOCS.glob("*.md"))]


def blocks(page: Path, language: str) -> list[str]:
    found = re.findall(rf"^```{language}\n(.*?)^```$", page.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL)
    assert found
    return found


@pytest.mark.parametrize(
    ("page", "written"),
    [
        (README, {"blobs.png", "digits.png", "china-64.png", "china-oklab.png"}),
        (COMING_FROM, set()),
        (DEVICES, set()),
        (GUIDE, {"rows.npy", "distances.npy"}),
        (REPRODUCIBILITY, {"one.npz", "other.npz"}),
    ],
    ids=lambda value: value.name if isinstance(value, Path) else "",
)
def test_the_code_runs_in_order(
    page: Path,
    written: set[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture,
) -> None:
    matplotlib.use("Agg")
    monkeypatch.chdir(tmp_path)  # for the files
    names: dict[str, object] = {"__name__": "__main__"}
    for block in blocks(page, "python"):
        exec(compile(block, page.name, "exec"), names)
        expected = re.findall(r"^ *print\(.*\)  # (.*)$", block, re.MULTILINE)
        printed = capsys.readouterr().out.splitlines()
        assert printed == expected or not expected
    assert {path.name for path in tmp_path.iterdir()} == written


def test_the_commands_print_what_stands_below_them() -> None:
    environment = {**os.environ, "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"}
    for block in blocks(REPRODUCIBILITY, "console"):
        command, expected = re.fullmatch(r"\$ (.*?)\n(.*)", block, re.DOTALL).groups()
        done = subprocess.run(["bash", "-c", command], cwd=ROOT, env=environment, capture_output=True, text=True)
        assert (done.stdout, done.stderr) == (expected, "")


def test_every_parameter_has_a_line() -> None:
    table = re.search(r"<!-- parameters -->\n(.*?)\n<!--", COMING_FROM.read_text(encoding="utf-8"), re.DOTALL).group(1)
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in table.splitlines()[2:]]
    for column, estimator in enumerate((KMeans, sklearn.cluster.KMeans)):
        defaults = [row[column].strip("`") for row in rows if row[column] != "none"]
        found = {name: eval(value) for name, value in (each.split("=") for each in defaults)}
        parameters = inspect.signature(estimator).parameters.values()
        assert found == {parameter.name: parameter.default for parameter in parameters}, estimator


def headings(page: Path) -> set[str]:
    lines = re.findall(r"^#+ (.*)$", page.read_text(encoding="utf-8"), re.MULTILINE)
    return {re.sub(r"[^\w -]", "", line).strip().lower().replace(" ", "-") for line in lines}


@pytest.mark.parametrize("page", LINKED, ids=lambda path: str(path.relative_to(ROOT)))
def test_links_lead_somewhere(page: Path) -> None:
    for target in re.findall(r"\]\(([^)\s]+)\)", page.read_text(encoding="utf-8")):
        if target.startswith("#"):
            assert target[1:] in headings(page)
        elif "://" not in target:
            path, _, heading = target.partition("#")
            assert (page.parent / path).exists(), target
            assert not heading or heading in headings(page.parent / path), target


def test_the_design_page_has_a_line_for_every_module() -> None:
    house = DESIGN.read_text(encoding="utf-8")
    for path in (ROOT / "gpukmeans").rglob("*.py"):
        assert re.search(rf"^ +{re.escape(path.name)} ", house, re.MULTILINE), path
