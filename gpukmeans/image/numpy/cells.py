"""Colors merged into cells of a grid, on whole numbers, for which float32 products are exact.

Coarse palettes only begin finer ones, so their points and centers may be whole numbers of 11 bits: each at most
`HALF` from zero. A score |z|^2 - 2 x.z, and any part of its sum, is at most 3 d HALF^2 and below 2**24, so that float32
holds it in whatever order BLAS adds, fused or not. No bound on rounding is needed, no runner-up, and no second look:
the nearest center is the least score. Masses are whole numbers too, and all sums are exact; so the same palette
comes of every machine and device. cuda_cells.py does the same on a GPU.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cached_property
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from gpukmeans.exact.distance import Floats
from gpukmeans.exact.fixed_point import ceil_log2
from gpukmeans.threads import run, scratch, thread_count

if TYPE_CHECKING:
    from gpukmeans.image.palette.grids import Grid

# For four features at most: 3 * 4 * HALF**2 < 2**24.
HALF = 2**10

# Scores at a time: 512 KB of float32, a part of a core's second-level cache.
_SCORES = 2**17

# Up to so many centers, a power of two, scores and indices are packed.
_FEW = 64

# From so many scores on, several threads are faster than one.
_THREADED = 2**20

Labels = NDArray[np.int64]


class Sums(NamedTuple):
    """sums: (k, d), each cluster's sum of mass times x. mass: (k,), that of mass."""

    sums: Floats
    mass: Floats

    @property
    def means(self) -> Floats:
        """(k, d); of a cluster without cells zero."""
        return self.sums / np.maximum(self.mass, 1.0)[:, None]


class Seconds(NamedTuple):
    """labels: (m,) nearest centers, where the cells are. clusters: their sums. cost: (k,), by how much the inertia
    grows if a cluster's cells go to the centers next to theirs. pairs: k * label + next that occur, ascending."""

    labels: Any
    clusters: Sums
    cost: Floats
    pairs: NDArray[Any]


class Cells(Protocol):
    """m cells of mass, whole numbers within HALF of zero, on one device. grid: cells along the widest feature, 0 for
    colors that were not merged. square: the sum of mass |mean|^2, each term rounded so that the sum has no order.
    lost: the inertia about the means of what was merged. Centers are whole numbers, of equally near ones the first
    counts; what is returned is on the host, but labels."""

    m: int
    grid: int
    square: int
    lost: float

    def clusters(self, centers: Floats) -> tuple[Any, Sums]:
        """The labels (m,), where the cells are, of the nearest of the centers (k, d), and the clusters' sums."""

    def seconds(self, centers: Floats) -> Seconds:
        """The same, and what the next nearest of at least two centers say."""

    def halves(self, labels: Any, centers: Floats) -> Sums:
        """Of each cluster, which has that center (k, d) as its mean, the part below and, k further, that above the
        center along the axis of the largest spread."""

    def seeds(self, draws: Floats) -> Floats:
        """Greedy k-means++: k of the cells, (k, d), from draws (k, trials) in [0, 1)."""

    def merged(self, grid: Grid) -> Cells:
        """The cells of a coarser grid."""


def surplus(total: float) -> int:
    """By how many bits a total mass passes 28. Masses that are less by these, or products of mass and D, at most 2**24,
    add up to less than 2**53 in all, which float64 holds in whatever order."""
    return max(0, ceil_log2(total) - 28)


def fineness(total: float) -> float:
    """A power of two: masses of that total times it, times squares of differences, each at most 2**22, add up to less
    than 2**53, rounded one by one."""
    return 2.0 ** (29 - ceil_log2(total))


class NumPyCells:
    """x: (m, d) whole numbers within HALF of zero. mass: (m,) whole numbers, as float64. weighted: d times (m,), what
    mass times coordinate adds up to in each, which x rounds."""

    def __init__(self, x: Floats, mass: Floats, weighted: list[Floats], *, grid: int = 0) -> None:
        self.m = len(x)
        self.x, self.mass, self.weighted, self.grid = x, mass, weighted, grid
        self.square = whole_sum(np.rint(squares(weighted) / mass))
        self.columns = np.ascontiguousarray(x.T)
        self.lost = 0.0

    @cached_property
    def _y(self) -> NDArray[np.float32]:
        y = np.ones((len(self.x), self.x.shape[1] + 1), np.float32)
        y[:, :-1] = self.x
        return y

    @cached_property
    def _total(self) -> float:
        return float(self.mass.sum())

    def clusters(self, centers: Floats) -> tuple[Labels, Sums]:
        labels = self.nearest(centers)
        return labels, self._sums(labels, len(centers))

    def _sums(self, labels: Labels, k: int) -> Sums:
        return Sums(np.stack([added(labels, x, k) for x in self.weighted], axis=1), added(labels, self.mass, k))

    def nearest(self, centers: Floats) -> Labels:
        """The labels (m,): the nearest of the centers (k, d)."""
        labels = np.empty(len(self.x), np.int64)
        if len(centers) <= _FEW:
            self._packed(centers, labels)
            return labels

        def part(rows: slice, scores: NDArray[np.float32]) -> None:
            labels[rows] = scores.argmin(axis=1)

        self._scored(centers, part)
        return labels

    def _packed(self, centers: Floats, labels: Labels) -> None:
        """Of few centers: a column of scores to a cell, with the center's index in the bits below, so that the least
        number is both. argmin's cost a row is that of 60 scores."""
        k = len(centers)
        scaled = score_columns(centers).astype(np.float64) * _FEW
        scaled[-1] += np.arange(k)
        scaled = np.ascontiguousarray(scaled.T)
        step = _SCORES // k

        def score(first: int) -> None:
            y = self._columns[:, first : first + step]
            scores = scratch("packed", step * k, np.float64)[: k * y.shape[1]].reshape(k, y.shape[1])
            least = np.minimum.reduce(np.matmul(scaled, y, out=scores), axis=0)
            np.bitwise_and(least.astype(np.int64), _FEW - 1, out=labels[first : first + step])

        self._run(score, range(0, len(self.x), step), k)

    @cached_property
    def _columns(self) -> Floats:
        return np.concatenate([self.columns, np.ones((1, len(self.x)))])

    def two_nearest(self, centers: Floats) -> tuple[Labels, Labels, Floats]:
        """The nearest, the next nearest, and how much larger their D is: (m,) each."""
        m, k = len(self.x), len(centers)
        labels, second, excess = np.empty(m, np.int64), np.empty(m, np.int64), np.empty(m)

        def part(rows: slice, scores: NDArray[np.float32]) -> None:
            flat, first = scores.reshape(-1), np.arange(0, scores.size, k)
            nearest = scores.argmin(axis=1)
            best = flat[first + nearest]
            flat[first + nearest] = np.inf
            next_ = scores.argmin(axis=1)
            labels[rows], second[rows] = nearest, next_
            excess[rows] = flat[first + next_] - best

        self._scored(centers, part)
        return labels, second, excess

    def seconds(self, centers: Floats) -> Seconds:
        k = len(centers)
        labels, second, excess = self.two_nearest(centers)
        excess *= self.mass
        bits = surplus(self._total)
        cost = added(labels, np.rint(np.ldexp(excess, -bits)) if bits else excess, k)
        return Seconds(labels, self._sums(labels, k), np.ldexp(cost, bits), np.unique(labels * k + second))

    def _scored(self, centers: Floats, part: Callable[[slice, NDArray[np.float32]], None]) -> None:
        """Calls part(rows, scores) for all rows, a piece at a time."""
        m, k = len(self.x), len(centers)
        columns = score_columns(centers)
        step = max(64, _SCORES // k)

        def score(first: int) -> None:
            y = self._y[first : first + step]
            scores = scratch("scores", step * k, np.float32)[: len(y) * k].reshape(len(y), k)
            np.matmul(y, columns, out=scores)
            part(slice(first, first + len(y)), scores)

        self._run(score, range(0, m, step), k)

    def _run(self, score: Callable[[int], None], pieces: range, k: int) -> None:
        run(score, pieces, thread_count() if len(self.x) * k >= _THREADED else 1)

    def halves(self, labels: Labels, centers: Floats) -> Sums:
        k = len(centers)
        off = [x - own.take(labels) for x, own in zip(self.columns, centers.T, strict=True)]
        mass = self.mass * fineness(self._total)

        def spread_of(x: Floats) -> Floats:
            terms = mass * x
            terms *= x
            return added(labels, np.rint(terms, out=terms), k)

        spread = np.stack([spread_of(x) for x in off])
        upper = np.choose(spread.argmax(axis=0)[labels], off) > 0
        return self._sums(labels + k * upper, 2 * k)

    def squares_to(self, centers: Floats) -> NDArray[np.float32]:
        """D from each of the centers (k, d) to each cell: (k, m), below 2**24 and exact."""
        squares_ = score_columns(centers).T @ self._y.T
        squares_ += self._norms
        return squares_

    @cached_property
    def _norms(self) -> NDArray[np.float32]:
        return squares(list(self.columns)).astype(np.float32)

    def seeds(self, draws: Floats) -> Floats:
        bits = surplus(self._total)
        mass = np.ceil(np.ldexp(self.mass, -bits)) if bits else self.mass
        centers = self.x[_drawn(mass, draws[0, :1])]
        closest = self.squares_to(centers)[0]
        for trials in draws[1:]:
            candidates = self.x[_drawn(mass * closest, trials)]
            proposed = np.minimum(self.squares_to(candidates), closest)
            best = int((proposed @ mass).argmin())
            centers, closest = np.concatenate([centers, candidates[best : best + 1]]), proposed[best]
        return centers

    def merged(self, grid: Grid) -> NumPyCells:
        return grid.table().add(self.columns, self.mass, self.weighted).cells()


def _drawn(mass: Floats, draws: Floats) -> Labels:
    """Indices at ranks, draws of the way through the mass, or the last ones where there is none."""
    ranks = np.cumsum(mass)
    return np.minimum(np.searchsorted(ranks, np.floor(draws * ranks[-1]), side="right"), len(mass) - 1)


def added(labels: Labels, x: Floats, k: int) -> Floats:
    """The sum of x (m,) over each of k labels."""
    return np.bincount(labels, x, k)  # type: ignore[return-value]  # float64 like its weights


def squares(columns: list[Floats]) -> Floats:
    """The sum of squares, (m,), of d columns (m,)."""
    total = columns[0] * columns[0]
    for column in columns[1:]:
        total += column * column
    return total


def score_columns(centers: Floats) -> NDArray[np.float32]:
    """What [x, 1] is multiplied by to give the scores of centers (k, d): (d + 1, k)."""
    return np.concatenate([-2 * centers.T, (centers.T**2).sum(axis=0)[None]]).astype(np.float32)


def whole_sum(x: Floats) -> int:
    """The sum of whole numbers, exactly, up to 2**63."""
    return int(x.astype(np.int64).sum())
