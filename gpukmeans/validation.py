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
from gpukmeans.engine.protocol import Points, Samples
from gpukmeans.exact.distance import Floats, check_magnitude, magnitude
from gpukmeans.exact.fixed_point import Ints, Weights
from gpukmeans.exact.metric import metric_of
from gpukmeans.row_sources.base import RowSource
from gpukmeans.row_sources.choice import held, source_of
from gpukmeans.threads import unflagged

# Of answers for rows in memory that are made before they are written to where they are wanted.
_ANSWER_BYTES = 2**26


class SamplesMixin:
    """What `KMeans` and `MiniBatchKMeans` do with the samples that they are given, whatever they do then."""

    n_clusters: int
    metric: str
    device: str
    output_type: str
    memory_limit: int | str | None = None
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
            # Not left to whoever drops these points: others of the same rows follow.
            with workers.released():
                self._finite(self._made(x, device=device, reused=False, summed=False), x)
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
        summed: bool = True,
        k: int | None = None,
    ) -> Points:
        """Points of these samples, by what the metric looks at; see `Samples` and `dispatch.make_points`."""
        metric, limit = metric_of(self.metric), self.memory_limit
        samples = Samples(x, weights, summary, metric, reused=reused, summed=summed, k=k, memory_limit=limit)
        make = workers.make_points if is_dask(x) else dispatch.make_points
        return make(samples, device=device)

    def _weights(self, x: Any, sample_weight: ArrayLike | None) -> tuple[Floats | None, NDArray[np.bool_] | None]:
        """The weights that are positive, None for ones; and which samples have them, None for all."""
        if sample_weight is None:
            return None, None
        rows = np.broadcast_to(np.zeros((), x.dtype), x.shape) if isinstance(x, RowSource) else x
        given = _check_sample_weight(
            array_interop.to_numpy(sample_weight), rows, dtype=np.float64, ensure_non_negative=True
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
        read it, or as a RowSource where these are more rows than memory is to hold; and the device's name. Whether X is
        finite shows in its feature range. The device is the current one in this context.

        reset: whether this is a fit, which sets the width. gather: whether a Dask array shall come here as a whole.
        counted: whether it has to be known how many rows it has.
        """
        if not (reset or hasattr(self, "cluster_centers_")):
            check_is_fitted(self)
        if is_dask(X) and not gather:
            dtype = self._validated(collections.validation_proxy(X), reset).dtype
            with workers.released(), unflagged():
                yield collections.rows_of(X, dtype, counted), self.device
            return
        x = self._from_elsewhere(X, reset)
        if x is not None:
            x = array_interop.to_numpy(x) if is_dask(X) else x
            device = devices.resolve(self.device)
            with devices.on(device), unflagged():
                yield x, device
            return
        x = array_interop.as_array(X)
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

    def _from_elsewhere(self, X: Any, reset: bool) -> NDArray[Any] | RowSource | None:
        """X, validated, as a RowSource or as the array that there is memory for; None if X is in memory, and may be."""
        if is_dask(X):
            from gpukmeans.dask.chunks import rows_here

            dtype = self._validated(collections.validation_proxy(X), reset).dtype
            return rows_here(collections.rows_of(X, dtype, True), self.memory_limit)
        source = source_of(X, self.memory_limit)
        if source is None:
            return None
        self._validated(source.validation_proxy(), reset)
        return held(source)

    def _validated(self, x: Any, reset: bool) -> Any:
        plain = array_interop.is_plain(x) or array_interop.is_plain_csr(x)
        if plain and self._has_width(x.shape[1], reset):
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
            # Of normalized rows infinity, too, is NaN by now.
            shown = _bad_values(x) if points.metric.normalizes else np.stack([low, high]).astype(x.dtype)
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
        if is_dask(answer) and self.output_type == "input":
            return collections.like(X, answer)
        return array_interop.convert_like(X, answer, self.output_type)


def _bad_values(x: Any) -> Any:
    """Rows, or values, among which one is not finite, on the host."""
    if is_dask(x):
        return collections.bad_value(x)
    if isinstance(x, RowSource):
        return next(piece for _, piece in x.pieces() if not np.isfinite(piece).all())
    return array_interop.to_numpy(x.data if issparse(x) else x)


def out_checked(out: Any, x: Any, shape: tuple[int, ...], dtype: np.dtype) -> None:
    """Raise ValueError or TypeError for an array that answers of that dtype for rows x, each of that shape, cannot be
    written to."""
    if is_dask(x):
        raise TypeError("out cannot be given for a Dask array or frame, whose answer is one: store that.")
    if not isinstance(out, np.ndarray):
        raise TypeError(f"out should be an array of NumPy's, as a memory map, not {type(out).__name__}.")
    expected = (x.shape[0], *shape)
    if out.shape != expected or not np.can_cast(dtype, out.dtype, "safe") or not out.flags.writeable:
        how = "" if out.flags.writeable else ", read-only"
        raise ValueError(f"out should have the shape {expected} and hold {dtype}, not {out.shape} of {out.dtype}{how}.")


def in_pieces(x: Any, answer_bytes: int) -> Iterator[tuple[slice, Any]]:
    """All rows of x, as slices and the rows; the next piece of a RowSource is read while one is worked on.
    answer_bytes: of each row, which a piece leaves room for."""
    if isinstance(x, RowSource):
        yield from x.pieces(answer_bytes)
        return
    step = max(1, _ANSWER_BYTES // answer_bytes)
    for a in range(0, x.shape[0], step):
        rows = slice(a, min(a + step, x.shape[0]))
        yield rows, x[rows]


def unshifted(inertia: Fraction, weights: Weights) -> float:
    """The inertia in the caller's weights, which may be those in use times a power of two."""
    shift = weights.shift
    try:
        return float(inertia / Fraction(2) ** shift if shift else inertia)
    except OverflowError:
        return math.inf
