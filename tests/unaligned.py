"""Arrays that are not where their numbers belong, as those that another process sent may be."""

from __future__ import annotations

from typing import Any

import numpy as np


def unaligned(x: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """A copy one byte off the place where its numbers belong."""
    found = np.frombuffer(bytearray(x.nbytes + 1), x.dtype, offset=1).reshape(x.shape)
    found[...] = x
    assert found.flags.aligned == (x.itemsize == 1)
    return found
