"""``python -m gpukmeans.accel script.py ...`` and ``python -m gpukmeans.accel -m module ...``."""

from __future__ import annotations

import argparse
import logging
import os
import runpy
import sys
from importlib.util import find_spec

from gpukmeans.accel import install

_DESCRIPTION = "Run a program whose scikit-learn k-means gpukmeans computes. The program is left as it is."


def main(argv: list[str] | None = None) -> None:
    """Run a script or a module as ``__main__``, with the arguments that follow it."""
    parser = argparse.ArgumentParser(
        prog="python -m gpukmeans.accel",
        usage="%(prog)s [-h] [-v] (SCRIPT | -m MODULE) [ARGUMENT ...]",
        description=_DESCRIPTION,
    )
    parser.add_argument("-v", "--verbose", action="store_true", help="say what is left to scikit-learn, and why")
    parser.add_argument("-m", dest="module", metavar="MODULE", help="a module, as python -m runs it")
    parser.add_argument("script", metavar="SCRIPT", nargs="?", help="a file, or a folder or archive with __main__.py")
    argv = sys.argv[1:] if argv is None else argv
    ours = argv[: _length(argv)]
    args = parser.parse_args(ours)
    if args.module is None and args.script is None:
        parser.error("what is to be run? Name a script, or a module after -m")
    if args.verbose:
        logging.basicConfig(format="%(name)s: %(message)s")
        logging.getLogger("gpukmeans").setLevel(logging.INFO)
    install()
    program = args.script if args.module is None else args.module
    sys.argv = [program, *argv[len(ours) :]]
    if not _is_there(args.script, args.module):
        what = args.script if args.module is None else f"module {args.module}"
        parser.error(f"there is no {what}")
    if args.module is not None:
        runpy.run_module(args.module, run_name="__main__", alter_sys=True)
        return
    if not sys.flags.safe_path:  # or else the first is where Python was started
        sys.path[0] = os.path.dirname(os.path.abspath(program))
    runpy.run_path(program, run_name="__main__")


def _is_there(script: str | None, module: str | None) -> bool:
    """Whether there is what is to be run: else one line says so, as Python itself does, and no traceback of ours."""
    if module is None:
        return script is not None and os.path.exists(script)
    try:
        return find_spec(module) is not None
    except ModuleNotFoundError:  # of a package that it is said to be in
        return False


def _length(argv: list[str]) -> int:
    """How many of the arguments are ours: up to the program, which all others are for."""
    for i, argument in enumerate(argv):
        if argument == "-m":
            return i + 2
        if argument.startswith("-m") or not argument.startswith("-"):
            return i + 1
    return len(argv)


if __name__ == "__main__":
    main()
