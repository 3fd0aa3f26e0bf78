"""What the fuzz holds of every fitted model, whatever it was fitted to."""

from __future__ import annotations

import math
from fractions import Fraction
from typing import Any

import numpy as np
from fuzz import Problem
from reference import distances, normalized

# How far a published inertia may be from the exact one: a part of it, and what is lost of D below 2**-1000.
PART, LEAST = Fraction(1, 2**38), Fraction(1, 2**900)

# Terms of sums keep 30 bits or more of any range from here on: their scale is 2**1000 at most.
LEAST_RANGE = Fraction(1, 2**960)


def answers(model: Any) -> tuple[Any, ...]:
    """Centers and labels to the bit, and the inertia."""
    return np.asarray(model.cluster_centers_).tobytes(), np.asarray(model.labels_).tobytes(), model.inertia_


def kept(problem: Problem) -> tuple[np.ndarray, np.ndarray | None]:
    """The rows that weigh anything, and their weights."""
    return problem.rows[problem.positive], None if problem.weights is None else problem.weights[problem.positive]


def assert_near(found: float, exact: Fraction, problem: Problem) -> None:
    if found == math.inf:
        assert exact > Fraction(2) ** 1023
        return
    scale = 1 if problem.weights is None else Fraction(float(problem.weights.max()))
    assert found >= 0
    least = LEAST * scale * len(problem.rows) + Fraction(5e-324)
    assert abs(Fraction(found) - exact) <= exact * PART + least


def assert_consistent(model: Any, problem: Problem, hull: np.ndarray | None = None) -> None:
    """What holds of any model whose labels are those of the problem's rows. hull: the rows that the centers are among,
    where these are others."""
    centers = np.asarray(model.cluster_centers_)
    labels = np.asarray(model.labels_)
    assert centers.dtype == problem.dtype
    assert centers.shape == (problem.k, problem.rows.shape[1])
    assert np.isfinite(centers).all()
    rows = normalized(problem.rows) if problem.metric == "cosine" else problem.rows
    assert labels.dtype == np.int32
    assert labels.tolist() == distances(rows, centers.astype(float)).argmin(axis=1).tolist()
    assert labels.tolist() == np.asarray(model.predict(problem.x)).tolist()
    if problem.metric == "euclidean":
        hull = problem.rows if hull is None else hull
        assert (centers >= hull.min(axis=0)).all()
        assert (centers <= hull.max(axis=0)).all()


def assert_means(model: Any, problem: Problem, last: np.ndarray) -> None:
    """Centers are the means of their rows, exactly: to a billionth of these rows' range, and the rounding of the dtype.
    last: the labels that they are the means of."""
    rows, weights = kept(problem)
    labels = np.asarray(model.labels_)[problem.positive]
    if problem.metric == "cosine" or model.n_iter_ == model.max_iter or labels.tolist() != last.tolist():
        return
    w = [Fraction(v) for v in (np.ones(len(rows)) if weights is None else weights).tolist()]
    for c in set(labels.tolist()):
        at = np.flatnonzero(labels == c).tolist()
        for j in range(rows.shape[1]):
            values = [Fraction(v) for v in rows[at, j].tolist()]
            mean = sum(w[i] * v for i, v in zip(at, values, strict=True)) / sum(w[i] for i in at)
            found = np.asarray(model.cluster_centers_)[c, j]
            assert min(values) <= Fraction(float(found)) <= max(values)
            rounding = Fraction(float(np.spacing(np.abs(found)))) + 2 * Fraction(float(np.spacing(abs(float(mean)))))
            if max(values) - min(values) >= LEAST_RANGE:
                assert abs(Fraction(float(found)) - mean) <= (max(values) - min(values)) / 10**9 + rounding
