"""What is told of a fit while it runs, and what a callback may do about it."""

from __future__ import annotations

import pickle
import re
import subprocess
import sys
from dataclasses import FrozenInstanceError, astuple

import numpy as np
import pytest
from host_cuda.runtime import HostCuda
from sklearn.base import clone
from sklearn.cluster import KMeans as Theirs
from sklearn.exceptions import ConvergenceWarning
from sklearn.model_selection import GridSearchCV

from gpukmeans import KMeans, Record
from gpukmeans.engine import dispatch
from gpukmeans.engine.numpy.tuning import tuned


def never(record):
    return None


class Stop:
    """Ends the fit at an iteration of a start, and remembers what it was told."""

    def __init__(self, iteration, start=0, answer=True):
        self.iteration, self.start, self.answer, self.told = iteration, start, answer, []

    def __call__(self, record):
        self.told.append(record)
        return self.answer if (record.start, record.iteration) == (self.start, self.iteration) else None


@pytest.fixture(scope="module")
def pixels(china):
    """Every 23rd pixel: enough rows to be sorted, with many that are equal."""
    return china.reshape(-1, 3)[::23]


# ---------------------------------------------------------------- records


def test_history_is_what_the_callback_was_told(kmeans, digits):
    stop = Stop(None)
    model = kmeans(n_clusters=10, random_state=0, n_init=3, callback=stop).fit(digits[0])
    assert model.history_ == stop.told
    assert [record.start for record in model.history_] == sorted(record.start for record in model.history_)
    lengths = []
    for start in range(3):
        records = [record for record in model.history_ if record.start == start]
        assert [record.iteration for record in records] == list(range(len(records)))
        assert records[0].changed == len(digits[0])
        lengths.append(len(records))
    assert model.n_iter_ in lengths
    with pytest.raises(FrozenInstanceError):
        model.history_[0].changed = 0
    assert all(type(record.changed) is int and type(record.shift) is float for record in model.history_)


@pytest.mark.parametrize("weights", [None, np.array([1, 3, 2]), np.array([0, 0.5, 2])])
def test_a_record_is_true_of_its_iteration(kmeans, brute_distances, digits, weights):
    """Followed by hand, in float64."""
    x = digits[0][:300]
    weights = None if weights is None else np.resize(weights, len(x))
    model = kmeans(n_clusters=10, init=x[:10], callback=never, tol=0).fit(x, sample_weight=weights)
    w = np.ones(len(x)) if weights is None else weights
    centers, before = x[:10], np.full(len(x), -1)
    for record in model.history_:
        distances = brute_distances(x, centers)
        labels = distances.argmin(axis=1)
        updated = np.array([np.average(x[labels == c], axis=0, weights=w[labels == c]) for c in range(10)])
        assert record.changed == np.count_nonzero((labels != before) & (w > 0))
        np.testing.assert_allclose(record.inertia, w @ distances.min(axis=1), rtol=1e-12)
        np.testing.assert_allclose(record.shift, ((updated - centers) ** 2).sum(), rtol=1e-9, atol=1e-18)
        centers, before = updated, labels
    assert len(model.history_) == model.n_iter_
    assert model.history_[-1].changed == 0
    assert model.history_[-1].shift == 0.0
    assert model.history_[-1].inertia == model.inertia_


def test_inertia_costs_a_pass_and_is_left_out_unless_asked_for(kmeans, digits, capsys):
    quiet = kmeans(n_clusters=10, random_state=0).fit(digits[0]).history_
    assert [record.inertia for record in quiet] == [None] * len(quiet)
    for asking in ({"callback": never}, {"verbose": 1}, {"progress": True}):
        told = kmeans(n_clusters=10, random_state=0, **asking).fit(digits[0]).history_
        assert all(record.inertia > 0 for record in told)
        assert [astuple(record)[:2] + astuple(record)[3:] for record in told] == [
            astuple(record)[:2] + astuple(record)[3:] for record in quiet
        ]


@pytest.mark.parametrize("weighing", ["none", "counts", "fractions"])
def test_history_does_not_tell_how_it_was_computed(kmeans, pixels, ways, device, weighing):
    """Of merged rows each is counted: 12,000 pixels, of which a quarter are equal to another."""
    if device != "cpu":
        return  # the ways are NumPy's
    assert len(np.unique(pixels, axis=0)) < 0.8 * len(pixels)
    weights = {"none": None, "counts": np.arange(len(pixels)) % 4, "fractions": np.arange(len(pixels)) % 4 / 3}[
        weighing
    ]
    model = kmeans(n_clusters=8, random_state=0, max_iter=5, callback=never)
    expected = model.fit(pixels, sample_weight=weights).history_
    for name, way in ways.items():
        if name != "rows of 61":
            with tuned(**way):
                assert model.fit(pixels, sample_weight=weights).history_ == expected, name


@pytest.mark.kernels
def test_the_kernels_tell_the_same(monkeypatch):
    """Where equal rows are merged on the host, and none on the device; see test_kernels.py."""
    x = np.random.default_rng(0).integers(0, 6, (400, 3)).astype(np.float32)
    model = KMeans(5, random_state=0, n_init=2, max_iter=6, callback=never, device="cpu")
    with tuned(merge=True, arrange=True):
        expected = model.fit(x).history_
    cp = HostCuda(seed=1)

    def make_points(samples, *, device):
        points = dispatch.on_gpu(cp, samples)
        points.rows = 150  # of a batch
        return points

    monkeypatch.setattr(dispatch, "make_points", make_points)
    assert model.fit(x).history_ == expected


# ---------------------------------------------------------------- stopping


@pytest.mark.parametrize("iteration", [0, 1, 4])
@pytest.mark.parametrize("answer", [True, np.True_, 1, "enough"])
def test_stopping_is_as_having_no_more_iterations(kmeans, digits, iteration, answer):
    x = digits[0]
    stopped = kmeans(n_clusters=10, random_state=0, callback=Stop(iteration, answer=answer)).fit(x)
    expected = kmeans(n_clusters=10, random_state=0, max_iter=iteration + 1).fit(x)
    assert stopped.n_iter_ == len(stopped.history_) == iteration + 1
    assert stopped.cluster_centers_.tobytes() == expected.cluster_centers_.tobytes()
    assert stopped.inertia_ == expected.inertia_
    np.testing.assert_array_equal(stopped.labels_, expected.labels_)
    np.testing.assert_array_equal(stopped.labels_, stopped.predict(x))
    assert stopped.score(x) == -stopped.inertia_


@pytest.mark.parametrize("start", [0, 1, 3])
@pytest.mark.parametrize("iteration", [0, 2])
def test_stopping_keeps_the_best_start_so_far(kmeans, digits, start, iteration):
    x = digits[0]
    stop = Stop(iteration, start)
    stopped = kmeans(n_clusters=10, random_state=0, n_init=5, callback=stop).fit(x)
    assert (stopped.history_[-1].start, stopped.history_[-1].iteration) == (start, iteration)
    np.testing.assert_array_equal(stopped.labels_, stopped.predict(x))
    assert stopped.score(x) == -stopped.inertia_
    if start > 0:
        whole = kmeans(n_clusters=10, random_state=0, n_init=start).fit(x)
        assert stopped.inertia_ <= whole.inertia_


def test_any_false_value_goes_on(kmeans, digits):
    for answer in (None, False, 0, np.False_, []):
        model = kmeans(n_clusters=5, random_state=0, callback=lambda record, answer=answer: answer)
        assert model.fit(digits[0][:200]).n_iter_ > 2


def test_a_callback_that_fails_leaves_the_estimator_as_it_was(kmeans, digits):
    def fail(record):
        raise KeyError("mine")

    model = kmeans(n_clusters=5, random_state=0).fit(digits[0])
    before = vars(model).copy()
    model.callback = fail
    with pytest.raises(KeyError, match="mine"):
        model.fit(digits[0])
    assert vars(model) == {**before, "callback": fail}


def test_a_stop_with_empty_clusters_warns_as_ever(kmeans):
    with pytest.warns(ConvergenceWarning, match="distinct clusters"):
        kmeans(n_clusters=3, random_state=0, callback=lambda record: True).fit([[0.0], [0.0], [1.0], [1.0]])


# ---------------------------------------------------------------- a parameter as any other


def test_callback_and_progress_are_parameters(kmeans, blobs):
    model = kmeans(n_clusters=2, callback=never, progress=True)
    copy = clone(model)
    assert copy.get_params()["callback"] is never
    assert copy.get_params()["progress"] is True
    assert copy.set_params(progress=False, callback=None).fit(blobs[0]).history_
    loaded = pickle.loads(pickle.dumps(model.set_params(progress=False).fit(blobs[0])))
    assert loaded.callback is never
    assert loaded.history_ == model.history_
    assert isinstance(loaded.history_[0], Record)


def test_clone_copies_a_callback_with_state(kmeans, blobs):
    """As it copies every parameter: the searches' fits do not share one."""
    stop = Stop(1)
    model = kmeans(n_clusters=3, random_state=0, callback=stop)
    copy = clone(model)
    assert copy.callback is not stop
    assert copy.fit(blobs[0]).n_iter_ == 2
    assert stop.told == []
    search = GridSearchCV(model, {"n_clusters": [2, 3]}, cv=2).fit(blobs[0])
    assert search.best_estimator_.n_iter_ == 2
    assert stop.told == []


@pytest.mark.parametrize(("name", "value"), [("callback", 3), ("progress", "yes"), ("progress", None)])
def test_parameters_of_another_type_are_refused(kmeans, blobs, name, value):
    with pytest.raises(ValueError, match=f"'{name}' parameter"):
        kmeans(n_clusters=2, **{name: value}).fit(blobs[0])


# ---------------------------------------------------------------- lines and bars


@pytest.mark.parametrize("tol", [0, 1e-4])
def test_the_lines_are_theirs(kmeans, digits, capsys, tol):
    """Word for word, numbers aside: those agree to the last digits only."""
    x = digits[0]
    init = x[:10] + 0.01
    printed = []
    for kind in (kmeans, Theirs):
        kind(n_clusters=10, init=init, n_init=1, tol=tol, verbose=1).fit(x)
        printed.append(capsys.readouterr().out.splitlines())
    number = re.compile(r"\d+\.\d+(e-\d+)?")
    ours, theirs = ([number.sub("#", line) for line in lines] for lines in printed)
    assert ours == theirs
    values = [[float(found.group()) for line in lines for found in number.finditer(line)] for lines in printed]
    np.testing.assert_allclose(*values, rtol=1e-9)


def test_lines_of_every_start(kmeans, digits, capsys):
    model = kmeans(n_clusters=10, random_state=0, n_init=3, verbose=1).fit(digits[0])
    lines = capsys.readouterr().out.splitlines()
    assert lines.count("Initialization complete") == 3
    assert [line for line in lines if line.startswith("Iteration")] == [
        f"Iteration {record.iteration}, inertia {record.inertia}." for record in model.history_
    ]


def test_the_bar_shows_iterations_inertia_and_changes(kmeans, digits, capsys):
    model = kmeans(n_clusters=10, random_state=0, progress=True).fit(digits[0])
    shown = capsys.readouterr()
    assert shown.out == ""
    last = re.split(r"[\r\n]+", shown.err.strip())[-1]
    assert f"{model.n_iter_}/{model.n_iter_}" in last
    assert f"inertia {model.history_[-1].inertia:.6g}, 0 changed" in last
    kmeans(n_clusters=10, random_state=0, n_init=2, progress=True).fit(digits[0])
    errors = capsys.readouterr().err
    assert "start 1 of 2" in errors
    assert "start 2 of 2" in errors


def test_the_bar_ends_with_a_failed_fit(kmeans, digits, capsys):
    def fail(record):
        raise KeyError("mine")

    with pytest.raises(KeyError):
        kmeans(n_clusters=10, progress=True, callback=fail).fit(digits[0])
    assert capsys.readouterr().err.endswith("\n")


def test_without_tqdm_the_remedy_is_named(kmeans, blobs, monkeypatch):
    monkeypatch.setitem(sys.modules, "tqdm.auto", None)
    model = kmeans(n_clusters=2, progress=True)
    with pytest.raises(ImportError, match=r"pip install 'gpukmeans\[progress\]'"):
        model.fit(blobs[0])
    assert not hasattr(model, "labels_")
    assert model.set_params(progress=False).fit(blobs[0]).n_iter_ >= 1


def test_tqdm_is_not_imported_unless_used():
    program = """
import sys, gpukmeans
gpukmeans.KMeans(1).fit([[0.0], [1.0]])
assert not [name for name in sys.modules if name.startswith("tqdm")]
"""
    subprocess.run([sys.executable, "-c", program], check=True)


def test_the_signature_documents_every_parameter():
    for name in KMeans().get_params():
        assert re.search(rf"^    {name} : ", KMeans.__doc__, re.MULTILINE), name
