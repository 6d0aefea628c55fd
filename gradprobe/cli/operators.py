"""``gradprobe list``: stored results, and the operators that have a name."""

import dataclasses
import shutil
import textwrap
from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from gradprobe.cli.output import say, say_json, say_lines
from gradprobe.cli.store import Json, Probes, Results, list_results, name_probes
from gradprobe.errors import GradprobeError

Kind = Literal["results", "operators", "relaxations", "throttles"]
HEADINGS = {
    "relaxation": "relaxations: a score becomes a weight alpha_i",
    "throttle": "throttles: a weight acts on a token x_i",
    "operator": "names of pairs, and whole operators",
}
MEANING = (
    "gradient: exact, unbiased (by sampling), biased (another function's) or none. budget: whether the weights sum to "
    "K. Any pair is an operator: relaxation+throttle, with fields: lapsum:tau=0.3+scale."
)


def listing(
    what: Annotated[Kind, typer.Argument(help="results, operators, relaxations or throttles.")] = "results",
    results: Results = Path("runs"),
    probe: Probes = None,
    no_cost: Annotated[
        bool, typer.Option("--no-cost", help="Do not measure the cost of a call to each operator.")
    ] = False,
    as_json: Json = False,
) -> None:
    """List the stored results, oldest first, or operators with formula, gradient, budget, source and cost of a call."""
    name_probes(probe)
    if what == "results":
        list_results(results, as_json)
        return
    from gradprobe.cli.progress import bars
    from gradprobe.operators import packages, registry
    from gradprobe.operators.built_in import TABLES

    kinds = list(HEADINGS) if what == "operators" else [what.removesuffix("s")]
    entries = [(kind, name) for kind in kinds for name in registry.names(kind)]
    rows = []
    with bars(quiet=no_cost) as progress:
        for i, (kind, name) in enumerate(entries):
            rows.append(_row(kind, name, no_cost))
            progress("cost of a call", i + 1, len(entries))
    for kind in kinds:
        for name, points in packages.plugins(kind).items():
            if name in TABLES[kind]:
                say(
                    f"{kind} {name!r} of {packages.package_of(points[0])} is hidden by the built-in of that name",
                    err=True,
                )
    if as_json:
        say_json({f"{kind}s": [row for row in rows if row["kind"] == kind] for kind in kinds})
        return
    _print(rows, kinds, no_cost)


def _row(kind: str, name: str, no_cost: bool) -> dict[str, Any]:
    """Return the row of a name; the row of a broken package has its problem."""
    from gradprobe.operator_info import about_of
    from gradprobe.operators import packages, registry
    from gradprobe.testing.speed import speed_of

    points = [] if name in registry.TABLES[kind] else packages.plugins(kind)[name]
    row: dict[str, Any] = {
        "kind": kind,
        "name": name,
        "is": registry.ALIASES.get(name) if kind == "operator" else None,
        "provider": " and ".join(map(packages.package_of, points)) or "gradprobe",
        "problem": None,
    }
    try:
        item = registry.build(name) if kind == "operator" else registry.part(kind, name)
        about = about_of(item)
        row |= {"about": about and dataclasses.asdict(about), "forward_ms": None, "backward_ms": None}
        if not no_cost:
            speed = speed_of(kind, item)  # type: ignore[arg-type]  # one of HEADINGS
            row |= {"forward_ms": speed.forward, "backward_ms": speed.backward}
    except Exception as error:  # a package of a third party can raise anything
        row |= {"about": row.get("about"), "forward_ms": None, "backward_ms": None}
        prefix = "" if isinstance(error, GradprobeError) else f"{type(error).__name__}: "
        row["problem"] = f"{prefix}{' '.join(str(error).split())}"
    return row


def _print(rows: list[dict[str, Any]], kinds: list[str], no_cost: bool) -> None:
    width = min(120, shutil.get_terminal_size().columns)

    def fill(text: str, indent: int) -> None:
        say_lines(
            textwrap.fill(text, width, initial_indent=" " * indent, subsequent_indent=" " * (indent and indent + 2))
        )

    for kind in kinds:
        chosen = [row for row in rows if row["kind"] == kind]
        wide = max(len(row["name"]) for row in chosen)
        say(HEADINGS[kind])
        for row in chosen:
            about = row["about"] or {"gradient": "undeclared", "budget": None, "formula": "", "source": ""}
            line = f"  {row['name']:<{wide}}  {about['gradient']:<10}"
            if kind != "throttle":
                line += f"  {'budget' if about['budget'] is not None else 'no budget':<9}"
            if not no_cost:
                line += f"  {_ms(row['forward_ms']):>5} + {_ms(row['backward_ms'])} ms"
            say(line.rstrip())
            if row["problem"]:
                fill(f"cannot be used: {row['problem']}", 6)
            if row["is"]:
                fill(f"is {row['is']}", 6)
            elif about["formula"]:
                fill(about["formula"], 6)
            source = "" if row["is"] else about["source"]
            provider = "" if row["provider"] == "gradprobe" else f"from {row['provider']}"
            if origin := "; ".join(filter(None, [source, provider])):
                fill(origin, 6)
        say()
    fill(MEANING, 0)
    if not no_cost:
        fill("cost: forward + backward of one call here, B = 32, N = 196, K = 58, D = 192, on one thread.", 0)


def _ms(value: float | None) -> str:
    """Round milliseconds to two figures.

    Example:
        >>> _ms(1234.5), _ms(0.0127), _ms(None)
        ('1234', '0.013', '–')
    """
    if value is None:
        return "–"
    return f"{value:.0f}" if value >= 10 else f"{value:.2g}"
