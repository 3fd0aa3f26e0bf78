"""KMeans: scikit-learn's interface."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from functools import cache
from numbers import Integral, Real
from typing import Any, ClassVar

import numpy as np
from numpy.typing import ArrayLike, NDArray
from sklearn.base import BaseEstimator, ClusterMixin, _fit_context
from sklearn.exceptions import ConvergenceWarning
from sklearn.utils._param_validation import Interval, StrOptions

from gpukmeans import array_interop, cluster_means
from gpukmeans.array_interop import is_dask
from gpukmeans.center_checks import rounded
from gpukmeans.foreign_names import names_checked
from gpukmeans.n_init import StartsMixin
from gpukmeans.prediction import PredictionMixin
from gpukmeans.progress import Record
from gpukmeans.saving.estimators import SavedMixin
from gpukmeans.sklearn_interop import SklearnInterop
from gpukmeans.thread_limits import one_blas_thread
from gpukmeans.validation import unshifted
from gpukmeans.whole_fits import Fit, fit_whole

INITS = {"k-means++", "k-means||", "random"}


class KMeans(
    StartsMixin,
    PredictionMixin,
    SklearnInterop,
    SavedMixin,
    ClusterMixin,
    BaseEstimator,
):
    """k-means clustering with one answer.

    The result of `fit` is a function of the data, the weights, the parameters and the seed alone: the
    same bits with any number of threads, in any batch size, on any device or several. Labels are exact in float64
    whatever arithmetic proposed them.

    Parameters
    ----------
    n_clusters : int, default=8
        The number of clusters, and of centers.
    init : {"k-means++", "k-means||", "random"}, callable or array-like of shape (n_clusters, n_features), \
default="k-means++"
        How to choose the initial centers. "k-means++" draws far-apart points (greedily, the best of
        2 + log(n_clusters) draws for each center). "k-means||", for thousands of clusters, draws
        ``oversampling_factor * n_clusters`` far-apart points at a time, five times, and chooses among those by
        k-means++.
        "random" draws points by weight. A callable is called as
        ``init(X, n_clusters, random_state=random_state)`` and returns an array.
    n_init : "auto" or int, default="auto"
        How many starts to make; the one with the least inertia is kept, the first of equals. "auto" is
        10 for "random" or a callable, 1 for "k-means++", "k-means||" or an array.
    max_iter : int, default=300
        The most iterations of one start.
    tol : float, default=1e-4
        A start ends when the centers' summed squared shift is at most ``tol`` times the mean (weighted)
        variance of the features, or when no label changes.
    verbose : int, default=0
        Whether to print each iteration: its inertia costs a pass over the data.
    random_state : int, RandomState instance or None, default=None
        The seed of all randomness. An int makes the result repeatable.
    copy_x : bool, default=True
        Accepted for compatibility: the input is never written to.
    algorithm : {"lloyd", "elkan"}, default="lloyd"
        Accepted for compatibility: both give the same bits at the same speed.
    metric : {"euclidean", "cosine"}, default="euclidean"
        What is near. "cosine" is spherical k-means, for data whose directions matter and lengths do not, as embeddings
        and counts of words: samples are brought to length one, and so is each mean. ``cluster_centers_``, arrays given
        as ``init`` too, are unit vectors; ``inertia_``, ``tol`` and `score` are those of unit vectors, and `transform`
        gives cosine distances. A sample that is zero has no direction: it stays zero, at a squared distance of one
        from every unit vector.
    device : str, default="auto"
        "cpu" computes on NumPy; "cuda" or "cuda:N" on a GPU; "cuda:N,M" on those GPUs together, and "cuda:all" on
        all there are; "auto" on a GPU if one can be used. The environment variable GPUKMEANS_DEVICE takes the
        place of "auto". Under "auto" and "cuda", an array that is on a GPU stays there.
    output_type : {"input", "numpy", "cupy", "torch", "jax"}, default="input"
        The kind of arrays that come back: "input" for the kind of X, where X is, if X is an array of one
        of these libraries or on a GPU, and NumPy's for anything else.
    callback : callable, default=None
        Called as ``callback(record)`` with the `gpukmeans.Record` of each iteration, in the calling thread.
        If it returns a true value, the fit ends there: this start is over, and no other is made. The
        result is a valid fit, with the best centers so far, their inertia, and ``labels_ == predict(X)``.
        An exception leaves the estimator as it was. As any parameter it is copied by ``clone``: a function
        stays the same one, an object with state does not.
    progress : bool, default=False
        Whether to show a bar of the iterations, with inertia and labels changed; needs tqdm
        (``pip install 'gpukmeans[progress]'``). As for ``callback``, inertia costs a pass each iteration. Of rows
        that are read in pieces it tells how many bytes were read.
    oversampling_factor : float, default=2.0
        For ``init="k-means||"``: points drawn in one of its five rounds, for each cluster. More of them cost
        more, and may make better centers.
    memory_limit : int or str, default=None
        How much memory may be taken beside rows that are in memory already: bytes, or a text as "4GB". Rows
        that need more are read in pieces, with the same answer. None is a quarter of what the machine has free, for
        rows that are not in memory (memory maps, datasets, files); rows in memory have no limit then. On a Dask cluster
        it is each worker's, which has its own limit besides. The k centers, and answers that are not given an ``out``,
        are not counted.

    Attributes
    ----------
    cluster_centers_ : ndarray of shape (n_clusters, n_features)
        The centers, in the dtype of the input if that is a float dtype, else float64; or in float32 if that is all that
        JAX has, whose arrays come back. With metric="cosine", unit vectors, rounded to that dtype. Others may be set in
        their place, as many as you like; a ValueError says where they are used if they cannot be centers.
    labels_ : ndarray of shape (n_samples,), int32
        The index of the center nearest to each sample, the least of equals: ``predict(X)``.
    inertia_ : float
        The sum of the samples' weighted squared distances to their centers. With metric="cosine" those of the unit
        vectors, which is twice the weighted sum of one less the cosine, as near as the centers' dtype lets them be
        of length one.
    n_iter_ : int
        The number of iterations of the best start.
    history_ : list of gpukmeans.Record
        Every iteration, of all starts.
    n_features_in_ : int
        The number of features.
    feature_names_in_ : ndarray of shape (n_features,)
        The names of the features, if the input had any.

    Notes
    -----
    Lloyd's algorithm (1982) from k-means++ (Arthur and Vassilvitskii, 2007) or k-means|| (Bahmani and
    others, 2012), with the bounds of Hamerly (2010). docs/design.md states what makes the answer unique. Input of
    dtype uint8, float16, float32 and float64 is read as it is, bfloat16 as float32, anything else as float64, whatever
    holds the values. A sparse matrix is read as CSR, and costs what it stores. From the same initial centers its labels
    and centers are those of its dense form; distances that are summed or published, in ``inertia_``, `transform`,
    `score` and the draws of ``init``, are computed without its zeros, and differ from those of the dense form by
    rounding.

    A Dask array or frame is fitted on the workers of the current client's cluster, each with a part of the rows, or, if
    there is no client, by this process, a chunk at a time where all are too many for ``memory_limit``. Its
    ``labels_``, and what `predict` and `transform` return, are Dask arrays of as many chunks, not computed yet.

    Rows may be elsewhere: in a memory map, in a dataset of pyarrow's (Parquet, Feather), or in anything that has a
    ``shape``, a ``dtype`` and slices of rows, as arrays of h5py and zarr. They are read in pieces, the next while one
    is worked on, unless ``memory_limit`` has room for all of them and what a fit keeps of them. An iteration then reads
    them once; k-means++ twice for each center, "k-means||" some twelve times. ``labels_`` take 4 bytes a row, in a file
    that is mapped and has no name where that is too much.

    metric="cosine" is the spherical k-means of Dhillon and Modha (2001): after an assignment each center becomes the
    direction of its samples' mean, or stays where it is if that mean is zero. Samples are brought to length one in
    float64, whatever their dtype: by a power of two for their largest value, then by the root of the sum of squares, in
    the order of the features, each operation rounded once. The same bits come out on every device.

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

    By direction, however far out:

    >>> X = np.array([[1, 0], [9, 1], [0, 1], [2, 30]])
    >>> model = KMeans(n_clusters=2, metric="cosine", random_state=0).fit(X)
    >>> model.labels_[0] == model.labels_[1] != model.labels_[2] == model.labels_[3]
    np.True_
    >>> np.linalg.norm(model.cluster_centers_, axis=1).round(12).tolist()
    [1.0, 1.0]
    """

    _parameter_constraints: ClassVar[dict] = {
        "n_clusters": [Interval(Integral, 1, None, closed="left")],
        "init": [StrOptions(INITS), callable, "array-like"],
        "n_init": [StrOptions({"auto"}), Interval(Integral, 1, None, closed="left")],
        "max_iter": [Interval(Integral, 1, None, closed="left")],
        "tol": [Interval(Real, 0, None, closed="left")],
        "verbose": ["verbose"],
        "random_state": ["random_state"],
        "copy_x": ["boolean"],
        "algorithm": [StrOptions({"lloyd", "elkan"})],
        "metric": [StrOptions({"euclidean", "cosine"})],
        "device": [str],
        "output_type": [StrOptions({"input", *array_interop.LIBRARIES})],
        "callback": [callable, None],
        "progress": ["boolean"],
        "oversampling_factor": [Interval(Real, 0, np.inf, closed="neither")],
        "memory_limit": [Interval(Integral, 1, None, closed="left"), str, None],
    }

    _counterpart: ClassVar = "KMeans"
    _auto_starts: ClassVar = 10  # what n_init="auto" is for an init that draws without looking

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
    def fit(self, X: ArrayLike, y: Any = None, sample_weight: ArrayLike | None = None) -> KMeans:
        """Find the centers.

        Parameters
        ----------
        X : array-like, sparse matrix, or Dask array or frame, of shape (n_samples, n_features)
            The samples; never written to.
        y : ignored
        sample_weight : array-like of shape (n_samples,), default=None
            Weights, none negative. An integer weight is the same as that many copies of the sample,
            while the total is at most 2**32. However far apart weights are, each center is the mean of its samples;
            but a sample that weighs less than 2**-62 of the total is drawn by no ``init``.

        Returns
        -------
        self : KMeans

        Raises
        ------
        ValueError
            For input that is not finite, weights that are nothing beside each other (1e-300 beside 1e300), fewer
            samples than clusters, or parameters out of range. An estimator that was fitted before is then left as it
            was.
        DeviceError
            If the device asked for cannot be used.
        """
        with self._unchanged_on_failure(), self._placed(X, reset=True) as (x, device):
            if x.shape[0] < self.n_clusters:
                raise ValueError(f"n_samples={x.shape[0]} should be >= n_clusters={self.n_clusters}.")
            if self.algorithm == "elkan" and self.n_clusters == 1:
                warnings.warn(
                    "algorithm='elkan' doesn't make sense for a single cluster. Using 'lloyd' instead.",
                    RuntimeWarning,
                    stacklevel=2,
                )
            dtype = self._published_dtype(X, x)
            fit, random_state = fit_whole(self, x, sample_weight, device, dtype)
            if fit is None:
                with one_blas_thread():
                    points, kept = self._points(x, sample_weight, device)
                    best = self._best_of_starts(points, x, device, dtype, random_state)
                    # Samples of weight zero had no part in the fit.
                    seen = kept is None and not is_dask(x)
                    labels = points.labels() if seen else self._label(x, best.centers, device)
                    found = int(np.count_nonzero(cluster_means.occupied(points)))
                inertia = unshifted(best.inertia, points.weights)
                fit = Fit(rounded(best.centers, dtype), labels, inertia, best.n_iter, found)
            if fit.occupied < self.n_clusters:
                warnings.warn(
                    f"Number of distinct clusters ({fit.occupied}) found smaller than n_clusters ({self.n_clusters}). "
                    "Possibly due to duplicate points in X.",
                    ConvergenceWarning,
                    stacklevel=2,
                )
            self.cluster_centers_ = self._convert_like(X, fit.centers)
            self.labels_ = self._convert_like(X, fit.labels)
            self.inertia_ = fit.inertia
            self.n_iter_ = fit.n_iter
        return self

    def fit_predict(self, X: ArrayLike, y: Any = None, sample_weight: ArrayLike | None = None) -> NDArray[np.int32]:
        """Fit, and return the labels of X (n_samples,), int32; see `fit`."""
        return self.fit(X, sample_weight=sample_weight).labels_

    def fit_transform(self, X: ArrayLike, y: Any = None, sample_weight: ArrayLike | None = None) -> NDArray[Any]:
        """Fit, and return X's distances to the centers; see `fit` and `transform`."""
        return self.fit(X, sample_weight=sample_weight).transform(X)

    def _for_chunks(self, centers: NDArray[Any]) -> KMeans:
        """What is to go to others, who are to ask it of chunks of rows."""
        kind = type(self) if type(self).__module__.startswith("gpukmeans.") else KMeans
        model = kind(len(centers), metric=self.metric, device=self.device)
        model.cluster_centers_, model.n_features_in_ = centers, centers.shape[1]
        return model

    @classmethod
    @cache
    def _get_param_names(cls) -> list[str]:
        return super()._get_param_names()  # inspects the signature at every fit, 15 us

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.input_tags.sparse = True
        tags.transformer_tags.preserves_dtype = ["float64", "float32"]
        return tags
