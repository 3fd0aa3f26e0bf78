"""k-means with one answer: the same bits on NumPy, with any number of threads, in any batch size."""

from gpukmeans._version import __version__
from gpukmeans.dispatch import DeviceError
from gpukmeans.estimator import KMeans
from gpukmeans.image.quantize import quantize, remap
from gpukmeans.image.quantized import Quantized
from gpukmeans.image.read import ImageError

__all__ = ["DeviceError", "ImageError", "KMeans", "Quantized", "__version__", "quantize", "remap"]
