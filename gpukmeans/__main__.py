"""``python -m gpukmeans``: the same as the command ``gpukmeans``."""

import sys

from gpukmeans.cli import main

if __name__ == "__main__":
    sys.exit(main())
