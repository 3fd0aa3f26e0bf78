"""Rows and numbers of the tables in Markdown."""

from __future__ import annotations


def row(*cells: str) -> str:
    return f"| {' | '.join(cells)} |"


def with_prefix(number: float) -> str:
    """1,234,567 as 1.23 M."""
    for prefix in ("", "k", "M", "G"):
        if number < 999.5:
            return f"{number:.3g} {prefix}"
        number /= 1000
    return f"{number:.3g} T"
