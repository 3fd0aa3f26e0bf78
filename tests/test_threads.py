"""The pool: how many threads, in what order, and what is left behind."""

from __future__ import annotations

import multiprocessing
import os
import subprocess
import sys
import textwrap
import threading
import time

import numpy as np
import pytest

from gpukmeans.threads import run, scratch, thread_count

# ---------------------------------------------------------------- how many


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


# ---------------------------------------------------------------- order and errors

THREADS = [1, 2, 4, 9]


@pytest.mark.parametrize("threads", THREADS)
@pytest.mark.parametrize("n", [0, 1, 2, 3, 100])
def test_results_keep_their_order(threads, n):
    def slow_at_first(i):
        time.sleep(0.002 if i < 3 else 0)
        return i * i

    assert run(slow_at_first, list(range(n)), threads) == [i * i for i in range(n)]


def test_as_many_threads_as_asked_for_and_the_callers_among_them():
    together = threading.Barrier(3, timeout=30)

    def task(_):
        together.wait()  # all three are here at once, or this times out
        return threading.get_ident()

    found = run(task, [0, 1, 2], 3)
    assert len(set(found)) == 3
    assert threading.get_ident() in found


def test_one_thread_is_the_callers():
    assert set(run(lambda _: threading.get_ident(), range(5), 1)) == {threading.get_ident()}


class BoomError(Exception):
    pass


@pytest.mark.parametrize("threads", THREADS)
@pytest.mark.parametrize("where", [0, 1, 20])
@pytest.mark.parametrize("kind", [BoomError, KeyboardInterrupt])
def test_an_exception_comes_out_and_stops_the_rest(threads, where, kind):
    started = []

    def task(i):
        started.append(i)
        if i == where:
            raise kind(f"item {i}")
        time.sleep(0.001)

    with pytest.raises(kind, match=f"item {where}"):
        run(task, list(range(2000)), threads)
    # Each other thread finishes the item at hand, and may have begun one more before it heard.
    assert len(started) <= where + 1 + 3 * threads
    after = len(started)
    time.sleep(0.02)
    assert len(started) == after, "a thread is still at work after run has returned"


@pytest.mark.parametrize("kind", [BoomError, KeyboardInterrupt])
def test_an_exception_in_a_helper_comes_out(kind):
    caller = threading.get_ident()
    helped = threading.Event()

    def task(i):
        if threading.get_ident() == caller:
            helped.wait(30)
            time.sleep(0.001)
            return
        helped.set()
        raise kind("in a helper")

    with pytest.raises(kind, match="in a helper"):
        run(task, list(range(50)), 2)


def test_the_pool_is_of_use_after_an_exception():
    for _ in range(20):
        with pytest.raises(ZeroDivisionError):
            run(lambda i: 1 // i, [1, 0, 1, 1], 4)
        assert run(lambda i: -i, [1, 2, 3, 4], 4) == [-1, -2, -3, -4]


def test_many_runs_at_once():
    """More callers than helpers: whoever gets none does the work alone."""
    results = {}

    def caller(name):
        results[name] = run(lambda i: (name, i, time.sleep(0.0005))[:2], list(range(30)), 3)

    callers = [threading.Thread(target=caller, args=(name,)) for name in range(8)]
    for thread in callers:
        thread.start()
    for thread in callers:
        thread.join(60)
        assert not thread.is_alive()
    assert results == {name: [(name, i) for i in range(30)] for name in range(8)}


def test_scratch_belongs_to_its_thread():
    found = run(lambda _: (scratch("test", 10, np.float32).ctypes.data, time.sleep(0.01))[0], range(4), 1)
    assert len(set(found)) == 1
    mine = scratch("test", 10, np.float32)
    theirs = []
    other = threading.Thread(target=lambda: theirs.append(scratch("test", 10, np.float32)))
    other.start()
    other.join()
    assert not np.shares_memory(mine, theirs[0])
    assert scratch("test", 5, np.float32).shape == (5,)
    assert scratch("test", 50, np.float64).dtype == np.float64


# ---------------------------------------------------------------- BLAS


# What one thread sets of BLAS another cannot always undo (threadpoolctl lets only the first thread that
# asks set OpenBLAS's limit), so each case begins in a process of its own.
BLAS = """
import threading
import numpy as np, scipy.linalg
from threadpoolctl import threadpool_info, threadpool_limits
from gpukmeans import KMeans
from gpukmeans.engine.numpy.tuning import tuned
from gpukmeans.threads import run

def blas():
    return [pool["num_threads"] for pool in threadpool_info() if pool["user_api"] == "blas"]

def start(*calls):
    threads = [threading.Thread(target=call) for call in calls]
    for thread in threads:
        thread.start()
    return threads

before = blas()
assert before and set(before) == {2}, before
one = [1] * len(before)
"""


def with_two_blas_threads(code):
    variables = dict.fromkeys(["OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "BLIS_NUM_THREADS"], "2")
    variables = {**os.environ, **variables}
    variables.pop("OMP_NUM_THREADS", None)
    command = [sys.executable, "-W", "error", "-c", BLAS + textwrap.dedent(code)]
    done = subprocess.run(command, env=variables, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr


def test_blas_has_one_thread_inside_and_its_own_after():
    with_two_blas_threads("""
        for _ in range(2):
            assert run(lambda _: blas(), range(4), 2) == [one] * 4
            assert blas() == before
        try:
            run(lambda i: 1 // i, [0, 1], 2)
        except ZeroDivisionError:
            assert blas() == before
        else:
            assert False
    """)


def test_blas_is_restored_after_a_run_in_another_thread():
    with_two_blas_threads("""
        seen = []
        for _ in range(2):
            (thread,) = start(lambda: seen.append(run(lambda _: blas(), range(2), 2)))
            thread.join()
            assert blas() == before
        assert seen == [[one] * 2] * 2
    """)


def test_blas_is_restored_after_runs_that_overlap():
    """The first to come leaves before the last, and lives on: neither may leave the other's limit behind."""
    with_two_blas_threads("""
        first_in, second_in, first_out, end = (threading.Event() for _ in range(4))
        seen = []

        def early(_):
            first_in.set()
            assert second_in.wait(30)

        def late(_):
            second_in.set()
            assert first_out.wait(30)
            seen.append(blas())

        def come_first():
            run(early, range(2), 2)
            first_out.set()
            end.wait(30)

        (first,) = start(come_first)
        assert first_in.wait(30)
        (second,) = start(lambda: run(late, range(2), 2))
        second.join()
        try:
            assert seen == [one] * 2, seen
            assert blas() == before, blas()
        finally:
            end.set()
    """)


def test_blas_is_restored_after_fits_that_overlap():
    """As a pool of workers would run them: its threads live on after the fits."""
    with_two_blas_threads("""
        from concurrent.futures import ThreadPoolExecutor
        x = np.random.default_rng(0).normal(size=(3000, 8))

        def fit(seed):
            with tuned(threads=2, chunk_rows=500):
                KMeans(20, random_state=seed, max_iter=10, device="cpu").fit(x)

        with ThreadPoolExecutor(4) as pool:
            for _ in range(5):
                list(pool.map(fit, range(8)))
                assert blas() == before, blas()
    """)


def test_a_run_does_not_take_the_limit_from_others():
    """After a run in a thread that lives on, the main thread can still set BLAS's limit."""
    with_two_blas_threads("""
        done, end = threading.Event(), threading.Event()

        def live_on():
            run(lambda _: None, range(2), 2)
            done.set()
            end.wait(30)

        start(live_on)
        assert done.wait(30)
        try:
            with threadpool_limits(1, "blas"):
                assert blas() == one, blas()
            assert blas() == before
        finally:
            end.set()
    """)


def test_a_child_forked_in_the_middle_has_the_threads_that_were_found():
    with_two_blas_threads("""
        import os

        def init(x, k, random_state):
            def child(_):
                if os.fork() == 0:
                    os._exit(0 if blas() == before else 1)
                return os.waitstatus_to_exitcode(os.wait()[1])

            assert run(child, [0], 1) == [0]
            return x[:k]

        x = np.random.default_rng(0).normal(size=(300, 8))
        KMeans(5, init=init, n_init=1, device="cpu").fit(x)
        assert blas() == before
    """)


# ---------------------------------------------------------------- forks, interruptions and ends


def _run_in_child(connection):
    together = threading.Barrier(3, timeout=30)

    def task(i):
        together.wait()  # passes only if the child has three threads of its own
        return i + 1

    connection.send(run(task, [1, 2, 3], 3))


@pytest.mark.skipif(
    "fork" not in multiprocessing.get_all_start_methods(), reason="this platform cannot fork, so nothing can go wrong"
)
@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
def test_a_fork_in_the_middle_of_a_run():
    """The child has none of the parent's threads, starts its own, and does not wait for the parent's locks."""
    context = multiprocessing.get_context("fork")
    run(lambda i: time.sleep(0.001), range(9), 3)  # the parent's pool of the same size exists

    def task(_):
        receiver, sender = context.Pipe(duplex=False)
        child = context.Process(target=_run_in_child, args=(sender,))
        child.start()
        try:
            return receiver.recv() if receiver.poll(60) else "the child hangs"
        finally:
            child.kill()
            child.join()
            child.close()

    assert run(task, [0, 1], 2) == [[2, 3, 4]] * 2


def test_the_pool_does_not_keep_a_program_from_ending():
    code = "from gpukmeans.threads import run; print(run(lambda i: i, [1, 2, 3], 3))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout == "[1, 2, 3]\n"


def test_a_thread_that_outlives_the_main_one_can_fit():
    code = """
        import threading, time
        import numpy as np
        from gpukmeans import KMeans
        from gpukmeans.engine.numpy.tuning import tuned

        def fit():
            time.sleep(0.2)
            with tuned(threads=3, chunk_rows=100):
                print(KMeans(5, random_state=0, device="cpu").fit(np.arange(2000.0)[:, None]).n_iter_ > 0)

        threading.Thread(target=fit).start()
    """
    command = [sys.executable, "-c", textwrap.dedent(code)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True)
    assert (done.stdout, done.stderr) == ("True\n", "")


def test_interruptions_anywhere_leave_nothing_behind():
    """Hundreds of signals at random moments: the next fit neither hangs nor finds BLAS limited."""
    with_two_blas_threads("""
        import random, signal, time

        x = np.random.default_rng(0).normal(size=(2000, 8))

        def fit():
            with tuned(threads=3, chunk_rows=200):
                return KMeans(10, random_state=0, max_iter=4, device="cpu").fit(x).inertia_

        def interrupt(number, frame):
            raise KeyboardInterrupt

        expected = fit()
        begin = time.perf_counter()
        fit()
        took = time.perf_counter() - begin
        signal.signal(signal.SIGALRM, interrupt)
        draw = random.Random(0)
        interrupted = 0
        for _ in range(100):
            try:
                signal.setitimer(signal.ITIMER_REAL, draw.uniform(1e-5, took))
                fit()
                signal.setitimer(signal.ITIMER_REAL, 0)
            except KeyboardInterrupt:
                interrupted += 1
        signal.setitimer(signal.ITIMER_REAL, 0)
        assert interrupted > 10
        assert fit() == expected
        assert blas() == before
    """)
