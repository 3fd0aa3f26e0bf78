"""Arrays of other libraries: taken as NumPy's or CuPy's without a copy, and answers of the same kind.

A library is imported only when one of its arrays was given, or asked for by name.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from importlib import import_module
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gpukmeans.errors import DeviceError, describe_error

# What `output_type` may name, and the module whose from_dlpack makes such arrays.
LIBRARIES = {"cupy": "cupy", "jax": "jax.numpy", "numpy": "numpy", "torch": "torch"}

# Rows of these are read as they are, in the machine's byte order; anything else becomes the first.
DTYPES = tuple(map(np.dtype, (np.float64, np.float32, np.float16, np.uint8)))

# Device types of the DLPack standard whose memory a GPU of NVIDIA's holds: its own, and managed.
CUDA = (2, 13)


def issparse(X: Any) -> bool:
    """SciPy's, which is not imported for it: who has a sparse matrix has imported that."""
    sparse = sys.modules.get("scipy.sparse")
    return sparse is not None and bool(sparse.issparse(X))


def is_dask(X: Any) -> bool:
    """Whether X is a collection of Dask's own; those of others that hold some, as xarray's, are arrays like any."""
    dask = sys.modules.get("dask")
    if dask is None:
        return False
    return type(X).__module__.partition(".")[0] in ("dask", "dask_expr") and dask.is_dask_collection(X)


def as_array(X: Any) -> Any:
    """X as CuPy's array if it is on a GPU, as NumPy's if it is an array of another library, else X itself.

    On a GPU is what has ``__cuda_array_interface__``, or says so by DLPack. Nothing is copied, but bfloat16, which
    becomes float32: that has all its values. Raises TypeError for an array of another library that gives no access to
    its memory, and DeviceError for one on a GPU without CuPy.
    """
    if _is_bfloat16(getattr(X, "dtype", None)):
        X = X.float() if hasattr(X, "float") else X.astype(np.float32)
    if isinstance(X, np.ndarray) or is_cupy(X):
        return X
    if not hasattr(X, "__dlpack_device__"):
        return _by_its_interface(X) if hasattr(X, "__cuda_array_interface__") else X
    library = _cupy() if _dlpack_device(X)[0] in CUDA else np
    with _opening(X):
        if library is np and hasattr(X, "__array__"):  # by which there are more dtypes, and missing values
            with suppress(RuntimeError, TypeError):
                return np.asarray(X)
        return library.from_dlpack(X)


def _dlpack_device(X: Any) -> tuple[int, int]:
    """The kind of device that an array with ``__dlpack_device__`` is on, and its number."""
    with _opening(X, ValueError):  # torch's, of a device that DLPack has no number for
        kind, number = X.__dlpack_device__()
        return int(kind), int(number)


@contextmanager
def _opening(X: Any, *more: type[Exception]) -> Iterator[None]:
    """The context in which what X's library refuses is a TypeError in words for the user. more: kinds of refusal."""
    refusals: tuple[type[Exception], ...] = (BufferError, RuntimeError, TypeError, *more)
    try:
        yield
    except refusals as error:
        raise TypeError(
            f"An array of type {type(X).__module__}.{type(X).__name__} cannot be read: {error}. It must be an array of "
            "plain numbers, of a dtype that NumPy has, on a single device, and outside the recording of gradients."
        ) from error


def _by_its_interface(X: Any) -> Any:
    interface, cupy = X.__cuda_array_interface__, _cupy()
    empty = 0 in interface["shape"]  # and nowhere
    with _on(None if empty else cupy.cuda.runtime.pointerGetAttributes(interface["data"][0]).device):
        return cupy.asarray(X)  # which would move it to the current device


def _on(gpu: int | None) -> AbstractContextManager:
    return nullcontext() if gpu is None else _cupy().cuda.Device(gpu)


def gpu_of(x: Any) -> int | None:
    """The number of the GPU that an array `as_array` is on, None for the host."""
    return int(x.device.id) if is_cupy(x) else None


def on_a_gpu(X: Any) -> bool:
    return _gpu(X) is not None


def _gpu(X: Any) -> int | None:
    """As `gpu_of`, of any array, which is not opened if it says where it is."""
    if isinstance(X, np.ndarray) or is_cupy(X) or not hasattr(X, "__dlpack_device__"):
        return gpu_of(as_array(X))
    kind, number = _dlpack_device(X)
    return number if kind in CUDA else None


def to_numpy(X: Any) -> Any:
    """`as_array` X on the host, and computed; what is no array stays what it is."""
    x = X.compute() if is_dask(X) else as_array(X)
    return _cupy().asnumpy(x) if is_cupy(x) else x


def values(X: Any) -> Any:
    """`to_numpy` X; of a series or frame of Dask's that is its values alone."""
    x = to_numpy(X)
    return x.to_numpy() if is_dask(X) and hasattr(x, "to_numpy") else x


def readable(x: Any) -> tuple[Any, np.dtype]:
    """What is to be read as rows of numbers, on the host, and in which of DTYPES: that of its values, if it is one,
    whoever holds them, with float32 for bfloat16, and else float64. Lists and the like become an array.

    SciPy has no float16, so that a sparse matrix of it is read as float32, too.
    """
    if not (issparse(x) or (hasattr(x, "__array__") and hasattr(x, "__getitem__"))):
        x = np.asarray(x)
    dtype = getattr(x, "dtype", None)
    if not isinstance(dtype, np.dtype):
        dtype = _of_columns(x)
    if dtype.hasobject:
        dtype = np.asarray(np.asarray(x).tolist()).dtype  # that of scalars, if they are all of one
    if _is_bfloat16(dtype) or (issparse(x) and dtype == np.float16):
        return x, np.dtype(np.float32)
    dtype = dtype.newbyteorder("=")
    return x, dtype if dtype in DTYPES else DTYPES[0]


def is_plain(x: Any) -> bool:
    """Whether x is an array of NumPy's own that needs no other form to be read as rows."""
    return type(x) is np.ndarray and x.ndim == 2 and x.size > 0 and x.dtype in DTYPES


def is_plain_csr(x: Any) -> bool:
    """Whether x is a CSR matrix that needs none; SciPy has no float16."""
    if not issparse(x) or x.format != "csr" or x.ndim != 2:
        return False
    return min(x.shape) > 0 and x.dtype in DTYPES and x.dtype != np.float16


def _of_columns(frame: Any) -> np.dtype:
    """The dtype that holds the columns of a frame of pandas, polars or pyarrow, or a single one; without their rows,
    since pandas has objects for columns of its own dtypes together."""
    empty = frame[:0]
    dtype = np.asarray(empty).dtype
    if dtype.hasobject and hasattr(empty, "items"):
        columns = [np.asarray(column).dtype for _, column in empty.items()]
        dtype = np.result_type(*columns) if columns else dtype
    # Integers may be missing, which shows in the rows alone.
    return np.asarray(frame).dtype if dtype == np.uint8 else dtype


def _is_bfloat16(dtype: Any) -> bool:
    """Whether it is, of ml_dtypes (as JAX's and CuPy's), in either byte order, or of torch."""
    name = getattr(getattr(dtype, "type", None), "__name__", None)  # str() of NumPy's takes 3 us
    return (name or str(dtype)) in ("bfloat16", "torch.bfloat16")


def take_rows(x: Any, rows: NDArray[Any]) -> Any:
    """x[rows], where x is; rows: indices, or a mask."""
    return x[_cupy().asarray(rows)] if is_cupy(x) else x[rows]


def look_up(table: NDArray[Any], indices: Any) -> Any:
    """table[indices] as the kind of array that indices are, on their device."""
    there = _gpu(indices)
    if there is None:
        return convert_like(indices, table[to_numpy(indices)])
    with _on(there):
        return convert_like(indices, _cupy().asarray(table)[as_array(indices)])


def validation_proxy(x: Any) -> NDArray[Any]:
    """An array on the host of the shape of CuPy's x, of the dtype to read it in, or complex, and of no size of its own,
    to be validated in its place."""
    if x.ndim < 2:
        return _cupy().asnumpy(x)  # which the error shows
    one = np.zeros((), x.dtype)
    return np.broadcast_to(one if one.dtype.kind == "c" else one.astype(readable(one)[1]), x.shape)


def convert_like(X: Any, answer: Any, output_type: str = "input") -> Any:
    """answer, an array of NumPy's or CuPy's, as the kind of array that X is, or as one of LIBRARIES.

    For a collection of Dask's that is what it is, NumPy's or Dask's.
    """
    if is_dask(X):
        if output_type == "input":
            return answer
        X, answer = None, to_numpy(answer)
    library = _library(X) if output_type == "input" else output_type
    if library == "numpy":
        return answer if isinstance(answer, np.ndarray) else to_numpy(answer)
    there = _gpu(X)
    with _on(there):  # to which CuPy would move whatever it is asked for as an array
        if there is not None or library == "cupy":
            answer = _cupy().asarray(answer)
        return answer if library == "cupy" else import_module(LIBRARIES[library]).from_dlpack(answer)


def held_dtype(X: Any, dtype: Any, output_type: str = "input") -> np.dtype:
    """The dtype that an answer of this dtype has once it went through `convert_like`: JAX has float32 for float64,
    unless told otherwise.

    To be rounded to before, since JAX may make zeros of float32's subnormal numbers.
    """
    if isinstance(X, np.ndarray) and output_type in ("input", "numpy"):
        return np.dtype(dtype)
    return as_array(convert_like(X, np.zeros(1, dtype), output_type)).dtype


def _library(X: Any) -> str:
    """The one of LIBRARIES whose array X is; of any other, NumPy or, on a GPU, CuPy."""
    if isinstance(X, np.ndarray):
        return "numpy"
    name = type(X).__module__.partition(".")[0].removesuffix("lib")  # jaxlib
    if name in LIBRARIES and hasattr(X, "__dlpack_device__"):
        return name
    return "numpy" if _gpu(X) is None else "cupy"


def is_cupy(x: Any) -> bool:
    kind = getattr(sys.modules.get("cupy"), "ndarray", None)
    return kind is not None and isinstance(x, kind)


def _cupy() -> Any:
    try:
        import cupy
    except Exception as error:  # a broken CuPy raises more than ImportError
        raise DeviceError(
            f"An array on a GPU needs CuPy, which does not import ({describe_error(error)}). Install it for "
            "your CUDA version, pip install 'gpukmeans[cuda13]' or 'gpukmeans[cuda12]', or move the array to the host."
        ) from error
    return cupy
