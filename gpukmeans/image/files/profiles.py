"""Colors as files mean them, brought to sRGB: other color models, profiles of grey, and PNG's gamma."""

from __future__ import annotations

import io
from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from gpukmeans.image.color_space import encoded
from gpukmeans.image.levels import Levels, largest_level, to_rgb
from gpukmeans.image.picture import Picture, row_pieces, turned

if TYPE_CHECKING:
    from PIL.Image import Image

# PNG's gamma of 1 / 2.2 stands for sRGB, as do such as differ as little as libpng takes for equal.
_SRGB_GAMMA, _NO_DIFFERENCE = 1 / 2.2, 0.05


def from_model(mode: str, profile: bytes | None) -> Callable[[Image], Image]:
    """From CMYK or LAB to RGB, by the image's own profile where there is a valid one, else by Pillow's formulas."""
    from PIL import ImageCms

    try:
        if profile:
            own: Any = _opened(profile)
        elif mode == "LAB":
            own = ImageCms.createProfile("LAB")
        else:
            return lambda image: image.convert("RGB")
        transform = ImageCms.buildTransform(own, ImageCms.createProfile("sRGB"), mode, "RGB")
    except (ImageCms.PyCMSError, OSError):
        return lambda image: image.convert("RGB")
    return lambda image: _applied(image, transform)


def tone_of(image: Image) -> NDArray[np.uint8] | None:
    """What each of 256 levels is in sRGB, by an image's profile of grey, or else its gamma; None if it is the same."""
    profile = image.info.get("icc_profile")
    if profile is not None:
        return _grey_tone(profile) if profile[16:20] == b"GRAY" and image.mode in ("1", "L", "LA", "La") else None
    gamma = image.info.get("gamma")
    if not isinstance(gamma, float) or "srgb" in image.info or not 0 < gamma < 100:
        return None
    if abs(gamma / _SRGB_GAMMA - 1) <= _NO_DIFFERENCE:
        return None
    return encoded((np.arange(256) / 255) ** (1 / gamma), np.uint8)


def deep_tone_of(image: Image) -> NDArray[np.uint16] | None:
    """The same of 65,536 levels of grey; between those that the profile was asked for in a straight line."""
    profile = image.info.get("icc_profile")
    if profile is None:
        gamma = image.info.get("gamma")
        if tone_of(image) is None or not isinstance(gamma, float):
            return None
        return encoded((np.arange(65536) / 65535) ** (1 / gamma), np.uint16)
    if profile[16:20] != b"GRAY":
        return None
    tone = _grey_tone(profile)
    if tone is None:
        return None
    between = np.interp(np.arange(65536) / 257, np.arange(256), tone.astype(np.float64) * 257)
    return np.rint(between).astype(np.uint16)


def with_tone(picture: Picture, tone: NDArray[Any] | None) -> Picture:
    """The picture with every level, but of alpha, as the tone (256,) or (65536,) says."""
    if tone is None:
        return picture
    if picture.table is not None:
        return replace(picture, table=_toned(picture.table, tone))
    pixels = np.empty_like(picture.pixels)
    for rows in row_pieces(len(pixels)):
        pixels[rows] = _toned(picture.pixels[rows], tone)
    return replace(picture, pixels=pixels)


def _toned(levels: Levels, tone: NDArray[Any]) -> Levels:
    if levels.shape[-1] != 4:
        return tone[levels]
    return np.concatenate([np.where(levels[..., 3:] > 0, tone[levels[..., :3]], 0), levels[..., 3:]], axis=-1)


def stripped(picture: Picture) -> Picture:
    """The picture without anything that its file said beside the pixels: turned as it is to be seen, in sRGB."""
    metadata = picture.metadata
    if metadata.rgb_profile is not None:
        picture = _from_rgb_profile(picture, metadata.rgb_profile)
    pixels = picture.pixels
    if metadata.orientation is not None:
        frames = pixels.reshape(max(1, picture.frames), -1, *pixels.shape[1:])
        upright = [turned(frame, metadata.orientation) for frame in frames]
        pixels = np.ascontiguousarray(np.concatenate(upright))
    left = replace(metadata, icc_profile=None, dpi=None, orientation=None)
    return replace(picture, pixels=pixels, metadata=left)


def _from_rgb_profile(picture: Picture, profile: bytes) -> Picture:
    from PIL import Image, ImageCms

    try:
        transform = ImageCms.buildTransform(_opened(profile), ImageCms.createProfile("sRGB"), "RGB", "RGB")
    except (ImageCms.PyCMSError, OSError):  # as viewers do
        return picture

    def convert(levels: Levels) -> Levels:
        """(h, w, c)."""
        rgb = np.asarray(_applied(Image.fromarray(np.ascontiguousarray(to_rgb(levels)[..., :3])), transform))
        return rgb if levels.shape[2] != 4 else np.where(levels[..., 3:] > 0, np.dstack([rgb, levels[..., 3]]), 0)

    if picture.table is not None:
        return replace(picture, table=convert(picture.table[None])[0].astype(np.uint8))
    if largest_level(picture.pixels.dtype) != 255:
        return picture
    parts = [convert(picture.pixels[rows]) for rows in row_pieces(len(picture.pixels))]
    pixels = np.concatenate(parts).astype(np.uint8)
    return replace(picture, pixels=pixels, channels=max(picture.channels, pixels.shape[2]))


def _grey_tone(profile: bytes) -> NDArray[np.uint8] | None:
    from PIL import Image, ImageCms

    ramp = Image.frombytes("L", (256, 1), bytes(range(256)))
    try:
        # Not by its own table of fewer levels, which is coarse where curves are steep
        # (test_reading.test_a_profile_of_grey_is_heeded fails of that).
        exactly = ImageCms.Flags.NOOPTIMIZE
        srgb = ImageCms.createProfile("sRGB")
        transform = ImageCms.buildTransform(_opened(profile), srgb, "L", "RGB", flags=exactly)
        return np.asarray(_applied(ramp, transform))[0, :, 1].copy()
    except (ImageCms.PyCMSError, OSError):
        return None


def _opened(profile: bytes) -> Any:
    from PIL import ImageCms

    return ImageCms.ImageCmsProfile(io.BytesIO(profile))


def _applied(image: Image, transform: Any) -> Image:
    from PIL import ImageCms

    converted = ImageCms.applyTransform(image, transform)
    assert converted is not None  # only inPlace=True returns None
    return converted
