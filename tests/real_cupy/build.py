"""Builds what CuPy itself runs on where there is no GPU; `make real-cupy` does.

All of CuPy calls CUDA's driver through the library libcuda.so.1, and CUDA's runtime through one extension,
`cupy_backends.cuda.api.runtime`, into which NVIDIA's is linked. So CuPy's own wheel serves, with that extension built
again from CuPy's source distribution, as the wheel's is but for the link to our library. This has the documented
functions of both, as far as they are used here (machine.h, runtime.cpp, driver.cpp), and is called libcuda.so.1.
CuPy and Cython have to be those of the wheel, since extensions call each other.

Everything is kept in CACHE, outside of the project. Packages come from pip.
"""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
import sysconfig
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

SHARED = ("g++", "-std=c++17", "-fPIC", "-shared")

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
    key = repr((WHEELS, TOOLS, CYTHONIZE, SHARED, sys.implementation.cache_tag, sysconfig.get_platform()))
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
            warnings = ("-Wall", "-Wextra", "-Werror", "-isystem", _headers(root()))
            names = ("-Wl,-soname,libcuda.so.1", f"-Wl,--version-script={HERE / 'exports.map'}")
            _run(*SHARED, "-O2", "-g1", *warnings, *sources, absent, "-o", made, *names, "-ldl")
            made.rename(target)
    return target


def _absent() -> str:
    """The functions that CuPy's extension names: what they are unless runtime.cpp has them."""
    listed = [line.split()[-1] for line in _run("nm", "-D", "--undefined-only", extension()).splitlines()]
    lines = [
        f'#include "{HERE / "machine.h"}"',
        'extern "C" {',
        *(
            f"""__attribute__((weak)) int {name}() {{ return machine::complain(801, "{name} is not here"); }}"""
            for name in listed
            if name.startswith("cuda")
        ),
        "}",
    ]
    return "\n".join(lines) + "\n"


def _pip(command: str, *words: str | Path, **environment: str) -> None:
    _run(sys.executable, "-m", "pip", command, "--quiet", "--no-deps", *words, **environment)


def _source(folder: Path, tools: Path) -> Path:
    """CuPy's sources, unpacked. pip asks them for their metadata, and they look for CUDA unless told to do without."""
    _pip(
        *("download", "--no-build-isolation", "--no-binary", "cupy", "--dest", folder, f"cupy=={CUPY}"),
        CUPY_INSTALL_USE_STUB="1",
        PYTHONPATH=str(tools),
    )
    (archive,) = folder.glob("cupy-*.tar.gz")
    _run("tar", "-xzf", archive, "-C", folder)
    return folder / archive.name.removesuffix(".tar.gz")


def _build_extension(source: Path, made: Path) -> None:
    _run(sys.executable, "-c", CYTHONIZE, folder=source, PYTHONPATH=str(made / "tools"))
    include = ("-I", sysconfig.get_paths()["include"], "-I", _headers(made))
    translated = source / Path(RUNTIME).with_suffix(".cpp")
    _run(*SHARED, "-O1", "-w", "-fwrapv", "-DNDEBUG", *include, translated, "-o", made / "runtime.so")


def _headers(made: Path) -> Path:
    """CUDA's."""
    return made / "tools" / "nvidia" / f"cu{CUDA[0]}" / "include"


def _run(*words: str | Path, folder: Path | None = None, **environment: str) -> str:
    """What it says on stdout."""
    done = subprocess.run(words, cwd=folder, env={**os.environ, **environment}, capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(f"{' '.join(map(str, words))}\n{done.stdout}{done.stderr}")
    return done.stdout


if __name__ == "__main__":
    build()
    library()
