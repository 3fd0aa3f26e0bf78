"""What fitted centers are used for: labels, distances and inertias of other rows."""

from __future__ import annotations

from abc import abstractmethod
from typing import Any, ClassVar

import numpy as np
from numpy.typing import ArrayLike, NDArray
from sklearn.base import ClassNamePrefixFeaturesOutMixin, TransformerMixin
from sklearn.utils.metadata_routing import UNUSED

from gpukmeans import array_interop, lloyd
from gpukmeans.array_interop import is_dask
from gpukmeans.dask import collections
from gpukmeans.engine.protocol import Points
from gpukmeans.exact.distance import Floats
from gpukmeans.exact.scales import Scales
from gpukmeans.row_sources.base import RowSource
from gpukmeans.row_sources.memory import array_within
from gpukmeans.threads import flagged
from gpukmeans.validation import SamplesMixin, in_pieces, out_checked, unshifted


class PredictionMixin(SamplesMixin, ClassNamePrefixFeaturesOutMixin, TransformerMixin):
    """`predict`, `transform` and `score` of `KMeans` and `MiniBatchKMeans`."""

    # scikit-learn would offer to route it as data.
    __metadata_request__predict: ClassVar = {"out": UNUSED}
    __metadata_request__transform: ClassVar = {"out": UNUSED}

    def predict(self, X: ArrayLike, *, out: NDArray[Any] | None = None) -> NDArray[np.int32]:
        """The index of the nearest center for each sample.

        Parameters
        ----------
        X : array-like, sparse matrix, or Dask array or frame, of shape (n_samples, n_features)
        out : ndarray of shape (n_samples,), default=None
            Where to write the labels, as a memory map; of a dtype that holds int32. After an error some may be written.

        Returns
        -------
        labels : ndarray of shape (n_samples,), int32
            ``out``, if that is given.
        """
        with self._placed(X, counted=False) as (x, device):
            if out is None:
                return self._convert_like(X, self._label(x, self._centers(x), device))
            out_checked(out, x, (), np.dtype(np.int32))
            self._label(x, self._centers(x), device, out)
            return out

    def transform(self, X: ArrayLike, *, out: NDArray[Any] | None = None) -> NDArray[Any]:
        """Distances (not squared) to the centers.

        Parameters
        ----------
        X : array-like, sparse matrix, or Dask array or frame, of shape (n_samples, n_features)
        out : ndarray of shape (n_samples, n_clusters), default=None
            Where to write the distances, as a memory map; of the dtype below, or one that holds it. After an error some
            may be written.

        Returns
        -------
        distances : ndarray of shape (n_samples, n_clusters)
            float32 if X and the centers are, else float64; computed in float64. With metric="cosine" the cosine
            distance, one less the cosine: half of the squared distance of the unit vectors, as near as the centers'
            dtype lets them be of length one. A sample that is zero is half of one away from all.
        """
        with self._placed(X, counted=False) as (x, device):
            published = self._published(x.shape[1])
            dtype = np.dtype(np.float32 if x.dtype == published.dtype == np.float32 else np.float64)
            held = dtype if out is not None else array_interop.held_dtype(X, dtype, self.output_type)
            if out is not None:
                out_checked(out, x, (len(published),), dtype)
            if is_dask(x):
                distances = collections.map_rows(self._for_chunks(published).transform, x, dtype, len(published))
                with flagged(), np.errstate(under="ignore"):  # some may be beyond float32; small ones are rounded
                    return self._convert_like(X, distances.astype(held, copy=False))
            centers = published.astype(np.float64)
            if out is None and not isinstance(x, RowSource):
                return self._convert_like(X, self._distances(x, centers, held, device))
            answer = out if out is not None else array_within(x.limit, (len(x), len(centers)), held)
            for rows, piece in in_pieces(x, 2 * held.itemsize * len(centers)):
                answer[rows] = array_interop.to_numpy(self._distances(piece, centers, held, device))
            return answer if out is not None else self._convert_like(X, answer)

    def _distances(self, x: Any, centers: Floats, dtype: np.dtype, device: str) -> Any:
        points = self._made(x, device=device, reused=False, summed=False)
        self._finite(points, x)
        distances = points.distances(centers, dtype)
        with flagged(), np.errstate(under="ignore"):
            return distances.astype(dtype, copy=False)

    def score(self, X: ArrayLike, y: Any = None, sample_weight: ArrayLike | None = None) -> float:
        """The negative inertia of X with the fitted centers.

        Parameters
        ----------
        X : array-like, sparse matrix, or Dask array or frame, of shape (n_samples, n_features)
        y : ignored
        sample_weight : array-like of shape (n_samples,), default=None

        Returns
        -------
        score : float
        """
        with self._placed(X) as (x, device):
            _, _, inertia = self._measured(x, sample_weight, device)
            return -inertia

    def _measured(
        self,
        x: Any,
        sample_weight: ArrayLike | None,
        device: str,
        feature_range: tuple[Floats, Floats] | None = None,
    ) -> tuple[Points, NDArray[np.bool_] | None, float]:
        """As `_points`, labelled by the fitted centers; and the inertia. feature_range: theirs, if it is known."""
        points, kept = self._points(x, sample_weight, device, reused=False)
        if feature_range is None:
            feature_range = self._finite(points, x)
        else:
            points.set_feature_range(*feature_range)
        scales = lloyd.prepare(points, *feature_range)
        return points, kept, self._inertia(points, scales, self._centers(x))

    def _inertia(self, points: Points, scales: Scales, centers: Floats) -> float:
        """That of the points to these centers, which label them."""
        points.assign(centers)
        return unshifted(lloyd.inertia(points, scales, centers), points.weights)

    def _label(self, x: Any, centers: Floats, device: str, out: NDArray[Any] | None = None) -> Any:
        """The labels of x; out: where they are to be written, an array of NumPy's."""
        if is_dask(x):
            return collections.map_rows(self._for_chunks(centers).predict, x, np.int32)
        if out is not None or isinstance(x, RowSource):
            labels = out if out is not None else array_within(x.limit, (len(x),), np.int32)
            for rows, piece in in_pieces(x, 8):
                labels[rows] = array_interop.to_numpy(self._label(piece, centers, device))
            return labels
        points = self._made(x, device=device, reused=False, summed=False, k=len(centers))
        self._finite(points, x)
        points.assign(centers)
        return points.labels()

    @abstractmethod
    def _for_chunks(self, centers: NDArray[Any]) -> Any:
        """What is to go to others, who are to ask it of chunks of rows."""

    @property
    def _n_features_out(self) -> int:
        return len(self._published())
