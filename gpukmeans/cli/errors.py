"""What keeps a command from its end."""

from __future__ import annotations

from gpukmeans.engine import devices


class CommandError(Exception):
    """What keeps a command from its end, in one line for the person who called it."""


class QualityError(Exception):
    """A picture that cannot be as good as was asked for."""


def resolved(device: str) -> str:
    """`devices.resolve`, whose ValueError is a CommandError."""
    try:
        return devices.resolve(device)
    except ValueError as error:
        raise CommandError(str(error)) from None
