"""Arrays of other libraries: taken as NumPy's or CuPy's without a copy, and answers of the same kind.

A library is imported only when one of its arrays was given, or asked for by name.
"""

from __future__ import annotations

import sys
from contextlib import AbstractContextManager, nullcontext
from importlib import import_module
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gpukmeans.lazy import is_lazy
from gpukmeans.points.base import DeviceError, said

# What `output_type` may name, and the module whose from_dlpack makes such arrays.
LIBRARIES = {"cupy": "cupy", "jax": "jax.numpy", "numpy": "numpy", "torch": "torch"}

# Device types of the DLPack standard whose memory a GPU of NVIDIA's holds: its own, and managed.
CUDA = (2, 13)


def opened(X: Any) -> Any:
    """X as CuPy's array if it is on a GPU, as NumPy's if it is an array of another library, else X itself.

    On a GPU is what has ``__cuda_array_interface__``, or says so by DLPack. Nothing is copied. Raises TypeError for
    an array of another library that gives no access to its memory, and DeviceError for one on a GPU without CuPy.
    """
    if isinstance(X, np.ndarray) or _is_cupy(X):
        return X
    where = getattr(X, "__dlpack_device__", None)
    if where is None:
        return _by_its_interface(X) if hasattr(X, "__cuda_array_interface__") else X
    library = _cupy() if where()[0] in CUDA else np
    try:
        return library.from_dlpack(X)
    except (BufferError, RuntimeError, TypeError) as error:
        raise TypeError(
            f"An array of type {type(X).__module__}.{type(X).__name__} cannot be read: {error}. It must be an array of "
            "plain numbers, of a dtype that NumPy has, and outside the recording of gradients."
        ) from error


def _by_its_interface(X: Any) -> Any:
    interface, cupy = X.__cuda_array_interface__, _cupy()
    empty = 0 in interface["shape"]  # and nowhere
    with _on(None if empty else cupy.cuda.runtime.pointerGetAttributes(interface["data"][0]).device):
        return cupy.asarray(X)  # which would move it to the current device


def _on(gpu: int | None) -> AbstractContextManager:
    return nullcontext() if gpu is None else _cupy().cuda.Device(gpu)


def gpu_of(x: Any) -> int | None:
    """The number of the GPU that an array `opened` is on, None for the host."""
    return int(x.device.id) if _is_cupy(x) else None


def on_a_gpu(X: Any) -> bool:
    return gpu_of(opened(X)) is not None


def to_numpy(X: Any) -> Any:
    """`opened` X on the host, and computed; what is no array stays what it is."""
    x = X.compute() if is_lazy(X) else opened(X)
    return _cupy().asnumpy(x) if _is_cupy(x) else x


def taken(x: Any, rows: NDArray[Any]) -> Any:
    """x[rows], where x is; rows: indices, or a mask."""
    return x[_cupy().asarray(rows)] if _is_cupy(x) else x[rows]


def looked_up(table: NDArray[Any], indices: Any) -> Any:
    """table[indices] as the kind of array that indices are, on their device."""
    there = gpu_of(opened(indices))
    if there is None:
        return like(indices, table[to_numpy(indices)])
    with _on(there):
        return like(indices, _cupy().asarray(table)[opened(indices)])


def stand_in(x: Any) -> NDArray[Any]:
    """An array on the host like CuPy's x in shape and dtype, of no size of its own, to be validated in its place."""
    if x.ndim < 2:
        return _cupy().asnumpy(x)  # which the error shows
    return np.broadcast_to(np.zeros((), x.dtype), x.shape)


def like(X: Any, answer: Any, output_type: str = "input") -> Any:
    """answer, an array of NumPy's or CuPy's, as the kind of array that X is, or as one of LIBRARIES.

    For a collection of Dask's that is what it is, NumPy's or Dask's.
    """
    if is_lazy(X):
        if output_type == "input":
            return answer
        X, answer = None, to_numpy(answer)
    library = _library(X) if output_type == "input" else output_type
    if library == "numpy":
        return to_numpy(answer)
    there = gpu_of(opened(X))
    with _on(there):  # to which CuPy would move whatever it is asked for as an array
        if there is not None or library == "cupy":
            answer = _cupy().asarray(answer)
        return answer if library == "cupy" else import_module(LIBRARIES[library]).from_dlpack(answer)


def _library(X: Any) -> str:
    """The one of LIBRARIES whose array X is; of any other, NumPy or, on a GPU, CuPy."""
    name = type(X).__module__.partition(".")[0].removesuffix("lib")  # jaxlib
    if name in LIBRARIES and hasattr(X, "__dlpack_device__"):
        return name
    return "numpy" if gpu_of(opened(X)) is None else "cupy"


def _is_cupy(x: Any) -> bool:
    kind = getattr(sys.modules.get("cupy"), "ndarray", None)
    return kind is not None and isinstance(x, kind)


def _cupy() -> Any:
    try:
        import cupy
    except Exception as error:  # a broken CuPy raises more than ImportError
        raise DeviceError(
            f"An array on a GPU needs CuPy, which does not import ({said(error)}). Install it for "
            "your CUDA version, pip install 'gpukmeans[cuda13]' or 'gpukmeans[cuda12]', or move the array to the host."
        ) from error
    return cupy
