"""The ranges of all numbers that a user can type, and the one check of them, on the command line and in Python.

Upper ends are generous: far beyond any use, and low enough that memory or time of a slip are not spent unasked.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from gradprobe.errors import UsageError


@dataclass(frozen=True)
class Range:
    """Numbers from ``least`` to ``most``.

    Attributes:
        least: the smallest; with ``above`` itself excluded.
        most: the largest.
        whole: whole numbers only.
        above: larger than ``least`` only.
    """

    least: float
    most: float
    whole: bool = True
    above: bool = False

    def holds(self, value: Any) -> bool:
        """Tell whether the value is a number of this range; NaN, infinities and truth values are of none."""
        kinds = int if self.whole else (int, float)
        if isinstance(value, bool) or not isinstance(value, kinds):
            return False
        return self.least < value <= self.most if self.above else self.least <= value <= self.most

    def __str__(self) -> str:
        """Words that end an error."""
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
    "batch-size": Range(1, COUNT),
    "batches": Range(3, COUNT),
    "budget": Range(0, 1e8, whole=False, above=True),
    "draws": Range(1, MANY),
    "eigenvalues": Range(1, 10**4),
    "held-out": Range(3, COUNT),
    "images": Range(1, MANY),
    "k": Range(1, COUNT),
    "keep": SHARE,
    "ladder": POSITIVE,
    "layer": Range(0, 10**4),
    "learning-rate": Range(0, 1e6, whole=False, above=True),
    "margin": Range(0, 1, whole=False),
    "max-new-tokens": Range(1, COUNT),
    "noise-draws": Range(3, COUNT),
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


def check_number(option: str, value: Any, least: float | None = None) -> None:
    """Refuse a number outside the range of its option.

    Args:
        option: its name, as in `RANGES`; underscores stand for dashes.
        value: what was typed or passed.
        least: a larger least value than that of the table.

    Raises:
        UsageError: another kind of value, NaN, or one outside.

    Example:
        >>> check_number("seed", 3)
        >>> check_number("learning_rate", float("nan"))
        Traceback (most recent call last):
        gradprobe.errors.UsageError: --learning-rate nan is not possible; give a positive number, at most 1e+06
    """
    option = option.replace("_", "-")
    kind = RANGES[option]
    if least is not None and least > kind.least:
        kind = Range(least, kind.most, kind.whole, kind.above)
    if not kind.holds(value):
        shown = f"{value:g}" if isinstance(value, float) else value
        raise UsageError(f"--{option} {shown} is not possible; give {kind}")


def check_numbers(numbers: Mapping[str, Any]) -> None:
    """Refuse those of the named numbers that are outside the range of their option; None is not asked.

    Raises:
        UsageError: names the first.
    """
    for option, value in numbers.items():
        if value is not None:
            check_number(option, value)
