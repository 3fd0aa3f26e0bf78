"""HEIC and HEIF: Pillow reads them once pillow-heif has taught it to, which is done when such a file comes."""

from __future__ import annotations

import os
from typing import IO, Any

MISSING = "is HEIC, which Pillow reads with pillow-heif: pip install 'gpukmeans[heic]'."

# What a file says it is in its first box (ISO/IEC 23008-12, annex B): pictures and sequences by HEVC, and of any codec.
_BRANDS = (b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"mif1", b"msf1")


def begins_as_one(file: IO[bytes]) -> bool:
    """Whether a file's beginning is that of one. It is left there."""
    file.seek(0)
    start = file.read(12)
    file.seek(0)
    return start[4:8] == b"ftyp" and start[8:12] in _BRANDS


def teach(Image: Any) -> None:
    """Have Pillow read these files, where pillow-heif is installed and nobody did so before."""
    if "HEIF" in Image.OPEN:
        return
    try:
        import pillow_heif
    except ImportError:
        return
    pillow_heif.register_heif_opener(thumbnails=False)


def teach_for(path: str | os.PathLike[str], Image: Any) -> None:
    """The same, if the file is one; OSError if it cannot be read."""
    with open(path, "rb") as file:
        if begins_as_one(file):
            teach(Image)
