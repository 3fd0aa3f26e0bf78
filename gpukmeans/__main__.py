"""The command ``gpukmeans``, and ``python -m gpukmeans``, as a process: its signals and its standard streams.

All else is imported once these are in order, so that the command ends quietly from here on, whatever ends it.
"""

import gc
import os
import sys


def main() -> int:
    """Run the command line of the process. Returns the exit status."""
    try:
        _end_on_signals()
        _fill_streams()
        # Imports make many objects and no garbage, which is looked for less often: a twentieth of a small picture.
        gc.set_threshold(20_000)
        from gpukmeans.cli import main

        return main.main()
    except KeyboardInterrupt:  # before there was another answer to it
        os._exit(130)


def _end_on_signals() -> None:
    """End at once, without what was begun and is not whole, and with the status that a shell gives for the signal.

    An exception instead might come where nobody hands it on, as in the middle of an import or in a destructor.
    """
    import signal

    def end(number: int, frame: object) -> None:
        discard = getattr(sys.modules.get("gpukmeans.atomic_write"), "discard", None)
        if discard is not None:
            discard()
        os._exit(128 + number)

    for name in ("SIGINT", "SIGTERM", "SIGHUP"):
        number = getattr(signal, name, None)
        if number is not None and signal.getsignal(number) is not signal.SIG_IGN:  # as nohup has it
            signal.signal(number, end)


def _fill_streams() -> None:
    """Nothing that is opened takes the place of a stream that is closed, where a library might write to it."""
    for descriptor in range(3):
        try:
            os.fstat(descriptor)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # the least that is free
    if sys.stderr is None:
        sys.stderr = open(os.devnull, "w")  # noqa: SIM115  as long as the process is there


if __name__ == "__main__":
    sys.exit(main())
