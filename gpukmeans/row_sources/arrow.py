"""Rows in Arrow datasets: pyarrow.dataset, and single Parquet files, read a few record batches at a time."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from itertools import accumulate
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gpukmeans.array_interop import readable
from gpukmeans.row_sources.base import RowSource

# Rows of a record batch, at most: what decoding holds beside a piece.
_BATCH = 2**16


class ArrowRows(RowSource):
    """The columns of a dataset, or those that are named, as features in that order; what is missing is NaN. named:
    whether features are to be known by the names of these.

    Files are read from their beginning, but Parquet's from the row group that a row is in.
    """

    def __init__(self, dataset: Any, limit: int, columns: Sequence[str] | None = None, named: bool = True) -> None:
        import pyarrow as pa

        schema = dataset.schema if hasattr(dataset, "get_fragments") else dataset.schema_arrow
        self.names = list(schema.names if columns is None else columns)
        types = [schema.field(name).type for name in self.names]
        tests = (pa.types.is_integer, pa.types.is_floating, pa.types.is_decimal, pa.types.is_boolean, pa.types.is_null)
        others = [name for name, kind in zip(self.names, types, strict=True) if not any(test(kind) for test in tests)]
        if others:
            raise ValueError(f"There are no numbers in the columns {', '.join(others[:10])} of the dataset.")
        self.empty = pa.schema(list(zip(self.names, types, strict=True))).empty_table()
        dtype = readable(self.empty)[1]
        self._units = _units(dataset, self.names)
        self._starts = list(accumulate((rows for rows, _ in self._units), initial=0))
        super().__init__((self._starts[-1], len(self.names)), dtype, limit)
        self.given, self._named = dataset, named
        self._open: tuple[int, Iterator[Any]] = -1, iter(())  # the next row, and the batches from there on
        self._rest: Any = None  # of the batch that was begun

    def validation_proxy(self) -> Any:
        """A row, with the names of the features; no rows if there are none."""
        if not self._named:
            return super().validation_proxy()
        import pyarrow as pa

        row = [pa.array([0][: len(self)]).cast(pa.float64())] * self.shape[1]
        return pa.table(row, names=self.names)

    def _read(self, start: int, stop: int) -> NDArray[Any]:
        found = np.empty((stop - start, self.shape[1]), self.dtype)
        for at, batch in self._batches(start, stop):
            for column, values in zip(found[at - start : at - start + batch.num_rows].T, batch.columns, strict=True):
                column[:] = _numbers(values, self.dtype)
        return found

    def _batches(self, start: int, stop: int) -> Iterator[tuple[int, Any]]:
        """Record batches of these rows, each with the number of its first; goes on where the last call ended."""
        at, batches = self._open
        self._open = -1, batches  # until it is known again
        if at != start:
            unit = int(np.searchsorted(self._starts, start, side="right")) - 1
            at, batches, self._rest = self._starts[unit], self._from(unit), None
        while at < stop:
            batch = self._rest if self._rest is not None else next(batches)
            self._rest = None
            skipped = max(0, start - at)
            if skipped >= batch.num_rows:
                at += batch.num_rows
                continue
            here = min(batch.num_rows, stop - at)
            if here < batch.num_rows:
                self._rest = batch.slice(here)
            yield at + skipped, batch.slice(skipped, here - skipped)
            at += here
        self._open = at, batches

    def _from(self, unit: int) -> Iterator[Any]:
        for _, read in self._units[unit:]:
            yield from read()


def _units(dataset: Any, names: list[str]) -> list[tuple[int, Callable[[], Iterator[Any]]]]:
    """Where reading can begin: how many rows there are from there, and what reads them."""
    if not hasattr(dataset, "get_fragments"):  # a ParquetFile

        def read_group(group: int) -> Callable[[], Iterator[Any]]:
            return lambda: (
                batch.select(names) for batch in dataset.iter_batches(_BATCH, row_groups=[group], columns=names)
            )

        metadata = dataset.metadata
        return [(metadata.row_group(i).num_rows, read_group(i)) for i in range(metadata.num_row_groups)]

    def reading(fragment: Any) -> Callable[[], Iterator[Any]]:
        # Little is read ahead: a piece is, by the thread that reads it.
        return lambda: fragment.to_batches(
            schema=dataset.schema, columns=names, batch_size=_BATCH, batch_readahead=2, fragment_readahead=1
        )

    parts = []
    for fragment in dataset.get_fragments():
        split = getattr(fragment, "split_by_row_group", None)
        if split is None:
            parts.append((fragment.count_rows(), reading(fragment)))
        else:
            parts += [(group.row_groups[0].num_rows, reading(group)) for group in split()]
    return parts


def _numbers(values: Any, dtype: np.dtype) -> NDArray[Any]:
    """The values of a column, NaN where one is missing."""
    import pyarrow as pa

    if values.null_count and dtype.kind != "f":
        raise ValueError("Input X contains NaN: a value is missing in a column of whole numbers.")
    if pa.types.is_decimal(values.type):
        values = values.cast(pa.float64())
    return values.to_numpy(zero_copy_only=False)
