"""``gpukmeans demo``: three data sets clustered, beside scikit-learn, and drawn."""

from __future__ import annotations

import argparse
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

# Before the libraries below load OpenMP, whose threads in scikit-learn would else spin while ours compute.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

import numpy as np
import sklearn.cluster

from gpukmeans import KMeans, atomic_write, datasets
from gpukmeans.cli import console
from gpukmeans.cli.errors import CommandError, resolved
from gpukmeans.datasets import LabeledWorkload, PictureWorkload, Workload
from gpukmeans.image.files.pillow import to_pil
from gpukmeans.image.levels import psnr

_DESCRIPTION = (
    "Cluster points in the plane, the colors of a photograph and handwritten digits, print times and results beside "
    "scikit-learn's, and draw them into a folder."
)

ROW = "{:<8} {:>12} {:>4}  {:<7} {:>9} {:>10} {:>14}  {:>9} {:>10} {:>14}"
FITS = ["seconds", "iterations", "inertia"]

# For each file's name, what writes it: save(file, format="png").
Drawn = dict[str, Callable[..., None]]


@dataclass(frozen=True)
class Timed:
    """A fitted KMeans, ours or scikit-learn's, and the median of its seconds."""

    model: Any
    seconds: float

    def cells(self) -> list[str]:
        return [f"{self.seconds:.4f}", str(self.model.n_iter_), f"{self.model.inertia_:,.3f}"]


def add(commands: Any, what: str, seed: Callable[[str], int]) -> None:
    """Add ``demo`` to the subparsers of `gpukmeans`; what: its help; seed: the type of ``--seed``."""
    parser = commands.add_parser("demo", help=what, description=_DESCRIPTION)
    parser.add_argument(
        "--out", type=Path, default=Path("demo"), metavar="DIR", help="where to write (default: ./demo)"
    )
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda, cuda:N or cuda:all (default: auto)")
    parser.add_argument("--seed", type=seed, default=0, metavar="N", help="random_state of every fit (default: 0)")
    parser.set_defaults(run=_run)


def _run(args: argparse.Namespace) -> None:
    try:
        import matplotlib  # noqa: F401
        import PIL  # noqa: F401
        from tqdm import tqdm
    except ImportError as error:
        needed = "matplotlib, Pillow and tqdm"
        raise CommandError(f"the demo needs {needed} ({error}): pip install 'gpukmeans[demo]'") from None
    device = resolved(args.device)
    with _writing_to(args.out):
        args.out.mkdir(parents=True, exist_ok=True)
    written, ratios = [], {}
    console.say(f"{'':<36}{' gpukmeans ':-^35}  {' scikit-learn ':-^35}")
    console.say(ROW.format("workload", "n x d", "k", "device", *FITS, *FITS))
    drawn: list[tuple[Callable[[], Any], int, Callable[..., Drawn]]] = [
        (datasets.blobs, 7, _draw_blobs),
        (datasets.digits, 7, _draw_digits),
        (datasets.china, 3, _draw_china),
    ]
    # disable=None: on a terminal only. leave=False: it is gone once the table is there.
    with tqdm(total=len(drawn), desc="demo", unit=" workloads", disable=None, leave=False) as bar:
        for load, repeats, draw in drawn:
            workload = load()
            bar.set_description(workload.name)
            ours, theirs = _compare(workload, device, args.seed, repeats)
            n, d = workload.X.shape
            size = [workload.name, f"{n:,} x {d}", str(workload.n_clusters), device]
            with bar.external_write_mode():
                console.say(ROW.format(*size, *ours.cells(), *theirs.cells()))
            ratios[workload.name] = ours.seconds / theirs.seconds
            if workload.name == "digits":
                accuracy = datasets.accuracy(ours.model.labels_, workload.truth)
            for name, save in draw(workload, ours.model).items():
                with _writing_to(args.out):
                    atomic_write.write(args.out / name, partial(save, format="png"))
                written.append(args.out / name)
            bar.update()
    console.say("\nseconds are medians of fits in turns: " + _in_words(ratios))
    console.say(f"digits: {accuracy:.1%} accuracy, each cluster taken for the digit most frequent in it")
    console.say("wrote", *written)


def _in_words(ratios: dict[str, float]) -> str:
    """ratios: of each workload, our time over scikit-learn's."""
    times = ", ".join(f"{ratio:.2f} of scikit-learn's on {name}" for name, ratio in ratios.items())
    behind = [name for name, ratio in ratios.items() if ratio > 1]
    return times + (f"; scikit-learn is faster on {' and '.join(behind)}" if behind else "")


def _compare(workload: Workload, device: str, seed: int, repeats: int) -> tuple[Timed, Timed]:
    """Our KMeans and scikit-learn's, fitted to the workload in turns."""
    k = workload.n_clusters
    models = (
        KMeans(k, n_init="auto", random_state=seed, device=device),
        sklearn.cluster.KMeans(k, n_init="auto", random_state=seed),
    )
    # The first fit of a process starts threads and loads code; that is not what is timed.
    few = workload.X[:: len(workload.X) // (8 * k)]
    for model in models:
        model.fit(few)
    seconds: tuple[list[float], list[float]] = ([], [])
    for _ in range(repeats):
        for model, times in zip(models, seconds, strict=True):
            start = time.perf_counter()
            model.fit(workload.X)
            times.append(time.perf_counter() - start)
    ours, theirs = (Timed(model, median(times)) for model, times in zip(models, seconds, strict=True))
    return ours, theirs


def _draw_blobs(workload: LabeledWorkload, model: KMeans) -> Drawn:
    from matplotlib.figure import Figure

    from gpukmeans import plot

    figure = Figure(figsize=(5, 6.4), layout="constrained")
    ax = plot.clusters(workload.X, model.labels_, model.cluster_centers_, ax=figure.add_subplot())
    ax.set_title(f"{len(workload.X)} points in {workload.n_clusters} clusters, inertia {model.inertia_:.2f}")
    return {"blobs.png": partial(figure.savefig, dpi=150)}


def _draw_digits(workload: LabeledWorkload, model: KMeans) -> Drawn:
    from matplotlib.figure import Figure

    from gpukmeans import plot

    mapping = datasets.map_labels(model.labels_, workload.truth)
    order = np.argsort(mapping, kind="stable")
    figure = Figure(figsize=(13.5, 5.2), layout="constrained")
    left, right = figure.subplots(1, 2, width_ratios=(8, 5))
    plot.centers(model.cluster_centers_[order], ax=left, names=[str(digit) for digit in mapping[order]])
    left.set_title("the centers, named by the digit most frequent in their clusters", pad=12)
    plot.confusion(datasets.confusion(model.labels_, workload.truth), ax=right)
    accuracy = datasets.accuracy(model.labels_, workload.truth)
    right.set_title(f"{len(workload.X):,} digits, accuracy {accuracy:.1%}", pad=12)
    return {"digits.png": partial(figure.savefig, dpi=120)}


def _draw_china(workload: PictureWorkload, model: KMeans) -> Drawn:
    from matplotlib.figure import Figure

    from gpukmeans import plot

    height, width, _ = workload.shape
    original = workload.X.reshape(workload.shape)
    result = model.cluster_centers_[model.labels_].reshape(workload.shape)
    before = len(np.unique(workload.X, axis=0))
    after = workload.n_clusters
    decibels = psnr(model.inertia_, workload.X.size, 1)

    figure = Figure(figsize=(12, 5.2), layout="constrained")
    top, bottom = figure.subplots(2, 1, height_ratios=(9, 1))
    names = (f"original, {before:,} colors", f"{after} colors, PSNR {decibels:.1f} dB")
    plot.comparison(original, result, ax=top, names=names)
    plot.palette(model.cluster_centers_, ax=bottom)
    bottom.set_title(f"the {after} centers, from dark to light")

    colors = np.rint(model.cluster_centers_ * 255).astype(np.uint8)
    # An indexed PNG: a label a pixel, and the table of colors.
    picture = to_pil(model.labels_.astype(np.uint8).reshape(height, width), colors)
    return {"china.png": partial(figure.savefig, dpi=150), "china-64.png": picture.save}


@contextmanager
def _writing_to(directory: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        # mkdir(exist_ok=True) finds something there only if it is not a directory.
        reason = "it is not a directory" if isinstance(error, FileExistsError) else error.strerror or error
        raise CommandError(f"cannot write to {directory}: {reason}") from None
