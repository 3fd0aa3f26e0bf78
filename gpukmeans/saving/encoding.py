"""Values as JSON and arrays, and back.

What JSON can tell stands there as it is; anything else is an object whose one key says what it is:

    {"array": "init"}                   the array init.npy
    {"scalar": "tol"}                   a NumPy scalar, which is the array tol.npy without dimensions
    {"tuple": [...]}, {"dict": {...}}   of such values; lists are JSON's
    {"objects": [...], "shape": [3]}    an array of Python objects: names of features
    {"RandomState": {"dict": ...}}      the state of a generator
    {"requests": {...}}                 what set_fit_request and its like asked for: the attribute _metadata_request
    {"record": ["Record", {"dict": ...}]}   a dataclass among the public names, and its fields
"""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
from sklearn.utils.metadata_routing import MetadataRequest

import gpukmeans
from gpukmeans import array_interop
from gpukmeans.saving.archive import Archive, NamedArrays
from gpukmeans.saving.rule_types import RefusedError, describe_value
from gpukmeans.saving.schema import check_generator

REQUESTS = "_metadata_request"
MAX_DEPTH = 100  # of values in values: a third of what Python's stack takes


def public_class(name: str) -> type | None:
    """The public class of this name: a file can name one of these, and so make nothing else."""
    found = getattr(gpukmeans, name) if name in gpukmeans.__all__ else None
    return found if isinstance(found, type) else None


def encode(value: Any, key: str, arrays: NamedArrays, depth: int = 0) -> Any:
    """value in JSON's types, its arrays put into ``arrays``; key: where it stands, for their names and for errors.

    Raises TypeError for what neither JSON nor an array can hold, RefusedError for what would not be decoded.
    """

    def inner(value: Any, key: str) -> Any:
        return encode(value, key, arrays, depth + 1)

    def each(values: list[Any]) -> list[Any]:
        return [inner(item, f"{key}.{i}") for i, item in enumerate(values)]

    _check_depth(depth)
    value = array_interop.values(value)  # an initial array may be on a GPU, and labels not computed yet
    # By exact types: a float64 is a float too, and has to stay what it is.
    kind = type(value)
    if value is None or kind in (bool, int, float, str):
        return value
    if kind is list:
        return each(value)
    if kind is tuple:
        return {"tuple": each(list(value))}
    if kind is dict and all(type(name) is str for name in value):
        return {"dict": {name: inner(item, f"{key}.{name}") for name, item in value.items()}}
    if kind is np.ndarray and value.dtype == object:
        return {"objects": each(value.ravel().tolist()), "shape": list(value.shape)}
    if kind in (np.ndarray, np.memmap) and not value.dtype.hasobject:
        return {"array": arrays.put(value, key)}
    if isinstance(value, np.generic) and not value.dtype.hasobject:
        return {"scalar": arrays.put(np.asarray(value), key)}
    if kind is np.random.RandomState and value.get_state(legacy=False)["bit_generator"] == "MT19937":
        state = value.get_state(legacy=False)
        check_generator(key, state)
        return {"RandomState": inner(state, key)}
    if kind is MetadataRequest and key == REQUESTS:
        return {"requests": value._serialize()}
    if _record_class(kind.__name__) is kind:
        fields = {field.name: getattr(value, field.name) for field in dataclasses.fields(value)}
        return {"record": [kind.__name__, inner(fields, key)]}
    what = getattr(value, "__qualname__", f"of type {kind.__qualname__}")
    raise TypeError(
        f"{key} is {what}, which no file without code can hold, so nothing was saved. "
        "Give it another value, such as an array or None, or pickle the estimator."
    )


def decode(value: Any, archive: Archive, depth: int = 0) -> Any:
    """The value that `encode` made this of. Raises RefusedError for what it makes of none."""

    def inner(value: Any) -> Any:
        return decode(value, archive, depth + 1) if type(value) in (list, dict) else value

    _check_depth(depth)
    if type(value) is list:
        value[:] = map(inner, value)  # in its place, as it may be long
        return value
    if type(value) is not dict:
        return value
    kind, content = next(iter(value.items()), (None, None))
    if len(value) == 1:
        match kind, content:
            case "array", str():
                return archive.array(content)
            case "scalar", str():
                return archive.scalar(content)
            case "tuple", list():
                return tuple(map(inner, content))
            case "dict", dict():
                return {name: inner(item) for name, item in content.items()}
            case "RandomState", dict():
                state = inner(content)
                check_generator("a generator", state)
                generator = np.random.RandomState()
                generator.set_state(state)
                return generator
            case "record", [str(name), dict(fields)]:
                return _record_class(name)(**inner(fields))
    if kind == "objects" and list(value) == ["objects", "shape"] and type(content) is list:
        objects = np.empty(len(content), object)
        for i, item in enumerate(content):
            objects[i] = inner(item)
        return objects.reshape(value["shape"])
    raise RefusedError(f"it holds {describe_value(value)}, which is no value")


def decode_requests(value: Any) -> MetadataRequest:
    """The attribute REQUESTS. It is decoded by its name alone, so that no other value becomes one."""
    requests = MetadataRequest(owner=None)
    for method, asked in value["requests"].items():
        add = getattr(requests, method).add_request
        for name, alias in asked.items():
            if alias is not None and type(alias) not in (bool, str):
                raise RefusedError(f"{describe_value(alias)} is asked for as metadata")
            add(param=name, alias=alias)
    return requests


def _record_class(name: str) -> Any:
    """The public dataclass of this name, or None."""
    found = public_class(name)
    return found if dataclasses.is_dataclass(found) else None


def _check_depth(depth: int) -> None:
    if depth > MAX_DEPTH:
        raise RefusedError(f"it has values nested more than {MAX_DEPTH} deep")
