"""Pictures larger than memory, read in bands of rows.

pyvips reads TIFF and BigTIFF (tiled or in strips), PNG, JPEG and WebP in bands; arrays, memory maps among them, are
sliced, and so is a file of any other format, which is read whole.
"""

from __future__ import annotations

import os
import re
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gpukmeans.image.files import damaged_tiff
from gpukmeans.image.files.pillow import ORIENTATION, pil_image
from gpukmeans.image.files.profiles import tone_of
from gpukmeans.image.files.read import is_array_file, load_array, read
from gpukmeans.image.levels import Levels, to_8_bit, to_rgba
from gpukmeans.image.picture import TURNED, ImageError, Metadata, TooLargeError, from_array

# Rows of a band, and the side of a tile that is written: a multiple of both patterns of ordered dithering
# (test_large.test_patterns_go_on_from_band_to_band fails of any other number).
BAND = 256

# Why there are no pictures in bands, and what to do.
MISSING = "pictures in bands need pyvips and tifffile: pip install 'gpukmeans[large]'"

# Of what is read by libvips: 0.4 GB in a band of three channels.
MOST_WIDTH = 2**19

# TIFF's numbers of tags.
_BITS, _PHOTOMETRIC, _PLANES = 258, 262, 284

# Pixels that libvips decodes at once, with as much as 40 bytes for each on their way to 8 bits.
_PIXELS_AT_ONCE = 2**20

# What libvips reads in bands, by how a file begins: its loader is called by name. Left to itself it would try all that
# it was built with, and some of them read further files, start programs or take text for a picture, whatever the name
# of the file is. The last says what ends reading: of a damaged tile libvips only warns
# (test_hostile_pictures.test_a_damaged_tiff_is_an_error_in_bands_too fails if warnings do not end it).
_LOADERS = [
    (rb"\x89PNG\r\n\x1a\n", "pngload", "error"),
    (rb"\xff\xd8\xff", "jpegload", "error"),
    (rb"RIFF....WEBP", "webpload", "error"),
    (rb"II[*+]\0|MM\0[*+]", "tiffload", "warning"),
]


@dataclass(frozen=True)
class Bands:
    """A picture that is read from the top to the bottom, as often as asked.

    open: begins anew, and answers a function of a row and a number of rows, from the top on, that reads their levels
    (rows, width, channels) uint8.
    """

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


def read_bands(source: str | os.PathLike[str] | NDArray[Any]) -> Bands:
    """A file or an array, to be read in bands.

    Raises ImageError for what is no picture, OSError for a file that cannot be opened, ImportError without pyvips.
    """
    if not isinstance(source, (str, os.PathLike)):
        return _array_bands(source)
    if is_array_file(source):
        return _array_bands(load_array(source))
    name = os.fsdecode(source)
    kind = _kind(name)
    if kind is not None and not kind.differs:
        return _vips_bands(name, kind)
    try:
        return _bands_in_memory(name)
    except TooLargeError as error:
        if kind is None:
            raise ImageError(
                f"{name} does not fit into memory, and only TIFF, PNG, JPEG, WebP and .npy files are read in bands."
            ) from None
        if not kind.readable:
            raise ImageError(f"{error} But {kind.differs} is not read in bands: convert it first.") from None
        return _vips_bands(name, kind)


def differs_in_bands(source: str | os.PathLike[str]) -> bool:
    """Whether a file may be read to other levels in bands than as a whole, or not at all."""
    if is_array_file(source):
        array = load_array(source)
        return array.ndim == 4 or array.dtype != np.uint8
    kind = _kind(os.fsdecode(source))
    return kind is None or bool(kind.differs)


@dataclass(frozen=True)
class _Kind:
    """How libvips reads a file. differs: "", or what there is in it that Pillow reads otherwise. readable: whether it
    still may be read in bands, if it does not fit into memory."""

    loader: str
    fail_on: str
    differs: str = ""
    readable: bool = True


def _kind(name: str) -> _Kind | None:
    """None for a format that is not read in bands."""
    with open(name, "rb") as file:
        start = file.read(16)
        for magic, loader, fail_on in _LOADERS:
            if re.match(magic, start, re.DOTALL):
                file.seek(0)
                return _Kind(loader, fail_on, *_difference(file, loader))
    return None


def _difference(file: Any, loader: str) -> tuple[str, bool]:
    """What there is in a file that libvips and Pillow read to different levels, and whether libvips may be left to it,
    by its head: that is read without `Image.open`, which refuses large ones."""
    Image = pil_image()
    Image.init()
    factory, _ = Image.OPEN[{"pngload": "PNG", "jpegload": "JPEG", "webpload": "WEBP", "tiffload": "TIFF"}[loader]]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            return _difference_of(factory(file, None), loader)
        except Exception:  # what is wrong with it is said where it is read
            return "a head that Pillow does not understand", False


def _difference_of(image: Any, loader: str) -> tuple[str, bool]:
    if image.mode in ("CMYK", "LAB", "YCbCr", "HSV"):
        return f"{image.mode}", False
    if image.format != "MPO" and getattr(image, "n_frames", 1) > 1:
        return "one of several pictures", False
    if tone_of(image) is not None:
        return "a gamma or a profile of grey", False
    if image.mode not in ("L", "RGB", "RGBA") or "transparency" in image.info:
        return f"mode {image.mode}", not image.mode.startswith("La")
    if loader == "tiffload":
        tags = image.tag_v2
        if tags.get(ORIENTATION, 1) != 1:
            return "a TIFF that is to be turned", True
        if image.mode == "RGBA" or tags.get(_PHOTOMETRIC) not in (1, 2) or tags.get(_PLANES, 1) != 1:
            return "a TIFF with alpha, planes or other colors", image.mode != "RGBA"
        if max(np.atleast_1d(tags.get(_BITS, 1))) > 8:
            return "levels of 16 bits", True
    if loader == "pngload" and "16" in str(image.tile[0][3]):
        return "levels of 16 bits", True
    return "", True


def _bands_in_memory(name: str) -> Bands:
    """Of a file that is not read in bands."""
    picture = read(name)
    if picture.frames:
        raise ImageError(f"{name} holds {picture.frames} pictures: bands are of one.")

    def fetch(row: int, rows: int) -> Levels:
        return to_8_bit(picture.rows(row, row + rows))

    return Bands(*picture.shape, lambda: fetch, picture.metadata)


def _array_bands(array: NDArray[Any]) -> Bands:
    if array.ndim not in (2, 3) or array.size == 0:
        from_array(array)  # says what is wrong
    channels = array.shape[2] if array.ndim == 3 else 1

    def fetch(row: int, rows: int) -> Levels:
        levels = to_8_bit(from_array(np.asarray(array[row : row + rows])).levels)
        # An opaque band of a picture with alpha has none
        # (test_large.test_bands_may_be_opaque_where_others_are_not fails if it is given none back).
        return levels if levels.shape[2] == channels else to_rgba(levels)

    fetch(0, 1)  # the errors of shape and dtype
    return Bands(array.shape[0], array.shape[1], channels, lambda: fetch, Metadata())


def _vips_bands(name: str, kind: _Kind) -> Bands:
    loader, fail_on = kind.loader, kind.fail_on
    try:
        import pyvips
    except (ImportError, OSError):
        raise ImportError(MISSING) from None
    if hasattr(pyvips, "block_untrusted_set"):  # loaders that were not hardened against files made to harm
        pyvips.block_untrusted_set(True)

    def open_image() -> Any:
        try:
            image = pyvips.Operation.call(loader, os.fsencode(name), access="sequential", fail_on=fail_on)
            # Greys and colors of any depth become 8-bit sRGB; the alpha band comes along.
            grey = image.interpretation in ("b-w", "grey16") and image.bands == 1
            image = image.colourspace("b-w" if grey else "srgb")
            return image if image.format == "uchar" else image.cast("uchar")
        except pyvips.Error as error:
            raise ImageError(f"{name} cannot be read: {_last_line(error)}") from None

    if loader == "tiffload":
        with open(name, "rb") as file:
            damaged_tiff.check(file, name)
    image = open_image()
    if image.get_typeof("n-pages") and image.get("n-pages") > 1:
        raise ImageError(f"{name} holds {image.get('n-pages')} pictures: save them as files, one each.")
    if image.width > MOST_WIDTH:
        raise ImageError(f"{name} is {image.width:,} pixels wide, more than the {MOST_WIDTH:,} of a band.")
    if image.bands not in (1, 3, 4):
        raise ImageError(f"{name} has {image.bands} channels; 1, 3 and 4 are known.")

    def begin() -> Callable[[int, int], Levels]:
        region = pyvips.Region.new(open_image())

        def fetch(row: int, rows: int) -> Levels:
            levels = np.empty((rows, image.width, image.bands), np.uint8)
            step = max(1, _PIXELS_AT_ONCE // image.width)
            for a in range(0, rows, step):
                part = levels[a : a + step]
                try:
                    data = region.fetch(0, row + a, image.width, len(part))
                except pyvips.Error as error:
                    raise ImageError(f"{name} cannot be decoded, it may be damaged: {_last_line(error)}") from None
                part[...] = np.frombuffer(data, np.uint8).reshape(part.shape)
                # test_large.test_bands_may_be_opaque_where_others_are_not fails without it.
                if image.bands == 4:
                    part[part[..., 3] == 0] = 0
            return levels

        return fetch

    def field(key: str) -> Any:
        return image.get(key) if image.get_typeof(key) else None

    profile, orientation = field("icc-profile-data"), field("orientation")
    dpi = (image.xres * 25.4, image.yres * 25.4)  # pixels per millimeter
    known = field("resolution-unit") is not None
    metadata = Metadata(profile, dpi if known else None, orientation if orientation in TURNED else None)
    return Bands(image.height, image.width, image.bands, begin, metadata)


def _last_line(error: Any) -> str:
    """Of what libvips says."""
    lines = str(getattr(error, "detail", "") or error).strip().splitlines()
    return lines[-1] if lines else "unknown error"
