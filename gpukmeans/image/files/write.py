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

    from gpukmeans.image.files.animation import Frames

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
        return _animated(format, animation.Frames(upright, [palette] * len(upright)), metadata)
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
    return _animated(format, together, metadata)


def _animated(format: str, frames: Frames, metadata: Metadata) -> bytes:
    """The whole file. ImageError for a format that holds no animations, or not so many colors."""
    from gpukmeans.image.files import animated_webp, animation, apng, gif

    times = metadata.durations or (animation.USUAL,) * len(frames.indices)
    if format == "GIF":
        return gif.animated(frames, times, metadata.plays)
    if format == "PNG":
        return apng.animated(frames, times, metadata)
    if format == "WEBP":
        return animated_webp.animated(frames, times, metadata)
    raise ImageError(f"{format} holds no animation: write GIF, PNG or WebP, or choose a frame with --page.")


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
        from gpukmeans.image.files import gif

        return gif.still(indices, palette, metadata.orientation), {"optimize": False}
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
