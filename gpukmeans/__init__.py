"""k-means with one answer: the same bits on NumPy, with any number of threads, in any batch size."""

from gpukmeans._version import __version__
from gpukmeans.estimator import KMeans
from gpukmeans.minibatch import MiniBatchKMeans
from gpukmeans.points.base import DeviceError
from gpukmeans.progress import Record
from gpukmeans.saving import load

__all__ = ["DeviceError", "KMeans", "MiniBatchKMeans", "Record", "__version__", "load"]
