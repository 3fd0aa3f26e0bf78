"""Pictures of few colors into files: palettes where the format has them, and what the source's file said besides."""

from __future__ import annotations

import io
import os
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from gpukmeans import atomic_write
from gpukmeans.image.files.pillow import ORIENTATION, pil_image, to_pil
from gpukmeans.image.levels import MOST_FILE_COLORS
from gpukmeans.image.matte import WHITE, hardened
from gpukmeans.image.picture import ImageError, Metadata, row_pieces, turned

if TYPE_CHECKING:
    from PIL.Image import Image

FORMATS = {".png": "PNG", ".gif": "GIF", ".webp": "WEBP", ".tif": "TIFF", ".tiff": "TIFF"}


def format_of(path: Path | str) -> str:
    """The format that a file's name asks for; ImageError for one that cannot hold the result."""
    suffix = Path(path).suffix.lower()
    if suffix not in FORMATS:
        raise ImageError(f"cannot write {str(path)!r}: the name has to end in {', '.join(FORMATS)}.")
    return FORMATS[suffix]


def is_tiff(path: str | os.PathLike[str]) -> bool:
    """Whether a file's name asks for a TIFF."""
    return FORMATS.get(Path(path).suffix.lower()) == "TIFF"


def save(
    target: Path | str | IO[bytes],
    format: str,
    indices: NDArray[Any],
    palette: NDArray[np.uint8],
    metadata: Metadata,
    matte: str = WHITE,
) -> None:
    """Write a whole file, or none; into a binary file all at once. matte: for half-transparent colors in a GIF."""
    data = encode(format, indices, palette, metadata, matte)
    if isinstance(target, (str, Path)):
        atomic_write.write(target, lambda file: file.write(data))
        return
    left = memoryview(data)
    while len(left):  # a file without a buffer may take a part
        left = left[target.write(left) or len(left) :]


def encode(
    format: str, indices: NDArray[Any], palette: NDArray[np.uint8], metadata: Metadata, matte: str = WHITE
) -> bytes:
    """The bytes of a file of a picture (h, w), or of an animation (t, h, w)."""
    if len(palette) > MOST_FILE_COLORS:
        indices, palette = _without_idle_colors(indices, palette)
    if format == "GIF" and palette.shape[1] == 4:
        indices, palette = _with_one_transparent(indices, hardened(palette, matte))
    if indices.ndim == 3:
        from gpukmeans.image.files import animation

        upright = (
            np.stack([turned(frame, metadata.orientation) for frame in indices]) if metadata.orientation else indices
        )
        return animation.encode(format, animation.Frames(upright, [palette] * len(upright)), metadata)
    image, options = _prepared(format, indices, palette, metadata)
    buffer = io.BytesIO()
    image.save(buffer, format=format, **options)
    return buffer.getvalue()


def encode_frames(
    format: str, frames: list[tuple[NDArray[Any], NDArray[np.uint8]]], metadata: Metadata, matte: str = WHITE
) -> bytes:
    """The bytes of an animation's file: indices (h, w) and palette of each frame."""
    from gpukmeans.image.files import animation

    if format == "GIF":
        hard = [(own, hardened(palette, matte) if palette.shape[1] == 4 else palette) for own, palette in frames]
        frames = [_with_one_transparent(*each) if each[1].shape[1] == 4 else each for each in hard]
    together = animation.Frames(np.stack([own for own, _ in frames]), [palette for _, palette in frames])
    return animation.encode(format, together, metadata)


def _without_idle_colors(indices: NDArray[Any], palette: NDArray[np.uint8]) -> tuple[NDArray[Any], NDArray[np.uint8]]:
    """Without the palette's colors that no pixel has, if that makes it one that files hold."""
    used = np.zeros(len(palette), bool)
    for rows in row_pieces(len(indices)):
        used[indices[rows]] = True
    if np.count_nonzero(used) > MOST_FILE_COLORS:
        return indices, palette
    return (np.cumsum(used) - 1).astype(np.uint8)[indices], palette[used]


def _with_one_transparent(indices: NDArray[Any], palette: NDArray[np.uint8]) -> tuple[NDArray[Any], NDArray[np.uint8]]:
    """Indices of the first of several transparent colors for all of them."""
    clear = np.flatnonzero(palette[:, 3] == 0)
    if len(clear) < 2:
        return indices, palette
    first = np.arange(len(palette), dtype=indices.dtype)
    first[clear] = clear[0]
    return first[indices], palette


def _prepared(
    format: str, indices: NDArray[Any], palette: NDArray[np.uint8], metadata: Metadata
) -> tuple[Image, dict[str, Any]]:
    """The image, and what Pillow's `save` needs to know, for a format of `FORMATS`."""
    Image = pil_image()
    options: dict[str, Any] = {}
    if metadata.rgb_profile is not None:
        options["icc_profile"] = metadata.rgb_profile
    if metadata.dpi is not None:
        options["dpi"] = metadata.dpi
    exif = Image.Exif()
    if metadata.orientation is not None:
        exif[ORIENTATION] = metadata.orientation
    if format == "GIF":
        return _gif(indices, palette, metadata.orientation), {"optimize": False}
    if format == "WEBP":
        options |= {"lossless": True, "exact": True, "exif": exif}
        options.pop("dpi", None)
        return to_pil(indices, palette).convert("RGB" if palette.shape[1] == 3 else "RGBA"), options
    if format == "TIFF":
        options["compression"] = "tiff_adobe_deflate"
        if metadata.orientation is not None:
            options["tiffinfo"] = {ORIENTATION: metadata.orientation}
        image = to_pil(indices, palette)
        return image.convert("RGBA") if palette.shape[1] == 4 else image, options  # its palettes have no alpha
    return to_pil(indices, palette), {**options, "optimize": True, **({"exif": exif} if len(exif) else {})}


def _gif(indices: NDArray[Any], palette: NDArray[np.uint8], orientation: int | None) -> Image:
    """Turned as it is to be seen, since GIF cannot say so."""
    from PIL import ImageOps

    if len(palette) > MOST_FILE_COLORS:
        raise ImageError(
            f"GIF holds at most {MOST_FILE_COLORS} colors, one of them for what is transparent, not {len(palette)}: "
            "ask for fewer, or write PNG."
        )
    image = to_pil(indices, palette[:, :3])
    if palette.shape[1] == 4:
        alpha = palette[:, 3]
        if not alpha.all():
            image.info["transparency"] = int(alpha.argmin())
    if orientation is not None:
        image.getexif()[ORIENTATION] = orientation
        image = ImageOps.exif_transpose(image)
    return image
