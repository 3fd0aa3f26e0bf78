"""The report of dither.py in Markdown, for docs/quantization.md."""

from __future__ import annotations

import statistics
from typing import Any

OURS, PEER = "gpukmeans floyd-steinberg", "libimagequant"
FIGURES = ("delta_e", "ssim", "bytes", "stray")


def dither_table(report: dict[str, Any]) -> str:
    """Means of every figure, each picture beside libimagequant's, and where that is ahead."""
    colors = sorted({case["colors"] for case in report["cases"]})
    lines = ["| colors | method | deltaE from afar | SSIM | kB | stray dots, % |", "| ---: | --- |" + " ---: |" * 4]
    for k in colors:
        for name in report["cases"][0]["methods"]:
            mean = {
                figure: statistics.fmean(c["methods"][name][figure] for c in report["cases"] if c["colors"] == k)
                for figure in FIGURES
            }
            lines.append(f"| {k} | {name} | {_cells(mean)} |")
    software = ", ".join(f"{name} {version}" for name, version in report["versions"].items() if version)
    machine = report["machine"]
    where = f"{machine['cpu']}, {machine['cores']} cores, {report['date']}; {software}."
    if PEER not in report["cases"][0]["methods"]:
        return "\n".join([where, "", *lines])
    single = [f"| picture | colors | {OURS} | {PEER} |", "| --- | ---: | ---: | ---: |"]
    for case in report["cases"]:
        cells = (_cells(case["methods"][name]).replace(" | ", ", ") for name in (OURS, PEER))
        single.append(f"| {case['image']} | {case['colors']} | " + " | ".join(cells) + " |")
    note = f"Of each picture deltaE from afar, SSIM, kB and stray dots. {_misses(report)}"
    return "\n".join([where, "", *lines, "", note, "", *single])


def _cells(figures: dict[str, float]) -> str:
    return f"{figures['delta_e']:.2f} | {figures['ssim']:.3f} | {figures['bytes'] / 1000:.0f} | {figures['stray']:.3f}"


def _misses(report: dict[str, Any]) -> str:
    """Where libimagequant is ahead in any of the four, by its figure less ours."""
    forms = {
        "delta_e": "deltaE by {:.3f}",
        "ssim": "SSIM by {:.4f}",
        "bytes": "{:.0f} bytes",
        "stray": "stray by {:.3f}",
    }
    found = []
    for case in report["cases"]:
        ours, theirs = case["methods"][OURS], case["methods"][PEER]
        behind = {figure: (theirs[figure] - ours[figure]) * (1 if figure == "ssim" else -1) for figure in FIGURES}
        said = [forms[figure].format(by) for figure, by in behind.items() if by > 0]
        if said:
            found.append(f"{case['image']} in {case['colors']} colors ({', '.join(said)})")
    if not found:
        return f"{PEER} is ahead in none of them."
    return f"{PEER} is ahead in {len(found)} of {len(report['cases'])}: {'; '.join(found)}."
