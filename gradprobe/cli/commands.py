"""The commands of the program: its own, and one for each probe of an installed package or a named Python file."""

from typing import Any

import typer
from typer.core import TyperGroup

from gradprobe.cli.options import checked
from gradprobe.cli.probe import command
from gradprobe.errors import GradprobeError
from gradprobe.probes import names, probe_of


class Commands(TyperGroup):
    """Commands by name; a name that is none of them may be a probe's: ``my_probe.py:PROBE``, or an entry point."""

    def list_commands(self, ctx: Any) -> list[str]:
        """Return the names that ``--help`` shows; a package that cannot be loaded hides its command alone."""
        own = super().list_commands(ctx)
        return [*own, *(name for name in names() if name not in own and _is_command(name))]

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        """Return the command of a name, None if there is none.

        Raises:
            GradprobeError: a Python file or package that cannot be loaded, or that declares no probe.
        """
        own = super().get_command(ctx, cmd_name)
        if own is not None or not (".py" in cmd_name or cmd_name in names()):
            return own
        probe = probe_of(cmd_name)
        single = typer.Typer(add_completion=False, rich_markup_mode=None)
        single.command()(checked(command(probe)))
        return typer.main.get_command(single) if probe.command else None


def _is_command(name: str) -> bool:
    try:
        return probe_of(name).command
    except GradprobeError:
        return False
