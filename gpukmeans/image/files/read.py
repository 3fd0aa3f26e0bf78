"""Pictures as levels: from arrays, Pillow's images and files. Pillow is imported only for the latter two."""

from __future__ import annotations

import io
import os
import warnings
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import IO, TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from gpukmeans import array_interop
from gpukmeans.image.color_space import Levels

if TYPE_CHECKING:
    from PIL.Image import Image

# The tag of EXIF, and of TIFF, that says how a picture is to be turned.
ORIENTATION = 274

# Pillow's own limit, a quarter of a gigabyte at three bytes a pixel, doubled: beyond, a small file that claims to be
# large is more likely than a photograph, and a large one is better read in bands. Below, a picture of one color may be
# as large as it says in a few bytes, so what it takes is held down instead: Pillow's 4 bytes a pixel and at most 4 of
# ours, 1.4 GB at the limit; a paletted picture, which is counted and mapped by its indices, 3 in all.
MOST_PIXELS = 2 * (1024**3 // 4 // 3)

# Decoders of these hold a picture three to five times over, 10 to 20 bytes a pixel. So that a few bytes do not take
# gigabytes, more than a quarter of the pixels (0.9 GB) have to come in at least a byte for a thousand of them: 0.008
# bits a pixel, where photographs have 0.1 and more.
HEAVY = ("WEBP", "AVIF", "JPEG2000")
_UNCOMMONLY_DENSE = 1000

# The formats that are opened, of those that Pillow knows: pictures of pixels that it decodes itself, from the file
# alone and as large as the file says they are. Others start a program (EPS: Ghostscript), hand the file to code that
# somebody else registered (WMF, BUFR, GRIB, HDF5), or unpack what they hold before anything is known of it (FITS).
FORMATS = (
    *("PNG", "JPEG", "GIF", "BMP", "PPM", "DIB", "TIFF", "WEBP", "AVIF", "JPEG2000", "ICO", "CUR", "ICNS"),
    *("PCX", "DCX", "PSD", "QOI", "SGI", "SUN", "DDS", "MSP", "XBM", "XPM", "TGA"),  # TGA last: it has no signature
)

# Rows at a time, where a picture is converted without being held twice.
_ROWS = 256


class ImageError(ValueError):
    """What was given is no picture that can be quantized; the message says why and what to do."""


class TooLargeError(ImageError):
    """A picture with more pixels than are held in memory."""


@dataclass(frozen=True)
class Metadata:
    """What a file says of its picture beside the pixels, as Pillow has it."""

    icc_profile: bytes | None = None
    dpi: tuple[float, float] | None = None
    orientation: int | None = None


@dataclass(frozen=True)
class Picture:
    """pixels: levels (h, w, c), uint8 or uint16, c 1, 3 or 4 (only if a pixel is not opaque; the color of what is fully
    transparent is zero); or CuPy's, as `on_gpu` leaves them. channels: those of the source, 2-dimensional arrays
    having 0. dtype: the source's. table: None, or (k, c) uint8, to which the pixels are indices then: (h, w) uint8."""

    pixels: Levels
    channels: int
    dtype: np.dtype
    metadata: Metadata = field(default_factory=Metadata)
    table: Levels | None = None

    @property
    def shape(self) -> tuple[int, int, int]:
        """(h, w, c)."""
        h, w, *c = self.pixels.shape
        return (h, w, c[0]) if self.table is None else (h, w, self.table.shape[1])

    @property
    def levels(self) -> Levels:
        """(h, w, c); made anew of indices each time."""
        return self.pixels if self.table is None else looked_up(self.table, self.pixels)

    def rows(self, first: int, end: int) -> Levels:
        """The levels of some rows."""
        part = self.pixels[first:end]
        return part if self.table is None else looked_up(self.table, part)


def looked_up(table: Levels, indices: NDArray[Any]) -> Levels:
    """table[indices], without eight bytes for each index."""
    levels = np.empty((*indices.shape, table.shape[1]), table.dtype)
    for rows in _pieces(len(levels)):
        levels[rows] = table[indices[rows]]
    return levels


def _pieces(height: int) -> list[slice]:
    return [slice(row, row + _ROWS) for row in range(0, height, _ROWS)]


def premultiplied(levels: Levels) -> Levels:
    """Levels (..., c) as they count where they are seen: times alpha, rounded, if there is any."""
    if levels.shape[-1] != 4:
        return levels
    top = int(np.iinfo(levels.dtype).max)
    alpha = levels[..., 3:].astype(np.uint64)
    seen = (levels[..., :3] * alpha + np.uint64(top // 2)) // np.uint64(top)
    return np.concatenate([seen.astype(levels.dtype), levels[..., 3:]], axis=-1)


def read(source: Any) -> Picture:
    """A path, an open binary file, bytes, a Pillow image or an array, as a Picture; a Picture as it is.

    Raises ImageError for what is no picture, OSError for a file that cannot be opened.
    """
    if isinstance(source, Picture):
        return source
    if isinstance(source, (str, os.PathLike)):
        with open(source, "rb") as file:
            return decoded(file, os.fsdecode(source), from_pil)
    if isinstance(source, (bytes, bytearray, memoryview)):
        return decoded(io.BytesIO(source), "the data", from_pil)
    if type(source).__module__.startswith("PIL."):
        return from_pil(source)
    if hasattr(source, "read"):
        return decoded(source, getattr(source, "name", "the file"), from_pil)
    array = array_interop.as_array(source)
    return from_array(np.asarray(array)) if array_interop.gpu_of(array) is None else on_gpu(array)


# ---------------------------------------------------------------- arrays


def on_gpu(array: Any) -> Picture:
    """The same of CuPy's, 8 bits a channel: its levels stay where they are. Others come to the host."""
    _check_shape(array)
    if array.dtype != np.uint8:
        return from_array(array_interop.to_numpy(array))
    levels = array.reshape(array.shape[0], array.shape[1], -1)
    return Picture(levels, array.shape[2] if array.ndim == 3 else 0, array.dtype)


def on_host(picture: Picture) -> Picture:
    """The picture with levels that are NumPy's."""
    if array_interop.gpu_of(picture.pixels) is None:
        return picture
    return replace(picture, pixels=_without_idle_alpha(array_interop.to_numpy(picture.pixels)))


def _check_shape(array: Any) -> None:
    shape = f"an array of shape {array.shape}"
    if array.ndim not in (2, 3) or (array.ndim == 3 and array.shape[2] not in (1, 3, 4)):
        raise ImageError(f"an image is an array (h, w), (h, w, 3) or (h, w, 4), got {shape}.")
    if array.size == 0:
        raise ImageError(f"an image needs at least one pixel, got {shape}.")


def from_array(array: NDArray[Any]) -> Picture:
    """(h, w), (h, w, 3) or (h, w, 4), uint8, uint16, or floats in [0, 1]."""
    _check_shape(array)
    if array.dtype.kind == "f":
        if not (array.min() >= 0 and array.max() <= 1):  # false for NaN too
            raise ImageError("an image of floats has values in [0, 1]: divide by the largest value, or convert.")
        levels: Levels = np.empty(array.shape, np.uint16)
        for rows in _pieces(len(array)):
            levels[rows] = np.rint(array[rows] * np.float64(65535))
    elif array.dtype.newbyteorder("=") in (np.uint8, np.uint16):
        levels = array.astype(array.dtype.newbyteorder("="), copy=False)
    else:
        raise ImageError(f"an image has dtype uint8, uint16 or float, got {array.dtype}: convert it first.")
    levels = levels.reshape(*array.shape[:2], -1)
    channels = array.shape[2] if array.ndim == 3 else 0
    return Picture(_without_idle_alpha(levels), channels, array.dtype)


def _without_idle_alpha(levels: Levels) -> Levels:
    if levels.shape[2] != 4:
        return levels
    alpha = levels[..., 3]
    if (alpha == np.iinfo(levels.dtype).max).all():
        return levels[..., :3]
    if not any(levels[rows][alpha[rows] == 0].any() for rows in _pieces(len(levels))):
        return levels
    return np.where(alpha[..., None] > 0, levels, 0).astype(levels.dtype, copy=False)


# ---------------------------------------------------------------- Pillow


def decoded(file: IO[bytes], name: str, use: Callable[[Image], Any]) -> Any:
    """What `use` makes of the one picture in a file, from its beginning; ImageError for a file that is not one."""
    from gpukmeans.image.files import tiff  # which imports this module

    Image = pillow()
    Image.init()
    if not (hasattr(file, "seekable") and file.seekable()):
        file = io.BytesIO(file.read())
    size = file.seek(0, os.SEEK_END)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of metadata gone wrong, and of sizes, which are checked below
        try:
            with Image.open(file, formats=[each for each in FORMATS if each in Image.OPEN]) as image:
                check_size(image.width, image.height, name)
                pixels = image.width * image.height
                if image.format in HEAVY and pixels > max(MOST_PIXELS // 4, _UNCOMMONLY_DENSE * size):
                    raise TooLargeError(
                        f"{name} has {image.width} x {image.height} pixels in {size:,} bytes, hardly a picture, and "
                        f"as {image.format} it would take much memory to find out: save it as PNG."
                    )
                # Two pictures in one JPEG, as telephones write them, are one and its preview.
                frames = 1 if image.format == "MPO" else getattr(image, "n_frames", 1)
                if frames > 1:
                    raise ImageError(
                        f"{name} holds {frames} pictures: save them as files, one each; `gpukmeans quantize "
                        "--shared-palette` gives them one palette."
                    )
                if image.format == "TIFF":
                    tiff.check(file, name)
                image.load()
                return use(image)
        except ImageError:
            raise
        except Image.UnidentifiedImageError:
            raise ImageError(f"{name} is not an image, or of a format that Pillow does not know.") from None
        except Image.DecompressionBombError as error:
            raise TooLargeError(f"{name} is too large: {error}") from None
        except MemoryError:
            raise ImageError(f"{name} does not fit into memory.") from None
        except Exception as error:  # decoders raise whatever broken data leads them to
            raise ImageError(f"{name} cannot be decoded, it may be damaged: {error or type(error).__name__}") from None


def check_size(width: int, height: int, name: str) -> None:
    """Raise ImageError for a picture too large to hold, or without pixels."""
    if width * height == 0:
        raise ImageError(f"{name} has no pixels.")
    if width * height > MOST_PIXELS:
        raise TooLargeError(
            f"{name} has {width} x {height} pixels, more than the {MOST_PIXELS:,} that are held in memory: "
            "`gpukmeans quantize` into a .tif file reads it in bands."
        )


def from_pil(image: Image) -> Picture:
    """The image's current frame."""
    image.load()  # turns a TIFF as its tag says, and takes the tag away
    if image.width * image.height == 0:
        raise ImageError(f"an image needs at least one pixel, got {image.width} x {image.height}.")
    metadata = _metadata(image)
    if image.mode == "F" or image.mode.startswith("I"):
        picture = from_array(_deep(_stacked(image, lambda rows: rows)))
    elif image.mode == "P":
        picture = _indexed(image)
    elif image.mode in ("CMYK", "LAB"):
        picture = from_array(_stacked(image, _to_srgb(image.mode, metadata.icc_profile)))
        metadata = replace(metadata, icc_profile=None)
    elif image.has_transparency_data:
        picture = from_array(_stacked(image, lambda rows: rows.convert("RGBA")))
    else:
        mode = "L" if image.mode in ("1", "L") else "RGB"
        picture = from_array(_stacked(image, lambda rows: rows.convert(mode)))
    return replace(picture, metadata=metadata)


def _stacked(image: Image, convert: Callable[[Image], Image]) -> NDArray[Any]:
    """The image as an array, (h, w) or (h, w, c), converted some rows at a time. Fully transparent pixels are zero."""
    result: NDArray[Any] | None = None
    for rows in _pieces(image.height):
        part = np.asarray(convert(image.crop((0, rows.start, image.width, min(rows.stop, image.height)))))
        if part.shape[2:] == (4,):
            part = np.where(part[..., 3:] > 0, part, 0)
        if result is None:
            result = np.empty((image.height, *part.shape[1:]), part.dtype)
        result[rows] = part
    assert result is not None
    return result


def _indexed(image: Image) -> Picture:
    """Of mode P. What the indices stand for Pillow itself says, of a row that has all of them."""
    mode = "RGBA" if image.has_transparency_data else "RGB"
    row = image.crop((0, 0, 256, 1))
    row.frombytes(bytes(range(256)))
    table = np.asarray(row.convert(mode))[0]
    pixels = _stacked(image, lambda rows: rows)
    used = np.zeros(256, np.int64)
    for rows in _pieces(len(pixels)):
        used += np.bincount(pixels[rows].reshape(-1), minlength=256)
    # No color counts, not as a transparent one either, that no pixel has.
    table = np.where(used[:, None] > 0, table, table[pixels[0, 0]])
    return Picture(pixels, len(mode), np.dtype(np.uint8), table=_without_idle_alpha(table[None])[0])


def _deep(array: NDArray[Any]) -> NDArray[Any]:
    """More than 8 bits of grey, which Pillow holds in 16 or 32."""
    if array.dtype.kind == "f" or array.dtype.itemsize == 2:
        return array
    if array.min() < 0 or array.max() > 65535:
        raise ImageError(f"grey values from {array.min()} to {array.max()} do not fit 16 bits: scale them first.")
    return array.astype(np.uint16)


def _to_srgb(mode: str, profile: bytes | None) -> Callable[[Image], Image]:
    """From CMYK or LAB, by the image's own profile where there is a valid one, else by Pillow's formulas."""
    from PIL import ImageCms

    try:
        if profile:
            own: Any = ImageCms.ImageCmsProfile(io.BytesIO(profile))
        elif mode == "LAB":
            own = ImageCms.createProfile("LAB")
        else:
            return lambda image: image.convert("RGB")
        transform = ImageCms.buildTransform(own, ImageCms.createProfile("sRGB"), mode, "RGB")
    except (ImageCms.PyCMSError, OSError):
        return lambda image: image.convert("RGB")

    def convert(image: Image) -> Image:
        converted = ImageCms.applyTransform(image, transform)
        assert converted is not None  # only inPlace=True returns None
        return converted

    return convert


def _metadata(image: Image) -> Metadata:
    icc, dpi = image.info.get("icc_profile"), image.info.get("dpi")
    if not (isinstance(dpi, tuple) and len(dpi) == 2 and all(0 < float(x) < 1e6 for x in dpi)):
        dpi = None
    try:
        orientation = image.getexif().get(ORIENTATION)
    except Exception:  # a damaged tag is no reason to refuse the picture
        orientation = None
    return Metadata(
        icc if isinstance(icc, bytes) and len(icc) >= 128 else None,
        None if dpi is None else (float(dpi[0]), float(dpi[1])),
        orientation if orientation in range(2, 9) else None,
    )


def pillow() -> Any:
    """PIL.Image, or an error that says how to get it."""
    try:
        from PIL import Image
    except ImportError:
        raise ImportError("images in files need Pillow: pip install 'gpukmeans[image]'") from None
    return Image
