"""Which device a fit runs on; the only place that chooses a Points, or a picture's Pixels, Colors and Whole."""

from __future__ import annotations

import logging
import os
import re
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from functools import cache
from itertools import pairwise
from numbers import Integral
from typing import Any, TypeVar

import numpy as np
from scipy.sparse import issparse
from sklearn.utils import check_random_state

from gpukmeans import arrays, nvml
from gpukmeans.exact import Floats, Ints, Weights
from gpukmeans.image.colors import Colors, NumPyColors
from gpukmeans.image.cuda_cells import CudaWhole
from gpukmeans.image.cuda_colors import CudaColors
from gpukmeans.image.cuda_pixels import CudaPixels, without_alpha
from gpukmeans.image.pixels import NumPyPixels, Pixels, unpack
from gpukmeans.image.whole import Frame, NumPyWhole, Whole
from gpukmeans.lazy import is_lazy
from gpukmeans.points.base import DeviceError, Points, said
from gpukmeans.points.batches import Batches
from gpukmeans.points.cuda import CudaPoints
from gpukmeans.points.gpu import Ahead
from gpukmeans.points.numpy import NumPyPoints
from gpukmeans.points.parallel import Parallel
from gpukmeans.points.sparse import rows_of

logger = logging.getLogger("gpukmeans")

Result = TypeVar("Result")

# Values of a part of the data, at least: one GPU has done with a million pixels before another could be asked.
PART = 2**22

# What stands for device="auto", so that a whole program can be moved without touching it.
VARIABLE = "GPUKMEANS_DEVICE"


def resolve(device: str, near: int | None = None) -> str:
    """The device to use: "cpu", "cuda:N", or for several GPUs "cuda:N,M".

    device: "auto" takes the environment variable GPUKMEANS_DEVICE if it is set, else a GPU if one can
    be used, else NumPy. "cpu" is NumPy. "cuda:N" is CUDA's GPU N, "cuda:N,M" are both, "cuda:all" all there are, and
    "cuda" is the one with the most free memory.
    near: the GPU that holds the data, if any; it is then the one that "auto" and "cuda" mean, and the first of several.

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


def _numbers(device: str, source: str) -> list[int]:
    """Of the GPUs that are meant, on a machine with some."""
    import cupy

    count = cupy.cuda.runtime.getDeviceCount()
    if device == "cuda:all":
        return list(range(count))
    if not device.startswith("cuda:"):
        # To ask for free memory takes longer than many a fit.
        return [max(range(count), key=_free_memory) if count > 1 else 0]
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
        return _why_no_kernel(gpu)
    except MemoryError as error:  # others may leave soon, so this is not remembered
        return f"the memory of 'cuda:{gpu}' is full ({said(error)}). Free some of it, or use device='cpu'."


@cache
def _why_no_cuda() -> str | None:
    try:
        import cupy
    except Exception as error:  # a broken CuPy raises more than ImportError
        return (
            f"CuPy does not import ({said(error)}). Install it for your CUDA version, "
            "pip install 'gpukmeans[cuda13]' or 'gpukmeans[cuda12]', or use device='cpu'."
        )
    try:
        count, why = cupy.cuda.runtime.getDeviceCount(), "it counts none"
    except Exception as error:
        count, why = 0, said(error)
    if count > 0:
        return None
    return f"CuPy finds no CUDA device ({why}). {_driver_remedy(cupy)}, or use device='cpu'."


def _driver_remedy(cp: Any) -> str:
    """CUDA has one error for a driver that is too old and one that is not there; their versions tell them apart."""
    with suppress(Exception):
        driver, needed = cp.cuda.runtime.driverGetVersion(), cp.cuda.runtime.runtimeGetVersion()
        if driver == 0:
            return (
                "No NVIDIA driver is found: install one, and check that nvidia-smi lists a GPU (a container has to be "
                "started with access to it)"
            )
        if driver // 1000 < needed // 1000:
            other = ", or replace CuPy by pip install 'gpukmeans[cuda12]'" if driver // 1000 == 12 else ""
            return (
                f"The driver supports CUDA up to {nvml.cuda_version(driver)}, and the installed CuPy is for "
                f"CUDA {needed // 1000}: update the driver{other}"
            )
    return "Check that nvidia-smi lists a GPU, and that CUDA_VISIBLE_DEVICES does not hide it"


@cache
def _why_no_kernel(gpu: int) -> str | None:
    """Raises MemoryError if there is no memory for even the smallest."""
    import cupy

    try:
        with cupy.cuda.Device(gpu):
            CudaPoints(cupy, np.zeros((1, 1))).extent()
    except MemoryError:
        raise
    except Exception as error:
        return (
            f"a first kernel does not run on 'cuda:{gpu}' ({said(error)}). Install CuPy with its compiler for a CUDA "
            "version that driver and GPU support (see nvidia-smi), pip install 'gpukmeans[cuda13]' or, for older ones, "
            "'gpukmeans[cuda12]', or use device='cpu'."
        )
    return None


def on(device: str) -> AbstractContextManager:
    """The context in which Points on a device that `resolve` returned are made and used: its first GPU is current."""
    if device == "cpu":
        return nullcontext()
    import cupy

    return cupy.cuda.Device(gpus(device)[0])


def make_points(
    x: Any,
    weights: Floats | Ints | None = None,
    summary: Weights | None = None,
    *,
    device: str,
    lasting: bool = True,
    unit: bool = False,
    distinct: bool = False,
) -> Points:
    """The Points for x (n, d), an array or a CSR matrix, on a device that `resolve` returned; see NumPyPoints
    for the other arguments. For a Dask array device is what each of its workers is to `resolve`."""
    if is_lazy(x):
        from gpukmeans import workers  # which use this module where they are

        return workers.make_points(x, weights, summary, device, lasting, unit)
    if issparse(x):
        x = rows_of(x)
    if device == "cpu":
        return NumPyPoints(x, weights, summary, lasting, unit, distinct)
    import cupy

    numbers = gpus(device)[: max(1, min(len(x), x.size // PART))]
    if len(numbers) == 1:
        return on_gpu(cupy, x, weights, summary, lasting, unit)
    return on_gpus(cupy, numbers, x, weights, summary, lasting, unit)


def on_gpu(
    cp: Any,
    x: Any,
    weights: Floats | Ints | None = None,
    summary: Weights | None = None,
    lasting: bool = True,
    unit: bool = False,
    part: slice | None = None,
) -> Batches:
    """CudaPoints for x (n, d) on the current GPU, of all rows or, where memory is short, of batches; cp: CuPy.

    part: of which rows, all unless told; the others are somewhere else.
    """
    whole = summary or Weights.of_rows(len(x))
    there = isinstance(x, cp.ndarray) and part is None
    first, end = (0, len(x)) if part is None else (part.start, part.stop)
    answer = cp.asarray if there else np.asarray

    beside = Ahead(cp)

    def make(rows: slice, ahead: bool) -> CudaPoints:
        rows = slice(first + rows.start, first + rows.stop)
        alone = rows == slice(first, end)
        w = None if weights is None else weights[rows]
        return CudaPoints(cp, x[rows], w, whole, lasting, there and alone, unit, beside if ahead else None, alone)

    return Batches(make, end - first, x.shape[1], whole, answer=answer, unit=unit, lasting=lasting)


def on_gpus(
    cp: Any,
    numbers: list[int],
    x: Any,
    weights: Floats | Ints | None = None,
    summary: Weights | None = None,
    lasting: bool = True,
    unit: bool = False,
) -> Points:
    """The same on several GPUs, each with as many rows. If x is on one, that is the current one."""
    n, d = x.shape
    whole = summary or Weights.of_rows(n)
    there = isinstance(x, cp.ndarray)
    if there:
        # Other GPUs' streams do not wait for what makes x, nor for what CuPy would make of it to copy it.
        x = cp.ascontiguousarray(x)
        cp.cuda.get_current_stream().synchronize()
    streams: dict[int, Any] = {}

    @contextmanager
    def enter(i: int) -> Iterator[None]:
        # A stream for each, since threads may have streams of their own, and any thread may be the one that enters.
        with cp.cuda.Device(numbers[i]):
            if i not in streams:
                streams[i] = cp.cuda.Stream(non_blocking=True)
            with streams[i]:
                yield

    bounds = [n * i // len(numbers) for i in range(len(numbers) + 1)]
    slices = [slice(a, b) for a, b in pairwise(bounds)]
    parts = [on_gpu(cp, x, weights, whole, lasting, unit, rows) for rows in slices]
    return Parallel(parts, slices, d, whole, unit, enter, cp.asarray if there else np.asarray)


def where_it_fits(make: Callable[[str], Result], device: str, random_state: Any = None) -> Result:
    """make(device), a device that `resolve` returned; make("cpu"), which gives the same, should its memory be short.

    For what has no batches. random_state: what make draws from, which then begins anew.
    """
    before = None if isinstance(random_state, Integral) else check_random_state(random_state).get_state()
    try:
        return make(device)
    except MemoryError as error:
        if device == "cpu":
            raise
        logger.info("Running on NumPy: the memory of '%s' is short (%s)", device, said(error))
    if before is not None:
        check_random_state(random_state).set_state(before)
    return make("cpu")


def make_pixels(pixels: Any, *, device: str) -> Pixels:
    """The Pixels for (n, c) levels on a device that `resolve` returned; NumPy's where no kernel serves them."""
    if device == "cpu" or not CudaPixels.serves(pixels):
        return NumPyPixels(arrays.to_numpy(pixels))
    import cupy

    return CudaPixels(cupy, pixels)


def make_colors(codes: Any, counts: Any, channels: int, total: int, *, device: str) -> Colors:
    """The Colors of such codes (m,), of which there are so many (m,), and in all, on a device that `resolve` returned;
    NumPy's where no kernel serves them."""
    if device == "cpu" or not CudaColors.serves(codes, channels, total):
        return NumPyColors(unpack(arrays.to_numpy(codes), channels), arrays.to_numpy(counts))
    import cupy

    return CudaColors(cupy, codes, counts, total)


def make_whole(points: Any, weights: Any, frame: Frame, *, device: str) -> Whole:
    """Points (m, d) of weights (m,) as whole numbers, on a device that `resolve` returned."""
    if device == "cpu":
        return NumPyWhole(points, weights, frame)
    import cupy

    return CudaWhole(cupy, points, weights, frame)


def opaque(levels: Any) -> Any:
    """Levels (h, w, 4) of uint8 that are on a GPU without their alpha, None if one is not opaque."""
    import cupy

    with cupy.cuda.Device(arrays.gpu_of(levels)):
        return without_alpha(cupy, levels)
