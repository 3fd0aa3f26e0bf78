"""Rule 3 of docs/design.md as it is stated: sums of rows as integers in fixed point, and the means made of them. In the
plainest NumPy, Python's integers and rationals, and without the package, as reference.py, which builds on this."""

import math
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

import numpy as np

# By how much a mean may be off while a fit goes on, in parts of the way to another; and in the end, of its rows' range.
COARSE, FINE = 2.0**-24, 2.0**-30


def log2_up(value):
    """The least e with value <= 2**e."""
    mantissa, e = math.frexp(value)
    return e - 1 if mantissa == 0.5 else e


def norm(v):
    """D of a vector (d,) to zero."""
    total = 0.0
    for a in v.tolist():
        total += a * a
    return total


def weigh(values, w):
    """Each value rounded, times its weight: a whole weight counts copies, any other has the product rounded."""
    terms = [round(v) for v in values]
    return [int(a) * t if a == int(a) else round(float(t) * a) for a, t in zip(w, terms, strict=True)]


class Scale:
    """How rows within [low, high], (d,) each, become integers, whose sums are to fit 62 bits: a coordinate is
    (x - offset) * 2**power, a weight w * 2**exponent. total: of the weights. counts: whether all of these are integers.
    own: of one cluster, whose light weights are first multiplied by 2**shift."""

    def __init__(self, low, high, total, counts, own=False):
        bits = log2_up(total)
        self.shift = max(0, -bits) if own and not counts else 0
        spare = 62 - bits - self.shift
        self.exponent = 0 if counts else spare
        self.offset = np.where((low <= 0) & (high >= 0), 0.0, low + (high - low) / 2)
        half = np.maximum(high - self.offset, self.offset - low).tolist()
        self.power = [min(1000, spare - log2_up(h)) if h > 0 else 0 for h in half]
        # By how much a mean of weights that are counts may be off.
        self.step = np.array([2.0**-p + 2.0**-51 * h if h > 0 else 0.0 for p, h in zip(self.power, half, strict=True)])

    def sums(self, x, w):
        """Of rows x (m, d) and weights w (m,): the terms of each feature, and the weights."""
        w = [math.ldexp(v, self.shift) for v in w]
        columns = (x - self.offset) * np.ldexp(1.0, self.power)
        return [*(sum(weigh(column.tolist(), w)) for column in columns.T), sum(self.units(w))]

    def units(self, w):
        return [round(Fraction(v) * Fraction(2) ** self.exponent) for v in w]

    def mean(self, sums):
        weight = math.ldexp(float(sums[-1]), -self.exponent)
        return np.array([float(s) / weight / 2.0**p for s, p in zip(sums, self.power, strict=False)]) + self.offset

    def weight(self, units):
        return math.ldexp(float(units), -self.exponent - self.shift)


@dataclass
class Cluster:
    """rows: their indices. mean: (d,), None where the weight rounds to nothing. certified: held to its own rows."""

    rows: Any
    mean: Any
    weight: float
    certified: bool = False


class WeightedRows:
    """Rows x (n, d) of positive weights. w: those in use, the caller's times 2**shift. scale: that all clusters share.
    fractions: how many weights are no integers. cosine: whether x are unit vectors, whose scale is about zero."""

    def __init__(self, x, weights, cosine):
        self.x, self.cosine = x, cosine
        w, self.shift = np.ones(len(x)) if weights is None else np.asarray(weights, np.float64), 0
        if w.max() < 2.0**-100 or w.max() > 2.0**32 or math.fsum(w) > 2.0**32:
            self.shift = 30 - log2_up(w.max()) - log2_up(float(len(w)))
            w = np.ldexp(np.ldexp(w, self.shift // 2), self.shift - self.shift // 2)
        self.w, self.total = w.tolist(), math.fsum(w)
        self.fractions = sum(v != int(v) for v in self.w)
        self.scale = Scale(*self.extent(range(len(x))), self.total, self.fractions == 0)

    def extent(self, rows):
        low, high = self.x[rows].min(axis=0), self.x[rows].max(axis=0)
        return (-np.maximum(-low, high), np.maximum(-low, high)) if self.cosine else (low, high)

    def sums(self, rows, scale=None):
        return (scale or self.scale).sums(self.x[rows], [self.w[i] for i in rows])

    def masses(self, closest=None, power=0):
        """What rows weigh in a draw, as integers: their weight, or that times D to the closest center."""
        return self.scale.units(self.w) if closest is None else weigh((closest * 2.0**power).tolist(), self.w)

    def power_for(self, largest):
        """Of the finest scale at which the masses of D up to this fit."""
        return min(1000, 62 - log2_up(self.total) - log2_up(largest)) if largest > 0 else 0

    # ------------------------------------------------------------ means, and how far they may be off

    def times(self, weight):
        """How many steps of the common scale a mean may be off, if its rows weigh so much."""
        return 1 + 2.0 * self.fractions / weight if self.fractions else 1.0

    def reach(self, weight):
        """The square of how far that is."""
        return self.times(weight) * self.times(weight) * norm(self.scale.step)

    def clusters(self, labels):
        """The clusters that have rows by label. A mean that may be off too far to go on with is certified."""
        found = {}
        for c in np.unique(labels).tolist():
            rows = np.flatnonzero(labels == c)
            sums = self.sums(rows)
            found[c] = Cluster(rows, self.scale.mean(sums) if sums[-1] else None, self.scale.weight(sums[-1]))
        crowded = {c for c, cluster in found.items() if cluster.mean is None or self.crowded(c, found)}
        return {c: self.certified(cluster) if c in crowded else cluster for c, cluster in found.items()}

    def crowded(self, c, clusters):
        """Whether a mean may be off by COARSE of the way to another; of unit vectors, or to zero."""
        others = [other.mean for o, other in clusters.items() if o != c and other.mean is not None]
        others += [np.zeros(self.x.shape[1])] if self.cosine else []
        reach = self.reach(clusters[c].weight) / COARSE**2
        return any(reach > norm(clusters[c].mean - other) for other in others)

    def certified(self, cluster):
        """The same rows, their mean within their range and right to FINE of it: summed again if need be."""
        if cluster.certified:
            return cluster
        if not self.is_fine(cluster):
            return self.summed_again(cluster.rows, cluster.weight)
        return Cluster(cluster.rows, self.within(cluster.mean, cluster.rows), cluster.weight, certified=True)

    def is_fine(self, cluster):
        if cluster.mean is None or self.scale.weight(self.fractions) > FINE * cluster.weight:
            return False
        if self.cosine:
            return self.reach(cluster.weight) <= FINE * FINE * norm(cluster.mean)
        low, high = self.extent(cluster.rows)
        return not ((self.times(cluster.weight) * self.scale.step > FINE * (high - low)) & (high > low)).any()

    def summed_again(self, rows, weight):
        """These rows at a scale of their own. weight: what they, or more rows, are known to weigh. Where they turn out
        to weigh much less, the scale becomes finer."""
        most = weight + self.scale.weight(self.fractions)
        while True:
            scale = Scale(*self.extent(rows), most, self.fractions == 0, own=True)
            sums = self.sums(rows, scale)
            finer = scale.weight(sums[-1] + self.fractions)
            if sums[-1] * FINE >= self.fractions or finer > most / 2:
                return Cluster(rows, self.within(scale.mean(sums), rows), scale.weight(sums[-1]), certified=True)
            most = finer

    def within(self, mean, rows):
        """Held to the range of the rows; of unit vectors it is the direction that counts."""
        return mean if self.cosine else np.clip(mean, *self.extent(rows)) + 0.0
