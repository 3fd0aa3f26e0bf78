"""The pool: how many threads, in what order, and what is left behind."""

from __future__ import annotations

import multiprocessing
import subprocess
import sys
import textwrap
import threading
import time
import weakref

import numpy as np
import pytest

from gpukmeans import threads
from gpukmeans.threads import run, scratch

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


def test_helpers_that_are_slow_to_rest_keep_no_data_alive(monkeypatch):
    """Memory of a GPU that a fit has done with would be missing in the next."""
    rest, together = threading.Event(), threading.Barrier(2, timeout=30)

    class Slow(threads._Job):
        def help(self):
            super().help()
            rest.wait(30)

    class Data:
        pass

    monkeypatch.setattr(threads, "_Job", Slow)
    given, made = Data(), []

    def task(item):
        together.wait()
        made.append(weakref.ref(result := Data()))
        return result

    held = weakref.ref(given)
    try:
        run(task, [given, given], 2)
        del given
        assert held() is None
        assert [result() for result in made] == [None, None]
    finally:
        rest.set()


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
