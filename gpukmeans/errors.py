"""What goes wrong on a device, as users are told of it."""

from __future__ import annotations

from textwrap import shorten


class DeviceError(RuntimeError):
    """The device asked for cannot be used, or failed; the message names the cause and the remedy."""


class DeviceLost(DeviceError):  # noqa: N818 - it is what happened, and a DeviceError
    """What held a part of the rows is there no more; another can take its place (engine/combine/replay.py)."""


def describe_error(error: BaseException) -> str:
    """What first went wrong, in one line: CuPy frames its errors with banners, and compilers write logs."""
    while error.__cause__ is not None:
        error = error.__cause__
    return f"{type(error).__name__}: {shorten(str(error), 500)}"
