"""Ordinary data of many kinds and shapes, each beside scikit-learn: no kind of input is slow without anyone noticing.

    python benchmarks/zoo.py                    all of it, under ten minutes on two cores
    python benchmarks/zoo.py outlier text       some
    python benchmarks/zoo.py --list             what there is
    python benchmarks/zoo.py --faiss            and faiss-cpu, where it can do the same
    python benchmarks/zoo.py --memory           and the peak memory of both, each in a process of its own
    python benchmarks/zoo.py --memory --publish and keep it in benchmarks/results/ and the README

Both libraries start from the same centers, make the same iterations, and take turns in one process; medians count.
Iterations, labels and inertia are compared before anything is timed. A case that compares different work is an error,
and then nothing is kept. A process imports numba once it has fitted so many values that it pays (choice.py); that is
behind when the first case begins, whichever it is.
"""

from __future__ import annotations

import argparse
import gc
import sys
import time
import warnings
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from importlib.util import find_spec
from multiprocessing import get_context
from statistics import median
from typing import Any, NamedTuple

import numpy as np
from common import result_files
from common import zoo_data as data
from common.machine import Others, held_bytes, machine, thread_pools, versions
from common.zoo_tables import zoo_table
from common.zoo_work import (
    LIBRARIES,
    OURS,
    PEERS,
    REFERENCE,
    Answer,
    Library,
    Rows,
    Work,
    best_of,
    compare,
    does_the_same,
    fit,
    loop,
    minibatch,
    partial_fit,
    predict,
    predict_each,
    score,
    seeded,
    transform,
)
from memory import Peak
from report import publish
from scipy import sparse
from sklearn.exceptions import ConvergenceWarning

WAKE, ENOUGH = 0.05, 0.1  # seconds of calls in a turn, untimed and timed: OpenBLAS's threads spin for shorter
ENDS = {3: 12, 1: 60}  # after so many turns, a case that has taken so many seconds is over

# ---------------------------------------------------------------- the zoo

DENSE, SPARSE = 0.8, 1.5  # of scikit-learn's time, at most


class Case(NamedTuple):
    about: str
    rows: Callable[[int], Rows]
    n: int
    k: int
    work: Work
    goal: float = DENSE

    def quick(self) -> Case:
        """The same, smaller, with some dozens of rows to a cluster, as there are some hundreds and more."""
        return self._replace(n=min(self.n, max(self.n // 100, 1280)), k=min(self.k, 32))


# Of its float32 labels here scikit-learn gets most wrong, by rounding. Its iterations take no less time for that.
MISLABELLED = fit(10)._replace(labels=0, inertia=0.5)

f16, f32, f64 = np.float16, np.float32, np.float64
CASES: dict[str, Case] = {
    # small
    "iris": Case("flowers", data.iris, 150, 3, fit(5)),
    "tiny": Case("points in the plane", lambda n: data.blobs(n, 2, spread=2), 300, 4, fit(5)),
    "digits": Case("handwritten digits", data.digits, 1_797, 10, fit(10)),
    "digits_best": Case("handwritten digits", data.digits, 1_797, 10, best_of(10)),
    "small_loop": Case("64 small problems", lambda n: data.blobs(n, 4), 64 * 200, 5, loop(64, 5)),
    # shapes
    "line": Case("one feature", lambda n: data.blobs(n, 1), 100_000, 16, fit(10)),
    "plane": Case("many points in the plane", lambda n: data.blobs(n, 2), 1_000_000, 8, fit(10)),
    "ten": Case("ten features", lambda n: data.blobs(n, 10), 200_000, 20, fit(10)),
    "noise": Case("noise, few clusters", lambda n: data.noise(n, 100), 100_000, 10, fit(20)),
    "noise64": Case("noise", lambda n: data.noise(n, 50, f64), 50_000, 50, fit(10)),
    "blobs32": Case("blobs", lambda n: data.blobs(n, 32, f32, 100), 100_000, 100, fit(10)),
    "blobs64": Case("blobs", lambda n: data.blobs(n, 32, f64, 100), 50_000, 100, fit(10)),
    "many": Case("many clusters", lambda n: data.blobs(n, 32, f32, 1000), 20_000, 1_000, fit(5)),
    "few_rows": Case("more features than rows", lambda n: data.blobs(n, 4_096, f32), 2_000, 20, fit(10)),
    "two": Case("two clusters", lambda n: data.blobs(n, 20, f32, 2), 200_000, 2, fit(10)),
    # dtypes and memory
    "pixels": Case("pictures", lambda n: data.pixels(n, 784, f32), 50_000, 10, fit(10)),
    "pixels8": Case("pictures", lambda n: data.pixels(n, 784, np.uint8), 20_000, 10, fit(10)),
    "photograph": Case("colors of a photograph", data.photograph, 273_280, 64, fit(10)),
    "half": Case("blobs", lambda n: data.blobs(n, 64, f16, 50), 50_000, 50, fit(10)),
    "integers": Case("counts", lambda n: data.integers(n, 8), 100_000, 20, fit(10)),
    "fortran": Case("columns in memory", lambda n: np.asfortranarray(data.blobs(n, 50, f32)), 100_000, 20, fit(10)),
    "weights": Case("weighted rows", lambda n: data.blobs(n, 16, f32), 100_000, 30, fit(10, weighted=True)),
    "map": Case("a file, mapped", lambda n: data.memory_map(n, 60), 5_000_000, 32, fit(3)),
    # values
    "outlier": Case("noise, one value -9999", lambda n: data.noise_with(-9999, n, 128), 10_000, 500, fit(10)),
    "lognormal": Case("lognormal, sigma 3", lambda n: data.lognormal(n, 32, f32, 3), 50_000, 50, fit(10)),
    "cauchy": Case("Cauchy", lambda n: data.cauchy(n, 16, f32), 50_000, 50, fit(10)),
    "cauchy64": Case("Cauchy", lambda n: data.cauchy(n, 16, f64), 50_000, 50, fit(10)),
    "groups": Case("two groups 1e4 apart", lambda n: data.far_groups(n, 32, f32, 1e4), 50_000, 50, MISLABELLED),
    "groups64": Case("two groups 1e4 apart", lambda n: data.far_groups(n, 32, f64, 1e4), 50_000, 50, fit(10)),
    "offset": Case("blobs about 1e6", lambda n: data.offset(n, 16, f32, 1e6), 100_000, 20, fit(10)),
    "offset64": Case("blobs about 1e6", lambda n: data.offset(n, 16, f64, 1e6), 100_000, 20, fit(10)),
    "scales": Case("features of 1e-3 to 1e6", lambda n: data.mixed_scales(n, 20), 100_000, 20, fit(10)),
    "copies": Case("500 rows, 200 copies of each", lambda n: data.duplicates(n, 8, 500), 100_000, 20, fit(10)),
    "one_hot": Case("one-hot", lambda n: data.categories(n, 5, 20).toarray(), 50_000, 20, fit(10)),
    "embeddings": Case("embeddings", lambda n: data.embeddings(n, 384), 20_000, 100, fit(10)),
    # sparse
    "text": Case("bags of words", lambda n: data.words(n, 8_000, 20), 4_000, 8, fit(5), SPARSE),
    "tfidf": Case("tf-idf", lambda n: data.tfidf(n, 10_000, 60), 5_000, 20, fit(5), SPARSE),
    "tfidf32": Case("tf-idf", lambda n: data.tfidf(n, 10_000, 60, f32), 5_000, 20, fit(5), SPARSE),
    "one_hot_csr": Case("one-hot", lambda n: data.categories(n, 5, 20), 50_000, 20, fit(10), SPARSE),
    "narrow_csr": Case("few features", lambda n: data.entries(n, 100, 0.1), 50_000, 20, fit(10), SPARSE),
    # with seeding
    "seeding": Case("blobs", lambda n: data.blobs(n, 16, f32, 100), 100_000, 100, seeded(2)),
    "seeding_csr": Case("tf-idf", lambda n: data.tfidf(n, 10_000, 60), 2_000, 20, seeded(2), SPARSE),
    # models in use
    "predict": Case("blobs", lambda n: data.blobs(n, 32, f32, 100), 500_000, 100, predict()),
    "predict64": Case("noise", lambda n: data.noise(n, 32, f64), 200_000, 100, predict()),
    "predict_far": Case("noise, one center at 1e4", lambda n: data.noise(n, 128), 10_000, 500, predict(far=1e4)),
    "predict_one": Case("embeddings", lambda n: data.embeddings(n, 384), 1_000, 100, predict_each(100)),
    "predict_csr": Case("tf-idf", lambda n: data.tfidf(n, 10_000, 60), 5_000, 20, predict(), SPARSE),
    "score": Case("blobs", lambda n: data.blobs(n, 32, f32, 100), 500_000, 100, score()),
    "transform": Case("noise", lambda n: data.noise(n, 256), 20_000, 200, transform()),
    "transform64": Case("noise", lambda n: data.noise(n, 256, f64), 20_000, 200, transform()),
    "transform_csr": Case("tf-idf", lambda n: data.tfidf(n, 10_000, 60), 5_000, 20, transform(), SPARSE),
    # batches
    "batches": Case("blobs", lambda n: data.blobs(n, 32, f32, 50, 10), 200_000, 50, minibatch(1, 1024)),
    "batches_seeded": Case("blobs", lambda n: data.blobs(n, 16), 50_000, 20, minibatch(1, 1024, "k-means++")),
    "batches_csr": Case("tf-idf", lambda n: data.tfidf(n, 10_000, 60), 5_000, 20, minibatch(1, 1024), SPARSE),
    "partial": Case("blobs", lambda n: data.blobs(n, 64, f32, 50), 20 * 1024, 50, partial_fit(20)),
    "partial_csr": Case("sparse entries", lambda n: data.entries(n, 20_000, 0.002), 500, 8, partial_fit(1), SPARSE),
}

# ---------------------------------------------------------------- measuring


def timed(call: Callable[[], Answer], quick: bool) -> float:
    """The median seconds of a turn's calls. Threads that whoever ran before left spinning stop while it wakes its own;
    where a call takes long they hardly matter."""
    begin = time.perf_counter()
    call()
    took = time.perf_counter() - begin
    if quick or took > ENOUGH + WAKE:
        return took
    while time.perf_counter() - begin < WAKE:
        call()
    seconds: list[float] = []
    while sum(seconds) < ENOUGH:
        begin = time.perf_counter()
        call()
        seconds.append(time.perf_counter() - begin)
    return median(seconds)


def quiet() -> None:
    warnings.simplefilter("ignore", ConvergenceWarning)  # a few iterations are not meant to converge


def settle() -> None:
    """A fit of as many values as have to come before numba is imported: some hundred fits of a small case, which would
    be half of its turns and no other's."""
    for library in LIBRARIES.values():
        library.KMeans(2, n_init=1, max_iter=2, random_state=0).fit(data.blobs(2**17, 2))


def chosen(name: str, quick: bool) -> Case:
    return CASES[name].quick() if quick else CASES[name]


def measure(case: Case, repeats: int, quick: bool, peers: dict[str, Library]) -> dict[str, Any]:
    """Seconds of both, and of those peers that can do the same work."""
    X, others = case.rows(case.n), Others()
    calls = {name: case.work.prepare(X, case.k, library) for name, library in LIBRARIES.items()}
    compare(calls[OURS](), calls[REFERENCE](), case.work)
    if case.work.for_peers and not sparse.issparse(X):
        found = {name: case.work.prepare(X, case.k, library) for name, library in peers.items()}
        calls |= {name: call for name, call in found.items() if does_the_same(call, calls[REFERENCE], case.work)}
    turns: dict[str, list[float]] = {name: [] for name in calls}
    begin = time.perf_counter()
    for turn in range(repeats):
        for name in list(calls)[:: 1 if turn % 2 == 0 else -1]:
            turns[name].append(timed(calls[name], quick))
        taken = time.perf_counter() - begin
        if any(turn + 1 >= some and taken > long for some, long in ENDS.items()):
            break
    seconds = {name: median(each) for name, each in turns.items()}
    return {
        "about": case.about,
        "does": case.work.does,
        "shape": list(X.shape),
        "dtype": str(X.dtype),
        "sparse": sparse.issparse(X),
        "k": case.k,
        "goal": case.goal,
        "seconds": seconds,
        "turns": turns,
        "ratio": seconds[OURS] / seconds[REFERENCE],
        "cores_busy_with_others": others.cores(),
    }


def peak(name: str, library: str, quick: bool) -> int:
    """The bytes that one call takes at most, besides its input, in this process."""
    case = chosen(name, quick)
    X = case.rows(case.n)
    if isinstance(X, np.memmap):
        X.max()  # what is mapped counts as held once it was read
    call = case.work.prepare(X, case.k, LIBRARIES[library])
    before = held_bytes("VmRSS")
    with Peak() as most:
        call()
    return max(0, most.bytes - before)


def peaks(name: str, quick: bool) -> dict[str, int]:
    found = {}
    for library in LIBRARIES:
        with ProcessPoolExecutor(1, mp_context=get_context("spawn"), initializer=quiet) as fresh:
            found[library] = fresh.submit(peak, name, library, quick).result()
    return found


def report(names: list[str], repeats: int, quick: bool, memory: bool, faiss: bool) -> dict[str, Any]:
    """Everything measured, as it is kept; and why the rest is not."""
    started, measured, failed = result_files.now(), [], {}
    settle()
    for name in names:
        try:
            found = {"name": name, **measure(chosen(name, quick), repeats, quick, PEERS if faiss else {})}
        except RuntimeError as error:
            failed[name] = str(error)
            continue
        gc.collect()
        if memory:
            found["peak_bytes"] = peaks(name, quick)
        print(f"{name}: {found['ratio']:.2f}", file=sys.stderr, flush=True)
        measured.append(found)
    options = f" --repeats {repeats}" + " --quick" * quick + " --memory" * memory + " --faiss" * faiss
    those = "" if names == list(CASES) else " ".join(["", *names])
    return {
        "kind": "zoo",
        "date": started,
        "command": f"python benchmarks/zoo.py{those}{options}",
        "machine": machine(),
        "versions": versions(),
        "thread_pools": thread_pools(),
        "repeats": repeats,
        "failed": failed,
        "cases": measured,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", metavar="CASE", help="which (default: all)")
    parser.add_argument("--list", action="store_true", help="say what there is, and measure nothing")
    parser.add_argument("--repeats", type=int, default=5, metavar="N", help="turns, three of what is long (default: 5)")
    parser.add_argument("--quick", action="store_true", help="few rows, one turn: to see that it runs")
    parser.add_argument("--memory", action="store_true", help="measure the peak memory too; Linux")
    parser.add_argument("--faiss", action="store_true", help="measure faiss-cpu too, where it can do the same work")
    parser.add_argument("--publish", action="store_true", help="keep the report, and its table in the README")
    result_files.add_option(parser)
    args = parser.parse_args()
    names = args.names or list(CASES)
    if unknown := [name for name in names if name not in CASES]:
        parser.error(f"unknown cases {', '.join(unknown)}; there are {', '.join(CASES)}")
    if args.repeats < 1:
        parser.error("--repeats must be at least 1")
    if args.publish and (args.quick or args.names):
        parser.error("--publish is for all of it, not for --quick or some cases")
    if args.faiss and find_spec("faiss") is None:
        parser.error("faiss-cpu is not installed: pip install 'gpukmeans[bench]'")
    if args.list:
        for name, case in CASES.items():
            print(f"{name:15} {case.about}, n={case.n:,}, k={case.k}: {case.work.does}, goal {case.goal}")
        return
    quiet()
    kept = report(names, 1 if args.quick else args.repeats, args.quick, args.memory, args.faiss)
    if kept["cases"]:
        print(zoo_table(kept))
    if kept["failed"]:
        sys.exit("\n".join(f"zoo.py: {name}: {error}" for name, error in kept["failed"].items()))
    if args.publish:
        args.json = result_files.FOLDER
    if args.json:
        result_files.keep(args.json, "zoo", kept)
    if args.publish:
        publish(kept)


if __name__ == "__main__":
    main()
