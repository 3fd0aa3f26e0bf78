"""What goes wrong on a device, as users are told of it."""

from __future__ import annotations

from textwrap import shorten


class DeviceError(RuntimeError):
    """The device asked for cannot be used, or failed; the message names the cause and the remedy."""


def describe_error(error: BaseException) -> str:
    """What first went wrong, in one line: CuPy frames its errors with banners, and compilers write logs."""
    while error.__cause__ is not None:
        error = error.__cause__
    return f"{type(error).__name__}: {shorten(str(error), 500)}"
