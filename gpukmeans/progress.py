"""What is told of a fit while it runs: records, scikit-learn's lines, a bar, and the caller's callback."""

# `callback` and `progress` are parameters of the estimator and not of `fit`: so they reach every method that fits,
# pipelines and searches pass them on without routing, and `fit` keeps scikit-learn's signature. The price: `clone`
# copies a callback that has state. A record counts rows even where equal rows were merged, so `history_` depends on the
# device as little as any other result.

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from types import TracebackType
from typing import Any

from gpukmeans.exact.distance import Floats
from gpukmeans.lloyd import Iteration, Tolerance
from gpukmeans.threads import flagged


@dataclass(frozen=True)
class Record:
    """One iteration of a fit, as a callback receives it and ``history_`` keeps it.

    The same on every device and with any number of threads, as the result of the fit is.

    Attributes
    ----------
    start : int
        Which of the ``n_init`` starts, from 0.
    iteration : int
        Of this start, from 0.
    inertia : float or None
        The inertia of the samples to the centers that the iteration began with, which the labels are of.
        None if nobody asked for it: it costs a pass over the data, and is computed for ``verbose``,
        ``progress`` or ``callback``.
    changed : int
        How many samples changed label; in the first iteration all. Samples of weight zero do not count.
    shift : float
        The sum of the centers' squared movements; 0.0 where no label changed.
    """

    start: int
    iteration: int
    inertia: float | None
    changed: int
    shift: float


class Watch:
    """Told of every iteration of one fit; a context manager, which closes the bar.

    inertia: of the points as labelled last, to given centers (k, d).
    """

    def __init__(
        self,
        inertia: Callable[[Floats], float],
        tolerance: Tolerance,
        *,
        starts: int,
        max_iter: int,
        verbose: int,
        progress: bool,
        callback: Callable[[Record], Any] | None,
    ) -> None:
        self.records: list[Record] = []
        self.stopped = False  # by the callback: no further iteration, and no further start
        self._inertia, self._tolerance = inertia, tolerance
        self._starts, self._start = starts, -1
        self._verbose, self._callback = verbose, callback
        self._bar = _bar(max_iter) if progress else None
        self._asked = bool(verbose) or progress or callback is not None

    def __enter__(self) -> Watch:
        return self

    def __exit__(self, kind: type | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if self._bar is not None:
            if error is None:
                self._bar.total = self._bar.n  # iterations that were not needed are not missing
            self._bar.close()

    def begin(self) -> None:
        """A start has its initial centers."""
        self._start += 1
        if self._verbose:
            print("Initialization complete")
        if self._bar is not None and self._starts > 1:
            if self._start > 0:
                self._bar.reset()
            self._bar.set_description(f"k-means, start {self._start + 1} of {self._starts}")

    def __call__(self, iteration: Iteration) -> bool:
        """Returns whether the callback wants no more."""
        inertia = self._inertia(iteration.centers) if self._asked else None
        record = Record(self._start, iteration.index, inertia, iteration.changed, iteration.shift)
        self.records.append(record)
        if self._verbose:
            self._print(record)
        if self._bar is not None:
            self._bar.set_postfix_str(f"inertia {inertia:.6g}, {record.changed:,} changed", refresh=False)
            self._bar.update()
        if self._callback is not None:
            with flagged():
                self.stopped = bool(self._callback(record))
        return self.stopped

    def _print(self, record: Record) -> None:
        """scikit-learn's lines."""
        i = record.iteration
        print(f"Iteration {i}, inertia {record.inertia}.")
        if i > 0 and record.changed == 0:
            print(f"Converged at iteration {i}: strict convergence.")
        elif self._tolerance.reached(record.shift):
            within = f"center shift {record.shift} within tolerance {self._tolerance.shift}"
            print(f"Converged at iteration {i}: {within}.")


def _bar(max_iter: int) -> Any:
    try:
        from tqdm.auto import tqdm
    except ImportError as error:
        raise ImportError(f"progress=True needs tqdm ({error}): pip install 'gpukmeans[progress]'") from None
    return tqdm(total=max_iter, desc="k-means", unit=" iterations")
