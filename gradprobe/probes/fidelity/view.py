"""Rows of fidelity -> tables and sentences for the terminal."""

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

from rich import box
from rich.console import Group
from rich.table import Table

from gradprobe.plotting.columns import Row, figures, interval, number, short
from gradprobe.probes import rounding_view, seeds_view

MEANING = (
    "cos: of the operator's gradient in the scores with that of the deployed loss smoothed by Gaussian noise of "
    "standard deviation σ in the scores (their own spread here is {spread:.2g}), corrected for the noise of both; 1 is "
    "right, 0 unrelated. centred: without the part that moves all scores of an image together. bias²: "
    "|E g - grad|² / |grad|²; left: what is left of it after the best scale, 1 - cos². θ: the same after the scorer's "
    "backward. step: how fast the deployed loss of {held} held-out images falls along -g, per unit of step, steps "
    "relative to the norm of the scorer's parameters."
)
Cell = Callable[[Mapping[str, Any]], str]


def estimated(row: Mapping[str, Any], name: str) -> str:
    """Return an estimate with its interval: an en dash where it is undefined, an asterisk where it was cut at 1."""
    text = interval(row.get(name), row.get(f"{name}_low"), row.get(f"{name}_high"))
    return text if row.get(f"{name}_uncut") is None else text.replace(" [", "* [", 1)


def table(rows: Sequence[Row]) -> Group:
    """Return cosines in the scores, cosines in the parameters and rates of descent, a table each, 80 columns wide.

    Args:
        rows: as `gradprobe.probes.fidelity.result.FidelityResult.row` makes them.

    Returns:
        A renderable of rich.
    """
    scores: dict[str, Cell] = {
        "cos [95 %]": lambda at: estimated(at, "cosine"),
        "centred [95 %]": lambda at: estimated(at, "centred"),
        "bias²": lambda at: short(at["bias2"]),
        "left": lambda at: number(at["bias2_scaled"]),
    }
    if seeds_view.pooled(rows):
        return _pooled(rows, scores)
    tables = [at_sigmas(rows, scores)]
    if any("theta" in at for row in rows for at in row["sigmas"]):
        parameters: dict[str, Cell] = {
            "cos θ [95 %]": lambda at: estimated(at, "theta"),
            "centred θ [95 %]": _centred_theta,
        }
        tables.append(at_sigmas(rows, parameters))
    if stepped := [row for row in rows if row["ladder"]]:
        tables.append(_descent(stepped))
    return Group(*tables)


def lines(rows: Sequence[Row], baseline: str | None) -> list[str]:
    """Return sentences on undefined cosines, on each row's differences to the baseline, and on bfloat16.

    Args:
        rows: of the table.
        baseline: operator with which they were compared.
    """
    return [*_reasons(rows), *_differences(rows, baseline), *rounding_view.lines(rows)]


def meaning(rows: Sequence[Row]) -> str:
    """Return the words for the columns."""
    words = MEANING.format(spread=rows[0]["spread"], held=max(row["held_out"] for row in rows))
    return " ".join(filter(None, [words, seeds_view.meaning(rows, "images")]))


def at_sigmas(rows: Sequence[Row], cells: Mapping[str, Cell]) -> Table:
    """Return a table with a line for each row and sigma."""
    table = _table(["σ", *cells])
    for row in rows:
        for i, at in enumerate(row["sigmas"]):
            none = row.get("gradient") == "none"
            texts = ["none" if none else cell({**row, **at}) for cell in cells.values()]
            table.add_row(row["op"] if i == 0 else "", f"{at['sigma']:g}", *texts)
    return table


def _pooled(rows: Sequence[Row], scores: Mapping[str, Cell]) -> Group:
    """Return the tables of rows over seeds: cosines and rates with their values by seed and their signs."""
    named, others = [("cos", "cosine")], {name: scores[name] for name in ("centred [95 %]", "bias²", "left")}
    if any("theta" in at for row in rows for at in row["sigmas"]):
        named.append(("cos θ", "theta"))
        others = {"centred [95 %]": others["centred [95 %]"], "centred θ [95 %]": _centred_theta} | others
    tables = [
        at_sigmas(
            rows,
            {
                f"{heading} [95 %]": partial(estimated, name=name),
                "each seed": seeds_view.each_seed(name),
                "vs base": seeds_view.versus(f"{name}_difference"),
            },
        )
        for heading, name in named
    ]
    tables.append(at_sigmas(rows, others))
    if stepped := [row for row in rows if row["ladder"]]:
        tables.append(_descent_over_seeds(stepped))
    tables[-1].caption = f"{tables[-1].caption or ''}{seeds_view.MARKED}"
    tables[-1].caption_justify = "left"
    return Group(*tables)


def _centred_theta(at: Mapping[str, Any]) -> str:
    return estimated(at, "theta_centred")


def _differences(rows: Sequence[Row], baseline: str | None) -> list[str]:
    sentences = []
    for row in rows:
        seeds = seeds_view.few(row)
        differences = [
            f"{estimated(at, 'cosine_difference')} at σ = {at['sigma']:g}"
            for at in row["sigmas"]
            if at.get("cosine_difference") is not None
        ]
        if differences:
            sentences.append(f"{row['op']}: its cosine is above that of {baseline} by {', '.join(differences)}{seeds}")
        differences = [
            f"{_spread(at, 'rate_difference')} at a step of {at['step']:g}"
            for at in row["ladder"]
            if at.get("rate_difference") is not None
        ]
        if differences:
            told = f"the loss falls faster than along {baseline} by {', '.join(differences)}"
            sentences.append(f"{row['op']}: {told}{seeds}")
    return sentences


def _reasons(rows: Sequence[Row]) -> list[str]:
    """Return a sentence for each reason why a row's cosines are undefined, or cut at 1."""
    sentences = []
    for row in rows:
        if row["gradient"] == "none":
            sentences.append(f"{row['op']}: no gradient reaches the scores")
            continue
        sigmas: dict[tuple[str, str], list[str]] = {}
        for at in row["sigmas"]:
            for name, what in (("cosine", "cos"), ("theta", "cos θ")):
                if at.get(f"{name}_reason"):
                    sigmas.setdefault((what, at[f"{name}_reason"]), []).append(f"{at['sigma']:g}")
                if (beyond := at.get(f"{name}_uncut")) is not None:
                    why = f"comes out as {number(beyond)} without noise and is cut (*)"
                    sigmas.setdefault((what, why), []).append(f"{at['sigma']:g}")
        sentences += [f"{row['op']}: {what} at σ = {', '.join(at)} {why}" for (what, why), at in sigmas.items()]
    return sentences


def _spread(at: Mapping[str, Any], name: str) -> str:
    """Return a number of any size with its interval."""
    if at[name] is None:
        return "–"
    if at[f"{name}_low"] is None:
        return short(at[name])
    return f"{short(at[name])} [{short(at[f'{name}_low'])}, {short(at[f'{name}_high'])}]"


def _descent(rows: Sequence[Row]) -> Table:
    """Return the rates with half their interval and, below them, those of the reference itself."""
    table = _table([f"{at['step']:g}" for at in rows[0]["ladder"]])
    table.caption = "fall of the deployed loss per unit of step, at each step; ± half a 95 % interval"
    table.caption_justify = "left"
    for row in rows:
        table.add_row(row["op"], *(_rate(at) for at in row["ladder"]))
    for s, ceiling in enumerate(rows[0]["ladder"][0]["ceilings"]):
        cells = [_rate(at["ceilings"][s]) for at in rows[0]["ladder"]]
        table.add_row(f"reference {ceiling['sigma']:g}", *cells, style="dim")
    return table


def _descent_over_seeds(rows: Sequence[Row]) -> Table:
    """Return the rates with their values by seed, a line for each row and step, beside those of the reference."""
    widest = f"ref. {rows[0]['ladder'][0]['ceilings'][-1]['sigma']:g}"
    by_seed = seeds_view.each_seed("rate", _two)
    versus = seeds_view.versus("rate_difference")
    table = _table(["step", "fall [95 %]", "each seed", "vs base", widest])
    for row in rows:
        for i, at in enumerate(row["ladder"]):
            merged = {**row, **at}
            fall = "none" if at["rate"] is None else figures(at["rate"], at["rate_low"], at["rate_high"])
            texts = fall, by_seed(merged), versus(merged), _two(at["ceilings"][-1]["rate"])
            table.add_row(row["op"] if i == 0 else "", f"{at['step']:g}", *texts)
    table.caption = "fall of the deployed loss per unit of step; ref.: along the reference of that σ. "
    return table


def _two(value: float | None) -> str:
    """Return a number of any size to two figures."""
    return figures(value, None, None)


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
