"""How many threads: the least of all limits that a user can set, at every call, and with the same bits.

BLAS, which is held to one thread meanwhile, has test_blas_threads.
"""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap
import threading

import pytest

from gpukmeans import thread_limits
from gpukmeans.thread_limits import at_most, thread_count
from gpukmeans.threads import run

CGROUP = "/sys/fs/cgroup"


@pytest.fixture
def available(monkeypatch):
    """Without OMP_NUM_THREADS."""
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    return thread_count()


def test_at_most_the_processors_there_are(available):
    assert 1 <= available <= (os.cpu_count() or 1)
    if hasattr(os, "sched_getaffinity"):
        assert available <= len(os.sched_getaffinity(0))


def test_omp_num_threads_is_respected(available, monkeypatch):
    """Its first number is that of the outer level; it does not add processors."""
    expected = {
        "1": 1,
        " 1 ": 1,
        "1,4": 1,
        "0": 1,
        "100000": available,
        "": available,
        "many": available,
        "-1": available,
        "2": min(2, available),
        "2,1": min(2, available),
    }
    for value, threads in expected.items():
        monkeypatch.setenv("OMP_NUM_THREADS", value)
        assert thread_count() == threads, value


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="this platform has no affinity to respect")
def test_affinity_is_respected(available):
    allowed = os.sched_getaffinity(0)
    try:
        os.sched_setaffinity(0, {min(allowed)})
        assert thread_count() == 1
    finally:
        os.sched_setaffinity(0, allowed)
    assert thread_count() == available


@pytest.mark.parametrize(
    ("files", "quota"),
    [
        ({}, None),
        ({"cpu.max": "max 100000\n"}, None),
        ({"cpu.max": "150000 100000\n"}, 2),
        ({"cpu.max": "400000 100000\n"}, 4),
        ({"cpu/cpu.cfs_quota_us": "-1\n", "cpu/cpu.cfs_period_us": "100000\n"}, None),
        ({"cpu/cpu.cfs_quota_us": "50000\n", "cpu/cpu.cfs_period_us": "100000\n"}, 1),
    ],
)
def test_a_containers_quota_is_joblibs(files, quota, tmp_path, monkeypatch):
    """Of either version of Linux' control groups, as joblib reads them."""
    from joblib.externals.loky.backend import context

    real = open
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text)
    monkeypatch.setattr(thread_limits, "_CGROUP", str(tmp_path))
    monkeypatch.setattr(context.os.path, "exists", lambda path: os.access(str(path).replace(CGROUP, str(tmp_path)), 0))
    monkeypatch.setattr("builtins.open", lambda path, *how: real(str(path).replace(CGROUP, str(tmp_path)), *how))
    assert context._cpu_count_cgroup(99) == (quota or 99)
    monkeypatch.undo()
    monkeypatch.setattr(thread_limits, "_CGROUP", str(tmp_path))
    assert thread_limits._container_quota() == quota


def test_the_variables_of_openmp_and_loky_count_as_they_are_now(available, monkeypatch):
    for name in ("OMP_NUM_THREADS", "OMP_THREAD_LIMIT", "LOKY_MAX_CPU_COUNT"):
        for value in (1, 100_000, 1):
            monkeypatch.setenv(name, str(value))
            assert thread_count() == min(value, available), (name, value)
        monkeypatch.delenv(name)
        assert thread_count() == available


def test_a_thread_of_ours_has_no_more_than_its_caller(available):
    with at_most(1):
        assert thread_count() == 1
        with at_most(available + 5):
            assert thread_count() == available
    assert thread_count() == available


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="this platform has no affinity to respect")
def test_helpers_run_where_their_caller_may():
    """However long ago they were started."""
    allowed = os.sched_getaffinity(0)
    together = threading.Barrier(2, timeout=30)

    def task(_):
        together.wait()
        return os.sched_getaffinity(0)

    try:
        for processors in (allowed, *({one} for one in sorted(allowed)), allowed):
            os.sched_setaffinity(0, processors)
            assert run(task, range(2), 2) == [processors] * 2
    finally:
        os.sched_setaffinity(0, allowed)


# ---------------------------------------------------------------- of other libraries

# In a process with two threads for every library, as if on a machine with four processors.
PROGRAM = """
import os
import joblib
import numpy as np
import scipy.sparse as sp
from sklearn.cluster import KMeans as Theirs
from threadpoolctl import ThreadpoolController, threadpool_info, threadpool_limits
from gpukmeans import KMeans, MiniBatchKMeans, quantize, remap, thread_limits, threads

thread_limits._processors = lambda: 4
del os.environ["OMP_NUM_THREADS"]  # the libraries have read it

rng = np.random.default_rng(0)
X = rng.normal(size=(40_000, 5))
wide = sp.random(20_000, 60, 0.3, "csr", random_state=0)
picture = rng.integers(0, 256, (500, 700, 3)).astype(np.uint8)
models = [kind(4, init=X[:4], n_init=1, max_iter=3, device="cpu").fit(X) for kind in (KMeans, MiniBatchKMeans)]
few = quantize(picture, 4, device="cpu")


def batches():
    model = MiniBatchKMeans(4, random_state=0, device="cpu")
    return model.partial_fit(X).partial_fit(X).cluster_centers_


CALLS = {
    "fit": lambda: KMeans(4, random_state=0, max_iter=3, device="cpu").fit(X).cluster_centers_,
    "k-means||": lambda: KMeans(4, init="k-means||", random_state=0, max_iter=3, device="cpu").fit(X).labels_,
    "cosine": lambda: KMeans(4, metric="cosine", random_state=0, max_iter=3, device="cpu").fit(X).cluster_centers_,
    "sparse": lambda: KMeans(4, random_state=0, max_iter=3, device="cpu").fit(wide).cluster_centers_,
    "predict": lambda: models[0].predict(X),
    "transform": lambda: models[0].transform(X),
    "score": lambda: models[0].score(X),
    "fit of batches": lambda: MiniBatchKMeans(4, batch_size=40_000, max_iter=2, device="cpu").fit(X).n_steps_,
    "partial_fit": batches,
    "predict of batches": lambda: models[1].predict(X),
    "quantize": lambda: quantize(picture, 4, device="cpu").indices,
    "Oklab": lambda: quantize(picture, 4, space="oklab", device="cpu").indices,
    "remap": lambda: remap(picture, few.palette, device="cpu").indices,
}

asked = []
ask = threads._workers.ask
threads._workers.ask = lambda job, helpers: (asked.append(helpers), ask(job, helpers))


def most(call):
    '''The most threads that it had at once, and what it answered.'''
    asked.clear()
    answer = np.asarray(call()).tobytes()
    return max(asked, default=0) + 1, answer


def numbers():
    return [library["num_threads"] for library in threadpool_info()]


free = {name: most(call) for name, call in CALLS.items()}
assert set(numbers()) == {2}
"""


def in_a_process_of_its_own(code):
    names = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")
    command = [sys.executable, "-W", "error", "-c", PROGRAM + textwrap.dedent(code)]
    variables = {**os.environ, **dict.fromkeys(names, "2")}
    done = subprocess.run(command, env=variables, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr


@pytest.mark.slow
def test_limits_of_threadpoolctl_hold_for_every_call_and_change_no_bit():
    in_a_process_of_its_own("""
        assert all(threads == 2 for threads, _ in free.values()), {name: n for name, (n, _) in free.items()}
        for limits in ({"limits": 1}, {"limits": 1, "user_api": "blas"}, {"limits": 1, "user_api": "openmp"}):
            with threadpool_limits(**limits):
                for name, call in CALLS.items():
                    assert most(call) == (1, free[name][1]), (name, limits)
                inside = numbers()
            assert inside.count(1) >= 1 and set(numbers()) == {2}, (limits, inside, numbers())
    """)


def test_limits_may_be_nested_and_end_by_exceptions():
    in_a_process_of_its_own("""
        fit = CALLS["fit"]
        with threadpool_limits(2), threadpool_limits(4):
            with threadpool_limits(1):
                assert most(fit)[0] == 1
            assert most(fit)[0] == 4, "the innermost counts"
        with ThreadpoolController().limit(limits=1):
            assert most(fit)[0] == 1
        assert threadpool_limits.wrap(limits=1)(most)(fit)[0] == 1
        try:
            with threadpool_limits(1):
                KMeans(4, init=lambda *given, **how: 1 / 0, n_init=1, device="cpu").fit(X)
        except ZeroDivisionError:
            pass
        assert most(fit)[0] == 2 and set(numbers()) == {2}, numbers()

        seen = []
        def limited(record):
            with threadpool_limits(1):
                seen.append(most(CALLS["predict"])[0])
                Theirs(2, n_init=1).fit(X[:500])
        KMeans(4, random_state=0, max_iter=3, device="cpu", callback=limited).fit(X)
        assert seen and set(seen) == {1}, seen
        assert set(numbers()) == {2}, numbers()

        for name in ("OMP_NUM_THREADS", "OMP_THREAD_LIMIT"):
            os.environ[name] = "1"
            assert most(fit)[0] == 1
            os.environ[name] = "3"
            assert most(fit)[0] == 2
            del os.environ[name]
    """)


@pytest.mark.slow
def test_fits_in_several_threads_pass_for_nobodys_limit():
    in_a_process_of_its_own("""
        from concurrent.futures import ThreadPoolExecutor

        with ThreadPoolExecutor(4) as pool:
            for _ in range(3):
                asked.clear()
                found = list(pool.map(lambda _: np.asarray(CALLS["fit"]()).tobytes(), range(8)))
                assert set(found) == {free["fit"][1]}
                assert asked and set(asked) == {1}
                with threadpool_limits(1, "blas"):
                    asked.clear()
                    assert set(pool.map(lambda _: np.asarray(CALLS["fit"]()).tobytes(), range(8))) == set(found)
                    assert not asked
                assert set(numbers()) == {2}
    """)


@pytest.mark.slow
def test_joblibs_workers_have_the_threads_that_they_are_given():
    """And no answer depends on it. Of processes joblib says how many, of threads in this one threadpoolctl."""
    in_a_process_of_its_own("""
        import warnings

        warnings.filterwarnings("ignore", category=DeprecationWarning)  # forks of a process with threads

        def worker(model):
            from gpukmeans import thread_limits
            return thread_limits.thread_count(), model.predict(X).tobytes(), os.getpid()

        expected = models[0].predict(X).tobytes()
        four = [joblib.delayed(worker)(models[0])] * 4
        for inner in (1, 2, 1):
            with joblib.parallel_config("loky", n_jobs=2, inner_max_num_threads=inner):
                for count, labels, process in joblib.Parallel()(four):
                    assert count == min(inner, joblib.cpu_count()) and labels == expected and process != os.getpid()
        for limit in (None, 1):
            with threadpool_limits(limit), joblib.parallel_config("threading", n_jobs=4):
                asked.clear()
                for count, labels, process in joblib.Parallel()(four):
                    assert (count, labels, process) == (limit or 2, expected, os.getpid())
            assert set(asked) == (set() if limit else {1})
        assert threads._workers.count == 1, "one helper among all four"
    """)


def test_libraries_that_are_loaded_later_are_found():
    code = """
        import os
        from gpukmeans import thread_limits
        from threadpoolctl import ThreadpoolController
        thread_limits._processors = lambda: 4
        del os.environ["OMP_NUM_THREADS"]
        import numpy
        assert thread_limits.thread_count() == 2
        known = {library.filepath for library in ThreadpoolController().lib_controllers}
        import scipy.linalg, sklearn.cluster
        later = {library.filepath for library in ThreadpoolController().lib_controllers} - known
        assert later
        for path in later:
            with ThreadpoolController().select(filepath=path).limit(limits=1):
                assert thread_limits.thread_count() == 1, path
            assert thread_limits.thread_count() == 2
    """
    variables = {**os.environ, "OMP_NUM_THREADS": "2", "OPENBLAS_NUM_THREADS": "2"}
    command = [sys.executable, "-W", "error", "-c", textwrap.dedent(code)]
    done = subprocess.run(command, env=variables, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
