"""What importing gpukmeans brings with it: nothing that is not used."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

import gpukmeans

OPTIONAL = ["cupy", "dask", "ipywidgets", "jax", "matplotlib", "PIL", "polars", "pynvml", "pyvips", "tifffile", "torch"]
OPTIONAL += ["tqdm"]


def imported(program: str, folder: Path) -> list[str]:
    """Which of OPTIONAL the program imports. All can be imported there, whether they are installed or not."""
    for name in OPTIONAL:
        (folder / f"{name}.py").touch()
    program += f"; import sys; print(*sorted(sys.modules.keys() & {set(OPTIONAL)!r}))"
    environment = {**os.environ, "PYTHONPATH": str(folder), "GPUKMEANS_DEVICE": ""}
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stderr
    return done.stdout.split()


@pytest.mark.parametrize(
    "program",
    [
        "import gpukmeans.cli.main, gpukmeans.datasets",
        "import gpukmeans; model = gpukmeans.KMeans(2, device='cpu').fit([[1.0], [2.0], [9.0]]); "
        "model.predict([[1.0]]); model.transform([[1.0]]); model.save('model.npz'); gpukmeans.load('model.npz')",
    ],
    ids=["import", "use on the CPU"],
)
def test_nothing_optional_is_imported(program: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert imported(program, tmp_path) == []


def test_importing_takes_what_importing_scikit_learns_clustering_does() -> None:
    """And beside it what is Python's or our own, some hundred and fifty small modules: import time without a clock."""
    program = (
        "import sys, sklearn.cluster; known = {*sys.modules}; from gpukmeans import *; "
        "print(*sys.modules.keys() - known)"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    more = {name for name in done.stdout.split() if name.partition(".")[0] not in sys.stdlib_module_names}
    assert {name for name in more if not name.startswith(("gpukmeans", "__editable___gpukmeans"))} == set()
    assert 1 < len(more) <= 155


def test_a_picture_takes_no_scikit_learn(tmp_path: Path) -> None:
    """Nor SciPy, nor all of Pillow's formats: the command on an icon imports what NumPy, Pillow and itself are made of,
    and holds less than 80 MB."""
    image = pytest.importorskip("PIL.Image")
    image.radial_gradient("L").convert("RGB").resize((32, 32)).save(tmp_path / "b.png")
    program = (
        "import sys, pathlib; from gpukmeans.cli.main import main; folder = sys.argv[1]\n"
        "assert main(['quantize', folder + '/b.png', folder + '/c.png', '-k', '8', '--device', 'cpu']) == 0\n"
        "status = pathlib.Path('/proc/self/status')\n"
        "most = status.read_text().partition('VmHWM:')[2].split() if status.exists() else ['0']\n"
        "print(most[0], *sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", program, str(tmp_path)], capture_output=True, text=True, check=True)
    memory, *modules = done.stdout.splitlines()[-1].split()
    own = {name.partition(".")[0] for name in modules} - {*sys.stdlib_module_names}
    assert {name for name in own if not name.startswith(("_", "gpukmeans"))} <= {
        *("numpy", "PIL", "threadpoolctl", "cython_runtime", "sitecustomize"),
    }
    assert "numpy.ma" not in modules
    assert "PIL.TiffImagePlugin" not in modules
    assert not {"bz2", "json", "shutil", "gpukmeans.engine.nvml"} & {*modules}
    assert not [name for name in modules if name.startswith(("gpukmeans.engine.cuda.", "gpukmeans.image.cuda."))]
    assert int(memory) < 80_000


@pytest.mark.parametrize("shape", [(300, 300, 3), (1, -1, 3), (-1, 1, 3)])
def test_a_photograph_takes_no_numba(shape):
    """Whose import takes longer than a palette of 90,000 colors, and the dithering of as many pixels."""
    program = (
        "import sys, numpy, gpukmeans; x = numpy.random.default_rng(0).integers(0, 256, (90000, 3), numpy.uint8)\n"
        f"gpukmeans.quantize(x.reshape({shape}), 8, dither='floyd-steinberg', device='cpu')\n"
        "assert 'numba' not in sys.modules and 'scipy' not in sys.modules"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")


def test_names_are_imported_as_they_are_used() -> None:
    """So that the command has its signals in order before anything large is there."""
    program = "import sys; known = {*sys.modules}; import gpukmeans; print(*sys.modules.keys() - known)"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert {name for name in done.stdout.split() if "editable" not in name} == {"gpukmeans", "gpukmeans._version"}
    assert {name: getattr(gpukmeans, name).__name__ for name in gpukmeans.__all__ if name != "__version__"} == {
        name: name for name in gpukmeans.__all__ if name != "__version__"
    }
    assert set(gpukmeans.__all__) <= set(dir(gpukmeans))
    with pytest.raises(AttributeError, match="module 'gpukmeans' has no attribute 'kmeans'"):
        gpukmeans.kmeans  # noqa: B018


def test_a_gpu_is_looked_for_when_one_may_be_used(tmp_path: Path) -> None:
    program = "import gpukmeans; gpukmeans.KMeans(2, device='auto').fit([[1.0], [2.0], [9.0]])"
    assert imported(program, tmp_path) == ["cupy"], "the test above would see an import"
