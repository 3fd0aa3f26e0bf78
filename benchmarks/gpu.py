"""gpukmeans on a GPU beside flash-kmeans, a plain CuPy version and scikit-learn on the CPU, in one run.

    python benchmarks/gpu.py                     every workload: about ten minutes on an H200
    python benchmarks/gpu.py --workloads china64,embed1k --json
    python benchmarks/report.py benchmarks/results/FILE.json

For each workload, from the same initial centers, rows of the data:

- seconds of an iteration: a fit of 10 less a fit of 2 iterations, tol=0, over 8; data on the device;
- seconds to convergence by default arguments, from the device and from the host; flash-kmeans, whose rule for the end
  is another, makes as many iterations as ours did;
- for gpukmeans, also seconds from the host with k-means++ before, the seconds of each kernel and how many times its
  floor that is (floors.py), the peak of device memory, and the joules of a fit by NVML's counter.

Libraries take turns, repetition by repetition, and medians count. The first fit of each is not timed: it compiles.
scikit-learn takes part where an iteration is at most 2e10 multiply-adds.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from statistics import median
from typing import Any, NamedTuple

import numpy as np
from common import floors, result_files
from common.gpu_tables import gpu_table
from common.machine import machine, versions

from gpukmeans import KMeans, datasets
from gpukmeans.engine import devices, nvml
from gpukmeans.engine.cuda import device as gpu
from gpukmeans.engine.cuda import stacks
from gpukmeans.engine.cuda.launch_plans import half_rows

MOST_ON_CPU = 2e10
FEW, MANY = 2, 10  # iterations of the two fits whose difference is that of eight
ENERGY_SECONDS = 1.0  # NVML's counter is renewed some ten times a second


class Case(NamedTuple):
    make: Callable[[], Any]  # the data on the host, (n, d)
    n_clusters: int
    itemsize: int


def picture(times: int) -> np.ndarray:
    """china.jpg, each pixel `times` times in each direction, with noise: (n, 3) uint8."""
    small = datasets.china().X * 255
    shape = datasets.china().shape
    image = small.reshape(shape).round().astype(np.uint8)
    large = image.repeat(times, axis=0).repeat(times, axis=1)
    noise = np.random.default_rng(0).integers(-8, 9, large.shape, dtype=np.int8)
    return np.clip(large.astype(np.int16) + noise, 0, 255).astype(np.uint8).reshape(-1, 3)


def blobs(n: int, d: int, centers: int, dtype: str, spread: float = 1.0) -> np.ndarray:
    """Clusters about centers drawn from a normal distribution of this spread; their own is one."""
    rng = np.random.default_rng(0)
    places = rng.normal(0, spread, (centers, d)).astype(np.float32)
    X = np.empty((n, d), dtype)
    for a in range(0, n, 2**20):
        rows = min(2**20, n - a)
        X[a : a + rows] = places[rng.integers(0, centers, rows)] + rng.standard_normal((rows, d), np.float32)
    return X


def pixels() -> np.ndarray:
    return datasets.china().X


WORKLOADS: dict[str, Case] = {
    "digits": Case(lambda: datasets.digits().X, 10, 8),
    "china64": Case(pixels, 64, 8),
    "china256": Case(pixels, 256, 8),
    "image100M64": Case(lambda: picture(20), 64, 1),
    "image100M256": Case(lambda: picture(20), 256, 1),
    "features16": Case(lambda: blobs(10_000_000, 16, 256, "float32"), 256, 4),
    "embed1k": Case(lambda: blobs(1_000_000, 128, 1024, "float32"), 1024, 4),
    "embed1k_half": Case(lambda: blobs(1_000_000, 128, 1024, "float16"), 1024, 2),
    "embed8k": Case(lambda: blobs(1_000_000, 128, 8192, "float32"), 8192, 4),
    "embed8k_half": Case(lambda: blobs(1_000_000, 128, 8192, "float16"), 8192, 2),
    "embed8M": Case(lambda: blobs(8_000_000, 128, 1024, "float32"), 1024, 4),
    # Of noise: Hamerly's bounds leave no row out.
    "noise1k": Case(lambda: blobs(1_000_000, 128, 1024, "float32", spread=0), 1024, 4),
    "noise1k_half": Case(lambda: blobs(1_000_000, 128, 1024, "float16", spread=0), 1024, 2),
    # For a first look, and for tests.
    "small": Case(lambda: blobs(600, 3, 4, "float32"), 4, 4),
}
NOT_BY_DEFAULT = ("noise1k", "noise1k_half", "small")
DEFAULT = [name for name in WORKLOADS if name not in NOT_BY_DEFAULT]


# ------------------------------------------------------------ measuring


def timed(cp: Any, work: Callable[[], Any]) -> tuple[Any, float]:
    """The outcome, and the seconds until the device is done."""
    cp.cuda.get_current_stream().synchronize()
    start = time.perf_counter()
    result = work()
    cp.cuda.get_current_stream().synchronize()
    return result, time.perf_counter() - start


@contextmanager
def kernels_timed(cp: Any) -> Iterator[dict[str, list[float]]]:
    """Within this context, the milliseconds of every launch of our kernels, by kernel; read them after it."""
    taken: dict[str, list[tuple[Any, Any]]] = defaultdict(list)
    found: dict[str, list[float]] = {}
    run = gpu.Gpu.run

    def watched(self: Any, family: str, name: str, *args: Any, **rest: Any) -> None:
        begin, end = cp.cuda.Event(), cp.cuda.Event()
        begin.record()
        run(self, family, name, *args, **rest)
        end.record()
        taken[name].append((begin, end))

    gpu.Gpu.run = watched  # type: ignore[method-assign]
    try:
        yield found
    finally:
        gpu.Gpu.run = run  # type: ignore[method-assign]
    cp.cuda.get_current_stream().synchronize()
    found.update({name: [cp.cuda.get_elapsed_time(*pair) for pair in pairs] for name, pairs in taken.items()})


def measure(name: str, case: Case, found: dict[str, Any], device: floors.Device, repeats: int) -> dict[str, Any]:
    import cupy as cp

    host = case.make()
    (n, d), k = host.shape, case.n_clusters
    init = host[np.random.RandomState(0).choice(n, k, replace=False)].astype(np.float64)
    X = cp.asarray(host)
    libraries: dict[str, Any] = {}
    ready: dict[str, Any] = {}
    for library, kept in found.items():
        if library.startswith("scikit-learn") and n * d * k > MOST_ON_CPU:
            libraries[library] = {"missing": "too much for a CPU"}
            continue
        try:
            ready[library] = kept.prepare(X)
            kept.reset()
            kept.fit(ready[library], init, FEW)  # compiles
            libraries[library] = {"peak_bytes": kept.peak(), "iteration": [], "whole": []}
        except Exception as error:
            ready.pop(library, None)
            libraries[library] = {"missing": (str(error) or type(error).__name__).splitlines()[0][:200]}
    iterations = found["gpukmeans"].fit(X, init, None).iterations
    names = list(ready)
    for turn in range(repeats):
        for library in names[turn % len(names) :] + names[: turn % len(names)]:
            fit, data, result = found[library].fit, ready[library], libraries[library]
            _, few = timed(cp, lambda fit=fit, data=data: fit(data, init, FEW))
            _, many = timed(cp, lambda fit=fit, data=data: fit(data, init, MANY))
            result["iteration"].append((many - few) / (MANY - FEW))
            given = iterations if library == "flash-kmeans" else None
            whole, seconds = timed(cp, lambda fit=fit, data=data, given=given: fit(data, init, given))
            result["whole"].append(seconds)
            result["iterations"] = whole.iterations
            result["centers"] = whole.centers
    ours = libraries["gpukmeans"]
    ours["from_host"] = [timed(cp, lambda: found["gpukmeans"].fit(host, init, None))[1] for _ in range(repeats)]
    seeded(k).fit(host)  # compiles
    ours["seeded"] = [timed(cp, lambda: seeded(k).fit(host))[1] for _ in range(repeats)]
    for result in libraries.values():
        summarise(result, host, n * k)
    ours["kernels"] = kernels(cp, found, X, init, device, case, (n, d, k))
    ours["joules"] = joules(cp, found, X, init)
    facts = {"name": name, "n": n, "d": d, "k": k, "dtype": str(host.dtype), "input_bytes": host.nbytes}
    return {**facts, "libraries": libraries}


def seeded(k: int, **rule: Any) -> KMeans:
    """From k-means++, whose centers are k rows of the data."""
    return KMeans(k, n_init=1, random_state=0, device="cuda", **rule)


def summarise(result: dict[str, Any], host: np.ndarray, pairs: int) -> None:
    """Medians, rates, and the inertia of the centers by one function for all."""
    if "missing" in result:
        return
    model = KMeans(len(result["centers"]), device="cuda")
    model.cluster_centers_, model.n_features_in_ = result.pop("centers").astype(np.float64), host.shape[1]
    iteration = median(result["iteration"])
    result["summary"] = {
        "iteration_seconds": iteration,
        "points_per_second": len(host) / iteration,
        "pairs_per_second": pairs / iteration,
        "whole_seconds": median(result["whole"]),
        "inertia": -model.score(host),
    }
    for start in ("from_host", "seeded"):
        if start in result:
            result["summary"][f"{start}_seconds"] = median(result[start])


def kernels(
    cp: Any, found: Any, X: Any, init: Any, device: floors.Device, case: Case, shape: tuple[int, int, int]
) -> dict[str, Any]:
    """For each kernel of a fit of ten iterations, and of k-means++: launches, median milliseconds, and, where known,
    the floor of a launch that looks at all rows, and how many times that is taken: by the longest of an assignment's,
    since later ones look at fewer."""
    n, d, k = shape
    with kernels_timed(cp) as taken:
        found["gpukmeans"].fit(X, init, MANY)
    with kernels_timed(cp) as of_seeding:
        seeded(k, max_iter=1).fit(X)
    taken = {**of_seeding, **taken}
    known = {
        "feature_range": floors.feature_range_seconds(device, n, d, case.itemsize),
        "assign_low_dim": floors.assign_seconds(device, n, d, k, case.itemsize),
        "assign_tiled": floors.assign_seconds(device, n, d, k, case.itemsize),
        "refine": floors.refine_seconds(device, n),
    }
    if half_rows(d) is None:
        known["assign_tensor"] = floors.assign_tensor_seconds(device, n, d, k, case.itemsize)
    else:  # which leaves few rows to assign_tensor
        for name in ("assign_half", "assign_wgmma", "assign_tcgen05"):
            known[name] = floors.assign_half_seconds(device, n, d, k, case.itemsize)
    result: dict[str, Any] = {}
    for name, times in taken.items():
        result[name] = {"launches": len(times), "milliseconds": median(times), "longest_milliseconds": max(times)}
        if name in known:
            floor, counts = 1000 * known[name], max(times) if name.startswith("assign") else median(times)
            result[name].update(floor_milliseconds=floor, times_its_floor=counts / floor)
    return result


def joules(cp: Any, found: Any, X: Any, init: Any) -> float | None:
    """Of one fit by default arguments: as many as take a second, over their number."""
    bus = cp.cuda.runtime.deviceGetPCIBusId(cp.cuda.Device().id)
    try:
        before, start, fits = nvml.energy(bus), time.perf_counter(), 0
        while time.perf_counter() - start < ENERGY_SECONDS:
            found["gpukmeans"].fit(X, init, None)
            fits += 1
        after = nvml.energy(bus)
    except Exception:  # no NVML; the figure is then unknown
        return None
    return None if before is None or after is None else (after - before) / fits


def report(names: list[str], repeats: int, libraries: list[str]) -> dict[str, Any]:
    """Everything measured, as it is kept; libraries: those to measure, all if it is empty."""
    import cupy as cp
    from common.gpu_libraries import load

    stacks.WORTH_COMPILING = 0  # whatever was compiled before
    started = result_files.now()
    found, absent = load(libraries)
    device = floors.Device.measured(cp)
    measured = []
    for name in names:
        print(f"{name} ...", file=sys.stderr, flush=True)
        measured.append(measure(name, WORKLOADS[name], found, device, repeats))
        cp.get_default_memory_pool().free_all_blocks()
    try:
        driver = nvml.driver()
    except Exception:
        driver = None
    runtime = cp.cuda.runtime
    return {
        "kind": "gpu",
        "date": started,
        "command": f"python benchmarks/gpu.py --workloads {','.join(names)} --repeats {repeats}"
        + f" --libraries {','.join(libraries)}" * bool(libraries),
        "device": {
            "name": device.name,
            "copy_bytes_per_second": device.bandwidth,
            "clocks": device.clocks,
            "tensor_products": device.tensor,
        },
        "driver": driver,
        "cuda": {"runtime": runtime.runtimeGetVersion(), "driver": runtime.driverGetVersion()},
        "machine": machine(),
        "versions": {**versions(), "cupy": cp.__version__},
        "not_installed": absent,
        "repeats": repeats,
        "workloads": measured,
    }


def main() -> None:
    there_are = ", ".join(WORKLOADS)
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--workloads", metavar="A,B", help=f"of {there_are} (default: all but {', '.join(NOT_BY_DEFAULT)})"
    )
    parser.add_argument("--repeats", type=int, default=5, metavar="N", help="turns of each library (default: 5)")
    parser.add_argument("--libraries", metavar="A,B", default="", help="gpukmeans, and those to measure (default: all)")
    result_files.add_option(parser)
    args = parser.parse_args()
    names = args.workloads.split(",") if args.workloads else DEFAULT
    if unknown := [name for name in names if name not in WORKLOADS]:
        parser.error(f"unknown workloads {', '.join(unknown)}; there are {there_are}")
    if args.repeats < 1:
        parser.error("--repeats must be at least 1")
    if (reason := devices.why_no_gpu()) is not None:
        sys.exit(f"gpu.py: nothing to measure on: {reason}")
    libraries = args.libraries.split(",") if args.libraries else []
    if libraries and "gpukmeans" not in libraries:
        parser.error("--libraries must name gpukmeans, to which the others are compared")
    kept = report(names, args.repeats, libraries)
    if args.json:
        name = kept["device"]["name"].lower().replace(" ", "-")
        result_files.keep(args.json, name, kept)
    print(gpu_table(kept))


if __name__ == "__main__":
    main()
