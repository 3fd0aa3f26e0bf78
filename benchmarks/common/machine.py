"""What a measurement has to say of the machine and the software it was made with: no host names, no paths."""

from __future__ import annotations

import os
import platform
import subprocess
import time
from contextlib import suppress
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from threadpoolctl import threadpool_info

import gpukmeans
from gpukmeans.thread_limits import thread_count

PACKAGES = ["numpy", "scipy", "scikit-learn", "faiss-cpu", "superkmeans"]


def machine() -> dict[str, Any]:
    """The processor, how many cores this process may use, memory and system."""
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") if hasattr(os, "sysconf") else None
    return {
        "cpu": _cpu_model(),
        "cores": thread_count(),
        "OMP_NUM_THREADS": os.environ.get("OMP_NUM_THREADS"),
        "memory_bytes": memory,
        "system": f"{platform.system()} {platform.machine()}",
    }


def versions() -> dict[str, str | None]:
    """The version of everything that takes part, None for what is not installed."""
    found: dict[str, str | None] = {"gpukmeans": gpukmeans.__version__, "commit": _commit()}
    found["python"] = platform.python_version()
    for package in PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            found[package] = None
    return found


def thread_pools() -> list[str]:
    """The BLAS and OpenMP libraries in this process, and how many threads each uses; import their users before."""
    found = []
    for library in threadpool_info():
        name = " ".join(filter(None, [library["internal_api"], library["version"], library.get("architecture")]))
        found.append(f"{name}, {library['num_threads']} threads, from {Path(library['filepath']).parent.name}")
    return found


def held_bytes(field: str) -> int:
    """This process's memory by /proc/self/status: "VmRSS" what it holds, "VmHWM" the most since the last reset."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(field + ":"):
            return int(line.split()[1]) * 1024
    raise RuntimeError(f"no {field} in /proc/self/status")


class Others:
    """How many cores other programs kept busy since this was made, on average; None where nobody counts.

    A library that spins at its barriers loses far more to them than one that does not: figures taken beside
    anything that computes are worth nothing.
    """

    def __init__(self) -> None:
        self.start, self.busy, self.own = time.perf_counter(), _busy_seconds(), time.process_time()

    def cores(self) -> float | None:
        busy = _busy_seconds()
        if busy is None or self.busy is None:
            return None
        others = (busy - self.busy) - (time.process_time() - self.own)
        return max(0.0, others / (time.perf_counter() - self.start))


def _busy_seconds() -> float | None:
    """The seconds that all cores together have been at work, or taken away by the machine's host."""
    try:
        user, nice, system, _idle, _iowait, irq, softirq, steal, *_ = (
            Path("/proc/stat").read_text().splitlines()[0].split()[1:]
        )
    except (OSError, ValueError):
        return None
    return sum(map(int, (user, nice, system, irq, softirq, steal))) / os.sysconf("SC_CLK_TCK")


def _cpu_model() -> str:
    with suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or "unknown"


def _commit() -> str | None:
    """The commit of the gpukmeans that was imported, "-dirty" where files differ; None outside a checkout."""
    package = Path(gpukmeans.__file__).parent
    git = ["git", "-C", str(package)]
    try:
        subprocess.run([*git, "ls-files", "--error-unmatch", "__init__.py"], capture_output=True, check=True)
        describe = [*git, "describe", "--always", "--dirty", "--abbrev=12", "--exclude=*"]
        return subprocess.run(describe, capture_output=True, check=True, text=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return None
