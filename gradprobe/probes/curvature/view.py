"""Rows of curvatures -> tables for the terminal."""

from collections.abc import Sequence

from rich import box
from rich.console import Group
from rich.table import Table

from gradprobe.plotting.columns import Row, short
from gradprobe.probes import rounding_view

MEANING = (
    "λ1, λ2, ...: eigenvalues of largest magnitude of the Hessian of the scorer's mean loss, with the noise fixed; "
    "residual: the largest |Hv - λv| / |λ| of them; trace: by random signs, interval over samples; off: largest "
    "relative error of the derivatives against differences."
)
SHOWN = 5  # eigenvalues in the table; --json has all


def table(rows: Sequence[Row]) -> Group:
    """Return two tables, numbers of each operator and its eigenvalues; legible at 80 columns.

    Args:
        rows: as `gradprobe.probes.curvature.result.CurvatureResult.row` makes them.

    Returns:
        What rich prints.
    """
    shown = min(SHOWN, max(len(row["eigenvalues"]) for row in rows))
    tables = [_table(rows, ["Hessian", "loss", "trace: 95 %, mean", "off"], [_summary(row) for row in rows])]
    if shown:
        headings = [*(f"λ{i}" for i in range(1, shown + 1)), "residual"]
        tables.append(_table(rows, headings, [_spectrum(row, shown) for row in rows]))
    return Group(*tables)


def lines(rows: Sequence[Row], baseline: str | None) -> list[str]:
    """Return sentences on operators without a Hessian and on bfloat16; curvatures are not compared with a baseline."""
    return [
        *(f"{row['op']}: no Hessian: {row['hessian']}" for row in rows if row["hessian"] != "yes"),
        *rounding_view.lines(rows),
    ]


def meaning(rows: Sequence[Row]) -> str:
    """Return the words for the columns; nothing where no operator has a Hessian."""
    return MEANING if any(row["hessian"] == "yes" for row in rows) else ""


def _table(rows: Sequence[Row], columns: list[str], cells: list[list[str]]) -> Table:
    made = Table(box=box.SIMPLE_HEAD, pad_edge=False, padding=(0, 1, 0, 0))
    made.add_column("operator", overflow="fold", min_width=17)
    for heading in columns:
        made.add_column(heading, justify="right", no_wrap=True)
    for row, line in zip(rows, cells, strict=True):
        made.add_row(row["op"], *line)
    return made


def _summary(row: Row) -> list[str]:
    if row["hessian"] != "yes":
        return ["none", short(row["loss"]), "–", "–"]
    trace = f"[{short(row['trace_low'])}, {short(row['trace_high'])}] {short(row['trace'])}"
    return ["yes", short(row["loss"]), trace, f"{max(row['gradient_error'], row['hessian_error']):.0e}"]


def _spectrum(row: Row, shown: int) -> list[str]:
    if row["hessian"] != "yes":
        return ["–"] * (shown + 1)
    return [*map(short, row["eigenvalues"][:shown]), f"{max(row['residuals']):.0e}"]
