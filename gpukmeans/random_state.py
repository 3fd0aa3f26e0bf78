"""Random generators, on the host (Rule 4)."""

from __future__ import annotations

from collections import deque
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


class Remembered:
    """A generator whose draws can be had once more, by whoever has to begin anew.

    To set its state back instead would hand out numbers twice where other threads draw from it
    (test_whole_fits.test_what_others_draw_meanwhile_is_never_drawn_again fails if it is).
    """

    def __init__(self, generator: np.random.RandomState) -> None:
        self._generator, self._again = generator, False
        self._drawn: deque[Any] = deque()

    def again(self) -> None:
        """From here on: what was drawn, call by call, and after that what the generator draws."""
        self._again = True

    def random_sample(self, size: Any = None) -> Any:
        return self._draw("random_sample", size)

    def randint(self, high: int) -> Any:
        return self._draw("randint", high)

    def _draw(self, name: str, *how: Any) -> Any:
        if self._again and self._drawn:
            return self._drawn.popleft()
        drawn = getattr(self._generator, name)(*how)
        if not self._again:
            self._drawn.append(drawn)
        return drawn


def generator_of(random_state: int | np.random.RandomState | None) -> np.random.RandomState:
    """scikit-learn's ``check_random_state``, which is not imported for it."""
    if isinstance(random_state, Integral):
        return seeded(int(random_state))
    if random_state is None or random_state is np.random:
        return np.random.mtrand._rand
    if isinstance(random_state, np.random.RandomState):
        return random_state
    raise ValueError(f"{random_state!r} cannot be used to seed a numpy.random.RandomState instance")
