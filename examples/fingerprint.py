"""Print fingerprints of three fits, to be compared between machines, threads and devices.

python examples/fingerprint.py [--device DEVICE]

A fingerprint is the first twelve digits of the SHA-256 of an array's bytes. Where the data's are the same, the others
must be: docs/reproducibility.md says which.
"""

from __future__ import annotations

import argparse
import hashlib

import numpy as np

from gpukmeans import KMeans, datasets


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda, cuda:N or cuda:all (default: auto)")
    args = parser.parse_args()
    row = "{:<8} {:<12}  {:<12}  {:<12}  {}"
    print(row.format("workload", "data", "centers", "labels", "inertia"))
    for load in (datasets.blobs, datasets.digits, datasets.china):
        workload = load()
        fit = KMeans(workload.n_clusters, random_state=0, device=args.device).fit(workload.X)
        prints = [fingerprint(array) for array in (workload.X, fit.cluster_centers_, fit.labels_)]
        print(row.format(workload.name, *prints, repr(fit.inertia_)))


def fingerprint(array: np.ndarray) -> str:
    little = np.ascontiguousarray(array, array.dtype.newbyteorder("<"))
    return hashlib.sha256(little.tobytes()).hexdigest()[:12]


if __name__ == "__main__":
    main()
