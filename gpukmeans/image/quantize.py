"""Reducing a picture to a palette: quantize, and remap onto a palette that is given."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from numbers import Real
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from gpukmeans import array_interop
from gpukmeans.engine import devices
from gpukmeans.image import dispatch
from gpukmeans.image.color_space import SPACE_CHOICES, space_for
from gpukmeans.image.dither import DITHERS
from gpukmeans.image.files.read import read
from gpukmeans.image.levels import MOST_COLORS, Levels, to_8_bit, to_16_bit, to_rgba, unpack
from gpukmeans.image.mapping import CountedPicture
from gpukmeans.image.numpy.colors import NumPyColors
from gpukmeans.image.numpy.histogram import Histogram
from gpukmeans.image.numpy.pixels import IndexedPixels, NumPyPixels
from gpukmeans.image.palette.channels import onto_given, palette_of, without_idle_alpha
from gpukmeans.image.palette.fit import PaletteFit
from gpukmeans.image.picture import ImageError, Picture, on_host
from gpukmeans.image.result import Quantized
from gpukmeans.image.weighting import pixel_weights, weighted_palette
from gpukmeans.threads import unflagged


@unflagged()
def quantize(
    image: Any,
    n_colors: int = 256,
    *,
    space: str = "auto",
    dither: str = "none",
    dither_strength: float = 1.0,
    weights: ArrayLike | None = None,
    importance: Any = None,
    keep: ArrayLike | None = None,
    random_state: int | np.random.RandomState | None = 0,
    device: str = "auto",
) -> Quantized:
    """Reduce a picture to a palette of its own, by k-means.

    Parameters
    ----------
    image : path, binary file, bytes, PIL.Image.Image, or array-like of shape (h, w), (h, w, 3), (h, w, 4), (t, h, w, c)
        The last is an animation, as is a GIF, PNG or WebP file with several frames: one palette is for all of them, and
        a pixel that does not change keeps its index, also where it is dithered. Arrays are uint8, uint16 or float in
        [0, 1], in sRGB. Files need Pillow. Opaque arrays of uint8 on a GPU (CuPy's, torch's, or of anybody who speaks
        DLPack) stay there, as do their distinct colors, and only what grows with n_colors crosses the bus; weights,
        animations and Floyd-Steinberg's dithering need the pixels on the host.
    n_colors : int, default=256
        The most colors, 1 to 65,536; up to 256 fit the files' palettes and one byte a pixel.
    space : {"auto", "oklab", "rgb", "ycbcr"}, default="auto"
        Where distances are measured: "oklab" lessens the error that is seen, "rgb" the squared error of levels;
        "ycbcr" is meant for error diffusion. "auto" is "ycbcr" with dither="floyd-steinberg" and fewer than 48 or more
        than 192 colors, and else "oklab".
    dither : {"none", "floyd-steinberg", "bayer", "blue-noise"}, default="none"
        How neighbours make up for a pixel's error: by error diffusion (`gpukmeans.image.diffusion`), or by choosing
        between two colors as a pattern says (`gpukmeans.image.ordered`).
    dither_strength : float, default=1
        0 to 1: how much of it is done; 0 leaves each pixel the nearest color, as levels.
    weights : array-like of shape (h, w), default=None
        How much each pixel counts for the palette, none negative. A whole number is that many copies of the pixel.
        With dither="floyd-steinberg" pixels within texture count less besides (`gpukmeans.image.importance`), and those
        that would become stray dots more. Pixels that count nothing take the nearest colors, and have what the others
        leave over of n_colors.
    importance : path, binary file, bytes, PIL.Image.Image, or array-like of shape (h, w), default=None
        The same as a grey picture, as large as the image: from black, which counts nothing, to white, which counts in
        full; an array may also be of bool. Both multiply. Of an animation it is for all frames, or has as many.
    keep : array-like of shape (f, 3) or (f, 4), uint8, default=None
        Distinct colors that the palette begins with, whether or not a pixel has them; the others, n_colors in all, are
        found around them.
    random_state : int, RandomState instance or None, default=0
        The seed of k-means++.
    device : str, default="auto"
        See `KMeans`. The result is the same on all.

    Returns
    -------
    quantized : Quantized
        Its `indices` are an array of the image's library, on the same device, where that was an array.

    Raises
    ------
    ImageError
        For what is no picture, and for an importance that is not grey or not as large; a ValueError.
    ValueError
        For parameters out of range.
    OSError
        For a file that cannot be read.
    DeviceError
        If the device asked for cannot be used.

    Examples
    --------
    >>> import numpy as np
    >>> import gpukmeans
    >>> result = gpukmeans.quantize(np.array([[0, 4, 250, 252]], np.uint8), 2, space="rgb")
    >>> result.to_array().tolist(), result.converged
    ([[2, 2, 251, 251]], True)
    """
    check_parameters(n_colors, space, dither, dither_strength)
    space = space_for(space, dither, n_colors)
    picture, device = _read_onto(image, device)
    kept = None if keep is None else _kept(keep, n_colors)
    # test_quantize.test_a_palette_that_is_dithered_has_more_of_smooth_parts fails if none is said to be diffused.
    diffused = dither == "floyd-steinberg"
    pixels = pixel_weights(picture, n_colors, weights=weights, map=importance, diffused=diffused)

    def reduce(device: str) -> Quantized:
        counted = CountedPicture(picture, device=device, palette_channels=3 if kept is None else kept.shape[1])
        held = kept if kept is None or counted.colors.dtype == np.uint8 else to_16_bit(kept)
        how: dict[str, Any] = {"space": space, "random_state": random_state, "kept": held}
        if pixels is None:
            fit = palette_of(counted.colors, n_colors, device=device, **how)
        else:
            fit = weighted_palette(pixels, counted, n_colors, diffused=diffused, **how)
        return counted.mapped(fit, space, dither, dither_strength)

    return _as_given(image, devices.where_it_fits(reduce, device, random_state))


@unflagged()
def remap(
    image: Any,
    palette: ArrayLike,
    *,
    space: str = "auto",
    dither: str = "none",
    dither_strength: float = 1.0,
    device: str = "auto",
) -> Quantized:
    """Map a picture onto a given palette: the nearest color for each pixel.

    Parameters
    ----------
    image : as for `quantize`
    palette : array-like of shape (k, 3) or (k, 4), uint8
    space, dither, dither_strength, device : as for `quantize`

    Returns
    -------
    quantized : Quantized
        Its palette is the one given, in its order; and after it a transparent entry, if the picture has pixels that
        are nearer to that than to any color given, and none was given.

    Examples
    --------
    >>> import numpy as np
    >>> import gpukmeans
    >>> picture = np.array([[[250, 10, 0], [0, 0, 90]]], np.uint8)
    >>> gpukmeans.remap(picture, np.array([[0, 0, 255], [255, 0, 0]], np.uint8)).indices.tolist()
    [[1, 0]]
    """
    given = np.asarray(array_interop.to_numpy(palette))
    if given.dtype != np.uint8 or given.ndim != 2 or given.shape[1] not in (3, 4) or not 0 < len(given) <= MOST_COLORS:
        raise ValueError(
            f"a palette is an array (k, 3) or (k, 4) of uint8 with 1 to {MOST_COLORS:,} colors, "
            f"got {given.dtype} {given.shape}."
        )
    check_parameters(len(given), space, dither, dither_strength)
    space = space_for(space, dither, len(given))
    picture, device = _read_onto(image, device)

    def map_onto(device: str) -> Quantized:
        counted = CountedPicture(picture, device=device, palette_channels=given.shape[1])
        levels = given if counted.colors.dtype == np.uint8 else to_16_bit(given)
        with devices.on(device):
            fit = onto_given(counted.colors, levels, space)
        return counted.mapped(fit, space, dither, dither_strength)

    return _as_given(image, devices.where_it_fits(map_onto, device))


def common_palette(
    pictures: Iterable[Picture], n_colors: int, *, space: str, random_state: Any, device: str
) -> tuple[Levels, bool]:
    """One palette for several pictures, as if they were one; and whether it is a fixed point. 8 bits a channel."""
    histogram = Histogram(4)
    for picture in pictures:
        if picture.table is None:
            pixels: Any = NumPyPixels(to_rgba(to_8_bit(picture.pixels)).reshape(-1, 4))
        else:
            pixels = IndexedPixels(picture.pixels.reshape(-1), to_rgba(picture.table))
        histogram.add(*pixels.count())
    if histogram.empty:
        raise ImageError("there is no picture to take the colors from.")
    codes, counts = histogram.result()
    colors = without_idle_alpha(NumPyColors(unpack(codes, 4), counts))

    def fit(device: str) -> PaletteFit:
        return palette_of(colors, n_colors, space=space, random_state=random_state, device=device)

    found = devices.where_it_fits(fit, devices.resolve(device), random_state)
    return found.palette, found.converged


def check_parameters(n_colors: Any, space: str, dither: str, dither_strength: float = 1.0) -> None:
    """Raise ValueError, or TypeError, for parameters out of range."""
    if not isinstance(n_colors, (int, np.integer)) or isinstance(n_colors, bool):
        raise TypeError(f"n_colors must be an integer, got {n_colors!r}.")
    if not 1 <= n_colors <= MOST_COLORS:
        raise ValueError(f"n_colors must be from 1 to {MOST_COLORS:,}, got {n_colors}.")
    if space not in SPACE_CHOICES:
        raise ValueError(f"space must be one of {SPACE_CHOICES}, got {space!r}.")
    if dither not in DITHERS:
        raise ValueError(f"dither must be one of {DITHERS}, got {dither!r}.")
    if not isinstance(dither_strength, Real) or isinstance(dither_strength, bool):
        raise TypeError(f"dither_strength must be a number, got {dither_strength!r}.")
    if not 0 <= dither_strength <= 1:  # false for NaN too
        raise ValueError(f"dither_strength must be from 0 to 1, got {dither_strength}.")


def _read_onto(image: Any, device: str) -> tuple[Picture, str]:
    """The picture and the device; levels stay on a GPU that is the device, if its kernels take them."""
    picture = read(image)
    gpu = array_interop.gpu_of(picture.pixels)
    device = devices.resolve(device, near=gpu)
    if gpu is None or device != f"cuda:{gpu}":
        return on_host(picture), device
    if picture.shape[2] == 4:
        try:
            levels = dispatch.opaque(picture.pixels)
        except MemoryError:  # then there is none for the picture either
            levels = None
        return on_host(picture) if levels is None else replace(picture, pixels=levels), device
    return picture, device


def _as_given(image: Any, result: Quantized) -> Quantized:
    """With indices of the image's kind, if it is an array's."""
    is_array = not isinstance(image, Picture) and (hasattr(image, "__dlpack_device__") or array_interop.on_a_gpu(image))
    return replace(result, indices=array_interop.convert_like(image, result.indices)) if is_array else result


def _kept(keep: ArrayLike, n_colors: int) -> Levels:
    """(f, 3), or (f, 4) if not all are opaque."""
    given = np.asarray(array_interop.to_numpy(keep))
    if given.dtype != np.uint8 or given.ndim != 2 or given.shape[1] not in (3, 4) or not 0 < len(given) <= n_colors:
        raise ValueError(
            f"keep is an array (f, 3) or (f, 4) of uint8 with 1 to n_colors={n_colors} colors, got {given.dtype} "
            f"{given.shape}."
        )
    if len(np.unique(given, axis=0)) < len(given):
        raise ValueError("keep has a color twice.")
    return given[:, :3] if given.shape[1] == 4 and (given[:, 3] == 255).all() else given
