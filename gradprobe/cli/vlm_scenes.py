"""``gradprobe vlm train-scenes``: make the embedded vision-language model anew."""

from pathlib import Path
from typing import Annotated

import typer

from gradprobe.cli import options
from gradprobe.cli.output import say


def train_scenes(
    out: Annotated[Path, typer.Option(help="Folder for the model, its card and the checkpoint.")] = Path(
        "runs/scenes_vlm"
    ),
    seed: Annotated[int, typer.Option(help="Of the initial weights and of the pictures seen.")] = 0,
    precision: Annotated[str, typer.Option(help="float32, bfloat16, or auto: the faster one here.")] = "auto",
    restart: Annotated[bool, typer.Option("--restart", help="Begin anew; ignore the checkpoint in --out.")] = False,
) -> None:
    """Train the embedded vision-language model from nothing (40 minutes on 2 cores); stopped, it goes on."""
    from gradprobe.vlm.training.pictures import Recipe
    from gradprobe.vlm.training.pictures_card import train_pictures

    with options.working_in(out):
        card = train_pictures(Recipe(seed=seed), out, resume=not restart, precision=precision)
    for rule, shares in card["accuracy"].items():
        accuracy = ", ".join(f"{kind} {share:.1%}" for kind, share in shares.items())
        say(f"{rule}: {accuracy} of {card['held_out_pictures']} held-out pictures")
    say(f"wrote {out / 'model.safetensors'} and {out / 'card.json'}")
