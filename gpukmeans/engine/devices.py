"""What the name of a device means, and why a GPU cannot be used."""

from __future__ import annotations

import logging
import os
import re
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from contextvars import ContextVar
from functools import cache
from numbers import Integral
from typing import Any, TypeVar

import numpy as np

from gpukmeans.errors import DeviceError, describe_error
from gpukmeans.random_state import generator_of

logger = logging.getLogger("gpukmeans")

Result = TypeVar("Result")

# What stands for device="auto", so that a whole program can be moved without touching it.
VARIABLE = "GPUKMEANS_DEVICE"

# Of GPUs, what the kernels are written and compiled for, and what CUDA 13 supports: 7.5, Turing.
LEAST_CAPABILITY = 75

_FORKED = (
    "This process was forked from one that had used CUDA, which does not live on in the child. Start processes by "
    "multiprocessing's 'spawn' or 'forkserver', or use device='cpu'"
)


def resolve(device: str, near: int | None = None) -> str:
    """The device to use: "cpu", "cuda:N", or for several GPUs "cuda:N,M".

    device: "auto" takes the environment variable GPUKMEANS_DEVICE if it is set, else a GPU if one can
    be used, else NumPy. "cpu" is NumPy. "cuda:N" is CUDA's GPU N, "cuda:N,M" are both, "cuda:all" all there are, and
    "cuda" is the one with the most free memory; of the last two none that is too old, beside others.
    near: the GPU that holds the data, if any; it is then the one that "auto" and "cuda" mean, and the first of several.
    See `shared_out` too.

    Raises ValueError for any other name, and DeviceError for a GPU that cannot be used.
    """
    source = "device"
    if device == "auto":
        device = os.environ.get(VARIABLE) or "auto"
        source = f"the environment variable {VARIABLE}"
    if device != "auto" and not re.fullmatch(r"cpu|cuda(:all|:\d+(,\d+)*)?", device):
        raise ValueError(f"{source} must be 'auto', 'cpu', 'cuda', 'cuda:N', 'cuda:N,M' or 'cuda:all', got {device!r}.")
    if device == "cpu":
        return device
    reason = _why_no_cuda()
    if reason is None:
        numbers = [near] if near is not None and device in ("auto", "cuda") else _numbers(device, source)
        reason = next(filter(None, map(why_no_gpu, numbers)), None)
        if reason is None:
            return "cuda:" + ",".join(map(str, sorted(numbers, key=lambda number: number != near)))
    if device != "auto":
        raise DeviceError(f"{source}={device!r} cannot be used: {reason}")
    _log_fallback(reason)
    return "cpu"


_shared_out: ContextVar[bool] = ContextVar("shared_out", default=False)


@contextmanager
def shared_out() -> Iterator[None]:
    """The context in which "auto" and "cuda" mean the first GPU that this process sees, whatever memory is free: as of
    several processes each of which sees all GPUs, its own first."""
    token = _shared_out.set(True)
    try:
        yield
    finally:
        _shared_out.reset(token)


def _numbers(device: str, source: str) -> list[int]:
    """Of the GPUs that are meant, on a machine with some."""
    import cupy

    count = cupy.cuda.runtime.getDeviceCount()
    if device == "cuda:all" or not device.startswith("cuda:"):
        recent = [gpu for gpu in range(count) if _why_too_old(gpu) is None] or list(range(count))
        if device == "cuda:all":
            return recent
        # To ask for free memory takes longer than many a fit.
        return [max(recent, key=_free_memory) if len(recent) > 1 and not _shared_out.get() else recent[0]]
    numbers = gpus(device)
    if max(numbers) >= count:
        names = ", ".join(f"'cuda:{i}'" for i in range(count))
        raise DeviceError(f"{source}={device!r} cannot be used: there is {names}. Use one of these, or 'cuda'.")
    if len(set(numbers)) < len(numbers):
        raise ValueError(f"{source}={device!r} names a GPU twice. Name each once, or take 'cuda:all'.")
    return numbers


def gpus(device: str) -> list[int]:
    """The numbers of a device that `resolve` returned; none of "cpu"."""
    return [int(number) for number in device.removeprefix("cuda:").split(",")] if device != "cpu" else []


def _free_memory(gpu: int) -> int:
    """Bytes; NVML's figure, or CUDA's where NVML has none, or none where CUDA cannot use the GPU."""
    import cupy

    from gpukmeans.engine import nvml

    with suppress(Exception):
        free = nvml.free_memory(cupy.cuda.runtime.deviceGetPCIBusId(gpu))
        if free is not None:
            return free
    with suppress(Exception), cupy.cuda.Device(gpu):
        return int(cupy.cuda.runtime.memGetInfo()[0])
    return 0


@cache
def _log_fallback(reason: str) -> None:
    logger.info("Running on NumPy: %s", reason)


def why_no_gpu(gpu: int | None = None) -> str | None:
    """Why a GPU cannot be used, and what to do about it; None if it can. By default the one that "auto" means."""
    reason = _why_no_cuda()
    if reason is not None:
        return reason
    (gpu,) = _numbers("auto", "device") if gpu is None else (gpu,)
    try:
        return _why_too_old(gpu) or _why_no_kernel(gpu)
    except MemoryError as error:  # others may leave soon, so this is not remembered
        return f"the memory of 'cuda:{gpu}' is full ({describe_error(error)}). Free some of it, or use device='cpu'."


_forked = False  # from a process that had used CUDA


def _after_fork() -> None:
    global _forked
    _forked = _forked or bool(_why_cuda_finds_none.cache_info().currsize and _why_cuda_finds_none() is None)


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)


def _why_no_cuda() -> str | None:
    return f"{_FORKED}." if _forked else _why_cuda_finds_none()


@cache
def _why_cuda_finds_none() -> str | None:
    try:
        import cupy
    except Exception as error:  # a broken CuPy raises more than ImportError
        return (
            f"CuPy does not import ({describe_error(error)}). Install it for your CUDA version, "
            "pip install 'gpukmeans[cuda13]' or 'gpukmeans[cuda12]', or use device='cpu'."
        )
    try:
        count, why = cupy.cuda.runtime.getDeviceCount(), "it counts none"
    except Exception as error:
        count, why = 0, describe_error(error)
    if count > 0:
        return None
    return f"CuPy finds no CUDA device ({why}). {_driver_remedy(cupy, why)}."


def _driver_remedy(cp: Any, why: str) -> str:
    """CUDA has one error for a driver that is too old and one that is not there; their versions tell them apart. And
    one for a driver that is there, and was before the process was forked."""
    if "InitializationError" in why:
        return _FORKED
    return f"{_installation_remedy(cp)}, or use device='cpu'"


def _installation_remedy(cp: Any) -> str:
    with suppress(Exception):
        driver, needed = cp.cuda.runtime.driverGetVersion(), cp.cuda.runtime.runtimeGetVersion()
        if driver == 0:
            return (
                "No NVIDIA driver is found: install one, and check that nvidia-smi lists a GPU (a container has to be "
                "started with access to it)"
            )
        if driver // 1000 < needed // 1000:
            from gpukmeans.engine import nvml

            other = ", or replace CuPy by pip install 'gpukmeans[cuda12]'" if driver // 1000 == 12 else ""
            return (
                f"The driver supports CUDA up to {nvml.cuda_version(driver)}, and the installed CuPy is for "
                f"CUDA {needed // 1000}: update the driver{other}"
            )
    return "Check that nvidia-smi lists a GPU, and that CUDA_VISIBLE_DEVICES does not hide it"


def _why_too_old(gpu: int) -> str | None:
    import cupy

    with suppress(Exception):  # of one that does not answer its first kernel will tell more
        capability = str(cupy.cuda.Device(gpu).compute_capability)
        if int(capability) < LEAST_CAPABILITY:
            have, least = (f"{number[:-1]}.{number[-1]}" for number in (capability, str(LEAST_CAPABILITY)))
            return (
                f"'cuda:{gpu}' has compute capability {have}, and the kernels need {least} (Turing, of 2018) or later. "
                "Use another GPU, or device='cpu'."
            )
    return None


@cache
def _why_no_kernel(gpu: int) -> str | None:
    """Raises MemoryError if there is no memory for even the smallest."""
    import cupy

    from gpukmeans.engine.cuda import kernels
    from gpukmeans.engine.cuda.device import Gpu
    from gpukmeans.engine.cuda.errors import COMPILER_REMEDY

    try:
        with cupy.cuda.Device(gpu):
            first = Gpu(cupy, ())
            answer = first.zeros(1, np.uint64)
            kernels.probe(first, answer=answer)
            if first.get(answer)[0] != kernels.PROBE:
                raise RuntimeError("it does not write what it should")
    except MemoryError:
        raise
    except Exception as error:
        return f"a first kernel does not run on 'cuda:{gpu}' ({describe_error(error)}). {COMPILER_REMEDY}."
    return None


def on(device: str) -> AbstractContextManager:
    """The context in which Points on a device that `resolve` returned are made and used: its first GPU is current."""
    if device == "cpu":
        return nullcontext()
    import cupy

    return cupy.cuda.Device(gpus(device)[0])


def where_it_fits(make: Callable[[str], Result], device: str, random_state: Any = None) -> Result:
    """make(device), a device that `resolve` returned; make("cpu"), which gives the same, should its memory be short.

    For what has no batches. random_state: what make draws from, which then begins anew.
    """
    before = None if isinstance(random_state, Integral) else generator_of(random_state).get_state()
    try:
        return make(device)
    except MemoryError as error:
        if device == "cpu":
            raise
        logger.info("Running on NumPy: the memory of '%s' is short (%s)", device, describe_error(error))
    if before is not None:
        generator_of(random_state).set_state(before)
    return make("cpu")
