"""The frames of an animation as a picture, whole ones, one below another, with their times."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from gpukmeans.image.files.pillow import metadata_of
from gpukmeans.image.picture import Picture, from_array

if TYPE_CHECKING:
    from PIL.Image import Image


def from_frames(image: Image, count: int) -> Picture:
    """Of an image of so many frames: each as it is seen, after what the ones before it left."""
    first = 1 if image.info.get("default_image") and count > 1 else 0  # PNG's, for who knows no animations
    frames = np.empty((count - first, image.height, image.width, 4), np.uint8)
    durations, own = [], metadata_of(image)
    for i in range(first, count):
        image.seek(i)
        image.load()
        shown = np.asarray(image.convert("RGBA"))
        frames[i - first] = np.where(shown[..., 3:] > 0, shown, 0)
        durations.append(float(image.info.get("duration") or 0))
    picture = from_array(frames)
    metadata = replace(own, durations=tuple(durations), plays=_plays(image))
    if len(frames) == 1:
        return replace(picture, frames=0, metadata=replace(metadata, durations=None))
    return replace(picture, metadata=metadata)


def _plays(image: Image) -> int:
    """How often it is shown, 0 for ever. A GIF says how often it is repeated, or nothing if it is not."""
    loop = image.info.get("loop")
    if image.format == "GIF":
        return 1 if loop is None else int(loop) + 1 if loop else 0
    return int(loop or 0)
