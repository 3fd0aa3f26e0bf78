"""What a fit would take on a GPU, predicted by count on a machine without one."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, replace
from numbers import Integral
from typing import Any

import numpy as np

from gpukmeans.array_interop import DTYPES
from gpukmeans.costs.devices import Sheet, sheet
from gpukmeans.costs.work import Problem, Work
from gpukmeans.engine.cuda import seeding_bytes, whole_fit_plans
from gpukmeans.engine.cuda.speculation_state import HOST, pays
from gpukmeans.engine.cuda.tentative_labels import FEWEST_CENTERS
from gpukmeans.engine.cuda.whole_fit_plans import LAUNCH

# Assumed of data whose clusters show, once the first few iterations are over: the share of rows that bounds leave to be
# compared with all centers, and of rows that change cluster. Of noise bounds leave all.
COMPARED, MOVED = 0.1, 0.02

# And of rows that k-means++ has to compare with candidates, where clusters lie apart (benchmarks/NOTES.md, 2026-11-24).
OWNED = 0.5

# Iterations whose rows all have to be compared, before bounds hold.
FULL = 2


@dataclass(frozen=True)
class KernelEstimate:
    """Of one kernel of an iteration. seconds: predicted. bound_by: what keeps it from being faster."""

    kernel: str
    seconds: float
    bound_by: str
    work: Work


@dataclass(frozen=True)
class Estimate:
    """What `gpukmeans.estimate` predicts. Nothing of it is measured.

    Attributes
    ----------
    device, n_samples, n_features, n_clusters, dtype, n_iter
        What it was asked for.
    seconds_per_iteration : float
        Of one that compares all rows with all centers, as the first do.
    seconds_per_pruned_iteration : float
        Of a later one, whose bounds leave a tenth of the rows to be compared (that depends on the data).
    seconds_of_seeding : float
        Of k-means++, in which no row can be left out by its closest center.
    seconds_of_owned_seeding : float
        Of k-means++ where half of the rows are, as of clusters that lie apart.
    seconds_of_fit : float
        Of k-means++ and ``n_iter`` iterations, of rows that are on the device; kernels are compiled already.
    seconds_to_send : float
        That rows take from the host's memory, before that.
    floor : float
        Seconds of an iteration of rows and products of the data sheet's best, which no program can beat that computes
        all products.
    memory : int
        Bytes of the device's memory that a fit takes, rows among them.
    bytes_per_iteration, operations_per_iteration : int
        To and from the device's memory; arithmetic, a multiply-add being two.
    bytes_down : int
        That cross the bus in an iteration; none go up.
    bound_by : str
        What keeps an iteration over all rows from being faster.
    kernels : tuple of KernelEstimate
        Those of such an iteration.
    whole : bool
        Whether a block of threads fits it in one launch, from k-means++ to the end, as what is small. Nothing is
        pruned then, and what crosses the bus does so in the end.
    """

    device: str
    n_samples: int
    n_features: int
    n_clusters: int
    dtype: str
    n_iter: int
    seconds_per_iteration: float
    seconds_per_pruned_iteration: float
    seconds_of_seeding: float
    seconds_of_owned_seeding: float
    seconds_of_fit: float
    seconds_to_send: float
    floor: float
    memory: int
    bytes_per_iteration: int
    operations_per_iteration: int
    bytes_down: int
    bound_by: str
    kernels: tuple[KernelEstimate, ...]
    whole: bool

    def __str__(self) -> str:
        few = self.n_clusters < FEWEST_CENTERS
        pruned = "all rows compared, of so few centers" if few else f"{COMPARED:.0%} of rows compared"
        pruned = "all rows compared, by a block that fits it whole" if self.whole else pruned
        lines = [
            f"{self.n_samples:,} x {self.n_features} {self.dtype}, {self.n_clusters:,} clusters, on {self.device}: "
            "predicted by count, not measured",
            _line("an iteration over all rows", _time(self.seconds_per_iteration), f"bound by {self.bound_by}"),
            _line("  its floor", _time(self.floor), "rows once, one product a feature, by the data sheet"),
            _line("a pruned iteration", _time(self.seconds_per_pruned_iteration), pruned),
            _line("k-means++", _time(self.seconds_of_seeding), "no row left out"),
            _line("  clusters apart", _time(self.seconds_of_owned_seeding), f"{1 - OWNED:.0%} of rows left out"),
            _line(f"a fit of {self.n_iter} iterations", _time(self.seconds_of_fit), "rows on the device"),
            _line("rows from the host", _time(self.seconds_to_send), "before that"),
            _line("memory", f"{self.memory / 2**30:.2f} GiB", "of the device"),
            _line("an iteration moves", f"{self.bytes_per_iteration / 1e9:.3g} GB", "of the device's memory"),
            _line("  across the bus", f"{self.bytes_down / 1e3:.3g} kB", "down"),
            _line("  computes", f"{self.operations_per_iteration / 1e9:.3g} Gflop", ""),
        ]
        lines += [_line(f"  {found.kernel}", _time(found.seconds), found.bound_by) for found in self.kernels]
        return "\n".join(lines)


def estimate(
    shape: tuple[int, int],
    n_clusters: int,
    *,
    dtype: Any = "float32",
    device: str = "H200",
    n_iter: int = 30,
) -> Estimate:
    """Predict what a fit of `KMeans` takes on a GPU that need not be here.

    The kernels' bytes, instructions and launches are counted, and divided by what the device's data sheet promises, or
    nearly (gpukmeans/costs/). Expect up to a third more, and look at what bounds it rather than at the digits.

    Parameters
    ----------
    shape : tuple of int
        (n_samples, n_features) of dense samples without weights.
    n_clusters : int
    dtype : dtype-like, default="float32"
        Of the samples. Any but uint8, float16, float32 and float64 is computed in float64.
    device : {"A100", "H100", "H200", "B200", "L4", "RTX 4090"}, default="H200"
    n_iter : int, default=30
        Iterations of the fit.

    Returns
    -------
    estimate : Estimate
        Printed, it is a table.

    Raises
    ------
    ValueError
        For another device, or numbers that are not positive.

    Examples
    --------
    >>> import gpukmeans
    >>> found = gpukmeans.estimate((1_000_000, 128), 1024, device="H200")
    >>> found.bytes_down
    8216
    >>> found.seconds_per_iteration > found.floor
    True
    """
    n, d = shape
    for name, value in (("n_samples", n), ("n_features", d), ("n_clusters", n_clusters), ("n_iter", n_iter)):
        if not isinstance(value, Integral) or value < 1:
            raise ValueError(f"{name} must be a positive integer, got {value!r}.")
    if n < n_clusters:
        raise ValueError(f"n_samples={n} should be >= n_clusters={n_clusters}.")
    kept = np.dtype(dtype) if np.dtype(dtype) in DTYPES else np.dtype(np.float64)
    problem = Problem(int(n), int(d), int(n_clusters), kept, sheet(device))
    return _estimated(problem, int(n_iter))


def _estimated(problem: Problem, n_iter: int) -> Estimate:
    return _whole(problem, n_iter) if problem.whole else _by_launches(problem, n_iter)


def _by_launches(problem: Problem, n_iter: int) -> Estimate:
    n, k, device = problem.n, problem.k, problem.sheet
    first = list(problem.assignment(first=True))
    full = list(problem.assignment(moved=MOVED))
    pruned = list(problem.assignment(share=COMPARED, moved=MOVED)) if k >= FEWEST_CENTERS else full
    one, later = _iteration(problem, full, n), _iteration(problem, pruned, n if pruned is full else COMPARED * n)
    copy = _seconds(device, problem.byte_rows())
    seeding, owned = (copy + (k - 1) * _seconds(device, problem.seeding_step(share)) for share in (1.0, OWNED))
    begin = _seconds(device, [problem.feature_range()]) + _iteration(problem, first, n)
    end = one + _seconds(device, [problem.inertia()])  # by centers that were rounded
    full_ones = min(FULL, n_iter) - 1
    kernels = _kernels(full, device)
    return Estimate(
        **_asked(problem, n_iter),
        seconds_per_iteration=one,
        seconds_per_pruned_iteration=later,
        seconds_of_seeding=seeding,
        seconds_of_owned_seeding=owned,
        seconds_of_fit=begin + seeding + full_ones * one + (n_iter - 1 - full_ones) * later + end,
        memory=memory(problem),
        bytes_per_iteration=int(sum(work.memory for work in full)),
        operations_per_iteration=int(sum(work.operations for work in full)),
        bytes_down=bytes_down(k),
        bound_by=_bound(problem, kernels),
        kernels=kernels,
        whole=False,
    )


def _whole(problem: Problem, n_iter: int) -> Estimate:
    """A launch fits, and before and after one other; each is waited for."""
    n, d, k = problem.n, problem.d, problem.k
    alone = replace(problem.sheet, multiprocessors=1)
    iteration, step, ranges, publish = problem.of_block()
    waits = whole_fit_plans.waits(d, k) / alone.clock
    one, seeding = iteration.seconds(alone) + waits, (k - 1) * (step.seconds(alone) + waits)
    rest = ranges.seconds(alone) + LAUNCH + publish.seconds(alone) + 3 * HOST
    kernels = _kernels([iteration], alone)
    return Estimate(
        **_asked(problem, n_iter),
        seconds_per_iteration=one,
        seconds_per_pruned_iteration=one,
        seconds_of_seeding=seeding,
        seconds_of_owned_seeding=seeding,
        seconds_of_fit=seeding + (n_iter + 1) * one + rest,
        memory=whole_fit_plans.memory(n, d, k, problem.dtype, n_iter),
        bytes_per_iteration=0,
        operations_per_iteration=int(iteration.operations),
        bytes_down=8 * (1 + k),
        bound_by="waits" if waits > one / 2 else kernels[0].bound_by,
        kernels=kernels,
        whole=True,
    )


def _asked(problem: Problem, n_iter: int) -> dict[str, Any]:
    """What an Estimate says of the problem itself."""
    return {
        "device": problem.sheet.name,
        "n_samples": problem.n,
        "n_features": problem.d,
        "n_clusters": problem.k,
        "dtype": problem.dtype.name,
        "n_iter": n_iter,
        "seconds_to_send": problem.n * problem.row / problem.sheet.bus,
        "floor": problem.floor(),
    }


def _kernels(works: Iterable[Work], device: Sheet) -> tuple[KernelEstimate, ...]:
    return tuple(KernelEstimate(work.kernel, work.seconds(device), work.bound_by(device), work) for work in works)


def _seconds(device: Sheet, works: Iterable[Work]) -> float:
    return sum(work.seconds(device) for work in works)


def _iteration(problem: Problem, works: Iterable[Work], compared: float) -> float:
    """With what it waits for the host, which waits meanwhile where iterations begin before they are asked for."""
    there = _seconds(problem.sheet, works)
    return max(there, HOST) if pays(int(compared), problem.d, problem.k, problem.kernel) else there + HOST


def _bound(problem: Problem, kernels: Iterable[KernelEstimate]) -> str:
    """By what most of the time goes by."""
    seconds: dict[str, float] = defaultdict(float)
    for found in kernels:
        seconds[found.bound_by] += found.seconds
    seconds["the host"] = HOST
    return max(seconds, key=seconds.__getitem__)


def _line(what: str, figure: str, why: str) -> str:
    return f"{what:<28}{figure:>12}  {why}".rstrip()


def _time(seconds: float) -> str:
    """In three digits, by a unit that leaves some in front of the point."""
    for unit, size in (("s", 1.0), ("ms", 1e-3)):
        if seconds >= size:
            return f"{seconds / size:.3g} {unit}"
    return f"{seconds * 1e6:.3g} us"


# ---------------------------------------------------------------- what does not depend on the device


def bytes_down(k: int) -> int:
    """In an iteration: three counts, and how far each center goes."""
    return 8 * (3 + k)


def memory(problem: Problem) -> int:
    """Bytes at once: rows; of each row, in an iteration, two labels, its place on a list, and on the lists of rows in
    doubt, where there are any, and eight bytes of bounds; or before, if that is more, the closest distance, an owner,
    doubts, and the copy in bytes, where seeding makes one. Of each value of the centers sums and centers, float64
    both, and what kernels read of them."""
    iterated = 4 * (3 + problem.lists) + 8
    seeded = 8 + 4 + 2 + (seeding_bytes.depth(problem.d) + 8 if problem.in_bytes else 0)
    return problem.n * (problem.row + max(iterated, seeded)) + problem.k * problem.d * (8 + 8 + 8 + 4 + 4 + 8)
