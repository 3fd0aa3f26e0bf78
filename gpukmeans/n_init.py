"""Starts of a fit, each from initial centers of its own, and the best of them."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from functools import partial
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from gpukmeans import lloyd, seeding
from gpukmeans.array_interop import is_dask
from gpukmeans.center_checks import float_dtype, initial, rounded
from gpukmeans.engine import dispatch
from gpukmeans.engine.protocol import Points
from gpukmeans.exact.distance import Floats
from gpukmeans.exact.metric import metric_of
from gpukmeans.exact.scales import Scales
from gpukmeans.progress import Record, Watch
from gpukmeans.random_state import generator_of
from gpukmeans.row_sources.base import RowSource
from gpukmeans.threads import flagged
from gpukmeans.validation import SamplesMixin, unshifted


class StartsMixin(SamplesMixin):
    """What `KMeans` and `MiniBatchKMeans` do to begin."""

    n_clusters: int
    init: Any
    n_init: Any
    max_iter: int
    tol: float
    verbose: int
    random_state: Any
    oversampling_factor: float
    progress: bool
    callback: Callable[[Record], Any] | None

    _auto_starts: ClassVar[int]  # what n_init="auto" is for an init that draws without looking

    def _best_of_starts(
        self, points: Points, x: NDArray[Any], device: str, dtype: np.dtype, random_state: Any = None
    ) -> lloyd.Fit:
        """The start of least inertia, by whose centers, rounded to that dtype, the points are left labelled.
        random_state: in place of the parameter, if not None."""
        low, high = self._finite(points, x)
        if not points.metric.normalizes and dtype != float_dtype(x.dtype):
            rounded(np.stack([low, high]), dtype)  # which centers are within
        scales = lloyd.prepare(points, low, high)
        random_state = generator_of(self.random_state) if random_state is None else random_state
        init = self._initial_array(x)
        tolerance = self._until(points, scales)
        best: lloyd.Fit | None = None
        self._n_init = self._starts(init)
        watch = Watch(
            lambda centers: unshifted(lloyd.inertia(points, scales, centers), points.weights),
            tolerance,
            starts=self._n_init,
            max_iter=self.max_iter,
            verbose=self.verbose,
            progress=self.progress,
            callback=self.callback,
            rows=x if isinstance(x, RowSource) else None,
        )
        with watch:
            for _ in range(self._n_init):
                centers = self._seed(points, x, random_state, device) if init is None else init
                watch.begin()
                last = lloyd.fit(
                    points, scales, centers, max_iter=self.max_iter, tolerance=tolerance, dtype=dtype, watch=watch
                )
                if best is None or last.inertia < best.inertia:
                    best = last
                if watch.stopped:
                    break
        self.history_ = watch.records
        assert best is not None
        if best is not last:
            points.assign(best.centers)
        return best

    def _until(self, points: Points, scales: Scales) -> lloyd.Tolerance:
        """When a start ends."""
        return lloyd.Tolerance(self.tol, points, scales)

    def _starts(self, init: Floats | None) -> int:
        if self.n_init == "auto":
            many = callable(self.init) or (isinstance(self.init, str) and self.init == "random")
            return self._auto_starts if many else 1
        if init is not None and self.n_init != 1:
            warnings.warn(
                "Explicit initial center position passed: performing only one init in "
                f"{type(self).__name__} instead of n_init={self.n_init}.",
                RuntimeWarning,
                stacklevel=4,
            )
            return 1
        return int(self.n_init)

    def _initial_array(self, x: NDArray[Any]) -> Floats | None:
        if isinstance(self.init, str) or callable(self.init):
            return None
        return self._initial_centers(self.init, x)

    def _seed(self, points: Points, x: NDArray[Any], random_state: np.random.RandomState, device: str) -> Floats:
        if self.init == "k-means||":
            make = partial(dispatch.make_points, device="cpu" if is_dask(x) else device)  # candidates are on the host
            return seeding.kmeans_parallel(points, self.n_clusters, random_state, make, self.oversampling_factor)
        if isinstance(self.init, str):
            choose = seeding.random if self.init == "random" else seeding.kmeans_plusplus
            return choose(points, self.n_clusters, random_state)
        if isinstance(x, RowSource):
            x = x.given
        with flagged():
            centers = self.init(x, self.n_clusters, random_state=random_state)
        return self._initial_centers(centers, x)

    def _initial_centers(self, init: Any, x: Any) -> Floats:
        """See `center_checks.initial`."""
        return initial(init, self.n_clusters, x.shape[1], x.dtype, metric_of(self.metric))
