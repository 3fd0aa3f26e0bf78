"""Peak memory of `quantize_file` on pictures that are made here, in a process of its own for each.

    python benchmarks/picture_memory.py                        every 24-bit color, and two gigapixels; some ten minutes
    python benchmarks/picture_memory.py --only colors --space rgb
    python benchmarks/picture_memory.py --only pixels --side 10000 --json PATH

The peak is the most that the process holds at any time (VmHWM), Python, libvips and tifffile included. Files need
0.1 GB for all colors and 1.5 GB for two gigapixels, in --folder.
"""

from __future__ import annotations

import argparse
import tempfile
import time
import zlib
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
import tifffile
from common import result_files
from common.machine import held_bytes, machine, versions
from sklearn.datasets import load_sample_image

from gpukmeans.image.streaming import quantize_file

TARGET = 1.5e9
SIDE = 46_336  # 2.147e9 pixels
TILE = 512


def all_colors(path: Path) -> None:
    """Each of the 2**24 colors once, in an order that puts no two neighbours together."""
    codes = (np.arange(2**24, dtype=np.uint64) * 0x9E3779B1 % 2**24).astype(np.uint32)
    pixels = np.stack([codes >> shift & 255 for shift in (0, 8, 16)], axis=1).astype(np.uint8)
    tifffile.imwrite(path, pixels.reshape(4096, 4096, 3), photometric="rgb", tile=(256, 256))


def gigapixels(path: Path, side: int) -> None:
    """A photograph's pieces in changing order and brightness, deflated once each."""
    china = np.tile(load_sample_image("china.jpg"), (2, 2, 1))
    draw = np.random.default_rng(0)
    tiles = []
    for _ in range(200):
        top, left = draw.integers(0, china.shape[0] - TILE), draw.integers(0, china.shape[1] - TILE)
        piece = china[top : top + TILE, left : left + TILE].astype(np.int16) + draw.integers(-40, 40, 3)
        tiles.append(zlib.compress(np.clip(piece, 0, 255).astype(np.uint8).tobytes(), 1))
    count = (-(-side // TILE)) ** 2
    with tifffile.TiffWriter(path, bigtiff=True) as file:
        file.write(
            (tiles[i] for i in draw.integers(0, len(tiles), count)),
            shape=(side, side, 3),
            dtype=np.uint8,
            tile=(TILE, TILE),
            photometric="rgb",
            compression="zlib",
        )


def measure(source: str, target: str, colors: int, space: str) -> dict[str, Any]:
    start = time.perf_counter()
    result = quantize_file(source, target, colors, space=space, device="cpu")
    return {
        "width": result.width,
        "height": result.height,
        "psnr": result.psnr,
        "converged": result.converged,
        "seconds": time.perf_counter() - start,
        "peak_bytes": held_bytes("VmHWM"),
        "file_bytes": Path(target).stat().st_size,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", choices=["colors", "pixels"])
    parser.add_argument("--side", type=int, default=SIDE, help=f"of the large picture (default: {SIDE:,})")
    parser.add_argument("-k", "--colors", type=int, default=256)
    parser.add_argument("--space", choices=["rgb", "oklab"], default="oklab")
    parser.add_argument("--folder", type=Path, help="where the pictures are made (default: the system's for such)")
    parser.add_argument("--json", type=Path, metavar="PATH", help="keep it in PATH")
    args = parser.parse_args()
    found: dict[str, Any] = {}
    with tempfile.TemporaryDirectory(dir=args.folder) as folder:
        source, target = Path(folder, "in.tif"), Path(folder, "out.tif")
        for name in [args.only] if args.only else ["colors", "pixels"]:
            if name == "colors":
                all_colors(source)
            else:
                gigapixels(source, args.side)
            with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as fresh:
                case = fresh.submit(measure, str(source), str(target), args.colors, args.space).result()
            found[name] = case
            print(
                f"{name}: {case['width']:,} x {case['height']:,} to {args.colors} colors, {args.space}, "
                f"{case['seconds']:.0f} s, peak {case['peak_bytes'] / 1e9:.2f} GB, target at most {TARGET / 1e9} GB",
                flush=True,
            )
    if args.json:
        about = {"date": result_files.now(), "machine": machine(), "versions": versions()}
        result_files.write(args.json, {**about, "colors": args.colors, "space": args.space, **found})


if __name__ == "__main__":
    main()
