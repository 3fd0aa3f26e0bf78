"""Palettes of pixels that do not all count alike: by weights, by a map of importance, and by what dithering needs."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from gpukmeans import array_interop
from gpukmeans.engine import devices
from gpukmeans.image.files.read import read
from gpukmeans.image.importance import importance
from gpukmeans.image.levels import Levels, is_grey, largest_level
from gpukmeans.image.mapping import CountedPicture
from gpukmeans.image.numpy.colors import NumPyColors
from gpukmeans.image.palette.channels import nearest_of, palette_of
from gpukmeans.image.palette.fit import PaletteFit
from gpukmeans.image.picture import ImageError, Picture, on_host, turned

# What undoes EXIF's orientations; the others undo themselves.
_UNDONE = {6: 8, 8: 6}


def pixel_weights(
    picture: Picture, n_colors: int, *, weights: ArrayLike | None, map: Any, diffused: bool
) -> NDArray[np.float64] | None:
    """What each pixel counts for a palette of n_colors: (h, w), or (t, h, w) of an animation; None if all count alike.

    weights: the caller's, of that shape. map: of importance, see `quantize`. diffused: whether errors will be.
    """
    if weights is None and map is None and not diffused:
        return None
    shape = _shape(picture)
    given = np.ones(shape) if weights is None else np.asarray(array_interop.to_numpy(weights), np.float64)
    if given.shape != shape:
        raise ValueError(f"weights have the picture's shape {shape}, got {given.shape}.")
    if not (np.isfinite(given).all() and given.min() >= 0 and given.max() > 0):
        raise ValueError("weights must be finite, none negative and at least one above zero.")
    # No sum of these overflows, and none is lost; what weights mean is their ratios.
    exponent = int(np.frexp(given.max())[1])
    if not -100 < exponent < 100:
        given = np.ldexp(given, -exponent)
    if map is not None:
        given = given * _shares(map, picture)
        if not given.any():
            raise ImageError("no pixel counts: where the map of importance is not black, weights are zero.")
    if diffused:
        given = given * _masking(picture, n_colors)
    return given


def weighted_palette(
    pixels: NDArray[np.float64], counted: CountedPicture, k: int, *, space: str, random_state: Any, kept: Levels | None
) -> PaletteFit:
    """The palette of pixels that count as much as `pixel_weights` says, and the label of every distinct color.

    Colors that weigh nothing have no say in it, and are not lost: they have the colors that are left over, if any are,
    and what is fully transparent stays so.
    """
    with devices.on(counted.device):
        color_of_pixel, colors = counted.color_of_pixel(), counted.colors.levels()
    # Pixels are added in their order, so that the sums have the same bits.
    mass = np.bincount(color_of_pixel, pixels.reshape(-1), len(colors))
    options: dict[str, Any] = {"space": space, "random_state": random_state, "device": counted.device}
    if colors.shape[1] == 4:
        # test_importance.test_what_is_transparent_stays_so_under_black fails without.
        mass[~colors.any(axis=1) & (mass == 0)] = mass[mass > 0].min()
    heavy = mass > 0
    if heavy.all():
        return palette_of(NumPyColors(colors, mass), k, kept=kept, **options)
    fit = palette_of(NumPyColors(colors[heavy], mass[heavy]), k, kept=kept, **options)
    if len(fit.palette) < k:
        # test_importance.test_what_is_black_has_the_colors_that_are_left_over fails without.
        light = NumPyColors(colors[~heavy], np.bincount(color_of_pixel, minlength=len(colors))[~heavy])
        more = palette_of(light, k, kept=fit.palette, **options)
        fit = replace(fit, palette=more.palette, history=fit.history + more.history)
    with devices.on(counted.device):
        return replace(fit, labels=nearest_of(counted.colors, fit.palette, space))


def read_map(source: Any) -> Picture:
    """A map of importance: a grey picture. ImageError for any other, OSError if it cannot be read."""
    if isinstance(source, np.ndarray) and source.dtype == bool:
        source = source * np.uint8(255)
    picture = on_host(read(source))
    if picture.shape[2] == 4:
        raise ImageError("a map of importance is grey and opaque, and this one has transparent pixels: flatten it.")
    if picture.shape[2] == 3 and not is_grey(picture.levels.reshape(-1, 3)):
        raise ImageError("a map of importance is grey, from black to white, and this one has colors.")
    return picture


def _shares(map: Any, picture: Picture) -> NDArray[np.float64]:
    """From 0 for black to 1 for white, of the picture's shape."""
    found = read_map(map)
    levels, shape = found.levels[..., 0], _shape(picture)
    if found.frames:
        levels = levels.reshape(found.frames, -1, levels.shape[1])
    else:
        # Both as they are seen, which is how the map was drawn
        # (test_importance.test_a_map_is_laid_over_the_picture_as_it_is_seen fails without).
        levels = turned(levels, found.metadata.orientation or 1)
        own = picture.metadata.orientation or 1
        levels = turned(levels, _UNDONE.get(own, own))
    if levels.shape not in (shape, shape[-2:]):
        raise ImageError(
            f"a map of importance is as large as the picture, {_size(shape)} pixels, and this one has "
            f"{_size(levels.shape)}."
        )
    return levels / largest_level(levels.dtype)


def _size(shape: tuple[int, ...]) -> str:
    frames = f", {shape[0]} frames of them" if len(shape) == 3 else ""
    return f"{shape[-1]} x {shape[-2]}{frames}"


def _shape(picture: Picture) -> tuple[int, ...]:
    h, w = picture.shape[:2]
    return (picture.frames, h // picture.frames, w) if picture.frames else (h, w)


def _masking(picture: Picture, n_colors: int) -> NDArray[np.int64]:
    """What pixels count where errors are diffused, each frame by itself."""
    if not picture.frames:
        return importance(array_interop.to_numpy(picture.levels), n_colors)
    return np.stack([importance(picture.frame(i).levels, n_colors) for i in range(picture.frames)])
