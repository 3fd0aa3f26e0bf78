"""What zoo.py clusters: n rows of each kind, the same in every run.

Rows are drawn in pieces where there are many, so that making them needs little more than they do.
"""

from __future__ import annotations

from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
from numpy.typing import DTypeLike, NDArray
from scipy import sparse
from sklearn.datasets import load_digits, load_iris, make_blobs
from sklearn.feature_extraction.text import TfidfTransformer

from gpukmeans import datasets

Dense = NDArray[Any]  # (n, d)
PIECE = 2**18  # rows


def rng() -> np.random.Generator:
    return np.random.default_rng(0)


# ---------------------------------------------------------------- kept with libraries


def iris(n: int) -> Dense:
    return load_iris().data[:n]


def digits(n: int) -> Dense:
    return load_digits().data[:n]


def photograph(n: int) -> Dense:
    """Colors of china.jpg, uint8, with gaps of the same width between them."""
    pixels = np.rint(datasets.china().X * 255).astype(np.uint8)
    return np.ascontiguousarray(pixels[:: len(pixels) // n][:n])


# ---------------------------------------------------------------- in clusters


def blobs(n: int, d: int, dtype: DTypeLike = np.float64, centers: int = 20, spread: float = 4) -> Dense:
    """Round clusters that overlap, their centers in a cube of side 20."""
    return make_blobs(n, d, centers=centers, cluster_std=spread, random_state=0)[0].astype(dtype)


def far_groups(n: int, d: int, dtype: DTypeLike, apart: float) -> Dense:
    """Two groups of noise, this far apart in every feature."""
    X = noise(n, d, np.float64)
    X[::2] += apart
    return X.astype(dtype)


def embeddings(n: int, d: int) -> Dense:
    """Directions about 200 topics, of about length one: what an encoder of sentences gives, float32."""
    draw = rng()
    topics = draw.standard_normal((200, d), np.float32)
    X = topics[draw.integers(200, size=n)] + draw.standard_normal((n, d), np.float32)
    return X / np.linalg.norm(X, axis=1, keepdims=True) * draw.uniform(0.98, 1.02, (n, 1)).astype(np.float32)


def pixels(n: int, d: int, dtype: DTypeLike) -> Dense:
    """Pictures of ten kinds in levels of 0 to 255, three quarters of them black, as handwriting is."""
    draw = rng()
    kinds = draw.uniform(-400, 200, (10, d)).astype(np.float32)
    X = np.empty((n, d), dtype)
    for start in range(0, n, 4096):
        rows = X[start : start + 4096]
        drawn = kinds[draw.integers(10, size=len(rows))] + 60 * draw.standard_normal(rows.shape, np.float32)
        rows[:] = np.rint(drawn.clip(0, 255))
    return X


# ---------------------------------------------------------------- without any


def noise(n: int, d: int, dtype: DTypeLike = np.float32) -> Dense:
    """Standard normal."""
    draw, X = rng(), np.empty((n, d), dtype)
    drawn = np.float64 if X.dtype == np.float64 else np.float32
    for start in range(0, n, PIECE):
        rows = X[start : start + PIECE]
        rows[:] = draw.standard_normal(rows.shape, drawn)
    return X


def noise_with(value: float, n: int, d: int) -> Dense:
    """Noise, and one value far away."""
    X = noise(n, d)
    X[5, 0] = value
    return X


def memory_map(n: int, d: int) -> Dense:
    """Noise about 32 centers in a file, float32. Its name is gone at once; what is mapped stays as long as the map."""
    draw = rng()
    centers = draw.uniform(-3, 3, (32, d)).astype(np.float32)
    with TemporaryDirectory() as folder:
        path = Path(folder) / "rows"
        with path.open("wb") as file:
            for start in range(0, n, PIECE):
                rows = draw.standard_normal((min(PIECE, n - start), d), np.float32)
                rows += centers[draw.integers(32, size=len(rows))]
                rows.tofile(file)
        return np.memmap(path, np.float32, "r", shape=(n, d))


# ---------------------------------------------------------------- of unlike scales


def lognormal(n: int, d: int, dtype: DTypeLike, sigma: float) -> Dense:
    """Incomes, file sizes: most are small, and a few far larger than all others together."""
    return rng().lognormal(0, sigma, (n, d)).astype(dtype)


def cauchy(n: int, d: int, dtype: DTypeLike) -> Dense:
    """Tails without a mean."""
    return rng().standard_cauchy((n, d)).astype(dtype)


def offset(n: int, d: int, dtype: DTypeLike, by: float) -> Dense:
    """Clusters far from zero, as dates in seconds and coordinates in meters are."""
    return (blobs(n, d) + by).astype(dtype)


def mixed_scales(n: int, d: int) -> Dense:
    """Features from a thousandth to a million, as columns of a table are."""
    return blobs(n, d) * np.logspace(-3, 6, d)


# ---------------------------------------------------------------- that repeats


def duplicates(n: int, d: int, distinct: int) -> Dense:
    """Copies of a few rows, in any order."""
    return blobs(distinct, d)[rng().integers(distinct, size=n)]


def integers(n: int, d: int) -> Dense:
    """Counts up to some hundreds, int64."""
    return rng().poisson(rng().uniform(1, 200, (20, d))[np.arange(n) % 20])


def categories(n: int, columns: int, values: int) -> sparse.csr_matrix:
    """So many columns of so many values each, none of them as frequent as the next, one-hot, float32."""
    shares = 1 / np.arange(1, values + 1)
    kinds = rng().choice(values, size=(n, columns), p=shares / shares.sum())
    found = (kinds + values * np.arange(columns)).ravel()
    ends = np.arange(0, n * columns + 1, columns)
    return sparse.csr_matrix((np.ones(n * columns, np.float32), found, ends), (n, columns * values))


# ---------------------------------------------------------------- sparse


def words(n: int, d: int, entries: int, dtype: DTypeLike = np.float64) -> sparse.csr_matrix:
    """Bags of words: counts, of a vocabulary in which few words are frequent and most are rare."""
    found = np.minimum(rng().zipf(1.3, n * entries) - 1, d - 1)
    X = sparse.csr_matrix((np.ones(n * entries, dtype), found, np.arange(0, n * entries + 1, entries)), (n, d))
    X.sum_duplicates()
    return X


def tfidf(n: int, d: int, entries: int, dtype: DTypeLike = np.float64) -> sparse.csr_matrix:
    """The same, weighted and of length one."""
    return TfidfTransformer().fit_transform(words(n, d, entries, dtype))


def entries(n: int, d: int, share: float) -> sparse.csr_matrix:
    """Entries of 0 to 1 anywhere, this share of all."""
    return sparse.random(n, d, share, "csr", random_state=0)
