"""Every kernel compiles for every GPU that is supported, and stays within its share of a multiprocessor."""

from __future__ import annotations

import re
import shutil
import subprocess
from collections.abc import Set
from importlib.resources import files
from pathlib import Path

import pytest

# CUDA 13 compiles for these and what lies between: Turing, Ampere (A100, then RTX 30), Ada, Hopper, Blackwell
# (B200, then RTX 50).
ARCHITECTURES = (75, 80, 86, 89, 90, 100, 120)

# A multiprocessor has 65,536 registers. Blocks have 256 threads unless noted; for so many blocks to be resident a
# thread may use at most:
FOUR_BLOCKS, THREE_BLOCKS = 64, 80

# Two blocks of 1,024 threads would need 32; they are launched one at a time (prefix_sums) or one to a rank (find).
ONE_LARGE_BLOCK = 64

BUDGETS = {
    # Bound by memory: half of all threads resident are enough to keep it busy.
    "extent": FOUR_BLOCKS,
    "settle": FOUR_BLOCKS,
    "inertia": FOUR_BLOCKS,
    "distances": FOUR_BLOCKS,
    "own_distances": FOUR_BLOCKS,
    "farthest": FOUR_BLOCKS,
    "first_farthest": FOUR_BLOCKS,
    "take_farthest": FOUR_BLOCKS,
    "accept_center": FOUR_BLOCKS,
    "run_sums": FOUR_BLOCKS,
    # Four blocks spill on sm_120.
    "potentials": THREE_BLOCKS,
    "histogram": FOUR_BLOCKS,
    "map_codes": FOUR_BLOCKS,
    "dither": FOUR_BLOCKS,
    "prefix_sums": ONE_LARGE_BLOCK,
    "find": ONE_LARGE_BLOCK,
    # Four rows of up to 16 features, with best, second, label and norm each: 4 * (16 + 4) and the loop's own.
    "assign_few": 128,
    # 16 scores, 4 rows' best, second and label, 8 operands, and addresses.
    "assign_many": THREE_BLOCKS,
}

# Static shared memory: two tiles of 16 x 65 floats and 64 norms; a scan of 1,024 sums.
SHARED = {"assign_many": 4 * (2 * 16 * 65 + 64), "prefix_sums": 8 * 1024, "find": 8 * 1024}

KINDS = {"uint8": 0, "float16": 1, "float32": 2, "float64": 3}
SPECIALISATIONS = [
    *[("extent", x, 0, None) for x in KINDS],
    *[("assign", x, 0, 3) for x in KINDS],
    *[("assign", "float32", 0, d) for d in (1, 2, 4, 8, 16)],
    *[("assign", x, 0, None) for x in KINDS],
    *[("settle", x, w, None) for x, w in (("uint8", 0), ("uint8", 1), ("float32", 0), ("float64", 2))],
    *[("distance", x, w, None) for x, w in (("uint8", 1), ("float32", 0), ("float64", 2))],
    *[("seed", x, w, None) for x, w in (("uint8", 1), ("float32", 0), ("float64", 2))],
]


def name_of(specialisation: tuple[str, str, int, int | None]) -> str:
    family, x, weights, d = specialisation
    return f"{family}-{x}-weights{weights}" + (f"-d{d}" if d else "")


@pytest.mark.skipif(shutil.which("nvcc") is None, reason="needs nvcc, which comes with the CUDA toolkit")
@pytest.mark.parametrize("specialisation", SPECIALISATIONS, ids=name_of)
def test_kernels_compile_within_their_budgets(specialisation: tuple[str, str, int, int | None], tmp_path: Path) -> None:
    family, x, weights, d = specialisation
    options = [f"-DX_KIND={KINDS[x]}", f"-DWEIGHT_KIND={weights}", *([f"-DD_FEW={d}"] if d else [])]
    check(family, options, tmp_path, without={"assign_many" if d else "assign_few"})


@pytest.mark.skipif(shutil.which("nvcc") is None, reason="needs nvcc, which comes with the CUDA toolkit")
@pytest.mark.parametrize(("channels", "label"), [(1, "unsigned char"), (3, "unsigned short"), (3, "int")])
def test_image_kernels_compile_within_their_budgets(channels: int, label: str, tmp_path: Path) -> None:
    check("image", [f"-DCHANNELS={channels}", f"-DLABEL={label}"], tmp_path)


def check(family: str, options: list[str], tmp_path: Path, without: Set[str] = frozenset()) -> None:
    """The family's kernels, but for those that these options leave out, compile for all architectures within budget."""
    source = Path(str(files("gpukmeans.kernels"))) / f"{family}.cu"
    command = ["nvcc", "--std=c++17", "--threads=2", "-Xptxas=-v", "-Werror=all-warnings", "-fatbin"]
    command += [f"-gencode=arch=compute_{a},code=sm_{a}" for a in ARCHITECTURES]
    command += options
    done = subprocess.run(
        [*command, "-o", str(tmp_path / "kernels"), str(source)], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    found = re.findall(
        r"entry function '(\w+)' for 'sm_(\d+)'.*?(\d+) bytes stack frame, (\d+) bytes spill stores, "
        r"(\d+) bytes spill loads.*?Used (\d+) registers(?:.*?(\d+) bytes smem)?",
        re.sub(r"\n(?!ptxas info    : Compiling)", " ", done.stderr),
    )
    kernels = set(re.findall(r"__global__ void (?:__launch_bounds__\([^)]*\)\s)?(\w+)\(", source.read_text()))
    kernels -= without
    assert sorted(found_entry[:2] for found_entry in found) == sorted(
        (kernel, str(architecture)) for kernel in kernels for architecture in ARCHITECTURES
    )
    for kernel, architecture, stack, stores, loads, registers, shared in found:
        where = f"{kernel} on sm_{architecture}"
        assert (stack, stores, loads) == ("0", "0", "0"), f"{where} spills"
        assert int(registers) <= BUDGETS[kernel], f"{where} takes {registers} registers"
        assert int(shared or 0) <= SHARED.get(kernel, 0), f"{where} takes {shared} bytes of shared memory"
