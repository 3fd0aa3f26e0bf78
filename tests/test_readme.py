"""The README's code runs as it stands, and prints what its comments say; the pages name what exists."""

from __future__ import annotations

import re
from pathlib import Path

import matplotlib
import pytest

ROOT = Path(__file__).parents[1]
README = ROOT / "README.md"
DESIGN = ROOT / "docs" / "design.md"


def test_the_code_runs_in_order(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture) -> None:
    matplotlib.use("Agg")
    monkeypatch.chdir(tmp_path)  # for the pictures
    blocks = re.findall(r"^```python\n(.*?)^```$", README.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL)
    assert blocks
    names: dict[str, object] = {}
    for block in blocks:
        exec(compile(block, "README.md", "exec"), names)
        printed = capsys.readouterr().out
        for expected in re.findall(r"^print\(.*\)  # (.*)$", block, re.MULTILINE):
            assert expected in printed.splitlines()
    assert {path.name for path in tmp_path.iterdir()} == {"blobs.png", "digits.png", "china-64.png", "china-oklab.png"}


@pytest.mark.parametrize("page", [README, DESIGN], ids=lambda path: path.name)
def test_links_lead_somewhere(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    headings = {
        re.sub(r"[^\w -]", "", line).strip().lower().replace(" ", "-") for line in re.findall(r"^#+ (.*)$", text, re.M)
    }
    for target in re.findall(r"\]\(([^)\s]+)\)", text):
        if target.startswith("#"):
            assert target[1:] in headings
        elif "://" not in target:
            assert (page.parent / target).exists(), target


def test_the_design_page_has_a_line_for_every_module() -> None:
    house = DESIGN.read_text(encoding="utf-8")
    for path in (ROOT / "gpukmeans").rglob("*.py"):
        assert re.search(rf"^ +{re.escape(path.name)} ", house, re.MULTILINE), path
