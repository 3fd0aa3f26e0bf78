"""Points on a GPU whose rows are sparse: their entries are there, and what a row does not store costs nothing.

The kernels are those of CudaPoints, compiled for rows by their entries (X_ROWS in kernels/common.cuh), but for two of
their own. Distances that are summed or published are E (exact/sparse_rows.py). Only D looks at all features: of rows
that scores and E leave in doubt, and for empty clusters of all rows.
"""

# Neither Hamerly's bounds nor tensor cores serve: the former need rows measured to their own center by themselves, in
# float32, and the latter rows that are dense.

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gpukmeans.engine.cuda import kernels
from gpukmeans.engine.cuda.kernels import SparseRows
from gpukmeans.engine.cuda.points import CudaPoints, extremes, no_extremes
from gpukmeans.engine.cuda.tentative_labels import BoundsMemory
from gpukmeans.engine.protocol import Known, Samples
from gpukmeans.exact.certificate import Frame
from gpukmeans.exact.distance import Floats
from gpukmeans.exact.sparse_rows import Entries, with_zero


class CudaSparsePoints(CudaPoints):
    """Samples whose x is a CSR matrix in host memory, or its Entries. The rest as for CudaPoints."""

    def __init__(self, cp: Any, samples: Samples, **how: Any) -> None:
        self._entries = Entries.of(samples.x)
        super().__init__(cp, samples, **how)

    def _arriving(self) -> Iterator[slice]:
        if self._here is None:
            gpu, given = self._gpu, self._entries
            columns = gpu.put(given.columns.astype(np.int32, copy=False))
            starts = gpu.put(given.starts.astype(np.int64))
            here = SparseRows(gpu.put(given.values), columns, starts, self.d)
            if self.metric.normalizes:
                normalized = gpu.empty(len(given.values), np.float64)
                kernels.normalize(gpu.compiling(self._options(given.dtype)), x=here, normalized=normalized)
                here = SparseRows(normalized, columns, starts, self.d)
            self._here = here
        yield slice(0, self.n)

    def feature_range(self) -> tuple[Floats, Floats]:
        d = self.d
        # As of dense rows, and in between how many store each feature.
        device = self._gpu.put(np.append(no_extremes(2, d), np.zeros(d + 1, np.uint64)))
        stored, nan = device[2 * d : 3 * d], device[3 * d :].view(np.int32)
        kernels.entry_range(self._gpu, x=self._x, keys=device[: 2 * d], stored=stored, nan=nan)
        answer = self._gpu.get(device)
        low, high = with_zero(*extremes(answer[: 2 * d].reshape(2, d)), answer[2 * d : 3 * d] < self.n)
        if answer[-1]:
            low, high = np.full((2, d), np.nan)
        low, high = self.metric.scaled_range(low, high)
        self.set_feature_range(low, high)
        return low, high

    def set_feature_range(self, low: Floats, high: Floats) -> None:
        self._frame = Frame.of_sparse(low, high, self._entries.most)

    def _memory_for_bounds(self) -> BoundsMemory:
        return None

    def cluster_ranges(
        self, clusters: NDArray[np.int64], without: Floats, known: Known | None = None
    ) -> tuple[Floats, Floats]:
        keys = self._gpu.put(no_extremes(2, len(clusters), self.d))
        stored = self._gpu.zeros((len(clusters), self.d + 1), np.uint64)
        kernels.cluster_ranges(self._gpu, x=self._x, **self._asked(clusters, without), keys=keys, stored=stored)
        counts = self._gpu.get(stored)
        return with_zero(*extremes(self._gpu.get(keys)), counts[:, :-1] < counts[:, -1:])
