"""CuPy itself, in the tests' process, on the machine that build.py builds."""

from __future__ import annotations

import ctypes
import importlib.machinery
import importlib.util
import os
import sys
import warnings
from collections.abc import Sequence
from functools import cache
from types import ModuleType, SimpleNamespace
from typing import Any

from host_cuda import build as host_cuda

from . import build

ORDERS = ("prompt", "late", "late-by-default", "late-beside", "shuffled")  # Order, in machine.h


class Machine:
    """What tests set of it, and ask."""

    def __init__(self) -> None:
        # Global, as modules of kernels and CuPy's extension find it there; and from now on everybody who looks for
        # libcuda.so.1 has it.
        self._library = ctypes.CDLL(str(build.library()), mode=ctypes.RTLD_GLOBAL)
        self._library.real_cupy_complaint.restype = ctypes.c_char_p

    def set_order(self, name: str, seed: int = 0) -> None:
        """When streams do what they are given: one of ORDERS."""
        self._library.real_cupy_order(ORDERS.index(name), seed)

    def set_memory(self, size: int) -> None:
        """Bytes of each device."""
        self._library.real_cupy_memory(ctypes.c_size_t(size))

    def complaints(self) -> list[str]:
        """What was done wrong since they were asked for, if anything."""
        return [text.decode() for text in iter(self._library.real_cupy_complaint, None)]


class _Finder:
    """Where Python finds the one extension that was built again."""

    @staticmethod
    def find_spec(name: str, path: object = None, target: object = None) -> importlib.machinery.ModuleSpec | None:
        if name != "cupy_backends.cuda.api.runtime":
            return None
        return importlib.util.spec_from_file_location(name, build.extension())


@cache
def machine() -> Machine:
    """Once in a process. From then on `import cupy` is CuPy on this machine."""
    if not build.built():
        raise RuntimeError("`make real-cupy` builds what these tests run on")
    # What is compiled is kept by the kernels' own compiler; and CUB, which is in the wheel as machine code, has no GPU.
    os.environ.update(CUPY_CACHE_IN_MEMORY="1", CUPY_ACCELERATORS="")
    made = Machine()
    sys.path.append(str(build.site()))
    sys.meta_path.insert(0, _Finder)  # type: ignore[arg-type]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that there is no CUDA
        import cupy
    _compile_by_gxx(cupy)
    return made


def _compile_by_gxx(cupy: ModuleType) -> None:
    """Have CuPy's compiler be the kernels' on the CPU: machine code is the name of a shared library."""

    def compiled(source: str, options: Sequence[str] = (), *args: Any, **how: Any) -> tuple[bytes, None]:
        words = tuple(options)
        if "-ftz=true" not in words:
            return str(host_cuda.module("fast", source, words, ())).encode(), None
        # A kernel of CuPy's own, with CuPy's headers alone.
        words = (f"-I{build.HERE}", *(word for word in words if word.startswith(f"-I{build.site()}")))
        source = '#include "cupy_kernels.h"\n' + source
        return f"ftz:{host_cuda.module('fast', source, words, ())}".encode(), None

    cupy.cuda.compiler.compile_using_nvrtc = compiled
    cupy.cuda.compiler._compile_using_nvrtc_no_warning = compiled

    # Kernels of one compute capability alone go by CuPy's NVRTC itself (engine/cuda/compile.py).
    def compile_program(program: SimpleNamespace, options: Sequence[str]) -> None:
        of_nvrtc = ("-arch=", "--device-as-default-execution-space")
        program.binary, _ = compiled(program.source, [word for word in options if not word.startswith(of_nvrtc)])

    # CuPy's compiler has what is there by a name of its own.
    cupy.cuda.nvrtc = SimpleNamespace(
        NVRTCError=cupy.cuda.nvrtc.NVRTCError,
        getVersion=cupy.cuda.nvrtc.getVersion,
        createProgram=lambda source, name, headers, names: SimpleNamespace(source=source),
        compileProgram=compile_program,
        getCUBIN=lambda program: program.binary,
        destroyProgram=lambda program: None,
    )
