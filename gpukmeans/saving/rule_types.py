"""Rules for values: what a value of an estimator, or of a file, has to be."""

from __future__ import annotations

import math
import reprlib
from dataclasses import dataclass, is_dataclass
from typing import Any, ClassVar, Protocol

import numpy as np

MAX_INT = 2**63 - 1  # of what is counted


class RefusedError(Exception):
    """What is not saved or not loaded, and why; `save` and `load` add which file."""


def describe_value(value: Any) -> str:
    """A value in a message, however large it is."""
    return reprlib.repr(value)


class Sizes:
    """The lengths that values have in common, and which value had each of them first."""

    LETTERS: ClassVar = {"b": "problems", "k": "clusters", "d": "features", "n": "samples"}

    def __init__(self) -> None:
        self._known: dict[str, tuple[str, Any]] = {}

    def agree(self, letter: str, length: Any, name: str) -> None:
        """Raise RefusedError if the value of this name has another length than those before."""
        first, known = self._known.setdefault(letter, (name, length))
        if known != length:
            what = self.LETTERS[letter]
            raise RefusedError(f"{name} is of {length} {what}, and {first} of {describe_value(known)}")

    def __getitem__(self, letter: str) -> Any:
        return self._known[letter][1]


class Rule(Protocol):
    def check(self, name: str, value: Any, sizes: Sizes) -> None:
        """Raise RefusedError, about what has this name, for a value that is something else."""


@dataclass(frozen=True)
class IntegerRule:
    """An integer from least to most; size: the letter of Sizes whose length it is, if it is one."""

    least: int = 0
    most: int = MAX_INT
    size: str = ""

    def check(self, name: str, value: Any, sizes: Sizes) -> None:
        if not isinstance(value, int | np.integer) or isinstance(value, bool) or not self.least <= value <= self.most:
            raise RefusedError(f"{name} is {describe_value(value)}, and no integer from {self.least} to {self.most}")
        if self.size:
            sizes.agree(self.size, int(value), name)


@dataclass(frozen=True)
class FloatRule:
    """A float from least to most, not NaN."""

    least: float = 0.0
    most: float = math.inf
    or_none: bool = False

    def check(self, name: str, value: Any, sizes: Sizes) -> None:
        if value is None and self.or_none:
            return
        if not isinstance(value, float | np.floating) or not self.least <= value <= self.most:
            raise RefusedError(f"{name} is {describe_value(value)}, and no float from {self.least} to {self.most}")


@dataclass(frozen=True)
class StringRule:
    """This string."""

    value: str

    def check(self, name: str, value: Any, sizes: Sizes) -> None:
        if type(value) is not str or value != self.value:
            raise RefusedError(f"{name} is {describe_value(value)}, and not {self.value}")


@dataclass(frozen=True)
class ArrayRule:
    """An array of one of the dtypes, in either order of bytes, whose values lie within [least, most]; not NaN.

    shape: lengths, or letters of Sizes, or None for any. A letter as ``most``: below that many.
    """

    dtypes: tuple[type, ...]
    shape: tuple[int | str | None, ...]
    least: float
    most: float | str

    def check(self, name: str, value: Any, sizes: Sizes) -> None:
        if not isinstance(value, np.ndarray) or value.dtype.newbyteorder("=") not in self.dtypes:
            what = f"an array of {value.dtype}" if isinstance(value, np.ndarray) else describe_value(value)
            raise RefusedError(
                f"{name} is {what}, and no array of {' or '.join(each.__name__ for each in self.dtypes)}"
            )
        _check_shape(name, value.shape, self.shape, sizes)
        with np.errstate(invalid="ignore"):
            least, most = value.min().item(), value.max().item()  # NaN if there is any
        limit = sizes[self.most] - 1 if isinstance(self.most, str) else self.most
        if not (self.least <= least and most <= limit):
            raise RefusedError(f"{name} has values from {least} to {most}, beyond {self.least} to {limit}")


@dataclass(frozen=True)
class EachRule:
    """One array for each problem: an array (b, n) that keeps to one rule, or a list of arrays (n_i,) that each keep to
    another."""

    whole: ArrayRule
    part: ArrayRule

    def check(self, name: str, value: Any, sizes: Sizes) -> None:
        if type(value) is not list:
            self.whole.check(name, value, sizes)
            return
        sizes.agree(self.whole.shape[0], len(value), name)  # type: ignore[arg-type]
        for i, each in enumerate(value):
            self.part.check(f"{name}.{i}", each, sizes)


@dataclass(frozen=True)
class StringsRule:
    """An array of strings as Python objects, of the shape (size,), a letter of Sizes."""

    size: str

    def check(self, name: str, value: Any, sizes: Sizes) -> None:
        if (
            not isinstance(value, np.ndarray)
            or value.dtype != object
            or any(type(each) is not str for each in value.flat)
        ):
            raise RefusedError(f"{name} is {describe_value(value)}, and no array of strings as objects")
        _check_shape(name, value.shape, (self.size,), sizes)


@dataclass(frozen=True)
class DictRule:
    """A dict of these names, all of them there."""

    rules: dict[str, Rule]

    def check(self, name: str, value: Any, sizes: Sizes) -> None:
        if type(value) is not dict or value.keys() != self.rules.keys():
            raise RefusedError(f"{name} is {describe_value(value)}, and no dict of {', '.join(self.rules)}")
        for field, rule in self.rules.items():
            rule.check(f"{name}.{field}", value[field], sizes)


@dataclass(frozen=True)
class RecordsRule:
    """A list of dataclasses; the fields of those of this class keep to a rule."""

    record: type
    rule: Rule

    def check(self, name: str, value: Any, sizes: Sizes) -> None:
        if type(value) is not list or not all(is_dataclass(type(each)) for each in value):
            raise RefusedError(f"{name} is {describe_value(value)}, and no list of records")
        for i, each in enumerate(value):
            if type(each) is self.record:
                self.rule.check(f"{name}.{i}", vars(each), sizes)


class OutputRule:
    """What `set_output` was told: a dict of strings."""

    def check(self, name: str, value: Any, sizes: Sizes) -> None:
        if type(value) is not dict or any(type(each) is not str for each in value.values()):
            raise RefusedError(f"{name} is {describe_value(value)}, and no dict of strings")


def _check_shape(name: str, shape: tuple[int, ...], wanted: tuple[int | str | None, ...], sizes: Sizes) -> None:
    if len(shape) != len(wanted) or 0 in shape:
        raise RefusedError(f"{name} has the shape {describe_value(shape)}, and not ({', '.join(map(str, wanted))})")
    for length, each in zip(shape, wanted, strict=True):
        if isinstance(each, str):
            sizes.agree(each, length, name)
        elif each is not None and length != each:
            raise RefusedError(f"{name} has the shape {describe_value(shape)}, and not ({', '.join(map(str, wanted))})")
