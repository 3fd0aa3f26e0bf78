"""Many small problems in one call, beside loops over them: BatchedKMeans, KMeans, scikit-learn's and, where it is
installed, faiss-cpu's.

    python benchmarks/batched.py                     1,024 problems of 1,000 x 16 float32, 16 clusters: blobs and noise
    python benchmarks/batched.py --codebooks         those of a product quantizer: 8 of 20,000 x 16, 256 clusters
    python benchmarks/batched.py --problems 64 --turns 3

Every fit ends by itself, but for faiss', which takes as many iterations as ours took on average, and its own draws.
scikit-learn's loop runs twice: with all threads within a fit, as it is by default, and with one. Turns are interleaved;
the medians are printed, and what part of scikit-learn's faster loop each takes.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import sklearn.cluster
from numpy.typing import NDArray
from threadpoolctl import threadpool_limits

from gpukmeans import BatchedKMeans, KMeans
from gpukmeans.thread_limits import thread_count

OURS, ONE = "BatchedKMeans", "scikit-learn, one thread"


def blobs(problems: int, rows: int, features: int, k: int) -> NDArray[np.float32]:
    draw = np.random.default_rng(0)
    centers = draw.normal(0, 4, (problems, k, features))
    own = draw.integers(k, size=(problems, rows))
    return (np.take_along_axis(centers, own[..., None], axis=1) + draw.normal(size=(problems, rows, features))).astype(
        np.float32
    )


def noise(problems: int, rows: int, features: int, k: int) -> NDArray[np.float32]:
    return np.random.default_rng(0).normal(size=(problems, rows, features)).astype(np.float32)


def loops(X: NDArray[np.float32], k: int, iterations: int) -> dict[str, Callable[[], Any]]:
    """What is compared, by name."""

    def theirs() -> None:
        for i, x in enumerate(X):
            sklearn.cluster.KMeans(k, random_state=i).fit(x)

    def theirs_alone() -> None:
        with threadpool_limits(1):
            theirs()

    def ours_one_by_one() -> None:
        for i, x in enumerate(X):
            KMeans(k, random_state=i, device="cpu").fit(x)

    found: dict[str, Callable[[], Any]] = {
        OURS: lambda: BatchedKMeans(k, random_state=0, device="cpu").fit(X),
        "KMeans": ours_one_by_one,
        "scikit-learn": theirs,
        ONE: theirs_alone,
    }
    try:
        import faiss
    except ImportError:
        return found

    def faiss_one_by_one() -> None:
        for i, x in enumerate(X):
            model = faiss.Kmeans(x.shape[1], k, niter=iterations, seed=i, min_points_per_centroid=1)
            model.train(x)
            model.assign(x)

    return {**found, "faiss-cpu": faiss_one_by_one}


def compare(name: str, X: NDArray[np.float32], k: int, turns: int) -> None:
    iterations = BatchedKMeans(k, random_state=0, device="cpu").fit(X).n_iter_  # and what is compiled is there now
    b, n, d = X.shape
    print(f"\n{name}: {b} problems of {n:,} x {d} float32, k={k}, {iterations.mean():.1f} iterations on average")
    ways = loops(X, k, round(float(iterations.mean())))
    seconds: dict[str, list[float]] = {way: [] for way in ways}
    for _ in range(turns):
        for way, work in ways.items():
            start = time.perf_counter()
            work()
            seconds[way].append(time.perf_counter() - start)
    medians = {way: statistics.median(taken) for way, taken in seconds.items()}
    theirs = min(medians["scikit-learn"], medians[ONE])
    for way, taken in medians.items():
        print(f"  {way:26} {taken:8.3f} s   {taken / b * 1e3:8.3f} ms a problem   {taken / theirs:6.2f}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--problems", type=int, default=None)
    parser.add_argument("--rows", type=int, default=None)
    parser.add_argument("--turns", type=int, default=3)
    parser.add_argument("--codebooks", action="store_true", help="problems as a product quantizer has them")
    given = parser.parse_args()
    b, n, k = (8, 20_000, 256) if given.codebooks else (1024, 1000, 16)
    b, n = given.problems or b, given.rows or n
    print(f"{thread_count()} threads, medians of {given.turns} turns; last column: part of scikit-learn's faster loop")
    compare("blobs", blobs(b, n, 16, k), k, given.turns)
    compare("noise", noise(b, n, 16, k), k, given.turns)


if __name__ == "__main__":
    main()
