"""A module in CuPy's place for `import cupy`: a machine whose GPUs are a HostCuda."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

from .runtime import HostCuda


class Module(SimpleNamespace):
    __hash__ = object.__hash__  # as modules, it is its own key


def as_cupy(host: HostCuda, gpus: int = 1) -> Module:
    """What gpukmeans asks of CuPy. `entered`: the numbers of the GPUs that a context was asked for."""
    entered: list[int] = []

    class Device:
        def __init__(self, number: int = 0) -> None:
            self.id = number
            self.attributes = host.cuda.Device().attributes
            self.compute_capability = host.cuda.Device().compute_capability

        def __enter__(self) -> Device:
            entered.append(self.id)
            return self

        def __exit__(self, *error: object) -> None:
            pass

    runtime = SimpleNamespace(
        CUDARuntimeError=host.cuda.runtime.CUDARuntimeError,
        getDeviceCount=lambda: gpus,
        deviceGetPCIBusId=lambda gpu: f"bus {gpu}",
        memGetInfo=lambda: host.cuda.runtime.memGetInfo(),
    )
    methods: dict[str, Any] = {
        name: getattr(host, name)
        for name in (
            "ndarray",
            "empty",
            "zeros",
            "asarray",
            "ascontiguousarray",
            "asnumpy",
            "from_dlpack",
            "RawModule",
            "__version__",
        )
    }
    cuda = SimpleNamespace(**{**vars(host.cuda), "runtime": runtime, "Device": Device})
    return Module(**methods, cuda=cuda, entered=entered)
