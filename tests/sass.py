"""Machine code of kernels, as nvdisasm prints it: which instructions the inner loops consist of."""

from __future__ import annotations

import re
import shutil
import subprocess
from collections import Counter
from importlib.metadata import files
from pathlib import Path

LABEL = re.compile(r"(\.L_x_\d+):")
INSTRUCTION = re.compile(r"/\*[0-9a-f]{4,}\*/\s+(?:@!?U?P\w+\s+)?([A-Z][A-Z0-9_.]*)(.*?)\s*;")
TARGET = re.compile(r"`\((\.L_x_\d+)\)")


def disassembler() -> str:
    """nvdisasm of the wheel nvidia-cuda-nvdisasm, or of a CUDA toolkit."""
    wheel = [path for path in files("nvidia-cuda-nvdisasm") or () if path.name == "nvdisasm"]
    found = str(wheel[0].locate()) if wheel else shutil.which("nvdisasm")
    assert found, "nvdisasm is in neither its wheel nor on the path"
    return found


def inner_loops(cubin: Path) -> dict[str, list[Counter[str]]]:
    """For each kernel its innermost loops, each as how often an operation stands in it.

    An operation is named without its modifiers, but for the width of loads and stores from 64 bits on: "FFMA",
    "LDS.128", "LDG".
    """
    text = subprocess.run([disassembler(), "-c", "-ndf", str(cubin)], capture_output=True, text=True, check=True).stdout
    sections = re.split(r"^\.text\.(\w+):$", text, flags=re.MULTILINE)[1:]
    return {name: _innermost(body) for name, body in zip(sections[::2], sections[1::2], strict=True)}


def _innermost(body: str) -> list[Counter[str]]:
    operations: list[str] = []
    labels: dict[str, int] = {}
    loops: list[tuple[int, int]] = []  # from the first operation to the one that jumps back to it
    for line in body.splitlines():
        if found := LABEL.match(line):
            labels[found[1]] = len(operations)
        elif found := INSTRUCTION.search(line):
            name, *modifiers = found[1].split(".")
            width = [m for m in modifiers if m in ("64", "128")] if name in ("LDS", "STS", "LDG", "STG") else []
            operations.append(".".join([name, *width]))
            target = TARGET.search(found[2])
            if name == "BRA" and target and target[1] in labels:
                loops.append((labels[target[1]], len(operations)))
        elif line.startswith(".section"):
            break
    inner = [a for a in loops if not any(b != a and a[0] <= b[0] and b[1] <= a[1] for b in loops)]
    # The jump to itself that fills up a kernel's end is no loop.
    return [Counter(operations[start:end]) for start, end in inner if end - start > 1]
