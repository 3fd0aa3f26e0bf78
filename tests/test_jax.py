"""JAX, which without its 64 bits has float32 for float64: labels are those of the centers that it holds.

In a process of its own: JAX starts threads, and warns of every fork from then on.
"""

from __future__ import annotations

import subprocess
import sys

import pytest

pytest.importorskip("jax")

PROGRAM = """
import warnings
import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import dask.array as da
from sklearn.exceptions import ConvergenceWarning
from gpukmeans import KMeans, MiniBatchKMeans, array_interop

warnings.simplefilter("error")
warnings.simplefilter("ignore", ConvergenceWarning)
JAX = type(jnp.zeros(1))


def distances(x, centers):
    total = np.zeros((len(x), len(centers)))
    for j in range(x.shape[1]):
        total += (x[:, j, None] - centers[None, :, j].astype(float)) ** 2
    return total


def check(model, given, rows, weights, dtype):
    centers = np.asarray(model.cluster_centers_)
    assert type(model.cluster_centers_) is type(model.labels_) is type(model.predict(given)) is JAX
    assert centers.dtype == dtype
    expected = distances(np.asarray(rows).astype(float), centers)
    assert np.asarray(model.labels_).tolist() == expected.argmin(axis=1).tolist()
    assert np.asarray(model.predict(given)).tolist() == np.asarray(model.labels_).tolist()
    found = np.asarray(model.transform(given))
    assert found.dtype == np.float32
    assert found.tobytes() == np.sqrt(expected).astype(np.float32).tobytes()
    assert model.score(given, sample_weight=weights) == -model.inertia_
    w = np.ones(len(rows)) if weights is None else weights
    np.testing.assert_allclose(model.inertia_, w @ expected.min(axis=1), rtol=1e-12)


HOLDERS = {
    "jax": (jnp.asarray, "input"),
    "numpy": (np.asarray, "jax"),
    "lists": (np.ndarray.tolist, "jax"),
    "dask": (lambda x: da.from_array(x, chunks=(25, 1)), "jax"),
}


def everything(seed):
    rng = np.random.default_rng(seed)
    whole = rng.integers(0, 30, (60, 1 + seed % 3))
    rows = {name: whole.astype(name) for name in ("uint8", "int8", "int32")}
    rows |= {name: (whole * 1.1).astype(name) for name in ("float16", "float32", "float64")}
    rows |= {"bool": whole > 15, "bfloat16": (whole * 1.1).astype(ml_dtypes.bfloat16)}
    for name, x in rows.items():
        for holder, (hold, output_type) in HOLDERS.items():
            if (holder == "lists" and "float" in name) or (holder, name) == ("jax", "float64"):
                continue  # those are other numbers
            if seed and holder in ("lists", "dask"):
                continue  # once is enough
            dtype = "float16" if name == "float16" else "float32"
            weights = None if seed % 2 else whole[:, 0] % 3
            how = {"random_state": seed, "device": "cpu", "output_type": output_type, "n_init": 1}
            given = hold(x)
            for init in ("k-means++", x[:5].astype(float)):
                check(KMeans(5, init=init, **how).fit(given, None, weights), given, x, weights, dtype)
            batches = MiniBatchKMeans(5, batch_size=20, **how).fit(given, None, weights)
            check(batches, given, x, weights, dtype)
            check(batches.partial_fit(given, None, weights), given, x, weights, dtype)
            batches = MiniBatchKMeans(5, init=init, **how).partial_fit(given, None, weights)
            check(batches.partial_fit(given, None, weights), given, x, weights, dtype)


def test_without_64_bits():
    for seed in range(2):
        everything(seed)


def test_numbers_below_the_normal_ones_are_not_lost():
    # Which JAX makes zeros of where it rounds.
    x = np.random.default_rng(0).integers(1, 30, (40, 2)) * 1e-42
    check(KMeans(3, random_state=0, device="cpu", output_type="jax").fit(x), x, x, None, "float32")


def test_what_goes_beyond_float32_is_refused():
    x = np.random.default_rng(0).normal(size=(40, 2)) * 1e40
    for model in (KMeans(3, device="cpu", output_type="jax"), MiniBatchKMeans(3, device="cpu", output_type="jax")):
        for fit in (model.fit, getattr(model, "partial_fit", model.fit)):
            try:
                fit(x)
            except ValueError as error:
                assert "beyond float32" in str(error) and 'output_type="numpy"' in str(error), error
            else:
                raise AssertionError("it was not refused")
            assert not hasattr(model, "cluster_centers_")
        model.set_params(output_type="numpy").fit(x)
    KMeans(3, metric="cosine", output_type="jax").fit(x)


def test_batches_of_several_kinds():
    # The dtype is that of the first, as far as JAX has it.
    x = np.random.default_rng(0).normal(size=(40, 2))
    model = MiniBatchKMeans(3, random_state=0, device="cpu").partial_fit(x)
    assert model.cluster_centers_.dtype == np.float64
    model.partial_fit(jnp.asarray(x))
    assert model.cluster_centers_.dtype == np.float32 and type(model.cluster_centers_) is JAX
    assert np.asarray(model.labels_).tolist() == np.asarray(model.predict(jnp.asarray(x))).tolist()
    model.partial_fit(x)
    assert model.cluster_centers_.dtype == np.float32 and type(model.cluster_centers_) is np.ndarray
    assert model.labels_.tolist() == model.predict(x).tolist()


def test_with_64_bits():
    x = np.random.default_rng(0).integers(0, 30, (60, 2))
    expected = KMeans(5, random_state=0, device="cpu").fit(x)
    jax.config.update("jax_enable_x64", True)
    model = KMeans(5, random_state=0, device="cpu").fit(jnp.asarray(x))
    assert np.asarray(model.cluster_centers_).tobytes() == expected.cluster_centers_.tobytes()
    assert np.asarray(model.transform(jnp.asarray(x))).tobytes() == expected.transform(x).tobytes()
    jax.config.update("jax_enable_x64", False)
    assert np.asarray(model.predict(jnp.asarray(x))).tolist() == expected.labels_.tolist(), "also where it has none"


def test_host_arrays_are_not_copied():
    x = jnp.ones((9, 3))
    assert np.shares_memory(array_interop.as_array(x), np.from_dlpack(x))
"""


@pytest.mark.slow
def test_labels_are_those_of_the_centers_that_jax_holds():
    calls = "\nfor name in [name for name in globals() if name.startswith('test_')]:\n    globals()[name]()\n"
    done = subprocess.run([sys.executable, "-c", PROGRAM + calls], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
