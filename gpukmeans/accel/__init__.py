"""scikit-learn's k-means computed by gpukmeans, in programs that are left as they are.

``python -m gpukmeans.accel script.py``, ``%load_ext gpukmeans.accel`` in a notebook, `install` in a program, or the
environment variable ``GPUKMEANS_ACCEL=1``. scikit-learn's classes stay the classes that they are, whoever holds them
already: what they do is replaced in place (replacements.py), so `isinstance`, pickles, `clone` and subclasses see no
difference. What gpukmeans cannot do goes to scikit-learn, and the logger ``gpukmeans`` says why, once.
"""

from __future__ import annotations

import importlib
import os
import sys
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Any

__all__ = ["install", "installed", "uninstall"]

# Set by a user, or by `install` for the processes that this one starts. gpukmeans_accel.pth reads it.
VARIABLE = "GPUKMEANS_ACCEL"

PACKAGE = "sklearn.cluster"


def install() -> None:
    """From here on, let gpukmeans compute what scikit-learn's k-means is asked for, in this process.

    That is `fit`, `predict`, `transform`, `score` and the rest of ``sklearn.cluster.KMeans`` and ``MiniBatchKMeans``,
    the functions ``k_means`` and ``kmeans_plusplus``, and all in scikit-learn that uses these. Estimators and classes
    that exist already are no exception. Processes that are started later do the same, if gpukmeans was installed from a
    wheel. Once more changes nothing.

    Examples
    --------
    >>> import gpukmeans.accel
    >>> from sklearn.cluster import KMeans
    >>> X = [[1.0], [2.0], [9.0]]
    >>> gpukmeans.accel.install()
    >>> model = KMeans(2, random_state=0).fit(X)
    >>> gpukmeans.accel.uninstall()
    >>> (model.cluster_centers_ == gpukmeans.KMeans(2, random_state=0).fit(X).cluster_centers_).all()
    np.True_
    """
    if _finder.active:
        return
    _finder.active = True
    if VARIABLE not in os.environ:
        os.environ[VARIABLE] = "1"
        _finder.told_children = True
    module = sys.modules.get(PACKAGE)
    if module is None or getattr(module.__spec__, "_initializing", False):
        sys.meta_path.insert(0, _finder)
    else:
        _replacements().install()


def uninstall() -> None:
    """Let scikit-learn compute again; models that were fitted meanwhile stay as they are."""
    if not _finder.active:
        return
    _finder.active = False
    if _finder.told_children:
        os.environ.pop(VARIABLE, None)
        _finder.told_children = False
    if _finder in sys.meta_path:
        sys.meta_path.remove(_finder)
    if "gpukmeans.accel.replacements" in sys.modules:
        _replacements().uninstall()


def installed() -> bool:
    """Whether gpukmeans computes for scikit-learn."""
    return _finder.active


def load_ipython_extension(ipython: Any) -> None:
    """``%load_ext gpukmeans.accel``"""
    install()


def unload_ipython_extension(ipython: Any) -> None:
    """``%unload_ext gpukmeans.accel``"""
    uninstall()


class _Finder(MetaPathFinder):
    """Waits for ``sklearn.cluster`` to be imported, so that nothing is imported for a program that does not."""

    def __init__(self) -> None:
        self.active = False
        self.told_children = False

    def find_spec(self, fullname: str, path: Any, target: ModuleType | None = None) -> ModuleSpec | None:
        if fullname != PACKAGE:
            return None
        for finder in sys.meta_path:
            spec = None if finder is self else finder.find_spec(fullname, path, target)
            if spec is not None:
                _then_replace(spec)
                return spec
        return None


def _then_replace(spec: ModuleSpec) -> None:
    loader: Any = spec.loader
    execute = loader.exec_module

    def exec_module(module: ModuleType) -> None:
        execute(module)
        if _finder in sys.meta_path:
            sys.meta_path.remove(_finder)
            _replacements().install()

    loader.exec_module = exec_module


def _replacements() -> Any:
    return importlib.import_module("gpukmeans.accel.replacements")


_finder = _Finder()
