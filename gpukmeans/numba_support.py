"""Whether numba, an optional dependency (the extra `fast`), is there and compiles."""

from __future__ import annotations

import hashlib
import logging
import os
from contextlib import suppress
from functools import cache
from importlib.util import find_spec
from pathlib import Path


@cache
def works() -> bool:
    """Imports it, which takes half a second, to see."""
    if find_spec("numba") is None or os.environ.get("NUMBA_DISABLE_JIT", "0") not in ("", "0"):
        return False
    try:
        import numba  # noqa: F401
    except Exception as error:  # as where NumPy is newer than it knows
        logging.getLogger("gpukmeans").info("numba cannot be imported, NumPy computes: %s", error)
        return False
    return True


# Modules that have functions to compile which call each other's, and constants of theirs.
_SOURCES = "engine/numpy/numba_*.py", "exact/*.py"


@cache
def forget_others(folder: str) -> None:
    """Have numba find nothing in this folder that was compiled of other sources. It looks at the file alone that has a
    function, not at those of the functions that became part of it: after an update in place it would run a mixture."""
    package = Path(__file__).parent
    digest = hashlib.sha256()
    for path in sorted(path for pattern in _SOURCES for path in package.glob(pattern)):
        digest.update(path.read_bytes())
    known = Path(folder, "gpukmeans-sources.txt")
    with suppress(OSError):  # what cannot be written holds nothing of ours
        if known.exists() and known.read_text() == digest.hexdigest():
            return
        known.parent.mkdir(parents=True, exist_ok=True)
        for index in known.parent.glob("numba_*.nbi"):
            index.unlink(missing_ok=True)
        known.write_text(digest.hexdigest())
