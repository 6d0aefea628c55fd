"""The figure of an evaluation: scores on benchmarks."""

from collections.abc import Sequence

from matplotlib.figure import Figure

from gradprobe.plotting.columns import Row
from gradprobe.plotting.dots import Dot, Panel, dots_figure
from gradprobe.vlm.evaluation.result import EvaluationResult


def score_figure(results: Sequence[EvaluationResult], rows: Sequence[Row], title: str = "") -> Figure:
    """Draw the score of each model with its 95 % interval, a benchmark a panel.

    Args:
        results: their rows are drawn.
        rows: of the results.
        title: above the panels.
    """
    panels = [
        Panel(
            each.benchmark.column,
            [
                Dot(str(row["op"]), row["score"], row["low"], row["high"])
                for row in rows
                if row["benchmark"] == each.question["task"]
            ],
        )
        for each in {result.question["task"]: result for result in results}.values()
    ]
    return dots_figure(panels, title)
