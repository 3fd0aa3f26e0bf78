"""What the GPU engine is predicted to take, by count, on GPUs that nobody here has; every figure is a prediction.

    python benchmarks/model.py              prints the tables
    python benchmarks/model.py --publish    and writes them to docs/gpu-model.md

Workloads are those of gpu.py; what is counted, and what is assumed, gpukmeans/costs/ says.
"""

from __future__ import annotations

import argparse
from dataclasses import dataclass
from pathlib import Path

from common.markdown import row

import gpukmeans
from gpukmeans.costs.devices import CACHE, MMA_SYNC, REACHED, SHEETS, TCGEN05_RATE, WGMMA_RATE
from gpukmeans.costs.estimate import COMPARED, MOVED, OWNED
from gpukmeans.costs.work import LAUNCH

TARGET = Path(__file__).parents[1] / "docs" / "gpu-model.md"


@dataclass(frozen=True)
class Workload:
    """One of gpu.py's workloads. flash: seconds of an iteration of flash-kmeans 0.3.1 on an H100, counted in the same
    way by hand from its kernels (no GPU ran it either); None for what it has no kernel for."""

    name: str
    shape: tuple[int, int]
    k: int
    dtype: str
    flash: float | None = None


WORKLOADS = (
    Workload("digits", (1797, 64), 10, "float64"),
    Workload("china64", (273_280, 3), 64, "float64"),
    Workload("image100M64", (109_312_000, 3), 64, "uint8", 20e-3),
    Workload("image100M256", (109_312_000, 3), 256, "uint8", 28e-3),
    Workload("features16", (10_000_000, 16), 256, "float32", 3e-3),
    Workload("embed1k", (1_000_000, 128), 1024, "float32", 1.9e-3),
    Workload("embed1k_half", (1_000_000, 128), 1024, "float16", 1.2e-3),
    Workload("embed8k", (1_000_000, 128), 8192, "float32", 10.5e-3),
    Workload("embed8k_half", (1_000_000, 128), 8192, "float16", 6.3e-3),
    Workload("embed8M", (8_000_000, 128), 1024, "float32", 12.5e-3),
)


@dataclass(frozen=True)
class Published:
    """What flashlib's authors measured on an H200, in float16: milliseconds of five iterations."""

    rows: int
    d: int
    k: int
    five: float


# flashlib 0.4 (TMA and wgmma). Sizes are published as 256K, 512K and 1M: taken for powers of two.
FLASHLIB = (
    Published(2**18, 128, 1024, 1.84),
    Published(2**20, 128, 4096, 14.4),
    Published(2**19, 256, 4096, 11.0),
    Published(2**19, 256, 16384, 41.4),
    Published(2**19, 512, 4096, 24.5),
)
HEAD = ["workload", "all rows", "floor", "times floor", "bound by", "pruned", "k-means++", "apart", "fit", "GiB"]


def milliseconds(seconds: float) -> str:
    return f"{seconds * 1e3:.2g}" if seconds < 0.0995 else f"{seconds * 1e3:,.0f}"


def predicted(case: Workload, device: str) -> gpukmeans.Estimate:
    return gpukmeans.estimate(case.shape, case.k, dtype=case.dtype, device=device)


def of_device(device: str) -> str:
    lines = []
    for case in WORKLOADS:
        found = predicted(case, device)
        lines.append(
            [
                f"{case.name}: {case.shape[0]:,} x {case.shape[1]} {case.dtype}, k = {case.k:,}",
                milliseconds(found.seconds_per_iteration),
                milliseconds(found.floor),
                f"{found.seconds_per_iteration / found.floor:.1f}",
                found.bound_by,
                milliseconds(found.seconds_per_pruned_iteration),
                milliseconds(found.seconds_of_seeding),
                milliseconds(found.seconds_of_owned_seeding),
                milliseconds(found.seconds_of_fit),
                f"{found.memory / 2**30:.1f}",
            ]
        )
    return table(HEAD, lines)


def beside_others() -> str:
    lines = []
    for case in WORKLOADS:
        if case.flash is not None:
            lines.append(
                [case.name, "H100", *_beside(predicted(case, "H100"), case.flash, milliseconds(case.flash), "")]
            )
    for there in FLASHLIB:
        found = gpukmeans.estimate((there.rows, there.d), there.k, dtype="float16", device="H200")
        name = f"{there.rows:,} x {there.d} float16, k = {there.k:,}"
        seconds = there.five / 5 * 1e-3
        lines.append([name, "H200", *_beside(found, seconds, "", milliseconds(seconds))])
    return table(["workload", "on", "all rows", "pruned", "flash-kmeans", "flashlib, measured", "ahead from"], lines)


def _beside(found: gpukmeans.Estimate, theirs: float, flash: str, flashlib: str) -> list[str]:
    full, pruned = found.seconds_per_iteration, found.seconds_per_pruned_iteration
    first = "all rows" if full < theirs else "pruned" if pruned < theirs else "never"
    return [milliseconds(full), milliseconds(pruned), flash, flashlib, first]


def kernels() -> str:
    lines = []
    for case in WORKLOADS:
        for found in predicted(case, "H200").kernels:
            work = found.work
            counts = (work.memory / 1e6, work.cache / 1e6, work.instructions / 1e9, work.operations / 1e9)
            figures = [f"{count:,.3g}" if count < 1000 else f"{count:,.0f}" for count in counts]
            lines.append([case.name, found.kernel, *figures, milliseconds(found.seconds), found.bound_by])
    return table(
        ["workload, H200", "kernel", "memory, MB", "cache, MB", "10^9 instructions", "Gflop", "ms", "bound by"], lines
    )


def table(head: list[str], lines: list[list[str]]) -> str:
    return "\n".join([row(*head), row(*["---"] * len(head)), *(row(*line) for line in lines)])


INTRODUCTION = f"""\
# What a GPU is predicted to take

Every figure of ours on this page is a prediction by count: **nothing was measured, on any GPU**. It is written by
`benchmarks/model.py` from `gpukmeans.estimate`, which counts what the kernels do, and divides it by what data sheets
promise. Stalls, conflicts and what is outside of inner loops are not counted; expect up to a third more.

- Bytes are those that the heads of `kernels/*.cu` state; instructions of inner loops are those of the machine code for
  sm_90, of tcgen05 for sm_100, held to the disassembly by `tests/test_estimate.py`. A kernel takes the longest of its
  parts, and {LAUNCH * 1e6:.0f} us for its launch.
- Assumed, as no data sheet has it: {REACHED:.0%} of the memory's bandwidth is reached; a multiprocessor gets {CACHE}
  bytes of the second-level cache in a clock; mma.sync reaches {MMA_SYNC:.0%} of the tensor cores' rate on H100, H200
  and B200, all of it on A100, wgmma {WGMMA_RATE:.0%} on H100 and H200, and tcgen05 {TCGEN05_RATE:.0%} on B200. (Other
  GPUs' are not used.) Clocks are the highest there are; an L4, of 72 W, seldom has them. Where tcgen05 serves, from 33
  to 256 features, a bound passes over as many centers as if they came in an order that says nothing.
- The floor is another matter: rows once at the data sheet's bandwidth, or one product of each feature of row and center
  at the data sheet's best rate, whichever takes longer.
- *Pruned*: an iteration in which bounds leave {COMPARED:.0%} of the rows to be compared and {MOVED:.0%} change cluster,
  as data with clusters have it after a few; noise never does. *k-means++*: no row left out by its owner, the most it
  takes; of i centers a candidate is closer to half of an i-th part of the rows, and of four such parts rows of bytes
  leave it open. *Apart*: k-means++ where {1 - OWNED:.0%} of the
  rows are left out, as of clusters that lie apart. *Fit*: k-means++, the longer, and 30 iterations, rows on the device,
  kernels compiled before.
- Pictures are clustered pixel by pixel here, by `KMeans`; `quantize` counts colors first.
- What is small (digits) a block of threads fits whole, in one launch, where that is sooner: nothing is pruned then, and
  the host waits three times a fit, not once an iteration. Starts of one fit (`n_init`) are a block each, and take as
  long as one. Values that are bytes, as those of digits, are sent as such; counted here are doubles.

Milliseconds, but for the last column: GiB of the device's memory.
"""

BESIDE = """\
## Beside flash-kmeans and flashlib

An iteration in milliseconds, ours by count. Of flash-kmeans 0.3.1 by count as well, by hand, to some 30 %. **Of
flashlib 0.4, by the same authors, what they measured themselves on an H200** and published, of its own workloads: a
fifth of five iterations. Both compare all rows in each iteration, seed at random, know no weights, and their labels are
those of a lower precision. Ours takes one product of float16 as they do, from 33 to 640 features by Hopper's own
instructions (wgmma) as flashlib's, and three more of the rows that this leaves in doubt, for which 2 % are taken.
"""


def text() -> str:
    parts = [INTRODUCTION]
    for device in SHEETS:
        parts.append(f"## {device}\n\n{of_device(device)}\n")
    parts.append(f"{BESIDE}\n{beside_others()}\n")
    parts.append(f"## Kernel by kernel\n\nOf an iteration over all rows on an H200.\n\n{kernels()}\n")
    return "\n".join(parts)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--publish", action="store_true", help=f"write docs/{TARGET.name}")
    written = text()
    if parser.parse_args().publish:
        TARGET.write_text(written)
    print(written, end="")


if __name__ == "__main__":
    main()
