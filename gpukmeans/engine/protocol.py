"""Points: the one seam between the algorithm and the devices.

A Points holds n points of d features, and a positive weight for each, somewhere; it does all the work
that grows with n. The drivers (lloyd.py, seeding.py) hold the k centers on the host, do all the work
that does not, and know no device. What crosses the seam is of size k * d at most, except `labels`
and `distances`. Where even that takes long, a Points makes the centers of an iteration itself
(`next_centers`), and the driver holds what stands for them.

What an implementation must guarantee: every number it returns is the one that exact/ defines, bit
for bit. How it finds them is its own affair: which rows it merges, in what order it keeps them, which
distances it skips, how many threads or devices it uses. Rows are known to the drivers by their
position in the caller's data. Every reduction is an integer sum, a minimum or a maximum, so several
Points behave as one by running each and adding up.

A new device is one more class with these methods, and one more line in dispatch.py.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from types import TracebackType
from typing import Any, NamedTuple, Protocol, Self

import numpy as np
from numpy.typing import NDArray

from gpukmeans.array_interop import issparse
from gpukmeans.exact.distance import Floats
from gpukmeans.exact.fixed_point import Ints, Weights
from gpukmeans.exact.inertia import Inertia
from gpukmeans.exact.metric import EUCLIDEAN, Metric
from gpukmeans.exact.scales import OwnScales, Scales
from gpukmeans.exact.sparse_rows import Entries


@dataclass(frozen=True)
class Samples:
    """The rows that a Points is made of, and what is known of them.

    x: (n, d), an array of uint8, float16, float32 or float64, on the host or a GPU, or a CSR matrix of these or its
    Entries (exact/sparse_rows.py), or a RowSource (row_sources/base.py), of which a part is read when its rows are
    looked at. It is never written to.
    weights: (n,) positive, as `Weights.of` returns them, with that summary; None for ones.
    summary: of the weights of all rows, of which these may be some; None for ones, these being all.
    metric: what is near; the engine brings the rows to length one if that is cosine.
    reused: whether one assignment follows another. If not, nothing is done that pays off over iterations.
    summed: whether rows or distances will be summed, at scales that each feature's range sets. If not, one range may
    stand for all features, where that is sooner found.
    distinct: whether no two rows are equal and none will be seeds, so that sorting them gains nothing.
    k: centers that they are likely to be compared with, so that kernels for as many are compiled; None if not known.
    memory_limit: as the user said it, of rows that are still to be read (row_sources/memory.py).
    """

    x: Any
    weights: Floats | Ints | None = None
    summary: Weights | None = None
    metric: Metric = EUCLIDEAN
    reused: bool = True
    summed: bool = True
    distinct: bool = False
    k: int | None = None
    memory_limit: int | str | None = None

    @property
    def all_weights(self) -> Weights:
        """The summary, that of ones where there is none."""
        return self.summary or Weights.of_rows(self.x.shape[0])

    @property
    def shape(self) -> tuple[int, int]:
        return self.x.shape

    @property
    def sparse(self) -> bool:
        """Whether x is a CSR matrix: distances that are summed or published are then E (exact/sparse_rows.py)."""
        return isinstance(self.x, Entries) or issparse(self.x)

    def part(self, rows: slice) -> Samples:
        """Some of the rows, with the summary of all."""
        weights = None if self.weights is None else self.weights[rows]
        x = self.x.take(rows) if isinstance(self.x, Entries) else self.x[rows]
        return replace(self, x=x, weights=weights, summary=self.all_weights)


class Farthest(NamedTuple):
    """Distinct locations, farthest first.

    distance: (m,) D to the center of the location's own cluster, all positive.
    x: (m, d) float64 coordinates. label: (m,) the cluster.
    """

    distance: Floats
    x: Floats
    label: NDArray[Any]

    @staticmethod
    def of(found: list[tuple[float, Floats, int]], d: int) -> Farthest:
        """From each location's distance, x and label; there may be none."""
        distances, xs, labels = zip(*found, strict=True) if found else ([], [], [])
        return Farthest(
            np.array(distances, np.float64), np.array(xs, np.float64).reshape(-1, d), np.array(labels, np.int64)
        )


class State(NamedTuple):
    """What is known of rows: the range of all, and what Points that had these rows before left behind.

    k: of the centers that labels (n,) are of. closest_dist_sq: (n,) D to the closest center of the seeding. None for
    what is not known or not needed.
    """

    low: Floats
    high: Floats
    scales: Scales | None
    k: int
    labels: NDArray[np.int32] | None
    closest_dist_sq: Floats | None


class MadeCenters(Protocol):
    """Centers that a Points made and keeps, (k, d) float64, until it is asked for labels by the ones after the next.
    `numpy.asarray` brings them to the host."""

    def __len__(self) -> int: ...

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> NDArray[Any]: ...


Centers = Floats | MadeCenters


class NextCenters(NamedTuple):
    """The centers that follow from labels, and how far each is from the one before: D, (k,)."""

    centers: Centers
    shifts: Floats


class Doubt(NamedTuple):
    """Which means are too coarse to go on with: those that may be off by more than a part of the way to another.

    limit: twice the square of `Scales.step` over that of the part; 0 if no mean can be. fractions: the mean of a
    cluster of a weight may be off by 1 + fractions / weight times that step. widest: the feature of the largest range.
    """

    limit: float
    fractions: float
    widest: int


# Of which clusters no more is to be known than that these are in their ranges, low and high (m, d): (m,).
Known = Callable[[Floats, Floats], NDArray[np.bool_]]


def seeding_trials(k: int) -> int:
    """Draws of k-means++ for each of k centers but the first; scikit-learn's number."""
    return 2 + int(math.log(k))


class CenterSampler(ABC):
    """What k-means++ draws centers from (seeding.greedy). Each of the things drawn weighs something, and keeps its D to
    the closest center so far."""

    @abstractmethod
    def total(self, exponent: int | None) -> int:
        """The sum of the fixed-point sampling weights: weight * closest D at 2**exponent, or weight alone.

        None means the weight, as `sums` counts it. Sets which of them `find` counts.
        """

    @abstractmethod
    def find(self, indices: list[int]) -> Floats:
        """The points (len(indices), d) float64 at these inverse-CDF indices: the first whose prefix sum of sampling
        weights, in row order, exceeds the index."""

    @abstractmethod
    def propose(self, candidates: Floats) -> None:
        """Consider new centers (m, d), all of them points, each in its own right."""

    @abstractmethod
    def potentials(self, exponent: int, exact: bool) -> tuple[Floats, Floats] | tuple[list[int], list[int]]:
        """For each candidate, a lower and an upper bound on the total sampling weight if it were chosen.

        Bounds are in units of 2**-exponent, that of the last `total`. If exact, both are the total itself.
        """

    @abstractmethod
    def accept(self, candidate: int) -> float:
        """Add a candidate to the chosen centers; returns the largest D that remains.

        The first call takes the candidate as the only center.
        """

    def accept_drawn(self, draws: Floats, farthest: float) -> tuple[Floats, float]:
        """Make steps of k-means++ after its first center, as `seeding.greedy` would by the methods above.

        draws: (steps, trials) in [0, 1). farthest: the largest D that remains. Returns the centers added, (m, d), and
        the largest D that then remains. m may be less than the steps: none where the driver has to decide, fewer where
        the total sampling weight is zero.
        """
        return np.empty((0, 0)), farthest


class Seeding(CenterSampler):
    """Centers chosen among the points, one after another or several at a time. A context: at its end all of this is
    forgotten.
    """

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if error is None:
            self.end()
        else:
            self.abandon()

    @abstractmethod
    def end(self) -> None:
        """Give back what was remembered."""

    def abandon(self) -> None:
        """The same after an error, which is not to be hidden by another."""
        with suppress(Exception):
            self.end()

    def accept_and_draw(self, candidate: int, exponent: int, indices: list[int]) -> tuple[float, int, Floats | None]:
        """What `accept`, then `total` and, if there are any indices, `find` return: for who knows what comes next, and
        has a long way to ask."""
        farthest = self.accept(candidate)
        return farthest, self.total(exponent), self.find(indices) if indices else None

    @abstractmethod
    def accept_all(self, centers: Floats) -> float:
        """Add centers (m, d), those that labels were last given by; returns the largest D that remains.

        Not the first call.
        """


class Points(Protocol):
    """n weighted points on one device, or on several."""

    n: int
    d: int
    weights: Weights
    metric: Metric
    sparse: bool  # see Samples

    @property
    def integral(self) -> bool:
        """Whether all values are known to be whole numbers, of at most 2**20."""

    @property
    def uncertain(self) -> int:
        """How many points fast scores left to D, over all assignments."""

    def feature_range(self) -> tuple[Floats, Floats]:
        """Least and largest value of each feature, (d,) float64 each; NaN if any value is NaN.

        Called first, once: the data are known to be finite before anything else looks at them. Of normalized rows, NaN
        also says that a value is infinite; and as scores and sums measure them from zero, so that opposite directions
        cancel to the bit, the least is the negative of the largest.
        """

    def set_feature_range(self, low: Floats, high: Floats) -> None:
        """These rows are some of those with this range, (d,) float64 each; called once theirs was asked for, or not.

        Centers lie there, and rows are better compared with them for knowing it.
        """

    def prepare(self, scales: Scales) -> None:
        """Set the scales of every sum; comes before all that adds up or seeds."""

    # The assignment and update steps

    def assign(self, centers: Centers) -> int:
        """Give every point the label of its nearest center (k, d), ties to the smallest label.

        Returns how many rows changed label; with another k than the last call's all do.
        """

    def next_centers(self, doubt: Doubt) -> NextCenters | None:
        """The centers that follow from the labels last given, as `lloyd.update` makes them, if this Points can make
        them where it is: no cluster is empty, and no mean in doubt. None if the driver has to, who need not ask.
        """

    def moved(self, centers: Floats, counts: Floats, part: float) -> tuple[Floats, Floats] | None:
        """The centers (k, d) that follow from the labels last given as a batch's, by centers (k, d) that have seen
        these weights (k,), and what they have seen then, as `minibatch_step.moved` has it, if this Points can make them
        where it is: no mean errs by more than that part of the range of its cluster's rows. None if the driver has to.
        """

    def sums(self) -> Ints:
        """The sums of the terms of each cluster's points, (k, d + 1) int64; the last column is weight."""

    def farthest(self, centers: Floats, m: int) -> Farthest:
        """Up to m distinct locations with the largest D to their own center, by the labels last given.

        Larger D first, then the smaller row. Locations on their center are left out.
        """

    def cluster_ranges(
        self, clusters: NDArray[np.int64], without: Floats, known: Known | None = None
    ) -> tuple[Floats, Floats]:
        """Least and largest value of each feature among the rows of each of these clusters (m,), ascending, by the
        labels last given: (m, d) float64 each, infinity and its negative where there are none. Rows at the locations
        `without` (p, d) do not count.

        Of clusters for which the ranges of some of their rows already say all that is to be `known`, these will do.
        """

    def cluster_sums(self, clusters: NDArray[np.int64], scales: OwnScales, without: Floats) -> Ints:
        """The sums of the same rows' terms at scales of these clusters' own, (m, d + 1) int64."""

    def inertia(self, centers: Floats, split: Inertia) -> tuple[int, int]:
        """The two integer sums of ``split`` over the D to each point's own center, or to the only one."""

    def labels(self) -> Any:
        """The labels last given, (n,) int32, in the caller's order, on the device that the rows were given on."""

    def distances(self, centers: Floats, dtype: Any = np.float64) -> Any:
        """What the metric makes of D from every point to every center, (n, k), where the rows were given: float64, or
        that rounded to float32 if this is the dtype asked for, and is found sooner.
        """

    def seeding(self) -> Seeding:
        """Begin to choose initial centers; an earlier choice is forgotten."""


class StackScales(NamedTuple):
    """`Scales` of each of b problems, (b, d) each."""

    low: Floats
    high: Floats
    offset: Floats
    scale: Floats
    step: Floats


class StackDoubt(NamedTuple):
    """`Doubt` of each of b problems: limit and widest, (b,); and the most that the mean variance of its features may
    be, (b,)."""

    limit: Floats
    widest: NDArray[np.int64]
    most_variance: Floats


class StackLabels(NamedTuple):
    """Of each of b problems: labels (n,) int32, of starts where the rows were given; the two sums of its inertia and
    the coarse bits of their `Inertia`, (b,) int64 each; and how many clusters have rows, (b,)."""

    labels: Sequence[Any]
    coarse: Ints
    fine: Ints
    coarse_bits: Ints
    occupied: Ints


class Stack(Protocol):
    """b problems, all of d features, which are fitted to their end without the driver: no call of it for an iteration,
    or a draw, takes as long as the rows do.

    What it returns is what `lloyd.fit` and `seeding.greedy` would have, or nothing: a problem of which it cannot be
    certain is left to these.
    """

    weights: Sequence[Weights]  # of each problem
    totals: Sequence[int]  # that weight, as `CenterSampler.total(None)`

    def find(self, problem: int, indices: list[int]) -> Floats:
        """Rows (m, d) of a problem as float64, by inverse-CDF indices of their weights, as `CenterSampler.find`."""

    def feature_range(self) -> tuple[Floats, Floats]:
        """Least and largest value of each feature, (b, d) float64 each, NaN if any value is NaN. Called first."""

    def prepare(self, scales: StackScales, doubt: StackDoubt) -> None:
        """Set the scales, of ranges that are finite."""

    def fit(
        self, centers: Floats, first: Floats, draws: Floats, tol: float, max_iter: int
    ) -> tuple[Floats, NDArray[np.int64]]:
        """Fit all problems from centers (b, k, d), which are written to; or, by first (b,) and draws (b, k - 1,
        trials), from those of k-means++. Draws (0, 0, 0): there are none.

        Returns centers (b, k, d) as they are to be published, but not rounded yet, and how many iterations it took,
        (b,), 0 where the problem is left to the driver.
        """

    def publish(self, centers: Floats) -> StackLabels:
        """Label the rows by these centers (b, k, d), and measure. Comes after `fit`."""


class StackLog(NamedTuple):
    """What is told of the iterations of b problems. changed: (b, room) int64, how many rows changed label, of the first
    all; shifts: (b, room, k), the squared shift of each center. What follows a problem's last iteration is undefined.
    """

    changed: Ints
    shifts: Floats


class StartsStack(Stack, Protocol):
    """Starts of one problem, as a Stack of as many problems that have their rows in common: ranges and scales are
    (1, d), and doubt is of one. A start of more iterations than `log` has room for is left to the driver. There is a
    log once there was a fit."""

    log: StackLog


# Of rows (n, d), their weights in use and a summary of these, how many centers and starts, and room in its log. None
# where it would have to be compiled, and that does not pay yet.
MakeStarts = Callable[[NDArray[Any], Floats | Ints | None, Weights, int, int, int], StartsStack | None]


class Stacks(NamedTuple):
    """What makes a Stack of problems, or none where they are fitted sooner by themselves.

    make(xs, weights, summaries, k, rows): of arrays (n, d) of one dtype, each with weights (n,) and a summary of these,
    of which the weights in use are all int64, all float64 or all None. rows: (m, d), where those of all are one array
    already, on the device or not, else None. mixed: whether problems may have other numbers of rows than each other,
    and weights of their own. values: of a stack at most.
    """

    make: Callable[[Sequence[Any], Sequence[Any], Sequence[Weights], int, Any], Stack | None]
    mixed: bool
    values: int
