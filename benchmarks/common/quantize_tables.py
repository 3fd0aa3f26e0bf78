"""The reports of quantize.py in Markdown, as docs/quantization.md shows them: quality and, apart from it, seconds."""

from __future__ import annotations

import statistics
from typing import Any

OURS = ("gpukmeans rgb", "gpukmeans oklab")
PEERS = ("libimagequant", "scikit-learn")


def quantize_table(report: dict[str, Any]) -> str:
    """Means of every figure of quality, and the four methods that come closest, picture by picture."""
    lines = [
        "| colors | method | PSNR | SSIM | deltaE | deltaE 95 % | kB |",
        "| ---: | --- | ---: | ---: | ---: | ---: | ---: |",
    ]
    for k in _colors(report):
        for name in report["cases"][0]["methods"]:
            mean = {f: _mean(report, k, name, f) for f in ("psnr", "ssim", "delta_e", "delta_e_95", "bytes")}
            lines.append(
                f"| {k} | {name} | {mean['psnr']:.2f} | {mean['ssim']:.3f} | {mean['delta_e']:.2f} "
                f"| {mean['delta_e_95']:.2f} | {mean['bytes'] / 1000:.0f} |"
            )
    single = _single(report, "PSNR, deltaE", "{psnr:.3f}, {delta_e:.2f}")
    note = f"scikit-learn's figures are means over {report['seeds']} seeds. " + _leads(report)
    return "\n".join([_where(report), "", *lines, "", note, "", *single])


def seconds_table(report: dict[str, Any]) -> str:
    """Mean seconds of every method, those beside its peers', and picture by picture."""
    names = list(report["cases"][0]["methods"])
    lines = ["| colors | " + " | ".join(names) + " |", "| ---: |" + " ---: |" * len(names)]
    for k in _colors(report):
        lines.append(f"| {k} | " + " | ".join(f"{_mean(report, k, name, 'seconds'):.3f}" for name in names) + " |")
    times = _times(report, report["cases"][0]["image"])
    return "\n".join([_where(report), "", *lines, "", *times, "", *_single(report, "s", "{seconds:.3f}")])


def _single(report: dict[str, Any], figures: str, form: str) -> list[str]:
    """A row for each picture and number of colors, the figures of ours and of the peers in that form."""
    found = [name for name in (*OURS, *PEERS) if name in report["cases"][0]["methods"]]
    lines = [
        "| picture | colors | " + " | ".join(f"{name}: {figures}" for name in found) + " |",
        "| --- | ---: |" + " ---: |" * len(found),
    ]
    for case in report["cases"]:
        cells = [form.format(**case["methods"][name]) for name in found]
        size = f"{case['width']} x {case['height']}"
        lines.append(f"| {case['image']}, {size} | {case['colors']} | " + " | ".join(cells) + " |")
    return lines


def _colors(report: dict[str, Any]) -> list[int]:
    return sorted({case["colors"] for case in report["cases"]})


def _case(report: dict[str, Any], image: str, k: int) -> dict[str, Any]:
    return next(case for case in report["cases"] if (case["image"], case["colors"]) == (image, k))


def _mean(report: dict[str, Any], k: int, name: str, figure: str) -> float:
    return statistics.fmean(case["methods"][name][figure] for case in report["cases"] if case["colors"] == k)


def _leads(report: dict[str, Any]) -> str:
    """The least lead in PSNR over each peer in any picture."""
    found = []
    for peer in PEERS:
        leads = [
            (case["methods"][OURS[0]]["psnr"] - case["methods"][peer]["psnr"], case["image"], case["colors"])
            for case in report["cases"]
            if peer in case["methods"]
        ]
        if leads:
            lead, image, k = min(leads)
            found.append(f"{lead:+.3f} dB over {peer} ({image}, {k} colors)")
    return f"The least lead of {OURS[0]} in PSNR in any picture: {', '.join(found)}."


def _times(report: dict[str, Any], image: str) -> list[str]:
    """The seconds of ours over each peer's, taken in turns."""
    lines = []
    for k in _colors(report):
        methods = _case(report, image, k)["methods"]
        ratios = [
            f"{name} {methods[name]['seconds'] / methods[peer]['seconds']:.2f} of {peer}'s"
            for name in OURS
            for peer in PEERS
            if peer in methods
        ]
        lines.append(f"Seconds for {image}.jpg in {k} colors: {', '.join(ratios)}.")
    busy = report["cores_busy_with_others"]
    return lines if busy is None else [*lines, f"Other programs kept {busy:.2f} cores busy."]


def _where(report: dict[str, Any]) -> str:
    software = ", ".join(f"{name} {version}" for name, version in report["versions"].items() if version)
    machine = report["machine"]
    return f"{machine['cpu']}, {machine['cores']} cores, {report['date']}; {software}."
