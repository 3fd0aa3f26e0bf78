"""scikit-learn's own tests of k-means, as installed, run on ours.

Their module is executed once more with our classes and functions in the place of theirs, so that what its decorators
capture is ours too. Its tests then stand in this module, and are collected as any others.
"""

from __future__ import annotations

import importlib.util
from types import ModuleType

import numpy as np
import pytest
import sklearn.cluster

import gpukmeans

HELPERS = "tests functions that are private to scikit-learn's implementation"
SEEDING = "calls their private _init_centroids; test_randomness.py and test_fixed_point.py ask the same of fit"

# Every other test of theirs runs. A name that they no longer have is an error.
NOT_OURS = {
    "test_relocate_empty_clusters": HELPERS,
    "test_minibatch_update_consistency": HELPERS,
    "test_minibatch_reassign": HELPERS,
    "test_euclidean_distance": HELPERS,
    "test_inertia": HELPERS,
    "test_is_same_clustering": HELPERS,
    "test_sample_weight_init": SEEDING,
    "test_sample_weight_zero": SEEDING,
}

OURS = ["KMeans", "MiniBatchKMeans", "k_means", "kmeans_plusplus"]


def their_tests() -> ModuleType:
    """Their test module, executed with our classes and functions under the names of theirs."""
    spec = importlib.util.find_spec("sklearn.cluster.tests.test_k_means")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    with pytest.MonkeyPatch.context() as patch:
        for name in OURS:
            patch.setattr(sklearn.cluster, name, getattr(gpukmeans, name))
        spec.loader.exec_module(module)
    return module


THEIRS = {name: test for name, test in vars(their_tests()).items() if name.startswith("test_")}
globals().update({name: test for name, test in THEIRS.items() if name not in NOT_OURS})


def test_the_names_left_out_are_names_of_theirs():
    assert NOT_OURS.keys() <= THEIRS.keys()


def test_the_others_use_ours():
    """Or else they would pass whatever ours does."""
    for name in THEIRS.keys() - NOT_OURS.keys():
        code = THEIRS[name].__code__
        used = {*code.co_names, *code.co_varnames[: code.co_argcount]}
        assert used & {*OURS, "Estimator", "Klass"}, name


# ---------------------------------------------------------------- what their conftest.py gives


@pytest.fixture(params=[42, 0, 1, 2])
def global_random_seed(request):
    """42 is what they run by default; they mean each test to pass with any seed below 100."""
    return request.param


@pytest.fixture(params=[np.float32, np.float64])
def global_dtype(request):
    return request.param


@pytest.fixture(autouse=True)
def ours(device, monkeypatch):
    """The device under test."""
    monkeypatch.setenv("GPUKMEANS_DEVICE", device)
