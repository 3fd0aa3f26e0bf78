"""The GPU's side of seeding: D to the closest center so far, masses of it, and rows by rank in their sums.

Launches kernels/seed.cu. The host decides twice for each center of k-means++, which rows its draws are and which of
them it keeps, and has to wait for what it decides by. What is needed next in all likelihood is launched with that: the
candidates' potentials behind their rows, and behind a center the next total, at the scale of the last.

Each row has an owner, the number of its closest center so far. Once candidates are found, so is how far they are from
these centers, and most rows need not be read.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from gpukmeans.exact import Floats, Weights
from gpukmeans.points.gpu import BLOCK, Gpu

# Rows of a run in seed.cu: the four that each thread of a block scans. 10^8 rows have 10^5 runs, which one block scans
# in 100 steps.
RUN = 4 * BLOCK

# So many rows are taken for candidates of k-means++, which has 2 + log(k): fifteen for a million clusters.
MOST_CANDIDATES = 16

NO_CENTERS = np.zeros(0, np.int64)


def padded(m: int) -> int:
    """Columns of so many candidates in memory, as seed.cu shares them out among lanes."""
    return 4 if m <= 4 else 8 if m <= 8 else -(-m // 16) * 16


class Seeds:
    """What seeding knows of n rows that weigh w, on the device. Methods are those of Points, and take the rows as
    kernels do: x, n, d.

    closest: (n,) float64 D to the closest center so far, None before the first.
    """

    def __init__(self, gpu: Gpu, w: Any, weights: Weights) -> None:
        self._gpu, self._w = gpu, w
        self._unit = np.float64(2.0**weights.exponent)
        self.restart()

    def restart(self) -> None:
        self.closest: Any = None
        self._power = 0.0  # of the masses that prefix sums are of; 0 for weights
        self._ahead: int | None = None  # the total of masses as they are, if it is known
        # The rows that are centers so far, and whose closest each row has; none if only D to them is known.
        self._centers, self._owners = NO_CENTERS, self._gpu.nothing.view(np.int32)
        self._forget_found()

    def _forget_found(self) -> None:
        """The rows last found: on the device as columns, by their bytes, their numbers, and their potentials."""
        self._columns: Any = None
        self._count = 0
        self._places: dict[bytes, int] = {}
        self._numbers = NO_CENTERS
        self._potentials: list[int] = []
        self._limits: Any = None  # on D, by owner and candidate, of rows that need a look

    def total(self, n: int, exponent: int | None) -> int:
        power = 0.0 if exponent is None else 2.0**exponent
        ahead, self._ahead = self._ahead, None
        if ahead is not None and power == self._power:
            return ahead
        self._power, self._potentials = power, []
        answer = self._gpu.zeros(1, np.uint64)
        self._add_up(n, answer)
        return int(self._gpu.get(answer)[0])

    def _mass(self) -> tuple[Any, Any, np.float64, np.float64]:
        """The arguments that say what a row's mass is."""
        closest = self._gpu.nothing if self.closest is None else self.closest
        return self._w, closest, np.float64(self._power), self._unit

    def _add_up(self, n: int, answer: Any) -> None:
        """Launch prefix sums of runs, and their total for the answer."""
        count = -(-n // RUN)
        self._prefix = self._gpu.zeros(count, np.uint64)
        blocks = min(self._gpu.blocks, count)
        self._gpu.run("seed", "run_sums", blocks, BLOCK, np.int64(n), *self._mass(), self._prefix)
        self._gpu.run("seed", "prefix_sums", 1, min(RUN, BLOCK), self._prefix, np.int64(count), answer)

    def find(self, x: Any, n: np.int64, d: np.int32, ranks: list[int]) -> Floats:
        m, width = len(ranks), padded(len(ranks))
        weigh = self.closest is not None and self._power > 0 and m <= MOST_CANDIDATES
        owners = len(self._centers) if weigh else 0
        limits = self._gpu.empty(owners * width, np.float64) if owners else None
        size = int(d) * width
        # The columns, their rows' numbers, and what `potentials` tells of each and of all.
        answers = self._gpu.zeros(size + m + m + 1, np.float64)
        columns, numbers = answers[:size], answers[size : size + m].view(np.int64)
        sent = self._gpu.put(np.concatenate([np.array(ranks, np.int64), self._centers[:owners]]))
        tail = (self._prefix, np.int64(len(self._prefix)), sent, np.int32(owners), np.int32(width), columns, numbers)
        given = self._gpu.nothing if limits is None else limits
        self._gpu.run("seed", "find", m, min(RUN, BLOCK), x, n, d, *self._mass(), *tail, given)
        if weigh:
            self._weigh(x, n, d, columns, m, limits, self._power, answers[size + m :].view(np.uint64))
        host = self._gpu.get(answers)
        found = np.ascontiguousarray(host[:size].reshape(int(d), width)[:, :m].T)
        self._forget_found()
        if m <= MOST_CANDIDATES:
            self._columns, self._limits, self._count = columns, limits, m
            self._places = {row.tobytes(): i for i, row in enumerate(found)}
            self._numbers = host[size : size + m].view(np.int64)
            self._potentials = _totals(host[size + m :]) if weigh else []
        return found

    def _weigh(
        self, x: Any, n: np.int64, d: np.int32, columns: Any, m: int, limits: Any, power: float, sums: Any
    ) -> None:
        """Launch what each of m candidates would leave: sums (m + 1,), as `_totals` takes them."""
        self._gpu.launch(
            *("seed", "potentials", int(n), x, n, d, self._w, self.closest, columns, np.int32(m), np.int32(padded(m))),
            *(*self._limited(limits), np.float64(power), sums),
        )

    def _limited(self, limits: Any) -> tuple[np.int32, Any, Any]:
        """The arguments that say which rows need a look."""
        return np.int32(limits is not None), self._owners, self._gpu.nothing if limits is None else limits

    def propose(self, candidates: Floats) -> None:
        keys = [candidate.tobytes() for candidate in candidates]
        if not all(key in self._places for key in keys):
            self._forget_found()
            columns = np.zeros((candidates.shape[1], padded(len(keys))))
            columns[:, : len(keys)] = candidates.T
            self._columns, self._count = self._gpu.put(columns.reshape(-1)), len(keys)
            self._places = {key: i for i, key in enumerate(keys)}
        self._proposed = [self._places[key] for key in keys]

    def potentials(self, x: Any, n: np.int64, d: np.int32, exponent: int) -> list[int]:
        if not self._potentials:
            sums = self._gpu.zeros(self._count + 1, np.uint64)
            self._weigh(x, n, d, self._columns, self._count, self._limits, 2.0**exponent, sums)
            self._potentials = _totals(self._gpu.get(sums))
        return [self._potentials[i] for i in self._proposed]

    def accept(self, x: Any, n: np.int64, d: np.int32, candidate: int, memory: Any) -> float:
        """memory: (n,) float64 for `closest`, should this be the first."""
        first = self.closest is None
        closest = memory if first else self.closest
        place = self._proposed[candidate]
        answers = self._gpu.zeros(2, np.uint64)
        # Owners are known from the first center on, or never.
        known = len(self._numbers) > 0 and (first or len(self._centers) > 0)
        owners = self._gpu.empty(int(n), np.int32) if known and first else self._owners
        number = len(self._centers) if known else -1
        width = len(self._columns) // int(d)
        self._gpu.launch(
            *("seed", "accept_center", int(n), x, n, d, self._columns, np.int32(place), np.int32(width)),
            *(np.int32(first), *self._limited(self._limits)[::2], np.int32(number), closest, owners, answers[:1]),
        )
        self.closest, self._owners = closest, owners
        self._centers = np.append(self._centers, self._numbers[place]) if known else NO_CENTERS
        self._limits = None  # they were for the owners before
        return self._left(int(n), answers)

    def accept_all(self, x: Any, n: np.int64, d: np.int32, centers: Floats, labels: Any) -> float:
        answers = self._gpu.zeros(2, np.uint64)
        self._centers, self._limits = NO_CENTERS, None
        self._gpu.launch(
            "seed", "accept_all", int(n), x, n, d, self._gpu.put(centers), labels, self.closest, answers[:1]
        )
        return self._left(int(n), answers)

    def _left(self, n: int, answers: Any) -> float:
        """The largest D that remains, the first of the answers; the total comes with it, for whoever asks next."""
        self._ahead, self._potentials = None, []  # they were of what was left before
        if self._power > 0:
            self._add_up(n, answers[1:])
        host = self._gpu.get(answers)
        self._ahead = int(host[1]) if self._power > 0 else None
        return float(host[:1].view(np.float64)[0])


def _totals(sums: NDArray[Any]) -> list[int]:
    """What each candidate would leave, of how each would change the sum of all masses, and that sum last."""
    whole = sums.view(np.int64)
    return (whole[:-1] + whole[-1]).tolist()
