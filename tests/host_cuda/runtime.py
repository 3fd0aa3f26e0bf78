"""HostCuda: stands where CuPy stands, and runs kernels on the CPU.

It has the few names of CuPy that gpukmeans/engine/cuda/points.py uses, with CuPy's meaning, and nothing else: any
other use is an error. Device memory lives in a worker process, so that a kernel's error ends that process and
not the tests. It becomes an exception that names the kernel and carries the report; the next use of the object
starts a new worker, to which older arrays are unknown.

    cp = HostCuda(build="address", seed=1)
    x = cp.asarray(np.arange(10.0))
    double = cp.RawModule(code=source, options=("--std=c++17",)).get_function("double_all")
    double((1,), (32,), (x, np.int64(10)))
    cp.asnumpy(x)
"""

from __future__ import annotations

import math
import weakref
from collections import Counter
from collections.abc import Sequence
from functools import partial
from types import SimpleNamespace
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import DTypeLike, NDArray

from . import build as building
from .pool import Pool
from .streams import Pinned, Streams, is_pinned
from .worker import CUDARuntimeError, Worker

# What a small device has, but for the few multiprocessors: a grid is a handful of blocks.
ATTRIBUTES = {
    "MultiProcessorCount": 2,
    "ClockRate": 1_000_000,
    "MaxSharedMemoryPerBlock": 48 * 1024,
    "MaxSharedMemoryPerBlockOptin": 99 * 1024,
    "WarpSize": 32,
    "MaxThreadsPerBlock": 1024,
}
# An A100, H100 and B200 have more, by compute capability.
MORE_SHARED = {
    capability: {"MaxSharedMemoryPerBlockOptin": size * 1024}
    for capability, size in (("80", 163), ("90", 227), ("100", 227))
}
MAX_BLOCK, MAX_GRID = (1024, 1024, 64), (2**31 - 1, 65535, 65535)


class Traffic(NamedTuple):
    """Between host and device: kernels launched, bytes, and how often the host waited."""

    launches: int
    up: int
    down: int
    waits: int

    def since(self, before: Traffic) -> Traffic:
        return Traffic(*(now - then for now, then in zip(self, before, strict=True)))


class Device:
    """cupy.cuda.Device, the only one; see machine.py for several."""

    def __init__(self, capability: str) -> None:
        self.id, self.attributes, self.compute_capability = 0, ATTRIBUTES | MORE_SHARED.get(capability, {}), capability

    def __enter__(self) -> Device:
        return self

    def __exit__(self, *error: object) -> None:
        pass


class OutOfMemoryError(MemoryError):
    """cupy.cuda.memory.OutOfMemoryError"""


class CUDADriverError(RuntimeError):
    """cupy.cuda.driver.CUDADriverError: a launch that cannot be."""


class NVRTCError(RuntimeError):
    """cupy.cuda.nvrtc.NVRTCError"""


class Program:
    """What cupy.cuda.nvrtc's functions have as a program."""

    def __init__(self, host: HostCuda, source: str) -> None:
        self._host, self._source = host, source
        self.architecture, self.binary, self.log = "", b"", ""

    def compile(self, options: Sequence[str]) -> None:
        (self.architecture,) = [word.removeprefix("-arch=sm_") for word in options if word.startswith("-arch=")]
        own = ("-arch=", "--device-as-default-execution-space")
        words = tuple(word for word in options if not word.startswith(own))
        try:
            self.binary, _ = self._host.compile(self._source, words)
        except building.CompileException as error:
            self.log = str(error)
            raise NVRTCError("NVRTC_ERROR_COMPILATION (6)") from None


# ---------------------------------------------------------------- arrays


class Memory:
    """An allocation, given back when the last array on it is gone."""

    def __init__(self, host: HostCuda, size: int, item: int) -> None:
        self.address, self.size, self.host, self.chunk = 0, 0, host, None
        if host.pooled and size:
            self.chunk = host.pool.take(size)
            if self.chunk is None:
                raise OutOfMemoryError(f"Out of memory allocating {size:,} bytes (used so far: {host.pool.used:,}).")
        if host.used_bytes + size > host.total_bytes:
            host.streams.synchronize()  # what is under way keeps memory that CuPy's pool would give to what comes after
        if host.used_bytes + size > host.total_bytes:
            raise OutOfMemoryError(f"Out of memory allocating {size:,} bytes (used so far: {host.used_bytes:,} bytes).")
        self.worker = host.worker()
        self.address = self.worker.allocate(size, item) if size else 0
        self.size = size
        host.used_bytes += size
        host.peak_bytes = max(host.peak_bytes, host.used_bytes)

    def __del__(self) -> None:
        self.host.used_bytes -= self.size
        if self.chunk is not None:
            self.host.pool.give_back(self.chunk)
        if self.address:
            self.worker.release(self.address)


class HostArray:
    """cupy.ndarray, C-contiguous."""

    def __init__(self, memory: Memory, offset: int, shape: tuple[int, ...], dtype: np.dtype[Any]) -> None:
        self._memory, self._offset, self.shape, self.dtype = memory, offset, shape, dtype
        self.ndim, self.size = len(shape), math.prod(shape)
        self.device = memory.host.cuda.Device()
        self.nbytes = self.size * dtype.itemsize

    @property
    def data(self) -> MemoryPointer:
        return MemoryPointer(self)

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, rows: slice | HostArray) -> HostArray:
        if isinstance(rows, HostArray) and rows.dtype.kind in "biu":
            return self._memory.host.asarray(np.ascontiguousarray(self.get()[rows.get()]))
        if not isinstance(rows, slice) or rows.step not in (None, 1):
            raise TypeError(f"arrays here are sliced along the first axis, in steps of one, and not by {rows!r}")
        start, stop, _ = rows.indices(len(self))
        shape = (max(0, stop - start), *self.shape[1:])
        offset = self._offset + start * math.prod(self.shape[1:]) * self.dtype.itemsize
        return HostArray(self._memory, offset, shape, self.dtype)

    def view(self, dtype: DTypeLike) -> HostArray:
        if self.ndim != 1:
            raise TypeError("only arrays of one dimension are viewed as another dtype here")
        dtype = np.dtype(dtype)
        return HostArray(self._memory, self._offset, (self.nbytes // dtype.itemsize,), dtype)

    def reshape(self, *shape: Any) -> HostArray:
        shape = np.empty(self.size, np.bool_).reshape(*shape).shape  # NumPy's rules for -1 and for errors
        return HostArray(self._memory, self._offset, shape, self.dtype)

    def astype(self, dtype: DTypeLike, copy: bool = True) -> HostArray:
        """By a kernel of CuPy's own, compiled with -ftz=true."""
        if not copy and self.dtype == dtype:
            return self
        return self._memory.host.asarray(_flushed(_flushed(self.get()).astype(dtype)))

    def copy(self) -> HostArray:
        """On the current device, whose streams do not wait for this one's."""
        data = self._memory.worker.read(self.address, self.nbytes) if self.nbytes else b""
        return self._memory.host.current().asarray(np.frombuffer(data, self.dtype).reshape(self.shape))

    def set(self, array: NDArray[Any], stream: Any = None) -> None:
        if array.dtype != self.dtype or array.shape != self.shape or not array.flags.c_contiguous:
            raise ValueError(f"set takes a C-contiguous array of {self.dtype} {self.shape}")
        self._memory.host.bytes_uploaded += self.nbytes
        self._write("up", array, stream, later=True)

    def get(self, out: NDArray[Any] | None = None, blocking: bool = True) -> NDArray[Any]:
        host = self._memory.host
        host.bytes_downloaded += self.nbytes
        result = np.empty(self.shape, self.dtype) if out is None else out
        if result.dtype != self.dtype or result.shape != self.shape or not result.flags.c_contiguous:
            raise ValueError(f"get takes a C-contiguous array of {self.dtype} {self.shape}")

        def read() -> None:
            if self.nbytes:
                data = self._memory.worker.read(self.address, self.nbytes)
                result[...] = np.frombuffer(data, self.dtype).reshape(self.shape)

        later = is_pinned(result)
        if later:
            result.reshape(-1).view(np.uint8).fill(0xA5)  # what whoever does not wait finds
        host.streams.current[-1].give("down", read, later=later)
        if blocking:
            host.streams.current[-1].synchronize()
        return result

    @property
    def address(self) -> int:
        return self._memory.address + self._offset if self.size else 0

    def _write(self, what: str, array: NDArray[Any], stream: Any = None, later: bool = False) -> None:
        """later: whether the array's memory is read when it is copied, whoever may have it by then."""
        if not self.nbytes:
            return
        # Whoever gives pinned memory back too early gives it to the next.
        source = (lambda: array) if is_pinned(array) else weakref.ref(array) if later else array.copy
        address, size, held = self.address, self.nbytes, weakref.ref(self._memory)

        def write() -> None:
            memory, found = held(), source()
            data = np.full(size, 0xA5, np.uint8) if found is None else found.reshape(-1).view(np.uint8)
            if memory is not None:  # else given back meanwhile
                memory.worker.write(address, data)

        (stream or self._memory.host.streams.current[-1]).give(what, write, later)

    def _refuse(self, *_: Any, **__: Any) -> Any:
        raise TypeError("arrays on the device are not computed with, compared or converted from Python")

    # Python and NumPy would find some answer of their own.
    __array__ = __bool__ = __iter__ = __eq__ = __array_ufunc__ = __array_function__ = _refuse  # type: ignore[assignment]
    __hash__ = None  # type: ignore[assignment]


def _flushed(array: NDArray[Any]) -> NDArray[Any]:
    """With zeros in place of float32's subnormal numbers."""
    if array.dtype != np.float32:
        return array
    return np.where(np.abs(array) < np.finfo(np.float32).tiny, np.copysign(np.float32(0), array), array)


class MemoryPointer:
    """cupy.cuda.MemoryPointer"""

    def __init__(self, array: HostArray) -> None:
        self._array = array

    def memset_async(self, value: int, size: int) -> None:
        array = self._array
        if size != array.nbytes:
            raise ValueError(f"an array of {array.nbytes} bytes is filled as a whole here, not {size}")
        array._write("fill", np.full(size, value, np.uint8))


# ---------------------------------------------------------------- kernels


class Function:
    """cupy.cuda.Function, a kernel: function((grid,), (block,), (arguments,), shared_mem=0)."""

    def __init__(self, module: Module, name: str) -> None:
        self._module, self._name = module, name
        self.max_dynamic_shared_size_bytes = ATTRIBUTES["MaxSharedMemoryPerBlock"]

    @property
    def ptr(self) -> Function:
        """Its address, for which it stands itself."""
        return self

    def __call__(self, grid: Sequence[int], block: Sequence[int], args: Sequence[Any], shared_mem: int = 0) -> None:
        host = self._module.host
        worker = host.worker()
        handle, kernels = self._module.loaded(worker)
        number, max_threads, parameters = kernels[self._name]
        where = f"kernel {self._name}, grid {tuple(grid)}, block {tuple(block)}, {shared_mem} bytes of shared memory"

        def fits(sizes: Sequence[int], limits: Sequence[int]) -> bool:
            return 1 <= len(sizes) <= 3 and all(1 <= s <= limit for s, limit in zip(sizes, limits, strict=False))

        if not (fits(grid, MAX_GRID) and fits(block, MAX_BLOCK) and math.prod(block) <= 1024):
            raise CUDADriverError(f"CUDA_ERROR_INVALID_VALUE: invalid argument: {where}")
        if math.prod(block) > max_threads:
            raise CUDADriverError(f"CUDA_ERROR_INVALID_VALUE: __launch_bounds__({max_threads}) is exceeded: {where}")
        most_shared = self.max_dynamic_shared_size_bytes
        if not 0 <= most_shared <= host.cuda.Device().attributes["MaxSharedMemoryPerBlockOptin"]:
            raise CUDADriverError(f"CUDA_ERROR_INVALID_VALUE: max_dynamic_shared_size_bytes={most_shared}: {where}")
        if not 0 <= shared_mem <= most_shared:
            raise CUDADriverError(f"CUDA_ERROR_INVALID_VALUE: {most_shared} allowed: {where}")
        if len(args) != len(parameters):
            raise TypeError(f"kernel {self._name} takes {len(parameters)} arguments, not {len(args)}")
        numbers = [
            self._argument(i, argument, parameter, worker)
            for i, (argument, parameter) in enumerate(zip(args, parameters, strict=True))
        ]
        host.launches[self._name] += 1
        # Another order for every launch, and none of them 0, which asks for the natural one.
        seed = np.random.SeedSequence((host.seed, host.launches.total())).generate_state(1, np.uint64)[0] | np.uint64(1)
        shape = [*grid, *[1] * (3 - len(grid)), *block, *[1] * (3 - len(block)), shared_mem]
        numbers.insert(0, np.array([*shape, seed if host.seed else 0], np.uint64).tobytes())

        def start() -> None:
            try:
                worker.launch(handle, number, *numbers)
            except CUDARuntimeError as error:
                raise CUDARuntimeError(f"{where}:\n{error}") from None
            args_kept.clear()

        args_kept = list(args)  # as memory that CuPy's pool gives to nobody whose work comes sooner
        host.streams.current[-1].give(self._name, start)

    def _argument(self, i: int, argument: Any, parameter: str, worker: Worker) -> bytes:
        """The eight bytes of an argument that has exactly the type the kernel declares."""
        if isinstance(argument, HostArray):
            if argument._memory.worker is not worker:
                raise CUDARuntimeError(
                    f"argument {i} of {self._name}: the array is on another device, or its worker has ended"
                )
            # A float16 is declared by its bits, so that no header of CUDA's is needed.
            names = {"*" + argument.dtype.str[1:], "*V0"} | ({"*u2"} if argument.dtype == np.float16 else set())
            found, data = f"an array of {argument.dtype}", np.uint64(argument.address).tobytes()
        elif isinstance(argument, np.generic):
            names, found, data = {argument.dtype.str[1:]}, repr(argument), argument.tobytes()
        else:
            names, found, data = set(), repr(argument), b""
        if parameter not in names:
            dtype = parameter.lstrip("*")
            expected = dtype if dtype == "V0" else np.dtype(dtype).name
            kind = "an array of " if parameter[0] == "*" else "a NumPy scalar of "
            raise TypeError(f"argument {i} of kernel {self._name} is {kind}{expected}, not {found}")
        return data.ljust(8, b"\0")


class RawKernel(Function):
    """cupy.RawKernel."""


class Module:
    """cupy.cuda.Module. Its machine code is the name of a shared library."""

    _kernel = Function

    def __init__(self, host: HostCuda) -> None:
        self.host = host
        self._worker: Worker | None = None

    def load(self, binary: bytes) -> None:
        self._path = binary.decode()

    def get_function(self, name: str) -> Function:
        _, kernels = self.loaded(self.host.worker())
        if name not in kernels:
            raise CUDADriverError(f"CUDA_ERROR_NOT_FOUND: no kernel {name}, but {', '.join(kernels)}")
        return self._kernel(self, name)

    def loaded(self, worker: Worker) -> tuple[int, dict[str, tuple[int, int, list[str]]]]:
        """The handle that this worker knows, and each kernel's number, most threads, and parameters."""
        if self._worker is not worker:
            self._handle, text = worker.load(self._path)
            rows = [line.split("\t") for line in text.splitlines()]
            self._kernels = {row[0]: (i, int(row[1]), row[2:]) for i, row in enumerate(rows)}
            self._worker = worker
        return self._handle, self._kernels


class RawModule(Module):
    """cupy.RawModule: compiled when a function is first asked for, unlike CuPy's with the given options alone."""

    _kernel = RawKernel

    def __init__(
        self, host: HostCuda, code: str, options: Sequence[str] = (), name_expressions: Sequence[str] | None = None
    ) -> None:
        super().__init__(host)
        self._source = code, tuple(options), name_expressions

    def get_function(self, name: str) -> Function:
        binary, _ = self.host.compile(*self._source)
        self.load(binary)
        return super().get_function(name)


# ---------------------------------------------------------------- the object in CuPy's place


class HostCuda:
    """build: "address", "race" or "fast", see build.py. seed: of the order in which threads and blocks run, 0 for the
    natural one. memory: bytes of device memory. timeout: seconds that a kernel may take. capability: which GPU to be.
    pooled: whether that memory is shared out as CuPy's pool does it, or to the last byte.

    Counted, for tests to read and to set back: bytes_uploaded, bytes_downloaded, launches (by kernel), peak_bytes;
    streams.record says in which order, streams.waits how often the host waited. `traffic` is all of these.
    """

    ndarray = HostArray
    __version__ = "0"

    def __init__(
        self,
        build: str = "address",
        seed: int = 0,
        memory: int = 2**30,
        timeout: float = 120.0,
        capability: str = "90",
        pooled: bool = False,
    ) -> None:
        self.build, self.seed, self.total_bytes, self.timeout = build, seed, memory, timeout
        self.used_bytes = self.peak_bytes = self.bytes_uploaded = self.bytes_downloaded = 0
        self.launches: Counter[str] = Counter()
        self._worker: Worker | None = None
        self.pooled, self.pool = pooled, Pool(memory)
        self.get_default_memory_pool = lambda: self.pool
        self.RawModule = partial(RawModule, self)
        device = Device(capability)
        self.current = lambda: self  # the current device, see machine.py
        self.streams = Streams()
        self.cuda = SimpleNamespace(
            Device=lambda number=0: device,
            Event=self.streams.event,
            Stream=self.streams.stream,
            get_current_stream=lambda: self.streams.current[-1],
            alloc_pinned_memory=Pinned,
            memory=SimpleNamespace(OutOfMemoryError=OutOfMemoryError),
            runtime=SimpleNamespace(
                CUDARuntimeError=CUDARuntimeError,
                memGetInfo=lambda: (self.total_bytes - self.used_bytes, self.total_bytes),
                pointerGetAttributes=lambda array: SimpleNamespace(device=array.device.id),
            ),
            driver=SimpleNamespace(
                CUDADriverError=CUDADriverError,
                CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES="max_dynamic_shared_size_bytes",
                funcSetAttribute=setattr,
            ),
            compiler=SimpleNamespace(CompileException=building.CompileException, compile_using_nvrtc=self.compile),
            nvrtc=SimpleNamespace(
                NVRTCError=NVRTCError,
                getVersion=lambda: (self.build, building.identity()),
                createProgram=lambda source, name, headers, names: Program(self, source),
                compileProgram=lambda program, options: program.compile(options),
                getCUBIN=lambda program: program.binary,
                getProgramLog=lambda program: program.log,
                destroyProgram=lambda program: None,
            ),
            Module=partial(Module, self),
        )

    def compile(
        self,
        source: str,
        options: Sequence[str] = (),
        names: Sequence[str] | None = None,
        cache_in_memory: bool = True,
    ) -> tuple[bytes, None]:
        """cupy.cuda.compiler.compile_using_nvrtc, see Module."""
        return str(building.module(self.build, source, tuple(options), tuple(names or ()))).encode(), None

    @property
    def traffic(self) -> Traffic:
        return Traffic(self.launches.total(), self.bytes_uploaded, self.bytes_downloaded, self.streams.waits)

    def worker(self) -> Worker:
        if self._worker is None or not self._worker.alive:
            self._worker = Worker(self.build, self.timeout)
        return self._worker

    def empty(self, shape: int | tuple[int, ...], dtype: DTypeLike) -> HostArray:
        shape, dtype = tuple(np.atleast_1d(shape).tolist()) if shape != () else (), np.dtype(dtype)
        return HostArray(Memory(self, math.prod(shape) * dtype.itemsize, dtype.itemsize), 0, shape, dtype)

    def zeros(self, shape: int | tuple[int, ...], dtype: DTypeLike) -> HostArray:
        array = self.empty(shape, dtype)
        array.data.memset_async(0, array.nbytes)
        return array

    def asarray(self, array: Any) -> HostArray:
        if hasattr(array, "__cuda_array_interface__"):
            array = array.__cuda_array_interface__["data"][0]  # its address, for which an array stands here
        if isinstance(array, HostArray):
            return array if array._memory.host is self else array.copy()
        if not isinstance(array, np.ndarray):
            raise TypeError(f"asarray takes NumPy arrays, not {type(array).__name__}")
        result = self.empty(array.shape, array.dtype)
        self.bytes_uploaded += result.nbytes
        result._write("up", np.array(array, order="C"))  # CuPy copies by way of pinned memory of its own
        return result

    def ascontiguousarray(self, array: HostArray) -> HostArray:
        return array

    def from_dlpack(self, array: Any) -> HostArray:
        return array.__dlpack__()

    def asnumpy(self, array: HostArray) -> NDArray[Any]:
        return array.get()
