"""The command ``gpukmeans quantize``: files into palettes, one by one, with one palette, or onto a given one."""

from __future__ import annotations

import argparse
import logging
from collections.abc import Callable, Iterator
from typing import Any

from gpukmeans.cli import console, options, report
from gpukmeans.cli.errors import QualityError
from gpukmeans.cli.jobs import Job, jobs_of
from gpukmeans.cli.pictures import Onto, SkippedError, do, read_importance, read_picture
from gpukmeans.engine import devices
from gpukmeans.image.color_space import space_for
from gpukmeans.image.files import palettes
from gpukmeans.image.picture import ImageError, Picture
from gpukmeans.image.quantize import common_palette

# Pillow raises what it logs as an error, and one line says it.
_UNHEARD = logging.NullHandler()

# What may keep a picture from its end, and is told in one line; a reader who has gone ends all of them.
_REASONS = (ImageError, ImportError, OSError, ValueError, MemoryError)

# Exit statuses: of several files some failed; a quality that was not reached, as pngquant has it.
_SOME_FAILED, _QUALITY = 3, 99


def add(commands: Any, what: str, seed: Callable[[str], int]) -> None:
    """Add ``quantize`` to the subparsers of `gpukmeans`; what: its help; seed: the type of ``--seed``."""
    parser = options.add(commands, what, seed)
    parser.set_defaults(run=lambda args: _run(args, parser))


def _run(args: argparse.Namespace, parser: argparse.ArgumentParser) -> int:
    """Returns the exit status, which the help says."""
    logging.getLogger("PIL").addHandler(_UNHEARD)
    outcomes = _Outcomes(several=args.out_dir is not None, as_json=args.json)
    try:
        args.keep = options.kept_colors(args)
        found = jobs_of(args, parser)
        for path, why in found.skipped:
            outcomes.skip(str(path), why)
        args.device = devices.resolve(args.device)
        args.importance = read_importance(args.importance)
        onto = _shared_palette(found.jobs, args, outcomes) if args.shared_palette else _given_palette(args)
        if args.out_dir:
            args.out_dir.mkdir(parents=True, exist_ok=True)
    except BrokenPipeError:
        raise
    except _REASONS as error:
        return report.complain(error)
    with report.bar(outcomes.left(found.jobs), "quantizing") as bar:
        for job in bar:
            try:
                do(job, args, onto)
                outcomes.done += 1
            except BrokenPipeError:
                raise
            except SkippedError as why:
                outcomes.skip(str(job), str(why).removeprefix(f"{job}: "), why.status)
            except QualityError as error:
                outcomes.add(job, error, _QUALITY)
            except _REASONS as error:
                outcomes.add(job, error)
    return outcomes.end()


def _given_palette(args: argparse.Namespace) -> Onto | None:
    if not args.palette:
        return None
    with console.quiet():
        return Onto(palettes.load(args.palette), True)


def _shared_palette(jobs: list[Job], args: argparse.Namespace, outcomes: _Outcomes) -> Onto:
    with report.bar(_Pictures(jobs, args, outcomes), "counting") as pictures:
        how = {
            "space": space_for(args.space, args.dither, args.colors),
            "random_state": args.seed,
            "device": args.device,
        }
        return Onto(*common_palette(pictures, args.colors, **how))


class _Outcomes:
    """What became of each file: those that could not be done are told of once, and the others are done all the same."""

    def __init__(self, *, several: bool, as_json: bool) -> None:
        self.done = 0
        self._several, self._as_json = several, as_json
        self._status, self._skipped, self._skip_status = 0, 0, 0
        self._failed: set[str] = set()

    def add(self, job: Job, error: BaseException, status: int = 1) -> None:
        report.complain(error, job)
        self._status = status
        self._failed.add(job.source)

    def skip(self, name: str, why: str, status: int = 0) -> None:
        report.tell_skipped(name, why, as_json=self._as_json)
        self._skipped += 1
        self._skip_status = status

    def left(self, jobs: list[Job]) -> list[Job]:
        return [job for job in jobs if job.source not in self._failed]

    def end(self) -> int:
        """Says how many there were of each, if there were several, and returns the exit status."""
        if not self._several:
            return self._status or self._skip_status
        failed = len(self._failed)
        console.note(f"{self.done} done, {self._skipped} skipped, {failed} failed", kind=None)
        return _SOME_FAILED if failed else 0


class _Pictures:
    """The pictures of the jobs that can be read, one at a time; the others are failures."""

    def __init__(self, jobs: list[Job], args: argparse.Namespace, outcomes: _Outcomes) -> None:
        self._jobs, self._args, self._outcomes = jobs, args, outcomes

    def __len__(self) -> int:
        return len(self._jobs)

    def __iter__(self) -> Iterator[Picture]:
        for job in self._jobs:
            try:
                picture = read_picture(job, self._args).picture
            except (ImageError, OSError, ValueError, MemoryError) as error:
                self._outcomes.add(job, error)
            else:
                yield picture
