"""``gradprobe list`` and ``gradprobe show``: the stored answers."""

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

from gradprobe.cli.output import say_json
from gradprobe.probes import probe_of
from gradprobe.store.record import damaged
from gradprobe.store.results import Entry, Store, key_of

ASKED = {"operator": "op", "K": "k", "steps": "steps", "model": "backbone"}  # columns of a question's keys
Results = Annotated[Path, typer.Option("--results", help="Where answers are kept.")]
Probes = Annotated[
    list[str] | None, typer.Option("--probe", help="Probe of a Python file, repeatable: my_probe.py:PROBE.")
]
Json = Annotated[bool, typer.Option("--json", help="Print JSON instead of tables.")]


def list_results(results: Results = Path("runs"), as_json: Json = False) -> None:
    """List the stored results, oldest first."""
    entries = Store(results).entries()
    if as_json:
        listed = [
            {
                "key": e.key,
                "probe": e.probe,
                "path": str(e.path),
                "question": e.question,
                "environment": e.environment,
                "problem": e.problem or None,
            }
            for e in entries
        ]
        say_json(listed)
        return
    from gradprobe.cli.fitting import natural_width
    from gradprobe.cli.screen import Screen

    console = Screen()
    if not entries:
        console.print(f"no results in {results}; gradprobe coherence --op vpnoise --k 58 makes one")
        return
    table = _listed(entries, ("key", "probe", "operator", "K", "steps", "model", "size", "date"))
    if natural_width(table, console) > console.width:
        table = _listed(entries, ("key\nprobe", "operator\nmodel", "K", "steps", "size\ndate"))
    console.print(table)
    for e in entries:
        if e.problem:
            console.print(e.problem, style="red", soft_wrap=True)


def name_probes(files: Sequence[str] | None) -> None:
    """Make the probes of Python files known, so that their answers are read.

    Raises:
        GradprobeError: a file that declares no such probe.
    """
    for name in files or ():
        probe_of(name)


def show(
    key: Annotated[str, typer.Argument(help="The first letters of a key, or a file.")],
    results: Results = Path("runs"),
    probe: Probes = None,
    as_json: Json = False,
) -> None:
    """Show a stored result: its question, its numbers recomputed, and where it lies."""
    name_probes(probe)
    store = Store(results)
    path = store.locate(key)
    result = store.load(path)
    try:
        rows = [result.row(path=path)]
    except (ArithmeticError, AttributeError, LookupError, TypeError, ValueError) as error:
        raise damaged(path, f"its numbers make no table: {error!r}") from None
    if as_json:
        shown = {
            "probe": result.probe,
            "key": key_of(result.question),
            "path": str(path),
            "question": result.question,
            "environment": result.environment,
            "rows": rows,
        }
        say_json(shown)
        return

    from gradprobe.cli.screen import Screen

    console = Screen()
    for name, value in {**result.question, **result.environment, "path": path}.items():
        text = ", ".join(f"{n} {v}" for n, v in value.items()) if isinstance(value, dict) else str(value)
        console.print(f"{name:>13}  {text}", soft_wrap=True)
    console.print(probe_of(result.probe).part("view").table(rows))


def _listed(entries: Sequence[Entry], headings: Sequence[str]) -> Any:
    """Return the table of the answers; headings in one column stand for lines of its cells."""
    from rich import box
    from rich.table import Table

    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, padding=(0, 1, 0, 0))
    for heading in headings:
        table.add_column(heading, no_wrap=heading in ("key", "date"))
    for e in entries:
        asked = {name: str(e.question.get(key, "–")) for name, key in ASKED.items()}
        facts = asked | {"key": e.key, "probe": e.probe, "size": _size(e.question)}
        facts["date"] = str(e.environment.get("date", "–"))[:10]
        table.add_row(*("\n".join(facts[name] for name in heading.split("\n")) for heading in headings))
    return table


def _size(question: dict[str, Any]) -> str:
    """Return the amount of data behind a question's numbers."""
    if "batches" in question:
        return f"{question['batches']} x {question.get('batch_size', '–')}"
    sizes = [str(question["grid"])] if "grid" in question else []
    sizes += [f"seed {question['seed']}"] if question.get("probe") == "retention" else []
    return ", ".join([*sizes, f"{question['images']} images"]) if "images" in question else "–"
