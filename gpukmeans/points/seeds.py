"""The GPU's side of seeding: D to the closest center so far, masses of it, and rows by rank in their sums.

Launches kernels/seed.cu. The host decides twice for each center of k-means++, which rows its draws are and which of
them it keeps, and has to wait for what it decides by. What is needed next in all likelihood is launched with that: the
candidates' potentials behind their rows, and behind a center the next total, at the scale of the last.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from gpukmeans.exact import Floats, Weights
from gpukmeans.points.gpu import BLOCK, Gpu

# Rows of a run in seed.cu: the four that each thread of a block scans. 10^8 rows have 10^5 runs, which one block scans
# in 100 steps.
RUN = 4 * BLOCK

# So many rows are taken for candidates of k-means++, which has 2 + log(k): fifteen for a million clusters.
MOST_CANDIDATES = 16


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
        self._forget_found()

    def _forget_found(self) -> None:
        """The rows last found, on the device and by their bytes, and their potentials."""
        self._rows: Any = None
        self._places: dict[bytes, int] = {}
        self._potentials: list[int] = []

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
        m = len(ranks)
        answers = self._gpu.zeros(m * (int(d) + 1), np.float64)
        rows = answers[: m * int(d)].reshape(m, int(d))
        tail = (self._prefix, np.int64(len(self._prefix)), self._gpu.put(np.array(ranks, np.int64)), rows)
        self._gpu.run("seed", "find", m, min(RUN, BLOCK), x, n, d, *self._mass(), *tail)
        weigh = self.closest is not None and self._power > 0 and m <= MOST_CANDIDATES
        if weigh:
            self._weigh(x, n, d, rows, self._power, answers[m * int(d) :].view(np.uint64))
        host = self._gpu.get(answers)
        found = host[: m * int(d)].reshape(m, int(d))
        self._forget_found()
        if weigh:
            self._rows, self._potentials = rows, host[m * int(d) :].view(np.int64).tolist()
            self._places = {row.tobytes(): i for i, row in enumerate(found)}
        return found

    def _weigh(self, x: Any, n: np.int64, d: np.int32, candidates: Any, power: float, sums: Any) -> None:
        """Launch what each candidate would leave."""
        self._gpu.launch(
            *("seed", "potentials", int(n), x, n, d, self._w, self.closest, candidates, np.int32(len(candidates))),
            *(np.float64(power), sums),
        )

    def propose(self, candidates: Floats) -> None:
        keys = [candidate.tobytes() for candidate in candidates]
        if not all(key in self._places for key in keys):
            self._forget_found()
            self._rows = self._gpu.put(candidates)
            self._places = {key: i for i, key in enumerate(keys)}
        self._proposed = [self._places[key] for key in keys]

    def potentials(self, x: Any, n: np.int64, d: np.int32, exponent: int) -> list[int]:
        if not self._potentials:
            sums = self._gpu.zeros(len(self._rows), np.uint64)
            self._weigh(x, n, d, self._rows, 2.0**exponent, sums)
            self._potentials = self._gpu.get(sums).tolist()
        return [self._potentials[i] for i in self._proposed]

    def accept(self, x: Any, n: np.int64, d: np.int32, candidate: int, memory: Any) -> float:
        """memory: (n,) float64 for `closest`, should this be the first."""
        first = self.closest is None
        closest = memory if first else self.closest
        place = self._proposed[candidate]
        answers = self._gpu.zeros(2, np.uint64)
        center = self._rows[place : place + 1]
        self._gpu.launch("seed", "accept_center", int(n), x, n, d, center, np.int32(first), closest, answers[:1])
        self.closest = closest
        return self._left(int(n), answers)

    def accept_all(self, x: Any, n: np.int64, d: np.int32, centers: Floats, labels: Any) -> float:
        answers = self._gpu.zeros(2, np.uint64)
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
