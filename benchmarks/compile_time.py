"""How long NVRTC takes to compile the kernels of a first fit, without a GPU: processor time, of one thread a module. A
fit has as many at work at a time as there are threads, so that on enough of them it waits for the longest.

    python benchmarks/compile_time.py            needs g++ and nvidia-cuda-nvrtc, which CuPy's extras bring
    python benchmarks/compile_time.py --arch 86 --json PATH

What a fit compiles is recorded by making one on the kernels run on the CPU (tests/host_cuda), so it is what a GPU is
asked for. There NVRTC gets these sources and options, and what comes of it is kept on disk.
"""

from __future__ import annotations

import argparse
import os
import sys
import time
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
from common import result_files
from common.machine import machine, versions

sys.path.append(str(Path(__file__).parents[1] / "tests"))
from host_cuda.machine import as_cupy
from host_cuda.runtime import HostCuda
from nvrtc import compile_for

from gpukmeans import KMeans
from gpukmeans.thread_limits import at_most

# What users cluster: pixels, and vectors of many features. The rows are few, and beyond 64 centers any number will do:
# what is compiled does not depend on them.
FITS = {"uint8 x 3, k = 64": ("uint8", 3, 64), "float32 x 128, k above 64": ("float32", 128, 65)}

Source = tuple[str, tuple[str, ...]]


def compiled_by_a_fit(architecture: int, dtype: str, d: int, k: int) -> list[Source]:
    """Source and options of each module that a fit of such rows compiles, and a prediction by it."""
    host = HostCuda(build="fast", capability=str(architecture))
    asked: dict[Source, None] = {}

    def record(code: str, options: tuple[str, ...], cache_in_memory: bool) -> Any:
        asked[code, options] = None
        return host.compile(code, options)

    host.cuda.compiler.compile_using_nvrtc = record
    sys.modules["cupy"] = as_cupy(host)  # type: ignore[assignment]
    x = np.random.default_rng(0).integers(0, 256, (2 * k, d)).astype(dtype)
    with TemporaryDirectory() as empty, at_most(1):  # a single thread compiles nothing before it is asked for
        os.environ["CUPY_CACHE_DIR"] = empty
        KMeans(k, device="cuda", random_state=0, max_iter=2, tol=0).fit(x).predict(x)
    return list(asked)


def seconds(architecture: int, code: str, options: Sequence[str]) -> float:
    start = time.process_time()
    compile_for(architecture, code, options)
    return time.process_time() - start


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--arch", type=int, default=90, help="compute capability, 90 unless given")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    seconds(options.arch, "", ())  # what loading the library takes is not a kernel's
    report: dict[str, Any] = {
        "machine": machine(),
        "versions": {**versions(), "nvidia-cuda-nvrtc": version("nvidia-cuda-nvrtc")},
        "arch": options.arch,
        "fits": {},
    }
    for name, fit in FITS.items():
        taken = [seconds(options.arch, code, words) for code, words in compiled_by_a_fit(options.arch, *fit)]
        report["fits"][name] = taken
        print(f"{name}: {len(taken)} modules of kernels, {sum(taken):.1f} s, the longest {max(taken):.1f} s")
    if options.json:
        result_files.write(options.json, report)


if __name__ == "__main__":
    main()
