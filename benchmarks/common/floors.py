"""What a kernel cannot beat: the bytes it must move over the device's bandwidth, its operations over their rate.

Bandwidth is measured, by copying on the device; rates are those of the instructions on the multiprocessor's pipes
(NVIDIA, CUDA C++ Programming Guide, "Arithmetic Instructions"), at the highest clock the device states.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

# A clock and multiprocessor of compute capability 8.6, 8.9, 9.0 and newer: float32 multiply-adds; minima,
# comparisons and logic; float64 operations on data center GPUs (2 elsewhere).
FMA, ALU, DOUBLE = 128, 64, 64

# Products of float16 that tensor cores add in a clock of a multiprocessor, by compute capability: the rates of NVIDIA's
# datasheets (312, 989, 2,250 and 2,250 TFLOP/s, dense) over multiprocessors and clocks. On 9.0 and newer those are of
# instructions that kernels here do not use; mma.sync is said to reach some 60 % there.
TENSOR = {"80": 1024, "90": 2048, "100": 4096}


@dataclass(frozen=True)
class Device:
    """bandwidth: bytes read and written in a second by a copy. clocks: multiprocessors times cycles in a second.
    tensor: products of float16 in a clock, 0 where they are not used."""

    name: str
    bandwidth: float
    clocks: float
    tensor: int = 0

    @staticmethod
    def measured(cp: Any) -> Device:
        attributes = cp.cuda.Device().attributes
        name = cp.cuda.runtime.getDeviceProperties(cp.cuda.Device().id)["name"]
        clocks = attributes["MultiProcessorCount"] * attributes["ClockRate"] * 1000.0  # kHz
        tensor = TENSOR.get(cp.cuda.Device().compute_capability, 0)
        return Device(name.decode() if isinstance(name, bytes) else name, bandwidth(cp), clocks, tensor)


def bandwidth(cp: Any, size: int = 2**31, repeats: int = 10) -> float:
    """Bytes in a second, read and written, of a copy on the device: the best of some."""
    size = min(size, cp.cuda.runtime.memGetInfo()[0] // 4)
    source, target = cp.zeros(size, "uint8"), cp.zeros(size, "uint8")
    begin, end, seconds = cp.cuda.Event(), cp.cuda.Event(), []
    for _ in range(repeats):
        begin.record()
        target.data.copy_from_device_async(source.data, size)
        end.record()
        end.synchronize()
        seconds.append(cp.cuda.get_elapsed_time(begin, end) / 1000)
    return 2 * size / min(seconds)


def pass_bytes(n: int, d: int, itemsize: int) -> int:
    """Of an assignment: rows in, a proposed label out."""
    return n * (d * itemsize + 4)


def assign_seconds(device: Device, n: int, d: int, k: int, itemsize: int) -> float:
    """The floor of the assign kernel. A pair of point and center takes d multiply-adds; and, for its place among the
    best two, with the index in the score's low bits, one logic operation and three minima or maxima where all
    centers pass by every point (d <= 16), which the other pipe does at the same time."""
    pairs = n * k
    multiply = pairs * d / (FMA * device.clocks)
    choose = pairs * 4 / (ALU * device.clocks)
    return max(pass_bytes(n, d, itemsize) / device.bandwidth, multiply, choose)


def assign_tensor_seconds(device: Device, n: int, d: int, k: int, itemsize: int) -> float:
    """The same on tensor cores: three products of float16 for one, two for uint8; comparisons take the other pipes."""
    pairs = n * k
    multiply = pairs * d * (2 if itemsize == 1 else 3) / (device.tensor * device.clocks) if device.tensor else 0.0
    choose = pairs * 4 / (ALU * device.clocks)
    return max(pass_bytes(n, d, itemsize) / device.bandwidth, multiply, choose)


def assign_half_seconds(device: Device, n: int, d: int, k: int, itemsize: int) -> float:
    """The same of one product."""
    pairs = n * k
    multiply = pairs * d / (device.tensor * device.clocks) if device.tensor else 0.0
    choose = pairs * 4 / (ALU * device.clocks)
    return max(pass_bytes(n, d, itemsize) / device.bandwidth, multiply, choose)


def refine_seconds(device: Device, n: int) -> float:
    """The floor of `refine` in an iteration in which no label changes: it reads two labels a row."""
    return 8 * n / device.bandwidth


def feature_range_seconds(device: Device, n: int, d: int, itemsize: int) -> float:
    return n * d * itemsize / device.bandwidth
