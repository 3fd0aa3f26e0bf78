"""k-means with one answer: the same bits on NumPy, with any number of threads, in any batch size."""

from gpukmeans.dispatch import DeviceError
from gpukmeans.estimator import KMeans

__version__ = "0.1.0"

__all__ = ["DeviceError", "KMeans", "__version__"]
