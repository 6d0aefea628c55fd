"""Each probe's numbers in a comparison -> grids of text for a page: the terminal's tables, and differences."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from gradprobe.comparison.comparison import Comparison, probe_rows
from gradprobe.comparison.tables import figures
from gradprobe.plotting.columns import Cell, Row, interval, number, short
from gradprobe.probes.coherence import view as coherence
from gradprobe.probes.fidelity.view import estimated
from gradprobe.probes.landscape.view import LEVEL, steps_columns, variation_columns
from gradprobe.probes.retention.view import name_of

QUESTIONS = {
    "coherence": "Do the gradients of different batches ask for the same step?",
    "landscape": "How rough is the training loss along a line through the scorer's parameters?",
    "fidelity": "Does the gradient point where the deployed loss falls?",
    "equivalence": "Does the operator classify as hard top-K does, by the same random scores?",
    "retention": "How much accuracy is left with hard top-K after training through the operator?",
    "cost": "What does a training gradient take in time, operations and memory?",
}


@dataclass(frozen=True)
class Grid:
    """A table as text: headings (the first is of the names), and lines of an operator's name and its cells."""

    title: str
    headings: tuple[str, ...]
    lines: tuple[tuple[str, tuple[str, ...]], ...]


def probe_grids(comparison: Comparison, probe: str) -> list[Grid]:
    """The tables of one probe, compared with the focus; none where nothing was asked.

    Args:
        comparison: the operators.
        probe: one of `QUESTIONS`.
    """
    rows = probe_rows(comparison, probe)
    others = [row for op, row in rows if op != comparison.focus]
    found = _GRIDS[probe]([row for _, row in rows], others, comparison.focus) if rows else []
    return [grid for grid in found if grid.lines]


def _grid(title: str, rows: Sequence[Row], columns: Mapping[str, Cell], none: tuple[str, ...] = ()) -> Grid:
    """A line a row; columns named in ``none`` say so for an operator without gradient."""
    lines = []
    for row in rows:
        absent = none if row.get("gradient") == "none" else ()
        lines.append((name_of(row), tuple("none" if name in absent else cell(row) for name, cell in columns.items())))
    return Grid(title, ("operator", *columns), tuple(lines))


def _ends(name: str, form: Callable[..., str] = interval) -> Cell:
    """A column of an estimate with its interval, which an operator may lack."""
    return lambda row: form(row.get(name), row.get(f"{name}_low"), row.get(f"{name}_high"))


def _coherence(rows: Sequence[Row], others: Sequence[Row], focus: str) -> list[Grid]:
    known = coherence.AGREEMENT | coherence.STRENGTH
    versus: dict[str, Cell] = {
        "C": _ends("difference"), "centred": _ends("centred_difference"),
        "ratio of C": coherence.ratio, "ratio of centred": lambda row: coherence.ratio(row, "centred_"),
    }  # fmt: skip
    return [
        _grid(coherence.setting(rows).replace("\n", "; "), rows, known, tuple(known)),
        _grid(f"above {focus}", others, versus),
    ]


def _landscape(rows: Sequence[Row], others: Sequence[Row], focus: str) -> list[Grid]:
    columns = LEVEL | steps_columns("d2") | variation_columns("d2")
    versus = {"mean step": _ends("d2_ratio", figures), "2nd difference": _ends("d2_second_ratio", figures)}
    return [_grid("along d2", rows, columns), _grid(f"times that of {focus}", others, versus)]


def _fidelity(rows: Sequence[Row], others: Sequence[Row], focus: str) -> list[Grid]:
    cosines: dict[str, Callable[[Mapping[str, Any]], str]] = {
        "σ": lambda at: f"{at['sigma']:g}", "cosine": lambda at: estimated(at, "cosine"),
        "centred": lambda at: estimated(at, "centred"), "in parameters": lambda at: estimated(at, "theta"),
        "bias²": lambda at: short(at["bias2"]), f"cosine above {focus}": lambda at: estimated(at, "cosine_difference"),
    }  # fmt: skip
    lines = []
    for row in rows:
        none = row["gradient"] == "none"
        for at in row["sigmas"]:
            texts = ("none" if none and name != "σ" else cell(at) for name, cell in cosines.items())
            lines.append((name_of(row), tuple(texts)))
    grids = [Grid("with the gradient of the smoothed deployed loss", ("operator", *cosines), tuple(lines))]
    if not rows[0]["ladder"]:
        return grids
    steps = {f"{at['step']:g}": i for i, at in enumerate(rows[0]["ladder"])}
    falls = "fall of the deployed loss per unit of step, at each step"
    for title, name, shown in ((falls, "rate", rows), (f"above {focus}", "rate_difference", others)):
        grids.append(_grid(title, shown, {step: _rate(i, name) for step, i in steps.items()}))
    return grids


def _rate(step: int, name: str) -> Cell:
    return lambda row: _ends(name, figures)(row["ladder"][step])


def _equivalence(rows: Sequence[Row], others: Sequence[Row], focus: str) -> list[Grid]:
    columns: dict[str, Cell] = {"K": lambda row: f"{row['k']} of {row['tokens']}"}
    for of, name in (("top1", "top-1"), ("top5", "top-5")):
        columns |= {name: _ends(of), f"{name} gap": _ends(f"{of}_difference")}
        columns[f"{name} verdict"] = _word(f"{of}_verdict")
    columns[f"top-1 above {focus}"] = lambda row: _ends("top1_difference")(row["versus"])
    return [_grid(f"gaps to hard top-K on {rows[0]['images']} images, margin {rows[0]['margin']:g}", rows, columns)]


def _word(name: str) -> Cell:
    return lambda row: row[name] or "–"


def _retention(rows: Sequence[Row], others: Sequence[Row], focus: str) -> list[Grid]:
    columns: dict[str, Cell] = {
        "retention": lambda row: interval(row["retention"], row["low"], row["high"]),
        "each seed": lambda row: ", ".join(number(x, 3) for x in row["by_seed"]),
        f"above {focus}": _ends("difference"), "untrained": lambda row: number(row["untrained"]),
        "accuracy": lambda row: number(row["accuracy"], 3), "unpruned": lambda row: number(row["unpruned"], 3),
        "AUC": lambda row: number(row["auc"]),
    }  # fmt: skip
    return [_grid(f"K = {rows[0]['k']}, {rows[0]['steps']} steps, {rows[0]['images']} test images", rows, columns)]


def _cost(rows: Sequence[Row], others: Sequence[Row], focus: str) -> list[Grid]:
    from gradprobe.probes.cost.view import TIME, WORK

    timed = TIME | {f"training over {focus}": _ends("ratio", figures)}
    return [_grid("time", rows, timed), _grid("GFLOPs an image, and MB kept for the backward", rows, WORK)]


_GRIDS: dict[str, Callable[[Sequence[Row], Sequence[Row], str], list[Grid]]] = {
    "coherence": _coherence, "landscape": _landscape, "fidelity": _fidelity, "equivalence": _equivalence,
    "retention": _retention, "cost": _cost,
}  # fmt: skip
