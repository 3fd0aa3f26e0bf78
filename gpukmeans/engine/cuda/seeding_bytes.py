"""A copy of rows in bytes, by which kernels/seeding_bytes.cu leaves most out of k-means++: where it pays, its frame."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np

from gpukmeans.exact.distance import Floats

# Up to so many candidates, and features: what a block has in shared memory, 32 kB.
CANDIDATES, FEATURES = 16, 2048

# Bytes that a step moves of a row more than without the copy, beside its features; and how many it has to save of all:
# twice what the memory of an H200 moves while a kernel is launched.
BESIDE, SAVED = 12, 2**25

# Steps of which the first are spent on making the copy.
STEPS = 8

# What a sample says of the scale counts if its values are within more of the range than this.
_LEAST = 2.0**-16


def words(d: int) -> int:
    """Of four features, which a lane reads at once: a row's four lanes together 16, 32 or 64 features."""
    return 1 if d <= 16 else 2 if d <= 32 else 4


def depth(d: int) -> int:
    """Features of a row in bytes, padded to a multiple of what its lanes read at once; also its bytes."""
    return d + -d % (16 * words(d))


def pays(n: int, d: int, itemsize: int, m: int, steps: int) -> bool:
    """For steps of m candidates, of dense rows of values of that size."""
    saved = n * (d * itemsize - depth(d) - BESIDE)
    return d <= FEATURES and m <= CANDIDATES and steps >= STEPS and saved >= SAVED


def columns(m: int) -> int:
    """That m candidates take."""
    return 8 if m <= 8 else 16


def options(d: int, m: int) -> tuple[str, ...]:
    """The compiler's."""
    return f"-DWORDS={words(d)}", f"-DCANDIDATES={columns(m)}"


def frame(sample: Floats, low: Floats, high: Floats) -> tuple[Floats, float]:
    """Offset (d,) and scale of the rows in bytes: the median of a sample (s, d), and the scale by which bytes lose the
    least of nine of ten of its rows. The others may lie beyond what bytes hold.

    low, high: (d,), of all rows, of which exact.direct_bound.DirectBound has a bound. The scale is 2**404 at most.
    """
    offset = np.partition(sample, len(sample) // 2, axis=0)[len(sample) // 2]
    steps = sample - offset
    smallest = float((high - low).max()) * _LEAST
    radius = max(float(np.abs(steps).max()), smallest)
    best, least = 1.0, np.inf
    while radius >= smallest > 0:
        scale = 127 / radius
        y = steps * scale
        losses = np.sort(np.square(y - np.clip(np.rint(y), -127, 127)).sum(1))
        lost = math.sqrt(losses[len(losses) * 9 // 10]) / scale
        if lost > least:
            break
        best, least, radius = scale, lost, radius / 1.5
    return offset, best


@dataclass(frozen=True)
class ByteRows:
    """The copy, on the device. rows: (n, depth(d) / 4) uint32, of four features each; norms, losses: (n,) int32 and
    float32; scale: of all."""

    rows: Any
    norms: Any
    losses: Any
    scale: float
    d: int

    @property
    def parts(self) -> int:
        """Of a row, each of what its lanes read at once."""
        return depth(self.d) // (16 * words(self.d))
