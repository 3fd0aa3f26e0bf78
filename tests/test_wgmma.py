"""Products by compute capability 9.0's own instructions, and the known product that a device has to get right first.

On a CPU these are tests/host_cuda/wgmma.h, which has layouts and waits from the PTX ISA and decodes descriptors; so a
wrong one is found here.
"""

from __future__ import annotations

import logging
import sys
from importlib.resources import files
from pathlib import Path

import numpy as np
import pytest
from host_cuda.machine import as_cupy
from host_cuda.runtime import HostCuda
from test_kernels import same, values

from gpukmeans.engine import devices
from gpukmeans.engine.cuda import compile as modules
from gpukmeans.engine.cuda import device as gpu
from gpukmeans.engine.cuda import launch_plans
from gpukmeans.engine.cuda.device import Gpu
from gpukmeans.engine.cuda.known_products import compute_as_known
from gpukmeans.environment import facts

pytestmark = pytest.mark.kernels


WGMMA = launch_plans.OWN_PRODUCTS["assign_wgmma"]


def compiled_otherwise(monkeypatch, tmp_path, changes=(), known="known_product", capability="90"):
    """A device with a changed family of kernels, of which one has that name; each text that is changed stands there, or
    in ring.cuh."""
    monkeypatch.setenv("CUPY_CACHE_DIR", str(tmp_path))  # so that nobody finds these kernels
    cp = HostCuda(build="fast", seed=1, capability=capability)
    compile_here = cp.compile
    ring = (Path(str(files("gpukmeans.kernels"))) / "ring.cuh").read_text(encoding="utf-8")

    def otherwise(source, *more, **how):
        if f"{known}(" in source:
            source = source.replace('#include "ring.cuh"\n', ring)
            for before, after in changes:
                assert before in source
                source = source.replace(before, after)
        return compile_here(source, *more, **how)

    monkeypatch.setattr(cp, "compile", otherwise)
    return cp


def is_right(cp):
    return compute_as_known(Gpu(cp, ("-DX_KIND=2",)), WGMMA)


# ---------------------------------------------------------------- the known product


WRONG = {
    "strides of rows": ("PIECES_OF_ROWS, 128)", "128, PIECES_OF_ROWS)"),
    "strides of centers": ("PIECES_OF_CENTERS, 128)", "PIECES_OF_CENTERS, 256)"),
    "where the next features of rows are": ("at * 2 * PIECES_OF_ROWS", "at * PIECES_OF_ROWS"),
    "where the next features of centers are": ("at * 2 * PIECES_OF_CENTERS", "at * 4 * PIECES_OF_CENTERS"),
    "where a warpgroup's rows are": ("ys + warp / 4 * 64,", "ys + warp / 4 * 32,"),
    "where sums are": ("i / 4 * 8 + lane % 4 * 2", "i / 4 * 8 + lane % 4"),
    "what the first product is added to": ("sum[i] = 0.0f;", "sum[i] = 1.0f;"),
    "bytes that are announced": ("full[turn.slot], SLOT)", "full[turn.slot], SLOT + 16)"),
    "a phase": ("turn.parity ^ 1, patience)", "turn.parity, patience)"),
    "no waiting for centers": ("wait_for(&ring.full[turn.slot], turn.parity, patience);", ""),
    "no waiting for sums": ("    wait_for_products(sum);\n", ""),
    "no waiting before a slot is given back": ("        wait_for_earlier_products();\n", ""),
    "no slot is given back": ("arrive(&ring.empty[before]);", "{}"),
    "no fence before products": ("        fence_products();\n", ""),
}


@pytest.mark.parametrize("wrong", WRONG)
def test_the_known_product_finds(monkeypatch, tmp_path, wrong):
    assert not is_right(compiled_otherwise(monkeypatch, tmp_path, [WRONG[wrong]]))


@pytest.mark.parametrize("build", ["fast", "address", "race"])
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_the_known_product_is_right_in_any_order_of_threads(build, seed):
    cp = HostCuda(build=build, seed=seed)
    for _ in range(2):
        assert is_right(cp)
    assert cp.launches == {"known_product": 1}, "the first answer stands"


def test_a_device_that_gets_it_wrong_uses_mma_sync_and_says_so_once(on, monkeypatch, tmp_path, caplog):
    cp = compiled_otherwise(monkeypatch, tmp_path, [WRONG["where the next features of rows are"]])
    with caplog.at_level(logging.WARNING, "gpukmeans"):
        same(on, cp, values("float32", 200, 40), 40, max_iter=2)
        same(on, cp, values("uint8", 200, 40), 40, max_iter=2)
    assert cp.launches["assign_half"] > 2
    assert cp.launches["assign_wgmma"] == 0
    (said,) = [record.getMessage() for record in caplog.records]
    assert "On cuda:0 products of its own instructions (wgmma) are not used" in said
    assert "known products are wrong" in said


@pytest.mark.parametrize("changes", [[], [WRONG["where the next features of rows are"]]])
def test_a_report_of_a_bug_has_whether_it_serves(monkeypatch, tmp_path, changes):
    cp = compiled_otherwise(monkeypatch, tmp_path, changes)
    monkeypatch.setitem(sys.modules, "cupy", as_cupy(cp))
    monkeypatch.setattr(devices, "resolve", lambda asked: "cuda:0")
    said = [value for name, value in facts()[0] if name == "wgmma"]
    assert said == ["cuda:0: used"] if not changes else "known products are wrong" in said[0], said
    monkeypatch.setattr(devices, "resolve", lambda asked: "cpu")
    assert "wgmma" not in dict(facts()[0])


def test_where_it_does_not_compile_mma_sync_serves(on, monkeypatch, tmp_path, caplog):
    cp = compiled_otherwise(monkeypatch, tmp_path, [("known_product(", "known product(")])
    with caplog.at_level(logging.WARNING, "gpukmeans"):
        same(on, cp, values("float32", 200, 40), 40, max_iter=2)
    assert cp.launches["assign_half"] > 1
    (said,) = [record.getMessage() for record in caplog.records]
    assert "assign_wgmma.cu" in said


def test_it_is_compiled_for_that_capability_alone(monkeypatch, tmp_path):
    cp = compiled_otherwise(monkeypatch, tmp_path)
    compile_program, asked = cp.cuda.nvrtc.compileProgram, []

    def compiled(program, words):
        asked.append([word for word in words if word.startswith("-arch")])
        compile_program(program, words)

    monkeypatch.setattr(cp.cuda.nvrtc, "compileProgram", compiled)
    assert is_right(cp)
    assert modules.keep(cp, modules.Module("assign_wgmma", ("-DX_KIND=1",)), "90")
    assert modules.keep(cp, modules.Module("probe", ()), "90")
    assert asked == [["-arch=sm_90a"], ["-arch=sm_90a"], ["-arch=sm_90"]]


# ---------------------------------------------------------------- fits


@pytest.mark.parametrize(
    ("dtype", "d", "k"), [("uint8", 33, 40), ("float16", 64, 129), ("float32", 130, 260), ("float64", 200, 60)]
)
def test_fits_are_numpys(on, dtype, d, k):
    """Features that fill slots, and that do not; centers of one tile and of three."""
    cp = HostCuda(build="address", seed=1)
    same(on, cp, values(dtype, 300, d), k, max_iter=3)
    assert cp.launches["assign_wgmma"] > 2
    assert cp.launches["assign_half"] == 0


@pytest.mark.parametrize("build", ["race", "address"])
def test_no_race_and_no_order_of_threads(on, monkeypatch, build):
    """More blocks of rows than blocks at once."""
    monkeypatch.setattr(gpu, "RESIDENT", 1)
    cp = HostCuda(build=build, seed=2)
    same(on, cp, values("float32", 700, 70), 140, max_iter=2)
    assert cp.launches["assign_wgmma"] > 1


def test_it_serves_where_its_rows_fit_and_padding_is_less_than_half():
    assert [d for d in (12, 32, 33, 64, 128, 640, 641, 1300) if WGMMA.serves(d)] == [33, 64, 128, 640]
    assert WGMMA.shared(640) == gpu.SHARED_OF_HOPPER


def test_scores_are_those_of_mma_sync(on):
    """Of whole numbers, whose products nobody rounds: labels, doubts and bounds, to the last bit."""
    x = np.random.default_rng(0).integers(0, 9, (300, 40)).astype(np.float32)
    for k in (40, 140):
        outcomes = []
        for capability in ("80", "90"):
            cp = HostCuda(build="fast", seed=1, capability=capability)
            same(on, cp, x, k, max_iter=3)
            outcomes.append((cp.launches["assign_half"] > 0, cp.launches["assign_wgmma"] > 0))
        assert outcomes == [(True, False), (False, True)]
