"""Reducing a picture to a palette: quantize, and remap onto a palette that is given."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from gpukmeans import array_interop
from gpukmeans.engine import devices
from gpukmeans.image import dispatch
from gpukmeans.image import dither as dithering
from gpukmeans.image.color_space import SPACES, Levels
from gpukmeans.image.files import write
from gpukmeans.image.files.read import ImageError, Picture, on_host, premultiplied, read
from gpukmeans.image.numpy.colors import Colors, NumPyColors, with_alpha
from gpukmeans.image.numpy.pixels import IndexedPixels, NumPyPixels, Pixels, Tally, index_dtype, unpack
from gpukmeans.image.palette import fit as palettes
from gpukmeans.image.palette.fit import Found
from gpukmeans.image.result import Quantized

MOST_COLORS = 65536


def quantize(
    image: Any,
    n_colors: int = 256,
    *,
    space: str = "oklab",
    dither: str = "none",
    weights: ArrayLike | None = None,
    random_state: int | np.random.RandomState | None = 0,
    device: str = "auto",
) -> Quantized:
    """Reduce a picture to a palette of its own, by k-means.

    Parameters
    ----------
    image : path, binary file, bytes, PIL.Image.Image, or array-like of shape (h, w), (h, w, 3) or (h, w, 4)
        Arrays are uint8, uint16 or float in [0, 1], in sRGB. Files need Pillow. Opaque arrays of uint8 on a GPU
        (CuPy's, torch's, or of anybody who speaks DLPack) stay there, as do their distinct colors, and only what grows
        with n_colors crosses the bus; weights and Floyd-Steinberg's dithering need the pixels on the host.
    n_colors : int, default=256
        The most colors, 1 to 65,536; up to 256 fit the files' palettes and one byte a pixel.
    space : {"oklab", "rgb"}, default="oklab"
        Where distances are measured: "oklab" lessens the error that is seen, "rgb" the squared error of levels.
    dither : {"none", "floyd-steinberg", "bayer", "blue-noise"}, default="none"
        How neighbours make up for a pixel's error; see `gpukmeans.image.dither`.
    weights : array-like of shape (h, w), default=None
        How much each pixel counts for the palette, none negative. A whole number is that many copies of the pixel.
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
        For what is no picture; a ValueError.
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
    check(n_colors, space, dither)
    picture, device = _opened(image, device)

    def reduce(device: str) -> Quantized:
        held = _held(picture, device)
        counted = _counted(held, device)
        if weights is None:
            found = cluster(counted.colors, n_colors, space, random_state, device)
        else:
            found = _weighted(weights, held, counted, n_colors, space, random_state, device)
        return _mapped(held, counted, found, dither, device)

    return _returned(image, devices.where_it_fits(reduce, device, random_state))


def remap(
    image: Any, palette: ArrayLike, *, space: str = "oklab", dither: str = "none", device: str = "auto"
) -> Quantized:
    """Map a picture onto a given palette: the nearest color for each pixel.

    Parameters
    ----------
    image : as for `quantize`
    palette : array-like of shape (k, 3) or (k, 4), uint8
    space, dither, device : as for `quantize`

    Returns
    -------
    quantized : Quantized
        Its palette is the one given, in its order.

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
    check(len(given), space, dither)
    picture, device = _opened(image, device)

    def map_onto(device: str) -> Quantized:
        held = _held(picture, device)
        counted = _counted(held, device)
        colors = counted.colors
        like = given if colors.dtype == np.uint8 else given.astype(np.uint16) * np.uint16(257)
        with devices.on(device):
            found = Found(like, colors.nearest(like, space), True)
        return _mapped(held, counted, found, dither, device)

    return _returned(image, devices.where_it_fits(map_onto, device))


def common_palette(
    pictures: Iterable[Picture], n_colors: int, *, space: str, random_state: Any, device: str
) -> tuple[Levels, bool]:
    """One palette for several pictures, as if they were one; and whether it is a fixed point. 8 bits a channel."""
    tally = Tally(4)
    for picture in pictures:
        levels = write.eight_bit(picture.pixels) if picture.table is None else picture.table[None]
        own = np.full((*levels.shape[:2], 4), 255, np.uint8)
        own[..., : 4 if levels.shape[2] == 4 else 3] = levels
        own = own.reshape(-1, 4)
        pixels = NumPyPixels(own) if picture.table is None else IndexedPixels(picture.pixels.reshape(-1), own)
        tally.add(*pixels.count())
    if tally.empty:
        raise ImageError("there is no picture to take the colors from.")
    codes, counts = tally.result()
    colors = unpack(codes, 4)
    opaque = bool((colors[:, 3] == 255).all())
    held = NumPyColors(colors[:, :3] if opaque else colors, counts)
    found = devices.where_it_fits(
        lambda device: cluster(held, n_colors, space, random_state, device), devices.resolve(device), random_state
    )
    return found.palette, found.converged


def check(n_colors: Any, space: str, dither: str) -> None:
    """Raise ValueError, or TypeError, for parameters out of range."""
    if not isinstance(n_colors, (int, np.integer)) or isinstance(n_colors, bool):
        raise TypeError(f"n_colors must be an integer, got {n_colors!r}.")
    if not 1 <= n_colors <= MOST_COLORS:
        raise ValueError(f"n_colors must be from 1 to {MOST_COLORS:,}, got {n_colors}.")
    if space not in SPACES:
        raise ValueError(f"space must be one of {SPACES}, got {space!r}.")
    if dither not in dithering.DITHERS:
        raise ValueError(f"dither must be one of {dithering.DITHERS}, got {dither!r}.")


def _opened(image: Any, device: str) -> tuple[Picture, str]:
    """The picture and the device; levels stay on a GPU that is the device, if its kernels take them."""
    picture = read(image)
    there = array_interop.gpu_of(picture.pixels)
    device = devices.resolve(device, near=there)
    if there is None or device != f"cuda:{there}":
        return on_host(picture), device
    if picture.shape[2] == 4:
        try:
            levels = dispatch.opaque(picture.pixels)
        except MemoryError:  # then there is none for the picture either
            levels = None
        return on_host(picture) if levels is None else replace(picture, pixels=levels), device
    return picture, device


def _held(picture: Picture, device: str) -> Picture:
    """The picture for work on the device."""
    return on_host(picture) if device == "cpu" else picture


def _returned(image: Any, result: Quantized) -> Quantized:
    """With indices of the image's kind, if it is an array's."""
    is_array = not isinstance(image, Picture) and (hasattr(image, "__dlpack_device__") or array_interop.on_a_gpu(image))
    return replace(result, indices=array_interop.convert_like(image, result.indices)) if is_array else result


class _Counted(NamedTuple):
    """A picture's pixels and colors, with the colors' codes."""

    pixels: Pixels
    codes: Any
    colors: Colors


def _counted(picture: Picture, device: str) -> _Counted:
    h, w, c = picture.shape
    with devices.on(device):
        if picture.table is None:
            pixels = dispatch.make_pixels(picture.pixels.reshape(h * w, c), device=device)
        else:  # bytes, which are counted here before they are on a GPU
            pixels = IndexedPixels(picture.pixels.reshape(-1), picture.table)
        codes, counts = pixels.count()
        return _Counted(pixels, codes, dispatch.make_colors(codes, counts, c, h * w, device=device))


def _weighted(
    weights: ArrayLike, picture: Picture, counted: _Counted, k: int, space: str, random_state: Any, device: str
) -> Found:
    """The palette, and the label of every distinct color, also of those that weigh nothing."""
    given = np.asarray(array_interop.to_numpy(weights), np.float64)
    if given.shape != picture.shape[:2]:
        raise ValueError(f"weights have the picture's shape {picture.shape[:2]}, got {given.shape}.")
    if not (np.isfinite(given).all() and given.min() >= 0 and given.max() > 0):
        raise ValueError("weights must be finite, none negative and at least one above zero.")
    with devices.on(device):
        place = array_interop.to_numpy(_places(counted))
        colors = counted.colors.levels()
    # No sum of these overflows, and none is lost; what weights mean is their ratios.
    exponent = int(np.frexp(given.max())[1])
    if not -100 < exponent < 100:
        given = np.ldexp(given, -exponent)
    # Pixels are added in their order, so that the sums have the same bits.
    mass = np.bincount(place, given.reshape(-1), len(colors))
    kept = mass > 0
    if kept.all():
        return cluster(NumPyColors(colors, mass), k, space, random_state, device)
    found = cluster(NumPyColors(colors[kept], mass[kept]), k, space, random_state, device)
    with devices.on(device):
        return replace(found, labels=counted.colors.nearest(found.palette, space))


def _places(counted: _Counted) -> Any:
    """For each pixel the place of its color among the distinct ones, (n,) int32."""
    return counted.pixels.map(counted.codes, np.arange(len(counted.colors), dtype=np.int32), np.int32)


def cluster(colors: Colors, k: int, space: str, random_state: Any, device: str) -> Found:
    """The palette (j, 3) or (j, 4), j at most k, of distinct colors."""
    k = int(k)
    options: dict[str, Any] = {"space": space, "random_state": random_state, "device": device}
    greys = int(np.iinfo(colors.dtype).max) + 1
    if colors.channels == 3 and len(colors) <= greys and _grey(colors.levels()):
        # Grey stays grey, and is one dimension.
        colors = NumPyColors(colors.levels()[:, :1], array_interop.to_numpy(colors.weights))
    if colors.channels == 1:
        found = palettes.find(colors, k, **options)
        return replace(found, palette=np.repeat(found.palette, 3, axis=1))
    if colors.channels == 3 or k == 1 or len(colors) == 1:
        return palettes.find(colors, k, **options)
    levels = colors.levels()
    clear = levels.any(axis=1)
    if clear.all():
        return palettes.find(colors, k, **options)
    # What is fully transparent has one code, all zeros, the least of all: it is color 0, and not clustered.
    found = palettes.find(NumPyColors(levels[clear], colors.weights[clear]), k - 1, **options)
    palette = np.concatenate([np.zeros((1, 4), levels.dtype), found.palette])
    labels = np.concatenate([np.zeros(1, np.int32), array_interop.to_numpy(found.labels) + np.int32(1)])
    return replace(found, palette=palette, labels=labels)


def _mapped(picture: Picture, counted: _Counted, found: Found, dither: str, device: str) -> Quantized:
    shape, own = picture.shape[:2], np.empty((0, picture.shape[2]), found.palette.dtype)
    _, palette = with_alpha(own, found.palette)
    seen = palette.shape[1]
    with devices.on(device):
        if dither == "none":
            indices = counted.pixels.map(counted.codes, found.labels, index_dtype(len(palette))).reshape(shape)
            error = counted.colors.error(palette, found.labels)
        else:
            indices, error = _dithered(picture, counted, premultiplied(palette), dither)
    top = int(np.iinfo(palette.dtype).max)
    channels = picture.channels
    if (channels < 3 and not _grey(palette)) or seen == 4:
        channels = seen  # a given palette may have what the picture had not
    values = indices.size * (1 if channels < 3 else seen)
    error = error // 3 if channels < 3 else error  # three equal channels stand for one
    psnr = float("inf") if error == 0 else float(10 * np.log10(values * top**2 / error))
    return Quantized(
        palette,
        indices,
        psnr,
        found.converged,
        found.history,
        picture.metadata,
        channels,
        picture.dtype,
    )


def _dithered(picture: Picture, counted: _Counted, shown: Levels, dither: str) -> tuple[NDArray[Any], int]:
    """Indices (h, w), and the sum of squared errors. shown: the palette as it is seen."""
    h, w, c = picture.shape
    levels = picture.levels
    clear = np.flatnonzero(~shown.any(axis=1)) if shown.shape[1] == 4 else np.empty(0, np.int64)
    still = np.asarray(levels[..., 3] == 0) if c == 4 and len(clear) else None
    held, entries = counted.pixels, shown
    if shown.shape[1] == c == 3:
        own = levels
    elif c == 1 and _grey(shown):
        own, entries = levels, shown[:, :1]
    else:
        colors = premultiplied(with_alpha(counted.colors.levels(), shown)[0])
        own = colors[array_interop.to_numpy(_places(counted))].reshape(h, w, -1)
        held = NumPyPixels(own.reshape(h * w, -1))
    if dither == "floyd-steinberg":
        at = int(clear[0]) if len(clear) else 0
        indices = dithering.floyd_steinberg(
            np.ascontiguousarray(array_interop.to_numpy(own)), entries, still, at
        ).reshape(-1)
    else:
        indices = held.dither(dithering.offsets(dither, entries), w, entries)
        if still is not None:
            indices[still.reshape(-1)] = clear[0]
    error = held.error(entries, indices) * (3 if entries.shape[1] == 1 else 1)  # one channel stands for three
    return indices.reshape(h, w), error


def _grey(levels: Levels) -> bool:
    return levels.shape[1] == 3 and bool((levels[:, :1] == levels).all())
