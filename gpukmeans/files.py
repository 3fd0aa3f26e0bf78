"""Writing files whole or not at all."""

from __future__ import annotations

import io
import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO


def _created(temporary: Path, path: Path) -> IO[bytes]:
    """The temporary file, or an error that names the one that was asked for."""
    try:
        return open(temporary, "xb")
    except OSError as error:
        error.filename = str(path)
        raise


@contextmanager
def atomic(path: str | os.PathLike[str]) -> Iterator[IO[bytes]]:
    """A file that stands at path once it is whole and on disk, and nowhere if anything goes wrong before.

    What stood at path stays until then. A link keeps pointing where it did. What is there and cannot be replaced,
    such as a pipe or /dev/null, gets the bytes at the end: writers may seek in them until then.
    """
    path = Path(os.path.realpath(path))
    if path.is_dir():
        raise IsADirectoryError(f"cannot write a file to {path}: it is a folder")
    if path.exists() and not path.is_file():
        buffer = io.BytesIO()
        yield buffer
        with open(path, "wb") as file:
            file.write(buffer.getbuffer())
        return
    temporary = path.with_name(f".gpukmeans-{secrets.token_hex(8)}")  # the longest name may be as long as names get
    try:
        with _created(temporary, path) as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException:  # KeyboardInterrupt too
        temporary.unlink(missing_ok=True)
        raise
