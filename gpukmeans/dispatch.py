"""Which device a fit runs on; the only place that chooses a Points."""

from __future__ import annotations

import logging
import os
import re
from functools import cache
from typing import Any

from numpy.typing import NDArray

from gpukmeans.exact import Floats, Ints, Weights
from gpukmeans.points.base import Points
from gpukmeans.points.numpy import NumPyPoints

logger = logging.getLogger("gpukmeans")

# What stands for device="auto", so that a whole program can be moved without touching it.
VARIABLE = "GPUKMEANS_DEVICE"


class DeviceError(RuntimeError):
    """The device asked for cannot be used; the message names the cause and the remedy."""


def resolve(device: str) -> str:
    """The device to use: "cpu".

    device: "auto" takes the environment variable GPUKMEANS_DEVICE if it is set, else a GPU if one can
    be used, else NumPy. "cpu" is NumPy. "cuda" and "cuda:N" are a GPU.

    Raises ValueError for any other name, and DeviceError for a GPU that cannot be used.
    """
    source = "device"
    if device == "auto":
        device = os.environ.get(VARIABLE) or "auto"
        source = f"the environment variable {VARIABLE}"
    if device != "auto" and not re.fullmatch(r"cpu|cuda(:\d+)?", device):
        raise ValueError(f"{source} must be 'auto', 'cpu', 'cuda' or 'cuda:N', got {device!r}.")
    if device == "auto":
        _log_fallback(why_no_gpu())
    elif device != "cpu":
        raise DeviceError(f"{source}={device!r} cannot be used: {why_no_gpu()}")
    return "cpu"


@cache
def _log_fallback(reason: str) -> None:
    logger.info("Running on NumPy: %s", reason)


@cache
def why_no_gpu() -> str:
    """Why no GPU can be used, and what to do about it."""
    try:
        import cupy
    except Exception as error:  # a broken CuPy raises more than ImportError
        return (
            f"CuPy does not import ({type(error).__name__}: {error}). Install it for your CUDA version, "
            "pip install 'gpukmeans[cuda13]' or 'gpukmeans[cuda12]', or use device='cpu'."
        )
    try:
        cupy.cuda.runtime.getDeviceCount()
    except Exception as error:
        return (
            f"CuPy finds no CUDA device ({error}). Check that nvidia-smi lists a GPU and that the "
            "driver is recent enough for the installed CuPy, or use device='cpu'."
        )
    return "this version of gpukmeans has no CUDA kernels, only NumPy. Use device='cpu'."


def make_points(
    x: NDArray[Any],
    weights: Floats | Ints | None = None,
    summary: Weights | None = None,
    *,
    device: str,
    lasting: bool = True,
) -> Points:
    """The Points for x (n, d) on a device that `resolve` returned; see NumPyPoints for the arguments."""
    assert device == "cpu", device
    return NumPyPoints(x, weights, summary, lasting)
