"""``gradprobe list``: stored results, and the operators and selectors that have a name."""

import dataclasses
import shutil
import textwrap
from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from gradprobe.cli.output import say, say_json, say_lines
from gradprobe.cli.store import Json, Probes, Results, list_results, name_probes
from gradprobe.errors import GradprobeError

Kind = Literal["results", "operators", "relaxations", "throttles", "selectors"]
HEADINGS = {
    "relaxation": "relaxations: a score becomes a weight alpha_i",
    "throttle": "throttles: a weight acts on a token x_i",
    "operator": "names of pairs, and whole operators",
    "selector": "selectors: K of N visual tokens are kept, without a gradient",
}
OF_OPERATORS = ("relaxation", "throttle", "operator")
MEANING = (
    "gradient: exact, unbiased (by sampling), biased (another function's) or none. budget: whether the weights sum to "
    "K. Any pair is an operator: relaxation+throttle, with fields: lapsum:tau=0.3+scale."
)
MEANING_OF_SELECTORS = (
    "outside: asked before the language model, or of a ViT's patches; inside @L: before layer L of a language model of "
    "32. keep, compact: position ids in the method's own code. Plans join them: divprune:k=128;fastv@8, with fields: "
    "zoo:exact."
)


def listing(
    what: Annotated[Kind, typer.Argument(help="results, operators, relaxations, throttles or selectors.")] = "results",
    results: Results = Path("runs"),
    probe: Probes = None,
    no_cost: Annotated[
        bool, typer.Option("--no-cost", help="Do not measure the cost of a call to each operator or selector.")
    ] = False,
    as_json: Json = False,
) -> None:
    """List the stored results, oldest first, or operators or selectors with formula, source and cost of a call."""
    name_probes(probe)
    if what == "results":
        list_results(results, as_json)
        return
    from gradprobe.cli.progress import bars
    from gradprobe.operators import packages, registry
    from gradprobe.operators.built_in import TABLES

    kinds = list(OF_OPERATORS) if what == "operators" else [what.removesuffix("s")]
    entries = [(kind, name) for kind in kinds for name in registry.names(kind)]
    rows = []
    with bars(quiet=no_cost) as progress:
        for i, (kind, name) in enumerate(entries):
            rows.append((_selector if kind == "selector" else _row)(kind, name, no_cost))
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
    from gradprobe.operators import registry
    from gradprobe.testing.speed import speed_of

    row: dict[str, Any] = {
        "kind": kind,
        "name": name,
        "is": registry.ALIASES.get(name) if kind == "operator" else None,
        "provider": _provider(kind, name),
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
        row |= {"about": row.get("about"), "forward_ms": None, "backward_ms": None, "problem": _problem(error)}
    return row


def _selector(kind: str, name: str, no_cost: bool) -> dict[str, Any]:
    """Return the row of a selector's name; the row of a broken package has its problem."""
    from gradprobe.operators import registry
    from gradprobe.testing.selector_speed import time_of
    from gradprobe.view import SelectorAbout, Unavailable

    row: dict[str, Any] = {"kind": kind, "name": name, "provider": _provider(kind, name)}
    row |= {"problem": None, "about": None, "ms": None, "untimed": None}
    try:
        selector = registry.part(kind, name)
        about = getattr(selector, "about", None)
        row["about"] = dataclasses.asdict(about) if isinstance(about, SelectorAbout) else None
        row["ms"] = None if no_cost else time_of(selector)
    except Unavailable as reason:
        row["untimed"] = _problem(reason)
    except Exception as error:  # a package of a third party can raise anything
        row["problem"] = _problem(error)
    return row


def _provider(kind: str, name: str) -> str:
    from gradprobe.operators import packages, registry

    points = [] if name in registry.TABLES[kind] else packages.plugins(kind)[name]
    return " and ".join(map(packages.package_of, points)) or "gradprobe"


def _problem(error: Exception) -> str:
    prefix = "" if isinstance(error, GradprobeError) else f"{type(error).__name__}: "
    return f"{prefix}{' '.join(str(error).split())}"


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
            about = row["about"] or {"formula": "", "source": ""}
            say(f"  {row['name']:<{wide}}  {(_asked if kind == 'selector' else _kept)(row, no_cost)}".rstrip())
            if row["problem"]:
                fill(f"cannot be used: {row['problem']}", 6)
            if row.get("untimed"):
                fill(f"not timed: {row['untimed']}", 6)
            if row.get("is"):
                fill(f"is {row['is']}", 6)
            elif about["formula"]:
                fill(about["formula"], 6)
            source = "" if row.get("is") else about["source"]
            provider = "" if row["provider"] == "gradprobe" else f"from {row['provider']}"
            if origin := "; ".join(filter(None, [source, provider])):
                fill(origin, 6)
        say()
    fill(MEANING_OF_SELECTORS if kinds == ["selector"] else MEANING, 0)
    if no_cost:
        return
    if kinds == ["selector"]:
        fill("cost: one call here, B = 1, N = 576, K = 64, D = 1024, d = 128, on one thread.", 0)
    else:
        fill("cost: forward + backward of one call here, B = 32, N = 196, K = 58, D = 192, on one thread.", 0)


def _kept(row: dict[str, Any], no_cost: bool) -> str:
    """Return gradient, budget and cost of an operator or its part."""
    about = row["about"] or {"gradient": "undeclared", "budget": None}
    line = f"{about['gradient']:<10}"
    if row["kind"] != "throttle":
        line += f"  {'budget' if about['budget'] is not None else 'no budget':<9}"
    return line if no_cost else f"{line}  {_ms(row['forward_ms']):>5} + {_ms(row['backward_ms'])} ms"


def _asked(row: dict[str, Any], no_cost: bool) -> str:
    """Return place, position ids and cost of a selector."""
    about = row["about"] or {"layers": (), "positions": ""}
    place = f"inside @{','.join(map(str, about['layers']))}" if about["layers"] else "outside"
    line = f"{place if row['about'] else 'undeclared':<15}  {about['positions']:<7}"
    return line if no_cost else f"{line}  {_ms(row['ms']):>5} ms"


def _ms(value: float | None) -> str:
    """Round milliseconds to two figures.

    Example:
        >>> _ms(1234.5), _ms(0.0127), _ms(None)
        ('1234', '0.013', '–')
    """
    if value is None:
        return "–"
    return f"{value:.0f}" if value >= 10 else f"{value:.2g}"
