"""The walkthrough runs, and what stands in it is what comes out of it."""

from __future__ import annotations

import base64
import io
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import nbformat
import numpy as np
import pytest
from PIL import Image

EXAMPLES = Path(__file__).parents[1] / "examples"
KEPT = EXAMPLES / "walkthrough.ipynb"


@pytest.fixture(scope="module")
def kept() -> Any:
    return nbformat.read(KEPT, as_version=4)


@pytest.fixture(scope="module")
def executed(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """The notebook after a run in a kernel of its own: it must not depend on what was kept in it."""
    folder = tmp_path_factory.mktemp("walkthrough")
    command = [sys.executable, EXAMPLES / "execute.py", "--out", folder / "out.ipynb"]
    environment = {**os.environ, "IPYTHONDIR": str(folder / "ipython")}
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, env=environment)
    assert done.returncode == 0, done.stderr
    return nbformat.read(folder / "out.ipynb", as_version=4)


def figures(notebook: Any) -> list[np.ndarray]:
    found = [
        output.data[kind]
        for cell in notebook.cells
        for output in cell.get("outputs", [])
        for kind in output.get("data", {})
        if kind.startswith("image/")
    ]
    return [np.asarray(Image.open(io.BytesIO(base64.b64decode(each))).convert("RGB")) for each in found]


def texts(notebook: Any) -> list[tuple[str, str]]:
    """The code of each cell and what it printed, or what took the place of a figure."""
    return [
        (cell.source, output.get("text") or output.data["text/plain"])
        for cell in notebook.cells
        for output in cell.get("outputs", [])
    ]


@pytest.mark.slow
def test_it_prints_what_was_kept(kept: Any, executed: Any) -> None:
    assert texts(executed) == texts(kept)
    assert len(texts(kept)) > 15
    assert {output.get("name", "stdout") for cell in executed.cells for output in cell.get("outputs", [])} == {"stdout"}


@pytest.mark.slow
def test_it_draws_what_was_kept(kept: Any, executed: Any) -> None:
    drawn = figures(executed)
    assert len(drawn) == len(figures(kept)) == 14
    for now, before in zip(drawn, figures(kept), strict=True):
        # Another matplotlib may set its letters elsewhere.
        assert np.abs(np.subtract(now.shape, before.shape)).max() <= 5
        assert now.std() > 5, "something is drawn"


def test_it_was_kept_after_one_run_from_top_to_bottom(kept: Any) -> None:
    counts = [cell.execution_count for cell in kept.cells if cell.cell_type == "code"]
    assert counts == list(range(1, len(counts) + 1))


def test_it_is_small() -> None:
    assert KEPT.stat().st_size < 1_000_000, "examples/execute.py makes its figures small"


def test_its_links_lead_somewhere(kept: Any) -> None:
    targets = [
        target
        for cell in kept.cells
        if cell.cell_type == "markdown"
        for target in re.findall(r"\]\(([^)\s]+)\)", cell.source)
    ]
    assert targets
    for target in targets:
        assert (EXAMPLES / target).exists(), target
