"""How many clusters: fits of several k beside each other, and which of them is suggested."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gpukmeans.cli import report
from gpukmeans.cli.errors import CommandError

# Rousseeuw, "Silhouettes: a graphical aid to the interpretation and validation of cluster analysis" (Journal of
# Computational and Applied Mathematics, 1987), section 5: the k whose mean silhouette is the largest.
RULE = "the largest mean silhouette (Rousseeuw, 1987)"

# A silhouette takes time with the square of the rows: of more than this, as many are drawn.
MOST_ROWS = 10_000


@dataclass(frozen=True)
class Choice:
    """models: fitted, one for each k. silhouettes: the mean of each, None where there is none: of a single cluster.
    sampled: of how many rows they are, if not of all."""

    models: list[Any]
    silhouettes: list[float | None]
    sampled: int | None

    @property
    def suggested(self) -> int:
        """The place of the largest mean silhouette, the first of equals."""
        return max(range(len(self.models)), key=lambda place: (self._known[place], -place))

    @property
    def _known(self) -> list[float]:
        return [-2.0 if value is None else value for value in self.silhouettes]


def choose(fit: Callable[[int], Any], X: Any, ks: range, *, metric: str, seed: int, source: str) -> Choice:
    """Fit each k, and measure. fit: of k, returns the fitted model. The rows that silhouettes are of are the same for
    all k. CommandError where no k has a silhouette, as of rows that are all the same."""
    rows = None
    if X.shape[0] > MOST_ROWS:
        rows = np.sort(np.random.RandomState(seed).permutation(X.shape[0])[:MOST_ROWS])
    few = np.asarray(X[rows]) if rows is not None and isinstance(X, np.ndarray) else X if rows is None else X[rows]
    models, silhouettes = [], []
    with report.bar(ks, "fitting") as bar:
        for k in bar:
            models.append(fit(k))
            labels = models[-1].labels_
            silhouettes.append(_silhouette(few, labels if rows is None else labels[rows], metric))
    found = Choice(models, silhouettes, None if rows is None else len(rows))
    if all(value is None for value in silhouettes):
        raise CommandError(f"{source}: no k is suggested, as no row is in another cluster than the others, or each is")
    return found


def _silhouette(X: Any, labels: NDArray[np.int32], metric: str) -> float | None:
    from sklearn.metrics import silhouette_score

    if not 2 <= len(np.unique(labels)) < len(labels):
        return None
    return float(silhouette_score(X, labels, metric=metric))
