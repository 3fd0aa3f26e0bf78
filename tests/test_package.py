"""The package as it is built: nothing is left out that an editable installation would find on the disk."""

from __future__ import annotations

import tomllib
from importlib import import_module
from importlib.resources import files
from pathlib import Path

import pytest

import gpukmeans

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())


def test_every_folder_of_modules_is_a_package_that_is_built():
    folders = {file.parent.relative_to(ROOT) for file in (ROOT / "gpukmeans").rglob("*.py")}
    built = PROJECT["tool"]["setuptools"]["packages"]
    assert sorted([".".join(folder.parts) for folder in folders] + ["gpukmeans.kernels"]) == sorted(built)


@pytest.mark.parametrize("name", PROJECT["tool"]["setuptools"]["packages"])
def test_a_package_is_there(name):
    assert import_module(name) is not None


def test_the_wheel_has_its_types_marked_and_every_kernel():
    assert (files(gpukmeans) / "py.typed").is_file()
    installed = {file.name for file in files("gpukmeans.kernels").iterdir() if file.name.endswith((".cu", ".cuh"))}
    assert installed == {file.name for file in (ROOT / "kernels").iterdir() if file.suffix in (".cu", ".cuh")}


def test_the_version_is_said_once():
    assert f"version: {gpukmeans.__version__}\n" in (ROOT / "CITATION.cff").read_text()
    assert "version" in PROJECT["project"]["dynamic"]
