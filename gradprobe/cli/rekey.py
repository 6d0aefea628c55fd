"""``gradprobe rekey``: stored answers of earlier versions are brought up to date; nothing is measured again."""

from pathlib import Path
from typing import Annotated

import typer

from gradprobe.cli.output import say
from gradprobe.errors import UsageError


def rekey(
    results: Annotated[Path, typer.Option(help="Folder of answers.")] = Path("runs"),
    data: Annotated[
        list[str] | None, typer.Option(help="Folder of images, or captions, that answers are about; repeatable.")
    ] = None,
    model: Annotated[
        list[str] | None, typer.Option(help="Folder of a vision-language model that answers are about; repeatable.")
    ] = None,
    presets: Annotated[Path | None, typer.Option(help="Folder of presets to bring along.")] = None,
) -> None:
    """Make one file of each stored answer; where older fingerprints agree with the files here, name it by contents."""
    from gradprobe.comparison.rekey import fingerprints, rekey, rekey_presets

    for option, folder in (("results", results), ("presets", presets)):
        if folder is not None and not folder.is_dir():
            raise UsageError(f"--{option} {folder} is no folder")
    known = fingerprints(data or [], model or [])
    counts: dict[str, int] = {}
    for outcome in rekey(results, known):
        name = outcome.before if outcome.before == outcome.after else f"{outcome.before} -> {outcome.after}"
        say(f"{name}: {outcome.reason}")
        what = outcome.reason.partition(":")[0]
        counts[what] = counts.get(what, 0) + 1
    for outcome in rekey_presets(presets, known) if presets is not None else ():
        say(f"{outcome.before}: {outcome.reason}")
    say("; ".join(f"{count} {what}" for what, count in sorted(counts.items())) or f"no answers in {results}")
