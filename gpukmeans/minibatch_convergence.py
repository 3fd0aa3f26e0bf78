"""When a fit by batches ends."""

from __future__ import annotations

import math

from gpukmeans import lloyd
from gpukmeans.engine.protocol import Points
from gpukmeans.exact.distance import Floats, distances_of_rows


def least_shift(tol: float, points: Points, low: Floats, high: Floats) -> float:
    """The summed squared shift of centers at which a fit of these points ends, 0 for never; low, high: their range."""
    if tol == 0:
        return 0.0
    scales = lloyd.prepare(points, low, high)
    points.assign(low[None])  # the variance is taken from the sums of a labelling, which may be any
    return lloyd.Tolerance(tol, points, scales).shift


class Convergence:
    """When a fit ends: smoothed inertia that no longer falls, or centers that hardly move."""

    def __init__(
        self, *, steps: int, share: float, tolerance: float, max_no_improvement: int | None, verbose: int
    ) -> None:
        """share: of all rows, that a batch has."""
        self._steps, self._tolerance = steps, tolerance
        self._most, self._verbose = max_no_improvement, verbose
        self._alpha = min(1.0, 2.0 * share)
        self.smoothed = 0.0  # an exponentially weighted average of the inertia per row
        self._least = math.inf
        self._without = 0

    def ends(self, step: int, inertia: float | None, before: Floats, centers: Floats) -> bool:
        """Whether to end after this step, counted from 0; inertia: the batch's, per row, to the centers before, which
        verbose, `smoothed` and max_no_improvement need."""
        at = f"step {step + 1}/{self._steps}"
        # The first one tells of the initial centers, and the average begins anew with the second.
        if inertia is not None:
            self.smoothed = inertia if step < 2 else self.smoothed * (1 - self._alpha) + inertia * self._alpha
        if self._verbose:
            smoothed = f", ewa inertia: {self.smoothed}" if step > 0 else ""
            print(f"Minibatch {at}: mean batch inertia: {inertia}{smoothed}")
        if step == 0:
            return False
        if self._tolerance > 0 and math.fsum(distances_of_rows(centers, before).tolist()) <= self._tolerance:
            if self._verbose:
                print(f"Converged (small centers change) at {at}")
            return True
        self._without = 0 if self.smoothed < self._least else self._without + 1
        self._least = min(self._least, self.smoothed)
        if self._most is not None and self._without >= self._most:
            if self._verbose:
                print(f"Converged (lack of improvement in inertia) at {at}")
            return True
        return False
