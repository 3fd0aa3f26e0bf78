"""Levels of more than 8 bits that Pillow gives in 8."""

from __future__ import annotations

import io
from typing import IO, TYPE_CHECKING, Any

if TYPE_CHECKING:
    from PIL.Image import Image

_BITS_PER_SAMPLE = 258

# Where JPEG 2000's first marker segments, and AVIF's boxes, say how many bits there are.
_SEARCHED = 2**16


def bits_lost(image: Image, file: IO[bytes]) -> int:
    """How many bits the levels of an opened image, not loaded yet, have in its file, if Pillow reads but the upper 8;
    else 0. The file is left where it was."""
    if image.mode.startswith(("I", "F")):
        return 0
    bits = _bits(image, file)
    return bits if bits > 8 else 0


def _bits(image: Any, file: IO[bytes]) -> int:
    tile = getattr(image, "tile", None)
    if image.format == "PNG" and tile:
        return 16 if str(tile[0][3]).endswith("16B") else 8
    if image.format == "TIFF":
        bits = image.tag_v2.get(_BITS_PER_SAMPLE, 1)
        return int(max(bits) if isinstance(bits, tuple) else bits)
    if image.format == "HEIF":
        return int(image.info.get("bit_depth", 8))
    if image.format == "PPM" and tile:
        most = tile[0][3][-1] if isinstance(tile[0][3], tuple) else 255
        return int(most).bit_length() if isinstance(most, int) else 8
    if image.format in ("JPEG2000", "AVIF"):
        place = file.tell()
        file.seek(0)
        start = file.read(_SEARCHED)
        file.seek(place, io.SEEK_SET)
        return _of_jpeg_2000(start) if image.format == "JPEG2000" else _of_avif(start)
    return 8


def _of_jpeg_2000(start: bytes) -> int:
    """By its SIZ segment: 38 bytes, and then for each channel the bits less 1, the top one for a sign."""
    at = start.find(b"\xff\x4f\xff\x51")
    return (start[at + 42] & 127) + 1 if 0 <= at < len(start) - 42 else 8


def _of_avif(start: bytes) -> int:
    """By its pixi box: version and flags, the number of channels, and the bits of each."""
    at = start.find(b"pixi")
    return start[at + 9] if 0 <= at < len(start) - 9 else 8
