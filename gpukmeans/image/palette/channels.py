"""The palette of colors of any kind: greys in one dimension, and the fully transparent color apart."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np

from gpukmeans import array_interop
from gpukmeans.image.levels import is_grey, largest_level, to_rgb
from gpukmeans.image.numpy.colors import NumPyColors
from gpukmeans.image.palette.fit import PaletteFit, fit_palette
from gpukmeans.image.protocol import Colors


def palette_of(colors: Colors, k: int, *, space: str, random_state: Any, device: str) -> PaletteFit:
    """The palette (j, 3) or (j, 4), j at most k, of distinct colors of 1, 3 or 4 channels.

    Examples
    --------
    >>> greys = NumPyColors(np.array([[0], [2], [200]], np.uint8), np.array([1, 1, 1]))
    >>> palette_of(greys, 2, space="rgb", random_state=0, device="cpu").palette.tolist()
    [[1, 1, 1], [200, 200, 200]]
    """
    k = int(k)
    options: dict[str, Any] = {"space": space, "random_state": random_state, "device": device}
    greys = largest_level(colors.dtype) + 1
    if colors.channels == 3 and len(colors) <= greys and is_grey(colors.levels()):
        # Grey stays grey, and is one dimension (test_quantize.test_more_colors_than_there_are fails if other colors are
        # taken for grey).
        colors = NumPyColors(colors.levels()[:, :1], array_interop.to_numpy(colors.weights))
    if colors.channels == 1:
        fit = fit_palette(colors, k, **options)
        return replace(fit, palette=to_rgb(fit.palette))
    if colors.channels == 3 or k == 1 or len(colors) == 1:
        return fit_palette(colors, k, **options)
    levels = colors.levels()
    visible = levels.any(axis=1)
    if visible.all():
        return fit_palette(colors, k, **options)
    # What is fully transparent has one code, all zeros, the least of all: it is color 0, and not clustered
    # (test_quantize.test_what_is_fully_transparent_has_one_color fails if it is).
    fit = fit_palette(NumPyColors(levels[visible], colors.weights[visible]), k - 1, **options)
    palette = np.concatenate([np.zeros((1, 4), levels.dtype), fit.palette])
    labels = np.concatenate([np.zeros(1, np.int32), array_interop.to_numpy(fit.labels) + np.int32(1)])
    return replace(fit, palette=palette, labels=labels)


def without_idle_alpha(colors: Colors) -> Colors:
    """Colors of three channels, if all of four are opaque; else as they are."""
    if colors.channels != 4 or not (colors.levels()[:, 3] == largest_level(colors.dtype)).all():
        return colors
    return NumPyColors(colors.levels()[:, :3], array_interop.to_numpy(colors.weights))
