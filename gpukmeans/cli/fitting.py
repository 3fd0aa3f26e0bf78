"""As few colors as a quality asks for, or as many as a file's size allows."""

from __future__ import annotations

import argparse
import math
from collections.abc import Callable

from gpukmeans.cli.errors import QualityError
from gpukmeans.image.picture import ImageError
from gpukmeans.image.result import Quantized


def psnr_of(quality: int) -> float:
    """What a quality from 0 to 100 stands for, in dB: 100 - quality is the squared error, in hundredths of that at
    25 dB. 100 stands for 55 dB, which nobody tells from no loss; below 50 it falls faster, to anything at 0.

    Examples
    --------
    >>> [round(psnr_of(quality), 1) for quality in (0, 10, 30, 50, 80, 90, 99, 100)]
    [-inf, 11.5, 22.1, 28.0, 32.0, 35.0, 45.0, 55.0]
    """
    if quality == 0:
        return -math.inf
    return 25 - 10 * math.log10(max(100 - quality, 0.1) / 100) - 20 * math.log10(max(1, 50 / quality))


def fewest_colors(
    reduce: Callable[[int], Quantized], encode: Callable[[Quantized], bytes], args: argparse.Namespace
) -> tuple[Quantized, bytes]:
    """The result with the fewest colors that reach the largest quality asked for, or with args.colors if none do; of as
    many as fit into the bytes asked for, if that is fewer. And its file.

    Raises QualityError below the least quality, ImageError if no result is so small.
    """
    least = max(1, 0 if args.keep is None else len(args.keep))
    results: dict[int, Quantized] = {}

    def result(k: int) -> Quantized:
        if k not in results:
            results[k] = reduce(k)
        return results[k]

    k = args.colors
    if args.quality:
        k = _first(least, k, lambda k: result(k).psnr >= psnr_of(args.quality[1]))
    if args.max_bytes and len(encode(result(k))) > args.max_bytes:
        k = _first(least, k, lambda k: len(encode(result(k))) > args.max_bytes) - 1
        if k < least:
            raise ImageError(
                f"it has {len(encode(result(least))):,} bytes in {len(result(least).palette)} colors: no fewer colors "
                f"are possible, and --max-bytes asks for {args.max_bytes:,}."
            )
    found = result(k)
    if args.quality and found.psnr < psnr_of(args.quality[0]):
        raise QualityError(
            f"{len(found.palette)} colors give {found.psnr:.2f} dB, and a quality of {args.quality[0]} asks for "
            f"{psnr_of(args.quality[0]):.2f}"
        )
    return found, encode(found)


def _first(low: int, high: int, holds: Callable[[int], bool]) -> int:
    """The least number from low on, below high, of which it holds, or else high; by steps that double, and bisection
    between the last two."""
    step = low
    while step < high and not holds(step):
        low, step = step + 1, 2 * step
    high = min(step, high)
    while low < high:
        middle = (low + high) // 2
        if holds(middle):
            high = middle
        else:
            low = middle + 1
    return high
