"""Rule 1 for sparse rows: the expanded distance E, which costs what a row stores (docs/design.md, section 1).

    E(x, c) = N(c) + sum over j of ((x_j - c_j)^2 - c_j^2),    N(c) = sum over j of c_j^2

Every operation is rounded on its own, both sums start at zero and take features in ascending order, and less than zero
is cut to zero. A feature that is zero adds (0 - c)^2 - c^2 = 0 to the bit, so that it makes no difference which zeros a
row stores, and nobody has to look at those that it does not. From a row to itself E is zero.

E takes the place of D where distances are summed or published; which center is nearest, and which row is farthest, is
for D to say, as for dense rows.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_array

from gpukmeans.exact.distance import U64, Floats
from gpukmeans.threads import scratch


@dataclass(frozen=True)
class Entries:
    """Rows (m, d) by what they store: values (e,), and their columns (e,), ascending in each row and none twice; row i
    has those from starts[i] to starts[i + 1], starts being (m + 1,)."""

    values: NDArray[Any]
    columns: NDArray[np.integer]
    starts: NDArray[np.integer]
    d: int

    @staticmethod
    def of(matrix: Any) -> Entries:
        """Those of a CSR matrix, which is copied only where entries are out of order or double. Entries of the same
        place add up, as in ``toarray()``."""
        if isinstance(matrix, Entries):
            return matrix
        columns, starts, values = matrix.indices, matrix.indptr, matrix.data[: matrix.indptr[-1]]
        columns = columns[: len(values)]
        if not _ascending(columns, starts):
            values, columns, starts = _in_order(values, columns, starts, matrix.shape[1])
        return Entries(values, columns, starts, matrix.shape[1])

    @property
    def m(self) -> int:
        return len(self.starts) - 1

    @property
    def shape(self) -> tuple[int, int]:
        return self.m, self.d

    @property
    def dtype(self) -> np.dtype[Any]:
        return self.values.dtype

    @property
    def most(self) -> int:
        """How many entries a row has at most."""
        return int(self.counts.max(initial=0))

    @cached_property
    def counts(self) -> NDArray[np.integer]:
        """How many entries each row has, (m,)."""
        return np.diff(self.starts)

    @cached_property
    def rows(self) -> NDArray[np.int64]:
        """Each entry's row, (e,)."""
        return np.repeat(np.arange(self.m), self.counts)

    @cached_property
    def exact(self) -> Floats:
        """The values as float64."""
        return self.values.astype(np.float64, copy=False)

    def take(self, rows: slice | NDArray[np.int64]) -> Entries:
        """Some of the rows: a slice of them, whose entries are not copied, or by their numbers."""
        if isinstance(rows, slice):
            a, b, _ = rows.indices(self.m)
            span = slice(self.starts[a], self.starts[b])
            return Entries(self.values[span], self.columns[span], self.starts[a : b + 1] - self.starts[a], self.d)
        counts = self.starts[rows + 1] - self.starts[rows]
        starts = np.concatenate([[0], np.cumsum(counts)]).astype(self.starts.dtype)
        at = np.arange(starts[-1]) + np.repeat(self.starts[rows] - starts[:-1], counts)
        return Entries(self.values[at], self.columns[at], starts, self.d)

    def equal(self, location: Floats) -> NDArray[np.bool_]:
        """Which rows lie there, (m,)."""
        same = (self.exact == location.take(self.columns)) & (self.values != 0)
        other = (self.exact != location.take(self.columns)) & (self.values != 0)
        at = np.bincount(self.rows, same, self.m) == np.count_nonzero(location)
        return at & (np.bincount(self.rows, other, self.m) == 0)

    def matrix(self, values: NDArray[Any]) -> csr_array:
        """These rows with other values (e,)."""
        return csr_array((values, self.columns, self.starts), shape=(self.m, self.d))

    def dense(self) -> Floats:
        """The rows as (d, m) float64."""
        result = np.zeros((self.d, self.m))
        result[self.columns, self.rows] = self.exact
        return result

    def add_up(self, steps: Floats) -> Floats:
        """The sum of each row's steps (e,) or (e, k), one after another, from zero: (m,) or (m, k).

        SciPy's products with ones add in order, and round nothing else
        (test_expanded_distance.test_it_is_what_a_plain_loop_computes fails of other orders).
        """
        if steps.ndim == 1:
            return self.matrix(steps) @ np.ones(self.d)
        order = np.arange(len(steps), dtype=self.starts.dtype)
        return csr_array((np.ones(len(steps)), order, self.starts), shape=(self.m, len(steps))) @ steps


def _ascending(columns: NDArray[Any], starts: NDArray[Any]) -> bool:
    """Whether columns ascend within each row, none twice (SciPy's flags may be out of date)."""
    ascend = columns[1:] > columns[:-1]
    firsts = starts[1:-1]
    ascend[firsts[(firsts > 0) & (firsts < len(columns))] - 1] = True
    return bool(ascend.all())


def _in_order(
    values: NDArray[Any], columns: NDArray[Any], starts: NDArray[Any], d: int
) -> tuple[NDArray[Any], NDArray[Any], NDArray[Any]]:
    """The same rows with columns in order; what is stored of one place is added up, in the order it is stored in."""
    places = np.repeat(np.arange(len(starts) - 1), np.diff(starts)) * d + columns
    places, which = np.unique(places, return_inverse=True)
    added = np.zeros(len(places), values.dtype)
    np.add.at(added, which, values)
    rows, columns = np.divmod(places, d)
    return added, columns, np.searchsorted(rows, np.arange(len(starts)))


def with_zero(low: Floats, high: Floats, absent: NDArray[np.bool_]) -> tuple[Floats, Floats]:
    """The least and the largest of what is stored, in place, once zero counts where a row lacks the feature."""
    return np.minimum(low, 0.0, out=low, where=absent), np.maximum(high, 0.0, out=high, where=absent)


def expanded_distances(entries: Entries, columns: Floats, squares: Floats) -> Floats:
    """E of each row to each of the centers, given as columns (d, k), whose N, `distance.norms`, is squares (k,):
    (m, k)."""
    k = columns.shape[1]
    own = scratch("centers", len(entries.columns) * k, np.float64).reshape(-1, k)
    own = columns.take(entries.columns, axis=0, out=own, mode="clip")  # the default mode would copy
    return _cut(entries.add_up(_steps(entries.exact[:, None], own)), squares)


def own_expanded_distances(entries: Entries, columns: Floats, squares: Floats, labels: NDArray[Any] | None) -> Floats:
    """E of each row to its own center, that of its label (m,), or the only one: (m,). The rest as above."""
    if labels is None:
        return _cut(entries.add_up(_steps(entries.exact, columns[:, 0].take(entries.columns))), squares)
    coordinates = np.ascontiguousarray(columns.T).reshape(-1)  # centers that lie along memory need no copy
    own = np.repeat(labels.astype(np.int64) * entries.d, entries.counts)
    own += entries.columns
    return _cut(entries.add_up(_steps(entries.exact, coordinates.take(own))), squares.take(labels))


def _steps(x: Floats, c: Floats) -> Floats:
    """(x - c)^2 - c^2; c is overwritten."""
    steps = np.subtract(x, c, out=scratch("steps", c.size, np.float64).reshape(c.shape))
    steps *= steps
    c *= c
    steps -= c
    return steps


def _cut(total: Floats, squares: Floats) -> Floats:
    total += squares
    return np.maximum(total, 0.0, out=total)


def expansion_error(d: int) -> float:
    """What E and D of d features differ by is less than this times |x|^2 + |c|^2, underflow apart.

    With u = 2**-53 and T the squared distance, at most 2 |x|^2 + 2 |c|^2: N is off by (d + 1) u |c|^2, and a step by
    4 u (x - c)^2 + 2 u c^2. Steps are at most 2 x^2 + c^2, so that adding them up is off by d u (2 |x|^2 + |c|^2), and
    adding N by u (T + 2 |c|^2). D itself is off by (d + 3) u T. Of |x|^2 that is 4 d + 16, of |c|^2 4 d + 21. One part
    in fifty covers what is of higher order in u
    (test_expanded_distance.test_it_differs_from_the_distance_by_rounding_alone fails of a tenth of that).
    """
    return 1.02 * (4 * d + 21) * U64


def normalize_entries(entries: Entries) -> Floats:
    """The values (e,) of rows brought to length one, as `distance.normalize` does it."""
    largest = np.zeros(entries.m)
    (some,) = entries.counts.nonzero()
    with np.errstate(invalid="ignore"):
        if len(some):
            largest[some] = np.maximum.reduceat(np.abs(entries.exact), entries.starts[some])
        _, exponent = np.frexp(largest)
        y = entries.exact * np.ldexp(1.0, np.clip(-exponent, -1022, 1022)).take(entries.rows)
        length = np.sqrt(entries.add_up(y * y))
        length[length == 0] = 1.0
        y /= length.take(entries.rows)
    return y
