"""What an engine of pictures does: all the work that grows with pixels, with distinct colors or with cells.

An engine is four classes. `Pixels` holds a picture's pixels, `Colors` its distinct colors with how much each counts,
`IntegralPoints` these colors as weighted points of whole numbers, and `Cells` the points that a grid's cells were made
of. Of 10^8 pixels a photograph has some 10^5 or 10^6 colors, and coarse grids have some thousands of cells. The drivers
(quantize.py, mapping.py, palette/) hold a palette of k colors or k centers on the host, do all the work that does not
grow, and know no device.

What an implementation must guarantee: every number that it returns is the one that is defined here, bit for bit.

- Colors are known by their codes (`levels.pack`), which come in ascending order.
- Points of a space are those of `color_space.to_points`, to the bit.
- The nearest color of a palette is the one of least D, as points or as levels; of equally near ones the first counts.
- Points become whole numbers as `grid.GridScale` says. All sums of these are exact, so that no order shows: each term
  is an integer, or is rounded by itself before it is added, and grid.py bounds what they come to.
- Errors are sums of integers, exact however large.

How it finds them is its own affair. Answers of size n or m are on the engine's device unless a method says otherwise.
What it is given, such as labels, may be there or on the host. A new device is one more class for each of the four, and
one more line in each function of dispatch.py.
"""

from __future__ import annotations

from typing import Any, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from gpukmeans.exact.distance import Floats
from gpukmeans.exact.fixed_point import Weights
from gpukmeans.image.grid import Grid
from gpukmeans.image.levels import Levels


class Mixtures(NamedTuple):
    """What m colors are mixed of: labels `first` and `second`, and of as many ranks as a pattern has `counts`, the
    lowest, take the first. (m,) int32 each, on the host."""

    first: NDArray[np.int32]
    second: NDArray[np.int32]
    counts: NDArray[np.int32]


class Pixels(Protocol):
    """n pixels of c channels, uint8 or uint16, on one device. Answers of size n are on the host, or on the GPU that the
    pixels were on already."""

    n: int

    def count(self) -> tuple[Any, Any]:
        """The distinct colors' codes (m,), ascending, and how many pixels have each, (m,) int64."""

    def map(self, codes: Any, labels: Any, dtype: Any) -> Any:
        """For each pixel the label of its color: (n,) of that dtype.

        codes: (m,), those that `count` says, or more, ascending. labels: (m,) int32.
        """

    def mixed(self, codes: Any, mixtures: Mixtures, ranks: NDArray[np.int32], width: int, dtype: Any) -> Any:
        """For each pixel one of the two labels of its color: (n,) of that dtype.

        codes: (m,), as for `map`. ranks: (t, t), which repeat over a picture of that width.
        """

    def error(self, palette: Levels, labels: Any) -> int:
        """The sum over pixels of |pixel - its color|^2 in levels; labels (n,) in palette (k, c)."""


class Colors(Protocol):
    """m distinct colors of c channels, uint8 or uint16, on one device. weights: (m,), positive, on that device."""

    channels: int
    dtype: Any
    weights: Any

    @property
    def mass_scale(self) -> float:
        """What weight 1 becomes so that whole masses are at most 2**MASS_BITS in all."""

    def __len__(self) -> int: ...

    def levels(self) -> Levels:
        """(m, c), on the host."""

    def points(self, space: str) -> Any:
        """(m, c), what is clustered."""

    def engine_weights(self) -> tuple[Weights, Any]:
        """The weights' summary, and the weights (m,) as the engine's Points take them."""

    def nearest(self, palette: Levels, space: str) -> Any:
        """The label of the palette's color (k, 3) or (k, 4) nearest to each, as points of the space: (m,) int32."""

    def nearest_levels(self, palette: Levels) -> Any:
        """The same of a palette (k, c), by levels as they are, alpha being one more."""

    def error(self, palette: Levels, labels: Any) -> int:
        """The sum of weight times squared difference of levels, premultiplied, from those that labels (m,) have in the
        palette (k, 3) or (k, 4). The weights are counts."""


class CellSums(NamedTuple):
    """sums: (k, d), each cluster's sum of mass times x. mass: (k,), that of mass. Whole numbers, on the host."""

    sums: Floats
    mass: Floats

    @property
    def means(self) -> Floats:
        """(k, d); of a cluster without cells zero."""
        return self.sums / np.maximum(self.mass, 1.0)[:, None]


class SecondNearest(NamedTuple):
    """What the nearest and the next nearest of k centers say.

    labels: (m,) nearest centers, on the device. clusters: their sums. cost: (k,), by how much the inertia grows if a
    cluster's cells go to the centers next to theirs; each term is less by `surplus_bits`, and rounded. pairs: those
    k * label + next that occur, ascending. All but labels on the host.
    """

    labels: Any
    clusters: CellSums
    cost: Floats
    pairs: NDArray[Any]


class Cells(Protocol):
    """m cells of mass, whole numbers within HALF of zero, on one device. Centers are whole numbers, too.

    grid: cells along the widest feature, 0 for colors that were not merged. square: the sum of mass |mean|^2, each term
    rounded. lost: the inertia about the means of what was merged.
    """

    m: int
    grid: int
    square: int
    lost: float

    def assign(self, centers: Floats) -> tuple[Any, CellSums]:
        """The labels (m,), on the device, of the nearest of the centers (k, d), and the clusters' sums."""

    def second_nearest(self, centers: Floats) -> SecondNearest:
        """The same, and what the next nearest of at least two centers say."""

    def half_sums(self, labels: Any, centers: Floats) -> CellSums:
        """Of each cluster, which has that center (k, d) as its mean, the part up to and, k further, that above the
        center along the axis of the largest spread, the first of equals: sums (2 k, d)."""

    def kmeans_plusplus(self, draws: Floats) -> Floats:
        """`seeding.greedy`: k of the cells, (k, d), from draws (k, trials) in [0, 1), one of them for the first step.

        Cells weigh their mass, less by `surplus_bits`, rounded up.
        """

    def merged(self, grid: Grid) -> Cells:
        """The cells of a coarser grid. A cell is at its mean, rounded."""


class IntegralPoints(Protocol):
    """Weighted points as whole numbers of a GridScale, on one device. square: the sum of mass times |x|^2, once
    `merged` was called."""

    square: int

    def merged(self, grid: Grid) -> Cells:
        """The cells of a grid."""

    def cells(self) -> Cells:
        """All points as they are."""
