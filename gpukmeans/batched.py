"""BatchedKMeans: many problems in one call, each with the answer that KMeans has for it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cache
from typing import Any, ClassVar

import numpy as np
from numpy.typing import ArrayLike, NDArray
from sklearn.base import BaseEstimator, _fit_context
from sklearn.utils.validation import check_is_fitted

from gpukmeans import array_interop
from gpukmeans.batched_fits import Found, Told, fit_many
from gpukmeans.estimator import KMeans
from gpukmeans.foreign_names import check_values, names_checked
from gpukmeans.problems import Problems, named, stack
from gpukmeans.progress import Record
from gpukmeans.random_state import generator_of
from gpukmeans.saving.estimators import SavedMixin


class BatchedKMeans(SavedMixin, BaseEstimator):
    """Many k-means problems in one call: codebooks of a product quantizer, keys of attention heads, tiles of a picture,
    groups of a frame.

    Problem i has the bits of ``KMeans(..., random_state=seeds_[i]).fit(X[i])``. On a CPU small problems are shared
    among threads, and take a fraction of a loop's time where numba is installed (the extra ``fast``). On a GPU one
    launch fits them all, a block of threads to each.

    Parameters
    ----------
    n_clusters : int, default=8
        The number of clusters of each problem.
    init : {"k-means++", "k-means||", "random"}, callable or array-like of shape (n_clusters, n_features) or \
(n_problems, n_clusters, n_features), default="k-means++"
        See `KMeans`. An array of three dimensions has the initial centers of each problem, one of two those of all.
    n_init : "auto" or int, default="auto"
        See `KMeans`; the best start of each problem is kept.
    max_iter : int, default=300
        See `KMeans`.
    tol : float, default=1e-4
        See `KMeans`; in units of the variance of each problem by itself.
    verbose : int, default=0
        See `KMeans`. Problems are then fitted one after another, as with ``callback`` and ``progress``.
    random_state : int, RandomState instance or None, default=None
        One seed for each problem is drawn from it, ``seeds_``.
    copy_x : bool, default=True
        Accepted for compatibility: the input is never written to.
    algorithm : {"lloyd", "elkan"}, default="lloyd"
        Accepted for compatibility: both give the same bits at the same speed.
    metric : {"euclidean", "cosine"}, default="euclidean"
        See `KMeans`.
    device : str, default="auto"
        See `KMeans`.
    output_type : {"input", "numpy", "cupy", "torch", "jax"}, default="input"
        See `KMeans`. ``inertia_``, ``n_iter_`` and ``seeds_`` are NumPy's.
    callback : callable, default=None
        See `KMeans`; it ends the problem at hand, not those that follow.
    progress : bool, default=False
        See `KMeans`; a bar for each problem.
    oversampling_factor : float, default=2.0
        See `KMeans`.
    memory_limit : int or str, default=None
        See `KMeans`; of each problem that is fitted by itself.

    Attributes
    ----------
    cluster_centers_ : ndarray of shape (n_problems, n_clusters, n_features)
        The centers of each problem. Of a list of arrays of several dtypes, in the widest.
    labels_ : ndarray of shape (n_problems, n_samples), or list of ndarrays of shape (n_samples_i,), int32
        The index of the center of its problem nearest to each sample; a list if X is one.
    inertia_ : ndarray of shape (n_problems,), float64
    n_iter_ : ndarray of shape (n_problems,), int64
    seeds_ : ndarray of shape (n_problems,), int64
        The seed of each problem: ``KMeans(..., random_state=seeds_[i]).fit(X[i])`` has the same answer.
    n_features_in_ : int
        The number of features, which all problems have alike.

    Notes
    -----
    Where problems have rows of one shape and no weights, a compiled pass fits them one after another without returning
    to Python; on a GPU also where they differ in both. What it leaves open (a cluster that becomes empty, a shift next
    to the tolerance, means that sums in fixed point are too coarse for) is decided as `KMeans` decides it, so that the
    answer depends on none of that.

    Examples
    --------
    >>> from gpukmeans import BatchedKMeans
    >>> import numpy as np
    >>> X = np.array([[[1.0], [2.0], [9.0], [8.0]], [[5.0], [5.5], [-3.0], [-2.0]]])
    >>> model = BatchedKMeans(n_clusters=2, random_state=0).fit(X)
    >>> model.cluster_centers_.shape, np.sort(model.cluster_centers_, axis=1)[:, :, 0].tolist()
    ((2, 2, 1), [[1.5, 8.5], [-2.5, 5.25]])
    >>> model.inertia_.tolist()
    [1.0, 0.625]
    >>> [labels.tolist() for labels in model.predict([[[0.0]], [[4.0], [0.0]]])] == [
    ...     [model.labels_[0, 0]], [model.labels_[1, 0], model.labels_[1, 2]]
    ... ]
    True
    """

    _parameter_constraints: ClassVar[dict] = KMeans._parameter_constraints

    @names_checked
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
        metric: str = "euclidean",
        device: str = "auto",
        output_type: str = "input",
        callback: Callable[[Record], Any] | None = None,
        progress: bool = False,
        oversampling_factor: float = 2.0,
        memory_limit: int | str | None = None,
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
        self.metric = metric
        self.device = device
        self.output_type = output_type
        self.callback = callback
        self.progress = progress
        self.oversampling_factor = oversampling_factor
        self.memory_limit = memory_limit

    # ------------------------------------------------------------ fitting

    @_fit_context(prefer_skip_nested_validation=True)
    def fit(self, X: Any, y: Any = None, sample_weight: Any = None) -> BatchedKMeans:
        """Find the centers of each problem.

        Parameters
        ----------
        X : array of shape (n_problems, n_samples, n_features), or list of array-likes (n_samples_i, n_features)
            The samples of each problem, never written to. Those of a list may have other numbers of samples, and be
            sparse.
        y : ignored
        sample_weight : array of shape (n_problems, n_samples), or list of array-likes (n_samples_i,), default=None
            Weights, see `KMeans.fit`. In a list None stands for ones, and a number for the weight of each row; a number
            alone is that of all rows.

        Returns
        -------
        self : BatchedKMeans

        Raises
        ------
        ValueError
            As `KMeans.fit`, with the number of the problem, and of the first row that is not finite. An estimator that
            was fitted before is then left as it was.
        DeviceError
            If the device asked for cannot be used.
        """
        check_values(self)
        problems = Problems(X)
        weights = problems.of_another(sample_weight, "sample_weight")
        inits = self._inits(problems)
        seeds = generator_of(self.random_state).randint(2**31 - 1, size=len(problems), dtype=np.int64)
        told = Told(self.n_clusters)
        found = fit_many(self, problems, weights, inits, seeds)
        fits = []
        for i, fit in enumerate(found):
            fits.append(
                self._fit_one(problems[i], weights[i], inits[i], i, int(seeds[i]), told) if fit is None else fit
            )
            told.count(i, fits[-1])
        widths = [fit.centers.shape[1] for fit in fits]
        if len(set(widths)) > 1:
            other = next(i for i, width in enumerate(widths) if width != widths[0])
            raise ValueError(
                f"All problems need as many features: problem 0 has {widths[0]}, problem {other} has {widths[other]}."
            )
        told.warn()
        like, kind = problems.like(), self.output_type
        self.cluster_centers_ = stack(like, [fit.centers for fit in fits], kind)
        labels = [array_interop.convert_like(problems.like(i), fit.labels, kind) for i, fit in enumerate(fits)]
        self.labels_ = stack(like, labels, kind) if problems.stacked else labels
        self.inertia_ = np.array([fit.inertia for fit in fits])
        self.n_iter_ = np.array([fit.n_iter for fit in fits], np.int64)
        self.seeds_, self.n_features_in_ = seeds, widths[0]
        return self

    def _inits(self, problems: Problems) -> Sequence[Any]:
        """What each problem begins with."""
        if isinstance(self.init, str) or callable(self.init):
            return [self.init] * len(problems)
        given = array_interop.to_numpy(self.init)
        shape = np.shape(given)
        if len(shape) != 3:
            return [given] * len(problems)
        return problems.of_another(given, "init")

    def _fit_one(self, x: Any, weights: Any, init: Any, i: int, seed: int, told: Told) -> Found:
        """Problem i by itself."""
        model = self._model(init=init, random_state=seed)
        with told.listening(i):
            try:
                model.fit(x, sample_weight=weights)
            except Exception as error:
                raise named(error, i, x) from error
        return Found(model.cluster_centers_, model.labels_, model.inertia_, model.n_iter_, None)

    def _model(self, **changes: Any) -> KMeans:
        """A KMeans with these parameters, but for the changes."""
        return KMeans(**{**self.get_params(deep=False), **changes})

    def fit_predict(self, X: Any, y: Any = None, sample_weight: Any = None) -> Any:
        """Fit, and return ``labels_``; see `fit`."""
        return self.fit(X, sample_weight=sample_weight).labels_

    def fit_transform(self, X: Any, y: Any = None, sample_weight: Any = None) -> Any:
        """Fit, and return X's distances to the centers; see `fit` and `transform`."""
        return self.fit(X, sample_weight=sample_weight).transform(X)

    # ------------------------------------------------------------ using the centers

    def predict(self, X: Any) -> Any:
        """The index of the nearest center of its problem for each sample.

        Parameters
        ----------
        X : array of shape (n_problems, n_samples, n_features), or list of array-likes (n_samples_i, n_features)
            Of as many problems as were fitted, each with any number of samples.

        Returns
        -------
        labels : ndarray of shape (n_problems, n_samples), or list of ndarrays of shape (n_samples_i,), int32
        """
        return self._of_each(X, lambda model, x, weights: model.predict(x))

    def transform(self, X: Any) -> Any:
        """Distances (not squared) to the centers of a sample's problem, see `KMeans.transform`.

        Parameters
        ----------
        X : array of shape (n_problems, n_samples, n_features), or list of array-likes (n_samples_i, n_features)

        Returns
        -------
        distances : ndarray of shape (n_problems, n_samples, n_clusters), or list of ndarrays (n_samples_i, n_clusters)
            float32 if X and the centers are, else float64.
        """
        return self._of_each(X, lambda model, x, weights: model.transform(x))

    def score(self, X: Any, y: Any = None, sample_weight: Any = None) -> NDArray[np.float64]:
        """The negative inertia of each problem of X with its fitted centers.

        Parameters
        ----------
        X : array of shape (n_problems, n_samples, n_features), or list of array-likes (n_samples_i, n_features)
        y : ignored
        sample_weight : array of shape (n_problems, n_samples), or list of array-likes (n_samples_i,), default=None

        Returns
        -------
        scores : ndarray of shape (n_problems,), float64
        """

        def score(model: KMeans, x: Any, weights: Any) -> float:
            return model.score(x, sample_weight=weights)

        return np.array(self._each(Problems(X), score, sample_weight))

    def _of_each(self, X: Any, use: Callable[[KMeans, Any, Any], Any]) -> Any:
        problems = Problems(X)
        answers = self._each(problems, use)
        return stack(problems.like(), answers, self.output_type) if problems.stacked else answers

    def _each(self, problems: Problems, use: Callable[[KMeans, Any, Any], Any], sample_weight: Any = None) -> list[Any]:
        """What a KMeans with each problem's centers has to say."""
        check_is_fitted(self, "cluster_centers_")
        centers = array_interop.to_numpy(self.cluster_centers_)
        if len(problems) != len(centers):
            raise ValueError(f"X has {len(problems)} problems, and {len(centers)} were fitted.")
        weights = problems.of_another(sample_weight, "sample_weight")
        answers = []
        for i, own in enumerate(centers):
            model = self._model(init="k-means++", random_state=None)
            model.cluster_centers_, model.n_features_in_ = own, own.shape[-1]
            try:
                answers.append(use(model, problems[i], weights[i]))
            except Exception as error:
                raise named(error, i, problems[i]) from error
        return answers

    @classmethod
    @cache
    def _get_param_names(cls) -> list[str]:
        return super()._get_param_names()
