"""k-means with one answer: the same bits on NumPy, with any number of threads, in any batch size."""

from gpukmeans._version import __version__
from gpukmeans.estimator import KMeans
from gpukmeans.points.base import DeviceError
from gpukmeans.saving import load

__all__ = ["DeviceError", "KMeans", "__version__", "load"]
