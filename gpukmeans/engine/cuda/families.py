"""Which modules of kernels a fit needs, and an answer, before they are asked for: by the kind of rows, and k."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import product

import numpy as np

from gpukmeans.engine.cuda import launch_plans, problem_kernels, seeding_bytes, seeding_filter, seeding_kernels
from gpukmeans.engine.cuda.compile import Module
from gpukmeans.engine.cuda.device import OWN_PRODUCTS, TENSOR_CORES
from gpukmeans.engine.cuda.tentative_labels import FEWEST_CENTERS, MOST_LISTED
from gpukmeans.engine.protocol import seeding_trials

X_KINDS = {"uint8": 0, "float16": 1, "float32": 2, "float64": 3}

# Families that are compiled for a type of weights.
SEEDING = ("kmeans_plusplus", "seeding_filter")
WEIGHED = ("refine", "cluster_sums", "exact_distance", *SEEDING)


def row_options(dtype: np.dtype, sparse: bool) -> tuple[str, ...]:
    """The compiler's, for rows of that dtype."""
    return (f"-DX_KIND={X_KINDS[dtype.name]}", *(("-DSPARSE=1",) if sparse else ()))


def weight_options(dtype: np.dtype | None) -> tuple[str, ...]:
    """The compiler's, for weights of that dtype, int64 or float64, or for none."""
    return (f"-DWEIGHT_KIND={0 if dtype is None else 1 if dtype == np.int64 else 2}",)


def of_a_fit(
    *,
    dtype: np.dtype,
    weights: np.dtype | None,
    n: int,
    d: int,
    k: int,
    sparse: bool,
    normalizes: bool,
    reused: bool,
    tensor_cores: bool,
    own_products: str | None,
) -> Iterator[Module]:
    """In the order in which they are needed. dtype: the rows' as they are given. weights: their dtype, or None.
    reused: as Samples has it; without, what `predict` needs. own_products: of device.OWN_PRODUCTS.

    Some fits need less; and cluster_sums, if sums are too coarse for a cluster. Others than `expected` compares rows by
    if their values have it so.
    """
    if normalizes:
        yield Module("normalize", row_options(dtype, sparse))
        dtype = np.dtype(np.float64)
    rows = row_options(dtype, sparse)
    weighed = (*rows, *weight_options(weights))
    yield Module("entry_range" if sparse else "feature_range", rows)
    if reused:
        yield Module("kmeans_plusplus", (*weighed, *seeding_kernels.options()))
        if not sparse:
            m = seeding_trials(k)
            if seeding_bytes.pays(n, d, dtype.itemsize, m, k - 1):
                yield Module("seeding_bytes", (*rows, *seeding_bytes.options(d, m)))
            yield Module("seeding_filter", (*weighed, *seeding_filter.options(seeding_filter.width_of(m))))
    yield Module("prepare_centers", rows)
    family, options = launch_plans.expected(d, k, dtype, sparse, tensor_cores)
    rows_of_half = launch_plans.half_rows(d) if family == "assign_tensor" else None
    own = launch_plans.own_products(own_products, d) if family == "assign_tensor" else None
    if own:
        yield Module(own.kernel, rows)
    elif rows_of_half is not None:
        yield Module("assign_half", (*rows, *launch_plans.half_options(rows_of_half)))
    yield Module(family, (*rows, *options))
    if not sparse and launch_plans.looks_closer(n, d, k, dtype):
        yield Module("assign_close", (*rows, *launch_plans.close_options(k)))
    yield Module("refine", weighed)
    if reused and not sparse and k >= FEWEST_CENTERS:
        yield Module("hamerly", (*rows, *launch_plans.hamerly_options(d)))
    if reused:
        yield Module("exact_distance", weighed)


def everything(
    dtypes: Iterable[str], features: Iterable[int], capability: str, *, cosine: bool, sparse: bool
) -> list[Module]:
    """What fits and answers of rows of these dtypes and numbers of features may need on such a GPU ("90"), whatever
    their values, weights and k. cosine, sparse: whether also by that metric, and of sparse rows."""
    found = {Module("probe", ()): None}
    kinds = product(dtypes, features, (None, np.int64, np.float64), {False, cosine}, {False, sparse})
    for name, d, weight, normalizes, of_entries in kinds:
        dtype, weights = np.dtype(name), None if weight is None else np.dtype(weight)
        kept = np.dtype(np.float64) if normalizes else dtype
        rows = row_options(kept, of_entries)
        weighed = (*rows, *weight_options(weights))
        found.update({Module(family, weighed): None for family in WEIGHED if family not in SEEDING})
        if not of_entries:
            found.update({Module("seeding_bytes", (*rows, *seeding_bytes.options(d, m))): None for m in (8, 16)})
            found.update(
                {Module("seeding_filter", (*weighed, *seeding_filter.options(w))): None for w in seeding_filter.WIDTHS}
            )
            if not normalizes:
                found[Module("whole_fits", (*weighed, *problem_kernels.options(d)))] = None
        for k in (*launch_plans.TILED_ROWS, launch_plans.FEWEST_TENSOR_CENTERS):
            modules = of_a_fit(
                dtype=dtype,
                weights=weights,
                n=MOST_LISTED,
                d=d,
                k=k,
                sparse=of_entries,
                normalizes=normalizes,
                reused=True,
                tensor_cores=capability in TENSOR_CORES,
                own_products=OWN_PRODUCTS.get(capability),
            )
            for module in modules:
                found[module] = None
                if module.family == "assign_tensor":
                    found[Module("assign_tensor", rows)] = None  # of float16 that are not about zero
                    # Where values lie too far apart for tensor cores.
                    family, options = launch_plans.expected(d, k, kept, of_entries, tensor_cores=False)
                    found[Module(family, (*rows, *options))] = None
    return list(found)
