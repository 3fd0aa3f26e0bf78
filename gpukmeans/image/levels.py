"""Levels: how arrays hold colors, and what is asked of them everywhere.

A level is a channel's value, uint8 or uint16, encoded in sRGB. A color is one level (grey), three (red, green, blue) or
four (with alpha); the last axis of an array is the channel. A color's code is its bytes, in channel order, as one
little-endian number. Codes order colors, the same everywhere.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

Levels = NDArray[Any]  # (..., c) uint8 or uint16
Codes = NDArray[Any]  # (m,) uint32 of uint8 levels, uint64 of uint16

# What indices of 8 bits tell apart: as many colors as palettes in files have.
MOST_FILE_COLORS = 2**8

# What indices of 16 bits tell apart: as many colors as a palette may have.
MOST_COLORS = 2**16


def index_dtype(k: int) -> Any:
    """The dtype of indices into a palette of k colors, at most MOST_COLORS."""
    return np.uint8 if k <= MOST_FILE_COLORS else np.uint16


def largest_level(dtype: Any) -> int:
    """The largest level of uint8 or uint16."""
    return int(np.iinfo(dtype).max)


# ---------------------------------------------------------------- codes


def pack(colors: Levels) -> Codes:
    """The codes (n,) of colors (n, c).

    Examples
    --------
    >>> pack(np.array([[1, 0, 0], [0, 1, 0]], np.uint8)).tolist()
    [1, 256]
    """
    n, c = colors.shape
    little = colors.dtype.newbyteorder("<")
    padded = np.zeros((n, 4), little)
    padded[:, :c] = colors
    return padded.view("<u4" if little.itemsize == 1 else "<u8")[:, 0].astype(f"u{4 * little.itemsize}", copy=False)


def unpack(codes: Codes, channels: int) -> Levels:
    """The colors (m, channels) of codes (m,)."""
    size = codes.dtype.itemsize
    colors = codes.astype(f"<u{size}", copy=False).view(f"<u{size // 4}").reshape(-1, 4)[:, :channels]
    return np.ascontiguousarray(colors, dtype=f"u{size // 4}")


# ---------------------------------------------------------------- depth


def to_8_bit(levels: Levels) -> NDArray[np.uint8]:
    """Levels of either dtype as uint8, rounded to the nearest.

    Examples
    --------
    >>> to_8_bit(np.array([0, 128, 129, 65535], np.uint16)).tolist()
    [0, 0, 1, 255]
    """
    if levels.dtype == np.uint8:
        return levels
    return ((levels.astype(np.uint32) * 255 + 32767) // 65535).astype(np.uint8)


def to_16_bit(levels: NDArray[np.uint8]) -> NDArray[np.uint16]:
    """Levels of 8 bits as uint16: the same share of the largest.

    Examples
    --------
    >>> to_16_bit(np.array([0, 1, 255], np.uint8)).tolist()
    [0, 257, 65535]
    """
    return levels.astype(np.uint16) * np.uint16(257)


# ---------------------------------------------------------------- channels


def is_grey(levels: Levels) -> bool:
    """Whether colors (..., 3) are all grey; False of any other number of channels."""
    return levels.shape[-1] == 3 and bool((levels[..., :1] == levels).all())


def to_rgb(levels: Levels) -> Levels:
    """Colors (..., 1) as (..., 3); any other as they are."""
    return np.repeat(levels, 3, axis=-1) if levels.shape[-1] == 1 else levels


def to_rgba(levels: Levels) -> Levels:
    """Colors (..., c) as (..., 4), opaque unless they have alpha."""
    if levels.shape[-1] == 4:
        return levels
    result = np.full((*levels.shape[:-1], 4), largest_level(levels.dtype), levels.dtype)
    result[..., :3] = levels
    return result


def with_common_channels(colors: Levels, palette: Levels) -> tuple[Levels, Levels]:
    """Both with as many channels, of those that either needs: 3, or 4 if one has alpha."""
    if 4 in (colors.shape[-1], palette.shape[-1]):
        return to_rgba(colors), to_rgba(palette)
    return to_rgb(colors), to_rgb(palette)


def premultiplied(levels: Levels) -> Levels:
    """Levels (..., c) as they count where they are seen: times alpha, rounded, if there is any."""
    if levels.shape[-1] != 4:
        return levels
    top = largest_level(levels.dtype)
    alpha = levels[..., 3:].astype(np.uint64)
    seen = (levels[..., :3] * alpha + np.uint64(top // 2)) // np.uint64(top)
    return np.concatenate([seen.astype(levels.dtype), levels[..., 3:]], axis=-1)


# ---------------------------------------------------------------- error


def psnr(squared_error: float, values: int, peak: float) -> float:
    """Peak signal-to-noise ratio in dB; infinity without any error.

    squared_error: its sum over so many values. peak: the largest value that there may be.

    Examples
    --------
    >>> round(psnr(25, 100, 255), 2), psnr(0, 100, 255)
    (54.15, inf)
    """
    return float("inf") if squared_error == 0 else float(10 * np.log10(values * peak**2 / squared_error))
