"""Figure 4b: accuracy under random scores over the tokens kept, and the gap to hard top-K with the margin around 0."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure, SubFigure

from gradprobe.errors import GradprobeError
from gradprobe.operators.temperature import family
from gradprobe.plotting.colours import colours_of
from gradprobe.plotting.columns import Row
from gradprobe.plotting.escape import legend_label
from gradprobe.plotting.style import BLACK, GREY, PAGE, look
from gradprobe.probes.equivalence.patches import Strip, draw_strips
from gradprobe.probes.equivalence.result import EquivalenceResult, pooled

MARKS = "osD^vPX"
Look = Mapping[str, tuple[str, str]]  # family -> colour and marker
Panel = tuple[str, Sequence[Row]]


def equivalence_figure(results: Sequence[EquivalenceResult], rows: Sequence[Row], title: str) -> Figure:
    """Draw the figure of the command.

    Args:
        results: of several operators and K.
        rows: of the results.
        title: model and budgets, of which the model stands above the axes.
    """
    return equivalence_chart(rows, title.partition(",")[0])


def equivalence_chart(rows: Sequence[Row], title: str) -> Figure:
    """Draw accuracy and gap over the tokens kept, and for operators at several temperatures the gap over these.

    Args:
        rows: as `gradprobe.probes.equivalence.result.EquivalenceResult.row` makes them, the baseline's without a gap.
        title: above the axes.
    """
    ladders = [(f"K = {k} of {rows[0]['tokens']}", _ladder([r for r in rows if r["k"] == k])) for k in _budgets(rows)]
    return _grid([(title, rows)], [(name, ladder) for name, ladder in ladders if ladder])


def fig4(
    panels: Sequence[tuple[str, Sequence[EquivalenceResult]]],
    paper: Sequence[Mapping[str, Any]],
    baseline: str,
    strips: Sequence[Strip] = (),
) -> Figure:
    """Draw the paper's Figure 4: images as the operators leave them (a), accuracy and its gap to hard top-K (b).

    Args:
        panels: a name and results each; those of one operator and K are pooled. A panel with several temperatures of
            an operator shows the gap over these.
        paper: not drawn; every figure of a preset takes it.
        baseline: the operator that the others are compared with.
        strips: pictures for (a), as `gradprobe.probes.equivalence.patches.patch_rows` takes them; none: (b) alone.

    Source: DiffPrune, Fig. 4.
    """
    rows = [(name, pooled_rows(results, baseline)) for name, results in panels]
    over_tau = [(name, _ladder(compared)) for name, compared in rows if _ladder(compared)]
    return _grid([panel for panel in rows if not _ladder(panel[1])], over_tau, strips)


def pooled_rows(results: Sequence[EquivalenceResult], baseline: str) -> list[dict[str, Any]]:
    """Return a row for each operator and K over all its images, compared with the baseline on the same images.

    Args:
        results: of any operators, K and data sets.
        baseline: the operator that the others are compared with; one without it on the same images is not compared.
    """
    groups: dict[tuple[str, int], list[EquivalenceResult]] = {}
    for result in results:
        groups.setdefault((result.question["op"], result.question["k"]), []).append(result)
    rows = []
    for (op, k), group in groups.items():
        data = [r.question.get("data") for r in group]
        same = {r.question.get("data"): r for r in groups.get((baseline, k), [])}
        other = pooled([same[d] for d in data]) if op != baseline and all(d in same for d in data) else None
        rows.append(pooled(group).row(baseline=other))
    return rows


def _grid(over_k: Sequence[Panel], over_tau: Sequence[Panel], strips: Sequence[Strip] = ()) -> Figure:
    """Two axes for each panel, one above the other; pictures, if there are any, above them all."""
    every = [row for _, rows in (*over_k, *over_tau) for row in rows]
    if not every:
        raise GradprobeError("no answers to draw; ask gradprobe equivalence --k 98 for some")
    looks = _looks(every)
    columns = len(over_k) + len(over_tau)
    width = PAGE * min(1.0, 0.4 + 0.2 * columns)
    with look():
        pictures = (width - 0.5) / len(strips[0][1]) * len(strips) + 0.4 if strips else 0
        figure = Figure(figsize=(width, 4.6 + pictures))
        part: Figure | SubFigure = figure
        if strips:
            halves = figure.subfigures(2, 1, height_ratios=[pictures, 4.6], squeeze=False)[:, 0]
            for letter, half in zip("ab", halves, strict=True):
                half.suptitle(letter, x=0.005, ha="left", fontweight="bold")
            draw_strips(halves[0], strips)
            part = halves[1]
        grid = part.subplots(2, columns, squeeze=False)
        for i, (name, rows) in enumerate(over_k):
            _accuracies(grid[0, i], rows, looks)
            _gaps_over_k(grid[1, i], rows, looks)
            grid[0, i].set_title(f"{name}\n{_images(rows)}")
        for i, (name, rows) in enumerate(over_tau, start=len(over_k)):
            for axes, of in zip(grid[:, i], ("top1", "top5"), strict=True):
                _gaps_over_tau(axes, rows, of, looks)
            grid[0, i].set_title(f"{name}\n{_images(rows)}")
        legends = [axes.get_legend_handles_labels() for axes in grid.flat]
        marks = {text: mark for legend in legends for mark, text in zip(*legend, strict=True)}
        texts = [*(t for t in looks if t in marks), *(t for t in marks if t not in looks)]
        many = min(len(texts), columns + 1, 4)
        part.legend([marks[t] for t in texts], texts, loc="outside lower center", ncols=many)
    return figure


def _accuracies(axes: Axes, rows: Sequence[Row], looks: Look) -> None:
    """Top-1 filled and top-5 hollow with their intervals; all tokens kept is a dashed line."""
    for name, group, at in _series(rows):
        colour, mark = looks[name]
        for of, face in (("top1", colour), ("top5", "white")):
            axes.errorbar(
                at, [r[of] for r in group], yerr=_ends(group, of), color=colour, fmt=mark, ms=3.4, mfc=face, mew=0.8,
                elinewidth=0.7, label=legend_label(name) if of == "top1" else None,
            )  # fmt: skip
    for row in rows:
        if row["k"] == row["tokens"]:
            for of in ("top1", "top5"):
                axes.axhline(row[of], color=GREY, linewidth=0.8, linestyle="--", label="nothing pruned")
    axes.set_ylabel("accuracy; top-5 hollow")
    _budget_axis(axes, rows)


def _gaps_over_k(axes: Axes, rows: Sequence[Row], looks: Look) -> None:
    for name, group, at in _series(rows):
        shown = [(x, r) for x, r in zip(at, group, strict=True) if r["top1_difference"] is not None]
        if shown:
            colour, mark = looks[name]
            _gap_points(axes, [x for x, _ in shown], [r for _, r in shown], "top1", colour, mark, "none")
    _margin(axes, rows, "top-1")
    _budget_axis(axes, rows)
    sharp = sorted({r["tau"] for r in _sharpest(rows) if r["tau"] is not None})
    axes.set_xlabel("tokens kept" + (f"; tau = {', '.join(f'{t:g}' for t in sharp)}" if sharp else ""))


def _gaps_over_tau(axes: Axes, rows: Sequence[Row], of: str, looks: Look) -> None:
    names = list(dict.fromkeys(family(r["op"]) for r in rows))
    for i, name in enumerate(names):
        group = sorted((r for r in rows if family(r["op"]) == name), key=lambda r: r["tau"])
        beside = 1.07 ** (i - (len(names) - 1) / 2)  # so that the intervals do not hide each other
        _gap_points(axes, [r["tau"] * beside for r in group], group, of, *looks[name], "-")
    axes.set_xscale("log")
    axes.set_xlabel("tau")
    _margin(axes, rows, "top-1" if of == "top1" else "top-5")


def _gap_points(
    axes: Axes, at: Sequence[float], rows: Sequence[Row], of: str, colour: str, mark: str, line: str
) -> None:
    axes.errorbar(
        at, [r[f"{of}_difference"] for r in rows], yerr=_ends(rows, f"{of}_difference"), color=colour, marker=mark,
        ms=3.4, linestyle=line, elinewidth=0.7, label=legend_label(family(rows[0]["op"])),
    )  # fmt: skip


def _margin(axes: Axes, rows: Sequence[Row], name: str) -> None:
    margin = rows[0]["margin"]
    axes.axhspan(-margin, margin, color="#DDDDDD", linewidth=0, label=f"margin of {margin:g}")
    axes.axhline(0, color=BLACK, linewidth=0.8)
    axes.grid(axis="y")
    axes.set_ylabel(f"{name} gap to hard, 95 %")


def _budget_axis(axes: Axes, rows: Sequence[Row]) -> None:
    budgets = _budgets(rows)
    axes.set_xticks(range(len(budgets)), [f"{k}\n{k / rows[0]['tokens']:.0%}" for k in budgets])
    axes.set_xlim(-0.5, len(budgets) - 0.5)
    axes.tick_params(axis="x", length=0)
    axes.grid(axis="y")


def _series(rows: Sequence[Row]) -> list[tuple[str, list[Row], np.ndarray]]:
    """Each family at its sharpest, its rows by K, and where they stand: beside each other at each K."""
    budgets, sharp = _budgets(rows), _sharpest(rows)
    names = list(dict.fromkeys(family(r["op"]) for r in sharp))
    series = []
    for i, name in enumerate(names):
        group = [r for r in sharp if family(r["op"]) == name and r["k"] in budgets]
        shift = 0.7 * ((i + 0.5) / len(names) - 0.5)
        series.append((name, group, np.array([budgets.index(r["k"]) + shift for r in group])))
    return series


def _sharpest(rows: Sequence[Row]) -> list[Row]:
    """Of each family at each K the row of the smallest temperature."""
    first: dict[tuple[str, int], Row] = {}
    for row in sorted(rows, key=lambda r: r["tau"] or 0):
        first.setdefault((family(row["op"]), row["k"]), row)
    return [row for row in rows if row is first[family(row["op"]), row["k"]]]


def _ladder(rows: Sequence[Row]) -> list[Row]:
    """Return the compared rows of families that come at several temperatures."""
    taus: dict[str, set[float]] = {}
    for row in rows:
        if row["tau"] is not None and row["top1_difference"] is not None:
            taus.setdefault(family(row["op"]), set()).add(row["tau"])
    return [r for r in rows if r["top1_difference"] is not None and len(taus.get(family(r["op"]), ())) > 1]


def _budgets(rows: Sequence[Row]) -> list[int]:
    """Return the K of the rows, but for all N if it is not the only one."""
    budgets = sorted({row["k"] for row in rows})
    return [k for k in budgets if k < rows[0]["tokens"]] or budgets


def _looks(rows: Sequence[Row]) -> Look:
    names = list(dict.fromkeys(family(row["op"]) for row in rows))
    return {op: (colour, MARKS[i % len(MARKS)]) for i, (op, colour) in enumerate(colours_of(names).items())}


def _images(rows: Sequence[Row]) -> str:
    return ", ".join(f"{count} images" for count in dict.fromkeys(row["images"] for row in rows))


def _ends(rows: Sequence[Row], field: str) -> np.ndarray:
    """Distances to both ends of the interval, ``(2, rows)``."""
    ends = [(r[field] - r[f"{field}_low"], r[f"{field}_high"] - r[field]) for r in rows]
    return np.maximum(np.array(ends, float).reshape(-1, 2).T, 0)  # rounding may put an end a hair inside
