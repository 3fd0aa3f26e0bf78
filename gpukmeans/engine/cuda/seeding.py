"""The GPU's side of seeding: D to the closest center so far, masses of it, and rows by rank in their sums.

Launches kernels/kmeans_plusplus.cu. In k-means++ each step's decisions need sums over all rows; the device makes them
too, by the same integers as gpukmeans/seeding.py, so that steps follow each other and nobody waits (`accept_drawn`).
Each row has an owner then, its closest center so far. When candidates are found, so is how far they are from these
centers, and no row is read whose owner is nearer to it than it could be to any of them.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from gpukmeans.engine.cuda.device import BLOCK, Gpu
from gpukmeans.exact.distance import Floats
from gpukmeans.exact.fixed_point import SUM_BITS, Weights, ceil_log2

# Rows of a run in kmeans_plusplus.cu: the four that each thread of a block scans. 10^8 rows have 10^5 runs, which one
# block scans in 100 steps.
RUN = 4 * BLOCK

# Blocks to a multiprocessor that potentials has registers for.
RESIDENT = 3

# Owners to a block that finds a candidate: a thread takes four at most.
OWNERS = 4 * BLOCK


def padded(m: int) -> int:
    """Columns of so many candidates in memory, as kmeans_plusplus.cu shares them out among lanes."""
    return 4 if m <= 4 else 8 if m <= 8 else -(-m // 16) * 16


class Seeds:
    """What seeding knows of n rows that weigh w, on the device. Methods are those of Points, and take the rows as
    kernels do: x, n, d.

    closest: (n,) float64 D to the closest center so far, None before the first.
    """

    def __init__(self, gpu: Gpu, w: Any, weights: Weights) -> None:
        self._gpu, self._w = gpu, w
        self._weight_scale = np.float64(2.0**weights.exponent)
        self._room = np.int32(SUM_BITS - ceil_log2(weights.total))
        self._none = gpu.nothing.view(np.uint64)
        self.restart()

    def restart(self) -> None:
        self.closest_dist_sq: Any = None
        self._power = np.float64(0.0)  # of the masses that prefix sums are of; 0 for weights
        self._found: tuple[bytes, int] | None = None  # the row found last, if it was one, and its number
        # The row that is the only center, if it was found
        # (test_kernel_seeding.test_the_device_goes_on_from_a_center_that_it_found fails if another was).
        self._first: int | None = None

    def total(self, n: np.int64, exponent: int | None) -> int:
        self._power = np.float64(0.0 if exponent is None else 2.0**exponent)
        count = -(-int(n) // RUN)
        answer, self._prefix = self._gpu.empty(1, np.uint64), self._gpu.empty(count, np.uint64)
        by_host = self._none, self._room, np.int32(0)
        blocks, block = min(self._gpu.blocks, count), min(RUN, BLOCK)
        self._gpu.run("kmeans_plusplus", "run_sums", blocks, block, n, *self._mass(), *by_host, self._prefix)
        nobody = self._gpu.nothing, np.int32(0), self._none.view(np.int64), self._none, np.int32(0)
        self._gpu.run(
            "kmeans_plusplus", "prefix_sums", 1, block, self._prefix, np.int64(count), answer, np.int32(0), *nobody
        )
        return int(self._gpu.get(answer)[0])

    def _mass(self) -> tuple[Any, Any, np.float64, np.float64]:
        """The arguments that say what a row's mass is."""
        closest_dist_sq = self._gpu.nothing if self.closest_dist_sq is None else self.closest_dist_sq
        return self._w, closest_dist_sq, self._power, self._weight_scale

    def find(self, x: Any, n: np.int64, d: np.int32, ranks: list[int]) -> Floats:
        m, width = len(ranks), padded(len(ranks))
        size = int(d) * width
        answers = self._gpu.empty(size + m, np.float64)
        columns, numbers, none = answers[:size], answers[size:].view(np.int64), self._none.view(np.int64)
        self._gpu.run(
            *(
                "kmeans_plusplus",
                "find",
                m,
                min(RUN, BLOCK),
                x,
                n,
                d,
                *self._mass(),
                self._none,
                self._room,
                np.int32(0),
            ),
            *(self._prefix, np.int64(len(self._prefix)), self._gpu.put(np.array(ranks, np.int64)), np.int32(m)),
            *(np.int32(width), columns, numbers, none, np.int32(0), self._gpu.nothing, self._none),
        )
        host = self._gpu.get(answers)
        found = np.ascontiguousarray(host[:size].reshape(int(d), width)[:, :m].T)
        self._found = (found.tobytes(), int(host[size:].view(np.int64)[0])) if m == 1 else None
        return found

    def propose(self, candidates: Floats) -> None:
        self._count, self._candidates = len(candidates), candidates
        columns = np.zeros((candidates.shape[1], padded(self._count)))
        columns[:, : self._count] = candidates.T
        self._columns = self._gpu.put(columns.reshape(-1))

    def potentials(self, x: Any, n: np.int64, d: np.int32, exponent: int) -> list[int]:
        """What each candidate would leave."""
        sums = self._gpu.zeros(self._count + 1, np.uint64)
        self._gpu.launch(
            *(
                "kmeans_plusplus",
                "potentials",
                int(n),
                x,
                n,
                d,
                self._w,
                self.closest_dist_sq,
                self._columns,
                np.int32(self._count),
            ),
            *(np.int32(padded(self._count)), np.int32(False), self._gpu.nothing.view(np.int32), self._none),
            *(np.float64(2.0**exponent), self._none, self._room, np.int32(0), sums),
            resident=RESIDENT,
        )
        whole = self._gpu.get(sums).view(np.int64)
        return (whole[:-1] + whole[-1]).tolist()

    def accept(self, x: Any, n: np.int64, d: np.int32, candidate: int, memory: Any) -> float:
        """memory: (n,) float64 for `closest_dist_sq`, should this be the first."""
        first = self.closest_dist_sq is None
        closest_dist_sq = memory if first else self.closest_dist_sq
        largest = self._gpu.zeros(1, np.uint64)
        self._gpu.launch(
            *("kmeans_plusplus", "accept_center", int(n), x, n, d, self._columns, np.int32(candidate)),
            *(np.int32(padded(self._count)), np.int32(first), closest_dist_sq, largest),
        )
        self.closest_dist_sq = closest_dist_sq
        found = self._found if first else None
        self._first = found[1] if found and found[0] == self._candidates[candidate].tobytes() else None
        return self._largest(largest)

    def accept_all(self, x: Any, n: np.int64, d: np.int32, centers: Floats, labels: Any) -> float:
        largest = self._gpu.zeros(1, np.uint64)
        self._gpu.launch(
            "kmeans_plusplus",
            "accept_all",
            int(n),
            x,
            n,
            d,
            self._gpu.put(centers),
            labels,
            self.closest_dist_sq,
            largest,
        )
        return self._largest(largest)

    def _largest(self, answer: Any) -> float:
        return float(self._gpu.get(answer).view(np.float64)[0])

    def accept_drawn(
        self, x: Any, n: np.int64, d: np.int32, draws: Floats, farthest: float
    ) -> tuple[Floats, NDArray[np.uint64], Floats]:
        """draws (steps, m) of k-means++ after its first center; farthest: the largest D to that.

        Returns, for the steps made, centers (made, d), and for these and the next the total mass and the largest D
        that remain: (made + 1,), or (steps,) and (steps + 1,). A step whose total is zero, and all after it, are not
        made. Should memory run out, steps may have been made.
        """
        gpu, features = self._gpu, int(d)
        steps, m = draws.shape
        if self._first is None or steps == 0:
            return np.empty((0, features)), np.empty(0, np.uint64), np.array([farthest])
        width, count = padded(m), -(-int(n) // RUN)
        centers_rows, left = np.zeros(steps + 1, np.int64), np.zeros(2 * steps + 1)
        centers_rows[0], left[steps] = self._first, farthest
        uniforms, rows, left = gpu.put(draws), gpu.put(centers_rows), gpu.put(left)
        totals, largest = left[:steps].view(np.uint64), left[steps:].view(np.uint64)
        centers, owners = gpu.empty(steps * features, np.float64), gpu.zeros(int(n), np.int32)
        columns, limits = gpu.zeros(features * width, np.float64), gpu.empty(steps * width, np.float64)
        prefix, ranks, numbers = gpu.empty(count, np.uint64), gpu.empty(m, np.int64), gpu.empty(m, np.int64)
        cleared = gpu.empty(m + 1 + steps, np.uint64)  # for every step: sums, and the least limits of owners
        sums, least = cleared[: m + 1], cleared[m + 1 :]

        blocks, block = min(gpu.blocks, count), min(RUN, BLOCK)
        # As kernels take them: numbers, and arguments that stand together.
        m_, width_, limited, by_device = np.int32(m), np.int32(width), np.int32(True), np.float64(-1.0)
        sampling_weights, runs = (
            (self._w, self.closest_dist_sq, by_device, self._weight_scale),
            (prefix, np.int64(count)),
        )
        for i in range(steps):
            step, owned = np.int32(i), np.int32(i + 1)
            scale, find_blocks = (largest, self._room, step), m * -(-(i + 1) // OWNERS)
            gpu.run("kmeans_plusplus", "run_sums", blocks, block, n, *sampling_weights, *scale, prefix)
            clears = np.int32(m + 1 + i + 1)
            gpu.run(
                "kmeans_plusplus", "prefix_sums", 1, block, *runs, totals, step, uniforms, m_, ranks, cleared, clears
            )
            gpu.run(
                *(
                    "kmeans_plusplus",
                    "find",
                    find_blocks,
                    block,
                    x,
                    n,
                    d,
                    *sampling_weights,
                    *scale,
                    *runs,
                    ranks,
                    m_,
                    width_,
                    columns,
                ),
                *(numbers, rows, owned, limits, least),
            )
            gpu.launch(
                *(
                    "kmeans_plusplus",
                    "potentials",
                    int(n),
                    x,
                    n,
                    d,
                    self._w,
                    self.closest_dist_sq,
                    columns,
                    m_,
                    width_,
                    limited,
                    owners,
                ),
                *(least, by_device, *scale, sums),
                resident=RESIDENT,
            )
            gpu.launch(
                *(
                    "kmeans_plusplus",
                    "accept_least",
                    int(n),
                    x,
                    n,
                    d,
                    columns,
                    width_,
                    sums,
                    m_,
                    totals,
                    step,
                    numbers,
                    limits,
                ),
                *(self.closest_dist_sq, owners, rows, centers, largest),
            )
        self._first = None
        host = gpu.get(left)
        masses = host[:steps].view(np.uint64)
        made = int(np.count_nonzero(masses))  # zero stays zero
        added = gpu.get(centers).reshape(steps, features)[:made]
        return added, masses[: made + 1], host[steps : steps + made + 1]
