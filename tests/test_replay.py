"""A part of the rows that is lost is made anew and told the same again: every answer stays as it was."""

from __future__ import annotations

from itertools import count, pairwise

import numpy as np
import pytest
from scipy.sparse import csr_matrix

from gpukmeans import DeviceError, KMeans
from gpukmeans.engine import dispatch
from gpukmeans.engine.combine.multi_device import Parallel
from gpukmeans.engine.combine.replay import LOSSES, Replayed
from gpukmeans.engine.numpy.points import NumPyPoints
from gpukmeans.engine.numpy.sparse_points import SparsePoints
from gpukmeans.engine.protocol import Samples
from gpukmeans.errors import DeviceLost
from gpukmeans.exact.sparse_rows import Entries

rng = np.random.default_rng(0)
X = rng.normal(50, 20, (120, 3)).astype(np.float32)


class Mortal:
    """Points, or their seeding, whose calls are counted by next_call(), which may raise."""

    def __init__(self, held, next_call):
        self._held, self._next_call = held, next_call

    def __getattr__(self, name):
        found = getattr(self._held, name)
        if not callable(found):
            return found

        def call(*args, **how):
            self._next_call()
            answer = found(*args, **how)
            return Mortal(answer, self._next_call) if name == "seeding" else answer

        return call


def in_parts(next_call):
    """make_points in three parts, each of which is made by NumPy whenever it has to be."""

    def make_points(samples, *, device):
        n = samples.shape[0]
        slices = [slice(a, b) for a, b in pairwise([0, n // 3, n // 2, n])]
        kind = SparsePoints if samples.sparse else NumPyPoints
        if samples.sparse:
            samples = Samples(Entries.of(samples.x), samples.weights, samples.summary, samples.metric)

        def part(rows):
            return Replayed(lambda: Mortal(kind(samples.part(rows)), next_call))

        return Parallel([part(rows) for rows in slices], slices, samples)

    return make_points


FITS = {
    "k-means++": {"x": X},
    "weighed": {"x": X, "weights": np.arange(1.0, 121.0)},
    "k-means||": {"x": X, "init": "k-means||"},
    "random, twice": {"x": X, "init": "random", "n_init": 2},
    "an empty cluster": {"x": X, "init": X[:5] + np.float32([[0], [0], [0], [1e4], [1e4]]), "n_init": 1},
    "cosine": {"x": X - 50, "metric": "cosine"},
    "sparse": {"x": csr_matrix(np.maximum(X - 60, 0))},
    "coarse sums": {"x": np.concatenate([X, X * 1e30]).astype(np.float64)},
}


def said(x, weights=None, **parameters):
    parameters = {"n_clusters": 5, "random_state": 0, "max_iter": 4, **parameters}
    history = []
    model = KMeans(device="cpu", callback=lambda record: history.append(record.inertia), **parameters)
    model.fit(x, sample_weight=weights)
    arrays = model.cluster_centers_, model.labels_, model.transform(x)
    return [array.tobytes() for array in arrays], model.inertia_, model.n_iter_, history


@pytest.mark.parametrize("name", FITS)
def test_a_loss_at_any_call_changes_no_answer(monkeypatch, name):
    expected = said(**FITS[name])
    at, step = 0, 7
    while True:
        calls = count()

        def next_call(calls=calls, at=at):
            if next(calls) == at:
                raise DeviceLost("It is gone.")

        monkeypatch.setattr(dispatch, "make_points", in_parts(next_call))
        assert said(**FITS[name]) == expected, at
        if next(calls) <= at:
            break
        at += step
    assert at > 40


def test_losses_may_follow_each_other_and_while_all_is_told_again(monkeypatch):
    expected = said(X)
    lost = iter([60, 61, 62, 120, 121])
    calls, next_loss = count(), [next(lost)]

    def next_call():
        if next(calls) == next_loss[0]:
            next_loss[0] = next(lost, -1)
            raise DeviceLost("It is gone.")

    monkeypatch.setattr(dispatch, "make_points", in_parts(next_call))
    assert said(X) == expected
    assert next_loss == [-1]


def test_losses_without_end_are_an_error(monkeypatch):
    calls = count()

    def next_call():
        if next(calls) > 60:
            raise DeviceLost("It is gone.")

    monkeypatch.setattr(dispatch, "make_points", in_parts(next_call))
    monkeypatch.setattr(dispatch, "make_starts", lambda *given, device: None)
    with pytest.raises(DeviceError, match=rf"It is gone\. That was the {LOSSES + 1}th loss in a row"):
        KMeans(5, random_state=0, device="cpu").fit(X)
