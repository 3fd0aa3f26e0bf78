"""kernels/image.cu, run on the CPU: NumPy's bits."""

from __future__ import annotations

import sys

import numpy as np
import pytest
from host_cuda.machine import as_cupy
from host_cuda.runtime import HostCuda

from gpukmeans import dispatch, quantize
from gpukmeans.image import cuda_pixels, dither, pixels
from gpukmeans.image.cuda_pixels import CudaPixels
from gpukmeans.image.pixels import NumPyPixels
from gpukmeans.points import gpu


@pytest.fixture(scope="module", params=["address", "race"])
def cp(request):
    return HostCuda(build=request.param, seed=1)


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("n", [1, 700])
def test_counts_and_labels_are_numpys(cp, channels, n):
    image = np.random.default_rng(0).integers(0, 6, (n, channels)).astype(np.uint8) * 51
    ours, theirs = CudaPixels(cp, image), NumPyPixels(image)
    codes, counts = ours.count()
    for found, expected in zip((codes, counts), theirs.count(), strict=True):
        assert found.dtype == expected.dtype
        assert (found == expected).all()
    for dtype in (np.uint8, np.uint16, np.int32):
        labels = np.arange(len(codes)).astype(dtype)
        found = ours.map(codes, labels)
        assert found.dtype == dtype
        assert (found == theirs.map(codes, labels)).all()


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize(("name", "k"), [("bayer", 5), ("blue-noise", 40), ("bayer", 300)])
def test_ordered_dithering_is_numpys(cp, channels, name, k, monkeypatch):
    rng = np.random.default_rng(0)
    image = rng.integers(0, 256, (19 * 31, channels)).astype(np.uint8)
    palette = rng.integers(0, 256, (k, channels)).astype(np.uint8)
    palette[k // 2] = palette[0]
    offsets = dither.offsets(name, palette)
    expected = NumPyPixels(image).dither(offsets, 31, palette)
    for shared in (cuda_pixels.SHARED, 16 * 4 * channels):  # the whole palette, and 16 colors at a time
        monkeypatch.setattr(cuda_pixels, "SHARED", shared)
        found = CudaPixels(cp, image).dither(offsets, 31, palette)
        assert found.dtype == expected.dtype
        assert (found == expected).all()


def test_more_pixels_than_threads(cp, monkeypatch):
    monkeypatch.setattr(gpu, "RESIDENT", 1)
    rng = np.random.default_rng(0)
    image = rng.integers(0, 256, (3000, 3)).astype(np.uint8)
    palette = rng.integers(0, 256, (20, 3)).astype(np.uint8)
    ours, theirs = CudaPixels(cp, image), NumPyPixels(image)
    assert (ours.count()[1] == theirs.count()[1]).all()
    offsets = dither.offsets("bayer", palette)
    assert (ours.dither(offsets, 60, palette) == theirs.dither(offsets, 60, palette)).all()


def test_quantize_on_a_gpu_is_numpys(monkeypatch, fresh_dispatch, china):
    image = china[::16, ::16]
    options = [{"dither": "none"}, {"dither": "bayer", "space": "rgb"}, {"dither": "blue-noise"}]
    expected = [quantize(image, 6, device="cpu", **each) for each in options]
    host = HostCuda(build="address", seed=1)
    monkeypatch.setitem(sys.modules, "cupy", as_cupy(host))
    for each, want in zip(options, expected, strict=True):
        found = quantize(image, 6, device="cuda", **each)
        assert found.palette.tobytes() == want.palette.tobytes()
        assert found.indices.tobytes() == want.indices.tobytes()
    assert {"histogram", "map_codes", "dither"} <= set(host.launches)


def test_what_no_kernel_takes_is_numpys(monkeypatch, fresh_dispatch):
    monkeypatch.setitem(sys.modules, "cupy", as_cupy(HostCuda(build="address", seed=1)))
    for image in (np.zeros((4, 4), np.uint8), np.zeros((4, 3), np.uint16)):
        assert isinstance(dispatch.make_pixels(image, device="cuda:0"), pixels.NumPyPixels)
