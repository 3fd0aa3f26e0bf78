"""Palettes of pixels that do not all count alike: by weights, by a map of importance, and by what dithering needs."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from gpukmeans import array_interop
from gpukmeans.engine import devices
from gpukmeans.image.files.read import read
from gpukmeans.image.importance import importance
from gpukmeans.image.levels import Levels, is_grey, largest_level, premultiplied, with_common_channels
from gpukmeans.image.mapping import CountedPicture
from gpukmeans.image.numpy.colors import NumPyColors
from gpukmeans.image.palette.channels import nearest_of, palette_of
from gpukmeans.image.palette.fit import PaletteFit
from gpukmeans.image.picture import ImageError, Picture, on_host, turned

# What undoes EXIF's orientations; the others undo themselves.
_UNDONE = {6: 8, 8: 6}

# How far a color is, in levels of 8 bits, that counts twice in a second fit: somewhat less than a stray dot's 80. With
# less than 16 colors all are farther off, as k^(-1/3).
_FAR, _FAR_OF_FEW = 64, 80

# With fewer colors there are none to spare; with more it is single pixels, and a second fit takes long.
_LEAST_COLORS, _MOST_COLORS = 8, 128

# By what part the squared error of all may rise for those that are far.
_DEARER = 1 / 50


def pixel_weights(
    picture: Picture, n_colors: int, *, weights: ArrayLike | None, map: Any, diffused: bool
) -> NDArray[np.float64] | None:
    """What each pixel counts for a palette of n_colors: (h, w), or (t, h, w) of an animation; None if all count alike.

    weights: the caller's, of that shape. map: of importance, see `quantize`. diffused: whether errors will be.
    """
    if weights is None and map is None and not diffused:
        return None
    if weights is None and map is None:
        return _masking(picture, n_colors)
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
    pixels: NDArray[np.float64],
    counted: CountedPicture,
    k: int,
    *,
    space: str,
    random_state: Any,
    kept: Levels | None,
    diffused: bool = False,
) -> PaletteFit:
    """The palette of pixels that count as much as `pixel_weights` says, and the label of every distinct color.
    diffused: whether errors will be; then it is one that leaves few colors far.

    Colors that weigh nothing have no say in it, and are not lost: they have the colors that are left over, if any are,
    and what is fully transparent stays so.
    """
    with devices.on(counted.device):
        color_of_pixel, colors = counted.color_of_pixel(), counted.colors.levels()
    # Pixels are added in their order, so that the sums have the same bits.
    mass: NDArray[np.float64] = np.bincount(color_of_pixel, pixels.reshape(-1), len(colors)).astype(np.float64)
    options: dict[str, Any] = {"space": space, "random_state": random_state, "device": counted.device}
    if colors.shape[1] == 4:
        # test_importance.test_what_is_transparent_stays_so_under_black fails without.
        mass[~colors.any(axis=1) & (mass == 0)] = mass[mass > 0].min()
    heavy = mass > 0
    fit = palette_of(NumPyColors(colors[heavy], mass[heavy]), k, kept=kept, **options)
    if diffused:
        fit = _reaching_out(fit, colors[heavy], mass[heavy], k, kept=kept, **options)
    if heavy.all():
        return fit
    if len(fit.palette) < k:
        # test_importance.test_what_is_black_has_the_colors_that_are_left_over fails without.
        light = NumPyColors(colors[~heavy], np.bincount(color_of_pixel, minlength=len(colors))[~heavy])
        more = palette_of(light, k, kept=fit.palette, **options)
        fit = replace(fit, palette=more.palette, history=fit.history + more.history)
    with devices.on(counted.device):
        return replace(fit, labels=nearest_of(counted.colors, fit.palette, space))


def _reaching_out(
    fit: PaletteFit, colors: Levels, mass: NDArray[np.float64], k: int, *, kept: Levels | None, **options: Any
) -> PaletteFit:
    """A palette that begins with the one found for colors (m, c) of that mass (m,), with fewer of them far from theirs;
    or that one, if there are none or if all others would pay for them.

    What is far from all colors of the palette is a stray dot, and its error nothing that neighbours could make up for.
    """
    if len(fit.palette) < k or not _LEAST_COLORS <= k <= _MOST_COLORS:
        return fit
    far = (_FAR_OF_FEW if k < 16 else _FAR) * (largest_level(colors.dtype) // 255)
    apart = _errors(colors, fit).max(axis=1) / far
    if apart.max() < 1:
        return fit
    squares = apart * apart
    other = palette_of(NumPyColors(colors, mass * (1 + squares * squares)), k, kept=kept, begin=fit.palette, **options)
    # Sums of floats that are right whatever their order.
    before, after = (math.fsum(mass * (_errors(colors, each) ** 2).sum(axis=1)) for each in (fit, other))
    if after > (1 + _DEARER) * before:
        return fit
    return replace(other, history=fit.history + other.history)


def _errors(colors: Levels, fit: PaletteFit) -> NDArray[np.int64]:
    """How far colors (m, c) are from theirs in each channel as it is seen: (m, 3) or (m, 4)."""
    own, palette = (premultiplied(each).astype(np.int64) for each in with_common_channels(colors, fit.palette))
    return np.abs(own - palette[array_interop.to_numpy(fit.labels)])


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


def _masking(picture: Picture, n_colors: int) -> NDArray[np.float64]:
    """What pixels count where errors are diffused, each frame by itself."""
    if not picture.frames:
        return importance(array_interop.to_numpy(picture.levels), n_colors)
    return np.stack([importance(picture.frame(i).levels, n_colors) for i in range(picture.frames)])
