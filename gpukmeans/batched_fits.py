"""Which problems of a BatchedKMeans are fitted together, and what their fits have to say."""

from __future__ import annotations

import math
import warnings
from collections import defaultdict
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from sklearn.exceptions import ConvergenceWarning

from gpukmeans import array_interop
from gpukmeans.center_checks import float_dtype, initial
from gpukmeans.engine import devices, dispatch
from gpukmeans.engine.protocol import Stack
from gpukmeans.estimator import KMeans
from gpukmeans.exact.fixed_point import Weights
from gpukmeans.exact.metric import metric_of
from gpukmeans.many_fits import Starts, fit_stack
from gpukmeans.problems import Problems
from gpukmeans.thread_limits import one_blas_thread, thread_count
from gpukmeans.threads import run, unflagged
from gpukmeans.validation import unshifted

# Problems of one call of what is compiled, at most, and calls for each thread, at least: so that threads finish
# together and no copy of many problems is made at once.
_TOGETHER, _CALLS = 64, 8

# Values of these problems at most: 32 MB of float64.
_VALUES = 2**22


class Found(NamedTuple):
    """What is known of a problem that was fitted. occupied: how many clusters have rows, None where that was told."""

    centers: Any
    labels: Any
    inertia: float
    n_iter: int
    occupied: int | None


class Told:
    """Warnings of all problems: each is given once, and says of how many problems, and of which first."""

    def __init__(self, n_clusters: int) -> None:
        self._n_clusters = n_clusters
        self._problems: dict[tuple[type[Warning], str], list[int]] = defaultdict(list)

    def count(self, i: int, fit: Found) -> None:
        if fit.occupied is not None and fit.occupied < self._n_clusters:
            self._few(i)

    def _few(self, i: int) -> None:
        few = f"Number of distinct clusters found smaller than n_clusters ({self._n_clusters})"
        self._problems[ConvergenceWarning, few].append(i)

    @contextmanager
    def listening(self, i: int) -> Iterator[None]:
        """The context of the fit of problem i by itself."""
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            yield
        for warning in caught:
            if issubclass(warning.category, ConvergenceWarning):
                self._few(i)
            else:
                self._problems[warning.category, str(warning.message)].append(i)

    def warn(self) -> None:
        for (kind, message), problems in self._problems.items():
            of = f"problem {problems[0]}" if len(problems) == 1 else f"{len(problems)} problems, first {problems[0]}"
            warnings.warn(f"{message.rstrip('.')} (in {of}).", kind, stacklevel=4)


def fit_many(
    model: Any, problems: Problems, weights: Sequence[Any], inits: Sequence[Any], seeds: NDArray[np.int64]
) -> list[Found | None]:
    """The fits of those problems that an engine fits together; None of the others. model: with KMeans' parameters."""
    found: list[Found | None] = [None] * len(problems)
    if not _together(model):
        return found
    xs: list[Any] = [problems.host_array(i) for i in range(len(problems))]
    groups: dict[Any, list[int]] = defaultdict(list)
    for i, x in enumerate(xs):
        if x is not None and len(x) >= model.n_clusters and _held(model, problems, i, float_dtype(x.dtype)):
            groups[x.shape, x.dtype, i if weights[i] is not None else None].append(i)
    if not groups or devices.resolve(model.device, None) != "cpu":
        return found
    make = dispatch.make_stacks(sum(x.size for x in xs if x is not None), device="cpu")
    if make is None:
        return found
    threads = thread_count()
    tasks = []
    for members in groups.values():
        most = max(1, min(_TOGETHER, _VALUES // max(1, math.prod(xs[members[0]].shape))))
        step = min(most, -(-len(members) // (_CALLS * threads)))
        tasks += [members[a : a + step] for a in range(0, len(members), step)]

    def fit(members: list[int]) -> None:
        own: list[Any] = [xs[i] for i in members]
        try:
            stack = _made(make, own, weights[members[0]])
            starts = _starts(model, [inits[i] for i in members], own[0])
        except (TypeError, ValueError):  # of which a fit by itself tells
            return
        if stack is None:
            return
        fits = fit_stack(stack, seeds[members].tolist(), starts, float_dtype(own[0].dtype))
        for i, each in zip(members, fits, strict=True):
            if each is not None:
                inertia = unshifted(each.inertia, stack)
                found[i] = Found(each.centers, each.labels, inertia, each.n_iter, each.occupied)

    with one_blas_thread(), unflagged():
        run(fit, tasks, threads)
    return found


def _together(model: Any) -> bool:
    """Whether a Stack can do what these parameters ask for."""
    if model.verbose or model.progress or model.callback is not None or callable(model.init):
        return False
    if model.metric != "euclidean" or model.algorithm != "lloyd":  # elkan warns of a single cluster
        return False
    return model.init in ("k-means++", "random") if isinstance(model.init, str) else model.n_init in ("auto", 1)


def _held(model: Any, problems: Problems, i: int, dtype: np.dtype) -> bool:
    """Whether the kind of array that comes back has this dtype."""
    return array_interop.held_dtype(problems.like(i), dtype, model.output_type) == dtype


def _made(make: Any, xs: list[NDArray[Any]], weights: Any) -> Stack | None:
    """The stack of problems of one shape, of weights that a single one has, or of none."""
    if weights is None:
        return make(np.stack(xs), None, Weights.of_rows(len(xs[0])))
    given = np.array(array_interop.to_numpy(weights), np.float64)
    if given.shape != xs[0].shape[:1] or not (np.isfinite(given) & (given > 0)).all():
        return None
    summary, used = Weights.of(given)
    return make(xs[0][None], used, summary)


def _starts(model: Any, inits: Sequence[Any], x: NDArray[Any]) -> Starts:
    """The same of these problems, the first of which is x. Raises ValueError for centers that cannot be."""
    k, tol, max_iter = model.n_clusters, float(model.tol), int(model.max_iter)
    if not isinstance(model.init, str):
        metric = metric_of(model.metric)
        centers = np.stack([initial(init, k, x.shape[1], x.dtype, metric) for init in inits])
        return Starts(k, "", centers, 1, tol, max_iter)
    auto = KMeans._auto_starts if model.init == "random" else 1
    return Starts(k, model.init, None, auto if model.n_init == "auto" else int(model.n_init), tol, max_iter)
