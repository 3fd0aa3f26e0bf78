"""The device, libraries and threads in use: what a report of a bug needs."""

from __future__ import annotations

import os
import platform
from contextlib import suppress
from importlib import metadata
from pathlib import Path

import numpy as np
import scipy
import sklearn
from threadpoolctl import threadpool_info

from gpukmeans import thread_limits
from gpukmeans._version import __version__
from gpukmeans.engine import devices, nvml
from gpukmeans.errors import DeviceError, describe_error

# What the extras bring, and what arrays may come from; asked for by the names of their distributions.
_OPTIONAL = (
    *("numba", "dask", "distributed", "pillow", "pillow-heif", "pyvips", "tifffile", "matplotlib", "tqdm"),
    *("torch", "jax", "pandas", "polars", "pyarrow", "h5py", "zarr"),
)


def show_versions() -> None:
    """Print the device, the GPUs, the threads, and the versions of gpukmeans and of all libraries that it uses.

    For a report of a bug; the same as ``gpukmeans info``. Raises nothing: what cannot be found out is left out.

    Examples
    --------
    >>> import gpukmeans
    >>> gpukmeans.show_versions()  # doctest: +ELLIPSIS
    gpukmeans         ...
    device            ...
    """
    lines, failure = facts()
    for name, value in lines:
        print(f"{name:<16}  {value}")
    if failure is not None:
        print(f"{'failure':<16}  {failure}")


def facts() -> tuple[list[tuple[str, str]], Exception | None]:
    """Names and values, of which a name may have several; and why the device that is asked for cannot be used."""
    failure: Exception | None = None
    try:
        device = devices.resolve("auto")
    except (DeviceError, ValueError) as error:
        device, failure = "none", error
    found = [("gpukmeans", __version__), ("device", device)]
    if devices.VARIABLE in os.environ:
        found.append((devices.VARIABLE, os.environ[devices.VARIABLE]))
    if not device.startswith("cuda"):
        found.append(("GPU", f"not used: {devices.why_no_gpu() or f'{devices.VARIABLE} says so'}"))
    found += _gpu_software() + _own_products(device)
    found.append(("threads", str(thread_limits.thread_count())))
    found.append(("Python", f"{platform.python_version()} on {platform.system()} {platform.machine()}"))
    found += [("NumPy", np.__version__), ("SciPy", scipy.__version__), ("scikit-learn", sklearn.__version__)]
    for name in _OPTIONAL:
        with suppress(metadata.PackageNotFoundError):
            found.append((name, metadata.version(name)))
    found += [("BLAS", library) for library in _blas()]
    return found, failure


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


def _own_products(device: str) -> list[tuple[str, str]]:
    """Whether products by a GPU's own instructions are right on those that have them, see known_products."""
    found = []
    with suppress(Exception):
        import cupy

        from gpukmeans.engine.cuda.device import Gpu
        from gpukmeans.engine.cuda.known_products import NAMES, trouble
        from gpukmeans.engine.cuda.launch_plans import OWN_PRODUCTS

        for number in devices.gpus(device):
            with cupy.cuda.Device(number):
                gpu = Gpu(cupy, ("-DX_KIND=2",))
                if gpu.own_products:
                    why = trouble(gpu, OWN_PRODUCTS[gpu.own_products])
                    said = f"cuda:{number}: not used, as {why}" if why else f"cuda:{number}: used"
                    found.append((NAMES[gpu.own_products], said))
    return found


def _blas() -> list[str]:
    """The BLAS libraries in this process; NumPy and SciPy may each bring their own."""
    import scipy.linalg  # noqa: F401  brings SciPy's

    found = [library for library in threadpool_info() if library["user_api"] == "blas"]
    return [
        f"{library['internal_api']} {library['version']}, {library['num_threads']} threads, "
        f"from {Path(library['filepath']).parent.name}"
        for library in found
    ] or ["none that threadpoolctl knows"]
