"""Soft edges made hard, for formats that have a transparent color and no half-transparent ones."""

from __future__ import annotations

import re
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from gpukmeans.image.levels import Levels, largest_level
from gpukmeans.image.picture import Picture, row_pieces, without_idle_alpha

WHITE = "#ffffff"


def color_of(text: str) -> NDArray[np.uint8]:
    """The color (3,), or (4,) with alpha, of text like "#ff8000", "#f80" or "ff8000ff"; ValueError for any other.

    Examples
    --------
    >>> color_of("#f80").tolist(), color_of("ff800080").tolist()
    ([255, 136, 0], [255, 128, 0, 128])
    """
    digits = text.removeprefix("#")
    if not re.fullmatch(r"[0-9a-fA-F]{3}|[0-9a-fA-F]{6}|[0-9a-fA-F]{8}", digits):
        raise ValueError(f"a color is written like #ff8000, got {text!r}.")
    if len(digits) == 3:
        digits = "".join(2 * digit for digit in digits)
    return np.frombuffer(bytes.fromhex(digits), np.uint8)


def hardened(levels: Levels, matte: str = WHITE, threshold: int | None = None) -> Levels:
    """Colors (..., 4) that are opaque, or all zeros for nothing: half-transparent ones as they look over a matte, or
    with a threshold from 1 to 255 their own if their alpha, of 255, is at least that, and nothing below.

    Examples
    --------
    >>> colors = np.array([[200, 0, 0, 0], [200, 0, 0, 51], [200, 0, 0, 255]], np.uint8)
    >>> hardened(colors).tolist()
    [[0, 0, 0, 0], [244, 204, 204, 255], [200, 0, 0, 255]]
    >>> hardened(colors, threshold=52).tolist()
    [[0, 0, 0, 0], [0, 0, 0, 0], [200, 0, 0, 255]]
    """
    top = largest_level(levels.dtype)
    alpha = levels[..., 3:].astype(np.int64)
    if threshold is None:
        ground = color_of(matte)[:3].astype(np.int64) * (top // 255)
        over = ((levels[..., :3] * alpha + ground * (top - alpha) + top // 2) // top).astype(levels.dtype)
        seen = alpha > 0
    else:
        over, seen = levels[..., :3], alpha * 255 >= threshold * top
    return np.concatenate([np.where(seen, over, 0), np.where(seen, top, 0)], axis=-1).astype(levels.dtype)


def with_hard_edges(picture: Picture, matte: str = WHITE, threshold: int | None = None) -> tuple[Picture, bool]:
    """The picture with `hardened` levels, and whether any were half-transparent."""
    if picture.shape[2] != 4:
        return picture, False
    if picture.table is not None:
        soft = (picture.table[:, 3] % 255 != 0).any()
        return (replace(picture, table=hardened(picture.table, matte, threshold)), True) if soft else (picture, False)
    top, pixels = largest_level(picture.pixels.dtype), picture.pixels
    if not any((pixels[rows][..., 3] % top != 0).any() for rows in row_pieces(len(pixels))):
        return picture, False
    hard = np.empty_like(pixels)
    for rows in row_pieces(len(pixels)):
        hard[rows] = hardened(pixels[rows], matte, threshold)
    return replace(picture, pixels=without_idle_alpha(hard)), True
