"""How often a fit asks the workers of a Dask cluster, and how long it takes, beside one process and, if it is there,
dask-ml.

    python benchmarks/dask_scale.py [--rows 2000000] [--features 20] [-k 20 100] [--workers 2] [--json [PATH]]
    python benchmarks/report.py benchmarks/results/dask-DATE.json --publish   the table in docs/benchmarks.md

Calls are those that each worker answers, counted; times mean something only where each worker has a core of its own,
and ratios where they are taken side by side: turns are interleaved, so that what else the machine does falls on all
alike. dask-ml is no dependency of any extra: `pip install dask-ml` where it is to take part.
"""

from __future__ import annotations

import argparse
import os
import time
from collections import Counter
from collections.abc import Callable
from importlib.metadata import PackageNotFoundError, version
from typing import Any

import dask.array as da
import numpy as np
from common import machine, result_files
from common.dask_tables import ALONE, OURS, PEER, dask_table
from distributed import Client, LocalCluster

from gpukmeans import KMeans
from gpukmeans.dask import cluster as clusters
from gpukmeans.errors import describe_error

INITS = ("k-means++", "k-means||", "random")


def counted(fit: Callable[[], Any]) -> int:
    """The most calls that a part answered in a fit."""
    calls: Counter = Counter()
    call = clusters.Cluster.call

    def count(self: Any, future: Any, *args: Any) -> Any:
        calls[future.key] += 1
        return call(self, future, *args)

    clusters.Cluster.call = count
    try:
        fit()
    finally:
        clusters.Cluster.call = call
    return max(calls.values())


def fits_of(x: Any, here: Any, k: int, init: str, iterations: int) -> dict[str, Callable[[], Any]]:
    """What is compared, by name: each returns the fitted model."""
    how = {"init": init, "random_state": 0, "max_iter": iterations, "tol": 0}
    ours = KMeans(k, **how, n_init=1, device="cpu")
    fits: dict[str, Callable[[], Any]] = {OURS: lambda: ours.fit(x), ALONE: lambda: ours.fit(here)}
    try:
        from dask_ml.cluster import KMeans as Other
    except ImportError:
        return fits
    # Its "k-means++" is scikit-learn's, of rows in one process.
    fits[PEER] = lambda: Other(k, **how).fit(x)
    return fits


def inertia(x: Any, centers: Any) -> float:
    """In float64, whatever a library makes of it: dask-ml's `inertia_` adds up distances that are not squared."""
    model = KMeans(len(centers), device="cpu")
    model.cluster_centers_, model.n_features_in_ = np.asarray(centers, np.float64), x.shape[1]
    return -model.score(x)


def measured(fits: dict[str, Callable[[], Any]], here: Any, repeats: int) -> dict[str, dict[str, Any]]:
    """Seconds of each in so many turns, and its inertia; or why it has none."""
    found: dict[str, dict[str, Any]] = {name: {"seconds": []} for name in fits}
    for _ in range(repeats):
        for name, fit in fits.items():
            if "missing" in found[name]:
                continue
            start = time.perf_counter()
            try:
                model = fit()
            except Exception as error:
                if name in (OURS, ALONE):
                    raise
                found[name] = {"missing": describe_error(error)}
                continue
            found[name]["seconds"].append(time.perf_counter() - start)
            found[name].setdefault("inertia", inertia(here, model.cluster_centers_))
    return found


def versions() -> dict[str, str | None]:
    found = machine.versions()
    for package in ("dask", "distributed", "dask-ml", "faiss-cpu", "superkmeans"):
        try:
            found[package] = None if package in ("faiss-cpu", "superkmeans") else version(package)
        except PackageNotFoundError:
            found[package] = None
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=2_000_000, help="rows (2000000)")
    parser.add_argument("--features", type=int, default=20, help="features of each (20)")
    parser.add_argument("-k", type=int, nargs="+", default=[20, 100], help="numbers of clusters (20 100)")
    parser.add_argument("--workers", type=int, default=2, help="processes of a thread each (2)")
    parser.add_argument("--iterations", type=int, default=10, help="iterations of a fit (10)")
    parser.add_argument("--repeats", type=int, default=3, help="how often each is timed (3)")
    result_files.add_option(parser)
    options = parser.parse_args()
    report: dict[str, Any] = {
        "kind": "dask",
        "date": result_files.now(),
        "command": f"python benchmarks/dask_scale.py --rows {options.rows} --features {options.features} "
        f"-k {' '.join(map(str, options.k))} --workers {options.workers} --iterations {options.iterations} "
        f"--repeats {options.repeats}",
        "machine": machine.machine(),
        "versions": versions(),
        **{name: getattr(options, name) for name in ("rows", "features", "workers", "iterations", "repeats")},
        "loads": [os.getloadavg()[0]],
        "cases": [],
    }
    with (
        LocalCluster(n_workers=options.workers, threads_per_worker=1, dashboard_address=":0") as cluster,
        Client(cluster) as client,
    ):
        x = da.random.default_rng(0).random((options.rows, options.features), chunks=(-(-options.rows // 8), -1))
        x = client.persist(x.astype("f4"))
        here = x.compute()
        for k in options.k:
            for init in INITS:
                fits = fits_of(x, here, k, init, options.iterations)
                calls = counted(fits[OURS])
                report["cases"].append(
                    {"k": k, "init": init, "calls": calls, "libraries": measured(fits, here, options.repeats)}
                )
    report["loads"].append(os.getloadavg()[0])
    print(dask_table(report))
    if options.json:
        result_files.keep(options.json, "dask", report)


if __name__ == "__main__":
    main()
