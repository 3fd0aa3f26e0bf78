"""What tests of hostile files share: estimators' files, their parts, and what comes of loading and using one."""

from __future__ import annotations

import io
import json
import os
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from sklearn import config_context

import gpukmeans
from gpukmeans import KMeans, MiniBatchKMeans

X = np.random.default_rng(0).normal(size=(40, 3))
FRAME = pd.DataFrame(X, columns=["x", "y", "z"])


def with_everything() -> KMeans:
    with config_context(enable_metadata_routing=True):
        model = KMeans(3, init="random", n_init=2, max_iter=2, random_state=np.random.RandomState(5), device="cpu")
        return model.set_fit_request(sample_weight=True).set_output(transform="pandas").fit(FRAME)


MAKE: dict[str, Callable[[], Any]] = {
    "everything": with_everything,
    "cosine": lambda: KMeans(3, init=X[:3].tolist(), metric="cosine", device="cpu").fit(X.astype(np.float32)),
    "batches": lambda: MiniBatchKMeans(3, random_state=0, batch_size=10, device="cpu").fit(X),
    "unfitted": lambda: KMeans(np.int16(3), init=(X[:3], "k-means++"), device="cpu"),
}
FITTED = ["everything", "cosine", "batches"]


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    folder = tmp_path_factory.mktemp("saved")
    for name, make in MAKE.items():
        make().save(folder / name)
    return {name: (folder / name).read_bytes() for name in MAKE}


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "model.npz"


def members(content: bytes) -> dict[str, bytes]:
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        return {name: archive.read(name) for name in archive.namelist()}


def archive(parts: dict[str, bytes], compression: int = zipfile.ZIP_STORED) -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", compression) as made:
        for name, part in parts.items():
            made.writestr(zipfile.ZipInfo(name), part, compression)
    return file.getvalue()


def npy(array: Any) -> bytes:
    file = io.BytesIO()
    np.lib.format.write_array(file, np.asanyarray(array))
    return file.getvalue()


def with_metadata(content: bytes, change: Callable[[dict[str, Any]], Any], **arrays: Any) -> bytes:
    parts = members(content)
    metadata = json.loads(parts["metadata.json"])
    change(metadata)
    return archive(
        parts
        | {"metadata.json": json.dumps(metadata).encode()}
        | {f"{name}.npy": npy(array) for name, array in arrays.items()}
    )


def loaded(path: Path, content: bytes) -> Any:
    """The estimator, or None if the file was refused, by a ValueError that names it and is no longer than a message."""
    path.write_bytes(content)
    model, message = None, f"{path} cannot be loaded: "
    try:
        model = gpukmeans.load(path)
    except ValueError as error:
        message = str(error)
    assert message.startswith(f"{path} cannot be loaded: ")
    assert len(message) < 1000 + len(str(path))
    assert path.read_bytes() == content
    assert list(path.parent.iterdir()) == [path]
    return model


def used(model: Any) -> list[Any]:
    """What comes of everything that a model is for: values, and the errors for parameters that no fit takes."""

    def refit() -> list[Any]:
        return model.set_params(n_init=1, verbose=0).fit(X).cluster_centers_.tolist()

    names = getattr(model, "feature_names_in_", None)
    x = X if names is None else pd.DataFrame(X, columns=pd.Index(names, dtype=object))
    uses = [
        lambda: model.predict(x).tolist(),
        lambda: np.asarray(model.transform(x)).tolist(),
        lambda: model.score(x),
        refit,
        lambda: model.save(os.devnull),
    ]
    np.random.seed(0)  # which random_state=None takes from
    results: list[Any] = []
    for use in uses:
        try:
            results.append(use())
        except Exception as error:
            results.append((type(error), str(error)))
    return results
