"""``gpukmeans fit``: the rows of a file clustered."""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable
from typing import Any

import numpy as np

from gpukmeans import KMeans, MiniBatchKMeans
from gpukmeans.cli import columns, console, figures, models, outputs, tables
from gpukmeans.cli.choice import RULE, Choice, choose
from gpukmeans.cli.columns import Features
from gpukmeans.cli.errors import CommandError, resolved
from gpukmeans.cli.scaling import STANDARDIZED, Scaler

_DESCRIPTION = """\
Cluster the rows of a file by k-means, and print the clusters; write labels, a model and a figure where they are asked
for.

    gpukmeans fit data.csv -k 8 --drop id --scale standard --labels labels.csv --model model.npz
    gpukmeans fit data.csv -k 2:12 --drop id --plot choice.png

A range of k, as 2:12, fits each of them and prints inertia and mean silhouette. Suggested is the k of the largest mean
silhouette (Rousseeuw, 1987), whose labels and model are written. Silhouettes of more than 10,000 rows are those of
10,000 drawn at random, and --weights has no part in them.
"""

# Of what is printed for people.
MOST_CLUSTERS, MOST_COLUMNS = 20, 6


def add(commands: Any, what: str, seed: Callable[[str], int]) -> None:
    """Add ``fit`` to the subparsers of `gpukmeans`; what: its help; seed: the type of ``--seed``."""
    parser = commands.add_parser(
        "fit", help=what, description=_DESCRIPTION, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("file", metavar="FILE", help=f"ends in {', '.join(tables.READERS)}")
    parser.add_argument(
        "-k", "--clusters", type=_clusters, required=True, metavar="K", help="how many clusters, or a range, as 2:12"
    )
    chosen = parser.add_mutually_exclusive_group()
    chosen.add_argument("--columns", type=columns.names_in, metavar="A,B", help="the columns to use (default: all)")
    chosen.add_argument("--drop", type=columns.names_in, metavar="A,B", help="the columns to leave out")
    parser.add_argument("--weights", metavar="COLUMN", help="how much each row counts; it is no feature then")
    parser.add_argument(
        "--scale",
        choices=("none", "standard"),
        default="none",
        help="standard: each column is brought to mean 0 and variance 1 first, for which a file that is read in pieces "
        "is read twice more (default: none)",
    )
    parser.add_argument(
        "--metric", choices=("euclidean", "cosine"), default="euclidean", help="what is near (default: euclidean)"
    )
    parser.add_argument(
        "--init",
        choices=("k-means++", "k-means||", "random"),
        default="k-means++",
        help="how to begin; k-means|| reads a large file some twelve times, k-means++ twice a cluster (default: "
        "k-means++)",
    )
    parser.add_argument("--seed", type=seed, default=0, metavar="N", help="of what begins (default: 0)")
    parser.add_argument(
        "--n-init", type=_count, default=1, metavar="N", help="starts, of which the best is kept (default: 1)"
    )
    parser.add_argument(
        "--max-iter",
        type=_count,
        metavar="N",
        help="the most iterations of a start, or passes over the rows with --minibatch (default: 300, and 100)",
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
    parser.add_argument(
        "--plot",
        metavar="OUT",
        help="draw the clusters, on two principal components where there are more columns, or the figures of a range "
        f"of k: ends in {', '.join(outputs.FIGURES)}",
    )
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda, cuda:N or cuda:all (default: auto)")
    parser.add_argument("--force", action="store_true", help="write over the file that is read")
    parser.add_argument("--json", action="store_true", help="print a line of JSON")
    parser.set_defaults(run=_run)


def _clusters(text: str) -> range:
    """The numbers of clusters, both ends of a range included."""
    low, colon, high = text.partition(":")
    high = high if colon else low
    if not (low.isdecimal() and high.isdecimal() and 1 <= int(low) <= int(high)) or (colon and low == high):
        raise argparse.ArgumentTypeError(f"must be a number from 1 on, as 8, or a range, as 2:12, got {text!r}")
    return range(int(low), int(high) + 1)


def _count(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"must be an integer from 1 on, got {text!r}")
    return int(text)


def _run(args: argparse.Namespace) -> None:
    start = time.perf_counter()
    targets = {
        "--labels": (args.labels, outputs.LABELS),
        "--model": (args.model, (".npz",)),
        "--plot": (args.plot, outputs.FIGURES),
    }
    asked = {option: target for option, target in targets.items() if target[0] is not None}
    outputs.check(asked, [args.file], force=args.force)
    if args.plot:
        figures.check()
    device = resolved(args.device)
    found = columns.features(tables.read(args.file, args), args.columns, args.drop, args.weights)
    if found.X.shape[0] < args.clusters[-1]:
        rows = f"{found.X.shape[0]:,} row{'' if found.X.shape[0] == 1 else 's'}"
        raise CommandError(f"{args.file}: {rows}, too few for {args.clusters[-1]:,} clusters")
    scaler = _scaler(args, found)
    X = found.X if scaler is None else scaler.scaled(found.X)

    def fit(k: int) -> Any:
        return models.fitted(_estimator(args, k), X, found.weights, args.file, bar=len(args.clusters) == 1)

    chosen = None
    if len(args.clusters) == 1:
        model = fit(args.clusters[0])
    else:
        chosen = choose(fit, X, args.clusters, metric=args.metric, seed=args.seed, source=args.file)
        model = chosen.models[chosen.suggested]
    if args.plot and chosen is None:
        names = found.names if scaler is None else [STANDARDIZED + name for name in found.names]
        figures.write_clusters(args.plot, X, model, names)
    elif args.plot and chosen is not None:
        figures.write_choice(args.plot, chosen)
    if args.labels:
        outputs.write_labels(args.labels, model.labels_)
    if args.model:
        models.remember(model, found, scaler)
        with outputs.writing(args.model):
            model.save(args.model)
    centers = model.cluster_centers_ if scaler is None else scaler.unscaled(model.cluster_centers_)
    if not args.json:
        _tell(args, found, model, centers, device, chosen)
        return
    record = {
        "input": args.file,
        "rows": found.X.shape[0],
        "columns": found.names,
        "weights": args.weights,
        "dtype": str(found.X.dtype),
        "scale": args.scale,
        "metric": args.metric,
        "seed": args.seed,
        "clusters": model.n_clusters,
        "inertia": model.inertia_,
        "iterations": int(model.n_iter_),
        "sizes": _sizes(model),
        "centers": np.asarray(centers, np.float64).tolist(),
        **({} if chosen is None else _choice(chosen)),
        "labels": args.labels,
        "model": args.model,
        "plot": args.plot,
        "device": device,
        "seconds": round(time.perf_counter() - start, 4),
    }
    console.say(json.dumps(record))


def _sizes(model: Any) -> list[int]:
    return outputs.sizes(model.labels_, model.n_clusters)


def _choice(found: Choice) -> dict[str, Any]:
    fits = [
        {
            "clusters": model.n_clusters,
            "inertia": model.inertia_,
            "iterations": int(model.n_iter_),
            "silhouette": silhouette,
        }
        for model, silhouette in zip(found.models, found.silhouettes, strict=True)
    ]
    return {"fits": fits, "rule": RULE, "silhouette_rows": found.sampled}


def _scaler(args: argparse.Namespace, found: Features) -> Scaler | None:
    if args.scale == "none":
        return None
    try:
        return Scaler.of(found)
    except CommandError as error:
        raise CommandError(f"{args.file}: {error}") from None


def _estimator(args: argparse.Namespace, k: int) -> KMeans | MiniBatchKMeans:
    kind = MiniBatchKMeans if args.minibatch else KMeans
    how = {"n_init": args.n_init, "metric": args.metric, "random_state": args.seed, "device": args.device}
    most = {} if args.max_iter is None else {"max_iter": args.max_iter}
    return kind(k, **how, **most, init=args.init, memory_limit=args.memory_limit)


def _tell(
    args: argparse.Namespace, found: Features, model: Any, centers: Any, device: str, chosen: Choice | None
) -> None:
    """What became of a fit, for people: centers in the units of the file."""
    how = ", standardized" if args.scale == "standard" else ""
    console.say(f"{args.file}: {found.X.shape[0]:,} rows, {_columns(len(found.names))}{how}, on {device}")
    if chosen is not None:
        _tell_choice(chosen)
    k, iterations = model.n_clusters, f"{model.n_iter_} iteration{'' if model.n_iter_ == 1 else 's'}"
    console.say(f"{k:,} cluster{'' if k == 1 else 's'}, inertia {model.inertia_:,.6g} after {iterations}")
    shown = [" ".join(name.splitlines()) for name in found.names[:MOST_COLUMNS]]
    more = ["..."] if len(found.names) > len(shown) else []
    rows = [["cluster", "rows", *shown, *more]]
    for label, (size, center) in enumerate(zip(_sizes(model)[:MOST_CLUSTERS], centers, strict=False)):
        rows.append([str(label), f"{size:,}", *(f"{value:.6g}" for value in center[: len(shown)]), *more])
    _say_table(rows)
    if k > MOST_CLUSTERS:
        console.say(f"and {k - MOST_CLUSTERS:,} more clusters (all of them with --json)")
    for path in filter(None, (args.labels, args.model, args.plot)):
        console.say(f"wrote {path}")


def _columns(count: int) -> str:
    return "1 column" if count == 1 else f"{count:,} columns"


def _tell_choice(found: Choice) -> None:
    rows = [["k", "inertia", "silhouette"]]
    for model, silhouette in zip(found.models, found.silhouettes, strict=True):
        rows.append(
            [str(model.n_clusters), f"{model.inertia_:,.6g}", "-" if silhouette is None else f"{silhouette:.4f}"]
        )
    _say_table(rows)
    of = "" if found.sampled is None else f", of {found.sampled:,} rows drawn at random"
    console.say(f"suggested: k = {found.models[found.suggested].n_clusters}, by {RULE}{of}")


def _say_table(rows: list[list[str]]) -> None:
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for row in rows:
        console.say("  ".join(cell.rjust(width) for cell, width in zip(row, widths, strict=True)))
