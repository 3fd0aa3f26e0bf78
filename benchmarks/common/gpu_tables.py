"""The report of gpu.py as tables in Markdown."""

from __future__ import annotations

from typing import Any

from common.markdown import row, with_prefix
from gpukmeans.engine import nvml

NOTES = """\
Medians over {repeats} turns, from the same rows as initial centers. An iteration: a fit of ten less a fit of two,
over eight, data on the device. Converged: by default arguments, data on the device; flash-kmeans, whose rule for the
end is another, makes as many iterations as gpukmeans did, and gets float64 and uint8 as float32. Ratios are to
gpukmeans: above 1 is slower. Peak: device memory of a fit above what there was before. A kernel's floor is what its
bytes and operations take at the device's rates (`benchmarks/common/floors.py`), for a pass over all rows, as an
assignment's longest launch is; the device copies {bandwidth}B/s."""


def gpu_table(report: dict[str, Any]) -> str:
    """The report in Markdown."""
    speed = [
        "| workload | library | ms an iteration | ratio | points/s | pairs/s | s converged | ratio | iterations | "
        "inertia | peak |",
        "| --- | --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: |",
    ]
    ends = [
        "| workload | input | from the host, s | with k-means++, s | joules a fit |",
        "| --- | ---: | ---: | ---: | ---: |",
    ]
    kernels = [
        "| workload | kernel | launches | ms, median | longest | times its floor |",
        "| --- | --- | ---: | ---: | ---: | ---: |",
    ]
    missing = [f"- {library} is not installed: {why}" for library, why in report["not_installed"].items()]
    for workload in report["workloads"]:
        title = "{name} {n:,}x{d}, k={k}, {dtype}".format(**workload)
        libraries = workload["libraries"]
        ours = libraries["gpukmeans"]
        for library, result in libraries.items():
            if "missing" in result:
                missing.append(f"- {library} has no result for {workload['name']}: {result['missing']}")
            else:
                speed.append(row(title, library, *_cells(result, ours["summary"])))
        joules = ours.get("joules")
        ends.append(
            row(
                workload["name"],
                with_prefix(workload["input_bytes"]) + "B",
                *(f"{ours['summary'][f'{start}_seconds']:.3g}" for start in ("from_host", "seeded")),
                "unknown" if joules is None else f"{joules:.3g}",
            )
        )
        for kernel, times in ours["kernels"].items():
            above = f"{times['times_its_floor']:.2f}" if "times_its_floor" in times else ""
            taken = (f"{times[name]:.4g}" for name in ("milliseconds", "longest_milliseconds"))
            kernels.append(row(workload["name"], kernel, str(times["launches"]), *taken, above))
    notes = NOTES.format(repeats=report["repeats"], bandwidth=with_prefix(report["device"]["copy_bytes_per_second"]))
    return "\n".join([_where(report), "", *speed, "", notes, *missing, "", *ends, "", *kernels])


def _where(report: dict[str, Any]) -> str:
    software = ", ".join(f"{name} {version}" for name, version in report["versions"].items() if version)
    runtime = report["cuda"]["runtime"]
    driver = report["driver"] or "unknown"
    return (
        f"{report['device']['name']}, driver {driver}, CUDA {nvml.cuda_version(runtime)}, "
        f"{report['machine']['cpu']}, {report['machine']['cores']} cores, {report['date']}; {software}."
    )


def _cells(result: dict[str, Any], ours: dict[str, Any]) -> list[str]:
    summary = result["summary"]
    return [
        f"{1000 * summary['iteration_seconds']:.4g}",
        f"{summary['iteration_seconds'] / ours['iteration_seconds']:.2f}",
        with_prefix(summary["points_per_second"]),
        with_prefix(summary["pairs_per_second"]),
        f"{summary['whole_seconds']:.4g}",
        f"{summary['whole_seconds'] / ours['whole_seconds']:.2f}",
        str(result["iterations"]),
        f"{summary['inertia']:.6g}",
        with_prefix(result["peak_bytes"]) + "B",
    ]
