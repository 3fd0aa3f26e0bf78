"""Arrays on their way to the device and back.

Everything runs on CuPy's current stream, so nothing waits but the host, and the host only for answers. Except that rows
may be sent before their turn, on a stream of their own: see `Prefetch`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from types import TracebackType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gpukmeans.engine.cuda.errors import CudaErrors, Launched
from gpukmeans.thread_limits import thread_count
from gpukmeans.threads import run

# Bytes of a transfer's pieces. A piece crosses the bus while the host copies the next: 4 MB take 0.1 ms at
# the 50 GB/s of PCIe 5, a hundred times what starting one takes, and lie in the host's cache meanwhile.
PIECE = 2**22


class Transfers(CudaErrors):
    """Memory of the current device, and what is copied to it and from it."""

    def __init__(self, cp: Any, launched: Launched | None = None) -> None:
        super().__init__(cp, launched)
        self.meanwhile: Callable[[], None] | None = None  # called once, before the next answer is waited for
        self._sent = SentArrays(cp, self.number)

    def empty(self, shape: int | tuple[int, ...], dtype: Any) -> Any:
        with self:
            return self.cp.empty(shape, dtype)

    def zeros(self, shape: int | tuple[int, ...], dtype: Any) -> Any:
        with self:
            return self.cp.zeros(shape, dtype)

    def fill(self, array: Any, byte: int) -> None:
        """With that byte. CuPy's `fill` would compile a kernel, for which it needs CUDA's headers."""
        with self:
            array.data.memset_async(byte, array.nbytes)

    def holds(self, array: Any) -> bool:
        return isinstance(array, self.cp.ndarray)

    def put(self, array: Any) -> Any:
        """The array (NumPy's or CuPy's, of this device or of another) on the device, in C order."""
        if self.holds(array):
            with self:
                return self.cp.ascontiguousarray(array) if array.device.id == self.number else array.copy()
        target = self.empty(array.shape, array.dtype)
        for _ in self.upload(target, array):
            pass
        return target

    def write(self, target: Any, array: NDArray[Any]) -> None:
        """Copy the array to the device, over a target of its size and dtype."""
        self._set(target, np.ascontiguousarray(array).reshape(target.shape))

    def _set(self, target: Any, source: NDArray[Any]) -> None:
        self._sent.keep(source)
        with self:
            target.set(source)

    def upload(self, target: Any, source: NDArray[Any]) -> Iterator[slice]:
        """Copy source into target of the same shape and dtype; yields the rows that are on their way.

        What is launched after a slice was yielded finds its rows in place, and runs while the next ones are
        copied to pinned memory. A whole copy of the source is never made on the host.
        """
        if source.nbytes <= PIECE:
            self._set(target, np.ascontiguousarray(source))
            yield slice(0, len(source))
            return
        with self._staging(source) as (rows, slots):
            for i, a in enumerate(range(0, len(source), rows)):
                buffer, copied = slots[i % 2]
                part = source[a : a + rows]
                with self:
                    copied.synchronize()
                    _copy(buffer[: len(part)], part)
                    target[a : a + rows].set(buffer[: len(part)], stream=self.cp.cuda.get_current_stream())
                    copied.record()
                yield slice(a, a + len(part))

    def get(self, array: Any) -> NDArray[Any]:
        """The array on the host, once everything before it is done."""
        before = self.launched.end
        if self.meanwhile is not None:
            meanwhile, self.meanwhile = self.meanwhile, None
            meanwhile()
        result = None
        if array.nbytes > PIECE:
            # An answer must not be lost for want of pinned memory: what was changed to find it cannot be changed again.
            with suppress(MemoryError), self:
                result = self._get_pieces(array)
        if result is None:
            result = np.empty(array.shape, array.dtype)
            with self:
                array.get(out=result)  # without out it might be no copy, and of what is not there yet
        self.launched.answered(before)
        self._sent.forget()
        return result

    def _get_pieces(self, array: Any) -> NDArray[Any]:
        """As `upload`: the host copies a piece from pinned memory while the next one crosses the bus."""
        result = np.empty(array.shape, array.dtype)
        with self._staging(array) as (rows, slots):
            starts = range(0, len(array), rows)
            for i in range(len(starts) + 1):
                if i < len(starts):
                    buffer, copied = slots[i % 2]
                    part = array[starts[i] : starts[i] + rows]
                    part.get(out=buffer[: len(part)], blocking=False)
                    copied.record()
                if i > 0:
                    buffer, copied = slots[(i - 1) % 2]
                    copied.synchronize()
                    part = result[starts[i - 1] : starts[i - 1] + rows]
                    _copy(part, buffer[: len(part)])
        return result

    @contextmanager
    def _staging(self, array: Any) -> Iterator[tuple[int, list[tuple[NDArray[Any], Any]]]]:
        """Rows of a piece, and two buffers for pieces in pinned memory, each with the event of its last copy."""
        rows = max(1, PIECE // (array.nbytes // len(array)))
        shape = (rows, *array.shape[1:])
        size = rows * array.nbytes // len(array)
        slots = []
        with self:
            for _ in range(2):
                memory = self.cp.cuda.alloc_pinned_memory(size)
                buffer = np.frombuffer(memory, array.dtype, size // array.dtype.itemsize).reshape(shape)
                slots.append((buffer, self.cp.cuda.Event()))
        try:
            yield rows, slots
        except BaseException:  # between a copy and its event, perhaps
            with self:
                self.cp.cuda.get_current_stream().synchronize()
            raise
        else:
            with self:
                for _, copied in slots:
                    copied.synchronize()  # before anybody else is given the buffers


class SentArrays:
    """Arrays of the host that are being copied to the device, kept until they are.

    Copying from memory that is not pinned, too, may go on when CUDA has returned: where a GPU reads the host's memory
    by itself, as beside NVIDIA's own processors.
    """

    def __init__(self, cp: Any, device: int) -> None:
        self._cp, self._device = cp, device
        self._arrays: list[NDArray[Any]] = []

    def keep(self, array: NDArray[Any]) -> None:
        self._stream = self._cp.cuda.get_current_stream()
        self._arrays.append(array)

    def forget(self) -> None:
        """Something that comes after them is done."""
        self._arrays.clear()

    def __del__(self) -> None:
        if self._arrays:
            with suppress(Exception), self._cp.cuda.Device(self._device):
                self._stream.synchronize()


class PendingAnswer:
    """An array of uint64 (size,) on its way to the host, again and again; what follows need not wait for it."""

    def __init__(self, gpu: Transfers, size: int) -> None:
        self._gpu = gpu
        self._end = 0  # of what was launched before it was sent for
        with gpu:
            self._buffer = np.frombuffer(gpu.cp.cuda.alloc_pinned_memory(8 * size), np.uint64, size)
            self._arrived = gpu.cp.cuda.Event()

    def send_for(self, array: Any) -> None:
        self._end = self._gpu.launched.end
        self._stream = self._gpu.cp.cuda.get_current_stream()
        with self._gpu:
            array.get(out=self._buffer, blocking=False)
            self._arrived.record()

    def wait(self) -> NDArray[np.uint64]:
        """What arrived, there until the next is sent for."""
        with self._gpu:
            self._arrived.synchronize()
        self._gpu.launched.answered(self._end)
        return self._buffer

    def __del__(self) -> None:
        # The buffer must not be given to anybody else before. An event may be missing after Ctrl-C. What fails here is
        # told where it matters.
        with suppress(Exception), self._gpu.cp.cuda.Device(self._gpu.number):  # default streams are the current one's
            self._stream.synchronize()


class Prefetch:
    """A stream beside the current one: what is done in this context comes to the device while kernels of the current
    stream work on other things, and is there for what follows `arrive`.

    CuPy's pool gives memory back to the stream that it was allocated on. So memory allocated here may have been that of
    arrays which the current stream was given work on before the last `arrive`, but not after it: copies here wait for
    the former, which is done by then if its answers were waited for, and overlap the latter.
    """

    def __init__(self, cp: Any) -> None:
        self._cp = cp
        self.launched = Launched()  # see CudaErrors
        self._stream: Any = None

    def __enter__(self) -> None:
        if self._stream is None:
            self._arrived, self._before = self._cp.cuda.Event(), self._cp.cuda.Event()
            self._before.record()
            # The default stream, usually the current one, waits for all others but those that do not block.
            self._stream = self._cp.cuda.Stream(non_blocking=True)
        self._stream.wait_event(self._before)
        self._stream.__enter__()

    def __exit__(self, kind: type | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._stream.__exit__(kind, error, trace)
        if error is None:
            self._arrived.record(self._stream)

    def arrive(self) -> None:
        stream = self._cp.cuda.get_current_stream()
        self._before.record(stream)
        stream.wait_event(self._arrived)


def _copy(target: NDArray[Any], source: NDArray[Any]) -> None:
    """By all threads: one alone is slower than the bus."""
    threads = thread_count()
    step = -(-len(source) // threads)
    spans = [slice(a, a + step) for a in range(0, len(source), step)]
    run(lambda rows: np.copyto(target[rows], source[rows]), spans, threads)
