"""Centers as a caller gives or sets them, and as they are published."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.utils import check_array

from gpukmeans import array_interop
from gpukmeans.exact.distance import Floats, check_magnitude, magnitude
from gpukmeans.exact.metric import Metric
from gpukmeans.threads import unflagged


def float_dtype(dtype: np.dtype) -> np.dtype:
    """The dtype that centers of data of this dtype are published in: itself, or float64 for integers."""
    return dtype if dtype.kind == "f" else np.dtype(np.float64)


def initial(init: Any, n_clusters: int, n_features: int, dtype: np.dtype, metric: Metric) -> Floats:
    """Initial centers (n_clusters, n_features) as float64, after rounding to the float dtype of data of that dtype, and
    as the metric has them.

    Raises ValueError for another shape, or for values that are not finite or too large.
    """
    centers = _finite(array_interop.to_numpy(init), float_dtype(dtype), "init")
    if centers.shape[0] != n_clusters:
        raise ValueError(
            f"The shape of the initial centers {centers.shape} does not match the number of clusters {n_clusters}."
        )
    if centers.shape[1] != n_features:
        raise ValueError(
            f"The shape of the initial centers {centers.shape} does not match "
            f"the number of features of the data {n_features}."
        )
    centers = centers.astype(np.float64, copy=False)
    centers += 0.0  # with one zero, as seeding has them
    return metric.initial(centers)


def fitted(given: Any, metric: Metric, n_features: int | None = None) -> NDArray[Any]:
    """A copy of ``cluster_centers_``, whoever has set them, in the float dtype that they have, float64 for integers.

    Raises ValueError for what cannot be the centers of rows of so many features, if that is known.
    """
    try:
        given, dtype = array_interop.readable(array_interop.to_numpy(given))
        centers = _finite(given, float_dtype(dtype), "cluster_centers_")
        check_magnitude(magnitude(centers, centers), "cluster_centers_")
        if n_features not in (None, centers.shape[1]):
            raise ValueError(f"They have {centers.shape[1]} features, and X has {n_features}.")
        metric.check(centers)
    except (OverflowError, TypeError, ValueError) as error:
        raise ValueError(
            f"cluster_centers_ holds no centers that can be used. {error}\nSet it to an array of shape (n_centers, "
            "n_features) of finite real numbers, as many features as X has, or fit again."
        ) from error
    return centers


def _finite(given: Any, dtype: np.dtype, name: str) -> NDArray[Any]:
    """A copy of given as an array of two dimensions and this dtype, not empty and finite, or scikit-learn's ValueError,
    whose checks take half as long as to predict a few rows, or to fit some."""
    if type(given) is np.ndarray and given.dtype == dtype and given.ndim == 2 and given.size > 0:
        centers = np.array(given, order="C")
        if math.isfinite(magnitude(centers, centers)):
            return centers
    with unflagged():  # it adds values up, large ones and infinities too, to see whether they are finite
        return check_array(given, dtype=dtype, copy=True, order="C", input_name=name)


def rounded(centers: Floats, dtype: np.dtype) -> NDArray[Any]:
    """Centers in the dtype that they are published in, no zero of them negative, as one is that a small number is
    rounded to; raises ValueError if that dtype does not reach as far."""
    if dtype == centers.dtype:
        return centers + 0.0
    with np.errstate(over="ignore"):
        result = centers.astype(dtype)
        result += 0.0
    if not np.isfinite(result).all():
        raise ValueError(
            f"Centers of up to {np.abs(centers).max():.3g} are beyond {dtype}: the dtype of the data, or of the first "
            "batch, or what JAX has for float64 without jax_enable_x64. Scale the data, give it in a wider dtype, or "
            'ask for output_type="numpy".'
        )
    return result
