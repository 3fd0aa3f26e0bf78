"""The file that an estimator is saved to: a zip archive of metadata.json and arrays, read within bounds.

Nothing is compressed, so what is read is no larger than the file, whatever the file says of itself. Only what
is no array may take more memory than it takes in the file, and therefore has a limit.
"""

from __future__ import annotations

import io
import itertools
import json
import math
import re
import sys
import zipfile
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

from gpukmeans.saving.rule_types import RefusedError, describe_value

METADATA = "metadata.json"

# The metadata's bytes, and the values, lists and dicts in them (brackets and commas): a history of 30,000 iterations,
# or a list of lists of 300,000 floats. What takes less becomes at most some 60 MB of Python's objects.
MAX_METADATA_BYTES = 2**23
MAX_METADATA_VALUES = 2**19

# Arrays, each in some 110 bytes of the directory, which becomes some 800 bytes of Python's objects.
MAX_ARRAYS = 2**13
MAX_DIRECTORY_BYTES = 2**20

# The bytes of a member before its name.
LOCAL_HEADER_BYTES = 30

# numpy.load's limit for the text of a header, and the 12 bytes before it.
MAX_HEADER_BYTES = 10_000 + 12

# Names that a zip archive keeps as they are.
_PLAIN = re.compile(r"[A-Za-z0-9_. -]{1,60}")


class NamedArrays:
    """Arrays on their way to a file, each under a name of its own."""

    def __init__(self) -> None:
        self.members: dict[str, NDArray[Any]] = {}

    def put(self, array: NDArray[Any], key: str) -> str:
        """Keep an array; returns its name, which is the key if that will do. Raises RefusedError for one too many."""
        first = name = key if _PLAIN.fullmatch(key) else "array"
        others = itertools.count(len(self.members))
        while name in self.members:  # the dots of two keys may stand for different things
            name = f"{first} {next(others)}"
        self.members[name] = array
        if len(self.members) > MAX_ARRAYS:
            raise RefusedError(f"it holds more than {MAX_ARRAYS:,} arrays and NumPy scalars. Give it one array of them")
        return name


def write(file: IO[bytes], metadata: dict[str, Any], arrays: NamedArrays) -> None:
    """Write the archive; raises RefusedError for metadata that would not be read."""
    text = json.dumps(metadata, indent=1)
    _check_metadata(text)
    # A ZipInfo has a fixed date unless it is given one, and so have the files.
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr(zipfile.ZipInfo(METADATA), text)
        for name, array in arrays.members.items():
            with archive.open(zipfile.ZipInfo(f"{name}.npy"), "w", force_zip64=True) as member:
                np.lib.format.write_array(member, array, allow_pickle=False)


class Archive:
    """A file that was opened for reading; raises RefusedError, or whatever damage leads to."""

    def __init__(self, file: IO[bytes]) -> None:
        bounded = _BoundedReads(file)
        self._archive = zipfile.ZipFile(bounded)
        bounded.most = sys.maxsize  # from here on, the sizes of members are known
        members = self._archive.infolist()
        self._unread = {member.filename: member for member in members}
        if len(self._unread) < len(members):
            raise RefusedError("it has several members of one name")
        if len(members) > MAX_ARRAYS + 1:
            raise RefusedError(f"it holds {len(members):,} members, and at most {MAX_ARRAYS + 1:,} are read")
        end = file.seek(0, io.SEEK_END)
        for member in sorted(members, key=lambda member: member.header_offset, reverse=True):
            if member.compress_type != zipfile.ZIP_STORED or member.file_size != member.compress_size:
                raise RefusedError(
                    f"{describe_value(member.filename)} in it is compressed, which no estimator is saved as"
                )
            if member.header_offset + LOCAL_HEADER_BYTES + len(member.filename) + member.file_size > end:
                raise RefusedError(f"{describe_value(member.filename)} in it goes beyond its place")
            end = member.header_offset

    def metadata(self) -> dict[str, Any]:
        """What metadata.json holds, to be had once."""
        member = self._unread.pop(METADATA)
        if member.file_size > MAX_METADATA_BYTES:
            raise RefusedError(
                f"its metadata take {member.file_size:,} bytes, and at most {MAX_METADATA_BYTES:,} are read"
            )
        text = self._archive.read(member).decode("ascii")  # a single letter beyond would have all take four bytes
        _check_metadata(text)
        return json.loads(text, object_pairs_hook=_without_repetition)

    def array(self, name: str) -> NDArray[Any]:
        """The array of this name, to be had once."""
        member = self._unread.pop(f"{name}.npy", None) if isinstance(name, str) else None
        if member is None:
            raise RefusedError(
                f"its metadata refer to an array {describe_value(name)}, which is not there, or not for them alone"
            )
        with self._archive.open(member) as source:
            shape, dtype, data = _header(source.read(MAX_HEADER_BYTES))
            count = math.prod(shape)
            # There is no end of values without bytes, so those count as if they had one.
            fits = data + count * dtype.itemsize == member.file_size and count <= member.file_size
            if not fits or dtype.hasobject or min(shape, default=0) < 0:
                claim = f"the shape {describe_value(shape)} and the dtype {describe_value(dtype.str)}"
                raise RefusedError(f"{member.filename} claims {claim}, which is not what its size can hold")
            source.seek(0)
            array = np.lib.format.read_array(source, allow_pickle=False)
            source.read(1)  # the end, where the checksum is compared
        if not _is_valid(array):
            raise RefusedError(f"{member.filename} has bytes that are no values of {describe_value(dtype)}")
        return array

    def scalar(self, name: str) -> Any:
        """The NumPy scalar that the array of this name holds, to be had once."""
        array = self.array(name)
        if array.shape != ():
            raise RefusedError(f"{name}.npy has the shape {describe_value(array.shape)}, and should be a scalar")
        return array[()]

    def finish(self) -> None:
        """Raise RefusedError if there is anything that nobody asked for."""
        if self._unread:
            raise RefusedError(f"it holds {describe_value(sorted(self._unread))}, which its metadata do not refer to")


class _BoundedReads:
    """A file of which little is read at a time: zipfile takes the directory to be of any size that it says it has."""

    def __init__(self, file: IO[bytes]) -> None:
        self._file = file
        self.most = MAX_DIRECTORY_BYTES
        self.seek, self.tell, self.seekable = file.seek, file.tell, file.seekable

    def read(self, size: int = -1) -> bytes:
        content = self._file.read(self.most if size < 0 else min(size, self.most))
        if len(content) == self.most:
            raise RefusedError(f"its directory takes {self.most:,} bytes or more")
        return content


def _check_metadata(text: str) -> None:
    if len(text) > MAX_METADATA_BYTES or sum(map(text.count, "[{,")) > MAX_METADATA_VALUES:
        raise RefusedError(
            f"what is no array takes more than {MAX_METADATA_BYTES:,} bytes or has more than {MAX_METADATA_VALUES:,} "
            "values. Long lists belong in NumPy arrays"
        )


def _without_repetition(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    content = dict(pairs)
    if len(content) < len(pairs):
        raise RefusedError("its metadata say two things under one name")
    return content


def _header(start: bytes) -> tuple[tuple[int, ...], np.dtype, int]:
    """The shape and dtype that the start of an .npy file claims, and where the data begin."""
    file = io.BytesIO(start)
    version = np.lib.format.read_magic(file)
    # 3.0 is 2.0 with names of fields in UTF-8, which are as many.
    read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
    try:
        shape, _, dtype = read(file)
    except MemoryError as error:  # the parser's, of 10,000 characters at most
        raise RefusedError("a header in it is too deeply nested") from error
    return shape, dtype, file.tell()


def _is_valid(array: NDArray[Any]) -> bool:
    """Whether all bytes are values of the dtype, on which NumPy's code relies: booleans 0 or 1, letters Unicode."""
    if array.dtype.names:
        return all(_is_valid(array[name]) for name in array.dtype.names)
    if array.dtype.kind == "b":
        return bool(np.ascontiguousarray(array).view(np.uint8).max(initial=0) <= 1)
    if array.dtype.kind == "U" and array.nbytes > 0:
        letters = np.ascontiguousarray(array).view(np.dtype(np.uint32).newbyteorder(array.dtype.byteorder))
        return bool(letters.max() <= sys.maxunicode)
    return True
