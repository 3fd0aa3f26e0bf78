"""A fit of more rows than memory: the same digest under a limit of the process's own memory as without.

    python benchmarks/out_of_core.py                     6 GB of rows (25,000,000 x 60 float32), 1 GB of memory
    python benchmarks/out_of_core.py --rows 1000000 --format parquet --parts 4

Rows are made in pieces and written to a folder that is removed afterwards. A process of its own, whose anonymous memory
the kernel limits (RLIMIT_DATA, which counts no mapped file), fits them; another one, without a limit, does so with all
rows in memory. Both print the SHA-256 of centers, labels and inertia.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

PIECE = 2**20


def write(folder: Path, rows: int, features: int, kind: str, parts: int) -> Path:
    """Overlapping round clusters, float32: rows.npy, or so many Parquet files in a folder."""
    draw = np.random.default_rng(0)
    centers = draw.random((32, features), np.float32)

    def made() -> Any:
        for start in range(0, rows, PIECE):
            m = min(PIECE, rows - start)
            yield start, centers[draw.integers(32, size=m)] + draw.standard_normal((m, features), np.float32) / 8

    if kind == "npy":
        path = folder / "rows.npy"
        x = np.lib.format.open_memmap(path, "w+", np.float32, (rows, features))
        for start, piece in made():
            x[start : start + len(piece)] = piece
        x.flush()
        return path
    import pyarrow as pa
    from pyarrow import parquet

    path = folder / "rows"
    path.mkdir()
    schema = pa.schema([(f"f{i}", pa.float32()) for i in range(features)])
    writers = [parquet.ParquetWriter(path / f"{i:03}.parquet", schema) for i in range(parts)]
    for start, piece in made():
        writers[start * parts // rows].write_table(pa.table(list(piece.T), schema=schema), row_group_size=2**18)
    for writer in writers:
        writer.close()
    return path


def fit(path: Path, memory: int | None, how: dict[str, Any]) -> dict[str, Any]:
    """Fit the rows in this process, under a limit of its anonymous memory if there is one."""
    from gpukmeans import KMeans, MiniBatchKMeans

    kind = MiniBatchKMeans if how.pop("minibatch") else KMeans
    if path.suffix == ".npy":
        x = np.load(path, mmap_mode="r")
    else:
        import pyarrow.dataset

        x = pyarrow.dataset.dataset(path)
    if memory is not None:
        if path.suffix != ".npy":  # pyarrow reserves a GB when it is imported, which counts although nothing is in it
            kind(2, device="cpu").fit(np.random.default_rng(0).random((1000, 3)))
            memory += 1024 * int(held("VmData").split()[0])
        resource.setrlimit(resource.RLIMIT_DATA, (memory, memory))
    start = time.perf_counter()
    model = kind(**how, device="cpu", random_state=0).fit(x)
    seconds = time.perf_counter() - start
    digest = hashlib.sha256(model.cluster_centers_.tobytes())
    digest.update(np.ascontiguousarray(model.labels_))
    digest.update(repr(model.inertia_).encode())
    return {"digest": digest.hexdigest(), "seconds": seconds, "n_iter": model.n_iter_, "data": held("VmData")}


def held(name: str) -> str:
    """A line of what the kernel says of this process."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(line.split(":")[1].strip() for line in lines if line.startswith(name))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=25_000_000, metavar="N")
    parser.add_argument("--features", type=int, default=60, metavar="D")
    parser.add_argument("--format", choices=("npy", "parquet"), default="npy")
    parser.add_argument("--parts", type=int, default=8, metavar="N", help="Parquet files (default: 8)")
    parser.add_argument(
        "--memory",
        type=int,
        default=10**9,
        metavar="BYTES",
        help="RLIMIT_DATA (default: 1 GB), of Parquet beside what imports reserve",
    )
    parser.add_argument("--clusters", type=int, default=8, metavar="K")
    parser.add_argument("--iterations", type=int, default=3, metavar="N")
    parser.add_argument("--init", default="k-means||", choices=("k-means||", "k-means++", "random"))
    parser.add_argument("--minibatch", action="store_true")
    parser.add_argument("--alone", action="store_true", help="without the fit in memory, which may not fit")
    parser.add_argument("--folder", type=Path, help="where there is room for the rows (default: the system's)")
    parser.add_argument("--fit", help=argparse.SUPPRESS)  # the process that fits
    args = parser.parse_args()
    if args.fit:
        print(json.dumps(fit(**{**(asked := json.loads(args.fit)), "path": Path(asked["path"])})))
        return
    how = {"n_clusters": args.clusters, "max_iter": args.iterations, "init": args.init, "n_init": 1}
    how["minibatch"] = args.minibatch
    with tempfile.TemporaryDirectory(dir=args.folder) as folder:
        path = write(Path(folder), args.rows, args.features, args.format, args.parts)
        size = sum(file.stat().st_size for file in ([path] if path.is_file() else path.iterdir()))
        in_memory = args.rows * args.features * 4
        print(
            f"{args.rows:,} x {args.features} float32: {in_memory / 1e9:.2f} GB, {size / 1e9:.2f} GB on disk",
            flush=True,
        )
        found = []
        for memory, more in ((args.memory, {}), (None, {"memory_limit": 2**50})):
            if memory is None and args.alone:
                continue
            asked = json.dumps({"path": str(path), "memory": memory, "how": {**how, **more}})
            done = subprocess.run([sys.executable, __file__, "--fit", asked], capture_output=True, text=True)
            if done.returncode:
                sys.exit(done.stderr)
            found.append(json.loads(done.stdout))
            under = "no limit" if memory is None else f"{memory / 1e9:.2f} GB"
            here = found[-1]
            print(
                f"{under:>9}  {here['seconds']:8.1f} s, {here['n_iter']} iterations, {here['digest'][:16]}", flush=True
            )
    if len({each["digest"] for each in found}) > 1:
        sys.exit("the digests differ")


if __name__ == "__main__":
    main()
