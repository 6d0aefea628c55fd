"""Short table of all steps, with what was aimed at and whether it was met."""

from collections.abc import Sequence

from rich import box
from rich.table import Table

from gpu_steps.campaign import DONE, EARLIER, Outcome

WORDS = {True: "met", False: "missed", None: ""}


def table(outcomes: Sequence[Outcome], title: str) -> Table:
    """Make the table; a step that failed or was skipped says so in its place."""
    drawn = Table(title=title, title_justify="left", box=box.SIMPLE_HEAD, pad_edge=False)
    for name in ("", "", "measured", "aim", ""):
        drawn.add_column(name, overflow="fold")
    for outcome in outcomes:
        content, step = outcome.content or {}, outcome.step
        taken = f", {content['seconds']:.0f} s" if content else ""
        said = "" if outcome.status in (DONE, EARLIER) else f"{outcome.status}: {outcome.reason}".removesuffix(": ")
        drawn.add_row(step.letter, f"[bold]{step.about}[/]{taken}", _plain(said), "", "")
        for line in content.get("lines", []):
            drawn.add_row("", line["what"], _plain(line["value"]), _plain(line["aim"]), WORDS[line["met"]])
        for each in content.get("missing", []):
            drawn.add_row("", "not measured", _plain(each), "", "")
    return drawn


def _plain(text: str) -> str:
    """Return text in which rich sees no markup."""
    return text.replace("[", r"\[")
