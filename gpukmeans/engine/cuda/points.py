"""Points on a GPU: the rows stay in device memory, the kernels of `kernels/` do the work.

Everything of size n lives on the device from the first call on; what crosses the bus in an iteration is of size k d.
The kernels compute what gpukmeans/exact/ defines; the tests run them on a CPU too, with an object of the same few
methods in CuPy's place, which is why CuPy is an argument here.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import nullcontext
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gpukmeans.engine.cuda import families, kernels, seeding_bytes
from gpukmeans.engine.cuda.assign import DeviceLabels, DeviceRows
from gpukmeans.engine.cuda.device import Gpu
from gpukmeans.engine.cuda.seeding import Seeds
from gpukmeans.engine.cuda.tentative_labels import BoundsMemory
from gpukmeans.engine.cuda.transfer import Prefetch
from gpukmeans.engine.protocol import Centers, Doubt, Farthest, Known, NextCenters, Samples, Seeding, State
from gpukmeans.exact.certificate import Frame
from gpukmeans.exact.direct_bound import DirectBound
from gpukmeans.exact.distance import Floats, normalize
from gpukmeans.exact.fixed_point import Ints
from gpukmeans.exact.inertia import Inertia
from gpukmeans.exact.row_sample import sampled_rows
from gpukmeans.exact.scales import OwnScales, Scales

# Values of a table of distances at a time: 64 MB.
TABLE = 2**23

# Values to bring to length one at a time, at most 64 MB as they are given.
NORMALIZED = 2**23


class CudaPoints:
    """Samples in host memory, or on the device, where their rows are used in place.

    cp: CuPy, or what stands in its place. keep_on_device: whether answers of size n stay on the device. ahead: sends
    all rows now, on its stream, to be there for whoever calls `begin` first; else they are sent when they are first
    asked for. single_batch: whether these are all rows of this device; a batch of several is made anew for each pass,
    and keeps no bounds for the next. Normalized rows are float64, and made on the device as they arrive.
    """

    def __init__(
        self,
        cp: Any,
        samples: Samples,
        *,
        keep_on_device: bool = False,
        ahead: Prefetch | None = None,
        single_batch: bool = True,
    ) -> None:
        x, weights = samples.x, samples.weights
        self.n, self.d = samples.shape
        self.metric, self.sparse = samples.metric, samples.sparse
        self._dtype = np.dtype(np.float64) if self.metric.normalizes else x.dtype
        self.integral = self._dtype == np.uint8
        self.weights = samples.all_weights
        more = dict.fromkeys(families.WEIGHED, families.weight_options(None if weights is None else weights.dtype))
        self._gpu = Gpu(cp, self._options(self._dtype), more, ahead.launched if ahead else None)
        self._given, self._reused = x, samples.reused
        self._keep_on_device, self._ahead, self._single_batch = keep_on_device, ahead, single_batch
        with self._gpu, ahead or nullcontext():
            self._here: Any = self._gpu.put(x) if self._gpu.holds(x) and not self.metric.normalizes else None
            self._w = None if weights is None else self._gpu.put(weights)
            if ahead:
                self._send()
        self._by: DeviceLabels | None = None  # by the centers last assigned to
        self._before = (0, 0)  # rows that assignments to other numbers of centers left to D, and compared with all
        self._seeds = Seeds(self._gpu, self._w, self.weights)
        self._spare: Any = None
        self._offset: Any = None  # until `prepare`
        self._scale: Any = None
        self._scales: Scales | None = None
        self._weight_scale = np.float64(2.0**self.weights.exponent)

    def _options(self, dtype: np.dtype) -> tuple[str, ...]:
        """The compiler's, for rows of that dtype."""
        return families.row_options(dtype, self.sparse)

    def begin(self, meanwhile: Callable[[], None] | None) -> None:
        if self._ahead:
            with self._gpu:
                self._ahead.arrive()
        self._gpu.meanwhile = meanwhile

    def _send(self) -> None:
        for _ in self._arriving():
            pass

    def _arriving(self) -> Iterator[slice]:
        """The rows, as they come to be on the device; all at once if they are."""
        if self._here is not None:
            yield slice(0, self.n)
            return
        here = self._gpu.empty((self.n, self.d), self._dtype)
        for rows in self._normalize(here) if self.metric.normalizes else self._gpu.upload(here, self._given):
            self._here = here
            yield rows

    def _normalize(self, here: Any) -> Iterator[slice]:
        """Bring the rows given to length one, a piece after another; yields those that are here."""
        gpu = self._gpu.compiling(self._options(self._given.dtype))
        step = max(1, NORMALIZED // self.d)
        for a in range(0, self.n, step):
            rows = slice(a, min(a + step, self.n))
            given, made = gpu.put(self._given[rows]), here[rows]
            kernels.normalize(gpu, x=given, normalized=made)
            yield rows

    @property
    def _x(self) -> Any:
        if self._here is None:
            self._send()
        return self._here

    # ------------------------------------------------------------ preparation

    def feature_range(self) -> tuple[Floats, Floats]:
        # The keys of least and largest values, and whether one is NaN, which cross together.
        device = self._gpu.put(np.append(no_extremes(2, self.d), np.uint64(0)))
        nan = device[2 * self.d :].view(np.int32)
        for rows in self._arriving():
            kernels.feature_range(self._gpu, x=self._here[rows], keys=device[: 2 * self.d], nan=nan)
        keys = self._gpu.get(device)
        low, high = extremes(keys[:-1].reshape(2, self.d))
        if keys[-1]:
            low, high = np.full((2, self.d), np.nan)
        low, high = self.metric.scaled_range(low, high)
        self.set_feature_range(low, high)
        return low, high

    def set_feature_range(self, low: Floats, high: Floats) -> None:
        self._low, self._high = low, high
        vars(self).pop("_frame", None)  # that of another range
        self._seeds.bounded_by(None if self.sparse else DirectBound.of(low, high, self._dtype))

    def _byte_frame(self) -> tuple[Floats, float]:
        return seeding_bytes.frame(self._sample, self._low, self._high)

    @cached_property
    def _frame(self) -> Frame | None:
        """Made once scores are wanted: batches and parts have samples of their own, which show in no answer."""
        low, high = self._low, self._high
        if Frame.of(low, high) is None:
            return None
        sample = self._sample
        frame = Frame.of(low, high, sample)
        if frame is not None and self._dtype == np.float16:
            return frame.at_zero(low, high, sample)  # for tensor cores, see launch_plans.tensor
        return frame

    @cached_property
    def _sample(self) -> Floats:
        """Some of the rows, always the same, (s, d). From the host where they are there too: no answer is waited for,
        so that the device works on one batch while the next is sent."""
        rows = sampled_rows(self.n, self.d)
        if self._gpu.holds(self._given):
            sample = self._gpu.empty((-(-self.n // rows.step), self.d), np.float64)
            kernels.sample_rows(self._gpu, x=self._x, step=rows.step, sample=sample)
            return self._gpu.get(sample)
        sample = np.asarray(self._given[rows]).astype(np.float64)
        return normalize(np.ascontiguousarray(sample.T)).T if self.metric.normalizes else sample

    def prepare(self, scales: Scales) -> None:
        self._scales = scales
        self._offset, self._scale = self._gpu.put(scales.offset), self._gpu.put(scales.scale)

    def resume(self, state: State) -> None:
        self.set_feature_range(state.low, state.high)
        if state.scales is not None:
            self.prepare(state.scales)
        if state.labels is not None:
            self._label(state.k).there = self._gpu.put(state.labels)
        if state.closest_dist_sq is not None:
            self._seeds.closest_dist_sq = self._spare = self._gpu.put(state.closest_dist_sq)

    def closest_dist_sq(self) -> Floats | None:
        return None if self._seeds.closest_dist_sq is None else self._gpu.get(self._seeds.closest_dist_sq)

    # ------------------------------------------------------------ assignment and update

    @property
    def k(self) -> int:
        """Of the centers that there are labels of."""
        return 0 if self._by is None else self._by.k

    @property
    def uncertain(self) -> int:
        return self._before[0] + (self._by.uncertain if self._by else 0)

    @property
    def compared(self) -> int:
        """Rows that were compared with all centers, over all assignments."""
        return self._before[1] + (self._by.compared if self._by else 0)

    def assign(self, centers: Centers) -> int:
        by = self._by if self._by is not None and self._by.k == len(centers) else self._label(len(centers))
        return by.assign(self._rows(), self._memory_for_bounds(), centers)

    def next_centers(self, doubt: Doubt) -> NextCenters | None:
        return None if self._by is None else self._by.next_centers(self._rows(), self._memory_for_bounds(), doubt)

    def moved(self, centers: Floats, counts: Floats, part: float) -> tuple[Floats, Floats] | None:
        return None  # a batch's sums are small

    def _rows(self) -> DeviceRows:
        return DeviceRows(self._x, self._w)

    def _label(self, k: int) -> DeviceLabels:
        """Forget all labels: k centers are to come."""
        by = DeviceLabels(
            self._gpu,
            n=self.n,
            d=self.d,
            k=k,
            dtype=self._dtype,
            sparse=self.sparse,
            normalized=self.metric.normalizes,
            frame=self._frame,
            scales=self._scales,
            offset=self._offset,
            scale=self._scale,
            weight_scale=float(self._weight_scale),
            summing=self._reused,
            going_on=self._single_batch,
        )
        self._before, self._by = (self.uncertain, self.compared), by  # once nothing can fail any more
        return by

    def _memory_for_bounds(self) -> BoundsMemory:
        """That of seeding; none while seeding needs it (test_kernel_seeding.test_every_step_of_seeding_is_numpys fails
        without that), or where no later assignment would profit."""
        return self._scratch if self._reused and self._single_batch and self._seeds.closest_dist_sq is None else None

    def _labelled(self) -> DeviceLabels:
        """The labels as they were last asked for."""
        assert self._by is not None, "no centers were assigned to"
        self._by.roll_back(self._rows(), self._memory_for_bounds())
        return self._by

    def _scratch(self) -> Any:
        """(n,) float64 of memory, which serves the closest distances of seeding, then bounds, then far distances."""
        if self._spare is None:
            self._spare = self._gpu.empty(self.n, np.float64)
        return self._spare

    def sums(self) -> Ints:
        assert self._by is not None, "no centers were assigned to"
        return self._by.sums(self._rows(), self._memory_for_bounds())

    def labels(self) -> Any:
        return self._labelled().there if self._keep_on_device else self.labels_on_host()

    def labels_on_host(self) -> NDArray[np.int32]:
        return self._gpu.get(self._labelled().there)

    # ------------------------------------------------------------ distances

    def _measured(self, centers: Floats) -> Any:
        """The centers on the device, to be measured to."""
        return self._gpu.put(kernels.with_norms(self._x, centers))

    def inertia(self, centers: Floats, split: Inertia) -> tuple[int, int]:
        sums = self._gpu.zeros(2, np.uint64)
        kernels.inertia(
            self._gpu,
            x=self._x,
            centers=self._measured(centers),
            labels=self._labelled().there if len(centers) > 1 else None,
            weights=self._w,
            coarse_scale=2.0**split.coarse_bits,
            fine_scale=2.0**split.fine_bits,
            sums=sums,
        )
        coarse, fine = self._gpu.get(sums).view(np.int64).tolist()
        return coarse, fine

    def farthest(self, centers: Floats, m: int) -> Farthest:
        by = self._labelled()
        # test_hamerly.test_bounds_end_where_their_memory_serves_others fails without it.
        by.tentative.drop_bounds()
        gpu, x, labels = self._gpu, self._x, by.there
        # Seeding may be under way, and need that memory itself.
        distance = self._scratch() if self._seeds.closest_dist_sq is None else gpu.empty(self.n, np.float64)
        kernels.own_distances(gpu, x=x, centers=self._measured(centers), labels=labels, distance=distance)
        locations = []
        for _ in range(m):
            found = gpu.put(np.array([0, ~np.uint64(0)], np.uint64))
            kernels.farthest(gpu, distance=distance, found=found)
            largest = float(gpu.get(found)[:1].view(np.float64)[0])
            if largest == 0:
                break
            kernels.first_farthest(gpu, distance=distance, found=found)
            location, label = gpu.zeros(self.d, np.float64), gpu.empty(1, np.int32)
            kernels.take_farthest(
                gpu, x=x, labels=labels, found=found, distance=distance, location=location, location_label=label
            )
            locations.append((largest, gpu.get(location), int(gpu.get(label)[0])))
        return Farthest.of(locations, self.d)

    def cluster_ranges(
        self, clusters: NDArray[np.int64], without: Floats, known: Known | None = None
    ) -> tuple[Floats, Floats]:
        keys = self._gpu.put(no_extremes(2, len(clusters), self.d))
        kernels.cluster_ranges(self._gpu, x=self._x, **self._asked(clusters, without), keys=keys)
        return extremes(self._gpu.get(keys))

    def cluster_sums(self, clusters: NDArray[np.int64], scales: OwnScales, without: Floats) -> Ints:
        sums = self._gpu.zeros((len(clusters), self.d + 1), np.uint64)
        put = self._gpu.put
        kernels.cluster_sums(
            self._gpu,
            x=self._x,
            **self._asked(clusters, without),
            weights=self._w,
            offset=put(scales.offset),
            scale=put(scales.scale),
            shift=put(scales.shift),
            exponent=put(scales.exponent),
            sums=sums,
        )
        return self._gpu.get(sums).view(np.int64)

    def _asked(self, clusters: NDArray[np.int64], without: Floats) -> dict[str, Any]:
        """The arguments that say which rows of which clusters are looked at."""
        by = self._labelled()
        place = np.full(by.k, -1, np.int32)
        place[clusters] = np.arange(len(clusters))
        return {"labels": by.there, "place": self._gpu.put(place), "without": self._gpu.put(without)}

    def distances(self, centers: Floats, dtype: Any = np.float64) -> Any:
        k = len(centers)
        step = self.n if self._keep_on_device else max(1, TABLE // k)
        table = self._gpu.empty((min(step, self.n), k), dtype)
        result = table if self._keep_on_device else np.empty((self.n, k), dtype)
        given = {"centers": self._measured(centers), "factor": self.metric.factor, "rooted": self.metric.rooted}
        for a in range(0, self.n, step):
            rows = min(step, self.n - a)
            kernels.distances(self._gpu, x=self._x[a : a + rows], **given, distances=table)
            if not self._keep_on_device:
                result[a : a + rows] = self._gpu.get(table[:rows])
        return result

    # ------------------------------------------------------------ seeding

    def seeding(self) -> CudaSeeding:
        self.end_seeding()
        return CudaSeeding(self)

    def ongoing_seeding(self) -> CudaSeeding:
        return CudaSeeding(self)

    def end_seeding(self) -> None:
        if self._by is not None:
            self._by.restart()
        self._seeds.restart()

    def _memory_for_seeding(self) -> Any:
        if self._seeds.closest_dist_sq is None and self._by is not None:
            # Its bounds are in the same memory (test_hamerly.test_bounds_end_where_their_memory_serves_others fails
            # without it).
            self._by.tentative.drop_bounds()
        return self._scratch()


class CudaSeeding(Seeding):
    """The seeding of CudaPoints, whose rows are handed to what the device knows of it."""

    def __init__(self, points: CudaPoints) -> None:
        self._points, self._seeds = points, points._seeds

    def end(self) -> None:
        self._points.end_seeding()

    def total(self, exponent: int | None) -> int:
        return self._seeds.total(self._points.n, exponent)

    def find(self, indices: list[int]) -> Floats:
        return self._seeds.find(self._points._x, indices)

    def propose(self, candidates: Floats) -> None:
        self._seeds.propose(self._points._x, candidates)

    def potentials(self, exponent: int, exact: bool) -> tuple[list[int], list[int]]:
        totals = self._seeds.potentials(self._points._x, exponent)
        return totals, totals

    def accept(self, candidate: int) -> float:
        return self._seeds.accept(self._points._x, candidate, self._points._memory_for_seeding())

    def accept_drawn(self, draws: Floats, farthest: float) -> tuple[Floats, float]:
        centers, _, largest = self._seeds.accept_drawn(self._points._x, draws, farthest, self._points._byte_frame)
        return centers, float(largest[-1])

    def accept_all(self, centers: Floats) -> float:
        return self._seeds.accept_all(self._points._x, centers, self._points._labelled().there)


def no_extremes(*shape: int) -> NDArray[np.uint64]:
    """Keys (2, ...) of least and largest values as they are before any was seen."""
    keys = np.zeros(shape, np.uint64)
    keys[0] = ~np.uint64(0)
    return keys


def extremes(keys: NDArray[np.uint64]) -> tuple[Floats, Floats]:
    """The doubles of such integers of their order (order_key in kernels/common.cuh); where none was seen, infinity and
    its negative."""
    sign = np.uint64(1 << 63)
    low, high = np.where(keys & sign, keys ^ sign, ~keys).view(np.float64)
    return np.where(keys[1] == 0, np.inf, low), np.where(keys[1] == 0, -np.inf, high)
