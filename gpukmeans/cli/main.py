"""The command ``gpukmeans``: its arguments, and its exit status."""

from __future__ import annotations

import argparse

from gpukmeans import DeviceError, __version__
from gpukmeans.cli import console, demo, estimate, info, quantize, warmup
from gpukmeans.cli.errors import CommandError


def main(argv: list[str] | None = None) -> int:
    """Run the command line, sys.argv unless given. Returns the exit status; usage errors raise SystemExit(2)."""
    try:
        try:
            args = _parser().parse_args(argv)
            return args.run(args) or 0
        finally:
            console.flush()
    except KeyboardInterrupt:
        return 130
    except BrokenPipeError:  # the reader has gone; whoever runs `| head` wants to hear nothing of it
        console.discard()
        return 141
    except (CommandError, DeviceError, console.OutputError, OSError) as error:
        if isinstance(error, console.OutputError):
            console.discard()
        console.complain(str(error))
        return 1
    except MemoryError:
        console.complain("out of memory")
        return 1


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="gpukmeans", description="k-means with one answer.")
    parser.add_argument("--version", action="version", version=f"gpukmeans {__version__}")
    commands = parser.add_subparsers(required=True, metavar="command")
    demo.add(commands, seed=_seed)
    info.add(commands)
    quantize.add(commands, seed=_seed)
    warmup.add(commands)
    estimate.add(commands)
    return parser


def _seed(text: str) -> int:
    if not text.isdecimal() or int(text) >= 2**32:
        raise argparse.ArgumentTypeError(f"must be an integer from 0 to 2**32 - 1, got {text!r}")
    return int(text)
