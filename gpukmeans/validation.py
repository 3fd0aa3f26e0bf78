"""Samples on their way in, and answers on their way out: validation, where the rows are, the kind of arrays."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from fractions import Fraction
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from sklearn.utils import assert_all_finite
from sklearn.utils.validation import _check_sample_weight, check_is_fitted, validate_data

from gpukmeans import array_interop, center_checks
from gpukmeans.array_interop import is_dask, issparse
from gpukmeans.dask import collections, workers
from gpukmeans.engine import devices, dispatch
from gpukmeans.engine.protocol import Points, Samples, Stack
from gpukmeans.exact.distance import Floats, check_magnitude, magnitude
from gpukmeans.exact.fixed_point import Ints, Weights
from gpukmeans.exact.metric import metric_of
from gpukmeans.threads import unflagged


class SamplesMixin:
    """What `KMeans` and `MiniBatchKMeans` do with the samples that they are given, whatever they do then."""

    n_clusters: int
    metric: str
    device: str
    output_type: str
    cluster_centers_: Any

    @contextmanager
    def _unchanged_on_failure(self) -> Iterator[None]:
        before = self.__dict__.copy()
        try:
            yield
        except BaseException:  # KeyboardInterrupt too
            self.__dict__.update(before)
            for name in self.__dict__.keys() - before.keys():
                del self.__dict__[name]
            raise

    def _points(
        self, x: NDArray[Any], sample_weight: ArrayLike | None, device: str, reused: bool = True
    ) -> tuple[Points, NDArray[np.bool_] | None]:
        """Points of the samples that weigh anything, and which those are if not all."""
        given, kept = self._weights(x, sample_weight)
        if given is None:
            return self._made(x, device=device, reused=reused, k=self.n_clusters), None
        if kept is not None:
            self._finite(self._made(x, device=device, reused=False), x)
            x = array_interop.take_rows(x, kept)
        summary, weights = Weights.of(given)
        return self._made(x, weights, summary, device=device, reused=reused, k=self.n_clusters), kept

    def _made(
        self,
        x: Any,
        weights: Floats | Ints | None = None,
        summary: Weights | None = None,
        *,
        device: str,
        reused: bool = True,
        k: int | None = None,
    ) -> Points:
        """Points of these samples, by what the metric looks at; see `Samples` and `dispatch.make_points`."""
        samples = Samples(x, weights, summary, metric_of(self.metric), reused=reused, k=k)
        make = workers.make_points if is_dask(x) else dispatch.make_points
        return make(samples, device=device)

    def _weights(self, x: Any, sample_weight: ArrayLike | None) -> tuple[Floats | None, NDArray[np.bool_] | None]:
        """The weights that are positive, None for ones; and which samples have them, None for all."""
        if sample_weight is None:
            return None, None
        given = _check_sample_weight(
            array_interop.to_numpy(sample_weight), x, dtype=np.float64, ensure_non_negative=True
        )
        kept = given > 0
        if not kept.any():
            raise ValueError("Sample weights must contain at least one non-zero number.")
        return (given, None) if kept.all() else (given[kept], kept)

    @contextmanager
    def _placed(
        self, X: Any, *, reset: bool = False, gather: bool = False, counted: bool = True
    ) -> Iterator[tuple[Any, str]]:
        """X as an array or a CSR matrix, of one of array_interop.DTYPES and of the right width, where the device can
        read it, and the device's name; whether X is finite shows in its feature range. The device is the current one
        in this context.

        reset: whether this is a fit, which sets the width. gather: whether a Dask array shall come here as a whole.
        counted: whether it has to be known how many rows it has.
        """
        if not (reset or hasattr(self, "cluster_centers_")):
            check_is_fitted(self)
        if is_dask(X) and not gather:
            dtype = self._validated(collections.validation_proxy(X), reset).dtype
            with unflagged():
                yield collections.rows_of(X, dtype, counted), self.device
            return
        x = array_interop.to_numpy(X) if is_dask(X) else array_interop.as_array(X)
        gpu = array_interop.gpu_of(x)
        device = devices.resolve(self.device, gpu)
        if gpu is None:
            x = self._validated(x, reset)
            x = x if issparse(x) else np.asarray(x)
            dtype = x.dtype
        else:
            dtype = self._validated(array_interop.validation_proxy(x), reset).dtype
            if gpu not in devices.gpus(device):
                x = array_interop.to_numpy(x)
        with devices.on(device), unflagged():
            yield x.astype(dtype, copy=False), device

    def _validated(self, x: Any, reset: bool) -> Any:
        if array_interop.is_plain(x) and self._has_width(x.shape[1], reset):
            return x
        x, dtype = array_interop.readable(x)
        if issparse(x) and (x.dtype == np.float16 or not x.dtype.isnative):
            x = x.astype(dtype)  # before SciPy brings it into another format, which it cannot
        return validate_data(self, x, reset=reset, accept_sparse="csr", dtype=dtype, ensure_all_finite=False)

    def _has_width(self, width: int, reset: bool) -> bool:
        """Whether rows of so many unnamed features are what scikit-learn would let pass, which takes longer than a pass
        over a few hundred of them; with `reset` they are, and this is the width from now on."""
        if hasattr(self, "feature_names_in_"):
            return False
        if reset:
            self.n_features_in_ = width
        return getattr(self, "n_features_in_", None) == width

    def _finite(self, points: Points, x: Any) -> tuple[Floats, Floats]:
        """The feature range of x; raises scikit-learn's ValueError for NaN or infinity, ours for values too large."""
        low, high = points.feature_range()
        largest = magnitude(low, high)
        if not math.isfinite(largest):
            if points.metric.normalizes:  # infinity, too, is NaN by now
                shown = collections.bad_value(x) if is_dask(x) else array_interop.to_numpy(x.data if issparse(x) else x)
            else:
                shown = np.stack([low, high]).astype(x.dtype)
            with unflagged():
                assert_all_finite(shown, estimator_name=type(self).__name__, input_name="X")
        check_magnitude(largest)
        return low, high

    def _centers(self, x: Any) -> Floats:
        """The fitted centers, or those set in their place, for rows like x, as float64."""
        return self._published(x.shape[1]).astype(np.float64, copy=False)

    def _published(self, width: int | None = None) -> NDArray[Any]:
        """See `center_checks.fitted`."""
        return center_checks.fitted(self.cluster_centers_, metric_of(self.metric), width)

    def _published_dtype(self, X: Any, x: Any) -> np.dtype:
        """That of the centers, to be known before rows get their labels: x's, if the kind of array that comes back has
        it."""
        return array_interop.held_dtype(X, center_checks.float_dtype(x.dtype), self.output_type)

    def _convert_like(self, X: Any, answer: Any) -> Any:
        return array_interop.convert_like(X, answer, self.output_type)


def unshifted(inertia: Fraction, points: Points | Stack) -> float:
    """The inertia in the caller's weights, which may be the points' times a power of two."""
    shift = points.weights.shift
    try:
        return float(inertia / Fraction(2) ** shift if shift else inertia)
    except OverflowError:
        return math.inf
