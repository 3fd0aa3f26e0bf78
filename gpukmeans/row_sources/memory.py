"""How much memory a fit may take beside rows that are in memory already, and arrays that may take none of it."""

from __future__ import annotations

import os
import re
import sys
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

_UNITS = {"B": 1, "KB": 10**3, "MB": 10**6, "GB": 10**9, "TB": 10**12}
_UNITS |= {"KIB": 2**10, "MIB": 2**20, "GIB": 2**30, "TIB": 2**40}

# Of what the machine has free, where nobody says.
_SHARE = 4

# Where the system does not say.
_UNKNOWN = 2**32

# What each row of a fit in memory costs beside its values: labels, bounds and squares (16), sums' weights and the
# distances of seeding (32), and the keys of sorting or the candidates' flags (16).
_PER_ROW = 64


def in_bytes(limit: int | str | None) -> int:
    """A number of bytes: that itself, or a text as "4GB", or for None a quarter of what is free.

    Raises ValueError for a text that is no such number.
    """
    if limit is None:
        return free_bytes() // _SHARE
    if not isinstance(limit, str):
        return int(limit)
    found = re.fullmatch(r"\s*(\d+(?:\.\d*)?)\s*([KMGT]?I?B)\s*", limit.upper())
    if found is None or float(found[1]) == 0:
        raise ValueError(f'memory_limit={limit!r} should be a number of bytes, as 4_000_000_000, or a text as "4GB".')
    return max(1, int(float(found[1]) * _UNITS[found[2]]))


def free_bytes() -> int:
    """What this process may still allocate without taking it from others, by the least of what the system says."""
    found = [_of_machine()]
    with suppress(OSError, ValueError):  # a container's own limit
        most = int(Path("/sys/fs/cgroup/memory.max").read_text())
        held = dict(line.split() for line in Path("/sys/fs/cgroup/memory.stat").read_text().splitlines())
        found.append(most - int(held["anon"]))
    with suppress(ImportError, OSError, ValueError, KeyError):
        import resource

        for kind, name in ((resource.RLIMIT_DATA, "VmData"), (resource.RLIMIT_AS, "VmSize")):
            most, _ = resource.getrlimit(kind)
            if most != resource.RLIM_INFINITY:
                found.append(most - _in_proc("/proc/self/status", name))
    return max(0, min(found))


def _of_machine() -> int:
    with suppress(OSError, KeyError, ValueError):
        return _in_proc("/proc/meminfo", "MemAvailable")
    with suppress(AttributeError, OSError, ValueError):
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") // 2
    return _UNKNOWN


def _in_proc(path: str, name: str) -> int:
    """A line "name:  n kB" of such a file, in bytes."""
    lines = dict(line.split(":", 1) for line in Path(path).read_text().splitlines() if ":" in line)
    return int(lines[name].split()[0]) * 1024


def kept_bytes(shape: tuple[int, int], dtype: np.dtype) -> int:
    """What a fit of rows in memory keeps beside them, at most: a copy as features or in another order, and what is
    known of each row."""
    n, d = shape
    return n * (d * max(4, dtype.itemsize) + _PER_ROW)


def array_within(limit: int, shape: tuple[int, ...], dtype: Any) -> NDArray[Any]:
    """An array of zeros or anything, in memory, or, where it would take more than a part of the limit, mapped from a
    file that goes when the array does."""
    size = int(np.prod(shape)) * np.dtype(dtype).itemsize
    if size <= limit // 8 or size == 0:
        return np.empty(shape, dtype)
    import tempfile  # which few need, and brings much along

    with tempfile.TemporaryFile(prefix="gpukmeans-") as file:
        if sys.platform == "linux":
            os.posix_fallocate(file.fileno(), 0, size)  # a full disk is an OSError now, and no signal later
        return np.memmap(file, dtype, "w+", shape=shape)
