"""The libraries compared on a GPU: each a function from data on the device, or on the host, to centers.

All begin with the same centers and make the same number of iterations, or end by their own rule.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from typing import Any, NamedTuple

import cupy as cp
import numpy as np
import sklearn.cluster

import gpukmeans
from gpukmeans import array_interop

OURS = "gpukmeans"


class Fit(NamedTuple):
    centers: Any  # (k, d), NumPy's
    iterations: int


class Library(NamedTuple):
    """fit(X, init, iterations): X (n, d) as `prepare` made it of CuPy's array; init (k, d) NumPy; iterations None for
    the library's own end. peak: bytes of device memory since `reset`."""

    fit: Callable[[Any, Any, int | None], Fit]
    prepare: Callable[[Any], Any] = lambda X: X
    reset: Callable[[], None] = lambda: cp.get_default_memory_pool().free_all_blocks()
    peak: Callable[[], int] = lambda: int(cp.get_default_memory_pool().total_bytes())


def ours(X: Any, init: Any, iterations: int | None) -> Fit:
    rule = {} if iterations is None else {"max_iter": iterations, "tol": 0}
    model = gpukmeans.KMeans(len(init), init=init, n_init=1, device="cuda", **rule).fit(X)
    return Fit(array_interop.to_numpy(model.cluster_centers_), model.n_iter_)


# Bytes of a piece of the table of scores in `plain`.
SCORES = 2**30


def plain(X: Any, init: Any, iterations: int | None) -> Fit:
    """What one writes in CuPy in an afternoon: a matrix product, argmin, and atomic sums, in the data's own dtype
    (float32 for integers). It ends when no label changes."""
    single = X.dtype if X.dtype.kind == "f" else np.dtype(np.float32)
    centers = cp.asarray(init, single)
    n, d = X.shape
    step = max(1, SCORES // (len(centers) * single.itemsize))
    labels = cp.full(n, -1, np.int32)
    done = 0
    for i in range(iterations or 300):
        done, changed = i + 1, cp.zeros((), np.int64)
        sums, counts = cp.zeros((len(centers), d), np.float32), cp.zeros(len(centers), np.float32)
        norms = (centers.astype(np.float32) ** 2).sum(axis=1)
        for a in range(0, n, step):
            x = X[a : a + step].astype(single, copy=False)
            best = (norms - 2 * (x @ centers.T)).argmin(axis=1).astype(np.int32)
            changed += (best != labels[a : a + step]).sum()
            labels[a : a + step] = best
            cp.add.at(sums, best, x.astype(np.float32, copy=False))
            counts += cp.bincount(best, minlength=len(centers)).astype(np.float32)
        held = counts > 0
        centers = cp.where(held[:, None], sums / cp.maximum(counts, 1)[:, None], centers).astype(single)
        if iterations is None and not int(changed):
            break
    return Fit(cp.asnumpy(centers), done)


def _flash() -> Library:
    """flash-kmeans 0.3: of (batch, n, d); it ends by a tolerance on its largest shift, so its iterations are given."""
    import torch
    from flash_kmeans import batch_kmeans_Euclid

    def fit(X: Any, init: Any, iterations: int | None) -> Fit:
        start = torch.as_tensor(np.asarray(init), device=X.device).to(X.dtype)[None]
        _, centers, done = batch_kmeans_Euclid(
            X, len(init), max_iters=iterations or 100, tol=-1.0, init_centroids=start
        )
        torch.cuda.synchronize()
        return Fit(centers[0].float().cpu().numpy(), int(done))

    def prepare(X: Any) -> Any:
        # Its matrix products are Triton's, which may end the process on float64.
        tensor = torch.from_dlpack(X if X.dtype in (np.float16, np.float32) else X.astype(np.float32))
        return tensor[None]

    def reset() -> None:
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()

    return Library(fit, prepare, reset, lambda: int(torch.cuda.max_memory_allocated()))


def _sklearn() -> Library:
    def fit(X: Any, init: Any, iterations: int | None) -> Fit:
        rule = {} if iterations is None else {"max_iter": iterations, "tol": 0}
        model = sklearn.cluster.KMeans(len(init), init=np.asarray(init, X.dtype), n_init=1, **rule).fit(X)
        return Fit(model.cluster_centers_, int(model.n_iter_))

    def prepare(X: Any) -> Any:
        host = cp.asnumpy(X)
        return host if host.dtype in (np.float32, np.float64) else host.astype(np.float32)

    return Library(fit, prepare, lambda: None, lambda: 0)


PEERS: dict[str, Callable[[], Library]] = {
    "flash-kmeans": _flash,
    "plain CuPy": lambda: Library(plain),
    "scikit-learn (CPU)": _sklearn,
}


def load(names: Collection[str] = ()) -> tuple[dict[str, Library], dict[str, str]]:
    """The libraries by name, ours first, and why others are not there; only those of these names, if there are any."""
    if unknown := set(names) - {OURS, *PEERS}:
        raise ValueError(f"unknown libraries {', '.join(sorted(unknown))}; there are {', '.join([OURS, *PEERS])}")
    found, absent = {OURS: Library(ours)}, {}
    for name, peer in PEERS.items():
        if names and name not in names:
            continue
        try:
            found[name] = peer()
        except ImportError as error:
            absent[name] = str(error)
    return found, absent
