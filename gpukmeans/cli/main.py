"""The command ``gpukmeans``: its arguments, and its exit status."""

from __future__ import annotations

import argparse
import os
import sys
from importlib import import_module
from typing import Any

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
            args = _parse(argv)
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


def _parse(argv: list[str]) -> argparse.Namespace:
    asked = argv[0] if argv else None
    parser, commands = _parser(asked)
    if asked is None:  # somebody who does not know what there is
        parser.print_help(sys.stderr)
        parser.exit(2)
    args, unknown = parser.parse_known_args(argv)
    if unknown:  # argparse itself would show how to use gpukmeans, not the command
        commands.choices.get(asked, parser).error(f"unrecognized arguments: {' '.join(unknown)}")
    return args


def _parser(asked: str | None) -> tuple[argparse.ArgumentParser, Any]:
    """asked: the command whose arguments it is to know; the others are there to be named where it is none of them.
    And what holds the commands' own parsers."""
    parser = _Parser(prog="gpukmeans", description="k-means with one answer.")
    parser.add_argument("--version", action="version", version=f"gpukmeans {__version__}")
    commands = parser.add_subparsers(required=True, metavar="command", prog="gpukmeans")
    if asked in COMMANDS:
        import_module(f"gpukmeans.cli.{asked}").add(commands, COMMANDS[asked], seed=_seed)
        return parser, commands
    for name, what in COMMANDS.items():
        commands.add_parser(name, help=what)
    return parser, commands


class _Parser(argparse.ArgumentParser):
    """Those of the commands are of this class, too."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**{"formatter_class": _Formatter, **options})


class _Formatter(argparse.HelpFormatter):
    """With a width that is told, or argparse asks shutil at each argument, which takes bz2 and lzma along
    (test_import.test_a_picture_takes_no_scikit_learn fails of these)."""

    def __init__(self, prog: str) -> None:
        columns = os.environ.get("COLUMNS", "")
        width = int(columns) if columns.isdecimal() else 0
        if not width:
            try:
                width = os.get_terminal_size(1).columns
            except OSError:
                width = 80
        super().__init__(prog, width=max(width, 20) - 2)


def _seed(text: str) -> int:
    if not text.isdecimal() or int(text) >= 2**32:
        raise argparse.ArgumentTypeError(f"must be an integer from 0 to 2**32 - 1, got {text!r}")
    return int(text)
