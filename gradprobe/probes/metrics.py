"""A probe's place in comparisons, leaderboards and pages: its metrics, and tables as text. Nothing here needs torch."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from gradprobe.plotting.columns import Cell, Row, cells, interval, name_of, seeds

FEWEST_SEEDS = 5  # that decide a difference, as in `gradprobe.statistics.ratios`
NO_GRADIENT, NOT_ASKED = "no gradient", "not measured"
MARKS = {"higher": "▲", "lower": "▼", "undecided": "·", "different": "≠", "small gap": "≈", "equivalent": "="}


@dataclass(frozen=True)
class Metric:
    """A number of a probe's row that comparisons show.

    Attributes:
        name: in JSON.
        heading: above the column.
        probe: whose result it is from.
        better: ``higher`` or ``lower``; None: neither.
        ratio: whether operators are compared by a ratio to the focus, not by the difference.
        figures: whether its size is unknown beforehand (significant figures) or known (fixed decimals).
        meaning: one sentence.
        read: row of the probe -> `cell`.
    """

    name: str
    heading: str
    probe: str
    better: Literal["higher", "lower"] | None
    ratio: bool
    figures: bool
    meaning: str
    read: Callable[[Row], dict[str, Any]]


@dataclass(frozen=True)
class Place:
    """Place of a probe in comparisons that is told by its metrics alone.

    Every operator is then asked with the default settings, and the metrics are the columns of the page.
    """

    METRICS: tuple[Metric, ...]
    QUESTION: str = ""


@dataclass(frozen=True)
class Grid:
    """A table as text: headings, of which the first is of the names, and lines of a name and its cells."""

    title: str
    headings: tuple[str, ...]
    lines: tuple[tuple[str, tuple[str, ...]], ...]


@dataclass(frozen=True)
class Plan:
    """Subject of a comparison.

    Attributes:
        task: open; every question gets a fresh scorer of its seed.
        training: the same with the folder that scorers are trained on, where it is another.
        operators: by canonical name.
        k: K, the tokens kept.
        size: amount of each probe, a `gradprobe.comparison.sizes.Size`.
        seed: of images, noise and scorer, and the first of the trainings.
        selectors: labels of plans without training, beside the usual rankings.
    """

    task: Any
    training: Any
    operators: Mapping[str, Any]
    k: int
    size: Any
    seed: int
    selectors: tuple[str, ...] = ()

    def each(self, settings: Any) -> list[tuple[Any, Any]]:
        """Return the same question of every operator."""
        from gradprobe.probes.contract import Subject

        return [(Subject(self.task, operator, self.k), settings) for operator in self.operators.values()]


def cell(
    row: Row | None = None,
    value: str = "",
    ends: tuple[str, str] = ("", ""),
    versus: str = "",
    *,
    ratio: bool = False,
    reason: str | None = None,
    seeds: int | None = None,
) -> dict[str, Any]:
    """Return a metric's value, interval, difference from the focus and verdict, from the fields of a row.

    Args:
        row: of the probe; None: nothing was measured.
        value: field of the value.
        ends: fields of its interval.
        versus: field of the difference or ratio; its ends are followed by ``_low`` and ``_high``.
        ratio: whether it is a ratio, undecided around 1 and not around 0.
        reason: words for a value that is not there.
        seeds: number of seeds or trainings, fewer than 5 of which decide nothing; None: one seed of what is not
            trained.

    Returns:
        ``value``, ``low``, ``high``, ``difference`` with its ends, ``verdict``, ``reason`` and ``seeds``; of a row
        that is pooled over seeds also the values ``by_seed``.
    """
    row = row or {}
    fields = {"value": row.get(value), "low": row.get(ends[0]), "high": row.get(ends[1])}
    fields |= {f"difference{end}": row.get(f"{versus}{end}") for end in ("", "_low", "_high")}
    low, high, equal = fields["difference_low"], fields["difference_high"], 1 if ratio else 0
    verdict = None if fields["difference"] is None else "undecided"
    enough = seeds is None or seeds >= FEWEST_SEEDS
    if enough and low is not None and high is not None and not low <= equal <= high:
        verdict = "higher" if low > equal else "lower"
    why = (reason or "undefined") if fields["value"] is None else None
    each = row.get("by_seed")
    pooled = {"by_seed": each[value]} if isinstance(each, Mapping) and value in each else {}
    return {**fields, "seeds": None if verdict is None else seeds, "verdict": verdict, "reason": why, **pooled}


def mark(cell: Mapping[str, Any]) -> str:
    """Return the sign of a cell's verdict, with the number of seeds if they are too few; empty if not compared.

    Example:
        >>> mark({"verdict": "lower", "seeds": None}), mark({"verdict": "undecided", "seeds": 3})
        ('▼', '· (3 seeds)')
    """
    sign, few = MARKS.get(cell["verdict"], ""), cell["seeds"] is not None and cell["seeds"] < FEWEST_SEEDS
    return f"{sign} ({seeds(cell['seeds'])})" if sign and few else sign


def ends_of(name: str) -> tuple[str, str]:
    """Return the fields of an estimate's interval."""
    return f"{name}_low", f"{name}_high"


def without_gradient(row: Row, otherwise: str | None = None) -> str | None:
    """Return the reason for a number that is not there: no gradient, or another one."""
    return NO_GRADIENT if row.get("gradient") == "none" else otherwise


def trained(row: Row) -> int | None:
    """Return the number of seeds that a row's comparison is of, None for what is asked with one seed and not trained.

    One seed is a training after steps or along checkpoints; a row that is pooled, if only of one of the seeds that
    others have, counts those that are compared.
    """
    if "seeds" in row:
        return row["difference_seeds"] or len(row["seeds"])
    return 1 if row.get("steps") or row.get("axes", "random") != "random" else None


def grid(title: str, rows: Sequence[Row], columns: Mapping[str, Cell], none: Sequence[str] = ()) -> Grid:
    """Return a table, an operator a line; columns named in ``none`` say so for one without a gradient."""
    lines = tuple((name_of(row), tuple(cells(row, columns, none))) for row in rows)
    return Grid(title, ("operator", *columns), lines)


def estimated(name: str, form: Callable[..., str] = interval) -> Cell:
    """Return a column of an estimate with its interval, which an operator may lack."""
    return lambda row: form(row.get(name), row.get(f"{name}_low"), row.get(f"{name}_high"))
