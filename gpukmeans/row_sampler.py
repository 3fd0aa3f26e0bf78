"""Batches of rows, drawn at random (Rule 4), and how large they are."""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Iterator
from itertools import islice
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gpukmeans import array_interop, seeding
from gpukmeans.exact.distance import Floats
from gpukmeans.exact.fixed_point import Ints, Weights
from gpukmeans.row_sources.base import RowSource

# Bytes of a row's index, in the order of drawing and ascending, and where it belongs.
_PER_DRAW = 32


def sizes(n: int, n_clusters: int, batch_size: int, init_size: int | None) -> tuple[int, int]:
    """How many of n rows a batch has, and a sample for initial centers."""
    if n < n_clusters:
        raise ValueError(f"n_samples={n} should be >= n_clusters={n_clusters}.")
    batch_size = min(batch_size, n)
    if init_size is None:
        init_size = 3 * (batch_size if 3 * batch_size >= n_clusters else n_clusters)
    elif init_size < n_clusters:
        warnings.warn(
            f"init_size={init_size} should be larger than n_clusters={n_clusters}. "
            "Setting it to min(3*n_clusters, n_samples)",
            RuntimeWarning,
            stacklevel=4,
        )
        init_size = 3 * n_clusters
    return batch_size, min(init_size, n)


class RowSampler:
    """Draws rows of x in proportion to their weight, with repetitions.

    weights: the positive ones, None for ones; kept: which rows have them, None for all. As everywhere a draw
    is an index in the exact prefix sum of integer weights, in row order.
    """

    def __init__(self, x: Any, weights: Floats | None = None, kept: NDArray[np.bool_] | None = None) -> None:
        self._x = x
        self._rows = None if kept is None else np.flatnonzero(kept)
        self._given: tuple[Weights, Floats | Ints] | None = None
        self._prefix: Ints | None = None
        self._total = x.shape[0]
        if weights is not None:
            self._given = Weights.of(weights)
            self._prefix = np.cumsum(self._given[0].integer_weights(self._given[1]))
            self._total = int(self._prefix[-1])

    def draw(self, m: int, generator: np.random.RandomState) -> Any:
        """m rows."""
        return array_interop.take_rows(self._x, self._drawn(m, generator))

    def draws(self, m: int, generators: Iterable[np.random.RandomState]) -> Iterator[tuple[np.random.RandomState, Any]]:
        """Each generator, and m rows that it drew. Where rows are read in pieces, and none sooner for being asked for
        alone, those of many are taken in one pass; no draw depends on what became of the one before."""
        left, together = iter(generators), 1
        if isinstance(self._x, RowSource) and not self._x.at_random:
            together = max(1, self._x.limit // 4 // (m * (self._x.row_bytes + _PER_DRAW)))
        while some := list(islice(left, together)):
            drawn = [self._drawn(m, generator) for generator in some]
            rows = array_interop.take_rows(self._x, drawn[0] if len(drawn) == 1 else np.concatenate(drawn))
            for i, generator in enumerate(some):
                yield generator, rows[i * m : (i + 1) * m]

    def _drawn(self, m: int, generator: np.random.RandomState) -> NDArray[np.int64]:
        """The indices of m rows."""
        rows: NDArray[np.int64] = seeding.inverse_cdf_indices(generator.random_sample(m), self._total)
        if self._prefix is not None:
            rows = np.searchsorted(self._prefix, rows, side="right")
        return rows if self._rows is None else self._rows[rows]

    @property
    def weight(self) -> float:
        """The sum of the caller's weights."""
        if self._given is None:
            return float(self._total)
        with np.errstate(over="ignore"):
            return float(np.ldexp(self._given[0].total, -self._given[0].shift))

    def everything(self) -> tuple[Any, Floats | Ints | None, Weights | None]:
        """All rows that weigh anything, their weights as they are used, and the summary of those."""
        x = self._x if self._rows is None else array_interop.take_rows(self._x, self._rows)
        summary, weights = self._given or (None, None)
        return x, weights, summary
