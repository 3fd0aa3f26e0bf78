"""The arguments of ``gpukmeans quantize``."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gpukmeans.image.color_space import SPACE_CHOICES
from gpukmeans.image.dither import DITHERS
from gpukmeans.image.files import palettes, write
from gpukmeans.image.levels import MOST_COLORS, to_rgba
from gpukmeans.image.matte import color_of
from gpukmeans.image.picture import ImageError

_STATUSES = """Exit status: 0 if all went well; 1 if the picture could not be done; 2 for a mistake in the arguments; 3
if, of the files with --out-dir, some could not be done; 98 if --skip-if-larger kept the one picture from being written;
99 if --quality did."""


def add(commands: Any, what: str, seed: Callable[[str], int]) -> argparse.ArgumentParser:
    """Add ``quantize`` to the subparsers of `gpukmeans`; what: its help; seed: the type of ``--seed``."""
    parser: argparse.ArgumentParser = commands.add_parser(
        "quantize",
        help=what,
        description="Reduce a picture or an animation to a palette of its own, or map it onto a given one.",
        usage="gpukmeans quantize [options] IN OUT\n       gpukmeans quantize [options] IN --format FORMAT\n"
        "       gpukmeans quantize [options] IN [IN ...] --out-dir DIR",
        epilog=_STATUSES,
    )
    parser.add_argument(
        "files",
        nargs="+",
        metavar="FILE",
        help="IN and OUT, - for standard input and output (PNG, or --format); IN alone, with --format, for a file "
        "beside it that ends so, or - alone; or, with --out-dir, files and folders to read. OUT ends in .png, .gif, "
        ".webp, .tif or .tiff, or --format says what it is",
    )
    _add_colors(parser, seed)
    _add_palettes(parser)
    _add_files(parser)
    _add_reading(parser)
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda, cuda:N or cuda:all (default: auto)")
    parser.add_argument("--json", action="store_true", help="print a line of JSON for each file")
    return parser


def _add_colors(parser: argparse.ArgumentParser, seed: Callable[[str], int]) -> None:
    parser.add_argument("-k", "--colors", type=_colors, default=256, metavar="K", help="the most colors (default: 256)")
    parser.add_argument(
        "--quality",
        type=_quality,
        metavar="MIN-MAX",
        help="the fewest colors, up to K, that reach MAX of 100, and nothing written below MIN (exit status 99): 50 "
        "stands for 28 dB, 80 for 32 dB, 90 for 35 dB, 99 for 45 dB",
    )
    parser.add_argument("--max-bytes", type=_count, metavar="N", help="the most colors, up to K, of a file no larger")
    parser.add_argument(
        "--space",
        choices=SPACE_CHOICES,
        default="auto",
        help="where distances are measured (default: auto: ycbcr with floyd-steinberg in under 48 or over 192 colors, "
        "and else oklab)",
    )
    parser.add_argument("--dither", choices=DITHERS, default="none", help="(default: none)")
    parser.add_argument(
        "--dither-strength", type=_strength, default=1.0, metavar="S", help="0 to 1: how much of it (default: 1)"
    )
    parser.add_argument(
        "--importance",
        type=Path,
        metavar="MAP",
        help="a grey picture as large as IN: what counts for the palette, from black, nothing, to white, in full",
    )
    parser.add_argument("--seed", type=seed, default=0, metavar="N", help="of k-means++ (default: 0)")


def _add_palettes(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--palette", type=Path, metavar="FILE", help=f"map onto these colors: {', '.join(palettes.SUFFIXES)}"
    )
    parser.add_argument("--shared-palette", action="store_true", help="one palette for all files")
    parser.add_argument(
        "--palette-per-frame", action="store_true", help="a palette for each frame of an animation, not one for all"
    )
    parser.add_argument(
        "--keep",
        action="append",
        metavar="COLOR",
        help="a color that the palette has in any case, like '#ffffff', or a palette file of such; may be repeated. "
        "The others, K in all, are found around them",
    )


def _add_files(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--out-dir", type=Path, metavar="DIR", help="where to write, by the names of the files read")
    parser.add_argument(
        "--format",
        type=str.lower,
        choices=[suffix[1:] for suffix in write.FORMATS],
        help="of what is written, whatever its name ends in (default: what that says; png with --out-dir and to "
        "standard output)",
    )
    parser.add_argument(
        "--force", action="store_true", help="write a result over its own picture, or two of them to one file"
    )
    parser.add_argument(
        "--skip-if-larger",
        action="store_true",
        help="write nothing where the file would be no smaller (exit status 98)",
    )
    parser.add_argument(
        "--compare", action="store_true", help="also write NAME-compare.png: original, result and palette side by side"
    )
    parser.add_argument("--bands", action="store_true", help="read in bands, as is done for what does not fit memory")
    parser.add_argument(
        "--strip",
        action="store_true",
        help="write no profile, orientation or resolution: the picture is turned, and brought to sRGB",
    )


def _add_reading(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--matte",
        type=_matte,
        metavar="COLOR",
        help="what soft edges are over in a GIF, which has none (default: #ffffff); given, also in other formats",
    )
    parser.add_argument(
        "--alpha-threshold",
        type=_threshold,
        metavar="N",
        help="cut soft edges instead: alpha of N or more, from 1 to 255, is opaque, and less is transparent",
    )
    parser.add_argument("--page", type=_count, metavar="N", help="which of several pictures in a file, from 1 on")
    parser.add_argument(
        "--range",
        type=float,
        nargs=2,
        metavar=("BLACK", "WHITE"),
        action=_Range,
        help="of floats and large integers in files (default: 0 1 of floats, or what the file says)",
    )


class _Range(argparse.Action):
    def __call__(self, parser: Any, namespace: Any, values: Any, option_string: Any = None) -> None:
        if not values[0] < values[1]:
            parser.error(f"argument --range: BLACK must be less than WHITE, got {values[0]:g} and {values[1]:g}")
        setattr(namespace, self.dest, tuple(values))


def kept_colors(args: argparse.Namespace) -> NDArray[np.uint8] | None:
    """The distinct colors (f, 4) of --keep, in their order; None if there are none. ImageError for what is none."""
    if not args.keep:
        return None
    found: list[NDArray[np.uint8]] = []
    for text in args.keep:
        if Path(text).suffix.lower() in palettes.SUFFIXES:
            found.append(to_rgba(palettes.load(text)))
            continue
        try:
            found.append(to_rgba(color_of(text)[None]))
        except ValueError as error:
            raise ImageError(f"--keep: {error}") from None
    colors = np.concatenate(found)
    distinct = colors[np.sort(np.unique(colors, axis=0, return_index=True)[1])]
    if len(distinct) > args.colors:
        raise ImageError(f"--keep has {len(distinct)} colors, more than the {args.colors} of -k.")
    return distinct


def _colors(text: str) -> int:
    if not text.isdecimal() or not 1 <= int(text) <= MOST_COLORS:
        raise argparse.ArgumentTypeError(f"must be an integer from 1 to {MOST_COLORS:,}, got {text!r}")
    return int(text)


def _count(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"must be an integer from 1 on, got {text!r}")
    return int(text)


def _strength(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = -1.0
    if not 0 <= value <= 1:  # false for NaN too
        raise argparse.ArgumentTypeError(f"must be a number from 0 to 1, got {text!r}")
    return value


def _threshold(text: str) -> int:
    if not text.isdecimal() or not 1 <= int(text) <= 255:
        raise argparse.ArgumentTypeError(f"must be an integer from 1 to 255, got {text!r}")
    return int(text)


def _matte(text: str) -> str:
    try:
        return "#" + bytes(color_of(text)[:3]).hex()
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from None


def _quality(text: str) -> tuple[int, int]:
    low, dash, high = text.partition("-")
    if not dash:
        low, high = "0", low
    least, largest = low or "0", high or "100"
    if not (least.isdecimal() and largest.isdecimal() and int(least) <= int(largest) <= 100):
        raise argparse.ArgumentTypeError(f"must be MIN-MAX, of numbers from 0 to 100, got {text!r}")
    return int(least), int(largest)
