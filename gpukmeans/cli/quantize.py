"""The command ``gpukmeans quantize``: files into palettes, one by one, with one palette, or onto a given one."""

from __future__ import annotations

import argparse
import io
import json
import logging
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from gpukmeans.cli import console
from gpukmeans.cli.jobs import PIPE, Job, jobs_of
from gpukmeans.engine import devices
from gpukmeans.image import streaming
from gpukmeans.image.color_space import SPACES, Levels
from gpukmeans.image.dither import DITHERS
from gpukmeans.image.files import comparison, palettes, write
from gpukmeans.image.files.read import ImageError, Picture, TooLargeError, read
from gpukmeans.image.quantize import MOST_COLORS, common_palette, quantize, remap
from gpukmeans.image.result import Quantized

# Pillow raises what it logs as an error, and one line says it.
_UNHEARD = logging.NullHandler()


def add(commands: Any, seed: Any) -> None:
    """Add the command to argparse's subcommands. seed: the type of --seed."""
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
        "--space", choices=SPACES, default="oklab", help="where distances are measured (default: oklab)"
    )
    parser.add_argument("--dither", choices=DITHERS, default="none", help="(default: none)")
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
    parser.set_defaults(run=lambda args: run(args, parser))


def _colors(text: str) -> int:
    if not text.isdecimal() or not 1 <= int(text) <= MOST_COLORS:
        raise argparse.ArgumentTypeError(f"must be an integer from 1 to {MOST_COLORS:,}, got {text!r}")
    return int(text)


def run(args: argparse.Namespace, parser: argparse.ArgumentParser) -> int:
    """Returns the exit status: 0, or 1 if any file could not be done."""
    logging.getLogger("PIL").addHandler(_UNHEARD)
    try:
        jobs = jobs_of(args, parser)
        args.device = devices.resolve(args.device)
        with console.quiet():
            given = palettes.load(args.palette) if args.palette else None
        failures = _Failures()
        if args.shared_palette:
            shared = failures.pictures(jobs)
            with _bar(shared, "counting") as counted:
                given, converged = common_palette(
                    counted, args.colors, space=args.space, random_state=args.seed, device=args.device
                )
            jobs = failures.left(jobs)
        else:
            converged = True
        if args.out_dir:
            args.out_dir.mkdir(parents=True, exist_ok=True)
    except BrokenPipeError:
        raise
    except (ImageError, ImportError, OSError, ValueError, MemoryError) as error:
        return _complain(error)
    with _bar(jobs, "quantizing") as bar:
        for job in bar:
            try:
                _do(job, args, given, converged)
            except BrokenPipeError:
                raise
            except (ImageError, ImportError, OSError, ValueError, MemoryError) as error:
                failures.add(job, error)
    return failures.status


class _Failures:
    """Files that could not be done: each is told of once, and the others are done all the same."""

    def __init__(self) -> None:
        self.status = 0
        self._failed: set[str] = set()

    def add(self, job: Job, error: BaseException) -> None:
        self.status = _complain(error, job)
        self._failed.add(job.source)

    def left(self, jobs: list[Job]) -> list[Job]:
        return [job for job in jobs if job.source not in self._failed]

    def pictures(self, jobs: list[Job]) -> list[Picture]:
        """The pictures of those that can be read, one at a time, as a list that is never in memory as a whole."""
        return _Lazily(self, jobs)  # type: ignore[return-value]


class _Lazily:
    def __init__(self, failures: _Failures, jobs: list[Job]) -> None:
        self._failures, self._jobs = failures, jobs

    def __len__(self) -> int:
        return len(self._jobs)

    def __iter__(self) -> Iterator[Picture]:
        for job in self._jobs:
            try:
                picture = _read(job)
            except (ImageError, OSError, ValueError, MemoryError) as error:
                self._failures.add(job, error)
            else:
                yield picture


def _complain(error: BaseException, job: Job | None = None) -> int:
    text = str(error) or type(error).__name__
    if isinstance(error, MemoryError):
        text = "out of memory"
    if isinstance(error, OSError) and error.strerror and error.filename:
        name = os.fsdecode(error.filename)
        written = job is not None and name in (job.target, str(job.comparison)) and name != job.source
        text = f"{'cannot write ' if written else ''}{name}: {error.strerror}"
    elif job and str(job) not in text:
        text = f"{job}: {text}"
    console.complain(text)
    return 1


@contextmanager
def _bar(items: Any, what: str) -> Iterator[Any]:
    """The items, with a bar on a terminal if they take longer than a second."""
    try:
        from tqdm import tqdm
    except ImportError:
        yield items
        return
    with tqdm(items, desc=what, delay=1, leave=False, disable=None if len(items) > 1 else True) as bar:
        yield bar


# ---------------------------------------------------------------- one file


def _read(job: Job) -> Picture:
    with console.quiet():
        return _opened(job)


def _opened(job: Job) -> Picture:
    if job.source == PIPE:
        return read(console.read())
    if job.source.lower().endswith(".npy"):
        try:
            return read(np.load(job.source, mmap_mode="r"))
        except (EOFError, ValueError) as error:
            raise ImageError(f"{job.source} is no array that can be read: {error}") from None
    return read(job.source)


def _do(job: Job, args: argparse.Namespace, palette: Levels | None, converged: bool) -> None:
    start = time.perf_counter()
    target = None if job.target == PIPE else Path(job.target)
    if args.bands and not (target and job.source != PIPE):
        raise ImageError("--bands needs files, not standard input or output.")
    try:
        if args.bands:
            raise TooLargeError
        picture = _read(job)
    except TooLargeError:
        if not args.bands and not (target and target.suffix.lower() in (".tif", ".tiff")):
            raise
        assert target is not None
        facts = _in_bands(job, target, args, palette)
    else:
        options = {"space": args.space, "dither": args.dither, "device": args.device}
        if palette is None:
            result = quantize(picture, args.colors, random_state=args.seed, **options)
        else:
            result = replace(remap(picture, palette, **options), converged=converged)
        if target is None:
            _to_stdout(result)
            return
        result.save(target, None if target.suffix else "PNG")
        if args.compare:
            comparison.write_comparison(picture, result, job.comparison)
        facts = {
            "width": result.indices.shape[1],
            "height": result.indices.shape[0],
            "colors": len(result.palette),
            "psnr": result.psnr,
            "converged": result.converged,
            "palette": ["#" + bytes(color).hex() for color in write.eight_bit(result.palette)],
        }
    facts["seconds"] = round(time.perf_counter() - start, 4)
    _tell(job, facts, args.json)


def _in_bands(job: Job, target: Path, args: argparse.Namespace, palette: Levels | None) -> dict[str, Any]:
    if args.compare:
        raise ImageError("--compare needs a picture that fits into memory.")
    try:
        from tqdm import tqdm
    except ImportError:
        bar = None
    else:
        bar = tqdm(desc=job.source, unit="row", delay=1, leave=False, disable=None)

    def progress(done: int, total: int) -> None:
        if bar is not None:
            bar.total = total
            bar.update(done - bar.n)

    try:
        result = streaming.quantize_file(
            job.source,
            target,
            min(args.colors, 256),
            space=args.space,
            dither=args.dither,
            palette=palette,
            random_state=args.seed,
            device=args.device,
            progress=progress,
        )
    finally:
        if bar is not None:
            bar.close()
    return {
        "width": result.width,
        "height": result.height,
        "colors": len(result.palette),
        "psnr": result.psnr,
        "converged": result.converged,
        "palette": ["#" + bytes(color).hex() for color in result.palette],
    }


def _to_stdout(result: Quantized) -> None:
    buffer = io.BytesIO()
    result.save(buffer, "PNG")
    console.write(buffer.getbuffer())


def _tell(job: Job, facts: dict[str, Any], as_json: bool) -> None:
    size = Path(job.target).stat().st_size if Path(job.target).is_file() else None
    if as_json:
        # JSON has no infinity: null stands for a picture without loss, and for a figure not taken.
        psnr = facts["psnr"] if facts["psnr"] is not None and np.isfinite(facts["psnr"]) else None
        lossless = facts["psnr"] == float("inf")
        record = {"input": job.source, "output": job.target, **facts, "psnr": psnr, "lossless": lossless, "bytes": size}
        console.say(json.dumps(record))
        return
    quality = "PSNR not measured" if facts["psnr"] is None else f"PSNR {facts['psnr']:.2f} dB"
    quality = "without loss" if facts["psnr"] == float("inf") else quality
    note = "" if facts["converged"] else ", not converged"
    amount = "" if size is None else f", {size:,} bytes"
    console.say(f"{job.source} -> {job.target}: {facts['colors']} colors, {quality}{note}{amount}")
