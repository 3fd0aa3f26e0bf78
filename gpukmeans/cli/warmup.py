"""``gpukmeans warmup``: kernels, or NumPy's passes, compiled and kept on disk before anybody waits for them."""

from __future__ import annotations

import argparse
import re
import time
from functools import partial
from typing import Any

from gpukmeans import numba_support, thread_limits, threads
from gpukmeans.cli import console
from gpukmeans.cli.errors import CommandError
from gpukmeans.engine.cuda import compile, families
from gpukmeans.engine.cuda.launch_plans import LOW_DIM_FEATURES
from gpukmeans.engine.devices import LEAST_CAPABILITY
from gpukmeans.errors import DeviceError, describe_error

_DESCRIPTION = f"""\
Compile the kernels that KMeans and MiniBatchKMeans may need, for any number of clusters, with and without weights, and
keep them where a fit finds them: in ~/.cupy/kernel_cache, or where CUPY_CACHE_DIR says. No GPU is needed, only CuPy
with its compiler. A fit finds them if CuPy, CUDA's compiler and gpukmeans have the same versions then. In a Dockerfile,
for H100 and H200:

    RUN gpukmeans warmup --capability 9.0

Up to {LOW_DIM_FEATURES} features there are kernels for each number of them, and beyond for all; --features has only
those compiled that are named. What a fit does not find it compiles itself, as do pictures.

--cpu compiles what numba does for the NumPy engine (the extra fast) instead, and keeps it beside the package, or where
NUMBA_CACHE_DIR says; a fit finds it on a processor of the same kind.
"""


def add(commands: Any, what: str, seed: Any) -> None:
    """Add ``warmup`` to the subparsers of `gpukmeans`; what: its help."""
    parser = commands.add_parser(
        "warmup",
        help=what,
        description=_DESCRIPTION,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "--cpu", action="store_true", help="what numba compiles, for fits without a GPU, and no kernels"
    )
    parser.add_argument(
        "--capability",
        type=partial(_listed, _capability),
        metavar="N.N,...",
        help="compute capabilities to compile for: 8.0 for A100, 8.9 for L4 and RTX 40, 9.0 for H100 and H200, 10.0 "
        "for B200, 12.0 for RTX 50 (default: those of the GPUs here)",
    )
    parser.add_argument(
        "--dtype",
        type=partial(_listed, _dtype),
        default=["float32", "float64"],
        metavar="NAME,...",
        help=f"of the samples: {', '.join(families.X_KINDS)} (default: float32,float64; integers are float64)",
    )
    parser.add_argument(
        "--features",
        type=partial(_listed, _count),
        default=[*range(1, LOW_DIM_FEATURES + 2)],
        metavar="D,...",
        help="numbers of features (default: all)",
    )
    parser.add_argument("--cosine", action="store_true", help="also for metric='cosine'")
    parser.add_argument("--sparse", action="store_true", help="also for sparse matrices")
    parser.set_defaults(run=partial(_run, parser))


def _listed(one: Any, text: str) -> list[Any]:
    return [one(part.strip()) for part in text.split(",")]


def _capability(text: str) -> str:
    """ "9.0" as CUDA's tools have it, "90"."""
    if not re.fullmatch(r"\d{1,2}\.\d", text) or int(text.replace(".", "")) < LEAST_CAPABILITY:
        least = f"{LEAST_CAPABILITY // 10}.{LEAST_CAPABILITY % 10}"
        raise argparse.ArgumentTypeError(f"must be compute capabilities from {least} on, as 9.0, got {text!r}")
    return text.replace(".", "")


def _dtype(text: str) -> str:
    if text not in families.X_KINDS:
        raise argparse.ArgumentTypeError(f"must be of {', '.join(families.X_KINDS)}, got {text!r}")
    return text


def _count(text: str) -> int:
    if not text.isdecimal() or int(text) == 0:
        raise argparse.ArgumentTypeError(f"must be positive integers, got {text!r}")
    return int(text)


def _run(parser: argparse.ArgumentParser, args: argparse.Namespace) -> None:
    if args.cpu:
        for name in ("capability", "dtype", "features", "cosine", "sparse"):
            if getattr(args, name) != parser.get_default(name):
                parser.error(f"--{name} is of kernels, --cpu compiles none")
        _for_the_cpu()
    else:
        _for_gpus(args)


def _for_the_cpu() -> None:
    if not numba_support.works():
        raise CommandError("numba, which compiles for the CPU, does not import: pip install 'gpukmeans[fast]'")
    from gpukmeans.engine.numpy.numba_ahead import compile_everything

    start = time.perf_counter()
    made, there, folder = compile_everything(thread_limits.thread_count())
    if folder is None:
        raise CommandError("numba has nowhere to keep what it compiles: set NUMBA_CACHE_DIR to a folder of yours")
    seconds = time.perf_counter() - start
    console.say(f"CPU: {made} functions compiled, {there} were there, in {folder} ({seconds:.0f} s)")


def _for_gpus(args: argparse.Namespace) -> None:
    try:
        import cupy
    except Exception as error:
        raise CommandError(
            f"CuPy, which compiles the kernels, does not import ({describe_error(error)}). Install it for the CUDA "
            "version that they are to run with, pip install 'gpukmeans[cuda13]' or 'gpukmeans[cuda12]'"
        ) from None
    for capability in args.capability or _of_the_gpus_here(cupy):
        start = time.perf_counter()
        wanted = families.everything(args.dtype, args.features, capability, cosine=args.cosine, sparse=args.sparse)
        try:
            kept = threads.run(partial(compile.keep, cupy, capability=capability), wanted, thread_limits.thread_count())
        except (DeviceError, OSError):
            raise
        except Exception as error:
            raise CommandError(f"the compiler does not work here ({describe_error(error)})") from None
        made, seconds = sum(kept), time.perf_counter() - start
        name = f"{capability[:-1]}.{capability[-1]}"
        console.say(
            f"compute capability {name}: {made} modules of kernels compiled, {len(kept) - made} were there, "
            f"in {compile.folder()} ({seconds:.0f} s)"
        )


def _of_the_gpus_here(cupy: Any) -> list[str]:
    try:
        count = cupy.cuda.runtime.getDeviceCount()
        found = sorted({str(cupy.cuda.Device(gpu).compute_capability) for gpu in range(count)}, key=int)
    except Exception:
        found = []
    if not found:
        raise CommandError("there is no GPU here to compile for: say for which, as --capability 9.0")
    return found
