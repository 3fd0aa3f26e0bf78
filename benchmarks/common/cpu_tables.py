"""The report of cpu.py as a table in Markdown, the one that the README shows."""

from __future__ import annotations

from typing import Any

from common.markdown import row, with_prefix

HEAD = [
    "| workload | library | seconds | iterations | points/s | pairs/s | inertia | inertia ratio | time ratio |",
    "| --- | --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: |",
]
FLOOR = ["| workload | one pass reads | flops of one iteration |", "| --- | ---: | ---: |"]
NOTES = """\
Medians over {seeds}, the same for every library. A ratio compares two fits with the same seed, the library's and
scikit-learn's; the least and the greatest are in parentheses. Below 1 is faster, or a smaller inertia. points/s: rows
over the seconds of a whole fit, seeding included. pairs/s: rows x clusters x iterations over the same seconds, whether
or not a library looked at each pair. Inertia is computed in float64 from each library's centers.

- gpukmeans and scikit-learn have default arguments, and so seed by k-means++. "from given rows": ten iterations from
  the same rows.
- faiss-cpu and superkmeans compute in float32 and start from random rows; where rows are given, faiss-cpu starts from
  these, and superkmeans, which cannot be told, from random ones. They run as many iterations as scikit-learn did, or
  fewer if nothing moves. Their results differ: compare the inertia.
- Threads: {threads}. Other programs kept {others} busy
  in the workload that they disturbed most."""


def cpu_table(report: dict[str, Any]) -> str:
    """The report in Markdown."""
    lines, floor, missing = list(HEAD), list(FLOOR), []
    for workload in report["workloads"]:
        name = workload["name"]
        for library, result in workload["libraries"].items():
            cells = ["\N{EN DASH}"] * 7
            if "missing" in result:
                missing.append(f"- {library} has no result for {name}: {result['missing']}")
            else:
                cells = _cells(result["summary"])
            lines.append(row(_title(workload), library, *cells))
        floor.append(row(name, with_prefix(workload["pass_bytes"]) + "B", with_prefix(workload["iteration_flops"])))
    missing += [f"- {library} is not installed: pip install 'gpukmeans[bench]'" for library in report["not_installed"]]
    threads = ", ".join(f"{library} {count}" for library, count in report["threads"].items())
    seeds = f"{report['seeds']} seed" + "s" * (report["seeds"] > 1)
    busy = [workload["cores_busy_with_others"] for workload in report["workloads"]]
    others = "an unknown number of cores" if None in busy else f"{max(busy):.2f} cores"
    return "\n".join(
        [
            _where(report),
            "",
            *lines,
            "",
            NOTES.format(seeds=seeds, threads=threads, others=others),
            *missing,
            "",
            *floor,
        ]
    )


def _where(report: dict[str, Any]) -> str:
    machine = report["machine"]
    software = ", ".join(f"{name} {version}" for name, version in report["versions"].items() if version)
    return f"{machine['cpu']}, {machine['cores']} cores, {machine['system']}, {report['date']}; {software}."


def _title(workload: dict[str, Any]) -> str:
    title = "{name} {n:,}x{d}, k={k}, {dtype}".format(**workload)
    return title if workload["init"] == "k-means++" else f"{title}, from given rows"


def _cells(summary: dict[str, Any]) -> list[str]:
    ratio = summary["time_ratio"]
    return [
        f"{summary['seconds']:.3g}",
        f"{summary['iterations']:g}",
        with_prefix(summary["points_per_second"]),
        with_prefix(summary["pairs_per_second"]),
        f"{summary['inertia']:.6g}",
        f"{summary['inertia_ratio']:.4f}",
        f"{ratio['median']:.2f} ({ratio['min']:.2f} to {ratio['max']:.2f})",
    ]
