"""The palette of colors of any kind: greys in one dimension, and the fully transparent color apart."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np

from gpukmeans import array_interop
from gpukmeans.image.color_space import to_points
from gpukmeans.image.levels import MOST_COLORS, Levels, is_grey, largest_level, to_rgb, to_rgba, with_common_channels
from gpukmeans.image.numpy.colors import NumPyColors
from gpukmeans.image.palette.fit import PaletteFit, fit_palette
from gpukmeans.image.picture import ImageError
from gpukmeans.image.protocol import Colors


def palette_of(
    colors: Colors,
    k: int,
    *,
    space: str,
    random_state: Any,
    device: str,
    kept: Levels | None = None,
    begin: Levels | None = None,
) -> PaletteFit:
    """The palette (j, 3) or (j, 4), j at most k, of distinct colors of 1, 3 or 4 channels.

    kept: (f, 3) or (f, 4) distinct colors of their dtype, at most k, which come first and stay as they are. begin: a
    palette of k colors that was found so for the same colors, of other weights, and is to be begun with.

    Examples
    --------
    >>> greys = NumPyColors(np.array([[0], [2], [200]], np.uint8), np.array([1, 1, 1]))
    >>> palette_of(greys, 2, space="rgb", random_state=0, device="cpu").palette.tolist()
    [[1, 1, 1], [200, 200, 200]]
    """
    k = int(k)
    options: dict[str, Any] = {"space": space, "random_state": random_state, "device": device}
    if kept is not None and len(kept):
        own, kept = with_common_channels(colors.levels(), kept)
        if own.shape[1] != colors.channels:
            colors = NumPyColors(own, array_interop.to_numpy(colors.weights))
        options["kept"] = kept
    greys = largest_level(colors.dtype) + 1
    if colors.channels == 3 and kept is None and len(colors) <= greys and is_grey(colors.levels()):
        # Grey stays grey, and is one dimension (test_quantize.test_more_colors_than_there_are fails if other colors are
        # taken for grey).
        colors = NumPyColors(colors.levels()[:, :1], array_interop.to_numpy(colors.weights))
    if begin is not None:
        options["init"] = to_points(begin[:, : colors.channels], space).astype(np.float64)
    if colors.channels == 1:
        fit = fit_palette(colors, k, **options)
        return replace(fit, palette=to_rgb(fit.palette))
    if colors.channels == 3 or k == 1 or len(colors) == 1:
        return fit_palette(colors, k, **options)
    levels = colors.levels()
    visible = levels.any(axis=1)
    clear = np.zeros((1, 4), levels.dtype)
    if visible.all() or (kept is not None and not kept.any(axis=1).all()):
        return fit_palette(colors, k, **options)
    # What is fully transparent has one code, all zeros, the least of all: it is color 0, and no other color makes room
    # for it (test_quantize.test_what_is_fully_transparent_has_one_color fails if it is found as the others are).
    if kept is not None:
        if len(kept) == k:
            raise ImageError(
                f"the picture's transparent pixels need one of the {k} colors: keep fewer, or ask for more."
            )
        return fit_palette(colors, k, **options | {"kept": np.concatenate([kept, clear])})
    seen = NumPyColors(levels[visible], colors.weights[visible])
    fit = fit_palette(seen, k - 1, **options | ({} if begin is None else {"init": options["init"][1:]}))
    if len(seen) < k:
        labels = np.concatenate([np.zeros(1, np.int32), array_interop.to_numpy(fit.labels) + np.int32(1)])
        return replace(fit, palette=np.concatenate([clear, fit.palette]), labels=labels)
    # Then faint colors choose, too: some are nearer to nothing
    # (test_quantize.test_faint_colors_are_the_nearest_of_palette_and_nothing fails of the palette as it is).
    centers = np.concatenate([clear, fit.palette])
    again = fit_palette(colors, k, **options | {"kept": clear, "init": to_points(centers, space).astype(np.float64)})
    labels = _opaque_as_such(colors, again.palette, again.labels, space)
    return replace(again, labels=labels, history=fit.history + again.history)


def onto_given(colors: Colors, given: Levels, space: str) -> PaletteFit:
    """A given palette (k, 3) or (k, 4) of the colors' dtype, and the nearest of it for each; and at its end a
    transparent entry, if it has none and that is the nearest for a color that is not opaque."""
    if colors.channels == 4 and len(given) < MOST_COLORS and not (given.shape[1] == 4 and (given[:, 3] == 0).any()):
        more = np.concatenate([to_rgba(given), np.zeros((1, 4), given.dtype)])
        labels = _opaque_as_such(colors, more, array_interop.to_numpy(colors.nearest(more, space)), space)
        if (labels == len(given)).any():
            return PaletteFit(more, labels, True)
    return PaletteFit(given, nearest_of(colors, given, space), True)


def nearest_of(colors: Colors, palette: Levels, space: str) -> Any:
    """The label of the nearest color of a palette (k, 3) or (k, 4) for each: (m,) int32."""
    labels = colors.nearest(palette, space)
    return _opaque_as_such(colors, palette, labels, space) if palette.shape[1] == 4 else labels


def _opaque_as_such(colors: Colors, palette: Levels, labels: Any, space: str) -> Any:
    """The labels, but of opaque colors that are labelled as transparent the nearest of those entries that are not: few
    entries may all be farther from a color than nothing is, and no opaque picture is to have holes
    (test_quantize.test_what_is_opaque_never_becomes_transparent fails of the labels as they are)."""
    seen = np.flatnonzero(palette[:, 3])
    labels = array_interop.to_numpy(labels)
    own = to_rgba(colors.levels())
    wrong = (own[:, 3] == largest_level(own.dtype)) & (palette[labels, 3] == 0)
    if len(seen) == 0 or not wrong.any():
        return labels
    labels = labels.copy()
    labels[wrong] = seen[NumPyColors(own[wrong], np.ones(np.count_nonzero(wrong))).nearest(palette[seen], space)]
    return labels


def without_idle_alpha(colors: Colors) -> Colors:
    """Colors of three channels, if all of four are opaque; else as they are."""
    if colors.channels != 4 or not (colors.levels()[:, 3] == largest_level(colors.dtype)).all():
        return colors
    return NumPyColors(colors.levels()[:, :3], array_interop.to_numpy(colors.weights))
