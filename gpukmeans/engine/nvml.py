"""What the driver says of the GPUs, through NVML (``import pynvml``, of the package nvidia-ml-py).

NVML numbers GPUs in another order than CUDA; their place on the bus tells which is which.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any


@contextmanager
def opened() -> Iterator[Any]:
    """The module pynvml, ready to be asked. Raises ImportError without it, and its NVMLError without a driver."""
    import pynvml

    pynvml.nvmlInit()
    try:
        yield pynvml
    finally:
        pynvml.nvmlShutdown()


@dataclass(frozen=True)
class GpuInfo:
    """One GPU at one moment. Memory in bytes, power in watts, utilization in percent of the last second or less;
    None for what this GPU does not tell."""

    name: str
    bus: str  # "" if unknown
    total: int | None
    free: int | None
    capability: str | None
    power: float | None
    power_limit: float | None
    utilization: int | None

    def __str__(self) -> str:
        parts = [self.name]
        if self.capability is not None:
            parts.append(f"compute capability {self.capability}")
        if self.total is not None and self.free is not None:
            parts.append(f"{self.free / 2**30:.1f} of {self.total / 2**30:.1f} GiB free")
        if self.power is not None:
            limit = "" if self.power_limit is None else f" of {self.power_limit:.0f}"
            parts.append(f"{self.power:.0f}{limit} W")
        if self.utilization is not None:
            parts.append(f"{self.utilization} % busy")
        return ", ".join(parts)


def place(bus: str) -> str:
    """A place on the bus in one spelling: NVML writes the domain in eight digits, CUDA in four."""
    return bus[-12:].lower()


def cuda_version(number: int) -> str:
    """As CUDA counts them: 13020 stands for 13.2, and 0 is said of a driver that is not there."""
    return f"{number // 1000}.{number % 1000 // 10}" if number else "none"


def driver() -> str:
    """The driver's version; raises as `opened` does."""
    with opened() as nvml:
        return _text(nvml.nvmlSystemGetDriverVersion())


def gpus() -> list[GpuInfo]:
    """All GPUs, in NVML's order; raises as `opened` does."""
    with opened() as nvml:
        # One that has fallen off the bus, or is another user's, has no handle, or tells nothing any more.
        handles = [_asked(nvml, nvml.nvmlDeviceGetHandleByIndex, i) for i in range(nvml.nvmlDeviceGetCount())]
        return [_gpu(nvml, handle) for handle in handles if handle is not None]


def free_memory(bus: str) -> int | None:
    """Bytes free on the GPU at a place on the bus, as CUDA spells it; raises as `opened` does.

    None for one in several parts (MIG): they are CUDA's devices then, all in that place, and NVML counts the whole.
    """
    with opened() as nvml:
        handle = nvml.nvmlDeviceGetHandleByPciBusId(bus)
        parts = _asked(nvml, nvml.nvmlDeviceGetMigMode, handle)  # now, and after the next reset
        return None if parts is not None and parts[0] else int(nvml.nvmlDeviceGetMemoryInfo(handle).free)


def energy(bus: str) -> float | None:
    """Joules that the GPU has used since the driver was loaded; None if it does not count them."""
    with opened() as nvml:
        used = _asked(nvml, nvml.nvmlDeviceGetTotalEnergyConsumption, nvml.nvmlDeviceGetHandleByPciBusId(bus))
        return None if used is None else used / 1000


def _gpu(nvml: Any, handle: Any) -> GpuInfo:
    name = _asked(nvml, nvml.nvmlDeviceGetName, handle)
    pci = _asked(nvml, nvml.nvmlDeviceGetPciInfo, handle)
    memory = _asked(nvml, nvml.nvmlDeviceGetMemoryInfo, handle)
    capability = _asked(nvml, nvml.nvmlDeviceGetCudaComputeCapability, handle)
    power = _asked(nvml, nvml.nvmlDeviceGetPowerUsage, handle)
    limit = _asked(nvml, nvml.nvmlDeviceGetEnforcedPowerLimit, handle)
    rates = _asked(nvml, nvml.nvmlDeviceGetUtilizationRates, handle)
    return GpuInfo(
        name="one that NVML cannot name" if name is None else _text(name),
        bus="" if pci is None else _text(pci.busId),
        total=None if memory is None else int(memory.total),
        free=None if memory is None else int(memory.free),
        capability=None if capability is None else "{}.{}".format(*capability),
        power=None if power is None else power / 1000,  # milliwatts
        power_limit=None if limit is None else limit / 1000,
        utilization=None if rates is None else int(rates.gpu),
    )


def _asked(nvml: Any, question: Any, handle: Any) -> Any:
    """The answer, or None: many GPUs, virtual ones among them, do not know theirs."""
    try:
        return question(handle)
    except nvml.NVMLError:
        return None


def _text(value: Any) -> str:
    return value.decode() if isinstance(value, bytes) else str(value)
