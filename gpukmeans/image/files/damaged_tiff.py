"""What libtiff, and so Pillow and libvips, lets pass in a damaged TIFF: missing parts, and wrong checksums."""

from __future__ import annotations

import zlib
from typing import IO, Any

from gpukmeans.image.picture import ImageError

# TIFF's numbers of tags, and of the two names of deflation.
WIDTH, HEIGHT, COMPRESSION, SAMPLES, ROWS, PLANES = 256, 257, 259, 277, 278, 284
STRIPS, TILES = (273, 279), (324, 325)  # where they begin, and their sizes in bytes
TILE_WIDTH, TILE_HEIGHT = 322, 323
DEFLATED = (8, 32946)

# What is inflated at most, so that a file that names the same bytes again and again does not take for ever: twice what
# the pixels of 16 bits and four channels have, and some tiles that are larger than the picture.
_PER_PIXEL, _MORE = 16, 2**26


def check(file: IO[bytes], name: str) -> None:
    """Raise ImageError if the first picture of a TIFF has fewer strips or tiles than it says, which are taken for
    black, or if what is deflated there is not what was written, to which no decoder looks once it has all pixels."""
    try:
        tags = first_directory(file)
        width, height = int(tags[WIDTH]), int(tags[HEIGHT])
        tiled = TILES[0] in tags
        across, down = (tags[TILE_WIDTH], tags[TILE_HEIGHT]) if tiled else (width, min(tags.get(ROWS, height), height))
        needed = -(-width // int(across)) * -(-height // int(down))
        if tags.get(PLANES, 1) == 2:
            needed *= int(tags.get(SAMPLES, 1))
        starts, sizes = (_all(tags[tag]) for tag in (TILES if tiled else STRIPS))
    except Exception:  # whatever is amiss there is for the decoder to say
        return
    if min(len(starts), len(sizes)) < needed:
        raise ImageError(f"{name} is damaged: it has {len(starts)} of the {needed} parts that its picture is made of.")
    if tags.get(COMPRESSION) not in DEFLATED:
        return
    left = _PER_PIXEL * width * height + _MORE
    for start, size in zip(starts, sizes, strict=False):
        if start < 2**62:  # as far as files can be
            left = _left_after_inflating(file, start, size, left, name)


def first_directory(file: IO[bytes]) -> Any:
    """Tags by number. Whatever Pillow raises for what is no TIFF."""
    from PIL import TiffImagePlugin

    file.seek(0)
    start = file.read(8)
    tags = TiffImagePlugin.ImageFileDirectory_v2(start + file.read(8) if 43 in start[2:4] else start)
    file.seek(tags.next)
    tags.load(file)
    return tags


def _all(values: Any) -> tuple[int, ...]:
    """A tag's values, of which there may be one."""
    return values if isinstance(values, tuple) else (values,)


def _left_after_inflating(file: IO[bytes], start: int, size: int, left: int, name: str) -> int:
    """How many bytes may be inflated after this part, of those left before it."""
    file.seek(start)
    inflater = zlib.decompressobj()
    while left > 0 and size > 0 and not inflater.eof:
        data = file.read(min(size, 2**16))
        if not data:
            break
        size -= len(data)
        try:
            while data and left > 0:
                left -= len(inflater.decompress(data, 2**20))
                data = inflater.unconsumed_tail
        except zlib.error as error:
            raise ImageError(f"{name} cannot be decoded, it is damaged: {error}") from None
    return left
