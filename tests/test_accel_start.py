"""Ways to begin: a command, a notebook, an environment variable, an import that comes first."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[1]

WHOSE = """
import sys
print(*sys.argv[1:], __name__)
from sklearn.cluster import KMeans
model = KMeans(2, random_state=0).fit([[1.0], [2.0], [9.0]])
print("ours" if "gpukmeans.estimator" in sys.modules else "theirs")
"""


def run(*arguments: str, folder: Path, status: int = 0, **variables: str) -> subprocess.CompletedProcess[str]:
    kept = {name: value for name, value in os.environ.items() if name != "GPUKMEANS_ACCEL"}
    environment = {**kept, "GPUKMEANS_DEVICE": "cpu", **variables}
    done = subprocess.run(
        [sys.executable, *arguments], cwd=folder, env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == status, done.stderr
    return done


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "inside").mkdir()
    (tmp_path / "inside" / "program.py").write_text(f"import beside\n{WHOSE}")
    (tmp_path / "inside" / "beside.py").touch()
    (tmp_path / "package").mkdir()
    (tmp_path / "package" / "__main__.py").write_text(WHOSE)
    return tmp_path


# ---------------------------------------------------------------- the command


def test_a_script_is_run_with_its_arguments_and_beside_its_modules(folder: Path) -> None:
    done = run("-m", "gpukmeans.accel", "inside/program.py", "-v", "--out", "-m", "x", folder=folder)
    assert done.stdout == "-v --out -m x __main__\nours\n"
    assert done.stderr == ""


def test_a_safe_path_stays_safe(folder: Path) -> None:
    """As python -P has it: neither where it was started nor beside the script."""
    done = run("-P", "-m", "gpukmeans.accel", "inside/program.py", folder=folder, status=1)
    assert done.stderr.endswith("ModuleNotFoundError: No module named 'beside'\n")


def test_a_module_is_run_with_its_arguments(folder: Path) -> None:
    done = run("-m", "gpukmeans.accel", "-m", "package", "--help", folder=folder)
    assert done.stdout == "--help __main__\nours\n"
    assert run("-m", "gpukmeans.accel", "package", "1", folder=folder).stdout == "1 __main__\nours\n"


def test_a_programs_exit_status_and_error_are_its_own(folder: Path) -> None:
    (folder / "ends.py").write_text("raise SystemExit(7)")
    (folder / "fails.py").write_text("1 / 0")
    assert run("-m", "gpukmeans.accel", "ends.py", folder=folder, status=7).stderr == ""
    assert run("-m", "gpukmeans.accel", "fails.py", folder=folder, status=1).stderr.endswith(
        "ZeroDivisionError: division by zero\n"
    )


def test_without_a_program_the_command_says_what_it_takes(folder: Path) -> None:
    assert "what is to be run?" in run("-m", "gpukmeans.accel", folder=folder, status=2).stderr
    assert "expected one argument" in run("-m", "gpukmeans.accel", "-m", folder=folder, status=2).stderr
    assert "(SCRIPT | -m MODULE)" in run("-m", "gpukmeans.accel", "--help", folder=folder).stdout


@pytest.mark.parametrize(
    ("program", "what"), [(["no.py"], "no.py"), (["-m", "no"], "module no"), (["-m", "no.such"], "module no.such")]
)
def test_what_is_not_there_is_an_error_of_one_line(program: list[str], what: str, folder: Path) -> None:
    usage, line = run("-m", "gpukmeans.accel", *program, folder=folder, status=2).stderr.splitlines()
    assert usage.startswith("usage: ")
    assert line == f"python -m gpukmeans.accel: error: there is no {what}"


def test_verbose_says_what_is_left_to_scikit_learn(folder: Path) -> None:
    (folder / "negative.py").write_text(
        "from sklearn.cluster import KMeans\n"
        "for i in range(2):\n"
        "    KMeans(2, init=[[0.0], [5.0]]).fit([[1.0], [2.0], [9.0]], sample_weight=[1, -0.5, 1])\n"
    )
    done = run("-m", "gpukmeans.accel", "-v", "negative.py", folder=folder)
    left = [line for line in done.stderr.splitlines() if "scikit-learn" in line]
    assert left == ["gpukmeans: KMeans.fit is left to scikit-learn: Negative values in data passed to `sample_weight`."]


def test_classes_of_the_script_can_be_pickled(folder: Path) -> None:
    (folder / "pickles.py").write_text(
        "import pickle\nclass Own:\n    pass\nprint(type(pickle.loads(pickle.dumps(Own()))) is Own)\n"
    )
    assert run("-m", "gpukmeans.accel", "pickles.py", folder=folder).stdout == "True\n"


# ---------------------------------------------------------------- before scikit-learn is imported


def test_nothing_is_imported_for_a_program_without_clusters(folder: Path) -> None:
    program = (
        "import gpukmeans, sys; gpukmeans.accel.install(); import sklearn.base\n"
        "print('gpukmeans.estimator' in sys.modules)"
    )
    assert run("-c", program, folder=folder).stdout == "False\n"


def test_uninstalling_before_scikit_learn_is_imported_leaves_nothing(folder: Path) -> None:
    program = f"import gpukmeans, sys; gpukmeans.accel.install(); gpukmeans.accel.uninstall()\n{WHOSE}"
    assert run("-c", program, folder=folder).stdout.endswith("theirs\n")


def test_asking_where_scikit_learn_is_imports_nothing_and_loses_nothing(folder: Path) -> None:
    program = (
        "import gpukmeans, sys, importlib.util; gpukmeans.accel.install()\n"
        "importlib.util.find_spec('sklearn.cluster'); importlib.util.find_spec('sklearn.cluster')\n"
    )
    assert run("-c", program + WHOSE, folder=folder).stdout.endswith("ours\n")
    program += "from sklearn.mixture import GaussianMixture as G; G(2).fit([[1.], [2.], [9.]])\n"
    assert run("-c", program + "print('gpukmeans.estimator' in sys.modules)", folder=folder).stdout == "True\n"


# ---------------------------------------------------------------- a notebook


def test_a_notebook_loads_and_unloads_it(folder: Path) -> None:
    program = (
        "from IPython.core.interactiveshell import InteractiveShell\n"
        "import gpukmeans.accel\n"
        "shell = InteractiveShell.instance()\n"
        "for line in ('%load_ext gpukmeans.accel', '%unload_ext gpukmeans.accel'):\n"
        "    shell.run_cell(line); print(gpukmeans.accel.installed())\n"
    )
    done = run("-c", program, folder=folder, IPYTHONDIR=str(folder))
    assert [line for line in done.stdout.splitlines() if line in ("True", "False")] == ["True", "False"]


# ---------------------------------------------------------------- the environment variable


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What a wheel puts among the installed packages."""
    source, wheels, site = (tmp_path_factory.mktemp(name) for name in ("source", "wheels", "site"))
    for name in ("pyproject.toml", "setup.py", "README.md", "LICENSE", "gpukmeans_accel.pth"):
        shutil.copy(ROOT / name, source)
    for name in ("gpukmeans", "kernels"):
        shutil.copytree(ROOT / name, source / name, ignore=shutil.ignore_patterns("__pycache__"))
    command = [sys.executable, "-m", "pip", "wheel", "--no-build-isolation", "--no-deps", "--quiet"]
    subprocess.run([*command, "--wheel-dir", str(wheels), str(source)], check=True, capture_output=True)
    (wheel,) = wheels.iterdir()
    shutil.unpack_archive(wheel, site, "zip")
    return site


def started(site: Path, program: str) -> tuple[str, ...]:
    """Arguments of a Python that has this folder among those of its packages; it starts as far as it can be told."""
    return ("-c", f"import site; site.addsitedir({str(site)!r})\n{program}")


@pytest.mark.parametrize(
    ("value", "whose"), [("1", "ours"), ("true", "ours"), ("0", "theirs"), ("", "theirs"), (None, "theirs")]
)
def test_the_variable_takes_effect_as_python_starts(site: Path, folder: Path, value: str, whose: str) -> None:
    variables = {} if value is None else {"GPUKMEANS_ACCEL": value}
    done = run(*started(site, f"import sys; print('sklearn' in sys.modules)\n{WHOSE}"), folder=folder, **variables)
    first, _, last = done.stdout.splitlines()
    assert (first, last) == ("False", whose)


def test_the_wheel_has_one_line_that_python_reads_and_removes_with_it(site: Path) -> None:
    (found,) = site.glob("*.pth")
    assert len(found.read_text().splitlines()) == 1
    assert found.name in next(site.glob("*.dist-info/RECORD")).read_text()


def test_processes_that_a_program_starts_do_the_same(site: Path, folder: Path) -> None:
    program = (
        "import gpukmeans.accel, subprocess, sys; gpukmeans.accel.install()\n"
        f"subprocess.run([sys.executable, *{started(site, WHOSE)!r}], check=True)"
    )
    assert run("-c", program, folder=folder).stdout.endswith("ours\n")
