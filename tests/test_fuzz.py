"""The whole contract on data of every kind, against tests/reference.py: in CI some examples, always the same; `make
fuzz` goes on with others for as long as it is asked to, and prints how to run the one that fails."""

from __future__ import annotations

import math
import time
import warnings
from collections.abc import Callable
from fractions import Fraction
from functools import partial
from typing import Any

import dask
import fuzz
import numpy as np
import pytest
from hypothesis import HealthCheck, given, seed, settings
from hypothesis import strategies as st
from reference import Reference, distances, normalized
from sklearn.exceptions import ConvergenceWarning

from gpukmeans import KMeans, MiniBatchKMeans
from gpukmeans.dask import workers
from gpukmeans.engine.numpy.tuning import tuned

pytestmark = [
    pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning"),
    pytest.mark.filterwarnings("ignore:.*should be larger than n_clusters.*:RuntimeWarning"),
]

# How far a published inertia may be from the exact one: a part of it, and what is lost of D below 2**-1000.
PART, LEAST = Fraction(1, 2**38), Fraction(1, 2**900)

# Terms of sums keep 30 bits or more of any range from here on: their scale is 2**1000 at most.
LEAST_RANGE = Fraction(1, 2**960)


@pytest.fixture
def explore(request, slow) -> Callable[..., None]:
    """explore(check, examples): runs a property on so many examples, or on others until the time is up."""
    seconds = request.config.getoption("--fuzz")

    def run(check: Callable[..., None], examples: int, **drawn: Any) -> None:
        def example() -> Callable[[], None]:
            """Anew, since it keeps its settings."""

            @given(**drawn)
            def once(**values: Any) -> None:
                check(**values)

            return once

        always = {"deadline": None, "database": None, "print_blob": True, "suppress_health_check": list(HealthCheck)}
        if not seconds:
            settings(**always, derandomize=True, max_examples=examples // 10 if slow else examples)(example())()
            return
        until, turns = time.monotonic() + seconds, 0
        while time.monotonic() < until:
            seed(time.time_ns())(settings(**always, max_examples=100)(example()))()
            turns += 1
        print(f"\n{request.node.name}: {100 * turns} examples")

    return run


@pytest.fixture
def monkey():
    """A monkeypatch to be undone within an example."""
    return pytest.MonkeyPatch


@pytest.fixture(autouse=True)
def one_thread(device):
    """What runs kernels on the CPU answers one thread at a time, and Dask would make chunks in several."""
    with dask.config.set(**({} if device == "cpu" else {"scheduler": "synchronous"})):
        yield


def nowhere(monkeypatch: Any) -> None:
    """No cluster of Dask's, whatever another test has open."""
    monkeypatch.setattr(workers, "_client", lambda: None)


def assert_near(found: float, exact: Fraction, problem: fuzz.Problem) -> None:
    if found == math.inf:
        assert exact > Fraction(2) ** 1023
        return
    scale = 1 if problem.weights is None else Fraction(float(problem.weights.max()))
    assert found >= 0
    least = LEAST * scale * len(problem.rows) + Fraction(5e-324)
    assert abs(Fraction(found) - exact) <= exact * PART + least


def assert_consistent(model: Any, problem: fuzz.Problem) -> None:
    """What holds of any model of the problem's rows."""
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
        assert (centers >= rows.min(axis=0)).all()
        assert (centers <= rows.max(axis=0)).all()


def kept(problem: fuzz.Problem) -> tuple[np.ndarray, np.ndarray | None]:
    """The rows that weigh anything, and their weights."""
    if problem.weights is None:
        return problem.rows, None
    return problem.rows[problem.weights > 0], problem.weights[problem.weights > 0]


def assert_right(model: Any, problem: fuzz.Problem, last: np.ndarray) -> None:
    """Centers are the means of their rows, exactly: to a billionth of these rows' range, and the rounding of the dtype.
    last: the labels that they are the means of."""
    rows, weights = kept(problem)
    labels = np.asarray(model.labels_) if weights is None else np.asarray(model.labels_)[problem.weights > 0]
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


def test_a_fit_is_the_reference(explore, kmeans, device, monkey):
    def check(problem, init, tol, max_iter, algorithm, n_init, random_state, parts, batch, tuning):
        rows, weights = kept(problem)
        reference = Reference(rows, weights, problem.metric, problem.sparse)
        if reference.variance() <= Fraction(float(np.abs(reference.x).max())) ** 2 / 2**50:
            tol = 0.0  # it is the rounding of the mean, or below the units that it is summed in
        if init == "k-means++":
            starts, given_init = None, init
        else:
            n_init = 1
            start = problem.start("rows" if init == "callable" else init)
            starts, given_init = [start], (lambda x, k, random_state: start) if init == "callable" else start
        settings_ = {"n_clusters": problem.k, "init": given_init, "n_init": n_init, "tol": tol, "max_iter": max_iter}
        settings_ |= {"algorithm": algorithm, "random_state": random_state, "metric": problem.metric}
        with monkey.context() as patch, tuned(**tuning), warnings.catch_warnings():
            warnings.simplefilter("ignore", ConvergenceWarning)
            warnings.simplefilter("ignore", RuntimeWarning)  # elkan of one cluster
            nowhere(patch)
            if parts or device != "cpu":
                fuzz.shared_out(patch, max(1, parts), batch)
            model = kmeans(**settings_).fit(problem.x, sample_weight=problem.weights)
            assert_consistent(model, problem)
        if starts is None:
            generator = np.random.RandomState(random_state)
            starts = [reference.seed(problem.k, generator) for _ in range(n_init)]
        fits = []
        for start in starts:
            fits.append((*reference.fit(start, tol, max_iter, problem.dtype, init != "k-means++"), reference.last))
        least = min(fit[2] for fit in fits)
        centers, _, inertia, n_iter, last = next(
            (fit for fit in fits if fit[0].tolist() == np.asarray(model.cluster_centers_).tolist()), fits[0]
        )
        assert np.asarray(model.cluster_centers_).tobytes() == (centers.astype(problem.dtype) + 0).tobytes()
        assert inertia <= least * (1 + PART) + LEAST * 2**100
        assert model.n_iter_ == n_iter
        assert_near(model.inertia_, inertia, problem)
        assert_right(model, problem, last)

    explore(
        check,
        600,
        problem=fuzz.problems(),
        init=st.sampled_from(["rows", "far", "between", "equal", "k-means++", "callable"]),
        tol=st.sampled_from([0.0, 1e-4, 0.1]),
        max_iter=st.sampled_from([1, 2, 50]),
        algorithm=st.sampled_from(["lloyd", "elkan"]),
        n_init=st.sampled_from([1, 1, 3]),
        random_state=st.integers(0, 2**31 - 1),
        parts=st.sampled_from([0, 0, 2, 5]),
        batch=st.integers(1, 50),
        tuning=st.fixed_dictionaries(fuzz.TUNING),
    )


@pytest.mark.parametrize("init", ["random", "k-means||"])
def test_other_seedings_give_one_answer(explore, kmeans, device, monkey, init):
    """However it is computed; `tests/test_randomness.py` has a reference for each."""

    def check(problem, random_state, parts, batch, tuning):
        found = []
        for way in (False, True):
            with monkey.context() as patch, tuned(**(tuning if way else {})):
                nowhere(patch)
                if way:
                    fuzz.shared_out(patch, parts, batch)
                model = (kmeans if way else partial(KMeans, device="cpu"))(
                    problem.k, init=init, n_init=2, random_state=random_state, metric=problem.metric, max_iter=20
                ).fit(problem.x, sample_weight=problem.weights)
                assert_consistent(model, problem)
                arrays = (np.asarray(model.cluster_centers_).tobytes(), np.asarray(model.labels_).tobytes())
                found.append((*arrays, model.inertia_, model.n_iter_, model.score(problem.x, None, problem.weights)))
        assert found[0] == found[1]
        assert found[0][-1] == -found[0][2]

    explore(
        check,
        120,
        problem=fuzz.problems(),
        random_state=st.integers(0, 2**31 - 1),
        parts=st.sampled_from([1, 2, 5]),
        batch=st.integers(1, 50),
        tuning=st.fixed_dictionaries(fuzz.TUNING),
    )


def test_copies_and_the_order_of_rows_change_nothing(explore, kmeans):
    def check(problem, init):
        start = problem.start(init)
        fit = partial(kmeans(problem.k, init=start, n_init=1, metric=problem.metric, max_iter=30).fit)
        rows = problem.x
        copies = problem.rng.integers(1, 4, len(rows))
        weighed = fit(rows, sample_weight=copies)
        order = problem.rng.permutation(len(rows))
        centers, labels = weighed.cluster_centers_.tobytes(), weighed.labels_
        said = centers, weighed.inertia_, weighed.n_iter_
        repeated = fit(np.repeat(rows, copies, axis=0))
        assert repeated.labels_.tolist() == np.repeat(labels, copies).tolist()
        assert (repeated.cluster_centers_.tobytes(), repeated.inertia_, repeated.n_iter_) == said
        reference = Reference(problem.rows, copies.astype(float), problem.metric)
        reference.fit(start, max_iter=30, dtype=problem.dtype)
        if reference.relocated:  # equally far locations are taken in the order of rows
            return
        permuted = fit(rows[order], sample_weight=copies[order])
        assert permuted.labels_.tolist() == labels[order].tolist()
        assert (permuted.cluster_centers_.tobytes(), permuted.inertia_, permuted.n_iter_) == said

    explore(check, 150, problem=fuzz.problems(holders=["rows"]), init=st.sampled_from(["rows", "between"]))


def test_steps_on_batches_are_the_reference(explore, device, monkey):
    def check(problem, steps, parts, batch, tuning):
        start = problem.start("rows")
        model = MiniBatchKMeans(
            problem.k, init=start, n_init=1, reassignment_ratio=0.0, metric=problem.metric, device=device
        )
        rows, weights = kept(problem)
        reference = Reference(rows, weights, problem.metric, problem.sparse)
        centers = start.astype(float) + 0.0
        centers, counts = normalized(centers) if reference.cosine else centers, np.zeros(problem.k)
        for _ in range(steps):
            with monkey.context() as patch, tuned(**tuning):
                nowhere(patch)
                fuzz.shared_out(patch, parts, batch)
                model.partial_fit(problem.x, sample_weight=problem.weights)
                assert_consistent(model, problem)
            for c, cluster in reference.clusters(reference.labels(centers)).items():
                cluster = reference.certified(cluster)
                weight = math.ldexp(cluster.weight, -reference.shift)
                if weight == 0:
                    continue
                counts[c] += weight
                share = weight / counts[c]
                moved = cluster.mean if share == 1 else centers[c] + (cluster.mean - centers[c]) * share
                centers[c] = reference.center(moved, centers[c])
            assert np.asarray(model.cluster_centers_).tobytes() == (centers.astype(problem.dtype) + 0).tobytes()
            assert model._counts.tolist() == counts.tolist()
            centers = centers.astype(problem.dtype).astype(float)
        labels = reference.labels(centers)
        assert_near(model.inertia_, reference.inertia(labels, centers), problem)

    explore(
        check,
        150,
        problem=fuzz.problems(),
        steps=st.integers(1, 3),
        parts=st.sampled_from([1, 2, 5]),
        batch=st.integers(1, 50),
        tuning=st.fixed_dictionaries(fuzz.TUNING),
    )


def test_a_fit_on_batches_gives_one_answer(explore, device, monkey):
    def check(problem, batch_size, random_state, parts, batch):
        found = []
        for way in (False, True):
            with monkey.context() as patch:
                nowhere(patch)
                if way:
                    fuzz.shared_out(patch, parts, batch)
                model = MiniBatchKMeans(
                    problem.k,
                    batch_size=batch_size,
                    max_iter=3,
                    n_init=2,
                    random_state=random_state,
                    metric=problem.metric,
                    device=device if way else "cpu",
                ).fit(problem.x, sample_weight=problem.weights)
                assert_consistent(model, problem)
                arrays = (np.asarray(model.cluster_centers_).tobytes(), np.asarray(model.labels_).tobytes())
                found.append((*arrays, model.inertia_, model.n_steps_))
        assert found[0] == found[1]

    explore(
        check,
        100,
        problem=fuzz.problems(),
        batch_size=st.integers(1, 60),
        random_state=st.integers(0, 2**31 - 1),
        parts=st.sampled_from([1, 2, 5]),
        batch=st.integers(1, 50),
    )


WRONG = {
    "NaN": lambda x, rng: np.where(rng.random(x.shape) < 0.5, np.nan, x),
    "infinity": lambda x, rng: np.where(rng.random(x.shape) < 0.5, -np.inf, x),
    "too large": lambda x, rng: x + 2.0**501,
    "no rows": lambda x, rng: x[:0],
    "no features": lambda x, rng: x[:, :0],
    "one dimension": lambda x, rng: x[0],
}


def test_what_is_wrong_is_a_value_error_and_changes_nothing(explore, kmeans, device):
    def check(problem, wrong):
        good = problem.rows.clip(-1e100, 1e100)
        for kind in (kmeans, partial(MiniBatchKMeans, device=device)):
            model = kind(n_clusters=problem.k, random_state=0).fit(good)
            before = {name: np.asarray(value).tobytes() for name, value in vars(model).items() if name[-1] == "_"}
            x, weights = good.copy(), np.ones(len(good))
            if wrong in WRONG:
                x = WRONG[wrong](x, np.random.default_rng(1))
                if wrong in ("NaN", "infinity"):
                    x[0, 0] = np.nan if wrong == "NaN" else np.inf
            elif wrong == "k":
                model.set_params(n_clusters=len(good) + 1)
            elif wrong == "another width":
                x = np.hstack([x, x])
            else:
                weights = {
                    "negative weights": weights - 2,
                    "weights of NaN": weights * np.nan,
                    "no weights": weights * 0,
                }[wrong]
            calls = [] if wrong == "another width" else [lambda: model.fit(x, sample_weight=weights)]  # noqa: B023
            if wrong in WRONG or wrong == "another width":
                calls += [lambda: model.predict(x), lambda: model.transform(x), lambda: model.score(x)]  # noqa: B023
            for call in calls:
                with pytest.raises(ValueError, match=r"\w+ \w+"):
                    call()
                after = {name: np.asarray(value).tobytes() for name, value in vars(model).items() if name[-1] == "_"}
                assert after == before

    explore(
        check,
        60,
        problem=fuzz.problems(holders=["rows"]),
        wrong=st.sampled_from([*WRONG, "negative weights", "weights of NaN", "no weights", "k", "another width"]),
    )
