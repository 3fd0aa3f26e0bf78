"""Machine code of kernels, as nvdisasm prints it: which instructions the inner loops consist of."""

from __future__ import annotations

import re
import struct
import subprocess
from collections import Counter
from importlib.metadata import files
from pathlib import Path

LABEL = re.compile(r"(\.L_x_\d+):")
INSTRUCTION = re.compile(r"/\*[0-9a-f]{4,}\*/\s+(?:@!?U?P\w+\s+)?([A-Z][A-Z0-9_.]*)(.*?)\s*;")
TARGET = re.compile(r"`\((\.L_x_\d+)\)")


def disassembled(cubin: Path) -> dict[str, str]:
    """The instructions of each kernel, as text."""
    (found,) = [path for path in files("nvidia-cuda-nvdisasm") or () if path.name == "nvdisasm"]
    command = [str(found.locate()), "-c", "-ndf", str(cubin)]
    text = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    sections = re.split(r"^\.text\.(\w+):$", text, flags=re.MULTILINE)[1:]
    return dict(zip(sections[::2], sections[1::2], strict=True))


def machine_code(cubin: bytes) -> dict[str, bytes]:
    """The code of each kernel in a cubin, an ELF file of 64 bits, as it stands there."""
    (start,) = struct.unpack_from("<Q", cubin, 40)  # of the sections' headers
    size, count, of_names = struct.unpack_from("<HHH", cubin, 58)
    sections = [struct.unpack_from("<IIQQQQ", cubin, start + i * size) for i in range(count)]
    found = {}
    for at, _, _, _, first, length in sections:
        at += sections[of_names][4]
        name = cubin[at : cubin.index(b"\0", at)].decode()
        if name.startswith(".text."):
            found[name.removeprefix(".text.")] = cubin[first : first + length]
    return found


def inner_loops(code: str) -> list[Counter[str]]:
    """A kernel's innermost loops, each as how often an operation stands in it.

    An operation is named without its modifiers, but for the width of loads and stores from 64 bits on: "FFMA",
    "LDS.128", "LDG".
    """
    operations, found = _loops(code)
    inner = [a for a in found if not any(b != a and a[0] <= b[0] and b[1] <= a[1] for b in found)]
    return [Counter(operations[start:end]) for start, end in inner]


def loops(code: str) -> list[list[str]]:
    """All of a kernel's loops, the shortest first, each as its operations in their order."""
    operations, found = _loops(code)
    return [operations[start:end] for start, end in sorted(found, key=lambda loop: loop[1] - loop[0])]


def jumps_after(code: str, name: str) -> list[int]:
    """How many operations the first jump after each operation of that name passes by, if it goes forward."""
    labels: dict[str, int] = {}
    jumps: list[tuple[int, str]] = []
    count, waiting = 0, False
    for line in code.splitlines():
        if label := LABEL.match(line):
            labels[label[1]] = count
        elif instruction := INSTRUCTION.search(line):
            count += 1
            operation = instruction[1].split(".")[0]
            waiting |= operation == name
            target = TARGET.search(instruction[2])
            if waiting and operation == "BRA" and target:
                jumps.append((count, target[1]))
                waiting = False
    return [labels[target] - place for place, target in jumps if labels.get(target, 0) > place]


def _loops(code: str) -> tuple[list[str], list[tuple[int, int]]]:
    """The operations, and of each loop where it begins and ends."""
    operations: list[str] = []
    labels: dict[str, int] = {}
    found: list[tuple[int, int]] = []  # from the first operation to the one that jumps back to it
    for line in code.splitlines():
        if label := LABEL.match(line):
            labels[label[1]] = len(operations)
        elif instruction := INSTRUCTION.search(line):
            name, *modifiers = instruction[1].split(".")
            width = [m for m in modifiers if m in ("64", "128")] if name in ("LDS", "STS", "LDG", "STG") else []
            operations.append(".".join([name, *width]))
            target = TARGET.search(instruction[2])
            if name == "BRA" and target and target[1] in labels:
                found.append((labels[target[1]], len(operations)))
        elif line.startswith(".section"):
            break
    # The jump to itself that fills up a kernel's end is no loop.
    return operations, [(start, end) for start, end in found if end - start > 1]
