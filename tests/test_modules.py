"""Compiled kernels: kept on disk, for what they were compiled from and by."""

from __future__ import annotations

import shutil
from importlib.resources import files
from pathlib import Path

import numpy as np
import pytest
from host_cuda.runtime import HostCuda

from gpukmeans.engine.cuda import compile as modules
from gpukmeans.engine.cuda.points import CudaPoints
from gpukmeans.engine.protocol import Samples

pytestmark = pytest.mark.kernels


class Compiled(HostCuda):
    """The CPU in a GPU's place, as a process begins: with nothing in memory. compiled: the kernels that it compiled."""

    def __init__(self, **how):
        self.compiled = []
        modules._sources.cache_clear()
        super().__init__(build="fast", **how)

    def compile(self, source, *more, **how):
        self.compiled.append(next(name for name in ("feature_range", "assign_low_dim") if f"\n{name}(" in source))
        return super().compile(source, *more, **how)


def feature_range(cp):
    low, high = CudaPoints(cp, Samples(np.array([[3.0], [-1.0], [7.0]]))).feature_range()
    assert (low[0], high[0]) == (-1.0, 7.0)
    return cp.compiled


@pytest.fixture
def folder(monkeypatch, tmp_path):
    """Where they are kept; not there yet."""
    monkeypatch.setenv("CUPY_CACHE_DIR", str(tmp_path / "kept" / "here"))
    return tmp_path / "kept" / "here"


def test_another_process_compiles_nothing(folder):
    assert feature_range(Compiled()) == ["feature_range"]
    assert feature_range(Compiled()) == []
    (kept,) = folder.iterdir()
    assert kept.name.startswith("gpukmeans-")


def test_another_gpu_or_type_is_compiled_for(folder):
    feature_range(Compiled())
    assert feature_range(Compiled(capability="80")) == ["feature_range"]
    other = Compiled()
    CudaPoints(other, Samples(np.array([[3], [7]], np.uint8))).feature_range()
    assert other.compiled == ["feature_range"]


def test_a_changed_include_is_compiled(folder, monkeypatch, tmp_path):
    feature_range(Compiled())
    copy = tmp_path / "kernels"
    shutil.copytree(Path(str(files("gpukmeans.kernels"))), copy)
    monkeypatch.setattr(modules, "files", lambda package: copy)
    assert feature_range(Compiled()) == []
    with (copy / "common.cuh").open("a") as file:
        file.write("// of another version\n")
    assert feature_range(Compiled()) == ["feature_range"]


def test_a_folder_that_cannot_be_written_costs_only_time(folder):
    folder.parent.write_text("a file where the folder would be")
    assert feature_range(Compiled()) == ["feature_range"]
    assert feature_range(Compiled()) == ["feature_range"]


@pytest.mark.parametrize("left", [0, 50, 100])
def test_what_was_damaged_is_compiled_again(folder, left):
    feature_range(Compiled())
    (kept,) = folder.iterdir()
    whole = kept.read_bytes()
    kept.write_bytes(whole[:left])
    assert feature_range(Compiled()) == ["feature_range"]
    assert kept.read_bytes() == whole


def test_cupys_variables_are_heeded(folder, monkeypatch):
    monkeypatch.setenv("CUPY_CACHE_IN_MEMORY", "1")
    assert feature_range(Compiled()) == ["feature_range"]
    assert not folder.exists()
    monkeypatch.delenv("CUPY_CACHE_IN_MEMORY")
    feature_range(Compiled())
    monkeypatch.setenv("CUPY_COMPILE_WITH_PTX", "1")
    assert feature_range(Compiled()) == ["feature_range"]


def test_the_folder_is_cupys(monkeypatch):
    monkeypatch.delenv("CUPY_CACHE_DIR")
    assert modules.folder() == Path.home() / ".cupy" / "kernel_cache"
