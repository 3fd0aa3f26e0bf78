"""What `gpukmeans fit` and `predict` write: refused before any work where it cannot be, and whole or not at all."""

from __future__ import annotations

import errno
import io
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

from gpukmeans import atomic_write
from gpukmeans.cli.errors import CommandError
from gpukmeans.cli.tables import import_arrow

LABELS = (".csv", ".npy", ".parquet", ".feather")
FIGURES = (".png", ".svg", ".pdf")

# Labels at once, of which lists are made.
_PIECE = 2**16


def check(targets: dict[str, tuple[str, tuple[str, ...]]], inputs: list[str], *, force: bool) -> None:
    """Raise CommandError for what is not to be written, or cannot be as far as that shows now. targets: for each
    option its path, and the endings that it may have."""
    written: dict[object, str] = {}
    read = {_identity(path): path for path in inputs}
    for option, (path, endings) in targets.items():
        if Path(path).suffix.lower() not in endings:
            raise CommandError(f"{option} {path}: its ending is none of {', '.join(endings)}")
        if Path(path).suffix.lower() in (".parquet", ".feather"):
            import_arrow(f"{option} {path}")
        folder = Path(os.path.realpath(path)).parent
        if os.path.isdir(path):
            raise CommandError(f"cannot write {path}: it is a folder")
        if not folder.is_dir():
            raise CommandError(f"cannot write {path}: there is no folder {folder}")
        if not os.access(folder, os.W_OK):
            raise CommandError(f"cannot write {path}: {os.strerror(errno.EACCES)}")
        if _identity(path) in written:
            raise CommandError(f"{written[_identity(path)]} and {option} would both be written to {path}")
        if _identity(path) in read and not force:
            raise CommandError(f"{option} would be written over {path}, which is read: say --force if it is meant to")
        written[_identity(path)] = option


def _identity(path: str) -> object:
    """The same for all names of a file."""
    try:
        there = os.stat(path)
        return there.st_dev, there.st_ino
    except OSError:
        return os.path.normcase(os.path.realpath(path))


@contextmanager
def writing(path: str) -> Iterator[None]:
    """An OSError in one line, which says that it came of writing."""
    try:
        yield
    except OSError as error:
        raise CommandError(f"cannot write {path}: {error.strerror or error}") from None


def write(path: str, save: Callable[[IO[bytes]], Any]) -> None:
    """Write a file whole or not at all, by a function that writes to a binary file."""
    with writing(path):
        atomic_write.write(path, save)


def write_labels(path: str, labels: NDArray[np.int32]) -> None:
    """Labels (n,) into a column "label" in the order of the rows, or into an array of int32, by the ending."""
    write(path, lambda file: _save_labels(file, Path(path).suffix.lower(), labels))


def sizes(labels: NDArray[np.int32], k: int) -> list[int]:
    """How many rows have each of k labels."""
    pieces = (labels[start : start + _PIECE] for start in range(0, len(labels), _PIECE))
    return sum((np.bincount(piece, minlength=k) for piece in pieces), np.zeros(k, np.int64)).tolist()


def _save_labels(file: IO[bytes], suffix: str, labels: NDArray[np.int32]) -> None:
    if suffix == ".csv":
        text = io.TextIOWrapper(file, "ascii", newline="\n")
        text.write("label\n")
        for start in range(0, len(labels), _PIECE):
            text.writelines(f"{label}\n" for label in labels[start : start + _PIECE].tolist())
        text.detach()
    elif suffix == ".npy":
        np.lib.format.write_array(file, labels, allow_pickle=False)
    else:
        table = import_arrow(f"a {suffix} file").table({"label": labels})
        if suffix == ".parquet":
            import_arrow("Parquet", "pyarrow.parquet").write_table(table, file)
        else:
            import_arrow("Feather", "pyarrow.feather").write_feather(table, file)
