"""Compiles kernels, and the worker that runs them, with g++; everything compiled is kept on disk.

Three builds of the same source: "address" finds accesses outside of any array and undefined behaviour, with
the compiler's sanitizers; "race" finds accesses that no barrier orders, with race.h; "fast" finds nothing but
wrong answers, in a fifth of the time. A kernel should pass the first before the second, which checks no bounds.

Stricter than a device: shuffles and votes order no memory, nothing orders the blocks of a launch, a
value read where others update atomically is a race, and __activemask is the thread alone. Not seen: races
through memcpy, and a missing initial value of a __device__ variable, which is garbage here and zero there.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import platform
import re
import subprocess
import threading
from collections.abc import Sequence
from functools import cache
from pathlib import Path

HERE = Path(__file__).parent
CACHE = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "gpukmeans-host-cuda"

SANITIZE = {
    "address": (
        *("-fsanitize=address,undefined,float-cast-overflow", "-fno-sanitize=vptr", "-fno-sanitize-recover=all"),
        "-fno-omit-frame-pointer",
    ),
    "race": ("-fsanitize=thread",),
    # Of two neighbors g++ 12 takes (double)(float)x for x where it makes vectors of them
    # (test_doubts.test_groups_far_apart_do_not_come_to_distances_row_by_row fails of what float32 leaves of float64).
    "fast": ("-O2", "-fno-tree-slp-vectorize"),
}

# -ffp-contract=off: as on the device, only what is spelled fmaf is fused. Statics with an initial value stay out of
# .bss, which leaves the __shared__ arrays alone there: the worker fills them with garbage. DWARF 4, because addr2line
# takes the names of files from version 5's tables wrongly.
MODULE = (
    *("-std=c++17", "-O1", "-g1", "-gdwarf-4", "-w", "-ffp-contract=off", "-fPIC", "-fvisibility=hidden"),
    *("-fno-zero-initialized-in-bss", "-fno-gnu-unique"),
)
WORKER = ("-std=c++17", "-O2", "-g1", "-Wall", "-Wextra", "-Werror", "-rdynamic")

# What the preprocessor leaves of a kernel's head; one level of parentheses in the bounds.
KERNEL = re.compile(
    r'\bextern\s+"C"\s+__global__\s+(?:void\s+|__launch_bounds__\s*\(((?:[^()]|\([^()]*\))*)\)\s*)+(\w+)\s*\('
)
DYNAMIC_SHARED = re.compile(r"\bextern\s+__shared__[^;\[\]]*\bdynamic_shared\s*\[\s*\]\s*;")

compiled: list[Path] = []  # by this process


class CompileException(Exception):  # noqa: N818 (CuPy's name)
    """cupy.cuda.compiler.CompileException: what g++ says about a kernel."""


def gxx(*arguments: str, code: str | None = None) -> str:
    try:
        done = subprocess.run(("g++", *arguments), input=code, capture_output=True, text=True)
    except FileNotFoundError:
        raise RuntimeError("the kernels' tests need g++ 10 or later: install it (Debian: apt install g++)") from None
    if done.returncode:
        raise CompileException(done.stderr)
    return done.stdout


@cache
def compiler() -> str:
    return gxx("-dumpfullversion", "-dumpmachine")


@cache
def _fused() -> tuple[str, ...]:
    """fmaf is an instruction where the processor has it, and otherwise a call; the same number either way."""
    said = Path("/proc/cpuinfo")
    x86 = platform.machine() == "x86_64" and said.exists()
    return ("-mfma",) if x86 and re.search(r"^flags.* fma( |$)", said.read_text(), re.MULTILINE) else ()


@cache
def _own_sources() -> str:
    return "".join(path.read_text() for path in (*sorted(HERE.glob("*.[hc]*")), Path(__file__)))


def identity() -> str:
    """What any compiled file depends on, beside what it is compiled from."""
    return repr((compiler(), _fused(), _own_sources()))


def _path(suffix: str, *key: object) -> Path:
    text = identity() + repr(key)
    return CACHE / (hashlib.sha256(text.encode()).hexdigest()[:32] + suffix)


_thread = threading.Lock()


def _compile(target: Path, *arguments: str, code: str | None = None) -> Path:
    """Under another name first, so that whoever looks finds a whole file. Of several processes that want the same,
    one compiles and the others wait."""
    target.parent.mkdir(parents=True, exist_ok=True)
    partial = target.with_suffix(f".{os.getpid()}")
    with _thread, (CACHE / "lock").open("w") as lock:  # which tells processes apart, and no threads
        # One byte of it, since a lock for each target would leave as many files.
        place = int.from_bytes(hashlib.sha256(target.name.encode()).digest()[:4], "big")
        fcntl.lockf(lock, fcntl.LOCK_EX, 1, place)
        if target.exists():
            return target
        try:
            gxx(*arguments, "-o", str(partial), code=code)
            partial.replace(target)
        finally:
            partial.unlink(missing_ok=True)
    compiled.append(target)
    return target


def worker(build: str) -> Path:
    target = _path("", build)
    if target.exists():
        return target
    # Not itself instrumented: it switches stacks, and fills memory that kernels may not touch.
    libraries = {"address": ("-Wl,--no-as-needed", "-lasan", "-lubsan"), "race": (), "fast": ()}[build]
    return _compile(target, *WORKER, f"-D{build.upper()}", str(HERE / "worker.cpp"), *libraries, "-ldl")


def _flags(options: Sequence[str]) -> tuple[list[str], list[Path]]:
    """What g++ is told of NVRTC's options, and the folders to search for included files."""
    flags, folders = [], []
    for option in options:
        if option.startswith("-I"):
            folders.append(Path(option[2:]))
        elif re.fullmatch(r"-[DU]\w+(=.*)?", option):
            flags.append(option)
        elif option not in ("--std=c++17", "-std=c++17"):
            raise CompileException(f"no meaning is known here for the option {option!r}")
    return flags, folders


def _included(code: str, folders: Sequence[Path], found: dict[Path, str]) -> dict[Path, str]:
    """The files that the code includes from the folders, and those that they include."""
    for name in re.findall(r'^\s*#\s*include\s*[<"]([^">]+)[">]', code, re.MULTILINE):
        path = next((folder / name for folder in folders if (folder / name).is_file()), None)
        if path and path not in found:
            found[path] = path.read_text()
            _included(found[path], folders, found)
    return found


def module(build: str, code: str, options: Sequence[str], name_expressions: Sequence[str]) -> Path:
    """The code as a shared library with one `cuda_host_module`."""
    flags, folders = _flags(options)
    included = _included(code, folders, {})
    target = _path(".so", build, code, sorted(included.values()), flags, name_expressions)
    if target.exists():
        return target
    # Reports should name the file that the code was read from.
    files = (path for folder in folders for path in folder.glob("*.cu"))
    name = next((path.name for path in files if path.read_text() == code), "code.cu")
    search = [f"-I{folder}" for folder in folders]
    header = ("-include", str(HERE / "cuda_host.h"))
    # The namespace makes everything local to the module: arrays that linkers might merge get no red zones.
    local = f'namespace {{\n#line 1 "{name}"\n{code}\n}}'
    text = gxx("-E", "-std=c++17", "-x", "c++", *flags, *search, *header, "-", code=local)
    text = DYNAMIC_SHARED.sub("unsigned char* const dynamic_shared = cuda_host_dynamic_shared;", text)
    if re.search(r"\bextern\s+__shared__", text):
        raise CompileException(f"{name}: declare `extern __shared__ unsigned char dynamic_shared[];` and nothing else")
    kernels = [(name, bound.split(",")[0] or "1024") for bound, name in KERNEL.findall(text)]
    kernels += [(name, "1024") for name in name_expressions]
    rows = "".join(f'cuda_host::describe_kernel<&{name}>("{name}", {bound}),\n' for name, bound in kernels)
    text += f"""
#line 1 "table of kernels"
extern "C" __attribute__((visibility("hidden"))) char __bss_start[], _end[];
constexpr cuda_host::Kernel cuda_host_kernels[] = {{{rows} {{}}}};
extern "C" __attribute__((visibility("default"))) const cuda_host::Module cuda_host_module;
const cuda_host::Module cuda_host_module = {{cuda_host_kernels, {len(kernels)}, __bss_start, _end}};
"""
    words = ("-D__global__=", "-D__shared__=static", "-D__launch_bounds__(...)=")
    # The sanitizers' libraries are the worker's, and for races it has its own functions in their place.
    link = ("-shared", "-nodefaultlibs", "-lm", "-lc", "-lgcc")
    return _compile(target, *MODULE, *_fused(), *SANITIZE[build], *words, "-x", "c++", "-", *link, code=text)
