"""Comparisons -> tables for the terminal and for documents: each number with its interval, each difference marked."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from rich import box
from rich.console import Group
from rich.table import Table

from gradprobe.comparison.comparison import Comparison, count, few_seeds, metrics, rows
from gradprobe.plotting.columns import Row, figures, interval, name_of, number, seeds
from gradprobe.plotting.escape import code_span
from gradprobe.probes.metrics import NO_GRADIENT, NOT_ASKED, Metric

MARKS = {"higher": "▲", "lower": "▼", "undecided": "·", "different": "≠", "small gap": "≈", "equivalent": "="}
WIDTHS = (3, 3, 2)  # columns of a table at 80 characters
LEGEND = (
    "▲ above, ▼ below {focus}, decided at 95 %; · undecided; · (n seeds): trained with fewer than 5 seeds, which "
    "decide nothing; none: no gradient; –: not measured or undefined"
)
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
    told = [LEGEND.format(focus=comparison.focus)] if shown else []
    told += [TESTED] if any(metric.name == "equivalence" for metric in shown) else []
    told += [f"{metric.heading}: {metric.meaning}" for metric in shown]
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
    few = f" {counted.few} of what was trained with fewer than 5 seeds are left undecided." if counted.few else ""
    if not counted.compared:
        return f"Nothing is compared with {focus} here.{few}"
    return (
        f"{counted.compared} comparisons with {focus}, {counted.decided} decided, each at 95 % and not corrected for "
        f"their number: if no operator differed from it, about {counted.by_chance:.2g} would be decided all the same."
        f"{few}"
    )


def verdict_lines(operator_rows: Sequence[Row], focus: str, names: int = 4) -> list[str]:
    """Return a sentence for each compared metric: operators below the focus, above it, and undecided ones.

    Args:
        operator_rows: as `gradprobe.comparison.comparison.rows` makes them.
        focus: the operator that all others are compared with.
        names: so many operators are named; of more, their number is told.

    Example:
        >>> cell = {"verdict": "lower", "seeds": 5, "reason": None}
        >>> verdict_lines([{"op": "a+zero", "floor": False, "metrics": {"retention": cell}}], "b+gather")
        ['retention of b+gather is above that of a+zero']
    """
    lines = []
    for metric in metrics():
        cells = {row["op"]: row["metrics"][metric.name] for row in operator_rows if metric.name in row["metrics"]}
        if metric.name == "equivalence":
            told = [f"{word} for {_listed(ops, names)}" for word, ops in _by_verdict(cells).items()]
            lines += [f"{metric.heading}: {'; '.join(told)}"] if told else []
            continue
        said = {"lower": "above that of", "higher": "below that of", "undecided": "undecided against"}
        verdicts = _by_verdict(cells)
        said |= {word: f"{word} against" for word in verdicts if word not in said}
        told = [f"{said[word]} {_listed(verdicts[word], names)}" for word in said if word in verdicts]
        lines += [f"{metric.heading} of {focus} is {'; '.join(told)}"] if told else []
    return lines


def measured(operator_rows: Sequence[Row]) -> list[Metric]:
    """Return the metrics of which at least one operator has a value or a reason of its own for having none."""
    cells = [row["metrics"] for row in operator_rows]
    return [m for m in metrics() if any(m.name in each and each[m.name]["reason"] != NOT_ASKED for each in cells)]


def value(metric: Metric, cell: Mapping[str, Any]) -> str:
    """Return a metric with its interval; "none" without gradient, an en dash where there is no number.

    Several seeds without an interval are told one by one.

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
        return f"{number(cell['value'], 3)} ({', '.join(number(x) for x in each)})"
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


def mark(cell: Mapping[str, Any]) -> str:
    """Return the sign of a cell's verdict, with the number of seeds if they are too few; empty if not compared.

    Example:
        >>> mark({"verdict": "lower", "seeds": None}), mark({"verdict": "undecided", "seeds": 1})
        ('▼', '· (1 seed)')
    """
    sign = MARKS.get(cell["verdict"] or "", "")
    return f"{sign} ({seeds(cell['seeds'])})" if sign and few_seeds(cell) else sign


def summary_markdown(comparison: Comparison) -> str:
    """All numbers and intervals as one Markdown table, an operator a row, with what its marks mean below it."""
    operator_rows = rows(comparison)
    lines = "\n".join(f"- {line}" for line in summary_lines(comparison))
    return f"{_markdown(operator_rows, measured(operator_rows), _marked)}\n{lines}\n"


def _by_verdict(cells: Mapping[str, Mapping[str, Any]]) -> dict[str, list[str]]:
    """Names of the operators of each verdict; one of too few seeds names their number."""
    operators: dict[str, list[str]] = {}
    for op, cell in cells.items():
        if cell["verdict"] is not None:
            few = f" ({seeds(cell['seeds'])})" if few_seeds(cell) else ""
            operators.setdefault(cell["verdict"] + few, []).append(name_of({"op": op}))
    return operators


def _listed(ops: Sequence[str], most: int) -> str:
    return _joined(ops) if len(ops) <= most else f"{len(ops)} others"


def _joined(texts: Sequence[str]) -> str:
    """Words in a row: a, b and c."""
    return " and ".join(filter(None, [", ".join(texts[:-1]), *texts[-1:]]))


def _told(metric: Metric) -> Callable[[float | None, float | None, float | None], str]:
    return figures if metric.figures else interval


def _marked(metric: Metric, cell: Mapping[str, Any]) -> str:
    return f"{value(metric, cell)} {mark(cell)}".strip()


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
        table.add_column(f"{metric.heading}  ", justify="right", no_wrap=True)
    for row in operator_rows:
        cells = [row["metrics"].get(metric.name) for metric in metrics]
        texts = [_two_lines(m, c) if c else "" for m, c in zip(metrics, cells, strict=True)]
        table.add_row(name_of(row), *texts, style="bold" if row["focus"] else "dim" if row["floor"] else "")
    return table


def _two_lines(metric: Metric, cell: Mapping[str, Any]) -> str:
    """Join a number and its mark, and the interval below them."""
    number, _, ends = value(metric, cell).partition(" ")
    return f"{number} {mark(cell) or ' '}" + (f"\n{ends}  " if ends else "")


def _markdown(
    operator_rows: Sequence[Row], metrics: Sequence[Metric], cell: Callable[[Metric, Mapping[str, Any]], str]
) -> str:
    lines = [["operator", *(metric.heading for metric in metrics)], [":--", *["--:"] * len(metrics)]]
    for row in operator_rows:
        name = code_span(row["op"]) if not row["floor"] else name_of(row)
        known = [row["metrics"].get(metric.name) for metric in metrics]
        texts = [cell(m, c) if c else "" for m, c in zip(metrics, known, strict=True)]
        lines.append([f"**{name}**" if row["focus"] else name, *texts])
    return "\n".join("| " + " | ".join(text.replace("|", "\\|") for text in line) + " |" for line in lines) + "\n"
