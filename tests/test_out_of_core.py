"""Rows that are more than a limit of memory: read in pieces, with the bits of all at once, in as much as is allowed."""

from __future__ import annotations

import hashlib
import re
import subprocess
import sys

import h5py
import numpy as np
import pyarrow as pa
import pyarrow.dataset
import pyarrow.feather
import pyarrow.parquet
import pytest
import zarr
from host_cuda.runtime import HostCuda

from gpukmeans import KMeans, MiniBatchKMeans, k_means, kmeans_plusplus
from gpukmeans.row_sources import base, choice, memory
from gpukmeans.row_sources.arrays import ArrayRows, SlicedRows, is_mapped
from gpukmeans.row_sources.arrow import ArrowRows
from gpukmeans.row_sources.base import RowSource

N, D = 3000, 6
X = np.random.default_rng(0).normal(50, 20, (N, D)).astype(np.float32)
LIMIT = 100_000  # pieces of 168 rows


class Sliced:
    """As h5py's and zarr's arrays are, nothing but slices."""

    def __init__(self, x):
        self._x, self.shape, self.dtype = x, x.shape, x.dtype
        self.most = 0

    def __getitem__(self, rows):
        assert isinstance(rows, slice)
        self.most = max(self.most, rows.stop - rows.start)
        return self._x[rows]


def table(x):
    return pa.table({f"f{i}": column for i, column in enumerate(x.T)})


def mapped(folder, x):
    np.save(folder / "x.npy", x)
    return np.load(folder / "x.npy", mmap_mode="r")


def parquet(folder, x):
    pa.parquet.write_table(table(x), folder / "x.parquet", row_group_size=700)
    return pa.dataset.dataset(folder / "x.parquet")


def parquet_file(folder, x):
    pa.parquet.write_table(table(x), folder / "x.parquet", row_group_size=700)
    return pa.parquet.ParquetFile(folder / "x.parquet")


def several_files(folder, x):
    (folder / "x").mkdir()
    for i in range(3):
        pa.parquet.write_table(table(x).slice(i * 1100, 1100), folder / "x" / f"{i}.parquet", row_group_size=500)
    return pa.dataset.dataset(folder / "x")


def feather(folder, x):
    pa.feather.write_feather(table(x), folder / "x.feather", chunksize=900)
    return pa.dataset.dataset(folder / "x.feather", format="feather")


def hdf5(folder, x):
    with h5py.File(folder / "x.h5", "w") as file:
        file.create_dataset("x", data=x, chunks=(500, 4), compression="gzip")
    return h5py.File(folder / "x.h5")["x"]


def zarr_array(folder, x):
    zarr.create_array(folder / "x.zarr", data=x, chunks=(500, 4))
    return zarr.open_array(folder / "x.zarr", mode="r")


def dask_array(folder, x):
    da = pytest.importorskip("dask.array")
    return da.from_array(x, chunks=(450, 4))


ELSEWHERE = {
    "in memory": lambda folder, x: x,
    "memory map": mapped,
    "columns in a map": lambda folder, x: mapped(folder, np.asfortranarray(x)),
    "slices": lambda folder, x: Sliced(x),
    "Parquet": parquet,
    "ParquetFile": parquet_file,
    "several files": several_files,
    "Feather": feather,
    "Dask": dask_array,
    "HDF5": hdf5,
    "zarr": zarr_array,
}


def said(model, rows):
    arrays = [model.cluster_centers_, model.labels_, model.predict(rows), model.transform(rows)]
    return [np.asarray(array).tobytes() for array in arrays], model.inertia_, model.n_iter_, model.score(rows)


@pytest.mark.parametrize("where", ELSEWHERE)
@pytest.mark.parametrize("kind", [KMeans, MiniBatchKMeans])
def test_rows_from_anywhere_give_the_bits_of_rows_in_memory(tmp_path, where, kind):
    rows = ELSEWHERE[where](tmp_path, X)
    weights = np.arange(N) % 4
    parameters = {"n_clusters": 5, "random_state": 0, "device": "cpu", "max_iter": 4}
    expected = said(kind(**parameters).fit(X, sample_weight=weights), X)
    model = kind(**parameters, memory_limit=LIMIT).fit(rows, sample_weight=weights)
    assert said(model, rows) == expected


@pytest.mark.parametrize("metric", ["euclidean", "cosine"])
@pytest.mark.parametrize("init", ["k-means++", "k-means||", "random", X[:5], lambda x, k, random_state: x[:k]])
def test_every_way_to_begin_gives_the_same_bits_in_pieces(init, metric):
    parameters = {"n_clusters": 5, "random_state": 0, "device": "cpu", "init": init, "metric": metric}
    parameters |= {"n_init": 2 if isinstance(init, str) else 1}
    assert said(KMeans(**parameters, memory_limit=LIMIT).fit(X), X) == said(KMeans(**parameters).fit(X), X)


@pytest.mark.parametrize("dtype", [np.uint8, np.float16, np.float64, np.int64, ">f4"])
def test_every_dtype_is_read_in_pieces_as_it_is_read_as_a_whole(tmp_path, dtype):
    x = np.rint(X).clip(0, 255).astype(dtype)
    expected = said(KMeans(5, random_state=0, device="cpu").fit(x), x)
    for rows in (mapped(tmp_path, x), Sliced(x)):
        assert said(KMeans(5, random_state=0, device="cpu", memory_limit=LIMIT).fit(rows), rows) == expected


def test_empty_clusters_take_over_the_same_rows():
    init = np.concatenate([X[:2], X[:1] + 1e4, X[:1] - 1e4])
    whole = KMeans(4, init=init, device="cpu").fit(X)
    assert said(KMeans(4, init=init, device="cpu", memory_limit=LIMIT).fit(X), X) == said(whole, X)


def test_functions_take_rows_in_pieces():
    x = Sliced(X)
    for one, other in zip(
        k_means(X, 4, random_state=0), k_means(x, 4, random_state=0, memory_limit=LIMIT), strict=True
    ):
        assert np.asarray(one).tobytes() == np.asarray(other).tobytes()
    source = SlicedRows(x, LIMIT)
    expected = kmeans_plusplus(X, 4, random_state=0)
    found = kmeans_plusplus(source, 4, random_state=0)
    assert found[1].tolist() == expected[1].tolist()


def test_minibatches_of_what_cannot_be_read_at_random_are_drawn_many_in_a_pass():
    x, reads = Sliced(X), []
    source = SlicedRows(x, LIMIT)
    source.told = reads.append
    parameters = {"n_clusters": 5, "random_state": 0, "batch_size": 50, "max_no_improvement": None, "max_iter": 2}
    whole = MiniBatchKMeans(**parameters, device="cpu").fit(X)
    found = MiniBatchKMeans(**parameters, device="cpu").fit(source)
    assert found.cluster_centers_.tobytes() == whole.cluster_centers_.tobytes()
    assert whole.n_steps_ == 120
    assert sum(reads) < 30 * X.nbytes


# ---------------------------------------------------------------- what is asked for, and where it goes


@pytest.mark.parametrize("limit", [None, LIMIT])
def test_predict_and_transform_write_to_what_they_are_given(tmp_path, limit):
    model = KMeans(5, random_state=0, device="cpu", memory_limit=limit).fit(X)
    labels = np.lib.format.open_memmap(tmp_path / "labels.npy", "w+", np.int32, (N,))
    distances = np.lib.format.open_memmap(tmp_path / "distances.npy", "w+", np.float32, (N, 5))
    assert model.predict(X, out=labels) is labels
    assert model.transform(X, out=distances) is distances
    assert labels.tolist() == model.labels_.tolist()
    assert distances.tobytes() == model.transform(X).tobytes()


@pytest.mark.parametrize("out", [np.empty(N - 1, np.int32), np.empty(N, np.int16), np.empty((N, 1), np.int32)])
def test_what_cannot_be_written_to_is_refused(out):
    model = KMeans(5, random_state=0, device="cpu").fit(X)
    with pytest.raises(ValueError, match=r"out should have the shape \(3000,\) and hold int32"):
        model.predict(X, out=out)
    with pytest.raises(TypeError, match="not list"):
        model.transform(X, out=[])


def test_a_transform_in_memory_holds_little_more_than_it_returns(peak):
    x = np.random.default_rng(0).normal(size=(200_000, 4)).astype(np.float32)
    for dtype in (np.float32, np.float64):
        model = KMeans(64, init=x[:64], max_iter=1, device="cpu").fit(x[:1000].astype(dtype))
        rows = x.astype(dtype)
        model.transform(rows[:1000])
        assert peak(lambda model=model, rows=rows: model.transform(rows)) < 1.3 * 64 * rows[:, :1].nbytes


def test_names_of_columns_are_those_of_the_dataset(tmp_path):
    model = KMeans(3, random_state=0, device="cpu", memory_limit=LIMIT).fit(parquet(tmp_path, X))
    assert model.feature_names_in_.tolist() == [f"f{i}" for i in range(D)]
    assert model.cluster_centers_.dtype == np.float32


def test_frames_of_float32_stay_float32():
    polars = pytest.importorskip("polars")
    for frame in (table(X), polars.DataFrame(X), pa.RecordBatch.from_arrays(list(X.T), [f"f{i}" for i in range(D)])):
        assert KMeans(3, random_state=0, device="cpu").fit(frame).cluster_centers_.dtype == np.float32


def test_what_is_no_number_is_refused_by_name(tmp_path):
    pa.parquet.write_table(pa.table({"a": [1.0, 2.0], "name": ["x", "y"]}), tmp_path / "x.parquet")
    with pytest.raises(ValueError, match="no numbers in the columns name"):
        KMeans(2).fit(pa.dataset.dataset(tmp_path / "x.parquet"))


@pytest.mark.parametrize("metric", ["euclidean", "cosine"])
def test_what_is_missing_is_nan_wherever_it_is(tmp_path, metric):
    x = X.copy()
    x[2345, 3] = np.nan
    missing = pa.table({f"f{i}": pa.array(column, mask=np.isnan(column)) for i, column in enumerate(x.T)})
    pa.parquet.write_table(missing, tmp_path / "missing.parquet")
    for rows in (mapped(tmp_path, x), pa.dataset.dataset(tmp_path / "missing.parquet")):
        model = KMeans(3, device="cpu", metric=metric, memory_limit=LIMIT)
        with pytest.raises(ValueError, match="Input X contains NaN"):
            model.fit(rows)
        assert not hasattr(model, "n_features_in_")


def test_errors_of_reading_reach_the_caller():
    class Broken(Sliced):
        def __getitem__(self, rows):
            if rows.stop > 2000:
                raise OSError("the disk is gone")
            return super().__getitem__(rows)

    with pytest.raises(OSError, match="the disk is gone"):
        KMeans(3, device="cpu", memory_limit=LIMIT).fit(Broken(X))


def test_the_bar_tells_what_was_read(capsys):
    pytest.importorskip("tqdm")
    KMeans(3, random_state=0, device="cpu", memory_limit=LIMIT, progress=True).fit(X)
    assert re.search(r"changed, \d+\.\d\d GB read", capsys.readouterr().err)


# ---------------------------------------------------------------- the limit


def test_a_limit_is_bytes_or_a_text():
    texts = {"4GB": 4 * 10**9, "1.5 MiB": 3 * 2**19, "700 kb": 700_000, "12B": 12}
    assert {text: memory.in_bytes(text) for text in texts} == texts
    assert memory.in_bytes(12345) == 12345
    assert 0 < memory.in_bytes(None) <= memory.free_bytes()
    for text in ("4", "GB", "-1GB", "0GB", "4 GB of memory"):
        with pytest.raises(ValueError, match="should be a number of bytes"):
            KMeans(2, memory_limit=text).fit(X)
    for wrong in (0, -1, 1.5):
        with pytest.raises(ValueError, match="memory_limit"):
            KMeans(2, memory_limit=wrong).fit(X)


def test_what_there_is_room_for_is_read_once_and_kept():
    kept = memory.kept_bytes(X.shape, X.dtype)
    assert isinstance(choice.held(SlicedRows(Sliced(X), X.nbytes + kept)), np.ndarray)
    rows = choice.held(SlicedRows(Sliced(X), 2 * X.nbytes))
    assert isinstance(rows, ArrayRows)
    assert rows.limit == X.nbytes
    assert isinstance(choice.held(SlicedRows(Sliced(X), X.nbytes)), SlicedRows)


def test_of_a_memory_map_no_copy_is_kept(tmp_path):
    x = mapped(tmp_path, X)
    source = choice.source_of(x, LIMIT // 4)
    assert choice.held(source) is source
    assert np.shares_memory(source.read(slice(7, 900)), x)
    assert is_mapped(x[3:])
    assert not is_mapped(np.array(x))
    assert choice.source_of(x, None) is None, "so few are read as ever"


def test_no_more_is_asked_for_than_a_piece():
    x = Sliced(X)
    KMeans(4, random_state=0, device="cpu", memory_limit=LIMIT // 2).fit(x)
    assert x.most <= LIMIT // 4 // (4 * D * 4 + 200)


def test_large_arrays_that_are_kept_are_files_without_a_name(tmp_path, monkeypatch):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    few, many = (memory.array_within(LIMIT, (n,), np.int32) for n in (100, 10**6))
    assert not is_mapped(few)
    assert is_mapped(many)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("rows", [None, 1100])
def test_a_gpu_is_sent_rows_as_they_are_read(on, rows):
    expected = said(KMeans(4, random_state=0, max_iter=3, device="cpu").fit(X), X)
    on(HostCuda(build="fast", seed=1), rows)
    x = Sliced(X)
    assert said(KMeans(4, random_state=0, max_iter=3, device="cpu", memory_limit=LIMIT).fit(x), x) == expected


@pytest.mark.parametrize("step", [1, 7, 699, 1500])
def test_a_source_reads_any_rows_in_any_order(tmp_path, monkeypatch, step):
    monkeypatch.setattr(RowSource, "step_with", lambda self, more: step)
    rng = np.random.default_rng(step)
    sources = [ArrowRows(make(tmp_path, X), LIMIT) for make in (parquet, parquet_file, several_files, feather)]
    sources += [SlicedRows(Sliced(X), LIMIT), ArrayRows(X, LIMIT)]
    mask = rng.random(N) < 0.3
    for source in sources:
        for start in rng.integers(0, N - 40, 10).tolist():
            assert source.read(slice(start, start + 40)).tobytes() == X[start : start + 40].tobytes()
        some = rng.integers(0, N, 60)
        assert source.take(some).tobytes() == X[some].tobytes()
        picked = source[mask]
        assert isinstance(picked, base.Picked)
        assert picked.read(slice(5, 90)).tobytes() == X[mask][5:90].tobytes()
        if step > 100:
            assert np.asarray(source[10:]).tobytes() == X[10:].tobytes()


PROGRAM = """
import hashlib, resource, sys
import numpy as np
from gpukmeans import KMeans

def fit(x, init, **limit):
    model = KMeans(8, init=init, random_state=0, max_iter=2, device="cpu", **limit).fit(x)
    digest = hashlib.sha256(model.cluster_centers_)
    digest.update(model.labels_)
    return digest.hexdigest()

rows = np.load(sys.argv[1], mmap_mode="r")
fit(rows[:50_000], rows[:8], memory_limit=2_000_000)  # imports and compiles
held = {line.split(":")[0]: line.split(":")[1] for line in open("/proc/self/status")}
most = int(held["VmData"].split()[0]) * 1024 + 60_000_000
resource.setrlimit(resource.RLIMIT_DATA, (most, most))
try:
    np.ones(rows.nbytes, np.uint8)
except MemoryError:
    print(fit(rows, rows[:8]))
"""


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux limits the memory of a process alone")
@pytest.mark.parametrize("d", [pytest.param(3, marks=pytest.mark.slow), 60])
def test_rows_larger_than_the_memory_of_the_process_give_the_same_digest(tmp_path, d):
    """120 MB of rows, 60 MB of memory; a copy of them, their keys for sorting, or bounds would not fit."""
    path = tmp_path / "x.npy"
    rows = np.lib.format.open_memmap(path, "w+", np.float32, (120_000_000 // (4 * d), d))
    for part in np.array_split(rows, 10):
        part[:] = np.random.default_rng(len(part)).random(part.shape)
    del rows, part
    limited = subprocess.run([sys.executable, "-c", PROGRAM, path], capture_output=True, text=True)
    assert limited.returncode == 0, limited.stderr
    whole = np.load(path)
    model = KMeans(8, init=whole[:8], random_state=0, max_iter=2, device="cpu").fit(whole)
    digest = hashlib.sha256(model.cluster_centers_.tobytes() + model.labels_.tobytes()).hexdigest()
    assert limited.stdout.strip() == digest
