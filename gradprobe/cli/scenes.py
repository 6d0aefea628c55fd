"""``gradprobe train-scenes``: make the embedded model's weights anew."""

from pathlib import Path
from typing import Annotated

import typer

from gradprobe.cli import options
from gradprobe.cli.output import say


def train_scenes(
    out: Annotated[Path, typer.Option(help="Folder for the weights, their card and the checkpoint.")] = Path(
        "runs/scenes"
    ),
    steps: Annotated[int, typer.Option(help="Optimiser steps of 64 scenes each.")] = 1000,
    seed: Annotated[int, typer.Option(help="Of the initial weights and of the scenes seen.")] = 0,
    precision: Annotated[str, typer.Option(help="float32, bfloat16, or auto: the faster one here.")] = "auto",
    restart: Annotated[bool, typer.Option("--restart", help="Begin anew; ignore the checkpoint in --out.")] = False,
) -> None:
    """Train the embedded scenes model from nothing (about 15 minutes on 2 cores); stopped, it goes on where it was."""
    from gradprobe.training.train_scenes import Recipe
    from gradprobe.training.train_scenes import train_scenes as train

    with options.working_in(out):
        card = train(Recipe(steps=steps, seed=seed), out, resume=not restart, precision=precision)
    for rule, share in card["accuracy"].items():
        kept = "all tokens" if rule == "unpruned" else f"{card['k']} tokens, {rule}"
        say(f"{kept}: {share:.1%} of {card['held_out_scenes']} held-out scenes")
    say(f"wrote {out / 'scenes.safetensors'} and {out / 'scenes.json'}")
