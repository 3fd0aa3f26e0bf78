"""Files that are not loaded, and say so by a ValueError: damaged, foreign, newer; and no file runs code."""

from __future__ import annotations

import io
import json
import pickle
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from test_saving import X, assert_same, saved

import gpukmeans
from gpukmeans import KMeans

__all__ = ["saved"]  # a fixture


def test_truncated_anywhere(saved: Path) -> None:
    whole = saved.read_bytes()
    for length in [*range(0, len(whole), 11), len(whole) - 1]:
        saved.write_bytes(whole[:length])
        with pytest.raises(ValueError, match=r"model.npz cannot be loaded: it is damaged, or not a file"):
            gpukmeans.load(saved)


def test_a_changed_byte_is_an_error_or_changes_nothing(saved: Path) -> None:
    whole = bytearray(saved.read_bytes())
    state = gpukmeans.load(saved).__getstate__()
    refused = 0
    for at in range(0, len(whole), 5):
        changed = whole.copy()
        changed[at] ^= 0xFF
        saved.write_bytes(changed)
        try:
            assert_same(gpukmeans.load(saved).__getstate__(), state)
        except ValueError:
            refused += 1
    assert refused > len(whole) / 5 / 2, "what matters is guarded"


def archive(**members: bytes) -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as made:
        for name, content in members.items():
            made.writestr(name, content)
    return file.getvalue()


def npz(**arrays: Any) -> bytes:
    file = io.BytesIO()
    np.savez(file, **arrays)
    return file.getvalue()


FOREIGN = {
    "nothing": b"",
    "text": b"cluster_centers_ = 3\n",
    "picture": b"\x89PNG\r\n\x1a\n" + bytes(100),
    "pickle": pickle.dumps(KMeans(3)),
    "npz": npz(cluster_centers_=X),
    "metadata of another": archive(**{"metadata.json": b'{"format": "something else", "version": 1}'}),
    "metadata without format": archive(**{"metadata.json": b'{"name": "x"}'}),
    "metadata that is a list": archive(**{"metadata.json": b"[1, 2]"}),
    "metadata in depth": archive(**{"metadata.json": b"[" * 100_000}),
    "metadata in another encoding": archive(**{"metadata.json": b"\xff\xfe\x00\x01"}),
}


@pytest.mark.parametrize("content", FOREIGN.values(), ids=FOREIGN)
def test_foreign_files(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(content)
    with pytest.raises(ValueError, match="file cannot be loaded: it is damaged, or not a file that a gpukmeans"):
        gpukmeans.load(tmp_path / "file")


def rewritten(path: Path, change: Callable[[dict[str, Any]], Any], **arrays: bytes) -> None:
    """The same file with other metadata, and with arrays put in place of its own."""
    with zipfile.ZipFile(path) as old:
        members = {name: old.read(name) for name in old.namelist()}
    metadata = json.loads(members["metadata.json"])
    change(metadata)
    members |= {"metadata.json": json.dumps(metadata).encode()} | {f"{name}.npy": each for name, each in arrays.items()}
    path.write_bytes(archive(**members))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            lambda m: m.update({"version": 2, "written by": "gpukmeans 9.1"}),
            "version 2, and only 1 is known. It was written by gpukmeans 9.1, .* update it",
        ),
        (lambda m: m.update({"class": "FuzzyKMeans"}), "it holds a FuzzyKMeans, which is not known. .* update it"),
        (lambda m: m["parameters"].update(radius=3), "KMeans has no parameter radius. .* update it"),
    ],
)
def test_newer_files(change: Callable[[dict[str, Any]], Any], message: str, saved: Path) -> None:
    rewritten(saved, change)
    with pytest.raises(ValueError, match=f"model.npz cannot be loaded: .*{message}"):
        gpukmeans.load(saved)


def test_an_older_file_may_know_fewer_parameters(saved: Path) -> None:
    rewritten(saved, lambda m: m["parameters"].pop("algorithm"))
    assert gpukmeans.load(saved).algorithm == KMeans().algorithm


class Bomb:
    went_off = False

    def __reduce__(self) -> Any:
        return setattr, (Bomb, "went_off", True)


def pickled_array() -> bytes:
    file = io.BytesIO()
    np.save(file, np.array([Bomb()]), allow_pickle=True)
    return file.getvalue()


@pytest.mark.parametrize(
    "change",
    [
        lambda m: None,
        lambda m: m.update({"class": "load"}),
        lambda m: m.update({"class": "DeviceError"}),
        lambda m: m.update({"class": ["KMeans"]}),
        lambda m: m["parameters"].update(init={"eval": "1 + 1"}),
        lambda m: m["attributes"].update(labels_={"array": "../labels_"}),
        lambda m: m["attributes"].update(labels_={}),
        lambda m: m["attributes"].update(labels_={"record": ["KMeans", {"dict": {}}]}),
        lambda m: m["attributes"].update(requests={"requests": {"consumes": {"a": True}}}),
    ],
)
def test_nothing_in_a_file_runs(change: Callable[[dict[str, Any]], Any], saved: Path) -> None:
    rewritten(saved, change, cluster_centers_=pickled_array())
    with pytest.raises(ValueError, match="cannot be loaded"):
        gpukmeans.load(saved)
    assert not Bomb.went_off
    np.load(io.BytesIO(pickled_array()), allow_pickle=True)
    assert Bomb.went_off, "it would have"
    Bomb.went_off = False


def test_what_cannot_be_read(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"missing\.npz"):
        gpukmeans.load(tmp_path / "missing.npz")
    with pytest.raises(IsADirectoryError):
        gpukmeans.load(tmp_path)
