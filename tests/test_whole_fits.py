"""KMeans of small problems, whose starts are fitted to their end in compiled calls, or in one launch: the bits of the
loop, on NumPy and on the device under test."""

from __future__ import annotations

import sys
import warnings

import numpy as np
import pytest
from sklearn.exceptions import ConvergenceWarning

from gpukmeans import KMeans, estimator, whole_fits
from gpukmeans.accel.replacements import Fit, Split
from gpukmeans.engine import dispatch
from gpukmeans.engine.cuda.stacks import CudaStarts
from gpukmeans.engine.numpy import choice, stacks
from gpukmeans.engine.numpy.tuning import tuned

rng = np.random.default_rng(23)
X = rng.normal(size=(70, 3)).astype(np.float32)
CENTERS = X[:4] + np.float32(0.01)


DEVICE = "cpu"


@pytest.fixture(autouse=True)
def on_the_device(device, monkeypatch):
    """All fits of this module are on the device under test, unless they say otherwise."""
    monkeypatch.setattr(sys.modules[__name__], "DEVICE", device)


@pytest.fixture
def of_the_cpu(device):
    if device != "cpu":
        pytest.skip("of what numba compiles")


@pytest.fixture
def stack_of(device):
    """The class that all starts are made by."""
    return stacks.CompiledStarts if device == "cpu" else CudaStarts


@pytest.fixture
def whole(monkeypatch):
    """whole(): whether the last fit was made whole."""
    made = []
    given = estimator.fit_whole

    def fit_whole(*arguments):
        fit = given(*arguments)
        made.append(fit[0] is not None)
        return fit

    monkeypatch.setattr(estimator, "fit_whole", fit_whole)
    return lambda: made[-1]


def outcome(x, weights, whole, seed=5, device=None, **parameters):
    """All that a fit leaves: attributes, the state of its generator, and warnings."""
    state = np.random.RandomState(seed)
    with tuned(compiled=True, whole=whole), warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        model = KMeans(device=device or DEVICE, **{"random_state": state, **parameters})
        model.fit(x, sample_weight=weights)
    centers, labels = model.cluster_centers_, model.labels_
    return {
        "centers": (centers.tobytes(), centers.dtype, centers.shape),
        "labels": (labels.tobytes(), labels.dtype, labels.shape),
        "inertia": (model.inertia_, type(model.inertia_)),
        "iterations": (model.n_iter_, type(model.n_iter_)),
        "history": model.history_,
        "types": {(type(record.changed), type(record.shift), record.inertia) for record in model.history_},
        "starts": model._n_init,
        "generator": state.random_sample(),
        "warnings": [(warning.category, str(warning.message)) for warning in told],
        "attributes": list(vars(model)),
    }


def assert_is_the_loop(x, weights=None, **parameters):
    """Returns what was left."""
    loop = outcome(x, weights, False, device="cpu", **parameters)
    assert outcome(x, weights, True, **parameters) == loop
    return loop


INITS = {
    "k-means++": {"init": "k-means++"},
    "random": {"init": "random"},
    "array": {"init": CENTERS},
    "list": {"init": CENTERS.tolist()},
}


# ---------------------------------------------------------------- the same bits


@pytest.mark.parametrize("n_init", [1, 10, "auto"])
@pytest.mark.parametrize("init", INITS)
def test_a_fit_has_the_bits_of_the_loop(whole, init, n_init):
    left = assert_is_the_loop(X, n_clusters=4, n_init=n_init, **INITS[init])
    assert whole() == (n_init != 10 or init in ("k-means++", "random"))  # of which the loop warns
    assert left["starts"] == {1: 1, 10: 10 if init in ("k-means++", "random") else 1, "auto": left["starts"]}[n_init]


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64, np.uint8, np.int64, ">f8"])
def test_whatever_the_dtype(whole, dtype):
    assert_is_the_loop((20 * X + 100).astype(dtype), n_clusters=4, n_init=2)
    assert whole()


@pytest.mark.parametrize("kind", ["copies", "fractions", "zeros", "light", "none"])
@pytest.mark.parametrize("init", INITS)
def test_weights_count(whole, kind, init):
    weights = {
        "copies": rng.integers(1, 5, size=len(X)),
        "fractions": rng.random(size=len(X)) + 0.1,
        "zeros": rng.integers(0, 3, size=len(X)),
        "light": 2.0 ** rng.integers(-200, -100, size=len(X)),
        "none": None,
    }[kind]
    assert_is_the_loop(X, weights, n_clusters=4, **INITS[init])
    if kind != "light":
        assert whole() == (kind != "zeros")


def some_rows(x, k, random_state):
    return x[random_state.permutation(len(x))[:k]]


def named(value):
    """The same in every process of a run, as functions by themselves are not."""
    return str({key: getattr(one, "__name__", one) for key, one in value.items()} if isinstance(value, dict) else value)


@pytest.mark.parametrize(
    ("parameters", "made"),
    [
        ({"tol": 0.0}, True),
        ({"tol": 1.0}, True),
        ({"tol": 1}, True),
        ({"max_iter": 1}, True),
        ({"max_iter": 2, "n_init": 3}, True),
        ({"max_iter": 10**9}, True),
        ({"max_iter": 2**63}, True),  # more than an integer of what is compiled holds
        ({"algorithm": "elkan"}, True),
        ({"n_clusters": 1}, True),
        ({"n_clusters": 1, "algorithm": "elkan"}, True),
        ({"n_clusters": 17}, True),
        ({"n_clusters": 70}, False),  # no inertia is left
        ({"random_state": 3, "n_init": 3}, True),
        ({"output_type": "numpy"}, True),
        ({"memory_limit": "1GB"}, True),
        ({"init": "k-means||"}, False),
        ({"init": some_rows}, False),
        ({"metric": "cosine"}, False),
    ],
    ids=named,
)
def test_whatever_the_parameters(whole, parameters, made):
    assert_is_the_loop(X, **{"n_clusters": 4, **parameters})
    assert whole() == made


@pytest.mark.parametrize("shape", [(2, 1, 1), (9, 1, 8), (700, 19, 37), (130, 300, 4), (1300, 2, 3)], ids=str)
def test_whatever_the_shape(whole, shape):
    n, d, k = shape
    assert_is_the_loop(rng.normal(size=(n, d)), n_clusters=k, n_init=2)
    assert whole()


def test_whatever_holds_the_rows(whole, tmp_path):
    x = X.astype(np.float64)
    wide = np.full((140, 5), 7.0)
    wide[::2, 1:4] = x
    unaligned = np.frombuffer(b"." + x.tobytes(), np.uint8)[1:].view(np.float64).reshape(x.shape)
    assert not unaligned.flags.aligned
    np.save(tmp_path / "x.npy", x)
    mapped = np.load(tmp_path / "x.npy", mmap_mode="r")
    expected = outcome(x, None, False, n_clusters=4, n_init=2)
    for rows in (x, np.asfortranarray(x), wide[::2, 1:4], unaligned, mapped, x.tolist()):
        assert outcome(rows, None, True, n_clusters=4, n_init=2) == expected
        assert whole()


@pytest.mark.parametrize("value", [2.0, 256.0, -0.0, -1.0, 0.1, 2.0**60 + 2.0**10, 1e60, 2.0**-1000])
def test_values_that_no_narrower_dtype_holds_stay_as_they_are(whole, value):
    """The first row is of bytes, and so may all be, or of float32; or not."""
    x = rng.integers(0, 200, size=(70, 3)).astype(np.float64)
    x[40, 1] = value
    assert_is_the_loop(x, n_clusters=4, n_init=2)


def test_near_ties_are_decided_by_distance(whole):
    centers = rng.normal(size=(6, 8)).astype(np.float32)
    i, j = rng.integers(0, 6, size=(2, 400))
    x = np.concatenate([centers, centers + np.float32(0.25), centers - np.float32(0.25), (centers[i] + centers[j]) / 2])
    assert_is_the_loop(x, n_clusters=6, init=centers, max_iter=1)
    assert whole()


def test_the_first_of_equal_starts_is_kept(whole):
    x = np.concatenate([c + rng.normal(size=(20, 2)) for c in (0.0, 100.0, 200.0)])
    left = assert_is_the_loop(x, n_clusters=3, n_init=10)
    assert {record.start for record in left["history"]} == set(range(10))
    assert whole()


def test_the_number_of_threads_does_not_show(of_the_cpu, monkeypatch):
    monkeypatch.setattr(stacks, "_SHARED", 0)
    expected = outcome(X, None, False, n_clusters=4, n_init=7)
    for threads in (1, 2, 5):
        with tuned(threads=threads):
            assert outcome(X, None, True, n_clusters=4, n_init=7) == expected


@pytest.mark.parametrize("together", [1, 2, 3, 7])
def test_many_starts_are_made_some_at_a_time(whole, monkeypatch, stack_of, together):
    monkeypatch.setattr(whole_fits, "_ROOM", together * (len(X) + 4 * (3 + 3 + 100)))
    calls = []
    given = stack_of.fit
    monkeypatch.setattr(stack_of, "fit", lambda self, *how: calls.append(len(self.weights)) or given(self, *how))
    assert_is_the_loop(X, n_clusters=4, n_init=7, max_iter=100)
    assert whole()
    assert calls == {1: [1] * 7, 2: [2, 2, 2, 1], 3: [3, 3, 1], 7: [7]}[together]


def test_numpys_own_generator_is_drawn_from_alike():
    left = []
    for whole in (True, False):
        np.random.seed(4)
        left.append((outcome(X, None, whole, n_clusters=4, random_state=None), np.random.random_sample()))
    assert left[0] == left[1]


def test_centers_and_labels_are_arrays_of_their_own():
    """Not parts of what all starts have, which would stay as long as they do."""
    with tuned(compiled=True, whole=True):
        model = KMeans(4, n_init=6, random_state=0, device=DEVICE).fit(X)
    assert model.cluster_centers_.base is None
    assert model.labels_.base is None


# ---------------------------------------------------------------- what is left to the driver

OPEN = {
    # Fewer distinct rows than clusters: clusters become empty, and inertia is zero.
    "empty": np.repeat(np.arange(3.0), 20)[:, None],
    # One far value takes the bits of all others, whose means then may be off by more than lies between them.
    "far": np.concatenate([rng.normal(size=(50, 2)), [[1e18, 1e18]]]),
    # Means that are far apart, of clusters so narrow that their sums are too coarse.
    "narrow": np.concatenate([c + 1e-9 * rng.normal(size=(20, 2)) for c in (0.0, 1.0, 2.0, 3.0)]),
    # All inertia is far below what it might be.
    "equal": np.repeat([[0.1, 0.7], [3.3, 1.1], [5.7, 2.3], [9.1, 0.3]], 9, axis=0),
}


@pytest.mark.parametrize("n_init", [1, 4])
@pytest.mark.parametrize("init", ["k-means++", "random"])
@pytest.mark.parametrize("kind", OPEN)
def test_what_is_left_open_is_as_if_it_had_not_been_tried(whole, kind, init, n_init):
    left = assert_is_the_loop(OPEN[kind], n_clusters=4, init=init, n_init=n_init)
    assert not whole()
    assert [kind for kind, _ in left["warnings"]] == [ConvergenceWarning] * (kind == "empty")


def test_a_start_that_is_left_open_takes_the_others_with_it(whole):
    """Where a cluster is as narrow as some rows are near each other, which hangs on the start."""
    some = np.random.default_rng(0)
    x = np.concatenate([some.normal(size=(40, 1)), 2.5 + 1e-9 * some.normal(size=(9, 1))])
    made = set()
    for seed in range(12):
        assert_is_the_loop(x, n_clusters=3, init="random", n_init=2, seed=seed)
        made.add(whole())
    assert made == {True, False}


@pytest.mark.parametrize("init", ["k-means++", "random"])
def test_what_others_draw_meanwhile_is_never_drawn_again(whole, monkeypatch, stack_of, init):
    """As another thread does while a fit that is given back runs."""
    state, theirs = np.random.RandomState(0), []
    given = stack_of.fit

    def fit(self, *how):
        theirs.append(state.random_sample(20))
        return given(self, *how)

    alone = outcome(OPEN["empty"], None, False, seed=0, n_clusters=4, init=init, n_init=3)
    monkeypatch.setattr(stack_of, "fit", fit)
    with tuned(compiled=True, whole=True), pytest.warns(ConvergenceWarning):
        model = KMeans(4, init=init, n_init=3, random_state=state, device=DEVICE).fit(OPEN["empty"])
    assert not whole()
    assert model.cluster_centers_.tobytes() == alone["centers"][0]
    assert model.history_ == alone["history"]
    drawn = np.concatenate([*theirs, state.random_sample(200)])
    assert len(np.unique(drawn)) == len(drawn)


class Seeded(KMeans):
    """One with a beginning of its own."""

    def _seed(self, points, x, random_state, device):
        return np.asarray(x[: self.n_clusters], float)


def test_a_class_with_a_beginning_of_its_own_is_left_to_the_driver(whole):
    with tuned(compiled=True, whole=True):
        model = Seeded(4, device=DEVICE, tol=0).fit(X)
        assert not whole()
        assert np.array_equal(model.labels_, KMeans(4, init=X[:4], device=DEVICE, tol=0).fit(X).labels_)
        assert whole()


def test_an_empty_cluster_takes_over_a_far_row_as_ever(whole):
    init = np.concatenate([CENTERS[:3], [[1e3, 1e3, 1e3]]]).astype(np.float32)
    assert_is_the_loop(X, n_clusters=4, init=init)
    assert not whole()


def test_a_shift_next_to_the_tolerance_is_left_to_the_driver(whole):
    x = rng.normal(size=(200, 2))
    path = KMeans(5, init=x[:5], tol=0, device=DEVICE).fit(x).history_
    shift, variance = path[2].shift, x.var(axis=0).mean()
    assert len(path) > 5
    for step in range(-5, 6):
        assert_is_the_loop(x, n_clusters=5, init=x[:5], tol=shift / variance * (1 + step * 2.0**-53))
        assert not whole()


@pytest.mark.parametrize("init", INITS)
def test_more_iterations_than_can_be_told_of_are_left_to_the_driver(whole, monkeypatch, init):
    n_iter, _ = assert_is_the_loop(X, n_clusters=4, tol=0, **INITS[init], n_init=1)["iterations"]
    assert n_iter > 2
    for room in (n_iter - 1, n_iter):
        monkeypatch.setattr(whole_fits, "_ITERATIONS", room)
        assert_is_the_loop(X, n_clusters=4, tol=0, **INITS[init], n_init=1)
        assert whole() == (room == n_iter)


@pytest.mark.parametrize("asking", [{"verbose": 1}, {"callback": print}, {"progress": True}], ids=named)
def test_who_asks_while_a_fit_runs_is_told_by_the_driver(whole, asking, capsys):
    if "progress" in asking:
        pytest.importorskip("tqdm")
    printed = []
    for way in (True, False):
        outcome(X, None, way, n_clusters=4, n_init=2, **asking)
        assert not whole()
        printed.append(capsys.readouterr().out)
    assert printed[0] == printed[1]


@pytest.mark.parametrize("kind", [Fit, Split])
def test_an_end_of_its_own_is_the_drivers(kind):
    with tuned(compiled=True):
        model = kind(4, random_state=0, tol=1e-3, device=DEVICE)
        assert whole_fits.fit_whole(model, X, None, DEVICE, X.dtype) == (None, None)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf, 1e200])
def test_what_is_refused_leaves_estimator_and_generator_as_they_were(whole, value):
    state = np.random.RandomState(0)
    model = KMeans(4, random_state=state, device=DEVICE).fit(X)
    before, told = dict(vars(model)), state.get_state()[1].tolist()
    bad = X.astype(np.float64)
    bad[17, 1] = value
    with tuned(compiled=True, whole=True), pytest.raises(ValueError, match=r"Input X contains|magnitude"):
        model.fit(bad)
    assert not whole()
    assert dict(vars(model)) == before
    assert state.get_state()[1].tolist() == told


@pytest.mark.parametrize(
    ("parameters", "weights", "message"),
    [
        ({"init": CENTERS[:3]}, None, "does not match the number of clusters 4"),
        ({"init": CENTERS[:, :2]}, None, "does not match the number of features"),
        ({"init": CENTERS * np.float32(np.nan)}, None, "init contains NaN"),
        ({}, np.ones(3), "sample_weight.shape"),
        ({}, -np.ones(len(X)), "Negative values"),
        ({}, np.zeros(len(X)), "at least one non-zero"),
        ({}, np.array([1e-300] + [1e300] * (len(X) - 1)), "too far apart"),
    ],
    ids=str,
)
def test_what_is_wrong_is_told_as_ever(parameters, weights, message):
    for way in (True, False):
        with tuned(compiled=True, whole=way), pytest.raises(ValueError, match=message):
            KMeans(4, device=DEVICE, **parameters).fit(X, sample_weight=weights)


# ---------------------------------------------------------------- which fits are made whole


def made(n, d, k, starts):
    return dispatch.make_starts(np.zeros((n, d)), k, starts, device="cpu") is not None


def test_sizes_decide(of_the_cpu, monkeypatch):
    with tuned(compiled=True):
        monkeypatch.setattr(choice, "thread_count", lambda: 1)
        assert made(2**14, 2**4, 2**5, 1)  # no thread is idle
        assert not made(2**14, 2**4, 2**5 + 1, 1)  # bounds gain more than calls
        assert made(2**12, 2**6, 1, 1)
        assert not made(2**12, 2**6 + 1, 1, 1)  # so does memory
        monkeypatch.setattr(choice, "thread_count", lambda: 4)
        assert made(2**10, 2**4, 2**5, 1)  # less than calls are
        assert made(2**10, 2**3, 100, 1)  # three quarters of it are
        assert not made(2**10, 2**3, 200, 1)
        assert made(2**10, 2**3, 200, 2)
        assert not made(2**10, 2**3, 900, 2)
        assert made(2**10, 2**3, 900, 3)
        assert made(2**10, 2**3, 1900, 4)
        assert not made(2**10, 2**3, 1900, 5)
        for told in ("merge", "arrange", "scores", "bounds"):
            with tuned(**{told: False}):
                assert not made(10, 2, 2, 1)
        with tuned(whole=False):
            assert not made(10, 2, 2, 1)
    with tuned(compiled=False):
        assert not made(10, 2, 2, 1)


def test_a_fit_counts_once_towards_numba(of_the_cpu, whole, monkeypatch):
    monkeypatch.setattr(choice, "_values_so_far", 0)
    fits = choice._WORTH_IMPORTING // choice._LEAST
    for i in range(1, fits + 2):
        KMeans(2, random_state=0, max_iter=1, device="cpu").fit(X)
        assert choice._values_so_far == i * choice._LEAST
        assert whole() == (i >= fits)
