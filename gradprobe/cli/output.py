"""Printing of lines with control characters escaped; `gradprobe.cli.screen` is for tables."""

import json
from typing import Any

import typer

from gradprobe.plotting.escape import visible


def say(text: object = "", err: bool = False) -> None:
    """Print one line on stdout or stderr."""
    typer.echo(visible(text), err=err)


def say_lines(text: object) -> None:
    """Print text on stdout with its line breaks."""
    typer.echo(visible(text, keep="\n"))


def say_json(value: Any) -> None:
    """Print JSON on stdout, in ASCII with control characters escaped."""
    typer.echo(json.dumps(value, indent=2).replace("\x7f", "\\u007f"))
