"""Saving and loading: everything comes back, and a file is whole or as it was."""

from __future__ import annotations

import errno
import json
import os
import stat
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from sklearn import config_context
from sklearn.exceptions import NotFittedError

import gpukmeans
from gpukmeans import KMeans
from gpukmeans.atomic_write import atomic

X = np.random.default_rng(0).normal(size=(60, 3))
DATA = Path(__file__).parent / "data"


def assert_same(one: Any, other: Any) -> None:
    """The same value of the same type, to the last bit."""
    assert type(one) is type(other)
    match one:
        case dict():
            assert one.keys() == other.keys()
            for key in one:
                assert_same(one[key], other[key])
        case list() | tuple():
            assert len(one) == len(other)
            for item, counterpart in zip(one, other, strict=True):
                assert_same(item, counterpart)
        case np.ndarray() if one.dtype == object:
            assert one.shape == other.shape
            assert_same(one.tolist(), other.tolist())
        case np.ndarray() | np.generic():
            assert one.dtype.str == other.dtype.str
            assert one.shape == other.shape
            assert one.tobytes() == other.tobytes()
        case np.random.RandomState():
            assert_same(one.get_state(legacy=False), other.get_state(legacy=False))
        case float():
            assert one.hex() == other.hex()
        case None | bool() | int() | str():
            assert one == other
        case _:  # scikit-learn's requests
            assert str(one) == str(other)


def there_and_back(model: KMeans, folder: Path) -> KMeans:
    model.save(folder / "model.npz")
    return gpukmeans.load(folder / "model.npz")


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    KMeans(3, random_state=0, device="cpu").fit(X).save(tmp_path / "model.npz")
    return tmp_path / "model.npz"


# ---------------------------------------------------------------- everything comes back


MODELS: dict[str, Callable[..., Any]] = {
    "defaults": lambda kmeans: kmeans(),
    "float64": lambda kmeans: kmeans(3, random_state=1, tol=1e-3, verbose=0).fit(X),
    "float32": lambda kmeans: kmeans(3, random_state=1).fit(X.astype(np.float32)),
    "float16": lambda kmeans: kmeans(3, random_state=1).fit(X.astype(np.float16)),
    "frame": lambda kmeans: kmeans(3, random_state=1).fit(pd.DataFrame(X, columns=["x", "height", "größe\0"])),
    "array init": lambda kmeans: kmeans(4, init=np.asfortranarray(X[:4])).fit(X),
    "big-endian init": lambda kmeans: kmeans(4, init=X[:4].astype(">f8")).fit(X),
    "list init": lambda kmeans: kmeans(2, init=[[0, 0.1, -0.0], [1, 1e-320, 1e300]]),
    "tuple init": lambda kmeans: kmeans(2, init=((0, 0.1, -0.0), (1, 2, 3))),
    "NumPy scalars": lambda kmeans: kmeans(
        np.int16(3), tol=np.float32(0.1), random_state=np.uint32(7), copy_x=np.True_
    ),
    "extreme floats": lambda kmeans: kmeans(tol=float("inf")).set_params(max_iter=float("nan")),
    "generator": lambda kmeans: kmeans(3, random_state=np.random.RandomState(5)).fit(X),
    "set_output": lambda kmeans: kmeans(3, random_state=1).set_output(transform="pandas").fit(X),
    "many digits": lambda kmeans: kmeans(random_state=2**100),
    "names that look alike": lambda kmeans: kmeans(init={"a.b": X[:1], "a": {"b": X[1:2]}}),
    "odd strings": lambda kmeans: kmeans(device='"\\\ud800\n'),
}


@pytest.mark.parametrize("make", MODELS.values(), ids=MODELS)
def test_everything_comes_back(make: Callable[..., Any], kmeans: Callable[..., KMeans], tmp_path: Path) -> None:
    model = make(kmeans)
    before = model.__getstate__()
    loaded = there_and_back(model, tmp_path)
    assert type(loaded) is type(model)
    assert_same(loaded.__getstate__(), before)
    assert_same(model.__getstate__(), before)


def test_the_loaded_one_does_what_the_saved_one_did(kmeans: Callable[..., KMeans], tmp_path: Path) -> None:
    model = kmeans(3, random_state=np.random.RandomState(5)).fit(X)
    loaded = there_and_back(model, tmp_path)
    new = X[::-1] + 0.25
    assert_same(loaded.predict(new), model.predict(new))
    assert_same(loaded.transform(new), model.transform(new))
    assert_same(loaded.score(new), model.score(new))
    assert_same(loaded.fit(X).cluster_centers_, model.fit(X).cluster_centers_)  # the generators go on alike


def test_requests_for_metadata_come_back(tmp_path: Path) -> None:
    with config_context(enable_metadata_routing=True):
        model = KMeans().set_fit_request(sample_weight=True).set_score_request(sample_weight="importance")
        loaded = there_and_back(model, tmp_path)
        assert str(loaded.get_metadata_routing()) == str(model.get_metadata_routing())
        assert "importance" in str(loaded.get_metadata_routing())


def test_unfitted_stays_unfitted(tmp_path: Path) -> None:
    with pytest.raises(NotFittedError):
        there_and_back(KMeans(3), tmp_path).predict(X)


def test_any_estimator_of_the_package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Another(KMeans):
        def __init__(self, radius: float = 2.0) -> None:
            self.radius = radius

    monkeypatch.setattr(gpukmeans, "Another", Another, raising=False)
    monkeypatch.setattr(gpukmeans, "__all__", [*gpukmeans.__all__, "Another"])
    model = Another(3.5)
    model.counts_ = {"seen": (np.arange(3), 4)}  # type: ignore[attr-defined]
    loaded = there_and_back(model, tmp_path)
    assert type(loaded) is Another
    assert_same(loaded.__getstate__(), model.__getstate__())


def test_records_among_the_public_names(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    @dataclass(frozen=True)
    class Seen:
        iteration: int
        centers: np.ndarray | None = None

    model = KMeans()
    model.history_ = [Seen(0), Seen(1, X[:2])]  # type: ignore[attr-defined]
    with pytest.raises(TypeError, match=r"history_\.0 is of type .*Seen"):
        model.save(tmp_path / "model.npz")
    monkeypatch.setattr(gpukmeans, "Seen", Seen, raising=False)
    monkeypatch.setattr(gpukmeans, "__all__", [*gpukmeans.__all__, "Seen"])
    first, second = there_and_back(model, tmp_path).history_
    assert first == Seen(0)
    assert type(second) is Seen
    assert_same(second.centers, X[:2])


def test_arrays_of_other_libraries_become_numpys(tmp_path: Path) -> None:
    class Tensor:
        def __dlpack_device__(self) -> Any:
            return X.__dlpack_device__()

        def __dlpack__(self, **how: Any) -> Any:
            return X.__dlpack__(**how)

    assert_same(there_and_back(KMeans(2, init=Tensor()), tmp_path).init, X)


def test_no_device_is_needed(tmp_path: Path) -> None:
    model = KMeans(3, random_state=0, device="cpu").fit(X)
    labels = model.labels_.tolist()
    model.set_params(device="cuda:1").save(tmp_path / "model.npz")
    program = (
        "import sys; sys.modules['cupy'] = None; import gpukmeans, numpy as np\n"
        f"model = gpukmeans.load({str(tmp_path / 'model.npz')!r})\n"
        "X = np.random.default_rng(0).normal(size=(60, 3))\n"
        "try: model.predict(X)\n"
        "except gpukmeans.DeviceError: print(model.set_params(device='cpu').predict(X).tolist())\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert (done.stdout.strip(), done.stderr) == (str(labels), "")


# ---------------------------------------------------------------- the file


def test_equal_estimators_make_equal_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("one.npz", "other"):
        KMeans(3, random_state=0, device="cpu").fit(X).save(tmp_path / name)
        monkeypatch.setattr("time.time", lambda: 2e9)
        monkeypatch.setattr("time.localtime", lambda *at: (2033, 5, 18, 3, 33, 20, 2, 138, 0))
    assert (tmp_path / "one.npz").read_bytes() == (tmp_path / "other").read_bytes()


def test_numpy_reads_it(saved: Path) -> None:
    model = gpukmeans.load(saved)
    with np.load(saved, allow_pickle=False) as arrays:
        assert_same(arrays["cluster_centers_"], model.cluster_centers_)
        assert_same(arrays["labels_"], model.labels_)
        metadata = json.loads(arrays["metadata.json"])
    assert metadata["version"] == 1
    assert metadata["class"] == "KMeans"
    assert metadata["parameters"]["n_clusters"] == 3
    assert metadata["attributes"]["inertia_"] == model.inertia_


def test_a_file_of_the_first_version_is_still_read() -> None:
    model = gpukmeans.load(DATA / "format-1.npz")
    assert_same(model.init, np.array([[0, 0], [4, 4]], np.float32))
    assert_same(model.random_state.random_sample(), np.random.RandomState(3).random_sample())
    assert_same(model.cluster_centers_, np.array([[0.5, 0], [4, 5]], np.float32))
    assert_same(model.labels_, np.array([0, 0, 1], np.int32))
    assert_same((model.inertia_, model.n_iter_, model.n_features_in_), (0.5, 2, 2))
    assert_same(model.feature_names_in_, np.array(["x", "y"], object))


# ---------------------------------------------------------------- what cannot be saved


def some_init(X: np.ndarray, k: int, random_state: Any) -> np.ndarray:
    return X[:k]


UNSAVABLE = {
    "function": (some_init, "some_init"),
    "object": (object(), "of type object"),
    "frame": (pd.DataFrame(X), "of type DataFrame"),
    "subclass": (np.ma.masked_array(X), "of type MaskedArray"),
    "inside": ([1, {"a": some_init}], r"^init\.1\.a is some_init"),
    "names": ({1: 2}, "of type dict"),
    "objects": (np.array([1, some_init]), r"^init\.1 is some_init"),
    "fields": (np.zeros(2, [("a", object)]), "of type ndarray"),
    "generator": (np.random.default_rng(0), "of type Generator"),
    "another algorithm": (np.random.RandomState(np.random.PCG64(0)), "of type RandomState"),
}


@pytest.mark.parametrize(("value", "message"), UNSAVABLE.values(), ids=UNSAVABLE)
def test_what_cannot_be_saved_leaves_no_trace(value: Any, message: str, saved: Path) -> None:
    before = saved.read_bytes()
    with pytest.raises(TypeError, match=message):
        KMeans(init=value).save(saved)
    assert saved.read_bytes() == before
    assert list(saved.parent.iterdir()) == [saved]


def test_a_subclass_is_not_ours(tmp_path: Path) -> None:
    class Mine(KMeans):
        pass

    with pytest.raises(TypeError, match="Mine is not an estimator of gpukmeans"):
        Mine().save(tmp_path / "model.npz")
    assert list(tmp_path.iterdir()) == []


# ---------------------------------------------------------------- whole, or as it was


@pytest.mark.parametrize("error", [OSError(errno.ENOSPC, "No space left on device"), KeyboardInterrupt()])
def test_a_file_is_whole_or_as_it_was(error: BaseException, saved: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = saved.read_bytes()

    def half(file: Any, array: np.ndarray, **options: Any) -> None:
        file.write(b"half an array")
        raise error

    monkeypatch.setattr(np.lib.format, "write_array", half)
    with pytest.raises(type(error)):
        KMeans(2).fit(X).save(saved)
    with pytest.raises(type(error)):
        KMeans(2).fit(X).save(saved.with_name("new.npz"))
    assert saved.read_bytes() == before
    assert list(saved.parent.iterdir()) == [saved]


def test_where_nothing_can_be_written(saved: Path) -> None:
    before = saved.read_bytes()
    (saved.parent / "folder").mkdir()
    for path, error in (
        (saved.parent / "missing" / "model.npz", FileNotFoundError),
        (saved / "model.npz", NotADirectoryError),
        (saved.parent / "folder", IsADirectoryError),
        (saved.parent / ("n" * 300), OSError),
    ):
        with pytest.raises(error):
            gpukmeans.load(saved).save(path)
    assert saved.read_bytes() == before
    assert {path.name for path in saved.parent.iterdir()} == {saved.name, "folder"}
    assert list((saved.parent / "folder").iterdir()) == []


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="no /dev/full")
def test_a_full_disk() -> None:
    with pytest.raises(OSError, match="No space left on device"):
        KMeans(2).fit(X).save("/dev/full")
    assert stat.S_ISCHR(os.stat("/dev/full").st_mode)
    assert not list(Path("/dev").glob(".gpukmeans*"))


def test_a_link_stays_a_link(saved: Path) -> None:
    link = saved.with_name("link.npz")
    link.symlink_to(saved.name)
    KMeans(5).save(link)
    assert link.is_symlink()
    assert gpukmeans.load(saved).n_clusters == 5


def test_the_longest_name(tmp_path: Path) -> None:
    with atomic(tmp_path / ("n" * 255)) as file:
        file.write(b"whole")
    assert (tmp_path / ("n" * 255)).read_bytes() == b"whole"


def test_files_are_as_readable_as_any(saved: Path) -> None:
    (saved.parent / "any").touch()
    assert saved.stat().st_mode == (saved.parent / "any").stat().st_mode
