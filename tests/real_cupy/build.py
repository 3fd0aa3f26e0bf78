"""Builds what CuPy itself runs on where there is no GPU: `make real-cupy` does, or `python tests/real_cupy/build.py`.

CuPy's own wheel, with one of its extensions made again. All of CuPy calls CUDA's driver through the library libcuda.so.1,
and CUDA's runtime through the extension `cupy_backends.cuda.api.runtime`, into which NVIDIA's is linked. So that one is
built from CuPy's source distribution, as the wheel's is but for being linked to our own library, which has the documented
functions of both (machine.h, runtime.cpp, driver.cpp) and is called libcuda.so.1. It has to be the wheel's very version,
and Cython's too: extensions call each other.

Everything is kept in ROOT, outside of the project; packages come from pip.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
import sysconfig
import tarfile
import tempfile
from functools import cache
from pathlib import Path

from host_cuda import build as host_cuda

CUPY, CYTHON, CUDA = "14.2.0", "3.2.4", (13, 2)

WHEELS = (f"cupy-cuda13x=={CUPY}", "cuda-pathfinder>=1.3.4,<2")
TOOLS = (
    f"cython=={CYTHON}",
    "setuptools>=77",  # which reads CuPy's pyproject.toml
    *(f"nvidia-cuda-{part}=={CUDA[0]}.{CUDA[1]}.*" for part in ("runtime", "crt", "profiler-api")),  # CUDA's headers
)

HERE = Path(__file__).parent
CACHE = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "gpukmeans-real-cupy"

RUNTIME = "cupy_backends/cuda/api/runtime.pyx"

# What CuPy's own build tells Cython (install/cupy_builder/_command.py).
CYTHONIZE = f"""
from Cython.Build import cythonize
from setuptools import Extension
directives = dict(embedsignature=True, c_api_binop_methods=True, binding=False, freethreading_compatible=True)
constants = dict(CUPY_USE_CUDA_PYTHON=False, CUPY_CUFFT_STATIC=False, CUPY_CYTHON_VERSION="{CYTHON}",
                 CUPY_CUDA_VERSION={CUDA[0] * 1000 + CUDA[1] * 10}, CUPY_HIP_VERSION=0)
cythonize([Extension("cupy_backends.cuda.api.runtime", ["{RUNTIME}"], language="c++")], language_level=3, quiet=True,
          compiler_directives=directives | {{"warn.deprecated.IF": False}}, compile_time_env=constants)
"""


@cache
def root() -> Path:
    """Where it is kept, by all that makes a difference to it, but for the library's own sources."""
    key = repr((WHEELS, TOOLS, CYTHONIZE, sys.implementation.cache_tag, sysconfig.get_platform()))
    return CACHE / hashlib.sha256(key.encode()).hexdigest()[:16]


def site() -> Path:
    """The folder that CuPy is imported from."""
    return root() / "site"


def extension() -> Path:
    """cupy_backends.cuda.api.runtime, built again."""
    return root() / "runtime.so"


def built() -> bool:
    return root().exists()


def build() -> None:
    """CuPy and its extension, unless they are there; from nothing a minute, most of it pip's."""
    if built():
        return
    CACHE.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=CACHE) as folder:
        made = Path(folder) / "made"
        made.mkdir()
        _pip("install", "--target", made / "site", *WHEELS)
        _pip("install", "--target", made / "tools", *TOOLS)
        _build_extension(_source(Path(folder), made / "tools"), made)
        try:
            made.rename(root())
        except OSError:
            if not built():  # by another process meanwhile
                raise


def library() -> Path:
    """Ours, compiled when its sources have changed."""
    sources = sorted(HERE.glob("*.cpp"))
    parts = (*sources, *HERE.glob("*.h"), HERE / "exports.map", *host_cuda.HERE.glob("*.h"), Path(__file__))
    key = hashlib.sha256(repr([path.read_text() for path in sorted(parts)]).encode()).hexdigest()[:16]
    target = root() / f"libcuda-{key}.so"
    if not target.exists():
        with tempfile.TemporaryDirectory(dir=root()) as folder:
            absent, made = Path(folder) / "absent.cpp", Path(folder) / "made.so"
            absent.write_text(_absent())
            subprocess.run(
                ["g++", "-std=c++17", "-O2", "-g1", "-Wall", "-Wextra", "-Werror", "-fPIC", "-shared"]
                + [f"-isystem{_headers(root())}", *sources, absent, "-o", made, "-ldl"]
                + ["-Wl,-soname,libcuda.so.1", f"-Wl,--version-script={HERE / 'exports.map'}"],
                check=True,
            )
            made.rename(target)
    return target


def _absent() -> str:
    """The functions that CuPy's extension names, as they are if runtime.cpp has none of that name."""
    listed = subprocess.run(["nm", "-D", "--undefined-only", extension()], check=True, capture_output=True, text=True)
    names = [line.split()[1] for line in listed.stdout.splitlines() if line.split()[1].startswith("cuda")]
    lines = [f'ABSENT({name})' for name in names]
    return """#include "%s"
#define ABSENT(name) \\
    extern "C" __attribute__((weak)) int name() { return machine::complain(801, "%%s is not here", #name); }
%s
""".replace("\\\\", "\\") % (HERE / "machine.h", "\n".join(lines))


def _headers(made: Path) -> Path:
    return made / "tools" / "nvidia" / f"cu{CUDA[0]}" / "include"


def _pip(command: str, *words: str | Path, **environment: str) -> None:
    call = [sys.executable, "-m", "pip", command, "--quiet", "--no-deps", *map(str, words)]
    subprocess.run(call, check=True, env={**os.environ, **environment})


def _source(folder: Path, tools: Path) -> Path:
    """CuPy's sources, unpacked. pip asks them for their metadata, and they look for CUDA unless told to do without."""
    _pip(
        *("download", "--no-build-isolation", "--no-binary", "cupy", "--dest", folder, f"cupy=={CUPY}"),
        CUPY_INSTALL_USE_STUB="1",
        PYTHONPATH=str(tools),
    )
    (archive,) = folder.glob("cupy-*.tar.gz")
    with tarfile.open(archive) as packed:
        packed.extractall(folder, filter="data")
    return folder / archive.name.removesuffix(".tar.gz")


def _build_extension(source: Path, made: Path) -> None:
    environment = {**os.environ, "PYTHONPATH": str(made / "tools")}
    subprocess.run([sys.executable, "-c", CYTHONIZE], cwd=source, env=environment, check=True)
    include = (sysconfig.get_paths()["include"], _headers(made))
    subprocess.run(
        ["g++", "-std=c++17", "-O1", "-w", "-fwrapv", "-fPIC", "-shared", "-DNDEBUG"]
        + [f"-I{folder}" for folder in include]
        + [source / Path(RUNTIME).with_suffix(".cpp"), "-o", made / "runtime.so"],
        check=True,
    )


if __name__ == "__main__":
    build()
    library()
