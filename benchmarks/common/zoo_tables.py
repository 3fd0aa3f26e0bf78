"""The report of zoo.py as a table in Markdown, the one that the README shows."""

from __future__ import annotations

from typing import Any

from common.markdown import row, with_prefix

NAMED = 5  # how many of the slowest the sentence names

NOTES = """\
Both start from the same centers and make the same iterations; labels and inertia are compared. Where a row says
k-means++, best of 10 or MiniBatchKMeans, draws are each library's own. Seconds are medians of {turns} turns in one
process; the ratio is below 1 where gpukmeans is faster. The goal is at most 0.8 of scikit-learn's time, of sparse rows
1.5.{more}
Other programs kept {others} busy in the case that they disturbed most."""
MEMORY = "\nPeak: what a call takes in a process of its own, besides its input."
PEERS = "\nfaiss-cpu computes in float32, and has seconds where it comes to the same inertia within a thousandth."


def zoo_table(report: dict[str, Any]) -> str:
    """The report in Markdown, the slowest beside scikit-learn first."""
    cases = sorted(report["cases"], key=lambda case: -case["ratio"])
    libraries = list(dict.fromkeys(library for case in cases for library in case["seconds"]))
    holders = list(cases[0].get("peak_bytes", {}))
    head = ["case", "data", "work", *(f"{library}, s" for library in libraries), "ratio"]
    head += [f"{library}, peak" for library in holders]
    lines = [row(*head), row(*["---"] * 3, *["---:"] * (len(head) - 3))]
    for case in cases:
        seconds = [_seconds(case, library) for library in libraries]
        peaks = [with_prefix(case["peak_bytes"][library]) + "B" for library in holders]
        lines.append(row(case["name"], _data(case), case["does"], *seconds, _ratio(case), *peaks))
    busy = [case["cores_busy_with_others"] for case in cases]
    others = "an unknown number of cores" if None in busy else f"{max(busy):.2f} cores"
    more = MEMORY * bool(holders) + PEERS * (len(libraries) > 2)
    turns = sorted({len(case["turns"]["gpukmeans"]) for case in cases})
    notes = NOTES.format(turns=" to ".join(map(str, dict.fromkeys([turns[0], turns[-1]]))), others=others, more=more)
    return "\n".join([_where(report), "", _slowest(cases), "", *lines, "", notes])


def _slowest(cases: list[dict[str, Any]]) -> str:
    """What is slowest beside scikit-learn, worst first, and what misses its goal."""
    named = ", ".join(f"{case['name']} ({case['ratio']:.2f})" for case in cases[:NAMED])
    missed = sum(case["ratio"] > case["goal"] for case in cases)
    return f"Slowest beside scikit-learn, of its time: {named}. {missed} of {len(cases)} miss the goal, in bold."


def _data(case: dict[str, Any]) -> str:
    (n, d), sparse = case["shape"], ", CSR" * case["sparse"]
    return f"{case['about']}, {n:,}x{d:,} {case['dtype']}{sparse}, k={case['k']:,}"


def _seconds(case: dict[str, Any], library: str) -> str:
    return f"{case['seconds'][library]:.3g}" if library in case["seconds"] else "\N{EN DASH}"


def _ratio(case: dict[str, Any]) -> str:
    ratio = f"{case['ratio']:.2f}"
    return f"**{ratio}**" if case["ratio"] > case["goal"] else ratio


def _where(report: dict[str, Any]) -> str:
    machine = report["machine"]
    software = ", ".join(f"{name} {version}" for name, version in report["versions"].items() if version)
    return f"{machine['cpu']}, {machine['cores']} cores, {report['date']}; {software}."
