"""k-means as docs/design.md states it, in the plainest NumPy, Python's integers and rationals, one row at a time. It
imports nothing of the package, so that nothing is wrong in both but by being misunderstood twice. Sums of rows, and
means, are in reference_sums.py."""

import math
from fractions import Fraction
from itertools import accumulate

import numpy as np
from reference_sums import WeightedRows, norm


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


def normalized(x):
    """Rows brought to length one; one that is zero stays zero."""
    y = x * np.ldexp(1.0, np.clip(-np.frexp(np.abs(x).max(axis=1, keepdims=True))[1], -1022, 1022))
    length = np.sqrt(distances(y, np.zeros((1, x.shape[1]))))
    return y / np.where(length == 0, 1.0, length)


class Reference(WeightedRows):
    """Of rows x (n, d) with positive weights. Of the last fit, last: the labels that the centers are the means of;
    relocated: whether a cluster was ever empty."""

    def __init__(self, x, weights=None, metric="euclidean", sparse=False):
        x = np.asarray(x, np.float64)
        super().__init__(normalized(x) if metric == "cosine" else x, weights, metric == "cosine")
        self.measure = expanded if sparse else distances

    def distances_to(self, center):
        return self.measure(self.x, center[None])[:, 0]

    def labels(self, centers):
        return distances(self.x, np.asarray(centers, np.float64)).argmin(axis=1)

    # ------------------------------------------------------------ Lloyd's iteration

    def fit(self, centers, tol=1e-4, max_iter=300, dtype=np.float64, given=True):
        """From centers (k, d), given or drawn: (centers, labels, inertia, iterations)."""
        centers, labels, self.relocated = np.array(centers, np.float64) + 0.0, None, False
        centers = normalized(centers) if self.cosine and given else centers
        for n_iter in range(1, max_iter + 1):  # noqa: B007
            labels, before = self.labels(centers), labels
            if before is not None and (labels == before).all():
                break
            updated, clusters = self.update(labels, centers)
            shift = math.fsum(map(norm, updated - centers))
            centers = updated
            if shift == 0 or Fraction(shift) <= Fraction(tol) * self.variance():
                break
        self.last = labels
        for c, cluster in clusters.items():
            if not cluster.certified:
                centers[c] = self.center(self.certified(cluster).mean, centers[c])
        centers = centers.astype(dtype).astype(np.float64) + 0.0
        labels = self.labels(centers)
        return centers, labels, self.inertia(labels, centers), n_iter

    def update(self, labels, centers):
        """The next centers, and the clusters that they are the means of: empty ones take over rows far from theirs."""
        clusters = self.clusters(labels)
        empty = [c for c in range(len(centers)) if c not in clusters]
        self.relocated |= len(empty) > 0
        far, left = self.leaving(labels, centers, len(empty))
        for c in np.unique(labels[far]).tolist():
            clusters[c] = self.summed_again(np.flatnonzero(left == c), clusters[c].weight)
        heaviest = max(clusters, key=lambda c: (clusters[c].weight, -c))
        if len(far) < len(empty):
            clusters[heaviest] = self.certified(clusters[heaviest])
        updated = centers.copy()
        for c, cluster in clusters.items():
            updated[c] = self.center(cluster.mean, centers[c])
        for place, c in enumerate(empty):
            updated[c] = self.x[far[place]] + 0.0 if place < len(far) else updated[heaviest]
        return updated, clusters

    def center(self, mean, before):
        """What becomes of a mean. Unit vectors that cancel leave the center where it was."""
        return mean if not self.cosine else normalized(mean[None])[0] if mean.any() else before

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

    def inertia(self, labels, centers):
        """The sum of weight times D in the caller's weights, in rationals: fixed point comes near."""
        own = self.measure(self.x, np.asarray(centers))[np.arange(len(labels)), labels]
        return self.weighed(own) / Fraction(2) ** self.shift

    def variance(self):
        """The weighted variance of the features, averaged: by D to the mean."""
        mean = self.scale.mean(self.sums(range(len(self.x))))
        return self.weighed(self.distances_to(mean)) / Fraction(self.total) / len(mean)

    def weighed(self, values):
        return sum(Fraction(w) * Fraction(v) for w, v in zip(self.w, values.tolist(), strict=True))

    # ------------------------------------------------------------ k-means++ (Rule 4)

    def seed(self, k, random_state, trials=None):
        """Centers (k, d). Of the candidates of a step, the one that leaves the least mass."""
        first, trials = random_state.random_sample(), trials or 2 + int(math.log(k))
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

    def find(self, uniform, masses):
        """The first row whose prefix sum exceeds floor(uniform * total)."""
        rank = Fraction(uniform) * sum(masses) // 1
        return next(row for row, total in enumerate(accumulate(masses)) if total > rank)
