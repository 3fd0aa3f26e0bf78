"""Pictures from files: what is opened, and what is refused before it takes time or memory."""

from __future__ import annotations

import io
import os
import warnings
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from gpukmeans import array_interop
from gpukmeans.image.files import damaged_tiff, deep_tiff, heif
from gpukmeans.image.files.depth import bits_lost
from gpukmeans.image.files.frames import from_frames
from gpukmeans.image.files.pages import frames_of
from gpukmeans.image.files.pillow import from_pil, pil_image
from gpukmeans.image.picture import ImageError, Picture, TooLargeError, from_array, from_gpu_array

if TYPE_CHECKING:
    from PIL.Image import Image

# Pillow's own limit, a quarter of a gigabyte at three bytes a pixel, doubled: beyond, a small file that claims to be
# large is more likely than a photograph, and a large one is better read in bands. Below, a picture of one color may be
# as large as it says in a few bytes, so what it takes is held down instead: Pillow's 4 bytes a pixel and at most 4 of
# ours, 1.4 GB at the limit; a paletted picture, which is counted and mapped by its indices, 3 in all.
MOST_PIXELS = 2 * (1024**3 // 4 // 3)

# Decoders of these hold a picture three to five times over, 10 to 20 bytes a pixel. So that a few bytes do not take
# gigabytes, more than a quarter of the pixels (0.9 GB) have to come in at least a byte for a thousand of them: 0.008
# bits a pixel, where photographs have 0.1 and more.
HEAVY = ("WEBP", "AVIF", "JPEG2000", "HEIF")
_UNCOMMONLY_DENSE = 1000

# The formats that are opened, of those that Pillow knows: pictures of pixels that it decodes itself, from the file
# alone and as large as the file says they are. Others start a program (EPS: Ghostscript), hand the file to code that
# somebody else registered (WMF, BUFR, GRIB, HDF5), or unpack what they hold before anything is known of it (FITS).
FORMATS = (
    *("PNG", "JPEG", "GIF", "BMP", "PPM", "DIB", "TIFF", "WEBP", "AVIF", "JPEG2000", "ICO", "CUR", "ICNS"),
    # TGA last: it has no signature. HEIF is read where pillow-heif is installed.
    *("PCX", "DCX", "PSD", "QOI", "SGI", "SUN", "DDS", "MSP", "XBM", "XPM", "HEIF", "TGA"),
)


class _NotPillowsError(ImageError):
    """A TIFF that Pillow does not read, and deep_tiff may."""


def read(source: Any, *, page: int | None = None, value_range: tuple[float, float] | None = None) -> Picture:
    """A path, an open binary file, bytes, a Pillow image or an array, as a Picture; a Picture as it is.

    page: which of several pictures in a file, from 1 on. value_range: see `from_array`.

    Raises ImageError for what is no picture, OSError for a file that cannot be opened.
    """
    if isinstance(source, Picture):
        return source
    if isinstance(source, (str, os.PathLike)):
        with open(source, "rb") as file:
            return _read_file(file, os.fsdecode(source), page, value_range)
    if isinstance(source, (bytes, bytearray, memoryview)):
        return _read_file(io.BytesIO(source), "the data", page, value_range)
    if type(source).__module__.startswith("PIL."):
        return from_pil(source, value_range)
    if hasattr(source, "read"):
        return _read_file(source, getattr(source, "name", "the file"), page, value_range)
    array = array_interop.as_array(source)
    return (
        from_array(array_interop.to_numpy(np.asarray(array)), value_range)
        if array_interop.gpu_of(array) is None
        else from_gpu_array(array)
    )


def _read_file(file: IO[bytes], name: str, page: int | None, value_range: tuple[float, float] | None) -> Picture:
    if not (hasattr(file, "seekable") and file.seekable()):
        file = io.BytesIO(file.read())
    try:
        return decode(file, name, lambda image: from_pil(image, value_range), page=page, frames=from_frames)
    except _NotPillowsError:
        if not deep_tiff.serves(file):
            raise
        damaged_tiff.check(file, name)
        array, stated = deep_tiff.read_array(file, name, page, check_size)
        return from_array(array, value_range or stated)


def looks_like_a_picture(path: str | os.PathLike[str]) -> bool:
    """Whether a file begins as one of the formats that are opened, but TGA, which has no signature."""
    Image = pil_image()
    Image.init()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            heif.teach_for(path, Image)
            with Image.open(path, formats=[each for each in FORMATS if each in Image.OPEN and each != "TGA"]):
                return True
        except Image.DecompressionBombError:
            return True
        except Exception:
            return False


def is_array_file(path: str | os.PathLike[str]) -> bool:
    """Whether the name is that of an array of NumPy's."""
    return Path(path).suffix.lower() == ".npy"


def load_array(path: str | os.PathLike[str]) -> NDArray[Any]:
    """The array of a .npy file, as a memory map. ImageError for what is none, OSError for what cannot be opened."""
    try:
        return np.load(path, mmap_mode="r")
    except (ValueError, EOFError) as error:
        raise ImageError(f"{os.fsdecode(path)} is no array that can be read: {error}") from None


def decode(
    file: IO[bytes],
    name: str,
    use: Callable[[Image], Any],
    *,
    page: int | None = None,
    frames: Callable[[Image, int], Any] | None = None,
) -> Any:
    """What `use` makes of the one picture in a file, from its beginning; ImageError for a file that is not one.

    page: which of several, from 1 on. frames: what to make of an animation, of so many frames; an error unless given.
    """
    Image = pil_image()
    if not (hasattr(file, "seekable") and file.seekable()):
        file = io.BytesIO(file.read())
    size = file.seek(0, os.SEEK_END)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of metadata gone wrong, and of sizes, which are checked below
        try:
            with _opened(file) as image:
                check_size(image.width, image.height, name)
                pixels = image.width * image.height
                if image.format in HEAVY and pixels > max(MOST_PIXELS // 4, _UNCOMMONLY_DENSE * size):
                    raise TooLargeError(
                        f"{name} has {image.width} x {image.height} pixels in {size:,} bytes, hardly a picture, and "
                        f"as {image.format} it would take much memory to find out: save it as PNG."
                    )
                count = frames_of(image, name, page)
                if count and frames is not None:
                    check_size(image.width, image.height * count, name)
                    return frames(image, count)
                if count:
                    raise ImageError(f"{name} is an animation of {count} frames: choose one with --page.")
                check_size(image.width, image.height, name)
                if image.format == "TIFF":
                    damaged_tiff.check(file, name)
                    if deep_tiff.is_misread(image):
                        raise _NotPillowsError(f"{name} has planes of 16 bits, which only pictures may have.")
                _mend_transparency(image)
                bits = bits_lost(image, file)
                image.load()
                found = use(image)
                return replace(found, bits_lost=bits) if bits and isinstance(found, Picture) else found
        except ImageError:
            raise
        except Image.UnidentifiedImageError:
            if heif.begins_as_one(file) and "HEIF" not in Image.OPEN:
                raise ImageError(f"{name} {heif.MISSING}") from None
            raise _NotPillowsError(f"{name} is not an image, or of a format that Pillow does not know.") from None
        except Image.DecompressionBombError as error:
            raise TooLargeError(f"{name} is too large: {error}") from None
        except MemoryError:
            raise ImageError(f"{name} does not fit into memory.") from None
        except Exception as error:  # decoders raise whatever broken data leads them to
            raise ImageError(f"{name} cannot be decoded, it may be damaged: {error or type(error).__name__}") from None


def _opened(file: IO[bytes]) -> Image:
    """By the common formats' modules first: to import all of Pillow's takes as long as to reduce a small picture."""
    Image = pil_image()
    Image.preinit()
    try:
        return Image.open(file, formats=[each for each in FORMATS if each in Image.OPEN])
    except Image.UnidentifiedImageError:
        Image.init()
        if heif.begins_as_one(file):
            heif.teach(Image)
        file.seek(0)
        return Image.open(file, formats=[each for each in FORMATS if each in Image.OPEN])


def _mend_transparency(image: Image) -> None:
    """The level that stands for nothing, in a PNG, in the depth in which Pillow gives the others: it leaves it as the
    file has it (test_reading.test_a_level_for_nothing_in_any_depth fails of that)."""
    clear, tile = image.info.get("transparency"), getattr(image, "tile", None)
    if image.format != "PNG" or clear is None or not tile:
        return
    raw = tile[0][3]
    if raw in ("L;2", "L;4") and isinstance(clear, int):
        image.info["transparency"] = clear * (85 if raw == "L;2" else 17)
    elif raw == "RGB;16B" and isinstance(clear, tuple):
        image.info["transparency"] = tuple(level >> 8 for level in clear)


def check_size(width: int, height: int, name: str) -> None:
    """Raise ImageError for a picture too large to hold, or without pixels."""
    if width * height == 0:
        raise ImageError(f"{name} has no pixels.")
    if width * height > MOST_PIXELS:
        raise TooLargeError(
            f"{name} has {width} x {height} pixels, more than the {MOST_PIXELS:,} that are held in memory: "
            "`gpukmeans quantize` into a .tif file reads it in bands."
        )
