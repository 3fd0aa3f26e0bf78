"""BLAS held to one thread while ours are at work, and as it was found afterwards, whoever else sets it."""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap
import threading

import pytest

from gpukmeans import thread_limits
from gpukmeans.thread_limits import one_blas_thread, thread_count
from gpukmeans.threads import run

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


@pytest.mark.slow
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


@pytest.mark.slow
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


# ---------------------------------------------------------------- libraries of every kind


class Library:
    """What threadpoolctl says of a library, whose number of threads is the process's or each thread's own."""

    def __init__(self, name="openblas", layer="pthreads", threads=4, runtime=None):
        self.user_api = "openmp" if name == "openmp" else "blas"
        self.internal_api = name
        if self.user_api == "blas":
            self.threading_layer = layer
        self.filepath = f"lib{name}-{id(self)}.so"
        self.default, self.number, self.refuses = threads, threads, False
        self.state = runtime or (threading.local() if layer == "openmp" or name in ("mkl", "openmp") else self)

    @property
    def num_threads(self):
        return getattr(self.state, "number", self.default)

    def set_num_threads(self, threads):
        if not self.refuses:
            self.state.number = threads


@pytest.fixture
def libraries(monkeypatch):
    """libraries(...): the process has these, and eight processors."""
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    monkeypatch.setattr(thread_limits, "_processors", lambda: 8)
    monkeypatch.setattr(thread_limits, "_shared_hold", thread_limits._Hold())
    monkeypatch.setattr(thread_limits, "_local", threading.local())

    def load(*found):
        known = thread_limits._Libraries(found)
        monkeypatch.setattr(thread_limits, "_libraries", lambda: known)
        return found

    return load


def elsewhere(call):
    """What it answers in another thread."""
    answers = []
    thread = threading.Thread(target=lambda: answers.append(call()))
    thread.start()
    thread.join(30)
    return answers[0]


def test_the_least_of_what_libraries_are_held_to(libraries):
    blas, openmp = libraries(Library(threads=6), Library("openmp", threads=7))
    assert thread_count() == 6
    openmp.set_num_threads(3)
    assert (thread_count(), elsewhere(thread_count)) == (3, 6), "OpenMP's number is each thread's own"
    blas.set_num_threads(2)
    assert (thread_count(), elsewhere(thread_count)) == (2, 2)


def test_libraries_without_threads_limit_nobody(libraries):
    libraries(
        Library(layer="disabled", threads=1),
        Library("mkl", layer="sequential", threads=1),
        Library("blis", threads=1),  # as long as it is told nothing
        Library("flexiblas", threads=1),
        Library(threads=None),
    )
    assert thread_count() == 8
    with one_blas_thread():
        assert thread_count() == 8


KINDS = {
    "the process's": lambda: (Library(), Library("openmp")),
    "two": lambda: (Library(), Library(threads=3)),
    "each thread's": lambda: (Library("mkl"), Library("openmp")),
    "OpenMP's": lambda: of_one_runtime(),
}


def of_one_runtime():
    runtime = threading.local()
    return Library(layer="openmp", runtime=runtime), Library("openmp", runtime=runtime)


def numbers(found):
    return [library.num_threads for library in found]


@pytest.mark.parametrize("kind", KINDS)
def test_our_own_hold_is_nobodys_limit(libraries, kind):
    found = libraries(*KINDS[kind]())
    before, blas = numbers(found), [library for library in found if library.user_api == "blas"]
    for _ in range(2):
        with one_blas_thread():
            assert numbers(blas) == [1] * len(blas)
            assert thread_count() == elsewhere(thread_count) == min(before)
            with one_blas_thread():
                assert thread_count() == min(before)
            assert numbers(blas) == [1] * len(blas)
            assert elsewhere(lambda: run(lambda _: (numbers(blas), thread_count()), [0], 1)) == [
                ([1] * len(blas), min(before))
            ]
            assert numbers(blas) == [1] * len(blas)
        assert numbers(found) == elsewhere(lambda: numbers(found)) == before


@pytest.mark.parametrize("kind", KINDS)
def test_the_users_limit_is_obeyed_and_left(libraries, kind):
    found = libraries(*KINDS[kind]())
    for limit in (1, 2):
        for library in found:
            library.set_num_threads(limit)

        def seen(divisor, limit=limit):
            with one_blas_thread():
                return thread_count() // divisor == limit

        assert seen(1)
        with pytest.raises(ZeroDivisionError):
            seen(0)
        assert numbers(found) == [limit] * len(found)
        assert thread_count() == limit


@pytest.mark.parametrize("kind", KINDS)
def test_helpers_have_one_blas_thread_each(libraries, kind):
    found = libraries(*KINDS[kind]())
    blas, together = [library for library in found if library.user_api == "blas"], threading.Barrier(3, timeout=30)

    def task(_):
        together.wait()
        return numbers(blas)

    assert run(task, range(3), 3) == [[1] * len(blas)] * 3


def test_threads_that_overlap_restore_what_each_found(libraries):
    """Of a library whose number is each thread's own; the first to come is the first to leave."""
    (blas,) = libraries(Library("mkl"))
    second_in, first_out = threading.Event(), threading.Event()

    def second():
        blas.set_num_threads(3)
        with one_blas_thread():
            inside = blas.num_threads, thread_count()
            second_in.set()
            assert first_out.wait(30)
        return inside, blas.num_threads

    answers = []
    thread = threading.Thread(target=lambda: answers.append(second()))
    with one_blas_thread():
        thread.start()
        assert second_in.wait(30)
        assert (blas.num_threads, thread_count()) == (1, 4)
    assert blas.num_threads == 4
    first_out.set()
    thread.join(30)
    assert answers == [((1, 3), 3)]


def test_what_others_set_in_the_meantime_stays(libraries):
    (blas,) = libraries(Library())
    blas.set_num_threads(1)  # somebody's limit begins, in another thread
    with one_blas_thread():
        assert thread_count() == 1
        blas.set_num_threads(4)  # and ends
        assert thread_count() == 4
    assert blas.num_threads == 4, "one was never ours to restore"
    with one_blas_thread():
        blas.set_num_threads(2)  # as a callback may
        assert thread_count() == 2
    assert blas.num_threads == 2


def test_a_limit_that_may_not_be_lifted_is_lifted_the_next_time(libraries):
    """threadpoolctl lets one thread alone set OpenBLAS's limit, as long as that is within a limit of its own."""
    (blas,) = libraries(Library())
    with one_blas_thread():
        blas.refuses = True  # another begins, which finds one thread and will restore that
    assert blas.num_threads == 1
    assert thread_count() == 4
    blas.refuses = False
    with one_blas_thread():
        assert thread_count() == 4
    assert blas.num_threads == 4
    blas.set_num_threads(1)
    assert thread_count() == 1, "nothing is owed any more"


def test_an_interruption_as_the_hold_is_left_leaves_no_limit(libraries, monkeypatch):
    """Which may come before anything of it was done: once in a thousand times, of interruptions at random moments."""
    leave, interrupted = thread_limits._Hold.leave, []

    def interrupted_once(hold, user):
        if not interrupted:
            interrupted.append(True)
            raise KeyboardInterrupt
        leave(hold, user)

    monkeypatch.setattr(thread_limits._Hold, "leave", interrupted_once)
    for kind in KINDS.values():
        found = libraries(*kind())
        before = numbers(found)
        interrupted.clear()
        with pytest.raises(KeyboardInterrupt), one_blas_thread():
            pass
        assert numbers(found) == before
        assert not thread_limits.blas_is_held()


def test_a_library_that_is_loaded_later_is_held_from_the_next_time_on(libraries):
    (first,) = libraries(Library())
    with one_blas_thread():
        second = Library(threads=3)
        libraries(first, second)
        assert thread_count() == 3
        with one_blas_thread():
            assert numbers((first, second)) == [1, 3]
    assert numbers((first, second)) == [4, 3]
    with one_blas_thread():
        assert numbers((first, second)) == [1, 1]
    assert numbers((first, second)) == [4, 3]
