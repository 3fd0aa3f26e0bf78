"""``gpukmeans predict``: the rows of a file labelled by a model."""

from __future__ import annotations

import argparse
import json
import time
from typing import Any

import numpy as np

from gpukmeans.cli import columns, console, models, outputs, tables
from gpukmeans.cli.errors import resolved

_DESCRIPTION = """\
Label the rows of a file by a model that `gpukmeans fit` or KMeans.save wrote: the columns that the model knows are
taken by their names, scaled as they were for the fit, and each row gets the index of its nearest center.

    gpukmeans predict model.npz data.parquet -o labels.csv
"""


def add(commands: Any, what: str, seed: Any) -> None:
    """Add ``predict`` to the subparsers of `gpukmeans`; what: its help."""
    parser = commands.add_parser(
        "predict", help=what, description=_DESCRIPTION, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("model", metavar="MODEL", help="a model, as `gpukmeans fit --model` writes it")
    parser.add_argument("file", metavar="FILE", help=f"ends in {', '.join(tables.READERS)}")
    parser.add_argument(
        "-o",
        "--labels",
        required=True,
        metavar="OUT",
        help=f"where to write the labels, a row each in the order of the file: ends in {', '.join(outputs.LABELS)}",
    )
    tables.add_reading(parser)
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda, cuda:N or cuda:all (default: auto)")
    parser.add_argument("--force", action="store_true", help="write over the model or the file that is read")
    parser.add_argument("--json", action="store_true", help="print a line of JSON")
    parser.set_defaults(run=_run)


def _run(args: argparse.Namespace) -> None:
    start = time.perf_counter()
    outputs.check({"-o": (args.labels, outputs.LABELS)}, [args.model, args.file], force=args.force)
    device = resolved(args.device)
    model, names, scaler = models.load(args.model)
    model.set_params(device=args.device, output_type="numpy", memory_limit=args.memory_limit)
    found = columns.features_of_model(tables.read(args.file, args), names, model.cluster_centers_.shape[1])
    X = found.X if scaler is None else scaler.scaled(found.X)
    labels = models.labels(model, X, args.file)
    outputs.write_labels(args.labels, labels)
    sizes = outputs.sizes(labels, len(model.cluster_centers_))
    if not args.json:
        console.say(f"{args.file} -> {args.labels}: {len(labels):,} rows in {np.count_nonzero(sizes):,} clusters")
        return
    record = {
        "input": args.file,
        "model": args.model,
        "labels": args.labels,
        "rows": len(labels),
        "columns": found.names,
        "sizes": sizes,
        "device": device,
        "seconds": round(time.perf_counter() - start, 4),
    }
    console.say(json.dumps(record))
