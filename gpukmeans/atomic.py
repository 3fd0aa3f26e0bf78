"""Files that stand at their path once they are whole, and nowhere if anything goes wrong before."""

from __future__ import annotations

import io
import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO


@contextmanager
def whole_file(path: Path) -> Iterator[IO[bytes]]:
    """A file to write and to seek in; it replaces whatever stands at path when the context ends well.

    A link is followed. What is no regular file (a pipe, /dev/stdout) is not replaced: it gets the bytes at the end.
    """
    path = path.resolve()
    if path.exists() and not path.is_file():
        buffer = io.BytesIO()
        yield buffer
        with open(path, "wb") as file:
            file.write(buffer.getbuffer())
        return
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
    try:
        with open(temporary, "xb") as file:
            yield file
        os.replace(temporary, path)
    except BaseException:  # KeyboardInterrupt too
        temporary.unlink(missing_ok=True)
        raise
