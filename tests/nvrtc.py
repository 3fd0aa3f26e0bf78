"""NVRTC, which compiles the kernels on a user's GPU: here without one, from the wheel that CuPy's extras bring too.

What it made is kept on disk, by all that it was made of: a kernel that did not change is not compiled again.
"""

from __future__ import annotations

import ctypes
import hashlib
import json
import os
from collections.abc import Sequence
from functools import cache
from importlib.metadata import files, version
from pathlib import Path

from host_cuda.build import CACHE


class CompileError(Exception):
    """What NVRTC says of the source."""


@cache
def _library() -> ctypes.CDLL:
    (found,) = [path for path in files("nvidia-cuda-nvrtc") or () if path.name.startswith("libnvrtc.so")]
    return ctypes.CDLL(str(found.locate()))


def compile_for(architecture: int | str, code: str, options: Sequence[str]) -> tuple[str, bytes]:
    """What the compiler and the assembler report of the code, and the machine code (a cubin)."""
    kept = _kept(architecture, code, options)
    if not kept.exists():
        log, cubin = _compiled(architecture, code, options)
        kept.parent.mkdir(parents=True, exist_ok=True)
        partial = kept.with_suffix(f".{os.getpid()}")  # whoever looks finds a whole file
        partial.write_bytes(json.dumps(log).encode() + b"\n" + cubin)
        partial.replace(kept)
    report, _, cubin = kept.read_bytes().partition(b"\n")
    return json.loads(report), cubin


def _kept(architecture: int | str, code: str, options: Sequence[str]) -> Path:
    """Where that is, or will be. Folders count by the headers in them."""
    headers = [sorted(path.read_text() for path in Path(o[2:]).glob("*.cuh")) for o in options if o.startswith("-I")]
    words = [option for option in options if not option.startswith("-I")]
    key = repr((version("nvidia-cuda-nvrtc"), architecture, code, headers, words))
    return CACHE / f"{hashlib.sha256(key.encode()).hexdigest()[:32]}.cubin"


def _compiled(architecture: int | str, code: str, options: Sequence[str]) -> tuple[str, bytes]:
    library, program = _library(), ctypes.c_void_p()
    words = [*options, f"--gpu-architecture=sm_{architecture}", "--ptxas-options=-v"]
    library.nvrtcCreateProgram(ctypes.byref(program), code.encode(), b"kernels.cu", 0, None, None)
    try:
        given = (ctypes.c_char_p * len(words))(*(word.encode() for word in words))
        failed = library.nvrtcCompileProgram(program, len(words), given)
        log = _bytes(library.nvrtcGetProgramLogSize, library.nvrtcGetProgramLog, program).rstrip(b"\0").decode()
        if failed:
            raise CompileError(log)
        return log, _bytes(library.nvrtcGetCUBINSize, library.nvrtcGetCUBIN, program)
    finally:
        library.nvrtcDestroyProgram(ctypes.byref(program))


def _bytes(measure: ctypes._FuncPointer, copy: ctypes._FuncPointer, program: ctypes.c_void_p) -> bytes:
    size = ctypes.c_size_t()
    measure(program, ctypes.byref(size))
    data = ctypes.create_string_buffer(size.value)
    copy(program, data)
    return data.raw
