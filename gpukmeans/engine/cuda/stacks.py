"""Small problems on a GPU, a block to each, or to each start of one: one launch fits all of them to their end, and the
host waits for that alone (whole_fits.cu)."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gpukmeans.engine.cuda import compile, families, problem_kernels, whole_fit_plans
from gpukmeans.engine.cuda.compile import Module
from gpukmeans.engine.cuda.device import Gpu
from gpukmeans.engine.cuda.problem_kernels import ProblemArrays
from gpukmeans.engine.protocol import (
    MakeStarts,
    StackDoubt,
    StackLabels,
    StackLog,
    Stacks,
    StackScales,
    seeding_trials,
)
from gpukmeans.exact.distance import Floats
from gpukmeans.exact.fixed_point import Ints, Weights, ceil_log2

# Of frames, as exact.certificate.Frame has them: of ranges so many bits from one, of float32 data only so many smaller.
_SCALE_BITS, _SINGLE_BITS = 380, 126

# A block does some 64 products of scores a cycle, and a fit by itself waits some 2**16 cycles an iteration for its
# launches, by count: up to so many pairs' products a problem is sooner done by a block (benchmarks/NOTES.md).
_WORK = 2**22

# Values of a stack at most: 1 GB of float32, with as much again for what is kept of rows.
_STACKED = 2**28


def stacks_on_gpu(cp: Any) -> Stacks:
    """What makes a Stack on the current GPU."""

    def make(
        xs: Sequence[Any], weights: Sequence[Any], summaries: Sequence[Weights], k: int, rows: Any
    ) -> CudaStack | None:
        lengths = [len(x) for x in xs]
        n, d = max(lengths), xs[0].shape[1]
        gpu = Gpu(cp, ())
        few = n * d <= whole_fit_plans.MOST_VALUES and n * d * k <= _WORK * min(len(xs), gpu.multiprocessors)
        if not few or not problem_kernels.fits(k, d, seeding_trials(k), tensor_cores=gpu.tensor_cores):
            return None
        return CudaStack(cp, np.concatenate(xs) if rows is None else rows, lengths, weights, summaries)

    return Stacks(make, mixed=True, values=_STACKED)


# Starts of small fits that a process makes by launches before it compiles whole_fits.cu, which takes NVRTC some four
# seconds where each start gains a millisecond. Once that is on disk, nobody waits.
WORTH_COMPILING = 2**8

_starts_so_far = 0


def starts_on_gpu(cp: Any, x: Any, k: int, starts: int) -> MakeStarts | None:
    """What makes a Stack of starts of one problem on the current GPU, see `dispatch.make_starts`."""
    n, d = x.shape
    if n * d > whole_fit_plans.MOST_VALUES:
        return None
    gpu = Gpu(cp, ())

    def sooner(dtype: Any) -> bool:
        return whole_fit_plans.sooner(
            *(n, d, k, np.dtype(dtype), starts), multiprocessors=gpu.multiprocessors, tensor_cores=gpu.tensor_cores
        )

    if not sooner(np.uint8):  # before all rows are looked at
        return None
    kept = narrowed(x)
    if not sooner(kept.dtype):
        return None

    def make(_: Any, weights: Any, *how: Any) -> CudaStarts | None:
        global _starts_so_far
        module = Module("whole_fits", (*_options(kept, weights), *problem_kernels.options(d)))
        if _starts_so_far < WORTH_COMPILING and not compile.at_hand(cp, module):
            _starts_so_far += starts
            return None
        return CudaStarts(cp, kept, weights, *how)

    return make


def _options(x: Any, weights: Any) -> tuple[str, ...]:
    return *families.row_options(x.dtype, False), *families.weight_options(None if weights is None else weights.dtype)


def narrowed(x: Any) -> Any:
    """Rows in the narrowest dtype that holds their values, all of which D reads alike: a block waits for their bytes.
    Those on the device stay as they are."""
    if not isinstance(x, np.ndarray) or x.dtype != np.float64:
        return x
    with np.errstate(invalid="ignore", over="ignore"):  # of values that are beyond, or are none
        for dtype in (np.uint8, np.float32):
            if (x[:1].astype(dtype) == x[:1]).all():
                narrow = x.astype(dtype)
                # test_whole_fits.test_values_that_no_narrower_dtype_holds_stay_as_they_are fails without
                if (narrow == x).all():
                    return narrow
    return x


class CudaStack:
    """x: (m, d) of all problems, one after another, in host memory or on the device, where it is used in place.
    lengths: (b,), how many rows each has. weights: of each, all int64, all float64, or all None."""

    _starts = False  # whether all fits are of the only problem
    _room = 0  # iterations that are told of
    _stays = False  # whether labels stay on the device

    def __init__(
        self, cp: Any, x: Any, lengths: Sequence[int], weights: Sequence[Any], summaries: Sequence[Weights]
    ) -> None:
        self.weights: Sequence[Weights] = summaries
        self._gpu = Gpu(cp, _options(x, weights[0]))
        self._given, self._single = x, x.dtype != np.float64
        self._x = self._gpu.put(x)
        self._w = None if weights[0] is None else self._gpu.put(np.concatenate(weights))
        self._of_problem = [slice(a, b) for a, b in pairwise([0, *np.cumsum(lengths).tolist()])]
        pairs = zip(summaries, weights, strict=True)
        # What sums count the weight of each row as, and of all.
        self._integer_weights = [None if own is None else of.integer_weights(own) for of, own in pairs]
        self.totals: Sequence[int] = [
            n if own is None else int(own.sum()) for n, own in zip(lengths, self._integer_weights, strict=True)
        ]
        firsts = [rows.start for rows in self._of_problem]
        self._counts = self._gpu.put(np.array([firsts, lengths, self.totals], np.int64).T)

    def find(self, problem: int, indices: list[int]) -> Floats:
        weights, rows = self._integer_weights[problem], self._on_host[self._of_problem[problem]]
        at = indices if weights is None else np.searchsorted(np.cumsum(weights), indices, side="right")
        return rows[at].astype(np.float64)

    @cached_property
    def _on_host(self) -> NDArray[Any]:
        return self._gpu.get(self._given) if self._gpu.holds(self._given) else self._given

    def feature_range(self) -> tuple[Floats, Floats]:
        b, d = len(self._counts), self._x.shape[1]
        ranges = self._gpu.empty((b, 2, d), np.float64)
        problem_kernels.problem_ranges(self._gpu, x=self._x, counts=self._counts, ranges=ranges)
        found = self._gpu.get(ranges)
        return found[:, 0], found[:, 1]

    def prepare(self, scales: StackScales, doubt: StackDoubt) -> None:
        offset, factor = self._frames(scales.low, scales.high)
        summaries = self.weights[: len(self._counts)]
        numbers = (
            doubt.limit,
            doubt.most_variance,
            factor,
            [2.0**own.exponent for own in summaries],
            [2.0 * own.fractions for own in summaries],
            [ceil_log2(own.total) for own in summaries],
            [ceil_log2(own.copies) for own in summaries],
            doubt.widest,
        )
        known = np.column_stack([*numbers, *scales, offset]).astype(np.float64)
        self._arrays = ProblemArrays(self._counts, self._gpu.put(known))

    def _frames(self, low: Floats, high: Floats) -> tuple[Floats, Floats]:
        """Offset (b, d) and scale (b,) of scores: `Frame.of` without a sample; 0 where they do not serve."""
        offset = low + (high - low) / 2
        if self._single:
            offset = offset.astype(np.float32).astype(np.float64)
        largest = np.maximum(high - offset, offset - low).max(axis=1)
        mantissa, exponent = np.frexp(largest)
        bits = np.where(largest > 0, (mantissa == 0.5) - exponent, 0)
        if self._single:
            bits = np.minimum(bits, _SINGLE_BITS)
        serves = np.abs(bits) <= _SCALE_BITS
        return offset, np.where(serves, np.ldexp(1.0, np.where(serves, bits, 0)), 0.0)

    def fit(
        self, centers: Floats, first: Floats, draws: Floats, tol: float, max_iter: int
    ) -> tuple[Floats, NDArray[np.int64]]:
        gpu, (b, k, _) = self._gpu, centers.shape
        trials = draws.shape[2] if len(draws) else 0
        all_draws = gpu.put(np.column_stack([first, draws.reshape(b, -1)])) if trials else None
        rows = b * len(self._x) if self._starts else len(self._x)
        words = problem_kernels.framed_words(rows, self._x.shape[1])
        self._framed = gpu.empty(words, np.float32) if words else None
        # What comes down together lies together: what is found, and labels unless they stay; centers and iterations.
        self._found = gpu.empty(8 * b + (0 if self._stays else rows), np.int32)
        self._labels = gpu.empty(rows, np.int32) if self._stays else self._found[8 * b :]
        answers = gpu.empty(centers.size + b, np.float64)
        there, n_iter = answers[: centers.size].reshape(centers.shape), answers[centers.size :].view(np.int32)[:b]
        if not trials:
            gpu.write(there, centers)
        log = gpu.empty((self._room, b, 1 + k), np.int64) if self._room else None
        problem_kernels.fit_problems(
            gpu,
            x=self._x,
            weights=self._w,
            arrays=self._arrays,
            tol=tol,
            max_iter=max_iter,
            draws=all_draws,
            trials=trials,
            closest=gpu.empty(rows, np.float64) if trials else None,
            framed=self._framed,
            centers=there,
            labels=self._labels,
            n_iter=n_iter,
            starts=self._starts,
            log=log,
        )
        found = gpu.get(answers)
        taken = found[centers.size :].view(np.int32)[:b].astype(np.int64)
        if log is not None:
            self._told(gpu.get(log[: max(1, taken.max())]))
        return found[: centers.size].reshape(centers.shape), taken

    def _told(self, log: Ints) -> None:
        """Of `fit`: (iterations, b, 1 + k), as many as the longest took."""

    def publish(self, centers: Floats) -> StackLabels:
        gpu, words = self._gpu, 8 * len(centers)
        problem_kernels.publish_problems(
            gpu,
            x=self._x,
            weights=self._w,
            arrays=self._arrays,
            framed=self._framed,
            centers=gpu.put(centers),
            labels=self._labels,
            found=self._found[:words].view(np.int64),
            starts=self._starts,
        )
        found = gpu.get(self._found)
        measured: Ints = found[:words].view(np.int64).reshape(-1, 4)
        return StackLabels(self._of_each(self._labels if self._stays else found[words:]), *measured.T)

    def _of_each(self, labels: Any) -> Sequence[Any]:
        return [labels[rows] for rows in self._of_problem]


class CudaStarts(CudaStack):
    """Starts of one problem x (n, d), which is there once."""

    _starts = True
    log: StackLog

    def __init__(self, cp: Any, x: Any, weights: Any, summary: Weights, k: int, starts: int, room: int) -> None:
        super().__init__(cp, x, [len(x)], [weights], [summary])
        self.weights, self.totals, self._room = [summary] * starts, [*self.totals] * starts, room
        self._stays = self._gpu.holds(x)

    def find(self, problem: int, indices: list[int]) -> Floats:
        return super().find(0, indices)

    def _told(self, log: Ints) -> None:
        self.log = StackLog(log[:, :, 0].T, log[:, :, 1:].view(np.float64).transpose(1, 0, 2))

    def _of_each(self, labels: Any) -> Sequence[Any]:
        n = len(self._x)
        return [labels[a : a + n] for a in range(0, len(labels), n)]
