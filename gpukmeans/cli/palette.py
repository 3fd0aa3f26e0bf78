"""The command ``gpukmeans palette``: a picture's colors, their shares, and files of them."""

from __future__ import annotations

import argparse
import json
import logging
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from gpukmeans import atomic_write
from gpukmeans.cli import console, report
from gpukmeans.cli.jobs import PIPE
from gpukmeans.engine import devices
from gpukmeans.image.color_space import SPACES
from gpukmeans.image.files import palettes
from gpukmeans.image.files.read import is_array_file, load_array, read
from gpukmeans.image.levels import MOST_COLORS, to_8_bit
from gpukmeans.image.picture import ImageError
from gpukmeans.image.quantize import quantize

_REASONS = (ImageError, ImportError, OSError, ValueError, MemoryError)


def add(commands: Any, what: str, seed: Callable[[str], int]) -> None:
    """Add ``palette`` to the subparsers of `gpukmeans`; what: its help; seed: the type of ``--seed``."""
    parser = commands.add_parser(
        "palette",
        help=what,
        description="Show the few colors that stand for a picture, and their shares of the pixels.",
    )
    parser.add_argument("file", metavar="IN", help="a picture, or - for standard input")
    parser.add_argument("-k", "--colors", type=_colors, default=6, metavar="K", help="the most colors (default: 6)")
    parser.add_argument(
        "--out",
        type=Path,
        action="append",
        default=[],
        metavar="FILE",
        help=f"write them, too: {', '.join(palettes.SUFFIXES)} (a strip, as wide as the shares); may be repeated",
    )
    parser.add_argument(
        "--space", choices=SPACES, default="oklab", help="where distances are measured (default: oklab)"
    )
    parser.add_argument("--seed", type=seed, default=0, metavar="N", help="of k-means++ (default: 0)")
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda, cuda:N or cuda:all (default: auto)")
    parser.add_argument("--json", action="store_true", help="print a line of JSON")
    parser.set_defaults(run=_run)


def _colors(text: str) -> int:
    if not text.isdecimal() or not 1 <= int(text) <= MOST_COLORS:
        raise argparse.ArgumentTypeError(f"must be an integer from 1 to {MOST_COLORS:,}, got {text!r}")
    return int(text)


def _run(args: argparse.Namespace) -> int:
    logging.getLogger("PIL").addHandler(logging.NullHandler())
    try:
        with console.quiet():
            if args.file == PIPE:
                picture = read(console.read())
            else:
                picture = read(load_array(args.file) if is_array_file(args.file) else args.file)
        device = devices.resolve(args.device)
        result = quantize(picture, args.colors, space=args.space, random_state=args.seed, device=device)
        colors = to_8_bit(result.palette)
        counts = np.bincount(np.asarray(result.indices).reshape(-1), minlength=len(colors))
        order = np.argsort(-counts, kind="stable")
        colors, shares = colors[order], counts[order] / counts.sum()
        files = [(path, palettes.encode(path, colors, shares)) for path in args.out]
        for path, data in files:
            with atomic_write.atomic(path) as file:
                file.write(data)
    except BrokenPipeError:
        raise
    except _REASONS as error:
        return report.complain(error)
    _tell(args, colors, shares)
    return 0


def _tell(args: argparse.Namespace, colors: Any, shares: Any) -> None:
    names = ["#" + bytes(color).hex() for color in colors]
    if args.json:
        found = [{"hex": name, "share": round(float(share), 6)} for name, share in zip(names, shares, strict=True)]
        console.say(json.dumps({"input": args.file, "colors": found, "written": [str(path) for path in args.out]}))
        return
    shown = sys.stdout is not None and sys.stdout.isatty()
    for color, name, share in zip(colors.tolist(), names, shares, strict=True):
        swatch = f"\x1b[48;2;{color[0]};{color[1]};{color[2]}m      \x1b[0m  " if shown else ""
        console.say(f"{swatch}{name}  {share:7.2%}")
