"""Figure of the measures that go with retention: some over it, and the correlations of all of them."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.figure import Figure

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
from gradprobe.comparison.predict import COHERENCE, DURING, NAMED, differences, told, units_of
from gradprobe.plotting.columns import interval, number
from gradprobe.plotting.style import BLACK, GREY, PAGE, look
from gradprobe.statistics.association import Association, Units, associations

SHOWN = (COHERENCE, "centred C", *NAMED)  # the paper's measure, and those to be confirmed elsewhere
WIDE, HIGH, LEFT, APART = 3.0, 1.6, 0.45, 0.53  # inches: a panel, what is left of it and what lies between two
ROW, NAMES, AXIS, VALUES = 0.16, 1.28, 1.35, 1.62  # inches: a line of the table, its names, intervals and numbers
HEAD = 0.62  # inches: the headings of the table
FOOT = 0.1  # inches: a line of the footnote


def predict(results: Sequence[Any]) -> Figure:
    """Retention over the main measures of the start; below, the rank correlations of all, and without each throttle.

    A mark is an operator's mean over seeds with their range, its colour the throttle. ρ: rank correlation over
    operators and seeds with the interval of the hierarchical bootstrap; τ: Kendall's, outcomes within the noise of
    seeds tied; p: of permuting whole throttles. ``during``: with the mean over the training curve.

    Args:
        results: of the coherence, fidelity and retention probes.
    """
    units = units_of(results)
    end, during = associations(units), associations(units_of(results, DURING))
    operators = by_throttle(units.operator)
    shown = [name for name in SHOWN if name in end] or list(end)[:4]
    lines = -(-len(shown) // 2)
    notes = _notes(units)
    table = 0.09 + lines * (HIGH + APART)
    key = table + HEAD + ROW * len(end) + 0.48
    note = key + key_height(operators) + 0.08
    with look():
        figure = Figure(figsize=(PAGE, note + FOOT * len(notes) + 0.05))
        figure.set_layout_engine("none")  # all places are known
        styles = styles_of(operators)
        for i, name in enumerate(shown):
            line, column = divmod(i, 2)
            axes = place(figure, LEFT + column * (WIDE + 0.5), 0.22 + line * (HIGH + APART), WIDE, HIGH)
            measure_panel(axes, name, units, operators, styles)
            axes.set_title(told(end[name]), fontsize=SMALL, fontweight="normal", pad=3)
            axes.set_ylabel("" if column else "retention at the end", fontsize=6.5)
        _correlations(figure, table, end, during)
        draw_key(figure, 0.05, key, operators, styles)
        write(figure, 0.05, note, "\n".join(notes), color=GREY, fontsize=NUMBER)
    return figure


def _correlations(
    figure: Figure, top: float, end: Mapping[str, Association], during: Mapping[str, Association]
) -> None:
    """Draw a line a measure: its correlations as intervals and numbers, and those without each throttle as colours."""
    import seaborn

    axes = place(figure, NAMES, top + HEAD, AXIS, ROW * len(end))
    forest(axes, [[(each.rho, "o", BLACK), (during[name].rho, "o", "white")] for name, each in end.items()])
    axes.set_xlim(-1, 1)
    axes.set_xlabel("ρ with retention at the end (filled)\nand during training (hollow), 95 %", fontsize=SMALL)
    axes.set_yticks(range(len(end)), [f"* {name}" if name in NAMED else name for name in end], fontsize=SMALL)
    for label, name in zip(axes.get_yticklabels(), end, strict=True):
        label.set_fontweight("bold" if name in NAMED else "normal")
    left = NAMES + AXIS
    for at, heading in ((left + 0.1, "ρ at the end [95 %]"), (left + 1.1, "τ"), (left + 1.36, "p")):
        write(figure, at, top + HEAD - 0.12, heading, color=GREY)
    for i, each in enumerate(end.values()):
        y = top + HEAD + ROW * (i + 0.2)
        p = "<0.001" if each.p < 0.001 else number(each.p, 3)
        rho = interval(each.rho.value, each.rho.low, each.rho.high)
        for at, text in ((left + 0.1, rho), (left + 1.1, number(each.tau)), (left + 1.36, p)):
            write(figure, at, y, text)
    throttles = list(dict.fromkeys(throttle for each in end.values() for throttle in each.without))
    values = np.array([[each.without.get(t, np.nan) for t in throttles] for each in end.values()])
    left += VALUES + 0.1
    heat = place(figure, left, top + HEAD, PAGE - left - 0.35, ROW * len(end))
    seaborn.heatmap(
        values, ax=heat, vmin=-1, vmax=1, cmap="RdBu", annot=True, fmt=".2f", annot_kws={"fontsize": 5}, cbar=False,
        linewidths=0.5, yticklabels=False, xticklabels=throttles,
    )  # fmt: skip
    heat.xaxis.tick_top()
    heat.set_xticks(heat.get_xticks(), throttles, rotation=40, ha="left", rotation_mode="anchor", fontsize=NUMBER)
    heat.tick_params(length=0, pad=1)
    heat.set_xlabel("ρ at the end without this throttle", fontsize=SMALL)


def _notes(units: Units) -> list[str]:
    count = len(set(units.seed))
    seeds = f"lines: the range of {count} seeds, marks their means" if count > 1 else "one seed"
    lines = [
        f"marks: operators, numbered in the key; {seeds}; n: operators",
        "ρ over operators and seeds; bootstrap over throttle, operator | seed | images; p: whole throttles permuted",
    ]
    for name, each in differences(units).items():
        lines.append(f"{name} less {COHERENCE}, same operators: {interval(each.value, each.low, each.high)}")
    return [*lines, "* to be confirmed on other operators, seeds and models; all else explores"]
