"""What a sample of the rows says of where most of them are: by that a frame is chosen (certificate.py)."""

from __future__ import annotations

import math

import numpy as np

from gpukmeans.exact.distance import Floats

# How many rows tell where most are, and values of theirs at most: 8 MB of float64.
_SAMPLE, _SAMPLE_VALUES = 2**6, 2**20

# Groups of rows with an offset each, at most.
_MOST_GROUPS = 8


def sampled_rows(n: int, d: int) -> slice:
    """Which of n rows a `certificate.Frame` asks for: always the same, and not all of one kind where kinds alternate
    (test_certificate.test_a_sample_has_rows_of_all_kinds_that_alternate)."""
    step = -(-n // max(1, min(_SAMPLE, _SAMPLE_VALUES // d)))
    while math.gcd(step, 30) > 1:
        step += 1
    return slice(0, n, step)


def typical_square(sample: Floats, offset: Floats) -> float:
    """The median squared distance of rows (s, d) to an offset."""
    squares = np.sort(_squares_to(sample, offset))
    return float(squares[len(squares) // 2])


def far_offsets(sample: Floats, offset: Floats) -> list[Floats]:
    """Offsets, beside one, that rows of a sample (s, d) lie much nearer to: where several have one in common, whose
    |y|^2 is a 2**12th then, scores are as much finer. There may be none; each is a value of theirs in each feature."""
    found: list[Floats] = []
    nearest = _squares_to(sample, offset)
    for _ in range(_MOST_GROUPS - 1):
        distances = _squares_to(sample, sample[nearest.argmax()])
        (group,) = (distances * 2.0**12 < nearest).nonzero()
        if len(group) < max(2, len(sample) // 16):
            break
        found.append(np.partition(sample[group], len(group) // 2, axis=0)[len(group) // 2])
        nearest = np.minimum(nearest, _squares_to(sample, found[-1]))
    return found


def _squares_to(sample: Floats, offset: Floats) -> Floats:
    steps = sample - offset
    return np.einsum("ij,ij->i", steps, steps)
