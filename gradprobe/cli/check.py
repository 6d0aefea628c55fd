"""``gradprobe check``: examine whether operators and selectors keep the promises of every one of their kind."""

import dataclasses
from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from gradprobe.cli import completion, options
from gradprobe.cli.output import say_json
from gradprobe.errors import UsageError, nearest

STYLES = {"passed": "green", "failed": "bold red", "skipped": "dim"}


def check(
    op: Annotated[
        list[str],
        typer.Argument(
            help="Operators and selectors: my.py:MyOp, vpnoise, my.py:MyRelaxation+gather, my.py:MySelector, divprune.",
            autocompletion=completion.checked,
        ),
    ],
    as_json: options.Json = False,
) -> None:
    """Check operators and selectors against the promises of every one; exit code 1 if one breaks a promise."""
    from gradprobe.cli.progress import bars
    from gradprobe.operators import registry
    from gradprobe.testing import examine, examine_selector

    things: dict[tuple[str, str], Any] = {}
    for spec in op:
        kind = kind_of(spec)
        thing = registry.build(spec) if kind == "operator" else registry.part("selector", spec)
        things[kind, registry.label(thing)] = thing
    with bars() as progress:
        reports = {
            (kind, name): (examine if kind == "operator" else examine_selector)(thing, progress=progress)
            for (kind, name), thing in things.items()
        }
    if as_json:
        keys = {"operator": "op", "selector": "selector"}
        rows = [
            {keys[kind]: name, "ok": _ok(findings), "findings": [dataclasses.asdict(f) for f in findings]}
            for (kind, name), findings in reports.items()
        ]
        say_json({"checked": rows})
    else:
        _print(reports)
    if not all(map(_ok, reports.values())):
        raise typer.Exit(1)


def kind_of(spec: str) -> Literal["operator", "selector"]:
    """Return the kind of the thing of a name; a name of both is an operator's.

    Raises:
        UsageError: An unknown name, or a class that is neither.

    Example:
        >>> kind_of("vpnoise:tau=0.3"), kind_of("divprune")
        ('operator', 'selector')
    """
    from gradprobe.operators import registry
    from gradprobe.operators.fields import split
    from gradprobe.operators.third_party import role_of
    from gradprobe.operators.user_files import PATH, from_file, refuse_bare

    if "+" in spec:
        return "operator"
    name, _ = split(spec)
    if name.endswith(".py"):
        refuse_bare(Path(name), "operator", "selector")
    if match := PATH.fullmatch(name):
        role = role_of(from_file(Path(match["file"]), match["cls"]))
        if role == "none":
            raise UsageError(
                f"{name} can be called neither with (patches, scores, k, noise), as an operator is, nor with (view, "
                "k), as a selector is"
            )
        return "selector" if role == "selector" else "operator"
    operators, selectors = registry.names("operator"), registry.names("selector")
    if name in operators:
        return "operator"
    if name in selectors:
        return "selector"
    if name in registry.names("relaxation") or name in registry.names("throttle"):
        return "operator"  # which says how halves are joined
    raise UsageError(f"unknown operator or selector {name!r}; {nearest(name, {*operators, *selectors})}")


def _ok(findings: Any) -> bool:
    return not any(f.status == "failed" for f in findings)


def _print(reports: dict[tuple[str, str], Any]) -> None:
    from rich import box
    from rich.table import Table
    from rich.text import Text

    from gradprobe.cli.screen import Screen
    from gradprobe.plotting.escape import visible

    console = Screen()
    for (kind, name), findings in reports.items():
        heading = Text(visible(name if kind == "operator" else f"selector {name}"), "bold")
        table = Table(title=heading, title_justify="left", box=box.SIMPLE_HEAD, pad_edge=False)
        table.add_column("property", no_wrap=True)
        table.add_column("", no_wrap=True)
        table.add_column("seen", overflow="fold")
        for f in findings:
            detail = f.case if f.status == "failed" else f.told
            table.add_row(f.property, Text(f.status, STYLES[f.status]), detail)
        console.print(table)
        for f in findings:
            if f.status == "failed":
                console.print(Text.assemble((f"{f.property} failed", STYLES[f.status]), f": {f.promise}."))
                for word, text in (("input", f.case), ("seen", f.told), ("to do", f.remedy)):
                    console.print(f"  {word}: {text}")
        for remedy in dict.fromkeys(f.remedy for f in findings if f.status == "skipped" and f.remedy):
            console.print(f"skipped: {remedy}", style="dim")
        counts = {status: sum(f.status == status for f in findings) for status in STYLES}
        console.print(f"{name}: " + ", ".join(f"{count} {status}" for status, count in counts.items() if count))
