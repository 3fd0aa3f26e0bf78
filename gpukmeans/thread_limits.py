"""How many threads to use: no more than any limit of the user's allows; and BLAS held to one while ours are at work."""

from __future__ import annotations

import math
import os
import sys
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

from threadpoolctl import ThreadpoolController

# Of these the first number counts, which is that of the outer level.
_VARIABLES = ("OMP_NUM_THREADS", "OMP_THREAD_LIMIT")

# Where Linux says what a container may have.
_CGROUP = "/sys/fs/cgroup"

_most: ContextVar[float] = ContextVar("most", default=math.inf)


def thread_count() -> int:
    """How many threads to use: one for each processor that the calling thread may run on, or the least of all limits.

    Affinity and container quotas count, and LOKY_MAX_CPU_COUNT, as joblib has it. OMP_NUM_THREADS counts as it is now,
    which is where joblib and Dask say how many threads a worker may have. And so does what each BLAS and OpenMP library
    is held to in this thread, as by threadpoolctl: scikit-learn obeys OpenMP's, and our threads do what BLAS would do
    in its own.
    """
    named = (os.environ.get(name, "").split(",")[0].strip() for name in _VARIABLES)
    limits = [int(number) for number in named if number.isdecimal()]
    return max(1, int(min(_processors(), _most.get(), *limits, *_library_limits())))


@contextmanager
def at_most(threads: int) -> Iterator[None]:
    """Within this context no more threads than that: for a thread of ours, in which its caller's limits do not show."""
    token = _most.set(threads)
    try:
        yield
    finally:
        _most.reset(token)


def _processors() -> int:
    affinity = getattr(os, "sched_getaffinity", None)
    here = len(affinity(0)) if affinity else os.cpu_count() or 1
    return _quota(here, os.environ.get("LOKY_MAX_CPU_COUNT"))


@cache  # reading the quota costs 0.1 ms, as much as fitting a small data set
def _quota(affinity: int, loky: str | None) -> int:
    most = int(loky) if loky is not None and loky.strip().isdecimal() else affinity
    return max(1, min(affinity, most, _container_quota() or affinity))


def _container_quota() -> int | None:
    """The processors' time that Linux gives this container, in whole processors; None without a limit. What joblib
    says, whose import takes longer than NumPy's (test_thread_limits.test_a_containers_quota_is_joblibs)."""
    for files in (("cpu.max",), ("cpu/cpu.cfs_quota_us", "cpu/cpu.cfs_period_us")):
        try:
            words = " ".join(Path(_CGROUP, name).read_text() for name in files).split()
        except OSError:
            continue
        if len(words) == 2:
            quota, period = words
            return math.ceil(int(quota) / int(period)) if quota != "max" and int(quota) > 0 < int(period) else None
    return None


# ---------------------------------------------------------------- the libraries


class _Libraries:
    """The libraries loaded in this process that have threads, by how they are told how many."""

    def __init__(self, found: Sequence[Any]) -> None:
        blas = [library for library in found if library.user_api == "blas"]
        openmp = [library for library in found if library.user_api == "openmp"]
        # Whose number of threads is each thread's own: those that have OpenMP's, and MKL.
        own = [library for library in blas if _layer(library) == "openmp" or library.internal_api == "mkl"]
        self.shared_blas = [library for library in blas if library not in own]
        # Where BLAS has OpenMP's threads, to hold it changes OpenMP's number too, which has to be remembered then.
        self.own_blas = own + openmp if own else []
        self.limits = [library for library in blas + openmp if _tells_a_limit(library)]


def _layer(library: Any) -> str:
    return getattr(library, "threading_layer", "unknown")


def _tells_a_limit(library: Any) -> bool:
    """Not if it has one thread whatever it is told, or, as BLIS, as long as it is told nothing. FlexiBLAS stands for
    another, which tells it."""
    return _layer(library) not in ("disabled", "sequential") and library.internal_api not in ("blis", "flexiblas")


_known: tuple[int, _Libraries] = (0, _Libraries([]))


def _libraries() -> _Libraries:
    """To look for them costs some ms, so it is done again only when modules were imported since."""
    global _known
    loaded = len(sys.modules)
    if _known[0] != loaded:
        _known = loaded, _Libraries(ThreadpoolController().lib_controllers)
    return _known[1]


def _library_limits() -> list[int]:
    """What the libraries are held to by others than us."""
    libraries = _libraries()
    with _shared_hold.lock:  # or what a fit in another thread is about to do would pass for the user's limit
        found = [(library.filepath, library.num_threads) for library in libraries.limits]
        ours = _shared_hold.found if not libraries.own_blas else {**_shared_hold.found, **_own_hold().found}
        limits = [ours.get(path, 1) if number == 1 else number for path, number in found]
    return [number for number in limits if number]  # None: it does not say


# ---------------------------------------------------------------- BLAS held to one thread


@dataclass
class _Hold:
    """BLAS libraries, held to one thread while anybody uses them.

    Of two overlapping users each would restore the other's limit: the first to come sets it and the last to go lifts
    it. What others set in the meantime stays. An interruption anywhere in here leaves a state that the next user's
    coming and going puts right.
    """

    lock: Any = field(default_factory=threading.RLock)  # a forgotten context may be closed at any time, also in here
    users: set[object] = field(default_factory=set)
    held: bool = False
    found: dict[str, int] = field(default_factory=dict)  # the threads of each, by path, before the limit if over one
    libraries: Sequence[Any] = ()

    def enter(self, user: object, libraries: Sequence[Any]) -> None:
        with self.lock:
            self.users.add(user)
            if self.held:
                return
            numbers = {library.filepath: library.num_threads for library in libraries}
            # One thread is the user's own limit, or still ours: see `lift`.
            self.found = {path: n if n != 1 else self.found.get(path, 1) for path, n in numbers.items()}
            self.libraries = libraries
            for library in libraries:
                if library.user_api == "blas" and numbers[library.filepath] not in (None, 1):
                    _set(library, 1)
            self.held = True

    def leave(self, user: object) -> None:
        with self.lock:
            self.users.discard(user)
            if not self.users:
                self.lift()

    def lift(self) -> None:
        self.held = False
        for library in self.libraries:
            before = self.found.get(library.filepath, 1)
            if library.user_api == "blas" and before != 1 and library.num_threads == 1:
                _set(library, before)
                if library.num_threads == 1:
                    continue  # threadpoolctl lets another thread alone set it: to be lifted the next time
            self.found.pop(library.filepath, None)


def _set(library: Any, threads: int) -> None:
    library.set_num_threads(threads)
    # Since version 3.8 threadpoolctl lets only the thread that set OpenBLAS's limit set it again.
    # Ours may be lifted by another than set it, and must not keep anybody else from setting theirs.
    if hasattr(library, "clear_controlling_thread"):
        library.clear_controlling_thread()


_shared_hold = _Hold()
_local = threading.local()


def _own_hold() -> _Hold:
    """The hold on libraries whose number of threads is each thread's own."""
    hold = getattr(_local, "hold", None)
    if hold is None:
        hold = _local.hold = _Hold()
    return hold


@contextmanager
def one_blas_thread() -> Iterator[None]:
    """Within this context BLAS uses no threads of its own.

    Where others use the processors too, those wait for each other: a product of 0.1 ms then takes 8. Costs
    10 us, or 2 us inside another such context. A generator, because a KeyboardInterrupt at the very start of an
    __exit__ would leave the limit: a generator is closed when it is forgotten, however it came to that.
    """
    user, libraries = object(), _libraries()
    holds = [(_shared_hold, libraries.shared_blas)]  # a child forked in the meantime has others
    if libraries.own_blas:
        holds.append((_own_hold(), libraries.own_blas))

    def leave() -> None:
        for hold, _ in holds:
            hold.leave(user)

    try:
        for hold, held in holds:
            hold.enter(user, held)
        yield
    finally:
        try:
            leave()
        except KeyboardInterrupt:  # maybe before it had left anything
            leave()
            raise


def blas_is_held() -> bool:
    """Whether BLAS has one thread as it is, because of this thread or another."""
    return bool(_shared_hold.users) and (not _libraries().own_blas or _own_hold().held)


def hold_blas_of_worker() -> None:
    """For a thread of ours: what is each thread's own is held to one for good."""
    libraries, hold = _libraries().own_blas, _own_hold()
    if libraries is not hold.libraries:
        hold.held = False
        hold.enter("worker", libraries)


def _after_fork() -> None:
    """A child process has none of its parent's threads, and must not wait for their locks."""
    global _shared_hold
    inherited = _shared_hold, _own_hold()
    _shared_hold, _local.hold = _Hold(), _Hold()
    for hold in inherited:
        hold.lock = threading.RLock()
        hold.lift()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)
