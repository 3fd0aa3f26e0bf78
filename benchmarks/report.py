"""Results of cpu.py, dask_scale.py, gpu.py, quantize.py and zoo.py as tables and as a plot.

python benchmarks/report.py benchmarks/results/cpu-2026-11-24.json
python benchmarks/report.py FILE.json ... --publish         replaces the tables in the README and in docs/
python benchmarks/report.py FILE.json ... --plot FILE.png   bars of seconds beside gpukmeans'
"""

from __future__ import annotations

import argparse
import json
import re
from pathlib import Path
from typing import Any

from common.cpu_tables import cpu_table
from common.dask_tables import dask_table
from common.dither_tables import dither_table
from common.gpu_tables import gpu_table
from common.quantize_tables import quantize_table, seconds_table
from common.zoo_tables import zoo_table

ROOT = Path(__file__).parents[1]

# Where the table of each kind of report is shown.
PAGES = {
    "cpu": ROOT / "docs" / "benchmarks.md",
    "dask": ROOT / "docs" / "benchmarks.md",
    "dither": ROOT / "docs" / "quantization.md",
    "gpu": ROOT / "docs" / "benchmarks.md",
    "quantize": ROOT / "docs" / "quantization.md",
    "quantize-seconds": ROOT / "docs" / "quantization.md",
    "zoo": ROOT / "README.md",
}
TABLES = {
    "cpu": cpu_table,
    "dask": dask_table,
    "dither": dither_table,
    "gpu": gpu_table,
    "quantize": quantize_table,
    "quantize-seconds": seconds_table,
    "zoo": zoo_table,
}


def kind(report: dict[str, Any]) -> str:
    return report.get("kind", "cpu")


def markdown(report: dict[str, Any]) -> str:
    return TABLES[kind(report)](report)


def replaced(page: str, report: dict[str, Any]) -> str:
    """The text with the table between the comments for this kind of report. Raises ValueError without them."""
    begin, end = f"<!-- {kind(report)} benchmark -->", f"<!-- /{kind(report)} benchmark -->"
    pattern = re.compile(f"{re.escape(begin)}.*?{re.escape(end)}", re.DOTALL)
    if not pattern.search(page):
        raise ValueError(f"there is no {begin} ... {end}")
    return pattern.sub(lambda match: f"{begin}\n{markdown(report)}\n{end}", page)


def publish(report: dict[str, Any]) -> None:
    """Its table in the page where it is shown."""
    page = PAGES[kind(report)]
    page.write_text(replaced(page.read_text(encoding="utf-8"), report), encoding="utf-8")


def ratios(report: dict[str, Any]) -> dict[str, dict[str, float]]:
    """For each workload, the seconds of each other library over those of gpukmeans."""
    field = "whole_seconds" if kind(report) == "gpu" else "seconds"
    found = {}
    for workload in report["workloads"]:
        taken = {
            name: result["summary"][field] for name, result in workload["libraries"].items() if "summary" in result
        }
        ours = taken.pop("gpukmeans")
        found[workload["name"]] = {name: seconds / ours for name, seconds in taken.items()}
    return found


def plot(reports: list[dict[str, Any]], path: Path) -> None:
    """Bars, one panel a report, on a logarithmic scale: right of 1 is slower than gpukmeans."""
    from matplotlib.figure import Figure

    heights = [0.8 + 0.22 * sum(len(group) for group in ratios(report).values()) for report in reports]
    figure = Figure(figsize=(9, sum(heights) + 0.6 * len(reports)), layout="constrained")
    panels = figure.subplots(len(reports), 1, squeeze=False, height_ratios=heights)[:, 0]
    for axes, report in zip(panels, reports, strict=True):
        groups = ratios(report)
        libraries = list(dict.fromkeys(name for group in groups.values() for name in group))
        place, ticks = 0.0, []
        for group in groups.values():
            middle = place + (len(group) - 1) / 2
            ticks.append(middle)
            for name, ratio in group.items():
                color = f"C{libraries.index(name)}"
                label = name if name not in axes.get_legend_handles_labels()[1] else None
                axes.barh(place, ratio - 1, left=1, height=0.85, color=color, label=label)
                side = "right" if ratio < 1 else "left"
                axes.annotate(f" {ratio:.2g} ", (ratio, place), va="center", ha=side, fontsize=7)
                place += 1
            place += 0.8
        axes.axvline(1, color="black", linewidth=0.8)
        axes.set_xscale("log")
        axes.set_yticks(ticks, list(groups))
        axes.invert_yaxis()
        where = report["device"]["name"] if kind(report) == "gpu" else report["machine"]["cpu"]
        date = report["date"][:10]
        title = f"seconds of a fit, as multiples of gpukmeans': right of the line is slower ({where}, {date})"
        axes.set_title(title, fontsize=9)
        axes.margins(x=0.1)
        axes.legend(fontsize=7, loc="lower right")
        for side in ("top", "right"):
            axes.spines[side].set_visible(False)
    figure.savefig(path, dpi=150)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("files", nargs="+", type=Path, metavar="FILE.json")
    parser.add_argument("--publish", action="store_true", help="replace the tables in the README and in docs/")
    parser.add_argument("--plot", type=Path, metavar="FILE.png")
    args = parser.parse_args()
    reports = [json.loads(path.read_text()) for path in args.files]
    print("\n\n".join(markdown(report) for report in reports))
    if args.publish:
        for report in reports:
            publish(report)
    if args.plot:
        plot(reports, args.plot)


if __name__ == "__main__":
    main()
