"""MiniBatchKMeans: the step by hand, the same bits however they are computed, and what callers may rely on.

scikit-learn's own tests of it run in test_sklearn_suite.py, its checks of estimators in test_ecosystem.py.
"""

from __future__ import annotations

import inspect
import pickle
from functools import partial

import numpy as np
import pytest
import scipy.sparse
from host_cuda.runtime import HostCuda
from sklearn.base import clone
from sklearn.cluster import MiniBatchKMeans as Theirs
from sklearn.datasets import make_blobs
from sklearn.exceptions import NotFittedError
from threadpoolctl import threadpool_limits

from gpukmeans import MiniBatchKMeans, row_sampler
from gpukmeans.engine import dispatch
from gpukmeans.engine.numpy.tuning import tuned


@pytest.fixture(scope="module")
def model(device):
    return partial(MiniBatchKMeans, device=device, random_state=0)


@pytest.fixture(scope="module")
def whole():
    """Whole numbers, so that equal rows and ties abound."""
    return np.random.default_rng(0).integers(0, 12, (3000, 3)).astype(np.float64)


def answer(fitted):
    return (
        fitted.cluster_centers_.tobytes(),
        fitted.labels_.tobytes(),
        fitted.inertia_,
        fitted.n_steps_,
        fitted._counts.tobytes(),
    )


# ---------------------------------------------------------------- the step


def test_signature_is_theirs_and_more():
    ours, theirs = (inspect.signature(kind.__init__).parameters for kind in (MiniBatchKMeans, Theirs))
    assert list(ours) == [*theirs, "metric", "device", "output_type", "oversampling_factor", "memory_limit"]
    for name, parameter in theirs.items():
        assert (ours[name].default, ours[name].kind) == (parameter.default, parameter.kind), name
    for method in ("fit", "partial_fit", "predict", "transform", "fit_predict", "fit_transform", "score"):
        ours, theirs = (inspect.signature(getattr(kind, method)).parameters for kind in (MiniBatchKMeans, Theirs))
        assert list(ours) == [*theirs, *(["out"] if method in ("predict", "transform") else [])]


@pytest.mark.parametrize("weighted", [False, True])
def test_centers_are_the_means_of_all_rows_they_were_given(model, digits, brute_labels, weighted):
    x = digits[0]
    init = x[:10] + 0.01
    weights = np.random.default_rng(1).random(len(x)) * 3 if weighted else np.ones(len(x))
    fitted = model(n_clusters=10, init=init, reassignment_ratio=0)
    centers, total = init, np.zeros(10)
    for a in range(0, len(x), 200):
        part, w = x[a : a + 200], weights[a : a + 200]
        labels = brute_labels(part, centers)
        centers = centers.copy()
        for c in set(labels):
            mine = labels == c
            centers[c] = (total[c] * centers[c] + w[mine] @ part[mine]) / (total[c] + w[mine].sum())
            total[c] += w[mine].sum()
        fitted.partial_fit(part, sample_weight=w if weighted else None)
        np.testing.assert_allclose(fitted.cluster_centers_, centers, rtol=1e-12, atol=1e-12)
        np.testing.assert_array_equal(fitted.labels_, brute_labels(part, fitted.cluster_centers_))
        np.testing.assert_allclose(fitted._counts, total, rtol=1e-12)
        assert fitted.inertia_ == -fitted.score(part, sample_weight=w)
        np.testing.assert_array_equal(fitted.labels_, fitted.predict(part))
    assert fitted.n_steps_ == 9


def test_steps_are_as_theirs(model, digits):
    x = digits[0]
    ours, theirs = (kind(n_clusters=10, init=x[:10] + 0.01, reassignment_ratio=0) for kind in (model, Theirs))
    for a in range(0, len(x), 300):
        for each in (ours, theirs):
            each.partial_fit(x[a : a + 300])
    np.testing.assert_allclose(ours.cluster_centers_, theirs.cluster_centers_, rtol=1e-9, atol=1e-9)
    np.testing.assert_array_equal(ours.labels_, theirs.labels_)
    np.testing.assert_allclose(ours.inertia_, theirs.inertia_, rtol=1e-9)


def test_a_batch_in_another_order_and_weights_for_copies_change_no_bit(model, whole):
    rng = np.random.default_rng(2)
    x, weights, order = whole[:400], rng.integers(1, 4, 400), rng.permutation(400)
    repeated = x.repeat(weights, axis=0)
    fits = [model(n_clusters=6, init=x[:6] + 0.5, reassignment_ratio=0) for _ in range(3)]
    for _ in range(3):
        fits[0].partial_fit(x, sample_weight=weights)
        fits[1].partial_fit(x[order], sample_weight=weights[order])
        fits[2].partial_fit(repeated[rng.permutation(len(repeated))])
    assert len({(fit.cluster_centers_.tobytes(), fit.inertia_, fit._counts.tobytes()) for fit in fits}) == 1


@pytest.mark.parametrize("dtype", [np.uint8, np.float16, np.float32, np.int64, np.float64])
def test_dtypes(model, digits, dtype):
    x = digits[0].astype(dtype)
    expected = np.dtype(dtype) if np.issubdtype(dtype, np.floating) else np.dtype(np.float64)
    fitted = model(n_clusters=5, max_iter=1, batch_size=100).fit(x)
    assert fitted.cluster_centers_.dtype == expected
    assert fitted.labels_.dtype == np.int32
    np.testing.assert_array_equal(fitted.labels_, fitted.predict(x))
    assert type(fitted.inertia_) is float
    assert type(fitted.n_iter_) is type(fitted.n_steps_) is int
    fitted.partial_fit(x[:50].astype(np.float64))
    assert fitted.cluster_centers_.dtype == expected


# ---------------------------------------------------------------- the same bits


@pytest.mark.slow
def test_every_way_gives_the_same_bits(model, device, whole, ways):
    if device != "cpu":
        return  # the ways are NumPy's
    weights = np.random.default_rng(1).integers(0, 4, len(whole)) / 3
    for sample_weight in (None, weights):
        for init in ("k-means++", "random"):
            settings = {"n_clusters": 9, "init": init, "batch_size": 500, "max_iter": 3, "tol": 1e-6}
            expected = answer(model(**settings).fit(whole, sample_weight=sample_weight))
            for name, way in ways.items():
                with tuned(**way):
                    assert answer(model(**settings).fit(whole, sample_weight=sample_weight)) == expected, name


@pytest.mark.kernels
def test_the_kernels_give_the_same_bits(monkeypatch, digits):
    """Run on the CPU, see test_kernels.py."""
    x = digits[0][:300, :12]
    weights = np.arange(300) % 3

    def fit():
        fitted = MiniBatchKMeans(6, random_state=0, batch_size=80, max_iter=2, tol=1e-9, device="cpu")
        fitted.fit(x, sample_weight=weights)
        first = answer(fitted)
        return first, answer(fitted.partial_fit(x[:50]))

    expected = fit()
    cp = HostCuda(seed=1)
    monkeypatch.setattr(
        dispatch,
        "make_points",
        lambda samples, *, device: dispatch.on_gpu(cp, samples),
    )
    assert fit() == expected


def test_threads_of_others_do_not_matter(model, whole):
    answers = set()
    for limit in (1, 2):
        with threadpool_limits(limit):
            answers.add(answer(model(n_clusters=9, max_iter=2).fit(whole)))
    assert len(answers) == 1


@pytest.mark.parametrize("kind", [scipy.sparse.csr_array, scipy.sparse.csc_matrix])
def test_sparse_is_dense(model, digits, kind):
    """From the same centers; the inertia is that of E."""
    x = digits[0]
    settings = {"n_clusters": 10, "batch_size": 200, "max_iter": 2, "init": digits[0][:10], "n_init": 1}
    found, dense = model(**settings).fit(kind(x)), model(**settings).fit(x)
    assert answer(found)[:2] == answer(dense)[:2]
    assert found.inertia_ == pytest.approx(dense.inertia_, rel=1e-14)
    expected, sparse = model(**settings), model(**settings)
    for a in range(0, 800, 200):
        sparse.partial_fit(kind(x)[a : a + 200])
        assert answer(sparse)[:2] == answer(expected.partial_fit(x[a : a + 200]))[:2]


def test_memory_order_does_not_matter(model, digits):
    x = digits[0]
    assert answer(model(n_clusters=10).fit(np.asfortranarray(x))) == answer(model(n_clusters=10).fit(x))


# ---------------------------------------------------------------- randomness


def test_a_seed_makes_it_repeatable(whole, device):
    answers = [
        answer(MiniBatchKMeans(5, random_state=seed, max_iter=1, device=device).fit(whole)) for seed in (0, 0, 1)
    ]
    assert answers[0] == answers[1] != answers[2]


def test_a_fit_draws_one_integer_from_the_callers_generator(whole, device):
    expected = np.random.RandomState(3)
    expected.randint(2**31 - 1)
    for settings in (
        {"max_iter": 1},
        {"n_clusters": 3, "init": "random", "n_init": 4},
        {"batch_size": 50, "max_iter": 2},
    ):
        given = np.random.RandomState(3)
        MiniBatchKMeans(**settings, random_state=given, device=device).fit(whole)
        assert given.randint(2**31 - 1) == np.random.RandomState(3).randint(2**31 - 1, size=2)[1]


def test_steps_go_on_where_they_were_left(model, whole):
    """After pickling, and after a step that failed: nothing of what was drawn is lost."""
    parts = [whole[a : a + 100] for a in range(0, 1000, 100)]
    straight = model(n_clusters=8, reassignment_ratio=0.5)
    for part in parts:
        straight.partial_fit(part)
    broken = model(n_clusters=8, reassignment_ratio=0.5)
    for part in parts:
        with pytest.raises(ValueError, match="NaN"):
            broken.partial_fit(np.where(part == part[0, 0], np.nan, part))
        broken = pickle.loads(pickle.dumps(broken.partial_fit(part)))
    assert answer(broken) == answer(straight)


def test_partial_fit_goes_on_after_fit(model, whole):
    fitted = model(n_clusters=8, max_iter=1, batch_size=300).fit(whole)
    steps, counts = fitted.n_steps_, fitted._counts.sum()
    fitted.partial_fit(whole[:50])
    assert fitted.n_steps_ == steps + 1
    assert len(fitted.labels_) == 50
    assert fitted._counts.sum() >= counts + 50


def test_rows_of_weight_zero_are_never_drawn(model, whole):
    """Far away, they would pull any center that saw one."""
    x = whole.copy()
    weights = np.random.default_rng(0).integers(0, 2, len(x))
    x[weights == 0] += 1e6
    for init in ("k-means++", "random"):
        fitted = model(n_clusters=5, init=init, batch_size=200, max_iter=2).fit(x, sample_weight=weights)
        assert fitted.cluster_centers_.max() < 13
        np.testing.assert_array_equal(fitted.labels_, fitted.predict(x))


def test_rows_are_drawn_in_proportion_to_their_weight(whole):
    weights = np.array([0.0, 1.0, 3.0, 0.0, 6.0])
    sampler = row_sampler.RowSampler(np.arange(5.0)[:, None], weights[weights > 0], weights > 0)
    drawn = sampler.draw(100_000, np.random.RandomState(0))[:, 0].astype(int)
    shares = np.bincount(drawn, minlength=5) / len(drawn)
    # Five standard deviations of the largest, sqrt(0.24 / 100,000).
    np.testing.assert_allclose(shares, weights / weights.sum(), atol=5 * 0.0016)
    assert set(drawn) == {1, 2, 4}


# ---------------------------------------------------------------- how a fit goes


def test_it_is_nearly_as_good_as_kmeans_and_as_theirs(model, kmeans, digits, slow):
    x, _ = digits
    with threadpool_limits(1):  # theirs waits for its own threads where others use the processors
        ours, theirs, full = (
            np.mean([kind(n_clusters=10, random_state=seed).fit(x).inertia_ for seed in range(8 if slow else 20)])
            for kind in (model, Theirs, kmeans)
        )
    assert ours < 1.04 * full
    assert ours < 1.02 * theirs


def test_several_starts_are_compared_and_one_is_followed(model, capsys):
    x, _ = make_blobs(400, centers=8, random_state=0)
    fitted = model(n_clusters=8, init="random", n_init=5, verbose=1).fit(x)
    lines = capsys.readouterr().out.splitlines()
    assert [line for line in lines if line.startswith("Init ")] == [
        f"Init {i}/5 with method random" for i in range(1, 6)
    ]
    inertias = [float(line.split(": ")[1]) for line in lines[1:10:2]]
    assert len(set(inertias)) == 5
    assert lines[10].startswith(f"Minibatch step 1/{100 * 400 // 400}: mean batch inertia: ")
    quiet = model(n_clusters=8, init="random", n_init=5).fit(x)
    assert answer(quiet) == answer(fitted)


def test_the_lines_are_theirs(model, digits, capsys):
    """Their words; numbers differ as the draws do."""
    words = []
    for kind in (model, Theirs):
        kind(n_clusters=10, random_state=0, verbose=1, max_iter=1, batch_size=450, max_no_improvement=None).fit(
            digits[0]
        )
        lines = [line for line in capsys.readouterr().out.splitlines() if "Reassigning" not in line]
        words.append([[word for word in line.split() if not any(c.isdigit() for c in word)] for line in lines])
    assert words[0] == words[1]


@pytest.mark.parametrize("settings", [{"tol": 10.0}, {"max_no_improvement": 0}, {"max_iter": 1, "batch_size": 10**6}])
def test_a_fit_may_end_early(model, digits, settings):
    x, _ = digits
    fitted = model(n_clusters=10, **settings).fit(x)
    assert fitted.n_steps_ <= 2
    assert fitted.n_iter_ == -(-fitted.n_steps_ * min(1024, len(x)) // len(x)) or settings.get("batch_size")
    np.testing.assert_array_equal(fitted.labels_, fitted.predict(x))


def test_max_iter_counts_passes_over_the_data(model, digits):
    x, _ = digits
    fitted = model(n_clusters=10, max_iter=3, batch_size=100, max_no_improvement=None).fit(x)
    assert fitted.n_steps_ == 3 * len(x) // 100
    assert fitted.n_iter_ == 3


def test_light_centers_are_moved_to_rows_of_the_batch(model, whole):
    """Half as many as it has rows at most; and never the heaviest, which would leave nothing to compare with."""
    init = np.full((6, 3), 1e4)
    init[0] = 6
    fitted = model(n_clusters=6, init=init).partial_fit(whole[:100])
    assert fitted.cluster_centers_.max() < 13
    assert len(np.unique(fitted.labels_)) == 6
    rows = {tuple(row) for row in whole[:100]}
    assert sum(tuple(center) in rows for center in fitted.cluster_centers_) >= 5
    few = model(n_clusters=6, init=init).partial_fit(whole[:6])
    assert (few.cluster_centers_.max(axis=1) == 1e4).sum() == 2
    kept = model(n_clusters=6, init=init, reassignment_ratio=0).partial_fit(whole[:100])
    assert (kept.cluster_centers_.max(axis=1) == 1e4).sum() == 5
    every = model(n_clusters=6, init=init, reassignment_ratio=5.0).partial_fit(whole[:100])
    np.testing.assert_allclose(every.cluster_centers_[0], whole[:100].mean(axis=0))


def test_without_labels(model, digits):
    x, _ = digits
    fitted = model(n_clusters=10).fit(x)
    for _ in range(2):
        fitted.set_params(compute_labels=False).fit(x)
        assert not hasattr(fitted, "labels_")
        np.testing.assert_allclose(fitted.inertia_, -fitted.score(x), rtol=0.1)
        fitted.partial_fit(x[:20])
        assert not hasattr(fitted, "inertia_")
    np.testing.assert_array_equal(fitted.fit_predict(x), fitted.predict(x))
    weights = np.arange(len(x)) % 7 / 3.0
    fitted.fit(x, sample_weight=weights)
    np.testing.assert_allclose(fitted.inertia_, -fitted.score(x, sample_weight=weights), rtol=0.1)
    single = model(n_clusters=10, compute_labels=False, max_iter=1, batch_size=len(x)).fit(x)
    assert single.n_steps_ == 1
    assert single.inertia_ > 0


# ---------------------------------------------------------------- bad input


BAD = {
    "NaN": (lambda x: np.where(x == x[0, 0], np.nan, x), {}, {}, "NaN"),
    "few rows": (lambda x: x[:4], {}, {}, "n_samples=4 should be >= n_clusters=5"),
    "negative weight": (lambda x: x, {"sample_weight": -1.0}, {}, "Negative values"),
    "no weight": (lambda x: x, {"sample_weight": 0.0}, {}, "non-zero"),
    "overflow": (lambda x: x * 1e200, {}, {}, "overflow float64"),
    "batch size": (lambda x: x, {}, {"batch_size": 0}, "'batch_size' parameter"),
    "ratio": (lambda x: x, {}, {"reassignment_ratio": -1.0}, "'reassignment_ratio' parameter"),
    "init": (lambda x: x, {}, {"init": np.zeros((4, 3))}, "number of clusters 5"),
    "device": (lambda x: x, {}, {"device": "tpu"}, "device must be"),
}


@pytest.mark.parametrize("method", ["fit", "partial_fit"])
@pytest.mark.parametrize("case", BAD)
def test_bad_input_changes_nothing(model, whole, case, method):
    change, arguments, parameters, message = BAD[case]
    arguments = {name: np.full(300, value) for name, value in arguments.items()}
    fitted = model(n_clusters=5)
    with pytest.raises(ValueError, match=message):
        getattr(clone(fitted).set_params(**parameters), method)(change(whole[:300]), **arguments)
    fitted.fit(whole[:300])
    if method == "partial_fit" and case in ("few rows", "init", "batch size", "ratio"):
        return  # once there are centers, they are of no matter or, as in theirs, not looked at again
    fitted.set_params(**parameters)
    before = vars(fitted).copy()
    with pytest.raises(ValueError, match=message):
        getattr(fitted, method)(change(whole[:300]), **arguments)
    assert vars(fitted) == before


def test_later_batches_may_be_small_but_not_of_another_width(model, whole):
    fitted = model(n_clusters=5).partial_fit(whole[:100])
    assert len(fitted.partial_fit(whole[:1]).labels_) == 1
    with pytest.raises(ValueError, match="X has 2 features, but MiniBatchKMeans is expecting 3"):
        fitted.partial_fit(whole[:, :2])
    with pytest.raises(NotFittedError):
        model().predict(whole)


def test_weights_that_overflow_are_refused(model, whole):
    fitted = model(n_clusters=1).partial_fit(whole[:10], sample_weight=np.full(10, 1e307))
    before = answer(fitted)
    with pytest.raises(ValueError, match="add up to more than float64 holds"):
        fitted.partial_fit(whole[:10], sample_weight=np.full(10, 1e307))
    assert answer(fitted) == before
