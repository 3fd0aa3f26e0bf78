"""Indices that come in bands into a tiled TIFF with a palette, deflated; BigTIFF where 4 GB might not do."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gpukmeans.atomic_write import atomic
from gpukmeans.image.files.bands import BAND, MISSING
from gpukmeans.image.files.pillow import ORIENTATION
from gpukmeans.image.levels import MOST_FILE_COLORS, Levels, to_16_bit
from gpukmeans.image.picture import Metadata

# TIFF's tag.
_ICC_PROFILE = 34675


def write_tiled(
    path: Path, indices: Iterable[NDArray[Any]], height: int, width: int, palette: Levels, metadata: Metadata
) -> None:
    """Write a whole file, or none: with a palette, or with red, green, blue and alpha if the palette has alpha, or more
    than 256 colors.

    indices: bands (BAND, width) from the top on, the last of which may have fewer rows. palette: (k, 3) or (k, 4)
    uint8.

    Raises OSError for a file that cannot be written, ImportError without tifffile.
    """
    try:
        import tifffile
    except ImportError:
        raise ImportError(MISSING) from None
    c = palette.shape[1]
    full = c == 4 or len(palette) > MOST_FILE_COLORS
    how: dict[str, Any] = {"photometric": "rgb", "extrasamples": ["unassalpha"] if c == 4 else []}
    if not full:
        colormap = np.zeros((3, MOST_FILE_COLORS), np.uint16)
        colormap[:, : len(palette)] = to_16_bit(palette.T)
        how = {"photometric": "palette", "colormap": colormap}
    extra: list[Any] = []
    if metadata.rgb_profile is not None:
        extra.append((_ICC_PROFILE, 7, len(metadata.rgb_profile), metadata.rgb_profile, True))
    if metadata.orientation is not None:
        extra.append((ORIENTATION, 3, 1, metadata.orientation, True))
    resolution: dict[str, Any] = {} if metadata.dpi is None else {"resolution": metadata.dpi, "resolutionunit": "INCH"}

    def tiles() -> Iterator[NDArray[Any]]:
        for band in indices:
            for column in range(0, width, BAND):
                tile = np.zeros((BAND, BAND, c) if full else (BAND, BAND), np.uint8)
                part = band[:, column : column + BAND]
                if full:
                    part = palette[part]
                tile[: part.shape[0], : part.shape[1]] = part
                yield tile

    with ExitStack() as stack:
        file = stack.enter_context(atomic(path))
        big = width * height * (c if full else 1) > 2**31  # deflated they seldom grow, but they may
        writer = stack.enter_context(tifffile.TiffWriter(file, bigtiff=big))
        writer.write(
            tiles(),
            shape=(height, width, c) if full else (height, width),
            dtype=np.uint8,
            tile=(BAND, BAND),
            **how,
            compression="zlib",
            extratags=extra,
            metadata=None,
            software=False,
            **resolution,
        )
