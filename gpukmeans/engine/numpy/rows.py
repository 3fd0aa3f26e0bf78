"""The rows that NumPyPoints works on, in each form that its passes read.

Rows are converted when a pass asks for them. What many passes will read again is kept, where that is
small: everything for a small data set, and the float32 features of one with many columns.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from gpukmeans.engine.numpy.normalized_rows import NormalizedRows
from gpukmeans.exact.certificate import Frame
from gpukmeans.exact.distance import Floats
from gpukmeans.exact.fixed_point import Ints
from gpukmeans.exact.scales import Scales
from gpukmeans.threads import run, scratch

# Data sets of up to this many values are kept as columns of float64 and as terms: 2 MB each.
_SMALL = 2**18

# Values to turn around at once: 128 KB of float64.
_BLOCK = 2**14

# Float32 features are kept if they take no more than this, or than the input itself.
_KEEP_BYTES = 2**26

_FEW_COLUMNS = 4

# Values of rows that are no array, and are made when a pass asks for them: 8 MB of float64 at once.
_MADE = 2**20


class Features(NamedTuple):
    """y: (m, d) float32, see certificate.Frame. norms: |y|^2, (m,) float32."""

    y: NDArray[np.float32]
    norms: NDArray[np.float32]

    def take(self, rows: NDArray[np.bool_]) -> Features:
        return Features(self.y[rows], self.norms[rows])


def read_only(values: NDArray[Any]) -> NDArray[Any]:
    """A view that nobody writes through: of one kind for compiled passes, whether the caller's array is such or not."""
    view = values.view()
    view.flags.writeable = False
    return view


class Rows:
    """x (m, d) in the input's dtype; weights (m,) or None for ones.

    once: whether few passes will read the rows, so that keeping anything is a waste. turned: whether a few are kept as
    columns of float64, as NumPy's passes read them, or row by row, as compiled ones do.
    """

    def __init__(
        self, x: NDArray[Any] | NormalizedRows, weights: Floats | Ints | None, *, once: bool, turned: bool = True
    ) -> None:
        self.m, self.d = x.shape
        self._once, self._turned = once, turned
        there = isinstance(x, np.ndarray)
        self.small = not once and there and x.size <= _SMALL
        self.x: Any = x
        if self.small:
            self.x = _columns(np.asarray(x)) if turned else np.ascontiguousarray(x)
        self._bytes = x.nbytes if isinstance(x, np.ndarray) else x.stored
        self.weights = weights
        # Stored column by column? Then rows are gathered column by column.
        self.feature_major = isinstance(self.x, np.ndarray) and self.x.flags.f_contiguous
        # How many rows a pass may ask for at once: those of an array are there already.
        self.most = self.m if there else max(1, _MADE // self.d)
        self._terms: tuple[Scales, Ints] | None = None
        self._features: Features | None = None
        self._norms: NDArray[np.float32] | None = None
        self._integral: bool | None = None

    def span(self, rows: NDArray[np.int64]) -> Any:
        """Rows, ascending, as a slice where they are all there are: what a slice reads is not copied."""
        return slice(None) if len(rows) == self.m else rows

    def weights_of(self, rows: Any) -> Floats | Ints | None:
        return None if self.weights is None else self.weights[rows]

    def take(self, rows: Any) -> NDArray[Any]:
        """Rows, a slice or indices, (m, d) in the input's dtype."""
        if isinstance(rows, slice) or not self.feature_major:
            return np.asarray(self.x[rows])
        # Of an array that is contiguous neither way, take would first copy all.
        return self.x.T.take(rows, axis=1).T

    def exact(self, rows: Any) -> Floats:
        """Rows as (d, m) float64."""
        return np.ascontiguousarray(self.take(rows).T, dtype=np.float64)

    def at(self, locations: Floats, rows: NDArray[np.int64], feature: int) -> NDArray[np.bool_]:
        """Which of the rows are at any of these locations (p, d), (m,): of those where this feature is, some."""
        here: NDArray[np.bool_] = np.ones(len(rows), bool)
        if isinstance(self.x, np.ndarray):  # of which one feature can be read
            here = np.isin(self.x[rows, feature], locations[:, feature])
        (found,) = here.nonzero()
        x = self.exact(rows[found])
        same = [(x == location[:, None]).all(axis=0) for location in locations]
        here[found] = np.logical_or.reduce(same, axis=0)
        return here

    def terms(self, rows: Any, scales: Scales) -> Ints:
        """Rows as fixed-point terms (m, d + 1), see scales.Scales."""
        if not self.small:
            return scales.terms(self.take(rows).T, self.weights_of(rows))
        if self._terms is None or self._terms[0] is not scales:
            self._terms = scales, scales.terms(self.exact(slice(None)), self.weights)
        terms = self._terms[1]
        return terms[rows] if isinstance(rows, slice) else terms.take(rows, axis=0)

    def features(self, rows: Any, frame: Frame) -> Features:
        """Rows as float32 features in the frame of all of them."""
        if self._features is not None:
            return Features(self._features.y[rows], self._features.norms[rows])
        y = frame.features(self.take(rows))
        return Features(y, np.einsum("ij,ij->i", y, y) if self._norms is None else self._norms[rows])

    @cached_property
    def may_be_integral(self) -> bool:
        """Whether all values of the first rows are whole numbers, which most data show that they are not."""
        return self.small and _integral(self.x[:16])

    def integral(self, frame: Frame) -> bool:
        """Whether all values are small whole numbers, as counts and pixels are: float32 features and scores
        are then exact.

        A midpoint of whole numbers is a multiple of a half, and so are coordinates relative to it; where these rows are
        some of all, it may be no such midpoint (test_sharded.test_what_is_true_of_a_part_may_not_be_of_all). With R the
        largest of the coordinates in halves, no partial sum of a score or of D, in any order, exceeds 4 d R^2 quarters,
        and float32 holds all whole numbers up to 2**24 (test_certificate.test_scores_of_other_numbers_are_not_trusted
        fails without that limit, or if some rows are not looked at).
        """
        if self._integral is None:
            fits = self.may_be_integral and 4 * self.d * 4 ** (1 - frame.exponent) <= 2**24
            fits = fits and np.array_equal(2 * frame.offset, np.rint(2 * frame.offset))
            self._integral = fits and _integral(self.x.reshape(-1, order="A"))
        return self._integral

    def keep_features(self, frame: Frame, spans: Callable[[], list[slice]], threads: int) -> None:
        """Convert all rows at once if that pays, or take their norms, where they are features themselves. Not
        thread-safe: call it before the passes."""
        if self._norms is not None or self._once:
            return
        pieces = spans()
        if self.small and len(pieces) == 1:
            self._features = self.features(slice(None), frame)
            self._norms = self._features.norms
            return
        norms = np.empty(self.m, np.float32)
        # A few columns are converted again as fast as they are read.
        there = (frame.keeps and self.x.dtype == np.float32) or (self.feature_major and self.d <= _FEW_COLUMNS)
        size = 0 if there else 4 * self.m * self.d
        y = None
        if 0 < size <= max(_KEEP_BYTES, self._bytes):
            y = np.empty((self.m, self.d), np.float32, order="F" if self.feature_major else "C")

        def convert(rows: slice) -> None:
            features = self.features(rows, frame)
            norms[rows] = features.norms
            if y is not None:
                y[rows] = features.y

        run(convert, pieces, threads)
        self._norms = norms
        self._features = None if y is None else Features(y, norms)


def _columns(x: NDArray[Any]) -> Floats:
    """x (m, d) as float64 with its columns contiguous; a few rows at a time, so that they stay in the cache."""
    if x.flags.f_contiguous:
        return np.asfortranarray(x, np.float64)
    result = np.empty(x.shape[::-1])
    step = max(64, _BLOCK // x.shape[1])
    for a in range(0, len(x), step):
        result[:, a : a + step] = x[a : a + step].T
    return result.T


def _integral(x: NDArray[Any]) -> bool:
    return bool((np.rint(x, out=scratch("steps", x.size, np.float64).reshape(x.shape)) == x).all())
