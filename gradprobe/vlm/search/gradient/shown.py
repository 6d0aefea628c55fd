"""Parts by which the probe of a search's gradient is shown, see `gradprobe.plotting.shown`."""

from collections.abc import Mapping, Sequence
from typing import Any

from rich import box
from rich.table import Table

from gradprobe.plotting.columns import Row, figures, interval, number
from gradprobe.plotting.shown import Writer
from gradprobe.vlm.search.gradient.result import SearchGradient

MEANING = (
    "C: mean cosine of the relaxed loss's gradients of different batches, in the numbers of the kernel. tangent: the "
    "same within the budget's tangent plane, the part that decides between schedules of equal FLOPs; budget: the other "
    "part's share of the squared norm, which the multiplier answers. cos: of the relaxed gradient with that of the "
    "deployed loss smoothed by Gaussian noise of σ tokens in each count, corrected for the noise of its draws. fall: "
    "of the deployed held-out loss after a step of so many tokens along the tangent part, repaired to the budget. "
    "line: random, in the tangent plane; its mean step, its ratio to that of the deployed loss, the relaxed loss "
    "less the deployed one, and their rank correlation. Intervals are 95 %: over batches and draws; falls, steps, "
    "height and rank over held-out images."
)


def facts(result: SearchGradient) -> dict[str, Any]:
    """Return the model, selector, kernel, budget and points."""
    asked = result.asked
    names = {"model": asked.task.vlm.name, "select": asked.question["select"], "kernel": asked.kernel.label}
    return names | {"budget": result.budget, "at": [each.label for each in result.probed]}


def rows(result: SearchGradient) -> list[dict[str, Any]]:
    """Return the rows of each point."""
    return result.rows()


def tables(result: SearchGradient) -> Sequence[Any]:
    """Return the tables of ``gradprobe vlm search-gradient``, four a point, and the words for their columns."""
    return tables_of(result.rows())


def tables_of(rows: Sequence[Row]) -> list[Any]:
    """Return the tables of some rows, and the words for their columns."""
    every: list[Any] = []
    for at in dict.fromkeys(row["at"] for row in rows):
        own = [row for row in rows if row["at"] == at]
        every += [_agreement(own), _fidelity(own), _falls(own), _line(own)]
    return [*every, _reasons(rows), MEANING]


def figure(result: SearchGradient) -> Any:
    """Draw fidelity over the temperature, and the line, a row of panels a point."""
    from gradprobe.vlm.search.gradient.figure import gradient_figure  # matplotlib

    asked = result.asked
    title = f"{asked.task.vlm.name}, {asked.question['select']}, {asked.kernel.label}, budget {result.budget:g}"
    return gradient_figure(result.rows(), result.probed, title)


def content(result: SearchGradient) -> dict[str, Any]:
    """Return the question and all rows."""
    return {"probe": "vlm-search-gradient", "question": result.question, "rows": result.rows()}


def writers(result: SearchGradient) -> Mapping[str, Writer]:
    """Return no writers."""
    return {}


def name_of(row: Row) -> str:
    """Return the name of a gradient.

    Example:
        >>> name_of({"gradient": "relaxed", "softness": 0.1}), name_of({"gradient": "deployed", "sigma": 4.0})
        ('softness 0.1', 'deployed, σ 4')
    """
    return f"softness {row['softness']:g}" if row["gradient"] == "relaxed" else f"deployed, σ {row['sigma']:g}"


def _agreement(rows: Sequence[Row]) -> Table:
    table = _table("gradient", "C", "tangent C", "budget")
    table.title = f"{rows[0]['at']}: {', '.join(map(str, rows[0]['counts']))} (share {rows[0]['share']:.4f})"
    for row in rows:
        if row["gradient"] != "line":
            names = ("coherence", "coherence_tangent", "budget_share")
            table.add_row(name_of(row), *(_estimated(row, name) if name in row else "" for name in names))
    return table


def _fidelity(rows: Sequence[Row]) -> Table:
    table = _table("gradient", "σ", "cos", "tangent cos")
    for row in rows:
        for i, at in enumerate(row.get("sigmas", ())):
            cells = f"{at['sigma']:g}", _estimated(at, "cosine"), _estimated(at, "tangent")
            table.add_row("" if i else name_of(row), *cells)
    return table


def _falls(rows: Sequence[Row]) -> Table:
    table = _table("fall after a step of", *(f"{at['step']:g}" for at in rows[0]["ladder"]))
    for row in rows:
        if "ladder" in row:
            falls = [figures(*(at[f"fall{end}"] for end in ("", "_low", "_high"))) for at in row["ladder"]]
            same = ["not moved" if not at["moved"] else fall for at, fall in zip(row["ladder"], falls, strict=True)]
            table.add_row(name_of(row), *same)
    return table


def _line(rows: Sequence[Row]) -> Table:
    table = _table("line", "mean step", "ratio", "height", "rank")
    for row in rows:
        if (line := row.get("line")) is None:
            continue
        step = number(line["variation"], 3)
        if row["gradient"] == "line":
            table.add_row("deployed", step, "", "", "")
            continue
        ratio = figures(line["ratio"], line["ratio_low"], line["ratio_high"])
        table.add_row(name_of(row), step, ratio, _estimated(line, "gap"), _estimated(line, "rank"))
    return table


def _reasons(rows: Sequence[Row]) -> str:
    """Return a sentence for each reason why cosines of a point are undefined, and for each that was cut at 1."""
    absent: dict[tuple[str, str, str], list[str]] = {}
    told = []
    for row in rows:
        for at in row.get("sigmas", ()):
            for name, words in (("cosine", "cos"), ("tangent", "tangent cos")):
                if at[f"{name}_reason"]:
                    where = f"{words} at σ {at['sigma']:g}"
                    absent.setdefault((row["at"], where, at[f"{name}_reason"]), []).append(f"{row['softness']:g}")
                elif (beyond := at[f"{name}_uncut"]) is not None:
                    where = f"{row['at']}, {name_of(row)}: {words} at σ {at['sigma']:g}"
                    told.append(f"{where} comes out as {number(beyond)} without noise and is cut (*)")
    named = [f"{at}: {where}, softness {', '.join(each)} {why}" for (at, where, why), each in absent.items()]
    return "\n".join([*named, *told])


def _estimated(row: Row, name: str) -> str:
    text = interval(row[name], row[f"{name}_low"], row[f"{name}_high"])
    return text if row.get(f"{name}_uncut") is None else text.replace(" [", "* [", 1)


def _table(*columns: str) -> Table:
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, padding=(0, 1, 0, 0), title_justify="left")
    for i, heading in enumerate(columns):
        table.add_column(heading, justify="right" if i else "left", no_wrap=True, min_width=0 if i else 13)
    return table
