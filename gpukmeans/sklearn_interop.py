"""Estimators as scikit-learn's class of the same name, which other programs know, and back."""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import suppress
from copy import deepcopy
from inspect import unwrap
from typing import Any, ClassVar, Self

import numpy as np
from sklearn.base import BaseEstimator, clone
from sklearn.utils._param_validation import validate_parameter_constraints

from gpukmeans import array_interop, foreign_names
from gpukmeans.center_checks import fitted
from gpukmeans.exact.metric import metric_of
from gpukmeans.random_state import generator_of

# What scikit-learn's base class keeps of features, output and requests; and what both estimators publish of a fit.
_KEPT = ("n_features_in_", "feature_names_in_", "_sklearn_output_config", "_metadata_request")
_PUBLISHED = ("labels_", "inertia_", "n_iter_", "n_steps_", "_n_init", "_init_size")


class SklearnInterop(BaseEstimator):
    """What `KMeans` and `MiniBatchKMeans` have in common with those of scikit-learn, and what they call differently."""

    _counterpart: ClassVar[str]  # the class in sklearn.cluster

    def to_sklearn(self) -> Any:
        """This estimator as scikit-learn's class of the same name: fitted, if it is.

        For programs that know that class, as skl2onnx, sklearn2pmml and skops do, or have no gpukmeans. Nothing is
        fitted anew: centers, labels and inertia are the same. What scikit-learn computes with them is rounded by
        scikit-learn.

        Returns
        -------
        model : sklearn.cluster.KMeans or sklearn.cluster.MiniBatchKMeans
            A new one, of the parameters that it has. ``init="k-means||"``, which it has not, becomes "k-means++".
            Arrays are NumPy's; centers of float16, which it does not read, are float64.

        Raises
        ------
        ValueError
            With metric="cosine", which scikit-learn does not have.

        Examples
        --------
        >>> from gpukmeans import KMeans
        >>> model = KMeans(2, random_state=0).fit([[1.0], [2.0], [9.0]]).to_sklearn()
        >>> type(model).__module__, model.predict([[8.0]]) == model.labels_[2]
        ('sklearn.cluster._kmeans', array([ True]))
        """
        if self.metric != "euclidean":
            raise ValueError(
                f"A {type(self).__name__} with metric={self.metric!r} has no counterpart in scikit-learn, which does "
                "not bring rows to length one: its transform, score and inertia would be others, and so would be its "
                "labels of centers that are not of length one. Keep such a model by `save`; or fit rows that "
                'sklearn.preprocessing.normalize has made, with metric="euclidean".'
            )
        import sklearn.cluster

        counterpart = getattr(sklearn.cluster, self._counterpart)
        parameters = _copied(self, counterpart._get_param_names())
        if isinstance(self.init, str) and self.init == "k-means||":
            parameters["init"] = "k-means++"
        model = counterpart(**parameters)
        _copy_kept(self, model)
        write_fit(self, model)
        return model

    @classmethod
    def from_sklearn(cls, model: Any) -> Self:
        """An estimator that is what scikit-learn's of the same name is: its parameters, and its fit, if it has one.

        Parameters
        ----------
        model : sklearn.cluster.KMeans or sklearn.cluster.MiniBatchKMeans
            Of the class whose name this one has.

        Returns
        -------
        model : KMeans or MiniBatchKMeans
            With the defaults of the parameters that scikit-learn does not have: ``set_params(device=...)`` sets them.
            Where two centers are equally near, `predict` has the smaller index.

        Raises
        ------
        TypeError
            For an object of any other class. What a subclass changes nobody knows.

        Examples
        --------
        >>> import sklearn.cluster, gpukmeans
        >>> theirs = sklearn.cluster.KMeans(2, random_state=0).fit([[1.0], [2.0], [9.0]])
        >>> gpukmeans.KMeans.from_sklearn(theirs).predict([[8.0]]) == theirs.labels_[2]
        array([ True])
        """
        import sklearn.cluster

        counterpart = getattr(sklearn.cluster, cls._counterpart)
        if type(model) is not counterpart:
            raise TypeError(
                f"{cls.__name__}.from_sklearn takes a sklearn.cluster.{cls._counterpart} and no subclass of it, got "
                f"{type(model).__module__}.{type(model).__qualname__}."
            )
        made = cls(**_copied(model, counterpart._get_param_names()))
        _copy_kept(model, made)
        read_fit(model, made)
        return made

    def set_params(self, **params: Any) -> Self:
        """Set parameters by name, see scikit-learn's `BaseEstimator`. Returns self.

        Raises ValueError for a name that is no parameter.
        """
        foreign = foreign_names.foreign_parameter(self, params)
        if foreign is not None:
            raise ValueError(f"Invalid {foreign}")
        super().set_params(**params)
        return self

    def _validate_params(self) -> None:
        """scikit-learn's, of what are no defaults: for all it takes a tenth of a small fit."""
        foreign_names.check_values(self)
        owner: Any = next(kind for kind in type(self).__mro__ if "_parameter_constraints" in vars(kind))
        defaults = unwrap(owner.__init__).__kwdefaults__
        given = self.get_params(deep=False).items()
        validate_parameter_constraints(
            owner._parameter_constraints,
            {name: value for name, value in given if name not in defaults or value is not defaults[name]},
            caller_name=type(self).__name__,
        )


def _copied(model: Any, names: Iterable[str]) -> dict[str, Any]:
    """The values of these parameters, as `clone` copies them."""
    return {name: clone(getattr(model, name), safe=False) for name in names}


def _copy_kept(source: Any, target: Any) -> None:
    for name in _KEPT:
        if hasattr(source, name):
            setattr(target, name, deepcopy(getattr(source, name)))


def write_fit(ours: Any, theirs: Any) -> None:
    """Give scikit-learn's estimator the fit of ours, if that has one: all that scikit-learn's own would have left."""
    if not hasattr(ours, "cluster_centers_"):
        return
    for name in (*_PUBLISHED, "_seed_drawn"):  # the last has no meaning there, and comes back
        if hasattr(ours, name):
            setattr(theirs, name, array_interop.to_numpy(getattr(ours, name)))
    centers = fitted(ours.cluster_centers_, metric_of(ours.metric))
    if centers.dtype == np.float16:
        centers = centers.astype(np.float64)
    theirs.cluster_centers_ = centers
    theirs._n_features_out = len(centers)
    with suppress(ImportError):
        from sklearn.utils._openmp_helpers import _openmp_effective_n_threads

        theirs._n_threads = _openmp_effective_n_threads()
    if ours._counterpart == "KMeans":
        theirs._algorithm = "lloyd" if ours.n_clusters == 1 else ours.algorithm
        return
    theirs._batch_size = ours.batch_size
    if hasattr(ours, "_counts"):
        theirs._counts = ours._counts.astype(centers.dtype)
        theirs._n_since_last_reassign = ours._since_reassignment


def read_fit(theirs: Any, ours: Any) -> None:
    """Give ours the fit of scikit-learn's estimator, if that has one."""
    if not hasattr(theirs, "cluster_centers_"):
        return
    ours.cluster_centers_ = np.array(theirs.cluster_centers_)
    for name in _PUBLISHED:
        if hasattr(theirs, name):
            value = getattr(theirs, name)
            setattr(ours, name, float(value) if name == "inertia_" else value)
    if ours._counterpart == "MiniBatchKMeans" and hasattr(theirs, "_counts"):
        ours._counts = np.array(theirs._counts, np.float64)
        ours._since_reassignment = int(theirs._n_since_last_reassign)
        if hasattr(theirs, "_seed_drawn"):
            ours._seed_drawn = theirs._seed_drawn
        else:  # which its further steps follow from
            ours._seed_drawn = int(generator_of(ours.random_state).randint(2**31 - 1))
