"""When a block of threads is sooner done with a whole fit (whole_fits.cu) than the whole GPU by its launches: by count.

A fit by launches waits in each iteration for the host to decide (`speculation_state.HOST`) and in each step of
k-means++ for launches, however small it is; a block waits for neither, but has one multiprocessor to itself. Counts are
those of the machine code for sm_90, to which test_estimate.test_a_block_has_the_instructions_of_the_table holds them;
what they say of a GPU was never measured.
"""

from __future__ import annotations

import numpy as np

from gpukmeans.engine.cuda.problem_kernels import MOST_HELD, candidates
from gpukmeans.engine.cuda.speculation_state import HOST, ITERATIONS
from gpukmeans.engine.protocol import seeding_trials

# Values of a problem at most, as of its rows each thread has some.
MOST_VALUES = 2**22

# Centers whose scores a thread makes together.
GROUP = 8

# Instructions of a thread: of a pair of row and center for its score's place among the best two, and for each feature
# of the pair, where features are held in registers, and where they are read again for each group of centers.
CHOOSE, HELD, READ = 7, 1.3, {"uint8": 3.25, "float16": 5.1, "float32": 3.0, "float64": 3.1}

# And of k-means++, for each feature of a row: measured to four candidates, and to the one that is taken. Of float64,
# DOUBLES operations a candidate.
MEASURE, TAKE, DOUBLES = 34, 9.5, 3

# Launches of a step of k-means++, and seconds of each.
STEP, LAUNCH = 5, 3e-6

# Of a multiprocessor, assumed: the slowest clock of GPUs that are counted, and what is done in a clock: instructions of
# threads, bytes of the second-level cache, operations of float64 where there are many (device.TENSOR_CORES) or few.
CLOCK, ISSUED, CACHE, MANY_DOUBLES, FEW_DOUBLES = 1.4e9, 128, 24, 32, 2


def iteration(n: int, d: int, k: int, dtype: np.dtype) -> tuple[float, float]:
    """Instructions, and bytes of the second-level cache, of an iteration over all rows."""
    groups = -(-k // GROUP)
    held = d <= MOST_HELD
    features = (d + -d % 4) * (HELD if held else READ[dtype.name])
    return n * groups * GROUP * (CHOOSE + features), n * d * dtype.itemsize * (1 if held else groups)


def seeding_step(n: int, d: int, k: int) -> tuple[float, float]:
    """Instructions, and operations of float64, of a center of k-means++."""
    measured = candidates(seeding_trials(k))
    return n * d * (MEASURE * measured / 4 + TAKE), n * d * DOUBLES * (measured + 1)


def sooner(n: int, d: int, k: int, dtype: np.dtype, starts: int, *, multiprocessors: int, tensor_cores: bool) -> bool:
    """Whether a block to each start is: of a fit as it may be, by k-means++ and in ITERATIONS. tensor_cores: of Gpu."""
    if n * d > MOST_VALUES:
        return False
    instructions, cached = iteration(n, d, k, dtype)
    clocks = ITERATIONS * max(instructions / ISSUED, cached / CACHE)
    instructions, doubles = seeding_step(n, d, k)
    rate = MANY_DOUBLES if tensor_cores else FEW_DOUBLES
    clocks += (k - 1) * max(instructions / ISSUED, doubles / rate)
    rounds = -(-starts // multiprocessors)
    return rounds * clocks / CLOCK <= starts * (ITERATIONS * HOST + (k - 1) * STEP * LAUNCH)
