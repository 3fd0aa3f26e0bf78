"""Models of files: fitted with a bar, saved with what was done to the columns, and asked for labels."""

from __future__ import annotations

import importlib.util
import sys
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

import gpukmeans
from gpukmeans import KMeans, MiniBatchKMeans
from gpukmeans.cli import console
from gpukmeans.cli.columns import Features
from gpukmeans.cli.errors import CommandError
from gpukmeans.cli.scaling import STANDARDIZED, Scaler


def fitted(
    model: KMeans | MiniBatchKMeans, X: Any, weights: NDArray[np.float64] | None, source: str, *, bar: bool
) -> Any:
    """The model fitted to X. bar: whether there may be one, on a terminal, if that takes longer than a second.
    CommandError for what cannot be fitted; notes for what scikit-learn warns of."""
    with _warnings_as_notes(), _fit(model) if bar and _seen() else nullcontext(model.fit) as fit:
        try:
            return fit(X, sample_weight=weights)
        except ValueError as error:
            raise CommandError(f"{source}: {error}") from None


@contextmanager
def _warnings_as_notes() -> Iterator[None]:
    with warnings.catch_warnings(record=True) as heard:
        warnings.simplefilter("always")
        yield
    for text in dict.fromkeys(str(warning.message) for warning in heard):
        console.note(text)


def _seen() -> bool:
    """Whether a bar would be seen, and there is what draws it, which is a convenience."""
    return sys.stderr is not None and sys.stderr.isatty() and importlib.util.find_spec("tqdm") is not None


@contextmanager
def _fit(model: KMeans | MiniBatchKMeans) -> Iterator[Callable[..., Any]]:
    """The model's fit, with a bar of its iterations, or of its steps; the model is the same as without."""
    from tqdm import tqdm

    batches = isinstance(model, MiniBatchKMeans)
    unit = " steps" if batches else " iterations"
    with tqdm(total=model.max_iter, desc="k-means", unit=unit, delay=1, leave=False) as shown:
        if isinstance(model, MiniBatchKMeans):

            def step(done: int, steps: int) -> None:
                shown.total = steps
                shown.update()

            yield lambda X, sample_weight: model._fit_watched(X, sample_weight, step)
            return

        def tell(record: gpukmeans.Record) -> None:
            if record.iteration == 0 and record.start > 0:
                shown.reset()
                shown.set_description(f"k-means, start {record.start + 1}")
            shown.set_postfix_str(f"inertia {record.inertia:.6g}, {record.changed:,} changed", refresh=False)
            shown.update()

        model.set_params(callback=tell)
        try:
            yield model.fit
        finally:
            model.set_params(callback=None)
        # The inertia costs a pass in each iteration; the file of a model is the same whether somebody watched or not.
        model.history_ = [replace(record, inertia=None) for record in model.history_]


def remember(model: Any, found: Features, scaler: Scaler | None) -> None:
    """Keep in the model which columns it knows, and how they were scaled. Its centers stay as they were fitted, so that
    predict gives the labels of fit to the bit."""
    if found.keep_names or scaler is not None:
        prefix = "" if scaler is None else STANDARDIZED
        model.feature_names_in_ = np.array([prefix + name for name in found.names], dtype=object)
    if scaler is not None:
        model.scaler_mean_, model.scaler_scale_ = scaler.mean, scaler.scale


def load(path: str) -> tuple[Any, list[str] | None, Scaler | None]:
    """The model in a file, the names of the columns that it knows, and how they are to be scaled. CommandError for any
    other file."""
    try:
        model = gpukmeans.load(path)
    except OSError as error:
        raise CommandError(f"{path}: {error.strerror or error}") from None
    except ValueError as error:
        raise CommandError(str(error)) from None
    if not hasattr(model, "cluster_centers_"):
        raise CommandError(f"{path}: this model was saved before it was fitted")
    # Arrays have no names, and scikit-learn would warn of that.
    names = [str(name) for name in vars(model).pop("feature_names_in_", ())]
    # A model that was fitted again elsewhere knows other columns, and the scaler is none of its.
    scaled = hasattr(model, "scaler_mean_") and all(name.startswith(STANDARDIZED) for name in names) and bool(names)
    scaler = Scaler(model.scaler_mean_, model.scaler_scale_) if scaled else None
    return model, [name.removeprefix(STANDARDIZED) if scaled else name for name in names] or None, scaler


def labels(model: Any, X: Any, source: str) -> NDArray[np.int32]:
    """Labels of X (n,). CommandError for what the model cannot label."""
    try:
        return model.predict(X)
    except ValueError as error:
        raise CommandError(f"{source}: {error}") from None
