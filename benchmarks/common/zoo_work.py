"""What both sides of zoo.py do, and whether it was the same work: from the same start, as many iterations, to the same
answer.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from itertools import pairwise
from typing import Any, NamedTuple

import numpy as np
import sklearn.cluster
from numpy.typing import NDArray
from scipy import sparse

import gpukmeans
from gpukmeans.thread_limits import thread_count

Rows = Any  # (n, d), an array or a CSR matrix


class Library(NamedTuple):
    KMeans: Callable[..., Any]
    MiniBatchKMeans: Callable[..., Any]


OURS, REFERENCE = "gpukmeans", "scikit-learn"
LIBRARIES = {
    OURS: Library(partial(gpukmeans.KMeans, device="cpu"), partial(gpukmeans.MiniBatchKMeans, device="cpu")),
    REFERENCE: Library(sklearn.cluster.KMeans, sklearn.cluster.MiniBatchKMeans),
}


class Faiss:
    """faiss-cpu as far as it can do the same: fits of dense rows from given centers, in float32."""

    def __init__(self, n_clusters: int, *, init: NDArray[Any], max_iter: int, **_: Any) -> None:
        self.n_clusters, self.init, self.max_iter = n_clusters, init.astype(np.float32), max_iter

    def fit(self, X: NDArray[Any], sample_weight: None = None) -> Faiss:
        import faiss

        faiss.omp_set_num_threads(thread_count())
        everything = {"min_points_per_centroid": 1, "max_points_per_centroid": 2**31 - 1}  # no warning, no sample
        x = np.ascontiguousarray(X, np.float32)
        model = faiss.Kmeans(x.shape[1], self.n_clusters, niter=self.max_iter, **everything)
        model.train(x, init_centroids=self.init)
        distances, self.labels_ = model.assign(x)
        self.inertia_, self.n_iter_ = float(distances.sum(dtype=np.float64)), len(model.obj)
        return self


PEERS = {"faiss-cpu": Library(Faiss, Faiss)}


class Answer(NamedTuple):
    """What came out, as far as both sides have to agree on it."""

    labels: Any = None  # (n,)
    inertia: float | None = None
    iterations: int | None = None
    distances: Any = None  # (n, k)


class Work(NamedTuple):
    does: str
    prepare: Callable[[Rows, int, Library], Callable[[], Answer]]  # of X and k: what is timed
    labels: float = 0.95  # the share that agrees at least: sums in float32 move labels, and from there more of them
    inertia: float = 1e-4  # how far they differ at most, of the inertia
    for_peers: bool = False  # faiss-cpu can do it, with dense rows


def start(X: Rows, k: int) -> Any:
    """Initial centers (k, d): rows, each moved a little towards another one. There are no exact ties between such."""
    draw = np.random.default_rng(1)
    rows = draw.choice(X.shape[0], 2 * k, replace=False)
    C = X[rows].toarray() if sparse.issparse(X) else np.asarray(X[rows])
    float_dtype = C.dtype if C.dtype in (np.float32, np.float64) else np.float64
    C = C.astype(np.float64)
    return (C[:k] + draw.uniform(0, 0.01, (k, 1)) * (C[k:] - C[:k])).astype(float_dtype)


def outcome(model: Any) -> Answer:
    return Answer(model.labels_, model.inertia_, model.n_iter_)


def fit(iterations: int, weighted: bool = False) -> Work:
    def prepare(X: Rows, k: int, library: Library) -> Callable[[], Answer]:
        options = {"init": start(X, k), "n_init": 1, "max_iter": iterations, "tol": 0}
        weights = np.random.default_rng(2).uniform(0.5, 2, X.shape[0]) if weighted else None
        return lambda: outcome(library.KMeans(k, **options).fit(X, sample_weight=weights))

    return Work(f"fit, {iterations} iterations" + ", weighted" * weighted, prepare, for_peers=not weighted)


def seeded(iterations: int) -> Work:
    """The draws are each library's own: from other centers, the same number of iterations."""

    def prepare(X: Rows, k: int, library: Library) -> Callable[[], Answer]:
        options = {"random_state": 0, "n_init": 1, "max_iter": iterations, "tol": 0}
        return lambda: outcome(library.KMeans(k, **options).fit(X))

    return Work(f"k-means++ and {iterations} iterations", prepare, labels=0, inertia=0.05)


def best_of(starts: int) -> Work:
    """As it is called most: to convergence, which takes either library its own number of iterations."""

    def prepare(X: Rows, k: int, library: Library) -> Callable[[], Answer]:
        return lambda: outcome(library.KMeans(k, n_init=starts, random_state=0).fit(X))._replace(iterations=None)

    return Work(f"best of {starts} fits", prepare, labels=0, inertia=0.01)


def loop(problems: int, iterations: int) -> Work:
    def prepare(X: Rows, k: int, library: Library) -> Callable[[], Answer]:
        parts = [(part, start(part, k)) for part in np.array_split(X, problems)]
        options = {"n_clusters": k, "n_init": 1, "max_iter": iterations, "tol": 0}

        def call() -> Answer:
            models = [library.KMeans(init=init, **options).fit(part) for part, init in parts]
            labels = np.concatenate([model.labels_ for model in models])
            return Answer(labels, sum(model.inertia_ for model in models), sum(model.n_iter_ for model in models))

        return call

    return Work(f"{problems} fits in a loop", prepare)


def model_of(library: Library, X: Rows, k: int, far: float | None = None) -> Any:
    """A model of given centers, one of them this far away."""
    C = start(X, k)
    model = library.KMeans(k, init=C, n_init=1, max_iter=1).fit(C)
    if far is not None:
        C[0] = far
    model.cluster_centers_ = C
    return model


def predict(far: float | None = None) -> Work:
    def prepare(X: Rows, k: int, library: Library) -> Callable[[], Answer]:
        model = model_of(library, X, k, far)
        return lambda: Answer(labels=model.predict(X))

    return Work("predict", prepare)


def predict_each(calls: int) -> Work:
    def prepare(X: Rows, k: int, library: Library) -> Callable[[], Answer]:
        model = model_of(library, X, k)
        return lambda: Answer(labels=np.concatenate([model.predict(X[i : i + 1]) for i in range(calls)]))

    return Work(f"predict, one row, {calls} times", prepare)


def transform() -> Work:
    def prepare(X: Rows, k: int, library: Library) -> Callable[[], Answer]:
        model = model_of(library, X, k)
        return lambda: Answer(distances=model.transform(X))

    return Work("transform", prepare)


def score() -> Work:
    def prepare(X: Rows, k: int, library: Library) -> Callable[[], Answer]:
        model = model_of(library, X, k)
        return lambda: Answer(inertia=-model.score(X))

    return Work("score", prepare)


def minibatch(passes: int, batch: int, init: str | None = None) -> Work:
    """So many steps, however little they gain; the rows of each are every library's own draw."""

    def prepare(X: Rows, k: int, library: Library) -> Callable[[], Answer]:
        options = {"init": init or start(X, k), "n_init": 1, "max_iter": passes, "batch_size": batch, "random_state": 0}

        def call() -> Answer:
            model = library.MiniBatchKMeans(k, max_no_improvement=None, reassignment_ratio=0, **options).fit(X)
            return Answer(inertia=model.inertia_, iterations=model.n_steps_)

        return call

    how = f"MiniBatchKMeans, {passes} pass" + "es" * (passes > 1)
    return Work(how if init is None else f"{how} from {init}", prepare, labels=0, inertia=0.05)


def partial_fit(batches: int) -> Work:
    def prepare(X: Rows, k: int, library: Library) -> Callable[[], Answer]:
        ends = np.linspace(0, X.shape[0], batches + 1).astype(int)
        parts = [X[begin:end] for begin, end in pairwise(ends)]
        options = {"init": start(parts[0], k), "n_init": 1, "reassignment_ratio": 0, "random_state": 0}

        def call() -> Answer:
            model = library.MiniBatchKMeans(k, **options)
            for part in parts:
                model.partial_fit(part)
            return Answer(model.labels_, model.inertia_, model.n_steps_)

        return call

    return Work("partial_fit" + f", {batches} batches" * (batches > 1), prepare)


def compare(ours: Answer, theirs: Answer, work: Work) -> None:
    """Raise a RuntimeError where the two did different work."""
    differ = []
    if ours.iterations != theirs.iterations:
        differ.append(f"{ours.iterations} and {theirs.iterations} iterations")
    if work.labels and ours.labels is not None and (share := np.mean(ours.labels == theirs.labels)) < work.labels:
        differ.append(f"{1 - share:.2%} of the labels")
    if ours.inertia is not None and not np.isclose(ours.inertia, theirs.inertia, rtol=work.inertia, atol=0):
        differ.append(f"inertia {ours.inertia:.9g} and {theirs.inertia:.9g}")
    if ours.distances is not None and not np.allclose(ours.distances, theirs.distances, rtol=1e-4):
        differ.append("the distances")
    if differ:
        raise RuntimeError(f"different work is compared: {'; '.join(differ)}")


def does_the_same(peer: Callable[[], Answer], reference: Callable[[], Answer], work: Work) -> bool:
    """Whether a library that computes in float32 comes to about the same inertia in as many iterations."""
    try:
        compare(peer(), reference(), work._replace(labels=0, inertia=max(1e-3, work.inertia)))
    except RuntimeError:
        return False
    return True
