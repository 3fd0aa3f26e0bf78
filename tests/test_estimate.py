"""gpukmeans.estimate: its counts are those of the kernels as they are compiled and run, and its words are honest."""

from __future__ import annotations

import importlib.util
import sys
from importlib.resources import files
from pathlib import Path

import numpy as np
import pytest
from host_cuda.machine import as_cupy
from host_cuda.runtime import HostCuda
from nvrtc import compile_for
from sass import disassembled, inner_loops, jumps_after, loops
from sklearn.datasets import make_blobs

import gpukmeans
from gpukmeans import lloyd
from gpukmeans.cli.main import main
from gpukmeans.costs import estimate as costs
from gpukmeans.costs import work
from gpukmeans.costs.devices import SHEETS, sheet
from gpukmeans.engine import dispatch
from gpukmeans.engine.cuda import launch_plans, seeding_bytes, speculation_state, whole_fit_plans
from gpukmeans.engine.protocol import Samples
from gpukmeans.seeding import kmeans_plusplus

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"
KINDS = {"uint8": 0, "float16": 1, "at zero": 1, "float32": 2, "float64": 3}


# ---------------------------------------------------------------- counts, of the machine code


def inner_loop(tmp_path, family, kernel, marker, *options):
    """The innermost loop with most of an operation, for sm_90: all its instructions, and how many are that one."""
    loops = loops_of(tmp_path, family, kernel, *options)
    return max(((loop.total(), loop[marker]) for loop in loops), key=lambda found: found[1])


def compile_kernels(architecture, family, *options):
    folder = Path(str(files("gpukmeans.kernels")))
    return compile_for(architecture, (folder / f"{family}.cu").read_text(), ["--std=c++17", f"-I{folder}", *options])


def loops_of(tmp_path, family, kernel, *options):
    _, cubin = compile_kernels(90, family, *options)
    path = tmp_path / "kernels.cubin"
    path.write_bytes(cubin)
    return inner_loops(disassembled(path)[kernel])


@pytest.mark.kernels
@pytest.mark.parametrize("d", [1, 3, 8, 9, 16])
def test_assign_low_dim_has_the_instructions_of_the_formula(tmp_path, d):
    found, _ = inner_loop(tmp_path, "assign_low_dim", "assign_low_dim", "FFMA", "-DX_KIND=2", f"-DD_FEW={d}")
    pairs = 8 * (4 if d <= 8 else 2)
    assert found / pairs == work.low_dim_instructions(d)


@pytest.mark.kernels
@pytest.mark.parametrize("width", work.TILED)
def test_assign_tiled_has_the_instructions_of_the_table(tmp_path, width):
    found, multiply_adds = inner_loop(
        tmp_path, "assign_tiled", "assign_tiled", "FFMA", "-DX_KIND=2", f"-DCENTERS={width}"
    )
    instructions, pairs = work.TILED[width]
    assert found == instructions
    assert pairs <= multiply_adds <= pairs + 8, "and those of the norm"


@pytest.mark.kernels
@pytest.mark.parametrize("kind", work.TENSOR)
def test_assign_tensor_has_the_instructions_of_the_table(tmp_path, kind):
    options = [f"-DX_KIND={KINDS[kind]}", *(["-DAT_ZERO=1"] if kind == "at zero" else [])]
    found, products = inner_loop(tmp_path, "assign_tensor", "assign_tensor", "HMMA", *options)
    instructions, parts = work.TENSOR[kind]
    assert (found, products * 16 * 8 * 16) == (instructions, parts * work.TENSOR_PRODUCTS), "m16n8k16"


@pytest.mark.kernels
@pytest.mark.parametrize(
    ("family", "kernel", "each"),
    [
        ("exact_distance", "inertia", work.INERTIA),
        ("kmeans_plusplus", "accept_least", work.ACCEPT),
    ],
)
def test_a_square_of_d_has_the_instructions_of_the_table(tmp_path, family, kernel, each):
    options = ["-DX_KIND=2", "-DWEIGHT_KIND=0", "-DRUN=1024"]
    found, sums = inner_loop(tmp_path, family, kernel, "DADD", *options)
    assert found == each * sums / 2, "a difference and a sum"


@pytest.mark.kernels
@pytest.mark.parametrize("rows", work.HALF)
def test_assign_half_has_the_instructions_of_the_table(tmp_path, rows):
    found, products = inner_loop(tmp_path, "assign_half", "assign_half", "HMMA", "-DX_KIND=2", f"-DROWS={rows}")
    instructions, pairs = work.HALF[rows]
    assert (found, products * 16 * 8) == (instructions, pairs)


@pytest.mark.kernels
@pytest.mark.parametrize("kind", ["uint8", "float16", "float32", "float64"])
def test_assign_wgmma_has_the_instructions_of_the_table(tmp_path, kind):
    """The loop over slots, with what one warp of eight does to have the next copied, from what it reads of that to what
    it writes; and around it the loop over tiles of centers."""
    _, cubin = compile_kernels("90a", "assign_wgmma", f"-DX_KIND={KINDS[kind]}")
    (tmp_path / "kernels.cubin").write_bytes(cubin)
    found = loops(disassembled(tmp_path / "kernels.cubin")["assign_wgmma"])
    slot = next(loop for loop in found if "HGMMA" in loop)
    tile = next(loop for loop in found if {"HGMMA", "FMNMX"} <= set(loop))
    of_sender = [i for i, name in enumerate(slot) if name.startswith(("LDS", "STS"))]
    sends = of_sender[-1] - of_sender[0] + 1
    assert slot.count("HGMMA") == 4, "64 features"
    assert tile.count("FMNMX") == 3 * work.WGMMA_PAIRS / 32
    assert (len(slot) - sends, sends) == (work.WGMMA_SLOT, work.WGMMA_SENDS)
    assert len(tile) - len(slot) == work.WGMMA_CHOOSES


@pytest.mark.kernels
@pytest.mark.parametrize("kind", ["uint8", "float16", "float32", "float64"])
def test_assign_tcgen05_has_the_instructions_of_the_table(tmp_path, kind):
    """The loop over two parts of a tile, whose four votes each have a jump past what only near centers need, and around
    it the loop over tiles; and the loops over slots and tiles of the warp that asks for products."""
    _, cubin = compile_kernels("100a", "assign_tcgen05", f"-DX_KIND={KINDS[kind]}")
    (tmp_path / "kernels.cubin").write_bytes(cubin)
    code = disassembled(tmp_path / "kernels.cubin")["assign_tcgen05"]
    found = loops(code)
    part, tile = [loop for loop in found if "LDTM" in loop][:2]
    # Each product stands in a loop of its own too, over lanes that might have other operands.
    slot, asks = [loop for loop in found if loop.count("UTCHMMA") == 8][:2]
    assert part.count("LDTM") == 2
    near = [jumped for jumped in jumps_after(code, "VOTE") if jumped > 50]
    assert len(near) == 4
    assert (len(part) - sum(near), sum(near)) == (work.TCGEN05_LOOKS, work.TCGEN05_NEAR)
    assert (len(tile) - len(part), len(slot), len(asks) - len(slot)) == (
        work.TCGEN05_TILE,
        work.TCGEN05_SLOT,
        work.TCGEN05_ASKS,
    )


def test_fewer_instructions_a_pair_as_centers_are_more():
    """Those that come late are seldom among the best two."""
    few, many = (work.tcgen05_instructions(128, k) for k in (1024, 8192))
    assert few > 1.4 * many
    assert few < work.tcgen05_instructions(128, 128) < work.HALF_CHOOSE + 8 * 49 * 32 / work.HALF[128][1]


@pytest.mark.kernels
@pytest.mark.parametrize("kind", work.FILTER)
def test_the_filter_of_seeding_has_the_instructions_of_the_table(tmp_path, kind):
    """In the loop over aligned rows, which takes fewer."""
    for width, (instructions, pairs) in work.FILTER[kind].items():
        options = [f"-DX_KIND={KINDS[kind]}", "-DWEIGHT_KIND=0", f"-DCANDIDATES={width}"]
        loops = loops_of(tmp_path, "seeding_filter", "filtered_potentials", *options)
        most = max(loop["FFMA"] for loop in loops)
        assert (min(loop.total() for loop in loops if loop["FFMA"] == most), most) == (instructions, pairs)


@pytest.mark.kernels
@pytest.mark.parametrize("columns", work.BYTES)
def test_rows_in_bytes_have_the_instructions_of_the_table(tmp_path, columns):
    options = "-DX_KIND=2", f"-DCANDIDATES={columns}"
    found, products = inner_loop(tmp_path, "seeding_bytes", "byte_doubts", "IMMA", *options)
    assert (found, products * 16 * 8 * 16) == (work.BYTES[columns], 32 * columns * 64)
    found, values = inner_loop(tmp_path, "seeding_bytes", "byte_rows", "FRND", *options)
    assert found / values == pytest.approx(work.BYTES_VALUE, rel=0.02)


@pytest.mark.parametrize("device", SHEETS)
@pytest.mark.parametrize("dtype", ["uint8", "float16", "float32", "float64"])
def test_bytes_serve_where_seeding_is_predicted_sooner_by_them(monkeypatch, device, dtype):
    chosen = []
    for n, d, k in ((10**5, 12, 50), (10**6, 16, 256), (10**6, 128, 1024), (10**6, 128, 8192), (10**5, 500, 100)):
        problem = work.Problem(n, d, k, np.dtype(dtype), sheet(device))
        if problem.in_bytes:
            with_bytes = costs._seconds(problem.sheet, problem.byte_rows()) + (k - 1) * costs._seconds(
                problem.sheet, problem.seeding_step()
            )
            with monkeypatch.context() as patched:
                patched.setattr(seeding_bytes, "SAVED", 2**62)
                without = (k - 1) * costs._seconds(problem.sheet, problem.seeding_step())
            assert with_bytes < without, (n, d, k)
        chosen.append(problem.in_bytes)
    assert any(chosen) == (dtype != "uint8")


@pytest.mark.kernels
@pytest.mark.parametrize("features", [0, 4, 16])
@pytest.mark.parametrize("kind", ["uint8", "float32", "float64"])
def test_a_block_has_the_instructions_of_the_table(tmp_path, kind, features):
    """Of rows that are read exactly; of those that a thread holds, and of k-means++, nearly."""
    options = f"-DX_KIND={KINDS[kind]}", "-DWEIGHT_KIND=0", f"-DD_FEW={features}"
    loops = loops_of(tmp_path, "whole_fits", "fit_problems", *options)
    found = max(loops, key=lambda loop: loop["FFMA"])
    if features:
        pairs = found["FFMA"] / features
        plan = whole_fit_plans.CHOOSE + whole_fit_plans.HELD * features
        assert found.total() / pairs == pytest.approx(plan, rel=0.12)
    else:
        assert found.total() / found["FFMA"] == whole_fit_plans.READ
    of_four = [loop.total() / 4 for loop in loops if (loop["DADD"], loop["DMUL"]) == (32, 16)]
    of_one = [loop.total() / 4 for loop in loops if (loop["DADD"], loop["DMUL"]) == (8, 4)]
    assert max(of_four) == pytest.approx(whole_fit_plans.MEASURE, rel=0.12)
    assert max(of_one) == pytest.approx(whole_fit_plans.TAKE, rel=0.12)


# ---------------------------------------------------------------- counts, of kernels that run


@pytest.mark.kernels
@pytest.mark.parametrize(("d", "k", "capability"), [(3, 30, "90"), (20, 40, "90"), (20, 40, "89")])
def test_an_iteration_launches_and_moves_what_is_counted(monkeypatch, d, k, capability):
    """Each by itself, with bounds where they left rows out before."""
    monkeypatch.setattr(speculation_state, "PAIR", 1.0)  # none begins before the last has ended
    x = make_blobs(1500, d, centers=k, random_state=0)[0].astype(np.float32)
    cp = HostCuda(build="fast", capability=capability)
    points = dispatch.on_gpu(cp, Samples(x))
    scales = lloyd.prepare(points, *points.feature_range())
    seen = []

    def watch(iteration):
        seen.append((sorted(cp.launches.elements()), cp.bytes_uploaded, cp.bytes_downloaded))
        cp.launches.clear()
        cp.bytes_uploaded = cp.bytes_downloaded = 0

    tolerance = lloyd.Tolerance(0, points, scales)
    centers = x[:k].astype(np.float64)
    lloyd.fit(points, scales, centers, max_iter=9, tolerance=tolerance, dtype=np.dtype(np.float64), watch=watch)
    problem = work.Problem(len(x), d, k, x.dtype, sheet("H100" if capability == "90" else "L4"))
    full, pruned = (sorted(found.kernel for found in problem.assignment(share)) for share in (1.0, costs.COMPARED))
    assert len(seen) >= 5
    for launched, up, down in seen[2:]:
        assert launched in (full, pruned)
        assert (up, down) == (0, costs.bytes_down(k))
    assert any(launched == pruned for launched, *_ in seen)


@pytest.mark.kernels
@pytest.mark.parametrize(("n", "d", "k", "saved"), [(40_000, 3, 30, None), (1500, 130, 600, None), (3000, 100, 40, 0)])
def test_memory_is_what_a_fit_takes(monkeypatch, n, d, k, saved):
    """The last with a copy of the rows in bytes."""
    if saved is not None:
        monkeypatch.setattr(seeding_bytes, "SAVED", saved)
    x = np.random.default_rng(0).normal(size=(n, d)).astype(np.float32)
    cp = HostCuda(build="fast")
    points = dispatch.on_gpu(cp, Samples(x))
    scales = lloyd.prepare(points, *points.feature_range())
    centers = kmeans_plusplus(points, k, np.random.RandomState(0)) if k < 100 else x[:k].astype(np.float64)
    for _ in range(3):
        points.assign(centers)
        centers = lloyd.update(points, scales, centers)[0]
    predicted = costs.memory(work.Problem(len(x), d, k, x.dtype, sheet("H200")))
    assert 0.85 * predicted < cp.peak_bytes < 1.15 * predicted


@pytest.mark.kernels
@pytest.mark.parametrize(("n", "d", "k"), [(3000, 3, 7), (900, 40, 7)])
def test_memory_is_what_a_whole_fit_takes(monkeypatch, n, d, k):
    x = make_blobs(n, d, centers=k, random_state=0)[0].astype(np.float32)
    cp = HostCuda(build="fast")
    monkeypatch.setitem(sys.modules, "cupy", as_cupy(cp))
    gpukmeans.KMeans(k, random_state=0, max_iter=30, device="cuda").fit(x)
    assert cp.launches["fit_problems"] == 1
    predicted = gpukmeans.estimate(x.shape, k, n_iter=30).memory
    assert 0.85 * predicted < cp.peak_bytes < 1.15 * predicted


@pytest.mark.parametrize("d", range(9, 17))
def test_few_features_take_tensor_cores_where_that_takes_fewer_instructions(d):
    def instructions(k, device):
        return sum(
            found.instructions for found in work.Problem(10**6, d, k, np.dtype("f4"), sheet(device)).assignment()
        )

    better = [k for k in range(33, 600) if launch_plans.tensor_pays(d, k)]
    assert all(instructions(k, "H100") < 0.95 * instructions(k, "L4") for k in better)  # an L4's are not worth using
    assert bool(better) == (d >= 12)
    assert d < 12 or {103, 128, 256, 512} <= set(better)


@pytest.mark.parametrize(("device", "expected"), [("A100", False), ("H100", True), ("H200", True), ("B200", True)])
def test_iterations_begin_early_where_one_too_many_costs_less_than_waiting(device, expected):
    """By what the kernel that compares rows takes there, not by the slowest; and never where it costs more."""
    for n, d, k in ((10**6, 128, 1024), (10**6, 16, 256), (10**6, 128, 8192), (10**7, 24, 300), (10**8, 3, 64)):
        problem = work.Problem(n, d, k, np.dtype("f4"), sheet(device))
        seconds = costs._seconds(problem.sheet, problem.assignment(moved=costs.MOVED))
        begins = speculation_state.pays(n, d, k, problem.kernel)
        if begins:
            gained = speculation_state.ITERATIONS * speculation_state.HOST
            assert speculation_state.MISPREDICTIONS * seconds < 1.1 * gained, (n, d, k)
        if (d, k) == (128, 1024):
            assert begins is expected


@pytest.mark.parametrize("device", SHEETS)
def test_a_block_fits_what_it_is_sooner_done_with(device):
    chosen = []
    for n, d, k in ((150, 4, 3), (1000, 16, 16), (1797, 64, 10), (5000, 20, 7), (20_000, 8, 12), (3000, 200, 30)):
        for dtype in ("uint8", "float32", "float64"):
            problem = work.Problem(n, d, k, np.dtype(dtype), sheet(device))
            chosen.append(problem.whole)
            if problem.whole:
                ours, theirs = (way(problem, 30) for way in (costs._whole, costs._by_launches))
                assert ours.seconds_of_fit < theirs.seconds_of_fit
    assert chosen[0]
    assert not chosen[-1]


# ---------------------------------------------------------------- what it says


@pytest.mark.parametrize("device", SHEETS)
def test_nothing_is_predicted_to_beat_the_floor(device):
    for n, d, k in ((1000, 2, 2), (10**6, 16, 100), (10**6, 17, 1000), (10**5, 1000, 30), (10**7, 3, 5000)):
        for dtype in ("uint8", "float16", "float32", "float64"):
            found = gpukmeans.estimate((n, d), k, dtype=dtype, device=device)
            assert found.seconds_per_iteration > found.floor
            assert 0 < found.seconds_per_pruned_iteration <= found.seconds_per_iteration
            assert 0 < found.seconds_of_owned_seeding <= found.seconds_of_seeding
            assert found.seconds_of_fit > found.seconds_of_seeding + found.seconds_per_iteration
            assert found.memory > n * d * np.dtype(dtype).itemsize


def test_what_is_asked_for_is_said_back():
    found = gpukmeans.estimate((5000, 20), 7, dtype=np.int64, device="rtx-4090", n_iter=3)
    assert (found.device, found.dtype, found.n_samples, found.n_features) == ("RTX 4090", "float64", 5000, 20)
    assert isinstance(found, gpukmeans.Estimate)
    lines = str(found).splitlines()
    assert lines[0] == "5,000 x 20 float64, 7 clusters, on RTX 4090: predicted by count, not measured"
    assert any(line.startswith("a fit of 3 iterations ") for line in lines)
    assert any("all rows compared, of so few centers" in line for line in lines)
    assert [found.kernel for found in found.kernels] == [
        *("center_forms", "movement", "tiled_table", "assign_tiled", "refine")
    ]


def test_what_a_block_fits_is_said_to_be_so():
    found = gpukmeans.estimate((1797, 64), 10, dtype="float64", device="H200", n_iter=17)
    assert found.whole
    assert [of.kernel for of in found.kernels] == ["fit_problems"]
    assert "all rows compared, by a block that fits it whole" in str(found)
    assert found.seconds_of_fit < 1e-3
    assert not gpukmeans.estimate((100_000, 64), 10).whole


@pytest.mark.parametrize(
    ("shape", "k", "how", "message"),
    [
        ((10, 2), 2, {"device": "H300"}, "'A100', 'H100', 'H200', 'B200', 'L4', 'RTX 4090', got 'H300'"),
        ((10, 0), 2, {}, "n_features must be a positive integer, got 0"),
        ((10.5, 2), 2, {}, "n_samples must be a positive integer, got 10.5"),
        ((10, 2), 0, {}, "n_clusters must be a positive integer, got 0"),
        ((10, 2), 2, {"n_iter": 0}, "n_iter must be a positive integer, got 0"),
        ((10, 2), 11, {}, "n_samples=10 should be >= n_clusters=11"),
    ],
)
def test_what_cannot_be_is_refused(shape, k, how, message):
    with pytest.raises(ValueError, match=message):
        gpukmeans.estimate(shape, k, **how)


def test_the_command(capsys):
    assert main(["estimate", "1,000,000x128", "-k", "1024", "--device", "h100", "--dtype", "float16"]) == 0
    found = gpukmeans.estimate((1_000_000, 128), 1024, dtype="float16", device="H100")
    assert capsys.readouterr().out == f"{found}\n"
    assert main(["estimate", "10x2", "-k", "1024"]) == 1
    assert "n_samples=10 should be >= n_clusters=1024" in capsys.readouterr().err
    for wrong in ("10", "0x3", "10x", "ax3"):
        with pytest.raises(SystemExit):
            main(["estimate", wrong, "-k", "2"])


def test_the_page_is_what_the_model_says(monkeypatch):
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    specification = importlib.util.spec_from_file_location("model", BENCHMARKS / "model.py")
    model = importlib.util.module_from_spec(specification)
    monkeypatch.setitem(sys.modules, "model", model)
    specification.loader.exec_module(model)
    assert model.TARGET.read_text() == model.text(), "python benchmarks/model.py --publish"
    gpu = importlib.util.spec_from_file_location("gpu", BENCHMARKS / "gpu.py")
    cases = importlib.util.module_from_spec(gpu)
    gpu.loader.exec_module(cases)
    for case in model.WORKLOADS:
        known = cases.WORKLOADS[case.name]
        assert (known.n_clusters, known.itemsize) == (case.k, np.dtype(case.dtype).itemsize)
    assert {case.name for case in model.WORKLOADS} == set(cases.DEFAULT) - {"china256"}
