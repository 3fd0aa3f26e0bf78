"""What `gpukmeans quantize` is to read, and where it is to write: settled, or refused, before any work."""

from __future__ import annotations

import argparse
import os
from dataclasses import dataclass
from pathlib import Path

from gpukmeans.image.files import write
from gpukmeans.image.picture import ImageError

# What a folder is searched for.
PICTURES = {".png", ".jpg", ".jpeg", ".gif", ".webp", ".tif", ".tiff", ".bmp", ".ppm", ".pgm", ".npy"}

PIPE = "-"


@dataclass(frozen=True)
class Job:
    """source: a path or PIPE. target: the same."""

    source: str
    target: str

    def __str__(self) -> str:
        return "standard input" if self.source == PIPE else self.source

    @property
    def comparison(self) -> Path:
        """Where original and result stand side by side, if that is asked for."""
        target = Path(self.target)
        return target.parent / f"{target.stem}-compare.png"


def jobs_of(args: argparse.Namespace, parser: argparse.ArgumentParser) -> list[Job]:
    """What to read and where to write; argparse's usage error for what makes no sense."""
    if args.palette and args.shared_palette:
        parser.error("--palette and --shared-palette exclude each other")
    if args.out_dir is None:
        if len(args.files) != 2:
            parser.error(f"expected IN and OUT, or --out-dir, got {len(args.files)} files")
        jobs = [job := Job(*args.files)]
        if job.target == PIPE and (args.json or args.compare):
            parser.error("--json and --compare need a file to write to, not standard output")
        if job.target != PIPE and not Path(job.target).exists():
            write.format_of(job.target)
    else:
        if PIPE in args.files:
            parser.error("--out-dir needs files, not standard input")
        sources = [path for name in args.files for path in _expanded(Path(name))]
        jobs = [Job(str(source), str(args.out_dir / f"{source.stem}.{args.format}")) for source in sources]
    _check_targets(jobs, args)
    return jobs


def _check_targets(jobs: list[Job], args: argparse.Namespace) -> None:
    """Raise ImageError if a file would be written twice, or a comparison over what is read."""
    written: dict[str, str] = {}

    def claim(path: str | Path, whose: str) -> None:
        if _real_path(path) in written:
            raise ImageError(f"{written[_real_path(path)]} and {whose} would both be written to {path}.")
        written[_real_path(path)] = whose

    for job in jobs:
        if job.target != PIPE:
            claim(job.target, job.source)
    if args.compare:
        read = {_real_path(job.source): job.source for job in jobs if job.source != PIPE}
        if args.palette:
            read[_real_path(args.palette)] = str(args.palette)
        for job in jobs:
            over = read.get(_real_path(job.comparison))
            if over is not None:
                raise ImageError(
                    f"the comparison of {job} would be written over {over}, which is read: name the result otherwise."
                )
            claim(job.comparison, f"the comparison of {job}")


def _real_path(path: str | Path) -> str:
    """The same for all names of a file."""
    return os.path.normcase(os.path.realpath(path))


def _expanded(path: Path) -> list[Path]:
    if not path.is_dir():
        return [path]
    found = sorted(inner for inner in path.iterdir() if inner.suffix.lower() in PICTURES and inner.is_file())
    if not found:
        raise ImageError(f"{path} holds no pictures ({', '.join(sorted(PICTURES))}).")
    return found
