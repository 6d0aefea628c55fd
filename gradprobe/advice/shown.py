"""Parts by which an advice is shown, see `gradprobe.plotting.shown`."""

from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from gradprobe.advice.advice import Advice
from gradprobe.advice.tables import HEADINGS, candidate_table, rung_lines, spent
from gradprobe.plotting.shown import Writer


def facts(advice: Advice) -> dict[str, Any]:
    """Return model and tokens kept, the operator to use, and how many candidates there were."""
    return {"title": advice.title, "op": advice.op, "tau": advice.tau, "candidates": len(advice.candidates)}


def rows(advice: Advice) -> list[dict[str, Any]]:
    """Return the candidates in the order of the advice, then the rankings that need no training."""
    ranked = [{"label": f"by {row['ranking']}", **row} for row in advice.rankings]
    return [*map(dict, advice.candidates), *ranked]


def tables(advice: Advice) -> Sequence[Any]:
    """Return what ``gradprobe advise`` prints."""
    missing = [f"missing: {name}: {reason}" for name, reason in advice.missing.items()]
    below = [*rung_lines(advice), spent(advice), *missing, *(f"would change it: {line}" for line in advice.changes)]
    return [*advice.verdict, advice.command, candidate_table(advice), *below]


def figure(advice: Advice) -> Any:
    """Draw each candidate's retention where it was trained, its measure and the cost of its training step."""
    from gradprobe.plotting.dots import Panel, dots_figure  # matplotlib

    shown = rows(advice)
    trained = [row for row in shown if row["retention"] is not None]
    panels = [Panel("retention", [_dot(row, "retention", "low", "high") for row in trained])] if trained else []
    if advice.measure:
        dots = [_dot(row, "value", "value_low", "value_high") for row in advice.candidates]
        panels.append(Panel(HEADINGS[advice.measure], dots))
    panels.append(Panel("training step over the cheapest", [_dot(row, "relative") for row in advice.candidates]))
    return dots_figure(panels, advice.title)


def content(advice: Advice) -> dict[str, Any]:
    """Return all of it, as ``gradprobe advise --json`` prints it."""
    return advice.to_json()


def writers(advice: Advice) -> Mapping[str, Writer]:
    """Return the writer of its page."""
    return {".html": partial(_write_page, advice)}


def _write_page(advice: Advice, path: Path) -> None:
    from gradprobe.advice.page import write_advice

    write_advice(advice, path)


def _dot(row: Mapping[str, Any], value: str, low: str = "", high: str = "") -> Any:
    from gradprobe.plotting.dots import Dot

    return Dot(str(row["label"]), row[value], row.get(low), row.get(high))
