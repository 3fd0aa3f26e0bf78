"""Products by compute capability 10.0's own instructions, and the known sums that a device has to get right first.

On a CPU these are tests/host_cuda/tcgen05.h, which has layouts, fences and waits from the PTX ISA, and refuses what a
device would answer with anything; so what is missing is found here.
"""

from __future__ import annotations

import logging
import sys

import numpy as np
import pytest
from host_cuda.machine import as_cupy
from host_cuda.runtime import HostCuda
from test_kernels import same, values
from test_wgmma import compiled_otherwise

from gpukmeans import lloyd
from gpukmeans.engine import devices
from gpukmeans.engine.cuda import compile as modules
from gpukmeans.engine.cuda import device as gpu
from gpukmeans.engine.cuda import launch_plans
from gpukmeans.engine.cuda.device import Gpu
from gpukmeans.engine.cuda.known_products import compute_as_known
from gpukmeans.engine.cuda.points import CudaPoints
from gpukmeans.engine.protocol import Samples
from gpukmeans.environment import facts

pytestmark = pytest.mark.kernels

TCGEN05 = launch_plans.OWN_PRODUCTS["assign_tcgen05"]


def changed(monkeypatch, tmp_path, changes=()):
    return compiled_otherwise(monkeypatch, tmp_path, changes, "known_sums", "100")


def is_right(cp):
    return compute_as_known(Gpu(cp, ("-DX_KIND=2",)), TCGEN05)


# ---------------------------------------------------------------- the known sums


WRONG = {
    "strides of rows": ("PIECES_OF_ROWS, 128)", "128, PIECES_OF_ROWS)"),
    "strides of centers": ("PIECES_OF_CENTERS, 128)", "PIECES_OF_CENTERS, 256)"),
    "the version of descriptors": ("PIECES_OF_ROWS, 128) | VERSION", "PIECES_OF_ROWS, 128)"),
    "where the next features of rows are": ("at * 2 * PIECES_OF_ROWS", "at * PIECES_OF_ROWS"),
    "where the next features of centers are": ("at * 2 * PIECES_OF_CENTERS", "at * 4 * PIECES_OF_CENTERS"),
    "where the other rows are": ("part * (ROWS / 2 * 16)", "part * (ROWS * 16)"),
    "the product's shape": ("PRODUCT_128_128,", "PRODUCT_128_128 ^ 1u << 16,"),
    "what the first product is added to": ("first > 0 || at > 0", "true"),
    "what the next is added to": ("first > 0 || at > 0", "first > 0"),
    "another warp's lanes": ("warp % 4 * 32 * ONE_LANE", "warp / 2 * 32 * ONE_LANE"),
    "the other rows' columns": ("warp / 4 * CENTERS", "warp % 2 * CENTERS"),
    "where sums are": ("i / 2 % 2 * 8 + lane / 4", "i % 2 * 8 + lane / 4"),
    "bytes that are announced": ("full[turn.slot], SLOT)", "full[turn.slot], SLOT + 16)"),
    "a phase": ("turn.parity ^ 1, patience)", "turn.parity, patience)"),
    "no waiting for centers": ("wait_for(&ring.slots.full[turn.slot], turn.parity, patience);", ""),
    "no waiting for rows": ("wait_for(&ring.rows, block & 1, patience);", ""),
    "no waiting for products": ("wait_for(&ring.done[now.half], now.parity, patience);", ""),
    "no waiting for who reads": ("wait_for(&ring.read[now.half], now.parity ^ 1, patience);", ""),
    "no waiting for sums": ("            wait_for_sums(sums);\n", ""),
    "no slot is given back": ("arrive_after_products(&ring.slots.empty[turn.slot]);", ""),
    "a slot is given back too soon": (
        "arrive_after_products(&ring.slots.empty[turn.slot]);",
        "arrive(&ring.slots.empty[turn.slot]);",
    ),
    "products are told of too soon": ("arrive_after_products(&ring.done[now.half]);", "arrive(&ring.done[now.half]);"),
    "no fence before sums are read": ("now.parity, patience);\n    fence_after_sync();", "now.parity, patience);"),
    "no fence before sums are overwritten": (
        "fence_after_sync();\n            arrive_with_bytes",
        "arrive_with_bytes",
    ),
    "no fence after sums are read": ("fence_before_sync();\n    __syncwarp();", "__syncwarp();"),
    "more than one thread asks": (
        "if (lane == 0) {\n            multiply_all",
        "if (lane < 2) {\n            multiply_all",
    ),
}


@pytest.mark.parametrize("wrong", WRONG)
def test_the_known_sums_find(monkeypatch, tmp_path, wrong):
    before, after = WRONG[wrong]
    if wrong == "no fence before sums are overwritten":  # nor the one that waiting for centers would bring with it
        changes = [
            (before, after),
            ("turn.parity, patience);\n                fence_after_sync();", "turn.parity, patience);"),
        ]
    else:
        changes = [(before, after)]
    assert not is_right(changed(monkeypatch, tmp_path, changes))


@pytest.mark.parametrize("build", ["fast", "address", "race"])
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_the_known_sums_are_right_in_any_order_of_threads(build, seed):
    cp = HostCuda(build=build, seed=seed, capability="100")
    for _ in range(2):
        assert is_right(cp)
    assert cp.launches == {"known_sums": 1}, "the first answer stands"


def test_tensor_memory_has_to_be_given_back(on, monkeypatch, tmp_path):
    """The block after finds out, of the same launch or the next."""
    cp = changed(monkeypatch, tmp_path, [("if (threadIdx.x / 32 == LOOKERS) give_tensor_memory_back(memory);", "")])
    with pytest.raises(Exception, match="has not given back"):
        same(on, cp, values("float32", 300, 40), 40, max_iter=2)


def test_a_device_that_gets_it_wrong_uses_mma_sync_and_says_so_once(on, monkeypatch, tmp_path, caplog):
    cp = changed(monkeypatch, tmp_path, [WRONG["where the next features of rows are"]])
    with caplog.at_level(logging.WARNING, "gpukmeans"):
        same(on, cp, values("float32", 200, 40), 40, max_iter=2)
        same(on, cp, values("uint8", 200, 40), 40, max_iter=2)
    assert cp.launches["assign_half"] > 2
    assert cp.launches["assign_tcgen05"] == 0
    (said,) = [record.getMessage() for record in caplog.records]
    assert "On cuda:0 products of its own instructions (tcgen05) are not used" in said
    assert "known products are wrong" in said


@pytest.mark.parametrize("changes", [[], [WRONG["where the next features of rows are"]]])
def test_a_report_of_a_bug_has_whether_it_serves(monkeypatch, tmp_path, changes):
    cp = changed(monkeypatch, tmp_path, changes)
    monkeypatch.setitem(sys.modules, "cupy", as_cupy(cp))
    monkeypatch.setattr(devices, "resolve", lambda asked: "cuda:0")
    said = [value for name, value in facts()[0] if name == "tcgen05"]
    assert said == ["cuda:0: used"] if not changes else "known products are wrong" in said[0], said


def test_it_is_compiled_for_that_capability_alone(monkeypatch, tmp_path):
    cp = changed(monkeypatch, tmp_path)
    compile_program, asked = cp.cuda.nvrtc.compileProgram, []

    def compiled(program, words):
        asked.append([word for word in words if word.startswith("-arch")])
        compile_program(program, words)

    monkeypatch.setattr(cp.cuda.nvrtc, "compileProgram", compiled)
    assert is_right(cp)
    assert modules.keep(cp, modules.Module("assign_tcgen05", ("-DX_KIND=1",)), "100")
    assert asked == [["-arch=sm_100a"], ["-arch=sm_100a"]]


# ---------------------------------------------------------------- fits


@pytest.mark.parametrize(
    ("dtype", "d", "k"), [("uint8", 33, 40), ("float16", 64, 129), ("float32", 130, 260), ("float64", 200, 60)]
)
def test_fits_are_numpys(on, dtype, d, k):
    """Features that fill slots, and that do not; centers of one tile and of three; rows of one block and of two."""
    cp = HostCuda(build="address", seed=1, capability="100")
    same(on, cp, values(dtype, 300, d), k, max_iter=3)
    assert cp.launches["assign_tcgen05"] > 2
    assert cp.launches["assign_half"] == cp.launches["assign_wgmma"] == 0


@pytest.mark.parametrize("build", ["race", "address"])
def test_no_race_and_no_order_of_threads(on, monkeypatch, build):
    """More blocks of rows than blocks at once."""
    cp = HostCuda(build=build, seed=2, capability="100")
    same(on, cp, values("float32", 1100, 70), 140, max_iter=2)
    assert cp.launches["assign_tcgen05"] > 1


def test_it_serves_where_its_rows_fit_and_padding_is_less_than_half():
    assert [d for d in (12, 32, 33, 64, 128, 256, 257, 640) if TCGEN05.serves(d)] == [33, 64, 128, 256]
    assert TCGEN05.shared(256) <= gpu.SHARED_OF_HOPPER < TCGEN05.shared(320)


@pytest.mark.parametrize("k", [40, 300])
def test_scores_are_those_of_mma_sync(k):
    """Of whole numbers, whose products nobody rounds: labels, doubts and bounds, to the last bit, though most scores
    are not looked at."""
    rng = np.random.default_rng(0)
    x = (rng.integers(0, 9, (600, 40)) + 20 * rng.integers(0, 9, (600, 1))).astype(np.float32)
    kept = {}
    for capability, kernel in (("80", "assign_half"), ("100", "assign_tcgen05")):
        cp = HostCuda(build="fast", seed=1, capability=capability)
        points = CudaPoints(cp, Samples(x))
        lloyd.prepare(points, *points.feature_range())
        points.assign(x[:k].astype(np.float64))
        assert cp.launches[kernel] == 1
        again = points._by.tentative._halves.again
        in_doubt = sorted(again.rows.get()[: again.length.get()[0]].tolist())
        kept[kernel] = points.labels().tolist(), in_doubt, points._spare.get().tobytes()
    assert 0 < len(in_doubt) < 300
    assert kept["assign_half"] == kept["assign_tcgen05"]
