"""kernels/image_pixels.cu, run on the CPU: NumPy's bits."""

from __future__ import annotations

import logging
import sys

import numpy as np
import pytest
from host_cuda import runtime
from host_cuda.machine import as_cupy
from host_cuda.runtime import HostCuda

from gpukmeans import ImageError, quantize, remap
from gpukmeans.engine.cuda import device as gpu
from gpukmeans.image import dispatch
from gpukmeans.image.cuda import pixels as cuda_pixels
from gpukmeans.image.cuda.pixels import CudaPixels
from gpukmeans.image.levels import to_rgba
from gpukmeans.image.numpy.pixels import NumPyPixels
from gpukmeans.image.ordered import ordered
from gpukmeans.image.patterns import pattern_of
from gpukmeans.image.streaming import quantize_file

pytestmark = pytest.mark.kernels


@pytest.fixture(scope="module", params=["address", "race"])
def cp(request):
    return HostCuda(build=request.param, seed=1)


@pytest.fixture(autouse=True)
def few_counts(request, monkeypatch):
    """Where every access is recorded, those to 2**24 counts take seconds: the host then looks for the used ones."""
    if "cp" not in request.fixturenames or request.getfixturevalue("cp").build != "race":
        return

    def on_the_host(gpu, counts):
        if len(counts) < 2**24:
            return on_the_device(gpu, counts)
        found = gpu.get(counts)
        codes = np.flatnonzero(found).astype(np.uint32)
        return gpu.put(codes), gpu.put(found[codes].astype(np.int64))

    on_the_device = cuda_pixels.compact_counts
    monkeypatch.setattr(cuda_pixels, "compact_counts", on_the_host)


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("n", [1, 700])
def test_counts_and_labels_are_numpys(cp, channels, n):
    image = np.random.default_rng(0).integers(0, 6, (n, channels)).astype(np.uint8) * 51
    ours, theirs = CudaPixels(cp, image), NumPyPixels(image)
    codes, counts = ours.count()
    for found, expected in zip((codes, counts), theirs.count(), strict=True):
        assert found.dtype == expected.dtype
        assert (found.get() == expected).all()
    for dtype in (np.uint8, np.uint16, np.int32):
        labels = np.arange(len(codes), dtype=np.int32)
        found = ours.map(codes, labels, dtype)
        assert found.dtype == dtype
        assert (found == theirs.map(codes.get(), labels, dtype)).all()


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize(("name", "k"), [("bayer", 5), ("blue-noise", 40), ("bayer", 300)])
def test_ordered_dithering_is_numpys(monkeypatch, cp, channels, name, k):
    monkeypatch.setitem(sys.modules, "cupy", as_cupy(cp))
    rng = np.random.default_rng(0)
    image = rng.integers(0, 256, (19 * 31, channels)).astype(np.uint8)
    palette = rng.integers(0, 256, (k, channels)).astype(np.uint8)
    palette[k // 2] = palette[0]
    offsets = pattern_of(name)
    expected = ordered(NumPyPixels(image), offsets, 31, palette, device="cpu")
    found = ordered(CudaPixels(cp, image), offsets, 31, palette, device="cuda:0")
    assert found.dtype == expected.dtype
    assert (found == expected).all()


def test_more_pixels_than_threads(cp, monkeypatch):
    monkeypatch.setattr(gpu, "RESIDENT", 1)
    monkeypatch.setitem(sys.modules, "cupy", as_cupy(cp))
    rng = np.random.default_rng(0)
    image = rng.integers(0, 256, (3000, 3)).astype(np.uint8)
    palette = rng.integers(0, 256, (20, 3)).astype(np.uint8)
    ours, theirs = CudaPixels(cp, image), NumPyPixels(image)
    assert (ours.count()[1].get() == theirs.count()[1]).all()
    offsets = pattern_of("bayer")
    found = ordered(ours, offsets, 60, palette, device="cuda:0")
    assert (found == ordered(theirs, offsets, 60, palette, device="cpu")).all()


def test_quantize_on_a_gpu_is_numpys(monkeypatch, china):
    image = china[::16, ::16]
    options = [{"dither": "none"}, {"dither": "bayer", "space": "rgb"}, {"dither": "blue-noise"}]
    expected = [quantize(image, 6, device="cpu", **each) for each in options]
    host = HostCuda(build="address", seed=1)
    monkeypatch.setitem(sys.modules, "cupy", as_cupy(host))
    for each, want in zip(options, expected, strict=True):
        found = quantize(image, 6, device="cuda", **each)
        assert found.palette.tobytes() == want.palette.tobytes()
        assert found.indices.tobytes() == want.indices.tobytes()
    assert {"histogram", "map_codes", "mix"} <= set(host.launches)


def test_dithering_errs_by_what_numpys_does(cp):
    rng = np.random.default_rng(0)
    image, palette = (rng.integers(0, 256, (n, 3)).astype(np.uint8) for n in (700, 300))
    labels = rng.integers(0, 300, 700).astype(np.uint16)
    expected = int(((image.astype(int) - palette[labels]) ** 2).sum())
    assert CudaPixels(cp, image).error(palette, labels) == NumPyPixels(image).error(palette, labels) == expected


def test_even_pictures_and_parts_of_arrays(cp):
    """Whole warps of one color, which add as one, and pixels that begin anywhere."""
    image = np.repeat(np.array([[3, 5, 7], [9, 5, 7]], np.uint8), [2000, 1500], axis=0)
    held = cp.asarray(image)
    for start in (0, 1, 37):
        codes, counts = (found.get() for found in CudaPixels(cp, held[start:]).count())
        assert codes.tolist() == [3 + 5 * 256 + 7 * 65536, 9 + 5 * 256 + 7 * 65536]
        assert counts.tolist() == [2000 - start, 1500]
        found = CudaPixels(cp, held[start:]).map(codes, np.array([1, 2], np.int32), np.int32)
        assert (found.get() == np.repeat([1, 2], [2000 - start, 1500])).all()


def test_a_single_pixel_within_an_even_picture_counts(cp):
    """Where a warp adds as one, and the last pixels of all of its threads are equal."""
    image = np.full((1024, 1), 7, np.uint8)
    image[700] = 9
    codes, counts = (found.get() for found in CudaPixels(cp, image).count())
    assert codes.tolist() == [7, 9]
    assert counts.tolist() == [1023, 1]


def test_alpha_is_left_out_where_every_pixel_is_opaque(cp):
    levels = np.random.default_rng(0).integers(0, 256, (30, 40, 4)).astype(np.uint8)
    levels[..., 3] = 255
    assert (cuda_pixels.without_alpha(cp, levels).get() == levels[..., :3]).all()
    levels[29, 39, 3] = 254
    assert cuda_pixels.without_alpha(cp, levels) is None


@pytest.mark.parametrize("shape", ["grey", "rgb", "opaque", "clear"])
def test_an_array_on_a_gpu_stays_there(monkeypatch, china, shape):
    image = china[::16, ::16]
    alpha = np.full(image.shape[:2], 255, np.uint8)
    alpha[3, 4] = 0 if shape == "clear" else 255
    image = image[..., 1] if shape == "grey" else image if shape == "rgb" else np.dstack([image, alpha])
    host = HostCuda(build="address", seed=1)
    cupy = as_cupy(host, HostCuda(seed=1))
    monkeypatch.setitem(sys.modules, "cupy", cupy)
    for each in [{}, {"dither": "bayer", "space": "rgb"}, {"dither": "floyd-steinberg"}, {"device": "cpu"}]:
        want = quantize(image, 6, **{**each, "device": "cpu"})
        held = cupy.asarray(np.ascontiguousarray(image))
        found = quantize(held, 6, **each)
        assert isinstance(found.indices, cupy.ndarray)
        assert found.palette.tobytes() == want.palette.tobytes()
        assert (found.indices.get() == want.indices).all()
        assert found.indices.dtype == np.uint8
        assert found.psnr == want.psnr
        whole = found.to_array()
        assert isinstance(whole, cupy.ndarray)
        assert whole.dtype == image.dtype
        assert (whole.get() == want.to_array()).all()
        assert (np.asarray(found.to_pil()) == want.indices).all()


@pytest.mark.parametrize("channels", [1, 3, 4])
def test_bands_are_numpys(monkeypatch, china, tmp_path, channels):
    """Counted, mapped and dithered a band at a time, with palettes of their own, given ones, and such with alpha."""
    image = np.ascontiguousarray(china[:300, ::8])
    image = image[..., 0] if channels == 1 else to_rgba(image) if channels == 4 else image
    given = np.random.default_rng(1).integers(0, 256, (20, 3)).astype(np.uint8)
    clear = np.concatenate([np.zeros((1, 4), np.uint8), to_rgba(given)])
    options = [{}, {"dither": "bayer"}, {"palette": given}, {"palette": clear, "dither": "blue-noise"}]
    target = tmp_path / "out.tif"

    def written(device):
        for each in options:
            done = quantize_file(image, target, 9, device=device, **each)
            yield done.palette.tobytes(), done.psnr, target.read_bytes()

    expected = list(written("cpu"))
    host = on_a_fast_host(monkeypatch)
    assert list(written("cuda")) == expected
    assert {"histogram", "mix", "nearest_centers"} <= set(host.launches)


def on_a_fast_host(monkeypatch):
    host = HostCuda(build="fast", seed=1)
    monkeypatch.setitem(sys.modules, "cupy", as_cupy(host))
    return host


def pictures(china):
    rng = np.random.default_rng(0)
    every = np.stack(np.meshgrid(*[np.arange(0, 256, 32)] * 3), axis=-1).reshape(16, 32, 3)
    small = china[::9, ::9]
    return {
        "photograph": small,
        "grey": np.repeat(china[::9, ::9, :1], 3, axis=2),
        "one color": np.full((9, 8, 3), 77, np.uint8),
        "few colors": rng.integers(0, 4, (40, 30, 3)).astype(np.uint8) * 80,
        "all cells": every.astype(np.uint8),
        "line": (np.arange(900) % 256)[:, None, None].repeat(3, axis=2).astype(np.uint8) // [1, 2, 255],
        "alpha": np.dstack([small, rng.integers(0, 3, small.shape[:2]).astype(np.uint8) * 127]),
        "deep": rng.integers(0, 65536, (30, 40, 3)).astype(np.uint16),
    }


@pytest.mark.parametrize("space", ["oklab", "rgb"])
@pytest.mark.parametrize("name", list(pictures(np.zeros((9, 9, 3), np.uint8))))
def test_palettes_and_indices_are_numpys(monkeypatch, china, name, space):
    image = pictures(china)[name].astype(np.uint16 if name == "deep" else np.uint8)
    palette = np.random.default_rng(1).integers(0, 256, (20, 3)).astype(np.uint8)
    weights = np.random.default_rng(2).uniform(0, 2, image.shape[:2]).round()
    calls = [
        *[lambda device, k=k: quantize(image, k, space=space, device=device) for k in (1, 5, 100, 400)],
        lambda device: quantize(image, 9, space=space, dither="bayer", device=device),
        lambda device: quantize(image, 9, space=space, weights=weights, device=device),
        lambda device: remap(image, palette, space=space, device=device),
        lambda device: remap(image, np.insert(palette, 3, 255, axis=1), space=space, device=device),
    ]
    expected = [call("cpu") for call in calls]
    host = on_a_fast_host(monkeypatch)
    for call, want in zip(calls, expected, strict=True):
        found = call("cuda")
        assert found.palette.tobytes() == want.palette.tobytes()
        assert found.indices.tobytes() == want.indices.tobytes()
        assert (found.psnr, found.converged) == (want.psnr, want.converged)
        assert found.history == want.history
    if name == "photograph":
        assert {f"{space}_points", "seed_cells", "second_centers", "half_sums", "color_error"} <= set(host.launches)


def test_a_wide_palette_is_numpys(monkeypatch, china):
    """Of so many colors that all distinct ones take part as they are."""
    image = china[::5, ::5]
    want = quantize(image, 3000, device="cpu")
    host = on_a_fast_host(monkeypatch)
    found = quantize(image, 3000, device="cuda")
    assert found.palette.tobytes() == want.palette.tobytes()
    assert found.indices.tobytes() == want.indices.tobytes()
    assert "whole_points" in host.launches


@pytest.mark.parametrize("space", ["oklab", "rgb"])
def test_what_crosses_the_bus_does_not_grow_with_colors(monkeypatch, space):
    """Less than a byte for each distinct color, of which a code alone has four."""
    place = np.arange(2**17)
    image = np.stack([place % 64 * 4, place // 64 % 64 * 4, place // 2**12 * 8], axis=1).astype(np.uint8)
    image = np.concatenate([image, image[: 2**16]]).reshape(384, 512, 3)
    host = on_a_fast_host(monkeypatch)
    held = host.asarray(image)
    quantize(held, 2, space=space)
    host.bytes_uploaded = host.bytes_downloaded = 0
    found = quantize(held, 8, space=space)
    assert found.history[-1].points == 2**17
    assert host.bytes_uploaded + host.bytes_downloaded < 2**17


def test_where_memory_is_short_the_host_goes_on(monkeypatch, china, caplog):
    """At any allocation; a generator's draws are those of one attempt."""
    image = china[::9, ::9]
    palette = np.random.default_rng(1).integers(0, 256, (20, 3)).astype(np.uint8)
    want = quantize(image, 9, random_state=np.random.RandomState(3), device="cpu")
    mapped = remap(image, palette, device="cpu")
    host = on_a_fast_host(monkeypatch)
    allocate, left = runtime.Memory.__init__, [10**9]

    def counted(self, host, size, item):
        left[0] -= 1
        allocate(self, host, 2**40 if left[0] == -1 else size, item)

    monkeypatch.setattr(runtime.Memory, "__init__", counted)
    held = host.asarray(np.ascontiguousarray(image))
    quantize(image, 9, device="cuda")
    made = 10**9 - 1 - left[0]
    for turn, attempt in enumerate(np.linspace(0, made - 1, 12).astype(int).tolist()):
        left[0] = attempt
        given = held if turn % 2 else image
        caplog.clear()
        with caplog.at_level(logging.INFO, "gpukmeans"):
            found = quantize(given, 9, random_state=np.random.RandomState(3), device="auto" if turn % 2 else "cuda")
        assert found.palette.tobytes() == want.palette.tobytes()
        assert (np.asarray(found.to_pil()) == want.indices).all()
        assert "memory" in caplog.text
        left[0] = attempt % 20
        assert (remap(image, palette, device="cuda").indices == mapped.indices).all()
    left[0] = 10**9
    assert host.used_bytes == held.nbytes + found.indices.nbytes


def test_what_crosses_the_bus_of_pixels(monkeypatch):
    image = np.random.default_rng(0).integers(0, 4, (300, 200, 3)).astype(np.uint8) * 80
    host = HostCuda(build="address", seed=1)
    monkeypatch.setitem(sys.modules, "cupy", as_cupy(host))
    held = host.asarray(image)
    quantize(held, 5, dither="bayer")
    host.bytes_uploaded = host.bytes_downloaded = 0
    quantize(held, 5, dither="bayer", space="rgb")
    assert host.bytes_uploaded + host.bytes_downloaded < image.nbytes / 2


def test_other_dtypes_and_errors_on_a_gpu_are_the_hosts(monkeypatch):
    cupy = as_cupy(HostCuda(build="address", seed=1))
    monkeypatch.setitem(sys.modules, "cupy", cupy)
    image = np.random.default_rng(0).integers(0, 60000, (9, 11, 3)).astype(np.uint16)
    found, want = quantize(cupy.asarray(image), 4), quantize(image, 4, device="cpu")
    assert (found.indices.get() == want.indices).all()
    assert found.palette.tobytes() == want.palette.tobytes()
    for bad in (np.zeros((3, 3, 2), np.uint8), np.zeros(4, np.uint8), np.zeros((0, 4), np.uint8)):
        with pytest.raises(ImageError, match="shape"):
            quantize(cupy.asarray(bad), 4)


def test_what_no_kernel_takes_is_numpys(monkeypatch):
    monkeypatch.setitem(sys.modules, "cupy", as_cupy(HostCuda(build="address", seed=1)))
    more_than_counts_hold = np.broadcast_to(np.zeros((1, 3), np.uint8), (2**32, 3))
    for image in (np.zeros((4, 4), np.uint8), np.zeros((4, 3), np.uint16), more_than_counts_hold):
        assert isinstance(dispatch.make_pixels(image, device="cuda:0"), NumPyPixels)
