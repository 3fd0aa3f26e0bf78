"""BatchedKMeans: many problems in one call, each with the bits of KMeans."""

from __future__ import annotations

import inspect
import pickle
import warnings

import numpy as np
import pytest
from sklearn.base import clone
from sklearn.exceptions import ConvergenceWarning, NotFittedError

import gpukmeans
from gpukmeans import BatchedKMeans, KMeans, batched_fits
from gpukmeans.engine.numpy.tuning import tuned

rng = np.random.default_rng(21)
X = rng.normal(size=(5, 60, 3)).astype(np.float32)


@pytest.fixture(params=["compiled", "plain"])
def way(request, device):
    """Whether what numba compiles serves; on another device there is one way."""
    if device != "cpu":
        if request.param == "plain":
            pytest.skip("there is one way on this device")
        yield None
        return
    with tuned(compiled=request.param == "compiled"):
        yield request.param


@pytest.fixture
def together(monkeypatch):
    """How many problems of the last fit were fitted together: together()."""
    counts = []
    given = batched_fits.fit_many

    def fit_many(*arguments):
        found = given(*arguments)
        counts.append(sum(fit is not None for fit in found))
        return found

    monkeypatch.setattr("gpukmeans.batched.fit_many", fit_many)
    return lambda: counts[-1]


def of_problem(i, parameters):
    init = parameters.get("init")
    return {**parameters, "init": init[i]} if getattr(init, "ndim", 0) == 3 else parameters


def assert_is_the_loop(device, x, weights=None, **parameters):
    """Fit, and hold each problem to a fit by itself; returns the estimator."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        model = BatchedKMeans(random_state=3, device=device, **parameters).fit(x, sample_weight=weights)
        for i in range(len(x)):
            own = KMeans(random_state=int(model.seeds_[i]), device=device, **of_problem(i, parameters))
            own.fit(x[i], sample_weight=None if weights is None else weights[i])
            assert model.cluster_centers_[i].tobytes() == own.cluster_centers_.tobytes()
            assert model.cluster_centers_.dtype == own.cluster_centers_.dtype
            assert np.array_equal(model.labels_[i], own.labels_)
            assert model.inertia_[i] == own.inertia_
            assert model.n_iter_[i] == own.n_iter_
    return model


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64, np.uint8, np.int64])
def test_a_problem_has_the_bits_of_a_fit_by_itself(way, device, dtype):
    assert_is_the_loop(device, (20 * X + 100).astype(dtype), n_clusters=4)


@pytest.mark.parametrize(
    "parameters",
    [
        {"n_init": 3},
        {"init": "random"},
        {"init": "random", "n_init": 2},
        {"init": "k-means||"},
        pytest.param({"init": X[0, :4]}, id="centers of all"),
        pytest.param({"init": X[:, :4]}, id="centers of each"),
        pytest.param(
            {"init": lambda x, k, random_state: x[random_state.permutation(len(x))[:k]], "n_init": 2}, id="callable"
        ),
        {"metric": "cosine"},
        {"tol": 0.0},
        {"tol": 1.0},
        {"max_iter": 1},
        {"max_iter": 2},
        {"algorithm": "elkan"},
    ],
    ids=str,
)
def test_whatever_the_parameters(way, device, parameters):
    assert_is_the_loop(device, X, n_clusters=4, **parameters)


@pytest.mark.parametrize("k", [1, 2, 17, 60])
def test_whatever_the_number_of_clusters(way, device, k):
    assert_is_the_loop(device, X, n_clusters=k)


@pytest.mark.parametrize("kind", ["copies", "fractions", "zeros", "light"])
@pytest.mark.parametrize("init", ["k-means++", "random"])
def test_weights_count_in_each_problem(way, device, kind, init):
    weights = {
        "copies": rng.integers(1, 5, size=X.shape[:2]),
        "fractions": rng.random(size=X.shape[:2]) + 0.1,
        "zeros": rng.integers(0, 3, size=X.shape[:2]),
        "light": 2.0 ** rng.integers(-200, -100, size=X.shape[:2]),
    }[kind]
    assert_is_the_loop(device, X, weights, n_clusters=4, n_init=2, init=init)


def test_problems_of_a_list_differ_in_their_rows(way, device):
    problems = [X[i, : 20 + 7 * i] for i in range(5)] + [X[0, :20].astype(np.float64)]
    model = assert_is_the_loop(device, problems[:5], n_clusters=4)
    assert [labels.shape for labels in model.labels_] == [(20,), (27,), (34,), (41,), (48,)]
    mixed = BatchedKMeans(4, random_state=3, device=device).fit(problems)
    assert mixed.cluster_centers_.dtype == np.float64
    own = KMeans(4, random_state=int(mixed.seeds_[0]), device=device).fit(problems[0])
    assert np.array_equal(mixed.cluster_centers_[0], own.cluster_centers_)


def test_a_memory_map_is_fitted_together_too(device, tmp_path, together):
    np.save(tmp_path / "x.npy", X)
    with tuned(compiled=True):
        mapped = BatchedKMeans(4, random_state=0, device=device).fit(np.load(tmp_path / "x.npy", mmap_mode="r"))
    assert together() == (len(X))
    assert np.array_equal(mapped.labels_, BatchedKMeans(4, random_state=0, device=device).fit(X).labels_)


def test_more_rows_than_a_block_and_more_clusters_than_a_tile(way, device, slow):
    rows, k = (300, 9) if slow else (1000, 37)
    assert_is_the_loop(device, rng.normal(size=(2, rows, 19)).astype(np.float32), n_clusters=k)


def test_the_number_of_threads_does_not_show(device, monkeypatch):
    many = rng.normal(size=(70, 40, 2))
    fits = []
    for threads in (1, 2, 5):
        monkeypatch.setattr(batched_fits, "thread_count", lambda threads=threads: threads)
        fits.append(BatchedKMeans(3, random_state=0, device=device).fit(many))
    for other in fits[1:]:
        assert other.cluster_centers_.tobytes() == fits[0].cluster_centers_.tobytes()
        assert np.array_equal(other.labels_, fits[0].labels_)


# ---------------------------------------------------------------- what compiled fits leave open


def all_of(problem, b=3):
    return np.stack([problem] * b)


CROWDED = {
    # Fewer distinct rows than clusters: clusters become empty, and inertia is zero.
    "empty": np.repeat(np.arange(3.0), 20)[:, None],
    # One far value takes the bits of all others, whose means then may be off by more than lies between them.
    "far": np.concatenate([rng.normal(size=(50, 2)), [[1e18, 1e18]]]),
    # Means that are far apart, of clusters so narrow that their sums are too coarse.
    "narrow": np.concatenate([c + 1e-9 * rng.normal(size=(20, 2)) for c in (0.0, 1.0, 2.0, 3.0)]),
    # All inertia is far below what it might be.
    "equal": np.repeat([[0.1, 0.7], [3.3, 1.1], [5.7, 2.3], [9.1, 0.3]], 9, axis=0),
}


@pytest.mark.parametrize("kind", CROWDED)
def test_what_compiled_fits_leave_open_is_left_to_the_driver(device, kind, together):
    with tuned(compiled=True):
        assert_is_the_loop(device, all_of(CROWDED[kind]), n_clusters=4)
    assert together() == 0


def test_compiled_fits_serve_ordinary_problems(together, device):
    with tuned(compiled=True):
        BatchedKMeans(4, random_state=0, device=device).fit(X)
    assert together() == (len(X))


def test_near_ties_are_decided_by_distance(way, device):
    centers = rng.normal(size=(6, 8)).astype(np.float32)
    i, j = rng.integers(0, 6, size=(2, 400))
    rows = (centers[i] + centers[j]) / 2
    x = np.concatenate([centers, centers + np.float32(0.25), centers - np.float32(0.25), rows])
    assert_is_the_loop(device, all_of(x, 2), n_clusters=6, init=centers, max_iter=1)


def test_a_shift_next_to_the_tolerance_is_left_to_the_driver(device, slow, together):
    x = rng.normal(size=(200, 2))
    path = KMeans(5, init=x[:5], tol=0, device=device).fit(x).history_
    shift, variance = path[2].shift, x.var(axis=0).mean()
    assert len(path) > 5
    lefts = []
    for step in range(-2, 3) if slow else range(-20, 21):
        with tuned(compiled=True):
            assert_is_the_loop(device, x[None], n_clusters=5, init=x[:5], tol=shift / variance * (1 + step * 2.0**-53))
        lefts.append(together())
    assert set(lefts) == {0}


# ---------------------------------------------------------------- using the centers


@pytest.fixture
def model(device):
    return BatchedKMeans(4, random_state=0, device=device).fit(X)


def each(model, i):
    own = KMeans(4, device=model.device)
    own.cluster_centers_, own.n_features_in_ = model.cluster_centers_[i], 3
    return own


def test_labels_are_what_predict_says(model):
    assert np.array_equal(model.predict(X), model.labels_)
    assert model.labels_.shape == (5, 60)
    assert model.labels_.dtype == np.int32


def test_distances_labels_and_scores_are_each_problems(model):
    other = rng.normal(size=(5, 7, 3)).astype(np.float32)
    weights = rng.random(size=(5, 7)) + 0.5
    distances, labels, scores = model.transform(other), model.predict(other), model.score(other, sample_weight=weights)
    assert distances.shape == (5, 7, 4)
    assert distances.dtype == np.float32
    assert scores.shape == (5,)
    for i in range(5):
        assert np.array_equal(distances[i], each(model, i).transform(other[i]))
        assert np.array_equal(labels[i], each(model, i).predict(other[i]))
        assert scores[i] == each(model, i).score(other[i], sample_weight=weights[i])


def test_a_list_gives_a_list(model):
    other = [X[i, : i + 1] for i in range(5)]
    assert [distances.shape for distances in model.transform(other)] == [(i + 1, 4) for i in range(5)]
    assert [labels.tolist() for labels in model.predict(other)] == [
        model.labels_[i, : i + 1].tolist() for i in range(5)
    ]
    assert model.score(other).shape == (5,)


def test_fit_predict_and_fit_transform_are_two_steps(model, device):
    again = BatchedKMeans(4, random_state=0, device=device)
    assert np.array_equal(again.fit_predict(X), model.labels_)
    assert np.array_equal(again.fit_transform(X), model.transform(X))


def test_seeds_are_drawn_from_the_random_state(device):
    state = np.random.RandomState(7)
    first = BatchedKMeans(2, random_state=state, device=device).fit(X).seeds_
    second = BatchedKMeans(2, random_state=state, device=device).fit(X).seeds_
    own = np.random.RandomState(7)
    assert [*first, *second] == [own.randint(2**31 - 1) for _ in range(10)]


# ---------------------------------------------------------------- errors


@pytest.mark.parametrize(
    ("x", "message"),
    [
        (X[0], r"Expected an array of shape \(n_problems, n_samples, n_features\), got one of shape \(60, 3\)"),
        (X[0, 0, 0], r"got one of shape \(\)"),
        ("text", "X has to be an array"),
        ([], "Found no problems"),
        (X[:0], "Found no problems"),
        ([X[0], X[1, 0]], "Problem 1: Expected 2D array"),
        ([X[0], X[1][:, :2]], "All problems need as many features: problem 0 has 3, problem 1 has 2"),
        ([X[0], X[1, :3]], "Problem 1: n_samples=3 should be >= n_clusters=4"),
    ],
)
def test_what_are_no_problems_is_refused(device, x, message):
    with pytest.raises(ValueError, match=message):
        BatchedKMeans(4, device=device).fit(x)


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_a_value_that_is_not_finite_is_named_with_its_problem_and_row(way, device, value):
    x = X.copy()
    x[3, 17, 1] = value
    with pytest.raises(ValueError, match="Problem 3, row 17: Input X contains"):
        BatchedKMeans(4, device=device).fit(x)
    model = BatchedKMeans(4, device=device).fit(X)
    with pytest.raises(ValueError, match="Problem 3, row 17: Input X contains"):
        model.predict(x)


def test_a_number_is_the_weight_of_all_rows(device):
    fitted = [
        BatchedKMeans(4, random_state=0, device=device).fit(X, sample_weight=weights)
        for weights in (2, [2] * 5, np.full((5, 60), 2.0))
    ]
    assert len({model.inertia_.tobytes() for model in fitted}) == 1
    assert fitted[0].inertia_[0] > 0
    assert fitted[0].score(X, sample_weight=2).tolist() == (-fitted[0].inertia_).tolist()


def test_weights_and_centers_are_for_as_many_problems(device):
    with pytest.raises(ValueError, match="sample_weight is for 4 problems, and X has 5"):
        BatchedKMeans(4, device=device).fit(X, sample_weight=np.ones((4, 60)))
    with pytest.raises(ValueError, match=r"Problem 2: .*sample_weight"):
        BatchedKMeans(4, device=device).fit(X, sample_weight=[None, None, np.ones(7), None, None])
    with pytest.raises(ValueError, match="init is for 4 problems, and X has 5"):
        BatchedKMeans(4, init=X[:4, :4], device=device).fit(X)
    with pytest.raises(ValueError, match="Problem 0: The shape of the initial centers"):
        BatchedKMeans(4, init=X[:, :3], device=device).fit(X)
    with pytest.raises(ValueError, match="X has 2 problems, and 5 were fitted"):
        BatchedKMeans(4, device=device).fit(X).predict(X[:2])
    with pytest.raises(NotFittedError):
        BatchedKMeans(4, device=device).predict(X)


def test_a_fit_that_fails_leaves_the_one_before(model):
    before = model.__dict__.copy()
    with pytest.raises(ValueError, match="Problem 1: n_samples=2"):
        model.fit([X[0], X[1, :2]])
    assert model.__dict__ == before


def test_another_librarys_parameter_is_told_of(device):
    with pytest.raises(TypeError, match=r"FAISS\. Write n_clusters"):
        BatchedKMeans(k=3)
    with pytest.raises(ValueError, match="n_clusters"):
        BatchedKMeans(0, device=device).fit(X)


def test_a_warning_is_given_once_for_all_problems(way, device):
    x = X.copy()
    x[1], x[4] = x[1, 0], x[4, 0]
    with pytest.warns(ConvergenceWarning, match=r"smaller than n_clusters \(4\) \(in 2 problems, first 1\)") as told:
        BatchedKMeans(4, random_state=0, device=device).fit(x)
    assert len(told) == 1
    assert told[0].filename == __file__
    with pytest.warns(RuntimeWarning, match=r"performing only one init in KMeans .* \(in 5 problems, first 0\)"):
        BatchedKMeans(4, init=X[0, :4], n_init=2, device=device).fit(X)


# ---------------------------------------------------------------- at home


def test_parameters_are_those_of_kmeans():
    ours, theirs = (inspect.signature(kind.__init__).parameters for kind in (BatchedKMeans, KMeans))
    assert list(ours) == list(theirs)
    assert all(ours[name].default == theirs[name].default for name in ours)
    assert clone(BatchedKMeans(3, tol=0.5)).get_params() == BatchedKMeans(3, tol=0.5).get_params()


def test_a_callback_hears_of_every_iteration(device):
    heard = []
    model = BatchedKMeans(3, random_state=0, device=device, callback=heard.append).fit(X)
    assert len(heard) == model.n_iter_.sum()
    assert all(isinstance(record, gpukmeans.Record) for record in heard)
    assert np.array_equal(
        model.cluster_centers_, BatchedKMeans(3, random_state=0, device=device).fit(X).cluster_centers_
    )


@pytest.mark.parametrize("x", [X, [X[i, : 20 + i] for i in range(5)]], ids=["array", "list"])
def test_what_is_saved_loads(device, x, tmp_path):
    model = BatchedKMeans(4, random_state=0, device=device).fit(x)
    model.save(tmp_path / "model.npz")
    for again in (gpukmeans.load(tmp_path / "model.npz"), pickle.loads(pickle.dumps(model))):
        assert again.get_params() == model.get_params()
        for name in ("cluster_centers_", "inertia_", "n_iter_", "seeds_"):
            assert getattr(again, name).tobytes() == getattr(model, name).tobytes()
        assert all(np.array_equal(a, b) for a, b in zip(again.labels_, model.labels_, strict=True))
        assert type(again.labels_) is type(model.labels_)
        assert all(np.array_equal(a, b) for a, b in zip(again.predict(x), model.predict(x), strict=True))


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("cluster_centers_", np.zeros((5, 3, 3))),
        ("cluster_centers_", np.zeros((4, 4, 3))),
        ("inertia_", np.full(5, np.nan)),
        ("n_iter_", np.ones(4, np.int64)),
        ("labels_", [np.zeros(3, np.int32)] * 4),
        ("labels_", [np.full(3, 9, np.int32)] * 5),
        ("seeds_", np.full(5, -1)),
    ],
)
def test_what_no_fit_leaves_is_not_saved(model, tmp_path, name, value):
    setattr(model, name, value)
    with pytest.raises(ValueError, match=name):
        model.save(tmp_path / "model.npz")


def test_arrays_of_torch_come_back_as_such(device):
    torch = pytest.importorskip("torch")
    model = BatchedKMeans(4, random_state=0, device=device).fit(torch.from_numpy(X))
    plain = BatchedKMeans(4, random_state=0, device=device).fit(X)
    for name in ("cluster_centers_", "labels_"):
        assert isinstance(getattr(model, name), torch.Tensor)
        assert np.array_equal(getattr(model, name).numpy(), getattr(plain, name))
    assert isinstance(model.predict(torch.from_numpy(X)), torch.Tensor)
    assert isinstance(model.transform([torch.from_numpy(X[i]) for i in range(5)])[2], torch.Tensor)


def test_arrays_on_a_gpu_stay_there(device):
    if device == "cpu":
        assert isinstance(BatchedKMeans(4, output_type="numpy", device=device).fit(X).labels_, np.ndarray)
        return
    import cupy

    model = BatchedKMeans(4, random_state=0, device=device).fit(cupy.asarray(X))
    plain = BatchedKMeans(4, random_state=0, device=device).fit(X)
    for name in ("cluster_centers_", "labels_"):
        assert isinstance(getattr(model, name), cupy.ndarray)
        assert np.array_equal(cupy.asnumpy(getattr(model, name)), getattr(plain, name))
    assert isinstance(model.transform(cupy.asarray(X)), cupy.ndarray)
