"""Pictures larger than memory: counted in one pass over bands of rows, mapped and written in a second.

Only the counts of colors are held between the passes: 128 MB for all of 8 bits, and what clustering takes, which grows
with the number of distinct colors and not with that of pixels.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from gpukmeans import array_interop
from gpukmeans.engine import devices
from gpukmeans.image import dispatch
from gpukmeans.image.color_space import space_for
from gpukmeans.image.files.bands import Bands, read_bands
from gpukmeans.image.files.tiled_tiff_writer import write_tiled
from gpukmeans.image.files.write import is_tiff
from gpukmeans.image.levels import Codes, Levels, index_dtype, premultiplied, psnr, to_rgba, with_common_channels
from gpukmeans.image.numpy.histogram import Histogram
from gpukmeans.image.ordered import ordered
from gpukmeans.image.palette.channels import onto_given, palette_of, without_idle_alpha
from gpukmeans.image.patterns import pattern_of
from gpukmeans.image.picture import ImageError
from gpukmeans.image.protocol import Pixels
from gpukmeans.image.quantize import check_parameters
from gpukmeans.threads import flagged, unflagged


@dataclass(frozen=True)
class WrittenPicture:
    """palette: (k, 3) or (k, 4) uint8. psnr, converged: as in Quantized; psnr None if dithered."""

    palette: Levels
    width: int
    height: int
    psnr: float | None
    converged: bool


@unflagged()
def quantize_file(
    source: str | os.PathLike[str] | NDArray[Any],
    target: str | os.PathLike[str],
    n_colors: int = 256,
    *,
    space: str = "auto",
    dither: str = "none",
    dither_strength: float = 1.0,
    palette: ArrayLike | None = None,
    random_state: int | np.random.RandomState | None = 0,
    device: str = "auto",
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> WrittenPicture:
    """`quantize`, or `remap` onto a palette, from file to file, for pictures of any size.

    Parameters
    ----------
    source : path or array (h, w), (h, w, 3) or (h, w, 4)
        A picture's file, a .npy file, or an array such as a memory map.
    target : path
        A .tif or .tiff file, tiled; written whole or not at all. With a palette of up to 256 opaque colors, and else
        with their red, green, blue and alpha.
    n_colors, space, palette, random_state, device : as for `quantize` and `remap`
    dither : {"none", "bayer", "blue-noise"}, default="none"
        Error diffusion is not done in bands.
    dither_strength : as for `quantize`
    progress : callable
        ``progress(done, total)`` is called with the number of rows read so far in both passes.

    Returns
    -------
    written : WrittenPicture

    Raises
    ------
    ImageError, ValueError, OSError, DeviceError
        As `quantize` does; ImageError also for what such a file cannot hold.
    ImportError
        Without pyvips or tifffile.

    Notes
    -----
    Pictures of more than 8 bits a channel are rounded to 8 first. Memory grows with the distinct colors: a TIFF of
    46,336 x 46,336 pixels took 0.97 GB at its peak, a picture with all 2**24 colors 1.0 GB
    (benchmarks/picture_memory.py).
    """
    check_parameters(n_colors, space, dither, dither_strength)
    space = space_for(space, dither, n_colors)
    check_target(target, dither)
    given = None if palette is None else np.asarray(palette, np.uint8)

    def reduce(device: str) -> WrittenPicture:
        bands = read_bands(source)

        def tell(rows: int) -> None:
            with flagged():
                progress(rows, 2 * bands.height)

        codes, counts = _count(bands, device, tell)
        with devices.on(device):
            pixels, palette_channels = bands.width * bands.height, 3 if given is None else given.shape[1]
            colors = without_idle_alpha(
                dispatch.make_colors(
                    codes, counts, bands.channels, pixels, device=device, palette_channels=palette_channels
                )
            )
        if given is None:
            fit = palette_of(colors, n_colors, space=space, random_state=random_state, device=device)
        else:
            with devices.on(device):
                fit = onto_given(colors, given, space)
        table = to_rgba(fit.palette) if colors.channels == 4 else fit.palette
        if dither == "none":
            with devices.on(device):
                error = psnr(colors.error(table, fit.labels), pixels * table.shape[1], 255)
            map_band = _map_by_label(codes, fit.labels, len(table), device)
        else:
            error = None
            map_band = _map_dithered(
                dither, dither_strength, premultiplied(table), space, colors.channels, bands.width, device
            )

        def indices() -> Iterator[NDArray[Any]]:
            for row, band in bands.read():
                tell(bands.height + row + len(band))
                with devices.on(device):
                    mapped = map_band(band)
                yield mapped.reshape(band.shape[:2])

        write_tiled(Path(target), indices(), bands.height, bands.width, table, bands.metadata)
        return WrittenPicture(fit.palette, bands.width, bands.height, error, fit.converged)

    return devices.where_it_fits(reduce, devices.resolve(device), random_state)


def check_target(target: str | os.PathLike[str], dither: str) -> None:
    """Raise ImageError for what is not done in bands."""
    if not is_tiff(target):
        raise ImageError(f"in bands only .tif files are written, not {os.fsdecode(target)}.")
    if dither == "floyd-steinberg":
        raise ImageError("floyd-steinberg cannot be done in bands: choose bayer or blue-noise.")


def _count(bands: Bands, device: str, progress: Callable[[int], None]) -> tuple[Codes, NDArray[np.int64]]:
    """The codes of the distinct colors, ascending, and their counts."""
    histogram = Histogram(bands.channels)
    for row, band in bands.read():
        with devices.on(device):
            codes, counts = _pixels(band, device).count()
            histogram.add(array_interop.to_numpy(codes), array_interop.to_numpy(counts))
        progress(row + len(band))
    return histogram.result()


def _pixels(band: Levels, device: str) -> Pixels:
    return dispatch.make_pixels(band.reshape(-1, band.shape[2]), device=device)


def _map_by_label(codes: Codes, labels: Any, k: int, device: str) -> Callable[[Levels], NDArray[Any]]:
    """What gives a band's pixels (h, w, c) the labels (m,) of their colors, of k: (h * w,)."""
    return lambda band: _pixels(band, device).map(codes, labels, index_dtype(k))


def _map_dithered(
    dither: str, strength: float, palette: Levels, space: str, channels: int, width: int, device: str
) -> Callable[[Levels], NDArray[Any]]:
    """What dithers bands (h, width, c), whose first channels count, to a premultiplied palette: (h * width,)."""
    ranks = pattern_of(dither)

    def map_band(band: Levels) -> NDArray[Any]:
        levels, _ = with_common_channels(band[..., :channels], palette)
        pixels = _pixels(premultiplied(levels), device)
        return ordered(pixels, ranks, width, palette, space=space, device=device, strength=strength)

    return map_band
