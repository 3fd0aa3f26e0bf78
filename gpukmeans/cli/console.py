"""What the command says and is given: the standard streams, any of which may be closed, full or gone."""

from __future__ import annotations

import errno
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any


class OutputError(Exception):
    """Standard output could not be written, and why."""


@contextmanager
def _writing() -> Iterator[None]:
    try:
        yield
    except BrokenPipeError:  # whoever read has gone, which is no mistake
        raise
    except OSError as error:
        raise OutputError(f"cannot write standard output: {error.strerror or error}") from None


def say(*words: object) -> None:
    """Print a line at once, whatever is in it. Where standard output is closed nobody wants to hear."""
    line = " ".join(map(str, words))
    encoding = getattr(sys.stdout, "encoding", None) or "utf-8"
    with _writing():
        print(line.encode(encoding, "backslashreplace").decode(encoding), flush=True)


def flush() -> None:
    """Write what is waiting, here, where an error can still be caught."""
    with _writing():
        print(end="", flush=True)


def write(data: Any) -> None:
    """Write bytes, which somebody has asked for there."""
    if sys.stdout is None:
        raise OutputError("cannot write standard output: it is closed")
    with _writing():
        sys.stdout.buffer.write(data)
        sys.stdout.buffer.flush()


def read() -> bytes:
    """All of standard input. OSError, which names it, if that cannot be read."""
    if sys.stdin is None:
        raise OSError(errno.EBADF, "it is closed", "standard input")
    try:
        return sys.stdin.buffer.read()
    except OSError as error:
        error.filename = "standard input"
        raise


def complain(text: str) -> None:
    """An error in one line, to whoever hears it."""
    if sys.stderr is not None:  # or print would take standard output
        with suppress(OSError):
            line = " ".join(text.splitlines())  # names of files and columns may have several
            print(f"gpukmeans: error: {line}", file=sys.stderr, flush=True)


def note(text: str, kind: str | None = "note") -> None:
    """A line to whoever hears it, that is no result and no error."""
    if sys.stderr is not None:
        with suppress(OSError):
            print(f"gpukmeans: {kind}: {text}" if kind else f"gpukmeans: {text}", file=sys.stderr, flush=True)


@contextmanager
def quiet() -> Iterator[None]:
    """Nothing on standard error from libraries that write there themselves, as libtiff does of what it fails with."""
    try:
        kept = os.dup(2)
    except OSError:  # it is closed
        yield
        return
    try:
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, 2)
        os.close(nowhere)
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)


def discard() -> None:
    """Let the interpreter's last flush go nowhere, as it would only fail again."""
    with suppress(AttributeError, OSError):  # there may be no stdout, or not one that is a file
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
