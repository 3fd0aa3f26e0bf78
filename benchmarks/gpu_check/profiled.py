"""For a profiler: a picture of 39 megapixels dithered, and fits, one of each kernel family that compares rows with
centers, and of k-means++.

ncu python benchmarks/gpu_check/profiled.py
"""

from __future__ import annotations

import argparse
import warnings
from typing import Any

import cupy as cp
import numpy as np
from numpy.typing import NDArray

from gpukmeans import KMeans, datasets, remap


def from_first_rows(X: NDArray[Any], k: int) -> None:
    """Two iterations, on rows that are on the device, with at most as many centers as half of the rows."""
    k = min(k, len(X) // 2)
    KMeans(k, init=X[:k].astype(np.float64), n_init=1, max_iter=2, device="cuda").fit(cp.asarray(X))


def dithered(times: int) -> None:
    """A photograph in 256 of its colors, so often in each direction, that is on the device."""
    china = datasets.china()
    photograph = (china.X * 255).round().astype(np.uint8)
    palette = photograph[np.random.default_rng(0).integers(0, len(photograph), 256)]
    picture = np.tile(photograph.reshape(china.shape), (times, times, 1))
    remap(cp.asarray(picture), palette, dither="floyd-steinberg")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--divide", type=int, default=1, metavar="N", help="take an Nth of the rows (default: 1)")
    divide = parser.parse_args().divide
    warnings.simplefilter("ignore")
    dithered(max(1, 12 // divide))
    rng = np.random.default_rng(0)
    vectors = rng.standard_normal((1_000_000 // divide, 128), np.float32)
    # So few centers that assign_tiled compares rows with them, and so many that rows are read in bytes to find them.
    KMeans(9, n_init=1, max_iter=1, random_state=0, device="cuda").fit(cp.asarray(vectors))
    from_first_rows(vectors, 1024)
    from_first_rows(vectors.astype(np.float16), 1024)
    from_first_rows(np.ascontiguousarray(vectors[:, :16]), 256)
    from_first_rows(rng.integers(0, 256, (20_000_000 // divide, 3), dtype=np.uint8), 64)


if __name__ == "__main__":
    main()
