"""``gradprobe vlm benchmark``: published benchmarks as folders that an evaluation reads offline."""

from pathlib import Path
from typing import Annotated

import typer

from gradprobe.cli import options
from gradprobe.cli.options import checked
from gradprobe.cli.output import say, say_json

SHOWN = 5  # samples left out that are named


def prepare(
    name: Annotated[str, typer.Argument(help="Benchmark: gqa, pope, mme, ...; gradprobe vlm benchmark list.")],
    source: Annotated[Path, typer.Option("--from", help="Folder of its published files.")],
    out: Annotated[Path, typer.Option(help="Folder of prepared benchmarks; this one is OUT/NAME.")],
    skip_unreadable: Annotated[
        bool,
        typer.Option("--skip-unreadable", help="Leave samples out whose picture cannot be read; they are counted."),
    ] = False,
    force: Annotated[bool, typer.Option("--force", help="Replace what was prepared there.")] = False,
    as_json: options.Json = False,
) -> None:
    """Convert the published files of a benchmark to a folder that vlm evaluate and lmms-eval read offline."""
    from gradprobe.cli.progress import bars
    from gradprobe.vlm.evaluation.benchmarks import benchmark_of
    from gradprobe.vlm.evaluation.prepare import prepare as convert
    from gradprobe.vlm.evaluation.prepared import TASKS

    benchmark = benchmark_of(name)
    with bars() as progress:
        record = convert(benchmark, source, out, skip_unreadable=skip_unreadable, replace=force, progress=progress)
    if as_json:
        skipped = [{"sample": number, "picture": picture, "reason": why} for number, picture, why in record.skipped]
        told = {"benchmark": name, "samples": record.samples, "skipped": skipped, "fingerprint": record.fingerprint}
        say_json(told | {"folder": str(out / name), "tasks": str(out / TASKS)})
        return
    say(f"{benchmark.column}: {record.samples} samples in {out / name}")
    if record.skipped:
        some = ", ".join(f"{number} ({picture} {why})" for number, picture, why in record.skipped[:SHOWN])
        more = ", ..." if len(record.skipped) > SHOWN else ""
        say(f"left out: {len(record.skipped)} samples with an unreadable picture: {some}{more}")
    say(f"to use it: gradprobe vlm evaluate --model MODEL --plan divprune --k 64 --tasks {name} --data {out}")


def listing(as_json: options.Json = False) -> None:
    """List the benchmarks, and the published files that each is made of."""
    from gradprobe.vlm.evaluation.benchmarks import BENCHMARKS

    if as_json:
        say_json([{"name": b.name, "column": b.column, "files": b.expects} for b in BENCHMARKS.values()])
        return
    from rich import box
    from rich.table import Table

    from gradprobe.cli.screen import Screen

    table = Table(box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0))
    for heading in ("name", "in the paper", "published files"):
        table.add_column(heading, no_wrap=heading == "name")
    for each in BENCHMARKS.values():
        table.add_row(each.name, each.column, each.expects)
    Screen().print(table)


benchmark = typer.Typer(
    name="benchmark",
    help="Convert published benchmarks to folders that an evaluation reads offline.",
    no_args_is_help=True,
    rich_markup_mode=None,
)
benchmark.command()(checked(prepare))
benchmark.command("list")(checked(listing))
