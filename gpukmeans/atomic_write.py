"""Writing files whole or not at all."""

from __future__ import annotations

import errno
import io
import os
import secrets
import stat
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, Any

# What has been begun and is not whole yet.
_begun: set[Path] = set()

# Linux' name for who else may read and write a file.
_ACCESS_LIST = "system.posix_acl_access"


def discard() -> None:
    """Remove what has been begun. For a process that ends without an exception, and so without `atomic`'s own."""
    for temporary in list(_begun):
        with suppress(OSError):
            temporary.unlink(missing_ok=True)


def write(path: str | os.PathLike[str], save: Callable[[IO[bytes]], Any]) -> None:
    """Write a file as `atomic` does, by a function that writes to a binary file.

    It writes to memory: encoders that are given a file may write to it themselves, and not say why they could not.
    """
    buffer = io.BytesIO()
    save(buffer)
    with atomic(path) as file:
        file.write(buffer.getbuffer())


@contextmanager
def atomic(path: str | os.PathLike[str]) -> Iterator[IO[bytes]]:
    """A file that stands at path once it is whole and on disk, and nowhere if anything goes wrong before.

    What stood at path stays until then, and its owner, group and mode go on as far as they may be given away; until
    then nobody else can read the new one. A link keeps pointing where it did. What is there and cannot be replaced,
    such as a pipe or /dev/null, gets the bytes at the end: writers may seek in them until then.

    An OSError has the path as its filename. Only a process that is killed at once leaves what it had begun, a file
    named .gpukmeans-*.
    """
    given, path = os.fspath(path), Path(os.path.realpath(path))
    temporary = path.with_name(f".gpukmeans-{secrets.token_hex(8)}")  # the longest name may be as long as names get
    try:
        there = os.stat(path) if path.exists() else None
        if there is not None and stat.S_ISDIR(there.st_mode):
            raise IsADirectoryError(errno.EISDIR, "it is a folder")
        if there is not None and not stat.S_ISREG(there.st_mode):
            buffer = io.BytesIO()
            yield buffer
            with open(path, "wb") as file:
                file.write(buffer.getbuffer())
            return
        _begun.add(temporary)
        mode = 0o666 if there is None else 0o600
        with open(temporary, "xb", opener=lambda name, flags: os.open(name, flags, mode)) as file:
            yield file
            file.flush()
            _as_open_as(path, file.fileno())
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except OSError as error:
        if error.errno is None:  # a library's own words
            raise OSError(errno.EIO, str(error) or "the file could not be written", given) from error
        if error.filename is None or os.fspath(error.filename) in (str(temporary), str(path)):
            raise OSError(error.errno, error.strerror, given) from error
        raise
    finally:
        if temporary in _begun:
            with suppress(OSError):
                temporary.unlink(missing_ok=True)  # there is none once it has replaced the other
            _begun.discard(temporary)


def _as_open_as(path: Path, descriptor: int) -> None:
    """Give a file the owner, group, mode and access list of the one at path, or less, if there is one."""
    if not hasattr(os, "fchown") or not path.exists():
        return
    there = os.stat(path)
    mode = there.st_mode & 0o777
    with suppress(OSError):
        os.fchown(descriptor, -1, there.st_gid)
    with suppress(OSError):
        os.fchown(descriptor, there.st_uid, -1)
    same = os.fstat(descriptor).st_gid == there.st_gid
    if hasattr(os, "getxattr"):
        try:
            access = os.getxattr(path, _ACCESS_LIST)
        except OSError:  # it has none
            with suppress(OSError):
                os.removexattr(descriptor, _ACCESS_LIST)  # which the folder may have given it
        else:
            try:
                os.setxattr(descriptor, _ACCESS_LIST, access)
            except OSError:
                same = False
    if not same:  # a group may do no more than everybody, if it is another one
        mode &= 0o707 | (mode & 0o007) << 3
    with suppress(OSError):  # not every file system has modes
        os.fchmod(descriptor, mode)
