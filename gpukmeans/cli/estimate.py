"""``gpukmeans estimate``: what a fit would take on a GPU, predicted."""

from __future__ import annotations

import argparse
import re
from typing import Any

from gpukmeans.cli import console
from gpukmeans.cli.errors import CommandError
from gpukmeans.costs.devices import SHEETS
from gpukmeans.costs.estimate import estimate
from gpukmeans.engine.cuda.families import X_KINDS

_DESCRIPTION = """\
Predict the seconds, memory and traffic of a fit on a GPU, which need not be here, by counting what its kernels do.
Nothing is measured; expect up to a third more. For example:

    gpukmeans estimate 1000000x128 -k 1024 --device H200
"""


def add(commands: Any, what: str, seed: Any) -> None:
    """Add ``estimate`` to the subparsers of `gpukmeans`; what: its help."""
    parser = commands.add_parser(
        "estimate",
        help=what,
        description=_DESCRIPTION,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("shape", type=_shape, metavar="NxD", help="samples and features, as 1000000x128")
    parser.add_argument("-k", "--clusters", type=int, required=True, metavar="K", help="clusters")
    parser.add_argument("--device", default="H200", help=f"one of {', '.join(SHEETS)} (default: H200)")
    parser.add_argument("--dtype", default="float32", choices=X_KINDS, help="of the samples (default: float32)")
    parser.add_argument("--iterations", type=int, default=30, metavar="N", help="of the fit (default: 30)")
    parser.set_defaults(run=_run)


def _shape(text: str) -> tuple[int, int]:
    found = re.fullmatch(r"([1-9]\d*)[xX]([1-9]\d*)", text.replace(",", "").replace("_", ""))
    if not found:
        raise argparse.ArgumentTypeError(f"must be samples x features, as 1000000x128, got {text!r}")
    return int(found[1]), int(found[2])


def _run(args: argparse.Namespace) -> None:
    try:
        found = estimate(args.shape, args.clusters, dtype=args.dtype, device=args.device, n_iter=args.iterations)
    except ValueError as error:
        raise CommandError(str(error)) from None
    console.say(found)
