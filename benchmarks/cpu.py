"""gpukmeans on NumPy beside scikit-learn, and faiss-cpu and superkmeans where they are installed, in one run.

    python benchmarks/cpu.py                    every workload, five seeds: some minutes
    python benchmarks/cpu.py --json             and keep everything measured in benchmarks/results/
    python benchmarks/report.py FILE.json       the table of an earlier run

All libraries run in this process, one seed after another, in an order that changes from seed to seed. A library
is called untimed right before it is timed: threads that OpenMP or BLAS left spinning belong to whoever ran
before, and would disturb whoever comes next. Fits are repeated until they have taken 0.3 s, and their median
counts. Times are compared within a seed.

What is timed leads from the data in memory to centers and labels. faiss-cpu and superkmeans take float32 alone,
get it converted beforehand, run the iterations that scikit-learn needed, and label once at the end.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable
from statistics import median
from typing import Any, NamedTuple

import numpy as np
from common import result_files
from common.cpu_libraries import OURS, PEERS, REFERENCE, Fit, Library, load, threads
from common.cpu_tables import cpu_table
from common.machine import Others, machine, thread_pools, versions
from numpy.typing import NDArray
from sklearn.datasets import make_blobs
from sklearn.metrics import pairwise_distances_argmin
from sklearn.utils import gen_batches

from gpukmeans import datasets

MANY_ROWS = 50_000  # untimed calls get every tenth of so many rows: enough to wake the threads
WAKE = 0.05  # seconds of untimed calls: longer than OpenBLAS's threads spin

# ------------------------------------------------------------ what is clustered


class Case(NamedTuple):
    X: NDArray[Any]  # (n, d)
    n_clusters: int
    iterations: int | None = None  # from given rows, tol=0; None: default arguments

    def init(self, seed: int) -> NDArray[Any] | None:
        """The given initial centers (k, d): rows of X."""
        if self.iterations is None:
            return None
        return self.X[np.random.RandomState(seed).choice(len(self.X), self.n_clusters, replace=False)]

    def facts(self) -> dict[str, Any]:
        (n, d), k = self.X.shape, self.n_clusters
        init = "k-means++" if self.iterations is None else "given"
        shape = {"n": n, "d": d, "k": k, "dtype": str(self.X.dtype), "init": init}
        return {**shape, "pass_bytes": self.X.nbytes, "iteration_flops": n * k * 2 * d}


def china(k: int, step: int = 1) -> Case:
    picture = datasets.china()
    return Case(np.ascontiguousarray(picture.X.reshape(picture.shape)[::step, ::step].reshape(-1, 3)), k)


def given(n: int, d: int, k: int, dtype: type, spread: float) -> Case:
    """Ten iterations from given rows, fewer where no label changes any more; clusters of this standard deviation,
    their centers in a cube of side 20."""
    X, _ = make_blobs(n, d, centers=k, cluster_std=spread, random_state=0)
    return Case(X.astype(dtype), k, iterations=10)


WORKLOADS: dict[str, Callable[[], Case]] = {
    "blobs": lambda: Case(datasets.blobs().X, 4),
    "digits": lambda: Case(datasets.digits().X, 10),
    "china_ninth": lambda: china(64, step=3),
    "china64": lambda: china(64),
    "china256": lambda: china(256),
    "wide": lambda: given(100_000, 256, 500, np.float32, spread=1),
    "overlapping": lambda: given(100_000, 256, 500, np.float32, spread=8),
    "small": lambda: given(2_000, 32, 40, np.float64, spread=8),
}
DEFAULT = "blobs,digits,china_ninth,china64,china256,wide,overlapping"
QUICK = "blobs,digits,small"

# ------------------------------------------------------------ measuring


def measure(case: Case, found: dict[str, Library], seeds: int, enough: float) -> dict[str, dict[str, Any]]:
    """Each library's seconds, iterations and inertia for each seed, or the reason why it has none."""
    single = np.ascontiguousarray(case.X, dtype=np.float32)
    results: dict[str, dict[str, Any]] = {name: {"seeds": []} for name in found}
    for seed in range(seeds):
        iterations, init = case.iterations, case.init(seed)
        fits: dict[str, Fit] = {}
        for name in order(list(found), seed):
            if "missing" in results[name]:
                continue
            X = single if name in PEERS else case.X
            start = None if init is None else init.astype(X.dtype)
            try:
                fit, seconds = timed(found[name], X, (case.n_clusters, seed, start, iterations), enough)
            except Exception as error:
                if name not in PEERS:
                    raise
                said = str(error).split("Error: ")[-1].splitlines()  # faiss puts places in its source in front
                results[name] = {"missing": said[0] if said else type(error).__name__}
                continue
            if name == REFERENCE:
                iterations = iterations or fit.iterations
            fits[name] = fit
            took = {"seconds": median(seconds), "repetitions": len(seconds)}
            results[name]["seeds"].append({"seed": seed, **took, "iterations": fit.iterations})
        for name, fit in fits.items():
            results[name]["seeds"][-1]["inertia"] = inertia(case.X, fit.centers)
    for result in results.values():
        if "missing" not in result:
            result["summary"] = summary(case, result["seeds"], results[REFERENCE]["seeds"])
    return results


def order(names: list[str], seed: int) -> list[str]:
    """Ours moves from the first place to the last; the peers need scikit-learn's count, and change places."""
    peers = [name for name in names if name in PEERS]
    turns = [REFERENCE, *(peers if seed % 2 == 0 else peers[::-1])]
    turns.insert(seed % len(names), OURS)
    return turns


def timed(fit: Library, X: NDArray[Any], arguments: tuple, enough: float) -> tuple[Fit, list[float]]:
    """The outcome, and the seconds of as many calls as it took to fill enough of them."""
    some = np.ascontiguousarray(X[::10]) if len(X) > MANY_ROWS else X
    start = time.perf_counter()
    while time.perf_counter() - start < min(WAKE, enough):
        fit(some, *arguments)
    seconds: list[float] = []
    while sum(seconds) < enough:
        start = time.perf_counter()
        result = fit(X, *arguments)
        seconds.append(time.perf_counter() - start)
    return result, seconds


def inertia(X: NDArray[Any], centers: NDArray[Any]) -> float:
    """In float64 whatever the library computes in, by one function for all of them."""
    centers, total = centers.astype(np.float64), 0.0
    for rows in gen_batches(len(X), 20_000):
        x = X[rows].astype(np.float64)
        total += float(np.square(x - centers[pairwise_distances_argmin(x, centers)]).sum())
    return total


def summary(case: Case, runs: list[dict[str, Any]], reference: list[dict[str, Any]]) -> dict[str, Any]:
    """Medians over the seeds; a ratio is that of two fits with the same seed."""
    n, k = len(case.X), case.n_clusters
    pairs = list(zip(runs, reference, strict=True))
    ratios = [run["seconds"] / other["seconds"] for run, other in pairs]
    return {
        "seconds": median(run["seconds"] for run in runs),
        "iterations": median(run["iterations"] for run in runs),
        "points_per_second": median(n / run["seconds"] for run in runs),
        "pairs_per_second": median(n * k * run["iterations"] / run["seconds"] for run in runs),
        "inertia": median(run["inertia"] for run in runs),
        "inertia_ratio": median(run["inertia"] / other["inertia"] for run, other in pairs),
        "time_ratio": {"median": median(ratios), "min": min(ratios), "max": max(ratios)},
    }


def report(names: list[str], seeds: int, quick: bool) -> dict[str, Any]:
    """Everything measured, as it is kept."""
    found, absent = load()
    started = result_files.now()
    measured = []
    for name in names:
        print(f"{name} ...", file=sys.stderr, flush=True)
        case, others = WORKLOADS[name](), Others()
        results = measure(case, found, seeds, enough=0.03 if quick else 0.3)
        busy = {"cores_busy_with_others": others.cores()}
        measured.append({"name": name, **case.facts(), **busy, "libraries": results})
    command = f"python benchmarks/cpu.py --workloads {','.join(names)} --seeds {seeds}"
    return {
        "date": started,
        "command": command + " --quick" * quick,
        "machine": machine(),
        "versions": versions(),
        "threads": threads(found),
        "thread_pools": thread_pools(),
        "not_installed": absent,
        "seeds": seeds,
        "workloads": measured,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--workloads", metavar="A,B", help=f"of {', '.join(WORKLOADS)} (default: {DEFAULT})")
    parser.add_argument("--seeds", type=int, default=5, metavar="N", help="random_state 0 to N-1 (default: 5)")
    parser.add_argument("--quick", action="store_true", help=f"one seed, little repetition; {QUICK} by default")
    result_files.add_option(parser)
    args = parser.parse_args()
    names = (args.workloads or (QUICK if args.quick else DEFAULT)).split(",")
    if unknown := [name for name in names if name not in WORKLOADS]:
        parser.error(f"unknown workloads {', '.join(unknown)}; there are {', '.join(WORKLOADS)}")
    if args.seeds < 1:
        parser.error("--seeds must be at least 1")
    kept = report(names, 1 if args.quick else args.seeds, args.quick)
    if args.json:
        result_files.keep(args.json, "cpu", kept)
    print(cpu_table(kept))


if __name__ == "__main__":
    main()
