"""Files of numbers as tables: CSV, Parquet, Feather, .npy, .npz and svmlight."""

from __future__ import annotations

import argparse
import csv
import io
import os
import stat
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from textwrap import shorten
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import sparse

from gpukmeans.cli.errors import CommandError
from gpukmeans.row_sources.arrays import ArrayRows, SlicedRows
from gpukmeans.row_sources.arrow import ArrowRows
from gpukmeans.row_sources.memory import in_bytes

# A table that is read as a whole stands in memory as it was read, as an array, and as a fit keeps it.
_FORMS = 3

# Longer lines than this are none of a table of numbers, and pyarrow takes no row longer than its blocks.
BLOCK_BYTES = 2**24

# Of a CSV that is read a block at a time, several of which pyarrow has in hand.
_FEW_BYTES = 2**20


def add_reading(parser: argparse.ArgumentParser) -> None:
    """Add the options of files that do not say by their ending how they are to be read."""
    parser.add_argument(
        "--delimiter", type=_delimiter, metavar="CHAR", help="between the values of a CSV (default: , or in .tsv a tab)"
    )
    parser.add_argument(
        "--header",
        choices=("yes", "no"),
        help="whether a CSV begins with the names of its columns (default: yes, but refused where all of them are "
        "numbers). Where a file has no names, they are 0, 1, 2 and so on",
    )
    parser.add_argument(
        "--array", metavar="NAME", help="which array of a .npz (default: the only one of two dimensions)"
    )
    parser.add_argument("--zero-based", action="store_true", help="the columns of a .svmlight begin with 0, not 1")
    parser.add_argument(
        "--memory-limit",
        type=_limit,
        metavar="BYTES",
        help="how much memory rows may take, as 4GB; more in a .npy, .parquet, .feather or .arrow is read in pieces, "
        "with the same answer, and so is a temporary file (TMPDIR) of the columns of a larger .csv or .tsv (default: a "
        "quarter of what is free)",
    )


def _limit(text: str) -> int | str:
    try:
        in_bytes(text)
    except ValueError:
        if not text.isdecimal() or int(text) == 0:
            raise argparse.ArgumentTypeError(f"must be a number of bytes, as 4000000000 or 4GB, got {text!r}") from None
        return int(text)
    return text


def _delimiter(text: str) -> str:
    if text == r"\t":  # as it is typed where a shell has no other way to say it
        return "\t"
    if len(text) != 1 or not text.isascii():
        raise argparse.ArgumentTypeError(f"must be a single character, got {text!r}")
    return text


def read(path: str, args: argparse.Namespace) -> Table:
    """The table in a file, by its ending. CommandError for what cannot be read, or is something else."""
    suffix = Path(path).suffix.lower()
    if suffix not in READERS:
        raise CommandError(f"{path}: its ending is none of {', '.join(READERS)}")
    what, reader = READERS[suffix]
    try:
        there = os.stat(path)
        if not stat.S_ISREG(there.st_mode):
            raise CommandError(f"{path}: it is {'a folder' if stat.S_ISDIR(there.st_mode) else 'no regular file'}")
        if there.st_size == 0:
            raise CommandError(f"{path}: it is empty")
        table = reader(path, args)
    except (CommandError, MemoryError):
        raise
    except OSError as error:
        if error.errno is not None:
            raise CommandError(f"{path}: {error.strerror}") from None
        raise CommandError(_damaged(path, what, error)) from None
    except Exception as error:  # damage shows at any step, as whatever that step raises
        raise CommandError(_damaged(path, what, error)) from None
    twice = sorted({name for name in table.names if table.names.count(name) > 1}) if _repeats(table.names) else []
    if twice:
        raise CommandError(f"{path}: several columns are named {', '.join(map(repr, twice))}")
    return table


def _damaged(path: str, what: str, error: Exception) -> str:
    return f"{path}: it is damaged, or no {what} ({shorten(str(error), 200)})"


def _repeats(names: list[str]) -> bool:
    return len(set(names)) < len(names)


@dataclass(frozen=True)
class MatrixTable:
    """A table that is an array or CSR matrix; its columns have numbers for names. open_ended: whether zeros at the end
    of all rows leave no trace in the file, so that it may be of more columns."""

    source: str
    whole: Any
    open_ended: bool = False
    named: bool = False
    limit: int | str | None = None  # of memory, for a file that is mapped

    @property
    def names(self) -> list[str]:
        return [str(column) for column in range(self.whole.shape[1])]

    def matrix(self, columns: list[int]) -> Any:
        """These columns as an array or CSR matrix (n, len(columns)), or as a RowSource where a mapped file has more
        than there is memory for."""
        every = columns == list(range(self.whole.shape[1]))
        if self.limit is not None and isinstance(self.whole, np.memmap):
            limit = in_bytes(self.limit)
            if _FORMS * 8 * len(self.whole) * len(columns) > limit:
                return ArrayRows(self.whole, limit) if every else SlicedRows(_Columns(self.whole, columns), limit)
        return self.whole if every else self.whole[:, columns]


class _Columns:
    """Some columns of an array, by slices of rows."""

    def __init__(self, x: NDArray[Any], columns: list[int]) -> None:
        self._x, self._columns = x, columns
        self.shape, self.dtype = (len(x), len(columns)), x.dtype

    def __getitem__(self, rows: slice) -> NDArray[Any]:
        return self._x[rows][:, self._columns]


def _matrix(source: str, array: Any, *, open_ended: bool = False, limit: int | str | None = None) -> MatrixTable:
    if array.ndim != 2:
        raise CommandError(f"{source}: its array has the shape {array.shape}, and should have two dimensions")
    if array.dtype.kind not in "biuf":
        raise CommandError(f"{source}: its array is of {array.dtype}, which is no real number")
    return MatrixTable(source, array, open_ended, limit=limit)


@dataclass(frozen=True)
class ArrowTable:
    """A pyarrow.Table. names: of its columns, which are numbers if the file has none."""

    source: str
    names: list[str]
    table: Any
    named: bool
    open_ended: bool = False

    def matrix(self, columns: list[int]) -> NDArray[Any]:
        """These columns as an array (n, len(columns)). CommandError for what is no number, or missing."""
        import pyarrow as pa

        found = [self.table.column(column) for column in columns]
        names = [self.names[column] for column in columns]
        self.check_numbers(columns)
        self._check_missing(names, found)
        kinds = {column.type for column in found}
        kept = {pa.float32(): np.float32, pa.float16(): np.float16, pa.uint8(): np.uint8}
        dtype = kept.get(kinds.pop(), np.float64) if len(kinds) == 1 else np.float64
        matrix = np.empty((self.table.num_rows, len(columns)), dtype)
        for column, values in zip(matrix.T, found, strict=True):
            column[:] = (values.cast(pa.float64()) if pa.types.is_decimal(values.type) else values).to_numpy()
        return matrix

    def check_numbers(self, columns: list[int]) -> None:
        """CommandError for columns of something else."""
        import pyarrow as pa

        def is_number(kind: Any) -> bool:
            tests = (pa.types.is_integer, pa.types.is_floating, pa.types.is_decimal, pa.types.is_boolean)
            return any(test(kind) for test in (*tests, pa.types.is_null))

        found = [(self.names[column], self.table.column(column)) for column in columns]
        wrong = [(name, column) for name, column in found if not is_number(column.type)]
        if wrong:
            first = _first_word(wrong[0][1])
            which = ", ".join(name for name, _ in wrong[:10]) + (", ..." if len(wrong) > 10 else "")
            raise CommandError(
                f"{self.source}: no numbers in {'column' if len(wrong) == 1 else 'columns'} {which} ({first}): leave "
                "out such columns with --drop, or name the others with --columns"
            )

    def _check_missing(self, names: list[str], columns: list[Any]) -> None:
        import pyarrow.compute as pc

        found = [
            (pc.index(column.is_null(), True).as_py(), place)
            for place, column in enumerate(columns)
            if column.null_count
        ]
        if found:
            row, place = min(found)
            raise missing_value(self, row, names[place], sum(column.null_count for column in columns))


@dataclass(frozen=True)
class DatasetTable:
    """A pyarrow dataset of one file, which is not read yet. limit: of memory."""

    source: str
    names: list[str]
    dataset: Any
    limit: int
    named: bool = True
    open_ended: bool = False

    def matrix(self, columns: list[int]) -> ArrowRows:
        """These columns as rows to be read. CommandError for what is no number."""
        try:
            return ArrowRows(self.dataset, self.limit, [self.names[column] for column in columns], named=False)
        except ValueError as error:
            raise CommandError(
                f"{self.source}: {error} Leave out such columns with --drop, or name the others with --columns"
            ) from None


@dataclass(frozen=True)
class LargeCsv:
    """A CSV that is more than there is memory for. open: a reader of its record batches, see pyarrow.csv.open_csv, by
    the options of ConvertOptions; limit: of memory."""

    source: str
    names: list[str]
    open: Callable[..., Any]
    limit: int
    named: bool
    open_ended: bool = False

    def matrix(self, columns: list[int]) -> ArrayRows:
        """These columns as rows of a temporary file that goes when they do: each pass over text would read it anew.
        CommandError for what is no number; what is missing is NaN."""
        import pyarrow as pa

        with self.open() as reader:
            batch = next(iter(reader), None)
        if batch is None:
            raise CommandError(f"{self.source}: it has no rows")
        start = pa.Table.from_batches([batch])
        ArrowTable(self.source, self.names, start, self.named).check_numbers(columns)
        # Integers may become floats after the first block, of which their type is.
        kinds = {field.name: field.type if pa.types.is_boolean(field.type) else pa.float64() for field in start.schema}
        chosen = [start.schema.names[column] for column in columns]
        n = 0
        with tempfile.TemporaryFile(prefix="gpukmeans-") as file:
            try:
                with self.open(include_columns=chosen, column_types={name: kinds[name] for name in chosen}) as reader:
                    for batch in reader:
                        values = [column.cast(pa.float64()).to_numpy(zero_copy_only=False) for column in batch.columns]
                        file.write(np.column_stack(values).data)
                        n += batch.num_rows
            except pa.ArrowInvalid as error:
                raise CommandError(_damaged(self.source, "CSV of numbers", error)) from None
            file.flush()
            return ArrayRows(np.memmap(file, np.float64, "r", shape=(n, len(columns))), self.limit)


Table = MatrixTable | ArrowTable | DatasetTable | LargeCsv


def missing_value(table: Table, row: int, name: str, count: int) -> CommandError:
    """The error of values that are not there; row: of the first, from 0."""
    return CommandError(f"{table.source}: a missing value {place_of(table, row, name, count)}")


def place_of(table: Table, row: int, name: str, count: int = 1) -> str:
    """Where a value stands, the first of so many; row: from 0. A column without a name goes by its number, as with
    --columns."""
    more = "" if count == 1 else f", the first of {count:,}"
    columns = "" if table.named else ", columns from 0"
    return f"in row {row + 1:,}, column {name}{more} (rows count from 1{columns})"


def _first_word(column: Any) -> str:
    """The first value of a column that is no number, and where it is."""
    row = 0
    for chunk in column.chunks:
        for value in chunk:
            value = value.as_py()
            if value is not None and not (isinstance(value, str) and _is_number(value)):
                return f"{shorten(str(value), 40)!r} in row {row + 1:,}"
            row += 1
    return f"of type {column.type}"


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


def import_arrow(why: str, module: str = "pyarrow") -> Any:
    """pyarrow, or a module of its own. CommandError where it is not installed."""
    from importlib import import_module

    try:
        return import_module(module)
    except ImportError as error:
        raise CommandError(f"{why} needs pyarrow ({error}): pip install 'gpukmeans[files]'") from None


def _read_csv(path: str, args: argparse.Namespace) -> Table:
    arrow_csv = import_arrow(f"{path}: a CSV", "pyarrow.csv")
    delimiter = args.delimiter or ("\t" if path.lower().endswith(".tsv") else ",")
    with open(path, "rb") as file:
        start = file.read(BLOCK_BYTES)
    if b"\0" in start or start.startswith((b"PAR1", b"ARROW1")):
        raise CommandError(f"{path}: it is no CSV, which is text in UTF-8")
    lines = csv.reader(io.StringIO(start.decode("utf-8-sig", "replace"), newline=""), delimiter=delimiter)
    fields = next((fields for fields in lines if fields), [])
    if args.delimiter is None and len(fields) == 1:
        _check_delimiter(path, fields[0], delimiter)
    if args.header is None and all(map(_is_number, fields)):
        raise CommandError(
            f"{path}: its first line has numbers only: say --header no if it is a row, --header yes if it has the "
            "names of the columns"
        )
    named = args.header != "no"
    how = {
        "read_options": arrow_csv.ReadOptions(block_size=BLOCK_BYTES, autogenerate_column_names=not named),
        # An empty line in a single column is a missing value: to skip it would move all labels behind it.
        "parse_options": arrow_csv.ParseOptions(
            delimiter=delimiter, newlines_in_values=True, ignore_empty_lines=len(fields) > 1
        ),
    }
    values = (start.count(delimiter.encode()) + start.count(b"\n")) / len(start) * os.stat(path).st_size
    limit = in_bytes(args.memory_limit)
    if _FORMS * 8 * values > limit:
        if start.find(b"\n") < _FEW_BYTES // 16:  # of a file of long lines, blocks stay as large as they may be
            how["read_options"].block_size = _FEW_BYTES

        def open_csv(**convert: Any) -> Any:
            return arrow_csv.open_csv(path, convert_options=arrow_csv.ConvertOptions(**convert), **how)

        with open_csv() as reader:
            names = list(reader.schema.names)
        return LargeCsv(path, names if named else [str(i) for i in range(len(names))], open_csv, limit, named)
    table = arrow_csv.read_csv(path, **how)
    return ArrowTable(path, table.column_names if named else [str(i) for i in range(table.num_columns)], table, named)


def _check_delimiter(path: str, line: str, delimiter: str) -> None:
    """Refuse a first line that `delimiter` leaves in one piece, and another one would not."""
    others = [other for other in (";", "\t", "|", ",") if other != delimiter and other in line]
    if others:
        has, say = (repr(char).strip("'") for char in (delimiter, others[0]))
        raise CommandError(
            f"{path}: there is no '{has}' in its first line, but '{say}': say --delimiter '{say}' if that is between "
            f"its values, --delimiter '{has}' if it has a single column"
        )


def _read_parquet(path: str, args: argparse.Namespace) -> Table:
    # Not read_table, which makes columns of folders that are named like year=2026.
    with import_arrow(f"{path}: Parquet", "pyarrow.parquet").ParquetFile(path) as file:
        size = 8 * file.metadata.num_rows * file.metadata.num_columns
        if _FORMS * size > in_bytes(args.memory_limit):
            return _dataset(path, "parquet", args)
        table = file.read()
    return ArrowTable(path, table.column_names, table, named=True)


def _read_feather(path: str, args: argparse.Namespace) -> Table:
    feather = import_arrow(f"{path}: Feather", "pyarrow.feather")
    if _FORMS * os.stat(path).st_size > in_bytes(args.memory_limit):
        return _dataset(path, "feather", args)
    table = feather.read_table(path)
    return ArrowTable(path, table.column_names, table, named=True)


def _dataset(path: str, kind: str, args: argparse.Namespace) -> Table:
    dataset = import_arrow(path, "pyarrow.dataset").dataset(path, format=kind)
    return DatasetTable(path, list(dataset.schema.names), dataset, in_bytes(args.memory_limit))


def _read_npy(path: str, args: argparse.Namespace) -> Table:
    return _matrix(path, np.lib.format.open_memmap(path, mode="r"), limit=args.memory_limit or in_bytes(None))


def _read_npz(path: str, args: argparse.Namespace) -> Table:
    with open(path, "rb") as file:
        if file.read(2) != b"PK":  # numpy.load would take it for something else
            raise ValueError("it does not begin as a zip archive does")
        file.seek(0)
        archive = np.load(file, allow_pickle=False)
        if {"format", "shape", "data"} <= {*archive.files}:
            return _matrix(path, sparse.load_npz(path).tocsr())
        if args.array is not None:
            if args.array not in archive.files:
                raise CommandError(f"{path}: no array {args.array!r} in it; it has {_listed(archive.files)}")
            return _matrix(path, archive[args.array])
        arrays = {name: archive[name] for name in archive.files if not name.endswith(".json")}
    of_two = [name for name, array in arrays.items() if array.ndim == 2]
    if len(of_two) != 1:
        how_many = "no array" if not of_two else "several arrays"
        advice = ": say which with --array" if of_two else ""
        raise CommandError(f"{path}: it has {how_many} of two dimensions ({_listed(of_two or list(arrays))}){advice}")
    return _matrix(path, arrays[of_two[0]])


def _listed(names: list[str]) -> str:
    return ", ".join(names[:10]) + (", ..." if len(names) > 10 else "") or "nothing"


def _read_svmlight(path: str, args: argparse.Namespace) -> Table:
    from sklearn.datasets import load_svmlight_file

    try:
        rows, _ = load_svmlight_file(path, zero_based=args.zero_based)
    except ValueError as error:
        if "invalid index 0" in str(error).lower():
            raise CommandError(f"{path}: its columns begin with 0: say --zero-based") from None
        raise
    return _matrix(path, rows, open_ended=True)


READERS: dict[str, tuple[str, Callable[[str, argparse.Namespace], Table]]] = {
    ".csv": ("CSV", _read_csv),
    ".tsv": ("CSV", _read_csv),
    ".parquet": ("Parquet file", _read_parquet),
    ".feather": ("Feather file", _read_feather),
    ".arrow": ("Arrow file", _read_feather),
    ".npy": (".npy file", _read_npy),
    ".npz": (".npz file", _read_npz),
    ".svmlight": ("svmlight file", _read_svmlight),
    ".libsvm": ("svmlight file", _read_svmlight),
}
