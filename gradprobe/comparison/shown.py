"""Parts by which a comparison is shown, see `gradprobe.plotting.shown`."""

from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from gradprobe.comparison.comparison import Comparison, metrics
from gradprobe.comparison.comparison import rows as operator_rows
from gradprobe.comparison.tables import summary_lines, summary_table
from gradprobe.comparison.verdict import report_json, verdict_of
from gradprobe.plotting.shown import Writer


def facts(comparison: Comparison) -> dict[str, Any]:
    """Return its title, the focus and how many operators are compared by which probes."""
    probes = [probe for probe, results in comparison.results.items() if results]
    return {"title": comparison.title, "focus": comparison.focus, "ops": len(comparison.ops), "probes": probes}


def rows(comparison: Comparison) -> list[dict[str, Any]]:
    """Return a row for each operator and metric: value, interval, difference from the focus and its verdict."""
    better = {metric.name: metric.better for metric in metrics()}
    return [
        {"op": row["op"], "metric": name, "better": better[name], "focus": row["focus"], "floor": row["floor"], **cell}
        for row in operator_rows(comparison)
        for name, cell in row["metrics"].items()
    ]


def tables(comparison: Comparison) -> Sequence[Any]:
    """Return what ``gradprobe compare`` prints: verdict, tables and the lines below them."""
    return [verdict_of(comparison).sentence, summary_table(comparison), *summary_lines(comparison)]


def figure(comparison: Comparison) -> Any:
    """Draw every operator by every metric.

    Raises:
        UsageError: nothing was measured.
    """
    from gradprobe.comparison.leaderboard_figure import leaderboard  # matplotlib

    return leaderboard([comparison])


def content(comparison: Comparison) -> dict[str, Any]:
    """Return all that it says, as ``gradprobe compare --json`` prints it."""
    return report_json(comparison)


def writers(comparison: Comparison) -> Mapping[str, Writer]:
    """Return the writer of its page."""
    return {".html": partial(_write_page, comparison)}


def _write_page(comparison: Comparison, path: Path) -> None:
    from gradprobe.comparison.figures import figures_of
    from gradprobe.comparison.page import write_report

    write_report(comparison, path, figures_of(comparison))
