"""Original and result in one picture."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from gpukmeans import atomic_write
from gpukmeans.image.files import write
from gpukmeans.image.files.read import ORIENTATION, Picture, pillow
from gpukmeans.image.result import Quantized


def write_comparison(picture: Picture, result: Quantized, path: Path) -> None:
    """Original and result, as they are to be seen, and the palette below them from dark to light."""
    from PIL import ImageOps

    Image = pillow()
    palette = write.eight_bit(result.palette)
    sides = []
    for pixels in (write.eight_bit(picture.levels), palette[result.indices]):
        image = Image.fromarray(_rgba(pixels))
        if picture.metadata.orientation is not None:
            image.getexif()[ORIENTATION] = picture.metadata.orientation
            image = ImageOps.exif_transpose(image)
        sides.append(np.asarray(image))
    height, width = sides[0].shape[:2]
    gap, strip = 8, max(16, height // 12)
    total = 2 * width + gap
    order = np.argsort(palette[:, :3] @ np.array([2126, 7152, 722]), kind="stable")
    stripes = _rgba(palette[order][None])[0][np.arange(total) * len(palette) // total]
    canvas = np.full((height + gap + strip, total, 4), 255, np.uint8)
    canvas[:height, :width], canvas[:height, width + gap :] = sides
    canvas[height + gap :] = stripes
    atomic_write.write(path, partial(Image.fromarray(canvas).save, format="PNG", optimize=True))


def _rgba(pixels: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Pixels (h, w, 1), (h, w, 3) or (h, w, 4) as (h, w, 4)."""
    h, w, c = pixels.shape
    result = np.full((h, w, 4), 255, np.uint8)
    result[..., : 4 if c == 4 else 3] = pixels
    return result
