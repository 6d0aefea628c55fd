"""Figure of a test of predictions: retention over the measures that it names, all correlations, and the outcome."""

from collections.abc import Mapping, Sequence
from typing import Any

from matplotlib.figure import Figure

from gradprobe.comparison.confirm import Trial, better, conclusions, predicts, trials
from gradprobe.comparison.experiments import Answer, Experiment
from gradprobe.comparison.measure_panels import (
    NUMBER,
    SMALL,
    by_throttle,
    draw_key,
    forest,
    key_height,
    measure_panel,
    place,
    styles_of,
    write,
)
from gradprobe.plotting.columns import interval, number
from gradprobe.plotting.style import BLACK, GREY, PAGE, look
from gradprobe.statistics.estimates import Estimate

HIGH, LEFT, APART = 1.55, 0.56, 0.56  # inches: a panel, what is left of it and what lies between two
ROW, NAMES, AXIS, HEAD = 0.15, 1.45, 0.72, 0.3  # inches: a line of a table, its names, intervals and headings
VERDICT = 1.02  # inches from the intervals to the verdicts


def confirm_figure(experiment: Experiment, answers: Sequence[Answer]) -> Figure:
    """Retention over the named measures and the one to be beaten, for operators that took no part in choosing them.

    A mark is an operator's mean over seeds with their range, its colour the throttle. Below stand the correlations of
    all measures with their verdicts, and the differences to the measure to be beaten.

    Args:
        experiment: Preset with a table ``[confirm]``.
        answers: Its answers.
    """
    done, rules = trials(experiment, answers), experiment.confirm
    operators = by_throttle([op for trial in done for op in trial.units.operator])
    tables = [_lines(trial, rules) for trial in done]
    table = 0.2 + len(done) * (HIGH + APART)
    key = table + HEAD + ROW * max(map(len, tables)) + 0.5
    ends = [_words(name, words, rules) for name, words in conclusions(experiment, done).items()]
    notes = [
        *ends,
        "marks: operators, numbered above; lines: the range of their seeds; n: operators; ρ over operators and seeds; "
        "bootstrap over throttle, operator | seed | images",
        "p: whole throttles permuted; all of it fixed before it was run (experiments/predict_confirm.toml)",
    ]
    note = key + key_height(operators) + 0.08
    with look():
        figure = Figure(figsize=(PAGE, note + 0.11 * len(notes) + 0.05))
        figure.set_layout_engine("none")  # all places are known
        styles = styles_of(operators)
        for row, trial in enumerate(done):
            measured = [n for n in (*rules["named"], rules["against"]) if n in trial.associations]
            wide = (PAGE - LEFT - 0.1 - 0.4 * (len(measured) - 1)) / len(measured)
            for i, name in enumerate(measured):
                axes = place(figure, LEFT + i * (wide + 0.4), 0.2 + row * (HIGH + APART), wide, HIGH)
                measure_panel(axes, name, trial.units, operators, styles)
                rho = trial.associations[name].rho
                axes.set_title(f"ρ = {interval(rho.value, rho.low, rho.high)}", fontsize=SMALL, fontweight="normal")
                axes.set_ylabel("" if i else f"{trial.model}\nretention at the end", fontsize=6.5)
        half = (PAGE - 0.1) / max(len(done), 2)
        for column, (trial, lines) in enumerate(zip(done, tables, strict=True)):
            _table(figure, 0.05 + column * half, table, trial.model, lines)
        draw_key(figure, 0.05, key, operators, styles)
        write(figure, 0.05, note, "\n".join(ends), fontweight="bold", fontsize=SMALL)
        write(figure, 0.05, note + 0.11 * len(ends), "\n".join(notes[len(ends) :]), color=GREY, fontsize=NUMBER)
    return figure


def _lines(trial: Trial, rules: Mapping[str, Any]) -> list[tuple[str, Estimate, str, str]]:
    """Return the lines of a model's table: name, estimate, p and verdict; differences last."""
    lines: list[tuple[str, Estimate, str, str]] = []
    for name in (*rules["named"], rules["against"], *rules["explored"]):
        if (each := trial.associations.get(name)) is not None:
            verdict = predicts(each, rules["p"], rules["useful"]) if name in rules["named"] else "–"
            lines.append((name, each.rho, "<0.001" if each.p < 0.001 else number(each.p, 3), verdict))
    for name, gap in trial.differences.items():
        lines.append((f"{name}, less {rules['against']}", gap, "", better(gap)))
    return lines


def _table(
    figure: Figure, left: float, top: float, model: str, lines: Sequence[tuple[str, Estimate, str, str]]
) -> None:
    """Draw correlations, and hollow their differences, with numbers and verdicts beside them."""
    write(figure, left, top, model, fontweight="bold", fontsize=7)
    names = [name.replace(", less ", " less ") for name, *_ in lines]  # no minus beside the number of a sigma
    axes = place(figure, left + NAMES, top + HEAD, AXIS, ROW * len(lines))
    forest(axes, [[(each, "D" if ", less " in name else "o", "white" if ", less " in name else BLACK)]
                  for name, each, *_ in lines])  # fmt: skip
    axes.set_yticks(range(len(lines)), names, fontsize=5)
    axes.set_xlabel("ρ with retention, 95 %\nhollow: difference of two", fontsize=NUMBER)
    right = left + NAMES + AXIS + 0.05
    for at, heading in ((0, "ρ [95 %]"), (0.7, "p"), (VERDICT, "verdict")):
        write(figure, right + at, top + HEAD - 0.1, heading, color=GREY, fontsize=5)
    for i, (_, each, p, verdict) in enumerate(lines):
        texts = ((0, interval(each.value, each.low, each.high)), (0.7, p), (VERDICT, verdict))
        for at, text in texts:
            write(figure, right + at, top + HEAD + ROW * (i + 0.2), text, fontsize=5)


def _words(name: str, words: Mapping[str, str], rules: Mapping[str, Any]) -> str:
    return f"{name}: prediction {words['predicts']}; better than {rules['against']}: {words['better']}"
