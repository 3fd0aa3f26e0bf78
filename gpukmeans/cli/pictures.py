"""One picture of ``gpukmeans quantize``: read, reduced in memory or in bands, and written."""

from __future__ import annotations

import argparse
import io
import time
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

from gpukmeans.cli import console, report
from gpukmeans.cli.jobs import PIPE, Job
from gpukmeans.cli.report import Outcome
from gpukmeans.image import streaming
from gpukmeans.image.files import comparison, write
from gpukmeans.image.files.read import is_array_file, load_array, read
from gpukmeans.image.levels import MOST_FILE_COLORS, Levels
from gpukmeans.image.picture import ImageError, Picture, TooLargeError
from gpukmeans.image.quantize import quantize, remap
from gpukmeans.image.result import Quantized


class Onto(NamedTuple):
    """A palette (k, 3) or (k, 4) uint8 to map onto, and whether it is a fixed point, of what it was made for."""

    palette: Levels
    converged: bool


def read_picture(job: Job) -> Picture:
    """What the job is to read. ImageError or OSError if that is no picture or cannot be read."""
    with console.quiet():
        if job.source == PIPE:
            return read(console.read())
        return read(load_array(job.source) if is_array_file(job.source) else job.source)


def do(job: Job, args: argparse.Namespace, onto: Onto | None) -> None:
    """Do the job, and tell of it. onto: None for a palette of its own."""
    start, piped = time.perf_counter(), PIPE in (job.source, job.target)
    if args.bands and piped:
        raise ImageError("--bands needs files, not standard input or output.")
    picture = None
    if not args.bands:
        try:
            picture = read_picture(job)
        except TooLargeError:
            if piped or not write.is_tiff(job.target):
                raise
    if picture is None:
        outcome = _in_bands(job, args, onto)
    else:
        result = _in_memory(picture, args, onto)
        if job.target == PIPE:
            _to_stdout(result)
            return
        target = Path(job.target)
        result.save(target, None if target.suffix else "PNG")
        if args.compare:
            comparison.write_comparison(picture, result.palette, result.indices, job.comparison)
        outcome = Outcome.of(result, *result.indices.shape)
    report.tell(job, outcome, time.perf_counter() - start, as_json=args.json)


def _in_memory(picture: Picture, args: argparse.Namespace, onto: Onto | None) -> Quantized:
    options = {
        "space": args.space,
        "dither": args.dither,
        "dither_strength": args.dither_strength,
        "device": args.device,
    }
    if onto is None:
        return quantize(picture, args.colors, random_state=args.seed, **options)
    return replace(remap(picture, onto.palette, **options), converged=onto.converged)


def _in_bands(job: Job, args: argparse.Namespace, onto: Onto | None) -> Outcome:
    if args.compare:
        raise ImageError("--compare needs a picture that fits into memory.")
    with report.rows_bar(job.source) as progress:
        result = streaming.quantize_file(
            job.source,
            job.target,
            min(args.colors, MOST_FILE_COLORS),
            space=args.space,
            dither=args.dither,
            dither_strength=args.dither_strength,
            palette=None if onto is None else onto.palette,
            random_state=args.seed,
            device=args.device,
            progress=progress,
        )
    return Outcome.of(result, result.height, result.width)


def _to_stdout(result: Quantized) -> None:
    buffer = io.BytesIO()
    result.save(buffer, "PNG")
    console.write(buffer.getbuffer())
