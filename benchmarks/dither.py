"""Dithering beside libimagequant, ImageMagick and Pillow: what is seen from afar and from near, file sizes, stray dots.

    python benchmarks/dither.py --publish                        # all of it, into results/ and docs/quantization.md
    python benchmarks/dither.py --images china --colors 64       # one
    python benchmarks/dither.py --table benchmarks/results/FILE.json        # the tables of an earlier run

Pictures and libraries are those of quantize.py; ImageMagick's `convert` is measured where it is installed. deltaE 2000
is the mean over pixels of both pictures blurred in linear light (a Gaussian of 1.5 pixels), as they are from afar; SSIM
that of the three channels as they are; stray dots are pixels 80 levels or more, in any channel, from what they were, in
percent; kB are of the same indexed PNG, written by Pillow. Seconds are not measured here (quantize.py).
"""

from __future__ import annotations

import argparse
import json
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
from common import machine, result_files
from common.dither_tables import dither_table
from numpy.typing import NDArray
from PIL import Image
from quantize import Method, Result, Rgb, _version, libimagequant_method, pictures, quality
from report import publish
from scipy.ndimage import gaussian_filter
from skimage.color import deltaE_ciede2000, rgb2lab

import gpukmeans
from gpukmeans.image.color_space import linear_light

COLORS = [8, 16, 64, 256]
SIGMA = 1.5
FAR = 80
LIGHT = linear_light(np.arange(256) / 255)


# ---------------------------------------------------------------- the libraries


def _ours(dither: str) -> Method:
    def quantize(picture: Rgb, k: int, seed: int) -> Result:
        result = gpukmeans.quantize(picture, k, dither=dither, device="cpu")
        return result.indices, result.palette

    return quantize


def _pillow(picture: Rgb, k: int, seed: int) -> Result:
    source = Image.fromarray(picture)
    image = source.quantize(palette=source.quantize(k), dither=Image.Dither.FLOYDSTEINBERG)
    return np.asarray(image), np.array(image.getpalette("RGB"), np.uint8).reshape(-1, 3)


def _imagemagick(convert: str) -> Method:
    def quantize(picture: Rgb, k: int, seed: int) -> Result:
        with tempfile.TemporaryDirectory() as folder:
            paths = Path(folder) / "in.png", Path(folder) / "out.png"
            Image.fromarray(picture).save(paths[0])
            subprocess.run([convert, paths[0], "-colors", str(k), f"PNG8:{paths[1]}"], check=True)
            with Image.open(paths[1]) as image:
                found = np.asarray(image.convert("RGB"))
        palette, indices = np.unique(found.reshape(-1, 3), axis=0, return_inverse=True)
        return indices.reshape(found.shape[:2]).astype(np.uint8), palette

    return quantize


def methods() -> dict[str, Method]:
    found: dict[str, Method] = {
        f"gpukmeans {dither}": _ours(dither) for dither in ("none", "floyd-steinberg", "bayer", "blue-noise")
    }
    try:
        found["libimagequant"] = libimagequant_method(1.0)
    except ImportError:
        print("libimagequant is not installed: pip install 'gpukmeans[bench]'", file=sys.stderr)
    for convert in filter(None, (shutil.which("magick"), shutil.which("convert", path="/usr/bin"))):
        found.setdefault("ImageMagick", _imagemagick(convert))
    found["Pillow median cut"] = _pillow
    return found


# ---------------------------------------------------------------- measuring


def from_afar(picture: Rgb) -> NDArray[np.float64]:
    """Lab (h, w, 3) of a picture blurred in linear light."""
    light = gaussian_filter(LIGHT[picture], (SIGMA, SIGMA, 0))
    encoded = np.where(light <= 0.0031308, light * 12.92, 1.055 * np.maximum(light, 0) ** (1 / 2.4) - 0.055)
    return rgb2lab(encoded)


def measure(picture: Rgb, k: int, found: dict[str, Method]) -> dict[str, dict[str, float]]:
    far, figures = from_afar(picture), {}
    for name, method in found.items():
        indices, palette = method(picture, k, 0)
        shown = palette[indices]
        near = quality(picture, indices, palette)
        figures[name] = {
            "delta_e": float(deltaE_ciede2000(far, from_afar(shown)).mean()),
            "ssim": near["ssim"],
            "bytes": near["bytes"],
            "stray": float((np.abs(shown.astype(int) - picture).max(axis=2) >= FAR).mean() * 100),
        }
    return figures


def run(names: list[str], colors: list[int]) -> dict[str, Any]:
    found, images, cases = methods(), pictures(), []
    for name in names:
        for k in colors:
            cases.append({"image": name, "colors": k, "methods": measure(images[name], k, found)})
            print(f"{name} {k}", file=sys.stderr)
    return {
        "kind": "dither",
        "date": result_files.now(),
        "machine": machine.machine(),
        "versions": machine.versions() | {package: _version(package) for package in ("pillow", "libimagequant")},
        "cases": cases,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", help="names, with commas between (default: all)")
    parser.add_argument("--colors", default=",".join(map(str, COLORS)))
    parser.add_argument("--json", type=Path, help="where to write the report")
    parser.add_argument("--table", type=Path, help="print the tables of this report, and measure nothing")
    parser.add_argument("--publish", action="store_true", help="keep the report and the tables where they belong")
    args = parser.parse_args()
    if args.table:
        print(dither_table(json.loads(args.table.read_text())))
        return
    names = args.images.split(",") if args.images else list(pictures())
    unknown = sorted(set(names) - set(pictures()))
    if unknown:
        parser.error(f"unknown pictures {', '.join(unknown)}; there are {', '.join(pictures())}")
    report = run(names, [int(k) for k in args.colors.split(",")])
    if args.publish:
        args.json = result_files.FOLDER / f"dither-{report['date'][:10]}.json"
        publish(report)
    if args.json:
        result_files.write(args.json, report)
    print(dither_table(report))


if __name__ == "__main__":
    main()
