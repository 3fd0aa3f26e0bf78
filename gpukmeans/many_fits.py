"""Many small problems fitted at once, where an engine has a way to; knows no device.

What is left here is what `KMeans.fit` does between the calls of an engine: seeds, starts and the best of them, and
rounding to the dtype that is published. A problem that the engine leaves open, and whatever is seldom, gets no answer
here; whoever asks then fits it by itself.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from fractions import Fraction
from types import TracebackType
from typing import Any, NamedTuple, Self, cast

import numpy as np
from numpy.typing import NDArray

from gpukmeans import seeding
from gpukmeans.cluster_means import COARSE
from gpukmeans.engine.protocol import Points, Stack, StackDoubt, StackLabels, StackScales, seeding_trials
from gpukmeans.exact.distance import LARGEST_MAGNITUDE, Floats, magnitude
from gpukmeans.exact.fixed_point import Weights
from gpukmeans.exact.inertia import Inertia
from gpukmeans.exact.scales import Scales

# What engines count in 32 bits; nobody has waited for so many.
_MOST_ITERATIONS = 2**31 - 1

_NO_FLOATS = np.empty(0)
_NO_DRAWS = np.empty((0, 0, 0))


class Starts(NamedTuple):
    """How problems begin and end, as the parameters of `KMeans` say it. centers: (b, k, d) float64 to begin with, or
    None, if `init` draws them: "k-means++" or "random"."""

    n_clusters: int
    init: str
    centers: Floats | None
    n_init: int
    tol: float
    max_iter: int


class ProblemFit(NamedTuple):
    """The best start of one problem. centers: (k, d) in the dtype asked for. occupied: how many clusters have rows.
    inertia is in the units of the weights in use, see Weights.shift."""

    centers: NDArray[Any]
    labels: NDArray[np.int32]
    inertia: Fraction
    n_iter: int
    occupied: int


def fit_stack(
    stack: Stack, generators: Sequence[np.random.RandomState], starts: Starts, dtype: np.dtype
) -> list[ProblemFit | None]:
    """The fits of a stack's problems, each by draws of its generator; None of those that have to be fitted by
    themselves. generators: one after another, so that several may be the same."""
    low, high = stack.feature_range()
    best: list[ProblemFit | None] = [None] * len(generators)
    if not magnitude(low, high) <= LARGEST_MAGNITUDE:  # as it is not of NaN: told of by whoever fits them one by one
        return best
    scales = _scales(low, high, stack.weights[: len(low)])
    stack.prepare(scales, _doubt(scales))
    left = np.zeros(len(generators), bool)
    for _ in range(starts.n_init):
        centers, first, draws = _begin(stack, generators, starts, low.shape[1])
        centers, n_iter = stack.fit(centers, first, draws, starts.tol, min(starts.max_iter, _MOST_ITERATIONS))
        left |= n_iter == 0
        if left.any():
            centers[left] = 0.0
        published = centers.astype(dtype) + 0.0  # finite, as each is held to the range of its rows
        found = stack.publish(published.astype(np.float64))
        inertias = _inertias(stack, found)
        for i, inertia in enumerate(inertias):
            left[i] |= inertia is None
            if inertia is None or left[i]:
                continue
            before = best[i]
            if before is None or inertia < before.inertia:
                labels = found.labels[i] if starts.n_init == 1 else found.labels[i].copy()
                best[i] = ProblemFit(published[i], labels, inertia, int(n_iter[i]), int(found.occupied[i]))
    return [None if left[i] else fit for i, fit in enumerate(best)]


def _scales(low: Floats, high: Floats, weights: Sequence[Weights]) -> StackScales:
    """As `lloyd.prepare` has them of each problem; those of equal weights at once."""
    if all(own is weights[0] for own in weights):
        scales = Scales.of(low, high, weights[0])
        return StackScales(low, high, scales.offset, scales.scale, scales.step)
    alike: dict[Weights, list[int]] = defaultdict(list)
    for i, own in enumerate(weights):
        alike[own].append(i)
    found = StackScales(low, high, *(np.empty_like(low) for _ in range(3)))
    for own, problems in alike.items():
        scales = Scales.of(low[problems], high[problems], own)
        found.offset[problems], found.scale[problems], found.step[problems] = scales.offset, scales.scale, scales.step
    return found


def _doubt(scales: StackScales) -> StackDoubt:
    """As `cluster_means.doubt`, which takes rows for exact more often, with the same outcome; and `Tolerance.most`."""
    ranges = scales.high - scales.low
    step_squared = np.add.accumulate(scales.step * scales.step, axis=1)[:, -1]
    most = (ranges * ranges).sum(axis=1) / (4 * ranges.shape[1]) * (1 + 2.0**-30)
    return StackDoubt(2 * step_squared / COARSE**2, ranges.argmax(axis=1), most)


def _begin(
    stack: Stack,
    generators: Sequence[np.random.RandomState],
    starts: Starts,
    d: int,
) -> tuple[Floats, Floats, Floats]:
    """Centers to begin with, or room for them, and the draws that they are made by."""
    b, k = len(generators), starts.n_clusters
    if starts.centers is not None:
        return starts.centers.copy(), _NO_FLOATS, _NO_DRAWS
    centers = np.empty((b, k, d))
    if starts.init == "random":
        for i, generator in enumerate(generators):
            centers[i] = seeding.random(cast(Points, _ByWeight(stack, i)), k, generator)
        return centers, _NO_FLOATS, _NO_DRAWS
    first, draws = np.empty(b), np.empty((b, k - 1, seeding_trials(k)))
    for i, generator in enumerate(generators):  # in the order of seeding.kmeans_plusplus
        first[i] = generator.random_sample()
        draws[i] = generator.random_sample(draws.shape[1:])
    return centers, first, draws


class _ByWeight:
    """As much of Points as `seeding.random` asks for."""

    def __init__(self, stack: Stack, problem: int) -> None:
        self._stack, self._problem = stack, problem

    def seeding(self) -> Self:
        return self

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type | None, error: BaseException | None, trace: TracebackType | None) -> None:
        pass

    def total(self, exponent: int | None) -> int:
        return self._stack.totals[self._problem]

    def find(self, indices: list[int]) -> Floats:
        return self._stack.find(self._problem, indices)


def _inertias(stack: Stack, found: StackLabels) -> list[Fraction | None]:
    """As `lloyd.inertia`; None where it is so far below what it might be that it has to be summed again."""
    inertias: list[Fraction | None] = []
    sums = found.coarse.tolist(), found.fine.tolist(), found.coarse_bits.tolist()
    for own, coarse, fine, bits in zip(stack.weights, *sums, strict=True):
        split = Inertia(bits, Inertia.fine_bits_of(own))
        units = split.units(coarse, fine)
        inertias.append(split.value(units) if units >= Inertia.least_units(own) else None)
    return inertias
