"""Which columns of a table are features, and which one is weights."""

from __future__ import annotations

import argparse
import csv
import re
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import issparse

from gpukmeans.cli.errors import CommandError
from gpukmeans.cli.tables import Table, missing_value, place_of
from gpukmeans.row_sources.base import RowSource

# Names of a column that is likely to be the numbers of the rows, as pandas writes them.
_ROW_NUMBERS = re.compile(r"|Unnamed: \d+|__index_level_\d+__")

# The values of a block of rows, of which temporary arrays are made.
_BLOCK_VALUES = 2**20


@dataclass(frozen=True)
class Features:
    """Features (n, d) as they stand in a file, their names, and whether those are worth keeping: they come from the
    file, or are a choice of its columns. weights: (n,), if there are any."""

    X: Any
    names: list[str]
    keep_names: bool
    weights: NDArray[np.float64] | None = None


def names_in(text: str) -> list[str]:
    """The names in an argument, separated by commas; quoted where they have one themselves."""
    try:
        return next(csv.reader([text]), [""])
    except csv.Error:
        raise argparse.ArgumentTypeError(f'a name of several lines has to stand in ", got {text!r}') from None


def features(table: Table, columns: list[str] | None, drop: list[str] | None, weights: str | None) -> Features:
    """The features that are asked for: these columns, or all but those of drop, and the weights."""
    weigh = None if weights is None else _place(table, weights)
    left_out = {_place(table, name) for name in drop or ()}
    if columns is None:
        chosen = [place for place in range(len(table.names)) if place not in left_out and place != weigh]
        _check_no_row_numbers(table, chosen)
    else:
        chosen = [_place(table, name) for name in columns]
        if len(set(chosen)) < len(chosen) or weigh in chosen:
            raise CommandError(f"{table.source}: a column is named twice, in --columns or there and in --weights")
    if not chosen:
        raise CommandError(f"{table.source}: no column is left")
    names = [table.names[place] for place in chosen]
    X = table.matrix(chosen)
    if X.shape[0] == 0:
        raise CommandError(f"{table.source}: it has no rows")
    _check_finite(table, X, names)
    keep_names = table.named or names != table.names
    return Features(X, names, keep_names, None if weigh is None else _weights(table, weigh))


def features_of_model(table: Table, names: list[str] | None, n_features: int) -> Features:
    """The features that a model knows: by their names, or, where it or the file has none, all columns in order."""
    d = len(table.names)
    if names is not None and (table.named or set(names) <= set(table.names)):
        return features(table, names, None, None)
    if d > n_features or (d < n_features and not table.open_ended):
        raise CommandError(f"{table.source}: it has {d} columns, and the model {n_features} features")
    found = features(table, table.names, None, None)
    if d < n_features:
        found.X.resize((found.X.shape[0], n_features))
    return found


def _place(table: Table, name: str) -> int:
    try:
        return table.names.index(name)
    except ValueError:
        there = ", ".join(table.names[:10]) + (", ..." if len(table.names) > 10 else "")
        raise CommandError(f"{table.source}: no column {name!r}; it has {there}") from None


def _check_no_row_numbers(table: Table, chosen: list[int]) -> None:
    for place in chosen:
        name = table.names[place]
        if table.named and _ROW_NUMBERS.fullmatch(name):
            raise CommandError(
                f"{table.source}: column {place + 1}, named {name!r}, seems to number the rows: leave it out with "
                f"--drop '{name}', or name all that you want with --columns"
            )


def _check_finite(table: Table, X: Any, names: list[str]) -> None:
    if issparse(X):
        places = np.flatnonzero(~np.isfinite(X.data))
        if len(places):
            row = int(np.searchsorted(X.indptr, places[0], side="right")) - 1
            raise _not_finite(table, row, names[X.indices[places[0]]], X.data[places[0]], len(places))
        return
    if X.dtype.kind != "f":
        return
    first, count = None, 0
    for start, block in blocks(X):
        wrong = ~np.isfinite(block)
        here = int(np.count_nonzero(wrong))
        if here and first is None:
            row, column = np.argwhere(wrong)[0]
            first = start + int(row), names[column], block[row, column]
        count += here
    if first is not None:
        raise _not_finite(table, *first, count)


def _not_finite(table: Table, row: int, name: str, value: Any, count: int) -> CommandError:
    if np.isnan(value):
        return missing_value(table, row, name, count)
    return CommandError(f"{table.source}: {value} {place_of(table, row, name)}")


def _weights(table: Table, place: int) -> NDArray[np.float64]:
    found: Any = table.matrix([place])
    weights = np.asarray(found.toarray() if issparse(found) else found, np.float64).ravel()
    name = table.names[place]
    _check_finite(table, weights[:, None], [name])
    if weights.min() < 0:
        row = int(np.argmax(weights < 0))
        raise CommandError(f"{table.source}: a negative weight {place_of(table, row, name)}")
    if weights.max() == 0:
        raise CommandError(f"{table.source}: all weights, in column {name}, are zero")
    return weights


def blocks(X: NDArray[Any]) -> Any:
    """The number of the first row, and the rows, of each block."""
    if isinstance(X, RowSource):
        return ((rows.start, block) for rows, block in X.pieces())
    rows = max(1, _BLOCK_VALUES // X.shape[1])
    return ((start, X[start : start + rows]) for start in range(0, len(X), rows))
