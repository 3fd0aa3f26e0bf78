"""Properties over random examples: in CI a few, always the same; with --fuzz others for as long as is asked."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from hypothesis import HealthCheck, given, seed, settings

ALWAYS: dict[str, Any] = {
    "deadline": None,
    "database": None,
    "print_blob": False,  # it would say how to run an example of a function that stands in no file
    "suppress_health_check": list(HealthCheck),
}

# Examples between two looks at the time; the first of them is the simplest there is, so few would be a waste.
TURN = 25


@dataclass
class Explorer:
    """seconds: how long to go on, 0 for CI. turn: the one to run again, of TURN examples, None for new ones. again: the
    command that runs a turn. slow: whether CI has time for a tenth of the examples. tell(count): is called in the end
    with how many were tried."""

    seconds: float
    turn: int | None
    again: str
    slow: bool
    tell: Callable[[int], None]

    def __call__(self, check: Callable[..., None], examples: int, **drawn: Any) -> None:
        """Hold check(**values) of values drawn by these strategies. examples: how many in CI."""

        tried = 0

        def counted(**values: Any) -> None:
            nonlocal tried
            tried += 1
            check(**values)

        def once() -> Callable[[], None]:
            """Anew, since it keeps its settings."""
            return given(**drawn)(counted)

        if self.turn is None and not self.seconds:
            settings(**ALWAYS, derandomize=True, max_examples=examples // 10 if self.slow else examples)(once())()
            return
        until = time.monotonic() + self.seconds
        try:
            while True:
                turn = time.time_ns() if self.turn is None else self.turn
                self._take(turn, once())
                if time.monotonic() >= until:
                    break
        finally:
            self.tell(tried)

    def _take(self, turn: int, test: Callable[[], None]) -> None:
        try:
            seed(turn)(settings(**ALWAYS, max_examples=TURN)(test))()
        except BaseException as error:
            error.add_note(f"Again: {self.again} --fuzz-turn {turn}")
            raise
