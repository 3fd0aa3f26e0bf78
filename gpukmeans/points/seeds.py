"""The GPU's side of seeding: D to the closest center so far, masses of it, and rows by rank in their sums.

Launches kernels/seed.cu. The host decides twice for each center of k-means++, which rows its draws are and which of
them it keeps, and has to wait for what it decides by. What is needed next in all likelihood is launched with that: the
candidates' potentials behind their rows, and behind a center the next total, at the scale of the last.

Each row has an owner, its closest center so far. When candidates are found, so is how far they are from these centers,
and no row is read whose owner is nearer to it than it could be to any of them.
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

# Blocks to a multiprocessor that potentials has registers for.
RESIDENT = 3

# Owners to a block that finds a candidate: a thread takes four at most.
OWNERS = 4 * BLOCK


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
        self._forget_owners()
        self._forget_found()

    def _forget_owners(self) -> None:
        """Which center is the closest to each row, if that is known of all: centers by their numbers as rows, on the
        host and the device, and owners (n,) by their place among these."""
        self._centers: list[int] = []
        self._on_device, self._owners = self._gpu.nothing.view(np.int64), self._gpu.nothing.view(np.int32)
        # On D, of rows that need a look: by owner and candidate found last, and each owner's least as kernels keep it.
        self._limits: tuple[Any, Any] | None = None

    def _forget_found(self) -> None:
        """The rows last found: on the device as columns, by their bytes, their numbers, and their potentials."""
        self._columns: Any = None
        self._count = 0
        self._places: dict[bytes, int] = {}
        self._numbers: list[int] = []
        self._numbered = self._gpu.nothing.view(np.int64)
        self._potentials: list[int] = []
        self._limits = None

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
        size = int(d) * width
        # The columns, their rows' numbers, and what `potentials` tells of each and of all; these come down. The least
        # limits of owners begin as zeros too.
        answered = size + m + m + 1
        answers = self._gpu.zeros(answered + owners, np.float64)
        columns, numbers = answers[:size], answers[size : size + m].view(np.int64)
        limits = None
        if owners:
            limits = self._gpu.empty(owners * width, np.float64), answers[answered:].view(np.uint64)
        blocks = m * max(1, -(-owners // OWNERS))
        place = self._gpu.put(np.array(ranks, np.int64)), np.int32(m), np.int32(width), columns, numbers
        among = self._on_device, np.int32(owners), *self._or_nothing(limits)
        prefix = self._prefix, np.int64(len(self._prefix))
        self._gpu.run("seed", "find", blocks, min(RUN, BLOCK), x, n, d, *self._mass(), *prefix, *place, *among)
        if weigh:
            self._weigh(x, n, d, columns, m, limits, self._power, answers[size + m : answered].view(np.uint64))
        host = self._gpu.get(answers[:answered])
        found = np.ascontiguousarray(host[:size].reshape(int(d), width)[:, :m].T)
        self._forget_found()
        if m <= MOST_CANDIDATES:
            self._columns, self._limits, self._count = columns, limits, m
            self._places = {row.tobytes(): i for i, row in enumerate(found)}
            self._numbers, self._numbered = host[size : size + m].view(np.int64).tolist(), numbers
            self._potentials = _totals(host[size + m :]) if weigh else []
        return found

    def _or_nothing(self, limits: tuple[Any, Any] | None) -> tuple[Any, Any]:
        """Limits for each candidate and the least of them, or what kernels will not read."""
        return limits or (self._gpu.nothing, self._gpu.nothing.view(np.uint64))

    def _weigh(
        self,
        x: Any,
        n: np.int64,
        d: np.int32,
        columns: Any,
        m: int,
        limits: tuple[Any, Any] | None,
        power: float,
        sums: Any,
    ) -> None:
        """Launch what each of m candidates would leave: sums (m + 1,), as `_totals` takes them."""
        _, least = self._or_nothing(limits)
        self._gpu.launch(
            *("seed", "potentials", int(n), x, n, d, self._w, self.closest),
            *(columns, np.int32(m), np.int32(padded(m)), np.int32(limits is not None), self._owners, least),
            *(np.float64(power), sums),
            resident=RESIDENT,
        )

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
        centers = self._roomy() if known else self._on_device
        limits, _ = self._or_nothing(self._limits)
        self._gpu.launch(
            *("seed", "accept_center", int(n), x, n, d),
            *(self._columns, np.int32(place), np.int32(padded(self._count)), self._numbered),
            *(np.int32(first), np.int32(self._limits is not None), limits),
            *(np.int32(len(self._centers) if known else -1), closest, owners, centers, answers[:1]),
        )
        self.closest = closest
        if known:
            self._owners, self._on_device = owners, centers
            self._centers.append(self._numbers[place])
        else:
            self._forget_owners()
        self._limits = None  # they were for the owners before
        return self._left(int(n), answers)

    def _roomy(self) -> Any:
        """The centers' numbers on the device, and room for one more."""
        count = len(self._centers)
        if count < len(self._on_device) and count > 0:
            return self._on_device
        numbers = np.zeros(max(2 * count, BLOCK), np.int64)
        numbers[:count] = self._centers
        return self._gpu.put(numbers)

    def accept_all(self, x: Any, n: np.int64, d: np.int32, centers: Floats, labels: Any) -> float:
        answers = self._gpu.zeros(2, np.uint64)
        self._forget_owners()
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
