"""The report of dask_scale.py in Markdown, for docs/benchmarks.md."""

from __future__ import annotations

import statistics
from typing import Any

from common.markdown import row

OURS, ALONE, PEER = "gpukmeans, workers", "gpukmeans, one process", "dask-ml, workers"


def dask_table(report: dict[str, Any]) -> str:
    """Each fit's median, and what part of dask-ml's it takes, in the turns side by side."""
    names = list(report["cases"][0]["libraries"])
    lines = [
        row("k", "init", "calls a worker", *(f"{name}, s" for name in names), "of dask-ml's time", "of its inertia"),
        row(*["---:", "---", *["---:"] * (len(names) + 3)]),
    ]
    reasons: dict[str, str] = {}
    for case in report["cases"]:
        ours, theirs = case["libraries"][OURS], case["libraries"].get(PEER, {"missing": "not installed"})
        if "missing" in theirs:
            reasons[f"{PEER}, {case['init']}"] = theirs["missing"]
            ratio, inertia = "-", "-"
        else:
            ratios = [a / b for a, b in zip(ours["seconds"], theirs["seconds"], strict=True)]
            ratio = f"{statistics.median(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f})"
            inertia = f"{ours['inertia'] / theirs['inertia']:.4f}"
        cells = ["-" if "missing" in found else f"{statistics.median(found['seconds']):.2f}"
                 for found in (case["libraries"].get(name, {"missing": ""}) for name in names)]  # fmt: skip
        lines.append(row(str(case["k"]), case["init"].replace("|", r"\|"), str(case["calls"]), *cells, ratio, inertia))
    machine = report["machine"]
    software = ", ".join(f"{name} {version}" for name, version in report["versions"].items() if version)
    where = f"{machine['cpu']}, {machine['cores']} cores, {report['date']}; {software}."
    loads = " and ".join(f"{load:.1f}" for load in report["loads"])
    what = (
        f"{report['rows']:,} x {report['features']} float32, uniform, persisted on {report['workers']} workers of a "
        f"thread each; {report['iterations']} iterations, tol=0; medians of {report['repeats']} turns, the libraries "
        "one after the other in each. Inertia is computed in float64 from each library's centers. The machine's load "
        f"was {loads} as it began and ended, of which {report['workers']} are its own."
    )
    notes = [f"- {which}: no fit ({why})" for which, why in reasons.items()]
    return "\n".join([where, "", what, "", *lines, *(["", *notes] if notes else [])])
