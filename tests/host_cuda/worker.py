"""The process that stands for the device (worker.cpp), and the requests that it answers."""

from __future__ import annotations

import gc
import os
import re
import socket
import struct
import subprocess
import tempfile
import threading
import weakref
from typing import Any

from . import build as building

REQUEST, ANSWER = struct.Struct("=4Q"), struct.Struct("=2Q")


class _Kept:
    """A context in which no garbage is collected: some of it waits for the device, and would do so in the middle of
    something that is being done there."""

    def __init__(self) -> None:
        self._lock, self._users, self._was_enabled = threading.RLock(), 0, False

    def __enter__(self) -> None:
        with self._lock:
            if self._users == 0:
                self._was_enabled = gc.isenabled()
                gc.disable()
            self._users += 1

    def __exit__(self, *error: object) -> None:
        with self._lock:
            self._users -= 1
            if self._users == 0 and self._was_enabled:
                gc.enable()


kept = _Kept()


class CUDARuntimeError(RuntimeError):
    """cupy.cuda.runtime.CUDARuntimeError: the worker has ended; what it said last."""


class Worker:
    def __init__(self, build: str, timeout: float) -> None:
        program = str(building.worker(build))
        self._timeout = timeout
        self._channel, theirs = socket.socketpair()
        self._channel.settimeout(timeout)
        self._said = tempfile.TemporaryFile()  # noqa: SIM115 (_stop closes it)
        sanitizers = {
            "ASAN_OPTIONS": "detect_leaks=0:print_legend=0",
            "UBSAN_OPTIONS": "print_stacktrace=1",
        }
        with theirs:
            self._process = subprocess.Popen(
                [program, str(theirs.fileno())],
                pass_fds=[theirs.fileno()],
                stdin=subprocess.DEVNULL,
                stderr=self._said,
                env={**os.environ, **sanitizers},
            )
        self._stop = weakref.finalize(self, _stop, self._process, self._channel, self._said)
        self._unused: list[int] = []
        self._lock = threading.Lock()

    @property
    def alive(self) -> bool:
        return self._stop.alive

    def allocate(self, size: int, item: int) -> int:
        return self._ask("A", size, item)[0]

    def release(self, address: int) -> None:
        """Later: this is called whenever Python collects garbage, perhaps between a request and its answer."""
        self._unused.append(address)

    def write(self, address: int, data: Any) -> None:
        self._ask("W", address, payload=memoryview(data).cast("B"))

    def read(self, address: int, size: int) -> bytearray:
        return self._ask("R", address, size)[1]

    def load(self, path: str) -> tuple[int, str]:
        """The module's handle, and its kernels, see `describe` in worker.cpp."""
        handle, text = self._ask("M", payload=path.encode())
        return handle, text.decode()

    def launch(self, module: int, kernel: int, *numbers: bytes) -> None:
        self._ask("L", module, kernel, b"".join(numbers))

    def _ask(self, what: str, a: int = 0, b: int = 0, payload: Any = b"") -> tuple[int, bytearray]:
        with kept, self._lock:
            if not self.alive:
                raise CUDARuntimeError("the worker that held the array has ended")
            try:
                while self._unused:
                    self._channel.sendall(REQUEST.pack(ord("F"), self._unused.pop(), 0, 0))
                self._channel.sendall(REQUEST.pack(ord(what), a, b, len(payload)))
                self._channel.sendall(payload)
                value, size = ANSWER.unpack(self._receive(ANSWER.size))
                return value, self._receive(size)
            except TimeoutError:
                report = f"has not ended after {self._timeout} s"
            except (OSError, EOFError):
                report = self._last_words()
            except BaseException:  # an interrupted exchange cannot be taken up again
                self._stop()
                raise
            self._stop()
            raise CUDARuntimeError(report)

    def _last_words(self) -> str:
        self._process.wait()
        self._said.seek(0)
        report = self._said.read().decode(errors="replace").strip()
        report = re.sub(r"\[(\S+)\+(0x[0-9a-f]+)\]", _source_line, report)
        return report or f"the worker ended with status {self._process.returncode}"

    def _receive(self, size: int) -> bytearray:
        data = bytearray(size)
        view = memoryview(data)
        while view:
            got = self._channel.recv_into(view)
            if not got:
                raise EOFError
            view = view[got:]
        return data


def _stop(process: subprocess.Popen[bytes], channel: socket.socket, said: Any) -> None:
    channel.close()
    process.kill()
    process.wait()
    said.close()


def _source_line(place: re.Match[str]) -> str:
    """The kernel's line for [module+0xaddress], the address being where a call returns to."""
    address = hex(int(place[2], 16) - 1)
    done = subprocess.run(["addr2line", "-i", "-s", "-e", place[1], address], capture_output=True, text=True)
    lines = [line for line in done.stdout.splitlines() if not line.startswith("cuda_host.h")]
    return f"at {lines[0].split(' ')[0]}" if lines else place[0]
