"""Random generators, on the host (Rule 4)."""

from __future__ import annotations

from collections.abc import Sequence
from numbers import Integral
from typing import Any

import numpy as np


class _NoEntropy(np.random.SeedSequence):
    """What a new bit generator begins with where a seed will follow."""

    def generate_state(self, n_words: int, dtype: Any = np.uint32) -> Any:
        return [0] * n_words  # of which words are taken one by one: from an array in twenty times the time


_NO_ENTROPY = _NoEntropy(0)


def seeded(seed: int | Sequence[int]) -> np.random.RandomState:
    """``np.random.RandomState(seed)`` in a fraction of its time, a tenth of a fit of 300 points.

    That one first asks the system for entropy and spreads it over 624 words, all of which the seed then replaces.
    """
    generator = np.random.RandomState(np.random.MT19937(_NO_ENTROPY))
    generator.seed(seed)
    return generator


def generator_of(random_state: int | np.random.RandomState | None) -> np.random.RandomState:
    """scikit-learn's ``check_random_state``, which is not imported for it."""
    if isinstance(random_state, Integral):
        return seeded(int(random_state))
    if random_state is None or random_state is np.random:
        return np.random.mtrand._rand
    if isinstance(random_state, np.random.RandomState):
        return random_state
    raise ValueError(f"{random_state!r} cannot be used to seed a numpy.random.RandomState instance")
