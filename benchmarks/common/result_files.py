"""Files of what was measured, in JSON: the option --json of a benchmark, and what it writes."""

from __future__ import annotations

import argparse
import json
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

FOLDER = Path(__file__).parents[1] / "results"


def now() -> str:
    """Date and minute, as results and tables state them."""
    return datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC")


def add_option(parser: argparse.ArgumentParser) -> None:
    """--json PATH; without a path it means FOLDER."""
    what = "keep what was measured in PATH (default: a file named by kind and date in benchmarks/results/)"
    parser.add_argument("--json", nargs="?", type=Path, const=FOLDER, metavar="PATH", help=what)


def write(path: Path, result: dict[str, Any]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(result, indent=1) + "\n")


def keep(path: Path, kind: str, result: dict[str, Any]) -> None:
    """Write a result that states its date to the path that --json gave."""
    write(FOLDER / f"{kind}-{result['date'][:10]}.json" if path == FOLDER else path, result)
