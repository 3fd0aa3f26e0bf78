"""Kernels as CUDA has them: compiled when they are first asked for, kept on disk, loaded for each device.

By parts of CuPy, since its RawModule would not do. It compiles with -ftz=true, which takes subnormal float32 numbers
for zero, and with them every small float16: Rule 1 lets no bit go. And it finds on disk what it has compiled by the
source it is given, without the files that this includes: after an update, kernels of the version before would run.

A module takes NVRTC 0.1 to 0.8 s of one thread, and a first fit needs seven. So `begin` has other threads compile what
will be needed (families.py) while rows cross the bus; whoever needs a module that none has begun compiles it himself.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable
from contextlib import suppress
from functools import cache, partial
from importlib.resources import files
from pathlib import Path
from textwrap import shorten
from typing import Any, NamedTuple

from gpukmeans.atomic_write import atomic
from gpukmeans.engine.cuda import compile_ahead as ahead
from gpukmeans.errors import DeviceError

# Families of instructions that one compute capability has and no later one: NVRTC is asked for sm_90a, or sm_100a.
OF_ONE_CAPABILITY = {"assign_wgmma", "assign_tcgen05"}


class Module(NamedTuple):
    """kernels/FAMILY.cu, compiled with these options."""

    family: str
    options: tuple[str, ...]


@cache
def function(cp: Any, device: int, family: str, name: str, options: tuple[str, ...]) -> Any:
    """The kernel of that name in kernels/FAMILY.cu, for the current device, which has that number."""
    return _module(cp, device, family, options).get_function(name)


@cache
def _module(cp: Any, device: int, family: str, options: tuple[str, ...]) -> Any:
    wanted = Module(family, options)
    module = cp.cuda.Module()
    module.load(ahead.taken((cp, _capability(cp), wanted), partial(_binary, cp, wanted)))
    return module


def at_hand(cp: Any, wanted: Module) -> bool:
    """Whether the module for the current device is on disk."""
    return _path(cp, wanted, _capability(cp)).exists()


def begin(cp: Any, wanted: Iterable[Module]) -> None:
    """Have other threads compile these modules for the current device, in that order, unless they are on disk."""
    device, capability = int(cp.cuda.Device().id), _capability(cp)

    def make(module: Module) -> bytes:
        with cp.cuda.Device(device):
            return _binary(cp, module)

    ahead.begin(
        {
            # By capability: devices of the same one wait for the same module, and find it on disk.
            (cp, capability, module): partial(make, module)
            for module in wanted
            if not ahead.begun((cp, capability, module)) and not _path(cp, module, capability).exists()
        }
    )


# ---------------------------------------------------------------- on disk


def keep(cp: Any, wanted: Module, capability: str) -> bool:
    """Compile a module for GPUs of that compute capability ("90"), of which none need be here, and keep it on disk.

    Returns whether it was not there yet. Raises DeviceError, and what the disk does.
    """
    path = _path(cp, wanted, capability)
    if _kept(path) is not None:
        return False
    _write(path, _compiled_for(cp, wanted, capability))
    return True


def _compiled_for(cp: Any, wanted: Module, capability: str) -> bytes:
    """As cupy.cuda.compiler does it, which asks for the current device."""
    nvrtc = cp.cuda.nvrtc
    if wanted.family in OF_ONE_CAPABILITY:
        capability += "a"
    words = (*_words(wanted), f"-arch=sm_{capability}", "--device-as-default-execution-space")
    program = nvrtc.createProgram(_sources().text[f"{wanted.family}.cu"], "", (), ())
    try:
        nvrtc.compileProgram(program, words)
        return bytes(nvrtc.getCUBIN(program))
    except nvrtc.NVRTCError as error:
        log = shorten(nvrtc.getProgramLog(program), 500)
        raise DeviceError(f"{wanted.family}.cu is not compiled for sm_{capability}: {log or error}") from error
    finally:
        nvrtc.destroyProgram(program)


def _binary(cp: Any, wanted: Module) -> bytes:
    """Machine code for the current device."""
    path = _path(cp, wanted, _capability(cp))
    kept = _kept(path)
    if kept is not None:
        return kept
    if wanted.family in OF_ONE_CAPABILITY:  # of which CuPy does not know
        binary = _compiled_for(cp, wanted, _capability(cp))
    else:
        source = _sources().text[f"{wanted.family}.cu"]
        found, _ = cp.cuda.compiler.compile_using_nvrtc(source, _words(wanted), cache_in_memory=True)
        binary = bytes(found)
    if os.environ.get("CUPY_CACHE_IN_MEMORY") != "1":
        with suppress(OSError):  # then it is compiled again in the next process
            _write(path, binary)
    return binary


def _words(wanted: Module) -> tuple[str, ...]:
    """The compiler's options."""
    return "--std=c++17", f"-I{_sources().folder}", *wanted.options


def _kept(path: Path) -> bytes | None:
    with suppress(OSError):
        kept = path.read_bytes()
        if kept[:_DIGITS] == _digest(kept[_DIGITS:]).encode():
            return kept[_DIGITS:]
    return None


def _write(path: Path, binary: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with atomic(path) as file:
        file.write(_digest(binary).encode() + binary)


def _path(cp: Any, wanted: Module, capability: str) -> Path:
    """Where a module is kept, by all that makes a difference to it."""
    compiler = cp.__version__, cp.cuda.nvrtc.getVersion(), os.environ.get("CUPY_COMPILE_WITH_PTX")
    key = _digest(repr((_sources().digest, *wanted, compiler, capability)).encode())
    return folder() / f"gpukmeans-{key}.cubin"


def _capability(cp: Any) -> str:
    """The current device's."""
    return str(cp.cuda.Device().compute_capability)


class _Sources(NamedTuple):
    """Of all kernels: where they are, each file's text, and a digest of all, since files include others."""

    folder: Path
    text: dict[str, str]
    digest: str


@cache
def _sources() -> _Sources:
    folder = Path(str(files("gpukmeans.kernels")))
    text = {path.name: path.read_text() for path in sorted(folder.glob("*.cu*"))}
    return _Sources(folder, text, _digest(repr(text).encode()))


def _digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


_DIGITS = len(_digest(b""))  # in front of what is kept: to load what was damaged may end the process


def folder() -> Path:
    """Where CuPy keeps what it compiles."""
    return Path(os.environ.get("CUPY_CACHE_DIR") or os.path.expanduser("~/.cupy/kernel_cache"))
