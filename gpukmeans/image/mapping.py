"""A picture whose colors are counted, and how it is mapped onto a palette: indices, with dithering or without, and what
they err by."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from gpukmeans import array_interop
from gpukmeans.engine import devices
from gpukmeans.image import dispatch
from gpukmeans.image.levels import (
    Levels,
    index_dtype,
    is_grey,
    largest_level,
    premultiplied,
    psnr,
    to_rgba,
    with_common_channels,
)
from gpukmeans.image.numpy.pixels import IndexedPixels, NumPyPixels
from gpukmeans.image.palette.fit import PaletteFit
from gpukmeans.image.picture import Picture, on_host
from gpukmeans.image.protocol import Colors, Pixels
from gpukmeans.image.result import Quantized


class CountedPicture:
    """A picture's pixels and distinct colors, on a device that `resolve` returned.

    palette_channels: 4 if it is to be mapped onto a palette with alpha, whether or not the picture has any.
    """

    pixels: Pixels
    colors: Colors
    _codes: Any  # the colors', as `Pixels.count` says

    def __init__(self, picture: Picture, *, device: str, palette_channels: int = 3) -> None:
        self.picture, self.device = on_host(picture) if device == "cpu" else picture, device
        h, w, c = self.picture.shape
        with devices.on(device):
            if self.picture.table is None:
                self.pixels = dispatch.make_pixels(self.picture.pixels.reshape(h * w, c), device=device)
            else:  # bytes, which are counted here before they are on a GPU
                self.pixels = IndexedPixels(self.picture.pixels.reshape(-1), self.picture.table)
            self._codes, counts = self.pixels.count()
            self.colors = dispatch.make_colors(
                self._codes, counts, c, h * w, device=device, palette_channels=palette_channels
            )

    def color_of_pixel(self) -> NDArray[np.int32]:
        """For each pixel which of the distinct colors it has: (h * w,), on the host."""
        with devices.on(self.device):
            indices = np.arange(len(self.colors), dtype=np.int32)
            return array_interop.to_numpy(self.pixels.map(self._codes, indices, np.int32))

    def mapped(self, fit: PaletteFit, space: str, dither: str, strength: float = 1.0) -> Quantized:
        """The picture in the palette's colors, by the labels of the distinct colors if it is not dithered.

        space: where ordered dithering measures.
        """
        picture, palette = self.picture, fit.palette
        if picture.shape[2] == 4:
            palette = to_rgba(palette)
        with devices.on(self.device):
            if dither == "none":
                labels = self.pixels.map(self._codes, fit.labels, index_dtype(len(palette)))
                indices, error = labels.reshape(picture.shape[:2]), self.colors.error(palette, fit.labels)
            elif picture.frames:
                indices, error = self._dithered_frames(fit, palette, space, dither, strength)
            else:
                indices, error = self._dithered(premultiplied(palette), space, dither, strength)
        channels, palette_channels = picture.channels, palette.shape[1]
        if (channels < 3 and not is_grey(palette)) or palette_channels == 4:
            channels = palette_channels  # a given palette may have what the picture had not
        if channels < 3:
            # Three equal channels stand for one (test_quantize.test_grey_stays_grey fails otherwise).
            error, values = error // 3, indices.size
        else:
            values = indices.size * palette_channels
        if picture.frames:
            indices = indices.reshape(picture.frames, -1, indices.shape[1])
        return Quantized(
            palette,
            indices,
            psnr(error, values, largest_level(palette.dtype)),
            fit.converged,
            fit.history,
            picture.metadata,
            channels,
            picture.dtype,
        )

    def _dithered_frames(
        self, fit: PaletteFit, palette: Levels, space: str, dither: str, strength: float
    ) -> tuple[Any, int]:
        """The same of frames, each by itself, so that a pattern stays where it is. A pixel that is as in the frame
        before has its index from there: error that comes from elsewhere would make still ground flicker
        (test_animations.test_still_ground_does_not_flicker fails without it)."""
        found: list[NDArray[Any]] = []
        for i in range(self.picture.frames):
            frame = self.picture.frame(i)
            counted = CountedPicture(frame, device=self.device, palette_channels=palette.shape[1])
            indices = array_interop.to_numpy(counted.mapped(fit, space, dither, strength).indices)
            if found:
                still = (frame.levels == self.picture.frame(i - 1).levels).all(axis=-1)
                indices = np.where(still, found[-1], indices)
            found.append(indices)
        together = np.concatenate(found)
        own, seen = map(premultiplied, with_common_channels(self.picture.levels, palette))
        return together, NumPyPixels(own.reshape(together.size, -1)).error(seen, together.reshape(-1))

    def _dithered(self, seen: Levels, space: str, dither: str, strength: float) -> tuple[Any, int]:
        """Indices (h, w), and the sum of squared errors over three or four channels.

        seen: the palette (k, 3) or (k, 4), premultiplied.
        """
        h, w, c = self.picture.shape
        levels, pixels, palette = self.picture.levels, self.pixels, seen
        clear = np.flatnonzero(~seen.any(axis=1)) if seen.shape[1] == 4 else np.empty(0, np.int64)
        # What is fully transparent stays so, if the palette has a color for it.
        fixed = np.asarray(levels[..., 3] == 0) if c == 4 and len(clear) else None
        # One channel is what all three have
        # (test_quantize.test_dithered_grey_is_that_of_three_equal_channels fails of a palette with colors).
        if c == 1 and is_grey(seen):
            palette = seen[:, :1]
        elif not seen.shape[1] == c == 3:
            colors = premultiplied(with_common_channels(self.colors.levels(), seen)[0])
            levels = colors[self.color_of_pixel()].reshape(h, w, -1)
            pixels = dispatch.make_pixels(levels.reshape(h * w, -1), device=self.device)
        # Imported by who dithers: they take as long as a small picture.
        if dither == "floyd-steinberg":
            from gpukmeans.image.diffusion import diffuse

            fixed_index = int(clear[0]) if len(clear) else 0
            indices = diffuse(
                levels, palette, strength=strength, fixed=fixed, fixed_index=fixed_index, device=self.device
            ).reshape(-1)
        else:
            from gpukmeans.image.ordered import ordered
            from gpukmeans.image.patterns import pattern_of

            ranks = pattern_of(dither)
            indices = ordered(pixels, ranks, w, palette, space=space, device=self.device, strength=strength)
            if fixed is not None:
                indices[fixed.reshape(-1)] = clear[0]
        # One channel stands for three
        # (test_quantize.test_dithered_grey_is_that_of_three_equal_channels fails if it does not).
        error = pixels.error(palette, indices) * (3 if palette.shape[1] == 1 else 1)
        return indices.reshape(h, w), error
