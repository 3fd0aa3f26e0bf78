"""Run a notebook in a fresh kernel and write it with its outputs: python examples/execute.py [--out FILE] [NOTEBOOK]

What differs from run to run or machine to machine (times, versions, the state of widgets) is left out, so that running
it again changes nothing in the file unless a result or a figure changed. Figures are made small, as they stay in the
history of the repository: half a megabyte for the walkthrough, where it would be two.
"""

from __future__ import annotations

import argparse
import base64
import io
from pathlib import Path

import nbformat
import numpy as np
from nbclient import NotebookClient
from PIL import Image

from gpukmeans import KMeans

WIDGET = "application/vnd.jupyter.widget-view+json"
METADATA = {
    "kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"},
    "language_info": {"name": "python"},
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("notebook", type=Path, nargs="?", default=Path(__file__).with_name("walkthrough.ipynb"))
    parser.add_argument("--out", type=Path, help="where to write (default: into the notebook itself)")
    parser.add_argument("--timeout", type=int, default=120, help="seconds that a cell may take")
    args = parser.parse_args()
    notebook = nbformat.read(args.notebook, as_version=4)
    NotebookClient(notebook, timeout=args.timeout, record_timing=False, coalesce_streams=True).execute()
    notebook.metadata = METADATA
    for cell in notebook.cells:
        cell.metadata = {}
        if cell.cell_type == "code":
            # A widget is nothing without its kernel; where there is none, readers would see an error in its place.
            cell.outputs = [output for output in cell.outputs if WIDGET not in output.get("data", {})]
            for output in cell.outputs:
                if "image/png" in output.get("data", {}):
                    kind, figure = smaller(base64.b64decode(output.data.pop("image/png")))
                    output.data[kind] = base64.b64encode(figure).decode()
    nbformat.write(notebook, args.out or args.notebook)


def smaller(png: bytes) -> tuple[str, bytes]:
    """A figure in the 256 colors that serve it best, or as JPEG where that is smaller: its type and its bytes."""
    picture = Image.open(io.BytesIO(png)).convert("RGB")
    pixels = np.asarray(picture).reshape(-1, 3)
    packed = pixels @ np.array([1 << 16, 1 << 8, 1])  # whole numbers are found faster than rows
    _, first, place, counts = np.unique(packed, return_index=True, return_inverse=True, return_counts=True)
    colors = pixels[first]
    kmeans = KMeans(min(256, len(colors)), random_state=0).fit(colors, sample_weight=counts)
    reduced = Image.fromarray(kmeans.labels_.astype(np.uint8)[place].reshape(picture.height, picture.width))
    reduced.putpalette(np.rint(kmeans.cluster_centers_).astype(np.uint8).tobytes())
    indexed, jpeg = io.BytesIO(), io.BytesIO()
    reduced.save(indexed, "PNG", optimize=True)
    picture.save(jpeg, "JPEG", quality=90, subsampling=0, optimize=True)
    choices = [("image/png", indexed.getvalue()), ("image/jpeg", jpeg.getvalue())]
    return min(choices, key=lambda choice: len(choice[1]))


if __name__ == "__main__":
    main()
