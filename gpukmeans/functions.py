"""scikit-learn's functions of k-means: `k_means` and `kmeans_plusplus`."""

from __future__ import annotations

from collections.abc import Callable
from numbers import Integral
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from sklearn.utils._param_validation import Interval, validate_params

from gpukmeans import array_interop, lloyd, seeding
from gpukmeans.array_interop import issparse
from gpukmeans.estimator import KMeans
from gpukmeans.random_state import generator_of
from gpukmeans.row_lookup import first_rows
from gpukmeans.thread_limits import one_blas_thread


@validate_params({"return_n_iter": [bool]}, prefer_skip_nested_validation=False)
def k_means(
    X: ArrayLike,
    n_clusters: int,
    *,
    sample_weight: ArrayLike | None = None,
    init: str | Callable | ArrayLike = "k-means++",
    n_init: str | int = "auto",
    max_iter: int = 300,
    verbose: int = False,
    tol: float = 1e-4,
    random_state: int | np.random.RandomState | None = None,
    copy_x: bool = True,
    algorithm: str = "lloyd",
    return_n_iter: bool = False,
    metric: str = "euclidean",
    device: str = "auto",
    output_type: str = "input",
    oversampling_factor: float = 2.0,
    memory_limit: int | str | None = None,
) -> tuple[Any, ...]:
    """k-means clustering as a function: `KMeans` with these parameters, fitted.

    Parameters
    ----------
    X : array-like, sparse matrix, or Dask array or frame, of shape (n_samples, n_features)
        The samples; never written to.
    n_clusters, init, n_init, max_iter, verbose, tol, random_state, copy_x, algorithm, metric, device, output_type, \
oversampling_factor, memory_limit
        See `KMeans`.
    sample_weight : array-like of shape (n_samples,), default=None
        Weights, none negative.
    return_n_iter : bool, default=False
        Whether to return the number of iterations, too.

    Returns
    -------
    centroid : ndarray of shape (n_clusters, n_features)
        See `KMeans`, ``cluster_centers_``.
    label : ndarray of shape (n_samples,), int32
        The index of the nearest center.
    inertia : float
    best_n_iter : int
        With ``return_n_iter`` only.

    Raises
    ------
    ValueError, DeviceError
        As `KMeans.fit`.

    Examples
    --------
    >>> import gpukmeans
    >>> X = [[1, 2], [1, 4], [1, 0], [10, 2], [10, 4], [10, 0]]
    >>> centers, labels, inertia = gpukmeans.k_means(X, 2, random_state=0)
    >>> sorted(centers.tolist()), inertia
    ([[1.0, 2.0], [10.0, 2.0]], 16.0)
    """
    model = KMeans(
        n_clusters,
        init=init,
        n_init=n_init,
        max_iter=max_iter,
        verbose=verbose,
        tol=tol,
        random_state=random_state,
        copy_x=copy_x,
        algorithm=algorithm,
        metric=metric,
        device=device,
        output_type=output_type,
        oversampling_factor=oversampling_factor,
        memory_limit=memory_limit,
    ).fit(X, sample_weight=sample_weight)
    found = model.cluster_centers_, model.labels_, model.inertia_
    return (*found, model.n_iter_) if return_n_iter else found


@validate_params(
    {
        "n_clusters": [Interval(Integral, 1, None, closed="left")],
        "random_state": ["random_state"],
        "n_local_trials": [Interval(Integral, 1, None, closed="left"), None],
    },
    prefer_skip_nested_validation=True,
)
def kmeans_plusplus(
    X: ArrayLike,
    n_clusters: int,
    *,
    sample_weight: ArrayLike | None = None,
    x_squared_norms: ArrayLike | None = None,
    random_state: int | np.random.RandomState | None = None,
    n_local_trials: int | None = None,
    device: str = "auto",
) -> tuple[Any, NDArray[np.int64]]:
    """Choose initial centers by greedy k-means++: those that ``KMeans(n_clusters, random_state=...)`` begins with.

    Parameters
    ----------
    X : array-like, sparse matrix, or Dask array or frame, of shape (n_samples, n_features)
        The samples to choose among.
    n_clusters : int
        The number of centers.
    sample_weight : array-like of shape (n_samples,), default=None
        Weights, none negative; a sample of weight zero is never chosen.
    x_squared_norms : array-like of shape (n_samples,), default=None
        Accepted for compatibility: distances are not computed by norms.
    random_state : int, RandomState instance or None, default=None
        The seed of all randomness.
    n_local_trials : int, default=None
        Draws for each center but the first, of which the best is kept: 2 + log(n_clusters) by default.
    device : str, default="auto"
        See `KMeans`.

    Returns
    -------
    centers : ndarray of shape (n_clusters, n_features)
        Rows of X, dense, of its dtype and on its device.
    indices : ndarray of shape (n_clusters,), int64
        Which rows they are; of equal ones the first.

    Raises
    ------
    ValueError
        For input that is not finite, fewer samples than centers, parameters out of range, or another number of norms
        than of samples.
    DeviceError
        If the device asked for cannot be used.

    Examples
    --------
    >>> import numpy as np, gpukmeans
    >>> X = np.array([[1, 2], [1, 4], [1, 0], [10, 2], [10, 4], [10, 0]])
    >>> centers, indices = gpukmeans.kmeans_plusplus(X, 2, random_state=0)
    >>> (centers == X[indices]).all()
    np.True_
    """
    model = KMeans(n_clusters, device=device)
    with one_blas_thread(), model._placed(X, reset=True, gather=True) as (x, on):
        if x.shape[0] < n_clusters:
            raise ValueError(f"n_samples={x.shape[0]} should be >= n_clusters={n_clusters}.")
        if x_squared_norms is not None and np.shape(x_squared_norms)[0] != x.shape[0]:
            raise ValueError(
                f"The length of x_squared_norms {np.shape(x_squared_norms)[0]} should be equal to the length of "
                f"n_samples {x.shape[0]}."
            )
        points, kept = model._points(x, sample_weight, on)
        lloyd.prepare(points, *model._finite(points, x))
        chosen = seeding.kmeans_plusplus(points, n_clusters, generator_of(random_state), n_local_trials)
        del points
        x = array_interop.to_numpy(x)
        indices = first_rows(x if kept is None else x[kept], chosen)
    if kept is not None:
        indices = np.flatnonzero(kept)[indices]
    return _rows(X, x, indices), indices


def _rows(X: Any, x: Any, indices: NDArray[np.int64]) -> Any:
    """Rows of X, which x holds on the host, as the kind of array that X is."""
    if issparse(x):
        return x[indices].toarray()
    if isinstance(X, np.ndarray):
        return np.asarray(X)[indices]  # of its dtype, be it one that is not computed with
    return array_interop.convert_like(None if array_interop.is_dask(X) else X, x[indices])
