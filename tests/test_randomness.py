"""Rule 4: randomness is drawn on the host, in an amount that no data can change."""

from __future__ import annotations

import math
from contextlib import suppress
from fractions import Fraction
from functools import partial

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from reference import Reference, distances
from reference_sums import log2_up
from sklearn.datasets import make_blobs

from gpukmeans import lloyd
from gpukmeans.engine import devices, dispatch
from gpukmeans.engine.combine.multi_device import Parallel
from gpukmeans.engine.numpy.points import NumPyPoints
from gpukmeans.engine.numpy.rows import Rows
from gpukmeans.engine.numpy.seeding_distances import BLOCK, BlockDistances
from gpukmeans.engine.numpy.tuning import tuned
from gpukmeans.engine.protocol import Samples
from gpukmeans.exact.fixed_point import inverse_cdf_index
from gpukmeans.seeding import inverse_cdf_indices, kmeans_parallel, kmeans_plusplus, random

pytestmark = pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")


# ---------------------------------------------------------------- ranks


@given(st.integers(0, 2**53 - 1), st.one_of(st.integers(1, 2**62 + 2**40), st.sampled_from([1, 2**62, 2**62 - 1])))
def test_rank_is_the_floor_of_the_product(numerator, total):
    uniform = numerator * 2.0**-53
    found = inverse_cdf_index(uniform, total)
    assert found == Fraction(uniform) * total // 1
    assert 0 <= found < total


# ---------------------------------------------------------------- k-means++ against the reference


def seed_in_parallel(reference, k, random_state, factor=2):
    """k-means|| as the contract has it: centers (k, d)."""
    first = random_state.random_sample()
    rounds = random_state.random_sample((5, math.ceil(factor * k))).tolist()
    candidates = [reference.x[reference.find(first, reference.masses())].tolist()]
    for uniforms in rounds:
        closest = distances(reference.x, np.array(candidates)).min(axis=1)
        if closest.max() == 0:
            break
        masses = reference.masses(closest, reference.power_for(closest.max()))
        for candidate in [reference.x[reference.find(uniform, masses)].tolist() for uniform in uniforms]:
            if candidate not in candidates:
                candidates.append(candidate)
    weights = [Fraction(0)] * len(candidates)
    for mass, label in zip(reference.masses(), reference.labels(candidates), strict=True):
        weights[label] += Fraction(mass) / 2**reference.scale.exponent
    if len(candidates) < k:
        return reference.seed(k, random_state)
    return Reference(candidates, np.array(weights, np.float64)).seed(k, random_state)


def gaussian(rng, n):
    return rng.normal(size=(n, 3))


def lattice(rng, n):
    """Many duplicates, and ties between candidates."""
    return rng.integers(0, 3, (n, 2)).astype(np.float64)


def line(rng, n):
    return np.arange(n, dtype=np.float64)[:, None] - n // 2


def clumps(rng, n):
    """Two tight clumps far apart: potentials fall by twenty orders of magnitude."""
    return rng.integers(0, 2, (n, 1)) * 1e6 + rng.normal(size=(n, 2)) * 1e-5


def outlier(rng, n):
    x = rng.normal(size=(n, 2))
    x[n // 2] = 1e12
    return x


def many_features(rng, n):
    return rng.normal(size=(n, 40)).astype(np.float32)


def bytes_(rng, n):
    return rng.integers(0, 256, (n, 3), dtype=np.uint8)


KINDS = [gaussian, lattice, line, clumps, outlier, many_features, bytes_]

WEIGHTS = {
    "none": lambda rng, n: None,
    "integers": lambda rng, n: rng.integers(1, 9, n),
    "fractions": lambda rng, n: rng.random(n) + 0.01,
    "mixed": lambda rng, n: np.where(rng.random(n) < 0.5, rng.integers(1, 9, n), rng.random(n) * 3 + 0.01),
}


def problem(kind, weighing, seed):
    """x (n, d), weights, and a number of clusters."""
    rng = np.random.default_rng(seed)
    n = int(rng.integers(8, 90))
    x, weights = kind(rng, n), WEIGHTS[weighing](rng, n)
    return x, weights, int(rng.integers(1, min(n, 9)))


@pytest.mark.parametrize("weighing", WEIGHTS)
@pytest.mark.parametrize("kind", KINDS)
def test_kmeans_plusplus_is_the_reference(make_points, ways, kind, weighing):
    for seed in range(4):
        x, weights, k = problem(kind, weighing, seed)
        expected = Reference(x, weights).seed(k, np.random.RandomState(seed))
        for name in ways.some("plain", "scores", "arrange", "merge", "merge, D only", "rows of 61"):
            with tuned(**ways[name]):
                points, _ = make_points(x, weights)
            found = kmeans_plusplus(points, k, np.random.RandomState(seed))
            assert found.tolist() == expected.tolist(), (name, seed)


def test_kmeans_plusplus_is_the_reference_where_prefixes_are_cut_in_runs(make_points, ways):
    """Beyond some ten thousand rows a rank is looked up in two steps."""
    rng = np.random.default_rng(0)
    x = rng.integers(0, 100, (33_000, 1)).astype(np.float64)
    for weights in (None, rng.integers(1, 4, len(x))):
        expected = Reference(x, weights).seed(3, np.random.RandomState(1)).tolist()
        for name in ("scores", "merge", "2 threads"):
            with tuned(**ways[name]):
                points, _ = make_points(x, weights)
            assert kmeans_plusplus(points, 3, np.random.RandomState(1)).tolist() == expected


def spread(rng, n):
    """Blocks of neighbours at all distances from a center, so that bounds decide about each."""
    return rng.random((n, 2)) ** 4 * 100


@pytest.mark.parametrize("weighing", WEIGHTS)
@pytest.mark.parametrize("kind", [lattice, spread, many_features, bytes_])
def test_every_potential_is_the_integer_sum(make_points, ways, kind, weighing):
    """Step by step, for any candidates: the totals, their bounds, the largest D, and which row a rank is."""
    rng = np.random.default_rng(2)
    n = 1500
    x, weights = kind(rng, n), WEIGHTS[weighing](rng, n)
    reference = Reference(x, weights)
    steps = [x[rng.integers(0, n, 3)].astype(np.float64) for _ in range(8)]
    chosen = [int(c) for c in rng.integers(0, 3, 8)]
    expected, closest, power = [], None, 0
    for candidates, c in zip(steps, chosen, strict=True):
        left = []
        for candidate in candidates:
            distance = reference.distances_to(candidate)
            left.append(distance if closest is None else np.minimum(closest, distance))
        potentials = None if closest is None else [sum(reference.masses(row, power)) for row in left]
        closest = left[c]
        power = reference.power_for(closest.max())
        masses = reference.masses(closest, power)
        at = [(reference.find(u, masses), math.floor(Fraction(u) * sum(masses))) for u in (0.0, 0.1, 0.5, 0.99)]
        expected.append((potentials, closest.max(), sum(masses), at))
    for name in ways.some("plain", "scores", "arrange", "merge", "rows of 61", "4 threads"):
        with tuned(**ways[name]):
            points, _ = make_points(x, weights)
        seeding = points.seeding()
        power = 0
        for candidates, c, (potentials, largest, total, at) in zip(steps, chosen, expected, strict=True):
            # the first call takes one center, the others any number
            seeding.propose(candidates if potentials else candidates[c : c + 1])
            if potentials:
                low, high = seeding.potentials(power, exact=False)
                assert all(a <= p <= b for a, p, b in zip(low, potentials, high, strict=True)), name
                assert seeding.potentials(power, exact=True) == (potentials, potentials), name
            assert seeding.accept(c if potentials else 0) == largest, name
            power = 62 - log2_up(reference.total) - log2_up(largest)
            assert seeding.total(power) == total, name
            assert seeding.find([index for _, index in at]).tolist() == [reference.x[row].tolist() for row, _ in at], (
                name
            )


@pytest.mark.parametrize("d", [1, 3, 30])
def test_a_candidate_that_is_only_just_closer_counts(make_points, ways, d):
    """By the last bit of D, or not at all: no bound may skip the one or take the other."""
    near, tie, beyond = (-math.nextafter(1.0, to) for to in (0.0, 1.0, 2.0))
    for candidate, moved in [(near, True), (-0.998, True), (tie, False), (beyond, False)]:
        x = np.zeros((192, d))
        x[64:128, 0], x[128:, 0] = 1.0, candidate
        for name in ways.some("plain", "scores", "arrange", "merge"):
            with tuned(**ways[name]):
                points, _ = make_points(x)
            seeding = points.seeding()
            seeding.propose(x[64:65])
            farthest = seeding.accept(0)
            power = 62 - 8 - log2_up(farthest)
            seeding.total(power)
            seeding.propose(x[128:129])
            expected = 64 * round((candidate * candidate if moved else 1.0) * 2.0**power)
            assert seeding.potentials(power, exact=True)[0] == [expected], (name, candidate)
            assert seeding.accept(0) == (candidate * candidate if moved else 1.0), (name, candidate)
            assert seeding.total(power) == expected, (name, candidate)


def test_a_candidate_that_is_closer_by_less_than_scores_can_tell_counts(make_points, brute_distances, ways):
    """Each row lies between two others, in a corner of the range, and is nearer to the second by its last bits."""
    rng = np.random.default_rng(0)
    for _ in range(20):
        d = 30
        row = rng.uniform(0.9, 1, d)
        step = rng.normal(size=d) * 1e-3
        center, candidate = row + step, row - step * (1 - 2.0**-40)
        x = np.array([row, center, candidate, -np.ones(d), np.ones(d)])
        before, after = brute_distances(x, np.array([center, candidate])).T
        assert after[0] < before[0]
        for name in ways.some("plain", "scores"):
            with tuned(**ways[name]):
                points, _ = make_points(x)
            seeding = points.seeding()
            seeding.propose(center[None])
            power = 62 - 3 - log2_up(seeding.accept(0))
            seeding.total(power)
            seeding.propose(candidate[None])
            seeding.accept(0)
            expected = sum(round(left * 2.0**power) for left in np.minimum(before, after).tolist())
            assert seeding.total(power) == expected, name


@pytest.mark.parametrize("scale", [1.0, 2.0**-520, 2.0**-535])
@pytest.mark.parametrize("d", [2, 3, 4])
def test_boxes_bear_rounding(brute_distances, monkeypatch, d, scale):
    """Blocks of one location each, half way between a center and a candidate, whose D differ by their last bits.
    Nobody says in which order einsum adds, or what it fuses: here each sum comes out a bit too large."""
    rng = np.random.default_rng(d)
    center, candidate = rng.random((2, d))
    away = candidate - center
    aside = rng.normal(size=(600, d))
    aside -= np.outer(aside @ away / (away @ away), away)
    locations = ((center + candidate) / 2 + aside) * scale
    center, candidate = center * scale, candidate * scale
    before, after = brute_distances(locations, np.array([center, candidate])).T
    assert np.count_nonzero(before != after) > 100
    blocks = BlockDistances(Rows(np.asfortranarray(np.repeat(locations, BLOCK, axis=0)), None, once=True), 1)
    einsum = np.einsum
    monkeypatch.setattr(np, "einsum", lambda *operands: np.nextafter(einsum(*operands), np.inf))
    for chosen in (center, candidate):
        blocks.propose(chosen[None])
        blocks.accept(0, 0)
    assert blocks.closest_dist_sq.reshape(600, BLOCK).T.tolist() == [np.minimum(before, after).tolist()] * BLOCK


@pytest.mark.parametrize("weighing", WEIGHTS)
def test_bounds_on_potentials_hold_where_masses_are_of_few_bits(make_points, ways, weighing):
    """Where a far row of little weight sets the scale, others round to a few units, and all may round one way."""
    rng = np.random.default_rng(5)
    x, weights = rng.normal(size=(200, 20)), WEIGHTS[weighing](rng, 200)
    reference = Reference(x, weights)
    closest = reference.distances_to(x[0])
    for name in ways.some("plain", "scores"):
        with tuned(**ways[name]):
            points, _ = make_points(x, weights)
        seeding = points.seeding()
        seeding.propose(x[:1])
        seeding.accept(0)
        seeding.propose(x[1:9])
        for power in range(-9, 4):
            seeding.total(power)
            low, high = seeding.potentials(power, exact=False)
            for c in range(8):
                left = np.minimum(closest, reference.distances_to(x[1 + c]))
                assert low[c] <= sum(reference.masses(left, power)) <= high[c], (name, power)


@pytest.mark.parametrize("name", ["scores", "arrange", "merge", "2 threads"])
@pytest.mark.parametrize("weighted", [False, True])
def test_totals_follow_few_changes_among_many_rows(make_points, brute_distances, ways, name, weighted):
    """Beyond some ten thousand rows the sums are kept and only changed masses are added, at any later scale."""
    rng = np.random.default_rng(3)
    x = rng.integers(0, 150, (40_000, 2)).astype(np.float64)
    w = rng.integers(1, 5, len(x)) if weighted else np.ones(len(x), int)
    with tuned(**ways[name]):
        points, _ = make_points(x, w if weighted else None)
    seeding = points.seeding()
    closest = np.full(len(x), np.inf)
    power = 62 - log2_up(float(w.sum())) - log2_up(2.0 * 150**2)
    centers = x[rng.integers(0, len(x), 25)]
    centers = np.concatenate([centers, centers[:1]])  # the last one changes nothing
    for i, center in enumerate(centers):
        seeding.propose(center[None])
        closest = np.minimum(closest, brute_distances(x, center[None])[:, 0])
        assert seeding.accept(0) == closest.max()
        if i == 12:
            power += 2
        masses = np.rint(closest * 2.0**power).astype(np.int64) * w
        assert seeding.total(power) == sum(masses.tolist())
        prefix = np.cumsum(masses)
        indices = [0, int(prefix[-1]) // 3, int(prefix[-1]) - 1]
        rows = [int(np.argmax(prefix > r)) for r in indices]
        assert seeding.find(indices).tolist() == x[rows].tolist()


def test_kmeans_plusplus_takes_distinct_points_while_there_are_any(make_points):
    """A point already chosen has no mass left."""
    for seed in range(20):
        x = np.repeat(np.arange(6.0), 5)[:, None]
        points, _ = make_points(x)
        found = kmeans_plusplus(points, 8, np.random.RandomState(seed))
        assert sorted(set(found.ravel().tolist())) == [0, 1, 2, 3, 4, 5]
        assert len(set(found.ravel().tolist()[:6])) == 6


def test_a_points_can_be_seeded_again(make_points, ways):
    """Every start begins anew, whatever the one before it left behind."""
    x = np.random.default_rng(0).normal(size=(200, 3))
    for way in ways.values():
        with tuned(**way):
            points, _ = make_points(x)
        first = kmeans_plusplus(points, 6, np.random.RandomState(0))
        points.assign(first)
        random(points, 4, np.random.RandomState(1))
        assert kmeans_plusplus(points, 6, np.random.RandomState(0)).tobytes() == first.tobytes()


# ---------------------------------------------------------------- k-means||


@pytest.fixture(scope="session")
def in_parallel(device):
    """in_parallel(points, k, seed): the centers that k-means|| chooses."""

    def seed(points, k, seed):
        make = partial(dispatch.make_points, device=devices.resolve(device))
        return kmeans_parallel(points, k, np.random.RandomState(seed), make)

    return seed


@pytest.mark.parametrize("weighing", WEIGHTS)
@pytest.mark.parametrize("kind", KINDS)
def test_kmeans_parallel_is_the_reference(make_points, in_parallel, ways, kind, weighing):
    for seed in range(3):
        x, weights, k = problem(kind, weighing, seed)
        expected = seed_in_parallel(Reference(x, weights), k, np.random.RandomState(seed))
        for name in ways.some("plain", "scores", "arrange", "merge", "merge, D only", "rows of 61", "4 threads"):
            with tuned(**ways[name]):
                points, _ = make_points(x, weights)
                assert in_parallel(points, k, seed).tolist() == expected.tolist(), (name, seed)


@pytest.mark.parametrize("weighing", WEIGHTS)
@pytest.mark.parametrize("kind", [lattice, spread, many_features, bytes_])
def test_centers_accepted_at_once_are_those_accepted_one_by_one(make_points, ways, kind, weighing):
    rng = np.random.default_rng(4)
    n = 700
    x, weights = kind(rng, n), WEIGHTS[weighing](rng, n)
    few = 4 if kind is lattice else 25  # a lattice has nine locations, and some shall be left
    centers = np.unique(x[rng.integers(0, n, few)].astype(np.float64), axis=0)
    for name in ways.some("plain", "scores", "arrange", "merge", "rows of 61", "4 threads"):
        with tuned(**ways[name]):
            points, _ = make_points(x, weights)
        found = []
        for at_once in (False, True):
            seeding = points.seeding()
            seeding.propose(x[:1].astype(np.float64))
            largest = seeding.accept(0)
            seeding.total(20)
            if at_once:
                points.assign(centers)
                largest = seeding.accept_all(centers)
            for center in [] if at_once else centers:
                seeding.propose(center[None])
                largest = seeding.accept(0)
            total = seeding.total(20)
            # one more by itself, which may be closer still
            seeding.propose(x[-2:].astype(np.float64))
            after = seeding.potentials(20, exact=True)[0], seeding.accept(1), seeding.total(20)
            found.append((largest, total, after, seeding.find([0, after[2] // 2]).tolist()))
        assert found[0] == found[1], name


def test_kmeans_parallel_is_as_good_as_kmeans_plusplus(kmeans, digits, slow):
    """On average over seeds, after one iteration and at the end; random points begin far worse on blobs."""
    seeds, k, most = (1, 20, 1.1) if slow else (8, 60, 1.03)
    blobs, _ = make_blobs(50 * k, centers=k, n_features=4, cluster_std=0.5, random_state=0)

    def inertia(x, init, max_iter):
        settings = {"n_clusters": k, "init": init, "n_init": 1, "max_iter": max_iter}
        return np.mean([kmeans(**settings, random_state=seed).fit(x).inertia_ for seed in range(seeds)])

    for x in (digits[0], blobs):
        for max_iter in (1, 300):
            assert inertia(x, "k-means||", max_iter) <= most * inertia(x, "k-means++", max_iter)
    assert inertia(blobs, "k-means||", 1) < 0.7 * inertia(blobs, "random", 1)


def test_kmeans_parallel_takes_distinct_points_while_there_are_any(make_points, in_parallel):
    for seed in range(20):
        points, _ = make_points(np.repeat(np.arange(6.0), 5)[:, None])
        found = in_parallel(points, 8, seed)
        assert sorted(set(found.ravel().tolist())) == [0, 1, 2, 3, 4, 5]
        assert sorted(in_parallel(points, 6, seed).ravel().tolist()) == [0, 1, 2, 3, 4, 5]
        assert in_parallel(points, 1, seed).shape == (1, 1)


def test_kmeans_parallel_finds_as_many_centers_where_few_points_have_all_the_mass(make_points, in_parallel):
    """Each point so much farther out than the one before that a round finds one: five rounds are not enough."""
    x = 1e12 ** np.arange(12.0)[:, None]
    points, _ = make_points(x)
    for seed in range(5):
        assert len(set(in_parallel(points, 10, seed).ravel().tolist())) == 10


def test_kmeans_parallel_leaves_out_candidates_at_no_distance(make_points, in_parallel):
    """Of points whose D underflows only the first has any weight."""
    x = np.array([[0.0], [1e-170], [2e-170], [1.0], [2.0], [3.0]])
    for seed in range(20):
        points, _ = make_points(x)
        found = np.sort(in_parallel(points, 4, seed).ravel())
        assert found[0] <= 2e-170
        assert found[1:].tolist() == [1.0, 2.0, 3.0]


# ---------------------------------------------------------------- random


@pytest.mark.parametrize("weighing", WEIGHTS)
def test_random_takes_distinct_points(make_points, weighing):
    for seed in range(20):
        rng = np.random.default_rng(seed)
        x = rng.normal(size=(40, 2))
        points, _ = make_points(x, WEIGHTS[weighing](rng, 40))
        found = random(points, 10, np.random.RandomState(seed))
        assert len({tuple(c) for c in found.tolist()}) == 10
        assert {tuple(c) for c in found.tolist()} <= {tuple(row) for row in x.tolist()}


@pytest.mark.parametrize("weighing", WEIGHTS)
@pytest.mark.parametrize("kind", [gaussian, lattice, bytes_])
def test_random_is_the_reference(make_points, ways, kind, weighing):
    """A location drawn again is drawn anew, up to eight times; what is missing then repeats."""
    for seed in range(4):
        rng = np.random.default_rng(seed)
        n = int(rng.integers(8, 60))
        x, weights = kind(rng, n), WEIGHTS[weighing](rng, n)
        k = int(rng.integers(1, 9))
        reference = Reference(x, weights)
        generator = np.random.RandomState(np.random.RandomState(seed).randint(2**31 - 1))
        kept, repeated = [], []
        for _ in range(8):
            for uniform in generator.random_sample(k - len(kept)).tolist():
                row = reference.x[reference.find(uniform, reference.masses())].tolist()
                (repeated if row in kept else kept).append(row)
            if len(kept) == k:
                break
        for name in ways.some("plain", "merge", "rows of 61"):
            with tuned(**ways[name]):
                points, _ = make_points(x, weights)
            found = random(points, k, np.random.RandomState(seed))
            assert found.tolist() == (kept + repeated)[:k], name


def test_random_repeats_locations_only_if_too_few(make_points):
    points, _ = make_points(np.array([[1.0], [2.0], [1.0], [2.0]]))
    found = random(points, 4, np.random.RandomState(0))
    assert found.shape == (4, 1)
    assert sorted(found[:2].ravel().tolist()) == [1.0, 2.0]
    assert set(found.ravel().tolist()) == {1.0, 2.0}


def test_random_draws_by_weight(make_points):
    x = np.array([[0.0], [1.0], [2.0]])
    points, _ = make_points(x, [1, 0.5, 6.5])
    rs = np.random.RandomState(0)
    found = np.bincount([int(random(points, 1, rs)[0, 0]) for _ in range(4000)], minlength=3) / 4000
    np.testing.assert_allclose(found, [1 / 8, 1 / 16, 13 / 16], atol=0.02)


def test_kmeans_plusplus_draws_the_first_by_weight(make_points):
    points, _ = make_points(np.array([[0.0], [1.0], [2.0]]), [2, 1, 1])
    rs = np.random.RandomState(0)
    found = [int(kmeans_plusplus(points, 1, rs)[0, 0]) for _ in range(4000)]
    np.testing.assert_allclose(np.bincount(found) / 4000, [1 / 2, 1 / 4, 1 / 4], atol=0.03)


# ---------------------------------------------------------------- what is drawn


def state(rs):
    return rs.get_state(legacy=False)["state"]["key"].tobytes(), rs.get_state(legacy=False)["state"]["pos"]


DATASETS = {
    "gaussian": (np.random.default_rng(0).normal(size=(50, 3)), None),
    "weights": (np.random.default_rng(0).normal(size=(50, 3)), np.arange(50)),
    "one location": (np.ones((30, 2)), None),
    "two locations": (np.array([[0.0], [1.0]] * 20), np.random.default_rng(1).random(40)),
    "large": (np.random.default_rng(2).integers(0, 9, (5000, 2)), None),
    "many features": (np.random.default_rng(3).normal(size=(60, 100)).astype(np.float32), None),
    "far outlier": (np.concatenate([np.zeros((20, 1)), [[1e200 ** (1 / 2)]]]), None),
}


@pytest.mark.parametrize("init", ["k-means++", "k-means||", "random"])
@pytest.mark.parametrize("n_init", [1, 3])
@pytest.mark.parametrize("k", [1, 2, 9])
def test_the_amount_drawn_depends_on_n_clusters_and_n_init_alone(kmeans, ways, init, n_init, k):
    found = set()
    for x, weights in DATASETS.values():
        for way in ways.some("plain", "merge"):
            rs = np.random.RandomState(5)
            with tuned(**ways[way]):
                kmeans(n_clusters=k, init=init, n_init=n_init, random_state=rs).fit(x, sample_weight=weights)
            found.add(state(rs))
    assert len(found) == 1
    assert found != {state(np.random.RandomState(5))}


def test_an_init_array_draws_nothing(kmeans, blobs):
    rs = np.random.RandomState(5)
    kmeans(n_clusters=2, init=blobs[0][:2], random_state=rs).fit(blobs[0])
    assert state(rs) == state(np.random.RandomState(5))


def test_other_k_or_starts_draw_other_amounts(kmeans, blobs):
    found = set()
    for k, n_init in [(2, 1), (3, 1), (2, 2), (9, 2)]:
        rs = np.random.RandomState(5)
        kmeans(n_clusters=k, n_init=n_init, random_state=rs).fit(blobs[0])
        found.add(state(rs))
    assert len(found) == 4


@pytest.mark.parametrize("init", ["k-means++", "k-means||", "random"])
def test_a_seed_repeats_the_fit(kmeans, digits, init):
    x = digits[0]
    first = kmeans(n_clusters=10, init=init, random_state=7).fit(x)
    model = kmeans(n_clusters=10, init=init, random_state=7)
    for _ in range(2):
        model.fit(x)
        assert model.cluster_centers_.tobytes() == first.cluster_centers_.tobytes()
        assert model.labels_.tobytes() == first.labels_.tobytes()
        assert model.inertia_ == first.inertia_
    assert kmeans(n_clusters=10, init=init, random_state=8).fit(x).inertia_ != first.inertia_


def test_a_generator_goes_on_and_its_copy_repeats(kmeans, digits):
    x = digits[0]
    rs = np.random.RandomState(0)
    model = kmeans(n_clusters=10, random_state=rs)
    first, second = model.fit(x).cluster_centers_.tobytes(), model.fit(x).cluster_centers_.tobytes()
    assert first != second
    assert kmeans(n_clusters=10, random_state=np.random.RandomState(0)).fit(x).cluster_centers_.tobytes() == first
    assert kmeans(n_clusters=10, random_state=0).fit(x).cluster_centers_.tobytes() == first


def test_none_draws_from_numpys_own_generator(kmeans, digits):
    saved = np.random.get_state()
    try:
        np.random.seed(3)
        first = kmeans(n_clusters=10).fit(digits[0])
        np.random.seed(3)
        second = kmeans(n_clusters=10).fit(digits[0])
    finally:
        np.random.set_state(saved)
    assert first.cluster_centers_.tobytes() == second.cluster_centers_.tobytes()


# ---------------------------------------------------------------- init and n_init


def test_init_callable_is_called_as_theirs(kmeans, blobs):
    calls = []

    def init(X, n_clusters, random_state):
        calls.append((X, n_clusters, random_state))
        return X[random_state.permutation(len(X))[:n_clusters]]

    rs = np.random.RandomState(0)
    kmeans(n_clusters=4, init=init, random_state=rs).fit(blobs[0])
    assert len(calls) == 10  # "auto"
    for x, n_clusters, random_state in calls:
        np.testing.assert_array_equal(x, blobs[0])
        assert n_clusters == 4
        assert random_state is rs


def test_init_callable_is_its_array(kmeans, digits):
    x = digits[0]
    found = kmeans(n_clusters=10, init=lambda X, k, random_state: X[:k], n_init=1).fit(x)
    expected = kmeans(n_clusters=10, init=x[:10]).fit(x)
    assert found.cluster_centers_.tobytes() == expected.cluster_centers_.tobytes()
    assert found.n_iter_ == expected.n_iter_
    as_list = kmeans(n_clusters=10, init=x[:10].tolist()).fit(x)
    assert as_list.cluster_centers_.tobytes() == expected.cluster_centers_.tobytes()


@pytest.mark.parametrize(
    ("init", "message"),
    [
        (np.zeros((3, 2)), r"initial centers \(3, 2\) does not match the number of clusters 4"),
        (np.zeros((4, 3)), r"initial centers \(4, 3\) does not match the number of features of the data 2"),
        (np.array([[0, 0], [0, np.nan], [1, 1], [2, 2]]), "NaN"),
        (np.full((4, 2), 1e200), "overflow"),
    ],
)
def test_bad_init_is_refused(kmeans, blobs, init, message):
    for given_init in (init, lambda X, k, random_state: init):
        with pytest.raises(ValueError, match=message):
            kmeans(n_clusters=4, init=given_init).fit(blobs[0])


def test_init_is_left_alone(kmeans, blobs):
    init = blobs[0][:4].copy()
    kmeans(n_clusters=4, init=init).fit(blobs[0])
    np.testing.assert_array_equal(init, blobs[0][:4])


def test_ranks_are_rank_of_each():
    uniforms = np.concatenate([[0.0, 2.0**-53, 0.5, 1 - 2.0**-53], np.random.RandomState(0).random_sample(300)])
    for total in (1, 2, 3, 1000, 2**31 - 1, 2**32, 2**53 + 1, 3**35, 2**62 - 1, 2**62, 2**63 - 1):
        assert inverse_cdf_indices(uniforms, total).tolist() == [inverse_cdf_index(u, total) for u in uniforms.tolist()]


def recorded(starts):
    """An init that gives these centers one after the other."""
    centers = iter(starts)
    return lambda X, k, random_state: next(centers)


def test_the_best_start_is_kept(kmeans, digits):
    x = digits[0]
    rng = np.random.default_rng(0)
    starts = [x[rng.permutation(len(x))[:10]] for _ in range(6)]
    alone = [kmeans(n_clusters=10, init=start).fit(x) for start in starts]
    best = min(alone, key=lambda model: model.inertia_)
    for order in (starts, starts[::-1]):
        model = kmeans(n_clusters=10, init=recorded(order), n_init=6).fit(x)
        assert model.inertia_ == best.inertia_
        assert model.cluster_centers_.tobytes() == best.cluster_centers_.tobytes()
        assert model.labels_.tobytes() == best.labels_.tobytes()
        assert model.n_iter_ == best.n_iter_


def test_of_equal_starts_the_first_is_kept(kmeans):
    x = np.array([[-1.0], [1.0], [9.0], [11.0]])
    starts = [np.array([[10.0], [0.0]]), np.array([[0.0], [10.0]]), np.array([[10.0], [0.0]])]
    for first in (0, 1):
        model = kmeans(n_clusters=2, init=recorded(starts[first:]), n_init=2).fit(x)
        assert model.cluster_centers_.tolist() == starts[first].tolist()
        assert model.labels_.tolist() == [[1, 1, 0, 0], [0, 0, 1, 1]][first]


def test_auto_makes_one_start_or_ten(kmeans, digits):
    x = digits[0][:300]
    for init, starts in (("k-means++", 1), ("k-means||", 1), ("random", 10)):
        auto = kmeans(n_clusters=10, init=init, random_state=0).fit(x)
        same = kmeans(n_clusters=10, init=init, random_state=0, n_init=starts).fit(x)
        assert auto.cluster_centers_.tobytes() == same.cluster_centers_.tobytes()
        other = kmeans(n_clusters=10, init=init, random_state=0, n_init=11 - starts).fit(x)
        assert other.inertia_ != auto.inertia_


@pytest.mark.parametrize("ended", [True, False], ids=["by an error", "as it should"])
def test_seeding_leaves_nothing_behind(ended):
    """At its end, of whatever kind: distances, prefix sums, and places of rows take as much memory as small data."""
    x = np.random.default_rng(0).random((40_000, 2))
    points = NumPyPoints(Samples(x))
    lloyd.prepare(points, *points.feature_range())
    seeding = points.seeding()
    with suppress(KeyboardInterrupt), seeding:
        seeding.propose(x[:1])
        seeding.accept(0)
        seeding.total(20)
        if ended:
            raise KeyboardInterrupt
    held = [value for part in (seeding, seeding._inverse_cdf) for value in vars(part).values()]
    assert seeding._distances is None
    assert sum(value.nbytes for value in held if isinstance(value, np.ndarray)) <= x.nbytes + 4 * len(x)


def test_an_error_in_seeding_is_not_hidden_by_what_fails_at_its_end():
    """Parts that are busy or gone are not asked to forget."""

    class Gone:
        def seeding(self):
            return self

        def propose(self, candidates):
            raise KeyboardInterrupt

        def end(self):
            raise AssertionError("nobody is to be asked")

    samples = Samples(np.zeros((4, 1)))
    points = Parallel([Gone()], [slice(0, 4)], samples)
    with pytest.raises(KeyboardInterrupt) as caught, points.seeding() as seeding:
        seeding.propose(samples.x[:1])
    assert caught.value.__context__ is None
