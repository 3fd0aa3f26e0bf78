"""Each shortcut of the engines names the test that fails without its guard: those tests are there."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
SOURCES = sorted(
    path
    for folder in ("gpukmeans", "kernels")
    for path in (ROOT / folder).rglob("*.*")
    if path.suffix in {".py", ".cu", ".cuh"}
)
NAMED = re.compile(r"\btest_\w+(?:\.\w+)*")


def names(path: Path) -> set[str]:
    return set(NAMED.findall(path.read_text(encoding="utf-8")))


def defined(module: str) -> set[str]:
    path = ROOT / "tests" / f"{module}.py"
    tree = ast.parse(path.read_text(encoding="utf-8")) if path.exists() else ast.Module([], [])
    return {node.name for node in tree.body if isinstance(node, ast.FunctionDef)}


@pytest.mark.parametrize("path", [path for path in SOURCES if names(path)], ids=lambda path: path.name)
def test_the_tests_that_are_named_are_there(path: Path) -> None:
    for name in names(path):
        module, _, test = name.partition(".")
        assert test in defined(module), f"{path.name} names {name}"


def test_a_name_is_seen_in_any_comment() -> None:
    """Of a module and a test in it, with which none is left out that is there."""
    assert names(ROOT / "gpukmeans" / "engine" / "numpy" / "cluster_sums.py") >= {
        "test_fixed_point.test_sums_follow_rows_that_move"
    }
    for engine in ("engine/numpy", "engine/cuda", "engine/combine", "image/numpy", "image/cuda", "image/palette"):
        assert any(names(path) for path in SOURCES if path.is_relative_to(ROOT / "gpukmeans" / engine)), engine
    assert "test_sums_follow_rows_that_move" in defined("test_fixed_point")
    assert defined("test_of_nothing") == set()
    assert NAMED.findall("(test_sums.test_of_rows fails) and test_alone.") == ["test_sums.test_of_rows", "test_alone"]
