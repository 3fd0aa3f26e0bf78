"""Rule 2: a fast path may propose; only D decides. The bound on its error must be honest."""

from __future__ import annotations

from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings, target
from hypothesis import strategies as st

from gpukmeans import lloyd
from gpukmeans.engine.numpy import assign
from gpukmeans.engine.numpy import points as numpy
from gpukmeans.engine.numpy import rows as engine_rows
from gpukmeans.engine.numpy.assign import ScoredCenters, nearest
from gpukmeans.engine.numpy.hamerly import CenterShift, HamerlyBounds, Trial, moved
from gpukmeans.engine.numpy.points import NumPyPoints
from gpukmeans.engine.numpy.rows import Rows
from gpukmeans.engine.numpy.seeding_distances import IntegralDistances, PlainDistances, by_distance
from gpukmeans.engine.numpy.tuning import tuned
from gpukmeans.engine.protocol import Samples
from gpukmeans.exact import certificate
from gpukmeans.exact.certificate import Frame
from gpukmeans.exact.distance import squared_distance
from gpukmeans.exact.row_sample import sampled_rows

# ---------------------------------------------------------------- near ties


def magnitudes(rng, d, spread):
    """One scale a feature, from 10**-spread to 1."""
    return 10.0 ** -(rng.random(d) * spread)


def near_ties(seed, d, k, offset, spread, nudge, reach):
    """Points about halfway between two centers, as adversarial as a few numbers allow.

    offset: common to all coordinates. spread: decades between the features' scales. nudge: how far
    from the midpoint, relative to the distance of the two centers. reach: how far out the centers lie, relative to
    the points' range.
    """
    rng = np.random.default_rng(seed)
    scale = magnitudes(rng, d, spread)
    centers = rng.uniform(-1, 1, (k, d)) * scale * reach
    if rng.random() < 0.5:  # neighbours: far from the origin of the frame, close to each other
        centers[1::2] = centers[: k // 2 * 2 : 2][: len(centers[1::2])] + rng.normal(size=d) * scale * reach * 2.0**-8
    first, second = rng.integers(0, k, (2, 12))
    middle = (centers[first] + centers[second]) / 2
    x = middle + (centers[second] - centers[first]) * nudge * rng.choice([-1, 1], (12, 1))
    x += rng.normal(size=(12, d)) * scale * nudge
    corners = rng.choice([-1.0, 1.0], (2, d)) * scale
    return np.concatenate([x, corners]) + offset, centers + offset


def far_ties(rng, d):
    """Rows in a corner (42, d), and two centers near the middle at almost the same distance from most of them."""
    row = rng.uniform(0.5, 1, d)
    centers = rng.normal(size=(2, d)) * 0.1
    away = row - centers[0]
    step = centers[1] - away * (centers[1] @ away) / (away @ away)  # to a place at the same distance, nearly
    centers[1] = centers[0] + step + away * (step @ step) / (away @ away) / 2
    near = row + rng.normal(size=(20, d)) * 3e-8
    # As many in the opposite corner keep the frame's offset between them.
    return np.concatenate([near, -near, -np.ones((1, d)), np.ones((1, d))]), centers


problems = st.builds(
    near_ties,
    seed=st.integers(0, 2**32 - 1),
    d=st.one_of(st.integers(1, 8), st.integers(9, 70)),
    k=st.integers(2, 6),
    offset=st.sampled_from([0.0, 1.0, 1e8, -1e15, 2.0**-30]),
    spread=st.sampled_from([0.0, 1.0, 8.0, 60.0]),
    nudge=st.one_of(st.just(0.0), st.integers(0, 60).map(lambda e: 2.0**-e)),
    reach=st.sampled_from([1.0, 1.0, 1e-6, 30.0, 1e10]),
)


# ---------------------------------------------------------------- ways to add up a score


def by_blas(y, columns):
    return y @ columns


def ascending(y, columns):
    total = np.zeros((len(y), columns.shape[1]), np.float32)
    for j in range(y.shape[1]):
        total = total + y[:, j, None] * columns[None, j]
    return total


def descending(y, columns):
    return ascending(y[:, ::-1], columns[::-1])


def fused(y, columns):
    """Fused multiply-adds: the product is exact in float64."""
    total = np.zeros((len(y), columns.shape[1]), np.float32)
    for j in range(y.shape[1]):
        total = (total + y[:, j, None].astype(np.float64) * columns[None, j]).astype(np.float32)
    return total


def towards_zero(y, columns):
    """As tensor cores do: exact products, sums cut off instead of rounded (only half as good)."""
    exact = y.astype(np.float64) @ columns.astype(np.float64)
    rounded = exact.astype(np.float32)
    return np.where(np.abs(rounded) > np.abs(exact), np.nextafter(rounded, np.float32(0)), rounded)


SUMS = [by_blas, ascending, descending, fused, towards_zero]


def with_one(y):
    """What columns are multiplied by."""
    return np.concatenate([y, np.ones((len(y), 1), np.float32)], axis=1)


class InFrame:
    """x (m, d) in the frame of scores, y, whose squares are norms (m,). entries: of a row at most, if rows are sparse.

    A kind of scores says in `certain`, (m, k, k), whether the second center is certain not to be nearer than the first.
    """

    def __init__(self, x, entries=None, as_it_is=False):
        ends = x.min(axis=0), x.max(axis=0)
        self.frame = Frame.of(*ends) if entries is None else Frame.of_sparse(*ends, entries, as_it_is=as_it_is)
        assert self.frame is not None
        self.y = self.frame.features(x)
        self.norms = np.einsum("ij,ij->i", self.y, self.y)

    def wrong(self, distances):
        """Whether D disagrees with anything that is certain."""
        return bool((self.certain() & (distances[:, None, :] <= distances[:, :, None])).any())


class OneMargin(InFrame):
    """Scores of x by centers (k, d), and the margin (m,) for all of a row's, in the order in which NumPy rounds."""

    def __init__(self, x, centers, add_up):
        super().__init__(x)
        columns, largest_z = self.frame.centers(centers)
        self.scores = add_up(with_one(self.y), columns)
        self.margin = self.frame.margin(self.norms, largest_z)

    def gaps(self):
        """(m, k, k): by how much the second center's score exceeds the first's, float32."""
        return self.scores[:, None, :] - self.scores[:, :, None]

    def certain(self):
        return self.gaps() > self.margin[:, None, None]


# ---------------------------------------------------------------- honest


@pytest.mark.parametrize("add_up", SUMS)
def test_no_gap_above_the_margin_is_wrong(brute_distances, add_up):
    @settings(max_examples=400)
    @given(problems)
    def search(problem):
        x, centers = problem
        scored = OneMargin(x, centers, add_up)
        gaps, distances = scored.gaps(), brute_distances(x, centers)
        # Drive the search towards gaps that are wrong, relative to what is allowed.
        disagree = distances[:, None, :] <= distances[:, :, None]
        target(float((np.where(disagree, gaps, 0) / scored.margin[:, None, None]).max()))
        assert not scored.wrong(distances)

    search()


def test_the_search_would_find_a_dishonest_margin(brute_distances):
    """The same constructions refute a margin of nothing, and one of a hundredth."""
    found = {0.0: 0, 0.01: 0}
    for seed in range(200):
        rng = np.random.default_rng(seed)
        x, centers = near_ties(seed, int(rng.integers(1, 5)), 4, 0.0, 0.0, 2.0 ** -rng.integers(18, 30), 1.0)
        for share in found:
            scored = OneMargin(x, centers, by_blas)
            scored.margin *= np.float32(share)
            found[share] += scored.wrong(brute_distances(x, centers))
    assert found[0.0] > 20
    assert found[0.01] > 0


def test_the_margin_leaves_most_points_certain():
    """A margin of infinity would be honest too."""
    rng = np.random.default_rng(0)
    x, centers = rng.normal(size=(1000, 20)), rng.normal(size=(10, 20))
    scored = OneMargin(x, centers, by_blas)
    two = np.partition(scored.scores, 1, axis=1)
    assert (two[:, 1] - two[:, 0] > scored.margin).mean() > 0.99


def exact_square(x, c, scale):
    return sum((Fraction(float(a)) - Fraction(float(b))) ** 2 for a, b in zip(x, c, strict=True)) * scale**2


@pytest.mark.parametrize("add_up", SUMS)
def test_score_plus_norm_is_within_half_the_margin(add_up):
    """The bounds rest on this: |y|^2 - 2 y.z + |z|^2 against the true squared distance, in rationals."""

    @settings(max_examples=60)
    @given(problems)
    def search(problem):
        x, centers = problem
        scored = OneMargin(x, centers, add_up)
        scale = Fraction(scored.frame.scale)
        worst = 0.0
        for i in range(0, len(x), 3):
            half = Fraction(float(scored.margin[i])) / 2
            for c in range(len(centers)):
                found = Fraction(float(scored.scores[i, c])) + Fraction(float(scored.norms[i]))
                error = abs(found - exact_square(x[i], centers[c], scale))
                worst = max(worst, float(error / half))
                assert error <= half
        target(worst)

    search()


class BoundsOfNumPy(InFrame):
    """The assignment step's bounds on scores of x by centers (k, d), in the order in which NumPy rounds."""

    def __init__(self, x, centers, add_up, entries=None, as_it_is=False):
        super().__init__(x, entries, as_it_is)
        columns, _, self.slack = self.frame.least_scores(centers)
        self.least, self.margin = add_up(with_one(self.y), columns), self.frame.row_margin(self.norms)
        self.most = self.least + self.slack

    def certain(self):
        return self.least[:, None, :] > (self.most + self.margin[:, None])[:, :, None]

    def assert_holds(self, row, center, square):
        """That the bounds on D, in the frame, hold the true square."""
        shift = self.norms[row]
        low = self.least[row, center] + shift - self.margin[row]
        high = self.most[row, center] + shift + self.margin[row]
        assert Fraction(float(low)) <= square <= Fraction(float(high))


@pytest.mark.parametrize("add_up", SUMS)
def test_no_bound_on_a_score_is_wrong(brute_distances, add_up):
    """Each center's score errs by its own distance from the offset: D and rationals agree with what is certain."""

    @settings(max_examples=150)
    @given(problems)
    def search(problem):
        x, centers = problem
        bounds = BoundsOfNumPy(x, centers, add_up)
        assert not bounds.wrong(brute_distances(x, centers))
        scale = Fraction(bounds.frame.scale)
        for i in range(0, len(x), 3):
            for c in range(len(centers)):
                bounds.assert_holds(i, c, exact_square(x[i], centers[c], scale))

    search()


@pytest.mark.parametrize("add_up", SUMS)
@pytest.mark.parametrize("d", [12, 3000])
def test_no_bound_on_a_score_of_sparse_rows_is_wrong(brute_distances, add_up, d):
    """Of few entries among many features, by as few terms."""
    for seed in range(60 if d < 100 else 6):
        rng = np.random.default_rng(seed)
        x, centers = near_ties(seed, d, 4, 0.0, 0.0, 2.0 ** -rng.integers(18, 30), 1.0)
        x[:, rng.permutation(d)[5:]] = 0  # its rows tie no more, but those with twice as many centers do
        centers = np.concatenate([centers, centers[::-1] * (1 + 2.0 ** -rng.integers(20, 30))])
        for factor, as_it_is in ((1.0, False), (2.0**18, True), (2.0**-36, True)):
            x, centers = x * factor, centers * factor
            bounds = BoundsOfNumPy(x, centers, add_up, 5, as_it_is)
            assert bounds.frame.keeps or not as_it_is
            assert not bounds.wrong(brute_distances(x, centers))
            scale = Fraction(bounds.frame.scale)
            for c in range(0, len(centers), 3):
                bounds.assert_holds(0, c, exact_square(x[0], centers[c], scale))


def test_the_search_would_find_dishonest_bounds_on_scores(brute_distances):
    """The same constructions refute bounds without what a center's distance adds, and without what a row's does."""
    found = {"slack": 0, "margin": 0}
    for seed in range(300):
        rng = np.random.default_rng(seed)
        x, centers = near_ties(seed, int(rng.integers(1, 5)), 4, 0.0, 0.0, 2.0 ** -rng.integers(18, 30), 1.0)
        distances = brute_distances(x, centers)
        for part in found:
            bounds = BoundsOfNumPy(x, centers, by_blas)
            bounds.least += bounds.slack / 2 if part == "slack" else 0
            bounds.most, bounds.margin = bounds.least + 0, bounds.margin * np.float32(0 if part == "margin" else 1)
            found[part] += bounds.wrong(distances)
    assert found["margin"] > 0
    assert found["slack"] > 0


class BoundsOfKernels(InFrame):
    """What kernels compare and write, in the order in which they round: kernels/scores.cuh."""

    def __init__(self, x, centers, add_up, without=None):
        super().__init__(x)
        errors = self.frame.score_errors()._replace(**({} if without is None else {without: 0.0}))
        z = (centers - self.frame.offset) * self.frame.scale
        squares = (z * z).sum(axis=1)
        self.taken_off = (errors.per_center * squares).astype(np.float32)
        columns = np.concatenate([-2 * z.T, (squares - errors.per_center * squares)[None]]).astype(np.float32)
        self.scores = add_up(with_one(self.y), columns)
        own = (2 * errors.per_center * squares + errors.rest).astype(np.float32)
        self.margins = (self.norms * np.float32(errors.per_norm))[:, None] + own

    def certain(self):
        return self.scores[:, None, :] - self.scores[:, :, None] > self.margins[:, :, None]

    def distances(self, i, label):
        """Of row i from above on the distance to a center, and from below on those to the others, with that label."""
        scores, norm, margin = self.scores[i], self.norms[i], self.margins[i, label]
        own = np.sqrt(np.maximum(scores[label] + norm + margin, 0)) * np.float32(1 + 4 * certificate.U32)
        others = np.sqrt(np.maximum(scores + norm - margin, 0)) * np.float32(1 - 4 * certificate.U32)
        return own, others


@pytest.mark.parametrize("add_up", SUMS)
def test_no_bound_of_the_kernels_is_wrong(brute_distances, add_up):
    """D and rationals agree with what they hold for certain, and with the bounds that they write."""

    @settings(max_examples=150)
    @given(problems)
    def search(problem):
        x, centers = problem
        bounds = BoundsOfKernels(x, centers, add_up)
        assert not bounds.wrong(brute_distances(x, centers))
        scale = Fraction(bounds.frame.scale)
        for i in range(0, len(x), 3):
            squares = [exact_square(x[i], center, scale) for center in centers]
            for label in range(len(centers)):
                own, others = bounds.distances(i, label)
                assert Fraction(float(own)) ** 2 >= squares[label]
                assert all(Fraction(float(low)) ** 2 <= square for low, square in zip(others, squares, strict=True))

    search()


def test_the_search_would_find_dishonest_kernels(brute_distances):
    """The same constructions refute kernels without what a center's distance adds, and without what a row's does."""
    found = {"per_center": 0, "per_norm": 0}
    for seed in range(300):
        rng = np.random.default_rng(seed)
        d = int(rng.integers(1, 5))
        for x, centers in (near_ties(seed, d, 4, 0.0, 0.0, 2.0 ** -rng.integers(18, 30), 1.0), far_ties(rng, d + 1)):
            distances = brute_distances(x, centers)
            for part in found:
                found[part] += BoundsOfKernels(x, centers, by_blas, without=part).wrong(distances)
    assert found["per_center"] > 0
    assert found["per_norm"] > 0


def test_the_search_would_find_bounds_of_the_kernels_that_take_nothing_off():
    """Of a score whose center is far, while the margin is that of one near by."""
    wrong = 0
    for seed in range(20):
        rng = np.random.default_rng(seed)
        x, centers = rng.uniform(-1, 1, (5, 600)), rng.uniform(-1, 1, (4, 600)) * [[1e-3], [30], [30], [30]]
        bounds = BoundsOfKernels(x, centers, descending)
        honest = bounds.distances(0, 0)[1]
        bounds.scores += bounds.taken_off
        for c in range(1, 4):
            square = exact_square(x[0], centers[c], Fraction(bounds.frame.scale))
            assert Fraction(float(honest[c])) ** 2 <= square
            wrong += Fraction(float(bounds.distances(0, 0)[1][c])) ** 2 > square
    assert wrong > 0


def test_float64_products_exclude_no_nearest_center(brute_distances):
    """However little it is nearer; and without the bound on their error they would."""
    wrong = 0
    for seed in range(300):
        rng = np.random.default_rng(seed)
        d, gap = int(rng.integers(1, 40)), 2.0 ** -rng.integers(40, 53)
        x, centers = near_ties(seed, d, 6, 0.0, 0.0, gap, 1.0)
        frame, distances = Frame.of(x.min(axis=0), x.max(axis=0)), brute_distances(x, centers)
        nearest = distances == distances.min(axis=1, keepdims=True)
        possible = frame.possible(np.ascontiguousarray(x.T), np.ascontiguousarray(centers.T))
        assert (possible | ~nearest).all()
        z, y = (centers - frame.offset) * frame.scale, (x - frame.offset) * frame.scale
        scores = (z * z).sum(axis=1) - 2 * (y @ z.T)
        wrong += bool((nearest & (scores > scores.min(axis=1, keepdims=True))).any())
    assert wrong > 0


KINDS_OF_OUTLIERS = {
    "a row that is also a center": lambda rng, x: (x, x[:40]),
    "a row": lambda rng, x: (x, x[10:50]),
    "a center": lambda rng, x: (x[1:], np.concatenate([x[1:40], np.full((1, x.shape[1]), 1e4)])),
}


@pytest.mark.parametrize("k", [6, 40])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("kind", KINDS_OF_OUTLIERS)
def test_one_far_value_leaves_no_row_in_doubt(brute_labels, kind, dtype, k):
    """The offset is where the rows are, and a center's distance makes only its own score doubtful."""
    rng = np.random.default_rng(0)
    x = rng.normal(size=(2000, 16)).astype(dtype)
    x[0, 0] = -9999
    x, centers = KINDS_OF_OUTLIERS[kind](rng, x)
    centers = centers[-k:].astype(np.float64) if kind == "a center" else centers[:k].astype(np.float64)
    points = NumPyPoints(Samples(x))
    lloyd.prepare(points, *points.feature_range())
    points.assign(centers)
    assert points.labels().tolist() == brute_labels(x.astype(np.float64), centers).tolist()
    assert points.uncertain <= 0.01 * len(x)


@pytest.mark.parametrize("k", [8, 40])
def test_groups_far_apart_are_told_apart_by_float64_products(brute_labels, monkeypatch, k):
    """Nearly all rows are in doubt in float32, and D is asked for few pairs of them."""
    rng = np.random.default_rng(0)
    x = rng.normal(size=(1000, 16)) + 1e4 * (np.arange(1000) // 250)[:, None]  # the offset is no group's
    centers, pairs = x[:: 1000 // k], []
    decided = assign.decide
    monkeypatch.setattr(assign, "decide", lambda x, possible, c: pairs.append(possible) or decided(x, possible, c))
    with tuned(scores=True, arrange=False):
        points = NumPyPoints(Samples(x))
        lloyd.prepare(points, *points.feature_range())
        points.assign(centers)
    assert points.labels().tolist() == brute_labels(x, centers).tolist()
    assert points.uncertain > 900
    if k == 40:
        assert sum(np.count_nonzero(possible) for possible in pairs) < 1.01 * len(x)


def test_a_frame_is_refused_where_its_bound_would_not_hold():
    assert Frame.of(np.array([-1e115]), np.array([1e115])) is None
    assert Frame.of(np.array([0.0]), np.array([1e-115])) is None
    assert Frame.of(np.zeros(2**17), np.ones(2**17)) is None
    assert Frame.of(np.array([-np.inf]), np.array([np.inf])) is None
    assert Frame.of(np.array([np.nan]), np.array([np.nan])) is None
    frame = Frame.of(np.array([0.0]), np.array([1.0]))
    for of in (frame.centers, frame.reach):
        assert of(np.array([[2.0**59]])) is None
        assert of(np.array([[np.nan]])) is None
        assert of(np.array([[2.0**58]])) is not None


@pytest.mark.parametrize("piece", [1, 8, 2**16])
def test_the_reach_of_centers_is_that_of_the_farthest(monkeypatch, piece):
    """In whatever piece it is, and on whatever side."""
    monkeypatch.setattr(certificate, "_PIECE", piece)
    rng = np.random.default_rng(0)
    frame = Frame.of(np.full(4, -2.0), np.full(4, 1.0))
    for far in range(6):
        centers = rng.uniform(-2, 1, (6, 4))
        centers[far] *= rng.choice([-5, 5], 4)
        centers[2, far % 4] = np.nan if far == 5 else centers[2, far % 4]
        if far == 5:
            assert frame.reach(centers) is None
        else:
            assert frame.reach(centers) == frame.centers(centers)[1]


# ---------------------------------------------------------------- what the points do with it


@pytest.mark.parametrize("k", [2, 6, 80, 128, 129])
def test_near_ties_are_decided_by_distance(fitted, brute_labels, ways, k):
    """Few and many centers are scored in different layouts."""
    for seed in range(40):
        rng = np.random.default_rng(seed)
        offset, spread = rng.choice([0.0, 1e8]), rng.choice([0.0, 8.0])
        x, centers = near_ties(seed, int(rng.integers(1, 40)), k, offset, spread, 2.0 ** -rng.integers(10, 60), 1.0)
        with tuned(**ways["scores"]):
            np.testing.assert_array_equal(fitted(centers).predict(x), brute_labels(x, centers), err_msg=f"seed {seed}")


def singles(seed, d, k):
    """Near ties of float32 numbers, from thousandths to thousands."""
    rng = np.random.default_rng(seed)
    x, centers = near_ties(seed, d, k, 0.0, rng.choice([0.0, 8.0]), 2.0 ** -rng.integers(10, 30), 1.0)
    scale = 10.0 ** rng.integers(-3, 4)
    return (x * scale).astype(np.float32), (centers * scale).astype(np.float32).astype(np.float64)


def as_they_are(x):
    low, high = x.min(axis=0).astype(np.float64), x.max(axis=0).astype(np.float64)
    return Frame.of(low, high).as_it_is(low, high, x.astype(np.float64))


def test_near_ties_of_rows_that_are_taken_as_they_are_are_decided_by_distance(brute_labels, monkeypatch):
    monkeypatch.setattr(engine_rows, "_SMALL", 0)
    taken = 0
    for seed in range(100):
        x, centers = singles(seed, int(np.random.default_rng(seed).integers(1, 40)), [2, 6, 129][seed % 3])
        with tuned(scores=True, bounds=bool(seed % 2)):
            points = NumPyPoints(Samples(x))
            lloyd.prepare(points, *points.feature_range())
            points.assign(centers)
            points.assign(centers)
        assert points.labels().tolist() == brute_labels(x.astype(np.float64), centers).tolist(), f"seed {seed}"
        taken += points._frame.keeps
    assert taken > 50


@pytest.mark.parametrize("d", [1, 7, 40])
def test_no_bound_on_a_score_of_rows_that_are_taken_as_they_are_is_wrong(d):
    """In rationals: the same bounds hold, though coordinates are not within [-1, 1]."""
    for seed in range(12):
        x, centers = singles(seed, d, 5)
        frame = as_they_are(x)
        y = frame.features(x)
        assert not frame.keeps or y is x
        norms = np.einsum("ij,ij->i", y, y)
        columns, _, slack = frame.least_scores(centers)
        least, margin = with_one(y) @ columns + norms[:, None], frame.row_margin(norms)[:, None]
        low, high = least - margin, least + slack + margin
        for i in range(len(x)):
            for c in range(len(centers)):
                square = exact_square(x[i], centers[c], Fraction(frame.scale))
                assert Fraction(float(low[i, c])) <= square <= Fraction(float(high[i, c]))


def test_rows_are_taken_as_they_are_where_that_is_as_fine():
    """Not where the rows are far from zero, nor where float32 does not hold their squares, or these underflow."""
    x = np.random.default_rng(0).normal(size=(50, 3)).astype(np.float32)
    for there in (x, 1000 * x, x + 0.5):
        assert as_they_are(there).keeps
    for elsewhere in (x + 5, x * np.float32(1e20), x * np.float32(1e-20)):
        assert not as_they_are(elsewhere).keeps
    rows = as_they_are(x + np.float32(5)).features(x + np.float32(5))
    assert rows.dtype == np.float32
    assert np.abs(rows).max() <= 1


def test_near_ties_far_from_all_centers_are_decided_by_distance(fitted, brute_labels, ways):
    """Centers near the middle of the frame: scores err by where rows are, more than by where centers are."""
    rng = np.random.default_rng(0)
    for d in (2, 5, 20):
        for _ in range(20):
            x, centers = far_ties(rng, d)
            for k in (2, 40):
                more = np.concatenate([centers, -np.tile(centers[:1], (k - 2, 1))])
                with tuned(**ways["scores"]):
                    np.testing.assert_array_equal(fitted(more).predict(x), brute_labels(x, more))


# ---------------------------------------------------------------- bounds


def rest(rng, centers, x):
    return centers


def drift(rng, centers, x):
    return centers + rng.normal(size=centers.shape) * x.std() * 0.01


def creep(rng, centers, x):
    """Movements that float32 hardly sees."""
    return centers + rng.normal(size=centers.shape) * x.std() * 1e-7


def one_jumps(rng, centers, x):
    moved = centers.copy()
    moved[rng.integers(len(centers))] = x[rng.integers(len(x))]
    return moved


def a_few_step(rng, centers, x):
    """So few that distances to them are measured."""
    moved = centers.copy()
    few = rng.permutation(len(centers))[: max(1, len(centers) // 8)]
    moved[few] += rng.normal(size=(len(few), x.shape[1])) * x.std() * 0.3
    return moved


def swap(rng, centers, x):
    return centers[rng.permutation(len(centers))]


def collapse(rng, centers, x):
    """All on one point: D ties, and the first center takes every point."""
    return np.tile(centers[:1], (len(centers), 1))


def onto_points(rng, centers, x):
    return x[rng.permutation(len(x))[: len(centers)]]


def one_leaves(rng, centers, x):
    """Too far for float32 scores to be of use, then for them to exist."""
    moved = centers.copy()
    moved[-1] = x[0] + 10.0 ** rng.integers(3, 25)
    return moved


def means(rng, centers, x):
    labels = ((x[:, None, :] - centers) ** 2).sum(axis=2).argmin(axis=1)
    return np.array([x[labels == c].mean(axis=0) if (labels == c).any() else centers[c] for c in range(len(centers))])


MOVES = [rest, drift, creep, one_jumps, a_few_step, swap, collapse, onto_points, one_leaves, means]


def lattice(rng, n, d):
    return rng.integers(0, 5, (n, d)).astype(np.float64)


def gaussian(rng, n, d):
    return rng.normal(size=(n, d))


def far_off(rng, n, d):
    return rng.normal(size=(n, d)) + 1e8


def uneven(rng, n, d):
    return rng.normal(size=(n, d)) * 10.0 ** np.linspace(-6, 0, d)


@pytest.mark.parametrize("way", ["bounds", "arrange", "merge", "rows of 61", "4 threads"])
@pytest.mark.parametrize("data", [lattice, gaussian, far_off, uneven])
def test_bounds_never_keep_a_wrong_label(make_points, brute_labels, ways, data, way, monkeypatch):
    """Of rows whose own distance is measured, as where centers are many, and of others."""

    @settings(max_examples=20)
    @given(
        seed=st.integers(0, 2**32 - 1),
        d=st.integers(1, 9),
        k=st.sampled_from([1, 2, 5, 40]),
        moves=st.lists(st.sampled_from(MOVES), min_size=1, max_size=12),
        many=st.sampled_from([0, 2**8]),
    )
    def search(seed, d, k, moves, many):
        monkeypatch.setattr(numpy, "_MANY", many)
        rng = np.random.default_rng(seed)
        x = data(rng, 150, d)
        centers = onto_points(rng, np.empty((k, d)), x)
        with tuned(**ways[way]):
            points, _ = make_points(x)
        before = None
        for move in [rest, *moves]:
            centers = move(rng, centers, x)
            changed = points.assign(centers)
            expected = brute_labels(x, centers)
            np.testing.assert_array_equal(points.labels(), expected)
            if way == "bounds":  # merged rows count once
                assert changed == (len(x) if before is None else np.count_nonzero(expected != before))
            before = expected

    search()


def test_bounds_never_keep_a_wrong_label_of_many_pieces(make_points, brute_labels, ways, monkeypatch):
    """Where the rows in doubt are measured a few at a time, and the first show that it does not pay."""
    monkeypatch.setattr(numpy, "_SCORES", 1)
    monkeypatch.setattr(numpy, "_MANY", 0)
    rng = np.random.default_rng(0)
    x = gaussian(rng, 400, 3)
    with tuned(**ways["bounds"]):
        points, _ = make_points(x)
    centers = onto_points(rng, np.empty((12, 3)), x)
    for move in [rest, *MOVES, *MOVES]:
        centers = move(rng, centers, x)
        points.assign(centers)
        np.testing.assert_array_equal(points.labels(), brute_labels(x, centers))


def moving(d, k):
    """Rows (20, d), and centers (k, d) before and after a step, in pairs of neighbors."""
    rng = np.random.default_rng(d)
    x = rng.uniform(-1, 1, (20, d))
    old = rng.uniform(-1, 1, (k, d))
    old[1::2] = old[: k // 2 * 2 : 2] + rng.normal(size=(k // 2, d)) * 2.0**-12
    new = old + rng.normal(size=(k, d)) * 2.0 ** -rng.integers(3, 20)
    new[1::2] = new[: k // 2 * 2 : 2] + rng.normal(size=(k // 2, d)) * 2.0 ** -rng.integers(10, 30, (k // 2, 1))
    return x, old, new


@pytest.mark.parametrize("k", [6, 40])
@pytest.mark.parametrize("d", [1, 3, 20])
def test_bounds_bound_distances_in_rationals(d, k):
    """When rows are compared with all centers, and when distances to their own and to the few that moved are
    measured."""
    x, old, new = moving(d, k)
    new[3:] = old[3:]
    frame = Frame.of(x.min(axis=0), x.max(axis=0))
    scale, rows = Fraction(frame.scale), Rows(x, None, once=False)
    features, everyone = rows.features(slice(None), frame), np.arange(20)
    bounds, before = HamerlyBounds(20), ScoredCenters.of(old, frame)
    found = nearest(features, before, rows.exact, True)
    bounds.set(everyone, found)
    for after, centers in ((before, old), (ScoredCenters.of(new, frame), new)):
        if after is not before:
            drift = CenterShift.between(before, after)
            assert (drift.few is not None) == (k == 40)
            if drift.few is None:
                bounds.loosen(slice(0, 20), found.labels, drift)
            bounds.tighten(everyone, found.lower.copy(), features, found.labels, after, drift)
        for i in range(20):
            squares = [exact_square(x[i], center, scale) for center in centers]
            own = squares.pop(found.labels[i])
            assert Fraction(float(bounds.upper[i])) ** 2 >= own
            assert Fraction(float(bounds.lower[i])) ** 2 <= min(squares)


@pytest.mark.parametrize("d", [1, 3, 20])
def test_movements_and_gaps_are_bounded_in_rationals(d):
    """From above the way of each center and the longest of the others', from below half the gap to the next."""
    x, old, new = moving(d, 40)
    frame = Frame.of(x.min(axis=0), x.max(axis=0))
    scale = Fraction(frame.scale)
    own, others = moved(old.T, new.T, frame.scale)
    drift = CenterShift.between(ScoredCenters.of(old, frame), ScoredCenters.of(new, frame))
    ways = [exact_square(new[c], old[c], scale) for c in range(40)]
    for c in range(40):
        for bound, true in ((own, ways[c]), (others, max(ways[:c] + ways[c + 1 :]))):
            assert true <= Fraction(float(bound[c])) ** 2 <= true * (1 + Fraction(2) ** -28)
        assert Fraction(float(drift.own[c])) >= Fraction(float(own[c]))
        assert Fraction(float(drift.others[c])) >= Fraction(float(others[c]))
        gap = min(exact_square(new[c], new[e], scale) for e in range(40) if e != c)
        assert (2 * Fraction(float(drift.half_gap[c]))) ** 2 <= gap


def test_the_few_that_moved_are_all_that_did():
    """Even by a bit: what their distance was bounded by before does not hold."""
    x, old, _ = moving(3, 40)
    frame = Frame.of(x.min(axis=0), x.max(axis=0))
    new = old.copy()
    new[[7, 20], [0, 2]] = np.nextafter(new[[7, 20], [0, 2]], 9)
    assert CenterShift.between(ScoredCenters.of(old, frame), ScoredCenters.of(new, frame)).few.tolist() == [7, 20]


def test_loosened_bounds_are_rounded_outwards():
    """However often: each sum of two float32 numbers is on its side of the true one."""
    rng = np.random.default_rng(0)
    n = 500
    bounds, labels = HamerlyBounds(n), np.arange(n, dtype=np.int32)
    bounds.upper, bounds.lower = (rng.uniform(1, 2, n).astype(np.float32) for _ in range(2))
    own, others = (rng.uniform(0, 1, n).astype(np.float32) for _ in range(2))
    upper, lower = (array.astype(np.float64) for array in (bounds.upper + np.float32(0), bounds.lower + np.float32(0)))
    bounds.loosen(slice(0, n), labels, CenterShift(own, others, np.zeros(n, np.float32), None))
    assert (bounds.upper.astype(np.float64) >= upper + own).all()  # of these sums float64 rounds none
    assert (bounds.lower.astype(np.float64) <= lower - others).all()


def test_bounds_that_skip_too_little_rest_for_a_while():
    """Longer each time, and from the beginning after they were of use."""
    trial = Trial(100, 50, 10**6)

    def resting():
        passes = 0
        while not trial.begins():
            passes += 1
        return passes

    assert resting() == 2
    assert [(trial.goes_on(0.01), resting()) for _ in range(4)] == [(False, n) for n in (4, 8, 16, 16)]
    assert trial.goes_on(0.5)
    assert (trial.goes_on(0.01), resting()) == (False, 4)
    assert not any(Trial(2, 8, 10**6).begins() for _ in range(100)), "a search costs less"


def test_labels_are_right_while_bounds_come_and_go(make_points, brute_labels, monkeypatch):
    monkeypatch.setattr(numpy, "_FEW_PAIRS", 0)
    monkeypatch.setattr(engine_rows, "_SMALL", 0)
    rng = np.random.default_rng(0)
    x = gaussian(rng, 1500, 16)
    points, _ = make_points(x)
    centers = onto_points(rng, np.empty((60, 16)), x)
    for i in range(40):
        points.assign(centers)
        np.testing.assert_array_equal(points.labels(), brute_labels(x, centers))
        centers = (swap if i % 10 == 9 else means)(rng, centers, x)


def test_bounds_do_skip(make_points, device, ways, monkeypatch):
    """Otherwise the test above would show nothing."""
    if device != "cpu":
        return  # bounds are each device's own affair
    active = []
    loosen = HamerlyBounds.loosen

    def counted(self, *args):
        active.append(loosen(self, *args))
        return active[-1]

    monkeypatch.setattr(HamerlyBounds, "loosen", counted)
    rng = np.random.default_rng(0)
    x = gaussian(rng, 2000, 3)
    with tuned(**ways["bounds"]):
        points, _ = make_points(x)
    centers = onto_points(rng, np.empty((20, 3)), x)
    counts = []
    for _ in range(12):
        active.clear()
        points.assign(centers)
        counts.append(sum(map(len, active)))
        centers = means(rng, centers, x)
    assert counts[0] == 0  # nothing to go by yet: every point was looked at
    assert 0 < counts[-1] < 1000


# ---------------------------------------------------------------- how many points are left to D


@pytest.mark.parametrize(("name", "k", "most"), [("blobs", 4, 0.0), ("digits", 10, 0.0), ("china", 64, 0.001)])
def test_share_of_points_left_to_distance(request, kmeans, make_points, ways, report_share, slow, name, k, most):
    data = request.getfixturevalue(name)
    x = (data.reshape(-1, 3) / 255).astype(np.float64) if name == "china" else data[0]
    if name == "china" and slow:
        x = x[::5]
    centers = kmeans(n_clusters=k, random_state=0, max_iter=10).fit(x).cluster_centers_
    with tuned(**{**ways["scores"], "threads": 2}):
        points, _ = make_points(x)
    points.assign(centers)
    report_share(f"{name}, k={k}", points.uncertain, len(x))
    assert points.uncertain <= most * len(x)


# ---------------------------------------------------------------- whole numbers


def whole_points(d, largest, offset=0):
    """Whole numbers with the extremes in every feature, and many that differ by one."""
    rng = np.random.default_rng(d)
    x = rng.integers(-largest, largest + 1, (200, d)).astype(np.float64)
    x[0], x[1], x[2], x[3] = -largest, largest, largest - 1, 0
    return x + offset


@pytest.mark.parametrize("offset", [0, 7, 2**40])
@pytest.mark.parametrize(("d", "largest"), [(5, 256), (16, 256), (64, 128), (100, 64), (700, 32)])
def test_scores_of_small_whole_numbers_are_their_distances(d, largest, offset):
    """Up to the largest that are taken: 16 d 4**ceil(log2(largest)) <= 2**24, where a product may not round at all."""
    x = whole_points(d, largest, offset)
    rows = Rows(x, None, once=False)
    frame = Frame.of(x.min(axis=0), x.max(axis=0))
    assert rows.integral(frame)
    expected = squared_distance(x.T[:, None, :], x[:40].T[:, :, None])
    assert np.array_equal(IntegralDistances(rows, frame).measure(x[:40]), expected)


@pytest.mark.parametrize(
    ("x", "why"),
    [
        (whole_points(64, 129), "too large for 64 features"),
        (whole_points(5, 257), "too large for 5"),
        (np.where(np.arange(200)[:, None] == 199, 0.5, whole_points(30, 9)), "one row of halves"),
        (np.where(np.arange(200)[:, None] == 150, np.nextafter(3, 4), whole_points(30, 9)), "off by one bit"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_scores_of_other_numbers_are_not_trusted(x, why):
    assert not Rows(x, None, once=False).integral(Frame.of(x.min(axis=0), x.max(axis=0))), why


@pytest.mark.parametrize("weights", [None, np.arange(1, 201)])
def test_potentials_of_small_whole_numbers_are_sums_of_rounded_masses(weights):
    """From a candidate between two of them D is a multiple of a quarter, which is rounded where a unit is larger."""
    x = whole_points(5, 9)
    frame = Frame.of(x.min(axis=0), x.max(axis=0))
    found = []
    for closest in (
        IntegralDistances(Rows(x, weights, once=False), frame),
        PlainDistances(by_distance(Rows(x, None, once=False), [slice(None)], 1), len(x), weights),
    ):
        closest.propose(x[:1])
        closest.accept(0, -1)
        closest.propose(np.concatenate([x[5:8], x[5:8] + 0.5]))
        found.append([closest.potentials(exponent, True, 0) for exponent in range(-3, 4)])
    assert found[0] == found[1]


def test_a_sample_has_rows_of_all_kinds_that_alternate():
    for n in (70, 1000, 50_000, 10**6, 2**20):
        for period in (2, 3, 4, 5, 6, 8, 10):
            sample = np.arange(n)[sampled_rows(n, 8)]
            assert len(sample) <= 64
            assert len(set((sample % period).tolist())) == min(period, len(sample))
