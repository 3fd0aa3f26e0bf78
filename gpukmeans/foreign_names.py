"""Other libraries' names for parameters and their values, and what to write here: an error says so."""

from __future__ import annotations

from collections.abc import Callable, Collection
from functools import wraps
from typing import Any, Concatenate, ParamSpec, TypeVar

P = ParamSpec("P")
Model = TypeVar("Model")

_NO_BATCHES = "Batches are as large as memory allows, and change no result: leave it out"

# Whose name a parameter is, and what to write. Only of parameters that the estimator does not have.
PARAMETERS = {
    "max_samples_per_batch": ("cuML", _NO_BATCHES),
    "device_buffer_samples": ("cuML", _NO_BATCHES),
    "handle": ("cuML", "There is nothing to set: leave it out"),
    "convert_dtype": ("cuML", "There is nothing to set: leave it out"),
    "batch_size": ("MiniBatchKMeans", "Use that, or leave it out"),
    "init_size": ("MiniBatchKMeans", "Use that, or leave it out"),
    "k": ("FAISS", "Write n_clusters"),
    "niter": ("FAISS", "Write max_iter"),
    "nredo": ("FAISS", "Write n_init"),
    "seed": ("FAISS and kmcuda", "Write random_state"),
    "spherical": ("FAISS", 'Write metric="cosine"'),
    "gpu": ("FAISS", 'Write device="cuda"'),
    "clusters": ("kmcuda", "Write n_clusters"),
    "tolerance": ("kmcuda", "Write tol, which is in other units"),
    "verbosity": ("kmcuda", "Write verbose"),
    "yinyang_t": ("kmcuda", "There is nothing to set: leave it out"),
}

# Whose name a parameter's value is, and what to write.
VALUES = {
    "init": {
        "scalable-k-means++": ("cuML", '"k-means||"'),
        "scalable-kmeans++": ("cuML", '"k-means||"'),
        "k-means-||": ("dask-ml", '"k-means||"'),
        "afk-mc2": ("kmcuda", '"k-means||", another method for as many clusters'),
    },
    "metric": {"L2": ("kmcuda", '"euclidean"'), "cos": ("kmcuda", '"cosine"')},
}


def foreign_parameter(model: Any, names: Collection[str]) -> str | None:
    """What is to be said of the first name of a parameter that another library's estimator has, and this one has not.
    None if there is no such name."""
    for name in PARAMETERS.keys() & names:
        if name not in type(model)._get_param_names():
            whose, instead = PARAMETERS[name]
            return f"parameter {name!r}, which is one of {whose}. {instead}."
    return None


def check_values(model: Any) -> None:
    """Raise ValueError for a parameter's value by another library's name."""
    for name, foreign in VALUES.items():
        value = getattr(model, name)
        if isinstance(value, str) and value in foreign:
            whose, instead = foreign[value]
            raise ValueError(f"{name}={value!r} is what {whose} calls it. Write {name}={instead}.")


def names_checked(init: Callable[Concatenate[Model, P], None]) -> Callable[Concatenate[Model, P], None]:
    """An ``__init__`` of the same signature, which raises TypeError for a `foreign_parameter`."""

    @wraps(init)
    def checked(self: Model, /, *args: P.args, **kwargs: P.kwargs) -> None:
        foreign = foreign_parameter(self, kwargs) if kwargs else None
        if foreign is not None:
            raise TypeError(f"{type(self).__name__} has no {foreign}")
        init(self, *args, **kwargs)

    return checked
