"""What the attributes of each estimator can hold: checked before they are saved, and before a file is believed.

One rule for both ways, so what was saved loads. Parameters may hold anything, as in memory: `fit` checks those. Of an
attribute that an estimator does not have by itself only the name is checked.
"""

from __future__ import annotations

import math
import reprlib
from dataclasses import dataclass, is_dataclass
from typing import Any, ClassVar

import numpy as np
from sklearn.base import BaseEstimator
from sklearn.utils.metadata_routing import MetadataRequest

from gpukmeans.exact.distance import LARGEST_MAGNITUDE
from gpukmeans.progress import Record

LARGEST_INT = 2**63 - 1  # of what is counted
FLOATS = (np.float64, np.float32, np.float16)


class RefusedError(Exception):
    """What is not saved or not loaded, and why; `save` and `load` add which file."""


class Sizes:
    """The lengths that values have in common: k clusters, d features, n samples; and which value told first."""

    WHAT: ClassVar = {"k": "clusters", "d": "features", "n": "samples"}

    def __init__(self) -> None:
        self._known: dict[str, tuple[str, Any]] = {}

    def agree(self, letter: str, length: Any, name: str) -> None:
        first, known = self._known.setdefault(letter, (name, length))
        if known != length:
            what = self.WHAT[letter]
            raise RefusedError(f"{name} is of {length} {what}, and {first} of {said(known)}")

    def __getitem__(self, letter: str) -> Any:
        return self._known[letter][1]


# ---------------------------------------------------------------- kinds of values


@dataclass(frozen=True)
class Whole:
    """An integer from least to most, which may be the number of something."""

    least: int = 0
    most: int = LARGEST_INT
    size: str = ""

    def check(self, name: str, value: Any, sizes: Sizes) -> None:
        if not isinstance(value, int | np.integer) or isinstance(value, bool) or not self.least <= value <= self.most:
            raise RefusedError(f"{name} is {said(value)}, and no integer from {self.least} to {self.most}")
        if self.size:
            sizes.agree(self.size, int(value), name)


@dataclass(frozen=True)
class Real:
    """A float from least to most, not NaN."""

    least: float = 0.0
    most: float = math.inf
    or_none: bool = False

    def check(self, name: str, value: Any, sizes: Sizes) -> None:
        if value is None and self.or_none:
            return
        if not isinstance(value, float | np.floating) or not self.least <= value <= self.most:
            raise RefusedError(f"{name} is {said(value)}, and no float from {self.least} to {self.most}")


@dataclass(frozen=True)
class Constant:
    """One string."""

    value: str

    def check(self, name: str, value: Any, sizes: Sizes) -> None:
        if type(value) is not str or value != self.value:
            raise RefusedError(f"{name} is {said(value)}, and not {self.value}")


@dataclass(frozen=True)
class Array:
    """An array of one of the dtypes, in either order of bytes, whose values lie within [least, most]; not NaN.

    shape: lengths, or letters of Sizes. A letter as ``most``: below that many.
    """

    dtypes: tuple[type, ...]
    shape: tuple[int | str, ...]
    least: float
    most: float | str

    def check(self, name: str, value: Any, sizes: Sizes) -> None:
        if not isinstance(value, np.ndarray) or value.dtype.newbyteorder("=") not in self.dtypes:
            what = f"an array of {value.dtype}" if isinstance(value, np.ndarray) else said(value)
            raise RefusedError(
                f"{name} is {what}, and no array of {' or '.join(each.__name__ for each in self.dtypes)}"
            )
        _check_shape(name, value.shape, self.shape, sizes)
        with np.errstate(invalid="ignore"):
            least, most = value.min().item(), value.max().item()  # NaN if there is any
        limit = sizes[self.most] - 1 if isinstance(self.most, str) else self.most
        if not (self.least <= least and most <= limit):
            raise RefusedError(f"{name} has values from {least} to {most}, beyond {self.least} to {limit}")


@dataclass(frozen=True)
class Names:
    """An array of strings as Python objects, of the shape (size,)."""

    size: str

    def check(self, name: str, value: Any, sizes: Sizes) -> None:
        if (
            not isinstance(value, np.ndarray)
            or value.dtype != object
            or any(type(each) is not str for each in value.flat)
        ):
            raise RefusedError(f"{name} is {said(value)}, and no array of strings as objects")
        _check_shape(name, value.shape, (self.size,), sizes)


@dataclass(frozen=True)
class Fields:
    """A dict of these names, all of them there."""

    kinds: dict[str, Any]

    def check(self, name: str, value: Any, sizes: Sizes) -> None:
        if type(value) is not dict or value.keys() != self.kinds.keys():
            raise RefusedError(f"{name} is {said(value)}, and no dict of {', '.join(self.kinds)}")
        for field, kind in self.kinds.items():
            kind.check(f"{name}.{field}", value[field], sizes)


class Records:
    """A list of records, of a fit's or any other public kind."""

    def check(self, name: str, value: Any, sizes: Sizes) -> None:
        if type(value) is not list or not all(is_dataclass(type(each)) for each in value):
            raise RefusedError(f"{name} is {said(value)}, and no list of records")
        for i, each in enumerate(value):
            if type(each) is Record:
                RECORD.check(f"{name}.{i}", vars(each), sizes)


class Output:
    """What `set_output` asked for."""

    def check(self, name: str, value: Any, sizes: Sizes) -> None:
        if type(value) is not dict or any(type(each) is not str for each in value.values()):
            raise RefusedError(f"{name} is {said(value)}, and no dict of strings")


# ---------------------------------------------------------------- what each class has

RECORD = Fields(
    {"start": Whole(), "iteration": Whole(), "inertia": Real(or_none=True), "changed": Whole(), "shift": Real()}
)

SCIKIT_LEARN = {
    "n_features_in_": Whole(1, size="d"),
    "feature_names_in_": Names("d"),
    "_sklearn_output_config": Output(),
}

FITTED = {
    # Of values up to LARGEST_MAGNITUDE a mean may round beyond it. What is larger has no squared distances.
    "cluster_centers_": Array(FLOATS, ("k", "d"), -2 * LARGEST_MAGNITUDE, 2 * LARGEST_MAGNITUDE),
    "labels_": Array((np.int32,), ("n",), 0, "k"),
    "inertia_": Real(),
    "n_iter_": Whole(1),
    "_n_init": Whole(1),
}

# Steps make further generators, which take nothing beyond 32 bits.
STEPS = {
    "n_steps_": Whole(0, 2**32 - 1),
    "_seed_drawn": Whole(0, 2**31 - 2),
    "_counts": Array((np.float64,), ("k",), 0, float(np.finfo(np.float64).max)),
    "_since_reassignment": Whole(),
}

ATTRIBUTES: dict[str, dict[str, Any]] = {
    "KMeans": {**SCIKIT_LEARN, **FITTED, "history_": Records()},
    "MiniBatchKMeans": {**SCIKIT_LEARN, **FITTED, **STEPS, "_init_size": Whole(1)},
}

# What means nothing without others.
NEEDS = {
    **{name: {"cluster_centers_"} for name in ("labels_", "inertia_", "n_iter_")},
    **{name: {"cluster_centers_", *STEPS} for name in STEPS},
}

# Of MT19937, which reads key[pos] unless pos is 624: then it makes 624 new ones.
GENERATOR = Fields(
    {
        "bit_generator": Constant("MT19937"),
        "state": Fields({"key": Array((np.uint32,), (624,), 0, 2**32 - 1), "pos": Whole(0, 624)}),
        "has_gauss": Whole(0, 1),
        "gauss": Real(-float(np.finfo(np.float64).max), float(np.finfo(np.float64).max)),
    }
)


def check_attributes(estimator: type[BaseEstimator], parameters: dict[str, Any], attributes: dict[str, Any]) -> None:
    """Raise RefusedError for attributes that an estimator with these parameters cannot have, or not together."""
    for name in attributes:
        dunder = name.startswith("__") and name.endswith("__")
        if dunder or name in parameters or any(name in vars(each) for each in estimator.__mro__):
            raise RefusedError(f"an attribute named {said(name)} would hide what {estimator.__name__} has by that name")
    sizes = Sizes()
    kinds = ATTRIBUTES.get(estimator.__name__, {})
    if attributes.keys() & {name for name, kind in kinds.items() if "k" in getattr(kind, "shape", ())}:
        k = parameters["n_clusters"]
        sizes.agree("k", int(k) if isinstance(k, int | np.integer) else said(k), "n_clusters")
    for name in sorted(attributes.keys() & kinds.keys() & NEEDS.keys()):
        missing = sorted(NEEDS[name] - attributes.keys())
        if missing:
            raise RefusedError(f"it has {name} without {', '.join(missing)}")
    for name, kind in kinds.items():
        if name in attributes:
            kind.check(name, attributes[name], sizes)
    if kinds and "_metadata_request" in attributes:
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
        raise RefusedError(f"_metadata_request is {said(requests)}, and no requests for metadata")
    possible = estimator().get_metadata_routing()._serialize()
    for method, asked in requests._serialize().items():
        unknown = sorted(asked.keys() - possible.get(method, {}).keys())
        if unknown:
            raise RefusedError(f"_metadata_request asks for {said(unknown)}, which {method} does not take")


def said(value: Any) -> str:
    """A value in a message, however large it is."""
    return reprlib.repr(value)


def _check_shape(name: str, shape: tuple[int, ...], wanted: tuple[int | str, ...], sizes: Sizes) -> None:
    if len(shape) != len(wanted) or 0 in shape:
        raise RefusedError(f"{name} has the shape {said(shape)}, and not ({', '.join(map(str, wanted))})")
    for length, each in zip(shape, wanted, strict=True):
        if isinstance(each, str):
            sizes.agree(each, length, name)
        elif length != each:
            raise RefusedError(f"{name} has the shape {said(shape)}, and not ({', '.join(map(str, wanted))})")
