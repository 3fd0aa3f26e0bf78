"""Color quantization beside Pillow, libimagequant and scikit-learn: quality, seconds and file sizes.

    python benchmarks/quantize.py --publish                        # all of it, into results/ and docs/quantization.md
    python benchmarks/quantize.py --quality --publish              # no seconds: also where other work is done
    python benchmarks/quantize.py --images china --colors 64       # one
    python benchmarks/quantize.py --table benchmarks/results/FILE.json        # the tables of an earlier run

Pictures are scikit-learn's two and scikit-image's color ones that come with it; nothing is downloaded. No library
dithers. PSNR in dB over all channels; SSIM of the three channels; deltaE 2000 of pixels, its mean and 95th percentile;
seconds are from array to indices and palette, medians of --repeats runs in which the libraries take turns, with a first
call before; bytes are of the same indexed PNG, written by Pillow.
"""

from __future__ import annotations

import argparse
import io
import json
import statistics
import sys
import time
import warnings
from collections.abc import Callable
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import numpy as np
import skimage
import sklearn.cluster
from common import machine, result_files
from common.quantize_tables import quantize_table, seconds_table
from numpy.typing import NDArray
from PIL import Image, ImageDraw
from report import publish
from skimage.color import deltaE_ciede2000, rgb2lab
from skimage.metrics import structural_similarity
from sklearn.datasets import load_sample_image

import gpukmeans
from gpukmeans.image.levels import psnr

Rgb = NDArray[np.uint8]  # (h, w, 3), or (k, 3) of a palette
Result = tuple[NDArray[Any], Rgb]  # indices (h, w), palette
Method = Callable[[Rgb, int, int], Result]  # of picture, colors and seed

BUNDLED = ["astronaut", "chelsea", "coffee", "hubble_deep_field", "ihc", "motorcycle_left", "retina", "rocket"]
COLORS = [16, 64, 256]
TIMES = {"seconds", "each"}  # the figures that are not of quality
SEEDED = {"scikit-learn"}  # the others have no seed, or the same result for all that matters here

ROOT = Path(__file__).parents[1]
SHEET = ROOT / "docs" / "quantization.png"


def pictures() -> dict[str, Rgb]:
    found = {name: load_sample_image(f"{name}.jpg") for name in ("china", "flower")}
    folder = Path(skimage.__file__).parent / "data"
    for name in BUNDLED:
        for path in folder.glob(f"{name}.*"):
            found[name] = np.asarray(Image.open(path).convert("RGB"))
    return found


# ---------------------------------------------------------------- the libraries


def _ours(space: str) -> Method:
    def quantize(picture: Rgb, k: int, seed: int) -> Result:
        result = gpukmeans.quantize(picture, k, space=space, random_state=seed, device="cpu")
        return result.indices, result.palette

    return quantize


def _pillow(method: Image.Quantize, kmeans: int = 0) -> Method:
    def quantize(picture: Rgb, k: int, seed: int) -> Result:
        image = Image.fromarray(picture).quantize(k, method=method, kmeans=kmeans, dither=Image.Dither.NONE)
        return np.asarray(image), np.array(image.getpalette("RGB"), np.uint8).reshape(-1, 3)

    return quantize


def libimagequant_method(dithering: float) -> Method:
    """dithering: its level, 0 to 1. Raises ImportError where it is not installed."""
    import libimagequant

    def quantize(picture: Rgb, k: int, seed: int) -> Result:
        height, width = picture.shape[:2]
        attributes = libimagequant.Attr()
        attributes.max_colors = k
        rgba = np.dstack([picture, np.full((height, width), 255, np.uint8)]).tobytes()
        image = attributes.create_rgba(rgba, width, height, 0)
        result = image.quantize(attributes)
        result.dithering_level = dithering
        indices = np.frombuffer(result.remap_image(image), np.uint8).reshape(height, width)
        return indices, np.array([(c.r, c.g, c.b) for c in result.get_palette()], np.uint8)

    return quantize


def _scikit_learn(picture: Rgb, k: int, seed: int) -> Result:
    flat = picture.reshape(-1, 3).astype(np.float64)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model = sklearn.cluster.KMeans(k, random_state=seed).fit(flat)
    return model.labels_.reshape(picture.shape[:2]), np.rint(model.cluster_centers_).astype(np.uint8)


def methods() -> dict[str, Method]:
    found: dict[str, Method] = {"gpukmeans rgb": _ours("rgb"), "gpukmeans oklab": _ours("oklab")}
    try:
        found["libimagequant"] = libimagequant_method(0.0)
    except ImportError:
        print("libimagequant is not installed: pip install 'gpukmeans[bench]'", file=sys.stderr)
    found["scikit-learn"] = _scikit_learn
    found["Pillow median cut"] = _pillow(Image.Quantize.MEDIANCUT)
    found["Pillow octree"] = _pillow(Image.Quantize.FASTOCTREE)
    found["Pillow k-means"] = _pillow(Image.Quantize.MEDIANCUT, kmeans=1)
    return found


# ---------------------------------------------------------------- measuring


def quality(picture: Rgb, indices: NDArray[Any], palette: Rgb) -> dict[str, float]:
    found = palette[indices]
    error = np.sum((picture.astype(np.int64) - found) ** 2)
    delta = deltaE_ciede2000(rgb2lab(picture), rgb2lab(found))
    buffer = io.BytesIO()
    image = Image.fromarray(indices.astype(np.uint8))
    image.putpalette(palette.tobytes())
    image.save(buffer, "PNG", optimize=True)
    return {
        "psnr": psnr(int(error), picture.size, 255),
        "ssim": float(structural_similarity(picture, found, channel_axis=2)),
        "delta_e": float(delta.mean()),
        "delta_e_95": float(np.percentile(delta, 95)),
        "bytes": buffer.getbuffer().nbytes,
    }


def measure(
    picture: Rgb, k: int, found: dict[str, Method], seeds: int, repeats: int, timed: bool = True
) -> dict[str, Any]:
    """For each method its figures: means over seeds, and if timed the median of seconds, the methods taking turns."""
    seconds: dict[str, list[float]] = {name: [] for name in found}
    figures: dict[str, list[dict[str, float]]] = {name: [] for name in found}
    for turn in range(max(seeds, repeats)):
        for name, method in found.items():
            if turn >= (seeds if name in SEEDED else repeats):
                continue
            start = time.perf_counter()
            indices, palette = method(picture, k, turn if name in SEEDED else 0)
            seconds[name].append(time.perf_counter() - start)
            if name in SEEDED or turn == 0:
                figures[name].append(quality(picture, indices, palette))
    return {
        name: {figure: statistics.fmean(each[figure] for each in figures[name]) for figure in figures[name][0]}
        | ({"seconds": statistics.median(seconds[name]), "each": seconds[name]} if timed else {})
        for name in found
    }


def reports(report: dict[str, Any]) -> list[dict[str, Any]]:
    """The report of quality, and that of seconds if they were measured."""
    found = []
    for kind, kept in (("quantize", False), ("quantize-seconds", True)):
        cases = [
            {
                **case,
                "methods": {
                    n: {f: v for f, v in m.items() if (f in TIMES) == kept} for n, m in case["methods"].items()
                },
            }
            for case in report["cases"]
        ]
        if all(cases[0]["methods"].values()):
            found.append({**report, "kind": kind, "cases": cases})
    return found


def tables(report: dict[str, Any]) -> str:
    return "\n\n".join(
        {"quantize": quantize_table, "quantize-seconds": seconds_table}[each["kind"]](each) for each in reports(report)
    )


def run(names: list[str], colors: list[int], seeds: int, repeats: int, timed: bool = True) -> dict[str, Any]:
    found, images = methods(), pictures()
    for method in found.values():  # loads code, starts threads
        method(images["china"][:64, :64], 8, 0)
    others = machine.Others()
    cases = []
    for name in names:
        for k in colors:
            height, width = images[name].shape[:2]
            case = {"image": name, "width": width, "height": height, "colors": k}
            cases.append({**case, "methods": measure(images[name], k, found, seeds, repeats, timed)})
            print(f"{name} {k}", file=sys.stderr)
    return {
        "kind": "quantize",
        "date": result_files.now(),
        "machine": machine.machine(),
        "versions": machine.versions() | {package: _version(package) for package in ("pillow", "libimagequant")},
        "cores_busy_with_others": others.cores(),
        "seeds": seeds,
        "repeats": repeats,
        "cases": cases,
    }


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


# ---------------------------------------------------------------- showing


def contact_sheet(path: Path, name: str, k: int) -> None:
    """A piece of the picture by each method, side by side, twice as large, the error named."""
    picture = pictures()[name]
    height, width = min(220, picture.shape[0]), min(300, picture.shape[1])
    top, left = (picture.shape[0] - height) // 3, (picture.shape[1] - width) // 2
    piece = slice(top, top + height), slice(left, left + width)
    tiles = [("original", picture[piece])]
    for label, method in methods().items():
        indices, palette = method(picture, k, 0)
        figures = quality(picture, indices, palette)
        tiles.append((f"{label}: {figures['psnr']:.2f} dB, dE {figures['delta_e']:.2f}", palette[indices][piece]))
    columns, margin, text = 4, 6, 18
    rows = -(-len(tiles) // columns)
    step_x, step_y = width + margin, height + text + margin
    sheet = Image.new("RGB", (columns * step_x + margin, rows * step_y + margin), "white")
    draw = ImageDraw.Draw(sheet)
    for i, (label, tile) in enumerate(tiles):
        x, y = margin + i % columns * step_x, margin + i // columns * step_y
        draw.text((x, y), label, fill="black")
        sheet.paste(Image.fromarray(tile), (x, y + text))
    gpukmeans.quantize(sheet, 256, space="rgb", device="cpu").save(path)  # a third of the bytes


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", help="names, with commas between (default: all)")
    parser.add_argument("--colors", default=",".join(map(str, COLORS)))
    parser.add_argument("--seeds", type=int, default=5, help="of scikit-learn, whose result depends on it much")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--quality", action="store_true", help="measure no seconds, and each method once")
    parser.add_argument("--json", type=Path, help="where to write the report")
    parser.add_argument("--sheet", type=Path, help="where to write a contact sheet of china.jpg in 16 colors, a PNG")
    parser.add_argument("--table", type=Path, help="print the tables of this report, and measure nothing")
    parser.add_argument(
        "--publish", action="store_true", help="keep the report, the tables and the sheet where they belong"
    )
    args = parser.parse_args()
    if args.table:
        print(tables(json.loads(args.table.read_text())))
        return
    names = args.images.split(",") if args.images else list(pictures())
    unknown = sorted(set(names) - set(pictures()))
    if unknown:
        parser.error(f"unknown pictures {', '.join(unknown)}; there are {', '.join(pictures())}")
    repeats = 1 if args.quality else args.repeats
    report = run(names, [int(k) for k in args.colors.split(",")], args.seeds, repeats, timed=not args.quality)
    if args.publish:
        args.sheet = SHEET
        for each in reports(report):
            result_files.write(result_files.FOLDER / f"{each['kind']}-{report['date'][:10]}.json", each)
    if args.json:
        result_files.write(args.json, report)
    print(tables(report))
    if args.sheet:
        contact_sheet(args.sheet, "china" if "china" in names else names[0], 16)
    if args.publish:
        for each in reports(report):
            publish(each)


if __name__ == "__main__":
    main()
