"""Whether a kernel by a GPU's own instructions computes what it should there, asked once in a process before it serves.

Such kernels rest on layouts and barriers that only the device itself can confirm, and no GPU had run them when they
were written.
"""

from __future__ import annotations

import logging
import threading
from typing import Any

import numpy as np

from gpukmeans.engine.cuda.device import Gpu
from gpukmeans.engine.cuda.half_kernels import KNOWN
from gpukmeans.engine.cuda.launch_plans import TENSOR_CENTERS, OwnProducts
from gpukmeans.errors import DeviceError

logger = logging.getLogger("gpukmeans")

# Slots of centers: twice as many as the ring has, and one more.
TILES, SLOTS_OF_TILE = 3, 3

# Of whole numbers up to this, sums of 3 x 64 products are less than 2^24: float32 has all, however they are added.
LARGEST = 255

# What the instructions are called, by the kernel.
NAMES = {"assign_wgmma": "wgmma", "assign_tcgen05": "tcgen05"}

_lock = threading.Lock()
_found: dict[tuple[Any, int], str | None] = {}


def compute_as_known(gpu: Gpu, own: OwnProducts) -> bool:
    """Whether a product of known numbers is right, to the last bit. The first answer stands, for all rows' types."""
    return trouble(gpu, own) is None


def trouble(gpu: Gpu, own: OwnProducts) -> str | None:
    """Why a product of known numbers is not right, or None if it is."""
    key = gpu.cp, gpu.number
    with _lock:
        if key not in _found:
            _found[key] = trouble = _trouble(gpu, own)
            if trouble:
                logger.warning(
                    "On cuda:%d products of its own instructions (%s) are not used, but slower ones, which give the "
                    "same answer: %s.",
                    gpu.number,
                    NAMES[own.kernel],
                    trouble,
                )
    return _found[key]


def _trouble(gpu: Gpu, own: OwnProducts) -> str | None:
    rng = np.random.default_rng(0)
    depth, centers = SLOTS_OF_TILE * own.slot, TILES * TENSOR_CENTERS
    a = rng.integers(-LARGEST, LARGEST + 1, (own.rows, depth))
    b = rng.integers(-LARGEST, LARGEST + 1, (centers, depth))
    # Eight features of all rows, then the next eight: see kernels/ring.cuh.
    rows = a.reshape(own.rows, depth // 8, 8).swapaxes(0, 1).astype(np.float16)
    table = b.reshape(TILES, TENSOR_CENTERS, depth // 8, 8).swapaxes(1, 2).astype(np.float16)
    expected = a @ b.T
    more: dict[str, Any] = {}
    try:
        if own.of_tile:  # of which the numbers in place of `down` are added, by pairs of centers
            of_tiles = rng.integers(-LARGEST, LARGEST + 1, (TILES, own.of_tile)).astype(np.float32)
            downs = of_tiles[:, : 2 * TENSOR_CENTERS].reshape(-1, 4)[:, :2].reshape(-1)
            expected, more = expected + downs.astype(np.int64), {"of_tiles": gpu.put(of_tiles)}
        products = gpu.zeros((own.rows, centers), np.float32)
        KNOWN[own.kernel](gpu, rows=gpu.put(rows), table=gpu.put(table), products=products, **more)
        wrong = np.count_nonzero(gpu.get(products) != expected)
    except DeviceError as error:  # a device that is lost says so once more, to whatever is asked of it next
        return str(error)
    return f"{wrong:,} of {expected.size:,} known products are wrong" if wrong else None
