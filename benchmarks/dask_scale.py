"""How often a fit asks the workers of a Dask cluster, and how long it takes, beside one process and, if it is there,
dask-ml.

    python benchmarks/dask_scale.py [--rows 2000000] [--features 20] [-k 20 100] [--workers 2]

Calls are those that each worker answers, counted; times are the least of three, and mean something only where each
worker has a core of its own. It takes turns, so that what else the machine does falls on all alike.
"""

from __future__ import annotations

import argparse
import time
from collections import Counter

import dask.array as da
from distributed import Client, LocalCluster

from gpukmeans import KMeans
from gpukmeans.dask import cluster as clusters

INITS = ("k-means++", "k-means||", "random")


def counted(fit):
    """The most calls that a part answered in a fit."""
    calls: Counter = Counter()
    call = clusters.Cluster.call

    def count(self, future, *args):
        calls[future.key] += 1
        return call(self, future, *args)

    clusters.Cluster.call = count
    try:
        fit()
    finally:
        clusters.Cluster.call = call
    return max(calls.values())


def seconds(fit):
    start = time.perf_counter()
    fit()
    return time.perf_counter() - start


def theirs(k, init, iterations):
    """dask-ml's, if it is installed and has that init."""
    try:
        from dask_ml.cluster import KMeans as Other
    except ImportError:
        return None
    # Its "k-means++" is scikit-learn's, of rows in one process.
    return Other(k, init=init, random_state=0, max_iter=iterations, tol=0)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=2_000_000, help="rows (2000000)")
    parser.add_argument("--features", type=int, default=20, help="features of each (20)")
    parser.add_argument("-k", type=int, nargs="+", default=[20, 100], help="numbers of clusters (20 100)")
    parser.add_argument("--workers", type=int, default=2, help="processes of a thread each (2)")
    parser.add_argument("--iterations", type=int, default=10, help="iterations of a fit (10)")
    parser.add_argument("--repeats", type=int, default=3, help="how often each is timed (3)")
    options = parser.parse_args()
    with (
        LocalCluster(n_workers=options.workers, threads_per_worker=1, dashboard_address=":0") as cluster,
        Client(cluster) as client,
    ):
        x = da.random.default_rng(0).random((options.rows, options.features), chunks=(-(-options.rows // 8), -1))
        x = client.persist(x.astype("f4"))
        here = x.compute()
        print(f"{options.rows:,} x {options.features} float32, {options.workers} workers")
        for k in options.k:
            for init in INITS:
                model = KMeans(k, init=init, n_init=1, random_state=0, max_iter=options.iterations, tol=0, device="cpu")
                fits = {"workers": lambda model=model: model.fit(x), "one process": lambda model=model: model.fit(here)}
                other = theirs(k, init, options.iterations)
                if other is not None:
                    fits["dask-ml"] = lambda other=other: other.fit(x)
                calls = counted(fits["workers"])
                least = dict.fromkeys(fits, float("inf"))
                for _ in range(options.repeats):
                    for name, fit in fits.items():
                        least[name] = min(least[name], seconds(fit))
                times = ", ".join(f"{name} {taken:.2f} s" for name, taken in least.items())
                print(f"k={k} {init}: {calls} calls a worker; {times}", flush=True)


if __name__ == "__main__":
    main()
