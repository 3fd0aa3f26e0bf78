"""KMeans: scikit-learn's interface over the driver; validation, and moving results back."""

from __future__ import annotations

import logging
import math
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from fractions import Fraction
from numbers import Integral, Real
from typing import Any, ClassVar

import numpy as np
from numpy.typing import ArrayLike, NDArray
from sklearn.base import BaseEstimator, ClassNamePrefixFeaturesOutMixin, ClusterMixin, TransformerMixin, _fit_context
from sklearn.exceptions import ConvergenceWarning
from sklearn.utils import assert_all_finite, check_array, check_random_state
from sklearn.utils._param_validation import Interval, StrOptions
from sklearn.utils.validation import _check_sample_weight, check_is_fitted, validate_data

from gpukmeans import dispatch, lloyd, seeding
from gpukmeans.exact import Floats, Scales, Weights
from gpukmeans.points.base import Points
from gpukmeans.threads import one_blas_thread

logger = logging.getLogger("gpukmeans")

# Kept as they are; anything else becomes the first.
DTYPES = [np.float64, np.float32, np.float16, np.uint8]

SEEDINGS = {"k-means++": seeding.kmeans_plusplus, "random": seeding.random}


class KMeans(ClassNamePrefixFeaturesOutMixin, TransformerMixin, ClusterMixin, BaseEstimator):
    """k-means clustering with one answer.

    The result of `fit` is a function of the data, the weights, the parameters and the seed alone: the
    same bits with any number of threads, in any batch size, on any device. Labels are exact in float64
    whatever arithmetic proposed them.

    Parameters
    ----------
    n_clusters : int, default=8
        The number of clusters, and of centers.
    init : {"k-means++", "random"}, callable or array-like of shape (n_clusters, n_features), \
default="k-means++"
        How to choose the initial centers. "k-means++" draws far-apart points (greedily, the best of
        2 + log(n_clusters) draws for each center), "random" draws points by weight. A callable is
        called as ``init(X, n_clusters, random_state=random_state)`` and returns an array.
    n_init : "auto" or int, default="auto"
        How many starts to make; the one with the least inertia is kept, the first of equals. "auto" is
        10 for "random" or a callable, 1 for "k-means++" or an array.
    max_iter : int, default=300
        The most iterations of one start.
    tol : float, default=1e-4
        A start ends when the centers' summed squared shift is at most ``tol`` times the mean (weighted)
        variance of the features, or when no label changes.
    verbose : int, default=0
        Whether to print each iteration.
    random_state : int, RandomState instance or None, default=None
        The seed of all randomness. An int makes the result repeatable.
    copy_x : bool, default=True
        Accepted for compatibility: the input is never written to.
    algorithm : {"lloyd", "elkan"}, default="lloyd"
        Accepted for compatibility: both give the same bits at the same speed.
    device : str, default="auto"
        "cpu" computes on NumPy; "cuda" or "cuda:N" on a GPU; "auto" on a GPU if one can be used. The
        environment variable GPUKMEANS_DEVICE takes the place of "auto".

    Attributes
    ----------
    cluster_centers_ : ndarray of shape (n_clusters, n_features)
        The centers, in the dtype of the input if that is a float dtype, else float64.
    labels_ : ndarray of shape (n_samples,), int32
        The index of the center nearest to each sample, the least of equals: ``predict(X)``.
    inertia_ : float
        The sum of the samples' weighted squared distances to their centers.
    n_iter_ : int
        The number of iterations of the best start.
    n_features_in_ : int
        The number of features.
    feature_names_in_ : ndarray of shape (n_features,)
        The names of the features, if the input had any.

    Notes
    -----
    Lloyd's algorithm (1982) from k-means++ (Arthur and Vassilvitskii, 2007), with the bounds of Hamerly
    (2010). docs/design.md states what makes the answer unique. Input of dtype uint8, float16, float32
    and float64 is read as it is, anything else as float64.

    Examples
    --------
    >>> from gpukmeans import KMeans
    >>> import numpy as np
    >>> X = np.array([[1, 2], [1, 4], [1, 0], [10, 2], [10, 4], [10, 0]])
    >>> model = KMeans(n_clusters=2, random_state=0).fit(X)
    >>> model.labels_[0] == model.labels_[1] != model.labels_[3]
    np.True_
    >>> sorted(model.cluster_centers_.tolist())
    [[1.0, 2.0], [10.0, 2.0]]
    >>> model.inertia_
    16.0
    """

    _parameter_constraints: ClassVar[dict] = {
        "n_clusters": [Interval(Integral, 1, None, closed="left")],
        "init": [StrOptions(set(SEEDINGS)), callable, "array-like"],
        "n_init": [StrOptions({"auto"}), Interval(Integral, 1, None, closed="left")],
        "max_iter": [Interval(Integral, 1, None, closed="left")],
        "tol": [Interval(Real, 0, None, closed="left")],
        "verbose": ["verbose"],
        "random_state": ["random_state"],
        "copy_x": ["boolean"],
        "algorithm": [StrOptions({"lloyd", "elkan"})],
        "device": [str],
    }

    def __init__(
        self,
        n_clusters: int = 8,
        *,
        init: str | Callable | ArrayLike = "k-means++",
        n_init: str | int = "auto",
        max_iter: int = 300,
        tol: float = 1e-4,
        verbose: int = 0,
        random_state: int | np.random.RandomState | None = None,
        copy_x: bool = True,
        algorithm: str = "lloyd",
        device: str = "auto",
    ) -> None:
        self.n_clusters = n_clusters
        self.init = init
        self.n_init = n_init
        self.max_iter = max_iter
        self.tol = tol
        self.verbose = verbose
        self.random_state = random_state
        self.copy_x = copy_x
        self.algorithm = algorithm
        self.device = device

    # ------------------------------------------------------------ fitting

    @_fit_context(prefer_skip_nested_validation=True)
    def fit(self, X: ArrayLike, y: Any = None, sample_weight: ArrayLike | None = None) -> KMeans:
        """Find the centers.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features)
            The samples; never written to.
        y : ignored
        sample_weight : array-like of shape (n_samples,), default=None
            Weights, none negative. An integer weight is the same as that many copies of the sample,
            while the total is at most 2**40. A weight below 2**-62 of the total counts as none.

        Returns
        -------
        self : KMeans

        Raises
        ------
        ValueError
            For input that is not finite, fewer samples than clusters, or parameters out of range. An
            estimator that was fitted before is then left as it was.
        DeviceError
            If the device asked for cannot be used.
        """
        device = dispatch.resolve(self.device)
        with self._unchanged_on_failure(), one_blas_thread(), dispatch.on(device):
            x = self._validated(X, reset=True)
            if len(x) < self.n_clusters:
                raise ValueError(f"n_samples={len(x)} should be >= n_clusters={self.n_clusters}.")
            points, kept = self._points(x, sample_weight, device)
            best, labels = self._best_of_starts(points, x)
            if kept is not None:  # samples of weight zero had no part in the fit
                labels = self._label(x, best.centers, device)
            step = 2**20  # counting needs 64-bit copies of the labels
            pieces = [labels[a : a + step] for a in range(0, len(labels), step)]
            found = int(np.count_nonzero(sum(np.bincount(piece, minlength=self.n_clusters) for piece in pieces)))
            if found < self.n_clusters:
                warnings.warn(
                    f"Number of distinct clusters ({found}) found smaller than n_clusters ({self.n_clusters}). "
                    "Possibly due to duplicate points in X.",
                    ConvergenceWarning,
                    stacklevel=2,
                )
            self.cluster_centers_ = best.centers.astype(_float_dtype(x))
            self.labels_ = labels
            self.inertia_ = _unshifted(best.inertia, points)
            self.n_iter_ = best.n_iter
        return self

    def fit_predict(self, X: ArrayLike, y: Any = None, sample_weight: ArrayLike | None = None) -> NDArray[np.int32]:
        """Fit, and return the labels of X (n_samples,), int32; see `fit`."""
        return self.fit(X, sample_weight=sample_weight).labels_

    def fit_transform(self, X: ArrayLike, y: Any = None, sample_weight: ArrayLike | None = None) -> NDArray[Any]:
        """Fit, and return X's distances to the centers; see `fit` and `transform`."""
        return self.fit(X, sample_weight=sample_weight).transform(X)

    @contextmanager
    def _unchanged_on_failure(self) -> Iterator[None]:
        before = self.__dict__.copy()
        try:
            yield
        except BaseException:  # KeyboardInterrupt too
            self.__dict__.update(before)
            for name in self.__dict__.keys() - before.keys():
                del self.__dict__[name]
            raise

    def _points(
        self, x: NDArray[Any], sample_weight: ArrayLike | None, device: str, lasting: bool = True
    ) -> tuple[Points, NDArray[np.bool_] | None]:
        """Points of the samples that weigh anything, and which those are if not all."""
        if sample_weight is None:
            return dispatch.make_points(x, device=device, lasting=lasting), None
        given = _check_sample_weight(sample_weight, x, dtype=np.float64, ensure_non_negative=True)
        kept = given > 0
        if not kept.any():
            raise ValueError("Sample weights must contain at least one non-zero number.")
        if kept.all():
            kept = None
        else:
            self._finite(dispatch.make_points(x, device=device, lasting=False), x)
            x, given = x[kept], given[kept]
        summary, weights = Weights.of(given)
        return dispatch.make_points(x, weights, summary, device=device, lasting=lasting), kept

    def _best_of_starts(self, points: Points, x: NDArray[Any]) -> tuple[lloyd.Fit, NDArray[np.int32]]:
        """The start of least inertia, and the labels of its points."""
        scales = lloyd.prepare(points, *self._finite(points, x))
        dtype = _float_dtype(x)
        random_state = check_random_state(self.random_state)
        init = self._initial_array(x)
        tolerance = lloyd.Tolerance(self.tol, points, scales)
        best: lloyd.Fit | None = None
        for _ in range(self._starts(init)):
            centers = self._seed(points, x, random_state) if init is None else init
            if self.verbose:
                print("Initialization complete")
            watch = _Printer(points, scales, tolerance) if self.verbose else _silent
            last = lloyd.fit(
                points, scales, centers, max_iter=self.max_iter, tolerance=tolerance, dtype=dtype, watch=watch
            )
            if best is None or last.inertia < best.inertia:
                best = last
        assert best is not None
        if best is not last:
            points.assign(best.centers)
        return best, points.labels()

    def _starts(self, init: Floats | None) -> int:
        if self.n_init == "auto":
            return 10 if callable(self.init) or (isinstance(self.init, str) and self.init == "random") else 1
        if init is not None and self.n_init != 1:
            warnings.warn(
                "Explicit initial center position passed: performing only one init in "
                f"{type(self).__name__} instead of n_init={self.n_init}.",
                RuntimeWarning,
                stacklevel=4,
            )
            return 1
        return int(self.n_init)

    def _initial_array(self, x: NDArray[Any]) -> Floats | None:
        if isinstance(self.init, str) or callable(self.init):
            return None
        return self._checked_centers(self.init, x)

    def _seed(self, points: Points, x: NDArray[Any], random_state: np.random.RandomState) -> Floats:
        if isinstance(self.init, str):
            return SEEDINGS[self.init](points, self.n_clusters, random_state)
        return self._checked_centers(self.init(x, self.n_clusters, random_state=random_state), x)  # type: ignore

    def _checked_centers(self, init: Any, x: NDArray[Any]) -> Floats:
        """Initial centers (n_clusters, n_features) as float64, after rounding to the data's float dtype."""
        centers = check_array(init, dtype=_float_dtype(x), copy=True, order="C", input_name="init")
        if centers.shape[0] != self.n_clusters:
            raise ValueError(
                f"The shape of the initial centers {centers.shape} does not match "
                f"the number of clusters {self.n_clusters}."
            )
        if centers.shape[1] != x.shape[1]:
            raise ValueError(
                f"The shape of the initial centers {centers.shape} does not match "
                f"the number of features of the data {x.shape[1]}."
            )
        centers = centers.astype(np.float64)
        lloyd.check_magnitude(centers.min(axis=0), centers.max(axis=0))
        return centers

    # ------------------------------------------------------------ using the centers

    def predict(self, X: ArrayLike) -> NDArray[np.int32]:
        """The index of the nearest center for each sample.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features)

        Returns
        -------
        labels : ndarray of shape (n_samples,), int32
        """
        check_is_fitted(self)
        x = self._validated(X, reset=False)
        return self._label(x, self.cluster_centers_.astype(np.float64), dispatch.resolve(self.device))

    def transform(self, X: ArrayLike) -> NDArray[Any]:
        """Distances (not squared) to the centers.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features)

        Returns
        -------
        distances : ndarray of shape (n_samples, n_clusters)
            float32 if X is, else float64; computed in float64.
        """
        check_is_fitted(self)
        x = self._validated(X, reset=False)
        device = dispatch.resolve(self.device)
        with dispatch.on(device):
            points = dispatch.make_points(x, device=device, lasting=False)
            self._finite(points, x)
            squares = points.distances(self.cluster_centers_.astype(np.float64))
        return np.sqrt(squares, out=squares).astype(np.float32 if x.dtype == np.float32 else np.float64, copy=False)

    def score(self, X: ArrayLike, y: Any = None, sample_weight: ArrayLike | None = None) -> float:
        """The negative inertia of X with the fitted centers.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features)
        y : ignored
        sample_weight : array-like of shape (n_samples,), default=None

        Returns
        -------
        score : float
        """
        check_is_fitted(self)
        x = self._validated(X, reset=False)
        device = dispatch.resolve(self.device)
        with dispatch.on(device):
            points, _ = self._points(x, sample_weight, device, lasting=False)
            scales = lloyd.prepare(points, *self._finite(points, x))
            centers = self.cluster_centers_.astype(np.float64)
            points.assign(centers)
            return -_unshifted(lloyd.inertia(points, scales, centers), points)

    def _label(self, x: NDArray[Any], centers: Floats, device: str) -> NDArray[np.int32]:
        with dispatch.on(device):
            points = dispatch.make_points(x, device=device, lasting=False)
            self._finite(points, x)
            points.assign(centers)
            return points.labels()

    # ------------------------------------------------------------ validation

    def _validated(self, X: ArrayLike, *, reset: bool) -> NDArray[Any]:
        """X as an array of one of DTYPES, of the right width; whether it is finite shows in its extent."""
        x = validate_data(self, X, reset=reset, dtype=DTYPES, ensure_all_finite=False)
        return np.asarray(x)

    def _finite(self, points: Points, x: NDArray[Any]) -> tuple[Floats, Floats]:
        """The extent of x; raises scikit-learn's ValueError for NaN or infinity, ours for values too large."""
        low, high = points.extent()
        if not (np.isfinite(low).all() and np.isfinite(high).all()):
            assert_all_finite(x, estimator_name=type(self).__name__, input_name="X")
        lloyd.check_magnitude(low, high)
        return low, high

    @property
    def _n_features_out(self) -> int:
        return len(self.cluster_centers_)

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.transformer_tags.preserves_dtype = ["float64", "float32"]
        return tags


class _Printer:
    """Prints scikit-learn's lines for verbose=1."""

    def __init__(self, points: Points, scales: Scales, tolerance: lloyd.Tolerance) -> None:
        self.points, self.scales, self.tolerance = points, scales, tolerance

    def __call__(self, iteration: lloyd.Iteration) -> None:
        i = iteration.index
        inertia = _unshifted(lloyd.inertia(self.points, self.scales, iteration.centers), self.points)
        print(f"Iteration {i}, inertia {inertia}.")
        if i > 0 and iteration.changed == 0:
            print(f"Converged at iteration {i}: strict convergence.")
        elif self.tolerance.reached(iteration.shift):
            within = f"center shift {iteration.shift} within tolerance {self.tolerance.shift}"
            print(f"Converged at iteration {i}: {within}.")


def _silent(iteration: lloyd.Iteration) -> None:
    pass


def _float_dtype(x: NDArray[Any]) -> np.dtype:
    return x.dtype if x.dtype.kind == "f" else np.dtype(np.float64)


def _unshifted(inertia: Fraction, points: Points) -> float:
    """The inertia in the caller's weights, which may be the points' times a power of two."""
    shift = points.weights.shift
    try:
        return float(inertia / Fraction(2) ** shift if shift else inertia)
    except OverflowError:
        return math.inf
