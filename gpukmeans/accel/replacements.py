"""What takes the place of functions and methods in scikit-learn, and when scikit-learn's own are called after all.

Replaced are the few that do the work: the estimators' `fit` and `partial_fit`, and the functions below all others. What
calls them stays scikit-learn's, with its validation, its errors and its private names, which subclasses use. The answer
of ours is written into scikit-learn's estimator, whose state is as if it had been fitted there.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import wraps
from numbers import Integral
from typing import Any

import numpy as np
from sklearn.base import _fit_context
from sklearn.cluster import _bisect_k_means, _kmeans
from sklearn.exceptions import ConvergenceWarning
from sklearn.utils.validation import validate_data

from gpukmeans import sklearn_interop
from gpukmeans.accel.fallback import ours_or_theirs, overridden
from gpukmeans.array_interop import issparse
from gpukmeans.estimator import KMeans
from gpukmeans.functions import kmeans_plusplus
from gpukmeans.lloyd import Tolerance
from gpukmeans.minibatch import MiniBatchKMeans

# ---------------------------------------------------------------- ours, of scikit-learn's parameters


class Fit(KMeans):
    """One that remembers the tolerance, which scikit-learn keeps as ``_tol``."""

    def _until(self, points: Any, scales: Any) -> Tolerance:
        self._ending = super()._until(points, scales)
        return self._ending

    def _best_of_starts(self, points: Any, *where: Any) -> Any:
        best = super()._best_of_starts(points, *where)
        self._tol = self._ending.shift if self.tol > 0 else 0
        del self._ending
        return best


class BatchFit(MiniBatchKMeans):
    """One that remembers the tolerance, which scikit-learn keeps as ``_tol``."""

    _tol = 0.0

    def _tolerance(self, *where: Any) -> float:
        self._tol = super()._tolerance(*where)
        return self._tol


class Split(KMeans):
    """One whose ``tol`` is the squared shift itself, as scikit-learn's functions of a single run have it."""

    def _until(self, points: Any, scales: Any) -> Tolerance:
        return _Absolute(self.tol, points, scales)


class _Absolute(Tolerance):
    def reached(self, shift: float) -> bool:
        return shift == 0 or shift <= self.tol


def _of(theirs: Any, kind: type[KMeans], owner: Any) -> Any:
    """Ours with the parameters of scikit-learn's estimator."""
    return kind(**{name: getattr(theirs, name) for name in owner._get_param_names()})


def _holding(centers: Any) -> KMeans:
    model = KMeans(len(centers))
    model.cluster_centers_, model.n_features_in_ = centers, centers.shape[1]
    return model


def _rows(theirs: Any, X: Any, reset: bool = True) -> Any:
    """X as scikit-learn reads it, but for bytes, which are read as they are unless a callable is to see them. Whether
    X is finite shows in its feature range."""
    dtypes = [np.float64, np.float32] + [np.uint8] * (not callable(theirs.init))
    return validate_data(
        theirs,
        X,
        reset=reset,
        accept_sparse="csr",
        dtype=dtypes,
        accept_large_sparse=False,
        ensure_all_finite=False,
    )


def _centered(init: Callable) -> Callable:
    """scikit-learn's KMeans shows an init dense rows without their mean, and adds that to the answer."""

    @wraps(init)
    def shifted(x: Any, n_clusters: int, random_state: Any) -> Any:
        mean = x.mean(axis=0)
        return np.asarray(init(x - mean, n_clusters, random_state=random_state), dtype=x.dtype) + mean

    return shifted


# ---------------------------------------------------------------- the estimators


def _fit_kmeans(self: Any, X: Any, y: Any = None, sample_weight: Any = None) -> Any:
    def ours() -> Any:
        x = _rows(self, X)
        model = _of(self, Fit, _kmeans.KMeans)
        if callable(self.init) and not issparse(x):
            model.init = _centered(self.init)
        model.fit(x, sample_weight=sample_weight)
        sklearn_interop.write_fit(model, self)
        self._tol = model._tol
        return self

    return _answer(self, _kmeans.KMeans, "fit", ours, X, y, sample_weight=sample_weight)


def _fit_minibatch(self: Any, X: Any, y: Any = None, sample_weight: Any = None) -> Any:
    def ours() -> Any:
        x = _rows(self, X)
        model = _of(self, BatchFit, _kmeans.MiniBatchKMeans)
        model.fit(x, sample_weight=sample_weight)
        _write_batches(model, self, x)
        return self

    return _answer(self, _kmeans.MiniBatchKMeans, "fit", ours, X, y, sample_weight=sample_weight)


def _partial_fit_minibatch(self: Any, X: Any, y: Any = None, sample_weight: Any = None) -> Any:
    def ours() -> Any:
        first = not hasattr(self, "cluster_centers_")
        x = _rows(self, X, reset=first)
        model = _of(self, BatchFit, _kmeans.MiniBatchKMeans)
        sklearn_interop.read_fit(self, model)
        model.partial_fit(x, sample_weight=sample_weight)
        _write_batches(model, self, x)
        return self

    return _answer(self, _kmeans.MiniBatchKMeans, "partial_fit", ours, X, y, sample_weight=sample_weight)


def _write_batches(model: Any, theirs: Any, x: Any) -> None:
    sklearn_interop.write_fit(model, theirs)
    theirs._batch_size = min(theirs.batch_size, x.shape[0])
    theirs._tol = model._tol


def _answer(self: Any, owner: type, method: str, ours: Callable, *args: Any, **kwargs: Any) -> Any:
    theirs = _original(owner, method)
    with _draws_given_back(self.random_state) as give_back:
        return ours_or_theirs(
            f"{type(self).__qualname__}.{method}",
            ours,
            lambda: theirs(self, *args, **kwargs),
            why_not=overridden(self, owner),
            before_theirs=give_back,
        )


def _transform(self: Any, X: Any) -> Any:
    def ours() -> Any:
        return _holding(self.cluster_centers_).transform(X if issparse(X) else np.asarray(X))

    theirs = _original(_kmeans._BaseKMeans, "_transform")
    return ours_or_theirs(f"{type(self).__qualname__}.transform", ours, lambda: theirs(self, X))


# ---------------------------------------------------------------- the functions below


def _kmeans_plusplus(
    X: Any, n_clusters: int, x_squared_norms: Any, sample_weight: Any, random_state: Any, n_local_trials: Any = None
) -> Any:
    def ours() -> Any:
        return kmeans_plusplus(
            X, n_clusters, sample_weight=sample_weight, random_state=random_state, n_local_trials=n_local_trials
        )

    theirs = _original(_kmeans, "_kmeans_plusplus")
    with _draws_given_back(random_state) as give_back:
        return ours_or_theirs(
            "kmeans_plusplus",
            ours,
            lambda: theirs(X, n_clusters, x_squared_norms, sample_weight, random_state, n_local_trials),
            before_theirs=give_back,
        )


def _labels_inertia(X: Any, sample_weight: Any, centers: Any, n_threads: int = 1, return_inertia: bool = True) -> Any:
    def ours() -> Any:
        model = _holding(centers)
        if not return_inertia:
            return model.predict(X)
        with model._placed(X) as (x, device):
            points, kept, inertia = model._measured(x, sample_weight, device)
            labels = points.labels() if kept is None else model._label(x, model._centers(x), device)
            return labels, inertia

    def theirs() -> Any:
        original = _original(_kmeans, "_labels_inertia_threadpool_limit")
        return original(X, sample_weight, centers, n_threads=n_threads, return_inertia=return_inertia)

    # BisectingKMeans asks for the labels of no rows, too.
    return ours_or_theirs("predict", ours, theirs) if X.shape[0] else theirs()


def _single(name: str) -> Callable:
    def single(
        X: Any,
        sample_weight: Any,
        centers_init: Any,
        max_iter: int = 300,
        verbose: bool = False,
        tol: float = 1e-4,
        n_threads: int = 1,
    ) -> Any:
        def ours() -> Any:
            model = Split(len(centers_init), init=centers_init, n_init=1, max_iter=max_iter, tol=tol, verbose=verbose)
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", ConvergenceWarning)  # of clusters that could not be told apart
                model.fit(X, sample_weight=sample_weight)
            return model.labels_, model.inertia_, model.cluster_centers_, model.n_iter_

        theirs = _original(_bisect_k_means, name)
        how = {"max_iter": max_iter, "verbose": verbose, "tol": tol, "n_threads": n_threads}
        return ours_or_theirs("BisectingKMeans.fit", ours, lambda: theirs(X, sample_weight, centers_init, **how))

    return single


@contextmanager
def _draws_given_back(random_state: Any) -> Iterator[Callable[[], None]]:
    """A function that takes back what was drawn from the caller's generator, so that scikit-learn draws as ever."""
    generator = np.random.mtrand._rand if random_state is None or random_state is np.random else random_state
    if isinstance(generator, Integral) or not isinstance(generator, np.random.RandomState):
        yield lambda: None
        return
    state = generator.get_state()
    yield lambda: generator.set_state(state)


# ---------------------------------------------------------------- putting them in place

_ABSENT = object()
_originals: dict[tuple[Any, str], Any] = {}


def _original(owner: Any, name: str) -> Any:
    return _originals[owner, name] if (owner, name) in _originals else getattr(owner, name)


_VALIDATED = _fit_context(prefer_skip_nested_validation=True)

REPLACEMENTS: list[tuple[Any, str, Callable]] = [
    (_kmeans.KMeans, "fit", _VALIDATED(_fit_kmeans)),
    (_kmeans.MiniBatchKMeans, "fit", _VALIDATED(_fit_minibatch)),
    (_kmeans.MiniBatchKMeans, "partial_fit", _VALIDATED(_partial_fit_minibatch)),
    (_kmeans._BaseKMeans, "_transform", _transform),
    (_kmeans, "_kmeans_plusplus", _kmeans_plusplus),
    (_kmeans, "_labels_inertia_threadpool_limit", _labels_inertia),
    (_bisect_k_means, "_labels_inertia_threadpool_limit", _labels_inertia),
    (_bisect_k_means, "_kmeans_single_lloyd", _single("_kmeans_single_lloyd")),
    (_bisect_k_means, "_kmeans_single_elkan", _single("_kmeans_single_elkan")),
]


def install() -> None:
    """Put all replacements in place."""
    for owner, name, replacement in REPLACEMENTS:
        original = vars(owner)[name]
        _originals[owner, name] = original
        setattr(owner, name, wraps(original)(replacement))


def uninstall() -> None:
    """Put back what they replaced."""
    while _originals:
        (owner, name), original = _originals.popitem()
        setattr(owner, name, original)
