"""The command ``gpukmeans quantize``: files into palettes, one by one, with one palette, or onto a given one."""

from __future__ import annotations

import argparse
import logging
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from gpukmeans.cli import console, report
from gpukmeans.cli.jobs import Job, jobs_of
from gpukmeans.cli.pictures import Onto, do, read_picture
from gpukmeans.engine import devices
from gpukmeans.image.color_space import SPACE_CHOICES, space_for
from gpukmeans.image.dither import DITHERS
from gpukmeans.image.files import palettes, write
from gpukmeans.image.levels import MOST_COLORS
from gpukmeans.image.picture import ImageError, Picture
from gpukmeans.image.quantize import common_palette

# Pillow raises what it logs as an error, and one line says it.
_UNHEARD = logging.NullHandler()

# What may keep a picture from its end, and is told in one line; a reader who has gone ends all of them.
_REASONS = (ImageError, ImportError, OSError, ValueError, MemoryError)


def add(commands: Any, seed: Callable[[str], int]) -> None:
    """Add ``quantize`` to the subparsers of `gpukmeans`; seed: the type of ``--seed``."""
    parser = commands.add_parser(
        "quantize",
        help="reduce pictures to palettes",
        description="Reduce a picture to a palette of its own, or map it onto a given one.",
        usage="gpukmeans quantize [options] IN OUT\n       gpukmeans quantize [options] IN [IN ...] --out-dir DIR",
    )
    parser.add_argument(
        "files",
        nargs="+",
        metavar="FILE",
        help="IN and OUT, - for standard input and output (PNG); or, with "
        "--out-dir, files and folders to read. OUT ends in .png, .gif, .webp, .tif or .tiff",
    )
    parser.add_argument("-k", "--colors", type=_colors, default=256, metavar="K", help="the most colors (default: 256)")
    parser.add_argument(
        "--space",
        choices=SPACE_CHOICES,
        default="auto",
        help="where distances are measured (default: auto, which is ycbcr with floyd-steinberg, else oklab)",
    )
    parser.add_argument("--dither", choices=DITHERS, default="none", help="(default: none)")
    parser.add_argument(
        "--dither-strength", type=_strength, default=1.0, metavar="S", help="0 to 1: how much of it (default: 1)"
    )
    parser.add_argument("--palette", type=Path, metavar="FILE", help="map onto these colors: .gpl, .hex or .png")
    parser.add_argument("--shared-palette", action="store_true", help="one palette for all files")
    parser.add_argument("--out-dir", type=Path, metavar="DIR", help="where to write, by the names of the files read")
    parser.add_argument(
        "--format",
        choices=[suffix[1:] for suffix in write.FORMATS],
        default="png",
        help="with --out-dir (default: png)",
    )
    parser.add_argument(
        "--compare", action="store_true", help="also write NAME-compare.png: original, result and palette side by side"
    )
    parser.add_argument("--bands", action="store_true", help="read in bands, as is done for what does not fit memory")
    parser.add_argument("--seed", type=seed, default=0, metavar="N", help="of k-means++ (default: 0)")
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda, cuda:N or cuda:all (default: auto)")
    parser.add_argument("--json", action="store_true", help="print a line of JSON for each file")
    parser.set_defaults(run=lambda args: _run(args, parser))


def _colors(text: str) -> int:
    if not text.isdecimal() or not 1 <= int(text) <= MOST_COLORS:
        raise argparse.ArgumentTypeError(f"must be an integer from 1 to {MOST_COLORS:,}, got {text!r}")
    return int(text)


def _strength(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = -1.0
    if not 0 <= value <= 1:  # false for NaN too
        raise argparse.ArgumentTypeError(f"must be a number from 0 to 1, got {text!r}")
    return value


def _run(args: argparse.Namespace, parser: argparse.ArgumentParser) -> int:
    """Returns the exit status: 0, or 1 if any file could not be done."""
    logging.getLogger("PIL").addHandler(_UNHEARD)
    failures = _Failures()
    try:
        jobs = jobs_of(args, parser)
        args.device = devices.resolve(args.device)
        onto = _shared_palette(jobs, args, failures) if args.shared_palette else _given_palette(args)
        if args.out_dir:
            args.out_dir.mkdir(parents=True, exist_ok=True)
    except BrokenPipeError:
        raise
    except _REASONS as error:
        return report.complain(error)
    jobs = failures.left(jobs)
    with report.bar(jobs, "quantizing") as bar:
        for job in bar:
            try:
                do(job, args, onto)
            except BrokenPipeError:
                raise
            except _REASONS as error:
                failures.add(job, error)
    return failures.status


def _given_palette(args: argparse.Namespace) -> Onto | None:
    if not args.palette:
        return None
    with console.quiet():
        return Onto(palettes.load(args.palette), True)


def _shared_palette(jobs: list[Job], args: argparse.Namespace, failures: _Failures) -> Onto:
    with report.bar(_Pictures(jobs, failures), "counting") as pictures:
        space = space_for(args.space, args.dither)
        options = {"space": space, "random_state": args.seed, "device": args.device}
        return Onto(*common_palette(pictures, args.colors, **options))


class _Failures:
    """Files that could not be done: each is told of once, and the others are done all the same."""

    def __init__(self) -> None:
        self.status = 0
        self._failed: set[str] = set()

    def add(self, job: Job, error: BaseException) -> None:
        self.status = report.complain(error, job)
        self._failed.add(job.source)

    def left(self, jobs: list[Job]) -> list[Job]:
        return [job for job in jobs if job.source not in self._failed]


class _Pictures:
    """The pictures of the jobs that can be read, one at a time; the others are failures."""

    def __init__(self, jobs: list[Job], failures: _Failures) -> None:
        self._jobs, self._failures = jobs, failures

    def __len__(self) -> int:
        return len(self._jobs)

    def __iter__(self) -> Iterator[Picture]:
        for job in self._jobs:
            try:
                picture = read_picture(job)
            except (ImageError, OSError, ValueError, MemoryError) as error:
                self._failures.add(job, error)
            else:
                yield picture
