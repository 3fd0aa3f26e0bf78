"""Kernels as CUDA has them: compiled when they are first asked for, kept on disk, loaded for each device.

By parts of CuPy, since its RawModule would not do. It compiles with -ftz=true, which takes subnormal float32 numbers
for zero, and with them every small float16: Rule 1 lets no bit go. And it finds on disk what it has compiled by the
source it is given, without the files that this includes: after an update, kernels of the version before would run.
"""

from __future__ import annotations

import hashlib
import os
from contextlib import suppress
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import Any

from gpukmeans.atomic_write import atomic


@cache
def function(cp: Any, device: int, family: str, name: str, options: tuple[str, ...]) -> Any:
    """The kernel of that name in kernels/FAMILY.cu, for the current device, which has that number."""
    return _module(cp, device, family, options).get_function(name)


@cache
def _module(cp: Any, device: int, family: str, options: tuple[str, ...]) -> Any:
    module = cp.cuda.Module()
    module.load(_binary(cp, family, options))
    return module


def _binary(cp: Any, family: str, options: tuple[str, ...]) -> bytes:
    """Machine code for the current device."""
    folder = Path(str(files("gpukmeans.kernels")))
    sources = _sources(folder)
    compiler = cp.__version__, cp.cuda.nvrtc.getVersion(), os.environ.get("CUPY_COMPILE_WITH_PTX")
    key = _digest(repr((sources, family, options, compiler, cp.cuda.Device().compute_capability)).encode())
    path = _folder() / f"gpukmeans-{key}.cubin"
    with suppress(OSError):
        kept = path.read_bytes()
        if kept[:_DIGITS] == _digest(kept[_DIGITS:]).encode():
            return kept[_DIGITS:]
    words = ("--std=c++17", f"-I{folder}", *options)
    binary, _ = cp.cuda.compiler.compile_using_nvrtc(sources[f"{family}.cu"], words, cache_in_memory=True)
    binary = bytes(binary)
    if os.environ.get("CUPY_CACHE_IN_MEMORY") != "1":
        with suppress(OSError):  # then it is compiled again in the next process
            path.parent.mkdir(parents=True, exist_ok=True)
            with atomic(path) as file:
                file.write(_digest(binary).encode() + binary)
    return binary


@cache
def _sources(folder: Path) -> dict[str, str]:
    return {path.name: path.read_text() for path in sorted(folder.glob("*.cu*"))}


def _digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


_DIGITS = len(_digest(b""))  # in front of what is kept: to load what was damaged may end the process


def _folder() -> Path:
    """Where CuPy keeps what it compiles."""
    return Path(os.environ.get("CUPY_CACHE_DIR") or os.path.expanduser("~/.cupy/kernel_cache"))
