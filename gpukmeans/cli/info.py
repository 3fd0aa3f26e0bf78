"""``gpukmeans info``: the device, libraries and threads in use."""

from __future__ import annotations

import argparse
import os
import platform
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import scipy
import sklearn
from threadpoolctl import threadpool_info

from gpukmeans import DeviceError, __version__, thread_limits
from gpukmeans.cli import console
from gpukmeans.cli.errors import CommandError
from gpukmeans.engine import devices, nvml
from gpukmeans.errors import describe_error


def add(commands: Any, what: str, seed: Any) -> None:
    """Add ``info`` to the subparsers of `gpukmeans`; what: its help."""
    parser = commands.add_parser("info", help=what)
    parser.set_defaults(run=_run)


def _run(args: argparse.Namespace) -> None:
    try:
        device, failure = devices.resolve("auto"), None
    except (DeviceError, ValueError) as error:
        device, failure = "none", error
    lines = [("gpukmeans", __version__), ("device", device)]
    if devices.VARIABLE in os.environ:
        lines.append((devices.VARIABLE, os.environ[devices.VARIABLE]))
    if not device.startswith("cuda"):
        lines.append(("GPU", f"not used: {devices.why_no_gpu() or f'{devices.VARIABLE} says so'}"))
    lines += _gpu_software()
    lines.append(("threads", str(thread_limits.thread_count())))
    lines.append(("Python", f"{platform.python_version()} on {platform.system()} {platform.machine()}"))
    lines += [("NumPy", np.__version__), ("SciPy", scipy.__version__), ("scikit-learn", sklearn.__version__)]
    lines += [("BLAS", library) for library in _blas()]
    for name, value in lines:
        console.say(f"{name:<16}  {value}")
    if failure is not None:
        raise CommandError(str(failure))


def _gpu_software() -> list[tuple[str, str]]:
    """Versions of what a GPU needs, as far as they can be asked for: any of it may be missing or broken."""
    found = _gpus()
    with suppress(Exception):
        found.append(("NVIDIA driver", nvml.driver()))
    with suppress(Exception):
        import cupy

        found.append(("CuPy", str(cupy.__version__)))
        found.append(("CUDA runtime", nvml.cuda_version(cupy.cuda.runtime.runtimeGetVersion())))
        found.append(("CUDA driver", nvml.cuda_version(cupy.cuda.runtime.driverGetVersion())))
    return found


def _gpus() -> list[tuple[str, str]]:
    """A line for each GPU, by CUDA's names for it: several if it is in parts (MIG), none if only NVML knows it."""
    names: dict[str, list[str]] = {}  # by place; of a lost GPU, whose place nobody knows, its own name
    with suppress(Exception):
        import cupy

        for i in range(cupy.cuda.runtime.getDeviceCount()):
            place = name = f"cuda:{i}"
            with suppress(Exception):
                place = nvml.place(cupy.cuda.runtime.deviceGetPCIBusId(i))
            names.setdefault(place, []).append(name)
    found, why = [], "it does not know it"
    try:
        for gpu in nvml.gpus():
            found.append((", ".join(names.pop(nvml.place(gpu.bus), ["GPU"])), str(gpu)))
    except Exception as error:
        why = describe_error(error)
    return found + [(", ".join(here), f"NVML does not tell more of it ({why})") for here in names.values()]


def _blas() -> list[str]:
    """The BLAS libraries in this process; NumPy and SciPy may each bring their own."""
    import scipy.linalg  # noqa: F401  brings SciPy's

    found = [library for library in threadpool_info() if library["user_api"] == "blas"]
    return [
        f"{library['internal_api']} {library['version']}, {library['num_threads']} threads, "
        f"from {Path(library['filepath']).parent.name}"
        for library in found
    ] or ["none that threadpoolctl knows"]
