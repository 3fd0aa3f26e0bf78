"""Products by the own instructions of compute capability 9.0 (wgmma) and 10.0 (tcgen05): what is the same of both.

Where a device gets them right they serve, and fits have NumPy's bits; where not, mma.sync does, and it is said. What
each one's known product finds is in test_wgmma.py and test_tcgen05.py.
"""

from __future__ import annotations

import logging
import sys

import numpy as np
import pytest
from host_cuda.machine import as_cupy
from host_cuda.runtime import HostCuda
from own_products import TCGEN05, WGMMA
from test_kernels import same, values

from gpukmeans import lloyd
from gpukmeans.engine import devices
from gpukmeans.engine.cuda import compile as modules
from gpukmeans.engine.cuda import device as gpu
from gpukmeans.engine.cuda.points import CudaPoints
from gpukmeans.engine.protocol import Samples
from gpukmeans.environment import facts

pytestmark = [
    pytest.mark.kernels,
    pytest.mark.parametrize("instructions", [WGMMA, TCGEN05], ids=lambda instructions: instructions.name),
]

# A change that both kernels have a place for.
WRONG = ("at * 2 * PIECES_OF_ROWS", "at * PIECES_OF_ROWS")


# ---------------------------------------------------------------- whether they serve


@pytest.mark.parametrize("build", ["fast", "address", "race"])
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_the_known_product_is_right_in_any_order_of_threads(instructions, build, seed):
    cp = instructions.device(build, seed)
    for _ in range(2):
        assert instructions.right(cp)
    assert cp.launches == {instructions.known: 1}, "the first answer stands"


def test_a_device_that_gets_it_wrong_uses_mma_sync_and_says_so_once(on, instructions, monkeypatch, tmp_path, caplog):
    cp = instructions.changed(monkeypatch, tmp_path, [WRONG])
    with caplog.at_level(logging.WARNING, "gpukmeans"):
        same(on, cp, values("float32", 200, 40), 40, max_iter=2)
        same(on, cp, values("uint8", 200, 40), 40, max_iter=2)
    assert cp.launches["assign_half"] > 2
    assert cp.launches[instructions.kernel] == 0
    (said,) = [record.getMessage() for record in caplog.records]
    assert f"On cuda:0 products of its own instructions ({instructions.name}) are not used" in said
    assert "known products are wrong" in said


def test_where_it_does_not_compile_mma_sync_serves(on, instructions, monkeypatch, tmp_path, caplog):
    known = instructions.known
    cp = instructions.changed(monkeypatch, tmp_path, [(f"{known}(", f"{known} by nobody(")])
    with caplog.at_level(logging.WARNING, "gpukmeans"):
        same(on, cp, values("float32", 200, 40), 40, max_iter=2)
    assert cp.launches["assign_half"] > 1
    (said,) = [record.getMessage() for record in caplog.records]
    assert f"{instructions.kernel}.cu" in said


@pytest.mark.parametrize("changes", [[], [WRONG]])
def test_a_report_of_a_bug_has_whether_it_serves(instructions, monkeypatch, tmp_path, changes):
    cp = instructions.changed(monkeypatch, tmp_path, changes)
    monkeypatch.setitem(sys.modules, "cupy", as_cupy(cp))
    monkeypatch.setattr(devices, "resolve", lambda asked: "cuda:0")
    said = [value for name, value in facts()[0] if name == instructions.name]
    assert said == ["cuda:0: used"] if not changes else "known products are wrong" in said[0], said
    monkeypatch.setattr(devices, "resolve", lambda asked: "cpu")
    assert instructions.name not in dict(facts()[0])


def test_it_is_compiled_for_that_capability_alone(instructions, monkeypatch, tmp_path):
    cp = instructions.changed(monkeypatch, tmp_path)
    compile_program, asked = cp.cuda.nvrtc.compileProgram, []

    def compiled(program, words):
        asked.append([word for word in words if word.startswith("-arch")])
        compile_program(program, words)

    monkeypatch.setattr(cp.cuda.nvrtc, "compileProgram", compiled)
    assert instructions.right(cp)
    assert modules.keep(cp, modules.Module(instructions.kernel, ("-DX_KIND=1",)), instructions.capability)
    assert modules.keep(cp, modules.Module("probe", ()), instructions.capability)
    common = f"-arch=sm_{instructions.capability}"
    assert asked == [[f"{common}a"], [f"{common}a"], [common]]


def test_it_serves_where_its_rows_fit_and_padding_is_less_than_half(instructions):
    own, most = instructions.own, {"wgmma": 640, "tcgen05": 256}[instructions.name]
    assert [d for d in (12, 32, 33, 64, 128, 256, 257, 640, 641, 1300) if own.serves(d)] == [
        d for d in (33, 64, 128, 256, 257, 640) if d <= most
    ]
    assert own.shared(most) <= gpu.SHARED_OF_HOPPER < own.shared(most + own.slot)


# ---------------------------------------------------------------- fits


@pytest.mark.parametrize(
    ("dtype", "d", "k"), [("uint8", 33, 40), ("float16", 64, 129), ("float32", 130, 260), ("float64", 200, 60)]
)
def test_fits_are_numpys(on, instructions, dtype, d, k):
    """Features that fill slots, and that do not; centers of one tile and of three; rows of several blocks."""
    cp = instructions.device("address")
    same(on, cp, values(dtype, 300, d), k, max_iter=3)
    assert cp.launches[instructions.kernel] > 2
    assert cp.launches["assign_half"] == 0
    assert {name for name in cp.launches if name in ("assign_wgmma", "assign_tcgen05")} == {instructions.kernel}


@pytest.mark.parametrize("build", ["race", "address"])
def test_no_race_and_no_order_of_threads(on, instructions, monkeypatch, build):
    """More blocks of rows than blocks at once."""
    monkeypatch.setattr(gpu, "RESIDENT", 1)
    cp = instructions.device(build, 2)
    same(on, cp, values("float32", 1100, 70), 140, max_iter=2)
    assert cp.launches[instructions.kernel] > 1


@pytest.mark.parametrize("k", [40, 300])
def test_scores_are_those_of_mma_sync(instructions, k):
    """Of whole numbers, whose products nobody rounds: labels, doubts and bounds, to the last bit, though assign_tcgen05
    does not look at most scores."""
    rng = np.random.default_rng(0)
    x = (rng.integers(0, 9, (600, 40)) + 20 * rng.integers(0, 9, (600, 1))).astype(np.float32)
    kept = {}
    for cp, kernel in (
        (HostCuda(build="fast", seed=1, capability="80"), "assign_half"),
        (instructions.device(), instructions.kernel),
    ):
        points = CudaPoints(cp, Samples(x))
        lloyd.prepare(points, *points.feature_range())
        points.assign(x[:k].astype(np.float64))
        assert cp.launches[kernel] == 1
        again = points._by.tentative._halves.again
        in_doubt = sorted(again.rows.get()[: again.length.get()[0]].tolist())
        kept[kernel] = points.labels().tolist(), in_doubt, points._spare.get().tobytes()
    assert 0 < len(in_doubt) < 300
    assert kept["assign_half"] == kept[instructions.kernel]
