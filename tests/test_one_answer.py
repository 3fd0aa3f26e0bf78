"""The contract as a whole: a fit is a function of data, weights, parameters and seed, bit for bit."""

from __future__ import annotations

import multiprocessing
import signal
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor

import joblib
import numpy as np
import pytest
from sklearn.exceptions import NotFittedError

from gpukmeans import KMeans
from gpukmeans.engine import dispatch
from gpukmeans.engine.numpy.points import NumPyPoints
from gpukmeans.engine.numpy.tuning import tuned
from gpukmeans.engine.protocol import Samples

pytestmark = pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")


def bits(model):
    """Everything a fit answers, to compare bit for bit; the sign of a zero is a bit too."""
    assert model.labels_.dtype == np.int32
    return {
        "centers": model.cluster_centers_.tobytes(),
        "dtype": model.cluster_centers_.dtype,
        "labels": model.labels_.tobytes(),
        "inertia": model.inertia_.hex(),
        "iterations": model.n_iter_,
    }


# ---------------------------------------------------------------- data


def crop(image):
    """60 x 80 pixels with sky, roof and trees."""
    return np.ascontiguousarray(image[100:400:5, 100:500:5].reshape(-1, 3))


DATA = {
    # name: (rows as an array, clusters)
    "blobs": lambda get: (get("blobs")[0], 4),
    "lattice": lambda get: (np.random.default_rng(0).integers(0, 6, (4500, 3)).astype(np.float64), 12),
    "wide lattice": lambda get: (np.random.default_rng(1).integers(0, 3, (4500, 6)).astype(np.float32), 9),
    "digits": lambda get: (get("digits")[0][:700], 10),
    "pixels": lambda get: (crop(get("china")), 16),
    "float pixels": lambda get: (crop(get("china")) / 255, 35),
    "many features": lambda get: (np.random.default_rng(2).normal(size=(300, 150)).astype(np.float32), 15),
    "line": lambda get: (np.random.default_rng(7).integers(0, 300, (3000, 1)) / 8, 9),
    "half": lambda get: (np.random.default_rng(3).normal(size=(600, 5)).astype(np.float16), 7),
}

WEIGHTS = {
    "no weights": lambda rng, n: None,
    "integer weights": lambda rng, n: rng.integers(1, 5, n).astype(np.float64),
    "any weights": lambda rng, n: np.where(rng.random(n) < 0.5, rng.integers(0, 4, n), rng.random(n) * 10),
}

SEEDINGS = {
    "k-means++": lambda x, k: {"init": "k-means++"},
    "k-means||": lambda x, k: {"init": "k-means||"},
    "random": lambda x, k: {"init": "random", "n_init": 2},
    "array": lambda x, k: {"init": x[np.random.default_rng(5).permutation(len(x))[:k]].astype(np.float64)},
}


@pytest.fixture(params=DATA)
def problem(request):
    return DATA[request.param](request.getfixturevalue)


@pytest.mark.parametrize("seeding", SEEDINGS)
@pytest.mark.parametrize("weighing", WEIGHTS)
def test_no_trick_changes_a_bit(kmeans, problem, ways, weighing, seeding):
    """Threads, batches, merging, sorting, scores and bounds, each on and off; either algorithm; and no device."""
    x, k = problem
    weights = WEIGHTS[weighing](np.random.default_rng(4), len(x))
    settings = {"n_clusters": k, "random_state": 3, "max_iter": 6, **SEEDINGS[seeding](x, k)}
    expected = bits(KMeans(device="cpu", **settings).fit(x, sample_weight=weights))
    for i, way in enumerate(ways):
        with tuned(**ways[way]):
            model = kmeans(algorithm=["lloyd", "elkan"][i % 2], **settings).fit(x, sample_weight=weights)
        assert bits(model) == expected, way


@pytest.mark.parametrize("weighing", WEIGHTS)
def test_permuting_the_rows_permutes_the_labels(kmeans, problem, ways, weighing):
    x, k = problem
    rng = np.random.default_rng(6)
    weights = WEIGHTS[weighing](rng, len(x))
    init = SEEDINGS["array"](x, k)
    expected = bits(first := kmeans(n_clusters=k, **init).fit(x, sample_weight=weights))
    for way in ways.some("plain", "bounds", "merge", "4 threads", "compiled, 2 threads", "compiled, whole"):
        order = rng.permutation(len(x))
        with tuned(**ways[way]):
            model = kmeans(n_clusters=k, **init).fit(
                x[order], sample_weight=None if weights is None else weights[order]
            )
        assert np.array_equal(model.labels_, first.labels_[order]), way
        assert {**bits(model), "labels": expected["labels"]} == expected, way


def layouts(x, folder):
    """The same numbers, held in other ways."""
    yield "columns", np.asfortranarray(x)
    readonly = x.copy()
    readonly.flags.writeable = False
    yield "read-only", readonly
    file = np.memmap(folder / "x.bin", x.dtype, "w+", shape=x.shape)
    file[:] = x
    file.flush()
    yield "memory map", np.memmap(folder / "x.bin", x.dtype, "r", shape=x.shape)
    wider = np.full((2 * len(x), x.shape[1] + 3), 77, x.dtype)
    wider[::2, 1:-2] = x
    yield "slices", wider[::2, 1:-2]
    yield "reversed memory", x[::-1].copy()[::-1]
    yield "reversed columns", x[:, ::-1].copy()[:, ::-1]
    yield "swapped bytes", x.astype(x.dtype.newbyteorder())


@pytest.mark.parametrize("seeding", SEEDINGS)
def test_memory_layout_changes_no_bit(kmeans, problem, slow, seeding, tmp_path):
    x, k = problem
    settings = {"n_clusters": k, "random_state": 0, "max_iter": 2 if slow else 8, **SEEDINGS[seeding](x, k)}
    expected = bits(kmeans(**settings).fit(x))
    for layout, same in layouts(x, tmp_path):
        assert np.array_equal(same, x)
        model = kmeans(**settings).fit(same)
        if layout == "swapped bytes":  # read as float64, as in scikit-learn; D is the same, the dtype is not
            assert np.array_equal(model.labels_, kmeans(**settings).fit(x.astype(np.float64)).labels_)
        else:
            assert bits(model) == expected, layout
        assert np.array_equal(model.predict(same), model.labels_), layout


def test_lists_are_arrays(kmeans):
    x = np.random.default_rng(0).normal(size=(40, 3))
    whole = np.random.default_rng(0).integers(0, 50, (40, 3))
    for data in (x, whole):
        expected = bits(kmeans(n_clusters=4, random_state=0).fit(data))
        assert bits(kmeans(n_clusters=4, random_state=0).fit(data.tolist())) == expected
        weighted = kmeans(n_clusters=4, random_state=0).fit(data.tolist(), sample_weight=[1] * 40)
        assert bits(weighted) == expected


def test_dtypes_that_hold_the_same_numbers_give_the_same_labels_and_inertia(kmeans, china):
    """Every conversion to float64 is exact, so only the dtype of the published centers can tell."""
    x = crop(china)
    expected = bits(kmeans(n_clusters=8, random_state=0).fit(x))
    for dtype in (np.float64, np.int32, np.uint16, np.int64):
        assert bits(kmeans(n_clusters=8, random_state=0).fit(x.astype(dtype))) == expected


# ---------------------------------------------------------------- several fits at once


def fit_bits(x, seed=0, threads=2):
    with tuned(threads=threads, chunk_rows=1000):
        return bits(KMeans(n_clusters=16, random_state=seed, max_iter=15, device="cpu").fit(x))


def test_fits_in_several_threads_at_once(china):
    x = crop(china) / 255
    expected = [fit_bits(x, seed) for seed in range(8)]
    with ThreadPoolExecutor(4) as pool:
        assert list(pool.map(lambda seed: fit_bits(x, seed), range(8))) == expected


@pytest.mark.parametrize("backend", ["loky", "threading"])
@pytest.mark.slow
def test_fits_in_joblib_workers(china, backend):
    x = crop(china) / 255
    models = [KMeans(n_clusters=16, random_state=seed, max_iter=15, device="cpu") for seed in range(4)]
    expected = [bits(model.fit(x)) for model in models]
    found = joblib.Parallel(n_jobs=2, backend=backend)(joblib.delayed(model.fit)(x) for model in models)
    assert [bits(model) for model in found] == expected


def _child(connection, x):
    connection.send(fit_bits(x, threads=2))


@pytest.mark.skipif(
    "fork" not in multiprocessing.get_all_start_methods(), reason="this platform cannot fork, so nothing can go wrong"
)
@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
def test_fit_after_a_fork(china):
    """The child has none of its parent's threads, and must not wait for them."""
    x = crop(china) / 255
    expected = fit_bits(x)  # the parent's pool exists
    context = multiprocessing.get_context("fork")
    receiver, sender = context.Pipe(duplex=False)
    child = context.Process(target=_child, args=(sender, x))
    child.start()
    try:
        assert receiver.poll(60), "the child process hangs"
        assert receiver.recv() == expected
    finally:
        child.kill()
        child.join()
        child.close()


# ---------------------------------------------------------------- interruptions


ENDLESS = """
import signal
import numpy as np
from gpukmeans import KMeans
signal.signal(signal.SIGINT, signal.default_int_handler)  # whoever began the tests may ignore it
x = np.random.default_rng(0).normal(size=(400_000, 6))
model = KMeans(n_clusters=200, init=x[:200], tol=0, max_iter=100_000, verbose=1, device="cpu")
try:
    model.fit(x)
except KeyboardInterrupt:
    print("interrupted; attributes:", [name for name in vars(model) if name.endswith("_")], flush=True)
"""


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no SIGINT for another process")
@pytest.mark.slow
def test_ctrl_c_stops_within_an_iteration():
    with subprocess.Popen([sys.executable, "-u", "-c", ENDLESS], stdout=subprocess.PIPE, text=True) as child:
        hung = threading.Timer(60, child.kill)
        hung.start()
        try:
            for line in child.stdout:
                if line.startswith("Iteration 3,"):
                    child.send_signal(signal.SIGINT)
                    break
            after = child.stdout.read().splitlines()
        finally:
            hung.cancel()
    assert after, "the fit did not stop in a minute"
    assert after[-1] == "interrupted; attributes: []"
    # An iteration takes 50 ms or more: time for the signal to arrive.
    assert len(after) <= 3
    assert child.returncode == 0


def interrupt_at(call, monkeypatch):
    """The assignment step is interrupted at that call, counted from one; nothing is fitted without it."""
    calls = []
    assign = NumPyPoints.assign

    def interrupted(self, centers):
        calls.append(1)
        if len(calls) == call:
            raise KeyboardInterrupt
        return assign(self, centers)

    monkeypatch.setattr(NumPyPoints, "assign", interrupted)
    monkeypatch.setattr(dispatch, "make_starts", lambda *given, device: None)


def test_an_interrupted_fit_leaves_the_estimator_unfitted(blobs, monkeypatch):
    model = KMeans(n_clusters=4, random_state=0, device="cpu")
    before = vars(model).copy()
    interrupt_at(2, monkeypatch)
    with pytest.raises(KeyboardInterrupt):
        model.fit(blobs[0])
    assert vars(model) == before
    with pytest.raises(NotFittedError):
        model.predict(blobs[0])


def failures(x):
    bad = x.copy()
    bad[3, 1] = np.nan
    yield "NaN", bad, {}
    yield "few rows", x[:2], {}
    yield "weights", x, {"sample_weight": np.full(len(x), -1.0)}
    yield "width", x[0], {}


def test_a_refit_that_fails_leaves_the_earlier_model(kmeans, blobs, digits, monkeypatch):
    model = kmeans(n_clusters=4, random_state=0).fit(blobs[0])
    expected, width = bits(model), model.n_features_in_
    for name, x, arguments in failures(digits[0]):
        with pytest.raises(ValueError):  # noqa: PT011, which message is test_input.py's subject
            model.fit(x, **arguments)
        assert bits(model) == expected, name
        assert model.n_features_in_ == width, name
    interrupt_at(2, monkeypatch)
    with pytest.raises(KeyboardInterrupt):
        model.set_params(device="cpu").fit(digits[0])
    assert bits(model) == expected
    assert model.n_features_in_ == width
    assert np.array_equal(model.predict(blobs[0]), model.labels_)


def test_a_fit_after_an_interrupted_one(blobs, monkeypatch):
    model = KMeans(n_clusters=4, random_state=0, device="cpu")
    with monkeypatch.context() as patch:
        interrupt_at(2, patch)
        with pytest.raises(KeyboardInterrupt):
            model.fit(blobs[0])
    assert bits(model.fit(blobs[0])) == bits(KMeans(n_clusters=4, random_state=0, device="cpu").fit(blobs[0]))


# ---------------------------------------------------------------- labels and starts agree


def test_labels_are_predict_after_several_starts(kmeans):
    """Also when a later start begins with the very labels that the one before it ended with."""
    x = np.random.default_rng(0).normal(size=(30, 1))
    first = x[:3].copy()
    labels = ((x - first.T) ** 2).argmin(axis=1)
    second = np.array([x[labels == c].mean(axis=0) for c in range(3)])
    starts = iter([first, second])
    model = kmeans(n_clusters=3, init=lambda X, k, random_state: next(starts), n_init=2, max_iter=1).fit(x)
    assert np.array_equal(model.labels_, model.predict(x))
    alone = kmeans(n_clusters=3, init=second, max_iter=1).fit(x)
    assert bits(model) == bits(alone)


@pytest.mark.parametrize("max_iter", [1, 2, 3, 50])
@pytest.mark.parametrize("n_init", [1, 3])
def test_labels_and_inertia_are_those_of_the_centers(kmeans, problem, max_iter, n_init):
    x, k = problem
    model = kmeans(n_clusters=k, init="random", n_init=n_init, max_iter=max_iter, random_state=1).fit(x)
    assert np.array_equal(model.labels_, model.predict(x))
    assert model.inertia_ == -model.score(x)


def test_one_points_serves_many_assignments(make_points, brute_labels, ways):
    """Other centers, another k and the same again: no memory of earlier calls shows."""
    x = np.random.default_rng(0).integers(0, 9, (300, 2)).astype(np.float64)
    for way in ways.values():
        with tuned(**way):
            points, _ = make_points(x)
        for k in (3, 3, 5, 1, 5, 40, 3):
            centers = x[np.random.default_rng(k).permutation(300)[:k]]
            points.assign(centers)
            assert np.array_equal(points.labels(), brute_labels(x, centers))


def test_points_from_dispatch_are_the_default(device, blobs):
    """The helpers of this suite drive the same class that KMeans does."""
    if device == "cpu":
        assert isinstance(dispatch.make_points(Samples(blobs[0]), device="cpu"), NumPyPoints)
