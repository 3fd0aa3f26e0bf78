"""What `gpukmeans quantize` is to read, and where it is to write: settled, or refused, before any work."""

from __future__ import annotations

import argparse
import os
from pathlib import Path
from typing import NamedTuple

from gpukmeans.image.files import write
from gpukmeans.image.files.read import looks_like_a_picture
from gpukmeans.image.picture import ImageError

# What a folder is searched for by name; of other files it is their beginning that says whether they are pictures.
PICTURES = {".npy", ".png", ".apng", ".jpg", ".jpeg", ".jpe", ".jfif", ".gif", ".webp", ".tif", ".tiff", ".bmp", ".dib"}
PICTURES |= {".ppm", ".pgm", ".pbm", ".pnm", ".avif", ".avifs", ".jp2", ".j2k", ".jpf", ".jpx", ".tga", ".ico", ".cur"}
PICTURES |= {".icns", ".psd", ".pcx", ".dcx", ".qoi", ".sgi", ".dds", ".heic", ".heif", ".hif", ".xbm", ".xpm"}

PIPE = "-"


class Job(NamedTuple):
    """source: a path or PIPE. target: the same. format: of what is written, of `write.FORMATS`."""

    source: str
    target: str
    format: str

    def __str__(self) -> str:
        return "standard input" if self.source == PIPE else self.source

    @property
    def misnamed(self) -> bool:
        """Whether the target's name is that of another format, as --format may have it."""
        suffix = Path(self.target).suffix.lower()
        return self.target != PIPE and suffix in PICTURES and write.FORMATS.get(suffix) != self.format

    @property
    def comparison(self) -> Path:
        """Where original and result stand side by side, if that is asked for."""
        target = Path(self.target)
        return target.parent / f"{target.stem}-compare.png"


class Jobs(NamedTuple):
    """jobs: what is to be done. skipped: each file of a folder that is not, and why."""

    jobs: list[Job]
    skipped: list[tuple[Path, str]]


def jobs_of(args: argparse.Namespace, parser: argparse.ArgumentParser) -> Jobs:
    """What to read and where to write; argparse's usage error for what makes no sense."""
    skipped: list[tuple[Path, str]] = []
    if args.palette and args.shared_palette:
        parser.error("--palette and --shared-palette exclude each other")
    if args.palette_per_frame and (args.palette or args.shared_palette or args.compare):
        parser.error("--palette-per-frame excludes --palette, --shared-palette and --compare")
    own = args.quality or args.max_bytes or args.importance or args.keep is not None
    if own and (args.palette or args.shared_palette):
        parser.error("--quality, --max-bytes, --importance and --keep need a palette for each picture")
    if args.out_dir is None:
        if len(args.files) > 2 or (len(args.files) == 1 and args.files != [PIPE] and args.format is None):
            got = "one file" if len(args.files) == 1 else f"{len(args.files)} files"
            parser.error(f"expected IN and OUT, IN with --format, or --out-dir, got {got}")
        source, target = args.files if len(args.files) == 2 else (args.files[0], _beside(args))
        if target == PIPE and (args.json or args.compare):
            parser.error("--json and --compare need a file to write to, not standard output")
        jobs = [Job(source, target, _format_of(target, args.format))]
    else:
        if PIPE in args.files:
            parser.error("--out-dir needs files, not standard input")
        sources = [path for name in args.files for path in _expanded(Path(name), skipped)]
        suffix = args.format or "png"
        format = write.FORMATS[f".{suffix}"]
        jobs = [Job(str(source), str(args.out_dir / f"{source.stem}.{suffix}"), format) for source in sources]
    _check_targets(jobs, args)
    return Jobs(jobs, skipped)


def _beside(args: argparse.Namespace) -> str:
    """Where the result of the one IN goes: beside it with another ending, as mogrify -format has it, or from standard
    input to standard output. ImageError if that is a file that is there, which nobody named."""
    if args.files == [PIPE]:
        return PIPE
    source = Path(args.files[0])
    if source.is_dir():
        raise ImageError(f"{source} is a folder: say --out-dir.")
    target = source.with_suffix(f".{args.format}")
    if not args.force and target.exists() and _identity(target) != _identity(source):
        raise ImageError(f"{target} is there already: name the result, or say --force.")
    return str(target)


def _format_of(target: str, asked: str | None) -> str:
    """By --format, or else by the name."""
    suffix = "" if target == PIPE else Path(target).suffix.lower()
    if asked is not None:
        return write.FORMATS[f".{asked}"]
    if suffix or (target != PIPE and not Path(target).exists()):
        return write.format_of(target)
    return "PNG"


def _check_targets(jobs: list[Job], args: argparse.Namespace) -> None:
    """Raise ImageError if a file would be written twice or over what is read, unless that is forced; and in any case if
    it would be written over what another one, or only a comparison, has to be made of."""
    written: dict[object, str] = {}
    read = {_identity(job.source): job.source for job in jobs if job.source != PIPE}
    for path in (args.palette, args.importance):
        if path:
            read[_identity(path)] = str(path)

    def claim(path: str | Path, whose: str, *, forced: bool) -> None:
        if _identity(path) in written and not forced:
            raise ImageError(
                f"{written[_identity(path)]} and {whose} would both be written to {path}: write them to different "
                "folders, or say --force."
            )
        written[_identity(path)] = whose

    for job in jobs:
        if job.target == PIPE:
            continue
        over = read.get(_identity(job.target))
        own = job.source != PIPE and _identity(job.source) == _identity(job.target)
        if over is not None and not (own and args.force):
            advice = "name the result otherwise, or say --force" if own else "name the result otherwise"
            raise ImageError(f"{job} would be written over {'itself' if own else f'{over}, which is read'}: {advice}.")
        claim(job.target, job.source, forced=args.force)
    if args.compare:
        for job in jobs:
            over = read.get(_identity(job.comparison))
            if over is not None:
                raise ImageError(
                    f"the comparison of {job} would be written over {over}, which is read: name the result otherwise."
                )
            claim(job.comparison, f"the comparison of {job}", forced=False)


def _identity(path: str | Path) -> object:
    """The same for all names of a file."""
    try:
        there = os.stat(path)
        return there.st_dev, there.st_ino
    except OSError:
        return os.path.normcase(os.path.realpath(path))


def _expanded(path: Path, skipped: list[tuple[Path, str]]) -> list[Path]:
    if not path.is_dir():
        return [path]
    found = []
    for inner in sorted(path.iterdir()):
        if inner.is_dir():
            skipped.append((inner, "a folder, which is not searched: name it, too"))
        elif not inner.is_file():
            skipped.append((inner, "no file"))
        elif inner.suffix.lower() in PICTURES or looks_like_a_picture(inner):
            found.append(inner)
        else:
            skipped.append((inner, "no picture of a format that is known"))
    if not found:
        raise ImageError(f"{path} holds no pictures ({', '.join(sorted(PICTURES))}).")
    return found
