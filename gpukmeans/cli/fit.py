"""``gpukmeans fit``: the rows of a file clustered."""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable
from typing import Any

import numpy as np

from gpukmeans import KMeans, MiniBatchKMeans
from gpukmeans.cli import columns, console, models, outputs, tables
from gpukmeans.cli.columns import Features, Scaler
from gpukmeans.cli.errors import CommandError, resolved

_DESCRIPTION = """\
Cluster the rows of a file by k-means, and print the clusters; write labels and a model where they are asked for.

    gpukmeans fit data.csv -k 8 --drop id --scale standard --labels labels.csv --model model.npz
"""

# Of what is printed for people.
MOST_CLUSTERS, MOST_COLUMNS = 20, 6


def add(commands: Any, what: str, seed: Callable[[str], int]) -> None:
    """Add ``fit`` to the subparsers of `gpukmeans`; what: its help; seed: the type of ``--seed``."""
    parser = commands.add_parser(
        "fit", help=what, description=_DESCRIPTION, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("file", metavar="FILE", help=f"ends in {', '.join(tables.READERS)}")
    parser.add_argument("-k", "--clusters", type=_clusters, required=True, metavar="K", help="how many clusters")
    chosen = parser.add_mutually_exclusive_group()
    chosen.add_argument("--columns", type=columns.names_in, metavar="A,B", help="the columns to use (default: all)")
    chosen.add_argument("--drop", type=columns.names_in, metavar="A,B", help="the columns to leave out")
    parser.add_argument("--weights", metavar="COLUMN", help="how much each row counts; it is no feature then")
    parser.add_argument(
        "--scale",
        choices=("none", "standard"),
        default="none",
        help="standard: each column is brought to mean 0 and variance 1 first (default: none)",
    )
    parser.add_argument(
        "--metric", choices=("euclidean", "cosine"), default="euclidean", help="what is near (default: euclidean)"
    )
    parser.add_argument("--seed", type=seed, default=0, metavar="N", help="of k-means++ (default: 0)")
    parser.add_argument(
        "--n-init", type=_count, default=1, metavar="N", help="starts, of which the best is kept (default: 1)"
    )
    parser.add_argument("--minibatch", action="store_true", help="MiniBatchKMeans: sooner, and not as good")
    tables.add_reading(parser)
    parser.add_argument(
        "--labels",
        metavar="OUT",
        help=f"write each row's label, in the order of the file: ends in {', '.join(outputs.LABELS)}",
    )
    parser.add_argument(
        "--model", metavar="OUT", help="write the model, for `gpukmeans predict` or gpukmeans.load: ends in .npz"
    )
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda, cuda:N or cuda:all (default: auto)")
    parser.add_argument("--force", action="store_true", help="write over the file that is read")
    parser.add_argument("--json", action="store_true", help="print a line of JSON")
    parser.set_defaults(run=_run)


def _clusters(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"must be a number from 1 on, as 8, got {text!r}")
    return int(text)


def _count(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"must be an integer from 1 on, got {text!r}")
    return int(text)


def _run(args: argparse.Namespace) -> None:
    start = time.perf_counter()
    targets = {
        "--labels": (args.labels, outputs.LABELS),
        "--model": (args.model, (".npz",)),
    }
    asked = {option: target for option, target in targets.items() if target[0] is not None}
    outputs.check(asked, [args.file], force=args.force)
    device = resolved(args.device)
    found = columns.features(tables.read(args.file, args), args.columns, args.drop, args.weights)
    if found.X.shape[0] < args.clusters:
        raise CommandError(f"{args.file}: {found.X.shape[0]:,} rows are too few for {args.clusters:,} clusters")
    scaler = _scaler(args, found)
    X = found.X if scaler is None else scaler.scaled(found.X)
    model = models.fitted(_estimator(args, args.clusters), X, found.weights, args.file)
    if args.labels:
        outputs.write_labels(args.labels, model.labels_)
    if args.model:
        models.remember(model, found, scaler)
        with outputs.writing(args.model):
            model.save(args.model)
    centers = model.cluster_centers_ if scaler is None else scaler.unscaled(model.cluster_centers_)
    sizes = np.bincount(model.labels_, minlength=args.clusters).tolist()
    if not args.json:
        _tell(args, found, model, sizes, centers, device)
        return
    record = {
        **_input(args, found),
        "clusters": args.clusters,
        "inertia": model.inertia_,
        "iterations": int(model.n_iter_),
        "sizes": sizes,
        "centers": np.asarray(centers, np.float64).tolist(),
        "labels": args.labels,
        "model": args.model,
        "device": device,
        "seconds": round(time.perf_counter() - start, 4),
    }
    console.say(json.dumps(record))


def _scaler(args: argparse.Namespace, found: Features) -> Scaler | None:
    if args.scale == "none":
        return None
    try:
        return Scaler.of(found)
    except CommandError as error:
        raise CommandError(f"{args.file}: {error}") from None


def _estimator(args: argparse.Namespace, k: int) -> KMeans | MiniBatchKMeans:
    kind = MiniBatchKMeans if args.minibatch else KMeans
    return kind(k, n_init=args.n_init, metric=args.metric, random_state=args.seed, device=args.device)


def _input(args: argparse.Namespace, found: Features) -> dict[str, Any]:
    return {
        "input": args.file,
        "rows": found.X.shape[0],
        "columns": found.names,
        "weights": args.weights,
        "dtype": str(found.X.dtype),
        "scale": args.scale,
        "metric": args.metric,
        "seed": args.seed,
    }


def _tell(args: argparse.Namespace, found: Features, model: Any, sizes: list[int], centers: Any, device: str) -> None:
    """What became of a fit, for people: centers in the units of the file."""
    how = ", standardized" if args.scale == "standard" else ""
    console.say(f"{args.file}: {found.X.shape[0]:,} rows, {len(found.names):,} columns{how}, on {device}")
    iterations = f"{model.n_iter_} iteration{'' if model.n_iter_ == 1 else 's'}"
    console.say(f"{args.clusters:,} clusters, inertia {model.inertia_:,.6g} after {iterations}")
    shown = found.names[:MOST_COLUMNS]
    more = ["..."] if len(found.names) > len(shown) else []
    rows = [["cluster", "rows", *shown, *more]]
    for label, (size, center) in enumerate(zip(sizes[:MOST_CLUSTERS], centers, strict=False)):
        rows.append([str(label), f"{size:,}", *(f"{value:.6g}" for value in center[: len(shown)]), *more])
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for row in rows:
        console.say("  ".join(cell.rjust(width) for cell, width in zip(row, widths, strict=True)))
    if len(sizes) > MOST_CLUSTERS:
        console.say(f"and {len(sizes) - MOST_CLUSTERS:,} more clusters (all of them with --json)")
    for path in filter(None, (args.labels, args.model)):
        console.say(f"wrote {path}")
