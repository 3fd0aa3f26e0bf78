"""From how many rows on the workers of a Dask cluster, each on a processor of its own, are faster than one process on
one of them, and how that process does on as many.

    python benchmarks/scale.py [--rows 500000 2000000 4000000] [--features 20] [-k 20 100] [--workers 2]

Linux only. Worker i is held to the i-th processor that this process may use. The one process is begun anew for each
number of processors and held to the first of them; it has the same rows, in memory. All take turns, so that what else
the machine does falls on all alike, but it should do nothing: the scheduler and this process need little, on the same
processors. Ends with status 1 where workers are slower than the one process on one processor from 2,000,000 rows on.
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import statistics
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import dask.array as da
import numpy as np
from common import machine
from common.markdown import row
from distributed import Client, LocalCluster, wait

from gpukmeans import KMeans

INITS = ("k-means++", "k-means||", "random")

# From here on workers are to be faster.
GOAL = 2_000_000

# Dask gives its workers a thread each by variables that it sets here too.
ENVIRONMENT = dict(os.environ)

# Turns that are not timed: passes are loaded or compiled in the first two, and files and memory become warm.
WARM = 2


def hold_to(processors: list[int]) -> None:
    """All threads of this process, and those that they begin."""
    for thread in os.listdir("/proc/self/task"):
        os.sched_setaffinity(int(thread), processors)


def chunk(n_features: int, block_info: Any = None) -> np.ndarray:
    """Rows by the number of their chunk: the same wherever they are made."""
    (first, last), _ = block_info[None]["array-location"]
    return np.random.default_rng(first).random((last - first, n_features), np.float32)


def lazy_rows(n: int, n_features: int) -> Any:
    size = -(-n // 8)
    chunks = (tuple(min(size, n - start) for start in range(0, n, size)), n_features)
    return da.map_blocks(chunk, n_features, chunks=chunks, dtype=np.float32)


def model(k: int, init: str, iterations: int) -> KMeans:
    return KMeans(k, init=init, random_state=0, max_iter=iterations, tol=0, n_init=1, device="cpu")


def timed(fit: Callable[[], KMeans]) -> tuple[float, float]:
    """The seconds that it takes, and the inertia."""
    start = time.perf_counter()
    inertia = fit().inertia_
    return time.perf_counter() - start, inertia


@contextmanager
def environment_from_before() -> Iterator[None]:
    now = dict(os.environ)
    os.environ.clear()
    os.environ.update(ENVIRONMENT)
    try:
        yield
    finally:
        os.environ.update(now)


class OneProcess:
    """A process that holds the rows, on so many processors."""

    def __init__(self, processors: list[int], n: int, n_features: int) -> None:
        context = multiprocessing.get_context("spawn")
        self._here, there = context.Pipe()
        self._process = context.Process(target=_answer, args=(there, processors, n, n_features), daemon=True)
        with environment_from_before():
            self._process.start()
        there.close()

    def fit(self, *how: Any) -> tuple[float, float]:
        self._here.send(how)
        return self._here.recv()

    def end(self) -> None:
        self._here.close()
        self._process.join()


def _answer(pipe: Any, processors: list[int], n: int, n_features: int) -> None:
    hold_to(processors)
    rows = lazy_rows(n, n_features).compute(scheduler="single-threaded")
    while True:
        try:
            how = pipe.recv()
        except EOFError:
            return
        pipe.send(timed(lambda how=how: model(*how).fit(rows)))


def measured(client: Client, n: int, processors: list[int], options: argparse.Namespace) -> list[tuple[Any, ...]]:
    """k, init, and seconds in each turn of the workers, of the process on one processor and on all."""
    rows = client.persist(lazy_rows(n, options.features))
    wait(rows)
    alone = [OneProcess(processors[:1], n, options.features), OneProcess(processors, n, options.features)]
    found = []
    try:
        for k in options.k:
            for init in options.init:
                how = (k, init, options.iterations)
                fits = [lambda how=how: timed(lambda: model(*how).fit(rows))]
                fits += [lambda how=how, process=process: process.fit(*how) for process in alone]
                seconds: list[list[float]] = [[] for _ in fits]
                for turn in range(WARM + options.repeats):
                    answers = [fit() for fit in fits]
                    if len({inertia for _, inertia in answers}) > 1:
                        raise AssertionError(f"other bits: {answers}")
                    for times, (took, _) in zip(seconds, answers, strict=True):
                        times += [took] if turn >= WARM else []
                found.append((k, init, seconds))
    finally:
        for process in alone:
            process.end()
    return found


def ratios(seconds: list[list[float]]) -> list[float]:
    """What part of each other's time the first takes: the median of turns side by side."""
    return [statistics.median(a / b for a, b in zip(seconds[0], other, strict=True)) for other in seconds[1:]]


def slower(found: list[tuple[Any, ...]], n: int) -> list[str]:
    """Which of n rows' fits miss the goal: workers beside one process on one processor."""
    missed = [(k, init) for k, init, seconds in found if n >= GOAL and ratios(seconds)[0] >= 1]
    return [f"{n:,} rows, k={k}, {init}" for k, init in missed]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, nargs="+", default=[500_000, 2_000_000, 4_000_000], help="numbers of rows")
    parser.add_argument("--features", type=int, default=20, help="features of each (20)")
    parser.add_argument("-k", type=int, nargs="+", default=[20, 100], help="numbers of clusters (20 100)")
    parser.add_argument("--init", nargs="+", choices=INITS, default=INITS, help="how to begin (all)")
    parser.add_argument("--workers", type=int, default=2, help="processes of a thread each (2)")
    parser.add_argument("--iterations", type=int, default=10, help="iterations of a fit (10)")
    parser.add_argument("--repeats", type=int, default=3, help="turns that are timed, after two that are not (3)")
    options = parser.parse_args()
    processors = sorted(os.sched_getaffinity(0))[: options.workers]
    if len(processors) < options.workers:
        parser.error(f"{options.workers} workers need as many processors, and there are {len(processors)}")
    software = ", ".join(f"{name} {version}" for name, version in machine.versions().items() if version)
    print(f"{machine.machine()['cpu']}; {software}; load {os.getloadavg()[0]:.1f} as it began\n")
    names = [f"{options.workers} workers", "1 process, 1 processor", f"1 process, {len(processors)} processors"]
    print(row("rows", "k", "init", *(f"{name}, s" for name in names), *(f"of {name}" for name in names[1:])))
    print(row("---:", "---:", "---", *["---:"] * 5))
    missed = []
    with (
        LocalCluster(n_workers=options.workers, threads_per_worker=1, dashboard_address=None) as cluster,
        Client(cluster) as client,
    ):
        for worker, processor in zip(client.scheduler_info(n_workers=-1)["workers"], processors, strict=True):
            client.run(hold_to, [processor], workers=[worker])
        for n in options.rows:
            found = measured(client, n, processors, options)
            for k, init, seconds in found:
                cells = [f"{statistics.median(times):.2f}" for times in seconds]
                cells += [f"{ratio:.2f}" for ratio in ratios(seconds)]
                print(row(f"{n:,}", str(k), init.replace("|", r"\|"), *cells), flush=True)
            missed += slower(found, n)
    if missed:
        raise SystemExit(f"workers are not faster: {'; '.join(missed)}")


if __name__ == "__main__":
    main()
