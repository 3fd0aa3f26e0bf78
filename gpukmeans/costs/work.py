"""What each kernel of a fit has to do, by count: bytes, instructions, launches; and how long that takes at the least.

Counts of inner loops are of the machine code for sm_90, of assign_tcgen05 for sm_100 (held to the disassembly by the
tests of `estimate`); bytes are those that the heads of kernels/*.cu state. What is outside of inner loops, waits for
memory and for each other, and conflicts are not counted, so that kernels will take longer, by a third perhaps.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np

from gpukmeans.costs.devices import CACHE, MMA_SYNC, REACHED, TCGEN05_RATE, WGMMA_RATE, Sheet
from gpukmeans.engine.cuda import launch_plans, seeding_bytes, seeding_filter, whole_fit_plans
from gpukmeans.engine.cuda.device import OWN_PRODUCTS, SHARED, TENSOR_CORES
from gpukmeans.engine.cuda.launch_plans import TENSOR_CENTERS, TENSOR_ROWS, TILED_ROWS
from gpukmeans.engine.cuda.tentative_labels import FEWEST_CENTERS
from gpukmeans.engine.cuda.whole_fit_plans import LAUNCH
from gpukmeans.engine.protocol import seeding_trials

# Instructions of a thread that a multiprocessor begins in a clock: of four warps.
ISSUED = 128

# assign_tiled, a thread: instructions for eight features of its rows and centers, and multiply-adds of these, by the
# centers of a tile.
TILED = {16: (241, 16 * 8), 32: (379, 32 * 8), 64: (656, 64 * 8), 128: (621, 64 * 8)}

# assign_tensor, a warp: instructions for 16 features of 32 rows and 64 centers, and parts that values are split into,
# by the kind of rows; "at zero" of float16 about zero.
TENSOR = {"uint8": (280, 2), "float16": (392, 3), "at zero": (336, 2), "float32": (303, 3), "float64": (327, 3)}
TENSOR_PRODUCTS = 16 * 32 * 64

# assign_half, a warp: instructions for 16 features of 32 rows and 64 centers, or 32, by the rows of a block; of its
# choosing, a pair, what a score errs by among them. Assumed: the share of rows that it leaves in doubt.
HALF, HALF_CHOOSE, AGAIN = {128: (49, 32 * 64), 64: (35, 32 * 32)}, 9, 0.02
HALF_VALUE = 15  # to bring a row's value

# assign_wgmma, a warp: instructions for a slot, of 64 features of 16 rows and 128 centers, and those of the one warp of
# eight that has the next copied; of its choosing, of as many pairs.
WGMMA_SLOT, WGMMA_SENDS, WGMMA_CHOOSES, WGMMA_PAIRS = 65, 56, 642, 16 * 128

# assign_tcgen05, a warp: instructions to look at 32 rows and 64 centers, if none of them is near, and so many more for
# all four sixteens if one is in each; of a tile, of two of these; and of the warp that asks for products those of a
# slot of 64 features, and of a tile.
TCGEN05_LOOKS, TCGEN05_NEAR, TCGEN05_TILE, TCGEN05_SLOT, TCGEN05_ASKS = 156, 371, 99, 198, 54

# Both: a score's place among the best two, a thread.
CHOOSE = 5

# A square of D: of a row in `inertia`, in `accept_least` and of pairs in doubt in `filtered_potentials`.
INERTIA, ACCEPT = 104 / 16, 33 / 4
DOUBLES = 3  # operations of float64, of each

# filtered_potentials, a thread: instructions for four features of its rows and candidates, and pairs of these, by the
# kind of rows and the candidates that are looked at together. Of a pair its bound, and for each of four lanes that
# share a row two steps of a sum.
FILTER = {
    "uint8": {4: (240, 64), 8: (374, 128), 12: (273, 96), 16: (345, 128)},
    "float16": {4: (305, 64), 8: (442, 128), 12: (312, 96), 16: (377, 128)},
    "float32": {4: (195, 64), 8: (333, 128), 12: (249, 96), 16: (321, 128)},
    "float64": {4: (182, 32), 8: (256, 64), 12: (328, 96), 16: (395, 128)},
}
FILTER_BOUND, FILTER_SUM = 6, 2 * 2

# byte_doubts, a warp: instructions for 64 features of 32 rows, by columns of candidates; a thread: of a pair its bound.
# Assumed: of i centers, so many i-th parts of all rows are in doubt for any (benchmarks/NOTES.md). byte_rows: a value.
BYTES = {8: 49, 16: 73}
BYTES_BOUND, BYTES_DOUBT, BYTES_VALUE = 8, 4, 37

# Assumed: of i centers, a candidate is closer to half of an i-th part of the rows, the one that is kept to all of it
# (likewise: a third of it for noise, two for pixels).
CLOSER = 0.5


def low_dim_instructions(d: int) -> float:
    """assign_low_dim, a pair of row and center: of a group of 8 centers and a thread's rows d multiply-adds a pair, 12
    of each row for its best two, the group's values in loads of four, and the loop's own five."""
    rows = 4 if d <= 8 else 2
    return (8 * rows * d + 12 * rows + 2 * (d + 1) + 5) / (8 * rows)


def wgmma_instructions(depth: int) -> float:
    """assign_wgmma, a pair of row and center."""
    return 32 * ((WGMMA_SLOT + WGMMA_SENDS / 8) * depth / 64 + WGMMA_CHOOSES) / WGMMA_PAIRS


def tcgen05_instructions(depth: int, centers: int) -> float:
    """assign_tcgen05, a pair, of centers in an order that says nothing: the t-th sixteen has with a chance of 2 / t one
    of a row's best two so far, and is looked at if it has of one of 32."""
    t = np.arange(1, centers // 16 + 1)
    near = float(np.mean(1 - (1 - np.minimum(1, 2 / t)) ** 32))
    looks = 2 * (TCGEN05_LOOKS + TCGEN05_NEAR * near) + TCGEN05_TILE
    return 32 * looks / (32 * 128) + 32 * (TCGEN05_SLOT * depth / 64 + TCGEN05_ASKS) / (256 * 128)


@dataclass(frozen=True)
class Work:
    """Of one kernel. memory, cache: bytes to and from the device's memory, and its second-level cache. instructions:
    of threads. multiply_adds: of float32. doubles: operations of float64. products: of float16 on tensor cores."""

    kernel: str
    launches: int = 1
    memory: float = 0.0
    cache: float = 0.0
    instructions: float = 0.0
    multiply_adds: float = 0.0
    doubles: float = 0.0
    products: float = 0.0

    @property
    def operations(self) -> float:
        """Arithmetic, a multiply-add being two."""
        return 2 * self.multiply_adds + self.doubles + 2 * self.products

    def bounds(self, sheet: Sheet) -> dict[str, float]:
        """Seconds that each part of the device needs for it, if the others are faster."""
        share = {"assign_wgmma": WGMMA_RATE, "assign_tcgen05": TCGEN05_RATE}.get(self.kernel, MMA_SYNC)
        tensor = sheet.tensor * (share if sheet.capability in ("90", "100") else 1.0)
        return {
            "memory": self.memory / (REACHED * sheet.bandwidth),
            "the second-level cache": self.cache / (CACHE * sheet.clocks),
            "instructions": self.instructions / (ISSUED * sheet.clocks),
            "float32 arithmetic": self.multiply_adds / (sheet.multiply_adds * sheet.clocks),
            "float64 arithmetic": self.doubles / (sheet.doubles * sheet.clocks),
            "tensor cores": self.products / tensor,
        }

    def seconds(self, sheet: Sheet) -> float:
        return self.launches * LAUNCH + max(self.bounds(sheet).values())

    def bound_by(self, sheet: Sheet) -> str:
        bounds = self.bounds(sheet)
        largest = max(bounds, key=bounds.__getitem__)
        return largest if bounds[largest] > self.launches * LAUNCH else "launches"


@dataclass(frozen=True)
class Problem:
    """n dense rows of d features of that dtype, by k centers, on a device, without weights."""

    n: int
    d: int
    k: int
    dtype: np.dtype
    sheet: Sheet = field(repr=False)

    @property
    def row(self) -> int:
        """Bytes of a row."""
        return self.d * self.dtype.itemsize

    @property
    def lists(self) -> int:
        """Of rows in doubt, which are looked at once more."""
        family, _ = self._family
        of_one_product = family == "assign_tensor" and launch_plans.half_rows(self.d) is not None
        return of_one_product + launch_plans.looks_closer(self.n, self.d, self.k, self.dtype)

    @property
    def _family(self) -> tuple[str, tuple[str, ...]]:
        """The kernel that compares rows with centers, and its options."""
        return launch_plans.expected(self.d, self.k, self.dtype, False, self.sheet.capability in TENSOR_CORES)

    @property
    def kernel(self) -> str:
        """The one that compares most rows with centers."""
        family, _ = self._family
        if family != "assign_tensor" or launch_plans.half_rows(self.d) is None:
            return family
        own = launch_plans.own_products(OWN_PRODUCTS.get(self.sheet.capability), self.d)
        return own.kernel if own else "assign_half"

    def feature_range(self) -> Work:
        values = self.n * self.d
        return Work("feature_range", memory=self.n * self.row, instructions=5 * values)

    # ------------------------------------------------------------ k-means++

    @property
    def in_bytes(self) -> bool:
        """Whether steps of k-means++ read a copy of the rows in bytes."""
        m = seeding_trials(self.k)
        return seeding_bytes.pays(self.n, self.d, self.dtype.itemsize, m, self.k - 1)

    def byte_rows(self) -> Iterator[Work]:
        """The copy, if there is one."""
        n, d = self.n, self.d
        if self.in_bytes:
            written = n * (seeding_bytes.depth(d) + 8)
            yield Work("byte_rows", memory=n * self.row + written, instructions=BYTES_VALUE * n * d, doubles=5 * n * d)

    def seeding_step(self, share: float = 1.0) -> Iterator[Work]:
        """Of one center, the mean of all. share: of the rows that their owners do not leave out."""
        n, d, candidates = self.n, self.d, seeding_trials(self.k)
        taken = sum(1 / i for i in range(1, self.k)) / max(1, self.k - 1)
        width, lanes = seeding_filter.width_of(candidates), seeding_filter.lanes_of(d)
        depth = d + -d % (4 * lanes)
        instructions, pairs = FILTER[self.dtype.name][width]
        ends = FILTER_BOUND + (lanes * FILTER_SUM if lanes > 1 else 0)
        owned = candidates * (self.k - 1) / 2 * d  # values of the centers so far, to each candidate
        yield Work("run_sums", memory=8 * n, instructions=17 * n)
        yield Work("prefix_sums")
        yield Work("find", cache=owned * self.dtype.itemsize, instructions=ACCEPT * owned, doubles=DOUBLES * owned)
        looked = share * n
        doubted = CLOSER * taken * n * candidates  # pairs
        if self.in_bytes:
            bytes, columns = seeding_bytes.depth(d), seeding_bytes.columns(candidates)
            yield Work(
                "byte_doubts",
                memory=14 * n + looked * (bytes + 8),
                instructions=25 * n + looked * (BYTES[columns] * bytes / 64 + BYTES_BOUND * columns),
            )
            looked = min(looked, BYTES_DOUBT * taken * n)
        squares = looked * depth * width * -(-candidates // width)
        framed = 3 * looked * depth if self.dtype == np.float64 else 0
        yield Work(
            "filtered_potentials",
            memory=(2 * n + 10 * looked if self.in_bytes else 14 * n) + looked * self.row,
            instructions=squares * (instructions / pairs + ends / depth) + ACCEPT * doubted * d,
            multiply_adds=2 * squares,  # a difference takes as long
            doubles=DOUBLES * doubted * d + framed,
        )
        yield Work(
            "accept_least",
            memory=10 * n + taken * n * self.row,
            instructions=12 * n + ACCEPT * taken * n * d,
            doubles=DOUBLES * taken * n * d,
        )

    # ------------------------------------------------------------ an iteration

    def assignment(self, share: float = 1.0, first: bool = False, moved: float = 0.0) -> Iterator[Work]:
        """Of all rows, or by bounds of a share of them; `moved` of all change cluster, if not all, as in the first."""
        n, d, k = self.n, self.d, self.k
        yield Work("center_forms", memory=0, cache=44 * k * d)
        yield Work("movement")
        tables, comparisons = self._comparison(share * n)
        yield from tables
        if share < 1:
            # Of as many again the distance to the own center is taken, in vain.
            measured = 2 * share * n
            yield Work("hamerly", memory=8 * n + measured * (self.row + 8), instructions=9 * n + 10 * measured * d)
        yield from comparisons
        if launch_plans.looks_closer(n, d, k, self.dtype):
            yield Work("assign_close")  # which ends at once where few rows are in doubt
        changed = n if first else moved * n
        gathered = 8 * k * (d + 1) <= SHARED
        added = (1 if first else 2) * 8 * (d + 1) * changed
        yield Work(
            "refine",
            memory=8 * share * n + changed * (self.row + 4),
            cache=0 if gathered else added,
            instructions=12 * share * n + changed * d * (20 if first else 30),
        )

    def _comparison(self, rows: float) -> tuple[list[Work], list[Work]]:
        """What writes tables of the centers, if center_forms does not, and the kernels that compare rows with them."""
        d, k = self.d, self.k
        written = (12 if self.k >= FEWEST_CENTERS else 4) * rows
        family, options = self._family
        if family == "assign_low_dim":
            pairs = rows * (k + -k % 8)
            work = Work(
                family,
                memory=rows * self.row + written,
                instructions=pairs * low_dim_instructions(d),
                multiply_adds=pairs * d,
            )
            return [], [work]
        tensor = family == "assign_tensor"
        width = TENSOR_CENTERS if tensor else launch_plans.tile_width(k)
        tile = TENSOR_ROWS if tensor else TILED_ROWS[width]
        padded, depth = k + -k % width, d + -d % (16 if tensor else 8)
        in_block = launch_plans.half_rows(d) if tensor else None
        if in_block is not None:
            half_table, half = self._one_product(rows, padded, depth, in_block, written)
            rows, written = AGAIN * rows, AGAIN * written
        pairs = rows * padded
        # Rows cross the cache for each tile of centers, and centers, of 4 bytes a value, for each tile of rows.
        cache = rows * self.row * (padded // width) + rows / tile * padded * depth * 4
        memory = rows * self.row + written
        if tensor:
            instructions, parts = TENSOR["at zero" if options else self.dtype.name]
            work = Work(
                family,
                memory=memory,
                cache=cache,
                instructions=pairs * (32 * instructions * depth / TENSOR_PRODUCTS + CHOOSE),
                products=parts * pairs * depth,
            )
        else:
            instructions, products = TILED[width]
            work = Work(
                family,
                memory=memory,
                cache=cache,
                instructions=pairs * (instructions * depth / products + CHOOSE),
                multiply_adds=pairs * depth,
            )
        table = Work("tensor_table" if tensor else "tiled_table", cache=8 * padded * depth)
        return ([table], [work]) if in_block is None else ([table, half_table], [half, work])

    def _one_product(self, rows: float, padded: int, depth: int, in_block: int, written: float) -> tuple[Work, Work]:
        """The table of assign_half, and assign_half, whose blocks have so many rows in shared memory; or those of a
        kernel by the GPU's own instructions, where it serves."""
        d = self.d
        own = launch_plans.own_products(OWN_PRODUCTS.get(self.sheet.capability), d)
        if own:
            depth = own.features(d)
            each = wgmma_instructions(depth) if own.kernel == "assign_wgmma" else tcgen05_instructions(depth, padded)
            table = Work(own.kernel.replace("assign_", "") + "_table", cache=6 * padded * depth)
            work = Work(
                own.kernel,
                memory=rows * self.row + written,
                cache=rows * self.row + rows / own.rows * padded * depth * 2,
                instructions=rows * padded * each + HALF_VALUE * rows * depth,
                products=rows * padded * depth,
            )
            return table, work
        instructions, pairs = HALF[in_block]
        table = Work("half_table", cache=6 * padded * depth)
        work = Work(
            "assign_half",
            memory=rows * self.row + written,
            cache=rows * self.row + rows / in_block * padded * depth * 2,
            instructions=rows * padded * (32 * instructions * (depth / 16) / pairs + HALF_CHOOSE)
            + HALF_VALUE * rows * depth,
            products=rows * padded * depth,
        )
        return table, work

    def inertia(self) -> Work:
        values = self.n * self.d
        return Work(
            "inertia",
            memory=self.n * (self.row + 4),
            instructions=INERTIA * values,
            doubles=DOUBLES * values,
        )

    # ------------------------------------------------------------ a whole fit, by a block

    @property
    def whole(self) -> bool:
        """Whether a block fits it from seeding to end."""
        return whole_fit_plans.sooner(
            *(self.n, self.d, self.k, self.dtype, 1),
            multiprocessors=self.sheet.multiprocessors,
            tensor_cores=self.sheet.capability in TENSOR_CORES,
        )

    def of_block(self) -> Iterator[Work]:
        """On a multiprocessor, which is all that a block has: an iteration, and a step of k-means++, within one launch;
        and that of each of two other launches, least and largest values, and the inertia."""
        n, d, k = self.n, self.d, self.k
        instructions, cached = whole_fit_plans.iteration(n, d, k, self.dtype)
        yield Work("fit_problems", 0, cache=cached, instructions=instructions, multiply_adds=n * (k + -k % 8) * d)
        instructions, doubles = whole_fit_plans.seeding_step(n, d, k)
        yield Work("fit_problems", 0, cache=2 * n * self.row, instructions=instructions, doubles=doubles)
        yield Work("problem_ranges", cache=n * self.row, instructions=5 * n * d, doubles=2 * n * d)
        yield Work("publish_problems", cache=n * self.row, instructions=INERTIA * n * d, doubles=DOUBLES * n * d)

    # ------------------------------------------------------------ what nobody can beat

    def floor(self) -> float:
        """Seconds of comparing all rows with all centers: rows once at the memory's bandwidth, or one product for each
        feature of a pair at the rate of the faster arithmetic, both the data sheet's."""
        products = self.n * self.k * self.d
        fastest = max(self.sheet.tensor, self.sheet.multiply_adds * self.sheet.clocks)
        return max(self.n * self.row / self.sheet.bandwidth, products / fastest)
