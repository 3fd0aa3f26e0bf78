"""CUDA's errors in words for the user. What a kernel does wrong shows at some later call, so all of them are named.

Memory that has run out becomes a MemoryError, upon which combine/out_of_memory.py goes on with smaller batches.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from types import TracebackType
from typing import Any, NoReturn

from gpukmeans.errors import DeviceError, DeviceLost, describe_error

# What to do where kernels cannot be compiled.
COMPILER_REMEDY = (
    "Install CuPy with its compiler for a CUDA version that driver and GPU support (see nvidia-smi), pip install "
    "'gpukmeans[cuda13]' or, for older ones, 'gpukmeans[cuda12]', or use device='cpu'"
)


class Launched(list[str]):
    """Kernels launched since the device last answered. end: how many ever were, with those that are forgotten."""

    def __init__(self) -> None:
        super().__init__()
        self._forgotten = 0

    @property
    def end(self) -> int:
        return self._forgotten + len(self)

    def answered(self, end: int) -> None:
        """The device has done all up to that end."""
        done = max(0, end - self._forgotten)
        del self[:done]
        self._forgotten += done


class CudaErrors:
    """A context in which CUDA's errors become DeviceError and MemoryError.

    cp: CuPy, or what stands in its place. launched: what several of these share, so that the errors of any name
    the kernels of all.
    """

    def __init__(self, cp: Any, launched: Launched | None = None) -> None:
        self.cp = cp
        self.number = int(cp.cuda.Device().id)
        self.launched = Launched() if launched is None else launched
        self._errors = (cp.cuda.runtime.CUDARuntimeError, cp.cuda.driver.CUDADriverError)
        self._of_compiler = (cp.cuda.compiler.CompileException, cp.cuda.nvrtc.NVRTCError)

    def __enter__(self) -> None:
        pass

    def __exit__(self, kind: type | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if isinstance(error, self._errors):
            self._fail(error)
        if isinstance(error, self._of_compiler) or (error and type(error).__name__ == "DynamicLibNotFoundError"):
            self._not_compiled("A kernel of CuPy's own was", error)

    @contextmanager
    def compiling_family(self, family: str) -> Iterator[None]:
        """The context in which kernels/FAMILY.cu is compiled and loaded. What goes wrong then has many names: of
        CuPy's, of the library that looks for the compiler (DynamicLibNotFoundError), and of the system's."""
        try:
            yield
        except self._errors as error:
            self._fail(error)
        except (RuntimeError, OSError, *self._of_compiler) as error:
            self._not_compiled(f"The kernels of {family}.cu were", error)

    def _not_compiled(self, what: str, error: BaseException) -> NoReturn:
        raise DeviceError(
            f"{what} not compiled for 'cuda:{self.number}' ({describe_error(error)}). {COMPILER_REMEDY}, which gives "
            "the same answer. Nothing was changed by what was asked for."
        ) from error

    def _fail(self, error: Exception) -> NoReturn:
        if "MemoryAllocation" in str(error) or "OUT_OF_MEMORY" in str(error):
            raise MemoryError(str(error)) from error
        launched = ", ".join(dict.fromkeys(self.launched)) or "none"
        raise DeviceLost(
            f"CUDA failed on device 'cuda:{self.number}'; kernels launched since it last answered: {launched}. "
            f"It says: {error}\nNothing was changed by what was asked for. A process in which a kernel failed may "
            "have to be started anew; device='cpu' gives the same answer."
        ) from error
