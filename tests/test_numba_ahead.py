"""gpukmeans warmup --cpu: what numba compiles is there before anybody waits for it."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import numpy as np
import pytest

from gpukmeans import numba_support
from gpukmeans.cli.main import main
from gpukmeans.engine.numpy import numba_ahead, numba_means, numba_points, numba_sparse_points


def test_whatever_compiles_is_named():
    named = {(function.__module__, function.__name__) for function in numba_ahead.EVERYTHING}
    there = set()
    for file in Path(numba_ahead.__file__).parent.glob("numba_*.py"):
        for node in ast.parse(file.read_text()).body:
            if isinstance(node, ast.FunctionDef) and node.name != "compiled" and "compiled(" in ast.unparse(node):
                there.add((f"gpukmeans.engine.numpy.{file.stem}", node.name))
    assert named == there


def test_of_all_rows_that_there_are_passes_for():
    assert {*numba_ahead.ROWS, np.dtype(np.float16)} == set(numba_points._DTYPES), "float16 is computed in float32"
    assert set(numba_ahead.VALUES) == set(numba_sparse_points._DTYPES)


def test_what_is_there_is_not_compiled_again(monkeypatch, tmp_path, capsys):
    monkeypatch.setenv("NUMBA_CACHE_DIR", str(tmp_path))
    monkeypatch.setattr(numba_ahead, "EVERYTHING", {numba_means.next_centers: [()]})
    for made, there in ((1, 0), (0, 1)):
        assert main(["warmup", "--cpu"]) == 0
        said = capsys.readouterr().out
        assert said.startswith(f"CPU: {made} functions compiled, {there} were there, in {tmp_path}")
        assert re.search(r" \(\d+ s\)$", said)
    assert list(tmp_path.rglob("numba_means._next_centers*.nbc"))


def test_what_was_compiled_of_other_sources_is_compiled_again(monkeypatch, tmp_path, capsys):
    """As after an update in place, which need not touch the file whose functions call those that changed."""
    monkeypatch.setenv("NUMBA_CACHE_DIR", str(tmp_path))
    monkeypatch.setattr(numba_ahead, "EVERYTHING", {numba_means.any_close: [()]})
    for made in (1, 0, 1):
        if made:
            for known in tmp_path.rglob("gpukmeans-sources.txt"):
                known.write_text("those of another version")
        assert main(["warmup", "--cpu"]) == 0
        assert capsys.readouterr().out.startswith(f"CPU: {made} functions compiled")


def test_where_numba_is_not_the_extra_is_named(monkeypatch, capsys):
    monkeypatch.setattr(numba_support, "works", lambda: False)
    assert main(["warmup", "--cpu"]) == 1
    assert "pip install 'gpukmeans[fast]'" in capsys.readouterr().err


def test_where_nothing_can_be_kept_the_variable_is_named(monkeypatch, capsys):
    monkeypatch.setattr(numba_ahead, "compile_everything", lambda processes: (1, 0, None))
    assert main(["warmup", "--cpu"]) == 1
    assert "set NUMBA_CACHE_DIR" in capsys.readouterr().err


@pytest.mark.parametrize("option", [["--capability", "9.0"], ["--cosine"]])
def test_options_of_kernels_are_refused(option, capsys):
    with pytest.raises(SystemExit):
        main(["warmup", "--cpu", *option])
    assert f"{option[0]} is of kernels, --cpu compiles none" in capsys.readouterr().err
