"""Which of several pictures in a file is meant: a page, the largest of a pyramid, the whole of layers, all frames."""

from __future__ import annotations

from itertools import pairwise
from typing import TYPE_CHECKING, Any

from gpukmeans.image.picture import ImageError

if TYPE_CHECKING:
    from PIL.Image import Image

# Formats whose further pictures are frames of an animation.
ANIMATED = ("GIF", "PNG", "WEBP", "AVIF")

# More take minutes, however small they are and whatever few bytes they come in; films have a few hundred.
MOST_FRAMES = 2**12

# Two pictures in one JPEG, as telephones write them, are one and its preview; Pillow's frames of layers come after the
# composite.
_ONE = ("MPO", "PSD")

# TIFF's tag of what a page is, whose bits say that it is another one in fewer pixels, or a mask.
_KIND, _REDUCED, _MASK = 254, 1, 4


def frames_of(image: Image, name: str, page: int | None) -> int:
    """How many frames to read, 0 for the one picture to which the image is set; ImageError where that is not one.

    page: which of several, from 1 on.
    """
    count = 1 if image.format in _ONE else getattr(image, "n_frames", 1)
    if page is not None:
        if not 1 <= page <= count:
            raise ImageError(f"{name} has {count} page{'s'[: count != 1]}, and no page {page}.")
        image.seek(page - 1)
        return 0
    if count == 1:
        return 0
    if image.format in ANIMATED:
        if count > MOST_FRAMES:
            raise ImageError(
                f"{name} has {count:,} frames, more than the {MOST_FRAMES:,} of an animation that is read."
            )
        return count
    largest = _largest_level(image, count) if image.format == "TIFF" else None
    if largest is None:
        raise ImageError(
            f"{name} holds {count} pictures: choose one with --page (from 1 to {count}), or save them as files, one "
            "each; `gpukmeans quantize --shared-palette` gives them one palette."
        )
    image.seek(largest)
    return 0


def _largest_level(image: Any, count: int) -> int | None:
    """The page of which all others are reduced copies or masks: by their tags, or because each has half of the pixels
    of the last in each direction."""
    sizes, kinds = [], []
    for i in range(count):
        image.seek(i)
        sizes.append(image.size)
        kinds.append(int(image.tag_v2.get(_KIND, 0)))
    own = [i for i in range(count) if not kinds[i] & (_REDUCED | _MASK)]
    if len(own) == 1:
        return own[0]
    halves = all(
        all(below in (above // 2, -(-above // 2)) for above, below in zip(larger, smaller, strict=True))
        for larger, smaller in pairwise(sizes)
    )
    return 0 if halves else None
