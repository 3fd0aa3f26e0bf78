"""Pictures larger than memory: counted in one pass over bands of rows, mapped and written in a second.

Only the counts of colors are held between the passes: 128 MB for all of 8 bits, and what clustering takes, which grows
with the number of distinct colors and not with that of pixels. pyvips reads TIFF and BigTIFF (tiled or in strips),
PNG, JPEG and WebP in bands; arrays, memory maps among them, are sliced, and so is a file of any other format, which is
read whole. tifffile writes a tiled TIFF with a palette, deflated; BigTIFF where 4 GB might not do.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from gpukmeans import array_interop
from gpukmeans.atomic_write import atomic
from gpukmeans.engine import devices
from gpukmeans.image import dispatch
from gpukmeans.image import dither as dithering
from gpukmeans.image.color_space import Levels
from gpukmeans.image.files import tiff
from gpukmeans.image.files.read import ORIENTATION, ImageError, Metadata, TooLargeError, from_array, premultiplied, read
from gpukmeans.image.files.write import eight_bit
from gpukmeans.image.numpy.colors import NumPyColors, with_alpha
from gpukmeans.image.numpy.pixels import Tally
from gpukmeans.image.palette.fit import Found
from gpukmeans.image.quantize import check, cluster

# Rows of a band, and the side of a tile: a multiple of both patterns of ordered dithering.
BAND = 256

# Of what is read by libvips: 0.4 GB in a band of three channels.
MOST_WIDTH = 2**19

# Pixels that libvips decodes at once, with as much as 40 bytes for each on their way to 8 bits.
_AT_ONCE = 2**20

# What libvips reads in bands, by how a file begins: its loader is called by name. Left to itself it would try all that
# it was built with, and some of them read further files, start programs or take text for a picture, whatever the name
# of the file is. The last says what ends reading: of a damaged tile libvips only warns.
_LOADERS = [
    (rb"\x89PNG\r\n\x1a\n", "pngload", "error"),
    (rb"\xff\xd8\xff", "jpegload", "error"),
    (rb"RIFF....WEBP", "webpload", "error"),
    (rb"II[*+]\0|MM\0[*+]", "tiffload", "warning"),
]


@dataclass(frozen=True)
class Written:
    """palette: (k, 3) or (k, 4) uint8. psnr, converged: as in Quantized; psnr None if dithered."""

    palette: Levels
    width: int
    height: int
    psnr: float | None
    converged: bool


def quantize_file(
    source: str | os.PathLike[str] | NDArray[Any],
    target: str | os.PathLike[str],
    n_colors: int = 256,
    *,
    space: str = "oklab",
    dither: str = "none",
    palette: ArrayLike | None = None,
    random_state: int | np.random.RandomState | None = 0,
    device: str = "auto",
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> Written:
    """`quantize`, or `remap` onto a palette (k, 3) uint8, from file to file, for pictures of any size.

    Parameters
    ----------
    source : path or array (h, w), (h, w, 3) or (h, w, 4)
        A picture's file, a .npy file, or an array such as a memory map.
    target : path
        A .tif or .tiff file, tiled, of at most 256 colors; written whole or not at all.
    n_colors, space, palette, random_state, device : as for `quantize` and `remap`
    dither : {"none", "bayer", "blue-noise"}, default="none"
        Error diffusion is not done in bands.
    progress : callable
        ``progress(done, total)`` is called with the number of rows read so far in both passes.

    Raises
    ------
    ImageError, ValueError, OSError, DeviceError
        As `quantize` does.

    Notes
    -----
    Pictures of more than 8 bits a channel are rounded to 8 first. Memory grows with the distinct colors: a TIFF of
    46,336 x 46,336 pixels took 0.97 GB at its peak, a picture with all 2**24 colors 1.0 GB (benchmarks/pictures.py).
    """
    check(n_colors, space, dither)
    if n_colors > 256 or Path(target).suffix.lower() not in (".tif", ".tiff"):
        raise ImageError(f"in bands only .tif files of at most 256 colors are written, not {n_colors} to {target}.")
    if dither == "floyd-steinberg":
        raise ImageError("floyd-steinberg cannot be done in bands: choose bayer or blue-noise.")

    def reduce(device: str) -> Written:
        bands = _opened(source)
        total = 2 * bands.height
        tally = Tally(4 if bands.channels == 4 else bands.channels)
        for row, band in bands.read():
            tally.add(*map(array_interop.to_numpy, _pixels(band, device).count()))
            progress(row + len(band), total)
        codes, counts = tally.result()
        del tally
        with devices.on(device):
            colors = dispatch.make_colors(codes, counts, bands.channels, bands.width * bands.height, device=device)
        if colors.channels == 4 and (colors.levels()[:, 3] == 255).all():
            colors = NumPyColors(colors.levels()[:, :3], counts)
        if palette is None:
            found = cluster(colors, n_colors, space, random_state, device)
        else:
            given = np.asarray(palette, np.uint8)
            with devices.on(device):
                found = Found(given, colors.nearest(given, space), True)
        _, table = with_alpha(np.empty((0, colors.channels), np.uint8), found.palette)
        if table.shape[1] == 4 and ((table[:, 3] != 255) & table.any(axis=1)).any():
            raise ImageError("a palette in a TIFF has no half-transparent colors: flatten the picture first.")
        shown = premultiplied(table)
        psnr = None
        if dither == "none":
            with devices.on(device):
                error = colors.error(table, found.labels)
            values = bands.width * bands.height * table.shape[1]
            psnr = float(10 * np.log10(values * 255.0**2 / error)) if error else float("inf")
        offsets = None if dither == "none" else dithering.offsets(dither, shown)

        def indices() -> Iterator[NDArray[Any]]:
            for row, band in bands.read():
                progress(bands.height + row + len(band), total)
                if offsets is None:
                    yield _pixels(band, device).map(codes, found.labels, np.uint8).reshape(band.shape[:2])
                else:
                    own, _ = with_alpha(band.reshape(-1, band.shape[2])[:, : colors.channels], shown)
                    levels = premultiplied(own)
                    yield (
                        dispatch.make_pixels(levels, device=device)
                        .dither(offsets, bands.width, shown)
                        .reshape(band.shape[:2])
                    )

        _write(Path(target), indices(), bands, table)
        return Written(found.palette, bands.width, bands.height, psnr, found.converged)

    return devices.where_it_fits(reduce, devices.resolve(device), random_state)


def _pixels(band: Levels, device: str) -> Any:
    return dispatch.make_pixels(band.reshape(-1, band.shape[2]), device=device)


# ---------------------------------------------------------------- reading


@dataclass(frozen=True)
class _Bands:
    """A picture that is read from the top to the bottom, as often as asked. band(rows): (rows, w, c) uint8."""

    height: int
    width: int
    channels: int
    open: Callable[[], Callable[[int, int], Levels]]
    metadata: Metadata

    def read(self) -> Iterator[tuple[int, Levels]]:
        """Each band's first row, and the band."""
        fetch = self.open()
        for row in range(0, self.height, BAND):
            yield row, fetch(row, min(BAND, self.height - row))


def _opened(source: Any) -> _Bands:
    if isinstance(source, (str, os.PathLike)):
        name = os.fsdecode(source)
        with open(name, "rb") as file:
            start = file.read(16)
        if Path(name).suffix.lower() != ".npy":
            for magic, loader, fail_on in _LOADERS:
                if re.match(magic, start, re.DOTALL):
                    return _vips_bands(name, loader, fail_on)
            return _whole_bands(name)
        try:
            source = np.load(name, mmap_mode="r")
        except (ValueError, EOFError) as error:
            raise ImageError(f"{name} is no array: {error}") from None
    return _array_bands(source)


def _whole_bands(name: str) -> _Bands:
    """Of a format that is not read in bands."""
    try:
        picture = read(name)
    except TooLargeError:
        raise ImageError(
            f"{name} does not fit into memory, and only TIFF, PNG, JPEG, WebP and .npy files are read in bands."
        ) from None

    def fetch(row: int, rows: int) -> Levels:
        return eight_bit(picture.rows(row, row + rows))

    return _Bands(*picture.shape, lambda: fetch, picture.metadata)


def _array_bands(array: NDArray[Any]) -> _Bands:
    if array.ndim not in (2, 3) or array.size == 0:
        from_array(array)  # says what is wrong
    channels = array.shape[2] if array.ndim == 3 else 1

    def fetch(row: int, rows: int) -> Levels:
        levels = from_array(np.asarray(array[row : row + rows])).levels
        levels = eight_bit(levels)
        return levels if levels.shape[2] == channels else with_alpha(levels, np.zeros((0, 4), np.uint8))[0]

    fetch(0, 1)  # the errors of shape and dtype
    return _Bands(array.shape[0], array.shape[1], channels, lambda: fetch, Metadata())


def _vips_bands(name: str, loader: str, fail_on: str) -> _Bands:
    try:
        import pyvips
    except (ImportError, OSError):
        raise ImportError("pictures in bands need pyvips and tifffile: pip install 'gpukmeans[large]'") from None

    def opened() -> Any:
        try:
            image = pyvips.Operation.call(loader, os.fsencode(name), access="sequential", fail_on=fail_on)
            # Greys and colors of any depth become 8-bit sRGB; the alpha band comes along.
            grey = image.interpretation in ("b-w", "grey16") and image.bands == 1
            image = image.colourspace("b-w" if grey else "srgb")
            return image if image.format == "uchar" else image.cast("uchar")
        except pyvips.Error as error:
            raise ImageError(f"{name} cannot be read: {_said(error)}") from None

    if loader == "tiffload":
        with open(name, "rb") as file:
            tiff.check(file, name)
    image = opened()
    if image.get_typeof("n-pages") and image.get("n-pages") > 1:
        raise ImageError(f"{name} holds {image.get('n-pages')} pictures: save them as files, one each.")
    if image.width > MOST_WIDTH:
        raise ImageError(f"{name} is {image.width:,} pixels wide, more than the {MOST_WIDTH:,} of a band.")
    if image.bands not in (1, 3, 4):
        raise ImageError(f"{name} has {image.bands} channels; 1, 3 and 4 are known.")

    def reader() -> Callable[[int, int], Levels]:
        region = pyvips.Region.new(opened())

        def fetch(row: int, rows: int) -> Levels:
            levels = np.empty((rows, image.width, image.bands), np.uint8)
            few = max(1, _AT_ONCE // image.width)
            for a in range(0, rows, few):
                part = levels[a : a + few]
                try:
                    data = region.fetch(0, row + a, image.width, len(part))
                except pyvips.Error as error:
                    raise ImageError(f"{name} cannot be decoded, it may be damaged: {_said(error)}") from None
                part[...] = np.frombuffer(data, np.uint8).reshape(part.shape)
                if image.bands == 4:
                    part[part[..., 3] == 0] = 0
            return levels

        return fetch

    def field(key: str) -> Any:
        return image.get(key) if image.get_typeof(key) else None

    profile, orientation = field("icc-profile-data"), field("orientation")
    dpi = (image.xres * 25.4, image.yres * 25.4)  # pixels per millimeter
    known = field("resolution-unit") is not None
    metadata = Metadata(
        profile if profile and profile[16:20] == b"RGB " else None,
        dpi if known else None,
        orientation if orientation in range(2, 9) else None,
    )
    return _Bands(image.height, image.width, image.bands, reader, metadata)


def _said(error: Any) -> str:
    """The last of libvips' lines."""
    lines = str(getattr(error, "detail", "") or error).strip().splitlines()
    return lines[-1] if lines else "unknown error"


# ---------------------------------------------------------------- writing


def _write(path: Path, indices: Iterator[NDArray[Any]], bands: _Bands, palette: Levels) -> None:
    try:
        import tifffile
    except ImportError:
        raise ImportError("pictures in bands need pyvips and tifffile: pip install 'gpukmeans[large]'") from None
    colormap = np.zeros((3, 256), np.uint16)
    colormap[:, : len(palette)] = palette[:, :3].T.astype(np.uint16) * np.uint16(257)
    extra: list[Any] = []
    metadata = bands.metadata
    if metadata.icc_profile is not None:
        extra.append((34675, 7, len(metadata.icc_profile), metadata.icc_profile, True))
    if metadata.orientation is not None:
        extra.append((ORIENTATION, 3, 1, metadata.orientation, True))
    resolution: dict[str, Any] = {} if metadata.dpi is None else {"resolution": metadata.dpi, "resolutionunit": "INCH"}

    def tiles() -> Iterator[NDArray[Any]]:
        for band in indices:
            for column in range(0, bands.width, BAND):
                tile = np.zeros((BAND, BAND), np.uint8)
                part = band[:, column : column + BAND]
                tile[: part.shape[0], : part.shape[1]] = part
                yield tile

    with ExitStack() as stack:
        file = stack.enter_context(atomic(path))
        big = bands.width * bands.height > 2**31  # deflated they seldom grow, but they may
        writer = stack.enter_context(tifffile.TiffWriter(file, bigtiff=big))
        writer.write(
            tiles(),
            shape=(bands.height, bands.width),
            dtype=np.uint8,
            tile=(BAND, BAND),
            photometric="palette",
            colormap=colormap,
            compression="zlib",
            extratags=extra,
            metadata=None,
            software=False,
            **resolution,
        )
