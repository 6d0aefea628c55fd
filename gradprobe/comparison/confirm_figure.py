"""Figure of a test of predictions: a row a model, a panel a measure, and what is confirmed or refuted below."""

from collections.abc import Sequence

from matplotlib.figure import Figure

from gradprobe.comparison.confirm import conclusions, predicts, trials
from gradprobe.comparison.experiments import Answer, Experiment
from gradprobe.comparison.predict import measure_panel, told
from gradprobe.plotting.columns import interval
from gradprobe.plotting.style import GREY, PAGE, look


def confirm_figure(experiment: Experiment, answers: Sequence[Answer]) -> Figure:
    """Retention over each measure of the start, for operators that took no part in choosing the measure.

    A small dot is an operator under one seed, a number its mean over seeds. The named measures come first, with their
    verdict; then the one to be beaten, and those that explore.

    Args:
        experiment: Preset with a table ``[confirm]``.
        answers: Its answers.
    """
    done, rules = trials(experiment, answers), experiment.confirm
    shown = [*rules["named"], rules["against"], *rules["explored"]]
    named = list(dict.fromkeys(op for trial in done for op in trial.units.operator))
    with look():
        half = -(-len(named) // 2)
        heights = [1.9 * len(done), 0.45 + 0.11 * max(half, 4 * len(done) + 4)]
        figure = Figure(figsize=(PAGE, sum(heights)))
        above, below = figure.subfigures(2, 1, height_ratios=heights, squeeze=False)[:, 0]
        grid = above.subplots(len(done), len(shown), sharey="row", squeeze=False)
        for trial, row in zip(done, grid, strict=True):
            for axes, name in zip(row, shown, strict=True):
                if (each := trial.associations.get(name)) is None:
                    axes.set_axis_off()
                    continue
                measure_panel(axes, name, trial.units, named)
                axes.set_xlabel(name, fontsize=6)
                verdict = predicts(each, rules["p"], rules["useful"]) if name in rules["named"] else "explored"
                first, _, rest = told(each).partition(", τ")
                axes.set_title(f"{first}\nτ{rest}; predicts: {verdict}", fontsize=5, fontweight="normal")
            row[0].set_ylabel(f"{trial.model}\nretention at the end", fontsize=6)
        for x, some in ((0.02, named[:half]), (0.3, named[half:])):
            numbered = "\n".join(f"{named.index(op) + 1:2d}  {op}" for op in some)
            below.text(x, 0.97, numbered, va="top", fontsize=5.5)
        text = []
        for trial in done:
            for name, gap in trial.differences.items():
                told_gap = interval(gap.value, gap.low, gap.high)
                text.append(f"{trial.model}: ρ of {name}\n   less that of {rules['against']}: {told_gap}")
        for name, verdicts in conclusions(experiment, done).items():
            words = f"prediction {verdicts['predicts']},\n   better than {rules['against']}: {verdicts['better']}"
            text.append(f"{name}: {words}")
        below.text(0.58, 0.97, "\n".join(text), va="top", fontsize=5.5)
        below.text(
            0.02, 0.02, "ρ over operators and seeds; bootstrap over throttle, operator | seed | images; p: whole "
            "throttles permuted; all of it fixed before it was run (experiments/predict_confirm.toml)",
            fontsize=5.5, color=GREY,
        )  # fmt: skip
    return figure
