"""What the attributes of each estimator can hold: checked before they are saved, and before a file is believed.

One rule for both ways, so what was saved loads. Parameters may hold anything, as in memory: `fit` checks those. Of an
attribute that an estimator does not have by itself only the name is checked.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from sklearn.base import BaseEstimator
from sklearn.utils.metadata_routing import MetadataRequest

from gpukmeans.exact.distance import LARGEST_MAGNITUDE
from gpukmeans.progress import Record
from gpukmeans.saving.rule_types import (
    MAX_INT,
    ArrayRule,
    DictRule,
    EachRule,
    FloatRule,
    IntegerRule,
    OutputRule,
    RecordsRule,
    RefusedError,
    Rule,
    Sizes,
    StringRule,
    StringsRule,
    describe_value,
)

FLOATS = (np.float64, np.float32, np.float16)

RECORD = DictRule(
    {
        "start": IntegerRule(),
        "iteration": IntegerRule(),
        "inertia": FloatRule(or_none=True),
        "changed": IntegerRule(),
        "shift": FloatRule(),
    }
)

SCIKIT_LEARN: dict[str, Rule] = {
    "n_features_in_": IntegerRule(1, size="d"),
    "feature_names_in_": StringsRule("d"),
    "_sklearn_output_config": OutputRule(),
}

FITTED: dict[str, Rule] = {
    # Of values up to LARGEST_MAGNITUDE a mean may round beyond it. What is larger has no squared distances.
    "cluster_centers_": ArrayRule(FLOATS, ("k", "d"), -2 * LARGEST_MAGNITUDE, 2 * LARGEST_MAGNITUDE),
    "labels_": ArrayRule((np.int32,), ("n",), 0, "k"),
    "inertia_": FloatRule(),
    "n_iter_": IntegerRule(1),
    "_n_init": IntegerRule(1),
}

# Steps make further generators, which take nothing beyond 32 bits.
STEPS: dict[str, Rule] = {
    "n_steps_": IntegerRule(0, 2**32 - 1),
    "_seed_drawn": IntegerRule(0, 2**31 - 2),
    "_counts": ArrayRule((np.float64,), ("k",), 0, float(np.finfo(np.float64).max)),
    "_since_reassignment": IntegerRule(),
}

# What `gpukmeans fit --scale` did to the columns of a file, for `gpukmeans predict` to do the same.
LEAST, LARGEST = float(np.finfo(np.float64).smallest_subnormal), float(np.finfo(np.float64).max)
SCALER: dict[str, Rule] = {
    "scaler_mean_": ArrayRule((np.float64,), ("d",), -LARGEST, LARGEST),
    "scaler_scale_": ArrayRule((np.float64,), ("d",), LEAST, LARGEST),
}

# Of many problems. Labels of a list have lengths of their own.
BATCHED: dict[str, Rule] = {
    "n_features_in_": IntegerRule(1, size="d"),
    "cluster_centers_": ArrayRule(FLOATS, ("b", "k", "d"), -2 * LARGEST_MAGNITUDE, 2 * LARGEST_MAGNITUDE),
    "labels_": EachRule(ArrayRule((np.int32,), ("b", "n"), 0, "k"), ArrayRule((np.int32,), (None,), 0, "k")),
    "inertia_": ArrayRule((np.float64,), ("b",), 0, math.inf),
    "n_iter_": ArrayRule((np.int64,), ("b",), 1, MAX_INT),
    "seeds_": ArrayRule((np.int64,), ("b",), 0, 2**31 - 2),
}

ATTRIBUTES: dict[str, dict[str, Rule]] = {
    "KMeans": {**SCIKIT_LEARN, **FITTED, **SCALER, "history_": RecordsRule(Record, RECORD)},
    "BatchedKMeans": BATCHED,
    "MiniBatchKMeans": {**SCIKIT_LEARN, **FITTED, **SCALER, **STEPS, "_init_size": IntegerRule(1)},
}

# What means nothing without others.
NEEDS = {
    **{name: {"cluster_centers_"} for name in ("labels_", "inertia_", "n_iter_", "seeds_")},
    **{name: {"cluster_centers_", *STEPS} for name in STEPS},
    **{name: {"cluster_centers_", *SCALER} for name in SCALER},
}

# Of MT19937, which reads key[pos] unless pos is 624: then it makes 624 new ones.
GENERATOR = DictRule(
    {
        "bit_generator": StringRule("MT19937"),
        "state": DictRule({"key": ArrayRule((np.uint32,), (624,), 0, 2**32 - 1), "pos": IntegerRule(0, 624)}),
        "has_gauss": IntegerRule(0, 1),
        "gauss": FloatRule(-float(np.finfo(np.float64).max), float(np.finfo(np.float64).max)),
    }
)


def check_attributes(estimator: type[BaseEstimator], parameters: dict[str, Any], attributes: dict[str, Any]) -> None:
    """Raise RefusedError for attributes that an estimator with these parameters cannot have, or not together."""
    for name in attributes:
        dunder = name.startswith("__") and name.endswith("__")
        if dunder or name in parameters or any(name in vars(each) for each in estimator.__mro__):
            hidden = f"what {estimator.__name__} has by that name"
            raise RefusedError(f"an attribute named {describe_value(name)} would hide {hidden}")
    sizes = Sizes()
    rules = ATTRIBUTES.get(estimator.__name__, {})
    if attributes.keys() & {name for name, rule in rules.items() if "k" in getattr(rule, "shape", ())}:
        k = parameters["n_clusters"]
        sizes.agree("k", int(k) if isinstance(k, int | np.integer) else describe_value(k), "n_clusters")
    for name in sorted(attributes.keys() & rules.keys() & NEEDS.keys()):
        missing = sorted(NEEDS[name] - attributes.keys())
        if missing:
            raise RefusedError(f"it has {name} without {', '.join(missing)}")
    for name, rule in rules.items():
        if name in attributes:
            rule.check(name, attributes[name], sizes)
    if rules and "_metadata_request" in attributes:
        _check_requests(estimator, attributes["_metadata_request"])


def check_generator(name: str, state: Any) -> None:
    """Raise RefusedError for what cannot be the state of a RandomState, ``get_state(legacy=False)``."""
    GENERATOR.check(name, state, Sizes())
    key = state["state"]["key"]
    if not (key[0] >> 31 or key[1:].any()):  # the state is one bit of the first
        raise RefusedError(f"{name}.state.key is zero, from which no other numbers come")


def _check_requests(estimator: type[BaseEstimator], requests: Any) -> None:
    """Of the arguments that the estimator's methods have, as ``set_fit_request`` and its like ask for."""
    if not isinstance(requests, MetadataRequest):
        raise RefusedError(f"_metadata_request is {describe_value(requests)}, and no requests for metadata")
    possible = estimator().get_metadata_routing()._serialize()
    for method, asked in requests._serialize().items():
        unknown = sorted(asked.keys() - possible.get(method, {}).keys())
        if unknown:
            raise RefusedError(f"_metadata_request asks for {describe_value(unknown)}, which {method} does not take")
