"""Files that were made to harm or mislead: each is refused by name, or is as good as one that was saved."""

from __future__ import annotations

import itertools
import json
from collections.abc import Callable, Iterator
from copy import deepcopy
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hostile_files import FITTED, MAKE, X, archive, files, loaded, members, path, used, with_metadata

import gpukmeans
from gpukmeans import KMeans, MiniBatchKMeans

__all__ = ["files", "path"]  # fixtures


# ---------------------------------------------------------------- damage


@pytest.mark.parametrize("name", MAKE)
def test_a_part_of_a_file_is_refused(name: str, files: dict[str, bytes], path: Path) -> None:
    whole = files[name]
    for length in range(0, len(whole), 64):
        assert loaded(path, whole[:length]) is None, length


@pytest.mark.parametrize("name", FITTED)
def test_a_flipped_bit_is_refused_or_changes_nothing(name: str, files: dict[str, bytes], path: Path) -> None:
    """Checksums guard what is in the members; what they do not guard, such as dates, nobody reads."""
    whole = files[name]
    refused = 0
    for bit in np.random.default_rng(1).integers(0, 8 * len(whole), 400).tolist():
        changed = bytearray(whole)
        changed[bit // 8] ^= 1 << bit % 8
        model = loaded(path, bytes(changed))
        if model is None:
            refused += 1
        else:
            model.save(path)
            assert path.read_bytes() == whole, bit
    assert refused > 300


# ---------------------------------------------------------------- what contradicts itself


def attributes(**values: Any) -> Callable[[dict[str, Any]], Any]:
    return lambda metadata: metadata["attributes"].update(values)


def without(*names: str) -> Callable[[dict[str, Any]], Any]:
    return lambda metadata: [metadata["attributes"].pop(name) for name in names]


def parameters(**values: Any) -> Callable[[dict[str, Any]], Any]:
    return lambda metadata: metadata["parameters"].update(values)


def record(**values: Any) -> Callable[[dict[str, Any]], Any]:
    return lambda metadata: metadata["attributes"]["history_"][1]["record"][1]["dict"].update(values)


def generator(**values: Any) -> Callable[[dict[str, Any]], Any]:
    return lambda metadata: metadata["parameters"]["random_state"]["RandomState"]["dict"].update(values)


def key(**values: Any) -> Callable[[dict[str, Any]], Any]:
    def change(metadata: dict[str, Any]) -> None:
        metadata["parameters"]["random_state"]["RandomState"]["dict"]["state"]["dict"].update(values)

    return change


def nothing(metadata: dict[str, Any]) -> None:
    pass


KEY = np.random.RandomState(5).get_state()[1]
STATE = "random_state.state.key"

# file, change of its metadata, arrays in place of its own, and what the message says
CONTRADICTIONS: list[tuple[str, Callable[[dict[str, Any]], Any], dict[str, Any], str]] = [
    # a generator that would be read beyond its key, or is none
    *[("everything", key(pos=pos), {}, r"pos is .*, and no integer from 0 to 624")
      for pos in (1_000_000, 1000, 625, -1, -5, 10**400, 3.0, True, None, "3", [3])],
    *[("everything", nothing, {STATE: array}, "key") for array in (
        KEY[:623], KEY.reshape(2, 312), KEY.astype(np.int64), KEY.astype(np.float64), np.full(624, np.nan), KEY[:0],
        np.zeros(624, np.uint32), np.array([2**31 - 1] + [0] * 623, np.uint32), np.repeat(KEY, 2))],
    *[("everything", generator(has_gauss=value), {}, "has_gauss") for value in (2, -1, True, None, 0.0)],
    *[("everything", generator(gauss=value), {}, "gauss") for value in (float("nan"), float("inf"), None, "0.0", 0)],
    *[("everything", generator(bit_generator=value), {}, "bit_generator is") for value in ("PCG64", None, ["MT19937"])],
    ("everything", generator(more=1), {}, "no dict of bit_generator, state, has_gauss, gauss"),
    ("everything", generator(state={"dict": {"pos": 3}}), {}, "no dict of key, pos"),
    ("everything", generator(state=[1, 2]), {}, "no dict of key, pos"),
    # centers
    *[(name, nothing, {"cluster_centers_": array}, message) for name in FITTED for array, message in (
        (X[:3].astype(complex), "an array of complex128"),
        (X[:3].astype(int), "an array of int64, and no array of float64 or float32 or float16"),
        (X[:3].astype("S"), "an array of |S"),
        (X[:3] > 0, "an array of bool"),
        (X[:3].astype(np.longdouble), "an array of float128"),
        (np.full((3, 3), np.nan), "values from nan to nan"),
        (np.where(np.eye(3) > 0, np.inf, X[:3]), "to inf, beyond"),
        (np.where(np.eye(3) > 0, -np.inf, X[:3]).astype(np.float32), "from -inf to"),
        (np.full((3, 3), 1e200), "1e.200"),
        (X[:2], "cluster_centers_ is of 2 clusters, and n_clusters of 3"),
        (X[:4], "cluster_centers_ is of 4 clusters"),
        (X[:0], r"the shape \(0, 3\)"),
        (X[:3, :2], "cluster_centers_ is of 2 features, and n_features_in_ of 3"),
        (X[:3, 0], r"the shape \(3,\), and not \(k, d\)"),
        (X[:3, None], r"the shape \(3, 1, 3\)"))],
    # labels
    *[(name, nothing, {"labels_": array}, message) for name in FITTED for array, message in (
        (np.full(40, 3, np.int32), "from 3 to 3, beyond 0 to 2"),
        (np.arange(-1, 3, dtype=np.int32), "from -1 to 2, beyond 0 to 2"),
        (np.full(40, 2**31 - 1, np.int32), "2147483647"),
        (np.zeros(40), "an array of float64"),
        (np.zeros(40, np.int64), "an array of int64"),
        (np.zeros(40, np.uint32), "an array of uint32"),
        (np.zeros((40, 1), np.int32), r"the shape \(40, 1\)"),
        (np.zeros((), np.int32), r"the shape \(\)"),
        (np.zeros(0, np.int32), r"the shape \(0,\)"))],
    # numbers
    *[(name, attributes(**{attribute: value}), {}, f"{attribute} is")
      for name in FITTED for attribute in ("n_iter_", "n_features_in_", "_n_init")
      for value in (0, -1, 10**400, 2**63, 1.0, True, None, "1", [1], float("nan"))],
    *[("batches", attributes(**{attribute: value}), {}, f"{attribute} is")
      for attribute in ("n_steps_", "_seed_drawn", "_since_reassignment", "_init_size")
      for value in (-1, 10**400, 1.0, True, None, "1", float("nan"))],
    ("batches", attributes(n_steps_=2**32), {}, "n_steps_ is"),
    ("batches", attributes(_seed_drawn=2**31 - 1), {}, "_seed_drawn is"),
    *[(name, attributes(inertia_=value), {}, "inertia_ is")
      for name in FITTED for value in (-1.0, float("nan"), -float("inf"), None, "1", 3, True, [1.0])],
    *[(name, attributes(n_features_in_=4), {}, "and n_features_in_ of 4") for name in FITTED],
    *[(name, parameters(n_clusters=value), {}, "clusters, and n_clusters of")
      for name in FITTED for value in (4, -3, 0, 10**400, None, "3", [3], 3.5, float("nan"))],
    *[("batches", nothing, {"_counts": array}, "_counts") for array in (
        np.ones(4), np.ones((3, 1)), np.ones(3, int), np.ones(3, np.float32), -np.ones(3), np.full(3, np.nan),
        np.full(3, np.inf))],
    # names of features
    *[("everything", attributes(feature_names_in_=value), {}, "feature_names_in_") for value in (
        {"objects": ["x", "y"], "shape": [2]}, {"objects": ["x", "y", 3], "shape": [3]}, ["x", "y", "z"], "xyz", None,
        {"objects": ["x", "y", "z"], "shape": [3, 1]}, {"objects": [None] * 3, "shape": [3]})],
    # history
    *[(name, attributes(history_=value), {}, "history_") for name in ("everything", "cosine")
      for value in (None, {"dict": {}}, [1], [[]], "record", {"tuple": []}, ["x" * 10**5])],
    *[("everything", record(**{field: value}), {}, rf"history_\.1\.{field} is")
      for field in ("start", "iteration", "changed") for value in (-1, 10**400, 1.0, True, None, "1", float("nan"))],
    *[("everything", record(**{field: value}), {}, rf"history_\.1\.{field} is")
      for field in ("shift", "inertia") for value in (-1.0, float("nan"), "1", True, 10**400)],
    ("everything", record(shift=None), {}, "shift is None"),
    # what stands alone
    *[(name, attributes(cluster_centers_=None), {}, "") for name in FITTED],
    *[(name, without("cluster_centers_"), {}, r"holds \['cluster_centers_.npy'\]") for name in FITTED],
    *[(name, without("n_features_in_", "cluster_centers_", "labels_"), {}, "") for name in FITTED],
    *[("batches", without(name), {}, f"without {name}") for name in ("_seed_drawn", "n_steps_", "_since_reassignment")],
    # what would hide what the class has
    *[(name, attributes(**{attribute: 3}), {}, f"'{attribute}' would hide what") for name in MAKE
      for attribute in ("predict", "fit", "save", "__class__", "__dict__", "__sklearn_is_fitted__", "_validated",
                        "_n_features_out", "_parameter_constraints", "__getstate__", "n_clusters", "init")],
    # scikit-learn's
    *[("everything", attributes(_sklearn_output_config=value), {}, "_sklearn_output_config")
      for value in (None, "pandas", ["pandas"], {"dict": {"transform": 3}}, {"dict": {"transform": None}})],
    *[("everything", attributes(_metadata_request={"requests": value}), {}, "") for value in (
        {"fit": {"other": True}}, {"predict": {"sample_weight": True}}, {"fit": {"sample_weight": 3}}, {"owner": {}},
        {"fit": {"sample_weight": "not a name"}}, {"consumes": {"a": True}}, {"fit": ["sample_weight"]}, [], None)],
    *[("everything", attributes(_metadata_request=value), {}, "") for value in (None, 3, {"dict": {}})],
    # forms of values
    *[(name, parameters(tol=value), {}, "") for name in MAKE for value in (
        {}, {"tuple": "ab"}, {"dict": [1]}, {"array": 3}, {"array": None}, {"array": ["a"]}, {"other": 1},
        {"array": "a", "scalar": "b"}, {"record": "Record"}, {"record": ["Record", {"dict": {}}]}, {"objects": []},
        {"record": ["load", {"dict": {}}]}, {"objects": [1, 2], "shape": [3]}, {"objects": [1], "shape": [1, 10**400]},
        {"objects": [1], "shape": "1"}, {"requests": {}}, {"RandomState": {}}, {"RandomState": {"dict": {}}})],
]  # fmt: skip


@pytest.mark.parametrize(
    ("name", "change", "arrays", "message"),
    CONTRADICTIONS,
    ids=[f"{name}, {message}" for name, *_, message in CONTRADICTIONS],
)
def test_what_contradicts_itself_is_refused(
    name: str, change: Any, arrays: dict[str, Any], message: str, files: dict[str, bytes], path: Path
) -> None:
    path.write_bytes(with_metadata(files[name], change, **arrays))
    with pytest.raises(ValueError, match=rf"model\.npz cannot be loaded: .*{message}"):
        gpukmeans.load(path)


HOSTILE = [None, True, -1, 0, 10**400, 1e308, float("nan"), "", "x" * 100_000, "\ud800\0",
           [], {}, [[[[]]]], {"dict": {}}, {"tuple": [1]}, {"array": "labels_"}]  # fmt: skip


def places(node: Any, at: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Where values stand in JSON, each list and dict too, and of lists the first two."""
    if at:
        yield at
    inner = node.items() if isinstance(node, dict) else enumerate(node[:2]) if isinstance(node, list) else ()
    for name, value in inner:
        yield from places(value, (*at, name))


def put(node: Any, at: tuple[Any, ...], value: Any) -> None:
    for name in at[:-1]:
        node = node[name]
    node[at[-1]] = value


@pytest.mark.slow
@pytest.mark.parametrize("name", FITTED)
def test_any_value_anywhere_is_refused_or_as_harmless_as_in_memory(
    name: str, files: dict[str, bytes], path: Path
) -> None:
    parts = members(files[name])
    text = parts.pop("metadata.json")
    original = used(loaded(path, files[name]))
    refused = accepted = 0
    for at, value in itertools.product(places(json.loads(text)), HOSTILE):
        metadata = json.loads(text)
        put(metadata, at, value)
        model = loaded(path, archive({"metadata.json": json.dumps(metadata).encode(), **parts}))
        if model is None:
            refused += 1
            continue
        accepted += 1
        if at[0] == "parameters":
            # As one whose parameter was set to that.
            twin = loaded(path, files[name]).set_params(**{at[1]: deepcopy(getattr(model, at[1]))})
            assert used(model) == used(twin), (at, value)
        else:
            assert used(model)[0] == original[0], (at, value)
    assert refused > 300
    assert accepted > 50


@pytest.mark.parametrize("name", MAKE)
def test_whatever_is_missing_is_refused_or_not_needed(name: str, files: dict[str, bytes], path: Path) -> None:
    parts = members(files[name])
    text = parts.pop("metadata.json")
    for at in places(json.loads(text)):
        metadata = node = json.loads(text)
        for step in at[:-1]:
            node = node[step]
        del node[at[-1]]
        model = loaded(path, archive({"metadata.json": json.dumps(metadata).encode(), **parts}))
        assert model is None or type(model) is type(MAKE[name]())
    for absent in parts:
        kept = {each: part for each, part in parts.items() if each != absent}
        assert loaded(path, archive({"metadata.json": text, **kept})) is None


# ---------------------------------------------------------------- one rule for both ways


def set_by_hand(**attributes: Any) -> KMeans:
    model = MAKE["cosine"]()
    vars(model).update(attributes)
    return model


def wrong_generator() -> KMeans:
    generator = np.random.RandomState(0)
    generator.set_state(("MT19937", KEY, 1000, 0, 0.0))
    return KMeans(random_state=generator)


def nested(depth: int) -> list[Any]:
    value: list[Any] = []
    for _ in range(depth):
        value = [value]
    return value


UNSAVABLE = {
    "n_clusters set later": (lambda: MAKE["cosine"]().set_params(n_clusters=5), "centers_ is of 3 .*, and n_clusters"),
    "centers": (lambda: set_by_hand(cluster_centers_=X[:4]), "is of 4 clusters, and n_clusters of 3"),
    "integers": (lambda: set_by_hand(cluster_centers_=np.eye(3, dtype=int)), "array of int64, and no array of float64"),
    "a list": (lambda: set_by_hand(cluster_centers_=X[:3].tolist()), "cluster_centers_ is"),
    "labels": (lambda: set_by_hand(labels_=np.full(40, 3, np.int32)), "labels_ has values from 3 to 3"),
    "a method": (lambda: set_by_hand(predict=3), "'predict' would hide what KMeans has"),
    "generator": (wrong_generator, "pos is 1000"),
    "depth": (lambda: KMeans(init=nested(101)), "nested more than 100 deep"),
    "values": (lambda: KMeans(init=[0] * 2**19), "8,388,608 bytes or has more than 524,288 values. .* in NumPy arrays"),
    "letters": (lambda: KMeans(device="x" * 2**23), "takes more than 8,388,608 bytes"),
    "scalars": (lambda: KMeans(init=list(np.zeros(2**13 + 1))), "more than 8,192 arrays"),
}


@pytest.mark.parametrize(("make", "message"), UNSAVABLE.values(), ids=UNSAVABLE)
def test_what_would_not_load_is_not_saved(make: Callable[[], KMeans], message: str, path: Path) -> None:
    with pytest.raises(ValueError, match=f"The KMeans cannot be saved: .*{message}.*Nothing was written"):
        make().save(path)
    assert list(path.parent.iterdir()) == []


SAVABLE: dict[str, Callable[[], Any]] = {
    **MAKE,
    "centers by hand": lambda: set_by_hand(cluster_centers_=X[:3].astype(np.float16)),
    "an attribute of one's own": lambda: set_by_hand(note=["what this is", {"for": (1, 2)}], _private=X),
    "a value in place of a parameter's": lambda: KMeans(n_clusters=-3, init=["a", None], tol="small"),
    "other parameters for the next fit": lambda: MAKE["cosine"]().set_params(metric=None, n_init=-1),
    "depth": lambda: KMeans(init=nested(99)),
    "a long string": lambda: KMeans(init=np.array("x" * 10**6)),
    "names that no archive takes": lambda: KMeans(init={"a\0b": X[:1], "a": X[1:2], "ä/..": X[2:3], "x" * 70_000: X}),
    "names that end like others": lambda: KMeans(init={"a": {"b": X[:1]}, "a.b 1": X[1:2], "a.b": X[2:3]}),
    "weights": lambda: KMeans(3).fit(X, sample_weight=np.full(40, 2e307)),
    "partial fit": lambda: MiniBatchKMeans(3).partial_fit(X).partial_fit(X[:1]),
    "without labels": lambda: MiniBatchKMeans(3, compute_labels=False, n_init=2, init="random").fit(X),
    "one feature": lambda: KMeans(1).fit(X[:1, :1]),
    "the largest values": lambda: KMeans(2).fit([[2.0**500], [-(2.0**500)], [0.0]]),
}


@pytest.mark.parametrize("make", SAVABLE.values(), ids=SAVABLE)
def test_what_is_saved_loads(make: Callable[[], Any], path: Path) -> None:
    model = make()
    model.save(path)
    before = path.read_bytes()
    gpukmeans.load(path).save(path)
    assert path.read_bytes() == before, "equal estimators make equal files"
