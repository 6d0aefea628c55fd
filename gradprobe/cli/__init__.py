"""The command line: parses, calls, prints. One file a command; heavy imports happen inside the command."""

import io
import sys
import warnings
from collections.abc import Sequence
from contextlib import suppress
from itertools import pairwise
from typing import Any

import typer

from gradprobe import __version__
from gradprobe.cli.ablation import ablation
from gradprobe.cli.advise import advise
from gradprobe.cli.check import check
from gradprobe.cli.cite import cite
from gradprobe.cli.commands import Commands
from gradprobe.cli.compact import compact
from gradprobe.cli.compare import compare
from gradprobe.cli.equivalence import equivalence
from gradprobe.cli.fidelity import fidelity
from gradprobe.cli.figures import figures
from gradprobe.cli.landscape import landscape
from gradprobe.cli.leaderboard import leaderboard
from gradprobe.cli.operators import listing
from gradprobe.cli.options import checked
from gradprobe.cli.output import say
from gradprobe.cli.probe import command
from gradprobe.cli.ranking import ranking
from gradprobe.cli.rekey import rekey
from gradprobe.cli.retention import retention
from gradprobe.cli.scenes import train_scenes
from gradprobe.cli.stopping import stoppable
from gradprobe.cli.store import show
from gradprobe.cli.vlm import vlm
from gradprobe.errors import GradprobeError, Notice, UsageError, out_of_memory
from gradprobe.probes import probe_of
from gradprobe.ranges import RANGES

CommandError: Any = typer.BadParameter.__base__  # click's UsageError, which typer carries under a private name
STOPPED = 130  # what a shell calls a program that Ctrl-C ended
FILES = frozenset(  # options in which an empty text, such as that of an unset variable, would be the folder one is in
    f"--{name}"
    for name in (
        "data", "train-data", "image-root", "image", "from", "weights", "results", "out", "presets", "preset",
        "figure", "surface", "pictures", "page", "pruner", "model", "trust",
    )
)  # fmt: skip

app = typer.Typer(
    name="gradprobe",
    cls=Commands,
    help="Measure which differentiable token-selection operator gives a gradient one can trust.",
    no_args_is_help=True,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
)


def _version(asked: bool) -> None:
    if asked:
        say(__version__)
        raise typer.Exit


@app.callback()
def _options(
    debug: bool = typer.Option(False, "--debug", help="Show the traceback of an error."),
    version: bool = typer.Option(False, "--version", callback=_version, is_eager=True, help="Print the version."),
) -> None:
    pass


app.command()(checked(compare))
app.command()(checked(advise))
app.command()(checked(command(probe_of("coherence"))))
app.command()(checked(landscape))
app.command()(checked(command(probe_of("curvature"))))
app.command()(checked(fidelity))
app.command()(checked(equivalence))
app.command()(checked(retention))
app.command()(checked(ranking))
app.command()(checked(command(probe_of("cost"))))
app.command()(checked(check))
app.command()(checked(cite))
app.command("list")(checked(listing))
app.command()(checked(show))
app.command()(checked(leaderboard))
app.command()(checked(ablation))
app.command()(checked(figures))
app.command("train-scenes")(checked(train_scenes))
app.command()(checked(compact))
app.command(hidden=True)(checked(rekey))
app.add_typer(vlm)


def main() -> None:
    """Run the command line; an error is one line, its exit code 2 for usage and 1 for failure."""
    _print_notices()
    arguments = [a for a in sys.argv[1:] if a != "--debug"]  # wherever it is written
    debug = len(arguments) < len(sys.argv) - 1
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")  # a terminal without these characters shows their numbers
    with stoppable() as received:
        try:
            _refuse_empty(arguments)
            code = app(arguments, prog_name="gradprobe", standalone_mode=False) or 0
        except CommandError as error:
            if debug:
                raise
            _fail(_unread(error, arguments), 2)
        except (typer.Abort, KeyboardInterrupt):
            code = STOPPED
        except (GradprobeError, OSError) as error:
            if debug:
                raise
            if not received:  # else it is what a signal became on its way, such as a terminal that is gone
                _fail(_line(error), 2 if isinstance(error, UsageError) else 1)
            code = STOPPED
        except Exception as error:
            if debug or not out_of_memory(error):
                raise
            _fail("out of memory; give fewer images at a time (--batch-size), smaller widths or another --device", 1)
    if code == STOPPED or received:
        code = received[0].code if received else STOPPED
        _fail("stopped; what was stored stays, and the same command goes on from it", code)
    sys.exit(code)


def _print_notices() -> None:
    """Print each notice once, as a line on stderr; other warnings as Python does."""
    usual, printed = warnings.showwarning, set()

    def show(
        message: Warning | str, category: type[Warning], filename: str, lineno: int, file: Any = None, line: Any = None
    ) -> None:
        if not issubclass(category, Notice):
            usual(message, category, filename, lineno, file, line)
        elif str(message) not in printed:
            printed.add(str(message))
            say(f"gradprobe: {message}", err=True)

    warnings.showwarning = show
    warnings.simplefilter("always", Notice)


def _refuse_empty(arguments: Sequence[str]) -> None:
    """Refuse an empty text in the place of a file or folder.

    Raises:
        UsageError: names the option.
    """
    empty = [name for name, text in pairwise(arguments) if not text]
    empty += [text.removesuffix("=") for text in arguments if text.endswith("=")]
    if named := [name for name in empty if name in FILES]:
        raise UsageError(
            f"{named[0]} '' is not possible; name a file or folder, or leave it out where it has a default"
        )


def _unread(error: Any, arguments: Sequence[str]) -> str:
    """Return the parser's error as one line; that of a number that cannot be read has the text and its range."""
    for option in getattr(getattr(error, "param", None), "opts", ()):
        given = [text.removeprefix(f"{option}=") for text in arguments if text.startswith(f"{option}=")]
        given += [text for name, text in pairwise(arguments) if name == option]
        if isinstance(error, typer.BadParameter) and given and (limits := RANGES.get(option.removeprefix("--"))):
            return f"{option} {given[-1]} is not possible; give {limits}"
    return f"{' '.join(error.format_message().split())} (gradprobe --help, gradprobe COMMAND --help)"


def _line(error: GradprobeError | OSError) -> str:
    """Return an error as one line; that of a disk or file names the file."""
    if isinstance(error, GradprobeError):
        return str(error)
    reason, file = error.strerror or type(error).__name__, str(error.filename or "a file")[:200]
    return f"{file}: {reason}; what was stored stays, and the same command goes on from it"


def _fail(message: str, code: int) -> None:
    with suppress(OSError):  # a terminal that is gone
        say(f"gradprobe: {message}", err=True)
    sys.exit(code)
