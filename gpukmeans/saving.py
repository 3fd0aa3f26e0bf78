"""Saving estimators to files, and loading them without running code from the file.

A file is a .npz, which `numpy.load` reads as well: a zip archive, not compressed, of arrays under the names of the
parameters and attributes that hold them, and ``metadata.json``: the format and its version, the class, its parameters
and its attributes. What JSON can tell stands there as it is; anything else is an object whose one key says what it is:

    {"array": "init"}                   the array init.npy
    {"scalar": "tol"}                   a NumPy scalar, which is the array tol.npy without dimensions
    {"tuple": [...]}, {"dict": {...}}   of such values; lists are JSON's
    {"objects": [...], "shape": [3]}    an array of Python objects: names of features
    {"RandomState": {"dict": ...}}      the state of a generator
    {"requests": {...}}                 what set_fit_request and its like asked for
    {"record": ["Record", {"dict": ...}]}   a dataclass among the public names, and its fields

Equal estimators make equal files, byte for byte.
"""

from __future__ import annotations

import dataclasses
import json
import os
import zipfile
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.base import BaseEstimator
from sklearn.utils.metadata_routing import MetadataRequest

import gpukmeans
from gpukmeans import arrays
from gpukmeans.files import atomic

FORMAT = "gpukmeans estimator"
# Of the format, not of the package. A change that this module could not read needs the next number.
VERSION = 1
METADATA = "metadata.json"


def save(model: BaseEstimator, path: str | os.PathLike[str]) -> None:
    """Write an estimator of this package to a file; see `KMeans.save`."""
    name = type(model).__name__
    if _estimators().get(name) is not type(model):
        raise TypeError(f"{type(model).__qualname__} is not an estimator of gpukmeans, and only those can be saved.")
    members: dict[str, NDArray[Any]] = {}
    # What pickling keeps, so that there is one rule for what belongs to an estimator.
    state = {key: _encoded(value, key, members) for key, value in sorted(model.__getstate__().items())}
    parameters = {key: state.pop(key) for key in type(model)._get_param_names()}
    metadata = {
        "format": FORMAT,
        "version": VERSION,
        "written by": f"gpukmeans {gpukmeans.__version__}",
        "class": name,
        "parameters": parameters,
        "attributes": state,
    }
    # A ZipInfo has a fixed date unless it is given one, and so have the files.
    with atomic(path) as file, zipfile.ZipFile(file, "w") as archive:
        archive.writestr(zipfile.ZipInfo(METADATA), json.dumps(metadata, indent=1))
        for key, array in members.items():
            with archive.open(zipfile.ZipInfo(f"{key}.npy"), "w", force_zip64=True) as member:
                np.lib.format.write_array(member, array, allow_pickle=False)


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
        If it is damaged, something else, or written by a newer gpukmeans in a way that this one does not know.

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
    with open(path, "rb") as file:
        try:
            with zipfile.ZipFile(file) as archive:
                return _read(archive)
        except MemoryError:
            raise
        except _RefusedError as refusal:
            raise ValueError(f"{os.fspath(path)} cannot be loaded: {refusal}") from None
        except Exception as error:  # damage may show at any step of the way, as whatever that step raises
            raise ValueError(
                f"{os.fspath(path)} cannot be loaded: it is damaged, or not a file that a gpukmeans estimator was "
                f"saved to ({type(error).__name__}: {error})."
            ) from error


class _RefusedError(Exception):
    """Why an undamaged file is not loaded."""


def _read(archive: zipfile.ZipFile) -> BaseEstimator:
    metadata = json.loads(archive.read(METADATA))
    if metadata["format"] != FORMAT:
        raise ValueError(f"the format is {metadata['format']!r}")
    origin = f"It was written by {metadata['written by']}, and this is gpukmeans {gpukmeans.__version__}: update it."
    if metadata["version"] != VERSION:
        raise _RefusedError(f"its format has version {metadata['version']}, and only {VERSION} is known. {origin}")
    estimator = _estimators().get(metadata["class"])
    if estimator is None:
        raise _RefusedError(f"it holds a {metadata['class']}, which is not known. {origin}")
    unknown = sorted(metadata["parameters"].keys() - set(estimator._get_param_names()))
    if unknown:
        raise _RefusedError(f"{metadata['class']} has no parameter {', '.join(unknown)}. {origin}")
    model = estimator(**{key: _decoded(value, archive) for key, value in metadata["parameters"].items()})
    model.__setstate__({key: _decoded(value, archive) for key, value in metadata["attributes"].items()})
    return model


def _public() -> dict[str, type]:
    """The public classes by name: a file can name one of these, and so make nothing else."""
    public = {name: getattr(gpukmeans, name) for name in gpukmeans.__all__}
    return {name: each for name, each in public.items() if isinstance(each, type)}


def _estimators() -> dict[str, type[BaseEstimator]]:
    return {name: each for name, each in _public().items() if issubclass(each, BaseEstimator)}


def _records() -> dict[str, type]:
    return {name: each for name, each in _public().items() if dataclasses.is_dataclass(each)}


def _encoded(value: Any, key: str, members: dict[str, NDArray[Any]]) -> Any:
    """value in JSON's types, its arrays put into ``members``; key: where it stands, for their names and for errors."""

    def each(values: list[Any]) -> list[Any]:
        return [_encoded(item, f"{key}.{i}", members) for i, item in enumerate(values)]

    value = arrays.to_numpy(value)  # an initial array may be on a GPU, and labels not computed yet
    # By exact types: a float64 is a float too, and has to stay what it is.
    kind = type(value)
    if value is None or kind in (bool, int, float, str):
        return value
    if kind is list:
        return each(value)
    if kind is tuple:
        return {"tuple": each(list(value))}
    if kind is dict and all(type(name) is str for name in value):
        return {"dict": {name: _encoded(item, f"{key}.{name}", members) for name, item in value.items()}}
    if kind is np.ndarray and value.dtype == object:
        return {"objects": each(value.ravel().tolist()), "shape": list(value.shape)}
    if kind in (np.ndarray, np.memmap) and not value.dtype.hasobject:
        return {"array": _put(value, key, members)}
    if isinstance(value, np.generic) and not value.dtype.hasobject:
        return {"scalar": _put(np.asarray(value), key, members)}
    if kind is np.random.RandomState and value.get_state(legacy=False)["bit_generator"] == "MT19937":
        return {"RandomState": _encoded(value.get_state(legacy=False), key, members)}
    if kind is MetadataRequest:
        return {"requests": value._serialize()}
    if _records().get(kind.__name__) is kind:
        fields = {field.name: getattr(value, field.name) for field in dataclasses.fields(value)}
        return {"record": [kind.__name__, _encoded(fields, key, members)]}
    what = getattr(value, "__qualname__", f"of type {kind.__qualname__}")
    raise TypeError(
        f"{key} is {what}, which no file without code can hold, so nothing was saved. "
        "Give it another value, such as an array or None, or pickle the estimator."
    )


def _put(array: NDArray[Any], key: str, members: dict[str, NDArray[Any]]) -> str:
    """Put an array among the members, and return the name that it has there."""
    name = (
        key if key not in members else f"{key} {len(members)}"
    )  # the dots of two names may stand for different things
    members[name] = array
    return name


def _decoded(value: Any, archive: zipfile.ZipFile) -> Any:
    """The value that `_encoded` turned into this."""
    if isinstance(value, list):
        return [_decoded(item, archive) for item in value]
    if not isinstance(value, dict):
        return value
    kind, content = next(iter(value.items()))
    match kind:
        case "array" | "scalar":
            with archive.open(f"{content}.npy") as member:
                array = np.lib.format.read_array(member, allow_pickle=False)
            return array if kind == "array" else array[()]
        case "tuple":
            return tuple(_decoded(content, archive))
        case "dict":
            return {name: _decoded(item, archive) for name, item in content.items()}
        case "objects":
            objects = np.empty(len(content), object)
            for i, item in enumerate(content):
                objects[i] = _decoded(item, archive)
            return objects.reshape(value["shape"])
        case "RandomState":
            generator = np.random.RandomState()
            generator.set_state(_decoded(content, archive))
            return generator
        case "requests":
            requests = MetadataRequest(owner=None)
            for method, asked in content.items():
                for name, alias in asked.items():
                    getattr(requests, method).add_request(param=name, alias=alias)
            return requests
        case "record":
            name, fields = content
            return _records()[name](**_decoded(fields, archive))
    raise ValueError(f"there is no kind of value named {kind!r}")
