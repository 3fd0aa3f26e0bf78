"""gpukmeans warmup: what a fit needs is on disk then, and what it says where it cannot be."""

from __future__ import annotations

import sys

import numpy as np
import pytest
from host_cuda.machine import as_cupy
from host_cuda.runtime import HostCuda, NVRTCError
from scipy.sparse import csr_array

from gpukmeans import KMeans
from gpukmeans.cli.main import main
from gpukmeans.engine.cuda import compile

pytestmark = [
    pytest.mark.kernels,
    pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning"),
]


class Machine:
    """A machine with GPUs of these capabilities, or none; warmed: what `warmup` compiled, by source, options and
    architecture; asked: what fits did, by the first two."""

    def __init__(self, monkeypatch, tmp_path, *capabilities):
        monkeypatch.setenv("CUPY_CACHE_DIR", str(tmp_path / "kernels"))
        hosts = [HostCuda(build="fast", capability=capability) for capability in capabilities or ["90"]]
        self.cupy, self.warmed, self.asked = as_cupy(*hosts), [], []
        if not capabilities:
            self.cupy.cuda.runtime.getDeviceCount = lambda: 1 // 0
        monkeypatch.setitem(sys.modules, "cupy", self.cupy)
        nvrtc, compiler = self.cupy.cuda.nvrtc, self.cupy.cuda.compiler
        compile_here = compiler.compile_using_nvrtc

        class Program:
            def __init__(self, source):
                self.source = source

        def compile_program(program, options):
            *options, architecture, last = options
            assert last == "--device-as-default-execution-space"
            self.warmed.append((program.source, tuple(options), architecture))

        def compile_on_the_device(source, options, **how):
            self.asked.append((source, tuple(options)))
            return compile_here(source, options, **how)

        monkeypatch.setattr(nvrtc, "createProgram", lambda source, *more: Program(source))
        monkeypatch.setattr(nvrtc, "compileProgram", compile_program)
        monkeypatch.setattr(nvrtc, "getCUBIN", lambda program: b"machine code")
        monkeypatch.setattr(compiler, "compile_using_nvrtc", compile_on_the_device)


@pytest.fixture
def machine(monkeypatch, tmp_path):
    return lambda *capabilities: Machine(monkeypatch, tmp_path, *capabilities)


def rows(dtype, d, n=90):
    return np.random.default_rng(0).integers(0, 256, (n, d)).astype(dtype)


def fit_all(device="cuda:0"):
    """Fits and answers of many kinds of rows of three and twenty features."""
    for x, k, weights, how in (
        (rows("float32", 3), 30, None, {}),
        (rows("float32", 20), 5, np.arange(90) % 3, {}),
        (rows("float32", 20), 40, np.linspace(0.1, 1, 90), {}),
        (rows("float16", 20), 40, None, {}),
        (rows("float16", 20) - np.float16(128), 40, None, {}),
        (rows("float32", 20), 70, None, {"metric": "cosine"}),
        (csr_array(rows("float32", 20) * (rows("float32", 20) > 200)), 6, None, {}),
        (rows("float32", 3)[:40], 30, None, {"init": np.repeat(rows("float32", 3)[:3], 10, axis=0)}),
    ):
        model = KMeans(k, random_state=0, max_iter=3, device=device, **how).fit(x, sample_weight=weights)
        model.predict(x), model.transform(x), model.score(x)


@pytest.mark.parametrize("capability", ["86", "90"])
def test_a_fit_finds_all_that_it_needs(machine, capability, capsys):
    there = machine(capability)
    options = ["--features", "3,20", "--dtype", "float32,float16", "--cosine", "--sparse"]
    assert main(["warmup", *options]) == 0
    assert f"compute capability {capability[0]}.{capability[1]}: {len(there.warmed)} modules" in capsys.readouterr().out
    assert {architecture for *_, architecture in there.warmed} == {f"-arch=sm_{capability}"}
    (compile.folder() / "kept").mkdir()
    for kept in compile.folder().glob("*.cubin"):  # which no CPU could run
        kept.rename(compile.folder() / "kept" / kept.name)
    fit_all()
    assert len(there.asked) > 25
    assert set(there.asked) <= {(source, options) for source, options, _ in there.warmed}
    asked = {path.name for path in compile.folder().glob("*.cubin")}
    assert asked <= {path.name for path in (compile.folder() / "kept").iterdir()}, "and where it is looked for"


def test_what_is_there_is_not_compiled_again(machine, capsys):
    there = machine("90")
    command = ["warmup", "--features", "3", "--dtype", "uint8"]
    assert main(command) == 0
    count = len(there.warmed)
    assert main(command) == 0
    assert len(there.warmed) == count
    first, *_ = compile.folder().iterdir()
    first.write_bytes(first.read_bytes()[:-1])
    assert main(command) == 0
    assert len(there.warmed) == count + 1, "but what was damaged"
    said = capsys.readouterr().out.splitlines()
    assert f": 0 modules of kernels compiled, {count} were there, in {compile.folder()} (" in said[1]


def test_it_compiles_for_the_gpus_that_are_there_or_for_those_that_are_named(machine):
    there = machine("90", "86", "90")
    command = ["warmup", "--features", "3", "--dtype", "uint8"]
    assert main(command) == 0
    assert sorted({module[2] for module in there.warmed}) == ["-arch=sm_86", "-arch=sm_90"]
    there = machine()
    assert main([*command, "--capability", "8.0,10.0"]) == 0
    assert sorted({module[2] for module in there.warmed}) == ["-arch=sm_100", "-arch=sm_80"]


def test_all_numbers_of_features_unless_some_are_named(machine):
    there = machine()
    assert main(["warmup", "--capability", "9.0", "--dtype", "uint8"]) == 0
    few = {word for _, options, _ in there.warmed for word in options if word.startswith("-DD_FEW")}
    assert few == {f"-DD_FEW={d}" for d in range(17)}  # 0: of a whole fit, any more
    assert {"-DX_KIND=0", "-DCENTERS=128"} <= {word for _, options, _ in there.warmed for word in options}


def failure(capsys, *more):
    assert main(["warmup", "--features", "3", "--dtype", "uint8", *more]) == 1
    return capsys.readouterr().err


def test_what_it_says_where_it_cannot(machine, monkeypatch, capsys):
    there = machine()
    nvrtc = there.cupy.cuda.nvrtc
    assert "no GPU here to compile for: say for which, as --capability 9.0" in failure(capsys)

    def refuse(program, options):
        raise NVRTCError("NVRTC_ERROR_INVALID_OPTION (5)")

    monkeypatch.setattr(nvrtc, "compileProgram", refuse)
    monkeypatch.setattr(nvrtc, "getProgramLog", lambda program: "nvrtc: error: invalid value\n for -arch")
    assert "is not compiled for sm_99: nvrtc: error: invalid value for -arch\n" in failure(capsys, "--capability=9.9")

    def missing():
        raise RuntimeError("Failure finding libnvrtc.so")

    monkeypatch.setattr(nvrtc, "getVersion", missing)
    assert "does not work here (RuntimeError: Failure finding libnvrtc.so)" in failure(capsys, "--capability", "9.0")
    monkeypatch.setitem(sys.modules, "cupy", None)
    assert "CuPy, which compiles the kernels, does not import" in failure(capsys, "--capability", "9.0")


@pytest.mark.parametrize(
    "wrong",
    [("--capability", "90"), ("--capability", "7.0"), ("--capability", ""), ("--dtype", "int8"), ("--features", "0")],
)
def test_wrong_arguments_are_refused(machine, capsys, wrong):
    machine()
    with pytest.raises(SystemExit) as caught:
        main(["warmup", *wrong])
    assert caught.value.code == 2
    assert repr(wrong[1]) in capsys.readouterr().err
