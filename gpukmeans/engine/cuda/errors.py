"""CUDA's errors in words for the user. What a kernel does wrong shows at some later call, so all of them are named.

Memory that has run out becomes a MemoryError, upon which combine/out_of_memory.py goes on with smaller batches.
"""

from __future__ import annotations

from types import TracebackType
from typing import Any, NoReturn

from gpukmeans.errors import DeviceError


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
        self._errors = (
            cp.cuda.runtime.CUDARuntimeError,
            cp.cuda.driver.CUDADriverError,
            cp.cuda.compiler.CompileException,
        )

    def __enter__(self) -> None:
        pass

    def __exit__(self, kind: type | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if isinstance(error, self._errors):
            self._fail(error)

    def _fail(self, error: Exception) -> NoReturn:
        if "MemoryAllocation" in str(error) or "OUT_OF_MEMORY" in str(error):
            raise MemoryError(str(error)) from error
        launched = ", ".join(dict.fromkeys(self.launched)) or "none"
        raise DeviceError(
            f"CUDA failed on device 'cuda:{self.number}'; kernels launched since it last answered: {launched}. "
            f"It says: {error}\nNothing was changed by what was asked for. A process in which a kernel failed may "
            "have to be started anew; device='cpu' gives the same answer."
        ) from error
