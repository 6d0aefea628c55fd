"""Table of an evaluation for the terminal, and the words for it (no torch)."""

from collections.abc import Mapping, Sequence
from typing import Any

from rich import box
from rich.table import Table

from gradprobe.plotting.columns import number
from gradprobe.vlm.evaluation.benchmarks import benchmark_of
from gradprobe.vlm.evaluation.paper import Quoted

Row = Mapping[str, Any]


def table(rows: Sequence[Row]) -> Table:
    """Tabulate scores, a benchmark a line; with what is retained where the rows have it.

    Args:
        rows: As `gradprobe.vlm.evaluation.result.EvaluationResult.row` makes them.
    """
    paired = any("retention" in row for row in rows)
    made = Table(box=box.SIMPLE_HEAD, padding=(0, 0, 0, 1))
    for name in ("benchmark", "score [95 %]", *(("unpruned", "retained, % [95 %]") if paired else ()), "questions"):
        made.add_column(name, justify="left" if name == "benchmark" else "right")
    for row in rows:
        benchmark = benchmark_of(str(row["benchmark"]))
        digits = 1 if benchmark.scale == 100 else 0
        cells = [benchmark.column, _between(row["score"], row["low"], row["high"], digits)]
        if paired:
            cells.append(number(row["unpruned"], digits))
            value, low, high = (_percent(row[f"retention{end}"]) for end in ("", "_low", "_high"))
            cells.append(_between(value, low, high, 1))
        made.add_row(*cells, str(row["questions"]))
    return made


def quoted_table(rows: Sequence[Row], average: Row, quoted: Quoted) -> Table:
    """Tabulate what is retained of each benchmark, beside the paper's rows of the same benchmarks.

    Args:
        rows: Of the pruned model.
        average: ``retention``, ``low`` and ``high`` over them.
        quoted: Rows of the paper.
    """
    columns = [benchmark_of(str(row["benchmark"])).column for row in rows]
    made = Table(box=box.SIMPLE_HEAD, padding=(0, 0, 0, 1))
    made.add_column("retained, %")
    for name in (*columns, "mean"):
        made.add_column(name, justify="right")
    own = [number(_percent(row["retention"]), 1) for row in rows]
    made.add_row("this run", *own, number(_percent(average["retention"]), 1), end_section=True)
    for method, shares in quoted.rows.items():
        values = [shares.get(column) for column in columns]
        known = [value for value in values if value is not None]
        mean = sum(known) / len(known) if len(known) == len(values) and known else None
        made.add_row(method, *(number(_percent(value), 1) for value in values), number(_percent(mean), 1))
    return made


def percent_of(average: Row) -> str:
    """Return a retention and its interval in percent.

    Example:
        >>> percent_of({"retention": 0.965, "low": 0.95, "high": 0.98})
        '96.5 % [95.0, 98.0]'
    """
    value, low, high = (number(_percent(average[name]), 1) for name in ("retention", "low", "high"))
    return f"{value} % [{low}, {high}]" if average["retention"] is not None else value


def lines(rows: Sequence[Row], baseline: str | None = None) -> list[str]:
    """Return a sentence on the benchmarks of which nothing can be retained.

    Args:
        rows: Of the table.
        baseline: There is none.
    """
    lost = [benchmark_of(str(row["benchmark"])).column for row in rows if row.get("unpruned") == 0]
    return [f"no retention of {', '.join(lost)}, nor a mean: the unpruned model scores 0"] if lost else []


def meaning(rows: Sequence[Row]) -> str:
    """Return the words for the columns and intervals."""
    return (
        "score: percent right, F1 of POPE, points of MME; retained: score over that of the unpruned model on the same "
        "questions. Intervals are over questions (pictures of MME, circular questions of MMBench), paired where a "
        "score is retained."
    )


def _between(value: float | None, low: float | None, high: float | None, digits: int) -> str:
    if value is None or low is None or high is None:
        return number(value, digits)
    return f"{number(value, digits)} [{number(low, digits)}, {number(high, digits)}]"


def _percent(value: float | None) -> float | None:
    return None if value is None else 100 * value
