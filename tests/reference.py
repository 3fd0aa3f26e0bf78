"""k-means as docs/design.md states it, in the plainest NumPy, Python's integers and rationals, one row at a time. It
imports nothing of the package, so that nothing is wrong in both but by being misunderstood twice."""

from __future__ import annotations

import math
import operator
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


def norm(x):
    """D of a point (d,) to zero."""
    return float(distances(x[None], np.zeros((1, len(x))))[0, 0])


def unit(x):
    """Rows brought to length one; one that is zero stays zero."""
    _, exponent = np.frexp(np.abs(x).max(axis=1, keepdims=True))
    y = x * np.ldexp(1.0, np.clip(-exponent, -1022, 1022))
    length = np.sqrt(distances(y, np.zeros((1, x.shape[1]))))
    return y / np.where(length == 0, 1.0, length)


class Reference:
    """Of rows x (n, d) with weights that are positive; see `fit` and `seed`. Attributes: w, the weights as they are
    summed, the caller's times 2**shift; total, their sum; fractions, how many are no integers."""

    def __init__(self, x, weights=None, metric="euclidean"):
        x = np.asarray(x, np.float64)
        self.cosine, self.d = metric == "cosine", x.shape[1]
        self.x = unit(x) if self.cosine else x
        w, self.shift = np.ones(len(x)) if weights is None else np.asarray(weights, np.float64), 0
        if w.max() < 2.0**-100 or math.fsum(w / w.max()) * Fraction(w.max()) > 2**32:
            self.shift = 30 - log2_up(w.max()) - log2_up(float(len(w)))
            w = np.ldexp(np.ldexp(w, self.shift // 2), self.shift - self.shift // 2)
        self.w, self.total = w.tolist(), math.fsum(w)
        self.fractions = sum(v != int(v) for v in self.w)
        self.weight_power = 62 - log2_up(self.total) if self.fractions else 0
        self.low, self.high = self.extent(range(len(x)))
        self.offset = self.low + (self.high - self.low) / 2
        self.half = np.maximum(self.high - self.offset, self.offset - self.low)
        self.power = [min(1000, 62 - log2_up(self.total) - log2_up(h)) if h > 0 else 0 for h in self.half.tolist()]

    # ------------------------------------------------------------ Rule 3: sums are integers

    def extent(self, rows):
        low, high = self.x[rows].min(axis=0), self.x[rows].max(axis=0)
        return (-np.maximum(-low, high), np.maximum(-low, high)) if self.cosine else (low, high)

    def sums(self, rows, offset=None, power=None, shift=0, weight_power=None):
        """The sums of these rows' terms, one integer a feature, and of their weights."""
        offset, power = (self.offset, self.power) if offset is None else (offset, power)
        weight_power = self.weight_power if weight_power is None else weight_power
        result = [0] * (self.d + 1)
        for i in rows:
            w = math.ldexp(self.w[i], shift)
            for j, (v, o, p) in enumerate(zip(self.x[i].tolist(), offset.tolist(), power, strict=True)):
                term = round((v - o) * 2.0**p)
                result[j] += int(w) * term if w == int(w) else round(float(term) * w)
            result[-1] += round(Fraction(w) * Fraction(2) ** weight_power)
        return result

    def mean(self, sums, offset=None, power=None, weight_power=None):
        offset, power = (self.offset, self.power) if offset is None else (offset, power)
        weight = math.ldexp(float(sums[-1]), -(self.weight_power if weight_power is None else weight_power))
        return np.array([float(s) / weight / 2.0**p + o for s, p, o in zip(sums, power, offset.tolist(), strict=False)])

    def own_mean(self, rows, weight):
        """At a scale of the rows' own; and their weight, which is at most that given, and what it may be off by."""
        low, high = self.extent(rows)
        offset = low + (high - low) / 2
        most = weight + math.ldexp(float(self.fractions), -self.weight_power)
        while True:
            bits = log2_up(most)
            shift = max(0, -bits) if self.fractions else 0
            weight_power = 62 - bits - shift if self.fractions else 0
            half = np.maximum(high - offset, offset - low).tolist()
            power = [min(1000, 62 - bits - shift - log2_up(h)) if h > 0 else 0 for h in half]
            sums = self.sums(rows, offset, power, shift, weight_power)
            finer = math.ldexp(float(sums[-1] + self.fractions), -weight_power - shift)
            if sums[-1] * 2.0**-30 >= self.fractions or finer > most / 2:
                return self.mean(sums, offset, power, weight_power), math.ldexp(float(sums[-1]), -weight_power - shift)
            most = finer

    def error(self, weight):
        """How far a mean may be off, in each feature; and the square of that."""
        steps = np.array([2.0**-p + 2.0**-51 * h if h > 0 else 0.0 for p, h in zip(self.power, self.half, strict=True)])
        times = 1 + 2.0 * self.fractions / weight if self.fractions else 1.0
        return times * steps, times * times * norm(steps)

    def settled(self, rows, weight, mean=None):
        """The mean and the weight of these rows; the one given, within their extent, where it is near enough."""
        low, high = self.extent(rows)
        coarse = mean is None or math.ldexp(float(self.fractions), -self.weight_power) > 2.0**-30 * weight
        if not coarse:
            error, reach = self.error(weight)
            off = error[high > low] > 2.0**-30 * (high - low)[high > low]
            coarse = reach > 2.0**-60 * norm(mean) if self.cosine else off.any()
        if coarse:
            mean, weight = self.own_mean(rows, weight)
        return (mean if self.cosine else np.clip(mean, low, high)), weight

    # ------------------------------------------------------------ Lloyd's iteration

    def labels(self, centers):
        return distances(self.x, np.asarray(centers, np.float64)).argmin(axis=1)

    def leaving(self, labels, centers, m):
        """Up to m locations off their centers, largest D first, then smallest row, that are not all their cluster has:
        all their rows."""
        own = distances(self.x, centers)[np.arange(len(labels)), labels]
        found, left = [], labels.copy()
        for i in sorted(range(len(labels)), key=lambda i: (-own[i], i)):
            rows = np.flatnonzero((self.x == self.x[i]).all(axis=1))
            if len(found) < m and own[i] > 0 and left[i] >= 0 and (left == labels[i]).sum() > len(rows):
                found.append(rows.tolist())
                left[rows] = -1
        return found

    def placed(self, mean, before):
        return mean if not self.cosine else unit(mean[None])[0] if mean.any() else before

    def means(self, labels, k):
        """Of each cluster that has rows: those, its mean by the sums of all, and its weight."""
        found = {}
        for c in range(k):
            rows = np.flatnonzero(labels == c).tolist()
            if rows:
                sums = self.sums(rows)
                weight = math.ldexp(float(sums[-1]), -self.weight_power)
                found[c] = rows, self.mean(sums) if sums[-1] else None, weight
        return found

    def crowded(self, means, c):
        """Whether a mean may be off by 2**-24 of the way to another; of unit rows, or to zero."""
        reach = self.error(means[c][2])[1] * 2.0**48
        others = [means[o][1] for o in means if o != c and means[o][1] is not None]
        others += [np.zeros(self.d)] if self.cosine else []
        return any(reach > norm(means[c][1] - other) for other in others)

    def update(self, labels, centers):
        """The next centers; and which of them have been held to their own rows."""
        means, updated, settled = self.means(labels, len(centers)), centers.copy(), set()
        weights = {c: weight for c, (_, _, weight) in means.items()}
        for c, (rows, mean, weight) in means.items():
            if mean is None or self.crowded(means, c):
                settled.add(c)
                mean, weights[c] = self.settled(rows, weight, mean)
            updated[c] = self.placed(mean, centers[c])
        empty = [c for c in range(len(centers)) if c not in means]
        far = self.leaving(labels, centers, len(empty))
        for c in {int(labels[at[0]]) for at in far}:
            rows = [i for i in means[c][0] if not any(i in at for at in far)]
            mean, weights[c] = self.settled(rows, weights[c])
            updated[c] = self.placed(mean, centers[c])
            settled.add(c)
        for c, at in zip(empty, far, strict=False):
            updated[c] = self.x[at[0]]
        heaviest = max(sorted(weights), key=weights.__getitem__)
        if len(far) < len(empty) and heaviest not in settled:
            rows, mean, _ = means[heaviest]
            mean, weights[heaviest] = self.settled(rows, weights[heaviest], mean)
            updated[heaviest] = self.placed(mean, centers[heaviest])
            settled.add(heaviest)
        for c in empty[len(far) :]:
            updated[c] = updated[heaviest]
        return updated, settled | set(empty)

    def finished(self, labels, centers, settled):
        """Centers to publish: of all that were not held to their own rows yet."""
        result = centers.copy()
        for c, (rows, mean, weight) in self.means(labels, len(centers)).items():
            if c not in settled:
                result[c] = self.placed(self.settled(rows, weight, mean)[0], centers[c])
        return result

    def inertia(self, labels, centers):
        """The sum of weight times D in the caller's weights, in rationals: fixed point comes near."""
        own = distances(self.x, np.asarray(centers))[np.arange(len(labels)), labels].tolist()
        return sum(Fraction(w) * Fraction(d) for w, d in zip(self.w, own, strict=True)) / Fraction(2) ** self.shift

    def variance(self):
        """The weighted variance of the features, averaged."""
        w, result = [Fraction(w) for w in self.w], Fraction(0)
        for column in self.x.T.tolist():
            values = [Fraction(v) for v in column]
            mean = sum(map(operator.mul, w, values)) / sum(w)
            result += sum(a * (v - mean) ** 2 for a, v in zip(w, values, strict=True)) / sum(w)
        return result / self.d

    def fit(self, centers, tol=1e-4, max_iter=300, dtype=np.float64):
        """From centers (k, d): (centers, labels, inertia, iterations)."""
        centers, before = np.array(centers, np.float64), None
        if self.cosine:
            centers = unit(centers)
        for n_iter in range(1, max_iter + 1):  # noqa: B007
            labels = self.labels(centers)
            if before is not None and (labels == before).all():
                break
            before = labels
            updated, settled = self.update(labels, centers)
            shift = math.fsum(distances(a[None], b[None])[0, 0] for a, b in zip(updated, centers, strict=True))
            centers = updated
            if shift == 0 or Fraction(shift) <= Fraction(tol) * self.variance():
                break
        centers = self.finished(labels, centers, settled).astype(dtype).astype(np.float64)
        labels = self.labels(centers)
        return centers, labels, self.inertia(labels, centers), n_iter

    # ------------------------------------------------------------ Rule 4: draws become rows by rank

    def masses(self, closest=None, power=0):
        """What rows weigh in a draw, as integers: their weight, or that times D to the closest center at 2**power."""
        if closest is None:
            return [round(Fraction(w) * 2**self.weight_power) for w in self.w]
        terms = [round(v * 2.0**power) for v in closest.tolist()]
        return [int(w) * t if w == int(w) else round(w * float(t)) for w, t in zip(self.w, terms, strict=True)]

    def power_for(self, largest):
        """Of the finest scale at which the masses of D up to this fit."""
        return min(1000, 62 - log2_up(self.total) - log2_up(largest)) if largest > 0 else 0

    def find(self, uniform, masses):
        """The first row whose prefix sum exceeds floor(uniform * total)."""
        rank = Fraction(uniform) * sum(masses) // 1
        return next(row for row, total in enumerate(accumulate(masses)) if total > rank)

    def seed(self, k, random_state):
        """k-means++: centers (k, d)."""
        first = random_state.random_sample()
        draws = random_state.random_sample((k - 1, 2 + int(math.log(k)))).tolist()
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
            centers.append(candidates[best])
            closest = left[best]
        return np.array(centers)

    def distances_to(self, center):
        return distances(self.x, center[None])[:, 0]
