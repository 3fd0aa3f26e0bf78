"""kernels/image_diffusion.cu, run on the CPU: NumPy's bits."""

from __future__ import annotations

import logging
import sys

import numpy as np
import pytest
from host_cuda import runtime
from host_cuda.machine import as_cupy
from host_cuda.runtime import HostCuda

from gpukmeans import quantize, remap
from gpukmeans.engine.cuda.device import Gpu
from gpukmeans.image import dispatch
from gpukmeans.image.cuda import diffusion as cuda_diffusion
from gpukmeans.image.cuda import kernels
from gpukmeans.image.diffusion import diffuse
from gpukmeans.image.numpy.diffusion_loop import candidates_of_cells

pytestmark = pytest.mark.kernels


@pytest.fixture(scope="module", params=["address", "race"])
def cp(request):
    return HostCuda(build=request.param, seed=1)


def both(monkeypatch, cp, pixels, palette, **how):
    """The indices of a diffusion on the host, and by the kernels, of whatever size."""
    expected = diffuse(pixels, palette, **how)
    with monkeypatch.context() as patch:
        patch.setattr(dispatch, "diffused", lambda plan, device: cuda_diffusion.diffused(cp, plan))
        found = diffuse(pixels, palette, **how)
    assert found.dtype == expected.dtype
    return expected, found


def picture(shape, dtype, channels, k, seed=0):
    """Noise, with a flat part, whose pixels take their whole share, and a smooth one; and a palette."""
    rng = np.random.default_rng(seed)
    top = int(np.iinfo(dtype).max)
    pixels = rng.integers(0, top + 1, (*shape, channels)).astype(dtype)
    height, width = shape
    pixels[: height // 3] = pixels[0, 0]
    pixels[height // 3 : height // 2] = (np.arange(width) * 3 % (top + 1))[:, None]
    return pixels, rng.integers(0, top + 1, (k, channels)).astype(dtype)


SHAPES = [(1, 1), (1, 70), (70, 1), (2, 33), (31, 40), (32, 31), (33, 32), (64, 3), (65, 64), (7, 200), (140, 9)]


@pytest.mark.parametrize("shape", SHAPES)
def test_diffusion_is_the_hosts(monkeypatch, cp, shape):
    """Of a band's rows more and fewer, and of the columns that are waited for at once."""
    pixels, palette = picture(shape, np.uint8, 3, 16)
    expected, found = both(monkeypatch, cp, pixels, palette)
    assert (found == expected).all()


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
@pytest.mark.parametrize("channels", [1, 3, 4])
@pytest.mark.parametrize("k", [1, 2, 16, 256, 300])
def test_diffusion_of_every_kind_is_the_hosts(monkeypatch, cp, dtype, channels, k):
    pixels, palette = picture((37, 41), dtype, channels, k)
    fixed = np.random.default_rng(1).random((37, 41)) < 0.3
    hows = [{}, {"strength": 0.6, "fixed": fixed, "fixed_index": k - 1}]
    for how in hows if k > 2 else [*hows, {"strength": 0.0}, {"fixed": np.ones_like(fixed)}]:
        expected, found = both(monkeypatch, cp, pixels, palette, **how)
        assert (found == expected).all()


def test_far_colors_of_16_bits(monkeypatch, cp):
    """Whose squared distances take 34 bits; and near ones, where float32 would hold no score."""
    palette = np.array([[0] * 4, [65535] * 4, [60001, 60000, 60000, 60000], [60000] * 4], np.uint16)
    rng = np.random.default_rng(0)
    pixels = rng.choice(np.array([0, 32767, 32768, 59999, 60001, 65535], np.uint16), (34, 20, 4))
    expected, found = both(monkeypatch, cp, pixels, palette)
    assert (found == expected).all()


def test_ties_go_to_the_least_index(monkeypatch, cp):
    """Among candidates of one four and of several."""
    pixels = np.full((3, 5, 3), 100, np.uint8)
    palette = np.array([[110, 100, 100], [90, 100, 100], [100, 110, 100], [110, 100, 100]] * 3, np.uint8)
    expected, found = both(monkeypatch, cp, pixels, palette)
    assert found[0, 0] == 0
    assert (found == expected).all()


@pytest.mark.parametrize(("dtype", "channels", "bits"), [(np.uint8, 1, 8), (np.uint8, 3, 2), (np.uint16, 4, 1)])
def test_candidates_are_the_hosts(cp, dtype, channels, bits):
    """In fours, of which the last is filled up with the last of them."""
    palette = picture((1, 1), dtype, channels, 40)[1]
    starts, candidates = candidates_of_cells(palette.astype(np.int32), int(np.iinfo(dtype).max), bits)
    gpu = Gpu(cp, kernels.diffusion_options(channels, dtype, np.uint8))
    colors = gpu.put(np.pad(palette, ((0, 0), (0, 4 - channels))))
    # So many pixels that cells are that small.
    told, firsts, found = cuda_diffusion.candidates_of_cells(gpu, colors, channels, 8 << bits * channels)
    assert told == bits
    firsts, found = 4 * gpu.get(firsts), gpu.get(found)
    for i, first in enumerate(firsts[:-1]):
        own = candidates[starts[i] : starts[i + 1]].tolist()
        fours = found[first : firsts[i + 1]].tolist()
        assert fours == own + own[-1:] * (-len(own) % 4)


def test_equal_colors_are_listed_for_fewer_cells(monkeypatch, cp):
    """Each of them is a candidate of every cell."""
    monkeypatch.setattr(cuda_diffusion, "_MOST_FOURS", 100)
    pixels, palette = picture((40, 40), np.uint8, 3, 300)
    palette[:200] = palette[0]
    expected, found = both(monkeypatch, cp, pixels, palette)
    assert (found == expected).all()
    gpu = Gpu(cp, kernels.diffusion_options(3, np.uint8, np.uint16))
    colors = gpu.put(np.pad(palette, ((0, 0), (0, 1))))
    bits, starts, _ = cuda_diffusion.candidates_of_cells(gpu, colors, 3, 10**4)
    assert (bits, len(starts), gpu.get(starts)[-1]) == (0, 2, 75)


@pytest.mark.parametrize("seed", range(6))
def test_whoever_runs_first_diffusion_is_the_same(monkeypatch, seed):
    """Threads, warps and blocks in any order; more bands than warps, and fewer."""
    pixels, palette = picture((300, 50), np.uint8, 3, 9)
    expected = diffuse(pixels, palette)
    for warps in (1, 4):
        monkeypatch.setattr(kernels, "_DIFFUSING", warps)
        host = HostCuda(build="fast", seed=seed)
        _, found = both(monkeypatch, host, pixels, palette)
        assert (found == expected).all()
        assert host.launches["diffuse"] == 1


def test_pictures_are_diffused_where_they_are(monkeypatch, china):
    """In color, grey and with alpha, from the host and from the GPU; and thin ones on the host."""
    image = np.ascontiguousarray(china[::5, ::5])
    alpha = np.random.default_rng(0).integers(0, 3, image.shape[:2]).astype(np.uint8) * 127
    images = [image, image[..., 0], np.dstack([image, alpha]), image.astype(np.uint16) * 257]
    given = np.array([[0, 0, 0, 0], [9, 99, 199, 255]], np.uint8)
    calls = [
        lambda image, device: quantize(image, 9, dither="floyd-steinberg", device=device),
        lambda image, device: remap(image, given, dither="floyd-steinberg", dither_strength=0.5, device=device),
    ]
    expected = [call(each, "cpu") for call in calls for each in images]
    host = HostCuda(build="fast", seed=1)
    cupy = as_cupy(host)
    monkeypatch.setitem(sys.modules, "cupy", cupy)
    assert cuda_diffusion.serves(*image.shape[:2])
    found = [call(each, "cuda") for call in calls for each in images]
    for one, other in zip(found, expected, strict=True):
        assert one.palette.tobytes() == other.palette.tobytes()
        assert one.indices.tobytes() == other.indices.tobytes()
        assert one.psnr == other.psnr
    assert host.launches["diffuse"] == len(found)
    for each, want in zip(images[:2], expected, strict=False):
        held = quantize(cupy.asarray(np.ascontiguousarray(each)), 9, dither="floyd-steinberg")
        assert isinstance(held.indices, cupy.ndarray)
        assert (held.indices.get() == want.indices).all()
    assert host.launches["diffuse"] == len(found) + 2
    thin = np.ascontiguousarray(image[:9])
    found = quantize(thin, 9, dither="floyd-steinberg", device="cuda")
    assert (found.indices == quantize(thin, 9, dither="floyd-steinberg", device="cpu").indices).all()
    assert host.launches["diffuse"] == len(calls) * len(images) + 2


def test_where_memory_is_short_the_host_diffuses(monkeypatch, china, caplog):
    """At any allocation of the diffusion."""
    image = np.ascontiguousarray(china[::6, ::6])
    palette = np.random.default_rng(1).integers(0, 256, (20, 3)).astype(np.uint8)
    want = remap(image, palette, dither="floyd-steinberg", device="cpu")
    host = HostCuda(build="fast", seed=1)
    monkeypatch.setitem(sys.modules, "cupy", as_cupy(host))
    allocate, diffused, left = runtime.Memory.__init__, cuda_diffusion.diffused, [10**9]

    def counted(self, host, size, item):
        left[0] -= 1
        allocate(self, host, 2**40 if left[0] == 0 else size, item)

    def short_of_memory(cp, plan):
        left[0] = attempt
        return diffused(cp, plan)

    monkeypatch.setattr(runtime.Memory, "__init__", counted)
    monkeypatch.setattr(cuda_diffusion, "diffused", short_of_memory)
    for attempt in range(1, 12):
        caplog.clear()
        with caplog.at_level(logging.INFO, "gpukmeans"):
            found = remap(image, palette, dither="floyd-steinberg", device="cuda")
        assert (found.indices == want.indices).all()
        assert "memory" in caplog.text, attempt
