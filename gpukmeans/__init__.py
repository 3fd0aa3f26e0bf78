"""k-means with one answer: the same bits on NumPy, with any number of threads, in any batch size."""

from gpukmeans._version import __version__
from gpukmeans.estimator import KMeans
from gpukmeans.image.quantize import quantize, remap
from gpukmeans.image.quantized import Quantized
from gpukmeans.image.read import ImageError
from gpukmeans.minibatch import MiniBatchKMeans
from gpukmeans.points.base import DeviceError
from gpukmeans.progress import Record
from gpukmeans.saving import load

__all__ = [
    "DeviceError",
    "ImageError",
    "KMeans",
    "MiniBatchKMeans",
    "Quantized",
    "Record",
    "__version__",
    "load",
    "quantize",
    "remap",
]
