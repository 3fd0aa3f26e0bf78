"""A module in CuPy's place for `import cupy`: a machine each of whose GPUs is a HostCuda."""

from __future__ import annotations

import threading
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

from .runtime import HostArray, HostCuda


class Module(SimpleNamespace):
    __hash__ = object.__hash__  # as modules, it is its own key


def as_cupy(*hosts: HostCuda) -> Module:
    """What gpukmeans asks of CuPy. Each thread has a current device, at first GPU 0. `hosts`: the GPUs. `entered`: the
    numbers of those that a context was asked for."""
    entered: list[int] = []
    thread = threading.local()

    class Device:
        def __init__(self, number: int | None = None) -> None:
            self.id = getattr(thread, "number", 0) if number is None else number
            mine = hosts[self.id].cuda.Device()
            self.attributes, self.compute_capability = mine.attributes, mine.compute_capability
            self._before: list[int] = []

        def __enter__(self) -> Device:
            entered.append(self.id)
            self._before.append(Device().id)
            thread.number = self.id
            return self

        def __exit__(self, *error: object) -> None:
            thread.number = self._before.pop()

    def current() -> HostCuda:
        return hosts[Device().id]

    def asked(*path: str) -> Callable[..., Any]:
        """What stands there at the current device."""

        def ask(*args: Any, **how: Any) -> Any:
            found: Any = current()
            for name in path:
                found = getattr(found, name)
            return found(*args, **how)

        return ask

    for number, host in enumerate(hosts):
        host.cuda.Device().id, host.current = number, current
    first = hosts[0].cuda
    runtime = SimpleNamespace(
        CUDARuntimeError=first.runtime.CUDARuntimeError,
        getDeviceCount=lambda: len(hosts),
        deviceGetPCIBusId=lambda gpu: f"bus {gpu}",
        memGetInfo=asked("cuda", "runtime", "memGetInfo"),
        pointerGetAttributes=asked("cuda", "runtime", "pointerGetAttributes"),
    )
    own = ("Event", "Stream", "get_current_stream", "alloc_pinned_memory", "Module")
    cuda = SimpleNamespace(
        Device=Device, runtime=runtime, **{name: asked("cuda", name) for name in own},
        **{name: getattr(first, name) for name in ("memory", "driver", "compiler", "nvrtc")},
    )  # fmt: skip
    names = ("empty", "zeros", "asarray", "ascontiguousarray", "asnumpy", "from_dlpack")
    names += ("RawModule", "get_default_memory_pool")
    return Module(
        **{name: asked(name) for name in names},
        ndarray=HostArray,
        __version__=HostCuda.__version__,
        cuda=cuda,
        hosts=hosts,
        entered=entered,
    )
