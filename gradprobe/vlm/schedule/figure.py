"""Figure of a schedule: its loss over FLOPs, and the tokens that each layer reads."""

from collections.abc import Mapping, Sequence
from typing import Any

from matplotlib.figure import Figure

from gradprobe.vlm.schedule import GRID
from gradprobe.vlm.search.figure import front_figure


def schedule_figure(results: Sequence[Any], rows: Sequence[Mapping[str, Any]], title: str) -> Figure:
    """Draw schedules of one model, those of each result, beside the model with all its tokens.

    Args:
        results: Answers of the probe.
        rows: Their rows.
        title: Above both panels.
    """
    first = results[0]
    tokens = [int(first.counts[0])] * first.counts.size
    drawn: list[dict[str, Any]] = [{"schedule": "all tokens", "counts": tokens, "share": 1.0}]
    drawn[0]["loss"] = first.whole_loss.value
    for result in results:
        kernel, budget = result.question["kernel"], result.question["budget"]
        row = {"schedule": "best of the grid" if kernel == GRID else kernel, "budget": budget, "share": result.share}
        drawn.append(row | {"counts": result.counts.tolist(), "loss": result.loss.value})
    return front_figure(drawn, [], title)
