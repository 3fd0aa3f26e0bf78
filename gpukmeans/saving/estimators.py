"""Saving estimators to files, and loading them without running code from the file.

A file is a .npz, which `numpy.load` reads as well: a zip archive, not compressed, of arrays under the names of the
parameters and attributes that hold them, and ``metadata.json``: the format and its version, the class, its parameters
and its attributes. encoding.py says how values become JSON and arrays.

Equal estimators make equal files, byte for byte.
"""

from __future__ import annotations

import os
import stat
from typing import Any

from sklearn.base import BaseEstimator

import gpukmeans
from gpukmeans import array_interop
from gpukmeans.atomic_write import atomic
from gpukmeans.saving.archive import Archive, NamedArrays, write
from gpukmeans.saving.encoding import REQUESTS, decode, decode_requests, encode, public_class
from gpukmeans.saving.rule_types import RefusedError, describe_value
from gpukmeans.saving.schema import check_attributes

FORMAT = "gpukmeans estimator"
# Of the format, not of the package. A change that this module could not read needs the next number.
VERSION = 1


_FITTED_ARRAYS = {"cluster_centers_", "labels_"}


class SavedMixin(BaseEstimator):
    """Estimators that can be saved and pickled wherever their arrays are."""

    def __getstate__(self) -> dict[str, Any]:
        """Arrays are saved on the host, so that a model fitted on a GPU loads where there is none."""
        state = super().__getstate__()
        here = {name for name in _FITTED_ARRAYS & state.keys() if not array_interop.is_dask(state[name])}
        return {**state, **{name: _on_host(state[name]) for name in here}}

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the estimator to a file, fitted or not, for `gpukmeans.load`.

        The file runs no code when loaded, and nothing in it depends on the device. What stood at path is replaced
        once the new file is whole.

        Parameters
        ----------
        path : str or path-like
            Used as it is; such files are usually named ``.npz``.

        Raises
        ------
        OSError
            If the file cannot be written. What stood at path is then untouched.
        TypeError
            If a parameter or attribute cannot be kept in such a file, such as a callable ``init``, or the estimator is
            of a subclass. Nothing is written.
        ValueError
            If `load` would refuse the file: attributes do not go with the parameters or with each other, as when
            ``n_clusters`` was set to another number after the fit, or hold what no fit puts there; or more than half
            a million values, 8 MiB of text or 8192 arrays stand in lists. Nothing is written.
        """
        save(self, path)


def _on_host(value: Any) -> Any:
    """An array, or a list with one for each problem."""
    return [*map(array_interop.to_numpy, value)] if type(value) is list else array_interop.to_numpy(value)


def save(model: BaseEstimator, path: str | os.PathLike[str]) -> None:
    """Write an estimator of this package to a file; see `KMeans.save`.

    Raises TypeError for any other object, or a value that no file without code can hold, and ValueError for values that
    `load` would refuse; nothing is written then.
    """
    name = type(model).__name__
    if _estimator_class(name) is not type(model):
        raise TypeError(f"{type(model).__qualname__} is not an estimator of gpukmeans, and only those can be saved.")
    # What pickling keeps, so that there is one rule for what belongs to an estimator.
    attributes = {key: array_interop.to_numpy(value) for key, value in sorted(model.__getstate__().items())}
    arrays = NamedArrays()
    try:
        encoded = {key: encode(value, key, arrays) for key, value in attributes.items()}
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
            write(file, metadata, arrays)
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
        raise ValueError(f"the format is {describe_value(metadata['format'])}")
    origin = f"It was written by {metadata['written by']:.40}, and this is gpukmeans {gpukmeans.__version__}: update it"
    if type(metadata["version"]) is not int or metadata["version"] != VERSION:
        raise RefusedError(
            f"its format has version {describe_value(metadata['version'])}, and only {VERSION} is known. {origin}"
        )
    estimator = _estimator_class(metadata["class"])
    if estimator is None:
        raise RefusedError(f"it holds a {metadata['class']:.40}, which is not known. {origin}")
    unknown = sorted(metadata["parameters"].keys() - set(estimator._get_param_names()))
    if unknown:
        raise RefusedError(f"{metadata['class']} has no parameter {', '.join(unknown):.400}. {origin}")
    model = estimator(**{key: decode(value, archive) for key, value in metadata["parameters"].items()})
    attributes = {
        key: decode_requests(value) if key == REQUESTS else decode(value, archive)
        for key, value in metadata["attributes"].items()
    }
    archive.finish()
    check_attributes(estimator, model.get_params(deep=False), attributes)
    model.__setstate__(attributes)
    return model


def _estimator_class(name: str) -> type[BaseEstimator] | None:
    """The estimator of this package that has this name."""
    found = public_class(name)
    return found if found is not None and issubclass(found, BaseEstimator) else None
