"""Which fits of KMeans are made whole, all starts and iterations in the calls of a Stack, and what is told of them."""

from __future__ import annotations

import math
from numbers import Integral
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from gpukmeans.center_checks import float_dtype, initial
from gpukmeans.engine import dispatch
from gpukmeans.engine.protocol import StackLog
from gpukmeans.exact.fixed_point import Weights
from gpukmeans.exact.metric import EUCLIDEAN
from gpukmeans.many_fits import ProblemFit, Starts, fit_stack
from gpukmeans.n_init import StartsMixin
from gpukmeans.progress import Record
from gpukmeans.random_state import generator_of
from gpukmeans.validation import unshifted

# Of the iterations of all starts, shifts that there is room for: 8 MB.
_ROOM = 2**20


class Fit(NamedTuple):
    """What is published of a fit. centers: (k, d) in the published dtype. occupied: how many clusters have rows."""

    centers: NDArray[Any]
    labels: Any
    inertia: float
    n_iter: int
    occupied: int


def stacks(model: Any) -> bool:
    """Whether a Stack can do what these parameters ask for, which are KMeans'."""
    if model.verbose or model.progress or model.callback is not None or callable(model.init):
        return False
    if model.metric != "euclidean":
        return False
    return model.init in ("k-means++", "random") if isinstance(model.init, str) else model.n_init in ("auto", 1)


def fit_whole(model: Any, x: Any, sample_weight: Any, device: str, dtype: np.dtype) -> Fit | None:
    """The fit of a KMeans, which is told its ``history_``; or None, its generator as it was, if the drivers are to make
    it. So they do with whatever is an error or a warning, and where the model has an end of its own."""
    if not stacks(model) or type(model)._until is not StartsMixin._until:
        return None
    drawn = isinstance(model.init, str)
    starts = model._starts(None) if drawn else 1
    make = dispatch.make_starts(x, model.n_clusters, starts, device=device)
    if make is None or dtype != float_dtype(x.dtype):
        return None
    try:
        weights, kept = model._weights(x, sample_weight)
        summary, used = (Weights.of_rows(len(x)), None) if weights is None else Weights.of(weights)
        k, d = model.n_clusters, x.shape[1]
        given = None if drawn else initial(model.init, k, d, x.dtype, EUCLIDEAN)[None]
    except (TypeError, ValueError):
        return None
    if kept is not None:
        return None
    room = min(model.max_iter, max(1, _ROOM // (starts * k)))
    stack = make(x, used, summary, k, starts, room)
    generator = generator_of(model.random_state)
    before = None if not drawn or isinstance(model.random_state, Integral) else generator.get_state(legacy=False)
    rules = Starts(k, model.init if drawn else "", given, 1, float(model.tol), int(model.max_iter))
    fits: list[ProblemFit] = [fit for fit in fit_stack(stack, [generator] * starts, rules, dtype) if fit is not None]
    if len(fits) < starts:
        if before is not None:
            generator.set_state(before)
        return None
    best = min(fits, key=lambda fit: fit.inertia)  # the first of equals
    model._n_init, model.history_ = starts, _records(stack.log, [fit.n_iter for fit in fits])
    labels = best.labels if starts == 1 else best.labels.copy()
    return Fit(best.centers, labels, unshifted(best.inertia, summary), best.n_iter, best.occupied)


def _records(log: StackLog, iterations: list[int]) -> list[Record]:
    """As `progress.Watch` makes them of as many iterations of each start."""
    records = []
    for start, n in enumerate(iterations):
        told = zip(log.changed[start, :n].tolist(), log.shifts[start, :n].tolist(), strict=True)
        records += [Record(start, i, None, changed, math.fsum(shifts)) for i, (changed, shifts) in enumerate(told)]
    return records
