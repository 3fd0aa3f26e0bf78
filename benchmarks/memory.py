"""The peak memory of a fit above that of its input, in a process of its own.

    python benchmarks/memory.py                 10,000,000 x 3 float32, 64 clusters, 5 iterations
    python benchmarks/memory.py --rows 1000000 --dtype float64 --json PATH

The input is made in pieces, so that making it needs no more than it. What the process holds then is subtracted
from the highest that it holds at any time during the fit: results, scratch, and the threads' and BLAS's own memory.
"""

from __future__ import annotations

import argparse
import threading
import time
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
from common import result_files
from common.machine import held_bytes, machine, versions
from numpy.typing import NDArray

from gpukmeans import KMeans

FEATURES = 3
TARGET = 3  # times the input


def blobs(rows: int, clusters: int, dtype: str) -> NDArray[Any]:
    """Round clusters (rows, 3) in the unit cube, overlapping at their edges."""
    draw = np.random.default_rng(0)
    centers = draw.random((clusters, FEATURES))
    X = np.empty((rows, FEATURES), dtype)
    for start in range(0, rows, 2**16):
        chunk = X[start : start + 2**16]
        chunk[:] = centers[draw.integers(clusters, size=len(chunk))] + draw.normal(0, 0.05, chunk.shape)
    return X


class Peak:
    """The most memory held within a with block: the kernel's own record, or else a look every millisecond."""

    def __enter__(self) -> Peak:
        try:
            Path("/proc/self/clear_refs").write_text("5")  # the record starts anew, from what is held now
            self.method = "the kernel's record (VmHWM)"
        except OSError:
            self.method = "a look every millisecond (VmRSS), as the kernel's record cannot be reset"
            self.over = threading.Event()
            self.thread = threading.Thread(target=self._look)
            self.thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        if hasattr(self, "thread"):
            self.over.set()
            self.thread.join()
        else:
            self.bytes = held_bytes("VmHWM")

    def _look(self) -> None:
        self.bytes = held_bytes("VmRSS")
        while not self.over.wait(0.001):
            self.bytes = max(self.bytes, held_bytes("VmRSS"))


def measure(rows: int, clusters: int, iterations: int, dtype: str) -> dict[str, Any]:
    """Fit once in this process."""
    X = blobs(rows, clusters, dtype)
    model = KMeans(clusters, max_iter=iterations, random_state=0, device="cpu")
    before = held_bytes("VmRSS")
    start = time.perf_counter()
    with Peak() as peak:
        model.fit(X)
    return {
        "input_bytes": X.nbytes,
        "peak_above_input_bytes": peak.bytes - before,
        "ratio": (peak.bytes - before) / X.nbytes,
        "measured_by": peak.method,
        "seconds": time.perf_counter() - start,
        "n_iter": int(model.n_iter_),
        "inertia": float(model.inertia_),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=10_000_000, metavar="N")
    parser.add_argument("--clusters", type=int, default=64, metavar="K")
    parser.add_argument("--iterations", type=int, default=5, metavar="N", help="at most so many (default: 5)")
    parser.add_argument("--dtype", default="float32", choices=["float16", "float32", "float64"])
    parser.add_argument("--json", type=Path, metavar="PATH", help="keep it in PATH")
    args = parser.parse_args()
    if not Path("/proc/self/status").exists():
        parser.error("needs Linux's /proc")
    what = {"rows": args.rows, "clusters": args.clusters, "iterations": args.iterations, "dtype": args.dtype}
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as fresh:
        found = fresh.submit(measure, **what).result()
    if args.json:
        about = {"date": result_files.now(), "machine": machine(), "versions": versions()}
        result_files.write(args.json, {**about, **what, **found})
    print(f"{args.rows:,} x {FEATURES} {args.dtype}, k={args.clusters}: {found['n_iter']} iterations", end=" ")
    print(f"and k-means++ in {found['seconds']:.1f} s")
    print(f"input              {found['input_bytes'] / 1e6:12,.1f} MB")
    print(f"peak above input   {found['peak_above_input_bytes'] / 1e6:12,.1f} MB, by {found['measured_by']}")
    print(f"ratio              {found['ratio']:12.2f}, target at most {TARGET}")


if __name__ == "__main__":
    main()
