"""Original and result in one picture."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gpukmeans import atomic_write
from gpukmeans.image.files.pillow import ORIENTATION, pil_image
from gpukmeans.image.levels import Levels, to_8_bit, to_rgba
from gpukmeans.image.picture import Picture


def write_comparison(picture: Picture, palette: Levels, indices: NDArray[Any], path: Path) -> None:
    """Write a PNG of original and result, as they are to be seen, and below them the palette from dark to light.

    palette: (k, 3) or (k, 4). indices: (h, w), into it.
    """
    from PIL import ImageOps

    Image = pil_image()
    palette = to_8_bit(palette)
    sides = []
    for pixels in (to_8_bit(picture.levels), palette[indices]):
        image = Image.fromarray(to_rgba(pixels))
        if picture.metadata.orientation is not None:
            image.getexif()[ORIENTATION] = picture.metadata.orientation
            image = ImageOps.exif_transpose(image)
        sides.append(np.asarray(image))
    height, width = sides[0].shape[:2]
    gap, strip = 8, max(16, height // 12)
    total = 2 * width + gap
    order = np.argsort(palette[:, :3] @ np.array([2126, 7152, 722]), kind="stable")
    stripes = to_rgba(palette[order])[np.arange(total) * len(palette) // total]
    canvas = np.full((height + gap + strip, total, 4), 255, np.uint8)
    canvas[:height, :width], canvas[:height, width + gap :] = sides
    canvas[height + gap :] = stripes
    atomic_write.write(path, partial(Image.fromarray(canvas).save, format="PNG", optimize=True))
