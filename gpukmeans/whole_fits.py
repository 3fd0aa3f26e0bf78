"""Which fits of KMeans are made whole, all starts and iterations in the calls of a Stack, and what is told of them."""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from gpukmeans.center_checks import float_dtype, initial
from gpukmeans.engine import dispatch
from gpukmeans.engine.protocol import StackLog, seeding_trials
from gpukmeans.exact.fixed_point import Weights
from gpukmeans.exact.metric import EUCLIDEAN
from gpukmeans.many_fits import ProblemFit, Starts, fit_stack
from gpukmeans.n_init import StartsMixin
from gpukmeans.progress import Record
from gpukmeans.random_state import Remembered, generator_of
from gpukmeans.validation import unshifted

# Iterations of a start, at most, since what is compiled cannot be interrupted: so many, or as many as take a second.
# Products of values and centers take some 0.1 ns.
_ITERATIONS, _PRODUCTS = 2**12, 2**33

# What a class that derives from KMeans may have made its own of what a start is.
_HOOKS = "_until", "_seed", "_starts", "_initial_array"

# Numbers that the starts of one call have beside the rows: 8 MB.
_ROOM = 2**20


class Fit(NamedTuple):
    """What is published of a fit. centers: (k, d) in the published dtype. occupied: how many clusters have rows."""

    centers: NDArray[Any]
    labels: Any
    inertia: float
    n_iter: int
    occupied: int


def can_stack(model: Any) -> bool:
    """Whether a Stack can do what these parameters ask for, which are KMeans'."""
    if model.verbose or model.progress or model.callback is not None or callable(model.init):
        return False
    if model.metric != "euclidean":
        return False
    return model.init in ("k-means++", "random") if isinstance(model.init, str) else model.n_init in ("auto", 1)


def fit_whole(
    model: Any, x: Any, sample_weight: Any, device: str, dtype: np.dtype
) -> tuple[Fit | None, Remembered | None]:
    """The fit of a KMeans, which is told its ``history_``; or None, if the drivers are to make it, and what they draw
    from if something was drawn already. So they do with whatever is an error or a warning, and where the model's class
    has a beginning or an end of its own."""
    if not can_stack(model) or any(getattr(type(model), name) is not getattr(StartsMixin, name) for name in _HOOKS):
        return None, None
    drawn = isinstance(model.init, str)
    starts = model._starts(None) if drawn else 1
    make = dispatch.make_starts(x, model.n_clusters, starts, device=device)
    if make is None or dtype != float_dtype(x.dtype):
        return None, None
    try:
        weights, kept = model._weights(x, sample_weight)
        summary, used = (Weights.of_rows(len(x)), None) if weights is None else Weights.of(weights)
        k, d = model.n_clusters, x.shape[1]
        given = None if drawn else initial(model.init, k, d, x.dtype, EUCLIDEAN)[None]
    except (TypeError, ValueError):
        return None, None
    if kept is not None:
        return None, None
    rules = Starts(k, model.init if drawn else "", given, 1, float(model.tol), int(model.max_iter))
    generator = Remembered(generator_of(model.random_state if drawn else None))
    room = max(1, min(rules.max_iter, _ITERATIONS, _ROOM // k, _PRODUCTS // (x.size * k)))
    together = max(1, _ROOM // (len(x) + k * (d + seeding_trials(k) + room)))
    best: ProblemFit | None = None
    records: list[Record] = []
    for first in range(0, starts, together):
        generators: Any = [generator] * min(together, starts - first)
        try:
            stack = make(x, used, summary, k, len(generators), room)
            fits = [None] if stack is None else fit_stack(stack, generators, rules, dtype)
        except MemoryError:  # of a GPU: one start takes less
            fits = [None]
        for i, fit in enumerate(fits):
            if fit is None:
                generator.again()
                return None, generator
            assert stack is not None
            records += _records(stack.log, i, fit.n_iter, first + i)
            if best is None or fit.inertia < best.inertia:
                best = fit
    assert best is not None
    model._n_init, model.history_ = starts, records
    centers, labels = best.centers, best.labels
    if starts > 1:  # which are parts of what all starts have
        centers, labels = centers.copy(), labels.copy()
    return Fit(centers, labels, unshifted(best.inertia, summary), best.n_iter, best.occupied), None


def _records(log: StackLog, problem: int, n_iter: int, start: int) -> list[Record]:
    """As `progress.Watch` makes them of so many iterations of a start, which is this problem of the log's."""
    told = zip(log.changed[problem, :n_iter].tolist(), log.shifts[problem, :n_iter].tolist(), strict=True)
    return [Record(start, i, None, changed, math.fsum(shifts)) for i, (changed, shifts) in enumerate(told)]
