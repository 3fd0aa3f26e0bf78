"""NVRTC, which compiles the kernels on a user's GPU: here without one, from the wheel that CuPy's extras bring too."""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from functools import cache
from importlib.metadata import files


class CompileError(Exception):
    """What NVRTC says of the source."""


@cache
def _library() -> ctypes.CDLL:
    (found,) = [path for path in files("nvidia-cuda-nvrtc") or () if path.name.startswith("libnvrtc.so")]
    return ctypes.CDLL(str(found.locate()))


def compile_for(architecture: int, code: str, options: Sequence[str]) -> tuple[str, bytes]:
    """What the compiler and the assembler report of the code, and the machine code (a cubin)."""
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
