"""What is told of a fit while it runs: records, scikit-learn's lines, a bar, and the caller's callback."""

# `callback` and `progress` are parameters of the estimator and not of `fit`: so they reach every method that fits,
# pipelines and searches pass them on without routing, and `fit` keeps scikit-learn's signature. The price: `clone`
# copies a callback that has state. A record counts rows even where equal rows were merged, so `history_` depends on the
# device as little as any other result.

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from types import TracebackType
from typing import Any

from gpukmeans.exact.distance import Floats
from gpukmeans.lloyd import Iteration, Tolerance
from gpukmeans.row_sources.base import RowSource
from gpukmeans.threads import flagged

# Seconds between two looks at what was read.
_OFTEN = 0.1


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

    inertia: of the points as labelled last, to given centers (k, d). rows: where they are read from, if they are read
    in pieces: the bar then tells how many bytes have been, while an iteration goes on too.
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
        rows: RowSource | None = None,
    ) -> None:
        self.records: list[Record] = []
        self.stopped = False  # by the callback: no further iteration, and no further start
        self._inertia, self._tolerance = inertia, tolerance
        self._starts, self._start = starts, -1
        self._verbose, self._callback = verbose, callback
        self._bar = _bar(max_iter) if progress else None
        self._asked = bool(verbose) or progress or callback is not None
        self._rows, self._read, self._told, self._last = rows, 0, "", 0.0

    def __enter__(self) -> Watch:
        if self._rows is not None and self._bar is not None:
            self._rows.told = self._count
        return self

    def __exit__(self, kind: type | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if self._rows is not None:
            self._rows.told = None
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
            self._told = f"inertia {inertia:.6g}, {record.changed:,} changed"
            self._bar.set_postfix_str(self._postfix(), refresh=False)
            self._bar.update()
        if self._callback is not None:
            with flagged():
                self.stopped = bool(self._callback(record))
        return self.stopped

    def _count(self, size: int) -> None:
        """So many bytes were read, by whichever thread."""
        self._read += size
        now = time.monotonic()
        assert self._bar is not None
        if now - self._last >= _OFTEN:
            self._last = now
            self._bar.set_postfix_str(self._postfix())

    def _postfix(self) -> str:
        read = [f"{self._read / 1e9:.2f} GB read"] if self._rows is not None else []
        return ", ".join([*filter(None, [self._told]), *read])

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
