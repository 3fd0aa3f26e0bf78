"""Points on a GPU: the rows stay in device memory, the kernels of `kernels/` do the work.

Everything of size n lives on the device from the first call on; what crosses the bus in an iteration is
centers one way and sums the other. The kernels compute what exact.py defines; the tests run them on a
CPU too, with an object of the same few methods in CuPy's place, which is why CuPy is an argument here.
"""

from __future__ import annotations

from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gpukmeans.exact import Floats, Frame, Inertia, Ints, Scales, Weights
from gpukmeans.points.base import Farthest

X_KINDS = {"uint8": 0, "float16": 1, "float32": 2, "float64": 3}

# Up to this many features a thread holds whole rows in registers (kernels/assign.cu).
FEW_FEATURES = 16

# Threads to a block. Eight warps hide latency where each thread has a row to itself.
BLOCK = 256

# As assign_few has it: centers of a group, and floats between groups in shared memory, which read other banks then.
GROUP, GROUP_PADDING = 8, 4

# As assign_many has it: rows and centers that a block compares at a time, and features at a time.
TILE, DEPTH = 128, 8

# |z|^2 of centers that are nobody's, above all scores.
NEVER = np.finfo(np.float32).max

# Rows of a run in seed.cu, and threads of the blocks that scan them: as many as a block can have.
RUN = 1024

# Blocks to a multiprocessor: eight of 256 threads are as many as it holds at once (2,048 threads).
RESIDENT = 8

# Shared memory that every CUDA device gives to a block without being asked.
SHARED = 48 * 1024

# Rows of an upload or a table of distances at a time: 64 MB of values.
PIECE = 2**23


@cache
def _module(cp: Any, family: str, options: tuple[str, ...]) -> Any:
    folder = Path(str(files("gpukmeans.kernels")))
    code = (folder / f"{family}.cu").read_text()
    return cp.RawModule(code=code, options=("--std=c++17", f"-I{folder}", *options))


class CudaPoints:
    """x (n, d) of dtype uint8, float16, float32 or float64, in host memory; see NumPyPoints for the rest.

    cp: CuPy, or what stands in its place.
    """

    def __init__(
        self,
        cp: Any,
        x: NDArray[Any],
        weights: Floats | Ints | None = None,
        summary: Weights | None = None,
        lasting: bool = True,
    ) -> None:
        self.n, self.d = x.shape
        self.weights = summary or Weights.of_rows(self.n)
        self.uncertain = 0  # points that scores left to D, over all assignments
        self._cp, self._lasting = cp, lasting
        self._x = self._upload(x)
        self._nothing = cp.zeros(1, np.float64)  # for arguments that a kernel will not read
        self._w = self._nothing if weights is None else self._upload(weights)
        kind = 0 if weights is None else 1 if weights.dtype == np.int64 else 2
        self._options = (f"-DX_KIND={X_KINDS[x.dtype.name]}", f"-DWEIGHT_KIND={kind}", f"-DRUN={RUN}")
        self._blocks = RESIDENT * cp.cuda.Device().attributes["MultiProcessorCount"]
        self._k = 0
        self._closest: Any = None
        self._offset = self._scale = self._nothing  # until `prepare`
        self._unit = 2.0**self.weights.exponent

    # ------------------------------------------------------------ launching

    def _upload(self, array: NDArray[Any]) -> Any:
        """The array on the device, a piece at a time: a whole copy in C order is never made on the host."""
        if array.flags.c_contiguous and array.flags.aligned:
            return self._cp.asarray(array)
        result = self._cp.empty(array.shape, array.dtype)
        step = max(1, PIECE // max(1, array[:1].size))
        for a in range(0, len(array), step):
            result[a : a + step].set(np.ascontiguousarray(array[a : a + step]))
        return result

    def _launch(
        self, family: str, name: str, threads: int, *args: Any, options: tuple[str, ...] = (), shared: int = 0
    ) -> None:
        """Run a kernel over as many threads as given, or as many as fit at once: it strides over the rest."""
        blocks = max(1, min(self._blocks, -(-threads // BLOCK)))
        self._run(family, name, blocks, BLOCK, *args, options=options, shared=shared)

    def _run(
        self,
        family: str,
        name: str,
        blocks: int,
        block: int,
        *args: Any,
        options: tuple[str, ...] = (),
        shared: int = 0,
    ) -> None:
        function = _module(self._cp, family, (*self._options, *options)).get_function(name)
        function((blocks,), (block,), args, shared_mem=shared)

    def _rows(self) -> tuple[Any, np.int64, np.int32]:
        """The arguments that most kernels begin with."""
        return self._x, np.int64(self.n), np.int32(self.d)

    def _put(self, array: NDArray[Any]) -> Any:
        return self._cp.asarray(np.ascontiguousarray(array))

    def _zeros(self, shape: int | tuple[int, ...], dtype: Any) -> Any:
        return self._cp.zeros(shape, dtype)

    def _get(self, array: Any) -> NDArray[Any]:
        return self._cp.asnumpy(array)

    # ------------------------------------------------------------ preparation

    def extent(self) -> tuple[Floats, Floats]:
        keys = np.zeros((2, self.d), np.uint64)
        keys[0] = ~np.uint64(0)
        device, nan = self._cp.asarray(keys), self._zeros(1, np.int32)
        size = 2 * self.d * 8
        folded = size <= SHARED
        blocks = max(-(-self.d // BLOCK), min(self._blocks, -(-self.n * self.d // BLOCK)))
        shared = size if folded else 0
        self._run("extent", "extent", blocks, BLOCK, *self._rows(), np.int32(folded), device, nan, shared=shared)
        low, high = _doubles(self._get(device))
        if self._get(nan)[0]:
            low, high = np.full((2, self.d), np.nan)
        self._frame = Frame.of(low, high)
        if self._frame is not None:
            self._offset_in_frame = self._put(self._in_frame(np.pad(self._frame.offset, (0, -self.d % DEPTH))))
        return low, high

    def prepare(self, scales: Scales) -> None:
        self._offset, self._scale = self._cp.asarray(scales.offset), self._cp.asarray(scales.scale)

    # ------------------------------------------------------------ assignment and update

    def assign(self, centers: Floats) -> int:
        k = len(centers)
        if k != self._k:
            self._k = k
            self._labels, self._next = (self._cp.empty(self.n, np.int32) for _ in range(2))
            self._labels.fill(-1)
            self._device_sums = self._zeros((k, self.d + 1), np.uint64)
        self._propose(centers)
        counts = self._zeros(2, np.uint64)
        size = 8 * k * (self.d + 1)
        summing = 0 if not self._lasting else 2 if size <= SHARED else 1
        self._launch(
            *("settle", "settle", self.n, *self._rows(), self._put(centers), np.int32(k)),
            *(self._w, self._offset, self._scale, np.float64(self._unit), np.int32(summing)),
            *(self._next, self._labels, self._device_sums, counts),
            shared=size if summing == 2 else 0,
        )
        changed, decided = self._get(counts).tolist()
        self.uncertain += decided
        return changed

    def _propose(self, centers: Floats) -> None:
        """Labels where scores are certain, -1 elsewhere."""
        frame = self._frame
        scores = frame.centers(centers) if frame is not None else None
        if frame is None or scores is None:
            self._next.fill(-1)
            return
        columns, largest_z = scores
        margin = (*frame.margin_factors(largest_z), self._next)
        where = (self._offset_in_frame, self._in_frame(frame.scale))
        if self.d <= FEW_FEATURES:
            columns = _padded(columns, 1, GROUP)
            size = 4 * (columns.shape[0] * GROUP + GROUP_PADDING)
            groups = columns.shape[1] // GROUP
            tile = min(groups, SHARED // size)
            # 16 or fewer values of a row fit the registers four, or beyond eight two at a time.
            rows_each = 4 if self.d <= 8 else 2
            self._launch(
                *("assign_few", "assign_few", -(-self.n // rows_each), self._x, np.int64(self.n), *where),
                *(self._put(columns), np.int32(columns.shape[1]), np.int32(tile), *margin),
                options=(f"-DD_FEW={self.d}",),
                shared=tile * size,
            )
        else:
            columns = _padded(columns, DEPTH, TILE)
            depth, tiles = columns.shape[0] - 1, columns.shape[1] // TILE
            blocks = min(self._blocks, -(-self.n // TILE))
            self._run(
                *("assign_many", "assign_many", blocks, BLOCK, *self._rows(), np.int32(depth), *where),
                *(self._put(columns.reshape(depth + 1, tiles, TILE).swapaxes(0, 1)), np.int32(tiles), *margin),
            )

    def _in_frame(self, value: Any) -> Any:
        """An offset or a scale of the frame in the type that rows are brought into it with (kernels/assign.cuh)."""
        return (np.float64 if self._x.dtype == np.float64 else np.float32)(value)

    def sums(self) -> Ints:
        return self._get(self._device_sums).view(np.int64)

    def labels(self) -> NDArray[np.int32]:
        return self._get(self._labels)

    # ------------------------------------------------------------ distances

    def inertia(self, centers: Floats, split: Inertia) -> tuple[int, int]:
        sums = self._zeros(2, np.uint64)
        labels = self._labels if len(centers) > 1 else self._zeros(1, np.int32)
        self._launch(
            *("distance", "inertia", self.n, *self._rows(), self._put(centers), labels),
            *(
                np.int32(len(centers) > 1),
                self._w,
                np.float64(2.0**split.coarse_bits),
                np.float64(2.0**split.fine_bits),
            ),
            sums,
        )
        coarse, fine = self._get(sums).view(np.int64).tolist()
        return coarse, fine

    def farthest(self, centers: Floats, m: int) -> Farthest:
        cp = self._cp
        distance = cp.empty(self.n, np.float64)
        device = self._put(centers)
        self._launch("distance", "own_distances", self.n, *self._rows(), device, self._labels, distance)
        n = np.int64(self.n)
        locations = []
        for _ in range(m):
            found = cp.asarray(np.array([0, ~np.uint64(0)], np.uint64))
            self._launch("distance", "farthest", self.n, distance, n, found)
            largest = float(self._get(found)[:1].view(np.float64)[0])
            if largest == 0:
                break
            self._launch("distance", "first_farthest", self.n, distance, n, found)
            term, x, label = self._zeros(self.d + 1, np.uint64), cp.empty(self.d, np.float64), cp.empty(1, np.int32)
            self._launch(
                *("distance", "take_farthest", self.n, *self._rows(), self._labels, self._w, self._offset, self._scale),
                *(np.float64(self._unit), found, distance, term, x, label),
            )
            locations.append((largest, self._get(x), int(self._get(label)[0]), self._get(term).view(np.int64)))
        return Farthest.of(locations, self.d)

    def distances(self, centers: Floats) -> Floats:
        k = len(centers)
        result = np.empty((self.n, k))
        device = self._put(centers)
        step = max(1, PIECE // k)
        table = self._cp.empty((min(step, self.n), k), np.float64)
        for a in range(0, self.n, step):
            rows = min(step, self.n - a)
            x = self._x[a : a + rows]
            self._launch(
                "distance", "distances", rows * k, x, np.int64(rows), np.int32(self.d), device, np.int32(k), table
            )
            result[a : a + rows] = self._get(table[:rows])
        return result

    # ------------------------------------------------------------ seeding

    def restart(self) -> None:
        self._closest = None

    def _mass(self) -> tuple[Any, Any, np.float64, np.float64]:
        """The arguments that say what a row's mass is, by the last call of `total`."""
        closest = self._nothing if self._closest is None else self._closest
        return self._w, closest, np.float64(self._power), np.float64(self._unit)

    def total(self, exponent: int | None) -> int:
        self._power = 0.0 if exponent is None else 2.0**exponent
        count = -(-self.n // RUN)
        self._prefix = self._zeros(count, np.uint64)
        blocks = min(self._blocks, count)
        self._run("seed", "run_sums", blocks, BLOCK, np.int64(self.n), *self._mass(), self._prefix)
        self._run("seed", "prefix_sums", 1, RUN, self._prefix, np.int64(count))
        return int(self._get(self._prefix[count - 1 :])[0])

    def find(self, ranks: list[int]) -> Floats:
        rows = self._cp.empty((len(ranks), self.d), np.float64)
        tail = (self._prefix, np.int64(len(self._prefix)), self._cp.asarray(np.array(ranks, np.int64)), rows)
        self._run("seed", "find", len(ranks), RUN, *self._rows(), *self._mass(), *tail)
        return self._get(rows)

    def propose(self, candidates: Floats) -> None:
        self._candidates = self._put(candidates)

    def potentials(self, exponent: int, exact: bool) -> tuple[list[int], list[int]]:
        m = len(self._candidates)
        sums = self._zeros(m, np.uint64)
        self._launch(
            *("seed", "potentials", self.n, *self._rows(), self._w, self._closest, self._candidates, np.int32(m)),
            *(np.float64(2.0**exponent), sums),
        )
        totals = self._get(sums).tolist()
        return totals, totals

    def accept(self, candidate: int) -> float:
        first = self._closest is None
        if first:
            self._closest = self._cp.empty(self.n, np.float64)
        largest = self._zeros(1, np.uint64)
        center = self._candidates[candidate : candidate + 1]
        self._launch("seed", "accept_center", self.n, *self._rows(), center, np.int32(first), self._closest, largest)
        return float(self._get(largest).view(np.float64)[0])


def _padded(columns: NDArray[np.float32], depth: int, width: int) -> NDArray[np.float32]:
    """Frame.centers' columns (d + 1, k) with |z|^2 first, d and k rounded up to multiples of depth and width."""
    d, k = columns.shape[0] - 1, columns.shape[1]
    result = np.zeros((1 + d + -d % depth, k + -k % width), np.float32)
    result[0, k:] = NEVER
    result[0, :k] = columns[d]
    result[1 : d + 1, :k] = columns[:d]
    return result


def _doubles(keys: NDArray[np.uint64]) -> Floats:
    """The doubles of the integers of the same order, see order_key in kernels/common.cuh."""
    sign = np.uint64(1 << 63)
    return np.where(keys & sign, keys ^ sign, ~keys).view(np.float64)
