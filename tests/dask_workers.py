"""Workers of a Dask cluster, each a process, that are killed while a fit needs them."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from typing import Any


def pid_at(client: Any, address: str) -> int:
    return int(client.run(os.getpid, workers=[address])[address])


def kill(client: Any, address: str) -> None:
    os.kill(pid_at(client, address), signal.SIGKILL)


def killing_after(client: Any, iteration: int) -> tuple[Callable[[Any], None], list[str]]:
    """A callback of a fit that kills a worker after that iteration, and the addresses of those that it killed."""
    lost: list[str] = []

    def lose(record: Any) -> None:
        if record.iteration == iteration:
            lost.append(min(client.scheduler_info(n_workers=-1)["workers"]))
            kill(client, lost[-1])

    return lose, lost
