"""One picture of ``gpukmeans quantize``: read, reduced in memory or in bands, and written."""

from __future__ import annotations

import argparse
import time
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from gpukmeans import atomic_write
from gpukmeans.cli import console, report
from gpukmeans.cli.jobs import PIPE, Job
from gpukmeans.cli.report import Outcome
from gpukmeans.image.files import write
from gpukmeans.image.files.profiles import stripped
from gpukmeans.image.files.read import is_array_file, load_array, read
from gpukmeans.image.levels import Levels, to_8_bit
from gpukmeans.image.matte import WHITE, with_hard_edges
from gpukmeans.image.picture import ImageError, Picture, TooLargeError
from gpukmeans.image.quantize import quantize, remap
from gpukmeans.image.result import Quantized
from gpukmeans.image.weighting import read_map


class Onto(NamedTuple):
    """A palette (k, 3) or (k, 4) uint8 to map onto, and whether it is a fixed point, of what it was made for."""

    palette: Levels
    converged: bool


class SkippedError(Exception):
    """What was not written, as was asked for; the message says why. status: what the command ends with, if that was all
    that it had to do."""

    def __init__(self, why: str, status: int) -> None:
        super().__init__(why)
        self.status = status


class Source(NamedTuple):
    """A picture as it is to be reduced, and notes on what had to be done to it."""

    picture: Picture
    notes: list[str]


def read_picture(job: Job, args: argparse.Namespace) -> Source:
    """What the job is to read. ImageError or OSError if that is no picture or cannot be read."""
    options = {"page": args.page, "value_range": args.range}
    with console.quiet():
        if job.source == PIPE:
            picture = read(console.read(), **options)
        else:
            picture = read(load_array(job.source) if is_array_file(job.source) else job.source, **options)
    if args.strip:
        picture = stripped(picture)
    notes = []
    if picture.bits_lost:
        notes.append(f"{job}: of its {picture.bits_lost} bits a channel the upper 8 are read")
    if job.format == "GIF" or args.matte or args.alpha_threshold:
        picture, soft = with_hard_edges(picture, args.matte or WHITE, None if args.matte else args.alpha_threshold)
        if soft:
            how = f"are over {args.matte or WHITE}" if args.matte or not args.alpha_threshold else "are cut"
            why = "" if args.matte or args.alpha_threshold else ", as GIF has none (see --matte, --alpha-threshold)"
            notes.append(f"{job}: soft edges {how}{why}")
    return Source(picture, notes)


def read_importance(path: Path | None) -> Picture | None:
    """The map of --importance. ImageError, which names it, if it is none, or OSError if it cannot be read."""
    if path is None:
        return None
    try:
        with console.quiet():
            return read_map(load_array(path) if is_array_file(path) else path)
    except ImageError as error:
        text = str(error)
        raise ImageError(text if str(path) in text else f"{path}: {text}") from None


def do(job: Job, args: argparse.Namespace, onto: Onto | None) -> None:
    """Do the job, and tell of it. onto: None for a palette of its own. SkippedError if nothing is to be written."""
    start, piped = time.perf_counter(), PIPE in (job.source, job.target)
    if args.bands and piped:
        raise ImageError("--bands needs files, not standard input or output.")
    source = None
    if not args.bands or not _may_go_in_bands(job, args):
        try:
            source = read_picture(job, args)
        except TooLargeError:
            if piped or job.format != "TIFF" or _only_in_memory(args):
                raise
    outcome = _in_bands(job, args, onto) if source is None else _in_memory(job, source, args, onto)
    if job.target != PIPE:
        report.tell(job, outcome, time.perf_counter() - start, as_json=args.json)


def _may_go_in_bands(job: Job, args: argparse.Namespace) -> bool:
    """Whether a picture that fits into memory is the same in bands. ImageError for what bands cannot do."""
    from gpukmeans.image import streaming
    from gpukmeans.image.files.bands import differs_in_bands

    streaming.check_target(job.target, args.dither)
    return not _only_in_memory(args) and not differs_in_bands(job.source)


def _only_in_memory(args: argparse.Namespace) -> bool:
    """Whether something is asked for that is not done in bands."""
    options = (args.strip, args.matte, args.alpha_threshold, args.skip_if_larger, args.page, args.range)
    # Neither colors nor a map are asked for the truth of an array.
    return any(options) or bool(args.quality or args.max_bytes) or not (args.keep is None and args.importance is None)


def _in_memory(job: Job, source: Source, args: argparse.Namespace, onto: Onto | None) -> Outcome:
    picture = source.picture
    if picture.frames and job.format == "TIFF":
        raise ImageError("TIFF holds no animation: write GIF, PNG or WebP, or choose a frame with --page.")
    if args.palette_per_frame and picture.frames:
        data, outcome = _frame_by_frame(job, picture, args)
    else:
        if onto is not None:
            result = replace(remap(picture, onto.palette, **_options(args)), converged=onto.converged)
            data = _encoded(job, result)
        elif args.quality or args.max_bytes:
            from gpukmeans.cli import fitting

            result, data = fitting.fewest_colors(
                lambda k: _reduced(picture, k, args), lambda found: _encoded(job, found), args
            )
        else:
            result = _reduced(picture, args.colors, args)
            data = _encoded(job, result)
        outcome = Outcome.of(result, *result.indices.shape[-2:])
        if args.compare:
            one = result.indices if not picture.frames else result.indices[0]
            first = picture.frame(0) if picture.frames else picture
    if args.skip_if_larger:
        _check_smaller(job, len(data))
    for note in source.notes:
        console.note(note)
    if job.misnamed:
        console.note(f"{job.target} holds {job.format}, as --format says")
    if job.target == PIPE:
        console.write(data)
        return outcome
    atomic_write.write(job.target, lambda file: file.write(data))
    if args.compare:
        from gpukmeans.image.files import comparison

        comparison.write_comparison(first, result.palette, one, job.comparison)
    return outcome


def _options(args: argparse.Namespace) -> dict[str, Any]:
    return {
        "space": args.space,
        "dither": args.dither,
        "dither_strength": args.dither_strength,
        "device": args.device,
    }


def _reduced(picture: Picture, k: int, args: argparse.Namespace) -> Quantized:
    return quantize(picture, k, keep=args.keep, importance=args.importance, random_state=args.seed, **_options(args))


def _encoded(job: Job, result: Quantized) -> bytes:
    return write.encode(job.format, result.indices, to_8_bit(result.palette), result.metadata)


def _frame_by_frame(job: Job, picture: Picture, args: argparse.Namespace) -> tuple[bytes, Outcome]:
    results = [_reduced(picture.frame(i), args.colors, args) for i in range(picture.frames)]
    frames = [(result.indices, to_8_bit(result.palette)) for result in results]
    data = write.encode_frames(job.format, frames, picture.metadata)
    error = float(np.mean([10 ** (-result.psnr / 10) for result in results]))
    psnr = float("inf") if error == 0 else float(-10 * np.log10(error))
    most = max((palette for _, palette in frames), key=len)
    return data, Outcome(*picture.frame(0).shape[:2], most, psnr, all(result.converged for result in results))


def _check_smaller(job: Job, size: int) -> None:
    if job.source == PIPE:
        return
    own = Path(job.source).stat().st_size
    if size >= own:
        raise SkippedError(f"{job}: it would have {size:,} bytes, and has {own:,}", 98)


def _in_bands(job: Job, args: argparse.Namespace, onto: Onto | None) -> Outcome:
    from gpukmeans.image import streaming

    if args.compare:
        raise ImageError("--compare needs a picture that fits into memory.")
    with report.rows_bar(job.source) as progress:
        result = streaming.quantize_file(
            job.source,
            job.target,
            args.colors,
            space=args.space,
            dither=args.dither,
            dither_strength=args.dither_strength,
            palette=None if onto is None else onto.palette,
            random_state=args.seed,
            device=args.device,
            progress=progress,
        )
    return Outcome.of(result, result.height, result.width)
