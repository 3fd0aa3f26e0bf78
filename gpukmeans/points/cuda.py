"""Points on a GPU: the rows stay in device memory, the kernels of `kernels/` do the work.

Everything of size n lives on the device from the first call on; what crosses the bus in an iteration is
centers one way and sums the other. The kernels compute what exact.py defines; the tests run them on a
CPU too, with an object of the same few methods in CuPy's place, which is why CuPy is an argument here.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import nullcontext, suppress
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gpukmeans.exact import Floats, Frame, Inertia, Ints, Scales, Weights
from gpukmeans.points import seeds
from gpukmeans.points.base import Farthest, State
from gpukmeans.points.gpu import BLOCK, SHARED, Ahead, Answer, Gpu
from gpukmeans.points.proposals import Means, Proposals
from gpukmeans.points.seeds import Seeds

X_KINDS = {"uint8": 0, "float16": 1, "float32": 2, "float64": 3}

# What settle.cu counts, in front of the sums.
COUNTS = 3

# Values of a table of distances at a time: 64 MB.
TABLE = 2**23

# Values to bring to length one at a time, at most 64 MB as they are given.
UNITS = 2**23

# A fit makes some thirty iterations, and ends with up to two more on the device than it needed. To gain, these must
# take less than what the host takes in between for all others: by count 60 us, and 10 ns for each value of the centers.
# Up to so many rows, at 1.2 10^13 pairs and features a second: 15 * (60 us + k d * 10 ns) * 1.2e13 / (k d).
MOST_GUESSED = 1.8e6
GUESSED_VALUES = 1.08e10


class Guess(Answer):
    """The answers to an assignment that was not asked for. listed: whether it left rows out."""

    def __init__(self, gpu: Gpu, array: Any, buffer: NDArray[np.uint64], listed: bool) -> None:
        self.listed = listed
        super().__init__(gpu, array, buffer)


class CudaPoints:
    """x (n, d) of dtype uint8, float16, float32 or float64, in host memory or on the device, where it is used in
    place; see NumPyPoints for the rest.

    cp: CuPy, or what stands in its place. stay: whether answers of size n stay on the device. unit: whether to bring
    the rows to length one; they are float64 then, and made on the device as they arrive. ahead: sends all rows now, on
    its stream, to be there for whoever calls `begin` first; else they are sent when they are first asked for. alone:
    whether these are all rows; a batch of several is made anew for each pass, and keeps no bounds for the next.
    """

    def __init__(
        self,
        cp: Any,
        x: Any,
        weights: Floats | Ints | None = None,
        summary: Weights | None = None,
        lasting: bool = True,
        stay: bool = False,
        unit: bool = False,
        ahead: Ahead | None = None,
        alone: bool = True,
    ) -> None:
        self.n, self.d = x.shape
        self.unit = unit
        self._dtype = np.dtype(np.float64) if unit else x.dtype
        self.weights = summary or Weights.of_rows(self.n)
        # Over all assignments: rows that scores left to D, and that were compared with all centers.
        self.uncertain = self.compared = 0
        kind = 0 if weights is None else 1 if weights.dtype == np.int64 else 2
        weighed = (f"-DWEIGHT_KIND={kind}",)
        more = {"settle": weighed, "distance": weighed, "seed": (*weighed, f"-DRUN={seeds.RUN}")}
        options = (f"-DX_KIND={X_KINDS[self._dtype.name]}",)
        self._gpu = Gpu(cp, options, more, ahead.launched if ahead else None)
        self._given, self._lasting, self._stay, self._ahead, self._alone = x, lasting, stay, ahead, alone
        with self._gpu, ahead or nullcontext():
            self._here: Any = self._gpu.put(x) if self._gpu.holds(x) and not unit else None
            self._w = self._gpu.nothing if weights is None else self._gpu.put(weights)
            if ahead:
                self._send()
        self.k = 0  # of the centers that there are labels of
        self._proposals: Proposals  # made by `_label`, as the labels are
        self._sums: NDArray[np.uint64] | None = None  # as they are on the device, if they have come down
        self._seeds = Seeds(self._gpu, self._w, self.weights)
        self._spare: Any = None
        self._offset = self._scale = self._gpu.nothing  # until `prepare`
        self._scales: Scales | None = None
        self._guess: Guess | None = None
        self._unheeded = 0  # guesses one after another that were in vain
        self._unit = 2.0**self.weights.exponent

    def begin(self, meanwhile: Callable[[], None] | None) -> None:
        if self._ahead:
            with self._gpu:
                self._ahead.arrive()
        self._gpu.meanwhile = meanwhile

    def _send(self) -> None:
        for _ in self._arriving():
            pass

    def _arriving(self) -> Iterator[slice]:
        """The rows, as they come to be on the device; all at once if they are."""
        if self._here is not None:
            yield slice(0, self.n)
            return
        here = self._gpu.empty((self.n, self.d), self._dtype)
        for rows in self._units(here) if self.unit else self._gpu.upload(here, self._given):
            self._here = here
            yield rows

    def _units(self, here: Any) -> Iterator[slice]:
        """Make the unit rows here, a piece of the rows given after another; yields those made."""
        kind = X_KINDS[self._given.dtype.name]
        gpu = self._gpu.compiling((f"-DX_KIND={kind}",))
        step = max(1, UNITS // self.d)
        for a in range(0, self.n, step):
            rows = slice(a, min(a + step, self.n))
            given, made = gpu.put(self._given[rows]), here[rows]
            gpu.launch("unit", "unit", len(made), given, np.int64(len(made)), np.int32(self.d), made)
            yield rows

    @property
    def _x(self) -> Any:
        if self._here is None:
            self._send()
        return self._here

    def _rows(self) -> tuple[Any, np.int64, np.int32]:
        """The arguments that most kernels begin with."""
        return self._x, np.int64(self.n), np.int32(self.d)

    # ------------------------------------------------------------ preparation

    def extent(self) -> tuple[Floats, Floats]:
        # The keys of least and largest values, and whether one is NaN, which cross together.
        keys = np.zeros(2 * self.d + 1, np.uint64)
        keys[: self.d] = ~np.uint64(0)
        device = self._gpu.put(keys)
        nan = device[2 * self.d :].view(np.int32)
        size = 2 * self.d * 8
        folded = size <= SHARED
        shared = size if folded else 0
        for rows in self._arriving():
            n = rows.stop - rows.start
            blocks = max(-(-self.d // BLOCK), min(self._gpu.blocks, -(-n * self.d // BLOCK)))
            part = (self._here[rows], np.int64(n), np.int32(self.d))
            self._gpu.run("extent", "extent", blocks, BLOCK, *part, np.int32(folded), device, nan, shared=shared)
        keys = self._gpu.get(device)
        low, high = _doubles(keys[:-1].reshape(2, self.d))
        if keys[-1]:
            low, high = np.full((2, self.d), np.nan)
        self._within(low, high)
        return low, high

    def _within(self, low: Floats, high: Floats) -> None:
        self._frame = Frame.of(low, high)

    def prepare(self, scales: Scales) -> None:
        self._scales = scales
        self._offset, self._scale = self._gpu.put(scales.offset), self._gpu.put(scales.scale)

    def resume(self, state: State) -> None:
        self._within(state.low, state.high)
        if state.scales is not None:
            self.prepare(state.scales)
        if state.labels is not None:
            self._label(state.k)
            self._labels = self._gpu.put(state.labels)
        if state.closest is not None:
            self._seeds.closest = self._spare = self._gpu.put(state.closest)

    def closest(self) -> Floats | None:
        return None if self._seeds.closest is None else self._gpu.get(self._seeds.closest)

    # ------------------------------------------------------------ assignment and update

    def assign(self, centers: Floats) -> int:
        if len(centers) != self.k:
            self._label(len(centers))
        guess = self._guess
        if guess is not None:
            answers = guess.wait()
            if (answers[self._end :] == np.ascontiguousarray(centers).view(np.uint64).reshape(-1)).all():
                self._unheeded = 0
                self._guess_next(answers)
                self._now = answers[self._end :].view(np.float64).reshape(centers.shape)
                return self._heed(answers, guess.listed)
            self._catch_up()  # how many labels change is counted from those asked for before
        expected = self._expected()
        self._now = centers.copy()
        self._label_by(centers)
        self._sums = None  # should their way up fail
        # They come with the counts, so that the host waits once.
        answers = self._gpu.get(self._answers[: self._end if self._lasting else COUNTS])
        if expected is not None and np.array_equal(expected, centers):
            self._guess_next(answers)
        return self._heed(answers, self._proposals.listed)

    def _heed(self, answers: NDArray[np.uint64], listed: bool) -> int:
        if self._lasting:
            self._sums = answers[COUNTS : self._end]
        changed, decided, length = answers[:COUNTS].tolist()
        self.uncertain += decided
        self.compared += length if listed else self.n
        return changed

    def _label_by(self, given: Floats | Means) -> None:
        """Launch what gives all rows the labels of these centers."""
        # Bounds for the next time take the memory that seeding took.
        bounds = self._scratch if self._lasting and self._alone and self._seeds.closest is None else None
        with self._gpu:
            self._counts.fill(0)
        self._proposals.propose(self._x, self._labels, given, self._counts, bounds)
        size = 8 * self.k * (self.d + 1)
        summing = 0 if not self._lasting else 2 if size <= SHARED else 1
        self._gpu.launch(
            *("settle", "settle", self.n, *self._rows(), self._proposals.columns, np.int32(self.k)),
            *(self._w, self._offset, self._scale, np.float64(self._unit), np.int32(summing)),
            *(self._proposals.next, self._labels, self._means.sums, self._counts),
            *(np.int32(self._proposals.listed), self._proposals.list),
            shared=size if summing == 2 else 0,
        )

    def _label(self, k: int) -> None:
        """Forget all labels: k centers are to come."""
        labels = self._gpu.full(self.n, -1, np.int32)
        # Counts, sums, and the centers that they are of.
        sizes = COUNTS, k * (self.d + 1), k * self.d
        answers = self._gpu.zeros(sum(sizes), np.uint64)
        centers = answers[sum(sizes[:2]) :].view(np.float64)
        proposals = Proposals(self._gpu, self.n, self.d, self._dtype, self._frame, centers)
        self._answers, self._counts, self._end = answers, answers[:COUNTS], sum(sizes[:2])
        inverse = np.float64(2.0**-self.weights.exponent)
        self._means = Means(answers[COUNTS : self._end], self._offset, self._scale, inverse)
        self._sums = None
        self._guess = None
        self._pinned: list[NDArray[np.uint64]] = []
        self._labels, self._proposals, self.k = labels, proposals, k  # once nothing can fail any more

    # What the driver of a fit asks next are the means of what it was answered. So the next assignment is under way
    # while the host makes its centers, and answers come with the centers that they are of. Should others be asked for,
    # or the labels by those before, labels and sums change to these as to any.

    def _expected(self) -> Floats | None:
        """The centers that are asked for next if this is a fit; None if not, or if a guess is not worth it."""
        few = self.n < MOST_GUESSED + GUESSED_VALUES / (self.k * self.d)
        able = self._lasting and self._alone and not self.unit and self._frame is not None and self._scales is not None
        if not (few and able) or self._sums is None or self._unheeded > 1:
            return None
        sums = self._sums.view(np.int64).reshape(self.k, self.d + 1)
        assert self._scales is not None
        return self._scales.centers(sums) if sums[:, -1].all() else None

    def _guess_next(self, answers: NDArray[np.uint64]) -> None:
        """Label by the means of what was answered, unless the host will have something else in mind."""
        self._guess = None
        sums = answers[COUNTS : self._end].reshape(self.k, self.d + 1)
        if answers[0] == 0 or not sums[:, -1].all():
            return
        if not self._pinned:
            with suppress(MemoryError):
                self._pinned = [self._gpu.pinned(len(self._answers)) for _ in range(2)]
        if self._pinned:
            self._pinned.reverse()  # the other one holds the answers
            self._label_by(self._means)
            self._guess = Guess(self._gpu, self._answers, self._pinned[0], self._proposals.listed)

    def _catch_up(self) -> None:
        """Make the labels those of the centers that were last asked for."""
        guess, self._guess = self._guess, None
        if guess is not None:
            self._unheeded += 1
            if guess.wait()[0] > 0:
                self._label_by(self._now)

    def _scratch(self) -> Any:
        """(n,) float64 of memory, which serves the closest distances of seeding, then bounds, then far distances."""
        if self._spare is None:
            self._spare = self._gpu.empty(self.n, np.float64)
        return self._spare

    def sums(self) -> Ints:
        if self._sums is None:
            self._sums = self._gpu.get(self._answers[COUNTS : self._end])
        return self._sums.view(np.int64).reshape(self.k, self.d + 1).copy()

    def labels(self) -> Any:
        if not self._stay:
            return self.labels_on_host()
        self._catch_up()
        return self._labels

    def labels_on_host(self) -> NDArray[np.int32]:
        self._catch_up()
        return self._gpu.get(self._labels)

    # ------------------------------------------------------------ distances

    def inertia(self, centers: Floats, split: Inertia) -> tuple[int, int]:
        if len(centers) > 1:
            self._catch_up()
        sums = self._gpu.zeros(2, np.uint64)
        labels = self._labels if len(centers) > 1 else self._gpu.zeros(1, np.int32)
        self._gpu.launch(
            *("distance", "inertia", self.n, *self._rows(), self._gpu.put(centers), labels),
            *(
                np.int32(len(centers) > 1),
                self._w,
                np.float64(2.0**split.coarse_bits),
                np.float64(2.0**split.fine_bits),
            ),
            sums,
        )
        coarse, fine = self._gpu.get(sums).view(np.int64).tolist()
        return coarse, fine

    def farthest(self, centers: Floats, m: int) -> Farthest:
        self._catch_up()
        self._proposals.forget()
        distance = self._scratch()
        device = self._gpu.put(centers)
        self._gpu.launch("distance", "own_distances", self.n, *self._rows(), device, self._labels, distance)
        n = np.int64(self.n)
        locations = []
        for _ in range(m):
            found = self._gpu.put(np.array([0, ~np.uint64(0)], np.uint64))
            self._gpu.launch("distance", "farthest", self.n, distance, n, found)
            largest = float(self._gpu.get(found)[:1].view(np.float64)[0])
            if largest == 0:
                break
            self._gpu.launch("distance", "first_farthest", self.n, distance, n, found)
            x, label = self._gpu.empty(self.d, np.float64), self._gpu.empty(1, np.int32)
            self._gpu.launch(
                "distance", "take_farthest", self.n, *self._rows(), self._labels, found, distance, x, label
            )
            locations.append((largest, self._gpu.get(x), int(self._gpu.get(label)[0])))
        return Farthest.of(locations, self.d)

    def terms_at(self, x: Floats) -> Ints:
        terms = self._gpu.zeros((len(x), self.d + 1), np.uint64)
        self._gpu.launch(
            *("distance", "terms_at", self.n, *self._rows(), self._w, self._offset, self._scale),
            *(np.float64(self._unit), self._gpu.put(x), np.int32(len(x)), terms),
        )
        return self._gpu.get(terms).view(np.int64)

    def distances(self, centers: Floats) -> Any:
        k = len(centers)
        step = self.n if self._stay else max(1, TABLE // k)
        table = self._gpu.empty((min(step, self.n), k), np.float64)
        result = table if self._stay else np.empty((self.n, k))
        device = self._gpu.put(centers)
        for a in range(0, self.n, step):
            rows = min(step, self.n - a)
            x = self._x[a : a + rows]
            self._gpu.launch(
                *("distance", "distances", rows * k, x, np.int64(rows), np.int32(self.d), device, np.int32(k)),
                *(np.int32(self.unit), table),
            )
            if not self._stay:
                result[a : a + rows] = self._gpu.get(table[:rows])
        return result

    # ------------------------------------------------------------ seeding

    def restart(self) -> None:
        self._unheeded = 0
        self._seeds.restart()

    def total(self, exponent: int | None) -> int:
        return self._seeds.total(np.int64(self.n), exponent)

    def find(self, ranks: list[int]) -> Floats:
        return self._seeds.find(*self._rows(), ranks)

    def propose(self, candidates: Floats) -> None:
        self._seeds.propose(candidates)

    def potentials(self, exponent: int, exact: bool) -> tuple[list[int], list[int]]:
        totals = self._seeds.potentials(*self._rows(), exponent)
        return totals, totals

    def accept(self, candidate: int) -> float:
        if self._seeds.closest is None and self.k:
            self._proposals.forget()  # its bounds are in the same memory
        return self._seeds.accept(*self._rows(), candidate, self._scratch())

    def accept_drawn(self, draws: Floats, farthest: float) -> tuple[Floats, float]:
        centers, _, largest = self._seeds.accept_drawn(*self._rows(), draws, farthest)
        return centers, float(largest[-1])

    def accept_all(self, centers: Floats) -> float:
        self._catch_up()
        return self._seeds.accept_all(*self._rows(), centers, self._labels)


def _doubles(keys: NDArray[np.uint64]) -> Floats:
    """The doubles of the integers of the same order, see order_key in kernels/common.cuh."""
    sign = np.uint64(1 << 63)
    return np.where(keys & sign, keys ^ sign, ~keys).view(np.float64)
