"""Quantized: what `quantize` and `remap` return."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

import numpy as np

from gpukmeans import array_interop
from gpukmeans.image.files import write
from gpukmeans.image.files.pillow import to_pil
from gpukmeans.image.levels import Levels, largest_level, to_8_bit, to_rgba
from gpukmeans.image.matte import WHITE
from gpukmeans.image.palette.fit import Step
from gpukmeans.image.picture import ImageError, Metadata

if TYPE_CHECKING:
    from PIL.Image import Image


@dataclass(frozen=True, eq=False)
class Quantized:
    """A picture in few colors.

    Attributes
    ----------
    palette : ndarray of shape (k, 3), or (k, 4) with alpha, uint8 or uint16
        The colors, all of them in use after `quantize` without dithering; fewer than asked for if the picture has
        fewer. uint16 for pictures of 16 bits or of floats. The first is the fully transparent one, if there is any.
    indices : array of shape (height, width), uint8, or uint16 for more than 256 colors
        For each pixel the index of its color; of the source's library and on its device, if that was an array. Of an
        animation (frames, height, width).
    psnr : float
        Peak signal-to-noise ratio in dB, over all channels, which are premultiplied by alpha; inf if nothing was lost.
    converged : bool
        Whether the palette is a fixed point of Lloyd's iteration on all pixels: each pixel has its nearest color
        (before dithering), and each color is its pixels' mean, rounded to levels.
    history : list of Step
        The iterations that led to the palette.
    """

    palette: Levels
    indices: Any
    psnr: float
    converged: bool = True
    history: list[Step] = field(default_factory=list, repr=False)
    metadata: Metadata = field(default_factory=Metadata, repr=False)
    _channels: int = field(default=3, repr=False)
    _dtype: Any = field(default=np.uint8, repr=False)

    def to_array(self) -> Any:
        """The picture as an array of the source's shape, dtype, library and device."""
        colors = self.palette
        if self._channels < 3:
            colors = colors[:, :1]
        elif self._channels == 4:
            colors = to_rgba(colors)
        if np.dtype(self._dtype).kind == "f":
            colors = (colors / largest_level(colors.dtype)).astype(self._dtype)
        return array_interop.look_up(np.ascontiguousarray(colors if self._channels else colors[:, 0]), self.indices)

    def to_pil(self) -> Image:
        """A Pillow image of mode P up to 256 colors, otherwise RGB or RGBA; of 8 bits a channel.

        Raises ImageError for an animation.
        """
        if self.indices.ndim == 3:
            raise ImageError("an animation is no single image: save it as GIF, PNG or WebP.")
        return to_pil(array_interop.to_numpy(self.indices), to_8_bit(self.palette))

    def save(self, path: str | Path | IO[bytes], format: str | None = None, *, matte: str = WHITE) -> None:
        """Write a PNG, GIF, WebP or TIFF, with the source's ICC profile, orientation and resolution; of an animation a
        PNG, GIF or WebP, with its frames' times (100 ms of an array's) and how often it is shown.

        Parameters
        ----------
        path : path or binary file
            A path gets a whole file or none. GIF has no room for such data, so there the picture itself is turned;
            WebP has none for the resolution.
        format : {"PNG", "GIF", "WEBP", "TIFF"}, default=None
            By the name's ending unless given.
        matte : str, default="#ffffff"
            What a GIF has half-transparent colors over, as it has none.

        Raises
        ------
        ImageError
            If the format is none of these, or cannot hold so many colors.
        OSError
            If the file cannot be written.
        """
        if format is None:
            name = path if isinstance(path, (str, Path)) else getattr(path, "name", "")
            format = write.format_of(name)
        elif format.upper() not in write.FORMATS.values():
            raise ImageError(f"format must be one of {sorted(set(write.FORMATS.values()))}, got {format!r}.")
        indices = array_interop.to_numpy(self.indices)
        write.save(path, format.upper(), indices, to_8_bit(self.palette), self.metadata, matte)
