"""Whether numba, an optional dependency (the extra `fast`), is there and compiles."""

from __future__ import annotations

import logging
import os
from functools import cache
from importlib.util import find_spec


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
