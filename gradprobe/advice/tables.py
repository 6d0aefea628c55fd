"""Tables of an advice: candidates and rungs, for the terminal and for its page."""

from collections.abc import Sequence

from rich import box
from rich.table import Table

from gradprobe.advice.advice import Advice, Row
from gradprobe.advice.measures import written
from gradprobe.plotting.columns import interval, number
from gradprobe.probes.metrics import FEWEST_SEEDS

HEADINGS = {"fidelity": "fidelity [95 %]", "descent": "descent [95 %]"}
ALIKE = "·"  # after the measure of a candidate that is not told apart from the first


def candidate_table(advice: Advice) -> Table:
    """Return the candidates in the order of the advice, legible at 80 columns."""
    table = _table()
    for heading in ("tau", *_measure(advice)):
        table.add_column(heading, justify="right", no_wrap=True)
    for heading in ("cost", "rung", "steps"):
        table.add_column(heading, justify="right", no_wrap=True)
    table.add_column("retention", justify="right", overflow="fold")
    for row in advice.candidates:
        table.add_row(row["op"], row["tau"], *cells(advice, row))
    for row in advice.rankings:
        measured = ("",) * len(_measure(advice))
        table.add_row(f"by {row['ranking']}", "", *measured, "", "", "0", retained(row), style="dim")
    table.caption = legend(advice)
    return table


def cells(advice: Advice, row: Row) -> list[str]:
    """Return the cells of a candidate after its name and schedule."""
    measured = [measure(advice, row)] if advice.measure else []
    rung = ("–", "–") if row["rung"] is None else (str(row["rung"]), str(row["steps"]))
    return [*measured, f"×{row['relative']:.1f}", *rung, retained(row)]


def measure(advice: Advice, row: Row) -> str:
    """Return the confirmed measure of a candidate, marked where it is not told apart from the first."""
    text = written(str(advice.measure), row["value"], row["value_low"], row["value_high"])
    return text + (f" {ALIKE}" if row["apart"] is False else "")


def retained(row: Row) -> str:
    """Return the retention with its interval, with fewer than 5 seeds that of each."""
    if len(row["by_seed"]) < FEWEST_SEEDS:
        return by_seed(row)
    return interval(row["retention"], row["low"], row["high"])


def by_seed(row: Row) -> str:
    """Return the retention of each seed."""
    return " ".join(number(value, 3) for value in row["by_seed"]) or "–"


def legend(advice: Advice) -> str:
    """Return the words for the columns."""
    marked = f"{ALIKE}: not told apart from the first at 95 %; " if advice.measure else ""
    return (
        f"{marked}cost: a training step over the cheapest; rung: the last that it was trained in, for so many steps; "
        "retention there, of hard top-K; each seed where they are fewer than 5"
    )


def rung_lines(advice: Advice) -> list[str]:
    """Return a sentence for each rung."""
    return [
        f"rung {number}: {len(row['trained'])} candidates, {row['steps']} steps, seed{_s(row['seeds'])} "
        f"{', '.join(map(str, row['seeds']))}, {row['images']} test images, {row['spent']:.0f} s"
        for number, row in enumerate(advice.rungs, 1)
    ]


def spent(advice: Advice) -> str:
    """Return a sentence on the time."""
    parts = ("timing", "measure", "trainings", "rankings")
    named = ", ".join(f"{part} {advice.seconds[part]:.0f} s" for part in parts if advice.seconds[part])
    whole, budget = advice.seconds["spent"], advice.seconds["budget"]
    return f"time: {named}; {whole:.0f} s of a budget of {budget:.0f} s"


def _s(several: Sequence[int]) -> str:
    return "" if len(several) == 1 else "s"


def _measure(advice: Advice) -> tuple[str, ...]:
    return () if advice.measure is None else (HEADINGS[advice.measure],)


def _table() -> Table:
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, padding=(0, 1, 0, 0), caption_justify="left")
    table.add_column("operator", overflow="fold", min_width=16)
    return table
