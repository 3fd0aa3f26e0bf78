"""The initial centers: k-means++, k-means|| and random, over Points; knows no device (Rule 4). k-means++ itself,
`greedy`, asks for no more than a CenterSampler, as cells of pictures are too.

All randomness is drawn on the host; how far it advances the caller's generator depends on the number
of clusters alone. A draw becomes a point by its index in an exact integer prefix sum. Of equal points, the one that it
becomes may have either zero where it is zero; adding makes one of them.
"""

# All draws of k-means++ are made before it looks at data, those that it turns out not to need as well. So the state of
# the caller's generator after a fit tells nothing of the data, the device or the threads.
#
# Copies of a row count as its weight only where they stand beside it, because an index is looked up in the caller's
# order. Everything else about copies agrees already: the scales, the total, the draws and the index. To look these up
# among rows sorted by their coordinates, equal rows adding up their weights, would make seeding free of row order for
# every `init`. It would cost one sort of whole rows before the first draw and another gather at each, several Points
# would have to merge their orders, and every fit would pay; so it is left.

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial

import numpy as np

from gpukmeans.engine.protocol import CenterSampler, Points, Samples, seeding_trials
from gpukmeans.exact.distance import Floats
from gpukmeans.exact.fixed_point import Ints, Weights, inverse_cdf_index, power_for
from gpukmeans.exact.scales import Scales
from gpukmeans.random_state import seeded

# Of k-means||, as in the experiments of its paper.
ROUNDS = 5


def inverse_cdf_indices(uniforms: Floats, total: int) -> Ints:
    """`inverse_cdf_index` of many draws (m,), for a total below 2**63.

    With u in 2**-53 as a 2**27 + b, and total as c 2**32 + e, no term of the product divided by 2**53 leaves
    64 bits: a c 2**6 is whole, and so much else divides by 2**27 that a e + b c 2**5 + b e 2**-27 remain,
    over 2**26.
    """
    u = (uniforms * 2.0**53).astype(np.uint64)
    a, b = u >> np.uint64(27), u & np.uint64(2**27 - 1)
    c, e = np.uint64(total >> 32), np.uint64(total & (2**32 - 1))
    rest = a * e + (b * e >> np.uint64(27))
    if c == 0:  # as of rows that are drawn without weights
        return (rest >> np.uint64(26)).astype(np.int64)
    rest += b * c << np.uint64(5)
    return ((a * c << np.uint64(6)) + (rest >> np.uint64(26))).astype(np.int64)


def kmeans_plusplus(
    points: Points, n_clusters: int, random_state: np.random.RandomState, trials: int | None = None
) -> Floats:
    """Greedy k-means++: centers (n_clusters, d) float64, each one of the points.

    Every next center is drawn with probability proportional to weight * D to the closest center so
    far; of that many trials, 2 + log(n_clusters) by default, the one that leaves the least potential is kept, the
    earliest of equals. Where fewer distinct points than clusters exist, the rest repeat points drawn by weight.

    Arthur and Vassilvitskii, "k-means++: the advantages of careful seeding" (SODA 2007), section 7
    for the greedy choice; the number of draws is scikit-learn's.
    """
    trials = seeding_trials(n_clusters) if trials is None else trials
    first = random_state.random_sample()
    draws = random_state.random_sample((n_clusters - 1, trials))
    with points.seeding() as seeding:
        return greedy(seeding, first, draws, partial(_exponent, points)) + 0.0


def greedy(sampler: CenterSampler, first: float, draws: Floats, exponent: Callable[[float], int]) -> Floats:
    """`kmeans_plusplus` of whatever can be sampled from, by one draw for the first center and draws (k - 1, trials) for
    the others: centers (k, d).

    exponent(farthest): for sampling weights of D up to that; the scale follows the distances down, so that the integers
    never run out of bits.
    """
    center, weight, farthest = _begin(sampler, first)
    added, farthest = sampler.accept_drawn(draws, farthest)
    centers = [center, *added]
    for uniforms in draws[len(added) :].tolist():
        scale = exponent(farthest)
        total = sampler.total(scale) if farthest > 0 else 0
        if total == 0:
            sampler.total(None)
            centers.append(sampler.find([inverse_cdf_index(uniforms[0], weight)])[0])
            continue
        candidates = _distinct(sampler.find([inverse_cdf_index(u, total) for u in uniforms]))
        sampler.propose(candidates)
        chosen = _least_potential(sampler, len(candidates), scale)
        centers.append(candidates[chosen])
        farthest = sampler.accept(chosen)
    return np.array(centers)


def kmeans_parallel(
    points: Points,
    n_clusters: int,
    random_state: np.random.RandomState,
    make: Callable[[Samples], Points],
    oversampling_factor: float = 2.0,
) -> Floats:
    """k-means||: centers (n_clusters, d) float64, each one of the points.

    From one point drawn by weight on, each of five rounds draws oversampling_factor * n_clusters candidates at
    once, rounded up, with probability proportional to weight * D to the closest candidate of the rounds
    before. k-means++ then chooses among all candidates, each weighing as much as the points closest to it. That
    is a few passes over the points, where k-means++ makes one or two for every center.

    The rounds draw with replacement, by index. The paper lets every point decide for itself, by a draw of
    its own; then how many are drawn would depend on the data, and n draws would have to be the same on
    every device. The expected number of times that a point is drawn is the same.

    Where the candidates are fewer than the clusters, because nearly all weight * D was always in a few
    places, k-means++ chooses among all points instead.

    make(samples): Points of the candidates.

    Bahmani, Moseley, Vattani, Kumar and Vassilvitskii, "Scalable k-means++" (VLDB 2012).
    """
    first = random_state.random_sample()
    rounds = random_state.random_sample((ROUNDS, math.ceil(oversampling_factor * n_clusters)))
    with points.seeding() as seeding:
        center, _, farthest = _begin(seeding, first)
        candidates = drawn = center[None]
        for uniforms in rounds:
            if len(drawn) < len(candidates):  # a round is accepted when the next one needs it
                points.assign(drawn)
                farthest = seeding.accept_all(drawn)
            total = seeding.total(_exponent(points, farthest)) if farthest > 0 else 0
            if total == 0:
                break
            drawn = _distinct(seeding.find(inverse_cdf_indices(uniforms, total).tolist()))
            candidates = np.concatenate([candidates, drawn])
    points.assign(candidates)
    weights = points.sums()[:, -1]
    closest = weights > 0  # not that of a point so near to another that D is zero
    if np.count_nonzero(closest) < n_clusters:
        return kmeans_plusplus(points, n_clusters, random_state)
    summary, used = Weights.of(np.ldexp(weights[closest].astype(np.float64), -points.weights.exponent))
    chosen_from = make(Samples(candidates[closest], used, summary))
    chosen_from.prepare(Scales.of(*chosen_from.feature_range(), summary))
    return kmeans_plusplus(chosen_from, n_clusters, random_state)


def _begin(sampler: CenterSampler, uniform: float) -> tuple[Floats, int, float]:
    """Draw a first center (d,) by weight; returns it, the total weight, and the largest D to it."""
    weight = sampler.total(None)
    center = sampler.find([inverse_cdf_index(uniform, weight)])
    sampler.propose(center)
    return center[0], weight, sampler.accept(0)


def _exponent(points: Points, farthest: float) -> int:
    """Of the finest scale at which the points' weights times D up to `farthest` fit together."""
    return power_for(farthest, points.weights.total)


def _distinct(candidates: Floats) -> Floats:
    """The rows without repetitions, in order: equal candidates would tie."""
    kept = {x.tobytes(): x for x in candidates}
    return candidates if len(kept) == len(candidates) else np.array(list(kept.values()))


def _least_potential(sampler: CenterSampler, m: int, exponent: int) -> int:
    """Which of m proposed candidates leaves the least potential; bounds first, sums if they overlap
    (test_randomness.test_kmeans_plusplus_is_the_reference fails without these)."""
    if m == 1:
        return 0
    low, high = sampler.potentials(exponent, exact=False)
    chosen = min(range(m), key=high.__getitem__)
    if sum(bound <= high[chosen] for bound in low) > 1:
        low, _ = sampler.potentials(exponent, exact=True)
        chosen = min(range(m), key=low.__getitem__)
    return chosen


def random(points: Points, n_clusters: int, random_state: np.random.RandomState) -> Floats:
    """Points drawn by weight: centers (n_clusters, d) float64, of distinct locations where possible.

    A location drawn again is drawn anew, in at most eight rounds, from a generator of its own, so that
    the caller's is advanced by one draw whatever the data.
    """
    own = seeded(random_state.randint(2**31 - 1))
    kept: dict[tuple[float, ...], None] = {}
    repeated: list[list[float]] = []
    with points.seeding() as seeding:
        total = seeding.total(None)
        for _ in range(8):
            uniforms = own.random_sample(n_clusters - len(kept)).tolist()
            for x in seeding.find([inverse_cdf_index(u, total) for u in uniforms]).tolist():
                if tuple(x) in kept:
                    repeated.append(x)
                kept[tuple(x)] = None
            if len(kept) == n_clusters:
                break
    return np.array([list(x) for x in kept] + repeated)[:n_clusters] + 0.0
