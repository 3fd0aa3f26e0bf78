"""Saving estimators to files, and loading them without running code from the file.

A file is a .npz, which `numpy.load` reads as well: a zip archive, not compressed, of arrays under the names of the
parameters and attributes that hold them, and ``metadata.json``: the format and its version, the class, its parameters
and its attributes. What JSON can tell stands there as it is; anything else is an object whose one key says what it is:

    {"array": "init"}                   the array init.npy
    {"scalar": "tol"}                   a NumPy scalar, which is the array tol.npy without dimensions
    {"tuple": [...]}, {"dict": {...}}   of such values; lists are JSON's
    {"objects": [...], "shape": [3]}    an array of Python objects: names of features
    {"RandomState": {"dict": ...}}      the state of a generator
    {"requests": {...}}                 what set_fit_request and its like asked for: the attribute _metadata_request
    {"record": ["Record", {"dict": ...}]}   a dataclass among the public names, and its fields

Equal estimators make equal files, byte for byte.
"""

from __future__ import annotations

import dataclasses
import os
import stat
from typing import Any

import numpy as np
from sklearn.base import BaseEstimator
from sklearn.utils.metadata_routing import MetadataRequest

import gpukmeans
from gpukmeans import array_interop
from gpukmeans.atomic_write import atomic
from gpukmeans.saving.archive import Archive, Arrays, write
from gpukmeans.saving.attributes import RefusedError, check_attributes, check_generator, said

FORMAT = "gpukmeans estimator"
# Of the format, not of the package. A change that this module could not read needs the next number.
VERSION = 1
REQUESTS = "_metadata_request"
MOST_DEPTH = 100  # of values in values: a third of what Python's stack takes


def save(model: BaseEstimator, path: str | os.PathLike[str]) -> None:
    """Write an estimator of this package to a file; see `KMeans.save`."""
    name = type(model).__name__
    if _estimator(name) is not type(model):
        raise TypeError(f"{type(model).__qualname__} is not an estimator of gpukmeans, and only those can be saved.")
    # What pickling keeps, so that there is one rule for what belongs to an estimator.
    attributes = {key: array_interop.to_numpy(value) for key, value in sorted(model.__getstate__().items())}
    held = Arrays()
    try:
        encoded = {key: _encoded(value, key, held) for key, value in attributes.items()}
        parameters = {key: attributes.pop(key) for key in type(model)._get_param_names()}
        check_attributes(type(model), parameters, attributes)
        metadata = {
            "format": FORMAT,
            "version": VERSION,
            "written by": f"gpukmeans {gpukmeans.__version__}",
            "class": name,
            "parameters": {key: encoded[key] for key in parameters},
            "attributes": {key: encoded[key] for key in attributes},
        }
        with atomic(path) as file:
            write(file, metadata, held)
    except RefusedError as refusal:
        raise ValueError(f"The {name} cannot be saved: {refusal}. Nothing was written.") from None


def load(path: str | os.PathLike[str]) -> Any:
    """The estimator in a file that its method ``save`` wrote.

    The file cannot run code, wherever it comes from. Its arrays become NumPy arrays, whatever device they were
    computed on, so no GPU is needed to load it. ``device`` is a parameter as any other: a model that was made with
    ``device="cuda"`` predicts without a GPU after ``set_params(device="cpu")``.

    Parameters
    ----------
    path : str or path-like

    Returns
    -------
    model : KMeans, or whichever estimator of gpukmeans was saved
        Its parameters and fitted attributes are those saved, bit for bit.

    Raises
    ------
    OSError
        If the file cannot be read.
    ValueError
        If it is damaged, something else, or written by a newer gpukmeans in a way that this one does not know; if it
        holds values that no such estimator has, or that contradict each other, as centers of another number than
        ``n_clusters``; or if it is compressed, as a copy that `numpy.savez_compressed` or an archiver made.
    MemoryError
        If the arrays that it really holds do not fit. Whatever a file says of itself, loading takes the time and memory
        of what is in it.

    Examples
    --------
    >>> import os, tempfile, gpukmeans
    >>> model = gpukmeans.KMeans(2, random_state=0).fit([[1.0], [2.0], [9.0]])
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     path = os.path.join(folder, "model.npz")
    ...     model.save(path)
    ...     loaded = gpukmeans.load(path)
    >>> loaded
    KMeans(n_clusters=2, random_state=0)
    >>> (loaded.predict([[3.0]]) == model.predict([[3.0]])).all()
    np.True_
    """
    if stat.S_ISFIFO(os.stat(path).st_mode):  # to open one waits for whoever writes to it
        raise ValueError(f"{os.fspath(path)} cannot be loaded: it is a pipe.")
    with open(path, "rb") as file:
        try:
            return _read(Archive(file))
        except MemoryError:
            raise
        except RefusedError as refusal:
            raise ValueError(f"{os.fspath(path)} cannot be loaded: {refusal}.") from None
        except Exception as error:  # damage may show at any step of the way, as whatever that step raises
            raise ValueError(
                f"{os.fspath(path)} cannot be loaded: it is damaged, or not a file that a gpukmeans estimator was "
                f"saved to ({type(error).__name__}: {error!s:.300})."
            ) from error


def _read(archive: Archive) -> BaseEstimator:
    metadata = archive.metadata()
    if metadata["format"] != FORMAT:
        raise ValueError(f"the format is {said(metadata['format'])}")
    origin = f"It was written by {metadata['written by']:.40}, and this is gpukmeans {gpukmeans.__version__}: update it"
    if type(metadata["version"]) is not int or metadata["version"] != VERSION:
        raise RefusedError(f"its format has version {said(metadata['version'])}, and only {VERSION} is known. {origin}")
    estimator = _estimator(metadata["class"])
    if estimator is None:
        raise RefusedError(f"it holds a {metadata['class']:.40}, which is not known. {origin}")
    unknown = sorted(metadata["parameters"].keys() - set(estimator._get_param_names()))
    if unknown:
        raise RefusedError(f"{metadata['class']} has no parameter {', '.join(unknown):.400}. {origin}")
    model = estimator(**{key: _decoded(value, archive) for key, value in metadata["parameters"].items()})
    attributes = {
        key: _requests(value) if key == REQUESTS else _decoded(value, archive)
        for key, value in metadata["attributes"].items()
    }
    archive.finish()
    check_attributes(estimator, model.get_params(deep=False), attributes)
    model.__setstate__(attributes)
    return model


def _public(name: str) -> type | None:
    """The public class of this name: a file can name one of these, and so make nothing else."""
    found = getattr(gpukmeans, name) if name in gpukmeans.__all__ else None
    return found if isinstance(found, type) else None


def _estimator(name: str) -> type[BaseEstimator] | None:
    found = _public(name)
    return found if found is not None and issubclass(found, BaseEstimator) else None


def _record(name: str) -> Any:
    found = _public(name)
    return found if dataclasses.is_dataclass(found) else None


def _encoded(value: Any, key: str, held: Arrays, depth: int = 0) -> Any:
    """value in JSON's types, its arrays put into ``held``; key: where it stands, for their names and for errors."""

    def inner(value: Any, key: str) -> Any:
        return _encoded(value, key, held, depth + 1)

    def each(values: list[Any]) -> list[Any]:
        return [inner(item, f"{key}.{i}") for i, item in enumerate(values)]

    _check_depth(depth)
    value = array_interop.to_numpy(value)  # an initial array may be on a GPU, and labels not computed yet
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
        return {"array": held.put(value, key)}
    if isinstance(value, np.generic) and not value.dtype.hasobject:
        return {"scalar": held.put(np.asarray(value), key)}
    if kind is np.random.RandomState and value.get_state(legacy=False)["bit_generator"] == "MT19937":
        state = value.get_state(legacy=False)
        check_generator(key, state)
        return {"RandomState": inner(state, key)}
    if kind is MetadataRequest and key == REQUESTS:
        return {"requests": value._serialize()}
    if _record(kind.__name__) is kind:
        fields = {field.name: getattr(value, field.name) for field in dataclasses.fields(value)}
        return {"record": [kind.__name__, inner(fields, key)]}
    what = getattr(value, "__qualname__", f"of type {kind.__qualname__}")
    raise TypeError(
        f"{key} is {what}, which no file without code can hold, so nothing was saved. "
        "Give it another value, such as an array or None, or pickle the estimator."
    )


def _decoded(value: Any, archive: Archive, depth: int = 0) -> Any:
    """The value that `_encoded` turned into this."""

    def inner(value: Any) -> Any:
        return _decoded(value, archive, depth + 1) if type(value) in (list, dict) else value

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
                return _record(name)(**inner(fields))
    if kind == "objects" and list(value) == ["objects", "shape"] and type(content) is list:
        objects = np.empty(len(content), object)
        for i, item in enumerate(content):
            objects[i] = inner(item)
        return objects.reshape(value["shape"])
    raise RefusedError(f"it holds {said(value)}, which is no value")


def _requests(value: Any) -> MetadataRequest:
    requests = MetadataRequest(owner=None)
    for method, asked in value["requests"].items():
        add = getattr(requests, method).add_request
        for name, alias in asked.items():
            if alias is not None and type(alias) not in (bool, str):
                raise RefusedError(f"{said(alias)} is asked for as metadata")
            add(param=name, alias=alias)
    return requests


def _check_depth(depth: int) -> None:
    if depth > MOST_DEPTH:
        raise RefusedError(f"it has values nested more than {MOST_DEPTH} deep")
