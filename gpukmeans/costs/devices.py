"""GPUs as data sheets have them, for predictions of times. No figure here was measured by this project."""

from __future__ import annotations

from dataclasses import dataclass

# Assumed of all, as no data sheet has them: the share of the memory's bandwidth that kernels reach, and bytes that a
# multiprocessor gets of the second-level cache in a clock (some 5.5 TB/s on an H100).
REACHED, CACHE = 0.9, 24

# Assumed: of the data sheet's rate, what mma.sync reaches where the machine has faster instructions (9.0 and 10.0).
MMA_SYNC = 0.6

# And what wgmma reaches, of 9.0 alone, and tcgen05, of 10.0: by the latter shared memory gives no more, as a product of
# 128 x 128 takes 128 bytes of it in a clock, all that it has, and centers that come in a quarter of that.
WGMMA_RATE = TCGEN05_RATE = 0.8


@dataclass(frozen=True)
class Sheet:
    """capability: as CUDA has it, "90" for 9.0. clock: in Hz, the highest; loads that draw much power have less, L4's
    most of all. bandwidth: of its memory, bytes in a second. multiply_adds, doubles: float32 multiply-adds and float64
    operations that a multiprocessor does in a clock (CUDA C++ Programming Guide, "Arithmetic Instructions"). tensor:
    products of float16 summed in float32, the data sheet's rate for dense matrices, in a second. bus: bytes in a second
    from the host, one way. memory: in bytes."""

    name: str
    capability: str
    multiprocessors: int
    clock: float
    bandwidth: float
    multiply_adds: int
    doubles: int
    tensor: float
    bus: float
    memory: float

    @property
    def clocks(self) -> float:
        """Of all multiprocessors in a second."""
        return self.multiprocessors * self.clock


# Clocks of A100, H100, H200 and B200 are those at which the data sheets' rates of tensor cores hold.
SHEETS = {
    sheet.name: sheet
    for sheet in (
        Sheet("A100", "80", 108, 1.41e9, 2.039e12, 64, 32, 312e12 / 2, 25e9, 80e9),
        Sheet("H100", "90", 132, 1.83e9, 3.35e12, 128, 64, 989e12 / 2, 50e9, 80e9),
        Sheet("H200", "90", 132, 1.83e9, 4.8e12, 128, 64, 989e12 / 2, 50e9, 141e9),
        Sheet("B200", "100", 148, 1.86e9, 8.0e12, 128, 64, 2250e12 / 2, 50e9, 180e9),
        Sheet("L4", "89", 58, 2.04e9, 0.3e12, 128, 2, 121e12 / 2, 25e9, 24e9),
        Sheet("RTX 4090", "89", 128, 2.52e9, 1.008e12, 128, 2, 165e12 / 2, 25e9, 24e9),
    )
}


def sheet(name: str) -> Sheet:
    """By its name, however spelled: "rtx4090". Raises ValueError for any other."""
    for known in SHEETS.values():
        if _plain(name) == _plain(known.name):
            return known
    raise ValueError(f"device must be one of {', '.join(map(repr, SHEETS))}, got {name!r}.")


def _plain(name: str) -> str:
    return name.lower().replace(" ", "").replace("-", "").replace("_", "")
