"""MiniBatchKMeans: k-means on small batches of rows; each batch is a Points."""

# A batch has scales of its own. Integer sums give each cluster's exact mean and weight, and the center moves by (mean -
# center) * weight / total weight, in float64. A step's generator is seeded by one integer drawn for the fit and the
# step's number: none depends on how much another drew, and one that failed can be made again. When to end, and which
# centers to move elsewhere, are scikit-learn's rules.

from __future__ import annotations

import math
from collections.abc import Callable
from fractions import Fraction
from numbers import Integral, Real
from typing import Any, ClassVar

import numpy as np
from numpy.typing import ArrayLike, NDArray
from sklearn.base import _fit_context
from sklearn.utils._param_validation import Interval

from gpukmeans import array_interop, lloyd, minibatch_step, seeding
from gpukmeans.center_checks import float_dtype, rounded
from gpukmeans.engine.protocol import Points
from gpukmeans.estimator import KMeans
from gpukmeans.exact.distance import Floats
from gpukmeans.exact.scales import Scales
from gpukmeans.foreign_names import names_checked
from gpukmeans.minibatch_convergence import Convergence, least_shift
from gpukmeans.random_state import generator_of, seeded
from gpukmeans.row_sampler import RowSampler, sizes
from gpukmeans.thread_limits import one_blas_thread
from gpukmeans.validation import unshifted

# Parameters of KMeans that this one does not have.
_NOT_HERE = {"copy_x", "algorithm", "callback", "progress"}


class MiniBatchKMeans(KMeans):
    """k-means on batches of rows drawn at random: less work than `KMeans`, centers a little worse.

    A step labels one batch, and moves each center to the mean of all rows that were ever labelled with
    it. As for `KMeans`, the result is a function of the data, the weights, the parameters and the seed
    alone: the same bits with any number of threads, on any device.

    Parameters
    ----------
    n_clusters : int, default=8
        The number of clusters, and of centers.
    init : {"k-means++", "k-means||", "random"}, callable or array-like of shape (n_clusters, n_features), \
default="k-means++"
        How to choose the initial centers, see `KMeans`, here among ``init_size`` rows.
    max_iter : int, default=100
        The most passes over the data: ``max_iter * n_samples // batch_size`` steps.
    batch_size : int, default=1024
        Rows of a batch, drawn by weight, with repetitions; at most as many as there are.
    verbose : int, default=0
        Whether to print each step.
    compute_labels : bool, default=True
        Whether to label all rows and measure the inertia at the end, which takes a pass over the data.
    random_state : int, RandomState instance or None, default=None
        The seed of all randomness. One integer is drawn from it.
    tol : float, default=0.0
        A fit ends when the centers' summed squared shift in one step is at most ``tol`` times the mean
        (weighted) variance of the features. 0 leaves that, and the pass over the data that it takes, out.
    max_no_improvement : int or None, default=10
        A fit ends after this many steps in which the smoothed inertia of batches did not fall; None: never.
    init_size : int or None, default=None
        How many rows, drawn by weight, to choose initial centers among; at most all. By default three
        batches, and at least three rows a cluster.
    n_init : "auto" or int, default="auto"
        How many times to choose initial centers; those with the least inertia over ``init_size`` other rows
        are kept, and a single fit starts from them. "auto" is 3 for "random" or a callable, 1 otherwise.
        `partial_fit` chooses once.
    reassignment_ratio : float, default=0.01
        Centers with less than this share of the largest cluster's weight move, now and then, to random rows
        of the batch.
    metric : {"euclidean", "cosine"}, default="euclidean"
        See `KMeans`. With "cosine" each center is brought to length one after each step.
    device : str, default="auto"
        See `KMeans`.
    output_type : {"input", "numpy", "cupy", "torch", "jax"}, default="input"
        See `KMeans`.
    oversampling_factor : float, default=2.0
        See `KMeans`.
    memory_limit : int or str, default=None
        See `KMeans`. Rows of a memory map are read where they are drawn; of other rows that are read in pieces, as of
        Parquet, one pass over the data draws for as many steps as a quarter of the limit has room for.

    Attributes
    ----------
    cluster_centers_ : ndarray of shape (n_clusters, n_features)
        The centers, in the dtype of the input if that is a float dtype, else float64, see `KMeans`; those of
        `partial_fit` keep the dtype that the first batch gave them.
    labels_ : ndarray of shape (n_samples,), int32
        ``predict(X)``, of the last batch after `partial_fit`; with ``compute_labels`` only.
    inertia_ : float
        The weighted sum of squared distances to the centers. Without ``compute_labels``, an estimate from
        the smoothed inertia of batches, which `partial_fit` leaves out.
    n_iter_ : int
        How many passes over the data the steps amount to, the last one begun included. `fit` only.
    n_steps_ : int
        How many batches were looked at.
    n_features_in_ : int
        The number of features.
    feature_names_in_ : ndarray of shape (n_features,)
        The names of the features, if the input had any.

    Notes
    -----
    Sculley, "Web-scale k-means clustering" (WWW 2010). The batches, their sizes and the rules by which a
    fit ends or moves a center elsewhere follow scikit-learn's MiniBatchKMeans; the draws are others. With
    metric="cosine" a step is that of Zhong, "Efficient online spherical k-means clustering" (IJCNN 2005), for a batch.

    Examples
    --------
    >>> from gpukmeans import MiniBatchKMeans
    >>> import numpy as np
    >>> X = np.array([[1, 2], [1, 4], [1, 0], [10, 2], [10, 4], [10, 0]] * 4)
    >>> model = MiniBatchKMeans(n_clusters=2, random_state=0, batch_size=6)
    >>> for batch in (X[:12], X[12:]):
    ...     model = model.partial_fit(batch)
    >>> sorted(model.cluster_centers_.tolist())
    [[1.0, 2.0], [10.0, 2.0]]
    >>> labels = model.fit(X).predict([[0, 0], [12, 3]])
    >>> labels[0] != labels[1]
    np.True_
    """

    _parameter_constraints: ClassVar[dict] = {
        **{name: kinds for name, kinds in KMeans._parameter_constraints.items() if name not in _NOT_HERE},
        "batch_size": [Interval(Integral, 1, None, closed="left")],
        "compute_labels": ["boolean"],
        "max_no_improvement": [Interval(Integral, 0, None, closed="left"), None],
        "init_size": [Interval(Integral, 1, None, closed="left"), None],
        "reassignment_ratio": [Interval(Real, 0, None, closed="left")],
    }

    _counterpart: ClassVar = "MiniBatchKMeans"
    _auto_starts: ClassVar = 3

    @names_checked
    def __init__(
        self,
        n_clusters: int = 8,
        *,
        init: str | Callable | ArrayLike = "k-means++",
        max_iter: int = 100,
        batch_size: int = 1024,
        verbose: int = 0,
        compute_labels: bool = True,
        random_state: int | np.random.RandomState | None = None,
        tol: float = 0.0,
        max_no_improvement: int | None = 10,
        init_size: int | None = None,
        n_init: str | int = "auto",
        reassignment_ratio: float = 0.01,
        metric: str = "euclidean",
        device: str = "auto",
        output_type: str = "input",
        oversampling_factor: float = 2.0,
        memory_limit: int | str | None = None,
    ) -> None:
        self.n_clusters = n_clusters
        self.init = init
        self.max_iter = max_iter
        self.batch_size = batch_size
        self.verbose = verbose
        self.compute_labels = compute_labels
        self.random_state = random_state
        self.tol = tol
        self.max_no_improvement = max_no_improvement
        self.init_size = init_size
        self.n_init = n_init
        self.reassignment_ratio = reassignment_ratio
        self.metric = metric
        self.device = device
        self.output_type = output_type
        self.oversampling_factor = oversampling_factor
        self.memory_limit = memory_limit

    # ------------------------------------------------------------ fitting

    def fit(self, X: ArrayLike, y: Any = None, sample_weight: ArrayLike | None = None) -> MiniBatchKMeans:
        """Find the centers from batches of rows drawn at random.

        Parameters
        ----------
        X : array-like, sparse matrix, or Dask array or frame, of shape (n_samples, n_features)
            The samples; never written to.
        y : ignored
        sample_weight : array-like of shape (n_samples,), default=None
            Weights, none negative: a row is drawn in proportion to its weight.

        Returns
        -------
        self : MiniBatchKMeans

        Raises
        ------
        ValueError
            For input that is not finite, fewer samples than clusters, or parameters out of range. An
            estimator that was fitted before is then left as it was.
        DeviceError
            If the device asked for cannot be used.
        """
        return self._fit_watched(X, sample_weight, lambda done, steps: None)

    @_fit_context(prefer_skip_nested_validation=True)
    def _fit_watched(
        self, X: ArrayLike, sample_weight: ArrayLike | None, tell: Callable[[int, int], None]
    ) -> MiniBatchKMeans:
        """`fit`, for the command's bar: after each step it tells how many are done, and how many there are at most."""
        with self._unchanged_on_failure(), one_blas_thread(), self._placed(X, reset=True, gather=True) as (x, device):
            n = x.shape[0]
            batch_size, self._init_size = sizes(n, self.n_clusters, self.batch_size, self.init_size)
            points, _ = self._points(x, sample_weight, device, reused=self.tol > 0)
            low, high = self._finite(points, x)
            tolerance = self._tolerance(points, low, high)
            sampler = RowSampler(x, *self._weights(x, sample_weight))
            del points  # batches follow, and labels at the end

            self._begin()
            centers = self._best_init(x, sampler, device)
            steps = self.max_iter * n // batch_size
            watch = Convergence(
                steps=steps,
                share=batch_size / (n + 1),
                tolerance=tolerance,
                max_no_improvement=self.max_no_improvement,
                verbose=self.verbose,
            )
            asked = self.verbose or self.max_no_improvement is not None or not self.compute_labels
            generators = map(self._generator_of, range(self.n_steps_, self.n_steps_ + steps))
            for step, (generator, rows) in enumerate(sampler.draws(batch_size, generators)):
                batch = self._made(rows, device=device)
                before, inertia = centers, None
                scales = minibatch_step.labelled(batch, batch.feature_range(), centers)
                if asked:
                    inertia = unshifted(lloyd.inertia(batch, scales, centers), batch.weights) / batch_size
                centers = self._step(batch, scales, centers, generator)
                tell(step + 1, steps)
                if watch.ends(step, inertia, before, centers):
                    break
            self.cluster_centers_ = self._convert_like(X, rounded(centers, self._published_dtype(X, x)))
            self.n_iter_ = -(-self.n_steps_ * batch_size // n)
            self._publish(X, x, device, lambda: self._measured(x, sample_weight, device, (low, high)))
            if not self.compute_labels:
                self.inertia_ = watch.smoothed * sampler.weight
        return self

    @_fit_context(prefer_skip_nested_validation=True)
    def partial_fit(self, X: ArrayLike, y: Any = None, sample_weight: ArrayLike | None = None) -> MiniBatchKMeans:
        """Make one step with X as the batch; the first call chooses the initial centers among its rows.

        Parameters
        ----------
        X : array-like, sparse matrix, or Dask array or frame, of shape (n_samples, n_features)
            The batch; never written to. The first needs at least ``n_clusters`` rows.
        y : ignored
        sample_weight : array-like of shape (n_samples,), default=None
            Weights, none negative. In the means an integer weight is the same as that many copies.

        Returns
        -------
        self : MiniBatchKMeans

        Raises
        ------
        ValueError
            As `fit`; or another number of features than before. The estimator is then left as it was.
        DeviceError
            If the device asked for cannot be used.
        """
        first = not hasattr(self, "cluster_centers_")
        reset = first or not hasattr(self, "n_features_in_")  # centers may have been set before any fit
        with self._unchanged_on_failure(), one_blas_thread(), self._placed(X, reset=reset, gather=True) as (x, device):
            points, kept = self._points(x, sample_weight, device)
            feature_range = self._finite(points, x)
            if first:
                _, self._init_size = sizes(x.shape[0], self.n_clusters, self.batch_size, self.init_size)
                self._begin()
                centers, dtype = self._initial_array(x), float_dtype(x.dtype)
                if centers is None:
                    sampler = RowSampler(x, *self._weights(x, sample_weight))
                    centers = self._one_init(x, None, sampler, self._generator_of(), device)
            else:
                if not hasattr(self, "_counts"):
                    self._begin()
                published = self._published(x.shape[1])
                if len(published) != len(self._counts):
                    raise ValueError(
                        f"cluster_centers_ holds {len(published)} centers, and partial_fit moves {len(self._counts)}. "
                        "Set it to as many, or begin with another estimator, whose n_clusters is their number."
                    )
                centers, dtype = published.astype(np.float64, copy=False), published.dtype
            scales = minibatch_step.labelled(points, feature_range, centers)
            centers = self._step(points, scales, centers)
            published = rounded(centers, array_interop.held_dtype(X, dtype, self.output_type))
            self.cluster_centers_ = self._convert_like(X, published)
            used = published.astype(np.float64, copy=False)
            self._publish(X, x, device, lambda: (points, kept, self._inertia(points, scales, used)))
        return self

    def fit_predict(self, X: ArrayLike, y: Any = None, sample_weight: ArrayLike | None = None) -> NDArray[np.int32]:
        """Fit, and return the labels of X (n_samples,), int32; see `fit`."""
        self.fit(X, sample_weight=sample_weight)
        return self.labels_ if self.compute_labels else self.predict(X)

    def _tolerance(self, points: Points, low: Floats, high: Floats) -> float:
        return least_shift(self.tol, points, low, high)

    def _begin(self) -> None:
        self._seed_drawn = int(generator_of(self.random_state).randint(2**31 - 1))
        self.n_steps_ = 0
        self._counts = np.zeros(self.n_clusters)
        self._since_reassignment = 0

    def _generator_of(self, *step: int) -> np.random.RandomState:
        """A step's own, so that none depends on how much another drew, or whether it failed; of no step the init's."""
        return seeded([self._seed_drawn, *step])

    def _publish(
        self, X: ArrayLike, x: Any, device: str, measure: Callable[[], tuple[Points, NDArray[np.bool_] | None, float]]
    ) -> None:
        """Labels and inertia of x with the centers, if asked for, see `_measured`; else none of an earlier call's."""
        if not self.compute_labels:
            for name in vars(self).keys() & {"labels_", "inertia_"}:
                delattr(self, name)
            return
        points, kept, self.inertia_ = measure()
        labels = points.labels() if kept is None else self._label(x, self._centers(x), device)
        self.labels_ = self._convert_like(X, labels)

    # ------------------------------------------------------------ initial centers

    def _best_init(self, x: Any, sampler: RowSampler, device: str) -> Floats:
        """The best of ``n_init`` choices, by their inertia over one more sample."""
        init = self._initial_array(x)
        self._n_init = self._starts(init)
        generator = self._generator_of()
        valid = sampler.draw(self._init_size, generator)
        measured = self._n_init > 1 or self.verbose
        if measured:
            points = self._made(valid, device=device)
            scales = lloyd.prepare(points, *points.feature_range())
        best: Floats | None = None
        least: float | Fraction = math.inf
        for i in range(self._n_init):
            if self.verbose:
                print(f"Init {i + 1}/{self._n_init} with method {self.init if init is None else init}")
            centers = self._one_init(x, init, sampler, generator, device)
            inertia = Fraction(0)
            if measured:
                points.assign(centers)
                inertia = lloyd.inertia(points, scales, centers)
            if self.verbose:
                print(f"Inertia for init {i + 1}/{self._n_init}: {unshifted(inertia, points.weights)}")
            if inertia < least:
                best, least = centers, inertia
        assert best is not None
        return best

    def _one_init(
        self, x: Any, init: Floats | None, sampler: RowSampler, generator: np.random.RandomState, device: str
    ) -> Floats:
        if init is not None:
            return init
        if self._init_size < x.shape[0]:
            x = sampler.draw(self._init_size, generator)
            points = self._made(x, device=device)
        else:
            points = self._made(*sampler.everything(), device=device)
        lloyd.prepare(points, *points.feature_range())
        return self._seed(points, x, generator, device)

    # ------------------------------------------------------------ a step

    def _step(
        self, points: Points, scales: Scales, centers: Floats, generator: np.random.RandomState | None = None
    ) -> Floats:
        """The centers after a batch that is labelled by those before; counts the step. generator: the
        step's own, made where it is needed if not given.

        Once in 10 * n_clusters rows, or while a cluster is empty, the lightest centers move to rows of the batch.
        """
        centers, counts = minibatch_step.moved(points, scales, centers, self._counts)
        self._since_reassignment += points.n
        due = self._since_reassignment >= 10 * self.n_clusters or (self._counts == 0).any()
        if due and self.reassignment_ratio > 0:
            self._since_reassignment = 0
            light = minibatch_step.lightest(counts, self.reassignment_ratio, points.n // 2)
            if len(light):
                if self.verbose:
                    print(f"[MiniBatchKMeans] Reassigning {len(light)} cluster centers.")
                centers[light] = seeding.random(points, len(light), generator or self._generator_of(self.n_steps_))
                # As much as the least of the others, so that they are not moved again at once.
                counts[light] = np.delete(counts, light).min()
        self._counts = counts
        self.n_steps_ += 1
        return centers
