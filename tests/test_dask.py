"""Dask's arrays and frames: NumPy's bits wherever the rows are, on the workers of a cluster or not computed yet."""

from __future__ import annotations

import gc
import pickle
import sys
import time
from functools import partial
from types import SimpleNamespace

import dask
import dask.array as da
import dask.bag
import dask.dataframe as dd
import ml_dtypes
import numpy as np
import pandas as pd
import pytest
from distributed import Client, LocalCluster
from host_cuda.machine import as_cupy
from host_cuda.runtime import HostCuda
from scipy.sparse import csr_matrix

from gpukmeans import DeviceError, KMeans, MiniBatchKMeans, load
from gpukmeans.dask import cluster as clusters
from gpukmeans.dask import sharing, workers
from gpukmeans.engine.protocol import Samples

# Of a thread each; with any port for the pages on which a cluster says what it does.
local = partial(LocalCluster, threads_per_worker=1, dashboard_address=":0")

rng = np.random.default_rng(0)
X = rng.normal(50, 20, (1201, 3)).astype(np.float32)
WEIGHTS = np.arange(len(X)) % 4 / 2


@pytest.fixture(scope="module")
def cluster():
    """A client of three workers, each a process."""
    with local(n_workers=3) as cluster, Client(cluster) as client:
        yield client


@pytest.fixture(params=["workers", "here"])
def anywhere(request, monkeypatch):
    """With a cluster, and without."""
    if request.param == "workers":
        return request.getfixturevalue("cluster")
    monkeypatch.setattr(workers, "_client", lambda: None)


def said(x, weights=None, model=KMeans, **parameters):
    """All answers of a fit, of the same rows."""
    parameters = {"n_clusters": 5, "random_state": 0, "max_iter": 4, **parameters}
    fitted = model(**parameters).fit(x, sample_weight=weights)
    answers = [fitted.cluster_centers_, fitted.labels_, fitted.predict(x), fitted.transform(x)]
    arrays = [np.asarray(answer) for answer in answers]
    found = [(array.dtype, array.tobytes()) for array in arrays]
    return found, fitted.inertia_, fitted.n_iter_, fitted.score(x, sample_weight=weights)


# ---------------------------------------------------------------- one answer

WIDE = rng.integers(0, 255, (90, 20)).astype(np.uint8)
FITS = {
    "float32": {"x": X},
    "float16": {"x": X.astype(np.float16)},
    "integers": {"x": WIDE.astype(np.int32)},
    "in order": {"x": np.sort(X.astype(np.float64), axis=0)},
    "some weigh nothing": {"x": X, "weights": WEIGHTS},
    "k-means||": {"x": X, "init": "k-means||", "weights": WEIGHTS},
    "random": {"x": X, "init": "random", "n_init": 3},
    "given": {"x": X, "init": X[:5], "n_init": 1},
    "an empty cluster": {"x": X, "init": X[:5] + np.float32([[0], [0], [0], [1e4], [1e4]]), "n_init": 1},
    "cosine": {"x": X - 50, "metric": "cosine"},
    "in batches": {"x": X, "model": MiniBatchKMeans, "batch_size": 100},
}


def chunked(how):
    return {**how, "x": da.from_array(how["x"], chunks=(len(how["x"]) // 5, 2))}


@pytest.mark.parametrize("name", FITS)
def test_a_fit_is_that_of_numpy(cluster, name):
    assert said(**chunked(FITS[name])) == said(**FITS[name])


@pytest.mark.parametrize("name", ["integers", "some weigh nothing", "k-means||", "in batches"])
def test_a_fit_is_that_of_numpy_without_a_cluster(monkeypatch, name):
    monkeypatch.setattr(workers, "_client", lambda: None)
    assert said(**chunked(FITS[name])) == said(**FITS[name])


@pytest.mark.parametrize("chunks", [1201, 601, 97, (1, 1000, 0, 200)], ids=str)
def test_any_chunks_give_the_same_answer(cluster, chunks):
    assert said(da.from_array(X, chunks=(chunks, 3)), weights=WEIGHTS) == said(X, weights=WEIGHTS)


def test_weights_may_be_lazy_too(cluster):
    rows, weights = da.from_array(X, chunks=(500, 3)), da.from_array(WEIGHTS, chunks=100)
    assert said(rows, weights=weights) == said(X, weights=WEIGHTS)


def test_positive_weights_from_another_process(cluster):
    """Where they lie after that is not where a float64 belongs."""
    weights = rng.random(len(X)) + 0.5
    lazy = da.from_array(weights, chunks=len(X)).map_blocks(np.copy, dtype=float)
    assert said(da.from_array(X, chunks=(500, 3)), weights=lazy) == said(X, weights=weights)


@pytest.mark.parametrize("anywhere", ["here"], indirect=True)
@pytest.mark.parametrize("dtype", [">f4", ">f8", ">u2", ml_dtypes.bfloat16], ids=str)
def test_dtypes_that_are_read_as_others(anywhere, dtype):
    rows = X.astype(dtype)
    assert said(da.from_array(rows, chunks=(300, 2))) == said(rows)


@pytest.mark.parametrize("anywhere", ["here"], indirect=True)
@pytest.mark.parametrize("dtype", ["Float32", "float[pyarrow]", "UInt8", "uint8[pyarrow]", "float16"])
def test_frames_of_any_dtype(anywhere, dtype):
    frame = pd.DataFrame(np.clip(np.rint(X), 0, 200), columns=list("abc")).astype(dtype)
    assert said(dd.from_pandas(frame, npartitions=4)) == said(frame)


@pytest.mark.parametrize("anywhere", ["here"], indirect=True)
@pytest.mark.parametrize("dtype", ["Float32", "UInt8", "uint8[pyarrow]"])
def test_missing_values_are_nan(anywhere, dtype):
    frame = pd.DataFrame(np.clip(np.rint(X), 0, 200), columns=list("abc")).astype(dtype)
    frame.loc[700, "b"] = None
    for some in (frame, frame[["b"]]):
        with pytest.raises(ValueError, match="Input X contains NaN"):
            KMeans(5).fit(dd.from_pandas(some, npartitions=4))


def test_rows_whose_number_is_not_known(anywhere):
    rows = da.from_array(X, chunks=(300, 3))
    some = rows[rows[:, 0] > 45]
    assert np.isnan(some.shape[0])
    assert said(some) == said(X[X[:, 0] > 45])


@pytest.mark.parametrize("width", [2, 3])
def test_columns_whose_number_is_not_known(anywhere, width):
    rows = da.from_array(X, chunks=(300, width))
    some, expected = rows[:, rows[0] > -1e9], KMeans(5, random_state=0, max_iter=4).fit(X)
    assert np.isnan(some.shape[1])
    assert said(some) == said(X)
    assert expected.predict(some).compute().tobytes() == expected.labels_.tobytes()
    assert np.isnan(some.shape[1]), "it is not written to"


def test_a_frame_has_names(anywhere):
    frame = pd.DataFrame(X, columns=list("abc"))
    model = KMeans(5, random_state=0, max_iter=4).fit(dd.from_pandas(frame, npartitions=4))
    expected = KMeans(5, random_state=0, max_iter=4).fit(frame)
    assert model.feature_names_in_.tolist() == ["a", "b", "c"]
    assert np.asarray(model.labels_).tobytes() == expected.labels_.tobytes()
    assert model.cluster_centers_.tobytes() == expected.cluster_centers_.tobytes()
    other = dd.from_pandas(frame.rename(columns={"a": "z"}), npartitions=2)
    with pytest.raises(ValueError, match="feature names should match"):
        model.predict(other)


def test_answers_for_the_rows_of_a_frame_have_its_index(anywhere, tmp_path):
    """Where partitions are empty, and whatever the rows are called."""
    x = X[np.argsort(X[:, 0])]
    frame = pd.DataFrame(x, columns=list("abc"), index=pd.Index(np.arange(len(x)) * 2.5, name="time"))
    lazy = dd.from_pandas(frame, npartitions=6)
    lazy, frame = lazy[lazy["a"] > 50], frame[frame["a"] > 50]
    assert (lazy.map_partitions(len).compute() == 0).any()
    model = KMeans(5, random_state=0, max_iter=4).fit(lazy)
    expected = KMeans(5, random_state=0, max_iter=4).fit(frame)
    for labels in (model.labels_, model.predict(lazy)):
        assert isinstance(labels, dd.Series)
        pd.testing.assert_series_equal(labels.compute(), pd.Series(expected.labels_, frame.index))
    distances = model.transform(lazy)
    assert isinstance(distances, dd.DataFrame)
    pd.testing.assert_frame_equal(distances.compute(), pd.DataFrame(expected.transform(frame), frame.index))
    assert isinstance(model.set_params(output_type="numpy").predict(lazy), np.ndarray)
    model.save(tmp_path / "model.npz")
    assert load(tmp_path / "model.npz").labels_.tobytes() == expected.labels_.tobytes()


# ---------------------------------------------------------------- what is computed, and where


def test_answers_of_the_rows_are_lazy_and_others_are_not(anywhere):
    rows = da.from_array(X, chunks=(500, 3))
    model = KMeans(5, random_state=0, max_iter=4).fit(rows)
    assert isinstance(model.cluster_centers_, np.ndarray)
    for answer, width in ((model.labels_, ()), (model.predict(rows), ()), (model.transform(rows), (5,))):
        assert isinstance(answer, da.Array)
        assert answer.shape == (len(X), *width)
        assert answer.chunks[0] == (500, 500, 201)
        assert answer.compute().dtype == answer.dtype
    assert model.labels_.dtype == np.int32
    assert model.transform(rows).dtype == np.float32
    gathered = KMeans(5, random_state=0, max_iter=4, output_type="numpy").fit(rows)
    for answer in (gathered.labels_, gathered.predict(rows), gathered.transform(rows)):
        assert isinstance(answer, np.ndarray)


@pytest.mark.filterwarnings("ignore:Running on a single-machine scheduler when a distributed client:UserWarning")
def test_predict_computes_nothing_until_it_is_asked_to():
    computed = []

    def rows(block):
        computed.append(len(block))
        return block

    model = KMeans(5, random_state=0, max_iter=4).fit(X)
    labels = model.predict(da.from_array(X, chunks=(700, 3)).map_blocks(rows, dtype=X.dtype, meta=X[:0]))
    assert computed == []
    assert labels[:700].compute(scheduler="sync").tolist() == model.labels_[:700].tolist()
    assert computed == [700]


def test_what_goes_to_the_workers_is_not_the_model_s_history(cluster):
    """Nor a callback, which may not be one that can go anywhere."""
    rows = da.from_array(X, chunks=(500, 3))
    told = []
    model = KMeans(5, init=lambda X, k, random_state: np.asarray(X[:k]), n_init=1, max_iter=4, callback=told.append)
    model.fit(rows)
    assert len(told) == model.n_iter_
    expected = KMeans(5, init=X[:5], n_init=1, max_iter=4).fit(X)
    assert model.predict(rows).compute().tobytes() == expected.labels_.tobytes()


def test_rows_stay_with_the_workers(cluster, peak):
    """Those of 24 MB do not come to the client, and each worker has a part."""
    rows = da.random.default_rng(0).random((10**6, 3), chunks=(10**5, 3))
    model = KMeans(3, init=np.eye(3), max_iter=2)
    assert peak(lambda: model.fit(rows)) < 4_000_000
    assert cluster.run(lambda: 0).keys() == set(cluster.scheduler_info(n_workers=-1)["workers"])
    assert model.inertia_ == KMeans(3, init=np.eye(3), max_iter=2).fit(rows.compute()).inertia_


def held(dask_worker):
    return len(dask_worker.state.actors)


def test_each_worker_has_one_part_while_there_is_a_fit_and_none_after(cluster):
    """Whether or not garbage was collected here."""
    parts = []
    gc.disable()

    def look(record):
        parts.append(cluster.run(held))

    KMeans(5, random_state=0, max_iter=3, callback=look).fit(da.from_array(X, chunks=(100, 3)))
    assert len(parts) == 3
    assert all(set(found.values()) == {1} for found in parts)
    for _ in range(100):
        if not any(cluster.run(held).values()):
            break
        time.sleep(0.01)
    else:
        pytest.fail("a part is still there")
    gc.enable()


@pytest.mark.kernels
@pytest.mark.filterwarnings("ignore:Running on a single-machine scheduler when a distributed client:UserWarning")
def test_the_device_is_that_of_the_machine_where_the_rows_are(monkeypatch):
    """Which is this one, without a cluster."""
    monkeypatch.setattr(workers, "_client", lambda: None)
    cupy = as_cupy(HostCuda(build="fast", seed=1), HostCuda(build="fast", seed=2))
    monkeypatch.setitem(sys.modules, "cupy", cupy)
    expected = KMeans(5, random_state=0, max_iter=4, device="cpu").fit(X)
    model = KMeans(5, random_state=0, max_iter=4, device="cuda:1").fit(da.from_array(X, chunks=(400, 3)))
    assert model.cluster_centers_.tobytes() == expected.cluster_centers_.tobytes()
    assert model.labels_.compute(scheduler="sync").tobytes() == expected.labels_.tobytes()
    assert not cupy.hosts[0].launches
    assert cupy.hosts[1].launches["refine"] >= 4


def test_a_model_of_lazy_labels_goes_where_it_is_used(cluster):
    """By Dask, which pickles where nobody may wait for an answer."""
    rows = da.from_array(X, chunks=(500, 3))
    model = KMeans(5, random_state=0, max_iter=4).fit(rows)
    expected = KMeans(5, random_state=0, max_iter=4).fit(X)
    assert pickle.loads(pickle.dumps(model)).labels_.compute().tobytes() == expected.labels_.tobytes()
    assert cluster.submit(model.predict, X).result(60).tobytes() == expected.labels_.tobytes()
    mapped = rows.map_blocks(model.predict, drop_axis=1, dtype=np.int32, meta=np.empty(0, np.int32))
    assert mapped.compute().tobytes() == expected.labels_.tobytes()
    assert cluster.scatter(model).result(60).n_iter_ == expected.n_iter_


def test_a_model_of_lazy_labels_is_saved_with_them(anywhere, tmp_path):
    model = KMeans(5, random_state=0, max_iter=4).fit(da.from_array(X, chunks=(500, 3)))
    model.save(tmp_path / "model.npz")
    expected = KMeans(5, random_state=0, max_iter=4).fit(X)
    assert load(tmp_path / "model.npz").labels_.tobytes() == expected.labels_.tobytes()


def fitted_there(x):
    return KMeans(5, random_state=0, max_iter=4).fit(da.from_array(x, chunks=(400, 3))).cluster_centers_.tobytes()


def test_fits_in_tasks_of_all_workers(cluster):
    """Each of which has a single thread, and needs others to make parts."""
    expected = KMeans(5, random_state=0, max_iter=4).fit(X).cluster_centers_.tobytes()
    futures = [cluster.submit(fitted_there, X, pure=False) for _ in range(3)]
    assert [future.result(60) for future in futures] == [expected] * 3


def test_the_scheduler_finds_nothing_strange(cluster, caplog):
    rows = da.from_array(X, chunks=(300, 3)).map_blocks(lambda block: block + 1)
    for weights in (None, WEIGHTS, None):
        KMeans(5, random_state=0, max_iter=2).fit(rows, sample_weight=weights).labels_.compute()
    assert [record.message for record in caplog.records if record.name.startswith("distributed")] == []


def test_sparse_chunks(anywhere):
    rows = da.from_array(WIDE, chunks=(30, 20)).map_blocks(csr_matrix)
    assert said(rows) == said(csr_matrix(WIDE))
    assert workers.make_points(Samples(rows), device="cpu").sparse


SHARED_OUT = {
    "as they are": ((500, 500, 201), (500, 500, 201)),
    "one chunk": ((1201,), (401, 401, 399)),
    "one that is much larger": ((1000, 100, 101), (401, 401, 399)),
    "none that is empty": ((0, 500, 0, 500, 201, 0), (500, 500, 201)),
    "more than workers": ((301, 300, 300, 300), (401, 401, 399)),
}


@pytest.mark.parametrize("name", SHARED_OUT)
def test_rows_are_shared_out_among_all_workers(cluster, name):
    given, expected = SHARED_OUT[name]
    shared = sharing.shared_out(da.from_array(X, chunks=(given, 3)), clusters.Cluster(cluster))
    assert shared.chunks[0] == expected
    assert shared.compute().tobytes() == X.tobytes()


class Asked:
    """A cluster that was asked for workers, of which some are there."""

    def __init__(self, there, plan=(), maximum=None):
        self.client = SimpleNamespace(cluster=self)
        self.there, self.plan = there, plan
        if maximum is not None:
            self._adaptive = SimpleNamespace(maximum=maximum, periodic_callback=object())

    def workers(self):
        return dict.fromkeys(range(self.there))


def test_workers_that_are_to_come_count():
    assert sharing.expected_workers(Asked(2)) == 2
    assert sharing.expected_workers(Asked(0, plan={0, 1, 2})) == 3
    assert sharing.expected_workers(Asked(1, plan={0}, maximum=4)) == 4
    assert sharing.expected_workers(Asked(3, maximum=np.inf)) == 3


@pytest.mark.parametrize("limit", [500, 0, 1500], ids="{} MB".format)
def test_rows_that_no_worker_has_memory_for_are_an_error_at_once(cluster, monkeypatch, limit):
    """With the figures; and none where there is no limit, or for what nobody knows before."""
    worker = {"memory_limit": limit * 10**6, "metrics": {"memory": 250 * 10**6, "managed_bytes": 50 * 10**6}}
    monkeypatch.setattr(clusters.Cluster, "workers", lambda self: {"a": worker, "b": worker})
    rows, there = da.zeros((48 * 10**6, 1), chunks=(10**6, 1)), clusters.Cluster(cluster)
    if limit == 500:
        error = r"384 MB on 3 of them are 128 MB each.* needs 294 MB.*more than 275 MB.*a chunk has 8 MB"
        with pytest.raises(DeviceError, match=error):
            sharing.of_rows(rows, there, None)
    else:
        assert sharing.of_rows(rows, there, None).graphs is None
    assert sharing.of_rows(rows.map_blocks(csr_matrix, meta=csr_matrix((0, 1))), there, None).graphs is None


def called(monkeypatch, **parameters):
    """The methods of parts that a fit calls, of one part."""
    names, call = {}, clusters.Cluster.call

    def counted(self, future, address, name, args, how):
        names.setdefault(future.key, []).append(args[0] if name in ("call", "seed") else name)
        return call(self, future, address, name, args, how)

    monkeypatch.setattr(clusters.Cluster, "call", counted)
    KMeans(random_state=0, max_iter=2, tol=0, **parameters).fit(da.from_array(X, chunks=(401, 3)))
    return max(names.values(), key=len)


def test_seeding_takes_two_steps_for_a_center(cluster, monkeypatch):
    """Two more where the largest distance has come down to another power of two."""
    names = called(monkeypatch, n_clusters=50)
    assert names.count("potentials") == 49
    assert names.count("accept_and_draw") == 48
    again = names.count("total") - 2
    assert again <= 12
    assert names.count("find") <= 2 + again
    assert names.count("accept") == 2


# ---------------------------------------------------------------- errors


@pytest.mark.parametrize("bad", [np.nan, np.inf])
@pytest.mark.parametrize("metric", ["euclidean", "cosine"])
def test_values_that_are_not_finite(anywhere, bad, metric):
    x = X.copy()
    x[700, 1] = bad
    rows = da.from_array(x, chunks=(500, 3))
    with pytest.raises(ValueError, match=r"^Input X contains " + ("NaN" if np.isnan(bad) else "infinity")):
        KMeans(2, metric=metric).fit(rows)
    labels = KMeans(2, metric=metric, max_iter=2).fit(X).predict(rows)
    with pytest.raises(ValueError, match=r"^Input X contains " + ("NaN" if np.isnan(bad) else "infinity")):
        labels.compute()


@pytest.mark.parametrize("method", ["fit", "predict", "transform", "score"])
def test_another_number_of_features(anywhere, method):
    model = KMeans(2, max_iter=2).fit(X)
    rows = da.from_array(X, chunks=(500, 3))
    with pytest.raises(ValueError, match="Expected 2D array, got 1D array"):
        getattr(model, method)(rows[:, 0])
    if method != "fit":
        with pytest.raises(ValueError, match="2 features, but KMeans is expecting 3"):
            getattr(model, method)(rows[:, :2])


def test_too_few_rows(anywhere):
    with pytest.raises(ValueError, match="n_samples=3 should be >= n_clusters=5"):
        KMeans(5).fit(da.from_array(X[:3], chunks=(2, 3)))
    with pytest.raises(ValueError, match=r"0 sample\(s\)"):
        KMeans(5).fit(da.from_array(X[:0], chunks=(2, 3)))


def test_what_is_neither_array_nor_frame(anywhere):
    with pytest.raises(TypeError, match="arrays and frames can be clustered, not Bag"):
        KMeans(2).fit(dask.bag.from_sequence([1, 2]))


@pytest.mark.parametrize(
    "given",
    [
        np.float32(3),
        X[:, 0],
        X[None],
        X.astype("complex64"),
        X[:20].astype("U8"),
        pd.Series(X[:, 0]),
        pd.DataFrame(X, columns=list("abc")).assign(b=pd.array([1, 2, None] * 400 + [7], dtype="Int64")),
        pd.DataFrame({"a": X[:, 0], "b": X[:, 1] > 50}),
        pd.DataFrame({"a": X[:, 0], "b": X[:, 1].astype(int).astype(str)}),
        pd.DataFrame(X[:, :0]),
    ],
    ids=["scalar", "1-D", "3-D", "complex", "text", "Series", "missing", "bool", "strings", "no columns"],
)
def test_what_is_odd_is_as_odd_as_in_memory(anywhere, given):
    """The same answer, or an error of the same type that begins with the same words."""
    tables = isinstance(given, pd.DataFrame | pd.Series)
    rows = dd.from_pandas(given, npartitions=3) if tables else da.from_array(given, chunks=-1)

    def outcome(x):
        try:
            model = KMeans(3, random_state=0, max_iter=3).fit(x)
        except Exception as error:
            return type(error), str(error)[:25]
        return model.cluster_centers_.dtype, model.cluster_centers_.tobytes(), np.asarray(model.labels_).tobytes()

    assert outcome(rows) == outcome(given)


def test_who_refuses_a_value(anywhere):
    model = MiniBatchKMeans(2, random_state=0).fit(X)
    with pytest.raises(ValueError, match="MiniBatchKMeans does not accept missing values"):
        model.predict(da.from_array(np.full((3, 3), np.nan), chunks=2)).compute()


class Labelled:
    """An array of another library, that may hold one of Dask's."""

    def __init__(self, rows):
        self.data, self.shape, self.dtype, self.ndim = rows, rows.shape, rows.dtype, rows.ndim

    def __len__(self):
        return len(self.data)

    def __dask_graph__(self):
        return self.data.__dask_graph__()

    def __array__(self, dtype=None, copy=None):
        return np.asarray(self.data)


def test_what_holds_a_dask_array_is_an_array():
    found = KMeans(5, random_state=0, max_iter=4).fit(Labelled(da.from_array(X, chunks=(500, 3))))
    assert isinstance(found.labels_, np.ndarray)
    assert found.labels_.tobytes() == KMeans(5, random_state=0, max_iter=4).fit(X).labels_.tobytes()


def test_the_caller_s_array_stays_as_it_was(anywhere):
    rows = da.from_array(X, chunks=(300, 3))
    some = rows[rows[:, 0] > 45]
    KMeans(5, random_state=0, max_iter=2).fit(some)
    assert np.isnan(some.shape[0])
    assert np.isnan(some.chunks[0]).all()


def failing(block, block_info=None):
    if block_info and block_info[0]["chunk-location"][0] == 2:
        raise FileNotFoundError("No such file or directory: 'rows.npy'")
    return block


def test_what_fails_in_a_chunk_is_what_is_raised_and_leaves_nothing(anywhere):
    rows = da.from_array(X, chunks=(401, 3)).map_blocks(failing, dtype=X.dtype, meta=X[:0])
    gc.disable()
    with pytest.raises(FileNotFoundError, match=r"rows\.npy"):
        KMeans(5).fit(rows)
    for _ in range(200):
        if not anywhere or not (anywhere.futures or any(anywhere.run(held).values())):
            break
        time.sleep(0.01)
    else:
        pytest.fail("rows are still there")
    gc.enable()


def test_an_error_that_is_held_keeps_no_rows_on_the_workers(cluster):
    """As IPython does, with all frames of it."""

    def fail(record):
        raise ZeroDivisionError

    rows = da.from_array(X, chunks=(401, 3))
    with pytest.raises(ZeroDivisionError) as held_error:
        KMeans(5, random_state=0, callback=fail).fit(rows)
    for _ in range(200):
        if not (cluster.futures or any(cluster.run(held).values())):
            break
        time.sleep(0.01)
    else:
        pytest.fail("rows are still there")
    assert held_error.tb is not None


def test_an_interruption_leaves_nothing_either(cluster, monkeypatch):
    def interrupt(cluster, future):
        raise KeyboardInterrupt

    monkeypatch.setattr(clusters.Cluster, "made", interrupt)
    model = KMeans(5)
    with pytest.raises(KeyboardInterrupt):
        model.fit(da.from_array(X, chunks=(401, 3)))
    assert not hasattr(model, "n_features_in_")
    for _ in range(200):
        if not cluster.futures:
            break
        time.sleep(0.01)
    else:
        pytest.fail("something is still being made")


def test_an_asynchronous_client(monkeypatch):
    monkeypatch.setattr("distributed.get_client", lambda: SimpleNamespace(asynchronous=True))
    with pytest.raises(RuntimeError, match=r"cannot with an asynchronous client.*asyncio\.to_thread"):
        KMeans(5).fit(da.from_array(X, chunks=(401, 3)))


def test_a_device_that_workers_do_not_have(cluster):
    model = KMeans(2, random_state=0, max_iter=2).fit(X)
    before = {name: np.copy(value).tolist() for name, value in vars(model).items()}
    with pytest.raises(DeviceError, match=r"device='cuda' cannot be used"):
        model.set_params(device="cuda").fit(da.from_array(X, chunks=(500, 3)))
    model.set_params(device="auto")
    assert {name: np.copy(value).tolist() for name, value in vars(model).items()} == before
    with pytest.raises(ValueError, match="device must be 'auto'"):
        KMeans(2, device="gpu").fit(da.from_array(X, chunks=(500, 3)))
