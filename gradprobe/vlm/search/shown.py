"""Parts by which the front of a search is shown, see `gradprobe.plotting.shown`."""

from collections.abc import Mapping, Sequence
from typing import Any

from gradprobe.plotting.shown import Writer
from gradprobe.vlm.search.result import Front, front_table


def facts(front: Front) -> dict[str, Any]:
    """Return the model, budgets and the plans that were found."""
    rows = [row for row in front.rows()[1:] if row["schedule"] == front.asked.kernel.label]
    return {"model": front.asked.task.vlm.name, "plans": {row["budget"]: row["plan"] for row in rows}}


def rows(front: Front) -> list[dict[str, Any]]:
    """Return the unpruned model, then each budget with predictor and grid's best within it."""
    return front.rows()


def tables(front: Front) -> Sequence[Any]:
    """Return the table of ``gradprobe vlm search``."""
    return [front_table(front.rows())]


def figure(front: Front) -> Any:
    """Draw the loss over FLOPs, and the tokens that each layer reads."""
    from gradprobe.vlm.search.figure import front_figure  # matplotlib

    asked = front.asked
    return front_figure(front.rows(), front.grid_rows(), f"{asked.task.vlm.name}, {asked.kernel.label}")


def content(front: Front) -> dict[str, Any]:
    """Return schedules and grid; `Front.save_plans` writes the plans themselves."""
    return {"model": front.asked.task.vlm.name, "rows": front.rows(), "grid": front.grid_rows()}


def writers(front: Front) -> Mapping[str, Writer]:
    """Return no writers."""
    return {}
