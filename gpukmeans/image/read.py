"""Pictures as levels: from arrays, Pillow's images and files. Pillow is imported only for the latter two."""

from __future__ import annotations

import io
import os
import warnings
from dataclasses import dataclass, field, replace
from typing import IO, TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from gpukmeans import arrays
from gpukmeans.image.color import Levels

if TYPE_CHECKING:
    from PIL.Image import Image

# The tag of EXIF, and of TIFF, that says how a picture is to be turned.
ORIENTATION = 274

# Pillow's own limit, a quarter of a gigabyte at three bytes a pixel, doubled: beyond, a small file that claims to be
# large is more likely than a photograph, and a large one is better read in bands.
MOST_PIXELS = 2 * (1024**3 // 4 // 3)


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
    """levels: (h, w, c), uint8 or uint16, c 1, 3 or 4 (only if a pixel is not opaque; the color of what is fully
    transparent is zero); or CuPy's, as `on_gpu` leaves them. channels: those of the source, 2-dimensional arrays
    having 0. dtype: the source's."""

    levels: Levels
    channels: int
    dtype: np.dtype
    metadata: Metadata = field(default_factory=Metadata)

    def premultiplied(self) -> Levels:
        return premultiplied(self.levels)


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
            return _decoded(file, os.fspath(source))
    if isinstance(source, (bytes, bytearray, memoryview)):
        return _decoded(io.BytesIO(source), "the data")
    if type(source).__module__.startswith("PIL."):
        return from_pil(source)
    if hasattr(source, "read"):
        return _decoded(source, getattr(source, "name", "the file"))
    array = arrays.opened(source)
    return from_array(np.asarray(array)) if arrays.gpu_of(array) is None else on_gpu(array)


# ---------------------------------------------------------------- arrays


def on_gpu(array: Any) -> Picture:
    """The same of CuPy's, 8 bits a channel: its levels stay where they are. Others come to the host."""
    _check_shape(array)
    if array.dtype != np.uint8:
        return from_array(arrays.to_numpy(array))
    levels = array.reshape(array.shape[0], array.shape[1], -1)
    return Picture(levels, array.shape[2] if array.ndim == 3 else 0, array.dtype)


def on_host(picture: Picture) -> Picture:
    """The picture with levels that are NumPy's."""
    if arrays.gpu_of(picture.levels) is None:
        return picture
    return replace(picture, levels=_without_idle_alpha(arrays.to_numpy(picture.levels)))


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
        levels: Levels = np.rint(array * np.float64(65535)).astype(np.uint16)
    elif array.dtype in (np.uint8, np.uint16):
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
    return np.where(alpha[..., None] > 0, levels, 0).astype(levels.dtype, copy=False)


# ---------------------------------------------------------------- Pillow


def _decoded(file: IO[bytes], name: str) -> Picture:
    Image = pillow()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of metadata gone wrong, and of sizes, which are checked below
        try:
            with Image.open(file) as image:
                check_size(image.width, image.height, name)
                # Two pictures in one JPEG, as telephones write them, are one and its preview.
                frames = 1 if image.format == "MPO" else getattr(image, "n_frames", 1)
                if frames > 1:
                    raise ImageError(
                        f"{name} holds {frames} pictures: save them as files, one each; `gpukmeans quantize "
                        "--shared-palette` gives them one palette."
                    )
                image.load()
                return from_pil(image)
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
    if image.mode in ("CMYK", "LAB"):
        image, metadata = _in_srgb(image, metadata), replace(metadata, icc_profile=None)
    if image.mode == "F" or image.mode.startswith("I"):
        return replace(from_array(_deep(np.asarray(image))), metadata=metadata)
    if image.has_transparency_data:
        image = image.convert("RGBA")
    elif image.mode in ("1", "L"):
        image = image.convert("L")
    elif image.mode != "RGB":
        image = image.convert("RGB")
    return replace(from_array(np.asarray(image)), metadata=metadata)


def _deep(array: NDArray[Any]) -> NDArray[Any]:
    """More than 8 bits of grey, which Pillow holds in 16 or 32."""
    if array.dtype.kind == "f" or array.dtype.itemsize == 2:
        return array
    if array.min() < 0 or array.max() > 65535:
        raise ImageError(f"grey values from {array.min()} to {array.max()} do not fit 16 bits: scale them first.")
    return array.astype(np.uint16)


def _in_srgb(image: Image, metadata: Metadata) -> Image:
    """By the image's own profile where there is a valid one, else by Pillow's formulas."""
    from PIL import ImageCms

    srgb = ImageCms.createProfile("sRGB")
    try:
        if metadata.icc_profile:
            own: Any = ImageCms.ImageCmsProfile(io.BytesIO(metadata.icc_profile))
        elif image.mode == "LAB":
            own = ImageCms.createProfile("LAB")
        else:
            return image.convert("RGB")
        converted = ImageCms.profileToProfile(image, own, srgb, outputMode="RGB")
        assert converted is not None  # only inPlace=True returns None
        return converted
    except (ImageCms.PyCMSError, OSError):
        return image.convert("RGB")


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
