"""Parts by which the result of a training is shown, see `gradprobe.plotting.shown`."""

from collections.abc import Mapping, Sequence
from typing import Any

from gradprobe.errors import UsageError
from gradprobe.plotting.shown import Writer
from gradprobe.vlm.training import card
from gradprobe.vlm.training.conclusion import conclusion
from gradprobe.vlm.training.result import TrainingResult

LEVELS = (("unpruned", "-", "all tokens"), ("random", ":", "K tokens at random"))  # of what is not trained


def facts(result: TrainingResult) -> dict[str, Any]:
    """Return the folder, operator, steps and the loss of what is deployed."""
    told = {"out": str(result.out), "op": result.config["op"], "steps": result.steps, "step": result.step}
    return told | {name: round(loss, 4) for name, loss in result.losses.items() if name in ("unpruned", "deployed")}


def rows(result: TrainingResult) -> list[dict[str, Any]]:
    """Return the validations in order."""
    return [{"step": each.step, "loss": each.loss, "deployed": each.deployed} for each in result.validations]


def tables(result: TrainingResult) -> Sequence[Any]:
    """Return what ``gradprobe vlm train`` prints."""
    from rich.table import Table

    kept = f"{result.steps} steps, scorer of step {result.step}; kept: {card.budget_text(result.config)}"
    if not result.losses:
        return [f"{kept}; no validation; training loss {result.training_loss:.4f}"]
    table = Table("the model reads", title=f"{result.examples['held_out']} held-out captions")
    table.add_column("caption loss", justify="right")
    for text, loss in card.loss_rows(result):
        table.add_row(text, f"{loss:.4f}")
    return [kept, table, conclusion(result)]


def figure(result: TrainingResult) -> Any:
    """Draw the losses on held-out captions over the steps, and those of all tokens and of random ones as lines.

    Raises:
        UsageError: the training had no validation.
    """
    from matplotlib.figure import Figure
    from matplotlib.ticker import MaxNLocator

    from gradprobe.plotting.style import BLUE, COLUMN, GREY, ORANGE, VERMILION, look

    if not result.validations:
        raise UsageError("nothing to draw: this training had no validation; give --validation, a number of captions")
    steps = [each.step for each in result.validations]
    with look():
        figure = Figure(figsize=(1.5 * COLUMN, 2.6))
        axes = figure.subplots()
        axes.plot(steps, [v.deployed for v in result.validations], "o-", ms=3, color=BLUE, label="deployed")
        axes.plot(steps, [v.loss for v in result.validations], "o-", ms=3, color=ORANGE, label="through the operator")
        for name, line, label in LEVELS:
            if name in result.losses:
                axes.axhline(result.losses[name], color=GREY, linestyle=line, label=label)
        axes.axvline(result.step, color=VERMILION, linewidth=0.8, label="scorer that is kept")
        axes.xaxis.set_major_locator(MaxNLocator(6, integer=True))
        axes.set_xlabel("training step")
        axes.set_ylabel("loss on held-out captions")
        axes.set_title(str(result.config["op"]))
        figure.legend(*axes.get_legend_handles_labels(), loc="outside lower center", ncols=3)
    return figure


def content(result: TrainingResult) -> dict[str, Any]:
    """Return all of it, as ``scorer.json`` holds it."""
    return {"out": str(result.out), **card.facts(result)}


def writers(result: TrainingResult) -> Mapping[str, Writer]:
    """Return no writers: the files of the pruner are in its folder."""
    return {}
