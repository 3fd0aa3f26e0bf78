"""k-means as docs/design.md states it, in the plainest NumPy, Python's integers and rationals, one row at a time. It
imports nothing of the package, so that nothing is wrong in both but by being misunderstood twice."""

import math
from fractions import Fraction
from itertools import accumulate

import numpy as np


def log2_up(value):
    """The least e with value <= 2**e."""
    mantissa, e = math.frexp(value)
    return e - 1 if mantissa == 0.5 else e


def distances(x, c):
    """D (n, k) of rows (n, d) and centers (k, d): Rule 1."""
    total = np.zeros((len(x), len(c)))
    for j in range(x.shape[1]):
        step = x[:, None, j] - c[None, :, j]
        total = total + step * step
    return total


def expanded(x, c):
    """E (n, k) of the same: what takes the place of D where distances of sparse rows are summed or published."""
    total = np.zeros((len(x), len(c)))
    for j in range(x.shape[1]):
        step = x[:, None, j] - c[None, :, j]
        total = total + (step * step - c[None, :, j] * c[None, :, j])
    return np.maximum(total + distances(np.zeros((1, x.shape[1])), c), 0.0)


def norm(x):
    """D of a point (d,) to zero."""
    return float(distances(x[None], np.zeros((1, len(x))))[0, 0])


def normalized(x):
    """Rows brought to length one; one that is zero stays zero."""
    y = x * np.ldexp(1.0, np.clip(-np.frexp(np.abs(x).max(axis=1, keepdims=True))[1], -1022, 1022))
    length = np.sqrt(distances(y, np.zeros((1, x.shape[1]))))
    return y / np.where(length == 0, 1.0, length)


class Scale:
    """Rule 3: how rows within [low, high] that weigh up to `total` become integers."""

    def __init__(self, low, high, total, counts, own=False):
        bits = log2_up(total)
        self.shift = max(0, -bits) if own and not counts else 0
        self.unit = 0 if counts else 62 - bits - self.shift
        self.offset = np.where((low <= 0) & (high >= 0), 0.0, low + (high - low) / 2)
        half = np.maximum(high - self.offset, self.offset - low).tolist()
        self.power = [min(1000, 62 - bits - self.shift - log2_up(h)) if h > 0 else 0 for h in half]
        self.step = np.array([2.0**-p + 2.0**-51 * h if h > 0 else 0.0 for p, h in zip(self.power, half, strict=True)])

    def sums(self, x, w):
        """Of rows x and their weights: the terms of each feature, and the weights."""
        w = [math.ldexp(v, self.shift) for v in w]
        terms = [weigh([(v - o) * 2.0**p for v in column.tolist()], w)
                 for column, o, p in zip(x.T, self.offset.tolist(), self.power, strict=True)]  # fmt: skip
        return [*map(sum, terms), sum(round(Fraction(v) * Fraction(2) ** self.unit) for v in w)]

    def mean(self, sums):
        weight = math.ldexp(float(sums[-1]), -self.unit)
        return np.array([float(s) / weight / 2.0**p for s, p in zip(sums, self.power, strict=False)]) + self.offset

    def weight(self, units):
        return math.ldexp(float(units), -self.unit - self.shift)


def weigh(values, w):
    """Each value rounded, times its weight: a whole weight counts copies, any other has the product rounded."""
    terms = [round(v) for v in values]
    return [int(a) * t if a == int(a) else round(float(t) * a) for a, t in zip(w, terms, strict=True)]


class Reference:
    """Of rows x (n, d) with positive weights. w: those in use, the caller's times 2**shift. scale: of all rows. Of the
    last fit, last: the labels that the centers are the means of; relocated: whether a cluster was ever empty."""

    def __init__(self, x, weights=None, metric="euclidean", sparse=False):
        self.cosine, x = metric == "cosine", np.asarray(x, np.float64)
        self.measure = expanded if sparse else distances
        self.x = normalized(x) if self.cosine else x
        w, self.shift = np.ones(len(x)) if weights is None else np.asarray(weights, np.float64), 0
        if w.max() < 2.0**-100 or w.max() > 2.0**32 or math.fsum(w) > 2.0**32:
            self.shift = 30 - log2_up(w.max()) - log2_up(float(len(w)))
            w = np.ldexp(np.ldexp(w, self.shift // 2), self.shift - self.shift // 2)
        self.w, self.total = w.tolist(), math.fsum(w)
        self.fractions = sum(v != int(v) for v in self.w)
        self.scale = Scale(*self.extent(self.x), self.total, self.fractions == 0)
        self.relocated = False

    def extent(self, x):
        low, high = x.min(axis=0), x.max(axis=0)
        return (-np.maximum(-low, high), np.maximum(-low, high)) if self.cosine else (low, high)

    def labels(self, centers):
        return distances(self.x, np.asarray(centers, np.float64)).argmin(axis=1)

    def sums(self, rows):
        return self.scale.sums(self.x[rows], [self.w[i] for i in rows])

    def certified(self, rows, weight, mean=None):
        """Mean and weight of these rows: those given, within the rows' extent, or by sums of their own."""
        low, high = self.extent(self.x[rows])
        off = self.scale.weight(self.fractions)
        coarse = mean is None or off > 2.0**-30 * weight
        if not coarse:
            error, reach = self.error(weight)
            wide = high > low
            small = (error[wide] > 2.0**-30 * (high - low)[wide]).any()
            coarse = reach > 2.0**-60 * norm(mean) if self.cosine else small
        most, finer = math.inf, weight + off
        again = coarse
        while again and finer <= most / 2:
            most, scale = finer, Scale(low, high, finer, self.fractions == 0, own=True)
            sums = scale.sums(self.x[rows], [self.w[i] for i in rows])
            weight, finer = scale.weight(sums[-1]), scale.weight(sums[-1] + self.fractions)
            again = sums[-1] * 2.0**-30 < self.fractions
        mean = scale.mean(sums) if coarse else mean
        return (mean if self.cosine else np.clip(mean, low, high) + 0.0), weight

    def error(self, weight):
        """By how much a mean by the common scale may be off in each feature, and the square of that together."""
        times = 1 + 2.0 * self.fractions / weight if self.fractions else 1.0
        return times * self.scale.step, times * times * norm(self.scale.step)

    def means(self, labels):
        """Of each cluster that has rows: their indices, the mean by the common scale, and the weight."""
        sums = {c: self.sums(np.flatnonzero(labels == c)) for c in np.unique(labels).tolist()}
        return {c: (np.flatnonzero(labels == c), self.scale.mean(s) if s[-1] else None, self.scale.weight(s[-1]))
                for c, s in sums.items()}  # fmt: skip

    def crowded(self, means, c):
        """Whether a mean may be off by 2**-24 of the way to another; of unit rows, or to zero."""
        others = [mean for o, (_, mean, _) in means.items() if o != c and mean is not None]
        others += [np.zeros(self.x.shape[1])] if self.cosine else []
        return any(self.error(means[c][2])[1] * 2.0**48 > norm(means[c][1] - other) for other in others)

    def leaving(self, labels, centers, m):
        """Up to m locations that are not all their cluster has, by their first rows, largest D first, then first row;
        and the labels of the rows that are left, -1 of those that leave."""
        own = distances(self.x, centers)[np.arange(len(labels)), labels]
        found, left = [], labels.copy()
        for i in sorted(range(len(labels)), key=lambda i: (-own[i], i)):
            rows = np.flatnonzero((self.x == self.x[i]).all(axis=1))
            if len(found) < m and own[i] > 0 and left[i] >= 0 and (left == labels[i]).sum() > len(rows):
                found.append(i)
                left[rows] = -1
        return found, left

    def placed(self, mean, before):
        return mean if not self.cosine else normalized(mean[None])[0] if mean.any() else before

    def update(self, labels, centers):
        """The next centers, and which of them are certified."""
        means, updated, certified = self.means(labels), centers.copy(), set()
        weights = {c: weight for c, (_, _, weight) in means.items()}

        def certify(c, rows, mean):
            mean, weights[c] = self.certified(rows, weights[c], mean)
            updated[c] = self.placed(mean, centers[c])
            certified.add(c)

        for c, (rows, mean, _) in means.items():
            if mean is None or self.crowded(means, c):
                certify(c, rows, mean)
            else:
                updated[c] = self.placed(mean, centers[c])
        empty = [c for c in range(len(centers)) if c not in means]
        self.relocated |= len(empty) > 0
        far, left = self.leaving(labels, centers, len(empty))
        for c in np.unique(labels[far]).tolist():
            certify(c, np.flatnonzero(left == c), None)
        heaviest = max(sorted(weights), key=weights.__getitem__)
        if len(far) < len(empty) and heaviest not in certified:
            certify(heaviest, *means[heaviest][:2])
        for place, c in enumerate(empty):
            updated[c] = self.x[far[place]] + 0.0 if place < len(far) else updated[heaviest]
        return updated, certified

    def published_centers(self, labels, centers, certified):
        """The centers of `update` once all are certified."""
        result = centers.copy()
        for c, (rows, mean, weight) in self.means(labels).items():
            if c not in certified:
                result[c] = self.placed(self.certified(rows, weight, mean)[0], centers[c])
        return result

    def fit(self, centers, tol=1e-4, max_iter=300, dtype=np.float64, given=True):
        """Lloyd's iteration from centers (k, d), given or drawn: (centers, labels, inertia, iterations)."""
        centers, labels, self.relocated = np.array(centers, np.float64) + 0.0, None, False
        centers = normalized(centers) if self.cosine and given else centers
        for n_iter in range(1, max_iter + 1):  # noqa: B007
            labels, before = self.labels(centers), labels
            if before is not None and (labels == before).all():
                break
            updated, certified = self.update(labels, centers)
            shift = math.fsum(map(norm, updated - centers))
            centers = updated
            if shift == 0 or Fraction(shift) <= Fraction(tol) * self.variance():
                break
        self.last = labels
        centers = self.published_centers(labels, centers, certified).astype(dtype).astype(np.float64) + 0.0
        labels = self.labels(centers)
        return centers, labels, self.inertia(labels, centers), n_iter

    def inertia(self, labels, centers):
        """The sum of weight times D in the caller's weights, in rationals: fixed point comes near."""
        own = self.measure(self.x, np.asarray(centers))[np.arange(len(labels)), labels].tolist()
        return sum(Fraction(w) * Fraction(d) for w, d in zip(self.w, own, strict=True)) / Fraction(2) ** self.shift

    def variance(self):
        """The weighted variance of the features, averaged: by D to the mean."""
        mean = self.scale.mean(self.sums(range(len(self.x))))
        total = sum(Fraction(w) * Fraction(d) for w, d in zip(self.w, self.distances_to(mean).tolist(), strict=True))
        return total / Fraction(self.total) / len(mean)

    def masses(self, closest=None, power=0):
        """Rule 4: what rows weigh in a draw, as integers: their weight, or that times D to the closest center."""
        if closest is None:
            return [round(Fraction(w) * Fraction(2) ** self.scale.unit) for w in self.w]
        return weigh([v * 2.0**power for v in closest.tolist()], self.w)

    def power_for(self, largest):
        """Of the finest scale at which the masses of D up to this fit."""
        return min(1000, 62 - log2_up(self.total) - log2_up(largest)) if largest > 0 else 0

    def find(self, uniform, masses):
        """The first row whose prefix sum exceeds floor(uniform * total)."""
        rank = Fraction(uniform) * sum(masses) // 1
        return next(row for row, total in enumerate(accumulate(masses)) if total > rank)

    def seed(self, k, random_state):
        """k-means++: centers (k, d)."""
        first, trials = random_state.random_sample(), 2 + int(math.log(k))
        draws = random_state.random_sample((k - 1, trials)).tolist()
        centers = [self.x[self.find(first, self.masses())]]
        closest = self.distances_to(centers[0])
        for uniforms in draws:
            power = self.power_for(closest.max())
            masses = self.masses(closest, power)
            if sum(masses) == 0:
                centers.append(self.x[self.find(uniforms[0], self.masses())])
                continue
            candidates = [self.x[self.find(uniform, masses)] for uniform in uniforms]
            left = [np.minimum(closest, self.distances_to(candidate)) for candidate in candidates]
            potentials = [sum(self.masses(distance, power)) for distance in left]
            best = potentials.index(min(potentials))
            centers, closest = [*centers, candidates[best]], left[best]
        return np.array(centers) + 0.0

    def distances_to(self, center):
        return self.measure(self.x, center[None])[:, 0]
