"""Whether assign_wgmma computes what it should on this device, asked once in a process, before it is first used.

It rests on layouts and barriers that only the device itself can confirm, and no GPU had run it when it was written.
"""

from __future__ import annotations

import logging
import threading
from typing import Any

import numpy as np

from gpukmeans.engine.cuda.assignment_kernels import known_product
from gpukmeans.engine.cuda.device import Gpu
from gpukmeans.engine.cuda.launch_plans import TENSOR_CENTERS, WGMMA_DEPTH, WGMMA_ROWS
from gpukmeans.errors import DeviceError

logger = logging.getLogger("gpukmeans")

# Slots of centers: twice as many as the ring has, and one more.
TILES, SLOTS_OF_TILE = 3, 3

# Of whole numbers up to this, sums of 3 x 64 products are less than 2^24: float32 has all, however they are added.
LARGEST = 255

_lock = threading.Lock()
_found: dict[tuple[Any, int], str | None] = {}


def computes_as_known(gpu: Gpu) -> bool:
    """Whether a product of known numbers is right, to the last bit. The first answer stands, for all rows' types."""
    return trouble(gpu) is None


def trouble(gpu: Gpu) -> str | None:
    """Why a product of known numbers is not right, or None if it is."""
    key = gpu.cp, gpu.number
    with _lock:
        if key not in _found:
            _found[key] = trouble = _trouble(gpu)
            if trouble:
                logger.warning(
                    "On cuda:%d products of Hopper's own instructions (wgmma) are not used, but slower ones, which "
                    "give the same answer: %s.",
                    gpu.number,
                    trouble,
                )
    return _found[key]


def _trouble(gpu: Gpu) -> str | None:
    rng = np.random.default_rng(0)
    depth, centers = SLOTS_OF_TILE * WGMMA_DEPTH, TILES * TENSOR_CENTERS
    a = rng.integers(-LARGEST, LARGEST + 1, (WGMMA_ROWS, depth))
    b = rng.integers(-LARGEST, LARGEST + 1, (centers, depth))
    # Eight features of all rows, then the next eight: see kernels/assign_wgmma.cu.
    rows = a.reshape(WGMMA_ROWS, depth // 8, 8).swapaxes(0, 1).astype(np.float16)
    table = b.reshape(TILES, TENSOR_CENTERS, depth // 8, 8).swapaxes(1, 2).astype(np.float16)
    try:
        products = gpu.zeros((WGMMA_ROWS, centers), np.float32)
        known_product(gpu, rows=gpu.put(rows), table=gpu.put(table), products=products)
        wrong = np.count_nonzero(gpu.get(products) != a @ b.T)
    except DeviceError as error:  # a device that is lost says so once more, to whatever is asked of it next
        return str(error)
    return f"{wrong:,} of {a.shape[0] * centers:,} known products are wrong" if wrong else None
