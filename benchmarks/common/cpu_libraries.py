"""The libraries compared: every one a function from the data to centers, labels and iterations."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import sklearn.cluster
from numpy.typing import NDArray
from sklearn.utils._openmp_helpers import _openmp_effective_n_threads

import gpukmeans
from gpukmeans.thread_limits import thread_count


class Fit(NamedTuple):
    centers: NDArray[Any]  # (k, d)
    iterations: int


# fit(X, k, seed, init, iterations), X (n, d). init (k, d) or None: the library's own seeding. iterations counts
# for init, and for the peers always.
Library = Callable[[NDArray[Any], int, int, NDArray[Any] | None, int], Fit]

OURS, REFERENCE = "gpukmeans", "scikit-learn"


def _sklearn_alike(kmeans: Callable[..., Any]) -> Library:
    def fit(X: NDArray[Any], k: int, seed: int, init: NDArray[Any] | None, iterations: int) -> Fit:
        start = {} if init is None else {"init": init, "max_iter": iterations, "tol": 0}
        model = kmeans(k, random_state=seed, **start).fit(X)
        return Fit(model.cluster_centers_, int(model.n_iter_))

    return fit


def _faiss() -> Library:
    import faiss

    faiss.omp_set_num_threads(thread_count())
    # Bounds on the points of a centroid that neither warn nor take a sample.
    everything = {"min_points_per_centroid": 1, "max_points_per_centroid": 2**31 - 1}

    def fit(X: NDArray[Any], k: int, seed: int, init: NDArray[Any] | None, iterations: int) -> Fit:
        model = faiss.Kmeans(X.shape[1], k, niter=iterations, seed=seed, **everything)
        model.train(X, init_centroids=init)
        model.assign(X)
        return Fit(model.centroids, len(model.obj))

    return fit


def _superkmeans() -> Library:
    import superkmeans

    everything = {"hierarchical": False, "sampling_fraction": 1.0, "max_points_per_cluster": 2**31 - 1}
    exactly = {"early_termination": False, "n_threads": thread_count()}

    def fit(X: NDArray[Any], k: int, seed: int, init: NDArray[Any] | None, iterations: int) -> Fit:
        model = superkmeans.SuperKMeans(k, X.shape[1], iters=iterations, seed=seed, **everything, **exactly)
        centers = model.train(X)
        model.assign(X, centers)
        return Fit(centers, len(model.iteration_stats))

    return fit


# They take float32 alone, and a number of iterations instead of a tolerance.
PEERS = {"faiss-cpu": _faiss, "superkmeans": _superkmeans}


def load() -> tuple[dict[str, Library], list[str]]:
    """The libraries by name, ours first, and the names of those that are not installed."""
    found = {
        OURS: _sklearn_alike(lambda k, **rest: gpukmeans.KMeans(k, device="cpu", **rest)),
        REFERENCE: _sklearn_alike(sklearn.cluster.KMeans),
    }
    absent = []
    for name, peer in PEERS.items():
        try:
            found[name] = peer()
        except ImportError:
            absent.append(name)
    few = np.random.RandomState(0).standard_normal((100, 8)).astype(np.float32)
    for fit in found.values():  # the first call in a process loads code and starts threads
        fit(few, 3, 0, None, 2)
    return found, absent


def threads(found: dict[str, Library]) -> dict[str, int]:
    """How many threads each may use; faiss and superkmeans were told."""
    return {name: _openmp_effective_n_threads() if name == REFERENCE else thread_count() for name in found}
