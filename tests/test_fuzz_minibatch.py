"""MiniBatchKMeans on data of every kind: steps against tests/reference.py, and whole fits in several ways. See
test_fuzz.py."""

from __future__ import annotations

import math
import warnings

import fuzz
import numpy as np
import pytest
from fuzz_checks import answers, assert_consistent, assert_near, kept
from fuzz_ways import Way, ways
from hypothesis import strategies as st
from reference import Reference, normalized

from gpukmeans import MiniBatchKMeans

pytestmark = pytest.mark.filterwarnings("ignore:.*should be larger than n_clusters.*:RuntimeWarning")


def step(batch, centers, counts):
    """The centers (k, d) after a batch, whose clusters' weights are added to the counts (k,); and its inertia to the
    next, as the batch's dtype has them."""
    reference = Reference(*kept(batch), batch.metric, batch.sparse)
    for c, cluster in reference.clusters(reference.labels(centers)).items():
        cluster = reference.certified(cluster)
        weight = math.ldexp(cluster.weight, -reference.shift)
        if weight == 0:
            continue
        counts[c] += weight
        share = weight / counts[c]
        moved = cluster.mean if share == 1 else centers[c] + (cluster.mean - centers[c]) * share
        centers[c] = reference.center(moved, centers[c])
    centers = centers.astype(batch.dtype).astype(float) + 0.0
    return centers, reference.inertia(reference.labels(centers), centers)


def test_steps_on_batches_are_the_reference(explore, devices_under_test):
    def check(problem, sizes, way):
        start = problem.start("rows")
        model = MiniBatchKMeans(
            problem.k, init=start, n_init=1, reassignment_ratio=0.0, metric=problem.metric, device=way.device
        )
        centers = start.astype(float) + 0.0
        centers, counts = normalized(centers) if problem.metric == "cosine" else centers, np.zeros(problem.k)
        for batch in [problem, *(problem.batch(size) for size in sizes)]:
            with way.taken():
                model.partial_fit(batch.x, sample_weight=batch.weights)
                assert_consistent(model, batch, hull=problem.rows)
            centers, inertia = step(batch, centers, counts)
            assert np.asarray(model.cluster_centers_).tobytes() == centers.astype(batch.dtype).tobytes()
            assert model._counts.tolist() == counts.tolist()
            assert_near(model.inertia_, inertia, batch)

    explore(
        check,
        150,
        problem=fuzz.problems(),
        sizes=st.lists(st.integers(1, 50), max_size=3),
        way=ways(devices_under_test),
    )


def test_a_fit_on_batches_gives_one_answer(explore, devices_under_test):
    def check(problem, init, way, **parameters):
        init = problem.start("rows") if init == "array" else init
        found = []
        for each in (Way(), way):
            model = MiniBatchKMeans(
                problem.k, init=init, max_iter=3, metric=problem.metric, device=each.device, **parameters
            )
            with each.taken(), warnings.catch_warnings():
                warnings.simplefilter("ignore", RuntimeWarning)  # several starts from one array
                model.fit(problem.x, sample_weight=problem.weights)
                assert_consistent(model, problem)
            found.append((answers(model), model.n_steps_, model.n_iter_))
        assert found[0] == found[1]

    explore(
        check,
        100,
        problem=fuzz.problems(),
        init=st.sampled_from(["k-means++", "random", "k-means||", "array"]),
        n_init=st.sampled_from([1, 2, "auto"]),
        batch_size=st.integers(1, 60),
        init_size=st.sampled_from([None, 1, 20]),
        tol=st.sampled_from([0.0, 1e-4, 0.1]),
        max_no_improvement=st.sampled_from([None, 0, 10]),
        reassignment_ratio=st.sampled_from([0.0, 0.01, 10.0]),
        random_state=st.integers(0, 2**31 - 1),
        way=ways(devices_under_test),
    )
