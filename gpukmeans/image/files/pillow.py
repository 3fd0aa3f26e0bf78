"""Pillow's images as pictures, and pictures of few colors as Pillow's. Pillow is imported where it is needed."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from gpukmeans.image.files.deep_tiff import stated_range, white_is_zero
from gpukmeans.image.files.profiles import deep_tone_of, from_model, tone_of, with_tone
from gpukmeans.image.levels import MOST_FILE_COLORS
from gpukmeans.image.picture import (
    TURNED,
    ImageError,
    Metadata,
    Picture,
    from_array,
    looked_up,
    row_pieces,
    without_idle_alpha,
)

if TYPE_CHECKING:
    from PIL.Image import Image

# The tag of EXIF, and of TIFF, that says how a picture is to be turned.
ORIENTATION = 274


def pil_image() -> Any:
    """PIL.Image, or an error that says how to get it."""
    try:
        from PIL import Image
    except ImportError:
        raise ImportError("images in files need Pillow: pip install 'gpukmeans[image]'") from None
    return Image


def from_pil(image: Image, value_range: tuple[float, float] | None = None) -> Picture:
    """The image's current frame, in sRGB or with its profile. value_range: of grey of more than 8 bits, if not all."""
    image.load()  # turns a TIFF as its tag says, and takes the tag away
    if image.width * image.height == 0:
        raise ImageError(f"an image needs at least one pixel, got {image.width} x {image.height}.")
    metadata = metadata_of(image)
    if image.mode == "F" or image.mode.startswith("I"):
        picture = _deep(image, value_range)
    elif image.mode == "P":
        picture = with_tone(_indexed(image), tone_of(image))
    elif image.mode in ("CMYK", "LAB"):
        picture = from_array(_stacked(image, from_model(image.mode, metadata.icc_profile)))
        metadata = replace(metadata, icc_profile=None)
    elif image.has_transparency_data:
        picture = with_tone(from_array(_stacked(image, lambda rows: rows.convert("RGBA"))), tone_of(image))
    else:
        mode = "L" if image.mode in ("1", "L") else "RGB"
        picture = with_tone(from_array(_stacked(image, lambda rows: rows.convert(mode))), tone_of(image))
    return replace(picture, metadata=metadata)


def _stacked(image: Image, convert: Callable[[Image], Image]) -> NDArray[Any]:
    """The image as an array, (h, w) or (h, w, c), converted some rows at a time. Fully transparent pixels are zero."""
    result: NDArray[Any] | None = None
    for rows in row_pieces(image.height):
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
    for rows in row_pieces(len(pixels)):
        used += np.bincount(pixels[rows].reshape(-1), minlength=256)
    # No color counts, not as a transparent one either, that no pixel has.
    table = np.where(used[:, None] > 0, table, table[pixels[0, 0]])
    return Picture(pixels, len(mode), np.dtype(np.uint8), table=without_idle_alpha(table[None])[0])


def _deep(image: Image, value_range: tuple[float, float] | None) -> Picture:
    """More than 8 bits of grey, which Pillow holds in 16 or 32."""
    array = _stacked(image, lambda rows: rows)
    value_range = value_range or stated_range(image)
    if array.dtype.kind != "f" and array.dtype.itemsize > 2 and value_range is None:
        if array.min() < 0 or array.max() > 65535:
            raise ImageError(
                f"grey values from {array.min()} to {array.max()} do not fit 16 bits: say what black and white are "
                "with --range, or scale them first."
            )
        array = array.astype(np.uint16)
    if white_is_zero(image) and array.dtype.kind != "f":
        array = 65535 - array
    picture = from_array(array, value_range)
    clear = image.info.get("transparency")
    levels = with_tone(picture, deep_tone_of(image)).pixels
    if isinstance(clear, int) and array.dtype.kind != "f":  # a level of PNG that stands for nothing
        seen = np.where(array == clear, 0, 65535)[..., None].astype(np.uint16)
        levels = np.where(seen > 0, np.concatenate([*[levels] * 3, seen], axis=-1), 0).astype(np.uint16)
        return replace(picture, pixels=without_idle_alpha(levels), channels=4)
    return replace(picture, pixels=levels)


def metadata_of(image: Image) -> Metadata:
    """What is kept of what an image's file says."""
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
        orientation if orientation in TURNED else None,
    )


def to_pil(indices: NDArray[Any], palette: NDArray[np.uint8]) -> Image:
    """Mode P up to 256 colors, otherwise RGB or RGBA."""
    Image = pil_image()
    height, width = indices.shape
    mode = "RGB" if palette.shape[1] == 3 else "RGBA"
    if len(palette) > MOST_FILE_COLORS:
        return Image.frombytes(mode, (width, height), looked_up(palette, indices).data.cast("B"))
    image = Image.frombytes("P", (width, height), np.ascontiguousarray(indices).data.cast("B"))
    image.putpalette(palette.tobytes(), mode)
    return image
