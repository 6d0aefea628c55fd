"""Rows of fidelity -> tables and sentences for the terminal."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from rich import box
from rich.console import Group
from rich.table import Table

from gradprobe.plotting.columns import Row, interval, number, short

Cell = Callable[[Mapping[str, Any]], str]


def estimated(row: Mapping[str, Any], name: str) -> str:
    """An estimate of a row with its interval; an en dash where it is undefined, an asterisk where it was cut at 1."""
    text = interval(row.get(name), row.get(f"{name}_low"), row.get(f"{name}_high"))
    return text if row.get(f"{name}_uncut") is None else text.replace(" [", "* [", 1)


def fidelity_table(rows: Sequence[Row]) -> Group:
    """Cosines in the scores, cosines in the parameters, and rates of descent, a table each; legible at 80 columns.

    Args:
        rows: as `gradprobe.probes.fidelity.result.FidelityResult.row` makes them.

    Returns:
        What rich prints.
    """
    scores: dict[str, Cell] = {
        "cos [95 %]": lambda at: estimated(at, "cosine"),
        "centred [95 %]": lambda at: estimated(at, "centred"),
        "bias²": lambda at: short(at["bias2"]),
        "left": lambda at: number(at["bias2_scaled"]),
    }
    tables = [_at_sigmas(rows, scores)]
    if any("theta" in at for row in rows for at in row["sigmas"]):
        parameters: dict[str, Cell] = {
            "cos θ [95 %]": lambda at: estimated(at, "theta"),
            "centred θ [95 %]": lambda at: estimated(at, "theta_centred"),
        }
        tables.append(_at_sigmas(rows, parameters))
    if rows[0]["ladder"]:
        tables.append(_descent(rows))
    return Group(*tables)


def reference_table(rows: Sequence[Row]) -> Table:
    """How well each gradient of the smoothed objective is known: its squared norm, and which share of it is signal.

    Args:
        rows: as `gradprobe.probes.fidelity.reference_result.ReferenceResult.row` makes them.
    """
    cells: dict[str, Cell] = {
        "|grad|² [95 %]": lambda at: f"{short(at['signal'])} [{short(at['signal_low'])}, {short(at['signal_high'])}]",
        "reliability [95 %]": lambda at: estimated(at, "reliability"),
    }
    return _at_sigmas(rows, cells)


def difference_lines(rows: Sequence[Row], baseline: str | None) -> list[str]:
    """Sentences for each row that was compared with the baseline: its cosines, and how fast the loss falls.

    Args:
        rows: of the table.
        baseline: the operator they were compared with.
    """
    lines = []
    for row in rows:
        told = [
            f"{estimated(at, 'cosine_difference')} at σ = {at['sigma']:g}"
            for at in row["sigmas"] if at.get("cosine_difference") is not None
        ]  # fmt: skip
        if told:
            lines.append(f"{row['op']}: its cosine is above that of {baseline} by {', '.join(told)}")
        told = [
            f"{_spread(at, 'rate_difference')} at a step of {at['step']:g}"
            for at in row["ladder"] if at.get("rate_difference") is not None
        ]  # fmt: skip
        if told:
            lines.append(f"{row['op']}: the loss falls faster than along {baseline} by {', '.join(told)}")
    return lines


def reasons(rows: Sequence[Row]) -> list[str]:
    """Sentences on why cosines are undefined, or cut at 1, one for each reason of a row."""
    lines = []
    for row in rows:
        if row["gradient"] == "none":
            lines.append(f"{row['op']}: no gradient reaches the scores")
            continue
        found: dict[tuple[str, str], list[str]] = {}
        for at in row["sigmas"]:
            for name, what in (("cosine", "cos"), ("theta", "cos θ")):
                if at.get(f"{name}_reason"):
                    found.setdefault((what, at[f"{name}_reason"]), []).append(f"{at['sigma']:g}")
                if (beyond := at.get(f"{name}_uncut")) is not None:
                    why = f"comes out as {number(beyond)} without noise and is cut (*)"
                    found.setdefault((what, why), []).append(f"{at['sigma']:g}")
        lines += [f"{row['op']}: {what} at σ = {', '.join(at)} {why}" for (what, why), at in found.items()]
    return lines


def _spread(at: Mapping[str, Any], name: str) -> str:
    """A number of any size with its interval."""
    if at[name] is None:
        return "–"
    return f"{short(at[name])} [{short(at[f'{name}_low'])}, {short(at[f'{name}_high'])}]"


def _at_sigmas(rows: Sequence[Row], cells: Mapping[str, Cell]) -> Table:
    table = _table(["σ", *cells])
    for row in rows:
        for i, at in enumerate(row["sigmas"]):
            none = row.get("gradient") == "none"
            texts = ["none" if none else cell(at) for cell in cells.values()]
            table.add_row(row["op"] if i == 0 else "", f"{at['sigma']:g}", *texts)
    return table


def _descent(rows: Sequence[Row]) -> Table:
    """Rates with half their interval; below them those of the reference itself."""
    table = _table([f"{at['step']:g}" for at in rows[0]["ladder"]])
    table.caption = "fall of the deployed loss per unit of step, at each step; ± half a 95 % interval"
    table.caption_justify = "left"
    for row in rows:
        table.add_row(row["op"], *(_rate(at) for at in row["ladder"]))
    for s, ceiling in enumerate(rows[0]["ladder"][0]["ceilings"]):
        cells = [_rate(at["ceilings"][s]) for at in rows[0]["ladder"]]
        table.add_row(f"reference {ceiling['sigma']:g}", *cells, style="dim")
    return table


def _rate(at: Mapping[str, Any]) -> str:
    if at["rate"] is None:
        return "none"
    half = at["rate_high"] - at["rate"]
    return f"{at['rate']:.2g} ±{half:.2g}"


def _table(columns: Sequence[str]) -> Table:
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, padding=(0, 1, 0, 0))
    table.add_column("operator", overflow="fold", min_width=16)
    for heading in columns:
        table.add_column(heading, justify="right", no_wrap=True)
    return table
