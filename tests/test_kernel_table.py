"""kernels/README.md lists every kernel, and with it the one Python function that launches it."""

from __future__ import annotations

import ast
import re
from collections import defaultdict
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]

# By file and name, as the sources have them.
KERNELS = sorted(
    (path.name, name)
    for path in (ROOT / "kernels").glob("*.cu")
    for name in re.findall(r"__global__ void (?:__launch_bounds__\([^)]*\)\s)?(\w+)\(", path.read_text())
)


def table() -> dict[tuple[str, str], str]:
    """The function of each file and kernel."""
    text = (ROOT / "kernels" / "README.md").read_text()
    rows = re.findall(r"^\| `(\w+\.cu)` \| `(\w+)` \| [^|]+ \| [^|]+ \| `([\w.]+)` \|$", text, re.MULTILINE)
    listed = {(file, kernel): function for file, kernel, function in rows}
    assert len(rows) == len(listed), "a kernel stands there twice"
    return listed


def launches(tree: ast.AST) -> Iterator[tuple[str, str]]:
    """Of each call of `launch` or `run` with a kernel's family and name first: the name, and the function it is in."""
    for function in ast.walk(tree):
        if not isinstance(function, ast.FunctionDef):
            continue
        for call in ast.walk(function):
            if not isinstance(call, ast.Call) or not isinstance(call.func, ast.Attribute):
                continue
            name = spelled_out(call.args)[1:2]
            if call.func.attr in ("launch", "run") and isinstance(name and name[0], ast.Constant):
                yield name[0].value, function.name


def spelled_out(args: list[ast.expr]) -> list[ast.expr]:
    """The arguments, and for `*(a, b)` a and b."""
    tuples = (arg.value if isinstance(arg, ast.Starred) else ast.Tuple([arg]) for arg in args)
    return [part for each in tuples for part in (each.elts if isinstance(each, ast.Tuple) else [each])]


@cache
def launched() -> dict[str, list[str]]:
    """The functions that launch each kernel."""
    found = defaultdict(list)
    for path in sorted((ROOT / "gpukmeans").rglob("*.py")):
        module = ".".join(path.relative_to(ROOT).with_suffix("").parts)
        for kernel, function in launches(ast.parse(path.read_text())):
            found[kernel].append(f"{module}.{function}")
    return dict(found)


def test_the_table_lists_the_kernels_that_there_are() -> None:
    assert sorted(table()) == KERNELS


@pytest.mark.parametrize(("file", "kernel"), KERNELS)
def test_one_function_launches_a_kernel(file: str, kernel: str) -> None:
    assert launched().get(kernel) == [table()[file, kernel]]


def test_nothing_else_is_launched() -> None:
    """So that whoever reads a launch finds a kernel; and the search finds launches however they are written."""
    assert set(launched()) == {kernel for _, kernel in KERNELS}
    calls = "def one(gpu):\n gpu.run(*('f', 'a', 1), 2)\n gpu.launch(FAMILY, 'b')\n pool.run(work)\n"
    assert list(launches(ast.parse(calls))) == [("a", "one"), ("b", "one")]
