"""The GPU's side of seeding: D to the closest center so far, sampling weights of it, and rows by inverse-CDF index.

In k-means++ each step's decisions need sums over all rows. `accept_drawn` lets the device make them, by the same
integers as gpukmeans/seeding.py, so that steps follow each other and nobody waits. Each row has an owner then, its
closest center so far. When candidates are found, so is how far they are from these centers, and no row is read whose
owner is nearer to it than it could be to any of them. Of the others a copy of the rows in bytes, where it pays, and
then float32 say which candidates may be closer, and D is computed of these pairs alone (`ByteRows`, `Filter`).
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gpukmeans.engine.cuda import seeding_bytes
from gpukmeans.engine.cuda import seeding_kernels as kernels
from gpukmeans.engine.cuda.device import Gpu
from gpukmeans.engine.cuda.kernels import SparseRows, with_norms
from gpukmeans.engine.cuda.seeding_bytes import ByteRows
from gpukmeans.engine.cuda.seeding_filter import FilterPlan, width_of
from gpukmeans.engine.cuda.seeding_kernels import DeviceScale, Filter, Limits, SamplingWeights, padded, run_count
from gpukmeans.exact.direct_bound import DirectBound
from gpukmeans.exact.distance import Floats
from gpukmeans.exact.fixed_point import SUM_BITS, Weights, ceil_log2

ByteFrame = Callable[[], tuple[Floats, float]]


class Seeds:
    """What seeding knows of n rows that weigh w (n,), None if all weigh one, on the device. Methods are those of
    Points, and take the rows x (n, d) on the device.

    closest_dist_sq: (n,) float64 D to the closest center so far, None before the first.
    """

    def __init__(self, gpu: Gpu, w: Any, weights: Weights) -> None:
        self._gpu, self._weights = gpu, w
        self._weight_scale = 2.0**weights.exponent
        # Bits of an int64 sum that the total weight leaves to D at its scale, see fixed_point.power_for.
        self._spare_bits = SUM_BITS - ceil_log2(weights.total)
        self._bound: DirectBound | None = None
        self._plan: FilterPlan | None = None  # of the bound, once it was asked for
        self._width = 0  # of filters; it only grows, so that few are compiled
        self.restart()

    def bounded_by(self, bound: DirectBound | None) -> None:
        """Where pairs may be left out from now on; None: nowhere. Else the rows are dense."""
        self._bound, self._plan = bound, None

    def restart(self) -> None:
        self.closest_dist_sq: Any = None
        self._scale: float | None = None  # of the sampling weights that prefix sums are of; None: weights alone
        self._found: tuple[bytes, int] | None = None  # the row found last, if it was one, and its number
        # The row that is the only center, if it was found
        # (test_kernel_seeding.test_the_device_goes_on_from_a_center_that_it_found fails if another was).
        self._first_row: int | None = None

    def _sampling(self, scale: float | DeviceScale | None) -> SamplingWeights:
        """Weight times D at that scale, or for None the weight alone."""
        closest_dist_sq = None if scale is None else self.closest_dist_sq
        return SamplingWeights(
            weights=self._weights,
            weight_scale=self._weight_scale,
            closest_dist_sq=closest_dist_sq,
            scale=1.0 if scale is None else scale,
        )

    def _filter(self, x: Any, m: int, candidates: Floats | None) -> Filter | None:
        """For m candidates, given (m, d) or to be found."""
        if self._bound is None:
            return None
        if self._plan is None:
            self._plan = FilterPlan.of(self._gpu, self._bound, x.shape[1])
        gpu, plan = self._gpu, self._plan
        width = self._width = max(self._width, width_of(m))
        if candidates is None:
            table = gpu.zeros(plan.size(m, width), np.float32)
        else:
            table = gpu.put(plan.table(candidates, width))
        return Filter(plan=plan, width=width, table=table, doubts=gpu.empty(len(x), np.uint16))

    def _bytes(self, x: Any, m: int, steps: int, byte_frame: ByteFrame) -> ByteRows | None:
        """The copy of rows by which steps of m candidates leave most out; None where none pays, or none has room."""
        n, d = x.shape
        if self._bound is None or not seeding_bytes.pays(n, d, x.dtype.itemsize, m, steps):
            return None
        gpu = self._gpu
        offset, scale = byte_frame()
        with suppress(MemoryError):
            rows = gpu.empty((n, seeding_bytes.depth(d) // 4), np.uint32)
            made = ByteRows(rows, gpu.empty(n, np.int32), gpu.empty(n, np.float32), scale, d)
            kernels.byte_rows(gpu, x=x, offset=gpu.put(offset), made=made, m=m)
            return made
        return None

    # ------------------------------------------------------------ steps that the host decides

    def total(self, n: int, exponent: int | None) -> int:
        self._scale = None if exponent is None else 2.0**exponent
        answer, self._prefix = self._gpu.empty(1, np.uint64), self._gpu.empty(run_count(n), np.uint64)
        kernels.run_sums(self._gpu, n=n, sampling=self._sampling(self._scale), sums=self._prefix)
        kernels.prefix_sums(self._gpu, sums=self._prefix, totals=answer, step=0)
        return int(self._gpu.get(answer)[0])

    def find(self, x: Any, indices: list[int]) -> Floats:
        (_, d), m, width = x.shape, len(indices), padded(len(indices))
        size = d + isinstance(x, SparseRows)
        answers = self._gpu.empty(size * width + m, np.float64)  # one array, which comes down at once
        kernels.find(
            self._gpu,
            x=x,
            sampling=self._sampling(self._scale),
            prefix=self._prefix,
            indices=self._gpu.put(np.array(indices, np.int64)),
            candidates=answers[: size * width].reshape(size, width),
            candidate_rows=answers[size * width :].view(np.int64),
        )
        host = self._gpu.get(answers)
        found = np.ascontiguousarray(host[: d * width].reshape(d, width)[:, :m].T)
        self._found = (found.tobytes(), int(host[size * width :].view(np.int64)[0])) if m == 1 else None
        return found

    def propose(self, x: Any, candidates: Floats) -> None:
        m = len(candidates)
        measured = with_norms(x, candidates)
        columns = np.zeros((measured.shape[1], padded(m)))
        columns[:, :m] = measured.T
        self._candidates, self._columns = candidates, self._gpu.put(columns)

    def potentials(self, x: Any, exponent: int) -> list[int]:
        """What each candidate would leave."""
        sums = self._gpu.zeros(len(self._candidates) + 1, np.uint64)
        given = {"x": x, "sampling": self._sampling(2.0**exponent), "candidates": self._columns, "sums": sums}
        filtered = self._filter(x, len(self._candidates), self._candidates)
        if filtered is None:
            kernels.potentials(self._gpu, **given)
        else:
            kernels.filtered_potentials(self._gpu, **given, filtered=filtered)
        *changes, before = self._gpu.get(sums).view(np.int64).tolist()
        return [before + change for change in changes]

    def accept(self, x: Any, candidate: int, memory: Any) -> float:
        """memory: (n,) float64 for `closest_dist_sq`, should this be the first."""
        first = self.closest_dist_sq is None
        closest_dist_sq = memory if first else self.closest_dist_sq
        largest = self._gpu.zeros(1, np.uint64)
        kernels.accept_center(
            self._gpu,
            x=x,
            candidates=self._columns,
            candidate=candidate,
            first=first,
            closest_dist_sq=closest_dist_sq,
            largest=largest,
        )
        self.closest_dist_sq = closest_dist_sq
        found = self._found if first else None
        self._first_row = found[1] if found and found[0] == self._candidates[candidate].tobytes() else None
        return self._largest(largest)

    def accept_all(self, x: Any, centers: Floats, labels: Any) -> float:
        largest, device = self._gpu.zeros(1, np.uint64), self._gpu.put(with_norms(x, centers))
        closest_dist_sq = self.closest_dist_sq
        kernels.accept_all(
            self._gpu, x=x, centers=device, labels=labels, closest_dist_sq=closest_dist_sq, largest=largest
        )
        return self._largest(largest)

    def _largest(self, answer: Any) -> float:
        return float(self._gpu.get(answer).view(np.float64)[0])

    # ------------------------------------------------------------ steps that the device decides

    def accept_drawn(
        self, x: Any, draws: Floats, farthest: float, byte_frame: ByteFrame
    ) -> tuple[Floats, NDArray[np.uint64], Floats]:
        """draws (steps, m) of k-means++ after its first center; farthest: the largest D to that. byte_frame(): what
        seeding_bytes.frame says of dense rows.

        Returns, for the steps made, centers (made, d), and for these and the next the total sampling weight and the
        largest D that remain: (made + 1,), or (steps,) and (steps + 1,). A step whose total is zero, and all after it,
        are not made. Should memory run out, steps may have been made.

        A step is an iteration of seeding.greedy, whose lines stand beside what does the same here. Of equal
        candidates, which that leaves out, the first is kept here too: they tie.
        """
        gpu, (n, d) = self._gpu, x.shape
        steps, m = draws.shape
        if self._first_row is None or steps == 0:
            return np.empty((0, d)), np.empty(0, np.uint64), np.array([farthest])
        # Made in all steps: totals (steps,), and the largest D left before each and after the last, as its bits.
        remaining = np.zeros(2 * steps + 1)
        remaining[steps] = farthest
        center_rows = np.zeros(steps + 1, np.int64)
        center_rows[0] = self._first_row
        uniforms, center_rows, remaining = gpu.put(draws), gpu.put(center_rows), gpu.put(remaining)
        totals, largest = remaining[:steps].view(np.uint64), remaining[steps:].view(np.uint64)
        centers, owners = gpu.empty((steps, d), np.float64), gpu.zeros(n, np.int32)
        # Made in each: prefix sums, the candidates, and by candidate and owner the D up to which rows are left out.
        prefix, indices = gpu.empty(run_count(n), np.uint64), gpu.empty(m, np.int64)
        size = d + isinstance(x, SparseRows)
        candidates, candidate_rows = gpu.zeros((size, padded(m)), np.float64), gpu.empty(m, np.int64)
        limit_of_pair = gpu.empty((steps, padded(m)), np.float64)
        cleared = gpu.empty(m + 1 + steps, np.uint64)
        change_sums, least_limits = cleared[: m + 1], cleared[m + 1 :]
        filtered = self._filter(x, m, None)
        if filtered is not None:
            filtered = replace(filtered, bytes=self._bytes(x, m, steps, byte_frame))

        for i in range(steps):
            scale = DeviceScale(largest=largest, step=i, spare_bits=self._spare_bits)
            sampling = self._sampling(scale)
            limits = Limits(center_rows=center_rows, owners=i + 1, by_candidate=limit_of_pair, least=least_limits)
            # scale = exponent(farthest); total = sampler.total(scale)
            kernels.run_sums(gpu, n=n, sampling=sampling, sums=prefix)
            # ... and [inverse_cdf_index(u, total) for u in uniforms]
            kernels.prefix_sums(
                gpu,
                sums=prefix,
                totals=totals,
                step=i,
                draws=uniforms,
                indices=indices,
                cleared=cleared[: m + 1 + i + 1],
            )
            # candidates = sampler.find(...)
            kernels.find(
                gpu,
                x=x,
                sampling=sampling,
                prefix=prefix,
                indices=indices,
                candidates=candidates,
                candidate_rows=candidate_rows,
                limits=limits,
                filtered=filtered,
            )
            # sampler.potentials(scale), in _least_potential
            given = {
                **{"x": x, "sampling": sampling, "candidates": candidates},
                **{"sums": change_sums, "owners": owners, "least": least_limits},
            }
            if filtered is not None and filtered.bytes is not None:
                kernels.byte_doubts(
                    gpu,
                    bytes=filtered.bytes,
                    closest_dist_sq=self.closest_dist_sq,
                    candidate_rows=candidate_rows,
                    totals=totals,
                    step=i,
                    limits=limits,
                    doubts=filtered.doubts,
                    owners=owners,
                )
            if filtered is None:
                kernels.potentials(gpu, **given)
            else:
                kernels.filtered_potentials(gpu, **given, filtered=filtered)
            # chosen = _least_potential(...); centers.append(candidates[chosen]); farthest = sampler.accept(chosen)
            kernels.accept_least(
                gpu,
                x=x,
                candidates=candidates,
                candidate_rows=candidate_rows,
                sums=change_sums,
                totals=totals,
                step=i,
                limits=limits,
                closest_dist_sq=self.closest_dist_sq,
                owners=owners,
                centers=centers,
                largest=largest,
                doubts=None if filtered is None else filtered.doubts,
            )
        self._first_row = None
        host = gpu.get(remaining)
        totals = host[:steps].view(np.uint64)
        made = int(np.count_nonzero(totals))  # zero stays zero
        return gpu.get(centers)[:made], totals[: made + 1], host[steps : steps + made + 1]
