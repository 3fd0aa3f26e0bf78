"""The command ``gpukmeans``: its arguments, and its exit status."""

from __future__ import annotations

import argparse
import sys
from importlib import import_module

from gpukmeans import DeviceError, __version__
from gpukmeans.cli import console
from gpukmeans.cli.errors import CommandError

# The commands, each a module here, and what they are for. Only the one that is asked for is imported: `demo` needs
# scikit-learn, which takes ten times as long as a small picture (test_import.test_a_picture_takes_no_scikit_learn).
COMMANDS = {
    "fit": "cluster the rows of a file: CSV, Parquet, Feather, .npy, .npz or svmlight",
    "predict": "label the rows of a file by a model that fit wrote",
    "demo": "cluster three data sets, beside scikit-learn, and draw the results",
    "palette": "show a picture's colors, and write them as a palette",
    "info": "print the device, libraries and threads in use",
    "quantize": "reduce pictures to palettes",
    "warmup": "compile the kernels for a GPU and keep them, as for a container image",
    "estimate": "predict the time and memory of a fit on a GPU that need not be here",
}


def main(argv: list[str] | None = None) -> int:
    """Run the command line, sys.argv unless given. Returns the exit status; usage errors raise SystemExit(2)."""
    try:
        try:
            argv = sys.argv[1:] if argv is None else argv
            args = _parser(argv[0] if argv else None).parse_args(argv)
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


def _parser(asked: str | None) -> argparse.ArgumentParser:
    """asked: the command whose arguments it is to know."""
    parser = argparse.ArgumentParser(prog="gpukmeans", description="k-means with one answer.")
    parser.add_argument("--version", action="version", version=f"gpukmeans {__version__}")
    commands = parser.add_subparsers(required=True, metavar="command")
    for name, what in COMMANDS.items():
        if name == asked:
            import_module(f"gpukmeans.cli.{name}").add(commands, what, seed=_seed)
        else:
            commands.add_parser(name, help=what)
    return parser


def _seed(text: str) -> int:
    if not text.isdecimal() or int(text) >= 2**32:
        raise argparse.ArgumentTypeError(f"must be an integer from 0 to 2**32 - 1, got {text!r}")
    return int(text)
