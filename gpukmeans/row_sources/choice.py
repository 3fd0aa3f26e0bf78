"""Which rows are read in pieces, and which are held: what a limit leaves room for."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from gpukmeans.row_sources.arrays import ArrayRows, SlicedRows, is_mapped, is_sliceable
from gpukmeans.row_sources.base import RowSource
from gpukmeans.row_sources.memory import in_bytes, kept_bytes

# So few bytes of a mapped file nobody asks for the limit of.
_SMALL = 2**24


def source_of(X: Any, memory_limit: int | str | None) -> RowSource | None:
    """The rows of X, if they are somewhere else than in memory, or too many to be worked on as a whole; None if X is to
    be read as it is.

    memory_limit: see `in_bytes`. Rows in memory have none, unless it is given.
    """
    if isinstance(X, np.ndarray):
        if memory_limit is None and (X.nbytes <= _SMALL or not is_mapped(X)):
            return None
        if X.ndim != 2 or X.size == 0 or X.dtype.kind not in "biuf" or type(X) not in (np.ndarray, np.memmap):
            return None
        source = ArrayRows(X, in_bytes(memory_limit))
        needed = kept_bytes(source.shape, source.dtype) + (source.nbytes if source.dtype != X.dtype else 0)
        return None if needed <= source.limit else source
    if isinstance(X, RowSource):
        return X
    if is_arrow(X):
        from gpukmeans.row_sources.arrow import ArrowRows

        return ArrowRows(X, in_bytes(memory_limit))
    return SlicedRows(X, in_bytes(memory_limit)) if is_sliceable(X) else None


def is_arrow(X: Any) -> bool:
    """Whether X is a dataset of pyarrow's, or a Parquet file that it opened."""
    name = type(X).__module__
    if name.partition(".")[0] != "pyarrow":
        return False
    return (hasattr(X, "get_fragments") and hasattr(X, "schema")) or hasattr(X, "iter_batches")


def held(source: RowSource) -> NDArray[Any] | RowSource:
    """All rows in memory where there is room for them and all that a fit keeps; the rows alone, to be worked on in
    pieces, where there is room for these; else the source."""
    if isinstance(source, ArrayRows) or len(source) < 2:
        return source if len(source) > 1 else source.whole()
    if source.nbytes + kept_bytes(source.shape, source.dtype) <= source.limit:
        return source.whole()
    if source.nbytes <= source.limit // 2:
        limit, source.limit = source.limit, source.limit // 4  # of which reading takes its part
        rows = ArrayRows(source.whole(), limit - source.nbytes)
        rows.given = source.given
        return rows
    return source
