"""Picking points by inverse-CDF index: prefix sums of integer sampling weights, in the caller's row order (Rule 4).

For large data the sums are kept over runs of rows and follow the few sampling weights that a new center
changes; an index is then looked up in the runs first and among one run's rows second.
test_randomness.test_totals_follow_few_changes_among_many_rows fails if sums are kept when more changed, or the scale
did, or if changes of a place are those of one row where it has several.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from gpukmeans.engine.numpy.deduplicate import inverse, order_of
from gpukmeans.engine.numpy.seeding_distances import Changes
from gpukmeans.exact.distance import Floats
from gpukmeans.exact.fixed_point import Ints, Weights, sampling_weights

# Up to this many rows a prefix sum over all of them takes as long as a few calls do.
_FEW_ROWS = 2**15

# Rows to a run: about the square root of a large image's.
_RUN_BITS = 10

# Follow changes up to this share of the rows; beyond, adding everything up again is faster.
_FOLLOW = 1 / 16


class InverseCdf:
    """Sampling weights of n rows. weights: (n,) or None for ones, with their summary. position: (n,) where each
    row's D to its closest center stands, or None for its own place."""

    def __init__(
        self, n: int, weights: Floats | Ints | None, summary: Weights, position: NDArray[np.int32] | None
    ) -> None:
        self.n, self.weights, self.summary, self.position = n, weights, summary, position
        self._bits = 0 if n <= _FEW_ROWS else _RUN_BITS
        self._closest_dist_sq = np.empty(0)
        self._exponent: int | None = None
        self._sums: Ints | None = None
        self._prefix = np.empty(0, np.int64)
        self._order: NDArray[np.int32] | None = None

    def forget(self) -> None:
        """Give back all that takes memory."""
        self._closest_dist_sq, self._prefix = np.empty(0), np.empty(0, np.int64)
        self._sums = self._order = None

    def total(self, exponent: int | None, closest_dist_sq: Floats) -> int:
        """The sum of all sampling weights: weight times `closest_dist_sq` at 2**exponent, or weight alone for None.

        `closest_dist_sq` may change in place later, if `follow` is told.
        """
        self._closest_dist_sq = closest_dist_sq
        if self._sums is None or exponent != self._exponent or self._bits == 0:
            self._exponent = exponent
            # Row by row is a run of one; longer runs are added up a few at a time.
            rows = [slice(a, min(a + _FEW_ROWS, self.n)) for a in range(0, self.n, _FEW_ROWS)]
            self._sums = self._run_sums(rows[0]) if len(rows) == 1 else np.concatenate([*map(self._run_sums, rows)])
        self._prefix = np.cumsum(self._sums)
        return int(self._prefix[-1])

    def find(self, indices: list[int]) -> NDArray[np.int64]:
        """The rows at these inverse-CDF indices: the first whose prefix sum exceeds the index."""
        runs = np.searchsorted(self._prefix, indices, side="right")
        if self._bits == 0:
            return runs
        return np.array([self._find_in_run(run, index) for run, index in zip(runs.tolist(), indices, strict=True)])

    @property
    def most(self) -> int:
        """How many changes of `closest_dist_sq` it pays to know one by one."""
        follows = self._bits > 0 and self._sums is not None and self._exponent is not None
        return int(_FOLLOW * len(self._closest_dist_sq)) if follows else -1

    def follow(self, changes: Changes | None) -> None:
        """Account for what changed in `closest_dist_sq`, by no more than `most`; None if that is not known."""
        if changes is None or self._sums is None or self._exponent is None:
            self._sums = None
            return
        for places, before, after in changes:
            rows: NDArray[Any] = places
            if self.position is not None:
                which, rows = self._rows_at(places)
                before, after = before[which], after[which]
            weights = None if self.weights is None else self.weights[rows]
            gains = sampling_weights(after, self._exponent, weights) - sampling_weights(before, self._exponent, weights)
            np.add.at(self._sums, rows >> self._bits, gains)

    def _rows_at(self, places: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.int32]]:
        """All rows that stand at the given places, and for each which of the places it is."""
        assert self.position is not None
        if len(self._closest_dist_sq) == self.n:  # one row to a place
            if self._order is None:
                self._order = inverse(self.position)
            return np.arange(len(places)), self._order[places]
        if self._order is None:
            self._order = order_of(self.position.astype(np.uint64))
            counts = np.bincount(self.position, minlength=len(self._closest_dist_sq))
            self._starts = np.concatenate([[0], np.cumsum(counts)])
        starts = self._starts[places]
        counts = self._starts[places + 1] - starts
        which = np.repeat(np.arange(len(places)), counts)
        # Within each place, 0, 1, ... on top of its start.
        offsets = np.arange(len(which)) - np.repeat(np.cumsum(counts) - counts, counts)
        return which, self._order[starts[which] + offsets]

    def _find_in_run(self, run: int, index: int) -> int:
        start = run << self._bits
        before = int(self._prefix[run - 1]) if run else 0
        prefix = np.cumsum(self._sampling_weights(slice(start, min(start + (1 << self._bits), self.n))))
        return start + int(np.searchsorted(prefix, index - before, side="right"))

    def _run_sums(self, rows: slice) -> Ints:
        found = self._sampling_weights(rows)
        return found if self._bits == 0 else np.add.reduceat(found, np.arange(0, len(found), 1 << self._bits))

    def _sampling_weights(self, rows: slice) -> Ints:
        weights: Any = None if self.weights is None else self.weights[rows]
        if self._exponent is None:
            return (
                np.ones(rows.stop - rows.start, np.int64) if weights is None else self.summary.integer_weights(weights)
            )
        return sampling_weights(
            self._closest_dist_sq[rows if self.position is None else self.position[rows]], self._exponent, weights
        )
