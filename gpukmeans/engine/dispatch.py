"""Which engine holds rows, on one device or several; the only place that chooses a Points.

What a picture on the CPU does without is imported where it is needed
(test_import.test_a_picture_takes_no_scikit_learn).
"""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import replace
from functools import partial
from itertools import pairwise
from typing import TYPE_CHECKING, Any, cast

import numpy as np

from gpukmeans.array_interop import is_cupy
from gpukmeans.engine.devices import gpus
from gpukmeans.engine.numpy import tuning
from gpukmeans.engine.numpy.choice import on_numpy, stacks_on_numpy, starts_on_numpy
from gpukmeans.engine.protocol import MakeStarts, Points, Samples, Stacks
from gpukmeans.errors import DeviceError, DeviceLost
from gpukmeans.exact.sparse_rows import Entries
from gpukmeans.row_sources.base import RowSource
from gpukmeans.row_sources.memory import array_within

if TYPE_CHECKING:
    from gpukmeans.engine.combine.out_of_memory import Batches
    from gpukmeans.engine.cuda.points import CudaPoints

# Values of a part of the data, at least: one GPU has done with a million pixels before another could be asked.
PART = 2**22


def make_points(samples: Samples, *, device: str) -> Points:
    """The Points for these samples, on a device that `devices.resolve` returned."""
    if device == "cpu":
        return in_pieces(samples) if isinstance(samples.x, RowSource) else on_numpy(samples)
    import cupy

    n, d = samples.shape
    samples = _in_order(samples)
    numbers = _numbers(device, n, len(samples.x.values) if samples.sparse else n * d)
    return on_gpu(cupy, samples) if len(numbers) == 1 else on_gpus(cupy, numbers, samples)


def _numbers(device: str, n: int, values: int) -> list[int]:
    """Of GPUs that rows are shared out to."""
    return gpus(device)[: max(1, min(n, values // PART))]


def in_pieces(samples: Samples) -> Batches:
    """NumPyPoints of one piece of a RowSource after another, within its limit."""
    from gpukmeans.engine.combine.out_of_memory import Batches
    from gpukmeans.engine.numpy.piece import Piece

    n, source = samples.shape[0], samples.x

    def make(rows: slice, ahead: bool) -> Piece:
        return Piece(samples.part(rows), ahead)

    # Of two at least, as the only one would be kept.
    return Batches(make, n, samples, rows=min(source.step, -(-n // 2)), array=partial(array_within, source.limit))


def make_stacks(values: int, *, device: str) -> Stacks | None:
    """What makes a Stack of problems on the device, the first of several GPUs, or None if that has none: of so many
    values altogether."""
    if device == "cpu":
        return stacks_on_numpy(values)
    import cupy

    from gpukmeans.engine.cuda.stacks import stacks_on_gpu

    return stacks_on_gpu(cupy)


def make_starts(x: Any, k: int, starts: int, *, device: str) -> MakeStarts | None:
    """What makes a Stack of so many starts with k centers of one problem x, or None where these are sooner made one
    after another, or that is all the device has. Of Dask's rows the device is none, but what workers are to choose."""
    if not isinstance(x, np.ndarray) and not is_cupy(x):
        return None
    if device == "cpu":
        return starts_on_numpy(x, k, starts)
    import cupy

    if tuning.current().whole is False:
        return None
    if len(_numbers(device, len(x), x.size)) > 1:
        return None
    from gpukmeans.engine.cuda.stacks import starts_on_gpu

    return starts_on_gpu(cupy, x, k, starts)


def on_gpu(cp: Any, samples: Samples, part: slice | None = None) -> Batches:
    """CudaPoints, or CudaSparsePoints, on the current GPU, of all rows or, where memory is short, of batches; cp: CuPy.

    part: of which rows, all unless told; the others are somewhere else.
    """
    from gpukmeans.engine.combine.out_of_memory import Batches
    from gpukmeans.engine.cuda.errors import CudaErrors
    from gpukmeans.engine.cuda.points import CudaPoints
    from gpukmeans.engine.cuda.sparse_points import CudaSparsePoints
    from gpukmeans.engine.cuda.transfer import Prefetch

    there = isinstance(samples.x, cp.ndarray) and part is None
    first, end = (0, samples.shape[0]) if part is None else (part.start, part.stop)
    prefetch = Prefetch(cp)
    kind = CudaSparsePoints if samples.sparse else CudaPoints
    samples = _in_order(samples)

    if samples.k is not None:
        _compile_ahead(cp, samples, samples.k)

    def make(rows: slice, ahead: bool) -> CudaPoints:
        rows = slice(first + rows.start, first + rows.stop)
        single_batch = rows == slice(first, end)
        return kind(
            cp,
            samples.part(rows),
            keep_on_device=there and single_batch,
            ahead=prefetch if ahead else None,
            single_batch=single_batch,
        )

    def free() -> int:
        pool = cp.get_default_memory_pool()
        before = pool.total_bytes()
        with CudaErrors(cp):
            pool.free_all_blocks()
        return int(before - pool.total_bytes())

    answer = cp.asarray if there else np.asarray
    array = partial(array_within, samples.x.limit) if isinstance(samples.x, RowSource) else np.empty
    return Batches(make, end - first, samples, answer, free, array=array)


def _compile_ahead(cp: Any, samples: Samples, k: int) -> None:
    """Begin with the kernels that these rows will need on the current GPU, while they cross the bus."""
    from gpukmeans.engine.cuda import compile, families
    from gpukmeans.engine.cuda.device import OWN_PRODUCTS, TENSOR_CORES, capability_of

    capability = capability_of(cp, int(cp.cuda.Device().id))
    weights = None if samples.weights is None else samples.weights.dtype
    wanted = families.of_a_fit(
        dtype=samples.x.dtype,
        weights=weights,
        n=samples.shape[0],
        d=samples.shape[1],
        k=k,
        sparse=samples.sparse,
        normalizes=samples.metric.normalizes,
        reused=samples.reused,
        tensor_cores=capability in TENSOR_CORES,
        own_products=OWN_PRODUCTS.get(capability),
    )
    with suppress(RuntimeError, OSError):  # what is wrong is told where a kernel is needed
        compile.begin(cp, wanted)


def on_gpus(cp: Any, numbers: list[int], samples: Samples) -> Points:
    """The same on several GPUs, each with as many rows. If the rows are on one, that is the current one. What one of
    them had when it failed another takes over, as long as there is any."""
    from gpukmeans.engine.combine.multi_device import Parallel
    from gpukmeans.engine.combine.replay import Replayed

    n = samples.shape[0]
    there = isinstance(samples.x, cp.ndarray)
    if there:
        # Other GPUs' streams do not wait for what makes x, nor for what CuPy would make of it to copy it.
        samples = replace(samples, x=cp.ascontiguousarray(samples.x))
        cp.cuda.get_current_stream().synchronize()
    bounds = [n * i // len(numbers) for i in range(len(numbers) + 1)]
    slices = [slice(a, b) for a, b in pairwise(bounds)]
    gpus_of = _Gpus(cp, numbers)
    parts = [Replayed(partial(on_gpu, cp, samples, rows), partial(gpus_of.enter, i)) for i, rows in enumerate(slices)]
    return Parallel(cast(Sequence[Points], parts), slices, samples, answer=cp.asarray if there else np.asarray)


class _Gpus:
    """Which of several GPUs each part is on: each on its own, until one fails. Then its parts go to those that have the
    fewest."""

    def __init__(self, cp: Any, numbers: list[int]) -> None:
        self._cp, self._of = cp, list(numbers)
        self._alive = list(numbers)
        self._moved = threading.Lock()
        self._in_use = {number: threading.Lock() for number in numbers}
        self._streams: dict[tuple[int, int], Any] = {}

    @contextmanager
    def enter(self, i: int) -> Iterator[None]:
        """The context of the GPU that part i is on, for one part at a time."""
        number = self._of[i]
        # A stream for each, since threads may have streams of their own, and any thread may be the one that enters.
        with self._in_use[number], self._cp.cuda.Device(number):
            if (i, number) not in self._streams:
                self._streams[i, number] = self._cp.cuda.Stream(non_blocking=True)
            try:
                with self._streams[i, number]:
                    yield
            except DeviceLost as error:
                self._move(i, number, error)
                raise

    def _move(self, i: int, number: int, error: DeviceLost) -> None:
        with self._moved:
            if number in self._alive:
                self._alive.remove(number)
            if not self._alive:
                raise DeviceError(str(error)) from error
            self._of[i] = min(self._alive, key=self._of.count)


def _in_order(samples: Samples) -> Samples:
    """The same, sparse rows as Entries, of which parts are no copies."""
    return replace(samples, x=Entries.of(samples.x)) if samples.sparse else samples
