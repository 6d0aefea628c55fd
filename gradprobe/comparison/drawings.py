"""The figures that a preset can name: an experiment and its answers -> a figure, or its pages."""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

from gradprobe.comparison.experiments import panels, row_panels

Drawing = Callable[[Any, Sequence[Any]], Any]
Pages = Callable[[Any, Sequence[Any]], list[Any]]  # figures of a page each
Report = Callable[[Any, Sequence[Any]], list[Any]]  # tables and lines
SHOWN = ("hard", "hard+zero", "scale:tau=0.01", "vpnoise:tau=0.01", "vpnoise:tau=0.1", "vpnoise")


def drawings() -> dict[str, Pages]:
    """Return the figures by name, each as a list of pages; matplotlib is imported now."""
    from gradprobe.comparison.leaderboard import comparisons
    from gradprobe.comparison.leaderboard_figure import leaderboard_pages

    several: dict[str, Pages] = {
        "leaderboard": lambda experiment, answers: leaderboard_pages(comparisons(experiment, answers))
    }
    return several | {name: partial(_alone, drawing) for name, drawing in _of_one_page().items()}


def _alone(drawing: Drawing, experiment: Any, answers: Sequence[Any]) -> list[Any]:
    return [drawing(experiment, answers)]


def _of_one_page() -> dict[str, Drawing]:
    from gradprobe.comparison.confirm_figure import confirm_figure
    from gradprobe.comparison.predict_figure import predict
    from gradprobe.probes.coherence.figure import fig1c, operators
    from gradprobe.probes.fidelity.figure import fidelity_panels
    from gradprobe.probes.landscape.figure import fig2
    from gradprobe.probes.ranking.figure import ranking_figure
    from gradprobe.probes.retention.figure import retention_figure

    return {
        "ablation": _ablation,
        "confirm": confirm_figure,
        "fig1c": lambda experiment, answers: fig1c(row_panels(experiment, answers), experiment.paper),
        "fig2": lambda experiment, answers: fig2(panels(answers), experiment.paper),
        "fidelity": lambda experiment, answers: fidelity_panels(row_panels(experiment, answers)),
        "fig4": _fig4,
        "ranking": lambda experiment, answers: ranking_figure([a.result for a in answers], experiment.title),
        "retention": lambda experiment, answers: retention_figure(panels(answers)),
        "operators": lambda experiment, answers: operators(row_panels(experiment, answers), experiment.paper),
        "predict": lambda experiment, answers: predict([answer.result for answer in answers]),
        "scaling": _scaling,
        "selectors": _selectors,
        "cost_table": _cost_table,
        "front": _front,
    }


def reports() -> dict[str, Report]:
    """Return, by name of a figure, what `gradprobe figures NAME` prints beside it."""
    return {"selectors": _selector_report, "cost_table": _cost_report, "front": _front_report}


def _ablation(experiment: Any, answers: Sequence[Any]) -> Any:
    """Draw Table 5 as a figure."""
    from gradprobe.comparison.ablation import tokens_of, variants
    from gradprobe.comparison.ablation_figure import ablation_figure

    rows = variants([answer.result for answer in answers], experiment.paper)
    return ablation_figure(rows, tokens_of(experiment), experiment.title)


def _scaling(experiment: Any, answers: Sequence[Any]) -> Any:
    """Draw Figure A1."""
    from gradprobe.comparison.scaling import scaling_of
    from gradprobe.comparison.scaling_figure import scaling_figure

    return scaling_figure(scaling_of(experiment, answers), experiment.title, experiment.claim)


def _selectors(experiment: Any, answers: Sequence[Any]) -> Any:
    """Draw Table 1, 2 or 3."""
    from gradprobe.comparison.selector_costs import table_and_costs
    from gradprobe.comparison.selector_figure import selector_figure

    table, spent, reason = table_and_costs(experiment, answers)
    return selector_figure(table, spent, experiment.title, experiment.claim, reason)


def _selector_report(experiment: Any, answers: Sequence[Any]) -> list[Any]:
    from gradprobe.comparison.selector_costs import table_and_costs
    from gradprobe.comparison.selector_text import terminal_table, text_of
    from gradprobe.comparison.selector_verdicts import verdicts

    table, spent, reason = table_and_costs(experiment, answers)
    text = text_of(table, spent, reason)
    return [terminal_table(text), *text.notes, *verdicts(table, experiment.baseline)]


def _cost_table(experiment: Any, answers: Sequence[Any]) -> Any:
    """Draw Table 4."""
    from gradprobe.comparison.cost_table import cost_rows
    from gradprobe.comparison.cost_table_figure import cost_table_figure

    return cost_table_figure(cost_rows(experiment), experiment.title, experiment.claim)


def _cost_report(experiment: Any, answers: Sequence[Any]) -> list[Any]:
    from gradprobe.comparison.cost_table import cost_rows, verdicts
    from gradprobe.comparison.cost_table_figure import terminal_table

    rows = cost_rows(experiment)
    return [terminal_table(rows), *verdicts(rows)]


def _front(experiment: Any, answers: Sequence[Any]) -> Any:
    """Draw schedules over FLOPs beside a grid's."""
    from gradprobe.comparison.front_figure import front_figure

    return front_figure(_fronts(experiment, answers), experiment.title, experiment.claim)


def _front_report(experiment: Any, answers: Sequence[Any]) -> list[Any]:
    from gradprobe.comparison.front import verdicts
    from gradprobe.comparison.front_figure import columns, front_tables

    front = _fronts(experiment, answers)
    return [*front_tables(front), columns(front), *verdicts(front)]


def _fronts(experiment: Any, answers: Sequence[Any]) -> Any:
    from gradprobe.comparison.front import front_of

    return front_of([answer.result for answer in answers], [run.question for run in experiment.runs])


def _fig4(experiment: Any, answers: Sequence[Any]) -> Any:
    """Draw Figure 4: a scene as some operators leave it, and the stored answers."""
    from gradprobe.data.image_source import SceneSource
    from gradprobe.operators.registry import build
    from gradprobe.probes.equivalence.figure import fig4
    from gradprobe.probes.equivalence.pictures import scene_pictures

    budgets = sorted({a.run.question["k"] for a in answers if a.run.question["k"] < a.result.tokens})
    strips = scene_pictures(SceneSource().probe(0, 1, 0), [build(spec) for spec in SHOWN], budgets, 0)
    return fig4(panels(answers), experiment.paper, experiment.baseline, strips)
