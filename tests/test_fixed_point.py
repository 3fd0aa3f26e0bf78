"""Rule 3: sums are integers, so no order, batch or partition shows; and what follows from them."""

from __future__ import annotations

import itertools
import math
import sys
import warnings
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from reference import Reference, distances
from reference_sums import log2_up
from sklearn.exceptions import ConvergenceWarning

from gpukmeans import cluster_means, lloyd
from gpukmeans.engine.numpy.cluster_sums import ClusterSums
from gpukmeans.engine.numpy.rows import Rows
from gpukmeans.engine.numpy.tuning import tuned
from gpukmeans.exact.certificate import Frame
from gpukmeans.exact.fixed_point import Weights, ceil_log2, exact_sum, power_for
from gpukmeans.exact.inertia import Inertia
from gpukmeans.exact.scales import Scales

LIMIT = 2**63 - 1


def answer(model):
    return model.cluster_centers_.tolist(), model.labels_.tolist(), model.inertia_, model.n_iter_


# ---------------------------------------------------------------- sums


def cluster_sums(reference, labels, k):
    return [reference.sums(np.flatnonzero(labels == c)) for c in range(k)]


def data(rng, kind, n, d):
    if kind == "lattice":
        return rng.integers(0, 4, (n, d)).astype(np.float64)
    if kind == "offset":
        return rng.normal(size=(n, d)) + 1e8
    if kind == "ranges":
        return rng.normal(size=(n, d)) * 10.0 ** np.linspace(-30, 30, d)
    if kind == "constant feature":
        x = rng.normal(size=(n, d))
        x[:, 0] = 0.1
        return x
    return rng.normal(size=(n, d))


KINDS = ["lattice", "gaussian", "offset", "ranges", "constant feature"]


def weighing(rng, kind, n):
    if kind == "none":
        return None
    if kind == "integers":
        return rng.integers(1, 6, n).astype(np.float64)
    if kind == "fractions":
        return rng.random(n) + 0.01
    if kind == "small fractions":  # less than one in total
        return (rng.random(n) + 0.01) / (100 * n)
    return np.where(rng.random(n) < 0.5, rng.integers(1, 6, n), rng.random(n) * 5)


WEIGHINGS = ["none", "integers", "fractions", "small fractions", "mixed"]


@pytest.mark.parametrize("weights", WEIGHINGS)
@pytest.mark.parametrize("kind", KINDS)
def test_sums_are_the_integer_sums(make_points, ways, kind, weights):
    """After any number of assignments: what is moved from cluster to cluster leaves no trace."""
    rng = np.random.default_rng(0)
    x, w = data(rng, kind, 60, 3), weighing(rng, weights, 60)
    reference = Reference(x, w)
    steps = [x[rng.permutation(60)[:5]] for _ in range(4)]
    expected = [cluster_sums(reference, reference.labels(centers), 5) for centers in steps]
    for name, way in ways.items():
        with tuned(**way):
            points, scales = make_points(x, w)
        assert scales.offset.tolist() == reference.scale.offset.tolist()
        assert scales.scale.tolist() == [2.0**p for p in reference.scale.power]
        for centers, sums in zip(steps, expected, strict=True):
            points.assign(centers)
            assert points.sums().dtype == np.int64
            assert points.sums().tolist() == sums, name


def at_the_ends(n, half_range):
    """All rows but one at the upper end of a range: no sum of n of these can be larger."""
    x = np.full((n, 1), half_range)
    x[0] = -half_range
    return x


rng = np.random.default_rng(0)
# x, k, and whether features are summed
MOVES = {
    "whole numbers": (rng.integers(0, 17, (900, 6)).astype(np.float64), 7, True),
    "whole numbers beside a constant": (rng.integers(0, 2, (300, 4)) * [1.0, 0.0, 900.0, 3.0], 3, True),
    "whole numbers in one cluster": (rng.integers(0, 17, (300, 6)).astype(np.float64), 1, True),
    "whole numbers, the largest sum": (at_the_ends(2**18, 32.0), 2, True),
    "whole numbers, beyond it": (at_the_ends(2**18, 33.0), 2, False),
    "whole numbers in many clusters": (rng.integers(0, 17, (900, 6)).astype(np.float64), 33, False),
    "whole numbers about a middle that is no float32": (2.0**24 + 2 * rng.integers(0, 2, (300, 3)), 3, True),
    "whole numbers that are never zero": (rng.integers(-17, 0, (900, 6)).astype(np.float64), 7, True),
    "halves": (rng.integers(0, 17, (900, 6)) / 2, 7, False),
    "ends of a range": (at_the_ends(50_000, 0.1), 2, False),
    "many terms": (rng.normal(size=(30_000, 5)), 12, False),
}


@pytest.mark.parametrize("name", MOVES)
def test_sums_follow_rows_that_move(name):
    """In each of three ways, of which sizes and values decide: always the sums of `Scales.terms`."""
    x, k, features = MOVES[name]
    low, high = x.min(axis=0), x.max(axis=0)
    scales, frame, rows = Scales.of(low, high, Weights.of_rows(len(x))), Frame.of(low, high), Rows(x, None, once=False)
    sums = ClusterSums(k, rows, scales, frame)
    assert (sums._by_features) == features
    terms = scales.terms(x.T, None)
    labels = np.full(len(x), -1, np.int32)
    generator = np.random.default_rng(1)
    for moving in (len(x), len(x) // 2, 40, 1):
        moved = np.sort(generator.choice(len(x), moving, replace=False))
        after = generator.integers(0, k, moving).astype(np.int32)
        if moving == len(x):
            after[:] = 0  # the largest sum there is
        changed = labels[moved] != after
        moved, after = moved[changed], after[changed]
        sums.move(moved, labels[moved], after)
        labels[moved] = after
        expected = np.zeros_like(sums.value)
        np.add.at(expected, labels, terms)
        assert np.array_equal(sums.value, expected)


def test_halves_of_terms_are_added_where_float64_holds_their_sum():
    """Of 2**22 rows nearly all are a single unit below the middle: an odd number, so that the sum of either half of
    their 32 bits is no multiple of two, and above 2**53 no float64."""
    x = np.full((2**22, 1), -(2.0**-40))
    x[:3, 0] = -1.0, 1.0, 0.0
    scales = Scales.of(np.array([-1.0]), np.array([1.0]), Weights.of_rows(len(x)))
    assert scales.scale.tolist() == [2.0**40]
    sums = ClusterSums(1, Rows(x, None, once=False), scales, None)
    labels = np.zeros(len(x), np.int32)
    assert sums._change(slice(None), labels, None).tolist() == [[3 - 2**22, 2**22]]


@pytest.mark.parametrize("weights", WEIGHINGS)
@pytest.mark.parametrize("kind", KINDS)
def test_centers_are_offset_plus_sum_over_weight_times_scale(make_points, kind, weights):
    rng = np.random.default_rng(1)
    x, w = data(rng, kind, 60, 3), weighing(rng, weights, 60)
    points, scales = make_points(x, w)
    centers = x[rng.permutation(60)[:5]]
    points.assign(centers)
    sums = points.sums()[points.sums()[:, -1] > 0]
    weight = sums[:, -1].astype(np.float64) * 2.0**-points.weights.exponent
    for j in range(3):
        expected = scales.offset[j] + sums[:, j].astype(np.float64) / (weight * scales.scale[j])
        assert scales.centers(sums)[:, j].tolist() == expected.tolist()


@pytest.mark.parametrize("weights", WEIGHINGS)
@pytest.mark.parametrize("kind", KINDS)
def test_centers_are_the_means(make_points, kind, weights):
    """To within the fixed point's last bit and two roundings, in rationals."""
    rng = np.random.default_rng(2)
    x, w = data(rng, kind, 60, 3), weighing(rng, weights, 60)
    points, scales = make_points(x, w)
    points.assign(x[:1])
    found = scales.centers(points.sums())[0]
    w = np.ones(60) if w is None else w
    for j in range(3):
        mean = sum(Fraction(a) * Fraction(b) for a, b in zip(w, x[:, j], strict=True)) / sum(map(Fraction, w))
        half = Fraction(float(scales.high[j] - scales.low[j])) / 2
        steps = 60 * half / 2**60  # one rounding of a term for each of 60 rows, of 62 bits for all of them
        assert abs(Fraction(found[j]) - mean) <= steps + 2 * Fraction(
            np.spacing(max(abs(found[j]), abs(scales.offset[j])))
        )


# ---------------------------------------------------------------- nothing overflows

TOTALS = [1, 2, 3, 2**18 - 1, 2**18, 2**18 + 1, 273_280, 2**31, 2**32, 2**40 - 1, 2**40, 2**53 - 1, 2**53]
LARGESTS = [5e-324, 1e-310, 2.0**-1022, 1e-30, 0.1, 0.5, 1.0, 1 + 2.0**-52, 255.0, 1e30, 2.0**500, 2.0**501, 2.0**1021]


def test_a_constant_feature_leaves_means_certain(make_points):
    """Its terms are zero, whatever its scale: no rows have to be looked at for it."""
    x = np.random.default_rng(0).normal(size=(60, 2))
    x[:, 1] = 3
    points, scales = make_points(x)
    points.assign(x[:5])
    assert not cluster_means.of_iteration(points, scales).certified.any()


def test_logarithm_rounds_up():
    values = [5e-324, 1e-310, 0.5, 0.5 + 2**-53, 0.75, 1.0, 1 + 2**-52, 2.0, 3.0, 1e300, sys.float_info.max]
    for value in values:
        assert ceil_log2(value) == log2_up(value)


@pytest.mark.parametrize("total", TOTALS)
def test_scaled_values_fit_however_many(total):
    for largest in LARGESTS:
        power = power_for(largest, float(total))
        assert total * Fraction(largest) * Fraction(2) ** power <= 2**62
        # and none finer would be certain to
        finer = 4 * total * Fraction(largest) * Fraction(2) ** power
        assert power == 1000 or finer > 2**62


@pytest.mark.parametrize("total", TOTALS)
def test_sums_of_terms_fit_however_many(total):
    """All rows at the end of the range, which is the worst: total times the rounded term."""
    weights = Weights.of_rows(total)
    for low, high in [
        (0.0, 1.0),
        (-1.0, 1.0),
        (0.1, 0.3),
        (1e8, 1e8 + 1),
        (0.0, 255.0),
        (-1e-30, 3e-31),
        (-(2.0**500), 2.0**500),
    ]:
        scales = Scales.of(np.array([low]), np.array([high]), weights)
        for end in (low, high):
            term = int(scales.terms(np.array([[end]]), None)[0, 0])
            assert abs(total * term) <= 2**62


@pytest.mark.parametrize("total", TOTALS)
def test_inertia_fits_however_many(total):
    weights = Weights.of_rows(total)
    for low, high in [(0.0, 1.0), (-1.0, 1.0), (0.1, 0.3), (1e8, 1e8 + 1), (-(2.0**500), 2.0**500)]:
        scales = Scales.of(np.array([low, low]), np.array([high, high]), weights)
        for center in ([low, high], [(low + high) / 2] * 2, [high + (high - low), low]):
            if max(map(abs, center)) > 2.0**500:
                continue
            centers = np.array([center])
            split = Inertia.of(scales, centers)
            for x in itertools.product((low, high), repeat=2):
                distance = float(distances(np.array([x]), centers)[0, 0])
                assert distance <= scales.farthest(centers)
                coarse, fine = split.sums(np.array([distance]), None)
                assert total * abs(coarse) <= 2**62
                assert total * abs(fine) <= 2**62
                unit = Fraction(2) ** -(split.coarse_bits + split.fine_bits)
                assert abs(split.value(split.units(coarse, fine)) - Fraction(distance)) <= unit / 2
                if total <= 2**35:  # 54 bits of the largest distance, where float64 has 53
                    assert unit <= Fraction(scales.farthest(centers)) * Fraction(2) ** -50


def test_no_row_in_range_is_farther_than_the_farthest():
    """The corner that is farthest is as far, to the bit."""
    rng = np.random.default_rng(0)
    for d in (1, 2, 9, 40, 300):
        ends, centers = (
            np.sort(rng.normal(size=(2, d)) * 10.0 ** rng.integers(-3, 4, d), axis=0),
            rng.normal(size=(7, d)),
        )
        scales = Scales.of(*ends, Weights.of_rows(10))
        corners = np.where(ends[1] - centers > centers - ends[0], ends[1], ends[0])
        assert scales.farthest(centers) == max(distances(corners, centers).diagonal())


@pytest.mark.parametrize("sparse", [False, True])
@pytest.mark.parametrize("kind", ["few", "noise", "zeros and others", "beside the range", "at its end", "nothing"])
def test_a_power_of_two_is_that_of_the_farthest(kind, sparse):
    """Also where the farthest is a power of two, or next to one, by the order of its sum."""
    for seed in range(40):
        rng = np.random.default_rng(seed)
        d = 20 if kind == "few" else 1500
        centers = rng.normal(size=(4, d))
        if kind == "zeros and others":
            centers[rng.random((4, d)) < 0.95] = 0
        low, high = np.minimum(centers.min(axis=0), 0), centers.max(axis=0)
        if kind == "beside the range":
            centers += 3
        if kind == "at its end":
            low[:] = 0.0
            centers[:] = high = np.abs(high)
        if kind == "nothing":
            low, high, centers = np.zeros(d), np.zeros(d), np.zeros((4, d))
        scales = Scales.of(low, high, Weights.of_rows(100), sparse=sparse)
        for factor in (1.0, scales.farthest(centers) ** -0.5 if kind != "nothing" else 1.0):
            scales = Scales.of(low * factor, high * factor, Weights.of_rows(100), sparse=sparse)
            farthest = scales.farthest(centers * factor)
            assert scales.farthest_power(centers * factor) == (ceil_log2(farthest) if farthest > 0 else None)


def test_weights_are_copies_up_to_a_total_of_2_to_the_32():
    for weights, shift in (([2.0**32], 0), ([2.0**32 - 1, 1], 0), ([2.0**32, 1], -3), ([2.0**33], -3)):
        assert Weights.of(np.array(weights))[0].shift == shift, weights


@pytest.mark.parametrize("scale", [1e-300, 1e-200, 1e-30, 1.0, 1e9, 1e30, 1e200, 1e300])
def test_any_weights_are_brought_into_range(scale):
    """Weights in use total at most 2**32, and masses of them at most 2**62 but for their roundings."""
    rng = np.random.default_rng(0)
    for n in (1, 7, 1000):
        given_weights = (rng.random(n) + 0.1) * scale
        summary, used = Weights.of(given_weights)
        assert [Fraction(float(w)) for w in used] == [Fraction(w) * Fraction(2) ** summary.shift for w in given_weights]
        assert summary.total == math.fsum(used)
        assert 2.0**-100 <= summary.total <= 2.0**32
        assert sum(max(1, Fraction(float(w))) for w in used) <= Fraction(summary.copies) * (1 + Fraction(2) ** -52)
        assert int(sum(summary.integer_weights(used).tolist())) <= 2**62 + n
        if n == 1000:  # all bits are used
            assert int(sum(summary.integer_weights(used).tolist())) > 2**60 or used.dtype == np.int64


def test_at_the_edge_of_the_weights(make_points, ways):
    """Every row at an end of the range, integer weights that total exactly 2**32: against Python's integers."""
    x = np.array([[-1.0, 0.1], [1.0, 0.3], [1.0, 0.1], [-1.0, 0.3]] * 2 + [[1.0, 0.1]])
    weights = [2**29 - 5, 2**29, 2**29 + 4, 2**29 + 1, 2**29 - 1, 2**29, 2**29, 2**28, 2**28 + 1]
    assert sum(weights) == 2**32
    reference = Reference(x, weights)
    for name, way in ways.items():
        with tuned(**way):
            points, scales = make_points(x, weights)
        assert points.weights.total == 2.0**32
        for centers in ([[0.0, 0.0]], [[1.0, 0.1]], [[5.0, 5.0], [1.0, 0.3]], [[1.0, 0.1], [-1.0, 0.3]]):
            points.assign(np.array(centers))
            labels = reference.labels(centers)
            assert points.labels().tolist() == labels.tolist()
            sums = cluster_sums(reference, labels, len(centers))
            assert max(abs(s) for row in sums for s in row) <= LIMIT
            assert points.sums().tolist() == sums, name
            exact = reference.inertia(labels, centers)
            assert abs(lloyd.inertia(points, scales, np.array(centers)) - exact) <= exact * Fraction(2) ** -40
    # As many as can be at one end, and k-means++ potentials of the same size
    assert abs(2**32 * int(scales.terms(np.array([[1.0], [0.3]]), None)[0, 0])) == 2**62


@pytest.mark.parametrize("way", ["plain", "scores", "merge", "compiled, bounds", "compiled, whole"])
def test_fit_at_the_edge_of_the_weights(kmeans, ways, way):
    x = np.array([[0.0], [1.0], [2.0], [100.0]])
    with tuned(**ways[way]):
        model = kmeans(n_clusters=2, random_state=0).fit(x, sample_weight=[2**30] * 4)
    assert sorted(model.cluster_centers_.tolist()) == [[1.0], [100.0]]
    assert model.inertia_ == 2.0**31


@pytest.mark.parametrize("largest", [2.0**-962, 1e-300])
@pytest.mark.parametrize("weight", [2.0**24, 2.0**30])
def test_large_weights_on_a_narrow_range(kmeans, largest, weight):
    """The finest scale there is, 2**1000, times a large weight: neither may overflow on the way to a center."""
    x = np.array([[0.0], [largest / 4], [largest]])
    model = kmeans(n_clusters=1).fit(x, sample_weight=[weight] * 3)
    step = max(2.0**-1000, largest * 3 * weight * 2.0**-62)
    assert abs(model.cluster_centers_[0, 0] - largest * 1.25 / 3) <= step


# ---------------------------------------------------------------- whole fits against the reference


@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
@pytest.mark.parametrize("weights", WEIGHINGS)
@pytest.mark.parametrize("kind", KINDS)
def test_fit_is_the_reference(kmeans, ways, kind, weights):
    @settings(max_examples=8)
    @given(
        seed=st.integers(0, 2**32 - 1),
        n=st.integers(4, 40),
        k=st.integers(1, 4),
        tol=st.sampled_from([0.0, 1e-4, 0.1]),
        max_iter=st.sampled_from([1, 2, 300]),
        way=st.sampled_from(["plain", "bounds", "merge", "compiled, bounds", "compiled, merge", "compiled, whole"]),
    )
    def check(seed, n, k, tol, max_iter, way):
        rng = np.random.default_rng(seed)
        x, w = data(rng, kind, n, 2), weighing(rng, weights, n)
        init = np.concatenate([x[: k - 1], x.max(axis=0, keepdims=True) * 3])  # mostly an empty cluster
        with tuned(**ways[way]):
            model = kmeans(n_clusters=k, init=init, tol=tol, max_iter=max_iter).fit(x, sample_weight=w)
        centers, labels, inertia, n_iter = Reference(x, w).fit(init, tol, max_iter)
        assert model.cluster_centers_.tolist() == centers.tolist()
        assert model.labels_.tolist() == labels.tolist()
        assert model.n_iter_ == n_iter
        assert abs(Fraction(model.inertia_) - inertia) <= inertia * Fraction(2) ** -40

    check()


@pytest.mark.parametrize("total", [1, 3, 1000, 2**32])
def test_scales_are_as_fine_as_sums_allow_in_any_range(total):
    """Powers of two and their neighbors, subnormal numbers, no range, and ranges without zero."""
    rng = np.random.default_rng(total)
    powers = np.ldexp(1.0, np.arange(-1074, 501))
    some = np.ldexp(rng.uniform(0.5, 1, 1000), rng.integers(-1073, 501, 1000))
    half = np.concatenate([[0.0], powers, np.nextafter(powers[60:], 0), np.nextafter(powers[:-1], np.inf), some])
    sign = np.where(rng.random(len(half)) < 0.5, -1.0, 1.0)
    zero = np.zeros(len(half))
    for low, high in ((-half, half), (np.minimum(sign * half, zero), np.maximum(sign * half, zero))):
        scales = Scales.of(low, high, Weights.of_rows(total))
        expected = [2.0 ** power_for(largest, total) for largest in half.tolist()]
        assert scales.scale.tolist() == expected
        assert not scales.offset.any()
    low, high = np.array([1.0, -3.0, 5.0]), np.array([2.0, 4.0, 5.0])
    scales = Scales.of(low, high, Weights.of_rows(total))
    assert scales.offset.tolist() == [1.5, 0.0, 5.0]
    assert scales.scale.tolist() == [2.0 ** power_for(largest, total) for largest in (0.5, 4.0, 0.0)]


@pytest.mark.parametrize("weights", WEIGHINGS)
@pytest.mark.parametrize("kind", KINDS)
def test_tolerance_is_in_units_of_the_mean_variance(make_points, kind, weights):
    rng = np.random.default_rng(5)
    x, w = data(rng, kind, 50, 3), weighing(rng, weights, 50)
    points, scales = make_points(x, w)
    points.assign(x[:2])
    tolerance = lloyd.Tolerance(1e-4, points, scales)
    expected = 1e-4 * float(Reference(x, w).variance())
    # the mean itself is rounded to float64, and so is each D
    assert tolerance.shift == pytest.approx(expected, rel=1e-12, abs=0)
    assert tolerance.reached(tolerance.shift)
    assert not tolerance.reached(np.nextafter(tolerance.shift, np.inf))


def test_tolerance_of_constant_data(make_points):
    points, scales = make_points(np.full((5, 2), 3.0))
    points.assign(np.full((1, 2), 3.0))
    tolerance = lloyd.Tolerance(1e-4, points, scales)
    assert tolerance.reached(0.0)
    assert not tolerance.reached(5e-324)


# ---------------------------------------------------------------- empty clusters


def test_an_empty_cluster_takes_the_farthest_point(kmeans, ways):
    x = np.array([[0.0], [1.0], [2.0], [10.0], [11.0], [30.0]])
    init = np.array([[1.0], [10.0], [1000.0]])
    for way in ways.values():
        with tuned(**way):
            model = kmeans(n_clusters=3, init=init, max_iter=1).fit(x)
        assert model.cluster_centers_.tolist() == [[1.0], [10.5], [30.0]]


def test_of_equally_far_points_the_first_row_is_taken(kmeans, ways):
    """Also where rows are sorted and merged, which goes by value."""
    init = np.array([[0.0, 0.0], [1000.0, 0.0]])
    corners = [[5.0, 5.0], [-5.0, 5.0], [5.0, -5.0], [-5.0, -5.0]]
    for order in itertools.permutations(range(4)):
        x = np.array([[0.0, 0.0], *[corners[i] for i in order], *[corners[i] for i in reversed(order)]])
        for name, way in ways.items():
            with tuned(**way):
                model = kmeans(n_clusters=2, init=init, max_iter=1).fit(x)
            assert model.cluster_centers_[1].tolist() == corners[order[0]], name


def test_several_empty_clusters_take_points_in_order(kmeans, ways):
    x = np.array([[0.0], [-7.0], [7.0], [9.0], [9.0], [1.0]])
    init = np.array([[5e3], [0.0], [6e3], [7e3]])
    for way in ways.values():
        with tuned(**way):
            model = kmeans(n_clusters=4, init=init, max_iter=1).fit(x)
        # 9 (both rows together), then -7 (row 1) before 7 (row 2), in the order of the empty clusters
        assert model.cluster_centers_.tolist() == [[9.0], [0.5], [-7.0], [7.0]]


EMPTIED = {
    # rows, initial centers, and the centers that come of them
    "all rows of a cluster leave together": ([0, 0, 0, 0, 3, 3], [0.5, 1.5, 2.5], [0, 0, 3]),
    "the heaviest cluster's place, if no row is off its center": ([0, 0, 3, 3, 3], [0, 10, 3, 20], [0, 3, 3, 3]),
    "of equals the first's": ([0, 0, 3, 3], [0, 3, 20], [0, 3, 0]),
    "more clusters than places": ([5, 5, 5], [4, 7, 8], [5, 5, 5]),
}


@pytest.mark.parametrize("dtype", [np.float64, np.float32])
@pytest.mark.parametrize("case", EMPTIED)
def test_a_center_without_rows_stands_where_rows_are(kmeans, ways, case, dtype):
    rows, init, centers = EMPTIED[case]
    x, init = (np.array(values, dtype)[:, None] for values in (rows, init))
    for way in ways.values():
        with tuned(**way):
            model = quietly(kmeans(n_clusters=len(init), init=init).fit, x)
        assert model.cluster_centers_.ravel().tolist() == centers
        assert model.labels_.tolist() == [centers.index(row) for row in rows]


@pytest.mark.parametrize("case", EMPTIED)
def test_a_direction_without_rows_is_that_of_rows(kmeans, ways, case):
    def directions(degrees):
        angles = np.radians(degrees)
        return np.stack([np.cos(angles), np.sin(angles)], axis=1)

    rows, init, _ = EMPTIED[case]
    for way in ways.values():
        with tuned(**way):
            model = quietly(kmeans(n_clusters=len(init), init=directions(init), metric="cosine").fit, directions(rows))
        found = np.degrees(np.arctan2(*model.cluster_centers_.T[::-1]))
        assert {round(angle, 12) for angle in found.tolist()} == set(rows)


def test_fewer_distinct_points_than_clusters(kmeans, ways):
    x = np.array([[0.0], [5.0], [0.0], [5.0], [0.0]])
    for way in ways.values():
        for init in ("k-means++", "random", np.array([[0.0], [0.0], [7.0], [9.0]])):
            with (
                tuned(**way),
                pytest.warns(ConvergenceWarning, match=r"distinct clusters \(2\) found smaller than n_clusters"),
            ):
                model = kmeans(n_clusters=4, init=init, random_state=0, n_init=1).fit(x)
            assert model.inertia_ == 0.0
            assert len(set(model.labels_.tolist())) == 2
            assert np.isfinite(model.cluster_centers_).all()


@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
def test_one_distinct_point(kmeans):
    for value in (0.0, -0.0, 3.5, 1e-310, 2.0**500):
        model = kmeans(n_clusters=3, random_state=0).fit(np.full((9, 2), value))
        assert model.labels_.tolist() == [0] * 9
        assert model.cluster_centers_.tolist() == [[value, value]] * 3
        assert model.inertia_ == 0.0


# ---------------------------------------------------------------- weights


def quietly(call, *args, **kwargs):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        return call(*args, **kwargs)


SEEDINGS = ["k-means++", "k-means||", "random", "array"]


def start(seeding, x, k):
    return x[np.random.default_rng(9).permutation(len(x))[:k]].astype(np.float64) if seeding == "array" else seeding


@pytest.mark.parametrize("seeding", SEEDINGS)
@pytest.mark.parametrize("kind", KINDS)
def test_an_integer_weight_is_as_many_rows(kmeans, ways, kind, seeding):
    for seed in range(5):
        rng = np.random.default_rng(seed)
        x, weights = data(rng, kind, 80, 3), rng.integers(1, 5, 80)
        settings = {"n_clusters": 7, "init": start(seeding, x, 7), "n_init": 1, "random_state": seed}
        for way in ways.some("plain", "bounds", "merge", "compiled, bounds", "compiled, whole"):
            with tuned(**ways[way]):
                weighted = quietly(kmeans(**settings).fit, x, sample_weight=weights)
                repeated = quietly(kmeans(**settings).fit, np.repeat(x, weights, axis=0))
            expected = list(answer(weighted))
            expected[1] = np.repeat(weighted.labels_, weights).tolist()
            assert list(answer(repeated)) == expected, way


@pytest.mark.parametrize("seeding", SEEDINGS)
def test_an_integer_weight_is_as_many_rows_beside_fractions(kmeans, seeding):
    for seed in range(5):
        rng = np.random.default_rng(seed)
        x = rng.normal(size=(60, 2))
        copies = rng.integers(1, 5, 60)
        fraction = rng.random(60) * 3
        whole = rng.random(60) < 0.5
        weights = np.where(whole, copies, fraction)
        times = np.where(whole, copies, 1)
        settings = {"n_clusters": 5, "init": start(seeding, x, 5), "n_init": 1, "random_state": seed}
        weighted = kmeans(**settings).fit(x, sample_weight=weights)
        repeated = kmeans(**settings).fit(
            np.repeat(x, times, axis=0), sample_weight=np.repeat(np.where(whole, 1, fraction), times)
        )
        expected = list(answer(weighted))
        expected[1] = np.repeat(weighted.labels_, times).tolist()
        assert list(answer(repeated)) == expected


def test_at_sizes_that_sort_and_merge_a_weight_is_as_many_rows(kmeans):
    """Nothing forced: 5000 rows are sorted and merged by default, their copies too."""
    rng = np.random.default_rng(0)
    x, weights = rng.integers(0, 60, (5000, 2)).astype(np.float32), rng.integers(1, 4, 5000)
    for init in ("k-means++", "k-means||", "random"):
        settings = {"n_clusters": 12, "init": init, "n_init": 1, "random_state": 1, "max_iter": 20}
        weighted = kmeans(**settings).fit(x, sample_weight=weights)
        repeated = kmeans(**settings).fit(np.repeat(x, weights, axis=0))
        expected = list(answer(weighted))
        expected[1] = np.repeat(weighted.labels_, weights).tolist()
        assert list(answer(repeated)) == expected


@pytest.mark.parametrize("seeding", SEEDINGS)
def test_weights_of_one_are_no_weights(kmeans, seeding):
    x = np.random.default_rng(0).normal(size=(70, 3))
    settings = {"n_clusters": 5, "init": start(seeding, x, 5), "n_init": 1, "random_state": 0}
    expected = answer(kmeans(**settings).fit(x))
    for weights in (np.ones(70), np.ones(70, int), [1] * 70, 1, 1.0):
        assert answer(kmeans(**settings).fit(x, sample_weight=weights)) == expected


@pytest.mark.parametrize("seeding", SEEDINGS)
@pytest.mark.parametrize("integers", [True, False])
def test_a_weight_of_zero_leaves_the_row_out(kmeans, seeding, integers):
    """The row is labelled all the same. An outlier among them: its range must not set the scales."""
    for seed in range(5):
        rng = np.random.default_rng(seed)
        x = rng.normal(size=(60, 2))
        weights = rng.integers(1, 4, 60).astype(np.float64) if integers else rng.random(60)
        weights[rng.permutation(60)[:20]] = 0
        x[np.flatnonzero(weights == 0)[0]] = 1e9
        kept = weights > 0
        settings = {"n_clusters": 4, "init": start(seeding, x[kept], 4), "n_init": 1, "random_state": seed}
        zero = kmeans(**settings).fit(x, sample_weight=weights)
        without = kmeans(**settings).fit(x[kept], sample_weight=weights[kept])
        assert zero.labels_[kept].tolist() == without.labels_.tolist()
        assert zero.labels_.tolist() == zero.predict(x).tolist()
        assert answer(zero)[::2] == answer(without)[::2]  # centers and inertia
        assert zero.n_iter_ == without.n_iter_


@pytest.mark.parametrize("scale", [1e-300, 1e-200, 2.0**-665, 1e-20, 1e-3, 1e13, 1e20, 2.0**664, 1e200, 1e290])
@pytest.mark.parametrize("seeding", ["k-means++", "array"])
def test_tiny_and_huge_weights(kmeans, scale, seeding):
    """Only the unit of the inertia changes. Centers are those of ordinary weights but for the bits that
    the sums have: far weights are brought to a total of at most 2**30, which leaves 32 bits of half the range."""
    rng = np.random.default_rng(0)
    x = rng.normal(size=(60, 2))
    weights = rng.random(60) + 0.1
    settings = {"n_clusters": 4, "init": start(seeding, x, 4), "random_state": 0}
    model = kmeans(**settings).fit(x, sample_weight=weights * scale)
    other = kmeans(**settings).fit(x, sample_weight=weights)
    assert model.labels_.tolist() == other.labels_.tolist()
    half = np.ptp(x, axis=0).max() / 2
    assert np.abs(model.cluster_centers_ - other.cluster_centers_).max() <= half * 2.0**-32
    assert model.inertia_ == pytest.approx(other.inertia_ * scale, rel=1e-14, abs=0)
    assert model.score(x, sample_weight=weights * scale) == -model.inertia_


WEIGHTS_FAR_APART = {
    # rows, weights, and the means of their clusters
    "a unit of the sums in all": ([[-3e38], [0.0], [3e38]], [1, 1, 0.6 * 2.0**-61], [-3e38, 0.0, 3e38]),
    "a thousandth of a part in 10^15": ([[10], [10], [30], [30]], [1, 1, 1e-15, 2e-15], [10, 30]),
    "one heavy row": ([[0.1], [0.2], [0.4], [100.0]], [1, 1, 1, 1e16], [0.7 / 3, 100]),
    "too light for the sums": ([[0.1], [0.2], [5], [5.1], [9]], [1e-18, 2e-18, 1, 3, 5e17], [0.5 / 3, 5.075, 9]),
    "lighter still": ([[0.1], [0.2], [5], [5.1], [9]], [1e-300, 2e-300, 1e-18, 3e-18, 5e17], [0.5 / 3, 5.075, 9]),
    "light, beside copies": ([[0.1], [0.4], [7], [8]], [1e-30, 1e-30, 3, 1], [0.25, 7.25]),
    "copies of many": ([[0.1], [0.2], [0.4], [9.0]], [2**31, 2**30, 2**30, 2**40], [0.2, 9.0]),
    "none, but a range that one row sets": ([[-3e38], [1.0], [5.0], [6.0], [3e38]], None, [-3e38, 1.0, 5.5, 3e38]),
}


@pytest.mark.parametrize("dtype", [np.float64, np.float32, np.float16])
@pytest.mark.parametrize("case", WEIGHTS_FAR_APART)
def test_a_center_is_the_mean_of_its_rows_however_far_apart_weights_are(kmeans, ways, case, dtype):
    x, weights, means = WEIGHTS_FAR_APART[case]
    if dtype == np.float16:
        x = np.clip(x, -6e4, 6e4)
        means = np.clip(means, -6e4, 6e4)
    x, init = np.array(x, dtype), np.array(means, dtype)[:, None]
    expected, labels, inertia, n_iter = Reference(x, weights).fit(init, dtype=dtype)
    for name, way in ways.items():
        with tuned(**way):
            model = kmeans(n_clusters=len(means), init=init).fit(x, sample_weight=weights)
        assert model.cluster_centers_.ravel().tolist() == pytest.approx(means, rel=2 * float(np.finfo(dtype).eps)), name
        assert model.cluster_centers_.tolist() == expected.tolist(), name
        assert model.labels_.tolist() == labels.tolist() == model.predict(x).tolist(), name
        assert abs(Fraction(model.inertia_) - inertia) <= inertia * Fraction(2) ** -40, name
        assert model.n_iter_ == n_iter


@pytest.mark.parametrize("metric", ["euclidean", "cosine"])
def test_weights_too_far_apart_for_float64_are_refused(kmeans, metric):
    """Beside the heaviest the lightest become nothing, of which there is no mean; up to there all are right."""
    x, heavy = np.array([[0.1, 1], [0.2, 1], [5, -1], [5.1, -1]]), np.array([1.0, 3, 1e300, 1e300])
    for least in (1e-300, 1e-22, 1e-21):
        weights = np.where(heavy < 10, heavy * least, heavy)
        model = kmeans(2, init=x[[0, 2]], metric=metric)
        if least < 1e-21:
            with pytest.raises(ValueError, match=r"Sample weights from 1e-\d+ to 1e\+300 are too far apart"):
                model.fit(x, sample_weight=weights)
        else:
            expected = kmeans(2, init=x[[0, 2]], metric=metric).fit(x, sample_weight=np.minimum(heavy, 3))
            found = model.fit(x, sample_weight=weights).cluster_centers_
            np.testing.assert_allclose(found, expected.cluster_centers_, rtol=2.0**-33)


def sparse_means(rng, m, d):
    """Most are zero in most features, so that none tells them apart."""
    return np.where(rng.random((m, d)) < 0.05, rng.normal(size=(m, d)), 0)


@pytest.mark.parametrize("power", [0, -500, 500])
@pytest.mark.parametrize("far", [0.0, 1e9])
@pytest.mark.parametrize("m", [1, 2, 40, 300])
def test_means_that_are_close_are_all_found(m, far, power):
    """And of others, that one feature does not tell apart, products leave the most out."""
    rng = np.random.default_rng(m)
    means = (sparse_means(rng, m, 30) + far) * 2.0**power
    all_pairs = distances(means, means)
    found = set()
    most = float(np.quantile(all_pairs, 0.02)) + 0.25 * 4.0**power
    for one, other in cluster_means._neighbors(means, 3, most):
        found |= {frozenset(pair) for pair in zip(one.tolist(), other.tolist(), strict=True)}
    close = {frozenset(pair) for pair in zip(*np.nonzero(all_pairs < most), strict=True) if len(set(pair)) == 2}
    assert close <= found
    if m == 300 and far == power == 0:
        assert len(found) < 1.01 * len(close) + 3 < m * m / 6
    assert not list(cluster_means._neighbors(means, 3, 0.0))


@pytest.mark.parametrize("weights", [*WEIGHINGS, "far apart"])
@pytest.mark.parametrize("kind", [*KINDS, "outliers"])
def test_a_center_lies_among_its_rows_and_is_right(kmeans, kind, weights):
    """To a billionth of their range in each feature, and the rounding to float64."""
    for seed in range(20):
        rng = np.random.default_rng(seed)
        x = data(rng, kind, 30, 2)
        if kind == "outliers":
            x[rng.integers(0, 30, 2)] = 10.0 ** rng.uniform(0, 100, (2, 2))
        w = 10.0 ** rng.uniform(-40, 40, 30) if weights == "far apart" else weighing(rng, weights, 30)
        model = quietly(kmeans(n_clusters=5, init=x[:5], tol=0).fit, x, sample_weight=w)
        if model.n_iter_ == model.max_iter:  # some far row of no weight may go to and fro
            continue
        exact = [Fraction(v) for v in (np.ones(30) if w is None else w)]
        for c in range(5):
            rows = np.flatnonzero(model.labels_ == c)
            for j in range(2 if len(rows) else 0):
                values = [Fraction(v) for v in x[rows, j].tolist()]
                mean = sum(exact[i] * v for i, v in zip(rows, values, strict=True)) / sum(exact[i] for i in rows)
                found = Fraction(model.cluster_centers_[c, j])
                assert min(values) <= found <= max(values)
                within = (max(values) - min(values)) / 10**9 + 2 * Fraction(np.spacing(abs(float(mean))))
                assert abs(found - mean) <= within


def every_third(seed, first, others):
    """3300 rows (n, 1), of which a third have their values from the one, and two thirds from the other."""
    rng = np.random.default_rng(seed)
    third = np.arange(3300) % 3 == 0
    return np.where(third, rng.uniform(*first, 3300), rng.uniform(*others, 3300))[:, None]


@pytest.mark.parametrize(("first", "others"), [((0, 0), (0, 1)), ((0, 1), (9, 10))])
@pytest.mark.parametrize("far", [10.0, 2.0**60])
def test_a_center_is_right_whichever_of_its_rows_are_looked_at(kmeans, first, others, far):
    """Of many rows a sample may do for their extent, one in three here. It says little where all of it is at the one
    place to which the common sums round, or where the mean lies outside."""
    x = every_third(0, first, others)
    x[1] = far
    rows, init = x[x < far], [[5.0]] if far < 11 else [[0.0], [far]]
    rows = x[:, 0] if far < 11 else rows
    mean = math.fsum(rows.tolist()) / len(rows)
    found = set()
    for seed in range(3):
        order = np.arange(len(x)) if seed == 0 else np.random.default_rng(seed).permutation(len(x))
        found.add(float(kmeans(n_clusters=len(init), init=init).fit(x[order]).cluster_centers_[0, 0]))
    assert len(found) == 1
    assert abs(found.pop() - mean) <= np.ptp(rows) * 2.0**-30


def test_the_order_of_weights_does_not_set_the_scales():
    """A float total depends on the order of its additions; fsum does not."""
    weights = np.array([1e-3, 1e9, 0.1, 7.7, 1e-9] * 50)
    expected, _ = Weights.of(weights)
    for seed in range(10):
        assert Weights.of(np.random.default_rng(seed).permutation(weights))[0] == expected


# ---------------------------------------------------------------- inertia


@pytest.mark.parametrize("weights", WEIGHINGS)
@pytest.mark.parametrize("kind", KINDS)
def test_inertia_is_the_sum_of_distances(kmeans, ways, kind, weights):
    rng = np.random.default_rng(8)
    x, w = data(rng, kind, 50, 3), weighing(rng, weights, 50)
    found = set()
    for way in ways.values():
        with tuned(**way):
            model = quietly(kmeans(n_clusters=4, random_state=0).fit, x, sample_weight=w)
        found.add(model.inertia_)
    exact = Reference(x, w).inertia(model.labels_, model.cluster_centers_)
    assert len(found) == 1
    assert abs(Fraction(found.pop()) - exact) <= exact * Fraction(2) ** -40


def test_an_outlier_costs_the_inertia_of_the_others_nothing(kmeans):
    """One integer would give the outlier all the bits."""
    x = np.concatenate([np.random.default_rng(0).normal(size=(50, 1)) * 1e-3, [[1e5]], [[1e5]]])
    model = kmeans(n_clusters=2, init=[[0.0], [1e5]]).fit(x)
    exact = Reference(x).inertia(model.labels_, model.cluster_centers_)
    assert model.inertia_ == pytest.approx(float(exact), rel=1e-15, abs=0)


@pytest.mark.parametrize("spread", [2.0**-20, 2.0**-26, 2.0**-200])
def test_an_inertia_far_below_what_it_might_be_is_summed_again(kmeans, spread):
    """Rows so near to two centers, which are so far apart, that a row's D is a few units of either part, or less."""
    rng = np.random.default_rng(0)
    x = np.concatenate([rng.normal(size=(30, 1)) * spread, [[2.0**20]] * 2])
    model = kmeans(n_clusters=2, init=[[0.0], [2.0**20]]).fit(x)
    exact = Reference(x).inertia(model.labels_, model.cluster_centers_)
    assert abs(Fraction(model.inertia_) - exact) <= exact * Fraction(2) ** -40


def test_an_inertia_of_fractional_weights_does_not_overflow_on_the_way(kmeans):
    """The product of D and a weight may exceed float64 where neither does: 2**1002 * 1e9."""
    x, w = np.array([[-(2.0**500)], [2.0**500]]), np.full(2, 1e9 + 0.5)
    assert kmeans(n_clusters=1).fit(x, sample_weight=w).inertia_ == math.inf
    small = kmeans(n_clusters=1).fit(x * 2.0**-20, sample_weight=w).inertia_
    assert small == float(2 * Fraction(1e9 + 0.5) * Fraction(2) ** 960)


def test_an_exact_sum_is_the_one_of_math():
    """Of values near each other, far apart, whole, equal, and of any size."""
    rng = np.random.default_rng(0)
    for i in range(1000):
        n, apart = int(rng.integers(1, 300)), rng.choice([0, 1, 30, 60, 500])
        values = np.ldexp(rng.uniform(0.5, 1, n), rng.integers(-apart, 1, n) + int(rng.choice([0, 20, -900, 32])))
        if i % 3 == 0:
            values = np.rint(values) + 1
        if i % 7 == 0:
            values = np.full(n, 2.0 ** int(rng.integers(-1074, 33)))
        assert exact_sum(values) == math.fsum(values)
