"""``gradprobe check``: examine whether operators keep the promises of every operator."""

import dataclasses
from typing import Annotated, Any

import typer

from gradprobe.cli import options
from gradprobe.cli.output import say_json

STYLES = {"passed": "green", "failed": "bold red", "skipped": "dim"}


def check(
    op: Annotated[list[str], typer.Argument(help="Operators: my_op.py:MyOp, vpnoise, my_op.py:MyRelaxation+gather.")],
    as_json: options.Json = False,
) -> None:
    """Check operators against the promises of every operator; exit code 1 if one breaks a promise."""
    from gradprobe.cli.progress import bars
    from gradprobe.operators import registry
    from gradprobe.testing import examine

    operators = {registry.label(operator): operator for operator in map(registry.build, op)}
    with bars() as progress:
        reports = {name: examine(operator, progress=progress) for name, operator in operators.items()}
    if as_json:
        rows = [
            {"op": name, "ok": _ok(findings), "findings": [dataclasses.asdict(f) for f in findings]}
            for name, findings in reports.items()
        ]
        say_json({"checked": rows})
    else:
        _print(reports)
    if not all(map(_ok, reports.values())):
        raise typer.Exit(1)


def _ok(findings: Any) -> bool:
    return not any(f.status == "failed" for f in findings)


def _print(reports: dict[str, Any]) -> None:
    from rich import box
    from rich.table import Table
    from rich.text import Text

    from gradprobe.cli.screen import Screen
    from gradprobe.plotting.escape import visible

    console = Screen()
    for name, findings in reports.items():
        table = Table(title=Text(visible(name), "bold"), title_justify="left", box=box.SIMPLE_HEAD, pad_edge=False)
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
