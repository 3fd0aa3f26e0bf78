"""When scikit-learn's own function is called after all, and what is told of it."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

logger = logging.getLogger("gpukmeans")

# Methods of scikit-learn's k-means that `fit` calls there, and not here: who overrides one means it to be called.
_CALLED_BY_FIT = (
    "_check_params_vs_input",
    "_init_centroids",
    "_mini_batch_convergence",
    "_random_reassign",
    "_validate_center_shape",
)

_told: set[tuple[str, str]] = set()


def overridden(model: Any, owner: type) -> str | None:
    """Why scikit-learn has to fit this estimator, an instance of ``owner``; None if it does not."""
    kind = type(model)
    for name in _CALLED_BY_FIT:
        if name in vars(model) or getattr(kind, name, None) is not getattr(owner, name, None):
            return f"it has a {name} of its own"
    return None


def ours_or_theirs(
    what: str,
    ours: Callable[[], Any],
    theirs: Callable[[], Any],
    *,
    why_not: str | None = None,
    before_theirs: Callable[[], None] = lambda: None,
) -> Any:
    """The answer of gpukmeans, or, where that refuses, scikit-learn's: an answer or its own error.

    why_not: the reason for which gpukmeans is not asked. before_theirs: makes undone what ours did before it refused.
    """
    if why_not is None:
        try:
            return ours()
        except (TypeError, ValueError) as error:
            why_not = str(error).partition("\n")[0]
    before_theirs()
    answer = theirs()
    if (what, why_not) not in _told:
        _told.add((what, why_not))
        logger.info("%s is left to scikit-learn: %s", what, why_not)
    return answer
