"""The three data sets of the demo and the benchmarks, and how labels compare with the truth.

Nothing is downloaded: scikit-learn makes the first and brings the other two with it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.datasets import load_digits, load_sample_image, make_blobs
from sklearn.metrics import accuracy_score, confusion_matrix


@dataclass(frozen=True, eq=False)
class Workload:
    """Points to cluster."""

    name: str
    X: NDArray[np.float64]  # (n, d)
    n_clusters: int


@dataclass(frozen=True, eq=False)
class LabeledWorkload(Workload):
    """Points whose true labels are known."""

    truth: NDArray[np.int64]  # (n,)


@dataclass(frozen=True, eq=False)
class PictureWorkload(Workload):
    """The pixels of a picture, row by row: ``X.reshape(shape)`` is the picture, its values in [0, 1]."""

    shape: tuple[int, int, int]  # (height, width, 3)


def blobs() -> LabeledWorkload:
    """Four round clusters in the plane, 300 x 2."""
    X, truth = make_blobs(n_samples=300, n_features=2, centers=4, cluster_std=0.6, random_state=0)
    return LabeledWorkload("blobs", X, 4, truth)


def digits() -> LabeledWorkload:
    """Handwritten digits, 1797 x 64: pictures of 8 x 8, their ink between 0 and 16."""
    X, truth = load_digits(return_X_y=True)
    return LabeledWorkload("digits", X, 10, truth)


def china() -> PictureWorkload:
    """The photograph china.jpg, 273,280 x 3, to be reduced to 64 colors. Needs Pillow."""
    picture = load_sample_image("china.jpg")
    return PictureWorkload("china", picture.reshape(-1, 3) / 255.0, 64, picture.shape)


def map_labels(labels: NDArray[np.integer], truth: NDArray[Any]) -> NDArray[Any]:
    """The true label most frequent in each cluster, the least of equals.

    Parameters
    ----------
    labels : ndarray of shape (n_samples,), integers from 0
        The cluster of each sample.
    truth : ndarray of shape (n_samples,)
        The true label of each sample.

    Returns
    -------
    mapping : ndarray of shape (labels.max() + 1,), in the dtype of truth
        ``mapping[labels]`` is what the clustering says of each sample. Two clusters may map to the same
        true label, and a cluster without samples maps to the least one.

    Examples
    --------
    >>> map_labels(np.array([1, 1, 1, 0]), np.array([7, 7, 3, 3])).tolist()
    [3, 7]
    """
    values, codes = np.unique(truth, return_inverse=True)
    counts = np.zeros((labels.max() + 1, len(values)), dtype=np.int64)
    np.add.at(counts, (labels, codes), 1)
    return values[counts.argmax(axis=1)]


def accuracy(labels: NDArray[np.integer], truth: NDArray[Any]) -> float:
    """The share of the samples whose cluster maps to their true label; see `map_labels`."""
    return float(accuracy_score(truth, map_labels(labels, truth)[labels]))


def confusion(labels: NDArray[np.integer], truth: NDArray[Any]) -> NDArray[np.int64]:
    """Counts (true labels, mapped labels), both in ascending order; see `map_labels`."""
    return confusion_matrix(truth, map_labels(labels, truth)[labels])
