"""A preload of Dask's workers: machine.py's module in CuPy's place, with the GPUs that CUDA_VISIBLE_DEVICES names, in
that order; of which the one that is called 0 has the most memory."""

from __future__ import annotations

import os
import sys
from typing import Any

from .machine import as_cupy
from .runtime import HostCuda


def dask_setup(worker: Any) -> None:
    visible = [int(number) for number in os.environ["CUDA_VISIBLE_DEVICES"].split(",")]
    hosts = [HostCuda(build="fast", seed=1 + number, memory=2 ** (30 if number else 31)) for number in visible]
    sys.modules["cupy"] = as_cupy(*hosts)  # type: ignore[assignment]
