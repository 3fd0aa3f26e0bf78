"""Pictures as levels: what is known of one, and how it is made of an array."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gpukmeans import array_interop
from gpukmeans.image.levels import Levels, largest_level

# Rows at a time, where a picture is converted without being held twice.
ROWS = 256


# EXIF's orientations of pictures that are to be turned.
TURNED = range(2, 9)


class ImageError(ValueError):
    """What was given is no picture that can be quantized; the message says why and what to do."""


class TooLargeError(ImageError):
    """A picture with more pixels than are held in memory."""


@dataclass(frozen=True)
class Metadata:
    """What a file says of its picture beside the pixels.

    icc_profile: the bytes of one. dpi: pixels per inch, across and down. orientation: one of TURNED. durations: of an
    animation's frames, in milliseconds. plays: how often it is shown, 0 for ever.
    """

    icc_profile: bytes | None = None
    dpi: tuple[float, float] | None = None
    orientation: int | None = None
    durations: tuple[float, ...] | None = None
    plays: int = 0

    @property
    def rgb_profile(self) -> bytes | None:
        """The ICC profile if it is one of red, green and blue; one for grey does not fit a palette."""
        profile = self.icc_profile
        return profile if profile is not None and profile[16:20] == b"RGB " else None


@dataclass(frozen=True)
class Picture:
    """Levels of pixels, and what is to be kept of their source.

    pixels: levels (h, w, c), uint8 or uint16, c 1, 3 or 4 (only if a pixel is not opaque; the color of what is fully
    transparent is zero); or CuPy's, as `from_gpu_array` leaves them. channels: those of the source, 2-dimensional
    arrays having 0. dtype: the source's. table: None, or (k, c) uint8, to which the pixels are indices then: (h, w)
    uint8. frames: 0, or how many pictures of equal height the pixels are, one below another. bits_lost: 0, or how many
    bits the levels had of which the upper 8 were read.
    """

    pixels: Levels
    channels: int
    dtype: np.dtype
    metadata: Metadata = field(default_factory=Metadata)
    table: Levels | None = None
    frames: int = 0
    bits_lost: int = 0

    def frame(self, i: int) -> Picture:
        """One of several."""
        height = len(self.pixels) // self.frames
        return replace(self, pixels=self.pixels[i * height : (i + 1) * height], frames=0)

    @property
    def shape(self) -> tuple[int, int, int]:
        """(h, w, c)."""
        h, w, *c = self.pixels.shape
        return (h, w, c[0]) if self.table is None else (h, w, self.table.shape[1])

    @property
    def levels(self) -> Levels:
        """(h, w, c); made anew of indices each time."""
        return self.pixels if self.table is None else looked_up(self.table, self.pixels)

    def rows(self, first: int, end: int) -> Levels:
        """The levels of some rows."""
        part = self.pixels[first:end]
        return part if self.table is None else looked_up(self.table, part)


def row_pieces(height: int) -> list[slice]:
    """Slices of a picture's rows, ROWS at a time."""
    return [slice(row, row + ROWS) for row in range(0, height, ROWS)]


def looked_up(table: Levels, indices: NDArray[Any]) -> Levels:
    """table[indices], without eight bytes for each index."""
    levels = np.empty((*indices.shape, table.shape[1]), table.dtype)
    for rows in row_pieces(len(levels)):
        levels[rows] = table[indices[rows]]
    return levels


def turned(pixels: NDArray[Any], orientation: int) -> NDArray[Any]:
    """Pixels (h, w) or (h, w, c) as they are to be seen; orientation: EXIF's, of TURNED.

    Examples
    --------
    >>> turned(np.array([[1, 2], [3, 4]]), 6).tolist()
    [[3, 1], [4, 2]]
    """
    if orientation >= 5:
        pixels = pixels.swapaxes(0, 1)
    if orientation in (3, 4, 7, 8):
        pixels = pixels[::-1]
    return pixels[:, ::-1] if orientation in (2, 3, 6, 7) else pixels


def from_array(array: NDArray[Any], value_range: tuple[float, float] | None = None) -> Picture:
    """The picture of an array (h, w), (h, w, 1), (h, w, 3) or (h, w, 4), uint8, uint16, or floats in [0, 1], which
    become uint16; or the frames (t, h, w, c) of an animation.

    value_range: what stands for black and for white, in an array of any numbers; those beyond are cut to it.

    Raises ImageError for any other.

    Examples
    --------
    >>> from_array(np.array([[0.0, 1.0]])).levels.tolist()
    [[[0], [65535]]]
    """
    if array.ndim == 4 and 0 not in array.shape:
        t, h = array.shape[:2]
        return replace(from_array(array.reshape(t * h, *array.shape[2:]), value_range), frames=t)
    _check_shape(array)
    if value_range is not None and array.dtype.kind in "iuf":
        return _scaled(array, *value_range)
    if array.dtype.kind == "f":
        low, high = array.min(), array.max()
        if not (low >= 0 and high <= 1):  # false for NaN too
            raise ImageError(
                f"an image of floats has values in [0, 1], these are from {low:g} to {high:g}: divide by the largest, "
                "or say what black and white are with --range."
            )
        levels: Levels = np.empty(array.shape, np.uint16)
        for rows in row_pieces(len(array)):
            levels[rows] = np.rint(array[rows] * np.float64(65535))
    elif array.dtype.newbyteorder("=") in (np.uint8, np.uint16):
        levels = array.astype(array.dtype.newbyteorder("="), copy=False)
    else:
        raise ImageError(f"an image has dtype uint8, uint16 or float, got {array.dtype}: convert it first.")
    levels = levels.reshape(*array.shape[:2], -1)
    return Picture(without_idle_alpha(levels), _channels(array), array.dtype)


def _scaled(array: NDArray[Any], low: float, high: float) -> Picture:
    levels = np.empty(array.shape, np.uint16)
    for rows in row_pieces(len(array)):
        share = (array[rows].astype(np.float64) - low) / (high - low)
        if np.isnan(share).any():
            raise ImageError("an image of floats has values that are no numbers.")
        levels[rows] = np.rint(np.clip(share, 0, 1) * 65535)
    levels = levels.reshape(*array.shape[:2], -1)
    return Picture(without_idle_alpha(levels), _channels(array), np.dtype(np.uint16))


def from_gpu_array(array: Any) -> Picture:
    """The same of CuPy's, 8 bits a channel: its levels stay where they are. Others come to the host."""
    if array.ndim == 4:
        return from_array(array_interop.to_numpy(array))
    _check_shape(array)
    if array.dtype != np.uint8:
        return from_array(array_interop.to_numpy(array))
    return Picture(array.reshape(array.shape[0], array.shape[1], -1), _channels(array), array.dtype)


def on_host(picture: Picture) -> Picture:
    """The picture with levels that are NumPy's."""
    if array_interop.gpu_of(picture.pixels) is None:
        return picture
    return replace(picture, pixels=without_idle_alpha(array_interop.to_numpy(picture.pixels)))


def without_idle_alpha(levels: Levels) -> Levels:
    """Levels (h, w, c) without alpha if all are opaque; what is fully transparent becomes zero."""
    if levels.shape[2] != 4:
        return levels
    alpha = levels[..., 3]
    if (alpha == largest_level(levels.dtype)).all():
        return levels[..., :3]
    if not any(levels[rows][alpha[rows] == 0].any() for rows in row_pieces(len(levels))):
        return levels
    return np.where(alpha[..., None] > 0, levels, 0).astype(levels.dtype, copy=False)


def _channels(array: Any) -> int:
    return array.shape[2] if array.ndim == 3 else 0


def _check_shape(array: Any) -> None:
    shape = f"an array of shape {array.shape}"
    if array.ndim not in (2, 3) or (array.ndim == 3 and array.shape[2] not in (1, 3, 4)):
        raise ImageError(f"an image is an array (h, w), (h, w, 3) or (h, w, 4), or frames (t, h, w, c), got {shape}.")
    if array.size == 0:
        raise ImageError(f"an image needs at least one pixel, got {shape}.")
