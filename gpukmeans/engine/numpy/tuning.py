"""What the engine on NumPy decides by size, and tests and worker processes decide for it; one choice is a GPU's too."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, replace
from typing import Any

# Values of a problem that is fitted whole, at most. Of more, bounds that skip rows, and threads that share them, are
# worth more than calls.
SMALL = 2**18


@dataclass(frozen=True)
class Tuning:
    """What may be skipped or cut differently without changing a bit; None lets the size decide."""

    merge: bool | None = None  # equal rows into one
    arrange: bool | None = None  # sort along a curve, for blocks and merging
    scores: bool | None = None  # propose with float32 scores instead of computing every D
    bounds: bool | None = None  # skip points whose label cannot have changed
    chunk_rows: int | None = None  # rows to a task
    threads: int | None = None
    compiled: bool | None = None  # passes that numba compiles, where it is installed
    line: bool | None = None  # sort rows of one feature, of which clusters are runs
    whole: bool | None = None  # fit what is small to its end in one compiled call, or, on a GPU, in one launch

    @property
    def of_passes(self) -> bool:
        """Whether somebody chose how passes look at rows, which rows that are not looked at so could not obey."""
        chosen = self.merge, self.arrange, self.scores, self.bounds, self.chunk_rows
        return any(choice is not None for choice in chosen)


_current: ContextVar[Tuning | None] = ContextVar("tuning", default=None)


@contextmanager
def tuned(**choices: Any) -> Iterator[None]:
    """Within this context new Points follow these choices (fields of `Tuning`) instead of deciding."""
    token = _current.set(replace(_current.get() or Tuning(), **choices))
    try:
        yield
    finally:
        _current.reset(token)


def current() -> Tuning:
    """The choices of this context."""
    return _current.get() or Tuning()
