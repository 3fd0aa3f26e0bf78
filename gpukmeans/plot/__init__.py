"""Figures of a clustering. Needs matplotlib, which nothing else in gpukmeans imports.

A function draws on the Axes that it is given as ``ax`` and returns it; `steps`, which draws several, takes and returns
an array of them. Without ``ax`` it makes a Figure of its own, which pyplot knows nothing of:
``clusters(...).figure.savefig("clusters.png")`` writes it, on machines without a display too, and ``.figure`` at the
end of a cell shows it in a notebook where ``%matplotlib inline`` was said.

A label has the same color wherever it is drawn.
"""

try:
    import matplotlib  # noqa: F401
except ImportError as error:
    raise ImportError(f"gpukmeans.plot needs matplotlib ({error}): pip install 'gpukmeans[plot]'") from error

from gpukmeans.plot.images import centers, comparison, confusion, palette
from gpukmeans.plot.iterations import steps, steps_slider
from gpukmeans.plot.model_selection import elbow, silhouette
from gpukmeans.plot.scatter import cloud, clusters

__all__ = [
    "centers",
    "cloud",
    "clusters",
    "comparison",
    "confusion",
    "elbow",
    "palette",
    "silhouette",
    "steps",
    "steps_slider",
]
