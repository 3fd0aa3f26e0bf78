"""When a block of threads is sooner done with a whole fit (whole_fits.cu) than the whole GPU by its launches: by count.

A fit by launches waits in each iteration for the host to decide (`speculation_state.HOST`) and in each step of
k-means++ for launches, however small it is; a block waits for neither, but has one multiprocessor to itself. Counts are
those of the machine code for sm_90, to which test_estimate.test_a_block_has_the_instructions_of_the_table holds them;
what they say of a GPU was never measured.
"""

from __future__ import annotations

import numpy as np

from gpukmeans.engine.cuda.device import BLOCK
from gpukmeans.engine.cuda.problem_kernels import MOST_HELD, candidates, fits, framed_words
from gpukmeans.engine.cuda.speculation_state import HOST, ITERATIONS
from gpukmeans.engine.protocol import seeding_trials

# Values of a problem at most, as of its rows each thread has some.
MOST_VALUES = 2**22

# Centers whose scores a thread makes together.
GROUP = 8

# Instructions of a thread: of a pair of row and center for its score's place among the best two, and for each feature
# of the pair, where features are held in registers, and where they are read for each group of centers.
CHOOSE, HELD, READ = 6, 1.25, 52 / 32

# Features up to which what a block reads for a group is still in the first-level cache for the next: 100 kB.
NEAR = 100 * 1024 // (4 * BLOCK)

# And of k-means++, for each feature of a row: measured to four candidates, and to the one that is taken. Of float64,
# DOUBLES operations a candidate.
MEASURE, TAKE, DOUBLES = 34, 9, 3

# Launches of a step of k-means++, and seconds of each.
STEP, LAUNCH = 5, 3e-6

# Of a multiprocessor, assumed: the slowest clock of GPUs that are counted, and the least that any does in a clock:
# instructions of threads, multiply-adds of float32, bytes of the second-level cache, operations of float64 where there
# are many (device.TENSOR_CORES) or few.
CLOCK, ISSUED, PRODUCTS, CACHE, MANY_DOUBLES, FEW_DOUBLES = 1.4e9, 128, 64, 24, 32, 2


def iteration(n: int, d: int, k: int, dtype: np.dtype) -> tuple[float, float]:
    """Instructions, and bytes of the second-level cache, of an iteration over all rows."""
    groups, width = -(-k // GROUP), d + -d % 4
    held = d <= MOST_HELD
    instructions = n * groups * GROUP * (CHOOSE + width * (HELD if held else READ))
    return instructions, n * (d * dtype.itemsize if held else 4 * width * (1 if width <= NEAR else groups))


def seeding_step(n: int, d: int, k: int) -> tuple[float, float]:
    """Instructions, and operations of float64, of a center of k-means++."""
    measured = candidates(seeding_trials(k))
    return n * d * (MEASURE * measured / 4 + TAKE), n * d * DOUBLES * (measured + 1)


def waits(d: int, k: int) -> float:
    """Clocks, assumed, that nothing hides in an iteration or a step of k-means++: barriers, and sums that a thread has
    for itself, over features and over centers."""
    return 3000 + 60 * d * -(-k // BLOCK) + 10 * k


def memory(n: int, d: int, k: int, dtype: np.dtype, iterations: int) -> int:
    """Bytes of the device's that one start takes: rows, and in the frame where threads do not hold them; a label, and
    its distance to the closest center; and what is told of so many iterations."""
    return n * (d * dtype.itemsize + 4 + 8) + 4 * framed_words(n, d) + 8 * (1 + k) * iterations


def sooner(n: int, d: int, k: int, dtype: np.dtype, starts: int, *, multiprocessors: int, tensor_cores: bool) -> bool:
    """Whether a block to each start is, and has room: of a fit as it may be, by k-means++ and in ITERATIONS.
    tensor_cores: of Gpu."""
    if n * d > MOST_VALUES or not fits(k, d, seeding_trials(k), tensor_cores=tensor_cores):
        return False
    instructions, cached = iteration(n, d, k, dtype)
    products = n * d * (k + -k % GROUP)
    # One more for labels as they are published, and another for least and largest values and the inertia.
    clocks = (ITERATIONS + 2) * (max(instructions / ISSUED, products / PRODUCTS, cached / CACHE) + waits(d, k))
    instructions, doubles = seeding_step(n, d, k)
    rate = MANY_DOUBLES if tensor_cores else FEW_DOUBLES
    clocks += (k - 1) * (max(instructions / ISSUED, doubles / rate) + waits(d, k))
    rounds = -(-starts // multiprocessors)
    return rounds * clocks / CLOCK + 3 * HOST <= starts * (ITERATIONS * HOST + (k - 1) * STEP * LAUNCH)
