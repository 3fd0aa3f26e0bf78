"""Floating-point flags are nobody's affair within a fit, whatever the caller has NumPy do of them; in the caller's own
code they are told as ever."""

from __future__ import annotations

import numpy as np
import pytest
import scipy.sparse as sp
from PIL import Image

from gpukmeans import KMeans, MiniBatchKMeans, quantize, remap
from gpukmeans.engine.numpy.tuning import tuned
from gpukmeans.image.streaming import quantize_file

pytestmark = pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")

N = 240
RNG = np.random.default_rng(0)
NORMAL = RNG.normal(size=(N, 6))

DATA = {
    "zero": np.zeros((50, 3)),
    "constant": np.full((50, 3), 3.25),
    "tiny": NORMAL * 1e-160,
    "subnormal": NORMAL * 1e-310,
    "the least": RNG.choice([0.0, 5e-324, -5e-324], (N, 3)),
    "huge": NORMAL * 1e149,
    "spread": 10.0 ** RNG.uniform(-300, 100, (N, 2)) * RNG.choice([-1, 1], (N, 2)),
    "an outlier": np.vstack([NORMAL, np.full((1, 6), 1e140)]),
    "a tiny feature": NORMAL * [1, 1, 1, 1e-200, 1, 1],
    "an offset": NORMAL * 1e-8 + 1e8,
    "float32, subnormal": (NORMAL * 1e-40).astype(np.float32),
    "float32, spread": (10.0 ** RNG.uniform(-45, 19, (N, 3))).astype(np.float32),
    "float16, subnormal": (NORMAL * 1e-6).astype(np.float16),
    "float16, huge": (np.clip(NORMAL, -3, 3) * 2e4).astype(np.float16),
    "uint8": RNG.integers(0, 255, (N, 4)).astype(np.uint8),
}


def answers(model, x, weights):
    """Everything that can be asked of a model, fitted to x."""
    found = [model.cluster_centers_, model.labels_, model.predict(x), model.transform(x), model.transform(x[:1])]
    return [*(each.tobytes() for each in found), model.inertia_, model.score(x, sample_weight=weights)]


def fits(model, x, weights):
    yield answers(model.fit(x, sample_weight=weights), x, weights)
    if isinstance(model, MiniBatchKMeans):
        yield answers(model.partial_fit(x, sample_weight=weights), x, weights)


@pytest.mark.parametrize("form", ["dense", "sparse"])
@pytest.mark.parametrize("metric", ["euclidean", "cosine"])
@pytest.mark.parametrize("name", DATA)
def test_what_numpy_is_told_to_raise_ends_nothing_and_changes_nothing(device, slow, monkeypatch, name, metric, form):
    x, ways = DATA[name][: 40 if slow else N], ["k-means++", "k-means||", "random"]
    if form == "sparse":
        if x.dtype == np.float16:
            x = x.astype(np.float32)
        x = sp.csr_matrix(x)
    far_apart = 10.0 ** np.random.default_rng(1).uniform(-100, 100, x.shape[0])
    for seed, weights in enumerate([far_apart] if slow else [far_apart, None]):
        for kind, init in ((KMeans, ways[seed]), (KMeans, ways[2]), (MiniBatchKMeans, ways[0])):
            how = {"init": init, "n_init": 1, "metric": metric, "max_iter": 3, "random_state": seed, "device": device}
            expected = list(fits(kind(5, **how), x, weights))
            with np.errstate(all="raise"):
                found = list(fits(kind(5, **how), x, weights))
            assert found == expected


def test_the_same_if_the_state_is_set_for_good(kmeans):
    before = np.seterr(all="raise")
    try:
        model = kmeans(5, random_state=0, max_iter=3).fit(DATA["spread"])
        assert model.predict(DATA["spread"]).tolist() == model.labels_.tolist()
        assert set(np.geterr().values()) == {"raise"}
    finally:
        np.seterr(**before)


PICTURES = {
    "uint8": RNG.integers(0, 256, (20, 30, 3)).astype(np.uint8),
    "one color": np.full((20, 30, 3), 7, np.uint8),
    "black": np.zeros((20, 30, 3), np.uint8),
    "see-through": RNG.integers(0, 256, (20, 30, 4)).astype(np.uint8),
    "uint16": RNG.integers(0, 65536, (20, 30, 3)).astype(np.uint16),
    "subnormal": (RNG.random((20, 30, 3)) * 1e-42).astype(np.float32),
}


@pytest.mark.parametrize("space", ["rgb", "oklab"])
@pytest.mark.parametrize("name", PICTURES)
def test_no_picture_is_ended_either(device, slow, name, space):
    """Weights of pixels may lie as far apart as they like."""
    picture, how = PICTURES[name][: 7 if slow else 20], {"space": space, "device": device}
    spread = 10.0 ** np.random.default_rng(0).uniform(-300, 300, picture.shape[:2])
    palette = RNG.integers(0, 256, (5, 3)).astype(np.uint8)

    def results():
        yield from (quantize(picture, k, **how) for k in (1, 5, 256))
        yield from (quantize(picture, 5, weights=each, **how) for each in (spread, np.full_like(spread, 1e308)))
        for dither in ("none", "floyd-steinberg", "blue-noise"):
            yield quantize(picture, 5, dither=dither, **how)
            yield remap(picture, palette, dither=dither, **how)

    expected = [(each.indices.tobytes(), each.to_array().tobytes(), each.psnr) for each in results()]
    with np.errstate(all="raise"):
        assert [(each.indices.tobytes(), each.to_array().tobytes(), each.psnr) for each in results()] == expected


def test_nor_is_a_picture_in_bands_but_what_its_progress_does_is(tmp_path):
    picture = PICTURES["uint8"]
    expected = quantize_file(picture, tmp_path / "a.tif", 200)
    with np.errstate(all="raise"):
        assert quantize_file(picture, tmp_path / "b.tif", 200).psnr == expected.psnr
        with pytest.raises(FloatingPointError):
            quantize_file(picture, tmp_path / "c.tif", 200, progress=lambda *at: np.zeros(1) / np.zeros(1))
    with Image.open(tmp_path / "a.tif") as one, Image.open(tmp_path / "b.tif") as other:
        assert np.array_equal(one, other)


@pytest.mark.parametrize("state", ["warn", "raise"])
@pytest.mark.parametrize("threads", [1, 3])
def test_nobody_is_told_of_the_flags_that_blas_raises(state: str, threads: int, monkeypatch) -> None:
    """Which it does now and then, for what is in parts of registers that hold none of the numbers."""
    matmul, flags = np.matmul, []

    def flagging(*operands: np.ndarray, **how: np.ndarray) -> np.ndarray:
        flags.append(np.float32(np.inf) - np.float32(np.inf))
        return matmul(*operands, **how)

    x = np.random.default_rng(0).normal(size=(500, 6)).astype(np.float32)
    expected = KMeans(4, random_state=0, device="cpu").fit(x)
    monkeypatch.setattr(np, "matmul", flagging)
    with np.errstate(all=state), tuned(threads=threads, chunk_rows=50, scores=True, compiled=False):
        model = KMeans(4, random_state=0, device="cpu").fit(x)
        assert model.predict(x).tolist() == expected.labels_.tolist()
    assert model.cluster_centers_.tobytes() == expected.cluster_centers_.tobytes()
    assert len(flags) > 10


def test_flags_of_what_the_caller_wrote_are_told_as_ever() -> None:
    """Of a callable init, of a callback, and of distances that the answer's dtype cannot hold."""
    zero = np.zeros(2)

    def init(X: np.ndarray, k: int, random_state: np.random.RandomState) -> np.ndarray:
        _ = zero / zero
        return X[:k]

    x = np.random.default_rng(0).normal(size=(30, 2)).astype(np.float32)
    with pytest.warns(RuntimeWarning, match="invalid value"):
        KMeans(2, init=init, n_init=1, device="cpu").fit(x)
    with pytest.warns(RuntimeWarning, match="divide by zero"):
        KMeans(2, random_state=0, callback=lambda record: (zero + 1) / zero is None, device="cpu").fit(x)
    with np.errstate(all="raise"), pytest.raises(FloatingPointError):
        KMeans(2, init=init, n_init=1, device="cpu").fit(x)
    wide = np.array([[-3e38], [3e38]], np.float32)
    with pytest.warns(RuntimeWarning, match="overflow"):
        assert np.isinf(KMeans(2, random_state=0, device="cpu").fit(wide).transform(wide)).any()
