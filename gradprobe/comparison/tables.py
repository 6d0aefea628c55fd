"""Comparisons -> tables for the terminal and for documents: each number with its interval, each difference marked."""

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from types import MappingProxyType
from typing import Any

from rich import box
from rich.console import Group
from rich.table import Table

from gradprobe.comparison.comparison import Comparison, count, few_seeds, metrics, rows
from gradprobe.comparison.verdict import ARROWS, COMPARED, SIGNS, standing
from gradprobe.plotting.columns import Row, figures, interval, name_of, number, seeds
from gradprobe.plotting.escape import code_span
from gradprobe.probes.metrics import FEWEST_SEEDS, NO_GRADIENT, NOT_ASKED, Metric
from gradprobe.probes.metrics import mark as verdict_mark

WIDTHS = (3, 3, 2)  # columns of a table at 80 characters
LEGEND = (
    "▲ better, ▼ worse than {focus}, decided at 95 %; = " + COMPARED + "; · undecided; (n seeds): fewer than 5, which "
    "decide nothing; none: no gradient; –: not measured or undefined"
)
DIRECTED = "↑ higher is better, ↓ lower is better"
SPREAD = "spread seeds / images"
SPREADS = f"{SPREAD}: standard deviation of retention over seeds, and its mean standard error over a seed's images"
TESTED = "gap to hard: = none seen and below the margin, ≈ seen and below it, ≠ seen, · undecided"


def summary_table(comparison: Comparison) -> Group:
    """Every metric of every operator with its interval and mark, in tables legible at 80 columns.

    Args:
        comparison: the operators, compared with its focus.

    Returns:
        What rich prints.
    """
    operator_rows = rows(comparison)
    shown = measured(operator_rows)
    tables = []
    for columns in _split(shown):
        ours = [row for row in operator_rows if any(metric.name in row["metrics"] for metric in columns)]
        tables.append(_table(ours, columns))
    return Group(*tables)


def summary_lines(comparison: Comparison) -> list[str]:
    """Return the lines below the table: marks, number of comparisons, meanings of the metrics, gaps."""
    operator_rows = rows(comparison)
    shown = measured(operator_rows)
    told = [DIRECTED, LEGEND.format(focus=comparison.focus)] if shown else []
    told += [TESTED] if any(metric.name == "equivalence" for metric in shown) else []
    told += [f"{metric.heading}: {metric.meaning}{by_seeds(operator_rows, metric)}" for metric in shown]
    return [*told, chance(operator_rows, comparison.focus), *(f"missing: {gap}" for gap in comparison.missing)]


def chance(operator_rows: Sequence[Row], focus: str) -> str:
    """Return a sentence on the comparisons of a table: their number, those decided, those expected by chance.

    Args:
        operator_rows: as `gradprobe.comparison.comparison.rows` makes them.
        focus: the operator that all others are compared with.

    Example:
        >>> chance([], "lapsum+vpnoise")
        'Nothing is compared with lapsum+vpnoise here.'
    """
    counted = count(operator_rows)
    few = f" {counted.few} with fewer than 5 seeds are left undecided." if counted.few else ""
    if not counted.compared:
        return f"Nothing is compared with {focus} here.{few}"
    return (
        f"{counted.compared} comparisons with {focus}, {counted.decided} decided, each at 95 % and not corrected for "
        f"their number: if no operator differed from it, about {counted.by_chance:.2g} would be decided all the same."
        f"{few}"
    )


def measured(operator_rows: Sequence[Row]) -> list[Metric]:
    """Return the metrics of which at least one operator has a value or a reason of its own for having none."""
    cells = [row["metrics"] for row in operator_rows]
    return [m for m in metrics() if any(m.name in each and each[m.name]["reason"] != NOT_ASKED for each in cells)]


def value(metric: Metric, cell: Mapping[str, Any]) -> str:
    """Return a metric with its interval; "none" without gradient, an en dash where there is no number.

    Two to four seeds, which have no interval, are told one by one.

    Example:
        >>> by_name = {metric.name: metric for metric in metrics()}
        >>> value(by_name["retention"], {"value": 0.857, "low": 0.83, "high": 0.8876, "reason": None})
        '0.857 [0.830, 0.888]'
        >>> value(by_name["fidelity"], {"value": None, "low": None, "high": None, "reason": "no gradient"})
        'none'
    """
    if cell["value"] is None:
        return "none" if cell["reason"] == NO_GRADIENT else "–"
    each = cell.get("by_seed") or ()
    if cell["low"] is None and len(each) > 1:
        if metric.figures:
            mean, *several = (figures(x, None, None) for x in (cell["value"], *each))
        else:
            mean, *several = number(cell["value"], 3), *(number(x) for x in each)
        return f"{mean} ({', '.join(several)})"
    return _told(metric)(cell["value"], cell["low"], cell["high"])


def difference(metric: Metric, cell: Mapping[str, Any]) -> str:
    """Return the difference from the focus with interval and sign, or the ratio; an en dash where not compared."""
    ends = cell["difference"], cell["difference_low"], cell["difference_high"]
    if ends[0] is None:
        return "–"
    if metric.ratio:
        return f"× {figures(*ends)}"
    text = _told(metric)(*ends)
    return text if text.startswith("-") else f"+{text}"


def mark(metric: Metric, cell: Mapping[str, Any]) -> str:
    """Return the sign of a cell's standing, with the number of seeds if they are too few, which alone if not compared.

    A metric of which neither direction is better has the signs of its own verdicts.

    Example:
        >>> by_name = {metric.name: metric for metric in metrics()}
        >>> mark(by_name["cost"], {"verdict": "lower", "seeds": None})
        '▲'
        >>> mark(by_name["retention"], {"verdict": None, "seeds": None, "trainings": 2})
        '(2 seeds)'
    """
    if (found := standing(metric, cell)) is not None:
        return f"{SIGNS[found]} ({seeds(cell['seeds'])})" if few_seeds(cell) else SIGNS[found]
    if sign := verdict_mark(cell):
        return sign
    count = cell.get("trainings", len(cell.get("by_seed") or ()))
    return f"({seeds(count)})" if count and count < FEWEST_SEEDS else ""


def spread_text(row: Row) -> str:
    """Return the spread of an operator's retention over seeds and over images; empty where it was not trained.

    Example:
        >>> spread_text({"metrics": {"retention": {"spread": {"seeds": 0.29, "images": 0.0158}, "trainings": 3}}})
        '0.290 / 0.016'
    """
    cell = row["metrics"].get("retention", {})
    if not cell.get("trainings"):
        return ""
    return f"{number(cell['spread']['seeds'], 3)} / {number(cell['spread']['images'], 3)}"


def by_seeds(operator_rows: Sequence[Row], metric: Metric) -> str:
    """Return the number of seeds that the differences of a metric are of; empty where they are of one scorer."""
    cells = [row["metrics"][metric.name] for row in operator_rows if metric.name in row["metrics"]]
    counts = sorted({cell["seeds"] for cell in cells if cell["seeds"] is not None})
    if not counts:
        return ""
    return f"; compared by {seeds(counts[0]) if len(counts) == 1 else f'{counts[0]} to {seeds(counts[-1])}'}"


def summary_markdown(comparison: Comparison, ranks: Mapping[str, str] = MappingProxyType({})) -> str:
    """All numbers and intervals as one Markdown table, an operator a row, with what its marks mean below it.

    Args:
        comparison: the operators, compared with its focus.
        ranks: text of a first column, by operator; empty: there is none.
    """
    operator_rows = rows(comparison)
    columns: dict[str, Callable[[Row], str]] = {"rank": lambda row: ranks.get(row["op"], "–")} if ranks else {}
    for metric in measured(operator_rows):
        columns[f"{metric.heading}{ARROWS[metric.better]}"] = partial(_marked, metric)
        if metric.name == "retention" and any(spread_text(row) for row in operator_rows):
            columns[SPREAD] = spread_text
    told = [*([SPREADS] if SPREAD in columns else []), *summary_lines(comparison)]
    lines = "\n".join(f"- {line}" for line in told)
    return f"{_markdown(operator_rows, columns)}\n{lines}\n"


def _told(metric: Metric) -> Callable[[float | None, float | None, float | None], str]:
    return figures if metric.figures else interval


def _marked(metric: Metric, row: Row) -> str:
    cell = row["metrics"].get(metric.name)
    return f"{value(metric, cell)} {mark(metric, cell)}".strip() if cell else ""


def _split(metrics: Sequence[Metric]) -> list[list[Metric]]:
    """Columns in groups that fit beside the operators' names."""
    groups, left = [], list(metrics)
    for width in (*WIDTHS, *[WIDTHS[-1]] * len(left)):
        if left:
            groups.append(left[:width])
            left = left[width:]
    return groups


def _table(operator_rows: Sequence[Row], metrics: Sequence[Metric]) -> Table:
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, padding=(0, 1, 0, 0))
    table.add_column("operator", overflow="fold", min_width=16)
    for metric in metrics:
        table.add_column(f"{metric.heading}{ARROWS[metric.better] or '  '}", justify="right", no_wrap=True)
    for row in operator_rows:
        cells = [row["metrics"].get(metric.name) for metric in metrics]
        texts = [_two_lines(m, c) if c else "" for m, c in zip(metrics, cells, strict=True)]
        table.add_row(name_of(row), *texts, style="bold" if row["focus"] else "dim" if row["floor"] else "")
    return table


def _two_lines(metric: Metric, cell: Mapping[str, Any]) -> str:
    """Join a number and its mark, and the interval below them."""
    number, _, ends = value(metric, cell).partition(" ")
    return f"{number} {mark(metric, cell) or ' '}" + (f"\n{ends}  " if ends else "")


def _markdown(operator_rows: Sequence[Row], columns: Mapping[str, Callable[[Row], str]]) -> str:
    lines = [["operator", *columns], [":--", *["--:"] * len(columns)]]
    for row in operator_rows:
        name = code_span(row["op"]) if not row["floor"] else name_of(row)
        lines.append([f"**{name}**" if row["focus"] else name, *(text(row) for text in columns.values())])
    return "\n".join("| " + " | ".join(text.replace("|", "\\|") for text in line) + " |" for line in lines) + "\n"
