"""What ``gpukmeans quantize`` tells of pictures: a line of each, a line of what goes wrong, and bars meanwhile."""

from __future__ import annotations

import math
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from gpukmeans.cli import console
from gpukmeans.cli.jobs import Job
from gpukmeans.image.levels import Levels, to_8_bit
from gpukmeans.image.result import Quantized

if TYPE_CHECKING:
    from gpukmeans.image.streaming import WrittenPicture


class Outcome(NamedTuple):
    """What a picture came to. palette: (k, 3) or (k, 4). psnr: None if it was not measured."""

    height: int
    width: int
    palette: Levels
    psnr: float | None
    converged: bool

    @staticmethod
    def of(result: Quantized | WrittenPicture, height: int, width: int) -> Outcome:
        return Outcome(height, width, to_8_bit(result.palette), result.psnr, result.converged)

    @property
    def lossless(self) -> bool:
        return self.psnr == math.inf

    @property
    def quality(self) -> str:
        if self.psnr is None:
            return "PSNR not measured"
        return "without loss" if self.lossless else f"PSNR {self.psnr:.2f} dB"


def tell(job: Job, outcome: Outcome, seconds: float, *, as_json: bool) -> None:
    """Say in one line what became of the job."""
    target = Path(job.target)
    size = target.stat().st_size if target.is_file() else None
    if not as_json:
        note = "" if outcome.converged else ", not converged"
        amount = "" if size is None else f", {size:,} bytes"
        colors = f"{len(outcome.palette)} colors"
        console.say(f"{job.source} -> {job.target}: {colors}, {outcome.quality}{note}{amount}")
        return
    record = {
        "input": job.source,
        "output": job.target,
        "width": outcome.width,
        "height": outcome.height,
        "colors": len(outcome.palette),
        # JSON has no infinity: null stands for a picture without loss, and for a figure not taken.
        "psnr": None if outcome.lossless else outcome.psnr,
        "converged": outcome.converged,
        "palette": ["#" + bytes(color).hex() for color in outcome.palette],
        "seconds": round(seconds, 4),
        "lossless": outcome.lossless,
        "bytes": size,
    }
    _say_as_json(record)


def tell_skipped(name: str, why: str, *, as_json: bool) -> None:
    """Say in one line what is not done, and why."""
    if as_json:
        _say_as_json({"input": name, "output": None, "skipped": why})
    else:
        console.note(f"{name}: {why}", kind="skipped")


def _say_as_json(record: dict[str, object]) -> None:
    import json

    console.say(json.dumps(record))


def complain(error: BaseException, job: Job | None = None) -> int:
    """Say in one line what went wrong, and with which file. Returns the exit status."""
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


def _tqdm() -> Any:
    """tqdm, or None where it is not installed, or nobody sees it: bars are a convenience."""
    if sys.stderr is None or not sys.stderr.isatty():
        return None
    try:
        from tqdm import tqdm
    except ImportError:
        return None
    return tqdm


@contextmanager
def bar(items: Any, what: str) -> Iterator[Any]:
    """The items, with a bar on a terminal if they take longer than a second."""
    tqdm = _tqdm() if len(items) > 1 else None
    if tqdm is None:
        yield items
        return
    with tqdm(items, desc=what, delay=1, leave=False, disable=None) as shown:
        yield shown


@contextmanager
def rows_bar(name: str) -> Iterator[Callable[[int, int], None]]:
    """A function of the rows that are done and of all, which moves a bar on a terminal if that takes longer than a
    second."""
    tqdm = _tqdm()
    if tqdm is None:
        yield lambda done, total: None
        return
    with tqdm(desc=name, unit="row", delay=1, leave=False, disable=None) as shown:

        def progress(done: int, total: int) -> None:
            shown.total = total
            shown.update(done - shown.n)

        yield progress
