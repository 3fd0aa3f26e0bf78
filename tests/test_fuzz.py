"""The whole contract on data of every kind, against tests/reference.py: in CI some examples, always the same; `make
fuzz` goes on with others for as long as it is asked to, and prints how to run the one that fails."""

from __future__ import annotations

import warnings
from fractions import Fraction
from functools import partial

import fuzz
import numpy as np
import pytest
from distributed import Client, LocalCluster
from fuzz_checks import LEAST, PART, answers, assert_consistent, assert_means, assert_near, kept
from fuzz_ways import Way, ways
from hypothesis import strategies as st
from reference import Reference
from sklearn.exceptions import ConvergenceWarning

from gpukmeans import KMeans, MiniBatchKMeans

pytestmark = pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")

SEEDS = st.integers(0, 2**31 - 1)


def test_a_fit_is_the_reference(explore, devices_under_test):
    def check(problem, init, tol, max_iter, algorithm, n_init, random_state, way):
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
        with way.taken(), warnings.catch_warnings():
            warnings.simplefilter("ignore", ConvergenceWarning)
            warnings.simplefilter("ignore", RuntimeWarning)  # elkan of one cluster
            model = KMeans(**settings_, device=way.device).fit(problem.x, sample_weight=problem.weights)
            assert_consistent(model, problem)
        if starts is None:
            generator = np.random.RandomState(random_state)
            starts = [reference.seed(problem.k, generator) for _ in range(1 if n_init == "auto" else n_init)]
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
        with way.taken():  # labels of Dask's are computed when they are looked at
            assert_means(model, problem, last)

    explore(
        check,
        600,
        problem=fuzz.problems(),
        init=st.sampled_from(["rows", "far", "between", "equal", "k-means++", "callable"]),
        tol=st.sampled_from([0.0, 1e-4, 0.1]),
        max_iter=st.sampled_from([1, 2, 50]),
        algorithm=st.sampled_from(["lloyd", "elkan"]),
        n_init=st.sampled_from([1, "auto", 3]),
        random_state=SEEDS,
        way=ways(devices_under_test),
    )


@pytest.mark.parametrize("init", ["random", "k-means||", "callable"])
def test_other_seedings_give_one_answer(explore, devices_under_test, init):
    """However it is computed; `tests/test_randomness.py` has a reference for each."""

    def drawn(x, k, random_state):
        return np.asarray(random_state.uniform(-1, 1, (k, x.shape[1])))

    def check(problem, random_state, n_init, way):
        found = []
        for each in (Way(), way):
            model = KMeans(
                problem.k,
                init=drawn if init == "callable" else init,
                n_init=n_init,
                random_state=random_state,
                metric=problem.metric,
                max_iter=20,
                device=each.device,
            )
            with each.taken():
                model.fit(problem.x, sample_weight=problem.weights)
                assert_consistent(model, problem)
                found.append((answers(model), model.n_iter_, model.score(problem.x, None, problem.weights)))
        assert found[0] == found[1]
        assert found[0][-1] == -model.inertia_

    explore(
        check,
        60,
        problem=fuzz.problems(),
        random_state=SEEDS,
        n_init=st.sampled_from([1, 2, "auto"]),
        way=ways(devices_under_test),
    )


@pytest.fixture(scope="module")
def workers():
    """A cluster of three workers in this process, each a thread."""
    with (
        LocalCluster(n_workers=3, threads_per_worker=1, processes=False, dashboard_address=":0") as cluster,
        Client(cluster) as client,
    ):
        yield client


def test_rows_on_workers_give_one_answer(explore, workers):
    def check(problem, model, init, random_state):
        found = []
        for here in (True, False):
            fit = model(problem.k, init=init, n_init=1, random_state=random_state, metric=problem.metric, max_iter=3)
            fit.set_params(device="cpu")
            if here:
                with Way().taken():
                    fit.fit(problem.rows.astype(problem.given), sample_weight=problem.weights)
            else:
                fit.fit(problem.x, sample_weight=problem.weights)
                assert_consistent(fit, problem)
            found.append((answers(fit), fit.n_iter_))
        assert found[0] == found[1]

    explore(
        check,
        20,
        problem=fuzz.problems(holders=["Dask"]),
        model=st.sampled_from([KMeans, KMeans, MiniBatchKMeans]),
        init=st.sampled_from(["k-means++", "k-means||", "random"]),
        random_state=SEEDS,
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
