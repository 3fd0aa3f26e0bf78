"""Which problems of a BatchedKMeans are fitted together, and what their fits have to say."""

from __future__ import annotations

import warnings
from collections import defaultdict
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from sklearn.exceptions import ConvergenceWarning

from gpukmeans import array_interop
from gpukmeans.center_checks import float_dtype, initial
from gpukmeans.engine import devices, dispatch
from gpukmeans.estimator import KMeans
from gpukmeans.exact.fixed_point import Weights
from gpukmeans.exact.metric import metric_of
from gpukmeans.many_fits import Starts, fit_stack
from gpukmeans.problems import Problems
from gpukmeans.random_state import seeded
from gpukmeans.thread_limits import one_blas_thread, thread_count
from gpukmeans.threads import run, unflagged
from gpukmeans.validation import unshifted
from gpukmeans.whole_fits import can_stack

# On a CPU problems of one call of what is compiled, at most, and calls for each thread, at least: so that threads
# finish together and no copy of many problems is made at once.
_TOGETHER, _CALLS = 64, 8


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
    if model.algorithm != "lloyd" or not can_stack(model):  # elkan warns of a single cluster
        return found
    whole = problems.on_gpu()
    xs: list[Any] = [problems.host_array(i) if whole is None else problems[i] for i in range(len(problems))]
    weighed = {}
    for i, x in enumerate(xs):
        if x is not None and len(x) >= model.n_clusters and _held(model, problems, i, float_dtype(x.dtype)):
            own = _weights(weights[i], len(x))
            if own is not None:
                weighed[i] = own
    if not weighed:
        return found
    device = devices.resolve(model.device, problems.gpu())
    if whole is not None and device == "cpu":
        return found
    together = dispatch.make_stacks(sum(xs[i].size for i in weighed), device=device)
    if together is None:
        return found
    groups: dict[Any, list[int]] = defaultdict(list)
    for i, (used, _) in weighed.items():
        kind = None if used is None else used.dtype if together.mixed else i
        groups[xs[i].shape[1:] if together.mixed else xs[i].shape, xs[i].dtype, kind].append(i)
    threads = thread_count() if device == "cpu" else 1
    tasks = []
    for members in groups.values():
        most = max(1, together.values // max(xs[i].size for i in members))
        step = min(most, _TOGETHER, -(-len(members) // (_CALLS * threads))) if device == "cpu" else most
        tasks += [members[a : a + step] for a in range(0, len(members), step)]

    def fit(members: list[int]) -> None:
        own: list[Any] = [xs[i] for i in members]
        used, summaries = zip(*(weighed[i] for i in members), strict=True)
        rows = problems.rows() if len(members) == len(problems) else None
        if whole is not None and rows is None:
            return
        try:
            starts = _starts(model, [inits[i] for i in members], own[0])
        except (TypeError, ValueError):  # of which a fit by itself tells
            return
        stack = together.make(own, used, summaries, model.n_clusters, rows)
        if stack is None:
            return
        generators = [seeded(seed) for seed in seeds[members].tolist()]
        fits = fit_stack(stack, generators, starts, float_dtype(own[0].dtype))
        for i, summary, each in zip(members, summaries, fits, strict=True):
            if each is not None:
                inertia = unshifted(each.inertia, summary)
                found[i] = Found(each.centers, each.labels, inertia, each.n_iter, each.occupied)

    if device != "cpu":
        with devices.on(device), suppress(MemoryError):  # by themselves, they take less
            for members in tasks:
                fit(members)
        return found
    with one_blas_thread(), unflagged():
        run(fit, tasks, threads)
    return found


def _held(model: Any, problems: Problems, i: int, dtype: np.dtype) -> bool:
    """Whether the kind of array that comes back has this dtype."""
    return array_interop.held_dtype(problems.like(i), dtype, model.output_type) == dtype


def _weights(weights: Any, n: int) -> tuple[Any, Weights] | None:
    """Those in use for n rows, and their summary; None where some are zero, or wrong, which a fit by itself sees to."""
    if weights is None:
        return None, Weights.of_rows(n)
    try:
        given = np.array(array_interop.to_numpy(weights), np.float64)
        if given.shape != (n,) or not (np.isfinite(given) & (given > 0)).all():
            return None
        summary, used = Weights.of(given)
    except (TypeError, ValueError):
        return None
    return used, summary


def _starts(model: Any, inits: Sequence[Any], x: NDArray[Any]) -> Starts:
    """The same of these problems, the first of which is x. Raises ValueError for centers that cannot be."""
    k, tol, max_iter = model.n_clusters, float(model.tol), int(model.max_iter)
    if not isinstance(model.init, str):
        metric = metric_of(model.metric)
        centers = np.stack([initial(init, k, x.shape[1], x.dtype, metric) for init in inits])
        return Starts(k, "", centers, 1, tol, max_iter)
    auto = KMeans._auto_starts if model.init == "random" else 1
    return Starts(k, model.init, None, auto if model.n_init == "auto" else int(model.n_init), tol, max_iter)
