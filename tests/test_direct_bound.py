"""The bound on D from below by float32 differences, held to rationals; see test_kernel_seeding.py for the kernel."""

from __future__ import annotations

from fractions import Fraction

import numpy as np
import pytest

from gpukmeans.exact.direct_bound import DirectBound


def rows(rng, kind, n, d):
    """Rows of all kinds of magnitude, many of them close together."""
    if kind == "uint8":
        return rng.integers(0, 256, (n, d)).astype(np.uint8)
    scale = {"float16": 100.0, "float32": 2.0 ** rng.integers(-120, 120), "float64": 2.0 ** rng.integers(-300, 300)}[
        kind
    ]
    near = rng.normal(3, 1, d) + rng.normal(0, 1, (n, d)) * 2.0 ** -rng.integers(0, 30, (n, 1))
    return (near * scale).astype(kind)


def distance(x, c):
    return sum(((Fraction(float(a)) - Fraction(float(b))) ** 2 for a, b in zip(x, c, strict=True)), Fraction(0))


def sums_of_squares(y, z):
    """In float32, (m,), by the order that errs most for many equal terms: one after another."""
    total = np.zeros(len(y), np.float32)
    for j in range(y.shape[1]):
        step = y[:, j] - z[j]
        total += step * step
    return total


@pytest.mark.parametrize("kind", ["uint8", "float16", "float32", "float64"])
def test_no_bound_is_above_the_distance(kind):
    tight = 0.0
    for seed in range(12):
        rng = np.random.default_rng(seed)
        x = rows(rng, kind, 60, (1, 3, 40)[seed % 3])
        bound = DirectBound.of(x.min(0).astype(np.float64), x.max(0).astype(np.float64), x.dtype)
        y = bound.features(x)
        for i in range(0, 60, 7):
            least = bound.least(sums_of_squares(y, y[i]))
            for j in range(60):
                exact = distance(x[j], x[i]) * Fraction(2) ** (2 * bound.exponent)
                assert Fraction(float(least[j])) <= exact
                if exact:
                    tight = max(tight, float(Fraction(float(least[j])) / exact))
    assert tight > 1 - 1e-5


def test_every_part_of_the_bound_is_needed():
    """Without what is taken off, the sum of squares is above the distance of some float64 rows, and of float32."""
    rng = np.random.default_rng(0)
    for kind in ("float32", "float64"):
        x = rng.random((300, 8)).astype(kind)
        bound = DirectBound.of(x.min(0).astype(np.float64), x.max(0).astype(np.float64), x.dtype)
        y = bound.features(x)
        sums = sums_of_squares(y[1:], y[0])
        exact = [distance(row, x[0]) * Fraction(2) ** (2 * bound.exponent) for row in x[1:]]
        assert any(Fraction(float(s)) > e for s, e in zip(sums, exact, strict=True))
    # Rows of float64 that float32 cannot tell apart, nor from a third: what is absolute alone holds there.
    x = np.array([[0.0], [1.0], [0.75 + 2.0**-26], [0.75 + 2.0**-24]])
    bound = DirectBound.of(x.min(0), x.max(0), x.dtype)
    y = bound.features(x)
    sums = sums_of_squares(y[3:], y[2])
    relative = bound.relative * sums - bound.rest
    exact = distance(x[3], x[2]) * Fraction(2) ** (2 * bound.exponent)
    assert Fraction(float(bound.least(sums)[0])) <= exact < Fraction(float(relative[0]))


def test_ranges_that_float32_cannot_serve_have_none():
    for low, high in ((0.0, 2.0**400), (0.0, np.inf), (0.0, 2.0**-400)):
        assert DirectBound.of(np.array([low]), np.array([high]), np.dtype(np.float64)) is None
    assert DirectBound.of(np.zeros(2**17), np.ones(2**17), np.dtype(np.float32)) is None
