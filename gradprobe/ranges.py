"""Ranges of all numbers that a user can type, and their check on the command line and in Python.

Upper ends lie far beyond any use, and low enough that a slip does not exhaust memory or time.
"""

from collections.abc import Mapping
from dataclasses import dataclass, fields
from numbers import Integral, Real
from typing import Any

from gradprobe.errors import UsageError, in_words


@dataclass(frozen=True)
class Range:
    """Range of numbers from ``least`` to ``most``.

    Attributes:
        least: Smallest number, excluded if ``above`` is set.
        most: Largest number.
        whole: Flag for whole numbers only.
        above: Flag for numbers larger than ``least`` only.
    """

    least: float
    most: float
    whole: bool = True
    above: bool = False

    def holds(self, value: Any) -> bool:
        """Return True if the value is a number in this range; NaN, infinities and booleans are in none."""
        types = int if self.whole else (int, float)
        if isinstance(value, bool) or not isinstance(value, types):
            return False
        return self.least < value <= self.most if self.above else self.least <= value <= self.most

    def __str__(self) -> str:
        """Return the end of an error message."""
        if not self.whole and self.above and not self.least:
            return "a share in (0, 1], e.g. 0.3" if self.most == 1 else f"a positive number, at most {self.most:g}"
        if not self.whole:
            return f"a number from {self.least:g} to {self.most:g}"
        return f"a whole number of at least {self.least:.0f}, at most {self.most:.0f}"


COUNT, MANY = 10**6, 10**8
SEED = 2**31 - 1
POSITIVE = Range(0, 1e9, whole=False, above=True)
SHARE = Range(0, 1, whole=False, above=True)
RANGES: Mapping[str, Range] = {
    "average": Range(0, COUNT, whole=False, above=True),
    "batch-size": Range(1, COUNT),
    "batches": Range(3, COUNT),
    "budget": Range(0, 1e8, whole=False, above=True),
    "draws": Range(1, MANY),
    "eigenvalues": Range(1, 10**4),
    "held-out": Range(3, COUNT),
    "images": Range(1, MANY),
    "inner": Range(1, COUNT),
    "jobs": Range(1, 4096),
    "k": Range(1, COUNT),
    "keep": SHARE,
    "ladder": POSITIVE,
    "layer": Range(0, 10**4),
    "learning-rate": Range(0, 1e6, whole=False, above=True),
    "margin": Range(0, 1, whole=False),
    "max-new-tokens": Range(1, COUNT),
    "noise-draws": Range(3, COUNT),
    "outer": Range(1, COUNT),
    "passes": Range(6, 10**5),
    "patience": Range(0, COUNT),
    "picture": Range(0, COUNT - 1),
    "ratio": SHARE,
    "reach": Range(0, 1e6, whole=False, above=True),
    "rounds": Range(6, COUNT),
    "rows": Range(1, COUNT),
    "samples": Range(2, COUNT),
    "save-every": Range(1, MANY),
    "seed": Range(0, SEED),
    "seeds": Range(0, SEED),
    "sharp": POSITIVE,
    "sigma": POSITIVE,
    "steps": Range(0, MANY),
    "tau": POSITIVE,
    "tau-steps": Range(1, MANY),
    "taus": POSITIVE,
    "text-tokens": Range(1, COUNT),
    "tolerance": Range(0, 1, whole=False, above=True),
    "validation": Range(0, COUNT),
    "weight-decay": Range(0, 1e6, whole=False),
    "workers": Range(1, 1024),
}


def plain(value: Any) -> Any:
    """Return numbers of numpy and other libraries as Python's, also within lists, tuples and arrays; all else as it is.

    Example:
        >>> import numpy
        >>> plain(numpy.int64(58)), plain([numpy.float64(0.5), "a"]), plain(numpy.arange(3)), plain(True)
        (58, [0.5, 'a'], [0, 1, 2], True)
    """
    if type(value) in (list, tuple):
        return type(value)(map(plain, value))
    if isinstance(value, bool):
        return value
    if isinstance(value, Integral):
        return int(value)
    if isinstance(value, Real):
        return float(value)
    return value.tolist() if type(value).__module__ == "numpy" and hasattr(value, "tolist") else value


def make_plain(made: Any) -> None:
    """Replace the numbers of numpy in the fields of a frozen dataclass, in its ``__post_init__``, by Python's."""
    for field in fields(made):
        object.__setattr__(made, field.name, plain(getattr(made, field.name)))


def check_number(option: str, value: Any, least: float | None = None) -> None:
    """Refuse a number outside the range of its option.

    Args:
        option: Name of the option, as in `RANGES`; underscores count as dashes.
        value: Value to check.
        least: Least value, if it is larger than that of the table.

    Raises:
        UsageError: The value is of another type, NaN, or outside the range.

    Example:
        >>> check_number("seed", 3)
        >>> check_number("learning_rate", float("nan"))
        Traceback (most recent call last):
        gradprobe.errors.UsageError: --learning-rate nan is not possible; give a positive number, at most 1e+06
    """
    option = option.replace("_", "-")
    limits = RANGES[option]
    if least is not None and least > limits.least:
        limits = Range(least, limits.most, limits.whole, limits.above)
    if not limits.holds(value):
        text = f"{value:g}" if isinstance(value, float) else in_words(value)
        raise UsageError(f"--{option} {text} is not possible; give {limits}")


def check_numbers(numbers: Mapping[str, Any]) -> None:
    """Refuse numbers outside the range of their option; None is accepted.

    Raises:
        UsageError: A number is outside its range; the message names the first.
    """
    for option, value in numbers.items():
        if value is not None:
            check_number(option, value)
