"""k-means with one answer: the same bits on NumPy, with any number of threads, in any batch size."""

from gpukmeans._version import __version__

TYPE_CHECKING = False  # that of typing, which takes a while to import, as type checkers know
if TYPE_CHECKING:
    from gpukmeans.batched import BatchedKMeans
    from gpukmeans.costs.estimate import Estimate, estimate
    from gpukmeans.environment import show_versions
    from gpukmeans.errors import DeviceError
    from gpukmeans.estimator import KMeans
    from gpukmeans.functions import k_means, kmeans_plusplus
    from gpukmeans.image.picture import ImageError
    from gpukmeans.image.quantize import quantize, remap
    from gpukmeans.image.result import Quantized
    from gpukmeans.minibatch import MiniBatchKMeans
    from gpukmeans.progress import Record
    from gpukmeans.saving.estimators import load
    from gpukmeans.skl2onnx_support import register_onnx

__all__ = [
    "BatchedKMeans",
    "DeviceError",
    "Estimate",
    "ImageError",
    "KMeans",
    "MiniBatchKMeans",
    "Quantized",
    "Record",
    "__version__",
    "estimate",
    "k_means",
    "kmeans_plusplus",
    "load",
    "quantize",
    "register_onnx",
    "remap",
    "show_versions",
]

# Where the names are, which are imported as they are used: the command has its signals in order before NumPy is there.
_HOMES = {
    "BatchedKMeans": "batched",
    "DeviceError": "errors",
    "Estimate": "costs.estimate",
    "ImageError": "image.picture",
    "KMeans": "estimator",
    "MiniBatchKMeans": "minibatch",
    "Quantized": "image.result",
    "Record": "progress",
    "estimate": "costs.estimate",
    "k_means": "functions",
    "kmeans_plusplus": "functions",
    "load": "saving.estimators",
    "quantize": "image.quantize",
    "register_onnx": "skl2onnx_support",
    "remap": "image.quantize",
    "show_versions": "environment",
}


def __getattr__(name: str) -> object:
    if name not in _HOMES and name != "accel":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    if name == "accel":  # a module, which needs no import of its own
        return import_module(f"{__name__}.accel")
    return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
