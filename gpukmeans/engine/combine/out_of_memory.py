"""Many batches of rows as one Points, with one batch on the device at a time.

Reductions are integer sums, minima and maxima, so a pass over all rows is a pass over each batch. What a
batch has to remember, its rows' labels and their D to the closest center, is kept on the host in between.
At first all rows are one batch, which stays on the device; when the device runs out of memory, at any time,
what the rows have to remember moves to the host, and work goes on from there with smaller batches.

While the device works on a batch, the rows of the next one are sent ahead, from the moment when all that there is to do
has been given to the device and its answer would be waited for. So a pass costs the longer of the two, and not
both. Two batches have to fit the device then; where they do not, memory is short as in any other case, and batches of
half as many rows take together what the one took.
"""

# One thread does all of this, so that there is no second one to interrupt, to wait for, or to give a device. Another
# thread could also overlap labels on their way, 8 bytes a row, and the later of several answers; but passes that make
# the rows cross have one answer, except for empty clusters. The last batch of a pass sends the first of the next one.
# Passes that read seeding's distances alone (`total`, `find`) neither send nor take. Far rows for empty clusters are
# the one answer with an order: the m first of each batch hold the m first of all.

from __future__ import annotations

import logging
from collections.abc import Callable
from functools import partial
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from gpukmeans.engine.combine.base import Result, Sharded, Uses
from gpukmeans.engine.protocol import Centers, Doubt, NextCenters, Points, Samples, Seeding, State
from gpukmeans.errors import DeviceError
from gpukmeans.exact.distance import Floats
from gpukmeans.exact.fixed_point import Ints
from gpukmeans.exact.scales import Scales

logger = logging.getLogger("gpukmeans")


class Batch(Points, Protocol):
    """Points that can be made anew where earlier ones left off. Running out of memory must change nothing."""

    @property
    def k(self) -> int:
        """Of the centers that the rows have labels of, zero if they have none."""

    def begin(self, meanwhile: Callable[[], None] | None) -> None:
        """Work on these rows begins; what they were sent ahead for is waited for. meanwhile: called once, when the
        device has been given something to do and before its answer is waited for."""

    def resume(self, state: State) -> None:
        """Take over what is known of these rows; their sums begin at zero, whatever their labels."""

    def labels_on_host(self) -> NDArray[np.int32]:
        """As `labels`, wherever the rows were given."""

    def closest_dist_sq(self) -> Floats | None:
        """D to the closest center so far, (n,); None before the first."""

    def ongoing_seeding(self) -> Seeding:
        """The seeding that goes on, with what was taken over of it."""

    def end_seeding(self) -> None:
        """Forget it."""


class Batches(Sharded):
    """make(rows, ahead): Points of a slice of the n rows; if ahead, their rows are sent at once, while the device works
    on others.

    Answers of size n are the only batch's, or, of several, `answer` of an array on the host. free: gives the
    device back what was kept of memory that nobody uses, and returns how many bytes that was. rows: of a batch, at
    first; all unless told. array: makes the arrays of size n that are kept on the host, of a shape and a dtype.
    """

    def __init__(
        self,
        make: Callable[[slice, bool], Batch],
        n: int,
        samples: Samples,
        answer: Callable[[NDArray[Any]], Any] = lambda array: array,
        free: Callable[[], int] = lambda: 0,
        rows: int | None = None,
        array: Callable[[Any, Any], NDArray[Any]] = np.empty,
    ) -> None:
        super().__init__(n, samples)
        self.rows = rows or n  # of a batch
        self._make, self._answer, self._free, self._array = make, answer, free, array
        self._reused = samples.reused
        self._failure: str | None = None  # why memory was short, until batches have become smaller
        self._tried_again = 0  # rows of a batch, for which memory was short and all was given back
        self._held: Batch | None = None  # all rows, while they are one batch
        self._next: tuple[slice, Batch] | None = None  # sent ahead
        self._decided = 0
        self._feature_range: tuple[Floats, Floats] | None = None
        self._scales: Scales | None = None
        # What rows remember, while they are not held.
        self._k = 0
        self._labels: NDArray[np.int32] | None = None
        self._sums: Ints = np.zeros((0, self.d + 1), np.int64)
        self._closest_dist_sq: Floats | None = None
        # Whether `closest_dist_sq` is known of all rows, and not of some
        # (test_batches.test_batches_of_any_size_give_the_same_answer fails if some will do).
        self._seeded = False

    @property
    def uncertain(self) -> int:
        return self._decided + (self._held.uncertain if self._held is not None else 0)

    # ------------------------------------------------------------ a pass over all rows

    def _each(
        self, work: Callable[[Batch, slice], Result], uses: Uses = Uses.NOTHING, changes: Uses = Uses.NOTHING
    ) -> list[Result]:
        """Of one batch after another."""
        results: list[Result] = []
        start = 0
        while start < self.n:
            rows = slice(start, min(start + self.rows, self.n))
            failure = self._try(work, rows, uses, changes, results)
            if failure is None:
                start = rows.stop
            else:
                self._shrink(failure)
            if self._failure is not None:
                self._recover()
        return results

    def _try(
        self, work: Callable[[Batch, slice], Result], rows: slice, uses: Uses, changes: Uses, results: list[Result]
    ) -> str | None:
        try:
            results.append(self._on(rows, work, uses, changes))
        except MemoryError as error:
            return str(error)  # and no more of it, as its frames would keep alive what has to be given back
        except BaseException:
            self._next = None
            raise
        return None

    def _on(self, rows: slice, work: Callable[[Batch, slice], Result], uses: Uses, changes: Uses) -> Result:
        if self._held is not None:
            return work(self._held, rows)
        passing = Uses.ROWS in uses
        batch = self._taken(rows) if passing else self._make(rows, False)
        # Of single rows no smaller batches can be made, should two of them not fit
        # (test_prefetch.test_nothing_is_sent_that_nobody_will_read fails if they are sent ahead).
        batch.begin(partial(self._send, rows) if passing and 1 < self.rows < self.n else None)
        if self._feature_range is not None:
            labels = self._labels[rows] if Uses.LABELS in uses and self._labels is not None else None
            closest_dist_sq = (
                self._closest_dist_sq[rows]
                if Uses.CLOSEST_DIST_SQ in uses and self._closest_dist_sq is not None and self._seeded
                else None
            )
            batch.resume(State(*self._feature_range, self._scales, self._k, labels, closest_dist_sq))
        result = work(batch, rows)
        if self.rows >= self.n:
            self._held = batch
            return result
        if Uses.LABELS in changes:
            self._keep_labels(batch, rows)
        elif Uses.CLOSEST_DIST_SQ in changes:
            self._keep_closest(batch, rows)
        self._decided += batch.uncertain
        return result

    def _of_held(self, work: Callable[[Batch], Result]) -> Result | None:
        """The result of work on all rows; None if they are not one batch, or are no more, since memory ran out."""
        failure = None
        if self._held is not None:
            try:
                return work(self._held)
            except MemoryError as error:
                failure = str(error)  # see `_try`
        if failure is not None:
            self._shrink(failure)
            self._recover()
        return None

    def _taken(self, rows: slice) -> Batch:
        """The batch of these rows, sent ahead or now."""
        sent, self._next = self._next, None
        # test_prefetch.test_an_interruption_between_batches_leaves_no_rows_that_are_taken_for_others fails if any will
        # do.
        if sent is not None and sent[0] == rows:
            return sent[1]
        del sent  # its memory may be needed
        return self._make(rows, self.rows < self.n)

    def _send(self, rows: slice) -> None:
        """Send ahead what comes after these rows; after the last, the first of a pass that is likely to follow
        (test_prefetch.test_rows_cross_once_a_pass_and_only_for_passes_that_read_them fails of any others, and
        test_prefetch.test_nothing_is_sent_that_nobody_will_read if one is always thought to follow).
        """
        start = rows.stop if rows.stop < self.n else 0
        if start == 0 and not self._reused:
            return
        following = slice(start, min(start + self.rows, self.n))
        failure = None
        try:
            self._next = following, self._make(following, True)
        except MemoryError as error:
            failure = str(error)
        if failure is not None:
            self._shrink(failure)

    def _keep_labels(self, batch: Batch, rows: slice) -> None:
        if self._labels is None:
            self._labels = self._array(self.n, np.int32)
            self._labels.fill(-1)
            self._sums = np.zeros((self._k, self.d + 1), np.int64)
        self._labels[rows] = batch.labels_on_host()
        self._sums += batch.sums()

    def _keep_closest(self, batch: Batch, rows: slice) -> None:
        if self._closest_dist_sq is None:
            self._closest_dist_sq = self._array(self.n, np.float64)
        self._closest_dist_sq[rows] = batch.closest_dist_sq()

    def _shrink(self, failure: str) -> None:
        """Drop all batches but the one at work, after which `_recover` is to follow; what the only one remembers comes
        to the host."""
        self._next, self._failure = None, failure
        if self._held is not None:
            everything = slice(0, self.n)
            # Not those of an earlier number of centers (test_batches.test_memory_may_run_out_anywhere fails of these).
            if self._held.k == self._k > 0:
                self._keep_labels(self._held, everything)
            if self._held.closest_dist_sq() is not None:
                self._keep_closest(self._held, everything)
                self._seeded = True
            self._decided += self._held.uncertain
            self._held = None

    def _recover(self) -> None:
        """Let smaller batches follow, now that none is there any more; or as large ones once more, should there be
        memory for them when that of all is given back. Of a pool that is in pieces none may be large enough
        (test_batches.test_memory_in_pieces_is_no_reason_for_smaller_batches fails if nothing is given back, or nothing
        tried again)."""
        failure, self._failure = self._failure, None
        given_back = self._free()
        # Of all rows nothing may be known on the host: they would be held, and begin anew.
        possible = self.rows < self.n or (self._labels is None and self._closest_dist_sq is None)
        if given_back and possible and self._tried_again != self.rows:
            self._tried_again = self.rows
            return
        if self.rows == 1:
            needed = f"one row and {self._k} centers" if self._k else "one row"
            raise DeviceError(
                f"The device has not even memory for {needed}: {str(failure).rstrip('.')}. Free some of it, or use "
                "device='cpu', which gives the same answer."
            )
        self.rows = -(-self.rows // 2)
        logger.info("Device memory is short: going on with batches of %d rows (%s)", self.rows, failure)

    # ------------------------------------------------------------ Points

    def feature_range(self) -> tuple[Floats, Floats]:
        self._feature_range = super().feature_range()
        return self._feature_range

    def set_feature_range(self, low: Floats, high: Floats) -> None:
        self._feature_range = low, high
        if self._held is not None:
            self._held.set_feature_range(low, high)

    def prepare(self, scales: Scales) -> None:
        self._scales = scales
        if self._held is not None:
            self._each(lambda batch, rows: batch.prepare(scales))

    def next_centers(self, doubt: Doubt) -> NextCenters | None:
        return self._of_held(lambda batch: batch.next_centers(doubt))

    def assign(self, centers: Centers) -> int:
        if len(centers) != self._k:
            self._k, self._labels = len(centers), None
        return super().assign(centers)

    def sums(self) -> Ints:
        # test_batches.test_memory_may_run_out_in_the_middle_of_seeding fails if memory may not.
        sums = self._of_held(lambda batch: batch.sums())
        return self._sums.copy() if sums is None else sums

    def labels(self) -> Any:
        held = self._of_held(lambda batch: batch.labels())
        if held is not None:
            return held
        assert self._labels is not None
        labels = self._array(self.n, np.int32)
        labels[:] = self._labels
        return self._answer(labels)

    def distances(self, centers: Floats, dtype: Any = np.float64) -> Any:
        result: Floats | None = None

        def measure(batch: Batch, rows: slice) -> Any:
            nonlocal result
            distances = batch.distances(centers, dtype)
            if rows.stop - rows.start == self.n:
                return distances
            if result is None:
                result = self._array((self.n, len(centers)), dtype)
            result[rows] = distances

        parts = self._each(measure, Uses.ROWS)
        return parts[0] if result is None else self._answer(result)

    # ------------------------------------------------------------ seeding

    def seeding(self) -> BatchesSeeding:
        self.end_seeding()
        return BatchesSeeding(self)

    def end_seeding(self) -> None:
        self._closest_dist_sq, self._seeded = None, False
        if self._held is not None:
            self._held.end_seeding()


class BatchesSeeding(Seeding):
    """The seeding of one batch after another."""

    def __init__(self, batches: Batches) -> None:
        self._batches = batches
        self._totals: dict[tuple[int, int], int] = {}  # of the rows of each batch

    def end(self) -> None:
        self._batches.end_seeding()

    def total(self, exponent: int | None) -> int:
        self._exponent, self._totals = exponent, {}

        def add_up(batch: Batch, rows: slice) -> int:
            total = self._totals[rows.start, rows.stop] = batch.ongoing_seeding().total(exponent)
            return total

        return sum(self._each(add_up))

    def find(self, indices: list[int]) -> Floats:
        found = np.empty((len(indices), self._batches.d))
        before = 0

        def look(batch: Batch, rows: slice) -> None:
            nonlocal before
            seeding = batch.ongoing_seeding()
            if batch is self._batches._held:
                found[:] = seeding.find(indices)
                return
            # Batches may have become smaller meanwhile.
            total = self._totals.get((rows.start, rows.stop))
            total = seeding.total(self._exponent) if total is None else total
            here = [i for i, index in enumerate(indices) if before <= index < before + total]
            if here:
                seeding.total(self._exponent)
                found[here] = seeding.find([indices[i] - before for i in here])
            before += total

        self._each(look)
        return found

    def propose(self, candidates: Floats) -> None:
        self._candidates = candidates

    def potentials(self, exponent: int, exact: bool) -> tuple[list[int], list[int]]:
        def weigh(batch: Batch, rows: slice) -> Any:
            seeding = batch.ongoing_seeding()
            seeding.propose(self._candidates)
            return seeding.potentials(exponent, exact=True)[0]

        totals = [sum(parts) for parts in zip(*self._each(weigh, Uses.ROWS), strict=True)]
        return totals, totals

    def accept(self, candidate: int) -> float:
        def lower(batch: Batch, rows: slice) -> float:
            seeding = batch.ongoing_seeding()
            seeding.propose(self._candidates[candidate : candidate + 1])
            return seeding.accept(0)

        largest = max(self._each(lower, Uses.ROWS, changes=Uses.CLOSEST_DIST_SQ))
        self._batches._seeded = self._batches._closest_dist_sq is not None
        return largest

    def accept_drawn(self, draws: Floats, farthest: float) -> tuple[Floats, float]:
        single_batch = self._batches._held is not None
        made = self._batches._of_held(lambda batch: batch.ongoing_seeding().accept_drawn(draws, farthest))
        if made is not None:
            return made
        # Some steps were made, perhaps: back to the first center, which is proposed still
        # (test_batches.test_memory_may_run_out_in_the_middle_of_seeding fails without it).
        if single_batch:
            self._batches.end_seeding()
            self.accept(0)
        return np.empty((0, self._batches.d)), farthest

    def accept_all(self, centers: Floats) -> float:
        work = self._each(
            lambda batch, rows: batch.ongoing_seeding().accept_all(centers),
            Uses.ROWS | Uses.LABELS,
            changes=Uses.CLOSEST_DIST_SQ,
        )
        return max(work)

    def _each(
        self, work: Callable[[Batch, slice], Result], uses: Uses = Uses.NOTHING, changes: Uses = Uses.NOTHING
    ) -> list[Result]:
        return self._batches._each(work, uses | Uses.CLOSEST_DIST_SQ, changes)
