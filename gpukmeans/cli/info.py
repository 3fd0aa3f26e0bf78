"""``gpukmeans info``: the device, libraries and threads in use."""

from __future__ import annotations

import argparse
import json
from typing import Any

from gpukmeans.cli import console
from gpukmeans.cli.errors import CommandError
from gpukmeans.environment import facts


def add(commands: Any, what: str, seed: Any) -> None:
    """Add ``info`` to the subparsers of `gpukmeans`; what: its help."""
    parser = commands.add_parser(
        "info",
        help=what,
        description="Print the device, libraries and threads in use, for a report of a bug; the same as "
        "gpukmeans.show_versions().",
    )
    parser.add_argument(
        "--json",
        action="store_true",
        help="print one object of JSON: a list of values for each name, and under failure why a device cannot be used",
    )
    parser.set_defaults(run=_run)


def _run(args: argparse.Namespace) -> None:
    lines, failure = facts()
    if args.json:
        found: dict[str, list[str]] = {}
        for name, value in lines:
            found.setdefault(name, []).append(value)
        if failure is not None:
            found["failure"] = [str(failure)]
        console.say(json.dumps(found))
    else:
        for name, value in lines:
            console.say(f"{name:<16}  {value}")
    if failure is not None:
        raise CommandError(str(failure))
