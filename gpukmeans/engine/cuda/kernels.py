"""One function a kernel, which derives the launch from what the kernel needs: of rows, and of D to their centers.

The kernels of the assignment step are in assignment_kernels.py, those of seeding in seeding_kernels.py;
kernels/README.md lists all of them. Here as there: arrays are the device's, in C order. x is (n, d), uint8, float16,
float32 or float64, an array or SparseRows; weights are (n,), int64 (copies of a row) or float64, or None if all rows
weigh one; the options of `gpu` name these types. Where x is sparse, D is E if it is summed or published, and centers
come with what that needs of them, see `with_norms`. What a kernel does not read is None.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from gpukmeans.engine.cuda.device import BLOCK, SHARED, Gpu
from gpukmeans.exact.distance import Floats, norms


@dataclass(frozen=True)
class SparseRows:
    """Rows (n, d) by what they store: values (e,), their columns (e,) int32, ascending in each row, and where each
    row's begin and end, starts (n + 1,) int64."""

    values: Any
    columns: Any
    starts: Any
    d: int

    @property
    def shape(self) -> tuple[int, int]:
        return len(self), self.d

    def __len__(self) -> int:
        return len(self.starts) - 1

    def __getitem__(self, rows: slice) -> SparseRows:
        return replace(self, starts=self.starts[rows.start : rows.stop + 1])


def of_rows(x: Any) -> tuple[Any, ...]:
    """The arguments X_ROWS of common.cuh: x, or its parts, n and d."""
    n, d = x.shape
    arrays = (x.values, x.columns, x.starts) if isinstance(x, SparseRows) else (x,)
    return *arrays, np.int64(n), np.int32(d)


def with_norms(x: Any, centers: Floats) -> Floats:
    """Centers (k, d) on the host as kernels read them that measure x: if this is sparse (k, d + 1), N last."""
    return np.column_stack([centers, norms(centers)]) if isinstance(x, SparseRows) else centers


# ---------------------------------------------------------------- before anything else


# As probe.cu has it.
PROBE = 0x6B6D65616E730A0D


def probe(gpu: Gpu, *, answer: Any) -> None:
    """answer: (1,) uint64, becomes PROBE."""
    gpu.launch("probe", "probe", 1, answer)


def entry_range(gpu: Gpu, *, x: SparseRows, keys: Any, stored: Any, nan: Any) -> None:
    """`feature_range` of what rows store. stored: (d,) uint64, 0 before, how many store each feature."""
    gpu.launch("entry_range", "entry_range", len(x.values), *of_rows(x), keys, stored, nan)


def feature_range(gpu: Gpu, *, x: Any, keys: Any, nan: Any) -> None:
    """The least and largest value of each feature, joined with those already there.

    keys: (2 * d,) uint64, the least, ~0 before, and the largest, 0 before, by order_key of common.cuh. nan: int32 (1,),
    becomes 1 if a value is NaN.
    """
    n, d = x.shape
    # A thread stays with one feature, so that there are at least d. 16 bytes a key, in two words of each.
    blocks = max(-(-d // BLOCK), min(gpu.blocks, -(-n * d // BLOCK)))
    folded = 16 * d <= SHARED
    gpu.run(
        *("feature_range", "feature_range", blocks, BLOCK, *of_rows(x), np.int32(folded), keys, nan),
        shared=16 * d if folded else 0,
    )


def sample_rows(gpu: Gpu, *, x: Any, step: int, sample: Any) -> None:
    """sample: (s, d) float64, becomes every step-th row, of s * d < 2**31 values."""
    given = x, np.int64(step), np.int32(x.shape[1]), np.int32(sample.size), sample
    gpu.launch("feature_range", "sample_rows", sample.size, *given)


def normalize(gpu: Gpu, *, x: Any, normalized: Any) -> None:
    """normalized: (n, d) float64, becomes the rows brought to length one; of sparse rows (e,), their values."""
    gpu.launch("normalize", "normalize", len(x), *of_rows(x), normalized)


# ---------------------------------------------------------------- D


def inertia(
    gpu: Gpu, *, x: Any, centers: Any, labels: Any, weights: Any, coarse_scale: float, fine_scale: float, sums: Any
) -> None:
    """sums: (2,) uint64, zeros before, become the two parts of the inertia (inertia.Inertia).

    centers: (k, d) float64, see `with_norms`. labels: (n,) int32, or None if there is one center. Scales are powers of
    two.
    """
    labelled = np.int32(labels is not None)
    scales = np.float64(coarse_scale), np.float64(fine_scale)
    gpu.launch(
        *("exact_distance", "inertia", len(x), *of_rows(x), centers, gpu.given(labels, np.int32), labelled),
        *(gpu.given(weights, np.float64), *scales, sums),
    )


def distances(gpu: Gpu, *, x: Any, centers: Any, factor: float, rooted: bool, distances: Any) -> None:
    """distances: (n, k) float64, or float32 to be rounded to, become so many D, or the root of that if rooted: what the
    metric makes of D.

    centers: (k, d) float64, see `with_norms`. A thread a distance.
    """
    k, single = len(centers), distances.dtype == np.float32
    answer = gpu.given(None if single else distances, np.float64), gpu.given(distances if single else None, np.float32)
    given = centers, np.int32(k), np.float64(factor), np.int32(rooted), np.int32(single), *answer
    gpu.launch("exact_distance", "distances", len(x) * k, *of_rows(x), *given)


def own_distances(gpu: Gpu, *, x: Any, centers: Any, labels: Any, distance: Any) -> None:
    """distance: (n,) float64, becomes D to the own center, whatever x is. centers: (k, d) float64, see `with_norms`.
    labels: (n,) int32."""
    gpu.launch("exact_distance", "own_distances", len(x), *of_rows(x), centers, labels, distance)


def farthest(gpu: Gpu, *, distance: Any, found: Any) -> None:
    """found: (2,) uint64, 0 and ~0 before; the first becomes the largest of distance (n,) float64, as its bits."""
    n = len(distance)
    gpu.launch("exact_distance", "farthest", n, distance, np.int64(n), found)


def first_farthest(gpu: Gpu, *, distance: Any, found: Any) -> None:
    """found: as `farthest` left it; the second becomes the first row whose distance that is."""
    n = len(distance)
    gpu.launch("exact_distance", "first_farthest", n, distance, np.int64(n), found)


def take_farthest(
    gpu: Gpu, *, x: Any, labels: Any, found: Any, distance: Any, location: Any, location_label: Any
) -> None:
    """Rows that lie where row found[1] does, and are as far, get a distance of zero.

    location: (d,) float64, zeros before, becomes that row; location_label: (1,) int32, its label. The rest as above.
    """
    gpu.launch(
        *("exact_distance", "take_farthest", len(x), *of_rows(x), labels, found, distance, location, location_label)
    )


# ---------------------------------------------------------------- some clusters by themselves


def cluster_ranges(gpu: Gpu, *, x: Any, labels: Any, place: Any, without: Any, keys: Any, stored: Any = None) -> None:
    """Least and largest value of each feature in m clusters.

    labels: (n,) int32. place: (k,) int32, which of the m a cluster is, -1 if none. without: (p, d) float64, locations
    whose rows do not count. keys: (2, m, d) uint64, as `feature_range` has them. stored: (m, d + 1) uint64, 0 before,
    if x is sparse: how many rows store each feature, and how many there are.
    """
    asked = labels, place, without, np.int32(len(without))
    counts = gpu.given(stored, np.uint64)
    gpu.launch("cluster_sums", "cluster_ranges", len(x), *of_rows(x), *asked, np.int32(keys.shape[1]), keys, counts)


def cluster_sums(
    gpu: Gpu,
    *,
    x: Any,
    labels: Any,
    place: Any,
    without: Any,
    weights: Any,
    offset: Any,
    scale: Any,
    shift: Any,
    exponent: Any,
    sums: Any,
) -> None:
    """sums: (m, d + 1) uint64, zeros before, become the sums of m clusters at scales of their own.

    offset, scale: (m, d) float64. shift, exponent: (m,) int32. Those four are scales.OwnScales. The rest as
    `cluster_ranges` has it.
    """
    asked = labels, place, without, np.int32(len(without))
    own = offset, scale, shift, exponent
    gpu.launch("cluster_sums", "cluster_sums", len(x), *of_rows(x), *asked, gpu.given(weights, np.float64), *own, sums)
