"""The current device: what it is, its kernels by name, compiled when they are first launched."""

from __future__ import annotations

from copy import copy
from functools import cache
from typing import Any

import numpy as np

from gpukmeans.engine.cuda import compile
from gpukmeans.engine.cuda.errors import Launched
from gpukmeans.engine.cuda.transfer import Transfers

# Threads to a block. Eight warps hide latency where each thread has a row to itself.
BLOCK = 256

# Blocks to a multiprocessor: eight of 256 threads are as many as it holds at once (2,048 threads).
RESIDENT = 8

# Shared memory that every CUDA device gives to a block without being asked.
SHARED = 48 * 1024

# What it gives to one that asks, on the devices of TENSOR_CORES, beside 3 kB that have a fixed size: an A100 163 kB,
# the others more.
MORE_SHARED = 160 * 1024

# And what H100, H200 and B200 give, with as much of a fixed size.
SHARED_OF_HOPPER = 224 * 1024

# Compute capabilities whose tensor cores multiply float16 at more than twelve times the rate of float32 arithmetic, so
# that three products for one pay: A100, H100 and H200, B200. (Of other GPUs it is four times, or less. How B300's, 103,
# round has not been published.)
TENSOR_CORES = ("80", "90", "100")

# Those of them that have instructions of their own for products of large matrices, with the kernel by these:
# kernels/wgmma.cuh for H100 and H200, kernels/tcgen05.cuh for B200.
OWN_PRODUCTS = {"90": "assign_wgmma", "100": "assign_tcgen05"}


@cache
def has_tensor_cores(cp: Any, device: int) -> bool:
    """Whether the device's are worth using."""
    return capability_of(cp, device) in TENSOR_CORES


def capability_of(cp: Any, device: int) -> str:
    """The device's compute capability, "90" for 9.0."""
    return str(cp.cuda.Device(device).compute_capability)


@cache
def _multiprocessors(cp: Any, device: int) -> int:
    return int(cp.cuda.Device(device).attributes["MultiProcessorCount"])


class Gpu(Transfers):
    """The current device: errors, arrays and kernels.

    cp: CuPy, or what stands in its place. options: the compiler's, for all kernels. more: those of some families, so
    that the others are compiled once for all of them. launched: see CudaErrors.
    """

    def __init__(
        self,
        cp: Any,
        options: tuple[str, ...],
        more: dict[str, tuple[str, ...]] | None = None,
        launched: Launched | None = None,
    ) -> None:
        super().__init__(cp, launched)
        self._options, self._more = options, more or {}
        self.tensor_cores = has_tensor_cores(cp, self.number)
        self.own_products = OWN_PRODUCTS.get(capability_of(cp, self.number))
        self.multiprocessors = _multiprocessors(cp, self.number)
        self.blocks = RESIDENT * self.multiprocessors
        self._functions: dict[tuple[str, str, tuple[str, ...], bool], Any] = {}  # see `run`
        # By dtype, for arguments that a kernel will not read.
        self._nothing = {np.dtype(np.float64): self.zeros(1, np.float64)}

    def compiling(self, options: tuple[str, ...]) -> Gpu:
        """The same with other options for the compiler; what either launches, the errors of both name."""
        other = copy(self)
        other._options, other._functions = options, {}
        return other

    def given(self, array: Any, dtype: Any) -> Any:
        """The array, or if it is None one of that dtype, for an argument that a kernel will not read then."""
        if array is not None:
            return array
        dtype = np.dtype(dtype)
        if dtype not in self._nothing:
            self._nothing[dtype] = self._nothing[np.dtype(np.float64)].view(dtype)
        return self._nothing[dtype]

    def launch(
        self,
        family: str,
        name: str,
        threads: int,
        *args: Any,
        options: tuple[str, ...] = (),
        shared: int = 0,
        resident: int | None = None,
    ) -> None:
        """Run a kernel with blocks of BLOCK threads: as many threads as given, or as many as fit at once, and it
        strides over the rest.

        resident: blocks to a multiprocessor, if fewer than RESIDENT. Else as `run`.
        """
        most = self.blocks if resident is None else min(self.blocks, self.blocks * resident // RESIDENT)
        blocks = max(1, min(most, -(-threads // BLOCK)))
        self.run(family, name, blocks, BLOCK, *args, options=options, shared=shared)

    def run(
        self,
        family: str,
        name: str,
        blocks: int,
        block: int,
        *args: Any,
        options: tuple[str, ...] = (),
        shared: int = 0,
    ) -> None:
        """Run a kernel of kernels/FAMILY.cu with so many blocks of `block` threads.

        args: arrays of the device and NumPy scalars, as it declares them. options: the compiler's, beside those of all
        kernels and of the family. shared: bytes of dynamic shared memory, up to SHARED, or to MORE_SHARED, or
        SHARED_OF_HOPPER there, where a kernel has no more than 3 kB of its own.
        """
        self.launched.append(name)
        key = family, name, options, shared > SHARED
        function = self._functions.get(key)
        if function is None:
            words = (*self._options, *self._more.get(family, ()), *options)
            with self.compiling_family(family):
                function = compile.function(self.cp, self.number, family, name, words)
            if shared > SHARED:
                self._give_more(function)
            self._functions[key] = function
        try:
            function((blocks,), (block,), args, shared)
        except self._errors as error:
            self._fail(error)

    def _give_more(self, function: Any) -> None:
        """Let its blocks have as much as there is. Always that, as the function is everybody's."""
        driver = self.cp.cuda.driver
        attribute = driver.CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES
        try:
            driver.funcSetAttribute(function.ptr, attribute, SHARED_OF_HOPPER if self.own_products else MORE_SHARED)
        except self._errors as error:
            self._fail(error)
